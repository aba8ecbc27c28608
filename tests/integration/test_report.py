"""`python -m scripts.report` in a small real project: what it says, what it writes, what it ends with."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import yaml

from pawl import answers, ledger, sample
from pawl import report as shape
from pawl.gate import compare
from pawl.gate.rules import Gates
from pawl.ledger import Entry, Ledger
from pawl.report import Change, File
from pawl.report.text import cell
from scripts import ledger as keeper
from scripts import measured
from scripts import report as script

LOW = {
    "roc_auc": {"direction": "higher", "floor": 0.5, "max_regression": 0.2},
    "log_loss": {"direction": "lower", "ceiling": 5.0, "max_regression": 0.5},
}
HIGH = LOW | {"roc_auc": {"direction": "higher", "floor": 0.999}}
FEW = {"min_rows": 100}  # test rows that both models must share
TRAINING = "training the model of "
FOREIGN = "e" * 40
OUTPUTS = ("models", "reports")  # data too, where a test asks for it


@pytest.fixture(scope="module")
def ask():
    """Call a script in this process, in the folder and the environment of a project."""

    def called(main, project, *args, **environ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(project.path)
            for name in set(os.environ) - set(project.environ()):
                patch.delenv(name)
            for name, value in project.environ(**environ).items():
                patch.setenv(name, value)
            return main(args)

    return called


@pytest.fixture
def report(ask, capsys):
    def asked(project, *args, **environ):
        capsys.readouterr()
        code = ask(script.main, project, *args, **environ)
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())

    return asked


def written(project):
    return shape.load((project.path / "reports/report.json").read_bytes(), "report.json")


def markdown(project):
    return (project.path / "reports/report.md").read_text()


def gates(project, metrics, **more):
    content = {"version": 1, "metrics": metrics, "baseline": FEW, **more}
    (project.path / "gates.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def head(project, name="HEAD"):
    return project.call("git", "rev-parse", name).stdout.strip()


def row(done, metric):
    """Return a metric's row in the terminal."""
    return next(line for line in done.stdout.splitlines() if f" {metric} " in line[:20])


def keep(project, name):
    """Keep what a run left, under a name."""
    folder = project.path.with_name(f"{project.path.name}-{name}")
    for each in (*OUTPUTS, "data"):
        shutil.copytree(project.path / each, folder / each, symlinks=True)
    for each in ("params.yaml", "dvc.lock"):
        shutil.copy2(project.path / each, folder / each)


def put(project, name, *more):
    """Put back what a run left."""
    folder = project.path.with_name(f"{project.path.name}-{name}")
    for each in (*OUTPUTS, *more):
        shutil.rmtree(project.path / each)
        shutil.copytree(folder / each, project.path / each, symlinks=True)
    for each in ("params.yaml", "dvc.lock"):
        shutil.copy2(folder / each, project.path / each)


@pytest.fixture(scope="module")
def trained(project, ask):
    """HEAD is the default model, which its release has written into a ledger; what is checked out has another parameter and its model."""
    gates(project, LOW)
    project.set(**{"evaluate.slices": ["sex"]})
    project.run()
    project.commit("a model")
    assert ask(script.main, project) == ask(keeper.main, project, "record") == 0
    project.kept = head(project, "ledger")
    keep(project, "default")
    project.set(**{"train.params.num_leaves": 4})
    project.run()
    assert ask(script.main, project) == 0
    keep(project, "changed")
    return project


FILES = ("gates.yaml", "schema.yaml", "requirements/pipeline.txt", "src/task/model.py")


@pytest.fixture(autouse=True)
def as_it_was(request):
    """Undo what a test did to the files of the project, to its outputs, its commits and its ledger."""
    if "trained" not in request.fixturenames:
        yield
        return
    trained = request.getfixturevalue("trained")
    kept = {name: (trained.path / name).read_bytes() for name in FILES}
    commit = head(trained)
    trained.call("git", "update-ref", "-d", "refs/heads/ledger")
    yield
    trained.call("git", "reset", "--quiet", commit)
    for name, content in kept.items():
        (trained.path / name).write_bytes(content)
    put(trained, "changed", *(["data"] if "other_data" in request.fixturenames else []))


@pytest.fixture
def other_data():
    """Say that the test runs the pipeline on other data."""


