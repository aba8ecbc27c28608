"""bundle -> reports: scores the stored bundle on raw prepared rows, the way it will be served."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pawl import bundle, compiler, frames, metrics, paths, rows
from pawl.compiled import Compiled
from pawl.config import Evaluate, Prepare, Task, Train
from pawl.metrics import Estimate
from pawl.pipeline import train
from pawl.pipeline.prepare import SPLITS, split_key
from pawl.problem import Problem
from task.features import build_features
from task.metrics import METRICS
from task.params import FeaturizeParams
from task.slices import SLICES

BATCH_ROWS = 100_000
BINS = 10  # of the calibration that is drawn
ADDRESS = r"(?<=x)[0-9a-f]{8,16}(?=>|&gt;)"  # of an object in memory: another in every process
PLOTS = {
    "roc": ["false_positive_rate", "true_positive_rate"],
    "precision_recall": ["recall", "precision"],
    "calibration": ["predicted", "observed", "low", "high", "n"],
    "residuals": ["predicted", "residual"],
    "importances": ["feature", "importance"],
    "confusion": ["actual", "predicted"],
}


def run(task: Task, params: Evaluate, fitted_with: Train, featurize: FeaturizeParams, prepare: Prepare) -> None:
    """Write metrics.json, slices.json, predictions.parquet, the data of the plots, and what the estimator is."""
    loaded = bundle.load(paths.BUNDLE)
    labels = loaded.manifest["labels"]
    tables = {split: pq.read_table(paths.PREPARED / f"{split}.parquet") for split in SPLITS}
    truth = {split: train.target(table.column(task.target), labels) for split, table in tables.items()}
    scored = {split: score(loaded, table) for split, table in tables.items()}
    report = {split: measure(task, truth[split], *scored[split], params) for split in SPLITS}
    hold_compiled(loaded, tables["test"], scored["test"])
    gaps = {name: report["train"][name].value - value.value for name, value in report["test"].items()}
    report["gap"] = {name: Estimate(gap, np.nan, np.nan, report["test"][name].n) for name, gap in gaps.items()}
    if params.folds:
        report["cv"] = cross_validate(task, params, fitted_with, featurize, prepare, loaded)

    table, y, (prediction, probabilities) = tables["test"], truth["test"], scored["test"]
    grouped = groups(task, params, table)
    write_estimates(paths.METRICS, report)
    write_estimates(paths.SLICES, dict(slices(task, params, grouped, y, prediction, probabilities)))
    told = predictions(task, table, grouped, labels, y, prediction, probabilities)
    pq.write_table(told, paths.PREDICTIONS, compression="zstd")
    write_plots(loaded, labels, y, prediction, probabilities)
    describe(loaded)


def score(loaded: bundle.Bundle, table: Any) -> tuple[Any, Any]:
    """Return (predictions, probabilities) of a table's rows, scored in batches."""
    columns = table.select(list(loaded.dtypes))
    batches = [columns.slice(start, BATCH_ROWS) for start in range(0, table.num_rows, BATCH_ROWS)]
    answers = [loaded.predict(frames.from_table(batch, loaded.dtypes)) for batch in batches]
    predictions, probabilities = zip(*answers, strict=True)
    return np.concatenate(predictions), None if probabilities[0] is None else np.concatenate(probabilities)


def hold_compiled(loaded: bundle.Bundle, table: Any, answers: tuple[Any, Any]) -> None:
    """Raise Problem unless the compiled model, where there is one, answers every row as the pipeline did: alone and in batches, bit for bit."""
    if loaded.manifest["not_compiled"]:
        return
    manifest, files = bundle.read(paths.BUNDLE)
    compiled = Compiled(files[bundle.ENCODER], files[bundle.MODEL], manifest, paths.BUNDLE)
    frame = frames.from_table(table.select(list(loaded.dtypes)), loaded.dtypes)
    if wrong := compiler.differing(compiled, frame, answers):
        what = f"the compiled model answers {len(wrong):,} of {table.num_rows:,} test rows otherwise than the pipeline"
        fix = "set train.compile: false in params.yaml; and tell Pawl's maintainers"
        raise Problem(what, paths.BUNDLE / bundle.ENCODER, fix)


def measure(task: Task, y: Any, prediction: Any, probabilities: Any, params: Evaluate) -> dict[str, Estimate]:
    """Return every metric of the task on these rows."""
    options: dict[str, Any] = {"seed": 0, "custom": METRICS, "resamples": params.bootstrap}
    if task.task == "regression":
        return metrics.regression(y, prediction, **options)
    return metrics.classification(y, probabilities, prediction, **options)


