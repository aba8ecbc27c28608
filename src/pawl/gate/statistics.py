"""How much one model differs from another on the same rows, and how sure that is. Pure: arrays in, numbers out.

roc_auc: DeLong's test, in O(n log n) (Sun & Xu 2014). accuracy: McNemar's exact test, with Agresti and Min's interval (2005).
Means of a loss per row, rmse and r2: paired t, the last two on the influence of each row. What else there is: a paired bootstrap, stratified by class, of
the counts in which both models' answers fall, so that it costs the same for any number of rows; of rows where counts do not
tell. Rows that share a group are drawn, and added up, together.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from pawl import metrics
from pawl.answers import Answers, common
from pawl.config import TaskKind
from pawl.gate.rules import METHODS, Method

DRAWS = 1000
ROW_DRAWS = 200
MANY_ROWS = 100_000  # above, rows are not drawn: influences, or fewer rows and the root of their share
MANY_GROUPS = 10_000  # above, groups are put together at random: as independent, and far fewer to draw
BLOCK = 50  # draws at a time, so that memory stays bounded
Z90 = 1.6448536269514722  # both sides of a 90 % interval: 5 % each


class Difference(NamedTuple):
    """Candidate minus baseline, in the metric's unit. NaN where it is not defined."""

    value: float
    error: float  # its standard error; 0 where every answer is the same
    low: float  # 90 % interval: each side is wrong in 5 % of cases
    high: float
    p_lower: float  # one-sided: how often chance alone makes the candidate's value at least so much lower
    p_higher: float
    n: int
    method: Method


def difference(metric: str, baseline: Answers, candidate: Answers, method: Method | None = None, custom: Callable[[Any, Any, Any], float] | None = None) -> Difference:  # fmt: skip
    """Return the difference of a metric between two models on the same rows, in the same order."""
    n, chosen = len(baseline.rows), method or METHODS.get(metric, "bootstrap")
    baseline, candidate = (each._replace(slices={}) for each in (baseline, candidate))  # resamples need not copy them
    same = np.array_equal(baseline.prediction, candidate.prediction) and (
        baseline.probabilities is None or np.array_equal(baseline.probabilities, candidate.probabilities)
    )
    if n and same:
        return Difference(0.0, 0.0, 0.0, 0.0, 1.0, 1.0, n, chosen)
    undefined = Difference(np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, n, chosen)
    if n < 2:
        return undefined
    with np.errstate(invalid="ignore", divide="ignore"):
        if chosen == "bootstrap":
            found = _bootstrap(metric, baseline, candidate, custom)
        elif chosen == "mcnemar" and baseline.group is None:
            return _mcnemar(baseline, candidate)
        else:
            found = _of_rows(metric, baseline, candidate)
    return _normal(*found, n, chosen) if np.isfinite(found).tolist()[:2] == [True, True] else undefined


def names(task: TaskKind, custom: Collection[str] = ()) -> frozenset[str]:
    """Return the names of the metrics of a task."""
    if task == "regression":
        return frozenset(("mae", "rmse", "r2", "median_ae", *custom))
    found = {"accuracy", "roc_auc", "log_loss", "ece", *metrics.of_confusion(2 if task == "binary" else 3), *custom}
    return frozenset(found | ({"average_precision", "brier"} if task == "binary" else set()))


def value(metric: str, answers: Answers, custom: Callable[[Any, Any, Any], float] | None = None) -> float:
    """Return a metric's value; NaN where it is not defined."""
    y, probabilities = answers.y, answers.probabilities
    if len(y) == 0:
        return np.nan
    if custom is not None:
        return float(custom(y, answers.prediction, probabilities))
    if metric in {"log_loss", "brier", "mae", "accuracy"}:
        return float(_per_row(metric, answers).mean())
    if metric in {"rmse", "r2"}:
        return metrics.squared_influence(metric, y, answers.prediction)[0]
    if metric == "median_ae":
        return float(np.median(np.abs(y - answers.prediction)))
    if metric == "roc_auc":
        return float(metrics.roc_auc(y, probabilities).value)
    if metric == "average_precision":
        return metrics.average_precision(y, probabilities[:, 1])[0]
    if metric == "ece":
        cell, gap = metrics.calibration_cells(y, probabilities)
        return float(np.abs(np.bincount(cell, gap)).sum() / len(y))
    k = probabilities.shape[1]
    matrix = np.bincount(y * k + answers.prediction, minlength=k * k).reshape(1, k, k)
    return float(metrics.of_confusion(k)[metric](matrix)[0])


def _per_row(metric: str, answers: Answers) -> Any:
    """Return what the metric is the mean of, shape (n,)."""
    if metric == "accuracy":
        return (answers.prediction == answers.y).astype(float)
    if metric == "mae":
        return np.abs(answers.y - answers.prediction)
    if metric == "brier":
        return (answers.probabilities[:, 1] - answers.y) ** 2
    return metrics.log_losses(answers.y, answers.probabilities)


