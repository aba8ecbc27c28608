"""The same model without this project: one process, one file, nothing kept of a run but its results.

python benchmarks/bare.py params.yaml split.npy OUT adult.data adult.test
python benchmarks/bare.py params.yaml split.npy OUT table.parquet

split.npy says train, valid or test per row: on other rows training would stop after other rounds, up to half as many again.
What it leaves out is what the pipeline is for: the schema's checks, slices, plots, golden rows, hashes, DVC. The metrics and
their intervals are computed by pawl.metrics. An own version with bootstraps by scikit-learn would be slower by more than all
that the pipeline adds, and each ratio would flatter the pipeline.
"""

import json
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import skops.io
import yaml
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from pawl import metrics


def read(files: list[Path], params: dict[str, Any]) -> pd.DataFrame:
    """Return the table."""
    if len(files) == 1:
        return pd.read_parquet(files[0])
    names = params["ingest"]["csv"]["names"]
    parts = [pd.read_csv(path, names=names, skipinitialspace=True, na_values="?", comment="|") for path in files]
    table = pd.concat(parts, ignore_index=True)
    table[params["target"]] = table[params["target"]].str.rstrip(".")
    return table


def main() -> None:
    """Read, split, encode, fit, score, measure, write."""
    given, drawn, out, *files = map(Path, sys.argv[1:])
    params = yaml.safe_load(given.read_text())
    table, split = read(files, params), np.load(drawn)
    y = (table[params["target"]] == params["positive"]).to_numpy().astype(np.int64)
    roles = [params["target"], params["columns"].get("time"), *params["columns"].get("ignore", [])]
    X = table.drop(columns=roles, errors="ignore")
    numbers = list(X.select_dtypes("number"))
    least = params["featurize"]["min_category_rows"]
    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=least, dtype="float64")
    transformer = ColumnTransformer(
        [("number", "passthrough", numbers), ("category", encoder, list(X.columns.difference(numbers, sort=False)))]
    )
    transformer.fit(X[split == "train"])
    features = {name: transformer.transform(X[split == name]) for name in ("train", "valid", "test")}
    labels = {name: y[split == name] for name in features}

    fit = params["train"]
    model = lightgbm.LGBMClassifier(
        **fit["params"], random_state=fit["seed"], deterministic=True, force_row_wise=True, n_jobs=0, verbose=-1
    )
    stop = lightgbm.early_stopping(fit["early_stopping"], first_metric_only=True, verbose=False)
    model.fit(
        features["train"],
        labels["train"],
        eval_X=(features["valid"], features["train"]),
        eval_y=(labels["valid"], labels["train"]),
        eval_names=["valid", "train"],
        callbacks=[stop],
    )
    report: dict[str, Any] = {"rounds": model.best_iteration_}
    for name, matrix in features.items():
        probabilities = model.predict_proba(matrix)
        prediction = (probabilities[:, 1] >= params["threshold"]).astype(np.int64)
        found = metrics.classification(labels[name], probabilities, prediction, seed=0)
        report[name] = {metric: value._asdict() for metric, value in found.items()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    pd.DataFrame(model.evals_result_["valid"]).to_csv(out / "history.csv")
    skops.io.dump(Pipeline([("features", transformer), ("model", model)]), out / "model.skops")
    answers = {"target": labels["test"], "prediction": prediction, "probability": probabilities[:, 1]}
    pd.DataFrame(answers).to_parquet(out / "predictions.parquet")


if __name__ == "__main__":
    main()
