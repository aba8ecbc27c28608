"""The compiled model answers bit for bit what the pipeline does; what cannot be compiled is refused with a reason."""

import itertools
import json
import random
import struct
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn import impute, preprocessing
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from pawl import bundle, compiled, compiler, frames, paths
from pawl.pipeline import evaluate
from pawl.problem import Problem

DTYPES = {
    "age": "integer", "income": "number", "colour": "category", "size": "category", "married": "boolean", "void": "number", "blank": "category",
}  # fmt: skip
LABELS = {"binary": ["no", "yes"], "multiclass": ["a", "b", "c"], "regression": []}
NUMBERS, TEXTS = ["age", "income"], ["colour", "size"]
SMALL = {"n_estimators": 12, "min_child_samples": 5, "num_leaves": 8, "n_jobs": 1, "verbose": -1, "random_state": 0}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Found unknown categories"),  # scikit-learn says it where a category is dropped
    pytest.mark.filterwarnings("ignore:Skipping features without any observed values"),
]


def drawn(rows, seed=0):
    """Return records; every column but two has missing cells, and these two have nothing else."""
    draw = random.Random(seed)
    return [
        {
            "age": draw.choice([None, *range(18, 70)]),
            "income": draw.choice([None, draw.lognormvariate(3, 2), -draw.random(), 0.0, -0.0]),
            "colour": draw.choice([None, "red", "green", "blue", "red", "green", "Grün", ""]),
            "size": draw.choice([None, "S", "M", "L", "1", "2.0"]),
            "married": draw.choice([None, True, False]),
            "void": None, "blank": None,
        }
        for _ in range(rows)
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """Let a batch go through the trees of these tests in several parts."""
    monkeypatch.setattr(compiled, "TREES", 5)


RECORDS = drawn(400)
FRAME = frames.from_records(RECORDS, DTYPES)
EXTREMES = [None, 0, -0.0, 1, -1, 0.5, 1e-300, 1e-36, 1e-35, -1e-35, 2**53 + 1, 10**17, 3.4e38, -3.4e38]


def odd():
    """Return records that training did not have: unseen rows, and each edge of each column."""
    typical = {"age": 40, "income": 20.0, "colour": "red", "size": "M", "married": True, "void": None, "blank": None}
    edges = {
        "age": EXTREMES, "income": EXTREMES, "void": EXTREMES, "married": [None, True, False],
        **{name: [None, "", " ", "RED", "red ", "never seen", "nan", "None", "x" * 1000] for name in [*TEXTS, "blank"]},
    }  # fmt: skip
    alone = [typical | {name: value} for name, values in edges.items() for value in values]
    draw = random.Random(1)
    mixed = [{name: draw.choice(values) for name, values in edges.items()} for _ in range(60)]
    return [dict.fromkeys(DTYPES), *alone, *mixed, *drawn(60, seed=2)]


ODD = odd()
ROWS = [tuple(record[name] for name in DTYPES) for record in ODD]


def truth(task):
    number = FRAME["age"].fillna(30) + 15 * (FRAME["colour"] == "red") + FRAME["income"].fillna(0).clip(0, 50)
    return number.to_numpy() if task == "regression" else pd.qcut(number, len(LABELS[task]), labels=False).to_numpy()


def columns(*parts, **more):
    return ColumnTransformer([(str(number), each, chosen) for number, (each, chosen) in enumerate(parts)], **more)


def hot(**more):
    return preprocessing.OneHotEncoder(**{"handle_unknown": "ignore", **more})


def ordinal(**more):
    given = {"handle_unknown": "use_encoded_value", "unknown_value": -1, **more}
    return preprocessing.OrdinalEncoder(**given)


def filled(strategy="median", **more):
    return impute.SimpleImputer(strategy=strategy, **more)


def manifest(task="binary", rounds=None, threshold=0.4):
    return {"task": task, "labels": LABELS[task], "threshold": threshold, "features": DTYPES, "rounds": rounds}


def model(task="binary", **params):
    return (LGBMRegressor if task == "regression" else LGBMClassifier)(**{**SMALL, **params})


def fitted(*steps, task="binary", params=None, **fit):
    made = make_pipeline(*(clone(step) for step in steps), model(task, **(params or {})))
    return made.fit(FRAME, truth(task), **fit)


def predict(pipeline, told, frame):
    return bundle.predict(pipeline, told["task"], told["threshold"], frame)


def compile_it(pipeline, told):
    """Return the compiled model, once `check` has held it to the pipeline."""
    files = compiler.compile_pipeline(pipeline, told)
    compiler.check(*files, told, FRAME, lambda frame: predict(pipeline, told, frame))
    return compiled.Compiled(*files, told, Path("here"))


def bits(values):
    return [struct.pack("d", float(value)) for value in values]


def same(pipeline, task="binary", rounds=None):
    """Compile, and compare with the pipeline on rows that training did not have, with nothing of the compiler's own comparison."""
    told = manifest(task, rounds)
    made = compile_it(pipeline, told)
    predictions, probabilities = predict(pipeline, told, frames.from_records(ODD, DTYPES))
    wanted = [LABELS[task][number] for number in predictions] if LABELS[task] else predictions.tolist()
    together, scores = made.many(ROWS)
    alone = [made.one(row) for row in ROWS]
    assert len({str(each) for each in wanted}) > 1
    assert together == [answer for answer, _ in alone] == wanted
    if probabilities is None:
        assert scores is None
        assert {score for _, score in alone} == {None}
    else:
        assert [bits(each) for each in scores] == [bits(each) for each in probabilities]
        assert [bits(each) for _, each in alone] == [bits(each) for each in probabilities]
    return made


SCALERS = {
    "StandardScaler": preprocessing.StandardScaler(),
    "StandardScaler, no mean": preprocessing.StandardScaler(with_mean=False),
    "StandardScaler, no deviation": preprocessing.StandardScaler(with_std=False),
    "StandardScaler, neither": preprocessing.StandardScaler(with_mean=False, with_std=False),
    "MinMaxScaler": preprocessing.MinMaxScaler((-3, 2)),
    "MinMaxScaler, clip": preprocessing.MinMaxScaler(clip=True),
    "MaxAbsScaler": preprocessing.MaxAbsScaler(),
    "MaxAbsScaler, clip": preprocessing.MaxAbsScaler(clip=True),
    "RobustScaler": preprocessing.RobustScaler(),
    "RobustScaler, no centre": preprocessing.RobustScaler(with_centering=False),
    "RobustScaler, no scale": preprocessing.RobustScaler(with_scaling=False),
    "RobustScaler, unit variance": preprocessing.RobustScaler(unit_variance=True),
}
REST = ("passthrough", ["married"])  # beside what is tried, so that the trees always have something
ENCODED = (ordinal(), TEXTS)
PARTS = {
    "numbers": [("passthrough", NUMBERS), REST],
    "numbers, and encoders of no column": [("passthrough", NUMBERS), (hot(), []), (ordinal(), []), (filled(), []), REST],
    **{f"filled by {way}": [(filled(way), NUMBERS), REST] for way in ("mean", "median", "most_frequent")},
    "filled by a constant": [(filled("constant", fill_value=-7.5), NUMBERS), REST],
    "filled by no constant of one's own": [(filled("constant"), NUMBERS), REST],
    "filled, and marked": [(filled(add_indicator=True), NUMBERS), REST],
    "marked and scaled": [(make_pipeline(filled("mean", add_indicator=True), preprocessing.StandardScaler()), NUMBERS)],
    "marked without filling": [(impute.SimpleImputer(strategy="constant", fill_value=0, add_indicator=True), ["income"]), ENCODED],
    **{name: [(each, NUMBERS), REST] for name, each in SCALERS.items()},
    "filled, then scaled": [(make_pipeline(filled(), *itertools.islice(SCALERS.values(), 1)), NUMBERS), REST],
    "scaled, then filled": [(make_pipeline(preprocessing.MinMaxScaler(clip=True), filled()), NUMBERS), REST],
    "scaled twice": [(make_pipeline(preprocessing.RobustScaler(), preprocessing.MinMaxScaler()), NUMBERS)],
    "one-hot": [(hot(), TEXTS), ("passthrough", NUMBERS)],
    "one-hot, infrequent": [(hot(min_frequency=70, handle_unknown="infrequent_if_exist"), TEXTS)],
    "one-hot, infrequent, unknown ignored": [(hot(min_frequency=0.2), TEXTS), ("passthrough", ["age"])],
    "one-hot, at most three": [(hot(max_categories=3, handle_unknown="infrequent_if_exist"), TEXTS)],
    "one-hot, the first dropped": [(hot(drop="first"), TEXTS)],
    "one-hot, two dropped to one": [(hot(drop="if_binary"), ["colour", "married"]), ("passthrough", ["age"])],
    "one-hot, named ones dropped": [(hot(drop=["red", "S"]), TEXTS)],
    "one-hot, infrequent and dropped": [(hot(drop="first", min_frequency=70, handle_unknown="infrequent_if_exist"), TEXTS)],
    "one-hot, 32 bits": [(hot(dtype=np.float32), TEXTS), ("passthrough", NUMBERS)],
    "one-hot, dense": [(hot(sparse_output=False), TEXTS)],
    "one-hot, given categories": [(hot(categories=[["red", "green"], ["S", "XXL"]]), TEXTS), ("passthrough", ["age"])],
    "one-hot of numbers": [(hot(min_frequency=10, handle_unknown="infrequent_if_exist"), ["age"]), REST],
    "one-hot of booleans": [(hot(), ["married"]), ("passthrough", NUMBERS)],
    "one-hot of numbers and texts together": [(hot(min_frequency=10, handle_unknown="infrequent_if_exist"), ["age", "colour", "married"])],
    "one-hot, then scaled": [(make_pipeline(hot(sparse_output=False), preprocessing.StandardScaler()), TEXTS)],
    "one-hot, filled texts": [(make_pipeline(filled("most_frequent"), hot()), TEXTS)],
    "one-hot, texts filled by a constant": [(make_pipeline(filled("constant", fill_value="gone"), hot()), TEXTS)],
    "one-hot, texts filled by nothing": [(make_pipeline(filled("constant", fill_value=""), hot()), TEXTS)],
    "one-hot, texts filled by nothing, then again": [
        (make_pipeline(filled("constant", fill_value=""), filled("constant", fill_value="red"), hot()), TEXTS)
    ],
    "one-hot, texts filled without one's own": [(make_pipeline(filled("constant"), hot()), TEXTS)],
    "one-hot, filled numbers": [(make_pipeline(filled("most_frequent"), hot()), ["age", "married"])],
    "ordinal": [ENCODED, ("passthrough", NUMBERS)],
    "ordinal, unknown as missing": [(ordinal(unknown_value=np.nan), TEXTS)],
    "ordinal, missing by a number": [(ordinal(encoded_missing_value=-2), TEXTS)],
    "ordinal, infrequent": [(ordinal(min_frequency=70, encoded_missing_value=99), TEXTS)],
    "ordinal of numbers": [(ordinal(), ["age", "married"])],
    "ordinal, filled texts, scaled": [(make_pipeline(filled("most_frequent"), ordinal(), preprocessing.MinMaxScaler()), TEXTS)],
    "ordinal, then missing filled": [(make_pipeline(ordinal(), filled("mean", add_indicator=True)), TEXTS)],
    "a column twice": [("passthrough", ["age"]), (hot(), ["colour"]), ("passthrough", ["income", "age"]), (ordinal(), ["colour"])],
    "dropped columns": [("drop", ["income", "size"]), ("passthrough", ["age"]), ENCODED],
    "nothing but void": [("passthrough", ["void"]), ("passthrough", ["age"])],
    "void filled away": [(filled(), ["void", "age"])],
    "void filled nonetheless": [(filled(keep_empty_features=True), ["void", "age"])],
    "blank one-hot": [(hot(), ["blank", "colour"]), ("passthrough", ["age"])],
    "blank alone one-hot": [(hot(), ["blank"]), ("passthrough", ["age"])],
    "blank ordinal": [(ordinal(), ["colour", "blank"]), ("passthrough", ["age"])],
    "blank filled, one-hot": [(make_pipeline(filled("most_frequent"), hot()), ["blank", "colour"]), ("passthrough", ["age"])],
    "neighbours out of order": [("passthrough", ["married", "income", "age"])],
    "by position": [("passthrough", [0, -3]), (ordinal(), [2])],
    "by slice": [("passthrough", slice(0, 2)), (ordinal(), slice(2, 4))],
    "by mask": [("passthrough", [True, False, False, False, True, False, False]), (ordinal(), np.array([False, False, True, *[False] * 4]))],
    "by a function": [("passthrough", lambda frame: [name for name in frame if DTYPES[name] == "integer"]), ENCODED],
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_each_part_answers_as_the_pipeline_does(name):
    same(fitted(columns(*PARTS[name])))


@pytest.mark.parametrize("task", LABELS)
@pytest.mark.parametrize("name", ["one-hot", "ordinal", "filled, and marked", "a column twice"])
def test_each_task_answers_as_the_pipeline_does(name, task):
    same(fitted(columns(*PARTS[name]), task=task), task)


WHOLE = {
    "pipelines within pipelines": [make_pipeline(make_pipeline(columns(("passthrough", NUMBERS), ENCODED)), preprocessing.StandardScaler())],
    "selections within selections": [columns((columns((filled(), ["income"]), ("passthrough", ["age"])), NUMBERS), ENCODED)],
    "a selection after a selection": [
        columns(("passthrough", NUMBERS), ENCODED), columns((filled(), [0, 1]), ("passthrough", [3])),
    ],
    "a selection by names after another": [
        columns(REST, ENCODED, ("passthrough", NUMBERS), verbose_feature_names_out=False).set_output(transform="pandas"),
        columns((filled(), ["income"]), ("passthrough", ["size", "age"])),
    ],
    "a selection by names that an encoder made": [
        columns((hot(sparse_output=False), ["size"]), REST, ("passthrough", ["age"]), verbose_feature_names_out=False).set_output(transform="pandas"),
        columns(("passthrough", ["married", "size_M", "age"])),
    ],
    "two selections side by side": [
        FeatureUnion([("a", columns((filled(), NUMBERS))), ("b", columns(("passthrough", ["married"]), ENCODED))])
    ],
    "the rest passed on": [columns(ENCODED, ("drop", ["blank"]), remainder="passthrough")],
    "the rest filled": [columns(ENCODED, ("drop", ["blank"]), remainder=filled())],
    "passed on by a step": [columns(("passthrough", NUMBERS)), "passthrough"],
    "a function that does nothing": [columns((preprocessing.FunctionTransformer(), NUMBERS))],
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_each_way_to_put_parts_together_answers_as_the_pipeline_does(name):
    steps = [step for step in WHOLE[name] if step != "passthrough"]
    pipeline = fitted(*steps)
    if len(steps) < len(WHOLE[name]):
        pipeline.steps.insert(-1, ("nothing", "passthrough"))
    same(pipeline)


KINDS = [
    ("binary", {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}),
    ("regression", {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}),
    ("binary", {"boosting_type": "dart"}),
    ("multiclass", {"boosting_type": "dart"}),
    ("binary", {"objective": "cross_entropy"}),
    ("binary", {"is_unbalance": True}),
    ("multiclass", {"objective": "multiclassova"}),
    *(("regression", {"objective": each}) for each in ("poisson", "mape", "quantile", "huber", "gamma", "tweedie")),
    ("regression", {"reg_sqrt": True}),
    ("regression", {"linear_tree": True}),
    ("binary", {"zero_as_missing": True}),
    ("binary", {"use_missing": False}),
    ("binary", {"n_estimators": 1, "num_leaves": 2, "learning_rate": 1.0}),
]


@pytest.mark.parametrize(("task", "params"), KINDS, ids=str)
def test_each_kind_of_trees_answers_as_the_pipeline_does(task, params):
    same(fitted(columns(("passthrough", NUMBERS), ENCODED), task=task, params=params), task)


@pytest.mark.parametrize("task", LABELS)
def test_trees_that_a_batch_goes_through_in_parts_answer_as_all_at_once(task, monkeypatch):
    pipeline = fitted(columns(("passthrough", NUMBERS), ENCODED), task=task, params={"n_estimators": 31})
    parted = compile_it(pipeline, manifest(task))
    found = parted.many(ROWS)
    monkeypatch.setattr(compiled, "TREES", 1000)
    whole = compile_it(pipeline, manifest(task))

    assert [len(each.steps) for each in (parted, whole)] == [31 if task == "multiclass" else 7, 1]
    assert found == whole.many(ROWS)
    assert [parted.one(row) for row in ROWS] == [whole.one(row) for row in ROWS]


@pytest.mark.parametrize(
    "encoder", [ordinal(encoded_missing_value=9), ordinal(), ordinal(unknown_value=np.nan)], ids=str
)
def test_categories_of_lightgbm_answer_as_the_pipeline_does(encoder):
    params = {"min_data_per_group": 5, "cat_smooth": 1}
    pipeline = fitted(
        columns((encoder, TEXTS), ("passthrough", NUMBERS)), params=params, lgbmclassifier__categorical_feature=[0, 1]
    )

    assert "num_cat=1" in pipeline[-1].booster_.model_to_string()  # it did split by categories
    same(pipeline)


@pytest.mark.parametrize("task", LABELS)
def test_rounds_after_the_best_one_are_left_out(task):
    transformer = columns(("passthrough", NUMBERS), ENCODED).fit(FRAME)
    X, y = transformer.transform(FRAME), truth(task)
    estimator = model(task, n_estimators=300, learning_rate=0.5)
    estimator.fit(
        X[:200], y[:200], eval_X=X[200:], eval_y=y[200:], callbacks=[lightgbm.early_stopping(5, verbose=False)]
    )
    pipeline = Pipeline([("features", transformer), ("model", estimator)])
    best = estimator.best_iteration_

    made = same(pipeline, task, rounds=best)

    text = compiler.compile_pipeline(pipeline, manifest(task, best))[1].decode()
    assert best < len(estimator.evals_result_["valid_0"][next(iter(estimator.evals_result_["valid_0"]))])
    assert text.count("\nTree=") == best * made.outputs


def custom(y, prediction):
    p = 1 / (1 + np.exp(-prediction))
    return p - y, p * (1 - p)


NUMERIC = columns((filled(), NUMBERS))
REFUSED = {
    "a forest": ([NUMERIC, RandomForestClassifier(3)], "sklearn.RandomForestClassifier is not LightGBM's"),
    "other boosting": ([NUMERIC, GradientBoostingClassifier(n_estimators=2)], "sklearn.GradientBoostingClassifier is not"),
    "a line": ([NUMERIC, preprocessing.StandardScaler(), LogisticRegression()], "sklearn.LogisticRegression is not"),
    "an objective of one's own": ([NUMERIC, model(objective=custom)], "its objective is a function"),
    "bins": ([NUMERIC, preprocessing.KBinsDiscretizer(3, strategy="uniform"), model()], "KBinsDiscretizer is not one of"),
    "a function": ([NUMERIC, preprocessing.FunctionTransformer(np.log1p), model()], "FunctionTransformer is not one of"),
    "powers": ([NUMERIC, preprocessing.PolynomialFeatures(), model()], "PolynomialFeatures is not one of"),
    "quantiles": ([NUMERIC, preprocessing.QuantileTransformer(n_quantiles=9), model()], "QuantileTransformer is not one of"),
    "neighbours' values": ([columns((impute.KNNImputer(), NUMBERS)), model()], "KNNImputer is not one of"),
    "unknown ones refused": ([columns((hot(handle_unknown="error"), TEXTS)), model()], "OneHotEncoder refuses a missing or unknown"),
    "unknown ordinals refused": ([columns((preprocessing.OrdinalEncoder(), TEXTS)), model()], "OrdinalEncoder refuses"),
    "weights": ([columns((filled(), NUMBERS), REST, transformer_weights={"0": 2.0}), model()], "ColumnTransformer is not one of"),
    "weights side by side": ([FeatureUnion([("a", NUMERIC)], transformer_weights={"a": 2.0}), model()], "FeatureUnion is not one of"),
    "another missing value": ([columns((make_pipeline(filled(), filled(missing_values=0)), NUMBERS)), model()], "fills what is not a missing value"),
    "an encoder after a scaler": ([columns((make_pipeline(preprocessing.MaxAbsScaler(), ordinal()), ["age"])), model()], "OrdinalEncoder follows another"),
    "an encoder after an encoder": ([columns((make_pipeline(ordinal(), hot()), TEXTS)), model()], "OneHotEncoder follows another"),
    "marked texts": ([columns((make_pipeline(filled("constant", add_indicator=True), hot()), TEXTS)), model()], "OneHotEncoder follows another|without an encoder"),
    "a slice of names": ([columns(("passthrough", slice("age", "income"))), model()], "the compiler cannot read it: slice indices"),
    "a scaler of nothing": ([columns((preprocessing.StandardScaler(), ["void", "age"])), model()], "the compiler cannot read"),
    "two outputs for two labels": ([NUMERIC, model(objective="multiclass", num_class=2)], "2 outputs"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_is_refused_with_a_reason(name):
    steps, reason = REFUSED[name]
    pipeline = make_pipeline(*map(clone, steps)).fit(FRAME, truth("binary"))

    with pytest.raises(compiler.Unsupported, match=reason):
        compile_it(pipeline, manifest())


def test_a_target_that_is_transformed_is_refused():
    pipeline = make_pipeline(
        clone(NUMERIC), TransformedTargetRegressor(model("regression"), func=np.log1p, inverse_func=np.expm1)
    )

    with pytest.raises(compiler.Unsupported, match="TransformedTargetRegressor is not LightGBM's"):
        compile_it(pipeline.fit(FRAME, truth("regression")), manifest("regression"))


@pytest.mark.parametrize(("sparse", "greatest"), [(True, 239), (False, 459), (False, 489)])
def test_between_two_values_of_training_a_scaler_rounds_as_the_pipeline_does(sparse, greatest):
    """Trees split half way: there the last bit decides. Sparse numbers are multiplied by the reciprocal, others divided."""
    seen = [*range(0, greatest - 1, 2), greatest]
    frame, asked = (
        frames.from_records([{"age": age, "colour": "blue" if age % 3 else "red"} for age in ages], DTYPES)
        for ages in (seen, range(greatest))
    )
    first = columns((hot(), ["colour"]), ("passthrough", ["age"]), sparse_threshold=float(sparse))
    params = SMALL | {"max_bin": 600, "min_data_in_bin": 1, "min_child_samples": 1, "num_leaves": 300}
    pipeline = make_pipeline(first, preprocessing.MaxAbsScaler(), LGBMRegressor(**params))
    pipeline.fit(frame, [number % 2 for number in range(len(seen))])

    made = compile_it(pipeline, manifest("regression"))

    assert first.sparse_output_ == sparse
    assert made.many(compiler.rows_of(asked))[0] == pipeline.predict(asked).tolist()


def test_more_features_than_a_row_is_written_out_for_are_refused(monkeypatch):
    pipeline = fitted(columns((hot(), TEXTS)))
    width = pipeline[-1].n_features_in_
    monkeypatch.setattr(compiler, "WIDTH", width)
    compiler.compile_pipeline(pipeline, manifest())
    monkeypatch.setattr(compiler, "WIDTH", width - 1)

    with pytest.raises(
        compiler.Unsupported, match=f"take {width} features, and rows are written out up to {width - 1}"
    ):
        compiler.compile_pipeline(pipeline, manifest())


MISREAD = {
    "fill": ("filled by median", lambda value, _: value),
    "missing": ("filled, and marked", lambda *_: 0.0),
    "subtract": ("RobustScaler", lambda value, other: value + other),
    "add": ("MinMaxScaler", lambda value, other: value - other),
    "multiply": ("MinMaxScaler", lambda value, other: value / other),
    "divide": ("MaxAbsScaler", lambda value, other: value * other),
    "clip": ("MinMaxScaler, clip", lambda _, ends: ends[0]),
}


@pytest.mark.parametrize("step", compiled.STEPS)
def test_a_step_that_is_misread_is_found_by_comparison(step, monkeypatch):
    name, wrong = MISREAD[step]
    pipeline = fitted(columns(*PARTS[name]))
    monkeypatch.setitem(compiled.STEPS, step, wrong)

    with pytest.raises(compiler.Unsupported, match=r"it answers [\d,]+ of [\d,]+ rows otherwise than the pipeline"):
        compile_it(pipeline, manifest())


@pytest.mark.parametrize("place", ["unknown", "missing", "red"])
def test_a_table_that_is_misread_is_found_by_comparison(place):
    pipeline, told = fitted(columns((ordinal(encoded_missing_value=9), TEXTS))), manifest()
    encoder, text = compiler.compile_pipeline(pipeline, told)
    described = json.loads(encoder)
    block = described["blocks"][0]
    if place == "unknown":
        block["unknown"] = [[0, 3.0]]
    else:
        key = None if place == "missing" else place
        block["table"] = [[name, [[0, 0.0]] if name == key else cells] for name, cells in block["table"]]

    with pytest.raises(compiler.Unsupported, match="otherwise than the pipeline"):
        compiler.check(json.dumps(described).encode(), text, told, FRAME, lambda frame: predict(pipeline, told, frame))


def drawn_pipeline(seed):
    """Return steps, a task and parameters, drawn from all parts that are compiled."""
    draw = random.Random(seed)
    picked = lambda names: draw.sample(names, draw.randint(1, len(names)))  # noqa: E731

    def scaler(**more):
        kind = draw.choice(
            [
                preprocessing.StandardScaler,
                preprocessing.MinMaxScaler,
                preprocessing.MaxAbsScaler,
                preprocessing.RobustScaler,
            ]
        )
        own = {
            name: draw.random() < 0.5
            for name in kind().get_params()
            if name.startswith("with_") or name in {"clip", "unit_variance"}
        }
        return kind(**own | {name: value for name, value in more.items() if name in own})

    def imputer():
        return filled(draw.choice(["mean", "median", "most_frequent"]), add_indicator=draw.random() < 0.5)

    def numbers():
        return make_pipeline(*(draw.choice([imputer, scaler])() for _ in range(draw.randint(1, 3))))

    def encoder():
        rare = draw.choice([None, 5, 70, 0.1])
        if draw.random() < 0.5:
            missing, unknown = draw.choice([np.nan, -2, 99]), draw.choice([-1, np.nan])
            return ordinal(min_frequency=rare, encoded_missing_value=missing, unknown_value=unknown)
        more = {
            "drop": draw.choice([None, "first", "if_binary"]),
            "min_frequency": rare,
            "sparse_output": draw.random() < 0.5,
        }
        return hot(handle_unknown=draw.choice(["ignore", "infrequent_if_exist"]), **more)

    def texts():
        fill = draw.choice([None, filled("most_frequent"), filled("constant", fill_value="gone")])
        return make_pipeline(*([fill] if fill else []), encoder())

    def selection(depth=0):
        parts = [
            (numbers(), picked(NUMBERS)),
            (texts(), picked(TEXTS)),
            (encoder(), picked(["age", "married"])),
            ("passthrough", picked([*NUMBERS, "married"])),
            *([(selection(depth + 1), [*NUMBERS, *TEXTS, "married"])] if draw.random() < 0.4 and not depth else []),
        ]
        return columns(*draw.sample(parts, draw.randint(2, len(parts))), sparse_threshold=draw.choice([0.0, 0.3, 1.0]))

    first = selection()
    if draw.random() < 0.3:
        first = FeatureUnion([("a", first), ("b", selection())])
    after = [preprocessing.MaxAbsScaler()] if draw.random() < 0.3 else []
    params = draw.choice(
        [{}, {"boosting_type": "dart"}, {"boosting_type": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}]
    )
    return [first, *after], draw.choice([*LABELS]), params


@pytest.mark.parametrize("seed", range(30))
def test_pipelines_drawn_at_random_answer_as_they_do(seed):
    steps, task, params = drawn_pipeline(seed)
    same(fitted(*steps, task=task, params=params), task)


def arrow(records):
    import pyarrow as pa

    return pa.Table.from_pylist(records)


def save(folder, pipeline, **more):
    told, ids = manifest(), np.arange(3, dtype=np.uint64)
    return bundle.save(folder, pipeline, told, ODD[:9], ids, FRAME, **more)


def test_a_bundle_says_that_it_is_compiled_and_holds_the_two_files(tmp_path):
    saved = save(tmp_path, fitted(columns(*PARTS["ordinal"])))

    assert saved.manifest["not_compiled"] == ""
    assert {bundle.ENCODER, bundle.MODEL} < set(saved.manifest["files"])


def test_a_bundle_that_is_not_to_be_compiled_says_so(tmp_path):
    saved = save(tmp_path, fitted(columns(*PARTS["ordinal"])), compiled=False)

    assert saved.manifest["not_compiled"] == "train.compile is false"
    assert {path.name for path in tmp_path.iterdir()} == {bundle.MANIFEST, *saved.manifest["files"]}
    assert not {bundle.ENCODER, bundle.MODEL} & set(saved.manifest["files"])


def test_a_bundle_that_cannot_be_compiled_says_why_and_is_made(tmp_path):
    saved = save(tmp_path, make_pipeline(clone(NUMERIC), RandomForestClassifier(3)).fit(FRAME, truth("binary")))

    assert saved.manifest["not_compiled"] == "sklearn.RandomForestClassifier is not LightGBM's"
    assert not (tmp_path / bundle.MODEL).exists()


def test_a_compiled_model_that_answers_a_test_row_otherwise_is_not_evaluated(tmp_path, monkeypatch):
    """The rows of training are not all: what the comparison there missed is found here."""
    monkeypatch.chdir(tmp_path)
    steps = [columns(*PARTS["ordinal"])]
    mine, other = fitted(*steps), fitted(*steps, params={"n_estimators": 13})
    right = compiler.compile_pipeline(mine, manifest())
    loaded = save(paths.BUNDLE, mine)
    table = arrow(RECORDS)
    answers = evaluate.score(loaded, table)
    evaluate.hold_compiled(loaded, table, answers)

    monkeypatch.setattr(compiler, "compile_pipeline", lambda *_: (right[0], compiler_of(other)))
    monkeypatch.setattr(compiler, "check", lambda *_: None)
    loaded = save(paths.BUNDLE, mine)

    with pytest.raises(
        Problem, match=r"the compiled model answers \d+ of 400 test rows otherwise than the pipeline"
    ) as caught:
        evaluate.hold_compiled(loaded, table, answers)
    assert "train.compile: false" in caught.value.fix


def compiler_of(pipeline):
    return pipeline[-1].booster_.model_to_string().encode()


def test_a_bundle_whose_pipeline_serves_has_nothing_to_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = save(paths.BUNDLE, fitted(columns(*PARTS["ordinal"])), compiled=False)

    evaluate.hold_compiled(loaded, None, (None, None))
