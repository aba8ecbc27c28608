"""The report as sentences and tables: the headline, Markdown for GitHub, the terminal, the model card. Pure: a Report in, text out."""

import io
import itertools
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import compress
from typing import Literal

from pawl.gate import statistics
from pawl.gate.rules import SIZE, Gates, Rule, named
from pawl.gate.verdict import GOOD, Against, Comparison, Facts, Judged, Verdict
from pawl.parts import Value
from pawl.profile import Shift
from pawl.report import Other, Report, draw
from pawl.report.draw import NONE, plain

# Where GitHub, after Markdown is done, makes a mention, a reference or a link; a space of no width parts it.
ALIVE = re.compile(r"(?<=[@#$])|(?<=:)(?=//)|(?<=www)(?=\.)|(?<=\bgh)(?=-\d)", re.IGNORECASE)
MAX_COMMENT = 60_000  # bytes; GitHub refuses more than 65,536 characters
SHOWN = 20  # rows of a table of changes
NARROW, ROOM = 72, 26  # columns of a terminal: where no table fits; what a gate's words want
SYMBOLS: Mapping[Verdict, str] = {
    "pass": "✅", "improved": "⬆", "unchanged": "=", "inconclusive": "🟡", "fail": "❌", "skipped": "➖", "error": "⚠",
}  # fmt: skip
HOW = {
    "ledger": "", "rebuilt": ", trained anew beside it", "committed": ", the numbers that it has in git", "registry": ", scored anew",
}  # fmt: skip
Cells = tuple[str, str, str, str, str, str, str, str, Judged]


def headline(report: Report, gates: Gates) -> str:
    """Return the sentence that says the verdict and its reason, and needs no other line."""
    return plain(_headline(report, gates))


def _headline(report: Report, gates: Gates) -> str:
    name, facts = called(report), report.candidate.facts
    judged = [each for each in report.judged if each.level == "error" and each.verdict != "skipped"]
    bad = [each for each in judged if each.verdict not in GOOD and not each.waived]
    waived = sum(bool(each.waived) for each in judged)
    count = f"{len(judged) - len(bad) - waived} of {len(judged)} gates pass"
    tail = f", {waived} {'is' if waived == 1 else 'are'} waived" if waived else ""
    tail += " (mode: report, nothing is blocked)" if gates.mode == "report" and report.verdict not in GOOD else ""
    if first := next((each for each in bad if each.verdict == report.verdict), None):
        several = f"; {count}" if len(judged) > 1 else ""
        may = "Inconclusive" if first.verdict == "inconclusive" else "No"
        return (
            f"{SYMBOLS[report.verdict]} {may if report.allowed else 'Blocked'}: {_why(report, first)}{several}{tail}."
        )
    if report.verdict == "skipped":
        return f"➖ Nothing was judged: give a metric a floor or a ceiling in gates.yaml{tail}."
    if report.verdict == "unchanged" and report.baseline:
        same = report.baseline.digest == report.candidate.digest
        model = "this is its model, bit for bit" if same else "every answer is its model's"
        return f"= Unchanged against {name} {short(report.baseline.commit)}: {model}; {count}{tail}."
    better = [(each.metric, each.slice) for each in judged if each.verdict == "improved"]
    first_metric = next(iter(gates.metrics), "")
    metric, part = min(better, key=lambda each: bool(each[1]), default=(first_metric, ""))  # of all rows before a slice
    if not metric:  # slices alone are judged
        return f"{SYMBOLS[report.verdict]} {count}{tail}."
    compared, now = report.comparison(metric, part), _value(facts, metric, part)
    where = f" for {part}" if part else ""
    said = f"{metric}{where} is {number(now.value, now)}" if now else f"{metric} was not measured"
    if compared and compared.difference is not None:
        chance = "" if not compared.error or (compared.low or 0) * (compared.high or 0) > 0 else ", which may be chance"
        said += f", {change(compared)} against {name}{_interval(compared)}{chance}"
    elif report.state == "first":
        said += ", without a baseline"
    return f"{SYMBOLS[report.verdict]} {'Better: ' if report.verdict == 'improved' else ''}{said}; {count}{tail}."


