"""The one report of a change: what was measured of the candidate and of its baseline, and how it is shown.

report.json carries numbers and short names alone, strictly typed: a fork's pull request writes it, main's code judges and renders it.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from pawl import gate
from pawl.gate import Gates, Judged
from pawl.problem import Problem

MAX_BYTES = 256_000
MAX_COMMENT = 60_000  # characters; GitHub refuses more than 65,536
SHOWN = 20  # parameters; each may have 900 characters
SYMBOLS = {"pass": "✅", "fail": "❌", "skipped": "➖"}

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.\[\]=@ -]{1,64}\Z")]
Commit = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{40}(-dirty)?|unknown)\Z")]
Hash = Annotated[str, msgspec.Meta(pattern=r"^(sha256:)?[0-9a-f]{64}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=300)]
Rows = Annotated[int, msgspec.Meta(ge=0)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of report.json."""


class Value(Part):
    """A metric on the test split with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    n: Rows


class Measured(Part):
    """What is known of one model."""

    commit: Commit
    metrics: Annotated[dict[Name, Value], msgspec.Meta(max_length=200)]
    digest: Hash | None = None  # of the bundle
    test_rows: Hash | None = None  # of the ids and targets of the rows it was measured on
    digests: Annotated[dict[Name, Hash], msgspec.Meta(max_length=20)] = {}  # what the bundle was made of


class Change(Part):
    """A parameter whose value differs; None where it is not there."""

    key: Text
    before: Text | None
    after: Text | None


class Report(Part):
    """What a change does to the model."""

    version: Literal[1]
    candidate: Measured
    baseline: Measured | None
    how: Literal["rebuilt", "committed", "none"]  # where the baseline's numbers come from
    why: Text = ""  # why it was not rebuilt
    params: Annotated[tuple[Change, ...], msgspec.Meta(max_length=1000)] = ()
    gates: Annotated[tuple[Change, ...], msgspec.Meta(max_length=200)] = ()  # in which gates.yaml differs
    seconds: Annotated[dict[Name, float], msgspec.Meta(max_length=20)] = {}  # per stage that ran

    def judge(self, gates: Gates) -> list[Judged]:
        """Return the verdict on every metric of the gates."""
        return gate.judge({name: each.value for name, each in self.candidate.metrics.items()}, gates)

    @property
    def comparable(self) -> bool:
        """Say whether both models were measured on the same rows."""
        mine, other = self.candidate.test_rows, self.baseline and self.baseline.test_rows
        return mine is not None and mine == other


def dump(report: Report) -> bytes:
    """Return report.json."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def load(content: bytes, where: str) -> Report:
    """Return the report in report.json; raise Problem unless it is small and holds nothing but what the types above allow."""
    if len(content) > MAX_BYTES:
        raise Problem(f"{len(content)} bytes are more than a report has", where, f"at most {MAX_BYTES}")
    try:
        return msgspec.json.decode(content, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(f"not a report: {str(error)[:300]}", where, "write it with `make report`") from error


def headline(report: Report, gates: Gates, name: str) -> str:
    """Return the sentence that says the verdict and its reason, without any other line needed."""
    judged = report.judge(gates)
    failed = [each for each in judged if each.verdict == "fail"]
    checked = sum(each.verdict != "skipped" for each in judged)
    if failed:
        first, metrics = failed[0], report.candidate.metrics
        value = metrics[first.metric].value if first.metric in metrics else None
        what = f"{first.metric} {'is ' + number(value) + ', ' if value is not None else ''}{first.reason}"
        return f"❌ Blocked: {what} ({len(failed)} of {checked} gates {'fails' if len(failed) == 1 else 'fail'})."
    if report.baseline and report.baseline.digest and report.baseline.digest == report.candidate.digest:
        return f"✅ Unchanged: this is the model of {name} {short(report.baseline.commit)}, bit for bit; {checked} of {checked} gates pass."
    metric = next(iter(gates.metrics))
    now, before = report.candidate.metrics[metric], report.baseline and report.baseline.metrics.get(metric)
    said = f"{metric} is {number(now.value, now)}"
    if before and report.comparable:
        said += f", {delta(before, now)} against {name} ({number(before.value, now)})"
    elif before:
        said += f" ({name}: {number(before.value, now)}, not comparable)"
    return f"✅ {checked} of {checked} gates pass; {said}."


def markdown(
    report: Report,
    gates: Gates,
    *,
    name: str = "main",
    head: str = "",
    fetch: str = "",
    links: Mapping[str, str] | None = None,
) -> str:
    """Return the report for GitHub: comment, job summary, body of a pull request.

    name: what the baseline is called. head: the commit that people know, where the candidate is its merge. fetch: the git command that gets the candidate. links: {text: URL} for the last line.
    """
    base = report.baseline
    lines = [f"### {headline(report, gates, name)}", "", _identity(report, name, head), ""]
    if report.gates:
        said = [f"{code(each.key)} {code(each.before)} → {code(each.after)}" for each in report.gates[:SHOWN]]
        lines += [f"⚠ gates.yaml changes, and judges from the next change on: {', '.join(said)}", ""]
    lines += [f"| | metric | {name if base else 'baseline'} | **candidate** | 95 % interval | Δ | gate |", "|:-:|:--|--:|--:|:-:|--:|:--|"]  # fmt: skip
    for symbol, *cells in rows(report, gates):
        cells[2] = f"**{cells[2]}**"
        lines.append(f"| {symbol} | {' | '.join(cells)} |")
    lines += ["", *(_folded("What changed", _changes(report, name)) if base else [])]
    lines += _folded("Every metric of the test split", _all_metrics(report, name))
    again = [fetch] if fetch else []
    again += ["make run", f"make report BASE={base.commit.removesuffix('-dirty')}" if base else "make report"]
    lines += _folded("The same on your machine", ["```sh", *again, "```"])
    cost = (
        " · ".join(f"{code(stage)} {seconds:.1f} s" for stage, seconds in report.seconds.items())
        or "nothing had to run"
    )
    where = "".join(f" · [{text}]({url})" for text, url in (links or {}).items())
    lines.append(f"<sub>{cost} · model `{(report.candidate.digest or 'unknown')[:19]}`{where}</sub>")
    text = "\n".join(lines)
    if len(text) <= MAX_COMMENT:
        return text + "\n"
    return "\n".join(
        [*lines[: lines.index("") + 3], "The report is too long for a comment: see the run's summary.", ""]
    )


def terminal(report: Report, gates: Gates, name: str = "base") -> str:
    """Return the report for a terminal, at most 100 columns wide."""
    table = [["", "metric", name, "candidate", "95 % interval", "delta", "gate"], *rows(report, gates)]
    widths = [max(len(row[column]) for row in table) for column in range(7)]
    right = {2, 3, 5}
    lines = [headline(report, gates, name), ""]
    lines += [
        f"  ⚠  gates.yaml: {each.key} {each.before} → {each.after}, for the next change"[:100] for each in report.gates
    ]
    for row in table:
        symbol, *cells = row
        padded = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths[1:], strict=True), 1)
        ]
        lines.append(f"  {symbol or '  '} {'  '.join(padded)}".rstrip())
    if report.why:
        why = textwrap.wrap(report.why, 100, initial_indent="  baseline: ", subsequent_indent=" " * 12)
        lines += ["", *why]
    return "\n".join(lines)