@pytest.fixture
def remembered(trained):
    """The ledger as the release of HEAD has left it."""
    trained.call("git", "update-ref", "refs/heads/ledger", trained.kept)
    return Ledger(trained.path)


def mine(project, name="changed"):
    """Return what a model answered."""
    folder = project.path.with_name(f"{project.path.name}-{name}")
    return answers.load((folder / "reports/candidate.answers").read_bytes(), name)


def better(known, step):
    """Return answers whose probabilities are nearer to the truth."""
    positive = known.probabilities[:, 1]
    moved = np.float32(positive + step * (known.y - positive)).astype(float)
    return known._replace(probabilities=answers.pair(moved), prediction=(moved >= 0.5).astype(int))


def enter(project, commit, theirs, verdict="pass", *, allowed=True, **more):
    """Write an entry into the ledger, as a release does."""
    facts = compare.facts(theirs, Gates(version=1, metrics={}), size=100_000.0, resamples=20)
    made = Entry(1, commit, verdict, allowed, "2026-01-01T00:00:00Z", f"sha256:{'1' * 64}", theirs.digest, facts, {}, **more)  # fmt: skip
    files = ledger.write_entry(made, {ledger.ANSWERS: answers.dump(theirs)})
    Ledger(project.path).write(files, "an entry")
    return files


def commit_other(trained, **values):
    """Commit a params.yaml with other values; what is checked out, and its model, stay."""
    params = trained.path / "params.yaml"
    kept = params.read_text()
    trained.set(**values)
    trained.commit("other parameters")
    params.write_text(kept)


def test_without_a_ledger_both_models_are_trained_here_and_measured_on_the_same_rows(report, trained):
    before = trained.outputs()

    done = report(trained, "--base", "HEAD")

    found = written(trained)
    told = ("reports/report.", "reports/model_card.md", "reports/candidate.answers", "reports/baseline.answers")
    after = trained.outputs()
    assert [name for name in before if before[name] != after[name] and not name.startswith(told)] == []
    assert TRAINING + head(trained)[:7] in done.stderr
    assert (found.state, found.why) == ("compared", "")
    assert (found.baseline.how, found.baseline.name) == ("rebuilt", "main")
    assert found.baseline.commit == head(trained)
    assert found.candidate.commit == head(trained) + "-dirty"
    assert found.baseline.common == found.candidate.facts.metrics["roc_auc"].n
    assert found.baseline.digest != found.candidate.digest
    assert found.changes.params == (Change("train.params.num_leaves", "15", "4"),)
    assert {each.metric for each in found.comparisons} == {"roc_auc", "log_loss"}
    assert done.stdout.startswith("✅ roc_auc is 0.8")
    assert "2 of 2 gates pass" in " ".join(done.stdout.split())


def test_the_numbers_of_the_base_are_those_that_it_committed(report, trained):
    report(trained, "--base", "HEAD")

    committed = json.loads(trained.call("git", "show", "HEAD:reports/metrics.json").stdout)["test"]
    shown = json.loads(shape.dump(written(trained)))["baseline"]["facts"]["metrics"]
    assert shown.pop("model_bytes")["value"] > 10_000
    assert shown == committed


def test_what_was_trained_for_the_base_is_kept(report, trained):
    report(trained, "--base", "HEAD")

    done = report(trained, "--base", "HEAD")

    assert TRAINING not in done.stderr
    assert written(trained).baseline.how == "rebuilt"


def test_what_was_answered_is_kept_of_both_where_both_ran_here(report, trained):
    report(trained, "--base", "HEAD")

    theirs = answers.load((trained.path / "reports/baseline.answers").read_bytes(), "baseline")
    assert theirs.digest == mine(trained).digest
    report(trained)
    assert not (trained.path / "reports/baseline.answers").exists()  # that of an earlier report


