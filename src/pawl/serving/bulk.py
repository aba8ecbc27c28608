"""Many rows at once: answers for the columns of a table that are the service's, bit for bit.

A compiled model is asked without walking its trees. A tree's leaves are bits, and each value that a column can have (a category, or
an interval between two thresholds) leaves some of them possible: a row's leaf is the first one that all its columns leave (QuickScorer,
Lucchese et al. 2015). Leaves are added in the order of the trees, and LightGBM itself makes probabilities of the sums. What this does
not know is answered by the pipeline. Some rows of every batch are asked of the service's own code too.
"""

import ctypes
import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pawl import bundle, frames
from pawl.compiled import DOUBLES, NORMAL, SETTINGS, STEPS, Compiled
from pawl.problem import Problem
from pawl.serving import predictor

BLOCK = 2_000  # rows: what is known of their leaves fits the second cache
LARGEST = 1 << 26  # bytes of all tables
ASKED = 50  # rows of a batch that the service's code answers too
ZERO = float(np.float32(1e-35))  # what LightGBM takes for zero where that stands for a missing value
# As pawl.compiled does to a number; what is arithmetic there is arithmetic on arrays too.
STEPPED: dict[str, Callable[[Any, Any], Any]] = STEPS | {
    "fill": lambda values, other: np.where(np.isnan(values), other, values),
    "missing": lambda values, _: np.isnan(values).astype(np.float64),
    "clip": lambda values, ends: np.clip(values, *ends),
}


class Node(NamedTuple):
    """A split: which leaves lie on its left."""

    tree: int
    threshold: float
    kind: int  # LightGBM's bits: 2 for missing goes left, 4 for zero is missing, 8 for NaN is
    left: int


class Part(NamedTuple):
    """A column of the records, and the leaves that each of its values leaves possible, shape (values, trees)."""

    source: int
    table: Any
    keys: dict[Any, int] | None = None  # a category's row of the table; the last row is of any other
    steps: tuple[tuple[str, Any], ...] = ()  # of a number, whose
    cuts: Any = None  # intervals end here; the last two rows are of what is above, and missing


class Bulk:
    """The bundle in a folder, for tables. Any number of threads may ask."""

    def __init__(self, folder: Path) -> None:
        """Load; raise Problem unless the bundle is whole and answers its golden rows."""
        self.served, self.folder = predictor.load(folder), folder
        self.manifest: dict[str, Any] = self.served.manifest
        self.own = threading.local()  # LightGBM's handle keeps what was asked last
        self.parts: list[Part] | None = None
        if isinstance(self.served.predictor, Compiled):
            self.encoder, self.model = ((folder / name).read_bytes() for name in (bundle.ENCODER, bundle.MODEL))
            if len(self._mine().steps) > 1:  # of so few trees that none hands on a sum, the pipeline is as fast
                self.parts, self.leaves = self._read()
        self.loaded = bundle.load(folder) if self.parts is None else None

    def answer(self, batch: Any) -> tuple[Any, Any]:
        """Return (label numbers or values, shape (n,), probabilities, shape (n, k), or None) for a pyarrow.RecordBatch with the types of the features."""
        batch = batch.select(list(self.manifest["features"]))
        if self.loaded:
            answers, probabilities = self.loaded.predict(frames.from_table(batch, self.manifest["features"]))
        else:
            scores = self._scores(batch)
            answers, probabilities = scores[:, 0], None
            if self.manifest["task"] == "binary":
                answers, probabilities = (answers >= self.manifest["threshold"]).astype(np.int64), np.hstack([1.0 - scores, scores])  # fmt: skip
            elif self.manifest["labels"]:
                answers, probabilities = scores.argmax(axis=1), scores
        self._check(batch.slice(0, ASKED), answers[:ASKED], probabilities)
        return answers, probabilities

    def _mine(self) -> Any:
        """Return this thread's model, as the service has it."""
        if not isinstance(self.served.predictor, Compiled):
            return self.served.predictor
        if not hasattr(self.own, "compiled"):
            self.own.compiled = Compiled(self.encoder, self.model, self.manifest, self.folder)
        return self.own.compiled

    def _scores(self, batch: Any) -> Any:
        """Return what the trees answer, shape (n, outputs)."""
        found = [(part.table, index(part, batch.column(part.source))) for part in self.parts or ()]
        mine, total = self._mine(), batch.num_rows
        scores, matrix = np.zeros((total, mine.outputs)), np.zeros((min(BLOCK, total), mine.width + mine.outputs))
        for start in range(0, total, BLOCK):
            given = scores[start : start + BLOCK]
            possible: Any = None
            for table, rows in found:
                some = table.take(rows[start : start + BLOCK], axis=0)
                possible = some if possible is None else np.bitwise_and(possible, some, out=possible)
            below = ~possible & (possible - possible.dtype.type(1))  # the zeros below the first one
            first = np.bitwise_count(below).T.copy()
            for tree, (values, leaf) in enumerate(zip(self.leaves, first, strict=True)):
                given[:, tree % mine.outputs] += values.take(leaf)
            matrix[: len(given), mine.width :] = given
            mine._ok(  # noqa: SLF001 - of one package
                mine.library.LGBM_BoosterPredictForMat(
                    mine.handle, matrix.ctypes.data_as(ctypes.c_void_p), DOUBLES, len(given), matrix.shape[1], 1, NORMAL, mine.steps[1][0], 1,
                    SETTINGS, ctypes.byref(ctypes.c_int64()), given.ctypes.data_as(ctypes.c_void_p),
                )
            )  # fmt: skip
        return scores

    def _check(self, batch: Any, answers: Any, probabilities: Any) -> None:
        """Raise Problem if the service would answer one of these rows otherwise."""
        cells = [[None if cell != cell else cell for cell in column.to_pylist()] for column in batch.columns]  # noqa: PLR0124 - NaN
        expected, scores = self._mine().many([*zip(*cells, strict=True)]) if batch.num_rows else ([], None)
        labels = self.manifest["labels"]
        got = [labels[number] for number in answers] if labels else answers.tolist()
        if got != expected or (scores is not None and not np.array_equal(probabilities[: len(got)], np.array(scores))):
            what = "the model answers a table otherwise than the service answers its rows"
            raise Problem(what, self.manifest["digest"], "train again with train.compile: false, and report it")

    def _read(self) -> tuple[list[Part] | None, Any]:
        """Return the parts, and the leaves' values, shape (trees, leaves); None if there is a tree that they cannot stand for."""
        head, _, body = self.model.partition(b"end of trees")[0].partition(b"\n\nTree=0\n")
        trees = [dict(re.findall(rb"(\w+)=(.*)", text)) for text in re.split(rb"Tree=\d+\n", body)]
        most = max(int(tree[b"num_leaves"]) for tree in trees)
        odd = any(int(tree[b"num_cat"]) or int(tree.get(b"is_linear", 0)) for tree in trees)
        if odd or most > 64 or b"average_output" in head:
            return None, None
        kind = np.dtype(next(f"u{size}" for size in (1, 2, 4, 8) if 8 * size >= most))
        nodes: dict[int, list[Node]] = defaultdict(list)
        leaves = np.zeros((len(trees), most))
        for number, tree in enumerate(trees):
            order = _walk(number, tree, nodes)
            leaves[number, : len(order)] = np.array(tree[b"leaf_value"].split(), dtype=float)[order]
        parts, at, size = [], 0, 0
        for block in json.loads(self.encoder)["blocks"]:
            width = block.get("width", len(block.get("steps", ())))
            mine = {offset: nodes[at + offset] for offset in range(width) if nodes.get(at + offset)}
            at += width
            if "table" in block and mine:
                cells = np.zeros((len(block["table"]) + 1, width))
                for row, some in enumerate([*(some for _, some in block["table"]), block["unknown"]]):
                    for offset, value in some:
                        cells[row, offset] = np.nan if value is None else value
                keys = {key: row for row, (key, _) in enumerate(block["table"])}
                parts.append(Part(block["column"], _possible(cells, mine, len(trees), kind), keys))
            elif mine:
                for offset, found in mine.items():
                    cuts = sorted({np.nextafter(-ZERO, -1.0), ZERO, *(node.threshold for node in found)})
                    table = _possible(np.array([[*cuts, np.inf, np.nan]]).T, {0: found}, len(trees), kind)
                    parts.append(
                        Part(block["first"] + offset, table, None, tuple(block["steps"][offset]), np.array(cuts))
                    )
            size = sum(part.table.nbytes for part in parts)
            if size > LARGEST:
                return None, None
        return parts or None, leaves


