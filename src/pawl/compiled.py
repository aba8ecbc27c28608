"""A compiled model: encoder.json and LightGBM's text model, run through LightGBM's C library alone.

No numpy, pandas or scikit-learn: a row becomes the bytes of its matrix row by look-ups, and the C library reads them where they lie.
`pawl.compiler` makes both files, and only where they answer bit for bit what the pipeline does.
"""

import ctypes
import importlib.util
import json
import math
import struct
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pawl.problem import Problem

ROWS = 128  # of a batch in one call: between two of them other threads get their turn
DOUBLES, NORMAL = 1, 0  # LightGBM's C_API_DTYPE_FLOAT64 and C_API_PREDICT_NORMAL
SETTINGS = b"num_threads=1 verbosity=-1"
Row = Sequence[Any]  # cells in the order of the manifest's features; None where missing


class Compiled:
    """Answers rows. `one` belongs to a single thread: its buffers are shared; `many` may run in any."""

    def __init__(self, encoder: bytes, model: bytes, manifest: dict[str, Any], where: Path) -> None:
        """Load; raise Problem if the library is not there, or if the two files do not belong together."""
        described = json.loads(encoder)
        blocks = [_block(each) for each in described["blocks"]]
        self.blocks, self.columns = [one for one, _ in blocks], [many for _, many in blocks]
        self.width, self.labels, self.threshold = described["width"], manifest["labels"], manifest["threshold"]
        self.binary = manifest["task"] == "binary"
        self.outputs = len(self.labels) if manifest["task"] == "multiclass" else 1
        # One row is answered while the interpreter's lock is held: handing it over would cost more than the answer.
        self.library, holding = _library(ctypes.CDLL), _library(ctypes.PyDLL)
        self.handle, rounds = ctypes.c_void_p(), ctypes.c_int()
        self._ok(self.library.LGBM_BoosterLoadModelFromString(model, ctypes.byref(rounds), ctypes.byref(self.handle)))
        found = ctypes.c_int(), ctypes.c_int()
        self._ok(self.library.LGBM_BoosterGetNumFeature(self.handle, ctypes.byref(found[0])))
        self._ok(self.library.LGBM_BoosterGetNumClasses(self.handle, ctypes.byref(found[1])))
        if (found[0].value, found[1].value) != (self.width, self.outputs):
            what = f"the trees take {found[0].value} features and give {found[1].value} outputs, the encoder makes {self.width} for {self.outputs}"
            raise Problem(what, where, "fetch the bundle again, or train again")
        fast = ctypes.c_void_p()
        start = self.library.LGBM_BoosterPredictForMatSingleRowFastInit
        self._ok(start(self.handle, NORMAL, 0, -1, DOUBLES, self.width, SETTINGS, ctypes.byref(fast)))
        self.row = (ctypes.c_double * self.outputs)()
        length = ctypes.c_int64()
        call, given = holding.LGBM_BoosterPredictForMatSingleRowFast, (ctypes.byref(length), self.row)
        call.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
        self.answer: Callable[[bytes], int] = lambda matrix: call(fast, matrix, *given)

    def one(self, row: Row) -> tuple[Any, Sequence[float] | None]:
        """Return (label or value, probabilities in the labels' order or None) of a row."""
        self._ok(self.answer(b"".join([block(row) for block in self.blocks])))
        return self._decided(self.row[:])

    def many(self, rows: Sequence[Row]) -> tuple[list[Any], list[Sequence[float]] | None]:
        """Return the same of each row, as two lists."""
        found = []
        for first in range(0, len(rows), ROWS):
            part = rows[first : first + ROWS]
            matrix = b"".join(chain.from_iterable(zip(*[column(part) for column in self.columns], strict=True)))
            scores, length = (ctypes.c_double * (len(part) * self.outputs))(), ctypes.c_int64()
            self._ok(
                self.library.LGBM_BoosterPredictForMat(
                    self.handle, matrix, DOUBLES, len(part), self.width, 1, NORMAL, 0, -1, SETTINGS, ctypes.byref(length), scores
                )
            )  # fmt: skip
            values, step = scores[:], self.outputs
            found += [self._decided(values[at : at + step]) for at in range(0, len(values), step)]
        answers = [answer for answer, _ in found]
        return answers, [scores for _, scores in found if scores is not None] if self.labels else None

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


def _block(described: dict[str, Any]) -> tuple[Callable[[Row], bytes], Callable[[Sequence[Row]], list[bytes]]]:
    """Return the functions from a row, and from rows, to the bytes of some neighbouring columns of the matrix."""
    if "table" in described:
        width, source = described["width"], described["column"]
        known: dict[tuple[Any, ...], bytes] = {}

        def packed(cells: list[list[Any]]) -> bytes:
            values = [0.0] * width
            for offset, value in cells:
                values[offset] = math.nan if value is None else value
            return known.setdefault(tuple(values), struct.pack(f"={width}d", *values))

        table: dict[Any, bytes] = {key: packed(cells) for key, cells in described["table"]}
        unknown = packed(described["unknown"])
        get = table.get
        return lambda row: get(row[source], unknown), lambda rows: [get(row[source], unknown) for row in rows]

    first, steps = described["first"], described["steps"]
    last, pack = first + len(steps), struct.Struct(f"={len(steps)}d").pack
    parts = [(first + number, [(STEPS[name], value) for name, value in each]) for number, each in enumerate(steps)]

    def plain(row: Row) -> bytes:
        return pack(*[math.nan if cell is None else cell for cell in row[first:last]])

    def stepped(row: Row) -> bytes:
        return pack(*[_stepped(row[source], each) for source, each in parts])

    one = stepped if any(steps) else plain
    return one, lambda rows: [one(row) for row in rows]


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
