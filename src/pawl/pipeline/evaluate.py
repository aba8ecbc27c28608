"""bundle -> reports: scores the stored artifact on raw prepared rows, the way it will be served."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from pawl import bundle, frames, metrics, paths, rows
from pawl.config import Evaluate, Prepare, Task, Train
from pawl.metrics import Estimate
from pawl.pipeline import train
from pawl.pipeline.prepare import split_key
from pawl.problem import Problem
from task.features import build_features
from task.metrics import METRICS
from task.params import FeaturizeParams
from task.slices import SLICES

BATCH_ROWS = 100_000
SPLITS = ("train", "valid", "test")
CURVES = {
    "roc": ["false_positive_rate", "true_positive_rate"],
    "precision_recall": ["recall", "precision"],
    "calibration": ["predicted", "observed", "low", "high", "n"],
    "residuals": ["predicted", "residual"],
}


def run(task: Task, params: Evaluate, fitted_with: Train, featurize: FeaturizeParams, prepare: Prepare) -> None:
    """Write metrics.json, slices.json, predictions.parquet and the data of the plots."""
    import pyarrow.parquet as pq

    loaded = bundle.load(paths.BUNDLE)
    labels = loaded.manifest["labels"]
    tables = {split: pq.read_table(paths.PREPARED / f"{split}.parquet") for split in SPLITS}
    truth = {split: train.target(table.column(task.target), labels) for split, table in tables.items()}
    scored = {split: score(loaded, table) for split, table in tables.items()}
    report = {split: measure(task, truth[split], *scored[split], params) for split in SPLITS}
    report["gap"] = {
        name: Estimate(report["train"][name].value - value.value, np.nan, np.nan, value.n)
        for name, value in report["test"].items()
    }
    if params.folds:
        report["cv"] = cross_validate(task, params, fitted_with, featurize, prepare, loaded)

    table, y, (prediction, probabilities) = tables["test"], truth["test"], scored["test"]
    grouped = groups(task, params, table)
    _write_json(
        paths.METRICS,
        {split: {name: _plain(value) for name, value in found.items()} for split, found in report.items()},
    )
    _write_json(
        paths.SLICES,
        {
            name: {metric: _plain(value) for metric, value in found.items()}
            for name, found in slices(task, params, grouped, y, prediction, probabilities)
        },
    )
    write_predictions(task, table, grouped, labels, y, prediction, probabilities)
    write_plots(loaded, labels, y, prediction, probabilities)


def score(loaded: bundle.Bundle, table: Any) -> tuple[Any, Any]:
    """Return (predictions, probabilities) of a table's rows, scored in batches."""
    columns = table.select(list(loaded.dtypes))
    parts = [
        loaded.predict(frames.from_table(columns.slice(start, BATCH_ROWS), loaded.dtypes))
        for start in range(0, table.num_rows, BATCH_ROWS)
    ]
    return np.concatenate([part[0] for part in parts]), None if parts[0][1] is None else np.concatenate(
        [part[1] for part in parts]
    )


def measure(task: Task, y: Any, prediction: Any, probabilities: Any, params: Evaluate) -> dict[str, Estimate]:
    """Return every metric of the task on these rows."""
    if task.task == "regression":
        return metrics.regression(y, prediction, seed=0, custom=METRICS, resamples=params.bootstrap)
    return metrics.classification(y, probabilities, prediction, seed=0, custom=METRICS, resamples=params.bootstrap)


