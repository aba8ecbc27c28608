"""schema.yaml: what each column must look like. Inferred once, then edited by people."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from pawl.config import Section, Share, typed
from pawl.problem import Problem
from pawl.yamlfile import line_of, read_yaml, refuse_name

Dtype = Literal["integer", "number", "boolean", "category", "text", "datetime"]


class Column(Section):
    """The rules of one column. A rule that is absent is not checked, but for missing values: none are allowed unless a share is named."""

    dtype: Dtype
    missing: Share = 0.0  # the largest share of missing values
    min: float | None = None
    max: float | None = None
    values: tuple[str, ...] | None = None  # any other category is an error
    unique: bool = False
    scale: float | None = None  # mean absolute value when inferred: a unit that changed shows here
    public: bool = False  # its cell values may be printed in files that leave the machine


class Schema(Section):
    """The columns of the table, in the order in which records are shown."""

    columns: dict[str, Column]

    def dtypes(self, leave_out: frozenset[str] = frozenset()) -> dict[str, str]:
        """Return {column: dtype}."""
        return {name: column.dtype for name, column in self.columns.items() if name not in leave_out}


def load(path: Path) -> Schema:
    """Return the schema in `path`; raise Problem with file, line and what is allowed."""
    if not path.exists():
        raise Problem(f"{path} does not exist", path, "run `make schema`: it infers one from your table")
    values, lines = read_yaml(path)
    columns = values.get("columns")
    if not isinstance(columns, dict) or set(values) != {"columns"}:
        raise Problem("the file must hold `columns:` and nothing else at its top", path, "run `make schema`")
    at = [line for key, line in lines.items() if len(key) == 2]
    for (name, rules), line in zip(columns.items(), at, strict=False):
        where = f"{path}:{line}"
        if not isinstance(name, str):
            raise Problem(f"YAML reads the name of this column as {name}", where, "put it in quotes")
        if not isinstance(rules, dict):
            raise Problem(f"{name} has no rules", where, f"write  {name}: {{dtype: number}}")
        if isinstance(rules.get("values"), list):
            for value in rules["values"]:
                if isinstance(value, bool) or not isinstance(value, str | int | float):
                    raise Problem(f"{name}: YAML reads one of its values as {value}", where, "put it in quotes")
            rules["values"] = [str(value) for value in rules["values"]]
        column = typed(Column, rules, lines, path, ("columns", name))
        of_others = {"values"} if column.dtype in {"integer", "number"} else {"min", "max", "scale"}
        if misplaced := sorted(of_others & set(rules)):
            raise Problem(f"{name}: {misplaced[0]} means nothing for dtype {column.dtype}", where, "remove it there")
    return msgspec.convert({"columns": columns}, Schema)


def named(name: str) -> bool:
    """Say whether a feature may be called so: msgspec takes no field whose name JSON escapes."""
    return not any(character in '"\\' or character < " " for character in name)


def arrow_types(dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Return {column: pyarrow type} for {column: dtype}."""
    import pyarrow as pa

    types = {
        "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "text": pa.string(),
        "category": pa.dictionary(pa.int32(), pa.string()), "datetime": pa.timestamp("us"),
    }  # fmt: skip
    return {name: types[dtype] for name, dtype in dtypes.items()}


def check_names(schema: Schema, names: Mapping[str, str | None], *, path: Path) -> None:
    """Raise Problem if a column that params.yaml names does not exist in the schema. `names` is {key: column}."""
    for key, name in names.items():
        if name and name not in schema.columns:
            line = line_of(read_yaml(path)[1], tuple(key.partition("[")[0].split(".")))
            refuse_name(f"{key}: {name}", name, list(schema.columns), where=f"{path}:{line}")
