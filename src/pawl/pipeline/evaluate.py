"""bundle -> reports: scores the stored artifact on raw prepared rows, the way it will be served."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pawl import bundle, frames, metrics, paths, rows
from pawl.config import Evaluate, Task, Train
from pawl.metrics import Estimate
from pawl.pipeline import train
from task.features import build_features
from task.metrics import METRICS
from task.params import FeaturizeParams
from task.slices import SLICES

BATCH_ROWS = 100_000
SPLITS = ("train", "valid", "test")


def run(task: Task, params: Evaluate, fitted_with: Train, featurize: FeaturizeParams) -> None:
    """Write metrics.json, slices.json, predictions.parquet and the data of the plots."""
    import pyarrow.parquet as pq

    loaded = bundle.load(paths.BUNDLE)
    labels = loaded.manifest["labels"]
    report: dict[str, dict[str, Estimate]] = {}
    scored: dict[str, tuple[Any, Any, Any]] = {}
    for split in SPLITS:
        table = pq.read_table(paths.PREPARED / f"{split}.parquet")
        y = train.target(table.column(task.target), labels)
        prediction, probabilities = score(loaded, table)
        report[split] = measure(task, y, prediction, probabilities, params)
        scored[split] = (y, prediction, probabilities)
    report["gap"] = {
        name: Estimate(a.value - b.value, np.nan, np.nan, b.n)
        for name, b in report["test"].items()
        if (a := report["train"][name])
    }
    if params.folds:
        report["cv"] = cross_validate(task, params, fitted_with, featurize, loaded)

    y, prediction, probabilities = scored["test"]
    _write_json(
        paths.METRICS,
        {split: {name: _plain(value) for name, value in found.items()} for split, found in report.items()},
    )
    _write_json(
        paths.SLICES,
        {
            name: {metric: _plain(value) for metric, value in found.items()}
            for name, found in slices(task, params, table, y, prediction, probabilities)
        },
    )
    write_predictions(table, labels, y, prediction, probabilities)
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


def slices(
    task: Task, params: Evaluate, table: Any, y: Any, prediction: Any, probabilities: Any
) -> Iterator[tuple[str, dict[str, Estimate]]]:
    """Yield (name, metrics) for each group of test rows that is large enough: one per value of a column, and the task's own."""
    groups: dict[str, Any] = {}
    for name in params.slices:
        column = table.column(name).cast("string").combine_chunks().dictionary_encode()
        index = column.indices.fill_null(len(column.dictionary)).to_numpy()
        for number, value in enumerate([*column.dictionary.to_pylist(), "(missing)"]):
            groups[f"{name}={value}"] = index == number
    records = table.to_pandas() if SLICES else None
    groups |= {name: np.asarray(function(records), dtype=bool) for name, function in SLICES.items()}
    for name, chosen in sorted(groups.items()):
        if chosen.sum() >= max(params.min_slice_rows, 1):
            yield (
                name,
                measure(
                    task,
                    y[chosen],
                    prediction[chosen],
                    None if probabilities is None else probabilities[chosen],
                    params,
                ),
            )


def cross_validate(
    task: Task, params: Evaluate, fitted_with: Train, featurize: FeaturizeParams, loaded: bundle.Bundle
) -> dict[str, Estimate]:
    """Return cv_<metric>_mean and cv_<metric>_std over folds of the train and valid rows; a row's fold depends on its id alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables(
        [pq.read_table(paths.PREPARED / f"{split}.parquet") for split in ("train", "valid")]
    ).unify_dictionaries()
    labels = loaded.manifest["labels"]
    y = train.target(table.column(task.target), labels)
    frame = frames.from_table(table, loaded.dtypes)
    fold = (rows.unit(rows.hash_column(table.column("row_id")), fitted_with.seed) * params.folds).astype(int)
    found: dict[str, list[float]] = {}
    for number in range(params.folds):
        held = fold == number
        transformer = build_features(loaded.dtypes, featurize)
        X = transformer.fit_transform(frame[~held])
        model, _ = train.fit(fitted_with, labels, X, y[~held], transformer.transform(frame[held]), y[held])
        answers = bundle.predict(train.joined(transformer, model), task.task, loaded.manifest["threshold"], frame[held])
        for name, value in measure(task, y[held], *answers, params).items():
            found.setdefault(name, []).append(value.value)
    spread = {
        f"cv_{name}_std": Estimate(float(np.std(values, ddof=1)), np.nan, np.nan, params.folds)
        for name, values in found.items()
    }
    return {
        f"cv_{name}_mean": Estimate(float(np.mean(values)), np.nan, np.nan, params.folds)
        for name, values in found.items()
    } | spread


def write_predictions(table: Any, labels: Sequence[str], y: Any, prediction: Any, probabilities: Any) -> None:
    """Write one row per test row: row_id, target, prediction, and a probability per label."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"row_id": table.column("row_id")}
    columns["target"] = pa.array(y) if not labels else pa.array(labels).take(pa.array(y))
    columns["prediction"] = pa.array(prediction) if not labels else pa.array(labels).take(pa.array(prediction))
    for number, label in enumerate(labels):
        columns[f"probability {label}"] = pa.array(probabilities[:, number])
    pq.write_table(pa.table(columns), paths.PREDICTIONS, compression="zstd")


def write_plots(loaded: bundle.Bundle, labels: Sequence[str], y: Any, prediction: Any, probabilities: Any) -> None:
    """Write the data of the pictures as tables: what `dvc plots` and the report draw."""
    paths.PLOTS.mkdir(parents=True, exist_ok=True)
    for name in ("roc", "precision_recall", "calibration", "residuals"):
        _write_csv(f"{name}.csv", ["x", "y"], [])
    _write_csv("importances.csv", ["feature", "importance"], importances(loaded))
    _write_csv(
        "confusion.csv",
        ["actual", "predicted"],
        [(labels[a], labels[b]) for a, b in zip(y, prediction, strict=True)] if labels else [],
    )
    if not labels:
        order = np.linspace(0, len(y) - 1, min(len(y), 1000)).astype(int)
        _write_csv(
            "residuals.csv", ["predicted", "residual"], zip(prediction[order], (y - prediction)[order], strict=True)
        )
    elif len(labels) == 2:
        from sklearn.metrics import precision_recall_curve, roc_curve

        false, true, _ = roc_curve(y, probabilities[:, 1])
        _write_csv("roc.csv", ["false_positive_rate", "true_positive_rate"], _thinned(false, true))
        precision, recall, _ = precision_recall_curve(y, probabilities[:, 1])
        _write_csv("precision_recall.csv", ["recall", "precision"], _thinned(recall, precision))
        _write_csv(
            "calibration.csv", ["predicted", "observed", "low", "high", "n"], calibration(y, probabilities[:, 1])
        )


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