def called(report: Report) -> str:
    """Return the baseline's name."""
    return report.baseline.name if report.baseline else "main"


def _why(report: Report, judged: Judged) -> str:
    name = f"{judged.metric} for {plain(judged.slice)}" if judged.slice else judged.metric
    value = _value(report.candidate.facts, judged.metric, judged.slice)
    if judged.reason.startswith(("below", "above")) and value:
        return f"{name} is {number(value.value, value)}, {judged.reason}"
    if judged.verdict == "error" and report.state in {"lost", "incomparable"}:
        return f"{judged.reason}: {plain(report.why)}".removesuffix(".")
    against: Against = "high_water" if "worse than" in judged.reason else "baseline"
    compared = report.comparison(judged.metric, judged.slice, against)
    if not compared or compared.difference is None or "worse" not in judged.reason:
        return f"{name}{'' if judged.reason.startswith(('is ', 'was ', 'overfits')) else ':'} {judged.reason}"
    limits = judged.reason.rpartition("allowed ")[2].partition(":")[0]
    best = f" against the best of main ({short(compared.commit)})" if against == "high_water" else ""
    size = change(compared)[1:] if compared.error is None else number(abs(compared.difference), compared)
    if limits.endswith("%") and compared.error is not None and compared.baseline:
        size += f" ({abs(compared.difference / compared.baseline):.1%})"
    fell = f"{'fell' if compared.difference < 0 else 'rose'} by {size}{best}{_interval(compared, size=True)}"
    return f"{name} {fell}{', which may be chance' * (judged.verdict == 'inconclusive')}; allowed {limits}"


