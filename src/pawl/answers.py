"""What a model answered on the rows of the test split, small enough to travel and strict enough to take from a stranger.

A row is named by the 64-bit hash of its id. Of a table with more rows than may be kept, those with the smallest hashes are: the
same ones for every model, so that what is kept of two models can still be compared row by row.
"""

import hashlib
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from pawl import rows
from pawl.config import TaskKind
from pawl.parts import Text
from pawl.problem import Problem

MAX_BYTES = 64_000_000  # of a file
MAX_PLAIN = 4 * MAX_BYTES  # of what it expands to
KEYED = 10_000  # rows
Hashes = rows.Hashes


class Answers(NamedTuple):
    """Arrays of one length n, ordered by `rows`; `total` is the number of test rows they were taken from."""

    task: TaskKind
    labels: tuple[str, ...]  # the positive one last; empty for regression
    rows: Hashes
    y: Any  # label numbers, or values
    prediction: Any  # the same
    probabilities: Any  # shape (n, k); None for regression
    group: Hashes | None  # rows of one group are not independent
    slices: dict[str, tuple[tuple[str, ...], Any]]  # {name: (names of its slices, the slice's number per row)}
    total: int

    def take(self, chosen: Any) -> "Answers":
        """Return the rows that a mask or an index chooses."""
        return self._replace(
            rows=self.rows[chosen], y=self.y[chosen], prediction=self.prediction[chosen],
            probabilities=None if self.probabilities is None else self.probabilities[chosen],
            group=None if self.group is None else self.group[chosen],
            slices={name: (values, codes[chosen]) for name, (values, codes) in self.slices.items()},
        )  # fmt: skip

    def masks(self, name: str) -> dict[str, npt.NDArray[np.bool_]]:
        """Return {slice: mask} for one entry of `slices`; a slice without a name is none."""
        values, codes = self.slices.get(name, ((), None))
        return {value: codes == number for number, value in enumerate(values) if value}

    @property
    def digest(self) -> str:
        """Return what names the rows and their targets: equal where two models were measured on the same ones. Of very many, the first stand for all."""
        label, y = np.array([rows.digest64(each) for each in self.labels], dtype=np.uint64), self.y[:KEYED]
        truth = label[y] if self.labels else y.astype("<f8").view(np.uint64)
        names = np.stack([self.rows[:KEYED], truth]).astype("<u8").tobytes()
        return hashlib.sha256(f"{self.total} {self.task}".encode() + names).hexdigest()


Labels = Annotated[tuple[Text, ...], msgspec.Meta(max_length=10_000)]


class Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answers as they are written: arrays as little-endian bytes, probabilities with 32 bits, for two labels the positive one's alone."""

    version: Literal[1]
    task: TaskKind
    labels: Labels
    total: Annotated[int, msgspec.Meta(ge=1, le=2**40)]
    rows: bytes
    y: bytes
    prediction: bytes
    probabilities: bytes
    group: bytes
    slices: Annotated[dict[Text, tuple[Labels, bytes]], msgspec.Meta(max_length=200)]


def dump(answers: Answers, limit: int | None = None) -> bytes:
    """Return the answers as bytes; of at most `limit` rows."""
    if limit is not None and len(answers.rows) > limit:
        answers = answers.take(slice(0, limit))
    number = "<u2" if answers.labels else "<f8"
    chosen = answers.probabilities
    chosen = np.zeros(0) if chosen is None else chosen[:, 1] if answers.task == "binary" else chosen
    stored = Stored(
        1, answers.task, answers.labels, answers.total, answers.rows.astype("<u8").tobytes(),
        answers.y.astype(number).tobytes(), answers.prediction.astype(number).tobytes(), chosen.astype("<f4").tobytes(),
        b"" if answers.group is None else answers.group.astype("<u8").tobytes(),
        {name: (values, codes.astype("<u2").tobytes()) for name, (values, codes) in answers.slices.items()},
    )  # fmt: skip
    return zlib.compress(msgspec.msgpack.encode(stored), 1)


