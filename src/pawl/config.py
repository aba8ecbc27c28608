"""params.yaml, typed and frozen. A wrong key, type or value is refused with its line before any work."""

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from pawl.problem import Problem
from task.params import FeaturizeParams

TaskKind = Literal["binary", "multiclass", "regression"]
Share = typing.Annotated[float, msgspec.Meta(ge=0, le=1)]
EMPTY = {"task": "binary", "target": "<column>", "positive": "null", "threshold": "0.5"}
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
    beta: float = 1.0
    false_positive: float = 1.0
    false_negative: float = 1.0
    precision: Share = 0.8


class Task(Section):
    """What is predicted from what: the keys at the top of params.yaml."""

    task: TaskKind
    target: str
    positive: str | int | float | bool | None
    threshold: Share | ThresholdRule
    columns: Columns

    @property
    def positive_label(self) -> str:
        """Return `positive` as the table's cells are written: true, not True."""
        return str(self.positive).lower() if isinstance(self.positive, bool) else str(self.positive)

    @property
    def roles(self) -> frozenset[str]:
        """Return the columns that are not features."""
        named = (
            self.target,
            self.columns.id,
            self.columns.time,
            self.columns.group,
            self.columns.split,
            *self.columns.ignore,
        )
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


class Sample(Section):
    """The built-in generator."""

    rows: typing.Annotated[int, msgspec.Meta(ge=1)] = 20_000
    seed: Count = 0
    drift: Share = 0.0


class Sql(Section):
    """A query; the database's address comes from the environment: PAWL_SQL_URL."""

    query: Path = Path("query.sql")
    days: Count | None = None  # the window, for a query that uses :since and :until
    until: str | None = None  # its end, a date; today (UTC) when absent
    version: Path | None = None  # a cheap query whose result changes when the data does


class Ingest(Section):
    """Where the table comes from."""

    source: str | tuple[str, ...] | dict[str, str | tuple[str, ...]] = "sample"
    format: Literal["csv", "parquet"] | None = None
    digest: str | None = None
    replace: dict[str, dict[str, str]] = {}
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


class Evaluate(Section):
    """What is measured beside the metrics of the task."""

    slices: tuple[str, ...] = ()
    min_slice_rows: Count = 50
    folds: Count = 0
    bootstrap: typing.Annotated[int, msgspec.Meta(ge=20)] = 200


class Params(Task, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of params.yaml."""

    ingest: Ingest
    validate: Validate
    prepare: Prepare
    featurize: FeaturizeParams
    train: Train
    evaluate: Evaluate

    @property
    def problem(self) -> Task:
        """Return the keys at the top alone, so that a stage cannot read a section that is not its own."""
        return Task(**{name: getattr(self, name) for name in Task.__struct_fields__})


def load(path: Path) -> Params:
    """Return the parameters in `path`; raise Problem with file, line and what is allowed."""
    values, lines = read_yaml(path)
    _refuse_unknown(values, Params, (), path, lines)
    if absent := [name for name in _fields(Params) if name not in values]:
        # DVC stops at a parameter that it cannot find; all keys at the top are there, with {} or null where there is nothing to say.
        raise Problem(f"the key {absent[0]} is missing", path, f"add  {absent[0]}: {EMPTY.get(absent[0], '{}')}")
    try:
        params = msgspec.convert(values, Params, strict=True)
    except msgspec.ValidationError as error:
        # "Expected `str`, got `int` - at `$.columns.ignore[0]`", or "... - at `key` in `$.train.class_weight`"
        message, _, at = str(error).partition(" - at ")
        of_key, _, at = at.rpartition("`$.")
        key = tuple(re.sub(r"\[.*?\]", "", at.rstrip("`")).split(".")) if at else ()
        raise Problem(
            f"{'.'.join(key) or 'params'}: {'a key there: ' * bool(of_key)}{message[:1].lower()}{message[1:]}",
            f"{path}:{_line(lines, key)}",
            ("put the key in quotes" if of_key else _allowed(key))
            or "correct the value; README, Configuration, lists what each key takes",
        ) from error
    _check(params, path, lines)
    return params


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """Return a YAML file's mapping and the line of each key; refuse duplicate keys, which YAML readers drop silently."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
        values = yaml.load(text, Loader=yaml.CSafeLoader)
        keys = list(_keys(node, ()))
    except RecursionError as error:
        raise Problem("an alias (*) in the file holds itself", path, "write out what it stands for") from error
    except FileNotFoundError as error:
        raise Problem(
            f"{path} does not exist", Path.cwd(), "run from the project's root, or restore the file from git"
        ) from error
    except UnicodeDecodeError as error:
        raise Problem(f"{path} is not UTF-8: {error.reason} at byte {error.start}", path, "save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise Problem(
            f"not valid YAML: {getattr(error, 'problem', error)}",
            where,
            "correct the line; indentation is two spaces, strings with : or # are quoted",
        ) from error
    if not isinstance(values, dict):
        raise Problem("the file holds no mapping", path, "restore it from git")
    lines: dict[tuple[str, ...], int] = {}
    for key, line in keys:
        if key in lines:
            raise Problem(
                f"{'.'.join(key)} stands there twice (first on line {lines[key]})",
                f"{path}:{line}",
                "remove one of them",
            )
        lines[key] = line
    return values, lines


def _keys(node: Any, prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            key = (*prefix, str(name.value))
            yield key, name.start_mark.line + 1
            yield from _keys(value, key)


def _line(lines: Mapping[tuple[str, ...], int], key: tuple[str, ...]) -> int:
    return next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), 1)


