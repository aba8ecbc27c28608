import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest, ttest_rel
from sklearn.metrics import average_precision_score, log_loss

from pawl import metrics
from pawl.answers import Answers, pair
from pawl.gate import statistics
from pawl.gate.statistics import detectable, difference, from_best, holm

COUNTED = ("f1", "recall", "precision", "f1_macro", "balanced_accuracy", "ece")
ALL = sorted({*COUNTED, "f1_weighted", "accuracy", "roc_auc", "log_loss", "brier", "average_precision"})


def binary(y, score, group=None):
    rows = np.arange(len(y), dtype=np.uint64)
    return Answers("binary", ("no", "yes"), rows, y, (score >= 0.5).astype(np.int64), pair(score), group, {}, len(y))


def regressor(y, prediction):
    return Answers("regression", (), np.arange(len(y), dtype=np.uint64), y, prediction, None, None, {}, len(y))


def two(rows=600, seed=0, more_noise=0.0, decimals=9):
    """Return what two models answered on the same rows; the second sees them through more noise."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=rows)
    y = (signal + rng.normal(size=rows) > 0.3).astype(np.int64)
    noise = rng.normal(size=(2, rows)) * [[0.5], [0.5 + more_noise]]
    return [binary(y, expit(1.5 * (signal + part - 0.3)).round(decimals)) for part in noise]


def many_classes(rows, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.normal(0, 1.5, (rows, 3))
    y = (signal + rng.gumbel(size=(rows, 3))).argmax(axis=1)
    found = []
    for _ in range(2):
        weights = np.exp(signal + rng.normal(0, 0.7, (rows, 3)))
        p = weights / weights.sum(axis=1, keepdims=True)
        names = np.arange(rows, dtype=np.uint64)
        found.append(Answers("multiclass", ("a", "b", "c"), names, y, p.argmax(axis=1), p, None, {}, rows))
    return found


def regressors(rows, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(5, 3, rows)
    return [regressor(y, y + rng.normal(0, spread, rows)) for spread in (1.0, 1.5)]


def resampled_error(metric, one, other, draws=1500, custom=None):
    """Return the standard error of a difference, from rows drawn with replacement."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(draws):
        rows = rng.integers(0, len(one.y), len(one.y))
        values = [statistics.value(metric, each.take(rows), custom) for each in (other, one)]
        found.append(values[0] - values[1])
    return np.std(found)


def delong_by_definition(y, one, other):
    """Return the difference of two AUCs and its standard error, from every pair of a positive and a negative."""
    wins = [
        (p[y == 1][:, None] > p[y == 0]) + 0.5 * (p[y == 1][:, None] == p[y == 0])
        for p in (other.probabilities[:, 1], one.probabilities[:, 1])
    ]
    change = wins[0] - wins[1]
    of_hits, of_others = change.mean(axis=1), change.mean(axis=0)
    return change.mean(), np.sqrt(of_hits.var(ddof=1) / len(of_hits) + of_others.var(ddof=1) / len(of_others))


@pytest.mark.parametrize("made", [two, many_classes, regressors])
def test_a_value_is_the_one_that_the_report_shows(made):
    one, _ = made(100)
    given = (one.y, one.prediction) if one.probabilities is None else (one.y, one.probabilities, one.prediction)

    shown = (metrics.regression if one.probabilities is None else metrics.classification)(*given, seed=0)

    found = {metric: statistics.value(metric, one) for metric in statistics.names(one.task)}
    assert found == pytest.approx({name: each.value for name, each in shown.items()})


@pytest.mark.parametrize("decimals", [9, 2, 1])
def test_delong_is_what_its_definition_says_with_ties_too(decimals):
    one, other = two(300, decimals=decimals)

    found = difference("roc_auc", one, other)

    assert found[:2] == pytest.approx(delong_by_definition(one.y, one, other), abs=1e-9)
    assert found.p_lower + found.p_higher == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx([found.value + side * 1.644854 * found.error for side in (-1, 1)])


def test_mcnemar_is_a_binomial_test_of_the_rows_that_one_model_alone_has_right():
    one, other = two(300, more_noise=0.4)
    gained, lost = (int(((a.prediction == a.y) & (b.prediction != b.y)).sum()) for a, b in ((other, one), (one, other)))

    found = difference("accuracy", one, other)

    assert lost > gained > 0
    assert found.value == pytest.approx((gained - lost) / 300)
    assert found.p_lower == pytest.approx(binomtest(gained, gained + lost, alternative="less").pvalue)
    assert found.p_higher == pytest.approx(binomtest(gained, gained + lost, alternative="greater").pvalue)
    assert found.error == pytest.approx(np.sqrt((gained + lost) / 300 - found.value**2) / np.sqrt(300), rel=0.02)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("metric", ["log_loss", "brier", "mae"])
