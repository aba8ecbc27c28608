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

from pawl import paths, rows
from pawl.config import Task, Validate
from pawl.problem import Problem
from pawl.schema import Column, Schema

BATCH_ROWS = 100_000
SHOWN = 10
LEAK_ROWS = 50_000
BINS = 64


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A broken rule. `rows` are numbers of data rows in the order of the source, the first one is 1."""

    level: Literal["error", "warn"] = "error"
    column: str = ""
    rule: str
    count: int = 0
    share: float = 0.0
    rows: tuple[int, ...] = ()
    examples: tuple[str, ...] = ()


def run(task: Task, params: Validate, schema: Schema) -> None:
    """Write the findings; raise Problem if one of them is an error."""
    findings = check(task, params, schema)
    errors = [finding for finding in findings if finding.level == "error"]
    public = {name for name, column in schema.columns.items() if column.public}
    outward = [
        finding if finding.column in public else msgspec.structs.replace(finding, examples=()) for finding in findings
    ]
    text = markdown(outward)
    paths.VALIDATION.parent.mkdir(parents=True, exist_ok=True)
    paths.VALIDATION.write_text(json.dumps(msgspec.to_builtins(outward), indent=2) + "\n")
    paths.VALIDATION.with_suffix(".md").write_text(text)
    (paths.STATE / "validation.md").parent.mkdir(exist_ok=True)
    (paths.STATE / "validation.md").write_text(text)
    local = sys.stderr.isatty() and not os.environ.get("CI")
    for finding in findings if local else outward:
        print(_line(finding), file=sys.stderr)  # noqa: T201 - the list belongs before the verdict
    if errors:
        names = ", ".join(dict.fromkeys(finding.column for finding in errors if finding.column)) or "the table"
        raise Problem(
            f"{len(errors)} rules are broken: {names}" if len(errors) > 1 else _line(errors[0]).removeprefix("error: "),
            where=f"data/raw.parquet against {paths.SCHEMA}; the list is in {paths.STATE / 'validation.md'}",
            fix="repair the data; or change the rule in schema.yaml or `validate` in params.yaml in a commit that says why",
        )


def check(task: Task, params: Validate, schema: Schema) -> list[Finding]:
    """Return every broken rule, errors first."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(paths.RAW, memory_map=True) as table:
        total = table.metadata.num_rows
        names = set(table.schema_arrow.names)
        notes = {key: json.loads(table.metadata.metadata[key]) for key in (b"untyped", b"given_split")}
        untyped = notes[b"untyped"]
        findings = list(_columns(schema, names, given_split=notes[b"given_split"]))
        for name, note in untyped.items():
            findings.append(
                Finding(
                    column=name,
                    rule=f"not of dtype {schema.columns[name].dtype}",
                    count=note["count"],
                    share=note["count"] / total,
                    rows=tuple(note["rows"]),
                )
            )
        present = {name: column for name, column in schema.columns.items() if name in names}
        findings += _cells(table, present, total, params, untyped)
        if task.target in present and not any(
            finding.column == task.target and finding.level == "error" for finding in findings
        ):
            findings += _target(table, task, params, total)
            findings += _leaks(table, task, params, schema, present)
        findings += _copies(table, task, params, present, total)
    if total < params.min_rows:
        findings.append(Finding(rule=f"{total} rows, validate.min_rows is {params.min_rows}", count=total))
    return sorted(findings, key=lambda finding: finding.level)


def _columns(schema: Schema, names: set[str], *, given_split: bool) -> Iterator[Finding]:
    """Compare the table's columns with the schema's."""
    extra = names - set(schema.columns) - {"row_id"} - ({"split"} if given_split else set())
    for name in schema.columns:
        if name not in names:
            yield Finding(
                column=name,
                rule=f"the table has no such column; it has {', '.join(sorted(extra)) or 'no other'} beside those of the schema",
            )
    for name in sorted(extra):
        yield Finding(column=name, rule="not in schema.yaml: add it there (`make schema` does)")


