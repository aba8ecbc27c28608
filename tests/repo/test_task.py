"""What src/task promises to the machinery. A failure says in a sentence what to write."""

import inspect
from pathlib import Path

import pyarrow as pa
import pytest

from pawl import config, schema
from pawl.gate import rules
from task import data, features, metrics, model, params, slices

ROOT = Path(__file__).parents[2]
FILES = {"__init__.py", "data.py", "params.py", "features.py", "model.py", "metrics.py", "slices.py"}
COLUMNS = {"age": "integer", "region": "category"}


def test_your_three_files_are_understood():
    params_of = config.load(ROOT / "params.yaml")

    schema.check_names(schema.load(ROOT / "schema.yaml"), {"target": params_of.target}, path=ROOT / "params.yaml")
    assert rules.load(ROOT / "gates.yaml").metrics


def test_the_files_are_there():
    missing = FILES - {path.name for path in Path(features.__file__).parent.glob("*.py")}

    assert not missing, f"src/task lacks {', '.join(sorted(missing))}: restore it from git, it is small"


@pytest.mark.parametrize(
    ("function", "arguments"), [(data.tidy, 1), (features.build_features, 2), (model.build_model, 2)]
)
def test_a_function_takes_what_it_is_given(function, arguments):
    found = len(inspect.signature(function).parameters)

    assert found == arguments, (
        f"{function.__module__}.{function.__name__} must take {arguments} arguments, it takes {found}"
    )


def test_tidy_returns_a_batch():
    batch = data.tidy(pa.RecordBatch.from_pydict({"age": ["40"], "region": ["north"]}))

    assert isinstance(batch, pa.RecordBatch), "task.data.tidy must return the pyarrow.RecordBatch to keep"


def test_build_features_returns_an_unfitted_transformer():
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    transformer = features.build_features(COLUMNS, params.FeaturizeParams())

    assert hasattr(transformer, "fit"), "task.features.build_features must return an object with fit"
    assert hasattr(transformer, "transform"), "task.features.build_features must return an object with transform"
    assert hasattr(transformer, "get_feature_names_out"), (
        "the transformer must name its features: get_feature_names_out"
    )
    with pytest.raises(NotFittedError):
        check_is_fitted(transformer)


def test_build_model_returns_an_unfitted_estimator_with_the_given_parameters():
    from lightgbm import LGBMClassifier
    from sklearn.linear_model import LogisticRegression

    boosted = model.build_model(LGBMClassifier, {"num_leaves": 7})
    linear = model.build_model(LogisticRegression, {"C": 0.5})

    assert boosted.get_params()["num_leaves"] == 7, "task.model.build_model must pass train.params on"
    assert linear.get_params()["logisticregression__C"] == 0.5, "task.model.build_model must pass train.params on"


@pytest.mark.parametrize(("name", "table"), [("METRICS", metrics.METRICS), ("SLICES", slices.SLICES)])
def test_tables_map_names_to_functions(name, table):
    assert all(isinstance(key, str) and callable(function) for key, function in table.items()), (
        f"{name} maps a name to a function"
    )


def test_the_parameters_have_defaults():
    import msgspec

    assert msgspec.convert({}, params.FeaturizeParams), "every field of FeaturizeParams needs a default"
