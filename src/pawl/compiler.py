"""From a fitted pipeline to a compiled model: what each column of the matrix is made of, read from scikit-learn's fitted objects.

Every transformer here looks at one column at a time. Encoders are not imitated: each is asked for every category that it knows, a
missing and an unknown one, and its answers become a table. What was read wrong is found out: `check` compares with the pipeline.
"""

import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pawl import frames
from pawl.compiled import STEPS, Compiled
from pawl.problem import Problem

WIDTH = 2000  # columns of the matrix: a row is written out whole, zeros too
MIXED = 300  # rows whose cells are drawn at random from all edges
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-300, 1e-35, 1e-36, 123456789.0, 2.0**53 + 2, 3.4e38, -3.4e38)
UNKNOWN = "a category never seen"


class Unsupported(Exception):  # noqa: N818 - it is an answer: the pipeline serves itself
    """The pipeline cannot be compiled, and why."""


class Column(NamedTuple):
    """What a column of a matrix is made of: a column of the records, then steps on a number, or a table of its categories."""

    source: int
    steps: tuple[tuple[str, Any], ...] = ()
    fill: Any = None  # the category that stands for a missing one
    table: tuple[tuple[Any, float], ...] | None = None
    unknown: float = 0.0
    sparse: bool = False  # the matrix that it stands in

    def then(self, name: str, operand: Any) -> "Column":
        """Return the column after one more step."""
        if self.table is None:
            return self._replace(steps=(*self.steps, (name, operand)))
        step = STEPS[name]
        changed = tuple((key, step(value, operand)) for key, value in self.table)
        return self._replace(table=changed, unknown=step(self.unknown, operand))