def groups(task: Task, params: Evaluate, table: Any) -> dict[str, Any]:
    """Return {name: a pyarrow dictionary array, shape (n,)}: for each column in `evaluate.slices` the slice of every row, such as sex=Female; for the task's own the slice's name where its mask holds, else empty."""
    import pyarrow as pa

    found: dict[str, Any] = {}
    for name in params.slices:
        column = table.column(name).cast("string").combine_chunks().dictionary_encode()
        values = [f"{name}={value}" for value in [*column.dictionary.to_pylist(), "(missing)"]]
        found[name] = pa.DictionaryArray.from_arrays(column.indices.fill_null(len(values) - 1), pa.array(values))
    records = table.to_pandas() if SLICES else None
    for name, function in SLICES.items():
        try:
            mask = np.asarray(function(records), dtype=bool)
            found[name] = pa.DictionaryArray.from_arrays(pa.array(mask.astype(np.int32)), pa.array(["", name]))
        except Exception as error:
            what = f"the slice {name} failed: {type(error).__name__}: {error}"
            raise Problem(
                what, "src/task/slices.py", "it takes a DataFrame of prepared rows and returns a mask"
            ) from error
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
    """Return cv_<metric>_mean and cv_<metric>_std over folds of the train and valid rows.

    A fold is drawn as the splits are: groups stay together. Each model has the bundle's number of rounds, so that no fold
    decides when its own training stops.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [pq.read_table(paths.PREPARED / f"{name}.parquet") for name in ("train", "valid")]
    table = pa.concat_tables(parts).unify_dictionaries()
    labels = loaded.manifest["labels"]
    y = train.target(table.column(task.target), labels)
    frame = frames.from_table(table, loaded.dtypes)
    key = split_key(table, rows.hash_rows(table, loaded.dtypes), task, split)
    fold = (rows.unit(key, split.seed + 1) * params.folds).astype(int)
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
    spread = {
        f"cv_{name}_std": Estimate(float(np.std(each, ddof=1)), np.nan, np.nan, params.folds)
        for name, each in found.items()
    }
    return {
        f"cv_{name}_mean": Estimate(float(np.mean(each)), np.nan, np.nan, params.folds) for name, each in found.items()
    } | spread


def write_predictions(
    task: Task,
    table: Any,
    grouped: Mapping[str, Any],
    labels: Sequence[str],
    y: Any,
    prediction: Any,
    probabilities: Any,
) -> None:
    """Write one row per test row: row_id, target, prediction, a probability per label, its slices, and its group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"row_id": table.column("row_id")}
    columns["target"] = pa.array(y) if not labels else pa.array(labels).take(pa.array(y))
    columns["prediction"] = pa.array(prediction) if not labels else pa.array(labels).take(pa.array(prediction))
    for number, label in enumerate(labels):
        columns[f"probability {label}"] = pa.array(probabilities[:, number])
    columns |= {f"slice {name}": each for name, each in grouped.items()}
    if task.columns.group:
        columns["group"] = table.column(task.columns.group)
    pq.write_table(pa.table(columns), paths.PREDICTIONS, compression="zstd")


def write_plots(loaded: bundle.Bundle, labels: Sequence[str], y: Any, prediction: Any, probabilities: Any) -> None:
    """Write the data of the pictures as tables: what `dvc plots` and the report draw."""
    paths.PLOTS.mkdir(parents=True, exist_ok=True)
    for name, header in CURVES.items():
        _write_csv(f"{name}.csv", header, [])  # `dvc plots` wants each file, whatever the task
    _write_csv("importances.csv", ["feature", "importance"], importances(loaded))
    _write_csv(
        "confusion.csv",
        ["actual", "predicted"],
        [(labels[a], labels[b]) for a, b in zip(y, prediction, strict=True)] if labels else [],
    )
    if not labels:
        order = np.linspace(0, len(y) - 1, min(len(y), 1000)).astype(int)
        _write_csv("residuals.csv", CURVES["residuals"], zip(prediction[order], (y - prediction)[order], strict=True))
    elif len(labels) == 2:
        from sklearn.metrics import precision_recall_curve, roc_curve

        false, true, _ = roc_curve(y, probabilities[:, 1])
        _write_csv("roc.csv", CURVES["roc"], _thinned(false, true))
        precision, recall, _ = precision_recall_curve(y, probabilities[:, 1])
        _write_csv("precision_recall.csv", CURVES["precision_recall"], _thinned(recall, precision))
        _write_csv("calibration.csv", CURVES["calibration"], calibration(y, probabilities[:, 1]))


def calibration(y: Any, probability: Any, bins: int = 10) -> list[tuple[float, float, float, float, int]]:
    """Return (mean prediction, share of positives, its 95 % interval, rows) per bin of equal width that holds rows."""
    place = np.minimum((probability * bins).astype(int), bins - 1)
    found = []
    for number in range(bins):
        inside = place == number
        if inside.any():
            observed = metrics.wilson(int(y[inside].sum()), int(inside.sum()))
            found.append((float(probability[inside].mean()), observed.value, observed.low, observed.high, observed.n))
    return found


def importances(loaded: bundle.Bundle) -> list[tuple[str, float]]:
    """Return (feature, share of the model's own importance), largest first; empty where the model has none."""
    model = loaded.pipeline.steps[-1][1]
    model = getattr(model, "steps", [(None, model)])[-1][1]
    if hasattr(model, "booster_"):
        weights = model.booster_.feature_importance("gain")
    elif hasattr(model, "feature_importances_"):
        weights = model.feature_importances_
    elif hasattr(model, "coef_"):
        weights = np.abs(np.atleast_2d(model.coef_)).mean(axis=0)
    else:
        return []
    total = float(np.sum(weights)) or 1.0
    pairs = zip(loaded.manifest["feature_names"], (float(weight) / total for weight in weights), strict=False)
    return sorted(pairs, key=lambda pair: -pair[1])


def _thinned(x: Any, y: Any, points: int = 500) -> Any:
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), points)).astype(int))
    return zip(x[keep], y[keep], strict=True)


def _plain(estimate: Estimate) -> dict[str, Any]:
    """Return the estimate for JSON, which has no NaN: null stands for what is not defined."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in estimate._asdict().items()
    }


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _write_csv(name: str, header: Sequence[str], lines: Any) -> None:
    with (paths.PLOTS / name).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([float(cell) if isinstance(cell, np.floating) else cell for cell in line] for line in lines)
