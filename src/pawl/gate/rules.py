"""gates.yaml, typed and frozen: what may ship. A wrong key, type or value is refused with its line."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NoReturn

import msgspec

from pawl import paths
from pawl.answers import hidden
from pawl.config import Count, Positive, Section, typed
from pawl.problem import Problem
from pawl.yamlfile import Key, line_of, read_yaml, refuse_name

Percent = Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)?%\Z", description="a percentage such as 5%")]
AtLeastZero = Annotated[float, msgspec.Meta(ge=0)]
Confidence = Annotated[float, msgspec.Meta(ge=0.5, lt=1)]
Method = Literal["delong", "mcnemar", "paired_t", "bootstrap"]
Level = Literal["error", "warn", "info"]
SIZE = "model_bytes"  # of the bundle; known exactly, so that no test is needed
# Which way is better, for what the pipeline measures itself.
HIGHER = frozenset((
    "accuracy", "balanced_accuracy", "precision", "recall", "f1", "f1_macro", "f1_weighted", "precision_macro", "recall_macro",
    "roc_auc", "average_precision", "r2",
))  # fmt: skip
LOWER = frozenset(("log_loss", "brier", "ece", "mae", "rmse", "median_ae", SIZE))
METHODS: Mapping[str, Method] = {"roc_auc": "delong", "accuracy": "mcnemar", **dict.fromkeys(("log_loss", "brier", "mae", "rmse", "r2"), "paired_t")}  # fmt: skip


class Rule(Section):
    """What one metric must keep to. Without a limit it is shown, and judges nothing."""

    direction: Literal["higher", "lower"]  # which way is better
    floor: float | None = None
    ceiling: float | None = None
    max_regression: AtLeastZero | Percent | None = None  # how much worse than the baseline; N% of its value
    max_gap: Positive | None = None  # how much better on the training split than on the validation split
    method: Method | None = None  # of the test against the baseline; the metric's own without
    level: Level = "error"  # error blocks, warn warns, info is shown

    @property
    def sign(self) -> int:
        """Return 1 if higher is better, -1 if lower is."""
        return 1 if self.direction == "higher" else -1

    def allowance(self, baseline: float) -> float:
        """Return how much worse a model may be, in the metric's unit."""
        assert self.max_regression is not None
        if isinstance(self.max_regression, str):
            return abs(baseline) * float(self.max_regression.rstrip("%")) / 100
        return self.max_regression


class SliceRules(Section):
    """Rules for each slice of some columns."""

    by: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    metrics: dict[str, Rule]
    min_rows: Annotated[int, msgspec.Meta(ge=1)] = 200  # a smaller slice is shown, not judged
    required: tuple[str, ...] = ()  # slices that must be there, such as sex=Female


class Baseline(Section):
    """What a candidate is compared with."""

    min_rows: Annotated[int, msgspec.Meta(ge=2)] = 200  # test rows that both models must share
    ancestors: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 20  # how far back a passing commit of main may be
    high_water: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 50  # commits of main whose best is the mark; 0: none
    predictions: Count = 50_000  # rows of each model that the ledger keeps; 0: none
    if_missing: Literal["skip", "fail"] = "skip"  # there has never been one
    if_not_comparable: Literal["fail", "skip"] = "fail"  # there is one, and it cannot be compared


class Waiver(Section):
    """A rule that may be broken for a while."""

    rule: str  # roc_auc, roc_auc[sex=Female], or * for all
    reason: str
    until: str  # a date


class Gates(Section):
    """gates.yaml."""

    version: Literal[1]
    metrics: dict[str, Rule]
    mode: Literal["enforce", "report"] = "enforce"  # report: says what it would do, and blocks nothing
    strict: bool = False  # inconclusive blocks too
    confidence: Confidence = 0.95  # that nothing harmless is blocked, over all rules together
    baseline: Baseline = Baseline()
    slices: tuple[SliceRules, ...] = ()
    waivers: tuple[Waiver, ...] = ()

    def waiver(self, rule: str, today: date) -> Waiver | None:
        """Return the waiver of a rule that still holds."""
        held = (each for each in self.waivers if date.fromisoformat(each.until) >= today)
        return next((each for each in held if waives(each.rule, rule)), None)

    def sign(self, metric: str) -> int:
        """Return 1 if higher is better, -1 if lower is; 0 of a metric of the task's own that has no rule."""
        rule = self.metrics.get(metric)
        return rule.sign if rule else (metric in HIGHER) - (metric in LOWER)

    def watched(self, wanted: str | None, known: Collection[str]) -> tuple[str, int]:
        """Return the metric that production is judged by, drift.metric or the first of these rules that is known, and its sign."""
        metric = wanted or next((name for name in self.metrics if name in known), next(iter(known), ""))
        if metric not in known:
            refuse_name(f"drift.metric: {metric}", metric, list(known), where=str(paths.PARAMS))
        if not (sign := self.sign(metric)):
            raise Problem(f"it is not known which {metric} is better", paths.GATES, "give it a direction there")
        return metric, sign


class Named(NamedTuple):
    """A rule with the metric and the slices it is for."""

    key: Key  # where it stands in the file
    metric: str
    rule: Rule
    of: SliceRules | None


