"""The model card: what the model is for, how good it is on what, where its limits are, what it was made of. Pure."""

from pawl.gate.rules import SIZE, Gates
from pawl.report import Report
from pawl.report.text import SYMBOLS, between, cell, code, grid, headline, number, short


def card(report: Report, gates: Gates, project: str, predicts: str, about: str = "") -> str:
    """Return the card as Markdown. predicts: what, in a sentence; about: what people wrote on its use and limits, in Markdown."""
    model = report.candidate
    rows = ", ".join(f"{code(split)} {count:,}" for split, count in model.splits.items())
    missing = {name: column.missing for name, column in model.columns.items() if column.missing > 0}
    most = [f"{code(name)} {share:.1%}" for name, share in sorted(missing.items(), key=lambda each: -each[1])[:5]]
    return "\n".join([
        f"# {project}", "", f"{cell(headline(report, gates))} Trained from commit `{short(model.commit)}`.",
        "", "## Use", "", predicts, *(["", about.strip()] if about.strip() else []),
        "", "## Data", "", f"Rows: {rows}. Columns: {len(model.columns)}{', missing cells in ' if most else ''}{', '.join(most)}.",
        "", "## How good, on the test rows", "", *_metrics(report, gates),
        *_slices(report),
        "", "## Limits", "", *_limits(report, gates),
        *_features(report),
        "", "## Lineage", "", f"- bundle `{model.digest or 'unknown'}`", *(f"- {code(part)} `{digest}`" for part, digest in model.digests.items()),
        *([f"- compared with {cell(report.baseline.name)}, `{short(report.baseline.commit)}`"] if report.baseline else []), "",
    ])  # fmt: skip


def _metrics(report: Report, gates: Gates) -> list[str]:
    facts = {name: value for name, value in report.candidate.facts.metrics.items() if name != SIZE}
    rules = {each.metric: f"{SYMBOLS[each.verdict]} {cell(each.reason)}" for each in report.judged if not each.slice}
    order = [*(name for name in gates.metrics if name in facts), *(name for name in facts if name not in gates.metrics)]
    rows = [(code(name), number(facts[name].value, facts[name]), between(facts[name]), f"{facts[name].n:,}", rules.get(name, "")) for name in order]  # fmt: skip
    return grid("| metric | value | 95 % interval | rows | gate |", "<>=><", rows)


def _slices(report: Report) -> list[str]:
    slices = report.candidate.facts.slices.items()
    rows = [(code(name), f"{part.rows:,}", code(metric), number(each.value, each), between(each)) for name, part in slices for metric, each in part.metrics.items()]  # fmt: skip
    head, more = (
        "| slice | rows | metric | value | 95 % interval |",
        ["", f"… and {len(rows) - 40} more."] * (len(rows) > 40),
    )
    return ["", "## By slice", "", *grid(head, "<><>=", rows[:40]), *more] if rows else []


def _limits(report: Report, gates: Gates) -> list[str]:
    least = min((each.min_rows for each in gates.slices), default=0)
    small = [code(name) for name, part in report.candidate.facts.slices.items() if part.rows < least]
    weak = [f"{code(each.rule)}: {each.verdict}, {cell(each.reason)}" + f" ({cell(each.waived)})" * bool(each.waived) for each in report.judged if each.verdict in {"fail", "error", "inconclusive"}]  # fmt: skip
    return [
        "- Measured on rows like those of the test split: nothing is said of rows from elsewhere, or of a later time.",
        "- The intervals hold the chance of the test rows, not that of training anew.",
        *([f"- Slices of fewer than {least} rows are judged by no rule: {', '.join(small[:10])}."] if small else []),
        *(f"- {each}" for each in weak[:10]),
    ]


def _features(report: Report) -> list[str]:
    shares = [f"{code(feature)} {share:.0%}" for feature, share in report.importances[:8]]
    return ["", "## What it rests on", "", f"{', '.join(shares)}."] if shares else []
