import datetime as dt

import numpy as np
import pytest
from msgspec import structs

from pawl import metrics
from pawl.answers import Answers, hidden, pair
from pawl.gate import statistics, verdict
from pawl.gate.compare import Other, compare, facts
from pawl.gate.rules import SIZE, Gates, Rule, SliceRules
from task.metrics import METRICS

RULE = Rule(direction="higher", max_regression=0.01)
SEXES = ("sex=Female", "sex=Male")
HIDDEN = tuple(hidden(each) for each in SEXES)
ACCURACY = Gates(version=1, metrics={"accuracy": RULE})


def of(wrong=0, rows=2000, first=0, labels=("no", "yes"), sexes=SEXES):
    """Return the answers on rows `first` and following; those below `wrong` are wrong. Every fourth row is of the first sex."""
    names = np.arange(first, first + rows, dtype=np.uint64)
    y = (names % 2).astype(int)
    prediction = np.where(names < wrong, 1 - y, y)
    sex = (sexes, (names % 4 > 0).astype(int))
    return Answers("binary", labels, names, y, prediction, pair(0.2 + 0.6 * prediction), None, {"sex": sex}, rows)


def other(answers, commit="b", **more):
    return Other(commit * 40, lambda: answers, **more)


def by(*columns, metric="accuracy", **more):
    """Return gates with a rule for the slices of some columns alone."""
    return Gates(version=1, metrics={}, slices=(SliceRules(by=columns, metrics={metric: RULE}, **more),))


def against(*marks, gates=ACCURACY, baseline=None):
    """Return how a candidate with 100 wrong answers compares with marks; the baseline is as good unless another is given."""
    mine = of(100, sexes=HIDDEN)
    found, _, _ = compare(gates, mine, None, baseline or other(mine), marks)
    return [each for each in found if each.against == "high_water"]


def test_two_models_are_compared_on_the_rows_of_both():
    [found], state, why = compare(ACCURACY, of(600), None, other(of(500, first=400)))

    assert (state, why, found.n, found.method, found.commit) == ("compared", "", 1600, "mcnemar", "b" * 40)
    assert (found.baseline, found.difference) == pytest.approx((1500 / 1600, -100 / 1600))
    assert found.p_lower < 1e-9 < found.p_higher


# (the baseline's answers, why they are not compared)
INCOMPARABLE = {
    "numbers alone": (None, "numbers alone"),
    "other labels": (of(labels=("yes", "no")), "0 test rows are common to both, fewer than 200"),
    "too few rows": (of(first=1801), "199 test rows are common to both, fewer than 200"),
    "other targets": (of()._replace(y=1 - of().y), "0 test rows are common"),
}


@pytest.mark.parametrize(("theirs", "why"), INCOMPARABLE.values(), ids=INCOMPARABLE)
def test_what_cannot_be_compared_is_incomparable_and_says_why(theirs, why):
    found, state, said = compare(ACCURACY, of(), None, other(theirs))
    assert (found, state, why in said) == ([], "incomparable", True), said
    assert compare(ACCURACY, of(), None, other(of(first=1800)))[1:] == ("compared", "")  # just enough rows


def test_a_slice_is_compared_on_its_own_rows_where_it_is_large_enough():
    found = {each.slice: each for each in compare(by("sex", "age"), of(400), None, other(of(first=200)))[0]}

    assert {name: (each.n, each.difference) for name, each in found.items()} == {
        "sex=Female": (450, pytest.approx(-50 / 450)), "sex=Male": (1350, pytest.approx(-150 / 1350)),
    }  # fmt: skip
    assert [each.slice for each in compare(by("sex", min_rows=501), of(400), None, other(of()))[0]] == ["sex=Male"]


def test_a_size_is_compared_exactly_with_the_baseline_and_the_smallest_of_main():
    gates = Gates(version=1, metrics={SIZE: Rule(direction="lower", max_regression="10%")})
    marks = [other(None, "c", size=90.0), other(None, "d"), other(None, "e", size=95.0)]

    found, _, _ = compare(gates, of(), 104.0, other(of(), size=100.0), marks)

    assert [(each.against, each.commit[0], each.baseline, each.difference, each.error, each.method) for each in found] == [
        ("baseline", "b", 100.0, 4.0, None, "exact"), ("high_water", "c", 90.0, 14.0, None, "exact"),
    ]  # fmt: skip
    assert compare(gates, of(), None, other(of(), size=100.0))[0] == compare(gates, of(), 104.0, other(of()))[0] == []


def test_ten_merges_that_each_lose_half_of_what_is_allowed_are_stopped_by_the_mark():
    merges = [of(wrong) for wrong in range(100, 201, 10)]  # of 2000 rows: 0.005 each
    for number, mine in enumerate(merges[1:], 1):
        before = [other(merges[place], "abcdefghij"[place]) for place in reversed(range(number))]
        for marks, expected in (([], "pass"), (before, "pass" if number < 3 else "fail")):
            compared = compare(ACCURACY, mine, None, before[0], marks)
            [judged] = verdict.judge(ACCURACY, facts(mine, ACCURACY), *compared[:2], dt.date(2026, 1, 1))
            assert judged.verdict == expected
            assert ("the best of main (aaaaaaa)" in judged.reason) == (expected == "fail")


@pytest.mark.parametrize(
    ("waived", "commit"),
    [((), "d"), (("roc_auc",), "d"), (("accuracy[sex=Male]",), "d"), (("accuracy",), "c"), (("f1", "*"), "c")],
)
def test_a_waived_commit_is_where_the_mark_starts_anew(waived, commit):
    marks = [other(of(90), "c", waived=frozenset(waived)), other(of(50), "d")]

    assert [each.commit[0] for each in against(*marks)] == [commit]
    assert bool(against(marks[1], baseline=other(of(100), waived=frozenset(waived)))) == (commit == "d")