def named(gates: Gates) -> Iterator[Named]:
    """Yield every rule, in the order of the file."""
    for metric, rule in gates.metrics.items():
        yield Named(("metrics", metric), metric, rule, None)
    for number, part in enumerate(gates.slices):
        for metric, rule in part.metrics.items():
            yield Named(("slices", str(number), "metrics", metric), metric, rule, part)


def waives(waiver: str, rule: str) -> bool:
    """Say whether a waiver of that name is for a rule; the cell value in the rule's name may be hidden."""
    metric, _, name = waiver.removesuffix("]").partition("[")
    return waiver in {rule, "*"} or (bool(name) and f"{metric}[{hidden(name)}]" == rule)


def load(path: Path) -> Gates:
    """Return the gates in `path`; raise Problem with file, line and what is allowed."""
    if not path.exists():
        raise Problem(f"{path} does not exist", path, "take it from version control: it says what may ship")
    values, lines = read_yaml(path)
    for name, kind in (("slices", SliceRules), ("waivers", Waiver)):  # so that a mistake in a list has its line
        for number, part in enumerate(values[name]) if isinstance(values.get(name), list) else ():
            typed(kind, part, lines, path, (name, str(number)))
    gates: Gates = typed(Gates, values, lines, path)

    def refuse(what: str, key: Key, fix: str) -> NoReturn:
        raise Problem(what, f"{path}:{line_of(lines, key)}", fix)

    seen = set[tuple[str, str]]()
    for each in named(gates):
        _check(each, refuse)
        for by in each.of.by if each.of else ():
            if (each.metric, by) in seen:  # it would be tested twice, and the rules could differ
                taken = f"slices of {by} have a rule for {each.metric} already"
                refuse(f"{'.'.join(each.key)}: {taken}", each.key, "remove one")
            seen.add((each.metric, by))
    for number, waiver in enumerate(gates.waivers):
        key = ("waivers", str(number))
        try:
            date.fromisoformat(waiver.until)
        except ValueError:
            refuse(f"waivers: {waiver.until} is no date", (*key, "until"), 'write  until: "2026-12-31"')
        if len(waiver.reason) < 10:
            fix = "say in ten letters or more why it may be broken"
            refuse(f"waivers: {waiver.reason!r} is no reason", (*key, "reason"), fix)
        metric, bracket, name = waiver.rule.partition("[")
        columns = {by for each in named(gates) if each.metric == metric and each.of for by in each.of.by}
        of_slice = name.endswith("]") and name.removesuffix("]").partition("=")[0] in columns
        if waiver.rule != "*" and not (of_slice if bracket else metric in gates.metrics):
            fix = "name a metric, metric[column=value], or *"
            refuse(f"waivers: there is no rule {waiver.rule}", (*key, "rule"), fix)
    if not any(judges(each.rule) for each in named(gates)):
        raise Problem("it judges nothing", path, "give a metric a floor, a ceiling or a max_regression")
    first = [each.rule for each in named(gates) if each.rule.level == "error" and not each.of]
    if gates.mode == "enforce" and all(rule.floor is None and rule.ceiling is None for rule in first):
        fix = "give a metric a floor or a ceiling: the first model has nothing to be compared with"
        raise Problem("no rule that blocks judges a first model", path, fix)
    return gates


def judges(rule: Rule) -> bool:
    """Say whether a rule has a limit."""
    return any(limit is not None for limit in (rule.floor, rule.ceiling, rule.max_regression, rule.max_gap))


def _check(each: Named, refuse: Callable[[str, Key, str], NoReturn]) -> None:
    """Refuse a rule that contradicts itself or what is known of its metric."""
    name, rule, metric = ".".join(each.key), each.rule, each.metric
    for limit in ("floor", "ceiling", "max_regression", "max_gap"):
        value: Any = getattr(rule, limit)
        if isinstance(value, float) and not math.isfinite(value):
            refuse(f"{name}.{limit} is not a number", (*each.key, limit), "nothing is below .nan: write a number")
    if rule.floor is not None and rule.ceiling is not None and rule.floor > rule.ceiling:
        fix = "its floor is above its ceiling: remove one"
        refuse(f"{name} passes no value", (*each.key, "ceiling"), fix)
    better = "higher" if metric in HIGHER else "lower" if metric in LOWER else rule.direction
    if rule.direction != better:
        fix = f"of {metric}, {better} is better: direction: {better}"
        refuse(f"{name}.direction is {rule.direction}", (*each.key, "direction"), fix)
    tests = dict.fromkeys((METHODS.get(metric, "bootstrap"), "bootstrap")) if metric != SIZE else {}
    if rule.method and rule.method not in tests:
        fix = f"allowed: {', '.join(tests)}" if tests else "remove it: a size is known exactly"
        refuse(f"{name}.method: {rule.method} is no test of {metric}", (*each.key, "method"), fix)
    if each.of and (rule.max_gap is not None or metric == SIZE):
        what = f"{name}{'' if metric == SIZE else '.max_gap'} has no meaning in a slice"
        refuse(what, (*each.key, "max_gap"), "move it to metrics")