def test_a_mean_is_compared_by_a_paired_t_test(metric):
    one, other = regressors(50) if metric == "mae" else two(50)
    per_row = {
        "log_loss": lambda each: [log_loss([y], [p], labels=[0, 1]) for y, p in zip(each.y, each.probabilities, strict=True)],
        "brier": lambda each: (each.y - each.probabilities[:, 1]) ** 2,
        "mae": lambda each: abs(each.y - each.prediction),
    }[metric]  # fmt: skip

    found = difference(metric, one, other)

    lower, higher = (ttest_rel(per_row(other), per_row(one), alternative=side) for side in ("less", "greater"))
    assert (found.p_lower, found.p_higher) == pytest.approx((lower.pvalue, higher.pvalue), abs=1e-12)
    ends = higher.confidence_interval(0.95).low, lower.confidence_interval(0.95).high
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-12)


@pytest.mark.parametrize("metric", ["rmse", "r2"])
def test_rmse_and_r2_are_as_sure_as_when_each_row_is_left_out_in_turn(metric):
    one, other = regressors(300)
    rows = np.arange(300)

    left_out = [
        statistics.value(metric, other.take(rows != row)) - statistics.value(metric, one.take(rows != row))
        for row in rows
    ]

    assert difference(metric, one, other).error == pytest.approx(np.sqrt(299 * np.var(left_out)), rel=0.03)


@pytest.mark.parametrize("decimals", [9, 1])
def test_a_row_that_is_left_out_moves_average_precision_by_its_influence(decimals):
    one, _ = two(400, decimals=decimals)
    score, rows = one.probabilities[:, 1], np.arange(400)

    area, influence = metrics.average_precision(one.y, score)

    without = [average_precision_score(one.y[rows != row], score[rows != row]) for row in rows]
    assert area == pytest.approx(average_precision_score(one.y, score))
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    assert 399 * (area - np.array(without)) == pytest.approx(influence, rel=0.04, abs=0.05)


@pytest.mark.parametrize(
    ("made", "metric"),
    [
        *[(two, metric) for metric in (*COUNTED, "accuracy", "average_precision")],
        *[(many_classes, metric) for metric in ("roc_auc", "f1_macro", "recall_macro", "ece", "log_loss")],
        *[(regressors, metric) for metric in ("mae", "rmse", "r2", "median_ae")],
    ],
)
def test_a_difference_is_as_sure_as_that_of_drawn_rows(made, metric):
    one, other = made(600)

    found = difference(metric, one, other, "bootstrap" if metric == "accuracy" else None)

    assert found.value == pytest.approx(statistics.value(metric, other) - statistics.value(metric, one))
    near = 0.15 if metric == "median_ae" else 0.08  # it jumps, and is from 200 draws
    assert found.error == pytest.approx(resampled_error(metric, one, other), rel=near)
    assert found.p_lower + found.p_higher == pytest.approx(1)
    assert (found.p_lower < 0.5) == (found.value < 0)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("method", [None, "bootstrap"])
def test_rows_of_one_group_count_once(metric, method):
    once = two()
    fourfold = [each.take(np.repeat(np.arange(600), 4)) for each in once]
    grouped = [each._replace(group=each.rows) for each in fourfold]

    right, too_sure, found = (difference(metric, *pair, method).error for pair in (once, fourfold, grouped))

    near = 0.2 if metric == "average_precision" or method else 0.1  # those are from 200 draws
    assert found == pytest.approx(right, rel=near)
    assert too_sure < 0.65 * right


@pytest.mark.parametrize("metric", COUNTED)
def test_of_very_many_groups_counts_are_as_sure_as_without(metric, monkeypatch):
    one, other = two(4000, more_noise=0.2)
    monkeypatch.setattr(statistics, "MANY_GROUPS", 400)

    found = difference(metric, *[each._replace(group=each.rows) for each in (one, other)])

    assert found.error == pytest.approx(difference(metric, one, other).error, rel=0.1)


@pytest.mark.parametrize("metric", ALL)
def test_the_same_answers_give_the_same_numbers(metric):
    np.random.seed(1)  # noqa: NPY002 - what a task's own code may do
    first = difference(metric, *two(200))
    np.random.seed(2)  # noqa: NPY002 - same

    assert difference(metric, *two(200)) == first