def _cells(
    table: Any, columns: dict[str, Column], total: int, params: Validate, untyped: dict[str, Any]
) -> Iterator[Finding]:
    """Check values: ranges and categories through Pandera, batch by batch; then shares of missing values, constants and scale."""
    import pyarrow.compute as pc

    rules = _pandera(columns)
    missing = dict.fromkeys(columns, 0)
    bounds: dict[str, set[Any]] = {name: set() for name in columns}
    scale = dict.fromkeys(columns, 0.0)
    broken: dict[tuple[str, str], dict[str, Any]] = {}
    for start, batch in _batches(table, list(columns)):
        for name, column in columns.items():
            values = batch.column(name)
            missing[name] += values.null_count
            if len(bounds[name]) < 2 and len(values) > values.null_count:
                flat = values.dictionary_decode() if hasattr(values, "dictionary") else values
                bounds[name] |= set(pc.min_max(flat).as_py().values())
            if column.scale is not None:
                scale[name] += pc.sum(pc.abs(values.cast("double"))).as_py() or 0.0
        for name, rule, index, cell in _failures(rules, batch):
            note = broken.setdefault((name, rule), {"count": 0, "rows": [], "examples": []})
            note["count"] += 1
            if len(note["rows"]) < SHOWN:
                note["rows"].append(start + index + 1)
                note["examples"] = list(dict.fromkeys([*note["examples"], str(cell)[:40]]))[:3]
    for (name, rule), note in broken.items():
        yield Finding(
            column=name,
            rule=rule,
            count=note["count"],
            share=note["count"] / total,
            rows=tuple(note["rows"]),
            examples=tuple(note["examples"]),
        )
    for name, column in columns.items():
        share = (missing[name] - untyped.get(name, {}).get("count", 0)) / max(total, 1)
        count = round(share * total)
        if share > column.missing:
            yield Finding(
                column=name, rule=f"missing values, schema.yaml allows {column.missing:.2%}", count=count, share=share
            )
        elif share > params.warn_missing:
            yield Finding(level="warn", column=name, rule="mostly missing", count=count, share=share)
        if len(bounds[name]) < 2:
            yield Finding(level="warn", column=name, rule="constant: it can teach a model nothing")
        known = total - missing[name]
        if column.scale and known:
            factor = scale[name] / known / column.scale
            if not 1 / params.unit_jump < factor < params.unit_jump:
                yield Finding(
                    column=name,
                    rule=f"mean size is {factor:.3g} times that in schema.yaml (scale): has the unit changed?",
                    count=known,
                )


def _pandera(columns: dict[str, Column]) -> Any:
    import pandera.pandas as pa

    def checks(column: Column) -> list[Any]:
        found = []
        if column.min is not None:
            found.append(pa.Check.ge(column.min, error=f"below min {column.min:g}"))
        if column.max is not None:
            found.append(pa.Check.le(column.max, error=f"above max {column.max:g}"))
        if column.values is not None:
            found.append(pa.Check.isin(column.values, error="not one of `values`"))
        if column.dtype == "number":
            found.append(pa.Check(np.isfinite, error="infinite", ignore_na=True))
        return found

    ruled = {
        name: pa.Column(checks=found, nullable=True, required=False)
        for name, column in columns.items()
        if (found := checks(column))
    }
    return pa.DataFrameSchema(ruled) if ruled else None


