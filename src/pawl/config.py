"""params.yaml, typed and frozen. A wrong key, type or value is refused with its line before any work."""

import decimal
import functools
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from pawl.problem import Problem
from pawl.yamlfile import Key, line_of, read_yaml, refuse_name
from task.params import FeaturizeParams

TaskKind = Literal["binary", "multiclass", "regression"]
Share = typing.Annotated[float, msgspec.Meta(ge=0, le=1)]
TUNABLE = ("train", "featurize", "threshold")
EMPTY = {"task": "binary", "target": "<column>", "positive": "null", "threshold": "0.5"}
Positive = typing.Annotated[float, msgspec.Meta(gt=0)]
Count = typing.Annotated[int, msgspec.Meta(ge=0)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of params.yaml."""


class Columns(Section):
    """Columns with a role of their own; none of them becomes a feature."""

    id: str | None = None
    time: str | None = None
    group: str | None = None
    split: str | None = None  # says train, valid or test, for prepare.split: given
    ignore: tuple[str, ...] = ()


class ThresholdRule(Section):
    """How the threshold is chosen on the validation split."""

    rule: Literal["f_beta", "cost", "recall_at_precision"]
    beta: Positive = 1.0
    false_positive: Positive = 1.0
    false_negative: Positive = 1.0
    precision: Share = 0.8


class Task(Section):
    """What is predicted from what: the keys at the top of params.yaml."""

    task: TaskKind
    target: str
    positive: str | int | float | bool | None
    threshold: Share | ThresholdRule
    columns: Columns

    def positive_in(self, labels: Iterable[str]) -> str | None:
        """Return the label of the table that `positive` means: true is also True, and 1 also 1.0. None if there is none."""
        forms = {str(self.positive), str(self.positive).lower(), str(self.positive).title()}
        if isinstance(self.positive, int | float):
            forms |= {str(float(self.positive)), str(int(self.positive))}
        return next((label for label in (str(self.positive), *labels) if label in forms and label in set(labels)), None)

    @property
    def roles(self) -> frozenset[str]:
        """Return the columns that are not features."""
        columns = self.columns
        named = (self.target, columns.id, columns.time, columns.group, columns.split, *columns.ignore)
        return frozenset(name for name in named if name)


class Csv(Section):
    """How text files are read."""

    separator: typing.Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    quote: typing.Annotated[str, msgspec.Meta(max_length=1)] = '"'  # "" for none
    names: tuple[str, ...] = ()  # for files without a header
    missing: tuple[str, ...] = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")
    comment: str | None = None
    encoding: str = "utf-8"
    trim: bool = False  # drop spaces around cells
    decimal: Literal[".", ","] = "."  # a comma: 1,5 is a number


class Sample(Section):
    """The built-in generator."""

    rows: typing.Annotated[int, msgspec.Meta(ge=1)] = 20_000
    seed: Count = 0
    drift: Share = 0.0


class Sql(Section):
    """A query; the database's address comes from the environment: PAWL_SQL_URL."""

    query: str = "query.sql"
    days: Count | None = None  # the window, for a query that uses :since and :until
    until: str | None = None  # its end, a date; today (UTC) when absent
    version: str | None = None  # a cheap query whose result changes when the data does


class Ingest(Section):
    """Where the table comes from."""

    source: str | tuple[str, ...] | dict[str, str | tuple[str, ...]] = "sample"
    format: Literal["csv", "parquet"] | None = None
    digest: str | None = None
    replace: dict[str, dict[str, str | None]] = {}  # null: becomes missing
    csv: Csv = Csv()
    sample: Sample = Sample()
    sql: Sql = Sql()


class Validate(Section):
    """Limits that concern the whole table; those of one column stand in schema.yaml."""

    min_rows: Count = 1000
    min_class_rows: Count = 20
    warn_missing: Share = 0.5
    max_leakage: Share = 0.99
    allow_leakage: tuple[str, ...] = ()
    max_overlap: Share = 0.01
    unit_jump: float = 10.0


class Prepare(Section):
    """Which rows go where."""

    split: Literal["random", "group", "time", "given"] = "random"
    test: Share = 0.2
    valid: Share = 0.1
    valid_from: str | None = None
    test_from: str | None = None
    seed: int = 0
    drop_duplicates: bool = False
    drop_missing: tuple[str, ...] = ()


class Train(Section):
    """The estimator."""

    model: str = "lightgbm.LGBMClassifier"
    params: dict[str, Any] = {}
    early_stopping: Count = 50
    class_weight: Literal["balanced"] | dict[str, float] | None = None
    device: Literal["cpu", "gpu"] = "cpu"
    seed: Count = 0
    compile: bool = True  # for the service, where the pipeline can be


class Evaluate(Section):
    """What is measured beside the metrics of the task."""

    slices: tuple[str, ...] = ()
    min_slice_rows: Count = 50
    folds: Count = 0
    bootstrap: typing.Annotated[int, msgspec.Meta(ge=20)] = 200


class Range(Section):
    """Numbers from low to high; whole ones, if both ends are."""

    low: int | float
    high: int | float
    log: bool = False  # as many between 1 and 10 as between 10 and 100
    step: Positive | None = None

    @property
    def whole(self) -> bool:
        """Say whether its numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Space = dict[str, Range | list[Any]]  # by dotted key of params.yaml; a list: one of its values


class Tune(Section):
    """What scripts.tune tries. No stage reads it."""

    metric: str
    grid: dict[str, Any] = {}  # {dotted key of params.yaml: list of its values}
    space: Space = {}
    sampler: Literal["tpe", "random", "grid"] | None = None  # without it tpe for a space, grid for a grid
    trials: typing.Annotated[int, msgspec.Meta(ge=1)] = 20  # a grid has its own number
    objective: Literal["valid", "folds"] = "valid"  # measured on the validation rows, or the mean of evaluate.folds
    prune: bool = False  # end a trial whose learning curve is below most others'


class Drift(Section):
    """When scripts.drift says that a window drifted. No stage reads it."""

    level: typing.Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05  # over all tests of a window together
    effect: Share = 0.1  # what a change must reach: KS distance, or total variation
    share: Share = 0.0  # of the columns that must have drifted; 0: any one
    min_rows: typing.Annotated[int, msgspec.Meta(ge=2)] = 1000  # of the reference, the window, and those with labels
    max_loss: typing.Annotated[float, msgspec.Meta(ge=0)] = 0.05  # of the metric, in its unit
    metric: str | None = None  # the first in gates.yaml without it
    columns: tuple[str, ...] = ()  # all features without it
    rows: typing.Annotated[int, msgspec.Meta(ge=100)] = 50_000  # of a larger window, so many are sampled


class Retrain(Section):
    """What scripts.retrain does where the champion is no longer good enough. No stage reads it."""

    tune: bool = False  # search by the section `tune` first
    cooldown_days: typing.Annotated[float, msgspec.Meta(ge=0)] = 3.0  # between two that drift asks for
    auto_merge: bool = False  # GitHub merges the proposal once what main requires has passed


class Params(Task, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of params.yaml."""

    ingest: Ingest
    validate: Validate
    prepare: Prepare
    featurize: FeaturizeParams
    train: Train
    evaluate: Evaluate
    tune: Tune | None = None
    drift: Drift = Drift()
    retrain: Retrain = Retrain()

    @property
    def problem(self) -> Task:
        """Return the keys at the top alone, so that a stage cannot read a section that is not its own."""
        return Task(**{name: getattr(self, name) for name in Task.__struct_fields__})


def load(path: Path) -> Params:
    """Return the parameters in `path`; raise Problem with file, line and what is allowed."""
    return of(*read_yaml(path), path)


def of(values: dict[str, Any], lines: Mapping[Key, int], path: Path) -> Params:
    """Return the parameters that a file holds; raise Problem as `load` does."""
    _refuse_unknown(values, Params, (), path, lines)
    if absent := [each.name for each in msgspec.structs.fields(Params) if each.required and each.name not in values]:
        # DVC stops at a parameter that it cannot find; all keys at the top are there, with {} or null where there is nothing to say.
        raise Problem(f"the key {absent[0]} is missing", path, f"add  {absent[0]}: {EMPTY.get(absent[0], '{}')}")
    params: Params = typed(Params, values, lines, path)
    _check(params, path, lines)
    return params


def typed(kind: Any, values: Any, lines: Mapping[Key, int], path: Path, at: Key = ()) -> Any:
    """Return the values of a YAML file, or of its key `at`, as a Section; raise Problem with file, line and what is allowed."""
    if isinstance(values, dict):
        _refuse_unknown(values, kind, at, path, lines)
        for name, hint in _fields(kind).items():  # msgspec does not say which entry of a mapping is wrong
            if _values(hint) and isinstance(values.get(name), dict):
                for word, entry in values[name].items():
                    one = _values(hint) if isinstance(entry, dict) else typing.get_args(hint)[1]
                    typed(one, entry, lines, path, (*at, name, str(word)))
            elif _section(hint) and isinstance(values.get(name), dict):
                typed(_section(hint), values[name], lines, path, (*at, name))
    try:
        return msgspec.convert(values, kind, strict=True)
    except msgspec.ValidationError as error:
        # "Expected `str`, got `int` - at `$.columns.ignore[0]`", or "... - at `key` in `$.train.class_weight`"
        message, _, place = str(error).partition(" - at ")
        of_key, _, place = place.rpartition("`$.")
        inner = tuple(re.sub(r"\[.*?\]", "", place.rstrip("`")).split(".")) if place else ()
        key = (*at, *inner)
        given = functools.reduce(lambda part, word: part.get(word) if isinstance(part, dict) else None, inner, values)
        message = f"invalid value {given!r}" if "matching regex" in message else message
        what = f"{'.'.join(key) or path.stem}: {'a key there: ' * bool(of_key)}{message[:1].lower()}{message[1:]}"
        allowed = _allowed(kind, inner)
        quoted = "put it in quotes" if of_key or "`date" in message else ""
        fix = quoted or (_number(given) if "number" in allowed else "") or allowed
        anyway = "correct the value; docs/configuration.md lists what each key takes"
        raise Problem(what, f"{path}:{line_of(lines, key)}", fix or anyway) from error


def _number(given: Any) -> str:
    """Say how to write a number that YAML takes for a text: 1e-3 needs a point, and quotes are for texts."""
    try:
        plain = format(decimal.Decimal(given), "f") if isinstance(given, str) else ""
    except (decimal.InvalidOperation, ValueError):
        return ""
    said = f"YAML reads {given} as a text: write {plain}, without quotes"
    return said if plain[-1:].isdigit() and len(plain) < 30 else ""


def _section(annotation: Any) -> Any:
    """Return the struct in an annotation such as `float | ThresholdRule`, if there is one."""
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, msgspec.Struct)), None)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in {typing.Union, types.UnionType}


