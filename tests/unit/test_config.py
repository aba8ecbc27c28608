from pathlib import Path

import msgspec
import pytest

from pawl import config, schema
from pawl.problem import Problem

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / "tests/sample/params.yaml").read_text()


def load(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return config.load(path)


def edited(old, new):
    assert SHIPPED.count(old) == 1, f"{old!r} must stand in params.yaml once"
    return SHIPPED.replace(old, new)


def line_of(text, wanted):
    return next(number for number, line in enumerate(text.splitlines(), 1) if wanted in line)


# (what stands in params.yaml, what it becomes, what the problem says, its fix)
WRONG = {
    "a misspelt key at the top": ("target: income", "targt: income", "targt is not a known name", "did you mean target?"),
    "a misspelt section": ("prepare:", "prepair:", "prepair is not a known name", "did you mean prepare?"),
    "a misspelt key": ("  split: random", "  splitt: random", "prepare.splitt is not", "did you mean split?"),
    "a misspelt key two deep": ("    drift: 0.0", "    drif: 0.0", "ingest.sample.drif is not", "did you mean drift?"),
    "a misspelt key of the features": ("  min_category_rows: 20", "  min_category_row: 20", "featurize.min", "did you mean"),
    "a misspelt key of a rule": ("threshold: 0.5", "threshold: {rul: cost}", "threshold.rul is not", "did you mean rule?"),
    "a key like no other": ("  min_rows: 1000", "  qqq: 1", "validate.qqq is not a known name", "allowed: allow_leakage"),
    "a word for a number": ("    rows: 20000", "    rows: many", "ingest.sample.rows: expected `int`", "a whole number from 1"),
    "a number that YAML reads as a text": ("    rows: 20000", "    rows: 2e4", "expected `int`, got `str`", "YAML reads 2e4 as a text: write 20000"),
    "a number in quotes": ("  test: 0.2", '  test: "0.2"', "got `str`", "write 0.2, without quotes"),
    "a part for a whole": ("    rows: 20000", "    rows: 2.5", "expected `int`, got `float`", "a whole number from 1"),
    "true for a word": ("target: income", "target: yes", "target: expected `str`, got `bool`", "allowed: a text"),
    "a word for a list": ("  slices: [sex, region]", "  slices: sex", "evaluate.slices: expected `array`", "a list"),
    "a number in a list": ("  slices: [sex, region]", "  slices: [sex, 3]", "got `int`", "allowed: a list"),
    "a value for a section": ("  sample:\n    rows: 20000\n    seed: 0\n    drift: 0.0", "  sample: 3", "ingest.sample: expected `object`", "a section with rows, seed, drift"),
    "another task": ("task: binary", "task: Binary", "task: invalid enum value 'Binary'", "binary or multiclass or regression"),
    "too large a share": ("  test: 0.2", "  test: 1.2", "prepare.test: expected `float` <= 1.0", "a number from 0 to 1"),
    "a share that is no number": ("  test: 0.2", "  test: .nan", "prepare.test: expected `float`", "a number from 0 to 1"),
    "no rows": ("    rows: 20000", "    rows: 0", "ingest.sample.rows: expected `int` >= 1", "a whole number from 1"),
    "too much drift": ("    drift: 0.0", "    drift: 7", "ingest.sample.drift: expected `float` <= 1.0", "a number from 0 to 1"),
    "a seed below zero": ("    seed: 0", "    seed: -1", "ingest.sample.seed: expected `int` >= 0", "a whole number from 0"),
    "a number for a label": ("  device: cpu", "  class_weight: {0: 1, 1: 5}", "train.class_weight: a key there: expected `str`, got `int`", "quote"),
    "a key that stands twice": ("  test: 0.2", "  test: 0.2\n  test: 0.3", "prepare.test stands there twice (first on line", "remove one"),
    "a tab": ("  test: 0.2", "\ttest: 0.2", "not valid YAML", "indentation is two spaces"),
    "no positive": ('positive: ">50K"', "positive: null", "needs `positive`", "positive:"),
    "nothing to train on": ("  test: 0.2", "  test: 0.9", "leave no rows to train on", "less than 1"),
    "an unknown part": ("  source: sample", "  source: {train: a, tset: b}", "a part called tset", "allowed: train, valid, test"),
    "groups without a column": ("  split: random", "  split: group", "needs columns.group", "name the column"),
    "a split without a column": ("  split: random", "  split: given", "needs columns.split", "add one"),
    "a seed in another place": ("    num_leaves: 15", "    random_state: 1", "train.params.random_state has a key of its own", "set train.seed"),
    "a grid of nothing": ("  grid:\n    train.params.num_leaves: [7, 15, 31]\n    train.params.learning_rate: [0.03, 0.05, 0.1]", "  grid: {}", "tune.grid has nothing to try", "add for example"),
    "a list of nothing": ("num_leaves: [7, 15, 31]", "num_leaves: []", "tune.grid.train.params.num_leaves is no list of values", "for example"),
    "a value for a list": ("num_leaves: [7, 15, 31]", "num_leaves: 31", "tune.grid.train.params.num_leaves is no list of values", "for example"),
    "a value that stands twice": ("num_leaves: [7, 15, 31]", "num_leaves: [7, 15, 7]", "num_leaves: 7 stands there twice", "remove one"),
    "a key that changes the rows": ("train.params.num_leaves: [7, 15, 31]", "prepare.seed: [0, 1]", "prepare.seed cannot be tried", "begin with train, featurize, threshold"),
    "a misspelt key of the search": ("  metric: roc_auc", "  metrik: roc_auc", "tune.metrik is not a known name", "did you mean metric?"),
    "ends the wrong way round": ("  grid:\n    train.params.num_leaves: [7, 15, 31]", "  space:\n    train.params.num_leaves: {low: 31, high: 7}", "tune.space.train.params.num_leaves: low is not below high", "make high the larger"),
    "a logarithm from zero": ("  grid:\n    train.params.num_leaves: [7, 15, 31]", "  space:\n    train.params.num_leaves: {low: 0, high: 7, log: true}", "the logarithm needs low above 0", "raise low, or remove log"),
    "steps of a logarithm": ("  grid:\n    train.params.num_leaves: [7, 15, 31]", "  space:\n    train.params.num_leaves: {low: 1, high: 7, log: true, step: 2}", "log and step exclude each other", "remove one"),
    "half steps of whole numbers": ("  grid:\n    train.params.num_leaves: [7, 15, 31]", "  space:\n    train.params.num_leaves: {low: 1, high: 7, step: 0.5}", "whole numbers have a whole step", "ends with a point"),
    "a misspelt end": ("  grid:\n    train.params.num_leaves: [7, 15, 31]", "  space:\n    train.params.num_leaves: {low: 1, hihg: 7}", "hihg is not a known name", "did you mean high?"),
    "an end that is a text": ("  grid:\n    train.params.num_leaves: [7, 15, 31]", "  space:\n    train.params.num_leaves: {low: 1e-3, high: 7}", "low: expected `int | float`, got `str`", "write 0.001"),
    "a value for a range": ("  grid:\n    train.params.num_leaves: [7, 15, 31]", "  space:\n    train.params.num_leaves: 7", "expected `object | array`", "a section with low, high, log, step or a list"),
    "a range that changes the rows": ("  grid:\n    train.params.num_leaves: [7, 15, 31]", "  space:\n    prepare.seed: {low: 1, high: 7}", "tune.space: prepare.seed cannot be tried", "begin with train, featurize, threshold"),
    "an unknown sampler": ("  metric: roc_auc", "  metric: roc_auc\n  sampler: cmaes", "tune.sampler: invalid enum value", "allowed: tpe or random or grid"),
    "a grid's sampler without a grid": ("  grid:\n    train.params.num_leaves: [7, 15, 31]\n    train.params.learning_rate: [0.03, 0.05, 0.1]", "  space: {train.seed: [1]}\n  sampler: grid", "tune.grid has nothing to try", "add for example"),
    "folds that nobody makes": ("  metric: roc_auc", "  metric: roc_auc\n  objective: folds", "tune.objective: folds has no folds", "set evaluate.folds: 5"),
    "no trial": ("  metric: roc_auc", "  metric: roc_auc\n  trials: 0", "tune.trials: expected `int` >= 1", "a whole number from 1"),
    "a rule without a name": ("threshold: 0.5", "threshold: {beta: 2}", "threshold: object missing required field `rule`", "allowed"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "what", "fix"), WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_one_problem_with_its_line(tmp_path, old, new, what, fix):
    text = edited(old, new)

    with pytest.raises(Problem) as caught:
        load(tmp_path, text)

    line = line_of(text, "task: binary" if "positive:" in new else new.splitlines()[-1])
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.where == f"{tmp_path / 'params.yaml'}:{line}"
    assert str(caught.value).count("error:") == 1


@pytest.mark.parametrize("key", [each.name for each in msgspec.structs.fields(config.Params) if each.required])
def test_a_key_that_is_missing_at_the_top_is_named_with_what_to_add(tmp_path, key):
    lines = SHIPPED.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
    end = next((number for number in range(start + 1, len(lines)) if lines[number][:1].strip()), len(lines))

    with pytest.raises(Problem, match=f"the key {key} is missing") as caught:
        load(tmp_path, "\n".join(lines[:start] + lines[end:]))

    assert caught.value.fix.startswith(f"add  {key}: ")


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_threshold_is_for_two_labels_and_the_fix_says_how_to_remove_it(tmp_path, task):
    text = edited("task: binary", f"task: {task}").replace("threshold: 0.5", "threshold: 0.3")

    with pytest.raises(Problem, match=f"a threshold means nothing for task: {task}") as caught:
        load(tmp_path, text)

    assert caught.value.where.endswith(f":{line_of(text, 'threshold:')}")
    assert "0.5" in caught.value.fix  # the key itself must stay


@pytest.mark.parametrize(
    ("content", "what"),
    [
        pytest.param("task: b\xe4r".encode("latin-1"), "is not UTF-8: .* at byte 7", id="latin-1"),
        pytest.param(SHIPPED.encode("utf-16"), "is not UTF-8", id="UTF-16"),
        pytest.param(b"task: \x00", "not valid YAML", id="NUL"),
        pytest.param(b"", "holds no mapping", id="empty"),
        pytest.param(b"- task", "holds no mapping", id="a list"),
        pytest.param(b"task: &a [*a]", "an alias .* holds itself", id="a circle"),
        pytest.param(b"evaluate: &a\n  slices: *a\n", "missing|circle|itself", id="a circle of mappings"),
        pytest.param(b"a: [b", "not valid YAML", id="an open bracket"),
        pytest.param(b"a: 2026-13-01", "a date that there is not", id="a thirteenth month"),
        pytest.param(b"a: b: c", "not valid YAML", id="two colons"),
    ],
)
def test_a_file_that_is_no_parameters_is_a_problem(tmp_path, content, what):
    with pytest.raises(Problem, match=what) as caught:
        load(tmp_path, content)

    assert caught.value.where.startswith(str(tmp_path / "params.yaml"))


def test_a_split_by_time_needs_a_time(tmp_path):
    text = edited("  time: month", "  group: month").replace("split: random", "split: time")

    with pytest.raises(Problem, match=r"prepare\.split: time needs columns\.time"):
        load(tmp_path, text)


def test_a_column_with_a_role_is_no_feature(tmp_path):
    params = load(tmp_path, edited("  time: month", "  {id: a, time: b, group: c, split: d, ignore: [e, f]}"))

    assert params.roles == {"income", *"abcdef"}


def test_a_file_that_is_not_there_is_a_problem(tmp_path):
    with pytest.raises(Problem, match="does not exist"):
        config.load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("{rule: f_beta, beta: 2}", config.ThresholdRule(rule="f_beta", beta=2)),
        ("{rule: cost, false_negative: 5}", config.ThresholdRule(rule="cost", false_negative=5)),
        (
            "{rule: recall_at_precision, precision: 0.9}",
            config.ThresholdRule(rule="recall_at_precision", precision=0.9),
        ),
        ("1", 1.0),
    ],
)
def test_a_threshold_is_a_number_or_a_rule(tmp_path, written, rule):
    assert load(tmp_path, edited("threshold: 0.5", f"threshold: {written}")).threshold == rule


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "tests/sample/params.yaml",
        *(
            path
            for path in sorted(ROOT.glob("examples/*/params.yaml"))
            if not (path.parent / "src/task/params.py").exists()
        ),
    ],
    ids=lambda path: path.parent.name,
)
def test_what_is_shipped_is_right(path):
    assert config.load(path).roles <= schema.load(path.with_name("schema.yaml")).columns.keys()


