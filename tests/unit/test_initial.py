import math

import pytest

from pawl import initial
from pawl.initial import Column
from pawl.problem import Problem

ROWS = 2000


def column(name, dtype="number", **more):
    return Column(name, dtype, **{"rows": ROWS, "distinct": 900, **more})


def labels(name="y", dtype="category", **counts):
    rows = sum(counts.values())
    return Column(name, dtype, rows, distinct=len(counts), counts=counts)


AGE = column("age")
BOTH = labels(yes=600, no=1400)


def planned(*columns, target=BOTH, task=None):
    return initial.decide([*(columns or (AGE,)), target], target.name, "a.csv", task)


def why(plan, what):
    return [f"{said.value}: {said.why}" for said in plan.said if said.what == what]


@pytest.mark.parametrize(
    ("target", "kind", "positive"),
    [
        pytest.param(BOTH, "binary", "yes", id="by its name"),
        pytest.param(labels(good=1700, other=300), "binary", "other", id="the rarer"),
        pytest.param(labels(**{"0.0": 1200, "1.0": 800}), "binary", "1.0", id="floats"),
        pytest.param(labels(True_=700, False_=1300), "binary", "True_", id="no name, the rarer"),
        pytest.param(labels(dtype="boolean", true=1500, false=500), "binary", "true", id="true, though the more frequent"),
        pytest.param(labels(yes=500, no=1490, maybe=9), "binary", "yes", id="a third label with too few rows"),
        pytest.param(labels(a=700, b=700, c=600), "multiclass", None, id="three texts"),
        pytest.param(column("y", "integer", distinct=10, whole=True, counts={str(k): 200 for k in range(10)}), "multiclass", None, id="few whole numbers"),
        pytest.param(column("y", "integer", distinct=21, whole=True), "regression", None, id="many whole numbers"),
        pytest.param(column("y", distinct=7, counts={"1.5": 300}), "regression", None, id="few broken numbers"),
    ],
)  # fmt: skip
def test_the_kind_of_task_follows_from_the_target(target, kind, positive):
    params = planned(target=target).params

    assert (params["task"], params["positive"]) == (kind, positive)
    assert params["train"]["model"].endswith("Regressor" if kind == "regression" else "Classifier")


def test_the_task_may_be_said():
    grades = column("y", "integer", distinct=6, whole=True, counts={str(k): 333 for k in range(6)})

    assert planned(target=grades, task="regression").params["task"] == "regression"


@pytest.mark.parametrize(
    ("target", "task", "told"),
    [
        pytest.param(labels(yes=2000), None, "y is yes in all 2,000 rows", id="all alike"),
        pytest.param(labels(yes=1995, no=5), None, "y needs two labels with 10 rows or more; it has yes 1995, no 5", id="one label is too rare"),
        pytest.param(labels(yes=30, no=10), None, "40 rows have a y, and 50 are the fewest", id="too few rows"),
        pytest.param(column("y", "text"), None, "y has 900 different values, and 200 classes are the most", id="too many labels"),
        pytest.param(labels(a=700, b=700, c=600), "binary", "y has 3 labels", id="binary of three"),
        pytest.param(BOTH, "regression", "y holds no numbers", id="regression of texts"),
    ],
)  # fmt: skip
def test_a_target_of_which_no_model_can_be_made_is_refused(target, task, told):
    with pytest.raises(Problem, match=told) as raised:
        planned(target=target, task=task)

    assert raised.value.where == "a.csv"


def test_a_table_without_features_is_refused():
    with pytest.raises(Problem, match="no column is left to learn from"):
        planned(column("note", "text"), column("when", "datetime"))


def test_few_positives_get_a_rule_for_the_threshold_and_gates_that_do_not_count_hits():
    rare, even = planned(target=labels(yes=100, no=1900)), planned()

    assert rare.params["threshold"] == {"rule": "f_beta", "beta": 1}
    assert list(rare.gates["metrics"]) == ["roc_auc", "average_precision", "log_loss", "model_bytes"]
    assert rare.gates["metrics"]["average_precision"]["floor"] == 0.05
    assert even.params["threshold"] == 0.5
    assert "accuracy" in even.gates["metrics"]


