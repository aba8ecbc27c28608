from datetime import date, datetime, timedelta

import msgspec
import pyarrow as pa
import pytest

from pawl import profile
from pawl.profile import KEPT, Column, Shift

SECRET = "SECRET-7731"
TABLE = pa.table({
    "row_id": [SECRET, "b", "c", "d"],
    "age": [10, 20, None, 30],
    "hours": [1.5, float("nan"), float("inf"), 2.5],
    "member": [True, False, None, None],
    "at": pa.array([datetime(1970, 1, 2), datetime(1970, 1, 4), None, None], pa.timestamp("us")),  # noqa: DTZ001 - a table has no zones
    "city": [SECRET, SECRET, "b", None],
    "coded": pa.array([SECRET, "b", "b", "b"]).dictionary_encode(),
    "day": [date(2001, 2, 3), date(2001, 2, 3), None, None],
    "lasted": pa.array([timedelta(seconds=7731)] * 4, pa.duration("s")),
    "empty": pa.array([None] * 4, pa.string()),
    "nothing": pa.nulls(4),
})  # fmt: skip
SUMS = {
    "age": (0.25, 20.0, pytest.approx((200 / 3) ** 0.5)), "hours": (0.0, 2.0, 0.5), "member": (0.5, 0.5, 0.5), "at": (0.5, 2.0, 1.0),
    "city": (0.25, None, None), "coded": (0.0, None, None), "day": (0.5, None, None), "lasted": (0.0, None, None),
    "empty": (1.0, None, None), "nothing": (1.0, None, None),
}  # fmt: skip
SHARES = {"city": [1 / 3, 2 / 3], "coded": [0.25, 0.75], "day": [1.0], "lasted": [1.0]}

NUMBERS, WORDS = {"a": [0.0, 2.0]}, {"a": ["x", "x", "y", "y"]}


def of(**columns):
    return profile.of([pa.table(columns)])


def test_a_column_is_a_few_numbers():
    found = profile.of([TABLE.slice(0, 1), TABLE.slice(1)])
    assert {name: (each.missing, each.mean, each.spread) for name, each in found.items()} == SUMS
    assert {name: sorted(each.shares.values()) for name, each in found.items() if each.shares} == SHARES


def test_no_cell_can_be_read_in_it():
    content = msgspec.json.encode(profile.of([TABLE]))
    assert not [word for word in (SECRET.encode(), b"2001", b"7731") if word in content]
    assert msgspec.json.decode(content, type=dict[str, Column]) == profile.of([TABLE])


def test_of_many_categories_the_rarest_are_one():
    [column] = of(a=[f"{n}" for n in range(KEPT + 20) for _ in range(1 + (n < KEPT))]).values()

    assert len(column.shares) == KEPT + 1
    assert column.shares["others"] == pytest.approx(20 / (2 * KEPT + 20))
    assert sum(column.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(NUMBERS, NUMBERS, Shift("a", "mean", 0.0, (0, 0)), id="none"),
        pytest.param(NUMBERS, {"a": [3.0, None]}, Shift("a", "mean", 2.0, (0, 0.5)), id="a mean"),
        pytest.param({"a": [5, 5]}, {"a": [6, 7]}, Shift("a", "mean", 3.0, (0, 0)), id="a mean, from a constant"),
        pytest.param({"a": [5]}, {"a": [6]}, Shift("a", "mean", 1.0, (0, 0)), id="a constant to another"),
        pytest.param(WORDS, {"a": ["x", "z", "z", None]}, Shift("a", "shares", 2 / 3, (0, 0.25)), id="shares"),
        pytest.param(WORDS, {"a": ["z"]}, Shift("a", "shares", 1.0, (0, 0)), id="all shares"),
        pytest.param(NUMBERS, {"a": pa.nulls(2)}, Shift("a", "shares", 1.0, (0, 1)), id="nothing left"),
        pytest.param(NUMBERS, WORDS, Shift("a", "shares", 1.0, (0, 0)), id="another kind"),
    ],
)
def test_a_shift_is_how_far_a_column_moved(before, after, expected):
    [found] = profile.shifts(of(**before), of(**after))
    assert found == msgspec.structs.replace(expected, shift=pytest.approx(expected.shift))


def test_columns_that_came_and_went_are_first_and_then_the_farthest():
    same = {"still": ["x", "y"]}
    before, after = of(gone=[1, 2], near=[0, 2], far=[0, 2], **same), of(**same, near=[1, 2], far=[7, 9], new=[1, 2])

    assert [(each.column, each.kind) for each in profile.shifts(before, after)] == [("new", "added"), ("gone", "removed"), ("far", "mean"), ("near", "mean"), ("still", "shares")]  # fmt: skip
