import math
from functools import partial

import numpy as np
import pytest
from sklearn import metrics as theirs

from pawl import metrics

ROWS, REPEATS, BINS = 400, 200, 15
EPS = np.finfo(float).eps


def drawn(classes, seed, rows=ROWS, decimals=3):
    """Return labels, calibrated probabilities and predictions; the fewer decimals, the more ties."""
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(0, 1.5, (rows, classes)).round(decimals))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    y = (rng.random((rows, 1)) > probabilities.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return y, probabilities, probabilities.argmax(axis=1)


def calibration_error(hit, score):
    place = np.minimum((score * BINS).astype(int), BINS - 1)
    return sum(abs((hit - score)[place == number].sum()) for number in range(BINS)) / len(hit)


OF_PREDICTIONS = {
    "accuracy": theirs.accuracy_score,
    "balanced_accuracy": theirs.balanced_accuracy_score,
    "f1_macro": partial(theirs.f1_score, average="macro"),
    "f1_weighted": partial(theirs.f1_score, average="weighted"),
}
OF_TWO = OF_PREDICTIONS | {"precision": theirs.precision_score, "recall": theirs.recall_score, "f1": theirs.f1_score}
OF_MANY = OF_PREDICTIONS | {
    "precision_macro": partial(theirs.precision_score, average="macro"),
    "recall_macro": partial(theirs.recall_score, average="macro"),
}
SCORES_OF_TWO = {
    "log_loss": theirs.log_loss,
    "roc_auc": lambda y, p: theirs.roc_auc_score(y, p[:, 1]),
    "average_precision": lambda y, p: theirs.average_precision_score(y, p[:, 1]),
    "brier": lambda y, p: theirs.brier_score_loss(y, p[:, 1]),
    "ece": lambda y, p: calibration_error(y, p[:, 1]),
}
SCORES_OF_MANY = {
    "log_loss": theirs.log_loss,
    "roc_auc": partial(theirs.roc_auc_score, multi_class="ovr"),
    "ece": lambda y, p: calibration_error(y == p.argmax(axis=1), p.max(axis=1)),
}
REGRESSION = {
    "mae": theirs.mean_absolute_error,
    "rmse": theirs.root_mean_squared_error,
    "r2": theirs.r2_score,
    "median_ae": theirs.median_absolute_error,
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("classes", "of_predictions", "of_scores"),
    [(2, OF_TWO, SCORES_OF_TWO), (3, OF_MANY, SCORES_OF_MANY), (5, OF_MANY, SCORES_OF_MANY)],
)
def test_a_classification_metric_is_what_scikit_learn_says(classes, of_predictions, of_scores, seed):
    y, probabilities, prediction = drawn(classes, seed, decimals=seed)

    found = metrics.classification(y, probabilities, prediction, seed=0)

    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(
        {name: function(y, prediction) for name, function in of_predictions.items()}
        | {name: function(y, probabilities) for name, function in of_scores.items()},
        abs=1e-12,
    )
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in found.values())


@pytest.mark.parametrize("rows", [7, 400, 401])
def test_a_regression_metric_is_what_scikit_learn_says(rows):
    rng = np.random.default_rng(rows)
    y = rng.normal(5, 3, rows).round(1)
    prediction = (y + rng.normal(0, 1, rows)).round()

    found = metrics.regression(y, prediction, seed=0)

    assert {name: estimate.value for name, estimate in found.items()} == pytest.approx(
        {name: function(y, prediction) for name, function in REGRESSION.items()}
    )
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in found.values())


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (2, [*OF_TWO, "roc_auc", "average_precision", "log_loss", "brier"]),  # in small samples ece is biased upwards
        (3, [*OF_MANY, "roc_auc", "log_loss"]),
    ],
)
def test_an_interval_of_a_classifier_holds_the_truth_in_95_of_100_samples(classes, names):
    truth = metrics.classification(*drawn(classes, 999, rows=200_000), seed=0)

    found = [metrics.classification(*drawn(classes, seed), seed=seed) for seed in range(REPEATS)]

    share = {
        name: np.mean([each[name].low <= truth[name].value <= each[name].high for each in found]) for name in names
    }
    assert all(0.90 <= covered <= 0.99 for covered in share.values()), share


def test_an_interval_of_a_regressor_holds_the_truth_in_95_of_100_samples():
    noise, spread = 2.0, 3.0
    truth = {
        "mae": noise * math.sqrt(2 / math.pi),
        "rmse": noise,
        "r2": 1 - noise**2 / (noise**2 + spread**2),
        "median_ae": 0.6744898 * noise,
    }

    found = []
    for seed in range(REPEATS):
        rng = np.random.default_rng(seed)
        signal = rng.normal(0, spread, ROWS)
        found.append(metrics.regression(signal + rng.normal(0, noise, ROWS), signal, seed=0))

    share = {
        name: np.mean([each[name].low <= value <= each[name].high for each in found]) for name, value in truth.items()
    }
    assert all(0.90 <= covered <= 0.99 for covered in share.values()), share


