import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pawl import paths
from pawl.config import Columns, Ingest, Prepare, Task
from pawl.pipeline import ingest, prepare
from pawl.problem import Problem
from pawl.schema import Column, Schema

SCHEMA = Schema(
    columns={
        "id": Column(dtype="text"), "household": Column(dtype="text"), "month": Column(dtype="text"),
        "age": Column(dtype="integer"), "pay": Column(dtype="number"), "part": Column(dtype="text"),
        "bought": Column(dtype="category"),
    }
)  # fmt: skip


def table(rows=3000, seed=0):
    rng = random.Random(seed)
    return pa.table({
        "id": [f"{seed}-{row}" for row in range(rows)],
        "household": [f"h{seed}-{row // 3}" for row in range(rows)],
        "month": [f"2025-{1 + row % 12:02d}" for row in range(rows)],
        "age": [rng.randint(18, 80) for _ in range(rows)],
        "pay": [rng.random() if rng.random() > 0.1 else None for _ in range(rows)],
        "part": [("train", "valid", "test", "train")[row % 4] for row in range(rows)],
        "bought": [rng.choice(["yes", "no"]) for _ in range(rows)],
    })  # fmt: skip


def split(given, columns=None, **params):
    """Return {split: rows} of a table, prepared."""
    pq.write_table(given, "data.parquet")
    task = Task(
        task="binary",
        target="bought",
        positive="yes",
        threshold=0.5,
        columns=Columns(**(columns or {"ignore": ("id",)})),
    )
    ingest.run(task, Ingest(source="data.parquet"), SCHEMA)
    prepare.run(task, Prepare(**params), SCHEMA)
    return {name: pq.read_table(paths.PREPARED / f"{name}.parquet") for name in prepare.SPLITS}


def place(parts, column="id"):
    return {cell: name for name, part in parts.items() for cell in part[column].to_pylist()}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


WAYS = {
    "content": ({}, None),
    "id": ({}, {"id": "id"}),
    "group": ({"split": "group"}, {"group": "household", "ignore": ("id",)}),
    "time": ({"split": "time", "valid_from": "2025-09", "test_from": "2025-11"}, {"time": "month", "ignore": ("id",)}),
    "given": ({"split": "given"}, {"split": "part", "ignore": ("id",)}),
}


@pytest.mark.parametrize("way", WAYS)
def test_adding_rows_never_moves_another_row(way):
    params, columns = WAYS[way]
    before = place(split(table(), columns, **params))

    after = place(split(pa.concat_tables([table(2000, seed=1), table()]), columns, **params))

    assert len(before) == 3000
    assert {row: after[row] for row in before} == before


@pytest.mark.parametrize("way", ["content", "id", "group"])
def test_shares_are_kept(way):
    params, columns = WAYS[way]

    parts = split(table(), columns, test=0.3, valid=0.2, **params)

    assert parts["test"].num_rows == pytest.approx(900, abs=100)
    assert parts["valid"].num_rows == pytest.approx(600, abs=90)


def test_another_seed_is_another_split():
    assert place(split(table())) != place(split(table(), seed=1))


def test_a_group_stays_together():
    parts = split(table(), {"group": "household", "ignore": ("id",)}, split="group")

    households = [set(part["household"].to_pylist()) for part in parts.values()]
    assert not households[0] & households[1]
    assert not households[0] & households[2]
    assert not households[1] & households[2]


def test_time_splits_at_its_dates():
    params, columns = WAYS["time"]

    parts = split(table(), columns, **params)

    assert max(parts["train"]["month"].to_pylist()) == "2025-08"
    assert set(parts["test"]["month"].to_pylist()) == {"2025-11", "2025-12"}


def test_time_without_dates_proposes_them():
    with pytest.raises(Problem, match='valid_from: "2025-09", test_from: "2025-10"'):
        split(table(), {"time": "month"}, split="time")


@pytest.mark.parametrize(
    ("dtype", "cells", "borders", "test"),
    [
        ("integer", list(range(60)), ("45", "52"), set(range(52, 60))),
        (
            "datetime",
            [f"2024-{1 + day // 28:02d}-{1 + day % 28:02d}T12:00:00" for day in range(300)],
            ("2024-09-01", "2024-11-01T12:00"),
            None,
        ),
    ],
)
def test_time_is_compared_as_what_it_is(dtype, cells, borders, test):
    given = table().set_column(2, "month", pa.array([cells[row % len(cells)] for row in range(3000)]))
    schema = Schema(columns=SCHEMA.columns | {"month": Column(dtype=dtype)})
    pq.write_table(given, "data.parquet")
    task = Task(
        task="binary", target="bought", positive="yes", threshold=0.5, columns=Columns(time="month", ignore=("id",))
    )
    ingest.run(task, Ingest(source="data.parquet"), schema)

    prepare.run(task, Prepare(split="time", valid_from=borders[0], test_from=borders[1]), schema)

    late, early = (pq.read_table(paths.PREPARED / f"{name}.parquet")["month"].to_pylist() for name in ("test", "valid"))
    assert min(late) > max(early)
    assert test is None or set(late) == test


