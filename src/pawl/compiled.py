"""A compiled model: encoder.json and LightGBM's text model, run through LightGBM's C library alone.

No numpy, pandas or scikit-learn: a row becomes the bytes of its matrix row by look-ups, and the C library reads them where they lie.
`pawl.compiler` makes both files, and only where they answer bit for bit what the pipeline does.
"""

import ctypes
import importlib.util
import itertools
import json
import math
import re
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from pawl.problem import Problem

ROWS = 500  # of a batch in one call: between two of them other threads get their turn
TREES = 40  # that fit the processor's nearest cache with a few rows: a batch goes through so many before the next
DOUBLES, NORMAL, RAW = 1, 0, 1  # LightGBM's C_API_DTYPE_FLOAT64, C_API_PREDICT_NORMAL and C_API_PREDICT_RAW_SCORE
SETTINGS = b"num_threads=1 verbosity=-1"
Row = Sequence[Any]  # cells in the order of the manifest's features; None where missing


class Compiled:
    """Answers rows. `one` belongs to a single thread, and `many` to one: each has its own copy of the trees, since LightGBM's keeps what was asked last."""

    def __init__(self, encoder: bytes, model: bytes, manifest: dict[str, Any], where: Path) -> None:
        """Load; raise Problem if the library is not there, or if the two files do not belong together."""
        described = json.loads(encoder)
        blocks = [_block(each) for each in described["blocks"]]
        self.labels, self.threshold = manifest["labels"], manifest["threshold"]
        self.binary = manifest["task"] == "binary"
        self.outputs = len(self.labels) if manifest["task"] == "multiclass" else 1
        self.width, nothing = described["width"], bytes(8 * self.outputs)  # for the features that `relayed` adds
        self.blocks = [one for one, _ in blocks]
        self.columns: list[Callable[[Sequence[Row]], Iterable[bytes]]] = [
            *(many for _, many in blocks),
            lambda columns: repeat(nothing, len(columns[0])),
        ]
        # One row is answered while the interpreter's lock is held: handing it over would cost more than the answer.
        self.library, holding = _library(ctypes.CDLL), _library(ctypes.PyDLL)
        single = self._read(model, self.width, where)
        parted, starts = relayed(model, self.outputs)
        self.handle = self._read(parted, self.width + self.outputs, where)
        self.steps = [(first, last - first) for first, last in itertools.pairwise([*starts, 1 << 30])]
        fast = ctypes.c_void_p()
        start = self.library.LGBM_BoosterPredictForMatSingleRowFastInit
        self._ok(start(single, NORMAL, 0, -1, DOUBLES, self.width, SETTINGS, ctypes.byref(fast)))
        self.row = (ctypes.c_double * self.outputs)()
        length = ctypes.c_int64()
        call, given = holding.LGBM_BoosterPredictForMatSingleRowFast, (ctypes.byref(length), self.row)
        call.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
        self.answer: Callable[[bytes], int] = lambda matrix: call(fast, matrix, *given)

    def _read(self, model: bytes, width: int, where: Path) -> ctypes.c_void_p:
        handle, features, outputs = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
        rounds = ctypes.byref(ctypes.c_int())
        self._ok(self.library.LGBM_BoosterLoadModelFromString(model, rounds, ctypes.byref(handle)))
        self._ok(self.library.LGBM_BoosterGetNumFeature(handle, ctypes.byref(features)))
        self._ok(self.library.LGBM_BoosterGetNumClasses(handle, ctypes.byref(outputs)))
        if (features.value, outputs.value) != (width, self.outputs):
            what = f"the trees take {features.value} features and give {outputs.value} outputs, the encoder makes {width} for {self.outputs}"
            raise Problem(what, where, "fetch the bundle again, or train again")
        return handle

    def one(self, row: Row) -> tuple[Any, Sequence[float] | None]:
        """Return (label or value, probabilities in the labels' order or None) of a row."""
        self._ok(self.answer(b"".join([block(row) for block in self.blocks])))
        return self._decided(self.row[:])

    def many(self, rows: Sequence[Row]) -> tuple[list[Any], list[Sequence[float]] | None]:
        """Return the same of each row, as two lists."""
        values: list[float] = []
        width = self.width + self.outputs
        for first in range(0, len(rows), ROWS):
            part = rows[first : first + ROWS]
            columns = [*zip(*part, strict=True)]
            cells = b"".join(chain.from_iterable(zip(*[block(columns) for block in self.columns], strict=True)))
            matrix = (ctypes.c_double * (len(part) * width)).from_buffer_copy(cells)
            scores, length = (ctypes.c_double * (len(part) * self.outputs))(), ctypes.c_int64()
            taken, given = memoryview(matrix).cast("B").cast("d"), memoryview(scores).cast("B").cast("d")
            for start, rounds in self.steps:
                if start:
                    for output in range(self.outputs):
                        taken[self.width + output :: width] = given[output :: self.outputs]
                kind = RAW if (start, rounds) != self.steps[-1] else NORMAL
                self._ok(
                    self.library.LGBM_BoosterPredictForMat(
                        self.handle, matrix, DOUBLES, len(part), width, 1, kind, start, rounds, SETTINGS, ctypes.byref(length), scores
                    )
                )  # fmt: skip
            values += scores
        if self.binary:
            no, yes = self.labels
            answers = [yes if score >= self.threshold else no for score in values]
            return answers, [(1.0 - score, score) for score in values]
        if not self.labels:
            return values, None
        found = [self._decided(values[at : at + self.outputs]) for at in range(0, len(values), self.outputs)]
        return [answer for answer, _ in found], [each for _, each in found if each is not None]

    def _decided(self, scores: list[float]) -> tuple[Any, Sequence[float] | None]:
        if self.binary:
            score = scores[0]
            return self.labels[score >= self.threshold], (1.0 - score, score)
        if self.labels:
            return self.labels[scores.index(max(scores))], scores
        return scores[0], None

    def _ok(self, code: int) -> None:
        if code:
            raise Problem(f"LightGBM: {self.library.LGBM_GetLastError().decode(errors='replace')[:200]}", "model.txt", "fetch the bundle again")  # fmt: skip


