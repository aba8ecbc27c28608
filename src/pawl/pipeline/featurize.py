"""prepared -> data/features: fits the task's transformer on the training split only, and transforms train and valid."""

import json

from pawl import bundle, frames, paths
from pawl.config import Task
from pawl.problem import Problem
from pawl.schema import Schema
from task.features import build_features
from task.params import FeaturizeParams


def run(task: Task, params: FeaturizeParams, schema: Schema) -> None:
    """Write the fitted transformer and the features of both splits."""
    import pyarrow.parquet as pq

    dtypes = {name: dtype for name, dtype in schema.dtypes(task.roles).items() if dtype not in {"text", "datetime"}}
    if not dtypes:
        raise Problem(
            "no column is left to learn from",
            paths.SCHEMA,
            "give columns the dtype integer, number, boolean or category; see `columns` in params.yaml",
        )
    transformer = build_features(dtypes, params)
    paths.FEATURES.mkdir(parents=True, exist_ok=True)
    train = frames.from_table(pq.read_table(paths.PREPARED / "train.parquet", columns=list(dtypes)), dtypes)
    try:
        features = transformer.fit_transform(train)
    except (ValueError, TypeError) as error:
        raise Problem(
            f"the transformer cannot be fitted: {error}",
            "src/task/features.py",
            "it must take a DataFrame of the feature columns",
        ) from error
    del train
    frames.write_matrix(features, paths.FEATURES / "train")
    valid = frames.from_table(pq.read_table(paths.PREPARED / "valid.parquet", columns=list(dtypes)), dtypes)
    frames.write_matrix(transformer.transform(valid), paths.FEATURES / "valid")
    (paths.FEATURES / "transformer.skops").write_bytes(bundle.dump(transformer))
    (paths.FEATURES / "features.json").write_text(
        json.dumps({"columns": dtypes, "names": [str(name) for name in transformer.get_feature_names_out()]}, indent=1)
        + "\n"
    )
