"""raw -> reports/validation.{json,md}: holds the table to schema.yaml and to a few rules that every table for a model must keep.

All broken rules are found before the stage fails. Cell values go to a local terminal only, and to files for columns marked `public`.
"""

import html
import json
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import numpy as np
import pandera.errors
import pandera.pandas as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pawl import paths, rows
from pawl.config import Task, Validate
from pawl.pipeline.leakage import codes_of, predictive_power
from pawl.problem import Problem
from pawl.schema import Column, Schema

BATCH_ROWS = 100_000
SHOWN = 10
LEAK_ROWS = 50_000
FIX = "repair the data; or change the rule in schema.yaml or `validate` in params.yaml in a commit that says why"


class Finding(msgspec.Struct, frozen=True):
    """A broken rule. `rows` are numbers of data rows in the order of the source, the first one is 1."""

    rule: str
    column: str = ""
    count: int = 0
    share: float = 0.0
    rows: tuple[int, ...] = ()
    examples: tuple[str, ...] = ()
    level: Literal["error", "warn"] = "error"

    def __str__(self) -> str:
        where = f"{self.column}: " if self.column else ""
        count = f", {self.count} rows ({self.share:.2%})" if self.count else ""
        at = f", first at row {', '.join(map(str, self.rows[:5]))}" if self.rows else ""
        cells = f", for example {', '.join(map(repr, self.examples))}" if self.examples else ""
        return f"{self.level}: {where}{self.rule}{count}{at}{cells}"


def run(task: Task, params: Validate, schema: Schema) -> None:
    """Write the findings; raise Problem if one of them is an error."""
    findings = check(task, params, schema)
    errors = [finding for finding in findings if finding.level == "error"]
    public = {name for name, column in schema.columns.items() if column.public}
    outward = [each if each.column in public else msgspec.structs.replace(each, examples=()) for each in findings]
    text = markdown(outward)
    paths.VALIDATION.parent.mkdir(parents=True, exist_ok=True)
    paths.VALIDATION.write_text(json.dumps(msgspec.to_builtins(outward), indent=2) + "\n")
    paths.VALIDATION.with_suffix(".md").write_text(text)
    (paths.STATE / "validation.md").parent.mkdir(exist_ok=True)
    (paths.STATE / "validation.md").write_text(text)
    shown = findings if sys.stderr.isatty() and not os.environ.get("CI") else outward
    for finding in shown if len(findings) > 1 or not errors else ():
        print(finding, file=sys.stderr)  # noqa: T201 - the list belongs before the verdict
    if errors:
        names = ", ".join(dict.fromkeys(finding.column for finding in errors if finding.column)) or "the table"
        many = f"{len(errors)} rules are broken: {names}"
        where = f"{paths.RAW} against {paths.SCHEMA}; the list is in {paths.STATE / 'validation.md'}"
        raise Problem(many if len(errors) > 1 else str(shown[0]).removeprefix("error: "), where, FIX)


def check(task: Task, params: Validate, schema: Schema) -> list[Finding]:
    """Return every broken rule, errors first."""
    with pq.ParquetFile(paths.RAW, memory_map=True) as file:
        table = file.read()
        untyped, given_split = (json.loads(file.metadata.metadata[key]) for key in (b"untyped", b"given_split"))
    total = table.num_rows
    present = {name: column for name, column in schema.columns.items() if name in table.schema.names}
    names = set(table.schema.names) - ({"split"} if given_split else set())
    extra = sorted(names - set(schema.columns) - {"row_id"})
    absent = f"the table has no such column; beside those of the schema it has {', '.join(extra) or 'none'}"
    findings = [Finding(absent, name) for name in schema.columns if name not in names]
    findings += [Finding("not in schema.yaml: add it there (`make schema` does)", name) for name in extra]
    for name, note in untyped.items():
        rule = f"not of dtype {schema.columns[name].dtype}"
        findings.append(Finding(rule, name, note["count"], note["count"] / total, tuple(note["rows"])))
    findings += _values(table, present)
    for name, column in present.items():
        found = _column(table.column(name), name, column, params, untyped.get(name, {}).get("count", 0))
        findings += [each for each in found if each.level == "error" or name not in task.columns.ignore]
    dtype = present[task.target].dtype if task.target in present else "number"
    if task.task == "regression" and dtype not in {"integer", "number"}:
        rule = f"the target of a regression must be integer or number, not {dtype}"
        findings.append(Finding(rule, task.target))
    if task.target in present and not any(found.column == task.target and found.level == "error" for found in findings):
        findings += _target(table.column(task.target), task, params)
        findings += _leaks(table, task, params, present)
    findings += _copies(table, task, params, present)
    if total < params.min_rows:
        findings.append(Finding(f"{total} rows, validate.min_rows is {params.min_rows}"))
    return sorted(findings, key=lambda finding: finding.level)