def groups(task: Task, params: Evaluate, table: Any) -> dict[str, Any]:
    """Return {name: a pyarrow dictionary array, shape (n,)}: for each column in `evaluate.slices` the slice of every row, such as sex=Female; for the task's own the slice's name where its mask holds, else empty."""
    found: dict[str, Any] = {}
    for name in params.slices:
        column = table.column(name).cast("string").combine_chunks().dictionary_encode()
        values = [f"{name}={value}" for value in [*column.dictionary.to_pylist(), "(missing)"]]
        found[name] = pa.DictionaryArray.from_arrays(column.indices.fill_null(len(values) - 1), pa.array(values))
    records = table.to_pandas() if SLICES else None
    for name, function in SLICES.items():
        try:
            mask = np.asarray(function(records), dtype=bool).astype(np.int32)
            found[name] = pa.DictionaryArray.from_arrays(pa.array(mask), pa.array(["", name]))
        except Exception as error:
            what = f"the slice {name} failed: {type(error).__name__}: {error}"
            fix = "it takes a DataFrame of prepared rows and returns a mask"
            raise Problem(what, "src/task/slices.py", fix) from error
    return found


def slices(
    task: Task, params: Evaluate, grouped: Mapping[str, Any], y: Any, prediction: Any, probabilities: Any
) -> Iterator[tuple[str, dict[str, Estimate]]]:
    """Yield (name, metrics) for each slice of the test rows that is large enough."""
    masks = {
        value: each.indices.to_numpy() == number
        for each in grouped.values()
        for number, value in enumerate(each.dictionary.to_pylist())
        if value
    }
    for name, chosen in sorted(masks.items()):
        if chosen.sum() >= max(params.min_slice_rows, 1):
            some = None if probabilities is None else probabilities[chosen]
            yield name, measure(task, y[chosen], prediction[chosen], some, params)


def cross_validate(
    task: Task, params: Evaluate, fitted_with: Train, featurize: FeaturizeParams, split: Prepare, loaded: bundle.Bundle
) -> dict[str, Estimate]:
    """Return cv_<metric>_mean and cv_<metric>_std over folds of the train and valid rows, drawn as the splits are: groups stay together."""
    parts = [pq.read_table(paths.PREPARED / f"{name}.parquet") for name in ("train", "valid")]
    table = pa.concat_tables(parts).unify_dictionaries()
    labels = loaded.manifest["labels"]
    y = train.target(table.column(task.target), labels)
    frame = frames.from_table(table, loaded.dtypes)
    key = split_key(table, rows.hash_rows(table, loaded.dtypes), task, split)
    fold = (rows.unit(key, split.seed + 1) * params.folds).astype(int)
    # Each model has the bundle's number of rounds, so that no fold decides when its own training stops.
    rounds = {"n_estimators": loaded.manifest["rounds"]} if loaded.manifest["rounds"] else {}
    settled = msgspec.structs.replace(fitted_with, early_stopping=0, params={**fitted_with.params, **rounds})
    found: dict[str, list[float]] = {}
    for number in range(params.folds):
        held = fold == number
        transformer = build_features(loaded.dtypes, featurize)
        X = transformer.fit_transform(frame[~held])
        model, _ = train.fit(settled, labels, X, y[~held], transformer.transform(frame[held]), y[held])
        answers = bundle.predict(train.joined(transformer, model), task.task, loaded.manifest["threshold"], frame[held])
        for name, value in measure(task, y[held], *answers, params).items():
            found.setdefault(name, []).append(value.value)
    means = {f"cv_{name}_mean": np.mean(each) for name, each in found.items()}
    spreads = {f"cv_{name}_std": np.std(each, ddof=1) for name, each in found.items()}
    return {name: Estimate(float(each), np.nan, np.nan, params.folds) for name, each in (means | spreads).items()}


def predictions(
    task: Task,
    table: Any,
    grouped: Mapping[str, Any],
    labels: Sequence[str],
    y: Any,
    prediction: Any,
    probabilities: Any,
) -> Any:
    """Return a table with one row per row: row_id, target, prediction, a probability per label, its slices, and its group."""
    columns: dict[str, Any] = {"row_id": table.column("row_id")}
    for name, values in (("target", y), ("prediction", prediction)):
        columns[name] = pa.array(labels).take(pa.array(values)) if labels else pa.array(values)
    columns |= {f"probability {label}": pa.array(probabilities[:, number]) for number, label in enumerate(labels)}
    columns |= {f"slice {name}": each for name, each in grouped.items()}
    if task.columns.group:
        columns["group"] = table.column(task.columns.group)
    return pa.table(columns)


