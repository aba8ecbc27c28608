"""The standard metrics, each with a 95 % interval. Pure: arrays in, numbers out.

binary: accuracy, balanced_accuracy, precision, recall, f1 (of the positive label), f1_macro, f1_weighted, roc_auc, average_precision, log_loss, brier, ece
multiclass: accuracy, balanced_accuracy, precision_macro, recall_macro, f1_macro, f1_weighted, roc_auc (one against the rest, mean), log_loss, ece
regression: mae, rmse, r2, median_ae

Intervals: Wilson for shares; the influence of each row for means, roc_auc (DeLong's for two classes) and average_precision; multinomial
draws of the confusion matrix for what is a function of it, and of score bins for ece; resampled rows for a task's own metrics.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pawl.problem import Problem

WHERE = "src/task/metrics.py"
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Custom = Mapping[str, Callable[..., float]]
Z = 1.959963984540054
DRAWS = 1000
CALIBRATION_BINS = 15


class Estimate(NamedTuple):
    """A metric's value, its 95 % interval, and the rows it is from. NaN where it is not defined."""

    value: float
    low: float
    high: float
    n: int


def classification(
    y: Ints, probabilities: Floats, prediction: Ints, *, seed: int, custom: Custom | None = None, resamples: int = 200
) -> dict[str, Estimate]:
    """Return every metric of a classifier. y, prediction: label numbers, shape (n,); probabilities: shape (n, k); for k = 2 the label 1 is positive."""
    rng = np.random.default_rng(seed)
    count, classes = probabilities.shape
    matrix = np.bincount(y * classes + prediction, minlength=classes * classes).reshape(1, classes, classes)
    draws = rng.multinomial(count, matrix.ravel() / count, DRAWS).reshape(-1, classes, classes)
    found = {"accuracy": wilson(int(np.trace(matrix[0])), count)}
    for name, function in of_confusion(classes).items():
        found[name] = _from_draws(function(matrix)[0], function(draws), count)
    if classes == 2:
        positive = probabilities[:, 1]
        (_, wrong), (missed, hit) = matrix[0]
        found["precision"] = wilson(int(hit), int(hit + wrong))
        found["recall"] = wilson(int(hit), int(hit + missed))
        found["average_precision"] = _share(_from_influence(*average_precision(y, positive)))
        found["brier"] = mean((positive - y) ** 2)
    found["roc_auc"] = roc_auc(y, probabilities)
    found["log_loss"] = mean(log_losses(y, probabilities))
    found["ece"] = _ece(y, probabilities, rng)
    return found | _custom(custom or {}, found, (y, prediction, probabilities), rng, resamples)


def regression(
    y: Floats, prediction: Floats, *, seed: int, custom: Custom | None = None, resamples: int = 200
) -> dict[str, Estimate]:
    """Return every metric of a regressor. y, prediction: shape (n,), in the target's unit."""
    rng = np.random.default_rng(seed)
    error = np.abs(y - prediction)
    found = {"mae": mean(error)}
    for name in ("rmse", "r2"):
        found[name] = _from_influence(*squared_influence(name, y, prediction))
    order = np.sort(error)
    half = Z * np.sqrt(len(y)) / 2  # the order statistics around the median
    low, high = (order[int(np.clip(len(y) / 2 + side * half, 0, len(y) - 1))] for side in (-1, 1))
    found["median_ae"] = Estimate(float(np.median(error)), float(low), float(high), len(y))
    return found | _custom(custom or {}, found, (y, prediction, None), rng, resamples)


def wilson(hits: int, count: int) -> Estimate:
    """Return a share with Wilson's score interval."""
    if count == 0:
        return Estimate(np.nan, np.nan, np.nan, 0)
    share, square = hits / count, Z * Z / count
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * np.sqrt(share * (1 - share) / count + square / (4 * count))
    return Estimate(share, float(min(middle - half, share)), float(max(middle + half, share)), count)


def mean(values: Floats) -> Estimate:
    """Return a mean with its normal interval."""
    return _from_influence(float(values.mean()), values - values.mean())


def roc_auc(y: Ints, probabilities: Floats) -> Estimate:
    """Return the area under the ROC curve; for more than two classes the mean of each against the rest."""
    classes = probabilities.shape[1]
    parts = [auc_influence(y == label, probabilities[:, label]) for label in ([1] if classes == 2 else range(classes))]
    value, influence = float(np.mean([area for area, _ in parts])), np.mean([each for _, each in parts], axis=0)
    return _share(_from_influence(value, influence))


def auc_influence(positive: npt.NDArray[np.bool_], score: Floats) -> tuple[float, Floats]:
    """Return the AUC and the influence of each row on it, shape (n,): DeLong's placement values, over their class's share of the rows."""
    hits, others = int(positive.sum()), int((~positive).sum())
    if hits == 0 or others == 0:
        return float("nan"), np.full(len(score), np.nan)
    _, level = np.unique(score, return_inverse=True)
    size, of_hits = np.bincount(level), np.bincount(level, weights=positive)
    below, hits_above = [(part.cumsum() - part / 2)[level] for part in (size - of_hits, of_hits)]  # a tie counts half
    placement = np.where(positive, below / others, 1 - hits_above / hits)
    area = float(placement[positive].mean())
    share = np.where(positive, hits, others) / len(score)
    return area, (placement - area) / share


def squared_influence(name: str, y: Floats, prediction: Floats) -> tuple[float, Floats]:
    """Return rmse or r2 and the influence of each row on it, shape (n,)."""
    squared, deviation = (y - prediction) ** 2, (y - y.mean()) ** 2
    mse, variance = squared.mean(), deviation.mean()
    if name == "rmse":
        rmse = float(np.sqrt(mse))
        return rmse, (squared - mse) / (2 * rmse) if rmse else squared * 0
    share = mse / variance if variance else np.nan
    return float(1 - share), (share * deviation - squared) / variance if variance else squared * np.nan