def relayed(model: bytes, outputs: int) -> tuple[bytes, list[int]]:
    """Return a text model that can be asked a part of its trees after another, and at which rounds the parts begin.

    Before each part but the first stands a tree per output which gives what its own feature holds: what the trees before gave. So the sum
    is made in the order of the whole model, to the last bit, while each part stays in the processor's cache. A leaf that gives a
    feature is LightGBM's own: its linear trees.
    """
    head, _, rest = model.partition(b"\n\nTree=0\n")
    body, end, tail = rest.partition(b"end of trees")
    fields = dict(line.partition(b"=")[::2] for line in head.splitlines())
    features = int(fields.get(b"max_feature_idx", b"-1")) + 1
    for name, more in ((b"feature_names", b" relay%d"), (b"feature_infos", b" none"), (b"monotone_constraints", b" 0")):
        if name in fields:
            fields[name] += b"".join(more % number if b"%" in more else more for number in range(outputs))
    fields[b"max_feature_idx"] = b"%d" % (features + outputs - 1)
    trees = re.split(rb"Tree=\d+\n", body)
    size = outputs * (1 << 30 if b"average_output" in fields else max(1, TREES // outputs))
    relays = [RELAY % (features + number, features + number) for number in range(outputs)]
    parts = [trees[first : first + size] for first in range(0, len(trees), size)]
    starts = [number * (size // outputs + 1) - (number > 0) for number in range(len(parts))]
    every = [b"Tree=%d\n%b" % each for each in enumerate(chain(parts[0], *([*relays, *part] for part in parts[1:])))]
    fields[b"tree_sizes"] = b" ".join(b"%d" % len(each) for each in every)
    lines = [b"%b=%b" % each if each[1] else each[0] for each in fields.items()]
    return b"\n".join(lines) + b"\n\n" + b"".join(every) + end + tail, starts


RELAY = b"""num_leaves=2
num_cat=0
split_feature=0
split_gain=0
threshold=0
decision_type=2
left_child=-1
right_child=-2
leaf_value=0 0
leaf_weight=0 0
leaf_count=0 0
internal_value=0
internal_weight=0
internal_count=0
is_linear=1
leaf_const=0 0
num_features=1 1
leaf_features=%d %d
leaf_coeff=1 1
shrinkage=1


"""


def _block(described: dict[str, Any]) -> tuple[Callable[[Row], bytes], Callable[[Sequence[Row]], Iterable[bytes]]]:
    """Return the functions from a row, and from the columns of several, to the bytes of some neighbouring columns of the matrix."""
    if "table" in described:
        width, source = described["width"], described["column"]
        packed: dict[tuple[Any, ...], bytes] = {}

        def cells(some: list[list[Any]]) -> bytes:
            values = [0.0] * width
            for offset, value in some:
                values[offset] = math.nan if value is None else value
            return packed.setdefault(tuple(values), struct.pack(f"={width}d", *values))

        table = Table({key: cells(some) for key, some in described["table"]})
        table.unknown = unknown = cells(described["unknown"])
        get, look = table.get, table.__getitem__
        return lambda row: get(row[source], unknown), lambda columns: map(look, columns[source])

    first, steps = described["first"], described["steps"]
    width = len(steps)
    last, pack = first + width, struct.Struct(f"={width}d").pack
    parts = [(first + number, [(STEPS[name], value) for name, value in each]) for number, each in enumerate(steps)]

    def plain(row: Row) -> bytes:
        return pack(*[math.nan if cell is None else cell for cell in row[first:last]])

    def stepped(row: Row) -> bytes:
        return pack(*[_stepped(row[source], each) for source, each in parts])

    def many(columns: Sequence[Row]) -> Iterable[bytes]:
        taken: list[Iterable[Any]] = []
        for source, each in parts:
            column = columns[source]
            if each:
                taken.append([_stepped(cell, each) for cell in column])
            else:
                taken.append([math.nan if cell is None else cell for cell in column] if None in column else column)
        values = [*chain.from_iterable(zip(*taken, strict=True))] if width > 1 else [*taken[0]]
        content, size = struct.pack(f"={len(values)}d", *values), 8 * width
        return [content[at : at + size] for at in range(0, len(content), size)]

    return stepped if any(steps) else plain, many


class Table(dict[Any, bytes]):
    """What the cells of a column become; `unknown` for one that is not there."""

    unknown = b""

    def __missing__(self, _: Any) -> bytes:
        return self.unknown


def _stepped(cell: Any, steps: list[tuple[Callable[[float, Any], float], Any]]) -> float:
    value = math.nan if cell is None else float(cell)
    for step, operand in steps:
        value = step(value, operand)
    return value


# What scikit-learn's imputers and scalers do to a number, in the same order and with the same roundings.
STEPS: dict[str, Callable[[float, Any], float]] = {
    "fill": lambda value, other: other if value != value else value,  # noqa: PLR0124 - NaN alone differs from itself
    "missing": lambda value, _: float(value != value),  # noqa: PLR0124 - same
    "add": lambda value, other: value + other,
    "subtract": lambda value, other: value - other,
    "multiply": lambda value, other: value * other,
    "divide": lambda value, other: value / other,
    "clip": lambda value, ends: value if value != value else min(max(value, ends[0]), ends[1]),  # noqa: PLR0124 - same
}


def _library(kind: type[ctypes.CDLL]) -> ctypes.CDLL:
    """Return LightGBM's library without its Python package, whose import wants numpy and scipy."""
    found = importlib.util.find_spec("lightgbm")
    ending = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    for folder in (found.submodule_search_locations if found else None) or ():
        for name in (f"lib/lib_lightgbm.{ending}", f"bin/lib_lightgbm.{ending}"):
            if (path := Path(folder) / name).exists():
                try:
                    library = kind(str(path))
                except OSError as error:
                    raise Problem(f"LightGBM's library cannot be loaded: {error}", path, "install libgomp1") from error
                library.LGBM_GetLastError.restype = ctypes.c_char_p
                return library
    raise Problem("LightGBM is not installed", "the Python environment", "install requirements/serving.txt")
