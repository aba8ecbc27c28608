"""The bundle: the one artifact that is evaluated, registered, shipped and served. No pickle anywhere.

models/bundle/  manifest.json   what it is, and size and SHA-256 of every other file
                pipeline.skops  features and estimator, joined; the same bytes for the same content
                golden.json     records with the predictions that every copy must reproduce
                trained_on.npy  sorted 64-bit hashes of the ids of the rows it has seen
                encoder.json    the same model compiled, where that is possible: what a row becomes,
                model.txt       and LightGBM's trees. The service needs nothing but these

What stands at the top needs only Python: the service of a compiled bundle has no numpy.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pawl import frames
from pawl.problem import Problem

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FORMAT = 2
MANIFEST, PIPELINE, GOLDEN, TRAINED_ON = "manifest.json", "pipeline.skops", "golden.json", "trained_on.npy"
ENCODER, MODEL = "encoder.json", "model.txt"
# What a bundle may hold beside what skops trusts by itself. A name that ends in a dot stands for all below it.
ALLOWED = (
    "collections.OrderedDict", "lightgbm.basic.Booster", "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor", "lightgbm.sklearn.LGBMRanker", "numpy.dtype", "sklearn._loss.link.",
    "sklearn._loss.loss.", "sklearn._loss._loss.", "sklearn.ensemble._hist_gradient_boosting.", "sklearn.calibration.",
    "sklearn.gaussian_process.kernels.", "sklearn.neural_network._stochastic_optimizers.", "sklearn.preprocessing.",
    "sklearn.tree._tree.Tree", "sklearn.utils._bunch.Bunch", "task.",
)  # fmt: skip
Hashes: TypeAlias = "npt.NDArray[np.uint64]"
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
    import numpy as np

    if task == "regression":
        return np.asarray(pipeline.predict(frame), dtype=float), None
    probabilities = pipeline.predict_proba(frame)
    if task == "binary":
        return (probabilities[:, 1] >= threshold).astype(np.int64), probabilities
    return probabilities.argmax(axis=1), probabilities


def save(
    folder: Path,
    pipeline: Any,
    manifest: Mapping[str, Any],
    golden: Sequence[Mapping[str, Any]],
    trained_on: Hashes,
    held: Any = None,
    *,
    compiled: bool = True,
) -> Bundle:
    """Write a bundle and return it as it loads; raise Problem for a type that is not allowed, or if it predicts otherwise once stored.

    held: a frame of rows on which, beside the golden ones, the compiled model must answer as the pipeline does. Where it does not,
    the manifest says so, and the pipeline serves.
    """
    import numpy as np

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
    held = frame if held is None else held
    why_not = _compile(folder, pipeline, manifest, held) if compiled else "train.compile is false"
    names = sorted(_named(compiled=not why_not))
    files = {name: _facts((folder / name).read_bytes()) for name in names}
    content = {"format": FORMAT, **manifest, "not_compiled": why_not, "files": files}
    (folder / MANIFEST).write_text(json.dumps({**content, "digest": _identity(content)}, indent=2) + "\n")
    bundle = load(folder)
    if check_golden(bundle):
        fix = "an attribute of an estimator in src/task is lost when it is stored: set it in __init__ or fit"
        raise Problem("the stored pipeline does not predict what the fitted one does", folder, fix)
    return bundle


def _compile(folder: Path, pipeline: Any, manifest: Mapping[str, Any], held: Any) -> str:
    """Write the compiled model and return nothing, or return why it cannot be."""
    from pawl import compiler

    try:
        encoder, model = compiler.compile_pipeline(pipeline, manifest)
        task, threshold = manifest["task"], manifest["threshold"]
        compiler.check(encoder, model, manifest, held, lambda rows: predict(pipeline, task, threshold, rows))
    except compiler.Unsupported as reason:
        return str(reason)
    (folder / ENCODER).write_bytes(encoder)
    (folder / MODEL).write_bytes(model)
    return ""


def _named(*, compiled: bool) -> set[str]:
    return {GOLDEN, PIPELINE, TRAINED_ON} | ({ENCODER, MODEL} if compiled else set())


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return (manifest, content of every file) of the bundle in a folder; raise Problem unless each has the size and SHA-256 of the manifest.

    Nothing is loaded: LightGBM's reader ends the process on a truncated model.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if (version := manifest.get("format")) != FORMAT:
            raise Problem(f"bundle format {version} is not {FORMAT}", folder, "train again with this version")
        stated = manifest["digest"]
        found = _identity({key: value for key, value in manifest.items() if key != "digest"})
        if found != stated:
            what = f"the manifest is not the one that was written: its digest is {found}, it states {stated}"
            raise Problem(what, folder / MANIFEST, AGAIN)
        if set(manifest["files"]) != _named(compiled=not manifest["not_compiled"]):
            raise Problem(f"the manifest lists {sorted(manifest['files'])}", folder / MANIFEST, AGAIN)
        files = {}
        for name, expected in manifest["files"].items():
            with (folder / name).open("rb") as stream:
                files[name] = stream.read(expected["size"] + 1)
            if (facts := _facts(files[name])) != expected:
                told = (f"{each['size']} bytes, SHA-256 {each['sha256']}" for each in (facts, expected))
                what = f"{name} is not the file that was written: {', expected '.join(told)}"
                raise Problem(what, folder / name, AGAIN)
    except FileNotFoundError as error:
        raise Problem("not a complete bundle", error.filename or folder, "run `make run`, or `make pull`") from error
    except OSError as error:
        raise Problem(f"the bundle cannot be read: {error.strerror}", error.filename or folder, AGAIN) from error
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise Problem(f"the manifest cannot be read: {error!r}", folder / MANIFEST, AGAIN) from error
    return manifest, files


def load(folder: Path, *, fitted: bool = True) -> Bundle:
    """Return the bundle in a folder; raise Problem unless every file has the size and digest of the manifest and every type is allowed.

    fitted: False leaves the pipeline out, for who only says what the bundle is: scikit-learn takes seconds to import.
    """
    import numpy as np

    manifest, files = read(folder)
    pipeline = restore(files[PIPELINE], folder / PIPELINE) if fitted else None
    seen = np.load(io.BytesIO(files[TRAINED_ON]), allow_pickle=False)
    return Bundle(pipeline, manifest, json.loads(files[GOLDEN]), seen)


def digest_of(folder: Path) -> str:
    """Return the digest that a bundle's manifest states; raise Problem if there is no bundle."""
    try:
        return str(json.loads((folder / MANIFEST).read_text())["digest"])
    except (OSError, ValueError, KeyError) as error:
        raise Problem("there is no bundle", folder, "run `make run`, or `make pull`") from error


def check_golden(bundle: Bundle, tolerance: float = 0.0) -> list[int]:
    """Return the numbers of the golden rows whose prediction differs by more than the tolerance."""
    import numpy as np

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


def _facts(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def _identity(content: Mapping[str, Any]) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
