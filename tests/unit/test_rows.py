from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from pawl import rows

TABLE = pa.table({
    "age": pa.array([40, None, 0, -7]),
    "hours": pa.array([1.5, 40.0, None, -0.0]),
    "name": pa.array(["a", "", None, "żółw"]),
    "member": pa.array([True, False, None, True]),
    "at": pa.array([datetime(2025, 1, day, tzinfo=UTC).replace(tzinfo=None) for day in (1, 2, 3, 4)], pa.timestamp("us")),
})  # fmt: skip
NAMES = TABLE.schema.names
# A library or a change of ours that moves one of these moves rows between the splits of every project.
GOLDEN = [7658626765255199492, 4721706599555609291, 6612835255852909549, 13553748195545257078]
UNITS = [0.3279053329780137, 0.4650880368958976, 0.17577258641635318, 0.12056088732434267]


def hashed(table=TABLE, names=NAMES):
    return rows.hash_rows(table, names).tolist()


def one(value, kind=None):
    return int(rows.hash_column(pa.array([value], kind))[0])


def test_a_hash_never_changes():
    assert hashed() == GOLDEN
    assert rows.unit(rows.hash_rows(TABLE, NAMES), 0).tolist() == UNITS


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(TABLE.select(NAMES[::-1]), id="columns reversed"),
        pytest.param(pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1, 0), TABLE.slice(1)]), id="in chunks"),
        pytest.param(TABLE.set_column(2, "name", TABLE["name"].dictionary_encode()), id="dictionary"),
        pytest.param(
            pa.concat_tables(
                [
                    (part := TABLE.slice(row, 1)).set_column(
                        2, "name", part["name"].combine_chunks().dictionary_encode()
                    )
                    for row in range(4)
                ]
            ),
            id="a dictionary per chunk",
        ),
        pytest.param(TABLE.set_column(2, "name", TABLE["name"].cast(pa.large_string())), id="large text"),
        pytest.param(TABLE.set_column(0, "age", TABLE["age"].cast(pa.float64())), id="whole numbers as float"),
        pytest.param(TABLE.set_column(0, "age", TABLE["age"].cast(pa.int8())), id="small integers"),
        pytest.param(TABLE.set_column(1, "hours", TABLE["hours"].cast(pa.float32())), id="small floats"),
        pytest.param(TABLE.set_column(4, "at", TABLE["at"].cast(pa.timestamp("s"))), id="seconds"),
        pytest.param(TABLE.append_column("more", pa.array([1, 2, 3, 4])), id="a column that is not named"),
        pytest.param(TABLE.combine_chunks().to_batches()[0], id="a batch"),
    ],
)
def test_the_same_content_has_the_same_hash(table):
    assert hashed(table, NAMES) == hashed()
    assert hashed(table, NAMES[::-1]) == hashed()


def test_a_row_does_not_depend_on_the_others():
    backwards = TABLE.take([3, 2, 1, 0])

    assert hashed(backwards) == hashed()[::-1]
    assert hashed(pa.concat_tables([backwards, TABLE]))[4:] == hashed()
    assert hashed(TABLE.slice(2, 1)) == hashed()[2:3]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([one(None, pa.int64()), one(0), one(""), one("None"), one("null"), one(1)], id="nothing"),
        pytest.param([one("a"), one("A"), one(" a"), one("a ")], id="text"),
        pytest.param([one(40), one("40"), one(-40), one(40.5)], id="number"),
        pytest.param(
            [one(float("nan")), one(float("inf")), one(float("-inf")), one(None, pa.float64())], id="not finite"
        ),
    ],
)
def test_different_values_have_different_hashes(values):
    assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (0.0, -0.0),
        (40, 40.0),
        (True, 1),
        (2**53 - 1, float(2**53 - 1)),
        (2**53, float(2**53)),
        (-(2**60), float(-(2**60))),
    ],
)
def test_equal_values_have_the_same_hash(left, right):
    assert one(left) == one(right)


def test_an_encoded_number_has_the_hash_of_the_number():
    numbers = pa.array([3, 1, None, 3])

    assert rows.hash_column(numbers.dictionary_encode()).tolist() == rows.hash_column(numbers).tolist()


def test_a_value_counts_in_its_own_column_only():
    swapped = pa.table({"left": ["a", "b", "a"], "right": ["b", "a", "a"]})

    assert len(set(hashed(swapped, ["left", "right"]))) == 3


def test_hashes_are_spread_evenly():
    place = rows.unit(rows.hash_column(pa.array(range(100_000))), 0)

    observed = np.bincount((place * 100).astype(int), minlength=100)

    assert place.min() >= 0
    assert place.max() < 1
    assert (
        60 < ((observed - 1000) ** 2 / 1000).sum() < 150
    )  # chi-square with 99 degrees of freedom: 1 in 1000 either way


def test_another_seed_gives_another_split():
    hashes = rows.hash_column(pa.array(range(100_000)))

    both = ((rows.unit(hashes, 0) < 0.2) & (rows.unit(hashes, 1) < 0.2)).mean()

    assert both == pytest.approx(0.04, abs=0.003)


def test_no_rows_have_no_hashes():
    assert hashed(TABLE.slice(0, 0)) == []
    assert hashed(TABLE, []) == [int(rows.mix(np.zeros(1, dtype=np.uint64))[0])] * 4