ROLES = {
    "an id": (column("customerID", "text", distinct=ROWS), {"id": "customerID"}),
    "a key of few rows": (column("row", "category", distinct=ROWS), {"id": "row"}),
    "numbers that count through": (column("x", "integer", distinct=ROWS, running=True), {"id": "x"}),
    "another value in every row, and no id": (column("size", "integer", distinct=ROWS), {}),
    "a text that is never the same": (column("comment", "text", distinct=ROWS), {"ignore": ["comment"]}),
    "a group": (column("patient", "text", distinct=400), {"group": "patient"}),
    "a group of few": (column("patient", "category", distinct=12), {}),
    "a time": (column("created_at", "datetime", borders=("a", "b")), {"time": "created_at"}),
    "a day of birth": (column("birth_date", "datetime", borders=("a", "b")), {}),
    "a time with too few classes beside its borders": (column("created_at", "datetime"), {}),
    "a constant": (column("country", "category", distinct=1), {"ignore": ["country"]}),
    "nothing": (column("void", "category", distinct=0, missing=ROWS), {"ignore": ["void"]}),
    "the answer": (column("paid", power=0.995), {"ignore": ["paid"]}),
    "a good feature": (column("paid", power=0.985), {}),
    "a name with a quote": (column('said "yes"'), {"ignore": ['said "yes"']}),
    "a split": (column("part", "category", distinct=2, counts={"train": 1500, "test": 500}), {"split": "part"}),
    "keys of many": (column("shop_id", "integer", distinct=ROWS // 3 * 2, missing=1), {"ignore": ["shop_id"]}),
}


@pytest.mark.parametrize(("given", "columns"), ROLES.values(), ids=ROLES)
def test_a_column_has_the_role_that_it_looks_like(given, columns):
    plan = planned(given, AGE)

    assert plan.params["columns"] == columns
    for role, name in columns.items():
        assert why(plan, "ignored" if role == "ignore" else role), name


def test_numbers_that_name_things_are_categories():
    assert planned(column("store_id", "integer", distinct=12), AGE).dtypes == {"store_id": "category"}


@pytest.mark.parametrize(
    ("columns", "split"),
    [
        pytest.param([AGE], {"split": "random"}, id="random"),
        pytest.param([column("user_id", "text", distinct=300)], {"split": "group"}, id="group"),
        pytest.param([column("day", "datetime", borders=("2025-01-02", "2025-02-03"))], {"split": "time", "valid_from": "2025-01-02", "test_from": "2025-02-03"}, id="time"),
        pytest.param([column("part", "category", counts={"train": 1500, "test": 500})], {"split": "given"}, id="given"),
        pytest.param([column("user_id", "text", distinct=300), column("day", "datetime", borders=("a", "b"))], {"split": "group"}, id="group before time"),
    ],
)  # fmt: skip
def test_rows_are_split_as_they_belong_together(columns, split):
    plan = planned(*columns, AGE)

    assert plan.params["prepare"].items() >= split.items()
    assert why(plan, "split")


def test_a_small_table_gets_limits_that_it_can_keep():
    small = Column("age", "number", 150, distinct=40)

    plan = planned(small, target=labels(a=50, b=50, c=50))

    assert plan.params["validate"] == {"min_rows": 75, "min_class_rows": 20}
    assert plan.params["prepare"]["test"] == 0.3
    assert plan.gates["baseline"] == {"min_rows": 22}
    assert plan.params["drift"]["min_rows"] == 50
    assert "ceiling" not in plan.gates["metrics"]["log_loss"]


def test_the_floors_are_what_needs_no_model():
    rules = planned(target=labels(yes=800, no=1200)).gates["metrics"]
    amounts = column("y", distinct=ROWS, spread=10.0, scatter=4.0)

    numbers = planned(target=amounts).gates["metrics"]

    chance = 1.96 * math.sqrt(0.6 * 0.4 / 400)
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert rules["roc_auc"]["floor"] == 0.5
    assert 0.6 - chance - 0.001 < rules["accuracy"]["floor"] <= 0.6 - chance
    assert entropy < rules["log_loss"]["ceiling"] < entropy + 0.03
    assert numbers["r2"]["floor"] == 0.0
    assert 10 + 1.96 * 4 / 20 <= numbers["mae"]["ceiling"] < 10.5


def test_a_class_that_a_test_split_may_lack_has_no_area_in_the_gates():
    assert "roc_auc" not in planned(target=labels(a=1000, b=980, c=20)).gates["metrics"]
    assert list(planned(target=labels(yes=15, no=1985)).gates["metrics"]) == ["log_loss", "model_bytes"]


def test_rows_without_a_target_and_labels_of_a_few_rows_are_left_out_and_told():
    target = labels(a=900, b=900, oops=1)._replace(missing=200, rows=2001)

    plan = planned(target=target)

    assert plan.params["prepare"]["drop_missing"] == ["y"]
    assert plan.params["ingest"]["replace"] == {"y": {"oops": None}}
    assert len(why(plan, "left out")) == 2


def test_cells_that_are_no_numbers_become_missing_and_are_told():
    plan = planned(column("age", odd=("n.v.", "x")))

    assert plan.params["ingest"]["replace"] == {"age": {"n.v.": None, "x": None}}
    assert why(plan, "missing") == ["n.v., x in age: all its other cells are numbers"]


def test_slices_are_columns_with_rows_enough_and_people_come_first():
    colour = column("colour", "category", distinct=2, counts={"red": 1000, "blue": 1000})
    sex = column("sex", "category", distinct=2, counts={"f": 1000, "m": 1000})
    town = column("town", "category", distinct=2, counts={"a": 1900, "b": 100})

    assert planned(town, colour, sex).params["evaluate"]["slices"] == ["sex", "colour"]


def test_what_is_no_feature_is_told():
    plan = planned(AGE, column("note", "text"), column("seen", "datetime"))

    assert [line.partition(":")[0] for line in why(plan, "no feature")] == ["seen", "note"]