def write_plots(loaded: bundle.Bundle, labels: Sequence[str], y: Any, prediction: Any, probabilities: Any) -> None:
    """Write the data of the pictures as tables: what `dvc plots` and the report draw."""
    lines: dict[str, Iterable[Sequence[Any]]] = {"importances": importances(loaded)}
    if labels:
        lines["confusion"] = [(labels[a], labels[b]) for a, b in zip(y, prediction, strict=True)]
    else:
        lines["residuals"] = _thinned(prediction, y - prediction, 1000)
    if len(labels) == 2:
        from sklearn.metrics import precision_recall_curve, roc_curve

        false, true, _ = roc_curve(y, probabilities[:, 1])
        precision, recall, _ = precision_recall_curve(y, probabilities[:, 1])
        lines |= {"roc": _thinned(false, true, 500), "precision_recall": _thinned(recall, precision, 500)}
        lines["calibration"] = calibration(y, probabilities[:, 1])
    for name, header in PLOTS.items():  # `dvc plots` wants each file, whatever the task
        train.write_table(paths.PLOTS / f"{name}.csv", header, lines.get(name, ()))


def describe(loaded: bundle.Bundle) -> None:
    """Write what the run of this model says of its estimator, by the names that MLflow's autolog uses."""
    from sklearn.utils import estimator_html_repr

    model = loaded.pipeline[-1]
    booster = getattr(model, "booster_", None)
    # What the library made of a parameter wins: an objective that was not given, say.
    params = model.get_params() | ({**booster.params, "num_boost_round": model.n_estimators} if booster else {})
    told: dict[str, Any] = {"digest": loaded.digest, "name": type(model).__name__, "module": type(model).__module__}
    told["params"] = {key: re.sub(ADDRESS, "", str(value)) for key, value in params.items()}
    made: dict[str, Any] = {"estimator.json": told}
    if booster:
        for kind in ("gain", "split"):
            shares = booster.feature_importance(kind).tolist()
            named = sorted(zip(loaded.manifest["feature_names"], shares, strict=True), key=lambda pair: -pair[1])
            made[f"feature_importance_{kind}.json"] = dict(named)
    paths.ESTIMATOR.mkdir(parents=True, exist_ok=True)
    for name, content in made.items():
        (paths.ESTIMATOR / name).write_text(json.dumps(content, indent=1) + "\n")
    (paths.ESTIMATOR / "estimator.html").write_text(re.sub(ADDRESS, "", estimator_html_repr(loaded.pipeline)))


def calibration(y: Any, probability: Any) -> list[tuple[float, float, float, float, int]]:
    """Return (mean prediction, share of positives, its 95 % interval, rows) per bin of equal width that holds rows."""
    place = np.minimum((probability * BINS).astype(int), BINS - 1)
    rows = [place == number for number in np.unique(place)]
    return [(float(probability[row].mean()), *metrics.wilson(int(y[row].sum()), int(row.sum()))) for row in rows]


def importances(loaded: bundle.Bundle) -> list[tuple[str, float]]:
    """Return (feature, share of the model's own importance), largest first; empty where the model has none."""
    model = loaded.pipeline.steps[-1][1]
    model = getattr(model, "steps", [(None, model)])[-1][1]
    if hasattr(model, "booster_"):
        weights = model.booster_.feature_importance("gain")
    else:
        slopes = np.abs(np.atleast_2d(getattr(model, "coef_", []))).mean(axis=0)
        weights = getattr(model, "feature_importances_", slopes)
    total = float(np.sum(weights)) or 1.0
    pairs = zip(loaded.manifest["feature_names"], (float(weight) / total for weight in weights), strict=False)
    return sorted(pairs, key=lambda pair: -pair[1])


def _thinned(x: Any, y: Any, points: int) -> Any:
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), points)).astype(int))
    return zip(x[keep].tolist(), y[keep].tolist(), strict=True)


def write_estimates(path: Path, found: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Write estimates as JSON, which has no NaN: null stands for what is not defined."""

    def plain(estimate: Estimate) -> dict[str, float | None]:
        return {key: value if np.isfinite(value) else None for key, value in estimate._asdict().items()}

    content = {name: {metric: plain(value) for metric, value in each.items()} for name, each in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