def log_losses(y: Ints, probabilities: Floats) -> Floats:
    """Return the log loss of each row, shape (n,)."""
    return np.asarray(-np.log(np.clip(probabilities[np.arange(len(y)), y], np.finfo(float).eps, 1.0)))


def average_precision(y: Ints, score: Floats) -> tuple[float, Floats]:
    """Return the average precision and the influence of each row on it, shape (n,); NaN for a single class.

    It is the mean precision at the scores of the positives. A row moves it through its own precision, and through that of
    every positive below or beside it.
    """
    positives, n = int(y.sum()), len(y)
    if not 0 < positives < n:
        return float("nan"), np.full(n, np.nan)
    _, level = np.unique(-score, return_inverse=True)
    hits, size = np.bincount(level, weights=y), np.bincount(level)
    true, taken = hits.cumsum(), size.cumsum()  # rows at a score or above it
    area = float((hits * true / taken).sum() / positives)
    below = [np.cumsum((hits * part)[::-1])[::-1] for part in (1 / taken, true / taken**2)]
    influence = y * ((true / taken)[level] - area) + y * below[0][level] - below[1][level]
    return area, influence * n / positives


def _from_influence(value: float, influence: Floats) -> Estimate:
    half = Z * float(influence.std()) / np.sqrt(len(influence))
    return Estimate(value, value - half, value + half, len(influence))


def _share(estimate: Estimate) -> Estimate:
    """Return the estimate with its interval between 0 and 1."""
    low, high = (float(np.clip(end, 0, 1)) for end in (estimate.low, estimate.high))
    return estimate._replace(low=low, high=high)


def _from_draws(value: float, draws: Floats, count: int) -> Estimate:
    if np.isnan(value) or np.isnan(draws).all():
        return Estimate(float(value), np.nan, np.nan, count)
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), count)


def of_confusion(classes: int) -> dict[str, Callable[[Any], Any]]:
    """Return functions of confusion matrices, shape (r, k, k) -> (r,). Undefined shares count as 0, as in scikit-learn."""

    def part(numerator: Any, denominator: Any) -> Any:
        return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=denominator > 0)

    def recall(matrices: Any) -> Any:
        return part(matrices.diagonal(axis1=1, axis2=2), matrices.sum(2))

    def precision(matrices: Any) -> Any:
        return part(matrices.diagonal(axis1=1, axis2=2), matrices.sum(1))

    def f1(matrices: Any) -> Any:
        return part(2 * matrices.diagonal(axis1=1, axis2=2), matrices.sum(1) + matrices.sum(2))

    def average(values: Any, where: Any) -> Any:
        return part((values * where).sum(1), where.sum(1))

    def macro(of_class: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda matrices: average(of_class(matrices), matrices.sum(2) + matrices.sum(1) > 0)

    functions: dict[str, Callable[[Any], Any]] = {
        "balanced_accuracy": lambda matrices: average(recall(matrices), matrices.sum(2) > 0),
        "f1_macro": macro(f1),
        "f1_weighted": lambda matrices: average(f1(matrices), matrices.sum(2)),
    }
    if classes > 2:
        return functions | {"precision_macro": macro(precision), "recall_macro": macro(recall)}
    return functions | {
        "precision": lambda matrices: precision(matrices)[:, 1],
        "recall": lambda matrices: recall(matrices)[:, 1],
        "f1": lambda matrices: f1(matrices)[:, 1],
    }


def calibration_cells(y: Ints, probabilities: Floats) -> tuple[Ints, Floats]:
    """Return, per row, its calibration bin, of equal width, and what it adds to the bin's gap: 1 if it is of the label, less the label's probability. Of the positive label, or of the most probable one."""
    binary = probabilities.shape[1] == 2
    score = probabilities[:, 1] if binary else probabilities.max(axis=1)
    hit = y == 1 if binary else y == probabilities.argmax(axis=1)
    return np.minimum((score * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1), hit - score


def _ece(y: Ints, probabilities: Floats, rng: np.random.Generator) -> Estimate:
    """Return the expected calibration error over CALIBRATION_BINS bins; its interval from draws of rows per bin and outcome."""
    place, gap = calibration_cells(y, probabilities)
    cell = place * 2 + (gap > 0)
    counts = np.bincount(cell, minlength=2 * CALIBRATION_BINS)
    average = np.bincount(cell, weights=gap, minlength=2 * CALIBRATION_BINS) / np.maximum(counts, 1)

    def error(cells: Any) -> Any:
        return np.abs((cells * average).reshape(*cells.shape[:-1], CALIBRATION_BINS, 2).sum(-1)).sum(-1) / len(y)

    return _from_draws(float(error(counts)), error(rng.multinomial(len(y), counts / len(y), DRAWS)), len(y))


def _custom(
    custom: Custom, standard: Collection[str], answers: Sequence[Any], rng: np.random.Generator, resamples: int
) -> dict[str, Estimate]:
    """Return the task's own metrics of (y, prediction, probabilities or None)."""
    found, count = {}, len(answers[0])
    for name, function in custom.items():
        if name in standard:
            raise Problem(f"{name} is a standard metric already", WHERE, "give yours another name")
        drawn = (rng.integers(0, count, count) for _ in range(resamples))
        try:
            draws = [float(function(*(None if each is None else each[rows] for each in answers))) for rows in drawn]
            value = float(function(*answers))
        except Exception as error:
            what = f"the metric {name} failed: {type(error).__name__}: {error}"
            raise Problem(what, WHERE, "it takes (y, prediction, probabilities) and returns a number") from error
        found[name] = _from_draws(value, np.array(draws), count)
    return found