def _failures(rules: Any, batch: Any) -> Iterator[tuple[str, str, int, Any]]:
    """Yield (column, rule, row in the batch, cell) for every cell that breaks a rule."""
    import pandera.errors

    if rules is None:
        return
    try:
        rules.validate(batch.select(list(rules.columns)).to_pandas(), lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        for name, rule, index, cell in zip(
            cases["column"], cases["check"], cases["index"], cases["failure_case"], strict=True
        ):
            yield str(name), str(rule), int(index), cell


def _batches(table: Any, names: list[str]) -> Iterator[tuple[int, Any]]:
    start = 0
    for batch in table.iter_batches(BATCH_ROWS, columns=names):
        yield start, batch
        start += batch.num_rows


def _target(table: Any, task: Task, params: Validate, total: int) -> Iterator[Finding]:
    import pyarrow.compute as pc

    column = table.read([task.target]).column(0)
    if column.null_count:
        yield Finding(
            column=task.target, rule="the target is missing", count=column.null_count, share=column.null_count / total
        )
    if task.task == "regression":
        return
    counts = {
        str(entry["values"]): entry["counts"]
        for entry in pc.value_counts(column.drop_null().cast("string")).to_pylist()
    }
    if len(counts) < 2:
        yield Finding(column=task.target, rule=f"{len(counts)} class in the target: nothing to tell apart", count=total)
    if task.task == "binary" and len(counts) > 2:
        yield Finding(
            column=task.target,
            rule=f"{len(counts)} classes in the target of a binary task: set task: multiclass",
            count=total,
        )
    if task.task == "binary" and str(task.positive) not in counts:
        yield Finding(column=task.target, rule=f"no row has the positive label {task.positive!r} of params.yaml")
    for label, count in counts.items():
        if count < params.min_class_rows:
            yield Finding(
                column=task.target,
                rule=f"class {label} has {count} rows, validate.min_class_rows is {params.min_class_rows}",
                count=count,
            )


def _leaks(table: Any, task: Task, params: Validate, schema: Schema, present: dict[str, Column]) -> Iterator[Finding]:
    """Report each single column from which the target can be read."""
    names = [name for name in present if name not in task.roles]
    sample = table.read([*names, task.target])
    keep = np.random.default_rng(0).permutation(sample.num_rows)[:LEAK_ROWS]
    sample = sample.take(np.sort(keep))
    target = (
        _codes(sample.column(task.target), schema.columns[task.target].dtype)
        if task.task != "regression"
        else _numbers(sample.column(task.target))
    )
    for name in names:
        power = predictive_power(
            _codes(sample.column(name), schema.columns[name].dtype), target, regression=task.task == "regression"
        )
        if power >= params.max_leakage:
            allowed = name in params.allow_leakage
            yield Finding(
                level="warn" if allowed else "error",
                column=name,
                rule=f"predicts the target almost perfectly by itself ({'R2' if task.task == 'regression' else 'AUC'} {power:.3f}): does it hold the answer? (validate.allow_leakage)",
            )


def _numbers(column: Any) -> Any:
    import pyarrow.compute as pc

    return pc.fill_null(column.cast("double"), 0.0).to_numpy()


def _codes(column: Any, dtype: str) -> Any:
    """Return small integers per value, shape (n,): categories, or quantile bins of numbers; missing is one of its own."""
    if dtype in {"integer", "number"}:
        values = column.cast("double").to_numpy()
        known = values[np.isfinite(values)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else known
        return np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values, side="right"))
    encoded = column.cast("string").combine_chunks().dictionary_encode().indices
    return encoded.fill_null(len(encoded.unique())).to_numpy(zero_copy_only=False).astype(np.int64)


