import json
import random
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pawl import paths
from pawl.config import Columns, Ingest, Task, Validate
from pawl.pipeline import ingest, validate
from pawl.problem import Problem
from pawl.schema import Column, Schema

RULES = {
    "id": Column(dtype="text"),
    "age": Column(dtype="integer", min=0, max=120, scale=50.0),
    "pay": Column(dtype="number", missing=0.1),
    "region": Column(dtype="category", values=("north", "south"), missing=0.1),
    "bought": Column(dtype="category"),
}
TASK = Task(task="binary", target="bought", positive="yes", threshold=0.5, columns=Columns(id="id"))
LIMITS = Validate(min_rows=100)


def table(rows=400):
    """Return a table in which every rule holds."""
    rng = random.Random(0)
    return {
        "id": [f"r{row}" for row in range(rows)],
        "age": [rng.randint(18, 80) for _ in range(rows)],
        "pay": [rng.random() * 1000 for _ in range(rows)],
        "region": [rng.choice(["north", "south"]) for _ in range(rows)],
        "bought": [rng.choice(["yes", "no"]) for _ in range(rows)],
    }


def findings(columns, *, task=TASK, limits=LIMITS, rules=RULES, source="data.parquet"):
    if source == "data.parquet":
        pq.write_table(pa.table(columns), source)
    ingest.run(task, Ingest(source=source), Schema(columns=rules))
    return {
        (found.level, found.column, found.rule): found for found in validate.check(task, limits, Schema(columns=rules))
    }


def said(found, level, column, words):
    return [key for key in found if key[:2] == (level, column) and words in key[2]]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_good_table_breaks_no_rule():
    assert findings(table()) == {}


def spoil(name, cells):
    return lambda columns: columns[name].__setitem__(slice(0, len(cells)), cells)


