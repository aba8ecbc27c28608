"""From what two models answered to what is judged: the metrics of the candidate, and its differences on the same rows. Pure."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

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


def facts(
    answers: Answers,
    gates: Gates,
    stored: Mapping[str, Value] | None = None,
    size: float | None = None,
    resamples: int = 200,
) -> Facts:
    """Return the metrics of a model: of all test rows (or as they were stored), and of each slice that gates.yaml names.

    The rows of a slice are measured by the metrics of its rules, and those of the headline metric.
    """
    whole = dict(stored) if stored else measure(answers, resamples)
    if size is not None:
        whole[SIZE] = Value(size, None, None, 0)
    wanted = {by: set[str]() for by in answers.slices}
    for each in named(gates):
        for by in each.of.by if each.of else ():
            wanted.setdefault(by, set()).add(each.metric)
    slices, names = {}, {}
    for by, chosen in wanted.items():
        masks = answers.masks(by)
        if masks:
            names[by] = tuple(masks)
        for name, mask in masks.items():
            if not mask.any():
                continue
            some = answers.take(mask)
            found = measure(some, resamples)
            shown = [*chosen, *list(gates.metrics)[:1]]
            slices[name] = Slice(
                int(mask.sum()), {metric: found[metric] for metric in dict.fromkeys(shown) if metric in found}
            )
    return Facts(whole, slices=slices, by=names)


def measure(answers: Answers, resamples: int = 200) -> dict[str, Value]:
    """Return every metric of the task on these rows."""
    y, prediction = answers.y, answers.prediction
    if answers.probabilities is None:
        found = metrics.regression(y, prediction, seed=0, custom=METRICS, resamples=resamples)
    else:
        found = metrics.classification(
            y, answers.probabilities, prediction, seed=0, custom=METRICS, resamples=resamples
        )
    return {
        name: Value(finite(each.value), finite(each.low), finite(each.high), each.n) for name, each in found.items()
    }


def compare(
    gates: Gates, candidate: Answers, size: float | None, baseline: Other, marks: Sequence[Other] = ()
) -> tuple[list[Comparison], State, str]:
    """Return the comparisons that the relative rules ask for, whether there can be any, and why not.

    marks: passing commits of main, the newest first; of each rule, the one that the candidate falls behind most is compared.
    """
    theirs = baseline.answers()
    if theirs is None:
        return [], "incomparable", "of the baseline there are numbers alone, not what it answered on each row"
    mine, other = common(candidate, theirs)
    if len(mine.rows) < gates.baseline.min_rows:
        return (
            [],
            "incomparable",
            f"{len(mine.rows)} test rows are common to both, fewer than {gates.baseline.min_rows}",
        )
    found = []
    for rule, name, by in _asked(gates, candidate):
        if rule.metric == SIZE:
            found.append(_size(baseline, size, "baseline"))
        elif rule.metric in statistics.measured(candidate, METRICS):
            found.append(_one(rule, name, by, mine, other, baseline, "baseline"))
        else:
            continue  # it was not measured, and fails for that
        if rule.rule.max_regression is not None:
            found.append(_mark(gates, rule, name, by, candidate, size, baseline, marks))
    return [each for each in found if each], "compared", ""


def _asked(gates: Gates, candidate: Answers) -> list[tuple[Named, str, str]]:
    """Return (rule, slice, its column) for everything that is compared: what has no allowance is shown."""
    asked = []
    for each in named(gates):
        if each.of is None:
            asked.append((each, "", ""))
            continue
        for by in each.of.by:
            large = {name: mask for name, mask in candidate.masks(by).items() if mask.sum() >= each.of.min_rows}
            asked += [(each, name, by) for name in large]
    return asked


def _one(rule: Named, name: str, by: str, mine: Answers, other: Answers, model: Other, against: Against) -> Comparison:
    if name:
        chosen = mine.masks(by)[name]
        mine, other = mine.take(chosen), other.take(chosen)
        if rule.of and len(mine.rows) < rule.of.min_rows:
            return Comparison(rule.metric, name, against, model.commit, None, None, 0.0, None, None, 1.0, 1.0, len(mine.rows), "bootstrap")  # fmt: skip
    custom = METRICS.get(rule.metric)
    found = statistics.difference(rule.metric, other, mine, rule.rule.method, custom)
    before = finite(statistics.value(rule.metric, other, custom))
    if math.isnan(found.value):
        return Comparison(rule.metric, name, against, model.commit, before, None, 0.0, None, None, 1.0, 1.0, found.n, found.method)  # fmt: skip
    return Comparison(rule.metric, name, against, model.commit, before, *found)


def _size(model: Other, size: float | None, against: Against) -> Comparison | None:
    if size is None or model.size is None:
        return None
    return Comparison(SIZE, "", against, model.commit, model.size, size - model.size, None, None, None, 1.0, 1.0, 0, "exact")  # fmt: skip


def _mark(
    gates: Gates,
    rule: Named,
    name: str,
    by: str,
    candidate: Answers,
    size: float | None,
    baseline: Other,
    marks: Sequence[Other],
) -> Comparison | None:
    """Return the comparison with the commit that the candidate falls behind most; None if that is the baseline."""
    own = functools.cache(lambda: statistics.value(rule.metric, candidate.take(candidate.masks(by)[name]) if name else candidate, METRICS.get(rule.metric)))  # fmt: skip
    best, most = baseline, -math.inf
    label = f"{rule.metric}[{name}]" if name else rule.metric
    for each in (baseline, *marks):
        ahead = _ahead(rule, name, by, candidate, own, size, each, gates)
        # One without predictions may be known to be ahead, but not how surely; the next best is compared.
        if ahead > most and (each is baseline or rule.metric == SIZE or _pair(gates, candidate, each)):
            best, most = each, ahead
        if any(waives(waived, label) for waived in each.waived):
            break  # what was let pass is where the mark starts anew
    if best.commit == baseline.commit:
        return None
    if rule.metric == SIZE:
        return _size(best, size, "high_water")
    pair = _pair(gates, candidate, best)
    return _one(rule, name, by, *pair, best, "high_water") if pair else None


def _pair(gates: Gates, candidate: Answers, model: Other) -> tuple[Answers, Answers] | None:
    """Return what both answered on the rows of both; None if these are too few."""
    theirs = model.answers()
    pair = common(candidate, theirs) if theirs else None
    return pair if pair and len(pair[0].rows) >= gates.baseline.min_rows else None


def _ahead(
    rule: Named,
    name: str,
    by: str,
    candidate: Answers,
    own: Callable[[], float],
    size: float | None,
    model: Other,
    gates: Gates,
) -> float:
    """Return how much better a model is than the candidate on the rows of both; -inf where that is not known."""
    if rule.metric == SIZE:
        return -math.inf if size is None or model.size is None else size - model.size
    stored = model.values.get((rule.metric, name))
    if model.key == candidate.digest and stored is not None:
        ahead = stored - own()
    else:
        pair = _pair(gates, candidate, model)
        if pair is None:
            return -math.inf
        mine, other = pair
        if name:
            chosen = mine.masks(by)[name]
            mine, other = mine.take(chosen), other.take(chosen)
        one, two = (statistics.value(rule.metric, each, METRICS.get(rule.metric)) for each in (other, mine))
        ahead = one - two
    return rule.rule.sign * ahead if math.isfinite(ahead) else -math.inf


def finite(value: float | None) -> float | None:
    """Return a number that JSON has; None for the others."""
    return None if value is None or not math.isfinite(value) else float(value)
