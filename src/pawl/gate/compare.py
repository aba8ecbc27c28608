"""From what two models answered to what is judged: the metrics of the candidate, and its differences on the same rows. Pure."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from pawl import metrics
from pawl.answers import Answers, common
from pawl.gate import statistics
from pawl.gate.rules import SIZE, Gates, Named, named, waives
from pawl.gate.verdict import Against, Comparison, Facts, Slice, State
from pawl.parts import Value
from task.metrics import METRICS


class Other(NamedTuple):
    """Another model: what it is compared by."""

    commit: str
    answers: Callable[[], Answers | None]  # read when they are needed
    key: str = ""  # the digest of the rows it was measured on
    values: Mapping[tuple[str, str], float] = {}  # {(metric, slice): value on those rows}
    size: float | None = None  # bytes of its bundle
    waived: frozenset[str] = frozenset()  # rules that its commit was let pass in spite of


class Candidate(NamedTuple):
    """The model that is judged."""

    answers: Answers
    size: float | None
    least: int  # test rows that another model must share

    def pair(self, model: Other) -> tuple[Answers, Answers] | None:
        """Return what both answered on the rows of both; None if these are too few."""
        theirs = model.answers()
        pair = common(self.answers, theirs) if theirs else None
        return pair if pair and len(pair[0].rows) >= self.least else None


class Asked(NamedTuple):
    """A rule on all rows, or on a slice of a column."""

    rule: Named
    name: str = ""
    by: str = ""

    def take(self, mine: Answers, other: Answers) -> tuple[Answers, Answers]:
        """Return both, which have the same rows, on those that are asked for."""
        if not self.name:
            return mine, other
        chosen = mine.masks(self.by)[self.name]
        return mine.take(chosen), other.take(chosen)

    def value(self, answers: Answers) -> float:
        """Return the metric's value."""
        return statistics.value(self.rule.metric, answers, METRICS.get(self.rule.metric))


def facts(
    answers: Answers, gates: Gates, stored: Mapping[str, Value] = {}, size: float | None = None, resamples: int = 200
) -> Facts:
    """Return the metrics of a model: of all test rows (or as they were stored), and of each slice that gates.yaml names.

    The rows of a slice are measured by the metrics of its rules, and those of the headline metric.
    """
    whole = dict(stored) or measure(answers, resamples)
    if size is not None:
        whole[SIZE] = Value(size, None, None, 0)
    wanted = {by: list[str]() for by in answers.slices}
    for each in named(gates):
        for by in each.of.by if each.of else ():
            wanted.setdefault(by, []).append(each.metric)
    slices, names = {}, dict[str, tuple[str, ...]]()
    for by, chosen in wanted.items():
        masks, shown = answers.masks(by), dict.fromkeys([*chosen, *list(gates.metrics)[:1]])
        names |= {by: tuple(masks)} if masks else {}
        for name, mask in masks.items():
            if mask.any():
                found = measure(answers.take(mask), resamples)
                slices[name] = Slice(int(mask.sum()), {metric: found[metric] for metric in shown if metric in found})
    return Facts(whole, slices=slices, by=names)


def measure(answers: Answers, resamples: int = 200) -> dict[str, Value]:
    """Return every metric of the task on these rows."""
    options: Any = {"seed": 0, "custom": METRICS, "resamples": resamples}
    if answers.probabilities is None:
        found = metrics.regression(answers.y, answers.prediction, **options)
    else:
        found = metrics.classification(answers.y, answers.probabilities, answers.prediction, **options)
    return {name: of_estimate(each) for name, each in found.items()}