@pytest.mark.parametrize(
    ("cells", "borders", "told"),
    [
        (["31.12.2024", "01.01.2025"], ("2025-01-01", "2025-06-01"), "holds '31.12.2024', which cannot be ordered"),
        (["2025-01-01", None], ("2025-01-01", "2025-06-01"), "rows have no month"),
        (["2025-01-01", "2025-07-01"], ("2025-06-01", "2025-01-01"), "valid_from 2025-06-01 is not before"),
    ],
)
def test_a_time_that_cannot_be_split_is_refused(cells, borders, told):
    given = table().set_column(2, "month", pa.array([cells[row % 2] for row in range(3000)]))

    with pytest.raises(Problem, match=told):
        split(given, {"time": "month"}, split="time", valid_from=borders[0], test_from=borders[1])


def test_rows_that_differ_in_the_target_alone_are_no_duplicates():
    given = table(1000).drop_columns(["id"])
    other = given.set_column(
        5, "bought", pa.array(["no" if cell == "yes" else "yes" for cell in given["bought"].to_pylist()])
    )
    both = pa.concat_tables([given, other, given])

    parts = split(both.append_column("id", pa.array(["same"] * 3000)), drop_duplicates=True)

    assert sum(part.num_rows for part in parts.values()) == 2000


def test_a_given_split_is_taken_as_it_is():
    given = table()

    assert place(split(given, {"split": "part", "ignore": ("id",)}, split="given")) == dict(
        zip(given["id"].to_pylist(), given["part"].to_pylist(), strict=True)
    )


def test_a_given_split_with_another_word_is_refused():
    given = table().set_column(5, "part", pa.array(["Training"] * 3000))

    with pytest.raises(Problem, match=r"part holds 'Training'"):
        split(given, {"split": "part"}, split="given")


def test_no_value_is_changed():
    given = table().sort_by("id")

    parts = split(given)

    back = pa.concat_tables([part.unify_dictionaries() for part in parts.values()]).sort_by("id")
    assert {name: back[name].to_pylist() for name in given.column_names} == given.to_pydict()


def test_the_order_of_rows_changes_nothing():
    given = table()
    turned = given.take(pa.array(range(given.num_rows - 1, -1, -1)))

    assert {name: part.to_pydict() for name, part in split(given).items()} == {
        name: part.to_pydict() for name, part in split(turned).items()
    }


def test_rows_that_are_dropped_are_counted():
    given = (
        pa.concat_tables([table(), table()])
        .drop_columns(["id"])
        .append_column("id", pa.array(list(map(str, range(6000)))))
    )
    missing = given["pay"].null_count

    parts = split(given, {"id": "id"}, drop_missing=("pay",), drop_duplicates=True)

    report = json.loads(paths.SPLITS.read_text())
    assert report["rows"] == 6000
    assert report["dropped"]["pay missing"] == missing
    assert report["dropped"]["duplicate"] == (6000 - missing) - sum(part.num_rows for part in parts.values())
    assert report["dropped"]["duplicate"] >= (6000 - missing) // 2


def test_rows_without_a_target_are_dropped_only_where_asked_for():
    given = table().set_column(6, "bought", pa.array([None] * 5 + ["yes", "no"] * 1497 + ["yes"]))

    with pytest.raises(Problem, match="5 rows have no bought"):
        split(given)

    assert sum(part.num_rows for part in split(given, drop_missing=("bought",)).values()) == 2995


def test_an_empty_split_is_refused():
    with pytest.raises(Problem, match="the valid split is empty"):
        split(table(), valid=0.0)


def test_class_shares_are_reported_and_uneven_ones_warned_of():
    given = table()
    late = [month >= "2025-11" for month in given["month"].to_pylist()]
    skewed = given.set_column(
        6, "bought", pa.array(["yes" if is_late or row % 5 == 0 else "no" for row, is_late in enumerate(late)])
    )

    split(skewed, WAYS["time"][1], **WAYS["time"][0])

    report = json.loads(paths.SPLITS.read_text())
    assert report["splits"]["test"]["classes"] == {"yes": 1.0}
    assert any("class yes" in text and "test" in text for text in report["warnings"])