@pytest.mark.usefixtures("other_data")
def test_on_other_test_rows_the_base_is_scored_on_those_that_it_was_not_trained_on(report, trained):
    trained.set(**{"prepare.seed": 7})
    trained.run()

    report(trained, "--base", "HEAD")

    found = written(trained)
    total = found.candidate.facts.metrics["roc_auc"].n
    assert (found.state, found.baseline.how) == ("compared", "rebuilt")
    assert found.baseline.left_out > 200
    assert found.baseline.common + found.baseline.left_out == total
    assert {each.n for each in found.comparisons if each.metric == "roc_auc"} == {found.baseline.common}
    assert found.baseline.facts.metrics["roc_auc"].n == found.baseline.common
    assert found.baseline.facts.metrics["model_bytes"].value > 10_000
    assert f"{found.baseline.left_out} rows that it has trained on left out" in markdown(trained)
    assert found.changes.data.added > 200
    assert found.changes.data.removed > 200
    kept = answers.load((trained.path / "reports/baseline.answers").read_bytes(), "baseline")
    assert len(kept.rows) == found.baseline.common  # so that main's code leaves out the same


@pytest.mark.usefixtures("remembered")
def test_what_the_ledger_has_of_the_base_is_what_its_training_here_would_tell(report, trained):
    done = report(trained, "--base", "HEAD")

    told = written(trained)
    trained.call("git", "update-ref", "-d", "refs/heads/ledger")
    report(trained, "--base", "HEAD")
    trained_here = written(trained)
    assert TRAINING not in done.stderr
    assert (told.baseline.how, told.baseline.behind, trained_here.baseline.how) == ("ledger", 0, "rebuilt")
    assert told.comparisons == trained_here.comparisons
    assert told.judged == trained_here.judged
    assert told.baseline.facts.metrics == trained_here.baseline.facts.metrics
    assert told.changes == trained_here.changes
    assert told.baseline.digest == trained_here.baseline.digest


@pytest.mark.usefixtures("remembered")
def test_where_the_base_is_not_in_the_ledger_its_nearest_ancestor_there_is_the_baseline(report, trained):
    released = head(trained)
    trained.commit("words")
    trained.commit("more words")

    done = report(trained, "--base", "HEAD")

    assert (written(trained).baseline.commit, written(trained).baseline.behind) == (released, 2)
    assert f"against main {released[:7]}, 2 commits before it on the" in markdown(trained)
    assert TRAINING not in done.stderr


@pytest.mark.usefixtures("remembered")
def test_a_commit_that_was_not_allowed_is_passed_over(report, trained):
    released = head(trained)
    trained.commit("worse")
    enter(trained, head(trained), mine(trained), "fail", allowed=False)

    report(trained, "--base", "HEAD")

    assert (written(trained).baseline.commit, written(trained).baseline.behind) == (released, 1)


@pytest.mark.usefixtures("remembered")
def test_an_entry_farther_away_than_the_gates_say_is_none(report, trained):
    gates(trained, LOW, baseline=FEW | {"ancestors": 0})
    trained.commit("nearer")

    report(trained, "--base", "HEAD", "--no-train")

    assert written(trained).state == "lost"


def corrupted(name, content):
    """Return what writes a file of HEAD's entry over."""

    def write(trained):
        Ledger(trained.path).write({f"baselines/{head(trained)}/{name}": content}, "damage")

    return write


def disguised(trained):
    """Write answers that are none, with their right checksum."""
    entry = Ledger(trained.path).entry(head(trained))
    Ledger(trained.path).write(ledger.write_entry(entry, {ledger.ANSWERS: b"no answers"}), "damage")


def of_another(trained):
    content = Ledger(trained.path)._read(f"baselines/{head(trained)}/entry.json")
    corrupted("entry.json", content.replace(head(trained).encode(), FOREIGN.encode()))(trained)


def older(trained):
    """Damage an entry that is no baseline, and may be the mark."""
    commit = head(trained)
    trained.commit("words")
    enter(trained, head(trained), mine(trained, "default"))
    Ledger(trained.path).write({f"baselines/{commit}/entry.json": b"{}"}, "damage")


def older_answers(trained):
    commit = head(trained)
    enter(trained, commit, better(mine(trained, "default"), 0.2))
    trained.commit("words")
    enter(trained, head(trained), mine(trained))
    Ledger(trained.path).write({f"baselines/{commit}/answers": b"changed"}, "damage")


