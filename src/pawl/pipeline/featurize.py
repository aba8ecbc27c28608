"""prepared -> data/features: fits the task's transformer on the training split only, and transforms train and valid."""

import json

import pyarrow.parquet as pq

from pawl import bundle, frames, paths
from pawl.config import Task
from pawl.problem import Problem
from pawl.schema import Schema, named
from task.features import build_features
from task.params import FeaturizeParams


def run(task: Task, params: FeaturizeParams, schema: Schema) -> None:
    """Write the fitted transformer and the features of both splits."""
    dtypes = {name: dtype for name, dtype in schema.dtypes(task.roles).items() if dtype not in {"text", "datetime"}}
    if not dtypes:
        fix = "give columns the dtype integer, number, boolean or category; see `columns` in params.yaml"
        raise Problem("no column is left to learn from", paths.SCHEMA, fix)
    if odd := next((name for name in dtypes if not named(name)), None):
        what = f"the service cannot be asked for {odd!r}: JSON would have to escape a character of its name"
        raise Problem(
            what, paths.SCHEMA, "rename it in the source or in src/task/data.py, or name it in columns.ignore"
        )
    transformer = build_features(dtypes, params)
    paths.FEATURES.mkdir(parents=True, exist_ok=True)
    train = frames.from_table(pq.read_table(paths.PREPARED / "train.parquet", columns=list(dtypes)), dtypes)
    try:
        features = transformer.fit_transform(train)
    except (ValueError, TypeError) as error:
        what, fix = f"the transformer cannot be fitted: {error}", "it must take a DataFrame of the feature columns"
        raise Problem(what, "src/task/features.py", fix) from error
    del train
    frames.write_matrix(features, paths.FEATURES / "train")
    valid = frames.from_table(pq.read_table(paths.PREPARED / "valid.parquet", columns=list(dtypes)), dtypes)
    frames.write_matrix(transformer.transform(valid), paths.FEATURES / "valid")
    (paths.FEATURES / "transformer.skops").write_bytes(bundle.dump(transformer))
    described = {"columns": dtypes, "names": [str(name) for name in transformer.get_feature_names_out()]}
    (paths.FEATURES / "features.json").write_text(json.dumps(described, indent=1) + "\n")