def _values(table: Any, columns: dict[str, Column]) -> Iterator[Finding]:
    """Hold cells to ranges and categories, through Pandera, batch by batch."""

    def checks(column: Column) -> Iterator[Any]:
        if column.min is not None:
            yield pa.Check.ge(column.min, error=f"below min {column.min:g}")
        if column.max is not None:
            yield pa.Check.le(column.max, error=f"above max {column.max:g}")
        if column.values is not None:
            yield pa.Check.isin(column.values, error="not one of `values`")
        if column.dtype == "number":
            yield pa.Check(np.isfinite, error="infinite", ignore_na=True)

    ruled = {name: found for name, column in columns.items() if (found := list(checks(column)))}
    rules = pa.DataFrameSchema({name: pa.Column(checks=found, nullable=True) for name, found in ruled.items()})
    broken: dict[Any, Finding] = {}
    for start in range(0, table.num_rows if ruled else 0, BATCH_ROWS):
        try:
            rules.validate(table.select(list(ruled)).slice(start, BATCH_ROWS).to_pandas(), lazy=True)
        except pandera.errors.SchemaErrors as error:
            for (name, rule), cases in error.failure_cases.groupby(["column", "check"]):
                before = broken.get((name, rule), Finding(rule, name))
                count, shown = before.count + len(cases), cases[:SHOWN]
                first = (*before.rows, *(start + int(index) + 1 for index in shown["index"]))[:SHOWN]
                cells = tuple(dict.fromkeys((*before.examples, *(str(cell)[:40] for cell in shown["failure_case"]))))
                broken[name, rule] = Finding(rule, name, count, count / table.num_rows, first, cells[:3])
    yield from broken.values()


def _column(values: Any, name: str, column: Column, params: Validate, untyped: int) -> Iterator[Finding]:
    """Check a column as a whole: missing values, constants, scale."""
    total, known = len(values), len(values) - values.null_count
    missing = values.null_count - untyped
    share = missing / max(total, 1)
    if share > column.missing:
        yield Finding(f"missing values, schema.yaml allows {column.missing:.2%}", name, missing, share)
    elif share > params.warn_missing:
        yield Finding("mostly missing", name, missing, share, level="warn")
    if len(values.unique().drop_null()) < 2:
        yield Finding("constant: it can teach a model nothing", name, level="warn")
    if column.scale and known:
        factor = (pc.sum(pc.abs(pc.cast(values, "double", safe=False))).as_py() or 0.0) / known / column.scale
        if not 1 / params.unit_jump < factor < params.unit_jump:
            yield Finding(f"mean size is {factor:.3g} times that in schema.yaml (scale): has the unit changed?", name)