def compile_pipeline(pipeline: Any, manifest: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return (encoder.json, LightGBM's text model); raise Unsupported with the reason."""
    try:
        return _compiled(pipeline, manifest)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        told = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unsupported(f"the compiler cannot read it: {told[:200]}") from error


def _compiled(pipeline: Any, manifest: Mapping[str, Any]) -> tuple[bytes, bytes]:
    *transformers, model = _flat(pipeline)
    kind = f"{type(model).__module__.partition('.')[0]}.{type(model).__name__}"
    if kind not in {"lightgbm.LGBMClassifier", "lightgbm.LGBMRegressor"}:
        raise Unsupported(f"{kind} is not LightGBM's")
    if not isinstance(model.objective_, str):
        raise Unsupported("its objective is a function")
    dtypes = manifest["features"]
    columns = [Column(number) for number in range(len(dtypes))]
    for transformer in transformers:
        columns = _through(transformer, columns)
    if len(columns) > WIDTH:
        raise Unsupported(f"the trees take {len(columns):,} features, and rows are written out up to {WIDTH:,}")
    texts = {number for number, dtype in enumerate(dtypes.values()) if dtype == "category"}
    if any(column.table is None and column.source in texts for column in columns):
        raise Unsupported("a category reaches the trees without an encoder")
    encoder = {"width": len(columns), "blocks": [*_blocks(columns)]}
    text = model.booster_.model_to_string(num_iteration=manifest.get("rounds") or -1)
    return json.dumps(encoder, separators=(",", ":"), allow_nan=False).encode(), text.encode()


def _flat(step: Any) -> list[Any]:
    from sklearn.pipeline import Pipeline

    return [each for _, inner in step.steps for each in _flat(inner)] if isinstance(step, Pipeline) else [step]


def _through(transformer: Any, columns: list[Column]) -> list[Column]:
    """Return the columns that a fitted transformer makes of these."""
    from sklearn import compose, impute, pipeline, preprocessing

    kind = type(transformer)
    if transformer == "drop":
        return []
    if transformer == "passthrough" or (kind is preprocessing.FunctionTransformer and _is_identity(transformer)):
        dense = kind is preprocessing.FunctionTransformer and transformer.func is not None
        return [column._replace(sparse=column.sparse and not dense) for column in columns]
    if kind is pipeline.Pipeline:
        for each in _flat(transformer):
            columns = _through(each, columns)
        return columns
    if kind is pipeline.FeatureUnion and not transformer.transformer_weights:
        return [made for _, each in transformer.transformer_list for made in _through(each, columns)]
    if kind is compose.ColumnTransformer and not transformer.transformer_weights:
        made: list[Column] = []
        names = list(getattr(transformer, "feature_names_in_", ()))
        for _, each, chosen in transformer.transformers_:
            picked = np.arange(len(columns))[_positions(chosen, names, len(columns))]
            if len(picked):  # a part without columns is not fitted: a table of numbers has no categories
                made += _through(each, [columns[number] for number in picked])
        return [column._replace(sparse=transformer.sparse_output_) for column in made]
    if kind is impute.SimpleImputer:
        return _imputed(transformer, columns)
    if kind in {preprocessing.OneHotEncoder, preprocessing.OrdinalEncoder}:
        return _encoded(transformer, columns)
    scaled = {
        preprocessing.StandardScaler: (("subtract", "mean_"), ("divide", "scale_")),
        preprocessing.MinMaxScaler: (("multiply", "scale_"), ("add", "min_")),
        preprocessing.MaxAbsScaler: (("divide", "scale_"),),
        preprocessing.RobustScaler: (("subtract", "center_"), ("divide", "scale_")),
    }.get(kind)
    if scaled is None:
        raise Unsupported(f"{kind.__name__} is not one of the transformers that are compiled")
    switches = {"mean_": "with_mean", "center_": "with_centering", "scale_": "with_std"}
    for step, attribute in scaled:
        operands = getattr(transformer, attribute, None)
        if operands is not None and getattr(transformer, switches.get(attribute, ""), True):
            inverse = step == "divide" and any(column.sparse for column in columns)  # rounds otherwise than a division
            name, values = ("multiply", 1.0 / operands) if inverse else (step, operands)
            columns = [column.then(name, float(each)) for column, each in zip(columns, values, strict=True)]
    if getattr(transformer, "clip", False):
        ends = getattr(transformer, "feature_range", (-1, 1))  # MaxAbsScaler has none
        columns = [column.then("clip", [float(end) for end in ends]) for column in columns]
    return columns


def _is_identity(transformer: Any) -> bool:
    func = transformer.func
    return func is None or (func.__module__, func.__name__) == ("task.model", "dense")


def _positions(chosen: Any, names: Sequence[str], count: int) -> Any:
    """Return what picks the columns of a ColumnTransformer's part: positions, a mask, or a slice."""
    if isinstance(chosen, slice):
        return chosen
    listed = [chosen] if isinstance(chosen, (str, int)) else list(chosen)
    if len(listed) == count and all(isinstance(each, (bool, np.bool_)) for each in listed):
        return np.array(listed, dtype=bool)
    return np.array([names.index(each) if isinstance(each, str) else each for each in listed], dtype=int)


def _imputed(imputer: Any, columns: list[Column]) -> list[Column]:
    if not (imputer.missing_values != imputer.missing_values or imputer.missing_values is None):
        raise Unsupported("SimpleImputer fills what is not a missing value")
    made = []
    for column, value in zip(columns, imputer.statistics_, strict=True):
        if isinstance(value, str):
            made.append(column._replace(fill=value if column.fill is None else column.fill))
        elif value == value or imputer.keep_empty_features:  # noqa: PLR0124 - a column without a value is dropped
            made.append(column.then("fill", float(value)))
    if imputer.indicator_ is not None:
        made += [columns[number].then("missing", None) for number in imputer.indicator_.features_]
    return made


def _encoded(encoder: Any, columns: list[Column]) -> list[Column]:
    """Return the encoder's answers to every category that it learned, a missing and an unknown one, as tables."""
    made: list[Column] = []
    widths = getattr(encoder, "_n_features_outs", [1] * len(columns))
    offset, kinds = 0, {categories.dtype.kind for categories in encoder.categories_}
    for number, (column, width) in enumerate(zip(columns, widths, strict=True)):
        if column.table is not None or any(name != "fill" for name, _ in column.steps):
            raise Unsupported(f"{type(encoder).__name__} follows another transformer")
        learned = [each for each in encoder.categories_[number] if each == each and each is not None]  # noqa: PLR0124 - NaN
        numeric = not any(isinstance(each, str) for each in learned)
        unknown = 2.0 * max(map(abs, learned), default=0.0) + 1.5 if numeric else UNKNOWN
        fill = next((value for _, value in column.steps), None) if column.fill is None else column.fill
        missing = np.nan if fill is None else fill
        asked = [*learned, missing, unknown]
        base = [next(iter(categories), np.nan) for categories in encoder.categories_]
        asking = [[*base[:number], value, *base[number + 1 :]] for value in asked]
        rows = np.array(asking, dtype=object if "O" in kinds else float)
        try:
            answers = encoder.transform(_framed(rows, encoder))
        except (ValueError, TypeError) as error:
            raise Unsupported(f"{type(encoder).__name__} refuses a missing or unknown category") from error
        answers = np.asarray(answers.toarray() if hasattr(answers, "toarray") else answers, dtype=float)
        keys = [*(float(each) if numeric else str(each) for each in learned), None]
        for at in range(offset, offset + width):
            *values, unknown_value = answers[:, at].tolist()
            table = tuple(zip(keys, values, strict=True))
            sparse = getattr(encoder, "sparse_output", False)
            made.append(Column(column.source, table=table, unknown=unknown_value, sparse=sparse))
        offset += width
    return made


def _framed(rows: Any, encoder: Any) -> Any:
    import pandas as pd

    names = getattr(encoder, "feature_names_in_", None)
    return rows if names is None else pd.DataFrame(rows, columns=names)


def _blocks(columns: Sequence[Column]) -> Iterable[dict[str, Any]]:
    """Yield runs of the matrix: numbers that are neighbours in the records too, and the tables of one column."""

    def run(numbered: tuple[int, Column]) -> Any:
        number, column = numbered
        return (column.source, [key for key, _ in column.table]) if column.table is not None else column.source - number

    for _, group in itertools.groupby(enumerate(columns), run):
        found = [column for _, column in group]
        if found[0].table is None:
            yield {"first": found[0].source, "steps": [column.steps for column in found]}
            continue
        keys = [key for key, _ in found[0].table]
        cells = [[value for _, value in column.table or ()] for column in found]
        yield {
            "column": found[0].source,
            "width": len(found),
            "table": [[key, _sparse([values[at] for values in cells])] for at, key in enumerate(keys)],
            "unknown": _sparse([column.unknown for column in found]),
        }


def _sparse(values: Sequence[float]) -> list[list[Any]]:
    """Return [offset, value] of what is not zero; null for NaN."""
    return [[at, None if value != value else value] for at, value in enumerate(values) if value or str(value) == "-0.0"]  # noqa: PLR0124 - NaN


def edges(frame: Any, dtypes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return records at the limits of what a service is asked: every category, unknown, empty and missing cells, extreme numbers, and mixtures."""
    pools: dict[str, list[Any]] = {}
    for name, dtype in dtypes.items():
        seen = frame[name].dropna().unique().tolist()
        pools[name] = {
            "category": [None, UNKNOWN, "", " ", *seen],
            "boolean": [None, True, False],
            "integer": [None, *(value for value in NUMBERS if value.is_integer()), *seen[:20]],
        }.get(dtype, [None, *NUMBERS, *seen[:20]])
    typical = {name: values[-1] for name, values in pools.items()}
    alone = [typical | {name: value} for name, values in pools.items() for value in values]
    draw = random.Random(0)  # noqa: S311 - no secret
    mixed = [{name: draw.choice(values) for name, values in pools.items()} for _ in range(MIXED)]
    return [dict.fromkeys(dtypes), *alone, *mixed]


def differing(compiled: Compiled, frame: Any, answers: tuple[Any, Any]) -> list[int]:
    """Return the numbers of the rows of a frame that the compiled model does not answer bit for bit as given, alone or among the others."""
    predictions, probabilities = answers
    expected = predictions if probabilities is None else probabilities
    rows = rows_of(frame)
    together, alone = compiled.many(rows), [compiled.one(row) for row in rows]
    wrong = np.zeros(len(rows), dtype=bool)
    for labels, scores in (together, tuple(map(list, zip(*alone, strict=True)))):
        got = np.array(labels if probabilities is None else scores, dtype=float)
        same = (got == expected).reshape(len(rows), -1).all(axis=1)
        if probabilities is not None:
            same &= np.array([compiled.labels[number] for number in predictions]) == np.array(labels)
        wrong |= ~same
    return [int(row) for row in np.flatnonzero(wrong)]


def rows_of(frame: Any) -> list[tuple[Any, ...]]:
    """Return a frame's rows as the service takes them: None where a cell is missing."""
    return list(frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None))


def check(encoder: bytes, model: bytes, manifest: Mapping[str, Any], frame: Any, predict: Any) -> None:
    """Raise Unsupported unless the compiled model answers these rows and the edges as the pipeline does."""
    try:
        compiled = Compiled(encoder, model, dict(manifest), Path("the compiled model"))
    except Problem as problem:
        raise Unsupported(problem.what) from problem
    for given in (frame, frames.from_records(edges(frame, manifest["features"]), manifest["features"])):
        if wrong := differing(compiled, given, predict(given)):
            raise Unsupported(f"it answers {len(wrong):,} of {len(given):,} rows otherwise than the pipeline")
