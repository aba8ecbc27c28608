"""Infer schema.yaml from the table in params.yaml; rules that are there stay.

python -m scripts.schema            adds new columns, removes those that are gone
python -m scripts.schema --force    infers every column again
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pawl import config, paths, schema, source, yamlfile
from pawl.pipeline import ingest
from pawl.problem import Problem
from scripts import cli

MOST_VALUES = 200  # more distinct values than this make a text, not a category
HEAD = "# What the data must look like: `make schema` inferred it, people edit it. docs/configuration.md lists the rules.\n"
MISSING_STEPS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
TYPES = {kind: schema.arrow_types({kind: kind})[kind] for kind in ("integer", "number", "boolean", "datetime")}
OF_FILE = {"boolean": pa.types.is_boolean, "datetime": pa.types.is_temporal}  # types that a file gave already


class Seen:
    """What one column's cells were, over the whole table. A dtype stays possible as long as `ingest` would take every cell for it."""

    def __init__(self) -> None:
        self.rows = self.missing = 0
        self.kinds = list(TYPES)
        self.values: set[str] = set()
        self.total, self.least = 0.0, math.inf

    def add(self, column: Any) -> None:
        """Take in a pyarrow array."""
        self.rows += len(column)
        self.missing += column.null_count
        counted = column.drop_null().value_counts()
        values, counts = counted.field("values"), counted.field("counts")
        text = values.cast(pa.string())
        if len(self.values) <= MOST_VALUES:
            self.values |= set(text.slice(0, MOST_VALUES + 1).to_pylist())
        if kind := next((kind for kind in ("boolean", "datetime") if OF_FILE[kind](values.type)), None):
            self.kinds = [kind] if kind in self.kinds else []  # which a cast would take for integers
        padded = pc.any(pc.match_substring_regex(text, r"^[+-]?0\d")).as_py()  # 007 is a code, not a number
        typed = {kind: ingest.cast(values, TYPES[kind]) for kind in self.kinds}
        possible = ("boolean", "datetime") if padded else TYPES
        self.kinds = [kind for kind, (_, bad) in typed.items() if not len(bad) and kind in possible]
        if "number" in self.kinds and len(values):
            sizes = typed["number"][0]
            self.total += pc.sum(pc.multiply(pc.abs(sizes), counts)).as_py()
            self.least = min(self.least, pc.min(sizes).as_py())

    def rules(self, *, label: bool, role: bool) -> dict[str, Any]:
        """Return the column's entry in schema.yaml. A label is a category whatever it looks like; a column with another role gets new values all the time."""
        known = self.rows - self.missing
        dtype = next(iter(self.kinds), None) if known else None
        if dtype is None or (label and dtype != "datetime"):
            dtype = "category" if len(self.values) <= MOST_VALUES else "text"
        found: dict[str, Any] = {"dtype": dtype}
        share = self.missing / max(self.rows, 1)
        if share:
            found["missing"] = next(step for step in MISSING_STEPS if step >= min(1.0, share * 1.2))
        if dtype in {"integer", "number"} and not role:
            if self.least >= 0:
                found["min"] = 0
            if math.isfinite(size := self.total / max(known, 1)) and size:
                found["scale"] = float(f"{size:.3g}")
        if dtype == "category" and role:
            found["dtype"] = "text"
        elif dtype == "category" and self.values:
            found["values"] = sorted(self.values)
        return found


def infer(params: config.Params) -> dict[str, dict[str, Any]]:
    """Return {column: rules} of the whole table."""
    from task import data

    seen: dict[str, Seen] = {}
    for _, given in source.batches(params.ingest):
        batch = data.tidy(given)
        for name in batch.schema.names:
            column = ingest.replaced(batch.column(name), params.ingest.replace.get(name, {}))
            seen.setdefault(name, Seen()).add(column)
    label, others = params.target if params.task != "regression" else None, params.roles - {params.target}
    return {name: column.rules(label=name == label, role=name in others) for name, column in seen.items()}


def text_of(inferred: dict[str, dict[str, Any]], old: str) -> tuple[str, list[str], list[str]]:
    """Return the new file, the columns that are new in it, and those that went. Entries that stay keep their text, comments too."""
    kept = _entries(old)
    start = re.search(r"^columns:", old, re.MULTILINE)
    head = old[: start.start()] if start else HEAD
    blocks = [kept.get(name) or "  " + _entry(name, rules) for name, rules in inferred.items()]
    new = head + "columns:\n" + "".join(block if block.endswith("\n") else block + "\n" for block in blocks)
    return new, [name for name in inferred if name not in kept], [name for name in kept if name not in inferred]


def _entry(name: str, rules: dict[str, Any]) -> str:
    flow = yaml.safe_dump(rules, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True).strip()
    key = yaml.safe_dump(name, allow_unicode=True, width=10_000).removesuffix("...\n").strip()
    return f"{json.dumps(name) if chr(10) in key else key}: {flow}\n"


def _entries(old: str) -> dict[str, str]:
    """Return {column: its lines} of a schema file, comments before an entry included."""
    node = yaml.compose(old) if old.strip() else None
    top = node.value if isinstance(node, yaml.MappingNode) else []
    columns = next((value for key, value in top if key.value == "columns"), None)
    if not isinstance(columns, yaml.MappingNode) or not columns.value:
        return {}
    if columns.flow_style or columns.value[0][0].start_mark.column != 2:
        fix = "write one line per column, indented by two spaces; or --force, which infers all of them again"
        raise Problem("the columns are not written one below the other", paths.SCHEMA, fix)
    lines = old.splitlines(keepends=True)
    names = {str(key.value): _with_comments(lines, key.start_mark.line) for key, _ in columns.value}
    ends = [*names.values(), len(lines)][1:]
    return {name: "".join(lines[start:end]) for (name, start), end in zip(names.items(), ends, strict=True)}


def _with_comments(lines: list[str], start: int) -> int:
    while lines[start - 1].strip().startswith("#"):
        start -= 1
    return start


@cli.told
def main(argv: list[str] | None = None) -> int:
    """Write schema.yaml and say what changed."""
    parser = cli.parser("schema", __doc__)
    parser.add_argument("--force", action="store_true", help="infer columns again whose rules are in the file")
    parser.add_argument("--example", help="a folder in examples/")
    args = parser.parse_args(argv)
    folder = Path("examples") / args.example if args.example else Path()
    given, path = folder / paths.PARAMS, folder / paths.SCHEMA
    params = config.load(given)
    inferred = infer(params)
    old = path.read_text() if path.exists() and not args.force else ""
    if old.strip():
        yamlfile.read_yaml(path)  # refuses what it cannot keep
    new, added, gone = text_of(inferred, old)
    if params.target not in inferred:
        yamlfile.refuse_name(f"target: {params.target}", params.target, list(inferred), where=str(given))
    path.write_text(new)
    changed = f"new: {', '.join(added) or 'none'}; removed: {', '.join(gone) or 'none'}"
    print(f"{path}: {len(inferred)} columns; {changed}; kept as they were: {len(inferred) - len(added)}")
    for name in added:
        print("  " + _entry(name, inferred[name]).strip()[:98])
    print("next: read schema.yaml, tighten it where you know more, then `make run`")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