def _of_rows(metric: str, baseline: Answers, candidate: Answers) -> tuple[float, float, float]:
    """Return (difference, standard error, degrees of freedom) from the influence of each row on both metrics."""
    y, n = baseline.y, len(baseline.y)
    if metric == "roc_auc":
        k = baseline.probabilities.shape[1]
        parts = []
        for label in [1] if k == 2 else range(k):
            scores = (each.probabilities[:, label] for each in (baseline, candidate))
            one, other = (metrics.auc_influence(y == label, score) for score in scores)
            parts.append((other[0] - one[0], other[1] - one[1]))
        change, influence = float(np.mean([part[0] for part in parts])), np.mean([part[1] for part in parts], axis=0)
        if k == 2 and baseline.group is None:  # DeLong: the variance within each class
            shares = [influence[y == label] * np.mean(y == label) for label in (0, 1)]
            variance = sum(np.var(part, ddof=1) / len(part) if len(part) > 1 else np.nan for part in shares)
            return change, float(np.sqrt(variance)), np.inf
    elif metric in {"rmse", "r2"}:
        first, second = (metrics.squared_influence(metric, y, each.prediction) for each in (baseline, candidate))
        change, influence = second[0] - first[0], second[1] - first[1]
    else:
        influence = _per_row(metric, candidate) - _per_row(metric, baseline)
        change = float(influence.mean())
        influence = influence - change
    if baseline.group is None:
        return change, float(influence.std(ddof=1) / np.sqrt(n)), n - 1 if metric != "roc_auc" else np.inf
    _, place = np.unique(baseline.group, return_inverse=True)
    sums = np.bincount(place, influence)
    count = len(sums)
    return change, float(np.sqrt(count / max(count - 1, 1) * (sums**2).sum()) / n), max(count - 1, 1)


def _mcnemar(baseline: Answers, candidate: Answers) -> Difference:
    from scipy.stats import binomtest

    before, after = (each.prediction == each.y for each in (baseline, candidate))
    n, gained, lost = len(before), int((after & ~before).sum()), int((before & ~after).sum())
    if gained + lost:
        tests = (binomtest(gained, gained + lost, alternative=side) for side in ("less", "greater"))
        lower, higher = (float(test.pvalue) for test in tests)
    else:
        lower = higher = 1.0
    change, middle, size = (gained - lost) / n, (gained - lost) / (n + 2), n + 2
    error = float(np.sqrt((gained + lost + 1) / size - middle**2) / np.sqrt(size))
    return Difference(change, error, middle - Z90 * error, middle + Z90 * error, lower, higher, n, "mcnemar")


def _normal(change: float, error: float, freedom: float, n: int, method: Method) -> Difference:
    from scipy.stats import norm, t

    law = norm if np.isinf(freedom) else t(freedom)
    if not error > 0:  # as if by chance, every row changed by the same amount: certain
        return Difference(change, 0.0, change, change, float(change >= 0), float(change <= 0), n, method)
    half = float(law.ppf(0.95)) * error
    return Difference(change, error, change - half, change + half, float(law.cdf(change / error)), float(law.sf(change / error)), n, method)  # fmt: skip


def _bootstrap(metric: str, baseline: Answers, candidate: Answers, custom: Any) -> tuple[float, float, float]:
    """Return (difference, standard error, degrees of freedom) of resampled rows."""
    rng = np.random.default_rng(0)
    change = value(metric, candidate, custom) - value(metric, baseline, custom)
    if not np.isfinite(change):
        return change, np.nan, np.inf
    y, n = baseline.y, len(baseline.y)
    if custom is None and metric == "ece":
        parts = [metrics.calibration_cells(y, each.probabilities) for each in (baseline, candidate)]
        of_bin = [place * 2 + (gap > 0) for place, gap in parts]  # whether it is a hit decides what the row adds
        _, cell = np.unique(of_bin[0] * 1000 + of_bin[1], return_inverse=True)
        size = np.bincount(cell)
        first = np.unique(cell, return_index=True)[1]
        sides = []
        for place, gap in parts:  # what a row of this cell adds to the gap of its model's bin
            side = np.zeros((len(size), metrics.CALIBRATION_BINS))
            side[np.arange(len(size)), place[first]] = np.bincount(cell, gap) / size
            sides.append(side)
        draws = _counted(rng, cell, y if baseline.labels else None, baseline.group, lambda counts: (np.abs(counts @ sides[1]).sum(1) - np.abs(counts @ sides[0]).sum(1)) / n)  # fmt: skip
    elif custom is None and metric == "accuracy":
        delta = _per_row(metric, candidate) - _per_row(metric, baseline)
        draws = _counted(rng, (delta + 1).astype(int), y, baseline.group, lambda counts: (counts * np.arange(-1, counts.shape[1] - 1)).sum(1) / n)  # fmt: skip
    elif custom is None and baseline.labels and metric in metrics.of_confusion(len(baseline.labels)):
        k = len(baseline.labels)
        function = metrics.of_confusion(k)[metric]
        kinds, cell = np.unique((y * k + baseline.prediction) * k + candidate.prediction, return_inverse=True)
        places = kinds // k, kinds // k**2 * k + kinds % k

        def measured(counts: Any, place: Any) -> Any:
            matrices = np.zeros((len(counts), k * k))
            for column, target in enumerate(place):
                matrices[:, target] += counts[:, column]
            return function(matrices.reshape(-1, k, k))

        draws = _counted(rng, cell, y, baseline.group, lambda counts: measured(counts, places[1]) - measured(counts, places[0]))  # fmt: skip
    elif custom is None and metric == "average_precision" and n > MANY_ROWS and baseline.group is None:
        one, other = (metrics.average_precision(y, each.probabilities[:, 1])[1] for each in (baseline, candidate))
        return change, float((other - one).std(ddof=1) / np.sqrt(n)), np.inf
    else:
        draws, share = _of_drawn_rows(rng, metric, baseline, candidate, custom)
        return change, _spread(draws) * float(np.sqrt(share)), np.inf
    return change, _spread(draws), np.inf


