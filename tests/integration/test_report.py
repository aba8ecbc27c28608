"""`python -m scripts.report` in a small real project: what it says, what it writes, what it ends with."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.csv
import pytest
import yaml

from pawl import sample
from scripts import report as script

LOW = {"roc_auc": {"direction": "higher", "floor": 0.5}, "log_loss": {"direction": "lower", "ceiling": 5.0}}
HIGH = {"roc_auc": {"direction": "higher", "floor": 0.999}, "log_loss": {"direction": "lower", "ceiling": 5.0}}
TRAINING = "training the model of "


@pytest.fixture
def report(monkeypatch, capsys):
    """Ask the script in this process, in the folder and the environment of a project."""

    def ask(project, *args, **environ):
        monkeypatch.chdir(project.path)
        for name in set(os.environ) - set(project.environ()):
            monkeypatch.delenv(name)
        for name, value in project.environ(**environ).items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = script.main(args)
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())

    return ask


def written(project):
    return json.loads((project.path / "reports/report.json").read_text())


def gates(project, metrics):
    (project.path / "gates.yaml").write_text(yaml.safe_dump({"version": 1, "metrics": metrics}, sort_keys=False))


def head(project):
    return project.call("git", "rev-parse", "HEAD").stdout.strip()


def rows(done):
    """Return the terminal's rows by metric: baseline, candidate, interval, delta, gate."""
    lines = [line.split("  ") for line in done.stdout.splitlines() if " ↑" in line or " ↓" in line]
    return {
        cells[0].split()[1]: cells[1:] for cells in ([cell.strip() for cell in line if cell.strip()] for line in lines)
    }


@pytest.fixture(scope="module")
def trained(project):
    """HEAD is the default model, its numbers are committed; what is checked out has another parameter and its model."""
    gates(project, LOW)
    project.commit("a model")
    project.set(**{"train.params.num_leaves": 4})
    project.run()
    return project


@pytest.fixture(autouse=True)
def as_it_was(request):
    """Undo what a test did to the files of the project and to its commits."""
    if "trained" not in request.fixturenames:
        yield
        return
    trained = request.getfixturevalue("trained")
    kept = {name: (trained.path / name).read_bytes() for name in ("params.yaml", "gates.yaml", "schema.yaml")}
    commit = head(trained)
    yield
    trained.call("git", "reset", "--quiet", commit)
    for name, content in kept.items():
        (trained.path / name).write_bytes(content)


@pytest.fixture
def again(trained):
    """Run the pipeline when a test that trained another model is done."""
    kept = (trained.path / "params.yaml").read_bytes()
    yield
    (trained.path / "params.yaml").write_bytes(kept)
    trained.run()


def test_against_a_commit_both_models_are_trained_here_and_measured_on_the_same_rows(report, trained):
    before = trained.outputs()

    done = report(trained, "--base", "HEAD")

    found = written(trained)
    after = {name: digest for name, digest in trained.outputs().items() if not name.startswith("reports/report.")}
    assert after == before  # nothing but the report was written
    assert TRAINING + head(trained)[:7] in done.stderr
    assert found["how"] == "rebuilt"
    assert found["baseline"]["commit"] == head(trained)
    assert found["candidate"]["commit"] == head(trained) + "-dirty"
    assert found["baseline"]["test_rows"] == found["candidate"]["test_rows"] is not None
    assert found["baseline"]["digest"] != found["candidate"]["digest"]
    assert found["params"] == [{"key": "train.params.num_leaves", "before": "15", "after": "4"}]
    assert rows(done)["roc_auc"][3][0] in "+−"
    assert rows(done)["log_loss"][3][0] in "+−"
    assert done.stdout.startswith("✅ 2 of 2 gates pass; roc_auc is 0.")


def test_the_numbers_of_the_base_are_those_that_it_committed(report, trained):
    report(trained, "--base", "HEAD")

    committed = json.loads(trained.call("git", "show", "HEAD:reports/metrics.json").stdout)["test"]
    assert written(trained)["baseline"]["metrics"] == committed


def test_what_was_trained_for_the_base_is_kept(report, trained):
    report(trained, "--base", "HEAD")

    done = report(trained, "--base", "HEAD")

    assert TRAINING not in done.stderr
    assert written(trained)["how"] == "rebuilt"


@pytest.mark.usefixtures("again")
def test_the_same_commit_is_the_same_model(report, trained):
    trained.call("git", "checkout", "--quiet", "params.yaml")
    trained.run()

    done = report(trained, "--base", "HEAD")

    assert done.stdout.startswith(f"✅ Unchanged: this is the model of base {head(trained)[:7]}, bit for bit")
    assert [cells[3] for cells in rows(done).values()] == ["0", "0"]