DAMAGE = {
    "an entry that is no JSON": (corrupted("entry.json", b"PK\x03\x04"), "JSON is malformed"),
    "an entry with too much in it": (corrupted("entry.json", b'{"html": "<b>"}'), "Object contains unknown field"),
    "an empty entry": (corrupted("entry.json", b""), "it is empty"),
    "an entry of another commit": (of_another, "it says that it is of eeeeeee"),
    "answers that were changed": (corrupted("answers", b"changed"), "answers is not the file that was written"),
    "answers that are none": (disguised, "these are no answers of a model"),
    "an entry of an older commit": (older, "Object missing required field"),
    "answers of an older commit": (older_answers, "answers is not the file that was written"),
}  # fmt: skip


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(("damage", "why"), DAMAGE.values(), ids=DAMAGE)
def test_a_ledger_that_cannot_be_trusted_is_an_error_and_never_green(report, trained, damage, why):
    damage(trained)

    done = report(trained, "--base", "HEAD", "--exit-code")

    found = written(trained)
    assert done.returncode == 1
    assert (found.verdict, found.allowed, found.state, found.baseline) == ("error", False, "lost", None)
    assert "cannot be trusted: " in found.why
    assert why in found.why
    assert "run the release of " in found.why
    assert markdown(trained).startswith("### ⚠ Blocked: the baseline is lost: the ledger's entry of ")
    assert "✅" not in markdown(trained).splitlines()[0]
    assert TRAINING not in done.stderr


def test_a_ledger_of_a_history_that_was_rewritten_leaves_the_base_to_be_trained_here(report, trained):
    enter(trained, FOREIGN, mine(trained))

    report(trained, "--base", "HEAD")

    assert (written(trained).state, written(trained).baseline.how) == ("compared", "rebuilt")


@pytest.mark.parametrize("numbers", [True, False], ids=["its numbers are in git", "nothing is known of it"])
def test_a_base_that_is_neither_in_the_ledger_nor_can_be_trained_is_lost(report, trained, numbers):
    enter(trained, FOREIGN, mine(trained))
    gates(trained, LOW, baseline=FEW | {"if_not_comparable": "skip"})  # says nothing of what is lost
    params = (trained.path / "params.yaml").read_text()
    (trained.path / "params.yaml").write_text("a: [b")
    if not numbers:
        (trained.path / "reports/metrics.json").rename(trained.path / "kept.json")
    trained.commit("broken")
    (trained.path / "params.yaml").write_text(params)
    if not numbers:
        (trained.path / "kept.json").rename(trained.path / "reports/metrics.json")

    done = report(trained, "--base", "HEAD", "--exit-code")

    found = written(trained)
    assert (done.returncode, found.verdict, found.state) == (1, "error", "lost")
    assert (found.baseline is not None) == numbers
    assert (
        "the ledger has 1 commits, none of them this one or shortly before it; main could not be trained here"
        in found.why
    )


def test_before_the_first_commit_there_is_no_baseline_and_floors_judge(report, trained):
    root = trained.call("git", "rev-list", "--max-parents=0", "HEAD").stdout.strip()

    done = report(trained, f"--base={root}^1", "--exit-code")

    found = written(trained)
    assert (done.returncode, found.verdict, found.state, found.baseline) == (0, "pass", "first", None)
    assert found.why == "this is the first commit"


def test_in_a_shallow_clone_the_fix_is_to_fetch_the_rest(report, trained, tmp_path):
    trained.call("git", "clone", "--quiet", "--depth=1", f"file://{trained.path}", str(tmp_path / "clone"))
    clone = copy.copy(trained)
    clone.path = tmp_path / "clone"

    done = report(clone, "--base", "HEAD^1", "--exit-code")

    assert done.returncode == 2
    assert "error: there is no commit HEAD^1 in this shallow clone" in done.stderr
    assert "fix: git fetch --unshallow" in done.stderr


@pytest.mark.usefixtures("remembered")
def test_the_same_model_is_unchanged(report, trained):
    put(trained, "default")

    done = report(trained, "--base", "HEAD")

    assert written(trained).verdict == "unchanged"
    assert done.stdout.startswith(f"= Unchanged against main {head(trained)[:7]}: this is its model, bit for bit")
    assert {each.difference for each in written(trained).comparisons} == {0.0}


@pytest.mark.usefixtures("remembered")
def test_a_change_of_a_comment_is_unchanged(report, trained):
    put(trained, "default")
    (trained.path / "src/task/model.py").write_text((trained.path / "src/task/model.py").read_text() + "# a comment\n")
    trained.run()

    done = report(trained, "--base", "HEAD")

    found = written(trained)
    assert found.verdict == "unchanged"
    assert done.stdout.startswith(f"= Unchanged against main {head(trained)[:7]}: ")
    assert found.changes.code == (File("src/task/model.py", 1, 0),)