def _spread(draws: Any) -> float:
    """Return the standard deviation of the draws that are numbers; NaN of fewer than two."""
    draws = draws[np.isfinite(draws)]
    return float(draws.std(ddof=1)) if len(draws) > 1 else np.nan


def _counted(rng: Any, cell: Any, strata: Any, group: Any, measured: Callable[[Any], Any]) -> Any:
    """Return `measured` of DRAWS resamples, each given as counts per cell, shape (draws, cells)."""
    cells = int(cell.max()) + 1
    if group is None:
        strata = np.zeros_like(cell) if strata is None else strata
        kept = [np.bincount(cell[strata == each], minlength=cells) for each in np.unique(strata)]
        parts = [measured(sum(rng.multinomial(one.sum(), one / one.sum(), BLOCK) for one in kept)) for _ in range(DRAWS // BLOCK)]  # fmt: skip
        return np.concatenate(parts)
    from scipy.sparse import csr_matrix

    _, place = np.unique(group, return_inverse=True)
    count = int(place.max()) + 1
    if count > MANY_GROUPS:
        place, count = rng.permutation(count)[place] % MANY_GROUPS, MANY_GROUPS
    table = csr_matrix((np.ones(len(cell)), (place, cell)), shape=(count, cells))
    even = np.full(count, 1 / count)
    return np.concatenate([measured(rng.multinomial(count, even, BLOCK) @ table) for _ in range(DRAWS // BLOCK)])


def _of_drawn_rows(rng: Any, metric: str, baseline: Answers, candidate: Answers, custom: Any) -> tuple[Any, float]:
    """Return (differences of resamples, what their variance must be multiplied by): of more than MANY_ROWS rows, resamples have that many."""
    n = len(baseline.rows)
    size = min(n, MANY_ROWS)
    strata = [np.arange(n)]
    if baseline.labels:
        strata = [np.flatnonzero(baseline.y == label) for label in np.unique(baseline.y)]
    members: list[Any] = []
    if baseline.group is not None:
        order = np.argsort(baseline.group, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(baseline.group[order])) + 1)
    draws = []
    for _ in range(ROW_DRAWS):
        if members:
            drawn = rng.integers(0, len(members), len(members) * size // n or 1)
            chosen = np.concatenate([members[each] for each in drawn])
        else:
            chosen = np.concatenate([rng.choice(rows, round(len(rows) * size / n)) for rows in strata])
        draws.append(value(metric, candidate.take(chosen), custom) - value(metric, baseline.take(chosen), custom))
    return np.array(draws, dtype=float), size / n


def holm(p: list[float]) -> list[float]:
    """Return Holm's adjusted p-values (1979): below 0.05, each is significant although there are several."""
    adjusted, largest = [1.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = largest
    return adjusted


def from_best(metric: str, answers: list[Answers], custom: Callable[[Any, Any, Any], float] | None = None) -> list[float]:  # fmt: skip
    """Return per model how often chance alone tells it from the first as far as this, after Holm; 1 for the first. Two-sided: which is best was not known before."""
    found = [difference(metric, *common(each, answers[0]), custom=custom) for each in answers[1:]]
    both = [2 * min(each.p_lower, each.p_higher) for each in found]
    return [1.0, *holm([p if p < 1 else 1.0 for p in both])][: len(answers)]


def detectable(error: float, allowance: float, tests: int = 1, confidence: float = 0.95) -> float:
    """Return the true loss that fails in 80 % of cases: power 80 % of `worse than allowed, and significantly so`."""
    from scipy.stats import norm

    return float(max(allowance, norm.ppf(1 - (1 - confidence) / max(tests, 1)) * error) + norm.ppf(0.8) * error)
