"""Who answers: the compiled model, or where there is none the pipeline itself."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pawl import bundle
from pawl.compiled import Compiled, Row
from pawl.problem import Problem

TOLERANCE = 1e-9  # another libm may round the last bit of a probability otherwise


class Predictor(Protocol):
    """Answers rows: cells in the order of the manifest's features, None where missing."""

    def one(self, row: Row, /) -> tuple[Any, Sequence[float] | None]:
        """Return (label or value, probabilities in the labels' order or None)."""

    def many(self, rows: Sequence[Row], /) -> tuple[list[Any], Sequence[Sequence[float]] | None]:
        """Return the same of each row, as two lists."""


class Fitted:
    """The pipeline, through frames with the types of training: null is NaN, not an unknown category."""

    def __init__(self, folder: Path) -> None:
        self.loaded = bundle.load(folder)

    def one(self, row: Row, /) -> tuple[Any, Sequence[float] | None]:
        """See Predictor."""
        answers, scores = self.many([row])
        return answers[0], None if scores is None else scores[0]

    def many(self, rows: Sequence[Row], /) -> tuple[list[Any], list[list[float]] | None]:
        """See Predictor."""
        answers, scores = self.loaded.predict_records([dict(zip(self.loaded.dtypes, row, strict=True)) for row in rows])
        return answers, None if scores is None else scores.tolist()


class Served(NamedTuple):
    """A bundle that answers."""

    manifest: dict[str, Any]
    golden: dict[str, Any]
    predictor: Predictor

    @property
    def by(self) -> str:
        """Say what answers."""
        return f"the pipeline: {why}" if (why := self.manifest["not_compiled"]) else "the compiled model"


def load(folder: Path) -> Served:
    """Return the bundle in a folder, ready to answer; raise Problem unless its files are whole and it answers its golden rows."""
    manifest, files = bundle.read(folder)
    try:
        if manifest["not_compiled"]:
            predictor: Predictor = Fitted(folder)
        else:
            predictor = Compiled(files[bundle.ENCODER], files[bundle.MODEL], manifest, folder)
        served = Served(manifest, json.loads(files[bundle.GOLDEN]), predictor)
        wrong = differing(served)
    except Problem:
        raise
    except Exception as error:  # files that fit their manifest may still hold anything
        what = f"the model cannot be loaded: {type(error).__name__}: {str(error)[:200]}"
        raise Problem(what, folder, bundle.AGAIN) from error
    if wrong:
        what = f"the model answers {len(wrong)} of its golden rows otherwise than when it was made"
        fix = "use the versions of the lock that it was made with: requirements/serving.txt"
        raise Problem(what, manifest["digest"], fix)
    return served


def differing(served: Served) -> list[int]:
    """Return the numbers of the golden rows that are answered otherwise, alone or among the others."""
    golden, predictor = served.golden, served.predictor
    rows = [tuple(record.get(name) for name in served.manifest["features"]) for record in golden["records"]]
    answers, scores = predictor.many(rows)
    together = zip(answers, scores or repeat(None), strict=False)
    told = [*enumerate(together), *enumerate(map(predictor.one, rows))]
    return sorted({number for number, answer in told if unlike(served.manifest, golden, number, *answer)})


def unlike(manifest: Mapping[str, Any], golden: Mapping[str, Any], number: int, answer: Any, scores: Sequence[float] | None) -> str:  # fmt: skip
    """Return how an answer to a golden row differs from the one that it had when the model was made: nothing but for another libm's last bits."""
    labels, expected = manifest["labels"], golden["predictions"][number]
    got, wanted = (scores or [], golden["probabilities"][number]) if labels else ([answer], [expected])
    same = len(got) == len(wanted) and (not labels or answer == labels[expected])
    pairs = zip(got, wanted, strict=False)
    same = same and all(math.isclose(*pair, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for pair in pairs)
    return "" if same else f"{got}, not {wanted}"


def tried(folder: Path) -> "subprocess.Popen[bytes] | None":
    """Load a bundle in a process of its own, which LightGBM's reader may end; `survived` asks how it went. None where that reader has no part."""
    manifest, _ = bundle.read(folder)
    if manifest["not_compiled"] and not str(manifest["model"]).startswith("lightgbm."):
        return None
    words = [sys.executable, "-m", __name__, str(folder)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def survived(process: "subprocess.Popen[bytes] | None", folder: Path) -> None:
    """Raise Problem if the process that loaded a bundle was killed by it; what else is wrong is found when it is loaded here."""
    if process is None:
        return
    try:
        process.wait(60)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise Problem("the model was not loaded within 60 s", folder, bundle.AGAIN) from error
    if process.returncode < 0:
        what = f"the model ends the process that loads it (signal {-process.returncode})"
        raise Problem(what, folder, "do not use this bundle: train again, or fetch it from where it was made")


if __name__ == "__main__":
    try:
        load(Path(sys.argv[1]))
    except Problem:
        sys.exit(2)