def test_a_class_counts_where_it_is_seen_in_labels_or_predictions():
    y, prediction = (
        np.array([0, 0, 1, 1, 3, 4]),
        np.array([0, 2, 1, 1, 1, 1]),
    )  # 2 is in one, 3 and 4 in the other, 5 in none

    found = metrics.classification(y, np.full((6, 6), 1 / 6), prediction, seed=0)

    expected = {"balanced_accuracy": 1.5 / 4, "recall_macro": 1.5 / 5, "precision_macro": 1.5 / 5}
    expected |= {"f1_macro": 4 / 3 / 5, "f1_weighted": 8 / 3 / 6}
    assert {name: found[name].value for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(("hits", "low", "high"), [(8, 0.4902, 0.9433), (0, 0.0, 0.2775), (10, 0.7225, 1.0)])
def test_the_interval_of_a_share_is_wilsons(hits, low, high):
    assert metrics.wilson(hits, 10) == pytest.approx((hits / 10, low, high, 10), abs=1e-4)


@pytest.mark.parametrize("decimals", [9, 0])
def test_the_interval_of_average_precision_is_as_wide_as_that_of_drawn_rows(decimals):
    y, probabilities, _ = drawn(2, 0, rows=1000, decimals=decimals)
    rng = np.random.default_rng(0)

    found = metrics.classification(y, probabilities, y, seed=0)["average_precision"]

    rows = [rng.integers(0, 1000, 1000) for _ in range(1000)]
    spread = np.std([theirs.average_precision_score(y[part], probabilities[part, 1]) for part in rows])
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.06)


def test_where_one_class_is_absent_a_metric_of_ranks_is_nan():
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6]])

    found = metrics.classification(np.zeros(2, dtype=np.int64), probabilities, np.array([0, 1]), seed=0)

    assert all(math.isnan(number) for name in ("roc_auc", "average_precision") for number in found[name][:3])
    assert math.isnan(found["recall"].value)
    assert found["recall"].n == 0
    assert found["accuracy"].value == 0.5


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_handful_of_rows_does_not_crash(classes, rows):
    probabilities = np.full((rows, classes), 1 / classes)

    found = metrics.classification(np.full(rows, classes - 1), probabilities, np.zeros(rows, dtype=np.int64), seed=0)

    assert math.isnan(found["roc_auc"].value)
    assert found["accuracy"].value == 0.0
    assert found["log_loss"].value == pytest.approx(math.log(classes))


def test_the_r2_of_a_constant_is_nan():
    found = metrics.regression(np.full(5, 2.0), np.full(5, 2.0), seed=0)

    assert all(math.isnan(number) for number in found["r2"][:3])
    assert found["rmse"][:3] == (0.0, 0.0, 0.0)


def test_certainty_that_is_wrong_costs_a_finite_log_loss():
    found = metrics.classification(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([1, 1]), seed=0)

    assert found["log_loss"].value == pytest.approx(-math.log(EPS) / 2)


def test_a_custom_metric_gets_an_interval():
    y, probabilities, prediction = drawn(2, 0)
    custom = {
        "errors": lambda y, prediction, probabilities: float((y != prediction).mean()) if len(probabilities) else 0
    }

    found = metrics.classification(y, probabilities, prediction, seed=0, custom=custom)

    accuracy = found["accuracy"]
    assert found["errors"].value == pytest.approx(1 - accuracy.value)
    assert found["errors"].low == pytest.approx(1 - accuracy.high, abs=0.015)
    assert found["errors"].high == pytest.approx(1 - accuracy.low, abs=0.015)


def test_a_custom_metric_of_a_regressor_gets_its_values_and_no_probabilities():
    def custom(y, prediction, probabilities):
        return (prediction - y).mean() if probabilities is None else math.nan

    found = metrics.regression(np.arange(9.0), np.arange(9.0) + 2, seed=0, custom={"bias": custom})

    assert found["bias"] == (2.0, 2.0, 2.0, 9)


def test_the_same_seed_gives_the_same_intervals():
    given = drawn(3, 0)

    assert metrics.classification(*given, seed=5) == metrics.classification(*given, seed=5)


def test_an_interval_of_a_share_ends_at_1():
    y, score = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0.1, 0.2, 0.6, 0.5, 0.8, 0.9, 0.95])
    found = metrics.classification(y, np.stack([1 - score, score], axis=1), (score > 0.5).astype(int), seed=0)

    assert found["roc_auc"].value < found["roc_auc"].high == 1
    assert found["average_precision"].high == 1
