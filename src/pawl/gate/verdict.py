"""The verdict: the rules of gates.yaml on what was measured. Pure.

With r how much worse the candidate is (positive: worse), m the allowed regression: **fail** where r > m and r is significant, one-sided,
after Holm's correction over every relative rule that blocks; **inconclusive** where r > m alone. So a harmless change rarely fails, and a small
test set cannot pass for a sure one: what it would have noticed is said beside.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Annotated, Literal

import msgspec

from pawl.answers import hidden
from pawl.gate import statistics
from pawl.gate.rules import SIZE, Gates, Level, Method, Named, Rule, named
from pawl.parts import Commit, Name, Part, Rows, Text, Value

Verdict = Literal["pass", "improved", "unchanged", "inconclusive", "fail", "skipped", "error"]
State = Literal["compared", "first", "lost", "incomparable"]  # of the baseline
Against = Literal["baseline", "high_water"]
GOOD = frozenset({"pass", "improved", "unchanged"})


class Comparison(Part):
    """How much the candidate differs from another model in one metric, on the rows that both were measured on."""

    metric: Name
    slice: Text  # "" for all rows
    against: Against
    commit: Commit
    baseline: float | None  # the other model's value on these rows
    difference: float | None  # candidate minus the other; None where it is not defined
    error: float | None  # standard error; None where the value is known exactly
    low: float | None  # 90 % interval
    high: float | None
    p_lower: float  # one-sided
    p_higher: float
    n: Rows
    method: Method | Literal["exact"]


Corrected = tuple[Comparison, tuple[float, float]]
Place = tuple[Named, str, str]  # rule, slice, why it fails before anything is measured


class Judged(Part):
    """The verdict on one rule, and why."""

    rule: Text  # roc_auc, or roc_auc[sex=Female]
    metric: Name
    slice: Text
    verdict: Verdict
    level: Level
    reason: Annotated[str, msgspec.Meta(max_length=600)]
    waived: Annotated[str, msgspec.Meta(max_length=600)] = ""  # why it may be broken


class Slice(Part):
    """A group of test rows."""

    rows: Rows
    metrics: Annotated[dict[Name, Value], msgspec.Meta(max_length=200)]


class Facts(Part):
    """What is judged."""

    metrics: Annotated[dict[Name, Value], msgspec.Meta(max_length=300)]  # of the test split
    train: Annotated[dict[Name, float | None], msgspec.Meta(max_length=300)] = {}
    valid: Annotated[dict[Name, float | None], msgspec.Meta(max_length=300)] = {}
    slices: Annotated[dict[Text, Slice], msgspec.Meta(max_length=2000)] = {}
    by: Annotated[dict[Text, tuple[Text, ...]], msgspec.Meta(max_length=200)] = {}  # the slices of each column

    @property
    def size(self) -> float | None:
        """Return the bytes of the model."""
        return self.metrics[SIZE].value if SIZE in self.metrics else None


def judge(gates: Gates, facts: Facts, comparisons: Sequence[Comparison], state: State, today: date) -> list[Judged]:
    """Return a verdict per rule: those of metrics, then those of slices. What is missing, or is not a number, fails."""
    places = list(_places(gates, facts))
    corrected = _corrected(places, comparisons)
    found = []
    for place in places:
        each, name, _ = place
        rule = f"{each.metric}[{name}]" if name else each.metric
        verdict, said = _one(gates, place, facts, corrected, state)
        waiver = gates.waiver(rule, today) if verdict not in GOOD | {"skipped"} else None
        waived = f"waived until {waiver.until}: {waiver.reason}"[:600] if waiver else ""
        found.append(Judged(rule[:200], each.metric, name, verdict, each.rule.level, said[:600], waived))
    return found


def overall(judged: Sequence[Judged]) -> Verdict:
    """Return the verdict on the model, from the rules that block. Where none judged anything it is skipped, which is no pass."""
    blocking = [each for each in judged if each.level == "error" and not each.waived]
    words = [each.verdict for each in blocking]
    for word in ("error", "fail", "inconclusive", "improved"):
        if word in words:
            return word
    if any(each.verdict == "unchanged" and not each.slice and each.metric != SIZE for each in blocking):
        return "unchanged"  # every answer is the same, then: the others have floors alone, or are of the size
    return "pass" if GOOD & set(words) or any(each.waived for each in judged if each.level == "error") else "skipped"


def allowed(verdict: Verdict, gates: Gates) -> bool:
    """Say whether a model with this verdict may ship."""
    return gates.mode == "report" or verdict in GOOD or (verdict == "inconclusive" and not gates.strict)


def _places(gates: Gates, facts: Facts) -> Iterable[Place]:
    """Yield a place for every rule and slice that is large enough."""
    for each in named(gates):
        if each.of is None:
            yield each, "", ""
            continue
        there = [name for by in each.of.by for name in facts.by.get(by, ())]
        required = {hidden(name) if hidden(name) in there else name for name in each.of.required}
        for name in sorted({*there, *required}):
            rows = facts.slices[name].rows if name in facts.slices else 0
            if rows >= each.of.min_rows:
                yield each, name, ""
            elif name in required:
                yield each, name, f"a required slice has {rows} rows, fewer than {each.of.min_rows}"
        fix = "was not measured: name the column in evaluate.slices, or the slice in src/task/slices.py"
        yield from ((each, by, fix) for by in each.of.by if by not in facts.by)


def _corrected(places: Sequence[Place], comparisons: Sequence[Comparison]) -> list[Corrected]:
    """Return each comparison with Holm's p-values (worse, better): over all that a blocking rule asks for."""
    rules = {(each.metric, name): each.rule for each, name, _ in places if each.rule.max_regression is not None}
    p, family = [(1.0, 1.0)] * len(comparisons), []
    for number, each in enumerate(comparisons):
        rule = rules.get((each.metric, each.slice))
        if rule and each.error is not None:
            p[number] = (each.p_lower, each.p_higher) if rule.sign > 0 else (each.p_higher, each.p_lower)
            family += [number] if rule.level == "error" and each.error else []
    worse, better = (statistics.holm([p[number][side] for number in family]) for side in (0, 1))
    for place, number in enumerate(family):
        p[number] = worse[place], better[place]
    return list(zip(comparisons, p, strict=True))