BROKEN = {
    "below min": (spoil("age", [-1]), "error", "age", "below min 0"),
    "above max": (spoil("age", [121]), "error", "age", "above max 120"),
    "unknown category": (spoil("region", ["moon"]), "error", "region", "not one of `values`"),
    "infinite": (spoil("pay", [float("inf")]), "error", "pay", "infinite"),
    "too many missing": (spoil("pay", [None] * 50), "error", "pay", "missing values, schema.yaml allows 10.00%"),
    "missing, none allowed": (spoil("age", [None]), "error", "age", "missing values, schema.yaml allows 0.00%"),
    "all missing": (spoil("pay", [None] * 400), "error", "pay", "missing values"),
    "constant": (spoil("pay", [7.0] * 400), "warn", "pay", "constant"),
    "unit": (lambda columns: columns.update(age=[age / 20 for age in columns["age"]]), "error", "age", "not of dtype integer"),
    "another unit": (lambda columns: columns.update(age=[1] * 400), "error", "age", "has the unit changed?"),
    "target missing": (spoil("bought", [None]), "error", "bought", "missing values, schema.yaml allows 0.00%"),
    "target gone": (lambda columns: columns.pop("bought"), "error", "bought", "the table has no such column"),
    "one class": (spoil("bought", ["yes"] * 400), "error", "bought", "1 class in the target"),
    "three classes": (spoil("bought", ["maybe"] * 100), "error", "bought", "3 classes in the target of a binary task"),
    "rare class": (lambda columns: columns.update(bought=["yes"] * 395 + ["no"] * 5), "error", "bought", "1 of 2 classes have fewer rows"),
    "no positive": (lambda columns: columns.update(bought=["no" if cell == "no" else "oui" for cell in columns["bought"]]), "error", "bought", "no row has the label 'yes', `positive` in params.yaml; the table has 'no', 'oui'"),
    "new column": (lambda columns: columns.update(shoe=[1] * 400), "error", "shoe", "not in schema.yaml"),
    "ids twice": (spoil("id", ["r7"]), "error", "id", "not unique"),
    "leak": (lambda columns: columns.update(pay=[500.0 if cell == "yes" else 10.0 for cell in columns["bought"]]), "error", "pay", "predicts the target almost perfectly"),
    "leak by category": (lambda columns: columns.update(region=["north" if cell == "yes" else "south" for cell in columns["bought"]]), "error", "region", "predicts the target almost perfectly"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "level", "column", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_rule_is_found(change, level, column, words):
    columns = table()
    change(columns)

    assert said(findings(columns), level, column, words)


def test_few_rows_are_an_error():
    assert said(findings(table(90)), "error", "", "90 rows, validate.min_rows is 100")


def test_every_broken_rule_is_found_at_once_with_its_rows():
    columns = table()
    columns["age"][3] = 200
    columns["region"][5:7] = ["moon", "mars"]
    columns["pay"][9] = float("-inf")

    found = findings(columns)

    assert found["error", "age", "above max 120"].rows == (4,)
    assert found["error", "region", "not one of `values`"].rows == (6, 7)
    assert found["error", "region", "not one of `values`"].examples == ("moon", "mars")
    assert found["error", "pay", "infinite"].rows == (10,)


def test_cells_of_another_type_are_told_with_their_rows():
    columns = table()
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    lines[2] = lines[2].replace("r1,", "r1,x", 1)
    Path("data.csv").write_text("\n".join(lines) + "\n")

    found = findings(columns, source="data.csv")

    assert found["error", "age", "not of dtype integer"].rows == (2,)
    assert not said(found, "error", "age", "missing")  # said once, for what it is


def test_a_leak_that_is_allowed_in_git_is_a_warning():
    columns = table()
    columns["pay"] = [500.0 if cell == "yes" else 10.0 for cell in columns["bought"]]

    assert said(findings(columns, limits=Validate(min_rows=100, allow_leakage=("pay",))), "warn", "pay", "predicts")


def test_a_column_that_tells_one_of_three_classes_apart_is_no_leak_and_one_that_tells_all_is():
    columns = table()
    columns["bought"] = [("yes", "no", "later")[row % 3] for row in range(400)]
    columns["pay"] = [float(row % 3 == 2) * 500 + row % 7 for row in range(400)]
    columns["age"] = [20 + row % 3 for row in range(400)]
    task = msgspec.structs.replace(TASK, task="multiclass", positive=None)
    rules = RULES | {"bought": Column(dtype="category")}

    found = findings(columns, task=task, rules=rules)

    assert [key[1] for key in found if "predicts" in key[2]] == ["age"]


def test_a_leak_is_found_beside_rows_without_a_target_and_labels_of_few_rows():
    columns = table()
    columns["pay"] = [500.0 if cell == "yes" else 10.0 for cell in columns["bought"]]
    columns["bought"] = [None if row % 9 == 0 else "typo" if row in {10, 11} else cell for row, cell in enumerate(columns["bought"])]  # fmt: skip
    task = msgspec.structs.replace(TASK, task="multiclass", positive=None)
    rules = RULES | {"bought": Column(dtype="category", missing=0.2)}

    assert said(findings(columns, task=task, rules=rules), "error", "pay", "predicts")


def test_a_column_that_is_ignored_may_be_constant_and_may_not_break_its_rules():
    columns = table() | {"region": ["north"] * 400}
    task = msgspec.structs.replace(TASK, columns=Columns(id="id", ignore=("region",)))

    assert said(findings(columns), "warn", "region", "constant")
    assert findings(columns, task=task) == {}
    columns["region"][:100] = [None] * 100
    assert said(findings(columns, task=task), "error", "region", "missing")


def test_an_id_of_many_values_is_no_leak():
    columns = table() | {"region": [f"x{row}" for row in range(400)]}
    rules = RULES | {"region": Column(dtype="category")}

    assert findings(columns, rules=rules) == {}


def test_duplicate_rows_are_counted():
    columns = table()
    for name, cells in columns.items():
        cells[10:13] = [cells[0]] * 3 if name != "id" else cells[10:13]
    task = Task(task="binary", target="bought", positive="yes", threshold=0.5, columns=Columns())
    rules = {name: rule for name, rule in RULES.items() if name != "id"}
    del columns["id"]

    found = findings(columns, task=task, rules=rules)

    assert found["warn", "", "duplicate rows (prepare.drop_duplicates drops them)"].count == 3


@pytest.mark.parametrize(("shared", "level"), [(1, "warn"), (40, "error")])
def test_rows_in_two_given_splits_are_a_leak_when_they_are_many(shared, level):
    columns = table()
    del columns["id"]
    rules = {name: rule for name, rule in RULES.items() if name != "id"}
    task = Task(task="binary", target="bought", positive="yes", threshold=0.5, columns=Columns())
    pq.write_table(pa.table({name: cells[:300] for name, cells in columns.items()}), "train.parquet")
    pq.write_table(
        pa.table({name: cells[300 - shared : 400 - shared] for name, cells in columns.items()}), "test.parquet"
    )

    found = findings(
        None,
        task=task,
        rules=rules,
        source={"train": "train.parquet", "test": "test.parquet"},
        limits=Validate(min_rows=100, max_overlap=0.05),
    )

    (key,) = said(found, level, "", "rows of valid or test stand in train too")
    assert found[key].count == shared


def test_a_regression_target_needs_no_classes():
    task = Task(task="regression", target="pay", positive=None, threshold=0.5, columns=Columns(id="id"))

    assert findings(table(), task=task) == {}


@pytest.mark.parametrize(
    ("positive", "labels"), [(True, ("True", "False")), (True, ("true", "false")), (1, ("1.0", "0.0")), (0, ("1", "0"))]
)
def test_a_positive_label_is_found_as_the_table_writes_it(positive, labels):
    columns = table() | {"bought": [labels[cell == "no"] for cell in table()["bought"]]}
    task = Task(task="binary", target="bought", positive=positive, threshold=0.5, columns=Columns(id="id"))

    assert findings(columns, task=task) == {}
    assert task.positive_in(labels) == labels[positive == 0]


def test_the_target_of_a_regression_is_a_number():
    task = Task(task="regression", target="region", positive=None, threshold=0.5, columns=Columns(id="id"))

    assert said(findings(table(), task=task), "error", "region", "must be integer or number, not category")


def test_large_integers_are_read():
    columns = table() | {"age": [2**53 + 1 + row for row in range(400)]}
    rules = RULES | {"age": Column(dtype="integer", scale=9e15)}

    assert findings(columns, rules=rules) == {}


def test_a_column_with_a_name_of_ours_is_refused():
    with pytest.raises(Problem, match="a column is called row_id"):
        findings(table() | {"row_id": [1] * 400}, rules=RULES | {"row_id": Column(dtype="integer")})


def test_the_report_holds_cells_of_public_columns_only(capsys):
    columns = table()
    columns["region"][0], columns["age"][1] = "=cmd()|moon", 999
    pq.write_table(pa.table(columns), "data.parquet")
    rules = RULES | {"region": Column(dtype="category", values=("north", "south"), public=True)}
    ingest.run(TASK, Ingest(source="data.parquet"), Schema(columns=rules))

    with pytest.raises(Problem, match=r"2 rules are broken: (age, region|region, age)") as raised:
        validate.run(TASK, LIMITS, Schema(columns=rules))

    assert raised.value.code == 2
    report = {entry["column"]: entry for entry in json.loads(paths.VALIDATION.read_text())}
    assert report["region"]["examples"] == ["=cmd()|moon"]
    assert report["age"]["examples"] == []
    assert "999" not in capsys.readouterr().err
    assert "=cmd()&#124;moon" in paths.VALIDATION.with_suffix(".md").read_text()
