"""The report as sentences and tables: the headline, Markdown for GitHub, the terminal, the model card. Pure: a Report in, text out."""

import io
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence

from pawl.gate import statistics
from pawl.gate.rules import SIZE, Gates, named
from pawl.gate.verdict import GOOD, Comparison, Judged, Verdict
from pawl.parts import Value
from pawl.report import Change, Other, Report

# Where GitHub, after Markdown is done, makes a mention, a reference or a link; a space of no width parts it.
ALIVE = re.compile(r"(?<=[@#$])|(?<=:)(?=//)|(?<=www)(?=\.)|(?<=\bgh)(?=-\d)", re.IGNORECASE)
MAX_COMMENT = 60_000  # bytes; GitHub refuses more than 65,536 characters
SHOWN = 20  # rows of a table of changes
SYMBOLS: Mapping[Verdict, str] = {
    "pass": "✅", "improved": "⬆", "unchanged": "=", "inconclusive": "🟡", "fail": "❌", "skipped": "➖", "error": "⚠",
}  # fmt: skip
HOW = {
    "ledger": "",
    "rebuilt": ", trained anew beside it",
    "committed": ", the numbers that it has in git",
    "registry": ", scored anew",
}


Cells = tuple[str, str, str, str, str, str, str, str, Judged]


def headline(report: Report, gates: Gates) -> str:
    """Return the sentence that says the verdict and its reason, and needs no other line."""
    return _plain(_headline(report, gates))


def _headline(report: Report, gates: Gates) -> str:
    name = called(report)
    judged = [each for each in report.judged if each.level == "error" and each.verdict != "skipped"]
    bad = [each for each in judged if each.verdict not in GOOD and not each.waived]
    waived = sum(bool(each.waived) for each in judged)
    count = f"{len(judged) - len(bad) - waived} of {len(judged)} gates pass"
    tail = f", {waived} {'is' if waived == 1 else 'are'} waived" if waived else ""
    tail += " (mode: report, nothing is blocked)" if gates.mode == "report" and report.verdict not in GOOD else ""
    first = next((each for each in bad if each.verdict == report.verdict), None)
    if first:
        several = f"; {count}" if len(judged) > 1 else ""
        stop = (
            "Inconclusive"
            if first.verdict == "inconclusive" and report.allowed
            else "Blocked"
            if not report.allowed
            else "No"
        )
        return f"{SYMBOLS[report.verdict]} {stop}: {_why(report, gates, first)}{several}{tail}."
    if report.verdict == "skipped":
        return f"➖ Nothing was judged: give a metric a floor or a ceiling in gates.yaml{tail}."
    if report.verdict == "unchanged" and report.baseline:
        model = (
            "this is its model, bit for bit"
            if report.baseline.digest == report.candidate.digest
            else "every answer is its model's"
        )
        return f"= Unchanged against {name} {short(report.baseline.commit)}: {model}; {count}{tail}."
    metric, part = next(iter(gates.metrics), ""), ""
    better = sorted((each for each in judged if each.verdict == "improved"), key=lambda each: bool(each.slice))
    if better and (better[0].metric, better[0].slice) != (metric, ""):
        metric, part = better[0].metric, better[0].slice
    if not metric:  # slices alone are judged
        return f"{SYMBOLS[report.verdict]} {count}{tail}."
    facts, compared = report.candidate.facts, report.comparison(metric, part)
    now = (facts.slices[part].metrics if part in facts.slices else facts.metrics).get(metric)
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