def _section(annotation: Any) -> Any:
    """Return the struct in an annotation such as `float | ThresholdRule`, if there is one."""
    options = (
        typing.get_args(annotation)
        if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
        else (annotation,)
    )
    return next((option for option in options if isinstance(option, type) and issubclass(option, msgspec.Struct)), None)


def _fields(section: Any) -> dict[str, Any]:
    return {
        name: hint
        for name, hint in typing.get_type_hints(section, include_extras=True).items()
        if not name.startswith("_")
    }


def _refuse_unknown(
    values: Mapping[str, Any], section: Any, prefix: tuple[str, ...], path: Path, lines: Mapping[tuple[str, ...], int]
) -> None:
    fields = _fields(section)
    for name, value in values.items():
        key = (*prefix, str(name))
        if name not in fields:
            refuse_name(".".join(key), str(name), list(fields), where=f"{path}:{_line(lines, key)}")
        inner = _section(fields[name])
        if inner is not None and isinstance(value, dict):
            _refuse_unknown(value, inner, key, path, lines)


def refuse_name(label: str, name: str, allowed: list[str], *, where: str) -> None:
    """Raise Problem for a name that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise Problem(f"{label} is not a known name", where, f"{hint}allowed: {', '.join(sorted(allowed))}")


def _allowed(key: tuple[str, ...]) -> str:
    """Say what the key takes, from the annotations above."""
    hint: Any = Params
    for part in key:
        section = _section(hint)
        if section is None or part not in _fields(section):
            break
        hint = _fields(section)[part]
    if hint is Params:
        return ""
    return "allowed: " + str(
        msgspec.json.encode(msgspec.json.schema(hint).get("enum")).decode()
        if typing.get_origin(hint) is Literal
        else _words(hint)
    )


def _words(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        base, meta = typing.get_args(hint)[:2]
        low = f" from {meta.ge}" if meta.ge is not None else ""
        return _words(base) + low + (f" to {meta.le}" if meta.le is not None else "")
    if origin is Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if origin is typing.Union or isinstance(hint, types.UnionType):
        return " or ".join(_words(option) for option in typing.get_args(hint))
    names = {
        str: "a text",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        type(None): "nothing",
        tuple: "a list",
        dict: "a mapping",
    }
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return "a section with " + ", ".join(_fields(hint))
    return names.get(origin or hint, "a value")


def _check(params: Params, path: Path, lines: Mapping[tuple[str, ...], int]) -> None:
    """Refuse what is well typed and makes no sense."""

    def refuse(what: str, fix: str, *key: str) -> None:
        raise Problem(what, f"{path}:{_line(lines, key)}", fix)

    if params.task == "binary" and params.positive is None:
        refuse(
            "a binary task needs `positive`, the label whose probability is predicted",
            'add for example  positive: "yes"',
            "task",
        )
    if params.task != "binary" and params.threshold != 0.5:
        refuse(f"a threshold means nothing for task: {params.task}", "set threshold: 0.5", "threshold")
    if params.prepare.test + params.prepare.valid >= 1:
        refuse(
            "prepare.test and prepare.valid leave no rows to train on", "make their sum less than 1", "prepare", "test"
        )
    if params.prepare.split == "group" and not params.columns.group:
        refuse(
            "prepare.split: group needs columns.group", "name the column whose rows stay together", "prepare", "split"
        )
    if params.prepare.split == "time" and not params.columns.time:
        refuse("prepare.split: time needs columns.time", "name the column", "prepare", "split")
    if params.prepare.split == "given" and not params.columns.split and not isinstance(params.ingest.source, dict):
        refuse(
            "prepare.split: given needs columns.split, or ingest.source as {train: ..., test: ...}",
            "add one of them",
            "prepare",
            "split",
        )
    if isinstance(params.ingest.source, dict) and (unknown := set(params.ingest.source) - {"train", "valid", "test"}):
        refuse(f"ingest.source has a part called {min(unknown)}", "allowed: train, valid, test", "ingest", "source")
    for key in params.train.params:
        if key in {"random_state", "class_weight", "device", "device_type"}:
            refuse(
                f"train.params.{key} has a key of its own",
                {"random_state": "set train.seed", "class_weight": "set train.class_weight"}.get(
                    key, "set train.device"
                ),
                "train",
                "params",
                key,
            )
