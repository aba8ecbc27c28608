"""The bundle: the one artifact that is evaluated, registered, shipped and served. No pickle anywhere.

models/bundle/  manifest.json   what it is, and size and SHA-256 of every other file
                pipeline.skops  features and estimator, joined; the same bytes for the same content
                golden.json     records with the predictions that every copy must reproduce
                trained_on.npy  sorted 64-bit hashes of the ids of the rows it has seen
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pawl import frames
from pawl.problem import Problem

FORMAT = 1
MANIFEST, PIPELINE, GOLDEN, TRAINED_ON = "manifest.json", "pipeline.skops", "golden.json", "trained_on.npy"
# What a bundle may hold beside what skops trusts by itself. A name that ends in a dot stands for all below it.
ALLOWED = (
    "collections.OrderedDict", "lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor", "lightgbm.sklearn.LGBMRanker", "numpy.dtype", "sklearn._loss.link.",
    "sklearn._loss.loss.", "sklearn._loss._loss.", "sklearn.ensemble._hist_gradient_boosting.", "sklearn.calibration.",
    "sklearn.gaussian_process.kernels.", "sklearn.neural_network._stochastic_optimizers.", "sklearn.preprocessing.",
    "sklearn.tree._tree.Tree", "sklearn.utils._bunch.Bunch", "task.",
)  # fmt: skip
Hashes = npt.NDArray[np.uint64]
AGAIN = "fetch the bundle again"


class Bundle(NamedTuple):
    """A loaded bundle."""

    pipeline: Any
    manifest: dict[str, Any]
    golden: dict[str, Any]
    trained_on: Hashes

    @property
    def digest(self) -> str:
        """Return the model's identity."""
        return str(self.manifest["digest"])

    @property
    def dtypes(self) -> dict[str, str]:
        """Return {feature: dtype}: what a record may hold."""
        return dict(self.manifest["features"])

    def predict(self, frame: Any) -> tuple[Any, Any]:
        """Return (predictions, probabilities) for a frame made by `frames`: label numbers, shape (n,), and shape (n, k); values and None for regression."""
        return predict(self.pipeline, self.manifest["task"], self.manifest["threshold"], frame)

    def predict_records(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[Any], Any]:
        """Return (labels or values, probabilities or None) for records as they come over HTTP."""
        predictions, probabilities = self.predict(frames.from_records(records, self.dtypes))
        labels = self.manifest["labels"]
        return ([labels[number] for number in predictions] if labels else predictions.tolist()), probabilities


def predict(pipeline: Any, task: str, threshold: float, frame: Any) -> tuple[Any, Any]:
    """Return (predictions, probabilities) as Bundle.predict does."""
    if task == "regression":
        return np.asarray(pipeline.predict(frame), dtype=float), None
    probabilities = pipeline.predict_proba(frame)
    if task == "binary":
        return (probabilities[:, 1] >= threshold).astype(np.int64), probabilities
    return probabilities.argmax(axis=1), probabilities


def save(
    folder: Path, pipeline: Any, manifest: Mapping[str, Any], golden: Sequence[Mapping[str, Any]], trained_on: Hashes
) -> Bundle:
    """Write a bundle and return it as it loads; raise Problem for a type that is not allowed, or if it predicts otherwise once stored."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = dump(pipeline)
    allowed_types(stored, folder / PIPELINE)
    (folder / PIPELINE).write_bytes(stored)
    frame = frames.from_records(golden, manifest["features"])
    answers = predict(pipeline, manifest["task"], manifest["threshold"], frame)
    predictions, probabilities = (None if each is None else each.tolist() for each in answers)
    told = {"records": list(golden), "predictions": predictions, "probabilities": probabilities}
    (folder / GOLDEN).write_text(json.dumps(told, indent=1) + "\n")
    np.save(folder / TRAINED_ON, np.sort(trained_on))
    files = {name: _facts(folder / name) for name in (GOLDEN, PIPELINE, TRAINED_ON)}
    content = {"format": FORMAT, **manifest, "files": files}
    (folder / MANIFEST).write_text(json.dumps({**content, "digest": _identity(content)}, indent=2) + "\n")
    bundle = load(folder)
    if check_golden(bundle):
        fix = "an attribute of an estimator in src/task is lost when it is stored: set it in __init__ or fit"
        raise Problem("the stored pipeline does not predict what the fitted one does", folder, fix)
    return bundle


def load(folder: Path) -> Bundle:
    """Return the bundle in a folder; raise Problem unless every file has the size and digest of the manifest and every type is allowed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if (version := manifest.get("format")) != FORMAT:
            raise Problem(f"bundle format {version} is not {FORMAT}", folder, "train again with this version")
        if manifest["digest"] != _identity({key: value for key, value in manifest.items() if key != "digest"}):
            what = "the manifest is not the one that was written: its digest differs"
            raise Problem(what, folder / MANIFEST, AGAIN)
        if set(manifest["files"]) != {GOLDEN, PIPELINE, TRAINED_ON}:
            raise Problem(f"the manifest lists {sorted(manifest['files'])}", folder / MANIFEST, AGAIN)
        for name, expected in manifest["files"].items():
            if (facts := _facts(folder / name)) != expected:
                sizes = f"{facts['size']} bytes, expected {expected['size']}; or its SHA-256 differs"
                raise Problem(f"{name} is not the file that was written: {sizes}", folder / name, AGAIN)
    except FileNotFoundError as error:
        raise Problem("not a complete bundle", error.filename or folder, "run `make run`, or `make pull`") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Problem(f"the manifest cannot be read: {error!r}", folder / MANIFEST, AGAIN) from error
    pipeline = restore((folder / PIPELINE).read_bytes(), folder / PIPELINE)
    golden = json.loads((folder / GOLDEN).read_text())
    return Bundle(pipeline, manifest, golden, np.load(folder / TRAINED_ON, allow_pickle=False))