def test_nothing_can_be_changed_after_loading(tmp_path):
    params = load(tmp_path, SHIPPED)

    for section in (
        params,
        params.problem,
        params.ingest,
        params.ingest.sample,
        params.prepare,
        params.featurize,
        params.train,
    ):
        with pytest.raises(AttributeError):
            setattr(section, section.__struct_fields__[0], 1)


def test_a_stage_gets_the_keys_at_the_top_without_the_sections(tmp_path):
    problem = load(tmp_path, SHIPPED).problem

    assert problem.roles == {"income", "month"}
    assert not hasattr(problem, "train")


def test_every_key_can_be_written():
    """What README lists can be read back from YAML: a type that YAML cannot give would refuse every value."""
    written = msgspec.to_builtins(config.load(ROOT / "params.yaml"))
    written["ingest"] |= {
        "source": {"train": ["a.csv", "b.csv"], "test": "c.csv"}, "format": "csv", "digest": "sha256:0",
        "replace": {"income": {"a": "b"}}, "sql": {"query": "q.sql", "days": 7, "until": "2025-01-31", "version": "v.sql"},
    }  # fmt: skip
    written["train"] |= {"class_weight": {"a": 2.0}, "device": "gpu"}
    written["prepare"] |= {"valid_from": "2025-01", "test_from": "2025-02", "drop_missing": ["age"]}
    written["validate"] |= {"allow_leakage": ["age"]}
    written["threshold"] = {"rule": "cost", "false_negative": 5}

    read = msgspec.convert(written, config.Params)

    assert read.ingest.sql.query == "q.sql"
    assert msgspec.convert(msgspec.to_builtins(read), config.Params) == read