def test_without_a_base_the_gates_alone_are_judged(report, trained):
    done = report(trained)

    found = written(trained)
    measured = json.loads((trained.path / "reports/metrics.json").read_text())["test"]
    assert (found.baseline, found.state, found.champion, found.champion_why) == (None, "first", None, "")
    assert set(found.candidate.facts.metrics) == {*measured, "model_bytes"}
    assert row(done, "roc_auc ↑").endswith("≥ 0.5, no baseline")
    assert "baseline: none was asked for" in done.stdout
    assert TRAINING not in done.stderr


def test_everything_that_people_read_is_written(report, trained):
    for name in ("report.json", "report.md", "report.html", "model_card.md", "candidate.answers", "baseline.answers"):
        (trained.path / "reports" / name).unlink(missing_ok=True)

    report(trained)

    there = {path.name for path in (trained.path / "reports").iterdir()}
    assert {"report.json", "report.md", "report.html", "model_card.md", "candidate.answers"} <= there
    assert "baseline.answers" not in there
    assert markdown(trained).startswith("### ✅ roc_auc is 0.8")
    assert "roc_auc is 0.8" in (trained.path / "reports/report.html").read_text()
    card = (trained.path / "reports/model_card.md").read_text()
    assert f"Trained from commit `{head(trained)[:7]}+`." in card
    assert "`lightgbm.LGBMClassifier` predicts `income`, one of `<=50K`, `>50K`" in card
    assert f"- bundle `{written(trained).candidate.digest}`" in card