def rows(report: Report, gates: Gates) -> list[list[str]]:
    """Return a row per metric of the gates: symbol, metric, baseline, candidate, interval, delta, gate."""
    found = []
    for each in report.judge(gates):
        rule, now = gates.metrics[each.metric], report.candidate.metrics.get(each.metric)
        before = report.baseline.metrics.get(each.metric) if report.baseline else None
        arrow = "↑" if rule.direction == "higher" else "↓"
        interval = f"{number(now.low, now)} to {number(now.high, now)}" if now and now.low is not None else "–"
        change = "–" if not (now and before) else "n/c" if not report.comparable else delta(before, now)
        found.append([
            SYMBOLS[each.verdict], f"{each.metric} {arrow}", number(before.value, now) if before else "–",
            number(now.value, now) if now else "–", interval, change, each.reason,
        ])  # fmt: skip
    return found


def number(value: float | None, like: Value | None = None, more: int = 0) -> str:
    """Return a number with as many digits as the interval of `like` supports: two of its half width, and `more`."""
    if value is None or not math.isfinite(value):
        return "n/a"
    half = like.high / 2 - like.low / 2 if like and like.low is not None and like.high is not None else 0.0
    if not 0 < half < math.inf or abs(value) >= 1e15:
        return f"{value:.4g}"
    places = max(0, 1 + more - math.floor(math.log10(half)))
    return f"{value:,.{min(places, 8)}f}"


