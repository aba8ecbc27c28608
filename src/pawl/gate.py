"""Decide whether a model may ship: gates.yaml against what was measured. Nothing here does I/O but `load`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pawl.config import Section, typed
from pawl.problem import Problem
from pawl.yamlfile import line_of, read_yaml

Verdict = Literal["pass", "fail", "skipped"]


class Rule(Section):
    """What one metric must keep to."""

    direction: Literal["higher", "lower"]  # which way is better
    floor: float | None = None
    ceiling: float | None = None


class Gates(Section):
    """gates.yaml."""

    version: Literal[1]
    metrics: dict[str, Rule]


class Judged(NamedTuple):
    """The verdict on one metric, and why."""

    metric: str
    verdict: Verdict
    reason: str


def load(path: Path) -> Gates:
    """Return the gates in `path`; raise Problem with file, line and what is allowed."""
    if not path.exists():
        raise Problem(f"{path} does not exist", path, "take it from version control: it says what may ship")
    values, lines = read_yaml(path)
    gates: Gates = typed(Gates, values, lines, path)
    for name, rule in gates.metrics.items():
        for limit in ("floor", "ceiling"):
            if not math.isfinite(getattr(rule, limit) or 0):
                where = f"{path}:{line_of(lines, ('metrics', name, limit))}"
                raise Problem(f"metrics.{name}.{limit} is not a number", where, "nothing is below .nan: write a number")
        if rule.floor is not None and rule.ceiling is not None and rule.floor > rule.ceiling:
            where = f"{path}:{line_of(lines, ('metrics', name, 'ceiling'))}"
            raise Problem(f"metrics.{name} passes no value", where, "its floor is above its ceiling: remove one")
    if not any(rule.floor is not None or rule.ceiling is not None for rule in gates.metrics.values()):
        raise Problem("it judges nothing", path, "give a metric a floor or a ceiling")
    return gates


def judge(measured: Mapping[str, float | None], gates: Gates) -> list[Judged]:
    """Return a verdict per metric of gates.yaml. What is missing, or is not a number, fails."""
    return [Judged(name, *_one(measured, name, rule)) for name, rule in gates.metrics.items()]


def overall(judged: list[Judged]) -> Verdict:
    """Return the verdict on the model: it passes if something was judged and nothing failed."""
    words = {each.verdict for each in judged}
    return "fail" if "fail" in words or "pass" not in words else "pass"


def _one(measured: Mapping[str, float | None], name: str, rule: Rule) -> tuple[Verdict, str]:
    if name not in measured:
        return "fail", "was not measured"
    value = measured[name]
    if value is None or not math.isfinite(value):
        return "fail", "is not a number"
    if rule.floor is not None and value < rule.floor:
        return "fail", f"below its floor {rule.floor:g}"
    if rule.ceiling is not None and value > rule.ceiling:
        return "fail", f"above its ceiling {rule.ceiling:g}"
    limits = [f"{sign} {limit:g}" for sign, limit in (("≥", rule.floor), ("≤", rule.ceiling)) if limit is not None]
    return ("pass", " and ".join(limits)) if limits else ("skipped", "no rule")