def _why(report: Report, gates: Gates, judged: Judged) -> str:
    compared, part = report.comparison(judged.metric, judged.slice), report.candidate.facts.slices.get(judged.slice)
    values = part.metrics if part else report.candidate.facts.metrics
    where = f" for {_plain(judged.slice)}" if judged.slice else ""
    value = values.get(judged.metric)
    if judged.reason.startswith(("below", "above")) and value:
        return f"{judged.metric}{where} is {number(value.value, value)}, {judged.reason}"
    if judged.verdict == "error" and report.state in {"lost", "incomparable"}:
        return f"{judged.reason}: {_plain(report.why)}".removesuffix(".")
    if "worse than" in judged.reason:
        compared = report.comparison(judged.metric, judged.slice, "high_water")
    if compared and compared.difference is not None and "worse" in judged.reason:
        fell = "fell" if compared.difference < 0 else "rose"
        limits = judged.reason.rpartition("allowed ")[2].partition(":")[0]
        best = f" against the best of main ({short(compared.commit)})" if compared.against == "high_water" else ""
        size = number(abs(compared.difference), _like(compared)) if compared.error is not None else change(compared)[1:]
        if limits.endswith("%") and compared.error is not None and compared.baseline:
            size += f" ({abs(compared.difference / compared.baseline):.1%})"
        chance = ", which may be chance" if judged.verdict == "inconclusive" else ""
        return (
            f"{judged.metric}{where} {fell} by {size}{best}{_interval(compared, size=True)}{chance}; allowed {limits}"
        )
    return (
        f"{judged.metric}{where}{'' if judged.reason.startswith(('is ', 'was ', 'overfits')) else ':'} {judged.reason}"
    )


def markdown(
    report: Report, gates: Gates, *, head: str = "", fetch: str = "", links: Mapping[str, str] | None = None
) -> str:
    """Return the report for GitHub: comment, job summary, body of a pull request, at most MAX_COMMENT bytes: whole sections go, the last first.

    head: the commit that people know, where the candidate is its merge. fetch: the git command that gets the candidate. links: {text: URL} for the last line.
    """
    name = _cell(called(report))
    top = [f"### {_cell(headline(report, gates))}", "", _identity(report, head), ""]
    said = [f"{code(each.key)} {code(each.before)} → {code(each.after)}" for each in report.changes.gates[:SHOWN]]
    warned = [f"⚠ gates.yaml changes, and judges from the next change on: {', '.join(said)}", ""] if said else []
    rows = table(report, gates)
    header = _columns(name if report.baseline else "baseline", champion=report.champion is not None)
    loud = [(cells[-1].verdict in GOOD, _row(report, cells)) for cells in rows if not quiet(report, cells[-1])]
    notes = [f"- {code(each.rule)} {_cell(each.waived)}" for each in report.judged if each.waived]
    notes += ["", _cell(chance(report))] if chance(report) else []
    base = report.baseline
    again = [fetch] if fetch else []
    again += ["make run", f"make report BASE={base.commit.removesuffix('-dirty')}" if base else "make report"]
    sections = [
        _folded("The same on your machine", ["```sh", *again, "```"]),
        _folded("What changed", _changes(report, name)) if base else [],
        _folded(f"Slices ({len({each.slice for each in report.judged if each.slice})} judged)", [*_columns(name, champion=report.champion is not None), *(_row(report, cells) for cells in rows if cells[-1].slice)]) if any(each.slice for each in report.judged) else [],
        _folded("How sure this is", _certainty(report, gates)) if report.comparisons else [],
        _folded("Every metric of the test split", _all_metrics(report, name)),
    ]  # fmt: skip
    cost = (
        " · ".join(f"{code(stage)} {seconds:.1f} s" for stage, seconds in report.seconds.items())
        or "nothing had to run"
    )
    where = "".join(f" · [{text}]({url})" for text, url in (links or {}).items())
    last = f"<sub>{cost} · model `{(report.candidate.digest or 'unknown')[:19]}`{where}</sub>"
    left_out: list[str] = []
    while True:
        shown = [*header, *(line for _, line in loud), "", *notes, *([""] if notes else [])]
        lines = [*top, *warned, *shown, *(line for part in sections for line in part), *left_out, last]
        text = "\n".join(lines) + "\n"
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
    found: list[Cells] = []
    for each in report.judged:
        part, arrow = (
            report.candidate.facts.slices.get(each.slice),
            "↑" if directions.get(each.metric) == "higher" else "↓",
        )
        now = (
            (part.metrics if part else report.candidate.facts.metrics).get(each.metric)
            if bool(part) == bool(each.slice)
            else None
        )
        compared = report.comparison(each.metric, each.slice)
        interval = f"{number(now.low, now)} to {number(now.high, now)}" if now and now.low is not None else "–"
        delta = "–"
        if compared and compared.difference is not None:
            delta = change(compared) + _interval(compared)
        elif report.baseline and report.state != "compared":
            delta = "n/c"
        aside = "waived" if each.waived else "" if each.level == "error" else each.level
        reason = f"{each.reason}{f' ({aside})' if aside else ''}"
        label = f"{each.metric} {arrow}" + (
            f" {each.slice} (n = {part.rows:,})" if part else f" {each.slice}" if each.slice else ""
        )
        champion, base = (_of(other, each, now) for other in (report.champion, report.baseline))
        found.append((SYMBOLS[each.verdict], label, champion, base, _size(now) if each.metric == SIZE and now else number(now.value, now) if now else "–", interval, delta, reason, each))  # fmt: skip
    return found


