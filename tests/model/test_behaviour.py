"""Did the model of the sample learn? Judged on what a small project trains; the questions are the ones to ask of yours."""

import pytest

from pawl import bundle

TYPICAL = {
    "age": 40, "workclass": "Private", "education_years": 9, "marital_status": "Married", "occupation": "Craft",
    "sex": "Male", "capital_gain": 0, "hours_per_week": 40, "region": "north",
}  # fmt: skip


@pytest.fixture(scope="module")
def candidate(project):
    return bundle.load(project.path / "models/bundle")


def probability(candidate, **changes):
    return float(candidate.predict_records([{**TYPICAL, **changes}])[1][0, 1])


def test_the_order_of_keys_changes_nothing(candidate):
    turned = dict(reversed(TYPICAL.items()))

    assert candidate.predict_records([turned])[1].tolist() == candidate.predict_records([TYPICAL])[1].tolist()


def test_a_row_does_not_depend_on_its_batch(candidate):
    records = candidate.golden["records"]

    together = candidate.predict_records(records)[1]

    alone = [candidate.predict_records([record])[1][0].tolist() for record in records]
    assert alone == together.tolist()


@pytest.mark.parametrize(
    ("less", "more"),
    [
        pytest.param({"education_years": 5}, {"education_years": 14}, id="education raises it"),
        pytest.param({"marital_status": "Never-married"}, {"marital_status": "Married"}, id="marriage raises it"),
        pytest.param({"occupation": "Service"}, {"occupation": "Managerial"}, id="a managerial occupation raises it"),
        pytest.param({"capital_gain": 0}, {"capital_gain": 14_000}, id="capital gain raises it"),
    ],
)
def test_a_change_moves_the_probability_in_the_right_direction(candidate, less, more):
    assert probability(candidate, **less) < probability(candidate, **more)


@pytest.mark.parametrize(
    ("record", "label"),
    [
        pytest.param(
            {"education_years": 16, "occupation": "Managerial", "capital_gain": 14_000}, ">50K", id="plainly above"
        ),
        pytest.param(
            {"education_years": 2, "marital_status": "Never-married", "occupation": "Service", "age": 19},
            "<=50K",
            id="plainly below",
        ),
    ],
)
def test_plain_cases_are_right(candidate, record, label):
    assert candidate.predict_records([{**TYPICAL, **record}])[0] == [label]


def test_missing_and_unknown_values_get_an_answer(candidate):
    answers, probabilities = candidate.predict_records([{}, {**TYPICAL, "region": "the moon"}])

    assert len(answers) == 2
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_the_stored_golden_rows_are_reproduced(candidate):
    assert bundle.check_golden(candidate) == []