@pytest.mark.parametrize("metric", ALL)
def test_a_model_does_not_differ_from_itself(metric):
    one, _ = two(50)

    assert difference(metric, one, one)[:7] == (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 50)


def test_of_very_many_rows_average_precision_is_as_sure_as_drawn_rows(monkeypatch):
    one, other = two(3000, more_noise=0.2)
    monkeypatch.setattr(statistics, "MANY_ROWS", 500)

    found = difference("average_precision", one, other)

    assert found.error == pytest.approx(resampled_error("average_precision", one, other), rel=0.05)


@pytest.mark.parametrize("grouped", [False, True])
def test_of_very_many_rows_a_metric_of_your_own_is_as_sure_as_its_formula(monkeypatch, grouped):
    one, other = two(6000)
    if grouped:
        one, other = (each._replace(group=each.rows) for each in (one, other))
    monkeypatch.setattr(statistics, "MANY_ROWS", 600)

    found = difference("mine", one, other, custom=lambda *given: given[2][:, 1].mean())

    change = other.probabilities[:, 1] - one.probabilities[:, 1]
    assert found.value == pytest.approx(change.mean())
    assert found.error == pytest.approx(change.std() / np.sqrt(6000), rel=0.15)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("metric", ALL)
def test_rows_of_one_class_crash_nothing(metric, label):
    one, other = (each.take(each.y == label) for each in two(60))

    found = difference(metric, one, other)

    undefined = metric in {"roc_auc", "average_precision"}
    assert np.isnan(found[:6]).tolist() == [undefined] * 6


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_a_handful_of_rows_crashes_nothing(metric, rows):
    one, other = (each.take(slice(0, rows)) for each in two(60, seed=3))

    found = difference(metric, one, other)

    assert found.n == rows
    assert rows > 1 or np.isnan(found[:6]).all()


def test_chance_alone_seldom_looks_like_a_loss_and_intervals_hold_the_truth():
    names, samples = ("roc_auc", "accuracy", "log_loss", "f1"), 300
    population = two(400_000, 999, more_noise=0.3)
    truth = {name: statistics.value(name, population[1]) - statistics.value(name, population[0]) for name in names}

    alarms, held = (dict.fromkeys(names, 0) for _ in range(2))
    for seed in range(samples):
        equal, worse = two(400, seed), two(400, seed + samples, more_noise=0.3)
        for name in names:
            alarms[name] += difference(name, *equal).p_lower < 0.05
            found = difference(name, *worse)
            held[name] += found.low <= truth[name] <= found.high

    assert all(0.02 <= count / samples <= 0.08 for count in alarms.values()), alarms
    assert all(0.86 <= count / samples <= 0.94 for count in held.values()), held


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        pytest.param([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02], id="by hand"),
        pytest.param([0.5, 0.6, 0.02], [1.0, 1.0, 0.06], id="at most 1"),
        pytest.param([0.02, 0.02], [0.04, 0.04], id="equal"),
        pytest.param([0.03], [0.03], id="one"),
        pytest.param([], [], id="none"),
    ],
)
def test_holm_adjusts_by_rank(p, adjusted):
    assert holm(p) == pytest.approx(adjusted)


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss"])
def test_only_what_is_more_than_chance_is_told_from_the_best_whichever_way_is_better(metric):
    (best, near), (_, far) = two(), two(more_noise=3.0)
    one_sided = difference(metric, far, best)

    p = from_best(metric, [best, best, near, far])

    assert p[:2] == [1.0, 1.0]
    assert p[2] > 0.05
    assert p[3] == pytest.approx(6 * min(one_sided.p_lower, one_sided.p_higher))  # two sides, three others
    assert p[3] < 0.001


def test_what_is_not_defined_is_not_told_from_the_best():
    one, other = two()
    alike = one.y == 1

    assert from_best("roc_auc", [one.take(alike), other.take(alike)]) == [1.0, 1.0]


@pytest.mark.parametrize(("allowance", "tests"), [(0.0, 1), (0.02, 4), (0.2, 1)])
def test_what_is_detectable_fails_in_80_of_100_samples(allowance, tests):
    error = 1 / np.sqrt(400)
    loss = detectable(error, allowance, tests)
    y = np.zeros(400)

    failed = []
    for seed in range(1500):
        change = np.random.default_rng(seed).normal(loss, 1, 400)
        found = difference("mae", regressor(y, y + 10), regressor(y, 10 + change))
        failed.append(found.value > allowance and found.p_higher < 0.05 / tests)

    assert np.mean(failed) == pytest.approx(0.8, abs=0.04)
