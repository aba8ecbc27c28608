"""The estimator that params.yaml names: found, its parameters checked before any work, made ready to fit."""

import importlib
from typing import Any

from pawl import paths
from pawl.config import Task, Train
from pawl.problem import Problem
from pawl.yamlfile import line_of, read_yaml, refuse_name
from task.model import build_model


def check(task: Task, params: Train) -> None:
    """Raise Problem if the estimator does not exist, is of the wrong kind, or lacks a parameter that params.yaml gives it."""
    from sklearn.base import is_classifier, is_regressor

    estimator = find(params.model)
    own = sorted(estimator._get_param_names())  # noqa: SLF001 - scikit-learn's own way to list them without an instance
    known = set(own)
    if is_lightgbm(params):
        from lightgbm.basic import _ConfigAliases

        aliases = _ConfigAliases._get_all_param_aliases()  # noqa: SLF001 - it publishes no list of its keyword arguments
        known.update(aliases, *aliases.values())
    for name in params.params:
        if name not in known:
            refuse_name(f"train.params.{name}", name, own, where=_where("params", name))
    try:
        model = build_model(estimator, params.params)
    except (TypeError, ValueError) as error:
        fix = "correct train.params, or src/task/model.py"
        raise Problem(f"{params.model} cannot be made: {error}", _where("params"), fix) from error
    kind, fits = ("regressor", is_regressor) if task.task == "regression" else ("classifier", is_classifier)
    if not fits(model):
        fix = f"name a {kind}, for example lightgbm.LGBM{kind.capitalize()}"
        raise Problem(f"{params.model} is not a {kind}, and task is {task.task}", _where("model"), fix)
    if task.task != "regression" and not hasattr(model, "predict_proba"):
        fix = "for SVC set train.params.probability: true; or name another classifier"
        raise Problem(f"{params.model} gives no probabilities", _where("model"), fix)
    if params.device == "gpu" and not is_lightgbm(params):
        fix = "set train.device: cpu, or train.model: lightgbm.LGBMClassifier"
        raise Problem(f"{params.model} does not train on a GPU here", _where("device"), fix)


def find(path: str) -> Any:
    """Return the class at a dotted path."""
    module, _, name = path.rpartition(".")
    label = f"train.model: {path}"
    try:
        found = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        fix = "give a dotted path, for example sklearn.ensemble.RandomForestClassifier"
        raise Problem(f"{label} cannot be imported ({error})", _where("model"), fix) from error
    estimator = getattr(found, name, None)
    if not (isinstance(estimator, type) and hasattr(estimator, "fit")):
        others = [each for each in dir(found) if hasattr(getattr(found, each), "fit")]
        if not others:
            raise Problem(f"{label} is no estimator", _where("model"), "for example lightgbm.LGBMClassifier")
        refuse_name(label, name, others, where=_where("model"))
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
            fix = "remove train.class_weight, or choose another model"
            raise Problem(f"{params.model} has no class weights", _where("class_weight"), fix)
        extra["class_weight"] = _numbered(params.class_weight, labels)
    if params.device == "gpu":
        extra["device_type"] = "gpu"
        _probe_gpu()
    return build_model(estimator, {**params.params, **extra})


def is_lightgbm(params: Train) -> bool:
    """Say whether the estimator is LightGBM's, which stops early and learns on a GPU."""
    return params.model.startswith("lightgbm.")


def _numbered(weights: str | dict[str, float], labels: list[str]) -> str | dict[int, float]:
    if isinstance(weights, str):
        return weights
    for label in weights:
        if label not in labels:
            refuse_name(f"train.class_weight: {label}", label, labels, where=_where("class_weight"))
    return {number: weights.get(label, 1.0) for number, label in enumerate(labels)}


def _probe_gpu() -> None:
    import lightgbm
    import numpy as np

    rows = lightgbm.Dataset(np.arange(64.0).reshape(-1, 1), np.arange(64) % 2)
    try:
        lightgbm.train({"device_type": "gpu", "verbose": -1, "min_data_in_leaf": 1}, rows, 1)
    except lightgbm.basic.LightGBMError as error:
        what = f"train.device is gpu, and LightGBM cannot use one: {error}"
        driver = "NVIDIA: libnvidia-opencl.so.1, container capabilities compute,utility"
        fix = f"register the driver in /etc/OpenCL/vendors ({driver}), or set device: cpu"
        raise Problem(what, _where("device"), fix) from error


def _where(*key: str) -> str:
    return f"{paths.PARAMS}:{line_of(read_yaml(paths.PARAMS)[1], ('train', *key))}"