def quiet(report: Report, judged: Judged) -> bool:
    """Say whether a verdict on a slice is none that a reader must see first."""
    return bool(judged.slice) and (
        judged.verdict in GOOD | {"skipped"} or (judged.verdict == "error" and report.state != "compared")
    )


def chance(report: Report) -> str:
    """Return which differences may be chance, in a sentence; nothing if there are none."""
    shown = [each for each in report.comparisons if not each.slice and each.against == "baseline" and each.error and each.low is not None]  # fmt: skip
    may = [each.metric for each in shown if (each.low or 0) <= 0 <= (each.high or 0)]
    return f"May be chance: {', '.join(may)} ({len(may)} of {len(shown)} differences)." if may else ""


def _of(other: Other | None, each: Judged, like: Value | None) -> str:
    part = other and (other.facts.slices.get(each.slice) if each.slice else other.facts)
    value = part and part.metrics.get(each.metric)
    return "–" if not value else _size(value) if each.metric == SIZE else number(value.value, like)


def _size(value: Value) -> str:
    return "–" if value.value is None else f"{value.value / 1000:,.0f} kB"


def _columns(name: str, *, champion: bool) -> list[str]:
    third = ("champion | ", "--:|") if champion else ("", "")
    return [f"| | metric | {third[0]}{name} | **candidate** | 95 % interval | Δ (90 % interval) | gate |", f"|:-:|:--|{third[1]}--:|--:|:-:|--:|:--|"]  # fmt: skip


def _row(report: Report, cells: Cells) -> str:
    symbol, label, champion, base, now, interval, delta, reason, judged = cells
    metric, part = _cell(judged.metric), label.removeprefix(judged.metric).strip().partition(" ")
    named_ = f"{metric} {part[0]}" + (f" {code(part[2])}" if part[2] else "")
    middle = f"{champion} | " if report.champion else ""
    return f"| {symbol} | {named_} | {middle}{base} | **{now}** | {interval} | {delta} | {_cell(reason)} |"