def compare(
    gates: Gates, candidate: Answers, size: float | None, baseline: Other, marks: Sequence[Other] = ()
) -> tuple[list[Comparison], State, str]:
    """Return the comparisons that the relative rules ask for, whether there can be any, and why not.

    marks: passing commits of main, the newest first; of each rule, the one that the candidate falls behind most is compared.
    """
    theirs, least = baseline.answers(), gates.baseline.min_rows
    if theirs is None:
        return [], "incomparable", "of the baseline there are numbers alone, not what it answered on each row"
    pair = common(candidate, theirs)
    if (n := len(pair[0].rows)) < least:
        return [], "incomparable", f"{n} test rows are common to both, fewer than {least}"
    found, mine = [], Candidate(candidate, size, least)
    for asked in _asked(gates, candidate):
        if asked.rule.metric == SIZE:
            found.append(_size(baseline, size, "baseline"))
        elif asked.rule.metric in statistics.names(candidate.task, METRICS):
            found.append(_one(asked, *pair, baseline.commit, "baseline"))
        else:
            continue  # it was not measured, and fails for that
        if asked.rule.rule.max_regression is not None:
            found.append(_mark(asked, mine, baseline, marks))
    return [each for each in found if each], "compared", ""


def _asked(gates: Gates, candidate: Answers) -> Iterator[Asked]:
    """Yield everything that is compared: what has no allowance is shown."""
    for each in named(gates):
        if each.of is None:
            yield Asked(each)
            continue
        for by in each.of.by:
            sizes = {name: mask.sum() for name, mask in candidate.masks(by).items()}
            yield from (Asked(each, name, by) for name, rows in sizes.items() if rows >= each.of.min_rows)


def _one(asked: Asked, mine: Answers, other: Answers, commit: str, against: Against) -> Comparison:
    mine, other = asked.take(mine, other)
    rule, n = asked.rule, len(mine.rows)
    made, undefined = partial(Comparison, rule.metric, asked.name, against, commit), (None, 0.0, None, None, 1.0, 1.0)
    if rule.of and n < rule.of.min_rows:
        return made(None, *undefined, n, "bootstrap")
    found = statistics.difference(rule.metric, other, mine, rule.rule.method, METRICS.get(rule.metric))
    before = finite(asked.value(other))
    if math.isnan(found.value):
        return made(before, *undefined, n, found.method)
    return made(before, *found)


def _size(model: Other, size: float | None, against: Against) -> Comparison | None:
    if size is None or model.size is None:
        return None
    change = size - model.size
    return Comparison(SIZE, "", against, model.commit, model.size, change, None, None, None, 1.0, 1.0, 0, "exact")


def _mark(asked: Asked, mine: Candidate, baseline: Other, marks: Sequence[Other]) -> Comparison | None:
    """Return the comparison with the commit that the candidate falls behind most; None if that is the baseline."""
    metric = asked.rule.metric
    own = cache(lambda: asked.value(asked.take(mine.answers, mine.answers)[0]))
    best, most = baseline, -math.inf
    label = f"{metric}[{asked.name}]" if asked.name else metric
    for each in (baseline, *marks):
        ahead = _ahead(asked, mine, own, each)
        # One without predictions may be known to be ahead, but not how surely; the next best is compared.
        if ahead > most and (each is baseline or metric == SIZE or mine.pair(each)):
            best, most = each, ahead
        if any(waives(waived, label) for waived in each.waived):
            break  # what was let pass is where the mark starts anew
    if best.commit == baseline.commit:
        return None
    if metric == SIZE:
        return _size(best, mine.size, "high_water")
    pair = mine.pair(best)
    return _one(asked, *pair, best.commit, "high_water") if pair else None


def _ahead(asked: Asked, mine: Candidate, own: Callable[[], float], model: Other) -> float:
    """Return how much better a model is than the candidate on the rows of both; -inf where that is not known."""
    if asked.rule.metric == SIZE:
        return -math.inf if mine.size is None or model.size is None else mine.size - model.size
    stored = model.values.get((asked.rule.metric, asked.name))
    if model.key == mine.answers.digest and stored is not None:
        ahead = stored - own()
    elif pair := mine.pair(model):
        first, other = (asked.value(each) for each in asked.take(*pair))
        ahead = other - first
    else:
        return -math.inf
    return asked.rule.rule.sign * ahead if math.isfinite(ahead) else -math.inf


def of_estimate(each: metrics.Estimate | statistics.Difference) -> Value:
    """Return a value and its interval as JSON has them."""
    return Value(finite(each.value), finite(each.low), finite(each.high), each.n)


def finite(value: float | None) -> float | None:
    """Return a number that JSON has; None for the others."""
    return None if value is None or not math.isfinite(value) else float(value)
