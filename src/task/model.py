"""The estimator."""

from collections.abc import Mapping
from typing import Any

SCALED = ("sklearn.linear_model", "sklearn.svm", "sklearn.neighbors", "sklearn.neural_network")


def build_model(estimator: type, params: Mapping[str, Any]) -> Any:
    """Return an unfitted estimator: `train.model` made with `train.params`, and what it needs around it.

    Estimators that refuse NaN get missing numbers filled with the median; those that depend on scale get features of one scale.
    Every parameter that `params` names reaches the estimator unchanged.
    """
    if estimator.__module__.startswith("lightgbm"):
        # Same model on any number of cores: n_jobs=0 also leaves the count out of the stored text.
        fixed = {"deterministic": True, "force_row_wise": True, "n_jobs": 0, "verbose": -1}
        return estimator(**{**fixed, **params})

    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    model = estimator(**params)
    imputer = [] if model.__sklearn_tags__().input_tags.allow_nan else [SimpleImputer(strategy="median")]
    scaler = [MaxAbsScaler()] if estimator.__module__.startswith(SCALED) else []
    return make_pipeline(*imputer, *scaler, model) if imputer or scaler else model