def _one(gates: Gates, place: Place, facts: Facts, corrected: Sequence[Corrected], state: State) -> tuple[Verdict, str]:
    each, name, failed = place
    if failed:
        return "fail", failed
    rule, measured = each.rule, facts.slices[name].metrics if name else facts.metrics
    if each.metric not in measured:
        near = difflib.get_close_matches(each.metric, facts.metrics, n=1)
        return "fail", f"was not measured{f': did you mean {near[0]}?' if near and near[0] != each.metric else ''}"
    value = measured[each.metric].value
    if value is None or not math.isfinite(value):
        return "fail", "is not a number"
    if rule.floor is not None and value < rule.floor:
        return "fail", f"below its floor {rule.floor:g}"
    if rule.ceiling is not None and value > rule.ceiling:
        return "fail", f"above its ceiling {rule.ceiling:g}"
    said = [f"{sign} {limit:g}" for sign, limit in (("≥", rule.floor), ("≤", rule.ceiling)) if limit is not None]
    if rule.max_gap is not None:
        train, valid = (part.get(each.metric) for part in (facts.train, facts.valid))
        if train is None or valid is None or not math.isfinite(train - valid):
            return "fail", "was not measured on the training and validation splits"
        gap = rule.sign * (train - valid)
        if gap > rule.max_gap:
            splits = "on the training split than on the validation split"
            return "fail", f"overfits: {gap:.2g} better {splits}; allowed {rule.max_gap:g}"
        said.append(f"gap ≤ {rule.max_gap:g}")
    if rule.max_regression is None:
        return ("pass", ", ".join(said)) if said else ("skipped", "shown, not judged")
    mine = [(other, p) for other, p in corrected if (other.metric, other.slice) == (each.metric, name)]
    verdict, reason = _relative(gates, rule, mine, state)
    if verdict in {"fail", "inconclusive", "error"}:
        return verdict, reason
    return "pass" if verdict == "skipped" and said else verdict, ", ".join([*said, reason])


def _relative(gates: Gates, rule: Rule, mine: Sequence[Corrected], state: State) -> tuple[Verdict, str]:
    """Return the worst verdict of the comparisons with the baseline and with the high-water mark."""
    if state == "first":
        return ("skipped", "no baseline") if gates.baseline.if_missing == "skip" else ("error", "no baseline")
    usual = next((each for each, _ in mine if each.against == "baseline"), None)
    if state != "compared" or not usual or usual.difference is None:
        if usual and usual.baseline is None and usual.n:
            return "inconclusive", f"only {usual.n} of its test rows are common to both"
        if state == "lost":
            return "error", "the baseline is lost"
        reason = "not comparable" if state == "incomparable" else "not defined on the rows of both"
        return "skipped" if gates.baseline.if_not_comparable == "skip" else "error", reason
    found = {each.against: _against(gates, rule, each, p) for each, p in mine if each.difference is not None}
    verdict, reason = found["baseline"]
    # The mark stops a loss in small steps. What is no loss against main is not held up by what main lost before.
    mark, loss = found.get("high_water"), -rule.sign * usual.difference
    if mark and loss > 0 and verdict != "fail" and mark[0] in {"fail", "inconclusive"}:
        return mark if mark[0] == "fail" or verdict != "inconclusive" else (verdict, reason)
    return verdict, reason


def _against(gates: Gates, rule: Rule, each: Comparison, p: tuple[float, float]) -> tuple[Verdict, str]:
    assert each.difference is not None
    worse, allowance = -rule.sign * each.difference, rule.allowance(each.baseline or 0.0)
    limit = rule.max_regression if isinstance(rule.max_regression, str) else f"{allowance:g}"
    than = f" than the best of main ({each.commit[:7]})" if each.against == "high_water" else ""
    if worse > allowance:
        share = isinstance(rule.max_regression, str) and bool(each.baseline)
        unit, mark = (abs(each.baseline or 0.0) / 100, "%") if share else (1.0, "")
        ways = (
            ".0f" if share and worse >= 10 * unit else ".2g",
            ".3g",
            ".4g",
            ".6g",
        )  # as few digits as show that it is more
        told = (f"{worse / unit:{way}}" for way in ways)
        size = next((text for text in told if float(text) * unit > allowance), f"{worse / unit:.17g}")
        said = f"worse{than} by {size}{mark}, allowed {limit}"
        if each.error is None or p[0] < 1 - gates.confidence:
            return "fail", said
        return "inconclusive", f"{said}: it may be chance, p = {p[0]:.2g}"
    if worse == 0 and not each.error:
        return "unchanged", f"worse by ≤ {limit}"
    return "improved" if each.error is not None and p[1] < 1 - gates.confidence else "pass", f"worse by ≤ {limit}"
