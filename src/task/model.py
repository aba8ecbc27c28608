"""The estimator."""

from collections.abc import Mapping
from typing import Any

SCALED = ("sklearn.linear_model", "sklearn.svm", "sklearn.neighbors", "sklearn.neural_network")


def build_model(estimator: type, params: Mapping[str, Any]) -> Any:
    """Return an unfitted estimator: `train.model` made with `train.params`, and what it needs around it.

    Estimators that refuse sparse features get dense ones, those that refuse NaN get missing numbers filled with the
    median, those that depend on scale get features of one scale. Every parameter reaches the estimator unchanged.
    """
    if estimator.__module__.startswith("lightgbm"):
        # The same model on any number of cores: n_jobs=0 also leaves the count out of the stored text.
        fixed = {"deterministic": True, "force_row_wise": True, "n_jobs": 0, "verbose": -1}
        return estimator(**{**fixed, **params})

    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler

    model = estimator(**params)
    takes = model.__sklearn_tags__().input_tags
    steps: list[Any] = [] if takes.sparse else [FunctionTransformer(dense, accept_sparse=True)]
    if takes.sparse or not takes.allow_nan:  # forests take NaN, but not inside a sparse matrix
        steps.append(SimpleImputer(strategy="median"))
    if estimator.__module__.startswith(SCALED):
        steps.append(MaxAbsScaler())
    return make_pipeline(*steps, model) if steps else model


def dense(features: Any) -> Any:
    """Return a sparse matrix as an array, anything else as it is."""
    return features.toarray() if hasattr(features, "toarray") else features