def test_a_waived_slice_whose_value_is_hidden_is_where_its_mark_starts_anew():
    marks = [other(of(90), "c", waived=frozenset({"accuracy[sex=Female]"})), other(of(50), "d")]

    assert {each.slice: each.commit[0] for each in against(*marks, gates=by("sex"))} == {HIDDEN[0]: "c", HIDDEN[1]: "d"}


def test_a_mark_with_other_test_rows_is_compared_on_the_rows_of_both():
    [found] = against(other(of(70, first=50), "c"), other(of(0, rows=199), "d"))

    assert (found.commit[0], found.n, found.difference) == ("c", 1950, pytest.approx(-30 / 1950))


def test_a_mark_is_found_by_its_stored_value_and_read_once_it_leads_and_left_out_without_predictions():
    behind = Other("b" * 40, lambda: pytest.fail("it was read"), of().digest, {("accuracy", ""): 0.90})
    without = other(None, "c", key=of().digest, values={("accuracy", ""): 1.0})
    ahead = other(of(50), "d", key=of().digest, values={("accuracy", ""): 0.975})

    assert [each.commit[0] for each in against(behind, without, ahead)] == ["d"]
    assert against(without) == against(other(None, "c")) == []


def test_a_metric_that_one_model_does_not_have_is_compared_with_nothing(monkeypatch):
    monkeypatch.setitem(METRICS, "mine", lambda y, prediction, _: np.nan if (y == prediction).all() else 0.5)
    gates = Gates(version=1, metrics={"mine": RULE, "unheard": RULE})

    [found], state, _ = compare(gates, of(100), None, other(of()))
    assert (state, found.metric, found.difference, found.baseline) == ("compared", "mine", None, None)
    assert (found.p_lower, found.p_higher, found.error) == (1.0, 1.0, 0.0)
    by_label = of(100)._replace(slices={"label": (("label=no", "label=yes"), of().y)})  # each has a single label
    found, state, _ = compare(by("label", metric="roc_auc"), by_label, None, other(of(50)))
    assert (state, [each.difference for each in found]) == ("compared", [None, None])


def random(task, k, seed):
    """Return answers like a real model's, with y the same for every seed."""
    truth, rng, names = np.random.default_rng(0), np.random.default_rng(seed), np.arange(400, dtype=np.uint64)
    if task == "regression":
        y = truth.normal(size=400)
        return Answers(task, (), names, y, y + rng.normal(size=400), None, None, {}, 400)
    y, scores = truth.integers(0, k, 400), rng.dirichlet(np.ones(k), 400)
    return Answers(task, tuple("abc"[:k]), names, y, scores.argmax(1), scores, None, {}, 400)


@pytest.mark.parametrize(("task", "k"), [("binary", 2), ("multiclass", 3), ("regression", 0)])
def test_what_is_measured_and_compared_is_what_the_metrics_say(task, k):
    one, two = (random(task, k, seed) for seed in (1, 2))
    said = [
        metrics.classification(each.y, each.probabilities, each.prediction, seed=0, custom=METRICS) if k
        else metrics.regression(each.y, each.prediction, seed=0, custom=METRICS)
        for each in (one, two)
    ]  # fmt: skip
    gates = Gates(version=1, metrics=dict.fromkeys(said[0], RULE))
    found, _, _ = compare(gates, two, None, other(one))

    assert {name: tuple(each[:3]) for name, each in said[1].items()} == {name: (each.value, each.low, each.high) for name, each in facts(two, gates).metrics.items()}  # fmt: skip
    assert statistics.names(two.task, METRICS) == said[0].keys() == {each.metric for each in found}
    for each in found:
        wanted = [part[each.metric].value for part in said]
        assert (each.baseline, each.baseline + each.difference) == pytest.approx(wanted), each.metric


def test_facts_of_slices_are_of_their_rules_and_of_the_headline():
    slices = {"label": (("label=no", "label=yes"), of().y), "sex": (("sex=Female", "", "sex=Other"), of().y)}
    answers = of(500)._replace(slices=slices)
    gates = structs.replace(by("sex", "age", metric="recall"), metrics={"roc_auc": RULE, "f1": RULE})

    found = facts(answers, gates, {"roc_auc": verdict.Value(0.5, None, None, 1)}, size=7.0)

    assert {name: each.value for name, each in found.metrics.items()} == {"roc_auc": 0.5, SIZE: 7.0}
    assert found.by == {"label": ("label=no", "label=yes"), "sex": ("sex=Female", "sex=Other")}
    assert {name: (each.rows, [*each.metrics]) for name, each in found.slices.items()} == {
        "label=no": (1000, ["roc_auc"]), "label=yes": (1000, ["roc_auc"]), "sex=Female": (1000, ["recall", "roc_auc"]),
    }  # fmt: skip
    assert found.slices["label=yes"].metrics["roc_auc"].value is None  # it has a single label
    assert found.slices["sex=Female"].metrics["recall"].value is None  # it has no positive row


def test_the_metrics_of_a_slice_stand_in_the_order_of_the_rules_whatever_the_process():
    rules = dict.fromkeys(("recall", "f1", "precision", "log_loss", "brier", "ece"), RULE)
    gates = Gates(version=1, metrics={}, slices=(SliceRules(by=("sex",), metrics=rules),))
    assert {tuple(each.metrics) for each in facts(of(100), gates, resamples=5).slices.values()} == {tuple(rules)}
