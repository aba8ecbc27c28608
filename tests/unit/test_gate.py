import math
from pathlib import Path

import pytest

from pawl import gate
from pawl.gate import Gates, Judged, Rule
from pawl.problem import Problem

ROOT = Path(__file__).parents[2]
SHIPPED = """\
version: 1
metrics:
  roc_auc: {direction: higher, floor: 0.88}
  log_loss:
    direction: lower
    ceiling: 0.36
"""


def load(tmp_path, text):
    path = tmp_path / "gates.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return gate.load(path)


def only(rule, value, name="m"):
    """Return the verdict of one rule on one value."""
    [judged] = gate.judge({name: value}, Gates(version=1, metrics={"m": rule}))
    return judged


# (what stands in gates.yaml, what it becomes, the line that is named, what the problem says, its fix)
WRONG = {
    "a misspelt key": ("floor: 0.88", "flor: 0.88", 3, "metrics.roc_auc.flor is not a known name", "did you mean floor?"),
    "a misspelt key on a line of its own": ("    ceiling: 0.36", "    celing: 0.36", 6, "metrics.log_loss.celing is not", "did you mean ceiling?"),
    "a key like no other": ("floor: 0.88", "qqq: 0.88", 3, "metrics.roc_auc.qqq is not", "allowed: ceiling, direction, floor"),
    "a misspelt key at the top": ("metrics:", "metric:", 2, "metric is not a known name", "did you mean metrics?"),
    "a second key at the top": ("version: 1", "version: 1\nstrict: true", 2, "strict is not a known name", "allowed: metrics, version"),
    "a key that stands twice": ("floor: 0.88", "floor: 0.88, floor: 0.1", 3, "metrics.roc_auc.floor stands there twice", "remove one"),
    "a metric that stands twice": ("  log_loss:", "  roc_auc:", 4, "metrics.roc_auc stands there twice (first on line 3)", "remove one"),
    "a limit that is no number": ("floor: 0.88", "floor: .nan", 3, "metrics.roc_auc", "write a number"),
    "a limit that nothing reaches": ("    ceiling: 0.36", "    ceiling: .inf", 6, "metrics.log_loss", "write a number"),
    "a limit below everything": ("floor: 0.88", "floor: -.inf", 3, "metrics.roc_auc", "write a number"),
    "a word for a limit": ("    ceiling: 0.36", "    ceiling: low", 6, "metrics.log_loss.ceiling: expected `float | null`, got `str`", "allowed: "),
    "a number that YAML reads as a word": ("    ceiling: 0.36", "    ceiling: 1e-3", 6, "got `str`", "allowed: "),
    "true for a limit": ("floor: 0.88", "floor: true", 3, "metrics.roc_auc.floor: expected `float | null`, got `bool`", "allowed: "),
    "a list for a limit": ("floor: 0.88", "floor: [0.88]", 3, "metrics.roc_auc.floor: expected", "allowed: "),
    "another direction": ("direction: lower", "direction: down", 5, "metrics.log_loss.direction: invalid enum value 'down'", "allowed: "),
    "no direction": ("direction: higher, floor", "floor", 3, "metrics.roc_auc: object missing required field `direction`", "allowed: "),
    "a limit for a rule": ("{direction: higher, floor: 0.88}", "0.88", 3, "metrics.roc_auc: expected `object`, got `float`", "allowed: "),
    "a word for a rule": ("{direction: higher, floor: 0.88}", "high", 3, "metrics.roc_auc: expected `object`, got `str`", "allowed: "),
    "a list for a rule": ("{direction: higher, floor: 0.88}", "[floor, 0.88]", 3, "metrics.roc_auc: expected `object`", "allowed: "),
    "nothing for a rule": ("{direction: higher, floor: 0.88}", "", 3, "metrics.roc_auc: expected `object`, got `null`", "allowed: "),
    "a number for a metric": ("  roc_auc:", "  1:", 2, "metrics: a key there: expected `str`, got `int`", "put it in quotes"),
    "another version": ("version: 1", "version: 2", 1, "version: invalid enum value 2", "allowed: "),
    "no version": ("version: 1\n", "", 1, "missing required field `version`", "allowed: "),
    "limits that nothing meets": ("floor: 0.88", "floor: 0.88, ceiling: 0.8", 3, "metrics.roc_auc", "floor"),
    "a tab": ("    ceiling", "\tceiling", 6, "not valid YAML", "indentation"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "what", "fix"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_problem_with_its_line_and_a_fix(tmp_path, old, new, line, what, fix):
    assert SHIPPED.count(old) == 1

    with pytest.raises(Problem) as caught:
        load(tmp_path, SHIPPED.replace(old, new))

    assert what in caught.value.what
    assert caught.value.where == f"{tmp_path / 'gates.yaml'}:{line}"
    assert fix in caught.value.fix
    assert "object has no attribute" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        pytest.param(b"", "holds no mapping", id="empty"),
        pytest.param(b"# version: 1\n", "holds no mapping", id="comments alone"),
        pytest.param(b"- roc_auc", "holds no mapping", id="a list"),
        pytest.param(b"version: 1\nmetrics:\n", "metrics", id="no metrics"),
        pytest.param(b"version: 1\nmetrics: [roc_auc]\n", "metrics", id="a list of metrics"),
        pytest.param(b"version: 1\nmetrics: {}\n", "it judges nothing", id="nothing in metrics"),
        pytest.param(b"version: 1\nmetrics: {roc_auc: {direction: higher}}\n", "it judges nothing", id="no limit"),
        pytest.param(b"version: 1\n", "missing required field `metrics`", id="half a file"),
        pytest.param("version: 1 # \xfc".encode("latin-1"), "is not UTF-8", id="latin-1"),
        pytest.param(b"version: [1", "not valid YAML", id="an open bracket"),
        pytest.param(b"version: 1\nmetrics: &a {roc_auc: *a}\n", "roc_auc|alias", id="a circle"),
    ],
)
def test_a_file_that_is_no_gates_is_a_problem_that_names_it(tmp_path, content, what):
    with pytest.raises(Problem, match=what) as caught:
        load(tmp_path, content)

    assert caught.value.where.startswith(str(tmp_path / "gates.yaml"))
    assert caught.value.fix


