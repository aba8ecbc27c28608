"""From records to what the estimator sees."""

from collections.abc import Mapping
from typing import Any

from task.params import FeaturizeParams


def build_features(columns: Mapping[str, str], params: FeaturizeParams) -> Any:
    """Return an unfitted transformer for the feature columns, given as {name: dtype of schema.yaml}.

    Numbers pass through, missing ones as NaN, which LightGBM understands; models that do not get
    `sklearn.impute.SimpleImputer` in model.py. Text and datetime columns are left out.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder

    numbers = [name for name, dtype in columns.items() if dtype in {"integer", "number", "boolean"}]
    categories = [name for name, dtype in columns.items() if dtype == "category"]
    encoder = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=params.min_category_rows, dtype="float64"
    )
    return ColumnTransformer(
        [("number", "passthrough", numbers), ("category", encoder, categories)], verbose_feature_names_out=False
    )