def digest_of(folder: Path) -> str:
    """Return the digest that a bundle's manifest states; raise Problem if there is no bundle."""
    try:
        return str(json.loads((folder / MANIFEST).read_text())["digest"])
    except (OSError, ValueError, KeyError) as error:
        raise Problem("there is no bundle", folder, "run `make run`, or `make pull`") from error


def check_golden(bundle: Bundle, tolerance: float = 0.0) -> list[int]:
    """Return the numbers of the golden rows whose prediction differs by more than the tolerance."""
    predictions, probabilities = bundle.predict(frames.from_records(bundle.golden["records"], bundle.dtypes))
    name, got = ("predictions", predictions) if probabilities is None else ("probabilities", probabilities)
    expected = np.asarray(bundle.golden[name], dtype=float)
    difference = np.abs(got - expected).reshape(len(expected), -1).max(axis=1)
    return [int(row) for row in np.flatnonzero(~(difference <= tolerance))]


def restore(stored: bytes, where: Path) -> Any:
    """Return the object in a skops file, once its types are known to be allowed."""
    import skops.io

    return skops.io.loads(stored, trusted=allowed_types(stored, where))


def allowed_types(stored: bytes, where: Path) -> list[str]:
    """Return the types in a skops file that skops does not trust by itself; raise Problem if ALLOWED does not name one. Nothing is run."""
    import skops.io

    named: list[str] = skops.io.get_untrusted_types(data=stored)
    families = tuple(each for each in ALLOWED if each.endswith("."))
    if unknown := [name for name in named if name not in ALLOWED and not name.startswith(families)]:
        fix = "use scikit-learn's or LightGBM's estimators, or define the class in src/task; a bundle from elsewhere: do not use it"
        raise Problem(f"refused: types that a bundle may not hold: {', '.join(unknown)}", where, fix)
    return named


def dump(fitted: Any) -> bytes:
    """Return an object in skops' format, the same bytes for the same content: without times, and with ids counted instead of addresses."""
    import skops.io

    try:
        given = zipfile.ZipFile(io.BytesIO(skops.io.dumps(fitted)))
    except (TypeError, skops.io.exceptions.UnsupportedTypeException, AttributeError) as error:
        what = f"the pipeline cannot be stored without pickle: {error}"
        fix = "use scikit-learn's or LightGBM's estimators, or simpler attributes in src/task"
        raise Problem(what, "train.model, src/task", fix) from error
    schema = json.loads(given.read("schema.json"))
    ids: dict[int, int] = {}
    members: dict[str, str] = {}
    for node in _nodes(schema):
        if "__id__" in node:
            node["__id__"] = ids.setdefault(node["__id__"], len(ids))
        if isinstance(node.get("file"), str):
            name = node["file"]
            node["file"] = members.setdefault(name, f"{len(members)}{Path(name).suffix}")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as out:
        for old, new in members.items():
            out.writestr(zipfile.ZipInfo(new), given.read(old))
        out.writestr(zipfile.ZipInfo("schema.json"), json.dumps(schema))
    return buffer.getvalue()


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from _nodes(inner)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "size": path.stat().st_size}


def _identity(content: Mapping[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