def delta(before: Value, now: Value) -> str:
    """Return the signed difference; 0 is exactly the same number."""
    if before.value is None or now.value is None:
        return "n/a"
    difference = now.value - before.value
    text = number(
        abs(difference), now, 1
    )  # both were measured on the same rows: their difference is surer than they are
    return "0" if difference == 0 else f"{'+' if difference > 0 else '−'}{text}"


def short(commit: str) -> str:
    """Return a commit as people name it."""
    return commit[:7] + ("+" if commit.endswith("-dirty") else "")


def changes(before: Any, after: Any, prefix: str = "") -> list[Change]:
    """Return the keys in which two YAML files differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = list(dict.fromkeys([*after, *before]))
        return [
            each
            for key in keys
            for each in changes(before.get(key, msgspec.UNSET), after.get(key, msgspec.UNSET), f"{prefix}{key}.")
        ]
    if before == after:
        return []
    old, new = (None if value is msgspec.UNSET else str(value)[:300] for value in (before, after))
    return [Change(prefix.removesuffix(".")[:300], old, new)]


def _identity(report: Report, name: str, head: str) -> str:
    n = max((each.n for each in report.candidate.metrics.values()), default=0)
    candidate, base = f"`{short(head or report.candidate.commit)}`", report.baseline
    if base is None:
        return (
            f"{candidate} · {n:,} test rows · no baseline: {code(report.why) if report.why else 'none was asked for'}"
        )
    if report.how == "rebuilt":
        rows = "the same for both" if report.comparable else "**others than the baseline's: not comparable (n/c)**"
        return f"{candidate} against {name} `{short(base.commit)}`, trained anew beside it · {n:,} test rows, {rows}"
    return f"{candidate} against the numbers that {name} `{short(base.commit)}` has in git, on rows that are not known: not comparable (n/c). {code(report.why)}"


def _changes(report: Report, name: str) -> list[str]:
    assert report.baseline
    mine, other = report.candidate.digests, report.baseline.digests
    parts = [code(part) for part in sorted(mine) if other and mine[part] != other.get(part)]
    lines = [f"Differs: {', '.join(parts) or 'nothing that the model is made of'}." if other else "", ""]
    if report.params:
        lines += [f"| parameter | {name} | candidate |", "|:--|:--|:--|"]
        lines += [f"| {code(each.key)} | {code(each.before)} | {code(each.after)} |" for each in report.params[:SHOWN]]
        lines += ["", f"… and {len(report.params) - SHOWN} more."] if len(report.params) > SHOWN else []
    return lines


def _all_metrics(report: Report, name: str) -> list[str]:
    base = report.baseline.metrics if report.baseline else {}
    lines = [f"| metric | {name} | candidate | 95 % interval | rows |", "|:--|--:|--:|:-:|--:|"]
    for metric, now in report.candidate.metrics.items():
        before = number(base[metric].value, now) if metric in base else "–"
        interval = "–" if now.low is None else f"{number(now.low, now)} to {number(now.high, now)}"
        lines.append(f"| {code(metric)} | {before} | {number(now.value, now)} | {interval} | {now.n:,} |")
    return lines


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def code(text: str | None) -> str:
    """Return text that nobody has checked as inert Markdown: one code span, in which no mention, link or tag works."""
    if text is None:
        return "–"
    plain = "".join(
        " " if character.isspace() else character
        for character in text
        if character.isprintable() or character.isspace()
    )
    return "`" + plain.replace("`", "'").replace("|", "\\|").strip() + "`" if plain.strip() else "` `"
