"""`python -m scripts.gate`, asked in this process: the verdict of a report, and a rule for once."""

import json

import msgspec
import pytest

from pawl import report
from pawl.gate.rules import Gates
from scripts import gate

RULES = "version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0.5}}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch, craft):
    """A folder with a model, its report and its gates."""
    monkeypatch.chdir(tmp_path)
    for name in ("models/bundle", "reports"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models/bundle/manifest.json").write_text(json.dumps({"digest": craft.digest}))
    (tmp_path / "gates.yaml").write_text(RULES)
    (tmp_path / "reports/metrics.json").write_text('{"test": {"accuracy": {"value": 0.85}}, "train": {}}')
    return tmp_path


@pytest.fixture
def ask(folder, capsys):
    """Return the exit code, what was said, what was complained of, and the outputs of the step."""

    def asked(*words):
        (folder / "output").unlink(missing_ok=True)
        try:
            code = gate.main(words, {"GITHUB_OUTPUT": str(folder / "output")})
        except SystemExit as stopped:
            code = stopped.code
        lines = (folder / "output").read_text().splitlines() if (folder / "output").exists() else []
        return code, *capsys.readouterr(), dict(line.split("=", 1) for line in lines)

    return asked


@pytest.fixture
def told(folder, craft):
    """Write the report of a model, with fields replaced."""

    def write(**fields):
        rules = msgspec.convert({"version": 1, "metrics": {"roc_auc": {"direction": "higher", "floor": 0.5}}}, Gates)
        found = msgspec.structs.replace(craft.report(craft.answers(), rules), **fields)
        (folder / "reports/report.json").write_bytes(report.dump(found))

    return write


VERDICTS = {
    "pass": True, "improved": True, "unchanged": True, "skipped": False, "inconclusive": True,
    "inconclusive where that is strict": False, "fail": False, "fail where nothing is enforced": True, "error": False,
}  # fmt: skip


@pytest.mark.parametrize(("verdict", "allowed"), VERDICTS.items(), ids=VERDICTS)
def test_what_the_report_allows_is_0_and_what_it_does_not_is_1_where_that_is_asked_for(ask, told, verdict, allowed):
    told(verdict=verdict.split()[0], allowed=allowed)

    code, said, _, outputs = ask("--exit-code")

    assert code == (0 if allowed else 1)
    assert (outputs["verdict"], outputs["allowed"]) == (verdict.split()[0], str(allowed).lower())
    assert outputs["headline"] == said.strip()
    assert ask()[0] == 0


def test_the_outputs_of_the_step_are_three_lines(ask, told, folder):
    told()

    ask("--exit-code")

    lines = (folder / "output").read_text().splitlines()
    assert lines[:2] == ["verdict=pass", "allowed=true"]
    assert lines[2].startswith("headline=✅ roc_auc is 0.")
    assert len(lines) == 3


def test_without_a_report_it_says_what_makes_one(ask):
    code, _, complained, outputs = ask("--exit-code")

    assert (code, outputs) == (2, {})
    assert "error: there is no report\n  where: reports/report.json\n  fix: run `make report`" in complained


def test_the_report_of_another_model_is_refused(ask, told, folder):
    told()
    (folder / "models/bundle/manifest.json").write_text(json.dumps({"digest": f"sha256:{'2' * 64}"}))

    code, _, complained, outputs = ask("--exit-code")

    assert (code, outputs) == (2, {})
    assert "error: the report is not of this model" in complained


@pytest.mark.parametrize("content", [b"", b"{}", b'{"verdict": "pass", "allowed": true}'], ids=ascii)
def test_a_report_that_is_none_is_refused(ask, folder, content):
    (folder / "reports/report.json").write_bytes(content)

    code, _, complained, outputs = ask("--exit-code")

    assert (code, outputs) == (2, {})
    assert "error: not a report: " in complained


ONCE = {
    "enough": (["--min", "accuracy=0.90"], {"accuracy": 0.9}, 0, "✅ accuracy is 0.9: ≥ 0.9"),
    "too little": (["--min", "accuracy=0.90"], {"accuracy": 0.89}, 1, "❌ accuracy is 0.89: below its floor 0.9"),
    "little enough": (["--max", "log_loss=0.4"], {"log_loss": 0.4}, 0, "✅ log_loss is 0.4: ≤ 0.4"),
    "too much": (["--max", "log_loss=0.4"], {"log_loss": 0.5}, 1, "❌ log_loss is 0.5: above its ceiling 0.4"),
    "both sides": (["--min", "a=1", "--max", "a=2"], {"a": 3}, 1, "❌ a is 3: above its ceiling 2"),
    "one of two": (["--min", "a=1", "--min", "b=1"], {"a": 1, "b": 0}, 1, "✅ a is 1: ≥ 1\n❌ b is 0: below its floor 1"),
    "as the pipeline writes it": (["--min", "accuracy=0.8"], {"test": {"accuracy": {"value": 0.9}}, "train": {}}, 0, "✅ accuracy is 0.9: ≥ 0.8"),
    "missing": (["--min", "accuracy=0"], {"f1": 1.0}, 1, "❌ accuracy was not measured"),
    "not a number": (["--min", "accuracy=0"], {"accuracy": float("nan")}, 1, "❌ accuracy is n/a: is not a number"),
    "infinite": (["--min", "accuracy=0"], {"accuracy": float("inf")}, 1, "❌ accuracy is n/a: is not a number"),
    "text": (["--min", "accuracy=0"], {"accuracy": "0.9"}, 1, "❌ accuracy is n/a: is not a number"),
    "true": (["--min", "accuracy=0"], {"accuracy": True}, 1, "❌ accuracy is n/a: is not a number"),
    "null": (["--min", "accuracy=0"], {"accuracy": None}, 1, "❌ accuracy is n/a: is not a number"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "metrics", "code", "said"), ONCE.values(), ids=ONCE)
def test_a_rule_for_once_judges_any_file_of_metrics(ask, folder, words, metrics, code, said):
    (folder / "any.json").write_text(json.dumps(metrics))

    found = ask(*words, "--metrics", "any.json", "--exit-code")

    assert found[:3] == (code, f"{said}\n", "")
    assert found[3] == {"verdict": "fail" if code else "pass", "allowed": "false" if code else "true", "headline": said.replace("\n", "; ")}  # fmt: skip


def test_a_rule_for_once_judges_the_metrics_of_the_last_run_where_no_file_is_named(ask):
    assert ask("--min", "accuracy=0.85", "--exit-code")[0] == 0
    assert ask("--min", "accuracy=0.86", "--exit-code")[0] == 1
    assert ask("--min", "accuracy=0.86")[0] == 0


@pytest.mark.parametrize(
    "content", ["", "accuracy: 0.9", "[]", "0.9", '{"test": []}', "[" * 100_000, f'{{"accuracy": {"9" * 400}}}', None],
    ids=["empty", "YAML", "a list", "a number", "a split that is a list", "deep", "a huge number", "no file"],
)  # fmt: skip
def test_a_file_that_holds_no_metrics_is_2_with_what_it_must_hold(ask, folder, content):
    if content is not None:
        (folder / "any.json").write_text(content)

    code, _, complained, outputs = ask("--min", "accuracy=0", "--metrics", "any.json", "--exit-code")

    assert (code, outputs) == (2, {})
    assert "error: no metrics can be read: " in complained
    assert 'fix: a JSON file such as {"accuracy": 0.9}' in complained


@pytest.mark.parametrize("word", ["accuracy", "=0.9", "accuracy=", "accuracy=high", "accuracy=nan", "accuracy=inf", ""])
@pytest.mark.parametrize("side", ["--min", "--max"])
def test_a_limit_that_is_none_is_2_with_an_example(ask, side, word):
    code, _, complained, outputs = ask(side, word, "--exit-code")

    assert (code, outputs) == (2, {})
    assert f"{word} is not METRIC=VALUE, for example accuracy=0.90" in complained


def test_a_file_of_metrics_without_a_limit_is_not_taken_for_judged(ask, told):
    told()

    code, _, complained, outputs = ask("--metrics", "any.json", "--exit-code")

    assert (code, outputs) == (2, {})
    assert "--metrics needs a --min or a --max" in complained
