"""The estimator that params.yaml names: found, its parameters checked before any work, made ready to fit."""

import importlib
from typing import Any

from pawl import paths
from pawl.config import Task, Train
from pawl.problem import Problem
from pawl.yamlfile import read_yaml, refuse_name
from task.model import build_model


def check(task: Task, params: Train) -> None:
    """Raise Problem if the estimator does not exist, is of the wrong kind, or lacks a parameter that params.yaml gives it."""
    from sklearn.base import is_classifier, is_regressor

    estimator = find(params.model)
    own = sorted(estimator._get_param_names())  # noqa: SLF001 - scikit-learn's own way to list them without an instance
    others: set[str] = set()
    if is_lightgbm(params):
        from lightgbm.basic import _ConfigAliases

        aliases = _ConfigAliases._get_all_param_aliases()  # noqa: SLF001 - it publishes no list of its keyword arguments
        others = {*aliases, *(alias for names in aliases.values() for alias in names)}
    for name in params.params:
        if name not in others.union(own):
            refuse_name(f"train.params.{name}", name, own, where=_where("params", name))
    try:
        model = build_model(estimator, params.params)
    except (TypeError, ValueError) as error:
        raise Problem(
            f"{params.model} cannot be made: {error}", _where("params"), "correct train.params, or src/task/model.py"
        ) from error
    if not (is_regressor if task.task == "regression" else is_classifier)(model):
        kind = "regressor" if task.task == "regression" else "classifier"
        raise Problem(
            f"{params.model} is not a {kind}, and task is {task.task}",
            _where("model"),
            f"name a {kind}, for example lightgbm.LGBM{kind.capitalize()}",
        )
    if task.task != "regression" and not hasattr(model, "predict_proba"):
        fix = "for SVC set train.params.probability: true; or name another classifier"
        raise Problem(f"{params.model} gives no probabilities", _where("model"), fix)
    if params.device == "gpu" and not is_lightgbm(params):
        raise Problem(
            f"{params.model} does not train on a GPU here",
            _where("device"),
            "set train.device: cpu, or train.model: lightgbm.LGBMClassifier",
        )


def find(path: str) -> Any:
    """Return the class at a dotted path."""
    module, _, name = path.rpartition(".")
    try:
        found = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise Problem(
            f"train.model: {path} cannot be imported ({error})",
            _where("model"),
            "give a dotted path, for example sklearn.ensemble.RandomForestClassifier",
        ) from error
    estimator = getattr(found, name, None)
    if not (isinstance(estimator, type) and hasattr(estimator, "fit")):
        if not any(hasattr(each, "fit") for each in vars(found).values()):
            raise Problem(
                f"train.model: {path} is no estimator", _where("model"), "for example lightgbm.LGBMClassifier"
            )
        refuse_name(
            f"train.model: {path}",
            name,
            [each for each in dir(found) if hasattr(getattr(found, each), "fit")],
            where=_where("model"),
        )
    return estimator


def make(params: Train, labels: list[str]) -> Any:
    """Return the unfitted estimator with seed, class weights and device set. `labels` are empty for regression."""
    estimator = find(params.model)
    extra: dict[str, Any] = {}
    names = estimator._get_param_names()  # noqa: SLF001 - as above
    if "random_state" in names:
        extra["random_state"] = params.seed
    if params.class_weight is not None:
        if "class_weight" not in names:
            raise Problem(
                f"{params.model} has no class weights",
                _where("class_weight"),
                "remove train.class_weight, or choose another model",
            )
        extra["class_weight"] = (
            params.class_weight if isinstance(params.class_weight, str) else _numbered(params.class_weight, labels)
        )
    if params.device == "gpu":
        extra["device_type"] = "gpu"
        _probe_gpu()
    return build_model(estimator, {**params.params, **extra})


def is_lightgbm(params: Train) -> bool:
    """Say whether the estimator is LightGBM's, which stops early and learns on a GPU."""
    return params.model.startswith("lightgbm.")


def _numbered(weights: dict[str, float], labels: list[str]) -> dict[int, float]:
    for label in weights:
        if label not in labels:
            refuse_name(f"train.class_weight: {label}", label, labels, where=_where("class_weight"))
    return {number: weights.get(label, 1.0) for number, label in enumerate(labels)}


def _probe_gpu() -> None:
    import lightgbm
    import numpy as np

    try:
        lightgbm.train(
            {"device_type": "gpu", "verbose": -1, "min_data_in_leaf": 1},
            lightgbm.Dataset(np.arange(64.0).reshape(-1, 1), np.arange(64) % 2),
            1,
        )
    except lightgbm.basic.LightGBMError as error:
        raise Problem(
            f"train.device is gpu, and LightGBM cannot use one: {error}",
            _where("device"),
            "register the driver in /etc/OpenCL/vendors (NVIDIA: libnvidia-opencl.so.1, container capabilities compute,utility), or set device: cpu",
        ) from error


def _where(*key: str) -> str:
    lines = read_yaml(paths.PARAMS)[1] if paths.PARAMS.exists() else {}
    full = ("train", *key)
    line = next((lines[full[:end]] for end in range(len(full), 0, -1) if full[:end] in lines), None)
    return f"{paths.PARAMS}:{line}" if line else f"{paths.PARAMS}: {'.'.join(full)}"
