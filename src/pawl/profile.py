"""What a table looks like without a cell of it, and how far its columns moved. Pure."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from pawl.parts import Line, Name, Part
from pawl.rows import digest64

KEPT = 50  # categories; the others are one


class Column(Part):
    """A column in a few numbers: of categories their hashes, so that no value can be read."""

    missing: float  # share of rows
    mean: float | None = None  # of numbers; of times in days
    spread: float | None = None  # their standard deviation
    shares: Annotated[dict[Name, float], msgspec.Meta(max_length=KEPT + 1)] = {}  # of categories


class Shift(Part):
    """How far a column moved: of a number |difference of means| / standard deviation, of a category half the sum of |differences of shares|."""

    column: Line
    kind: Literal["mean", "shares", "added", "removed"]
    shift: float | None
    missing: tuple[float, float] | None  # share before and after


def of(tables: Sequence[Any]) -> dict[str, Column]:
    """Return the profile of the columns that these pyarrow tables have together."""
    import pyarrow as pa

    table = pa.concat_tables(tables).unify_dictionaries()
    return {name[:200]: _column(table.column(name)) for name in table.column_names if name != "row_id"}


def _column(column: Any) -> Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    missing, count = column.null_count / max(len(column), 1), len(column) - column.null_count
    kind = column.type
    if not count:
        return Column(missing)
    if pa.types.is_timestamp(kind):
        column = pc.divide(column.cast(pa.timestamp("us")).cast("int64").cast("double"), 86_400e6)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        counted = column.cast("string").drop_null().value_counts().to_pylist()
        found = sorted(((each["counts"], each["values"]) for each in counted), reverse=True)
        shares = {f"{int(digest64(value)):016x}": number / count for number, value in found[:KEPT]}
        rest = sum(number for number, _ in found[KEPT:]) / count
        return Column(missing, shares=shares | ({"others": rest} if rest else {}))
    values = pc.drop_null(column.cast("double")).to_numpy()
    values = values[np.isfinite(values)]
    return Column(missing, float(values.mean()), float(values.std())) if len(values) else Column(missing)


def shifts(before: Mapping[str, Column], after: Mapping[str, Column]) -> list[Shift]:
    """Return how far each column moved, the farthest first; columns that came and went before them."""
    found = [Shift(name, "added", None, None) for name in after if name not in before]
    found += [Shift(name, "removed", None, None) for name in before if name not in after]
    moved = [_shift(name, old, after[name]) for name, old in before.items() if name in after]
    return found + sorted(moved, key=lambda each: -(each.shift or 0.0))


def _shift(name: str, old: Column, new: Column) -> Shift:
    missing = (old.missing, new.missing)
    if old.mean is not None and new.mean is not None:
        spread = old.spread or new.spread or 1.0
        return Shift(name, "mean", abs(new.mean - old.mean) / spread, missing)
    if (old.mean is None, not old.shares) != (new.mean is None, not new.shares):
        return Shift(name, "shares", 1.0, missing)  # another kind of column, or one without a value
    keys = {*old.shares, *new.shares}
    moved = sum(abs(old.shares.get(key, 0.0) - new.shares.get(key, 0.0)) for key in keys) / 2
    return Shift(name, "shares", moved, missing)