def test_a_file_that_is_not_there_is_a_problem(tmp_path):
    with pytest.raises(Problem, match="does not exist") as caught:
        gate.load(tmp_path / "gates.yaml")

    assert "version control" in caught.value.fix


def test_what_is_shipped_is_right():
    gates = gate.load(ROOT / "tests/sample/gates.yaml")

    assert gates.metrics["roc_auc"] == Rule(direction="higher", floor=0.88)


def test_the_order_of_the_file_is_the_order_of_the_verdicts(tmp_path):
    gates = load(tmp_path, SHIPPED)

    assert [each.metric for each in gate.judge({}, gates)] == ["roc_auc", "log_loss"]


# The value just below, and just above, are the nearest that a float can hold.
LIMITS = {
    "above a floor": (Rule(direction="higher", floor=0.5), 0.6, "pass", "≥ 0.5"),
    "equal to a floor": (Rule(direction="higher", floor=0.5), 0.5, "pass", "≥ 0.5"),
    "just below a floor": (Rule(direction="higher", floor=0.5), math.nextafter(0.5, 0), "fail", "below its floor 0.5"),
    "below a ceiling": (Rule(direction="lower", ceiling=0.5), 0.4, "pass", "≤ 0.5"),
    "equal to a ceiling": (Rule(direction="lower", ceiling=0.5), 0.5, "pass", "≤ 0.5"),
    "just above a ceiling": (Rule(direction="lower", ceiling=0.5), math.nextafter(0.5, 1), "fail", "above its ceiling 0.5"),
    "between both": (Rule(direction="higher", floor=0.5, ceiling=0.9), 0.7, "pass", "≥ 0.5 and ≤ 0.9"),
    "too good": (Rule(direction="higher", floor=0.5, ceiling=0.9), 0.95, "fail", "above its ceiling 0.9"),
    "below a floor that is better lower": (Rule(direction="lower", floor=0.1), 0.0, "fail", "below its floor 0.1"),
    "a floor of zero": (Rule(direction="higher", floor=0.0), -0.1, "fail", "below its floor 0"),
    "a ceiling of zero": (Rule(direction="lower", ceiling=0.0), 0.1, "fail", "above its ceiling 0"),
    "a whole number": (Rule(direction="higher", floor=0.5), 1, "pass", "≥ 0.5"),
    "no limit": (Rule(direction="higher"), 0.1, "skipped", "no rule"),
    "None": (Rule(direction="higher", floor=0.5), None, "fail", "is not a number"),
    "NaN above a floor": (Rule(direction="higher", floor=0.5), math.nan, "fail", "is not a number"),
    "NaN below a ceiling": (Rule(direction="lower", ceiling=0.5), math.nan, "fail", "is not a number"),
    "infinity above a floor": (Rule(direction="higher", floor=0.5), math.inf, "fail", "is not a number"),
    "minus infinity below a ceiling": (Rule(direction="lower", ceiling=0.5), -math.inf, "fail", "is not a number"),
    "NaN without a limit": (Rule(direction="higher"), math.nan, "fail", "is not a number"),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "value", "verdict", "reason"), LIMITS.values(), ids=LIMITS)
def test_a_value_is_held_to_its_limits(rule, value, verdict, reason):
    assert only(rule, value) == Judged("m", verdict, reason)


@pytest.mark.parametrize("rule", [Rule(direction="higher", floor=0.5), Rule(direction="higher")], ids=["limit", "none"])
def test_a_metric_that_was_not_measured_fails(rule):
    assert only(rule, 1.0, name="another") == Judged("m", "fail", "was not measured")


def test_a_metric_that_has_no_rule_is_not_judged():
    gates = Gates(version=1, metrics={"m": Rule(direction="higher", floor=0.5)})

    assert [each.metric for each in gate.judge({"m": 1.0, "bad": math.nan}, gates)] == ["m"]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["pass"], "pass"),
        (["pass", "skipped"], "pass"),
        (["pass", "fail"], "fail"),
        (["fail", "skipped"], "fail"),
        (["fail"], "fail"),
        (["skipped"], "fail"),
        ([], "fail"),
    ],
    ids=lambda value: value if isinstance(value, str) else " and ".join(value) or "nothing",
)
def test_a_model_passes_where_something_was_judged_and_nothing_failed(verdicts, expected):
    assert gate.overall([Judged("m", verdict, "") for verdict in verdicts]) == expected
