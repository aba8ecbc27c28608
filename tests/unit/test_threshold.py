import numpy as np
import pytest

from pawl.config import ThresholdRule
from pawl.pipeline import train
from pawl.problem import Problem

RULES = [
    ThresholdRule(rule="f_beta"),
    ThresholdRule(rule="f_beta", beta=0.5),
    ThresholdRule(rule="f_beta", beta=2),
    ThresholdRule(rule="cost"),
    ThresholdRule(rule="cost", false_positive=1, false_negative=5),
    ThresholdRule(rule="cost", false_positive=5, false_negative=1),
    ThresholdRule(rule="recall_at_precision", precision=0.5),
    ThresholdRule(rule="recall_at_precision", precision=0.6),
]


def worth(rule, y, probability, cut):
    """Return what a threshold is worth, from the definition; None where it is not allowed."""
    taken = probability >= cut
    hit, wrong, missed = (taken & (y == 1)).sum(), (taken & (y == 0)).sum(), (~taken & (y == 1)).sum()
    if rule.rule == "cost":
        return -(rule.false_positive * wrong + rule.false_negative * missed)
    precision, recall = hit / max(hit + wrong, 1), hit / max(hit + missed, 1)
    if rule.rule == "recall_at_precision":
        return recall if precision >= rule.precision else None
    square = rule.beta**2
    return (1 + square) * precision * recall / (square * precision + recall) if hit else 0.0


def best(rule, y, probability):
    """Return the largest worth over every way to cut the rows in two, and the largest cut that reaches it."""
    cuts = [np.inf, *np.unique(probability)[::-1]]
    values = [-np.inf if (value := worth(rule, y, probability, cut)) is None else value for cut in cuts]
    return max(values)


@pytest.mark.parametrize("decimals", [1, 2, 9], ids=["many ties", "ties", "no ties"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_other_cut_is_worth_more(rule, decimals):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        probability = rng.random(60).round(decimals)
        y = (rng.random(60) < probability).astype(np.int64)

        threshold = train.choose(rule, y, probability)

        assert worth(rule, y, probability, threshold) == pytest.approx(best(rule, y, probability)), seed


def test_where_alarms_cost_too_much_none_is_raised():
    y, probability = np.array([0, 1, 1, 0]), np.array([0.9, 0.5, 0.4, 0.1])

    threshold = train.choose(ThresholdRule(rule="cost", false_positive=100, false_negative=1), y, probability)

    assert (probability < threshold).all()


def test_rows_of_equal_score_are_taken_together():
    y, probability = np.array([1, 0, 0, 0, 1]), np.array([0.7, 0.7, 0.7, 0.7, 0.2])

    threshold = train.choose(ThresholdRule(rule="recall_at_precision", precision=0.4), y, probability)

    assert threshold == 0.2  # the first hit alone has precision 1, but does not come alone


def test_of_equally_good_thresholds_the_highest_is_taken():
    threshold = train.choose(ThresholdRule(rule="cost"), np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.6]))

    assert threshold == 0.9


def test_a_number_is_taken_as_it_is():
    assert train.choose(0.37, np.array([0, 1]), np.array([0.1, 0.2])) == 0.37


def test_a_precision_out_of_reach_is_a_problem_that_names_the_best():
    with pytest.raises(Problem, match=r"no threshold reaches precision 0\.9 .* the best is 0\.667") as caught:
        train.choose(
            ThresholdRule(rule="recall_at_precision", precision=0.9), np.array([0, 1, 1]), np.array([0.9, 0.8, 0.7])
        )

    assert caught.value.where == "params.yaml: threshold"


@pytest.mark.parametrize("rule", RULES[:4], ids=str)
def test_no_positive_row_is_no_crash(rule):
    assert train.choose(rule, np.zeros(3, dtype=np.int64), np.array([0.3, 0.2, 0.1])) >= 0.3