def test_the_seconds_are_those_of_the_stages_that_ran_last(report, trained):
    lines = [{"stage": name, "seconds": 1.5, "code": 0} for name in ("fingerprint", "train", "evaluate")]
    (trained.path / ".pawl/stages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    report(trained)

    assert written(trained).seconds == {"train": 1.5, "evaluate": 1.5}


def test_the_summary_of_a_job_is_the_report(report, trained, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")

    report(trained, GITHUB_STEP_SUMMARY=str(summary))

    assert summary.read_text() == "before\n" + markdown(trained)


@pytest.mark.parametrize("words", [[], ["--exit-code"]], ids=["not asked for", "asked for"])
def test_a_failed_floor_is_1_where_that_is_asked_for_and_the_report_is_written(report, trained, tmp_path, words):
    gates(trained, HIGH)
    for name in ("report.json", "report.md"):
        (trained.path / "reports" / name).unlink(missing_ok=True)

    done = report(trained, *words, GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"))

    assert done.returncode == len(words)
    assert done.stdout.startswith("❌ Blocked: roc_auc is 0.")
    assert written(trained).verdict == "fail"
    assert markdown(trained).startswith("### ❌ Blocked: roc_auc is 0.")
    assert "❌ Blocked" in (tmp_path / "summary.md").read_text()
    assert done.stderr == ""


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
    assert "❌ Blocked: rmse was not measured; 2 of 3 gates pass." in done.stdout


@pytest.mark.parametrize("base", ["origin/main", "mian", "0" * 40, "--help", "HEAD^^^^^^^", ""])
def test_a_base_that_is_not_there_is_2_with_a_fix(report, trained, base):
    done = report(trained, f"--base={base}")

    assert done.returncode == 2
    assert f"error: there is no commit {base}" in done.stderr
    assert "fix: name a commit that is here: git log --oneline" in done.stderr
    assert ("did you mean main?" in done.stderr) == (base in {"mian", "origin/main"})
    assert "Traceback" not in done.stderr


WRONG = {
    "no rules": "version: 1\nmetrics: {}\n",
    "no YAML": "a: [b",
    "an unknown key": "version: 1\nmetrics: {roc_auc: {direction: higher, flor: 0.5}}\n",
    "no file": None,
}


@pytest.mark.parametrize("base", [[], ["--base", "HEAD"]], ids=["alone", "where the base's judge"])
@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_wrong_gates_are_2_and_nothing_is_written(report, trained, content, base):
    (trained.path / "gates.yaml").unlink()
    if content is not None:
        (trained.path / "gates.yaml").write_text(content)
    (trained.path / "reports/report.json").unlink()

    done = report(trained, "--exit-code", *base)

    assert done.returncode == 2
    assert "where: gates.yaml" in done.stderr
    assert not (trained.path / "reports/report.json").exists()


UNTRAINABLE = {
    "a target that is not there": (lambda text: text.replace("target: income", "target: incme"), "main could not be trained here: target: incme"),
    "a file that is no YAML": (lambda _: "a: [b", "main could not be trained here: not valid YAML"),
    "a file that is empty": (lambda _: "", "main could not be trained here: the file holds no mapping"),
}  # fmt: skip


@pytest.mark.parametrize(("broken", "why"), UNTRAINABLE.values(), ids=UNTRAINABLE)
def test_of_a_base_that_cannot_be_trained_the_committed_numbers_are_shown_and_why(report, trained, broken, why):
    params = trained.path / "params.yaml"
    right = params.read_text()
    params.write_text(broken(right))
    trained.commit("broken")
    params.write_text(right)

    done = report(trained, "--base", "HEAD", "--exit-code")

    found = written(trained)
    assert (done.returncode, found.verdict, found.state) == (1, "error", "incomparable")
    assert why in found.why
    assert (found.baseline.how, found.baseline.digest, found.baseline.commit) == ("committed", None, head(trained))
    assert "roc_auc" in found.baseline.facts.metrics
    assert " n/c " in row(done, "roc_auc ↑")
    assert f"\nbaseline: {why[:42]}" in done.stdout
    assert f"### ⚠ Blocked: not comparable: {why}" in markdown(trained)


def test_where_the_gates_let_it_be_skipped_floors_judge_what_cannot_be_compared(report, trained):
    gates(trained, LOW, baseline=FEW | {"if_not_comparable": "skip"})
    trained.commit("lenient")

    done = report(trained, "--base", "HEAD", "--no-train", "--exit-code")

    assert (done.returncode, written(trained).verdict, written(trained).state) == (0, "pass", "incomparable")


def test_of_a_base_without_a_pipeline_that_is_said(report, trained):
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

    assert (written(trained).state, written(trained).baseline) == ("first", None)
    assert "baseline: main has no pipeline" in done.stdout


def test_numbers_that_are_none_are_as_if_there_were_none(report, trained):
    (trained.path / "reports/metrics.json").rename(trained.path / "kept.json")
    try:
        (trained.path / "reports/metrics.json").write_text('{"roc_auc": 0.9}\n')
        trained.commit("other numbers")
    finally:
        (trained.path / "kept.json").rename(trained.path / "reports/metrics.json")

    report(trained, "--base", "HEAD", "--no-train")

    assert (written(trained).state, written(trained).baseline) == ("incomparable", None)
    assert written(trained).verdict == "error"


@pytest.mark.parametrize("known", [True, False], ids=["in the ledger", "not in it"])
def test_nothing_is_trained_where_that_is_not_asked_for(report, trained, request, known):
    if known:
        request.getfixturevalue("remembered")

    done = report(trained, "--base", "HEAD", "--no-train")

    found = written(trained)
    assert TRAINING not in done.stderr
    assert (found.state, found.baseline.how) == (("compared", "ledger") if known else ("incomparable", "committed"))
    assert known or found.why == "main was not trained here, as was asked for"


@pytest.mark.usefixtures("remembered", "other_data")
def test_another_meaning_of_the_target_cannot_be_compared(report, trained):
    trained.set(positive="<=50K")
    trained.run()

    done = report(trained, "--base", "HEAD", "--exit-code")

    found = written(trained)
    assert (done.returncode, found.verdict, found.state) == (1, "error", "incomparable")
    assert found.why == "0 test rows are common to both, fewer than 100"


def test_a_table_that_git_does_not_have_is_the_base_s_too(report, trained):
    pa.csv.write_csv(pa.Table.from_batches(sample.batches(1200, 0, 0.0)), trained.path / "table.csv")
    (trained.path / ".git/info/exclude").write_text("table.csv\n")
    commit_other(trained, **{"ingest.source": "table.csv", "validate.min_rows": 5000})  # so that it ends early

    report(trained, "--base", "HEAD")

    assert "1200 rows" in written(trained).why


def test_numbers_of_an_earlier_model_are_not_told_as_those_of_this_one(report, trained):
    lock = yaml.safe_load((trained.path / "dvc.lock").read_text())
    lock["stages"]["train"]["outs"][0]["md5"] = f"{'5' * 32}.dir"  # as `make pipeline ARGS=train` leaves it
    (trained.path / "dvc.lock").write_text(yaml.safe_dump(lock))

    done = report(trained)

    assert done.returncode == 2
    assert "make run" in done.stderr


def test_numbers_that_git_brought_are_not_told_as_those_of_the_model_here(report, trained):
    numbers = trained.path / "reports/metrics.json"
    numbers.write_text(numbers.read_text().replace("0.8", "0.9"))

    done = report(trained)

    assert done.returncode == 2
    assert "reports/metrics.json is not of the model" in done.stderr


def test_after_another_table_main_itself_is_asked_and_not_what_came_before_it(report, trained):
    strangers = mine(trained)._replace(rows=np.sort(mine(trained).rows ^ np.uint64(1 << 40)))
    enter(trained, head(trained), strangers)

    report(trained, "--base", "HEAD")

    found = written(trained)
    assert (found.state, found.baseline.how) == ("compared", "rebuilt")
    assert all(each.metrics for each in found.baseline.facts.slices.values())


STALE = {
    "parameter": ("params.yaml", "n_estimators: 30", "n_estimators: 3", "train in params.yaml"),
    "schema": ("schema.yaml", "columns:", "columns: # changed", "schema.yaml"),
    "code": ("src/task/model.py", '"""', '"""Changed: ', "src/task/model.py"),
}


@pytest.mark.parametrize(("file", "old", "new", "named"), STALE.values(), ids=STALE)
def test_a_model_made_before_a_change_is_not_told_as_that_of_the_change(report, trained, file, old, new, named):
    text = (trained.path / file).read_text()
    (trained.path / file).write_text(text.replace(old, new, 1))

    done = report(trained, "--base", "HEAD")

    assert new in text.replace(old, new, 1)
    assert done.returncode == 2
    assert f"the model was trained before {named} changed" in done.stderr
    assert "run `make run`" in done.stderr


def test_a_label_called_yes_is_no_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text('positive: "yes"\n')
    Path("dvc.lock").write_text("stages: {train: {params: {params.yaml: {positive: yes}}}}\n")  # as DVC writes it

    assert measured.stale() is None


@pytest.mark.usefixtures("remembered")
def test_lowered_gates_do_not_judge_the_change_that_lowers_them_and_are_shown(report, trained):
    gates(trained, HIGH)
    trained.commit("a high bar")
    gates(trained, LOW)

    done = report(trained, "--base", "HEAD", "--exit-code")

    found = written(trained)
    assert (done.returncode, found.verdict) == (1, "fail")
    assert [each.reason for each in found.judged if each.metric == "roc_auc"] == ["below its floor 0.999"]
    assert Change("metrics.roc_auc.floor", "0.999", "0.5") in found.changes.gates
    assert "⚠ gates.yaml: metrics.roc_auc.floor 0.999 → 0.5, from the next change on" in done.stdout
    assert "⚠ gates.yaml changes, and judges from the next change on: `metrics.roc_auc.floor`" in markdown(trained)


@pytest.mark.parametrize(("commits", "verdict"), [(50, "fail"), (0, "pass")], ids=["a mark", "no mark"])
def test_many_small_losses_are_measured_against_the_best_that_main_had(report, trained, commits, verdict):
    best = head(trained)
    trained.commit("a bit worse")
    rule = {"log_loss": {"direction": "lower", "ceiling": 9.0, "max_regression": 0.01}}
    gates(trained, rule, baseline=FEW | {"high_water": commits})
    trained.commit("a bit worse again")
    for name, step in (("HEAD~2", 0.03), ("HEAD~1", 0.02), ("HEAD", 0.01)):
        enter(trained, head(trained, name), better(mine(trained), step))

    report(trained, "--base", "HEAD")

    [judged] = written(trained).judged
    mark = [each.commit for each in written(trained).comparisons if each.against == "high_water"]
    assert (written(trained).verdict, mark) == (verdict, [best] if commits else [])
    assert judged.reason.startswith(
        f"worse than the best of main ({best[:7]}) by " if commits else "≤ 9, worse by ≤ 0.01"
    )


def released(ask, trained, commit):
    words = ("release", "--version=3", f"--digest=sha256:{'3' * 64}", "--image=model@sha256:3")
    assert ask(keeper.main, trained, *words, PAWL_COMMIT=commit) == 0


@pytest.mark.usefixtures("remembered")
def test_what_is_served_is_a_column_of_its_own(ask, report, trained):
    commit = head(trained)
    released(ask, trained, commit)

    done = report(trained, "--base", "HEAD")

    found = written(trained)
    assert (found.champion.name, found.champion.commit, found.champion.how) == (
        "champion, version 3", commit, "ledger",
    )  # fmt: skip
    assert found.champion.facts.metrics == found.baseline.facts.metrics
    assert found.champion_why == ""
    assert "champion" in done.stdout.split("metric")[1].splitlines()[0]
    assert f"; champion, version 3 {commit[:7]} on the " in markdown(trained)
    assert set(found.curves["roc"]) == {"candidate", "baseline", "champion"}


NO_CHAMPION = {
    "nothing was released": (lambda *_: None, "no release is in the ledger"),
    "its commit is not in the ledger": (lambda ask, trained: released(ask, trained, FOREIGN), "the ledger has no answers of version 3, of eeeeeee"),
    "it cannot be read": (lambda _, trained: Ledger(trained.path).write({ledger.CHAMPION: b"{}"}, "damage"), "the ledger's champion.json cannot be read"),
}  # fmt: skip


@pytest.mark.usefixtures("remembered")
@pytest.mark.parametrize(("make", "why"), NO_CHAMPION.values(), ids=NO_CHAMPION)
def test_where_no_champion_can_be_had_it_is_said_why_and_the_verdict_stays(ask, report, trained, make, why):
    make(ask, trained)

    report(trained, "--base", "HEAD")

    found = written(trained)
    assert found.champion is None
    assert found.champion_why.startswith(why)
    assert found.verdict == "pass"
    assert f"no champion: {cell(why)}" in markdown(trained)


def test_everything_that_is_another_is_listed(report, trained):
    texts = {name: (trained.path / name).read_text() for name in ("params.yaml", *FILES)}
    pins = re.findall(r"^numpy==(\S+)", texts["requirements/pipeline.txt"], re.MULTILINE)  # one per version of Python
    trained.set(**{"featurize.min_category_rows": 10})
    trained.edit("requirements/pipeline.txt", f"numpy=={pins[0]} ", "numpy==1.0 ")
    trained.edit("schema.yaml", "scale: 48.0", "scale: 47.0")
    trained.edit("src/task/model.py", '"""', '"""Before. ')
    trained.commit("before")
    for name, text in texts.items():
        (trained.path / name).write_text(text)
    known = mine(trained)
    theirs = known.take(np.arange(len(known.rows)) >= 30)._replace(total=len(known.rows) - 30)
    columns = {name: each for name, each in written(trained).candidate.columns.items() if name != "age"}
    enter(trained, head(trained), theirs, splits={"train": 2000, "valid": 300, "test": 500}, columns=columns)

    report(trained, "--base", "HEAD")

    found = written(trained).changes
    assert Change("featurize.min_category_rows", "10", "20") in found.params
    assert found.dependencies == (Change("numpy", ", ".join(["1.0", *pins[1:]]), ", ".join(pins)),)
    assert found.schema == (Change("columns.age.scale", "47.0", "48.0"),)
    assert [each.path for each in found.code] == ["src/task/model.py"]
    assert found.gates == ()
    assert (found.data.added, found.data.removed) == (30, 0)
    assert found.data.rows["train"] == (2000, written(trained).candidate.splits["train"])
    assert next((each.column, each.kind) for each in found.data.shifts) == ("age", "added")
    text = markdown(trained)
    assert "| `numpy` | `1.0" in text
    assert "of the test rows 30 new, 0 gone" in text
    assert "| `age` | added |" in text


def test_without_a_model_it_says_what_to_run(report, untouched):
    done = report(untouched)

    assert done.returncode == 2
    assert "error: there is no evaluated model" in done.stderr
    assert "fix: run `make run`" in done.stderr
    assert not (untouched.path / "reports/report.json").exists()