def markdown(
    report: Report, gates: Gates, *, head: str = "", fetch: str = "", links: Mapping[str, str] | None = None
) -> str:
    """Return the report for GitHub: comment, job summary, body of a pull request, at most MAX_COMMENT bytes: whole sections go, the last first.

    head: the commit that people know, where the candidate is its merge. fetch: the git command that gets the candidate. links: {text: URL} for the last line.
    """
    name, base, rows = cell(called(report)), report.baseline, table(report, gates)
    top = [f"### {cell(headline(report, gates))}", "", _identity(report, head), ""]
    said = [f"{code(each.key)} {code(each.before)} → {code(each.after)}" for each in report.changes.gates[:SHOWN]]
    warned = [f"⚠ gates.yaml changes, and judges from the next change on: {', '.join(said)}", ""] if said else []
    first = [cells for cells in rows if not quiet(report, cells[-1])]
    header, aligned, *lines = _judged(report, name if base else "baseline", first)
    loud = [(cells[-1].verdict in GOOD, line) for cells, line in zip(first, lines, strict=True)]
    slices = [cells for cells in rows if cells[-1].slice]
    many = len({cells[-1].slice for cells in slices})
    notes = [f"- {code(each.rule)} {cell(each.waived)}" for each in report.judged if each.waived]
    notes += ["", cell(chance(report))] if chance(report) else []
    again = [fetch] if fetch else []
    again += ["make run", f"make report BASE={base.commit.removesuffix('-dirty')}" if base else "make report"]
    sections = [
        _folded("The same on your machine", ["```sh", *again, "```"]),
        _folded("What changed", _changes(report, name)) if base else [],
        _folded(f"Slices ({many} judged)", _judged(report, name, slices)) if slices else [],
        _folded("How sure this is", _certainty(report, gates)) if report.comparisons else [],
        _folded("Every metric of the test split", _all_metrics(report, name)),
    ]
    cost = " · ".join(f"{code(stage)} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    where = "".join(f" · [{text}]({url})" for text, url in (links or {}).items())
    model = (report.candidate.digest or "unknown")[:19]
    last = f"<sub>{cost or 'nothing had to run'} · model `{model}`, served by {cell(report.candidate.served_by)}{where}</sub>"
    left_out: list[str] = []
    while True:
        shown = [header, aligned, *(line for _, line in loud), "", *notes, *([""] if notes else [])]
        text = "\n".join([*top, *warned, *shown, *itertools.chain(*sections), *left_out, last]) + "\n"
        if len(text.encode()) <= MAX_COMMENT or not (sections or notes or said or loud):
            return text
        left_out = ["More than a comment holds: the rest is in reports/report.html of the run.", ""]
        if sections:
            sections.pop()
        elif notes or said:
            notes, said, warned = [], [], [line.partition(":")[0] for line in warned]
        else:  # what stops it stays longest
            loud = sorted(loud, key=operator.itemgetter(0))[: len(loud) // 2]


def table(report: Report, gates: Gates) -> list[Cells]:
    """Return a row per verdict: symbol, metric, champion, baseline, candidate, its interval, the difference with its interval, reason; and the verdict."""
    directions = {each.metric: each.rule.direction for each in named(gates)}
    models = (report.candidate, report.champion, report.baseline)
    found: list[Cells] = []
    for each in report.judged:
        part, compared = report.candidate.facts.slices.get(each.slice), report.comparison(each.metric, each.slice)
        label = f"{each.metric} {'↑' if directions.get(each.metric) == 'higher' else '↓'}"
        label += f" {each.slice} (n = {part.rows:,})" if part else f" {each.slice}" if each.slice else ""
        values = [_value(model.facts, each.metric, each.slice) if model else None for model in models]
        now, champion, base = (shown(each.metric, value, values[0]) for value in values)
        if compared and compared.difference is not None:
            delta = f"{change(compared)} ({between(compared, signed)})".removesuffix(f" ({NONE})")
        else:
            delta = "n/c" if report.baseline and report.state != "compared" else NONE
        aside = "waived" if each.waived else "" if each.level == "error" else each.level
        reason = f"{each.reason}{f' ({aside})' if aside else ''}"
        interval = between(values[0]) if values[0] else NONE
        found.append((SYMBOLS[each.verdict], label, champion, base, now, interval, delta, reason, each))
    return found


def quiet(report: Report, judged: Judged) -> bool:
    """Say whether a verdict on a slice is none that a reader must see first."""
    lost = judged.verdict == "error" and report.state != "compared"
    return bool(judged.slice) and (judged.verdict in GOOD | {"skipped"} or lost)


def chance(report: Report) -> str:
    """Return which differences may be chance, in a sentence; nothing if there are none."""
    whole = [each for each in report.comparisons if not each.slice and each.against == "baseline"]
    shown = [each for each in whole if each.error and each.low is not None]
    may = [each.metric for each in shown if (each.low or 0) <= 0 <= (each.high or 0)]
    return f"May be chance: {', '.join(may)} ({len(may)} of {len(shown)} differences)." if may else ""


def _value(facts: Facts, metric: str, name: str) -> Value | None:
    """Return a metric of all rows or of a slice; None where it was not measured."""
    part = facts.slices.get(name) if name else facts
    return part.metrics.get(metric) if part else None


def shown(metric: str, value: Value | None, like: Value | Comparison | None) -> str:
    """Return a metric's value with the digits of `like`; a size in kB."""
    if value is None or (metric == SIZE and value.value is None):
        return NONE
    return number(value.value, like) if metric != SIZE else f"{(value.value or 0) / 1000:,.0f} kB"


def _judged(report: Report, name: str, rows: Iterable[Cells]) -> list[str]:
    """Return the table of verdicts. Its numbers do not break: a narrow page scrolls, or breaks words."""
    third = ("champion | ", ">") if report.champion else ("", "")
    head = f"| | metric | {third[0]}{name} | **candidate**<br>(95 % interval) | Δ<br>(90 % interval) | gate |"
    lines = []
    for symbol, label, champion, base, now, interval, delta, reason, judged in rows:
        part = report.candidate.facts.slices.get(judged.slice)
        arrow, rows_of = label[len(judged.metric) + 1], f" n\u00a0=\u00a0{part.rows:,}" if part else ""
        metric = f"{cell(judged.metric)}\u00a0{arrow}{f' {code(judged.slice)}' if judged.slice else ''}{rows_of}"
        others = [champion, base] if report.champion else [base]
        value = f"**{now}**" + (f"<br>({interval})" if interval != NONE else "")
        numbers = map(_whole, [*others, value, delta.replace(" (", "<br>(", 1)])
        lines.append([symbol, metric, *numbers, re.sub(r"(?<=by) (?=≤)|(?<=[≤≥]) ", "\u00a0", cell(reason))])
    return grid(head, f"=<{third[1]}>>><", lines)


def _whole(text: str) -> str:
    """Return a number or an interval that does not break."""
    return text.replace(" ", "\u00a0")


def grid(head: str, kinds: str, rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a table under its head in Markdown. kinds: < > = for columns that stand left, right, in the middle."""
    marks = {"<": ":--", ">": "--:", "=": ":-:"}
    return [head, f"|{'|'.join(marks[kind] for kind in kinds)}|", *(f"| {' | '.join(row)} |" for row in rows)]


def terminal(report: Report, gates: Gates, width: int = 100, *, color: bool = False) -> str:
    """Return the report for a terminal of this width, in colour or not."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, no_color=not color)
    console.print(Text(headline(report, gates)), soft_wrap=False)
    console.print()
    there = (True, report.champion, report.baseline, True, report.baseline)
    head = [*compress(("metric", "champion", plain(called(report)), "candidate", "delta (90 % interval)"), there)]
    rows = []
    for symbol, label, champion, base, now, _, delta, reason, each in table(report, gates):
        if not quiet(report, each):
            name = plain(label.partition(" (n =")[0])
            name = name if len(name) <= 36 else f"{name[:35]}…"
            rows.append((symbol, [*compress((name, champion, base, now, delta), there)], plain(reason)))
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=width >= NARROW)
    shown.add_column("", width=2)
    if width >= NARROW:
        columns = zip(head, *(cells for _, cells, _ in rows), strict=True)
        room = width - 3 - sum(1 + max(map(cell_len, column)) for column in columns)
        broken = (" (", "\n(", int(room < ROOM))  # the interval stands below its difference
        for place, column in enumerate(head):
            justify: Literal["left", "right"] = "right" if place else "left"
            shown.add_column(Text(column.replace(*broken)), justify=justify, no_wrap=True)
        shown.add_column("gate", ratio=1)
        for symbol, cells, reason in rows:
            shown.add_row(symbol, *(Text(each.replace(*broken)) for each in cells), Text(reason))
    else:  # no table fits: a paragraph per row
        shown.add_column("", ratio=1)
        for symbol, cells, reason in rows:
            values = ", ".join(f"{name} {value}" for name, value in zip(head[1:], cells[1:], strict=True))
            shown.add_row(symbol, Text(f"{cells[0]}: {reason}\n{values.replace(' (90 % interval)', '', 1)}"))
    console.print(shown)
    slices = [each.verdict for each in report.judged if quiet(report, each)]
    counts = ", ".join(f"{slices.count(word)} {word}" for word in SYMBOLS if word in slices)
    said = [f"\n   slices: {counts}"] if slices else []
    said += [plain(f"{each.rule} is {each.waived}") for each in report.judged if each.waived]
    for part in report.changes.gates:
        new = plain(f"⚠ gates.yaml: {part.key} {part.before} → {part.after}, from the next change on")
        said.append(f"   {new}")
    last = (chance(report), _against(report), report.why and f"baseline: {report.why}")
    for line in [*said, *(f"\n{plain(line)}" for line in last if line)]:
        console.print(Text(line))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def number(value: float | None, like: Value | Comparison | None = None) -> str:
    """Return a number with as many digits as the interval of `like` supports."""
    return draw.number(value, like.low, like.high) if like else draw.number(value)


def signed(value: float | None, like: Value | Comparison | None) -> str:
    """Return a number with its sign; 0 is exactly 0."""
    if not value:
        return "n/a" if value is None else "0"
    text = number(abs(value), like)
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{text}" if text.strip("0.") else text


def change(compared: Comparison) -> str:
    """Return the difference: of what is known exactly as a share of the baseline."""
    if compared.error is None and compared.difference is not None and compared.baseline:
        share = compared.difference / abs(compared.baseline)
        return "0" if share == 0 else f"{'+' if share > 0 else '−'}{abs(share):.1%}"
    return signed(compared.difference, compared)


def between(each: Value | Comparison, show: Callable[..., str] = number) -> str:
    """Return an interval, of a difference where `show` is `signed`."""
    there = each.low is not None and each.high is not None and not (isinstance(each, Comparison) and not each.error)
    return f"{show(each.low, each)} to {show(each.high, each)}" if there else NONE


def _interval(compared: Comparison, *, size: bool = False) -> str:
    """Return the 90 % interval in brackets: of the difference, or of how large a loss is."""
    if not compared.error or compared.low is None or compared.high is None:
        return ""
    if not size:
        return f" (90 % interval {between(compared, signed)})"
    ends = (-compared.high, -compared.low) if (compared.difference or 0) < 0 else (compared.low, compared.high)
    low, high = (number(end, compared) for end in ends)
    return f" (90 % interval {low} to {high})"


def short(commit: str) -> str:
    """Return a commit as people name it."""
    return commit[:7] + ("+" if commit.endswith("-dirty") else "")


def tested(report: Report) -> int:
    """Return the number of test rows."""
    return max((each.n for each in report.candidate.facts.metrics.values()), default=0)


def described(other: Other) -> str:
    """Return what the candidate is compared with, in a line without marks."""
    behind = f", {other.behind} commit{'s' * (other.behind > 1)} before it" if other.behind else ""
    left_out = f", {other.left_out:,} rows that it has trained on left out" if other.left_out else ""
    rows = f" on the {other.common:,} test rows of both" if other.common else ""
    return f"{other.name} {short(other.commit)}{behind}{HOW[other.how]}{rows}{left_out}"


def _against(report: Report) -> str:
    others = [described(each) for each in (report.baseline, report.champion) if each]
    return f"against {'; '.join(others)}" if others else ""


def _identity(report: Report, head: str) -> str:
    said = [f"`{short(head or report.candidate.commit)}`, {tested(report):,} test rows"]
    said += [cell(_against(report))] if report.baseline or report.champion else []
    if report.why:
        said.append(f"{'not comparable (n/c)' if report.baseline else 'no baseline'}: {cell(report.why)}")
    said += [f"no champion: {cell(report.champion_why)}"] if report.champion_why else []
    return " · ".join(said)


def noticed(report: Report, gates: Gates) -> tuple[list[tuple[Comparison, str]], int]:
    """Return what relative rules judge with the smallest loss that each notices, and how many tests share the error."""
    rules = {(each.metric, each.of is not None): each.rule for each in named(gates)}
    asked = [(each, rules.get((each.metric, bool(each.slice)))) for each in report.comparisons]
    relative = [
        (each, rule) for each, rule in asked if rule and rule.max_regression is not None and each.error is not None
    ]
    tests = sum(bool(each.error) and rule.level == "error" for each, rule in relative)

    def loss(each: Comparison, rule: Rule) -> str:
        allowed, error = rule.allowance(each.baseline or 0.0), each.error or 0.0
        return number(statistics.detectable(error, allowed, tests, gates.confidence), each) if error else NONE

    return [(each, loss(each, rule)) for each, rule in relative], tests


def _certainty(report: Report, gates: Gates) -> list[str]:
    """Return, per relative rule, the test and the smallest loss that it notices."""
    rows, (found, tests) = [], noticed(report, gates)
    for each, loss in found:
        label = code(f"{each.metric}[{each.slice}]" if each.slice else each.metric)
        mark = f"{'best of main' if each.against == 'high_water' else 'baseline'} {short(each.commit)}"
        rows.append((label, each.method, f"{each.n:,}", mark, change(each), _whole(between(each, signed)), loss))
    head = "| rule | test | rows | against | Δ | 90 % interval | smallest loss noticed |"
    said = f"Fails: worse than allowed, and significantly so at {gates.confidence:.0%}, one-sided, after Holm's correction over {tests} comparisons. A true loss of the last column's size fails in 80 % of cases."
    return [said, "", *grid(head, "<<><>=>", rows)]


def _changes(report: Report, name: str) -> list[str]:
    found, lines = report.changes, list[str]()
    for title, part in (("parameter", found.params), ("schema.yaml", found.schema), ("dependency", found.dependencies)):
        keys = [(code(each.key), code(each.before), code(each.after)) for each in part]
        lines += _listed(f"| {title} | {name} | candidate |", "<<<", keys)
    files = [(code(each.path), *(NONE if n is None else str(n) for n in (each.added, each.removed))) for each in found.code]  # fmt: skip
    lines += _listed("| file | added | removed |", "<>>", files)
    if data := found.data:
        rows = [f"{code(split)} {old:,} → {new:,}" for split, (old, new) in data.rows.items() if old != new]
        if data.added or data.removed:
            rows.append(f"of the test rows {data.added:,} new, {data.removed or 0:,} gone")
        lines += [f"Rows: {', '.join(rows)}.", ""] if rows else []
        shifts = []
        for each in filter(moved, data.shifts):
            missing = " → ".join(f"{share:.1%}" for share in each.missing or ()) or NONE
            shifts.append((code(each.column), each.kind if each.shift is None else f"{each.shift:.2f}", missing))
        lines += _listed("| column | shift | missing |", "<>>", shifts)
        if shifts:
            lines += ["<sub>shift: of numbers the means, in standard deviations; of categories the share of rows that would have to change</sub>", ""]  # fmt: skip
    return lines or ["Nothing that the model is made of."]


def moved(shift: Shift) -> bool:
    """Say whether a column differs by what a reader may want to know."""
    old, new = shift.missing or (0.0, 0.0)
    return shift.kind in {"added", "removed"} or (shift.shift or 0) >= 0.01 or abs(old - new) >= 0.01


def _listed(head: str, kinds: str, rows: Sequence[Iterable[str]]) -> list[str]:
    """Return a table that does not grow with what changed; nothing without rows."""
    more = ["", f"… and {len(rows) - SHOWN} more."] if len(rows) > SHOWN else []
    return [*grid(head, kinds, rows[:SHOWN]), *more, ""] if rows else []


def _all_metrics(report: Report, name: str | None = None) -> list[str]:
    """Return the table of the candidate's metrics, beside those of the baseline where that has a name."""
    base = report.baseline.facts.metrics if report.baseline and name is not None else {}
    rows = []
    for metric, now in report.candidate.facts.metrics.items():
        values = [*([shown(metric, base.get(metric), now)] if base else []), shown(metric, now, now), between(now)]
        rows.append((code(metric), *map(_whole, values), f"{now.n:,}" if now.n else NONE))
    column = (f" {name} |", ">") if base else ("", "")
    return grid(f"| metric |{column[0]} candidate | 95 % interval | rows |", f"<{column[1]}>=>", rows)


def _folded(title: str, lines: Iterable[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def code(text: str | None) -> str:
    """Return text that nobody has checked as inert Markdown: one code span, in which no mention, link or tag works."""
    if text is None:
        return NONE
    inert = plain(text).replace("`", "'").replace("|", "\\|").strip()
    return f"`{inert}`" if inert else "` `"


def cell(text: str) -> str:
    """Return a sentence as Markdown that shows it as it is: no markup, mention, reference or link in it works."""
    marked = "".join(f"\\{each}" if each in "\\`*[]<>|~&$" else each for each in plain(text))
    marked = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", marked)  # roc_auc is none
    return ALIVE.sub("\u200b", marked)