def terminal(report: Report, gates: Gates, width: int = 100, *, color: bool = False) -> str:
    """Return the report for a terminal of this width, in colour or not."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out, name = io.StringIO(), called(report)
    console = Console(
        file=out, width=width, force_terminal=color, no_color=not color, highlight=False, emoji=False, markup=False
    )
    console.print(Text(headline(report, gates)), soft_wrap=False)
    console.print()
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    shown.add_column("", width=2)
    shown.add_column("metric", no_wrap=True)
    columns = [
        *(["champion"] if report.champion else []),
        *([_plain(name), "candidate", "delta (90 % interval)"] if report.baseline else ["candidate"]),
    ]
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("gate", ratio=1)
    for symbol, label, champion, base, now, _, delta, reason, each in table(report, gates):
        if quiet(report, each):
            continue
        values = [*([champion] if report.champion else []), *([base, now, delta] if report.baseline else [now])]
        shown.add_row(
            *(Text(_plain(cell)) for cell in (symbol, _shortened(label.partition(" (n =")[0]), *values, reason))
        )
    console.print(shown)
    slices = [each.verdict for each in report.judged if quiet(report, each)]
    if slices:
        said = ", ".join(f"{slices.count(word)} {word}" for word in SYMBOLS if word in slices)
        console.print(Text(f"\n   slices: {said}"))
    for each in report.judged:
        if each.waived:
            console.print(Text(_plain(f"   {each.rule} is {each.waived}")))
    for part in report.changes.gates:
        said = _plain(f"⚠ gates.yaml: {part.key} {part.before} → {part.after}, from the next change on")
        console.print(Text(f"   {said}"))
    for line in (chance(report), _against(report), report.why and f"baseline: {report.why}"):
        if line:
            console.print(Text(f"\n{_plain(line)}"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _shortened(label: str) -> str:
    return label if len(label) <= 36 else f"{label[:35]}…"


def card(report: Report, gates: Gates, project: str) -> str:
    """Return the model card: what it is, how good on what, for which groups, under which rules."""
    facts = report.candidate.facts
    n = max((each.n for each in facts.metrics.values()), default=0)
    lines = [f"# {project}", "", f"Trained from commit `{short(report.candidate.commit)}`.", ""]
    lines += [_cell(headline(report, gates)), "", f"## On {n:,} test rows", ""]
    lines += _all_metrics(report, "main", other=False)
    if facts.slices:
        lines += ["", "## By group", "", "| group | rows | metric | value | 95 % interval |", "|:--|--:|:--|--:|:-:|"]
        for name, part in facts.slices.items():
            lines += [f"| {code(name)} | {part.rows:,} | {_cell(metric)} | {number(each.value, each)} | {number(each.low, each)} to {number(each.high, each)} |" for metric, each in part.metrics.items()]  # fmt: skip
    lines += ["", "## Rules it was held to", "", "| rule | verdict | |", "|:--|:--|:--|"]
    lines += [
        f"| {code(each.rule)} | {SYMBOLS[each.verdict]} {each.verdict} | {_cell(each.reason)} |"
        for each in report.judged
    ]
    if report.importances:
        lines += [
            "",
            "## What it rests on",
            "",
            *(f"- {code(feature)} {share:.0%}" for feature, share in report.importances[:10]),
        ]
    lines += ["", f"Bundle `{report.candidate.digest or 'unknown'}`."]
    return (
        "\n".join([*lines, *(f"- {code(part)} `{digest}`" for part, digest in report.candidate.digests.items())]) + "\n"
    )


def number(value: float | None, like: Value | None = None, more: int = 0) -> str:
    """Return a number with as many digits as the interval of `like` supports: two of its half width, and `more`."""
    if value is None or not math.isfinite(value):
        return "n/a"
    half = like.high / 2 - like.low / 2 if like and like.low is not None and like.high is not None else 0.0
    if not 0 < half < math.inf or abs(value) >= 1e15:
        return f"{value:.4g}"
    places = max(0, 1 + more - math.floor(math.log10(half)))
    return f"{value:,.{min(places, 8)}f}"


def signed(value: float | None, like: Value | None) -> str:
    """Return a number with its sign; 0 is exactly 0."""
    if not value:
        return "n/a" if value is None else "0"
    text = number(abs(value), like)
    return f"{'+' if value > 0 else '−'}{text}" if text.strip("0.") else text


def change(compared: Comparison) -> str:
    """Return the difference: of what is known exactly as a share of the baseline."""
    if compared.error is None and compared.difference is not None and compared.baseline:
        share = compared.difference / abs(compared.baseline)
        return "0" if share == 0 else f"{'+' if share > 0 else '−'}{abs(share):.1%}"
    return signed(compared.difference, _like(compared))


def _like(compared: Comparison) -> Value:
    return Value(None, compared.low, compared.high, compared.n)


def _interval(compared: Comparison, *, size: bool = False) -> str:
    """Return the 90 % interval in brackets: of the difference, or of how large a loss is."""
    if not compared.error or compared.low is None or compared.high is None:
        return ""
    like = _like(compared)
    if size and (compared.difference or 0) < 0:
        return f" (90 % interval {_minus(-compared.high, like)} to {_minus(-compared.low, like)})"
    if size:
        return f" (90 % interval {_minus(compared.low, like)} to {_minus(compared.high, like)})"
    return f" ({signed(compared.low, like)} to {signed(compared.high, like)})"


def _minus(value: float, like: Value) -> str:
    return f"{'−' * (value < 0)}{number(abs(value), like)}"


def short(commit: str) -> str:
    """Return a commit as people name it."""
    return commit[:7] + ("+" if commit.endswith("-dirty") else "")


def _against(report: Report) -> str:
    """Return what the candidate is compared with, in a line without marks."""
    parts = []
    for each in (report.baseline, report.champion):
        if each:
            behind = f", {each.behind} commit{'s' * (each.behind > 1)} before it" if each.behind else ""
            left_out = f", {each.left_out:,} rows that it has trained on left out" if each.left_out else ""
            rows = f" on the {each.common:,} test rows of both" if each.common else ""
            parts.append(f"{each.name} {short(each.commit)}{behind}{HOW[each.how]}{rows}{left_out}")
    return f"against {'; '.join(parts)}" if parts else ""


def _identity(report: Report, head: str) -> str:
    n = max((each.n for each in report.candidate.facts.metrics.values()), default=0)
    said = f"`{short(head or report.candidate.commit)}`, {n:,} test rows"
    said += f" · {_cell(_against(report))}" if report.baseline or report.champion else ""
    said += (
        f" · {'no baseline' if not report.baseline else 'not comparable (n/c)'}: {code(report.why)}"
        if report.why
        else ""
    )
    return said + (f" · no champion: {code(report.champion_why)}" if report.champion_why else "")


def _certainty(report: Report, gates: Gates) -> list[str]:
    """Return, per relative rule, the test and the smallest loss that it notices."""
    rules = {(each.metric, each.of is not None): each.rule for each in named(gates)}
    relative = [rules.get((each.metric, bool(each.slice))) for each in report.comparisons if each.error]
    tests = sum(rule is not None and rule.max_regression is not None and rule.level == "error" for rule in relative)
    lines = [
        "| rule | test | rows | against | Δ | 90 % interval | a true loss of this size fails in 80 % of cases |",
        "|:--|:--|--:|:--|--:|:-:|--:|",
    ]
    for each in report.comparisons:
        rule = rules.get((each.metric, bool(each.slice)))
        if rule is None or rule.max_regression is None or each.error is None:
            continue
        found = statistics.detectable(each.error, rule.allowance(each.baseline or 0.0), tests, gates.confidence)
        interval = (
            "–"
            if each.low is None or not each.error
            else f"{signed(each.low, _like(each))} to {signed(each.high, _like(each))}"
        )
        label = code(f"{each.metric}[{each.slice}]" if each.slice else each.metric)
        mark = "best of main" if each.against == "high_water" else "baseline"
        lines.append(f"| {label} | {each.method} | {each.n:,} | {mark} {short(each.commit)} | {change(each)} | {interval} | {number(found, _like(each)) if each.error else '–'} |")  # fmt: skip
    said = f"Fails: worse than allowed, and significantly so at {gates.confidence:.0%}, one-sided, after Holm's correction over {tests} comparisons."
    return [said, "", *lines]


def _changes(report: Report, name: str) -> list[str]:
    found, lines = report.changes, []
    for title, part in (("parameter", found.params), ("schema.yaml", found.schema), ("dependency", found.dependencies)):
        lines += _changed(title, part, name)
    if found.code:
        lines += ["| file | added | removed |", "|:--|--:|--:|"]
        lines += [f"| {code(each.path)} | {'–' if each.added is None else each.added} | {'–' if each.removed is None else each.removed} |" for each in found.code[:SHOWN]]  # fmt: skip
        lines += [*_more(found.code), ""]
    if data := found.data:
        rows = [
            f"{code(split)} {before:,} → {after:,}" for split, (before, after) in data.rows.items() if before != after
        ]
        rows += (
            [f"of the test rows {data.added:,} new, {data.removed or 0:,} gone"] if data.added or data.removed else []
        )
        lines += [f"Rows: {', '.join(rows)}.", ""] if rows else []
        moved = [each for each in data.shifts if each.kind in {"added", "removed"} or (each.shift or 0) >= 0.01 or (each.missing and abs(each.missing[0] - each.missing[1]) >= 0.01)]  # fmt: skip
        if moved:
            lines += ["| column | shift | missing |", "|:--|--:|--:|"]
            lines += [f"| {code(each.column)} | {each.kind if each.shift is None else f'{each.shift:.2f}'} | {'–' if each.missing is None else f'{each.missing[0]:.1%} → {each.missing[1]:.1%}'} |" for each in moved[:SHOWN]]  # fmt: skip
            lines += [*_more(moved), "", "<sub>shift: of numbers the means, in standard deviations; of categories the share of rows that would have to change</sub>", ""]  # fmt: skip
    return lines or ["Nothing that the model is made of."]


def _changed(title: str, part: Sequence[Change], name: str) -> list[str]:
    if not part:
        return []
    lines = [f"| {title} | {name} | candidate |", "|:--|:--|:--|"]
    lines += [f"| {code(each.key)} | {code(each.before)} | {code(each.after)} |" for each in part[:SHOWN]]
    return [*lines, *_more(part), ""]


def _more(part: Sequence[object]) -> list[str]:
    return ["", f"… and {len(part) - SHOWN} more."] if len(part) > SHOWN else []


def _all_metrics(report: Report, name: str, *, other: bool = True) -> list[str]:
    base = report.baseline.facts.metrics if report.baseline and other else {}
    column = (f" {name} |", "--:|") if base else ("", "")
    lines = [f"| metric |{column[0]} candidate | 95 % interval | rows |", f"|:--|{column[1]}--:|:-:|--:|"]
    for metric, now in report.candidate.facts.metrics.items():
        before = f" {number(base[metric].value, now) if metric in base else '–'} |" if base else ""
        interval = "–" if now.low is None else f"{number(now.low, now)} to {number(now.high, now)}"
        lines.append(f"| {code(metric)} |{before} {number(now.value, now)} | {interval} | {now.n:,} |")
    return lines


def _folded(title: str, lines: Iterable[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def _plain(text: str) -> str:
    """Return text on one line, without what cannot be printed."""
    return "".join(" " if each.isspace() else each for each in text if each.isprintable() or each.isspace()).strip()


def code(text: str | None) -> str:
    """Return text that nobody has checked as inert Markdown: one code span, in which no mention, link or tag works."""
    if text is None:
        return "–"
    plain = _plain(text).replace("`", "'").replace("|", "\\|").strip()
    return f"`{plain}`" if plain else "` `"


def _cell(text: str) -> str:
    """Return a sentence as Markdown that shows it as it is: no markup, mention, reference or link in it works."""
    marked = "".join(f"\\{each}" if each in "\\`*[]<>|~&$" else each for each in _plain(text))
    marked = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", marked)  # roc_auc is none
    return ALIVE.sub("\u200b", marked)
