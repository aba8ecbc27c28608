import tracemalloc
import zlib

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from pawl import answers, rows
from pawl.answers import Stored, common, dump, hidden, load, of_table, without
from pawl.problem import Problem

LABELS = {"binary": ["no", "yes"], "multiclass": ["a", "b", "c"], "regression": []}


def table(task="binary", count=300, seed=0, *, group=True):
    """Return what evaluate writes, with rows in any order."""
    rng = np.random.default_rng(seed)
    labels = LABELS[task]
    columns = {"row_id": pa.array(rng.permutation(count))}
    if labels:
        scores = rng.dirichlet(np.ones(len(labels)), count)
        columns |= {name: pa.array(rng.choice(labels, count)) for name in ("target", "prediction")}
        columns |= {f"probability {label}": pa.array(scores[:, place]) for place, label in enumerate(labels)}
    else:
        columns |= {name: pa.array(rng.normal(size=count)) for name in ("target", "prediction")}
    if group:
        columns["group"] = pa.array(rng.integers(0, count // 3, count))
    for by in ("sex", "region"):
        columns[f"slice {by}"] = pa.array(rng.choice([f"{by}=x", f"{by}=y"], count)).dictionary_encode()
    columns["slice old"] = pa.array(rng.choice(["old", ""], count)).dictionary_encode()
    return pa.table(columns)


def made(task="binary", count=300, **given):
    return of_table(table(task, count, **given), task, LABELS[task], ["sex"])


def same(one, other):
    def parts(each):
        arrays = [each.rows, each.y, each.prediction, each.probabilities, each.group]
        return [None if part is None else part.tolist() for part in arrays] + [
            each.task,
            each.labels,
            each.total,
            {name: (values, codes.tolist()) for name, (values, codes) in each.slices.items()},
        ]

    return parts(one) == parts(other)


def packed(**changed):
    """Return a file in which a field says something else."""
    fields = msgspec.msgpack.decode(zlib.decompress(dump(made(count=8)))) | changed
    return zlib.compress(msgspec.msgpack.encode(fields))


def field(name):
    return getattr(msgspec.msgpack.decode(zlib.decompress(dump(made(count=8))), type=Stored), name)


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("task", LABELS)
def test_what_is_written_is_read(task, group):
    given = made(task, group=group)

    found = load(dump(given), "f")

    assert same(found, given)
    assert found.digest == given.digest
    assert (found.rows[1:] > found.rows[:-1]).all()


def test_answers_are_those_of_the_table_by_row():
    given = table()
    found = of_table(given, "binary", LABELS["binary"], ["sex"])

    place = {int(name): number for number, name in enumerate(rows.hash_column(given["row_id"]))}
    order = [place[int(name)] for name in found.rows]
    assert [LABELS["binary"][number] for number in found.y] == given["target"].take(order).to_pylist()
    assert found.probabilities[:, 1] == pytest.approx(given["probability yes"].take(order).to_numpy(), abs=1e-7)
    masks = found.masks("sex") | found.masks("old")
    assert set(masks) == {"sex=x", "sex=y", "old"}
    assert masks["sex=x"].tolist() == [value == "sex=x" for value in given["slice sex"].take(order).to_pylist()]


def test_the_value_of_a_column_that_is_not_public_is_hidden():
    assert set(made().masks("region")) == {hidden("region=x"), hidden("region=y")}
    assert hidden("region=x").startswith("region=#")
    assert [hidden(name) for name in ("old", hidden("region=x"))] == ["old", hidden("region=x")]


def test_a_row_that_stands_twice_counts_once():
    twice = pa.concat_tables([table(), table()]).unify_dictionaries()

    assert same(of_table(twice, "binary", LABELS["binary"], ["sex"])._replace(total=300), made())


def test_of_two_smaller_files_the_same_rows_are_kept():
    one, other = made(count=2000), made(count=2000, seed=1)

    small, smaller = load(dump(one, 500), "f"), load(dump(other, 400), "f")

    assert (len(small.rows), small.total) == (500, 2000)
    assert small.rows.max() < np.sort(one.rows)[500]
    assert set(smaller.rows) < set(small.rows)


def test_common_rows_have_one_target():
    one, two = made(count=200), made(count=300)
    changed = two._replace(y=np.where(np.arange(300) % 5 == 0, 1 - two.y, two.y))

    mine, theirs = common(one, changed)

    expected = [
        name for name, y in zip(one.rows, one.y, strict=True) if y in changed.y[np.flatnonzero(changed.rows == name)]
    ]
    assert 0 < len(expected) < 200
    assert mine.rows.tolist() == theirs.rows.tolist() == expected
    assert mine.y.tolist() == theirs.y.tolist()
    assert same(mine, one.take(np.isin(one.rows, mine.rows)))
    assert same(theirs, changed.take(np.isin(changed.rows, mine.rows)))


def test_answers_with_other_labels_or_other_rows_have_nothing_in_common():
    one = made()

    for other in (one._replace(labels=("no", "maybe")), one._replace(rows=one.rows + np.uint64(1))):
        assert [len(each.rows) for each in common(one, other)] == [0, 0]
    assert common(one, one) == (one, one)


def test_rows_seen_in_training_are_left_out():
    given = made()

    assert without(given, given.rows[10:]).rows.tolist() == given.rows[:10].tolist()
    assert same(without(given, np.array([5], dtype=np.uint64)), given)


@pytest.mark.parametrize("task", LABELS)
def test_a_digest_names_rows_and_targets_alone(task):
    given = made(task)
    moved, renamed = given.y.copy(), given.rows.copy()
    moved[7] = moved[7] + 1 if task == "regression" else (moved[7] + 1) % len(LABELS[task])
    renamed[-1] += np.uint64(1)

    other_answers = given._replace(prediction=given.prediction[::-1], probabilities=None, slices={}, group=None)
    assert other_answers.digest == given.digest
    others = [given._replace(y=moved), given._replace(rows=renamed), given._replace(total=301)]
    assert len({given.digest, *(each.digest for each in others)}) == 4


@pytest.mark.parametrize(
    ("content", "what"),
    [
        pytest.param(lambda: b"", "too large, or cut off", id="empty"),
        pytest.param(lambda: b"not zlib", "incorrect header", id="something else"),
        pytest.param(lambda: bytes(65_000_000), "too large", id="65 MB"),
        pytest.param(lambda: dump(made())[:-1], "cut off", id="cut off"),
        pytest.param(lambda: dump(made()) + b"more", "cut off", id="more behind it"),
        pytest.param(lambda: zlib.compress(b"[]"), "these are no answers", id="no msgpack"),
        pytest.param(lambda: packed(more=1), "unknown field `more`", id="an unknown field"),
        pytest.param(lambda: packed(version=2), "enum value 2", id="another version"),
        pytest.param(lambda: packed(task="ranking"), "enum value 'ranking'", id="another task"),
        pytest.param(lambda: packed(task="regression"), "labels are not of its task", id="a regression with labels"),
        pytest.param(lambda: packed(labels=[]), "labels are not of its task", id="classes without labels"),
        pytest.param(lambda: packed(labels=["a", "b", "c"]), "labels are not of its task", id="two classes with three"),
        pytest.param(lambda: packed(labels=["no", "y" * 201]), "length <= 200", id="a long label"),
        pytest.param(lambda: packed(total=7), "not in order", id="more rows than there were"),
        pytest.param(lambda: packed(rows=b""), "not in order", id="no rows"),
        pytest.param(lambda: packed(rows=field("rows")[::-1]), "not in order", id="rows out of order"),
        pytest.param(lambda: packed(rows=field("rows")[:8] * 8), "not in order", id="one row eight times"),
        pytest.param(lambda: packed(rows=field("rows")[:-3]), "differ in length", id="half a row"),
        pytest.param(lambda: packed(y=field("y")[:-2]), "differ in length", id="a target too few"),
        pytest.param(lambda: packed(prediction=field("y") * 2), "differ in length", id="predictions too many"),
        pytest.param(lambda: packed(group=b"12345678"), "differ in length", id="groups too few"),
        pytest.param(lambda: packed(y=b"\2\0" * 8), "label number is too large", id="a label too large"),
        pytest.param(lambda: packed(slices={"s": (["s=a"], b"\1\0" * 8)}), "too large", id="a slice too large"),
        pytest.param(lambda: packed(slices={"s": (["s=a"], b"")}), "differ in length", id="a slice of no rows"),
        *[
            pytest.param(
                lambda p=p: packed(probabilities=np.full(8, p, "<f4").tobytes()),
                "probability is not between",
                id=f"probability {p}",
            )
            for p in (2.0, -0.1, np.nan, np.inf)
        ],
        pytest.param(lambda: packed(probabilities=b"\1\0\x80\x7f" * 8), "is not between", id="a signalling NaN"),
        pytest.param(
            lambda: packed(task="regression", labels=[], probabilities=b"", **dict.fromkeys(("y", "prediction"), np.full(8, np.nan).tobytes())),
            "not finite",
            id="values that are no numbers",
        ),
    ],
)  # fmt: skip
def test_what_dump_never_writes_is_a_problem(content, what):
    with pytest.raises(Problem, match=what) as caught:
        load(content(), "a file")

    assert caught.value.where == "a file"
    assert caught.value.fix


@pytest.mark.parametrize("task", LABELS)
def test_a_damaged_file_is_a_problem_or_holds_valid_answers(task):
    whole = dump(made(task, 20))
    plain = zlib.decompress(whole)
    rng = np.random.default_rng(0)
    damaged = [whole[:end] for end in range(0, len(whole), 7)]
    for content, pack in ((whole, bytes), (plain, zlib.compress)):
        for place in rng.integers(0, len(content), 300):
            flipped = bytes([content[place] ^ (1 << rng.integers(8))])
            damaged += [pack(content[:place] + flipped + content[place + 1 :]), pack(content[:place])]

    refused = 0
    for content in damaged:
        try:
            found = load(content, "f")
        except Problem:
            refused += 1
            continue
        n = len(found.rows)
        assert same(load(dump(found), "f"), found)
        assert {len(found.y), len(found.prediction), *(len(codes) for _, codes in found.slices.values())} == {n}
        assert task == "regression" or (found.probabilities.shape[0] == n and found.y.max() < len(found.labels))
        assert len(found.digest) == 64
    assert 600 < refused < len(damaged)


def test_a_file_that_expands_to_very_much_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(answers, "MAX_PLAIN", 4_000_000)
    bomb = zlib.compress(bytes(400_000_000))
    assert len(bomb) < answers.MAX_BYTES
    tracemalloc.start()

    with pytest.raises(Problem, match="too large"):
        load(bomb, "f")

    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