def _fields(section: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(section, include_extras=True)
    return {name: hints[name] for name in hints if not name.startswith("_")}


def _refuse_unknown(values: Mapping[str, Any], section: Any, prefix: Key, path: Path, lines: Mapping[Key, int]) -> None:
    fields = _fields(section)
    for name, value in values.items():
        key = (*prefix, str(name))
        if name not in fields:
            refuse_name(".".join(key), str(name), list(fields), where=f"{path}:{line_of(lines, key)}")
        inner = _section(fields[name])
        if inner is not None and isinstance(value, dict):
            _refuse_unknown(value, inner, key, path, lines)


def _values(annotation: Any) -> Any:
    """Return the struct in dict[str, struct], if it is one."""
    return _section(typing.get_args(annotation)[1]) if typing.get_origin(annotation) is dict else None


def _allowed(kind: Any, key: Key) -> str:
    """Say what the key takes, from the annotations above."""
    hint = kind
    for part in key:
        section = _section(hint)
        if section is None or part not in _fields(section):
            break
        hint = _fields(section)[part]
    return "" if hint is Params else f"allowed: {_words(hint)}"


WORDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "nothing",
    tuple: "a list", list: "a list", dict: "a mapping",
}  # fmt: skip


def _words(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        if options[1].description:
            return str(options[1].description)
        ends = (("from", options[1].ge), ("to", options[1].le))  # above 0 needs no word: msgspec says it
        return " ".join([_words(options[0]), *(f"{word} {end}" for word, end in ends if end is not None)])
    if origin is Literal:
        return " or ".join(map(str, options))
    if _is_union(hint):
        return " or ".join(map(_words, options))
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return "a section with " + ", ".join(_fields(hint))
    return WORDS.get(origin or hint, "a value")


def _check(params: Params, path: Path, lines: Mapping[Key, int]) -> None:
    """Refuse what is well typed and makes no sense."""
    given = params.columns.split or isinstance(params.ingest.source, dict)
    parts = set(params.ingest.source if isinstance(params.ingest.source, dict) else ()) - {"train", "valid", "test"}
    own = {"random_state": "seed", "class_weight": "class_weight", "device": "device", "device_type": "device"}
    taken = next((name for name in params.train.params if name in own), None)
    split = params.prepare.split
    for wrong, what, fix, *key in (
        (params.task == "binary" and params.positive is None, "a binary task needs `positive`, the label whose probability is predicted", 'add for example  positive: "yes"', "task"),
        (params.task != "binary" and params.threshold != 0.5, f"a threshold means nothing for task: {params.task}", "set threshold: 0.5", "threshold"),
        (params.prepare.test + params.prepare.valid >= 1, "prepare.test and prepare.valid leave no rows to train on", "make their sum less than 1", "prepare", "test"),
        (split == "group" and not params.columns.group, "prepare.split: group needs columns.group", "name the column whose rows stay together", "prepare", "split"),
        (split == "time" and not params.columns.time, "prepare.split: time needs columns.time", "name the column", "prepare", "split"),
        (split == "given" and not given, "prepare.split: given needs columns.split, or ingest.source as {train: ..., test: ...}", "add one of them", "prepare", "split"),
        (split == "time" and params.evaluate.folds > 0, "folds of a split by time would predict the past from the future", "set evaluate.folds: 0", "evaluate", "folds"),
        (bool(parts), f"ingest.source has a part called {min(parts, default='')}", "allowed: train, valid, test", "ingest", "source"),
        (taken is not None, f"train.params.{taken} has a key of its own", f"set train.{own.get(taken or '')}", "train", "params", taken or ""),
    ):  # fmt: skip
        if wrong:
            raise Problem(what, f"{path}:{line_of(lines, tuple(key))}", fix)
    if params.tune:
        _check_tune(params.tune, params.evaluate.folds, path, lines)


def _check_tune(tune: Tune, folds: int, path: Path, lines: Mapping[Key, int]) -> None:
    """Refuse keys that change the rows on which trials are compared, and what is no list of different values, or no range."""

    def refuse(what: str, fix: str, *key: str) -> None:
        raise Problem(what, f"{path}:{line_of(lines, ('tune', *key))}", fix)

    if not (tune.grid or tune.space) or (tune.sampler == "grid" and not tune.grid):
        place = "sampler" if tune.space else "grid"
        refuse("tune.grid has nothing to try", "add for example  train.params.num_leaves: [15, 31]", place)
    if tune.objective == "folds" and folds < 2:
        refuse("tune.objective: folds has no folds", "set evaluate.folds: 5", "objective")
    for part, key, given in [("grid", *each) for each in tune.grid.items()] + [("space", *each) for each in tune.space.items()]:  # fmt: skip
        if key.split(".")[0] not in TUNABLE:
            refuse(f"tune.{part}: {key} cannot be tried", f"trials are compared on the same rows: keys begin with {', '.join(TUNABLE)}", part, key)  # fmt: skip
        if isinstance(given, Range):
            step = given.step
            for wrong, what, fix, *inner in (
                (given.low >= given.high, "low is not below high", "make high the larger", "low"),
                (given.log and given.low <= 0, "the logarithm needs low above 0", "raise low, or remove log", "low"),
                (given.log and step, "log and step exclude each other", "remove one of them", "step"),
                (given.whole and step and step != int(step), "whole numbers have a whole step", "write ends with a point, 1.0 for 1", "step"),
            ):  # fmt: skip
                if wrong:
                    refuse(f"tune.{part}.{key}: {what}", fix, part, key, *inner)
            continue
        if not isinstance(given, list) or not given:
            refuse(f"tune.{part}.{key} is no list of values", f"for example  {key}: [15, 31]", part, key)
        for number, value in enumerate(given):
            if value in given[:number]:
                refuse(f"tune.{part}.{key}: {value} stands there twice", "remove one of them", part, key, str(number))
