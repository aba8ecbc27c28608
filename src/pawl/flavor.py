"""The bundle as an MLflow model: `mlflow models serve`, `mlflow.pyfunc.load_model` and, for LightGBM, the native flavour use it as it is.

Who loads one through MLflow runs the code that lies in it; the service does not: it loads the bundle alone, by its digest.
"""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pawl import bundle, frames

NATIVE = "model.lgb"
TYPES = {"number": "double", "datetime": "datetime"}  # of MLflow; the others are texts
SERVER = {"fastapi", "fastapi-swagger", "uvicorn", "uvloop", "httptools", "prometheus-client"}


class Model:
    """What `mlflow.pyfunc.load_model` returns inside."""

    def __init__(self, loaded: bundle.Bundle) -> None:
        self.loaded = loaded

    def predict(self, model_input: Any) -> Any:
        """Return a pandas.DataFrame like the answer of /predict: `predictions`, labels by the threshold or values; `probabilities`, {label: probability}."""
        import pandas as pd

        records = model_input.astype(object).where(model_input.notna(), None).to_dict("records")
        predictions, probabilities = self.loaded.predict_records(records)
        answer: dict[str, list[Any]] = {"predictions": predictions}
        if probabilities is not None:
            labels = self.loaded.manifest["labels"]
            answer["probabilities"] = [dict(zip(labels, row, strict=True)) for row in probabilities.tolist()]
        return pd.DataFrame(answer)


def _load_pyfunc(path: str) -> Model:
    """Return the model in a folder: MLflow calls this by name."""
    return Model(bundle.load(Path(path)))


def save(folder: Path, source: Path, loaded: bundle.Bundle, run: str, model: str) -> None:
    """Write the bundle in `source` as an MLflow model, of a run and with the id of a logged model."""
    import mlflow.pyfunc
    from mlflow.models import Model as Described
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Map
    from mlflow.utils import environment

    # It would read the files of every package here, to see that the versions that `requirements` has just read are installed.
    environment.warn_dependency_requirement_mismatches = lambda _: None

    # MLflow's integers and booleans cannot be missing, and it takes no integer for a double.
    kinds = {**TYPES, "integer": AnyType(), "boolean": AnyType()}
    inputs = [ColSpec(kinds.get(dtype, "string"), name, required=False) for name, dtype in loaded.dtypes.items()]
    answers = [ColSpec("string" if loaded.manifest["labels"] else "double", "predictions")]
    if loaded.manifest["labels"]:
        answers.append(ColSpec(Map(DataType.double), "probabilities"))
    described = Described(run_id=run, model_uuid=model, model_id=model, metadata={"digest": loaded.digest})
    trees = booster(source)
    if trees:
        native = {"lgb_version": version("lightgbm"), "data": NATIVE, "model_class": "lightgbm.basic.Booster"}
        described.add_flavor("lightgbm", **native, code=None)
    sources = Path(__file__).parents[1]
    mlflow.pyfunc.save_model(
        str(folder),
        loader_module="pawl.flavor",
        data_path=str(source),
        code_paths=[str(sources / name) for name in ("pawl", "task")],
        mlflow_model=described,
        signature=ModelSignature(Schema(inputs), Schema(answers)),
        input_example=frames.from_records(loaded.golden["records"][:1], loaded.dtypes),
        pip_requirements=requirements(),
    )
    if trees:
        (folder / NATIVE).write_bytes(trees)


def booster(source: Path) -> bytes:
    """Return LightGBM's text of the model in a bundle; nothing where it is another library's."""
    if (compiled := source / bundle.MODEL).exists():  # it is there already, and nothing has to be loaded
        return compiled.read_bytes()
    loaded = bundle.load(source)
    trees = getattr(loaded.pipeline[-1], "booster_", None)
    return trees.model_to_string(num_iteration=loaded.manifest["rounds"] or -1).encode() if trees else b""


def requirements() -> list[str]:
    """Return what the model needs: the libraries of requirements/serving-full.in, in the versions that it was checked with here."""
    sets = (Path(f"requirements/{name}.in").read_text() for name in ("serving", "serving-full"))
    lines = [line for each in sets for line in each.splitlines()]
    named = {re.split(r"[\s;<>=\[]", line)[0] for line in lines if line and line[0] not in "-#"} - SERVER
    # A client may have the skinny one alone.
    found = {name: version(name) for name in named} | {"mlflow": version("mlflow-skinny")}
    return [f"{name}=={found[name]}" for name in sorted(found)]