def test_without_a_base_the_gates_alone_are_judged(report, trained):
    done = report(trained)

    found = written(trained)
    assert (found["baseline"], found["how"]) == (None, "none")
    assert set(found["candidate"]["metrics"]) == set(
        json.loads((trained.path / "reports/metrics.json").read_text())["test"]
    )
    assert rows(done)["roc_auc"][-1] == "≥ 0.5"
    assert TRAINING not in done.stderr


def test_the_seconds_are_those_of_the_stages_that_ran_last(report, trained):
    lines = [{"stage": name, "seconds": 1.5, "code": 0} for name in ("fingerprint", "train", "evaluate")]
    (trained.path / ".pawl/stages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    report(trained)

    assert written(trained)["seconds"] == {"train": 1.5, "evaluate": 1.5}


def test_the_summary_of_a_job_is_the_report(report, trained, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")

    report(trained, GITHUB_STEP_SUMMARY=str(summary))

    assert summary.read_text() == "before\n" + (trained.path / "reports/report.md").read_text()
    assert summary.read_text().startswith("before\n### ✅ 2 of 2 gates pass")


def test_a_failed_floor_is_1_where_it_is_asked_for_and_the_report_is_written(report, trained, tmp_path):
    gates(trained, HIGH)
    for name in ("report.json", "report.md"):
        (trained.path / "reports" / name).unlink(missing_ok=True)

    done = report(trained, "--exit-code", GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"))

    assert done.returncode == 1
    assert done.stdout.startswith("❌ Blocked: roc_auc is 0.")
    assert written(trained)["candidate"]["metrics"]["roc_auc"]["n"] > 0
    assert (trained.path / "reports/report.md").read_text().startswith("### ❌ Blocked: roc_auc is 0.")
    assert "❌ Blocked" in (tmp_path / "summary.md").read_text()
    assert done.stderr == ""


def test_a_failed_floor_is_0_where_it_is_not_asked_for(report, trained):
    gates(trained, HIGH)

    done = report(trained)

    assert done.returncode == 0
    assert "❌ Blocked" in done.stdout


def test_the_command_ends_with_that_code(trained):
    gates(trained, HIGH)

    done = trained.call(sys.executable, "-m", "scripts.report", "--exit-code", check=False)

    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("❌ Blocked: ")


def test_a_pass_is_0_where_it_is_asked_for(report, trained):
    assert report(trained, "--exit-code").returncode == 0


def test_a_metric_of_the_gates_that_nobody_measures_fails(report, trained):
    gates(trained, LOW | {"rmse": {"direction": "lower", "ceiling": 1.0}})

    done = report(trained, "--exit-code")

    assert done.returncode == 1
    assert "❌ Blocked: rmse was not measured (1 of 3 gates fails)." in done.stdout


@pytest.mark.parametrize("base", ["origin/main", "0" * 40, "--help", "HEAD^^^^^^^", ""])
def test_a_base_that_is_not_there_is_2_with_a_fix(report, trained, base):
    done = report(trained, f"--base={base}")

    assert done.returncode == 2
    assert f"error: there is no commit {base}" in done.stderr
    assert "git fetch --unshallow" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_gates_are_2_and_nothing_is_written(report, trained):
    gates(trained, {})
    (trained.path / "reports/report.json").unlink(missing_ok=True)

    done = report(trained, "--exit-code")

    assert done.returncode == 2
    assert "gates.yaml" in done.stderr
    assert not (trained.path / "reports/report.json").exists()


UNTRAINABLE = {
    "a target that is not there": (lambda text: text.replace("target: income", "target: incme"), "could not be trained here: target: incme"),
    "a file that is no YAML": (lambda _: "a: [b", "could not be trained here: not valid YAML"),
    "a file that is empty": (lambda _: "", "could not be trained here: the file holds no mapping"),
}  # fmt: skip


@pytest.mark.parametrize(("broken", "why"), UNTRAINABLE.values(), ids=UNTRAINABLE)
def test_of_a_base_that_cannot_be_trained_the_committed_numbers_are_shown_and_why(report, trained, broken, why):
    params = trained.path / "params.yaml"
    right = params.read_text()
    params.write_text(broken(right))
    trained.commit("broken")
    params.write_text(right)

    done = report(trained, "--base", "HEAD")

    found = written(trained)
    assert found["how"] == "committed"
    assert why in found["why"]
    assert found["baseline"]["commit"] == head(trained)
    assert found["baseline"]["digest"] is None
    assert "roc_auc" in found["baseline"]["metrics"]
    assert rows(done)["roc_auc"][3] == "n/c"
    assert f"  baseline: {why[:40]}" in done.stdout
    assert "**not comparable" not in done.stdout
    assert "not comparable (n/c)" in (trained.path / "reports/report.md").read_text()


def test_of_a_base_without_a_pipeline_and_without_numbers_that_is_said(report, trained):
    blob = trained.call("git", "hash-object", "-w", "README.md").stdout.strip()
    tree = subprocess.run(
        ["git", "mktree"],
        cwd=trained.path,
        check=True,
        capture_output=True,
        text=True,
        input=f"100644 blob {blob}\tREADME.md\n",
    ).stdout.strip()
    empty = trained.call("git", "commit-tree", tree, "-m", "empty").stdout.strip()

    done = report(trained, "--base", empty)

    assert (written(trained)["how"], written(trained)["baseline"]) == ("none", None)
    assert "  baseline: that commit has no pipeline" in done.stdout


def test_numbers_that_are_none_are_as_if_there_were_none(report, trained):
    (trained.path / "reports/metrics.json").rename(trained.path / "kept.json")
    try:
        (trained.path / "reports/metrics.json").write_text('{"roc_auc": 0.9}\n')
        params = (trained.path / "params.yaml").read_text()
        (trained.path / "params.yaml").write_text("a: [b")
        trained.commit("other numbers")
        (trained.path / "params.yaml").write_text(params)
    finally:
        (trained.path / "kept.json").rename(trained.path / "reports/metrics.json")

    report(trained, "--base", "HEAD")

    assert (written(trained)["how"], written(trained)["baseline"]) == ("none", None)


def test_committed_numbers_are_taken_where_that_is_asked_for(report, trained):
    done = report(trained, "--base", "HEAD", "--committed")

    assert written(trained)["how"] == "committed"
    assert written(trained)["why"] == "it was made of other data"
    assert rows(done)["roc_auc"][3] == "n/c"
    assert TRAINING not in done.stderr


def commit_other(trained, **values):
    """Commit a params.yaml with other values; what is checked out, and its model, stay."""
    params = trained.path / "params.yaml"
    kept = params.read_text()
    trained.set(**values)
    trained.commit("other parameters")
    params.write_text(kept)


def test_on_other_rows_no_delta_is_told(report, trained):
    commit_other(trained, **{"prepare.seed": 7})

    done = report(trained, "--base", "HEAD")

    found = written(trained)
    assert found["how"] == "rebuilt"
    assert found["baseline"]["test_rows"] != found["candidate"]["test_rows"]
    assert [cells[3] for cells in rows(done).values()] == ["n/c", "n/c"]
    assert ", not comparable)" in done.stdout.splitlines()[0]


def test_a_table_that_git_does_not_have_is_the_base_s_too(report, trained):
    pa.csv.write_csv(pa.Table.from_batches(sample.batches(1200, 0, 0.0)), trained.path / "table.csv")
    (trained.path / ".git/info/exclude").write_text("table.csv\n")
    commit_other(trained, **{"ingest.source": "table.csv"})

    report(trained, "--base", "HEAD")

    assert (written(trained)["how"], written(trained)["why"]) == ("rebuilt", "")


@pytest.mark.usefixtures("again")
def test_numbers_of_an_earlier_model_are_not_told_as_those_of_this_one(report, trained):
    trained.set(**{"train.params.num_leaves": 5})
    trained.run("train")  # and no evaluate

    done = report(trained)

    assert done.returncode == 2
    assert "make run" in done.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "named"),
    [
        ("params.yaml", "n_estimators: 30", "n_estimators: 3", "train in params.yaml"),
        ("schema.yaml", "columns:", "columns: # changed", "schema.yaml"),
        ("src/task/model.py", '"""', '"""Changed: ', "src/task/model.py"),
    ],
    ids=["parameter", "schema", "code"],
)
def test_a_model_made_before_a_change_is_not_told_as_that_of_the_change(report, trained, file, old, new, named):
    text = (trained.path / file).read_text()
    (trained.path / file).write_text(text.replace(old, new, 1))

    done = report(trained, "--base", "HEAD")

    (trained.path / file).write_text(text)
    assert new in text.replace(old, new, 1)
    assert done.returncode == 2
    assert f"the model was trained before {named} changed" in done.stderr
    assert "run `make run`" in done.stderr


def test_a_change_of_the_gates_is_shown_and_does_not_judge_itself(report, trained, tmp_path):
    gates(trained, LOW | {"roc_auc": {"direction": "higher", "floor": 0.1}})

    done = report(trained, "--base", "HEAD")

    assert "⚠  gates.yaml: metrics.roc_auc.floor 0.5 → 0.1, for the next change" in done.stdout
    assert rows(done)["roc_auc"][-1] == "≥ 0.5"
    text = (trained.path / "reports/report.md").read_text()
    assert "⚠ gates.yaml changes, and judges from the next change on: `metrics.roc_auc.floor` `0.5` → `0.1`" in text


def test_without_a_model_it_says_what_to_run(report, untouched):
    done = report(untouched)

    assert done.returncode == 2
    assert "error: there is no evaluated model" in done.stderr
    assert "fix: run `make run`" in done.stderr
    assert not (untouched.path / "reports/report.json").exists()
