"""The first configuration for a table: what its columns look like decides task, roles, split, metrics and limits, each with its reason. Pure."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pawl.config import TaskKind
from pawl.problem import Problem
from pawl.schema import named

FEWEST = 50  # rows of a table: with fewer no split has a meaning
FEW_OF_CLASS = 10  # rows of a class: one with fewer can neither be learned nor measured
MOST_CLASSES = 200
COUNTED = 20  # a whole-number target with more values than this is a quantity, not a class
LEAK = 0.99  # as validate.max_leakage
TUNED = {"binary": "roc_auc", "multiclass": "log_loss", "regression": "mae"}
RARE = 0.2  # a smaller share of positives is imbalance
IDS = {"id", "ids", "uuid", "guid", "key", "nr", "no", "number", "index", "idx", "row", "rowid", "rownum"}
GROUPS = {"id", "uuid", "customer", "client", "patient", "user", "account", "household", "session", "device", "person", "subject", "group", "member"}  # fmt: skip
TIMES = {"date", "time", "timestamp", "datetime", "day", "month", "week", "year", "quarter", "period", "created", "ordered", "at", "on", "ts"}  # fmt: skip
PAST = {"birth", "birthday", "birthdate", "dob", "born"}
SPLIT = {"train", "valid", "test"}
YES = {"yes", "y", "true", "t", "1", "1.0", "positive", "pos", "bad", "churned", "fraud", "default", "event", "case"}
GROUPED = {"sex", "gender", "region", "country", "segment", "plan", "channel", "age_group", "ethnicity", "race"}


Tell = Callable[[str, str, str], None]  # what, value, why


class Column(NamedTuple):
    """What one column holds."""

    name: str
    dtype: str  # of schema.yaml, as it is inferred
    rows: int
    missing: int = 0
    distinct: int = 2
    counts: Mapping[str, int] = {}  # rows of each value, where there are few
    whole: bool = False  # numbers without a fraction
    running: bool = False  # whole numbers that count through
    odd: tuple[str, ...] = ()  # the few cells among numbers that are none
    power: float = 0.0  # how well it predicts the target by itself: AUC, R2
    borders: tuple[str, str] | None = None  # two times that give three parts in which every class stands
    center: float = 0.0  # the median of numbers
    spread: float = 0.0  # the mean distance from it
    scatter: float = 0.0  # the standard deviation of that distance
    skew: float = 0.0

    @property
    def words(self) -> set[str]:
        """Return the words in its name: CustomerID has customer and id."""
        parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", self.name)
        return set(re.sub(r"[\W_]+", " ", parted).lower().split()) | {re.sub(r"\W+", "_", self.name).lower()}


class Said(NamedTuple):
    """A decision, and its reason."""

    what: str
    value: str
    why: str


class Plan(NamedTuple):
    """What to write, and why."""

    params: dict[str, Any]  # params.yaml, without where the table comes from
    gates: dict[str, Any]  # gates.yaml
    dtypes: dict[str, str]  # where another is right than the inferred one
    said: list[Said]


def decide(columns: Sequence[Column], target: str, where: str, task: TaskKind | None = None) -> Plan:
    """Return what to write for these columns; raise Problem where no model of the target can be made. where: the table, for its messages."""
    said: list[Said] = []

    def tell(what: str, value: str, why: str) -> None:
        said.append(Said(what, value, why))

    known = next(each for each in columns if each.name == target)
    kind, counts, without = _task(known, where, task, tell)
    replace = {each.name: dict.fromkeys(each.odd) for each in columns if each.odd and each.name != target}
    for name, tokens in replace.items():
        tell("missing", f"{listed(tokens)} in {name}", "all its other cells are numbers")
    if without:
        replace[target] = dict.fromkeys(without)
    rows = sum(counts.values()) or known.rows - known.missing
    positive, threshold = _positive(counts, tell) if kind == "binary" else (None, 0.5)

    roles, ignored, dtypes = _roles([each for each in columns if each.name != target], kind, tell)
    left = [each for each in columns if each.name not in {target, *roles.values(), *ignored}]
    for dtype, cause in (
        ("datetime", "dates"),
        ("text", f"free text, codes, or dates that are not written 2025-12-31: more than {MOST_CLASSES} values"),
    ):
        if names := [each.name for each in left if dtypes.get(each.name, each.dtype) == dtype]:
            tell("no feature", listed(names), f"{cause}; src/task/data.py can make some of them")
    features = [each for each in left if dtypes.get(each.name, each.dtype) not in {"text", "datetime"}]
    if not features:
        raise Problem("no column is left to learn from", where, "bring columns of numbers or of categories")

    small = rows < 1000
    split = _split(roles, next((each for each in columns if each.name == roles.get("time")), None), rows, tell)
    asked = max(int(rows * split["test"]), 1)  # test rows, about
    slices = _slices(features, asked, 20 if small else 50)
    if slices:
        tell("slices", listed(slices), "few values, each with rows enough; `public` in schema.yaml shows them by name")
    gates = gates_of(kind, counts, positive, known, asked)
    first, rule = next((name, each) for name, each in gates.items() if {"floor", "ceiling"} & set(each))
    limit = f"≥ {rule['floor']:g}" if "floor" in rule else f"≤ {rule['ceiling']:g}"
    tell("gates", listed(name for name in gates if name != "model_bytes"), f"{first} {limit} needs no model; raise it once you know yours")  # fmt: skip
    if kind == "regression" and abs(known.skew) > 2:
        tell("skewed", target, f"skewness {known.skew:.1f}: few large values rule rmse and r2, mae says more")
    leaves = [3, 7, 15] if small else [7, 15, 31]
    tried = {
        "n_estimators": 300 if small or len(counts) > COUNTED else 1000,
        "learning_rate": 0.05,
        "num_leaves": leaves[1],
    }
    tried |= {"min_child_samples": 5 if small else 20 if rows < 10_000 else 40, "colsample_bytree": 0.7}
    least = {"min_class_rows": min(20, min(counts.values()) // 2)} if counts else {}
    params: dict[str, Any] = {
        "task": kind, "target": target, "positive": positive, "threshold": threshold,
        "columns": {**roles, **({"ignore": ignored} if ignored else {})},
        "ingest": {"replace": replace} if replace else {},
        "validate": {"min_rows": rounded(known.rows / 2), **least},
        "prepare": {**split, **({"drop_missing": [target]} if known.missing or without else {})},
        "featurize": {"min_category_rows": 5 if small else 20},
        "train": {"model": f"lightgbm.LGBM{'Regressor' if kind == 'regression' else 'Classifier'}", "params": tried, "early_stopping": 50, "device": "cpu", "seed": 0},
        "evaluate": {"slices": slices, "min_slice_rows": 20 if small else 50},
        "tune": {"metric": TUNED[kind], "grid": {"train.params.num_leaves": leaves, "train.params.learning_rate": [0.03, 0.05, 0.1]}},
        "drift": {"effect": 0.1, "max_loss": 0.05, "min_rows": min(1000, max(50, rounded(asked / 2)))},
    }  # fmt: skip
    judged: dict[str, Any] = {"version": 1, "metrics": gates}
    if slices and asked >= 1000:
        rule = {"direction": "lower", "max_regression": "10%"}
        judged["slices"] = [
            {"by": slices, "min_rows": 200, "metrics": {"mae" if kind == "regression" else "log_loss": rule}}
        ]
    if asked < 400:
        judged["baseline"] = {"min_rows": max(10, asked // 2)}
    return Plan(params, judged, dtypes, said)


def _task(target: Column, where: str, task: TaskKind | None, tell: Tell) -> tuple[TaskKind, dict[str, int], list[str]]:
    """Return the kind of task, the rows of each label (of a regression none), and the labels or cells whose rows are left out."""
    name, rows = target.name, target.rows - target.missing
    if rows < FEWEST:
        what = f"{rows} rows have a {name}, and {FEWEST} are the fewest that can be split and measured"
        raise Problem(what, where, "bring more rows")
    if target.distinct < 2:
        raise Problem(f"{name} is {next(iter(target.counts), 'the same')} in all {rows:,} rows: there is nothing to learn", where, "name another TARGET, or bring rows of another kind")  # fmt: skip
    kind, why = (task, "as you say") if task else kind_of(target)
    counts = {label: count for label, count in target.counts.items() if count >= FEW_OF_CLASS}
    without, cause = [label for label in target.counts if label not in counts], f"fewer than {FEW_OF_CLASS} rows are too few to learn or to measure"  # fmt: skip
    if kind == "regression":
        if target.dtype not in {"integer", "number"}:
            raise Problem(f"{name} holds no numbers, which a regression predicts", where, "take --task binary or multiclass")  # fmt: skip
        counts, without, cause = {}, list(target.odd), "these are no numbers"
    elif target.distinct > MOST_CLASSES:
        what = f"{name} has {target.distinct:,} different values, and {MOST_CLASSES} classes are the most"
        raise Problem(what, where, "name another TARGET, or merge its labels in the table")
    elif len(counts) < 2:
        shown = listed(f"{label} {count}" for label, count in target.counts.items())
        what = f"{name} needs two labels with {FEW_OF_CLASS} rows or more; it has {shown}"
        raise Problem(what, where, "bring rows of another label, or name another TARGET")
    elif kind == "multiclass" and len(counts) == 2 and not task:
        kind, why = "binary", "two of its labels have rows enough"
    elif kind == "binary" and len(counts) > 2:
        raise Problem(f"{name} has {len(counts)} labels, and a binary task has two", where, "take --task multiclass")
    tell("task", kind, why)
    if without:
        tell("left out", f"the rows whose {name} is {listed(without)}", cause)
    if target.missing:
        tell("left out", f"{target.missing:,} rows without {name}", "nothing can be learned from them")
    return kind, counts, without


def _positive(counts: Mapping[str, int], tell: Tell) -> tuple[str, Any]:
    """Return the positive label and the threshold of a binary task."""
    positive = positive_of(counts)
    reason = "by its name" if positive.lower() in YES else "the rarer label"
    tell("positive", positive, f"{reason}; its probability is predicted")
    share = counts[positive] / sum(counts.values())
    if share >= RARE:
        return positive, 0.5
    tell("threshold", "the best F1 on the validation rows", f"of {share:.1%}, 0.5 would find hardly any")
    return positive, {"rule": "f_beta", "beta": 1}


def _split(roles: Mapping[str, str], time: Column | None, rows: int, tell: Tell) -> dict[str, Any]:
    """Return the section `prepare`."""
    test, valid = (0.3, 0.2) if rows < 1000 else (0.2, 0.1)
    split: dict[str, Any] = {"split": "random", "test": test, "valid": valid, "seed": 0}
    why = f"{test:.0%} test, {valid:.0%} validation{', as the table is small' if rows < 1000 else ''}"
    if "split" in roles:
        split["split"], why = "given", f"{roles['split']} says train or test"
    elif "group" in roles:
        split["split"], why = "group", f"the rows of one {roles['group']} stay together, or the model is asked about whom it knows"  # fmt: skip
    elif time and time.borders and rows >= 1000:
        split |= {"split": "time", "valid_from": time.borders[0], "test_from": time.borders[1]}
        why = f"it is asked about what comes later, as in production: test from {time.borders[1][:10]}"
    tell("split", split["split"], why)
    return split


def kind_of(target: Column) -> tuple[TaskKind, str]:
    """Return the kind of task, and why."""
    number = target.dtype in {"integer", "number"}
    if target.distinct <= 2 and not target.odd:
        return "binary", f"{target.name} has two values"
    if number and (target.distinct > COUNTED or not target.whole):
        return "regression", f"{target.name} is a number with {target.distinct:,} values"
    if number:
        return "multiclass", f"{target.name} has {target.distinct} whole values: --task regression takes them as a quantity"  # fmt: skip
    return "multiclass", f"{target.name} has {target.distinct:,} labels"


def positive_of(counts: Mapping[str, int]) -> str:
    """Return the label whose probability people mean: yes, true, 1; else the rarer one."""
    said = [label for label in counts if label.strip().lower() in YES]
    return said[0] if len(said) == 1 else min(counts, key=lambda label: (counts[label], label))


def gates_of(
    kind: str, counts: Mapping[str, int], positive: str | None, target: Column, asked: int
) -> dict[str, dict[str, Any]]:
    """Return the rules of gates.yaml: floors are what needs no model (the most frequent class, the shares, the median), less what chance does to so many test rows."""
    close = asked >= 2000
    size = {"model_bytes": {"direction": "lower", "max_regression": "400%"}}
    higher = {"direction": "higher"}
    if kind == "regression":
        half = 1.96 * target.scatter / math.sqrt(asked)
        return {
            "r2": {**higher, "floor": 0.0, "max_regression": 0.01 if close else 0.02},
            "mae": {"direction": "lower", "ceiling": _up(target.spread + half), "max_regression": "2%" if close else "5%"},
            "rmse": {"direction": "lower", "max_regression": "2%" if close else "5%"}, **size,
        }  # fmt: skip
    rows = sum(counts.values())
    shares = [count / rows for count in counts.values()]
    entropy = -sum(share * math.log(share) for share in shares)
    apart = math.sqrt(max(sum(share * math.log(share) ** 2 for share in shares) - entropy**2, 0.0))
    most = max(shares)
    floor = most - 1.96 * math.sqrt(most * (1 - most) / asked)
    auc = {"roc_auc": {**higher, "floor": 0.5, "max_regression": 0.005 if close else 0.01}}
    accuracy = {"accuracy": {**higher, "floor": _down(floor), "max_regression": 0.01 if close else 0.02}}
    ranked = min(counts.values()) >= 25  # with fewer, a test split may lack the class, and the area is not defined
    loss: dict[str, Any] = {"direction": "lower", "max_regression": "2%" if close else "5%"}
    if asked >= 200 or not ranked:
        loss = {"direction": "lower", "ceiling": _up(entropy + 1.96 * apart / math.sqrt(asked)), "max_regression": loss["max_regression"]}  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    if kind == "binary":
        share = counts[str(positive)] / rows
        rare = {"average_precision": {**higher, "floor": _down(share), "max_regression": 0.02}}
        found = {**auc, **(rare if share < RARE else accuracy)} if ranked else {} if share < RARE else accuracy
    else:
        found = {**accuracy, "f1_macro": {**higher, "max_regression": 0.02}, **(auc if ranked else {})}
    return {**found, "log_loss": loss, **size}


def listed(names: Iterable[Any], most: int = 6) -> str:
    """Return names in a line."""
    found = [str(name) or "''" for name in names]
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def rounded(value: float) -> int:
    """Return a number with two digits that count, rounded down."""
    step: int = 10 ** max(len(str(int(value))) - 2, 0)
    return int(value) // step * step


def _roles(columns: Sequence[Column], kind: str, tell: Tell) -> tuple[dict[str, str], list[str], dict[str, str]]:  # fmt: skip
    """Return the columns with a role, those to ignore, and those whose dtype is another than it looks."""
    roles: dict[str, str] = {}
    ignored: list[str] = []
    dtypes: dict[str, str] = {}
    found: dict[str, list[str]] = {}
    various = [each for each in columns if each.distinct > 1]
    single = [each for each in various if each.distinct == each.rows and each.dtype in {"integer", "text", "category"}]
    keys = [each for each in single if each.words & IDS or (each.running and each.name == columns[0].name)]
    if keys:
        roles["id"] = keys[0].name
        tell("id", keys[0].name, "another value in every row")
    several = [
        each for each in various
        if each.words & GROUPS and each.dtype not in {"number", "datetime"} and not each.missing
        and max(FEWEST, each.rows / 50) <= each.distinct < each.rows
    ]  # fmt: skip
    if several:
        group = max(several, key=lambda each: each.distinct)
        roles["group"] = group.name
        tell("group", group.name, f"{group.rows / group.distinct:.1f} rows of each of {group.distinct:,}")
    times = [each for each in various if each.borders and each.words & TIMES and not each.words & PAST]
    if times:
        roles["time"] = times[0].name
        tell("time", times[0].name, "says when")
    for each in columns:
        if each.name in roles.values():
            continue
        if set(each.counts) <= SPLIT and {"train", "test"} <= set(each.counts) and "split" not in roles:
            roles["split"] = each.name
        elif each.distinct < 2:
            ignored.append(each.name)
            found.setdefault("all cells are the same" if each.distinct else "empty", []).append(each.name)
        elif each in single and (each.words & IDS or each.dtype != "integer"):
            ignored.append(each.name)
            found.setdefault("another value in every row", []).append(each.name)
        elif not named(each.name):
            ignored.append(each.name)
            found.setdefault(
                "a quote, a backslash or a line's end in its name cannot be asked for: rename it", []
            ).append(each.name)
        elif each.power >= LEAK:
            ignored.append(each.name)
            how = f"predicts {'the value' if kind == 'regression' else 'the label'} almost perfectly by itself ({each.power:.3f}): does it hold the answer?"  # fmt: skip
            found.setdefault(f"{how} If not: validate.allow_leakage", []).append(each.name)
        elif each.dtype == "integer" and each.words & IDS and each.distinct <= MOST_CLASSES:
            dtypes[each.name] = "category"
            tell("category", each.name, "its numbers name things, and measure nothing")
        elif each.dtype == "integer" and each.words & IDS:
            ignored.append(each.name)
            found.setdefault("its numbers name things, too many to learn", []).append(each.name)
    for cause, names in found.items():
        tell("ignored", listed(names), cause)
    return roles, ignored, dtypes


def _slices(features: Sequence[Column], asked: int, least: int) -> list[str]:
    """Return at most two columns whose groups have rows enough in the test split."""
    fit = [
        each for each in features
        if each.dtype == "category" and 2 <= len(each.counts) <= 8 and not each.odd
        and min(each.counts.values()) / each.rows * asked >= least
    ]  # fmt: skip
    return [each.name for each in sorted(fit, key=lambda each: not each.words & GROUPED)][:2]


def _down(value: float) -> float:
    return max(math.floor(value * 1000) / 1000, 0.0)


def _up(value: float) -> float:
    scale: float = 10.0 ** (2 - math.floor(math.log10(value))) if value > 0 else 1.0
    return math.ceil(value * scale) / scale
