"""features -> models/bundle, reports/history.csv: fits the estimator, chooses the threshold, joins features and estimator into the bundle."""

import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from pawl import bundle, estimator, frames, paths, rows
from pawl.config import Task, ThresholdRule, Train
from pawl.problem import Problem

GOLDEN_ROWS = 24
SEEN = 1000  # categories of a column that are named in the manifest
CHECKED = 20_000  # rows on which the compiled model must answer as the pipeline does; evaluate asks on the test split
ROUNDS = "PAWL_ROUNDS"  # a file: how training goes, for who may end it
Curves = dict[str, dict[str, list[float]]]  # split: metric: value per round


def run(task: Task, params: Train) -> None:
    """Write the bundle and the learning curves."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    started = time.time()
    tables = {name: pq.read_table(paths.PREPARED / f"{name}.parquet") for name in ("train", "valid")}
    labels = labels_of(tables["train"].column(task.target), task)
    y = {name: target(table.column(task.target), labels) for name, table in tables.items()}
    features = {name: frames.read_matrix(paths.FEATURES / name) for name in tables}
    model, history = fit(
        params, labels, features["train"], y["train"], features["valid"], y["valid"], os.environ.get(ROUNDS)
    )
    curves = [(split, metric, each) for split, found in history.items() for metric, each in found.items()]
    lines = [(number, split, metric, value) for split, metric, each in curves for number, value in enumerate(each, 1)]
    write_table(paths.HISTORY, ["round", "split", "metric", "value"], lines)

    stored = paths.FEATURES / "transformer.skops"
    transformer = bundle.restore(stored.read_bytes(), stored)
    described = json.loads((paths.FEATURES / "features.json").read_text())
    threshold = 0.5
    if task.task == "binary":
        threshold = choose(task.threshold, y["valid"], model.predict_proba(features["valid"])[:, 1])
    listed = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]["train"]["deps"]
    digests = {
        "data": _digest(*(paths.PREPARED / f"{name}.parquet" for name in tables), *sorted(paths.FEATURES.iterdir())),
        "params": hashlib.sha256(msgspec.json.encode([task, params], order="sorted")).hexdigest(),
        "code": _digest(*sorted(Path(dep) for dep in listed if dep.endswith(".py"))),
        "environment": _digest(paths.LOCK),
    }
    rounds, dtypes = getattr(model, "best_iteration_", None) or None, described["columns"]
    manifest = {"task": task.task, "target": task.target, "labels": labels, "threshold": threshold}
    manifest |= {"features": dtypes, "feature_names": described["names"]}
    manifest |= {"model": params.model, "rounds": rounds, "digests": digests}
    manifest["seen"] = {name: seen_in(tables["train"].column(name), dtype) for name, dtype in dtypes.items()}
    golden = golden_records(tables["valid"], dtypes)
    ids = rows.hash_column(tables["train"].column("row_id"))
    held = pa.concat_tables([tables["valid"], tables["train"]]).slice(0, CHECKED)
    frame = frames.from_table(held, dtypes)
    saved = bundle.save(paths.BUNDLE, joined(transformer, model), manifest, golden, ids, frame, compiled=params.compile)
    # Beside the bundle, not in it: who trained it, and when on another commit, does not change what it is.
    versions = {name: version(name) for name in ("lightgbm", "numpy", "pandas", "scikit-learn", "skops")}
    made_by: dict[str, Any] = {"digest": saved.digest, "commit": commit(), "started": started, "ended": time.time()}
    made_by |= {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    made_by["versions"] = versions
    paths.MADE_BY.write_text(json.dumps(made_by, indent=2) + "\n")


def labels_of(column: Any, task: Task) -> list[str]:
    """Return the labels in order, the positive one last; none for regression."""
    if task.task == "regression":
        return []
    found = sorted(str(value) for value in column.cast("string").unique().drop_null().to_pylist())
    positive = task.positive_in(found)
    return sorted(found, key=lambda label: (label == positive, label)) if task.task == "binary" else found


def target(column: Any, labels: Sequence[str]) -> Any:
    """Return label numbers, or values for regression, shape (n,); raise Problem for a label that train does not have."""
    if not labels:
        return column.cast("double", safe=False).to_numpy()
    numbers = {label: number for number, label in enumerate(labels)}
    encoded = column.cast("string").combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if unknown := [value for value in values if value not in numbers]:
        fix = "bring more rows of it, or merge classes (ingest.replace in params.yaml)"
        raise Problem(f"class {unknown[0]} has no row in the train split", paths.PREPARED, fix)
    return np.array([numbers[value] for value in values], dtype=np.int64)[encoded.indices.to_numpy()]


def fit(
    params: Train, labels: list[str], X: Any, y: Any, X_valid: Any, y_valid: Any, rounds: str | None = None
) -> tuple[Any, Curves]:
    """Return the fitted estimator and its curves, if it has rounds. X: shape (n, features), sparse or dense; y: label numbers or values, shape (n,).

    rounds: a file for every tenth line `round, first metric on the validation rows (higher is better)`.
    """
    try:
        return _fit(params, labels, X, y, X_valid, y_valid, rounds)
    except Problem:
        raise
    except Exception as error:  # each library has exceptions of its own for values that it does not take
        what = f"{params.model} cannot be fitted: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        fix = "correct the values there; or see src/task/model.py"
        raise Problem(what, f"{paths.PARAMS}: train.params", fix) from error


def _fit(
    params: Train, labels: list[str], X: Any, y: Any, X_valid: Any, y_valid: Any, rounds: str | None
) -> tuple[Any, Curves]:
    model = estimator.make(params, labels)
    if not estimator.is_lightgbm(params):
        return model.fit(X, y), {}
    import lightgbm

    # Threads add a metric up in any order: its last bits are noise, which must not decide when to stop, nor be stored.
    stop = lightgbm.early_stopping(params.early_stopping, first_metric_only=True, verbose=False, min_delta=1e-9)
    sets = {"eval_X": (X_valid, X), "eval_y": (y_valid, y), "eval_names": ["valid", "train"]}
    model.fit(X, y, **sets, callbacks=[partial(_progress, rounds), *([stop] if params.early_stopping else [])])
    curves = {
        split: {metric: [float(f"{value:.9g}") for value in values] for metric, values in found.items()}
        for split, found in model.evals_result_.items()
    }
    last = (model.best_iteration_ or 0) - 1
    best = {split: {metric: values[last] for metric, values in found.items()} for split, found in curves.items()}
    model._evals_result, model._best_score, model.booster_.best_score = curves, best, best  # noqa: SLF001 - no public way
    return model, curves


def _progress(rounds: str | None, state: Any) -> None:
    """Note every tenth round, and show every 100th, on a terminal only."""
    number = state.iteration + 1
    found = next((each for each in state.evaluation_result_list if each[0] == "valid"), None)
    if found is None or number % 10:
        return
    _, metric, value, higher, *_ = found
    if rounds:
        with Path(rounds).open("a") as file:
            file.write(f"{number} {value if higher else -value}\n")
    if number % 100 == 0 and sys.stderr.isatty() and not os.environ.get("CI"):
        print(f"  round {number}: valid {metric} {value:.5f}", file=sys.stderr)  # noqa: T201 - progress


def joined(transformer: Any, model: Any) -> Any:
    """Return the one pipeline from a record to a prediction."""
    from sklearn.pipeline import Pipeline

    return Pipeline([("features", transformer), ("model", model)])


def choose(threshold: float | ThresholdRule, y: Any, probability: Any) -> float:
    """Return the threshold: as given, or the one that the rule prefers on these rows. y: 0 or 1, shape (n,); probability: of the positive label, shape (n,)."""
    if not isinstance(threshold, ThresholdRule):
        return float(threshold)
    order = np.argsort(-probability, kind="stable")
    score, hits = probability[order], np.cumsum(y[order])
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # rows of equal score are taken together
    taken, hit, cut = last + 1, hits[last], score[last]
    positives = max(int(y.sum()), 1)
    precision, recall = hit / taken, hit / positives
    if threshold.rule == "f_beta":
        square = threshold.beta**2
        worth = (1 + square) * hit / (square * positives + taken)
    elif threshold.rule == "cost":
        worth = -(threshold.false_positive * (taken - hit) + threshold.false_negative * (positives - hit))
        if worth.max() < -threshold.false_negative * int(y.sum()):
            return float(np.nextafter(score[0], np.inf))  # no alarm at all costs least
    else:
        worth = np.where(precision >= threshold.precision, recall, -1.0)
        if worth.max() < 0:
            what = f"no threshold reaches precision {threshold.precision} on the validation split"
            best = f"the best is {precision.max():.3f}"
            raise Problem(f"{what}; {best}", f"{paths.PARAMS}: threshold", "ask for less")
    return float(cut[int(np.argmax(worth))])


def golden_records(table: Any, dtypes: dict[str, str]) -> list[dict[str, Any]]:
    """Return records that a served model must answer as here: a typical one, nothing known, rows of the validation split, and edges: unknown categories, extremes.

    The first two are of nobody: everyone may read them, as the service's examples.
    """
    records: list[dict[str, Any]] = table.select(list(dtypes)).slice(0, GOLDEN_ROWS).to_pylist()
    numbers = [name for name, dtype in dtypes.items() if dtype in {"integer", "number"}]
    first = records[0]
    edges = [
        first | {name: "a category never seen" for name, dtype in dtypes.items() if dtype == "category"},
        *({name: None if name == gone else value for name, value in first.items()} for gone in dtypes),
        *(first | dict.fromkeys(numbers, extreme) for extreme in (0, -(10**6), 10**6)),
    ]
    typical = {name: _typical(table.column(name), dtype) for name, dtype in dtypes.items()}
    return [typical, dict.fromkeys(dtypes), *records, *edges]


def seen_in(column: Any, dtype: str) -> list[Any] | None:
    """Return what a column held in training, so that the service can count what it did not: [least, greatest], or the categories; None of too many."""
    import pyarrow.compute as pc

    if dtype in {"integer", "number", "boolean"}:
        found = pc.min_max(column.cast("double", safe=False)).as_py()
        return None if found["min"] is None else [found["min"], found["max"]]
    values = sorted(column.cast("string").unique().drop_null().to_pylist())
    return values if 0 < len(values) <= SEEN else None


def _typical(column: Any, dtype: str) -> Any:
    """Return the median of numbers, the most frequent one of other values; None of none."""
    import pyarrow.compute as pc

    if dtype in {"integer", "number"}:
        median = pc.quantile(column.cast("double", safe=False), 0.5, interpolation="lower")[0].as_py()
        return int(median) if median is not None and dtype == "integer" else median
    modes = pc.value_counts(column.drop_null()).to_pylist()
    return min(modes, key=lambda each: (-each["counts"], str(each["values"])), default={"values": None})["values"]


def write_table(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *lines])


def commit() -> str | None:
    """Return the commit that is trained, marked where files differ from it; PAWL_COMMIT where there is no checkout."""
    if given := os.environ.get("PAWL_COMMIT"):
        return given
    commands = ["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"]
    try:
        said = (subprocess.check_output(words, stderr=subprocess.DEVNULL, text=True) for words in commands)
        name, changed = map(str.strip, said)
    except (OSError, subprocess.CalledProcessError):
        return None
    own = {"dvc.lock", str(paths.METRICS)}  # what a run itself writes is no difference
    dirty = any(line.split()[-1] not in own for line in changed.splitlines())
    return f"{name}-dirty" if dirty else name


def _digest(*files: Path) -> str:
    """Return the SHA-256 over names and contents."""
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