def _walk(number: int, tree: dict[bytes, bytes], nodes: dict[int, list[Node]]) -> list[int]:
    """Add a tree's splits to `nodes`, by feature; return its leaves from left to right."""
    words = [tree.get(name, b"").split() for name in (b"split_feature", b"threshold", b"decision_type", b"left_child", b"right_child")]  # fmt: skip
    order: list[int] = []

    def walk(node: int) -> int:
        if node < 0:
            order.append(~node)
            return 1 << (len(order) - 1)
        feature, threshold, kind, left, right = (each[node] for each in words)
        below = walk(int(left))
        nodes[int(feature)].append(Node(number, float(threshold), int(kind), below))
        return below | walk(int(right))

    walk(0 if words[0] else -1)
    return order


def _possible(cells: Any, nodes: dict[int, list[Node]], trees: int, kind: Any) -> Any:
    """Return the leaves that these values, shape (k, width), leave possible, shape (k, trees): LightGBM's NumericalDecision."""
    every = int(np.iinfo(kind).max)
    found = np.full((len(cells), trees), every, dtype=kind)
    for offset, some in nodes.items():
        values, nan = cells[:, offset], np.isnan(cells[:, offset])
        plain = np.where(nan, 0.0, values)
        for node in some:
            missing = nan if node.kind & 8 else (np.abs(plain) <= ZERO) & bool(node.kind & 4)
            right = np.where(missing, not node.kind & 2, plain > node.threshold)
            found[right, node.tree] &= kind.type(every ^ node.left)
    return found


def index(part: Part, column: Any) -> Any:
    """Return which row of a part's table each cell of a pyarrow array has."""
    if part.keys is None:
        values = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
        with np.errstate(all="ignore"):
            for name, operand in part.steps:
                values = STEPPED[name](values, operand)
        return np.where(np.isnan(values), len(part.cuts) + 1, np.searchsorted(part.cuts, values))
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    values = [*encoded.dictionary.to_pylist(), None]
    rows = [part.keys.get(None if value != value else value, len(part.keys)) for value in values]  # noqa: PLR0124 - NaN
    return np.array(rows).take(encoded.indices.fill_null(len(rows) - 1).to_numpy(zero_copy_only=False))