def load(content: bytes, where: str | Path) -> Answers:
    """Return the answers in a file that anybody may have written; raise Problem unless every array is what `dump` writes."""
    try:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(content, MAX_PLAIN) if len(content) <= MAX_BYTES else b""
        if not plain or unpacker.unconsumed_tail or unpacker.unused_data or not unpacker.eof:
            raise ValueError("too large, or cut off")
        stored = msgspec.msgpack.decode(plain, type=Stored)
        n, k = len(stored.rows) // 8, len(stored.labels)
        names = array(stored.rows, "<u8", n).astype(np.uint64)
        if not 1 <= n <= stored.total or not (names[1:] > names[:-1]).all():
            raise ValueError("its rows are not in order")
        if (k == 0) != (stored.task == "regression") or (k == 2) < (stored.task == "binary"):
            raise ValueError("its labels are not of its task")
        kind, limit = ("<u2", k) if k else ("<f8", None)
        y, prediction = (numbers(array(each, kind, n), limit) for each in (stored.y, stored.prediction))
        width = 1 if stored.task == "binary" else k
        probabilities = array(stored.probabilities, "<f4", n * width).reshape(n, width)
        if not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("a probability is not between 0 and 1")
        probabilities = probabilities.astype(float)
        probabilities = pair(probabilities[:, 0]) if stored.task == "binary" else probabilities
        parts = stored.slices.items()
        slices = {name: (values, numbers(array(codes, "<u2", n), len(values))) for name, (values, codes) in parts}
        group = array(stored.group, "<u8", n).astype(np.uint64) if stored.group else None
    except (msgspec.MsgspecError, zlib.error, ValueError, RecursionError, MemoryError) as error:
        what, fix = f"these are no answers of a model: {str(error)[:200]}", "write them again with `make report`"
        raise Problem(what, where, fix) from error
    scores = probabilities if k else None
    return Answers(stored.task, stored.labels, names, y, prediction, scores, group, slices, stored.total)


def array(content: bytes, kind: str, count: int) -> Any:
    """Return an array of so many values; raise ValueError if the bytes hold another number."""
    if len(content) != count * np.dtype(kind).itemsize:
        raise ValueError("its arrays differ in length")
    return np.frombuffer(content, dtype=kind)


def pair(positive: Any) -> Any:
    """Return the probabilities of both labels, shape (n, 2)."""
    return np.stack([1 - positive, positive], axis=1)


def numbers(values: Any, limit: int | None) -> Any:
    """Return label numbers below the limit, or finite values; raise ValueError for others."""
    if limit is None:
        if not np.isfinite(values).all():
            raise ValueError("a value is not finite")
        return values.astype(float)
    if len(values) and values.max() >= limit:
        raise ValueError("a label number is too large")
    return values.astype(np.int64)


def of_table(table: Any, task: TaskKind, labels: Sequence[str], public: Collection[str]) -> Answers:
    """Return the answers in reports/predictions.parquet. public: columns whose cell values may be named; the slices of others are by a hash."""

    def coded(name: str) -> Any:
        column = table.column(name)
        if not labels:
            return column.to_numpy().astype(float)
        encoded = column.cast("string").combine_chunks().dictionary_encode()
        return np.array([labels.index(value) for value in encoded.dictionary.to_pylist()])[encoded.indices.to_numpy()]

    def named(name: str, values: Sequence[str]) -> tuple[str, ...]:
        return tuple((value if value == name or name in public else hidden(value))[:200] for value in values)

    slices = {}
    for by in (name.removeprefix("slice ") for name in table.column_names if name.startswith("slice ")):
        column = table.column(f"slice {by}").combine_chunks()
        slices[by] = (named(by, column.dictionary.to_pylist()), column.indices.to_numpy().astype(np.int64))
    scores = [np.float32(table.column(f"probability {label}").to_numpy()).astype(float) for label in labels]
    probabilities = None if not scores else pair(scores[1]) if task == "binary" else np.stack(scores, axis=1)
    found = Answers(
        task, tuple(labels), rows.hash_column(table.column("row_id")), coded("target"), coded("prediction"),
        probabilities, rows.hash_column(table.column("group")) if "group" in table.column_names else None, slices, table.num_rows,
    )  # fmt: skip
    order = np.argsort(found.rows, kind="stable")
    return found.take(order[np.append(True, np.diff(found.rows[order]) > 0)])


def hidden(name: str) -> str:
    """Return a slice's name without the cell value in it: sex=Female -> sex=#a1b2c3. A name that has none stays."""
    by, sign, value = name.partition("=")
    return f"{by}=#{int(rows.digest64(value)) & 0xFFFFFF:06x}" if sign and not value.startswith("#") else name


def common(one: Answers, other: Answers) -> tuple[Answers, Answers]:
    """Return both on the rows that they share, with the same target in both."""
    if one.labels == other.labels and np.array_equal(one.rows, other.rows) and np.array_equal(one.y, other.y):
        return one, other
    _, mine, theirs = np.intersect1d(one.rows, other.rows, assume_unique=True, return_indices=True)
    if one.labels != other.labels:
        return one.take(mine[:0]), other.take(theirs[:0])
    same = one.y[mine] == other.y[theirs]
    return one.take(mine[same]), other.take(theirs[same])


def without(answers: Answers, seen: Hashes) -> Answers:
    """Return the rows that a model has not seen in training."""
    return answers.take(~np.isin(answers.rows, seen))