def predictive_power(codes: Any, target: Any, *, regression: bool) -> float:
    """Return how well the codes alone predict the target, learned on one half of the rows and judged on the other: AUC (best class), or R2.

    `codes` are integers, shape (n,); `target` has label numbers, or values for regression, shape (n,).
    """
    learn = np.arange(len(codes)) % 2 == 0
    size = int(codes.max()) + 1
    seen = np.bincount(codes[learn], minlength=size)

    def means(values: Any) -> Any:
        totals = np.bincount(codes[learn], weights=values[learn], minlength=size)
        return np.where(seen > 0, totals / np.maximum(seen, 1), values[learn].mean())[codes[~learn]]

    if regression:
        spread = ((target[~learn] - target[~learn].mean()) ** 2).sum()
        return float(1 - ((target[~learn] - means(target)) ** 2).sum() / spread) if spread else 0.0
    best = 0.0
    for label in np.unique(target)[:20]:
        is_label = (target == label).astype(float)
        rate, truth = means(is_label), is_label[~learn]
        if 0 < truth.sum() < len(truth):
            levels, level = np.unique(rate, return_inverse=True)
            positive = np.bincount(level, weights=truth, minlength=len(levels))
            negative = np.bincount(level, weights=1 - truth, minlength=len(levels))
            below = np.cumsum(negative) - negative
            best = max(best, float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum())))
    return best


def _copies(table: Any, task: Task, params: Validate, present: dict[str, Column], total: int) -> Iterator[Finding]:
    """Report duplicate rows and ids, and rows that stand in two splits that were given."""
    import pyarrow.compute as pc

    everything = table.read(
        [*present, *([name] if (name := "split") in table.schema_arrow.names and name not in present else [])]
    )
    content = rows.hash_rows(everything, sorted(present))
    _, first, counts = np.unique(content, return_index=True, return_counts=True)
    if repeated := int((counts - 1).sum()):
        shown = tuple(sorted((first[counts > 1] + 1).tolist())[:SHOWN])
        yield Finding(
            level="warn",
            rule="duplicate rows (prepare.drop_duplicates drops them)",
            count=repeated,
            share=repeated / total,
            rows=shown,
        )
    for name, column in present.items():
        if (column.unique or name == task.columns.id) and (
            again := total - pc.count_distinct(everything.column(name), mode="all").as_py()
        ):
            yield Finding(column=name, rule="not unique", count=again, share=again / total)
    split = task.columns.split or "split"
    if split in everything.schema.names and (task.columns.split or "split" not in present):
        held_out = everything.column(split).cast("string").to_numpy() != "train"
        both = int(np.isin(content[held_out], content[~held_out]).sum())
        if both:
            level: Any = "error" if both > params.max_overlap * held_out.sum() else "warn"
            yield Finding(
                level=level,
                rule="rows of valid or test stand in train too (validate.max_overlap)",
                count=both,
                share=both / int(held_out.sum()),
            )


def _line(finding: Finding) -> str:
    where = f"{finding.column}: " if finding.column else ""
    count = (
        f", {finding.count} rows" + (f" ({finding.share:.2%})" if finding.share else "")
        if finding.count and finding.share
        else ""
    )
    at = f", first at row {', '.join(map(str, finding.rows[:5]))}" if finding.rows else ""
    cells = f", for example {', '.join(map(repr, finding.examples))}" if finding.examples else ""
    return f"{finding.level}: {where}{finding.rule}{count}{at}{cells}"


def markdown(findings: list[Finding]) -> str:
    """Return the findings as a Markdown table; what came from the data is inert in it."""
    if not findings:
        return "# Data\n\nEvery rule holds.\n"
    lines = [
        "# Data",
        "",
        "| level | column | rule | rows | share | first rows | examples |",
        "|---|---|---|--:|--:|---|---|",
    ]
    for finding in findings:
        cells = [
            finding.level,
            finding.column,
            finding.rule,
            str(finding.count or ""),
            f"{finding.share:.2%}" if finding.share else "",
            ", ".join(map(str, finding.rows)),
            ", ".join(finding.examples),
        ]
        lines.append("| " + " | ".join(map(inert, cells)) + " |")
    return "\n".join(lines) + "\n"


def inert(text: str) -> str:
    """Return text that Markdown and HTML show as it stands."""
    shown = html.escape("".join(character if character.isprintable() else " " for character in text))
    return "".join(f"&#{ord(character)};" if character in "|`[]@*_!" else character for character in shown)
