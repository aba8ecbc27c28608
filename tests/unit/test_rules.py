from pathlib import Path

import pytest

from pawl.answers import hidden
from pawl.gate import rules
from pawl.gate.rules import Rule
from pawl.problem import Problem

ROOT = Path(__file__).parents[2]
SHIPPED = """\
version: 1
metrics:
  roc_auc: {direction: higher, floor: 0.88}
  log_loss:
    direction: lower
    ceiling: 0.36
    max_regression: 5%
baseline:
  min_rows: 300
slices:
  - by: [sex, region]
    required: [sex=Female]
    metrics:
      f1: {direction: higher, floor: 0.75}
waivers:
  - rule: f1[sex=Female]
    reason: the survey of spring is late
    until: "2026-12-31"
"""


def load(tmp_path, text):
    path = tmp_path / "gates.yaml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return rules.load(path)


# (what stands in gates.yaml, what it becomes, the line that is named, what the problem says, its fix)
WRONG = {
    "a misspelt key": ("floor: 0.88", "flor: 0.88", 3, "metrics.roc_auc.flor is not a known name", "did you mean floor?"),
    "a misspelt key on a line of its own": ("    ceiling: 0.36", "    celing: 0.36", 6, "metrics.log_loss.celing is not", "did you mean ceiling?"),
    "a key like no other": ("floor: 0.88", "qqq: 0.88", 3, "metrics.roc_auc.qqq is not", "allowed: ceiling, direction, floor"),
    "a misspelt key at the top": ("\nmetrics:", "\nmetric:", 2, "metric is not a known name", "did you mean metrics?"),
    "a key at the top like no other": ("version: 1", "version: 1\nqqq: 1", 2, "qqq is not a known name", "allowed: baseline, confidence, metrics, mode"),
    "a misspelt key of slices": ("    required:", "    requird:", 12, "slices.0.requird is not", "did you mean required?"),
    "a misspelt key of a slice's rule": ("floor: 0.75", "flor: 0.75", 14, "slices.0.metrics.f1.flor is not", "did you mean floor?"),
    "a misspelt key of a waiver": ("    reason:", "    reson:", 17, "waivers.0.reson is not", "did you mean reason?"),
    "a key that stands twice": ("floor: 0.88", "floor: 0.88, floor: 0.1", 3, "metrics.roc_auc.floor stands there twice", "remove one"),
    "a metric that stands twice": ("  log_loss:", "  roc_auc:", 4, "metrics.roc_auc stands there twice (first on line 3)", "remove one"),
    "a limit that is no number": ("floor: 0.88", "floor: .nan", 3, "metrics.roc_auc.floor is not a number", "write a number"),
    "a limit that nothing reaches": ("    ceiling: 0.36", "    ceiling: .inf", 6, "metrics.log_loss.ceiling", "write a number"),
    "a limit below everything": ("floor: 0.88", "floor: -.inf", 3, "metrics.roc_auc.floor", "write a number"),
    "an endless allowance": ("max_regression: 5%", "max_regression: .inf", 7, "metrics.log_loss.max_regression", "write a number"),
    "a word for a limit": ("    ceiling: 0.36", "    ceiling: low", 6, "metrics.log_loss.ceiling: expected `float | null`, got `str`", "allowed: a number or nothing"),
    "a number that YAML reads as a word": ("    ceiling: 0.36", "    ceiling: 1e-3", 6, "got `str`", "YAML reads 1e-3 as a text: write 0.001, without quotes"),
    "an allowance that YAML reads as a word": ("max_regression: 5%", "max_regression: 1e-3", 7, "invalid value '1e-3'", "write 0.001, without quotes"),
    "true for a limit": ("floor: 0.88", "floor: true", 3, "metrics.roc_auc.floor: expected `float | null`, got `bool`", "allowed: a number"),
    "a list for a limit": ("floor: 0.88", "floor: [0.88]", 3, "metrics.roc_auc.floor: expected", "allowed: a number"),
    "an allowance below zero": ("max_regression: 5%", "max_regression: -1", 7, "metrics.log_loss.max_regression: expected `float` >= 0", "allowed: a number from 0 or a percentage such as 5%"),
    "a word for an allowance": ("max_regression: 5%", "max_regression: abc", 7, "metrics.log_loss.max_regression: invalid value 'abc'", "or a percentage such as 5%"),
    "another direction": ("direction: lower", "direction: down", 5, "metrics.log_loss.direction: invalid enum value 'down'", "allowed: higher or lower"),
    "the wrong direction": ("direction: lower", "direction: higher", 5, "metrics.log_loss.direction is higher", "of log_loss, lower is better"),
    "no direction": ("{direction: higher, floor: 0.88", "{floor: 0.88", 3, "metrics.roc_auc: object missing required field `direction`", "allowed: "),
    "a limit for a rule": ("{direction: higher, floor: 0.88}", "0.88", 3, "metrics.roc_auc: expected `object`, got `float`", "allowed: "),
    "a word for a rule": ("{direction: higher, floor: 0.88}", "high", 3, "metrics.roc_auc: expected `object`, got `str`", "allowed: "),
    "a list for a rule": ("{direction: higher, floor: 0.88}", "[floor, 0.88]", 3, "metrics.roc_auc: expected `object`", "allowed: "),
    "nothing for a rule": ("{direction: higher, floor: 0.88}", "", 3, "metrics.roc_auc: expected `object`, got `null`", "allowed: "),
    "a number for a metric": ("  roc_auc:", "  1:", 2, "metrics: a key there: expected `str`, got `int`", "put it in quotes"),
    "limits that nothing meets": ("floor: 0.88", "floor: 0.88, ceiling: 0.8", 3, "metrics.roc_auc passes no value", "floor"),
    "no such test": ("floor: 0.88", "method: t", 3, "metrics.roc_auc.method: invalid enum value 't'", "delong or mcnemar"),
    "a test of another metric": ("floor: 0.88", "method: mcnemar", 3, "metrics.roc_auc.method: mcnemar is no test of roc_auc", "allowed: delong, bootstrap"),
    "a test of a size": ("  roc_auc: {direction: higher,", "  model_bytes: {direction: lower, method: bootstrap,", 3, "no test of model_bytes", "remove it"),
    "another version": ("version: 1", "version: 2", 1, "version: invalid enum value 2", "allowed: 1"),
    "no version": ("version: 1\n", "", 1, "missing required field `version`", "allowed: "),
    "a column for slices": ("by: [sex, region]", "by: sex", 11, "slices.0.by: expected `array`, got `str`", "allowed: a list"),
    "slices of no column": ("by: [sex, region]", "by: []", 11, "slices.0.by: expected `array` of length >= 1", "allowed: a list"),
    "slices of one column twice": ("by: [sex, region]", "by: [sex, sex]", 14, "slices of sex have a rule for f1 already", "remove one"),
    "two parts with the same rule": ("waivers:", "  - by: [age, sex]\n    metrics: {f1: {direction: higher}}\nwaivers:", 16, "slices.1.metrics.f1: slices of sex have", "remove one"),
    "a gap in slices": ("floor: 0.75", "max_gap: 0.1", 14, "slices.0.metrics.f1.max_gap has no meaning in a slice", "move it to metrics"),
    "a size in slices": ("f1: {direction: higher,", "model_bytes: {direction: lower,", 14, "slices.0.metrics.model_bytes has no meaning in a slice", "move it to metrics"),
    "a waiver with no reason": ("    reason: the survey of spring is late\n", "", 16, "waivers.0: object missing required field `reason`", "rule, reason, until"),
    "a waiver with a short reason": ("the survey of spring is late", "late", 17, "waivers: 'late' is no reason", "ten letters"),
    "a word for a date": ('"2026-12-31"', "tomorrow", 18, "waivers: tomorrow is no date", 'until: "2026-12-31"'),
    "a date without quotes": ('"2026-12-31"', "2026-12-31", 18, "waivers.0.until: expected `str`, got `date`", "put it in quotes"),
    "a waiver for no metric": ("rule: f1[sex=Female]", "rule: f2", 16, "waivers: there is no rule f2", "metric[column=value]"),
    "a waiver for all rows of a slice's metric": ("rule: f1[sex=Female]", "rule: f1", 16, "waivers: there is no rule f1", "metric[column=value]"),
    "a waiver for a slice of another metric": ("rule: f1[sex=Female]", "rule: roc_auc[sex=Female]", 16, "there is no rule roc_auc[", "metric[column=value]"),
    "a waiver that is cut off": ("rule: f1[sex=Female]", "rule: f1[sex=Female", 16, "there is no rule f1[sex=Female", "metric[column=value]"),
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
    for unreadable in ("object has no attribute", "$", "regex", "bootstrap, bootstrap"):
        assert unreadable not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        pytest.param(None, "does not exist", id="not there"),
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


@pytest.mark.parametrize("path", ["gates.yaml", "tests/sample/gates.yaml"])
def test_what_is_shipped_is_right(path):
    assert any(rules.judges(each.rule) for each in rules.named(rules.load(ROOT / path)))


def test_rules_come_in_the_order_of_the_file_those_of_slices_last(tmp_path):
    gates = load(tmp_path, SHIPPED)

    assert [each.metric for each in rules.named(gates)] == ["roc_auc", "log_loss", "f1"]
    assert gates.metrics["roc_auc"] == Rule(direction="higher", floor=0.88)
    assert gates.baseline.min_rows == 300


def test_a_metric_of_your_own_is_not_refused(tmp_path):
    assert "roc_acu" in load(tmp_path, SHIPPED.replace("roc_auc", "roc_acu")).metrics


def test_an_allowance_is_a_number_or_a_percentage_of_the_baselines_value():
    cases = [(0.01, 0.5, 0.01), ("5%", 0.5, 0.025), ("5%", -2.0, 0.1), ("400%", 3, 12)]
    for written, baseline, allowance in cases:
        assert Rule(direction="higher", max_regression=written).allowance(baseline) == pytest.approx(allowance)


def test_a_waiver_is_for_the_rule_that_it_names():
    female, male = (f"m[{hidden(f'sex={each}')}]" for each in ("Female", "Male"))
    covered = {
        "m": {"m"}, "n": set(), "m[sex=Female]": {"m[sex=Female]", female}, "m[night]": {"m[night]"},
        "*": {"m", "m[sex=Female]", "m[night]", female, male},
    }  # fmt: skip
    for waiver, expected in covered.items():
        assert {rule for rule in covered["*"] if rules.waives(waiver, rule)} == expected


def test_production_is_judged_by_the_first_rule_that_is_known_or_by_the_metric_that_is_asked_for(tmp_path):
    gates = load(tmp_path, SHIPPED)
    known = ["accuracy", "log_loss", "lift"]

    assert gates.watched(None, known) == ("log_loss", -1)
    assert gates.watched("accuracy", known) == ("accuracy", 1)
    with pytest.raises(Problem, match=r"it is not known which lift is better.*\n.*gates\.yaml.*\n.*a direction"):
        gates.watched("lift", known)
    with pytest.raises(Problem, match=r"drift\.metric: accurac.*\n(.*\n)?.*accuracy"):
        gates.watched("accurac", known)
