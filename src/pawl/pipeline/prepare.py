"""raw -> data/prepared/{train,valid,test}.parquet: picks rows and splits them; never changes a value.

A row's split is a function of its id, group, time or content and the seed alone, so that adding rows never moves another one.
Rows are written in the order of their hashes: the model does not depend on the order in which they came.
"""

import json
import re
from typing import Any

from pawl import paths, rows
from pawl.config import Prepare, Task
from pawl.problem import Problem
from pawl.schema import Schema

SPLITS = ("train", "valid", "test")


def run(task: Task, params: Prepare, schema: Schema) -> None:
    """Write the three splits and reports/splits.json; raise Problem where one of them would be empty."""
    import pyarrow.parquet as pq

    table = pq.read_table(paths.RAW, memory_map=True)
    total = table.num_rows
    features = [name for name in schema.columns if name not in task.roles]
    content = rows.hash_rows(table, features)
    table, content, dropped = _dropped(table, content, task, params, schema)
    if unknown := table.column(task.target).null_count:
        what, fix = f"{unknown} rows have no {task.target}", f"prepare.drop_missing: [{task.target}] drops them"
        raise Problem(what, f"{paths.PARAMS}: prepare", fix)
    split = _split(table, content, task, params, schema)
    kept = [*[name for name in table.schema.names if name in schema.columns], "row_id"]
    report: dict[str, Any] = {"rows": total, "dropped": dropped, "splits": {}, "warnings": []}
    paths.PREPARED.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(SPLITS):
        part = _ordered(table.select(kept), content, split == number)
        if not part.num_rows:
            raise Problem(
                f"the {name} split is empty: {table.num_rows} rows, prepare.split: {params.split}",
                f"{paths.PARAMS}: prepare",
                "correct the shares or dates there",
            )
        pq.write_table(part, paths.PREPARED / f"{name}.parquet", compression="zstd", compression_level=1)
        report["splits"][name] = {"rows": part.num_rows} | _shares(part.column(task.target), task)
    report["warnings"] = _uneven(report["splits"])
    paths.SPLITS.parent.mkdir(parents=True, exist_ok=True)
    paths.SPLITS.write_text(json.dumps(report, indent=2) + "\n")


def _dropped(table: Any, content: Any, task: Task, params: Prepare, schema: Schema) -> tuple[Any, Any, dict[str, int]]:
    """Return the rows that stay, their hashes, and how many went for which reason."""
    import numpy as np

    stay = np.ones(table.num_rows, dtype=bool)
    counts = {}
    for name in params.drop_missing:
        missing = table.column(name).is_null().to_numpy() & stay
        counts[f"{name} missing"] = int(missing.sum())
        stay &= ~missing
    if params.drop_duplicates:
        first = np.zeros(table.num_rows, dtype=bool)
        kept = np.flatnonzero(stay)
        whole = rows.hash_rows(
            table, [name for name in schema.columns if name != task.columns.id]
        )  # as `validate` counts
        first[kept[np.unique(whole[kept], return_index=True)[1]]] = True
        counts["duplicate"] = int((stay & ~first).sum())
        stay &= first
    return (table, content, counts) if stay.all() else (table.filter(stay), content[stay], counts)


def _split(table: Any, content: Any, task: Task, params: Prepare, schema: Schema) -> Any:
    """Return the number of each row's split in SPLITS, shape (n,)."""
    import numpy as np

    if params.split == "time":
        return _by_time(table, task, params, schema)
    place = rows.unit(split_key(table, content, task, params), params.seed)
    if params.split != "given":
        return np.select([place < params.test, place < params.test + params.valid], [2, 1], 0)
    said = np.array(table.column(task.columns.split or "split").to_pylist())
    if unknown := sorted(set(map(str, said)) - set(SPLITS)):
        raise Problem(
            f"{task.columns.split} holds {unknown[0]!r}",
            f"{paths.PARAMS}: columns.split",
            f"its values must be {', '.join(SPLITS)}",
        )
    split = np.select([said == "test", said == "valid"], [2, 1], 0)
    if not (split == 1).any():  # validation rows come out of the training rows
        split[(split == 0) & (place < params.valid)] = 1
    return split