def _target(values: Any, task: Task, params: Validate) -> Iterator[Finding]:
    name, total = task.target, len(values)
    if values.null_count:
        rule = "rows without a target, which prepare.drop_missing must name"
        yield Finding(rule, name, values.null_count, values.null_count / total, level="warn")
    if task.task == "regression":
        return
    counted = pc.value_counts(values.drop_null().cast("string")).to_pylist()
    counts = {str(entry["values"]): entry["counts"] for entry in counted}
    if len(counts) < 2:
        yield Finding(f"{len(counts)} class in the target: nothing to tell apart", name)
    if task.task == "binary" and len(counts) > 2:
        yield Finding(f"{len(counts)} classes in the target of a binary task: set task: multiclass", name)
    if task.task == "binary" and task.positive_in(counts) is None:
        shown = ", ".join(map(repr, sorted(counts)[:5]))
        yield Finding(f"no row has the label {task.positive!r}, `positive` in params.yaml; the table has {shown}", name)
    if rare := sum(count < params.min_class_rows for count in counts.values()):
        least = f"validate.min_class_rows, {params.min_class_rows}"
        yield Finding(f"{rare} of {len(counts)} classes have fewer rows than {least}", name)


def _leaks(table: Any, task: Task, params: Validate, present: dict[str, Column]) -> Iterator[Finding]:
    """Report each single column from which the target can be read."""
    names = [name for name in present if name not in task.roles]
    keep = np.sort(np.random.default_rng(0).permutation(table.num_rows)[:LEAK_ROWS])
    sample = table.select([*names, task.target]).take(keep)
    sample = sample.filter(pc.is_valid(sample.column(task.target)))
    regression = task.task == "regression"
    given = sample.column(task.target)
    target = given.cast("double", safe=False).to_numpy() if regression else codes_of(given, "category")
    for name in names:
        power = predictive_power(codes_of(sample.column(name), present[name].dtype), target, regression=regression)
        if power >= params.max_leakage:
            found = f"predicts the target almost perfectly by itself ({'R2' if regression else 'AUC'} {power:.3f})"
            rule = f"{found}: does it hold the answer? (validate.allow_leakage)"
            yield Finding(rule, name, level="warn" if name in params.allow_leakage else "error")


def _copies(table: Any, task: Task, params: Validate, present: dict[str, Column]) -> Iterator[Finding]:
    """Report duplicate rows and ids, and rows that stand in two splits that were given."""
    total = table.num_rows
    content = rows.hash_rows(table, [name for name in present if name != task.columns.id])
    _, first, counts = np.unique(content, return_index=True, return_counts=True)
    if repeated := int((counts - 1).sum()):
        shown = tuple(sorted((first[counts > 1] + 1).tolist())[:SHOWN])
        rule = "duplicate rows (prepare.drop_duplicates drops them)"
        yield Finding(rule, "", repeated, repeated / total, shown, level="warn")
    for name, column in present.items():
        if (column.unique or name == task.columns.id) and (again := total - len(table.column(name).unique())):
            yield Finding("not unique", name, again, again / total)
    split = task.columns.split or ("split" if "split" not in present else None)
    if split in table.schema.names:
        held_out = table.column(split).cast("string").to_numpy() != "train"
        key = rows.hash_column(table.column(task.columns.id)) if task.columns.id in present else content
        if both := int(np.isin(key[held_out], key[~held_out]).sum()):
            share = both / int(held_out.sum())
            rule = "rows of valid or test stand in train too (validate.max_overlap)"
            yield Finding(rule, "", both, share, level="error" if share > params.max_overlap else "warn")


def markdown(findings: list[Finding]) -> str:
    """Return the findings as a Markdown table; what came from the data is inert in it."""
    if not findings:
        return "# Data\n\nEvery rule holds.\n"
    text = "# Data\n\n| level | column | rule | rows | share | first rows | examples |\n|---|---|---|--:|--:|---|---|\n"
    for found in findings:
        count, share = str(found.count or ""), f"{found.share:.2%}" if found.share else ""
        first, examples = ", ".join(map(str, found.rows)), ", ".join(found.examples)
        cells = map(inert, (found.level, found.column, found.rule, count, share, first, examples))
        text += f"| {' | '.join(cells)} |\n"
    return text


def inert(text: str) -> str:
    """Return text that Markdown and HTML show as it stands."""
    shown = html.escape("".join(character if character.isprintable() else " " for character in text))
    return "".join(f"&#{ord(character)};" if character in "|`[]@*_!" else character for character in shown)