def split_key(table: Any, content: Any, task: Task, params: Prepare) -> Any:
    """Return the hash that decides where a row goes, shape (n,): of its group, its id, or its content."""
    if params.split == "group":
        return rows.hash_column(table.column(task.columns.group))
    return rows.hash_column(table.column(task.columns.id)) if task.columns.id else content


def _by_time(table: Any, task: Task, params: Prepare, schema: Schema) -> Any:
    """Return splits by two borders. They are dates or numbers, not shares: a share's border would move with every new row."""
    import numpy as np

    name = str(task.columns.time)
    where, dtype = f"{paths.PARAMS}: prepare", schema.columns[name].dtype
    border: Any
    column = table.column(name)
    if column.null_count:
        raise Problem(f"{column.null_count} rows have no {name}", where, f"prepare.drop_missing: [{name}] drops them")
    if dtype in {"integer", "number"}:
        times, border = column.cast("double", safe=False).to_numpy(), float
    elif dtype == "datetime":
        times, border = column.to_numpy(), np.datetime64
    else:
        times, border = column.cast("string").to_numpy().astype(str), str
        if odd := next((text for text in times if not re.fullmatch(r"\d{4}(-\d\d(-\d\d([ T].*)?)?)?", text)), None):
            fix = "bring ISO dates (2025-01-31), whose order is that of their text; or dtype datetime or integer in schema.yaml"
            raise Problem(f"{name} holds {str(odd)!r}, which cannot be ordered as text", where, fix)
    if not (params.valid_from and params.test_from):
        ordered = np.sort(times)
        late, later = (
            ordered[int(len(ordered) * share)] for share in (1 - params.test - params.valid, 1 - params.test)
        )
        fix = f"for your shares of this table: valid_from: {json.dumps(str(late))}, test_from: {json.dumps(str(later))}"
        raise Problem("prepare.split: time needs prepare.valid_from and prepare.test_from", where, fix)
    try:
        valid, test = border(params.valid_from), border(params.test_from)
    except ValueError as error:
        raise Problem(
            f"a border is no {dtype}: {error}", where, "write it as the column's cells are written"
        ) from error
    if not valid < test:
        raise Problem(f"valid_from {params.valid_from} is not before test_from {params.test_from}", where, "swap them")
    return np.select([times >= test, times >= valid], [2, 1], 0)


def _ordered(table: Any, content: Any, chosen: Any) -> Any:
    """Return the chosen rows in the order of their hashes; equal ones in that of their ids."""
    import numpy as np

    place = np.flatnonzero(chosen)
    if not len(place):
        return table.slice(0, 0)
    order = place[np.argsort(content[place], kind="stable")]
    same = content[order[1:]] == content[order[:-1]]
    tied = order[np.append(same, False) | np.append(False, same)]
    ids = table.column("row_id").take(tied).to_numpy()
    order[np.isin(order, tied)] = tied[np.lexsort((ids, content[tied]))]
    return table.take(order)


def _shares(target: Any, task: Task) -> dict[str, Any]:
    import pyarrow.compute as pc

    if task.task == "regression":
        return {"mean": pc.mean(target).as_py()}
    counts = {str(entry["values"]): entry["counts"] for entry in pc.value_counts(target.cast("string")).to_pylist()}
    return {"classes": {name: count / len(target) for name, count in sorted(counts.items())}}


def _uneven(splits: dict[str, Any]) -> list[str]:
    """Say which class has another share in a split than in train, by more than chance: four standard errors."""
    base = splits["train"].get("classes", {})
    found = []
    for name in ("valid", "test"):
        for label, share in base.items():
            other = splits[name]["classes"].get(label, 0.0)
            error = (share * (1 - share) * (1 / splits[name]["rows"] + 1 / splits["train"]["rows"])) ** 0.5
            if abs(other - share) > 4 * error:
                found.append(f"class {label} is {share:.1%} of train and {other:.1%} of {name}")
    return found
