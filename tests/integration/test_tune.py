"""Trials: one run each below the search's, never twice; the best is named, and how sure that is."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace
from unittest import mock

import msgspec
import numpy as np
import optuna
import psutil
import pytest
import yaml

from pawl import config, tracking
from pawl.pipeline import train
from scripts import tune, workspace
from scripts.trial import Trial, initials

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # MLflow's own use of SQLAlchemy
LEAVES, RATE = "train.params.num_leaves", "train.params.learning_rate"
GRID = {LEAVES: [4, 15], RATE: [0.02, 0.3]}


class Search:
    """A project with a grid, driven through the command."""

    def __init__(self, project):
        self.project = project
        project.set(**{"ingest.replace": {"income": {"<=50K.": "<=50K"}}})  # MLflow refuses such keys
        self.space(GRID)

    def space(self, grid, metric="roc_auc"):
        self.project.set(tune={"metric": metric, "grid": grid})

    def command(self, *words):
        return [sys.executable, "-m", "scripts.tune", *words]

    def __call__(self, *words, code=0):
        done = self.project.call(*self.command(*words), check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def killed(self):
        """Start it, and kill it when the first trial is finished; return what it said."""
        env = self.project.environ()
        command = self.command("--workers", "2")
        started = subprocess.Popen(command, cwd=self.project.path, env=env, stderr=subprocess.PIPE, text=True)
        said = ""
        while "1 of" not in said:
            line = started.stderr.readline()
            assert line, said
            said += line
        started.send_signal(signal.SIGKILL)
        started.communicate()
        return said

    @property
    def runs(self):
        """Return {name: run} of the store."""
        with contextlib.chdir(self.project.path), tracking.store() as store:
            found = store.client.search_runs([each.experiment_id for each in store.client.search_experiments()])
        assert len({each.info.run_name for each in found}) == len(found)
        return {each.info.run_name: each for each in found}


@pytest.fixture(scope="module")
def asked(untouched):
    """A project with a grid that nobody tried."""
    return Search(untouched)


@pytest.fixture(scope="module")
def search(asked):
    """The same, after a search that was killed and one that was not."""
    made = asked
    made.started = made.killed()
    made.first = made("--workers", "2")
    made.found = made.runs
    made.parent = made.found.pop("grid_nl_lr")
    return made


@pytest.mark.e2e  # two searches of four trials
def test_a_search_that_was_killed_goes_on_and_runs_no_trial_twice(search):
    assert "4 trials: 0 are finished, 4 run" in search.started
    told = (
        search.first.stderr
    )  # killed in the moment in which it said so, a trial is in the store, and not yet in the study
    assert "  known\n" in told or "4 trials: 0 are finished" not in told
    assert sorted(search.found) == ["lgbm_nl_15_lr_0.02", "lgbm_nl_15_lr_0.3", "lgbm_nl_4_lr_0.02", "lgbm_nl_4_lr_0.3"]


@pytest.mark.e2e  # two searches of four trials
def test_a_trial_is_a_whole_run_below_the_search(search):
    for name, each in search.found.items():
        _, _, leaves, _, rate = name.split("_")
        files = search.project.path / "mlartifacts/pawl" / each.info.run_id / "artifacts/reports"
        assert each.data.tags["mlflow.parentRunId"] == search.parent.info.run_id
        assert (each.data.params["num_leaves"], each.data.params["learning_rate"]) == (leaves, rate)
        assert {"valid.roc_auc", "valid.roc_auc.low", "test.roc_auc", "seconds.train"} <= set(each.data.metrics)
        assert {"report.json", "valid.answers"} <= {file.name for file in files.iterdir()}
        assert each.data.tags["pawl.commit"].endswith("-dirty")  # its params.yaml is not the commit's
    assert not (search.project.path / "data").exists()  # the project's own outputs are left alone


@pytest.mark.e2e  # two searches of four trials
def test_the_best_is_said_with_how_sure_that_is(search):
    order = sorted(search.found, key=lambda name: -search.found[name].data.metrics["valid.roc_auc"])
    best, tags = search.found[order[0]], search.parent.data.tags
    lines, said = search.first.stdout.splitlines(), " ".join(search.first.stdout.split())

    assert [line.split()[1] for line in lines[1:5]] == order
    assert max(map(len, lines)) <= 80
    assert (
        f"num_leaves {best.data.params['num_leaves']}, learning_rate {best.data.params['learning_rate']} is best on"
        in said
    )
    assert "from the next, num_leaves" in said
    assert "the test rows still have to judge it" in said
    assert "python -m scripts.promote --best roc_auc --min 0.85" in said
    assert tags["mlflow.note.content"] in said
    assert tags["pawl.best"] == best.info.run_id
    assert list(json.loads(tags["pawl.compared"])) == order[1:]
    assert search.parent.info.status == "FINISHED"


@pytest.mark.e2e  # two searches of four trials
def test_again_nothing_runs_and_the_table_is_the_same(search, monkeypatch, capsys):
    monkeypatch.chdir(search.project.path)

    assert tune.main([]) == 0

    said = capsys.readouterr()
    assert "4 trials: 4 are finished, 0 run" in said.err
    assert said.out == search.first.stdout


@pytest.mark.e2e  # two searches of four trials
def test_of_a_grid_that_grew_what_is_new_runs_and_a_trial_that_fails_stops_no_other(search):
    search.space({LEAVES: [4], RATE: [0.02, -1, 0.3, 0.1]})
    try:
        done = search("--workers", "2", code=2)
    finally:
        search.space(GRID)
    new = {name: each for name, each in search.runs.items() if name not in {*search.found, "grid_nl_lr"}}

    assert sorted(line.split()[-1] for line in done.stderr.splitlines() if " of 4 " in line) == [
        "done",
        "failed",
        "known",
        "known",
    ]
    status = {name: each.info.status for name, each in new.items()}
    assert status == {"lgbm_nl_4_lr_-1": "FAILED", "lgbm_nl_4_lr_0.1": "FINISHED"}
    assert {each.data.tags["mlflow.parentRunId"] for each in new.values()} == {search.parent.info.run_id}
    assert "learning_rate" in new["lgbm_nl_4_lr_-1"].data.tags["mlflow.note.content"]
    assert "where: lgbm_nl_4_lr_-1\n" in done.stderr
    assert "lgbm_nl_4_lr_0.1 " in done.stdout


@pytest.mark.parametrize(
    ("space", "line", "what", "fix"),
    [
        ({"metric": "roc_auk"}, "  metric: roc_auk", "tune.metric: roc_auk is not a known name", "did you mean roc_auc?"),
        ({"metric": "rmse"}, "  metric: rmse", "tune.metric: rmse is not a known name", "allowed: accuracy"),
        ({"grid": {"train.params.num_leafs": [3]}}, "    - 3", "train.params.num_leafs is not a known name", "did you mean num_leaves?"),
        ({"grid": {"train.early_stoping": [3]}}, "    - 3", "train.early_stoping is not a known name", "did you mean early_stopping?"),
        ({"grid": {"train.early_stopping": [3, "many"]}}, "    - many", "train.early_stopping: expected `int`", "a whole number"),
        ({"grid": {"train.params.random_state": [3]}}, "    - 3", "has a key of its own", "set train.seed"),
        ({"space": {"train.early_stopping": {"low": 1.5, "high": 9}}}, "      low: 1.5", "train.early_stopping: expected `int`", "a whole number"),
        ({"grid": {"prepare.seed": [3]}}, "    prepare.seed:", "prepare.seed cannot be tried", "train, featurize, threshold"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_told_with_its_line_before_anything_runs(
    asked, monkeypatch, capsys, space, line, what, fix
):
    monkeypatch.chdir(asked.project.path)
    asked.project.set(tune={"metric": "roc_auc", "grid": GRID} | space)
    text = (asked.project.path / "params.yaml").read_text()
    try:
        code = tune.main([])
    finally:
        asked.space(GRID)

    told = capsys.readouterr().err
    assert code == 2
    assert what in told
    assert f"where: params.yaml:{text.splitlines().index(line) + 1}\n" in told
    assert fix in told


@pytest.mark.parametrize(
    ("given", "grid", "what"),
    [
        ({"model": "sklearn.linear_model.LogisticRegression", "params": {}}, {"train.params.C": [1, 2]}, "sklearn.linear_model.LogisticRegression has no rounds"),
        ({}, {"train.class_weight": [None, "balanced"]}, "with other train.class_weight training's metric is another one"),
    ],
)  # fmt: skip
def test_trials_whose_curves_cannot_be_compared_are_not_ended_early(asked, monkeypatch, capsys, given, grid, what):
    monkeypatch.chdir(asked.project.path)
    before = yaml.safe_load((asked.project.path / "params.yaml").read_text())["train"]
    asked.project.set(train=before | given, tune={"metric": "roc_auc", "prune": True, "grid": grid})
    text = (asked.project.path / "params.yaml").read_text()
    try:
        code = tune.main([])
    finally:
        asked.project.set(train=before)
        asked.space(GRID)

    told = capsys.readouterr().err
    assert code == 2
    assert f"tune.prune: {what}" in told
    assert f"where: params.yaml:{text.splitlines().index('  prune: true') + 1}\n" in told


def test_values_that_were_ended_early_are_not_trained_again():
    work, study = tune.Work.__new__(tune.Work), optuna.create_study()
    work.found = SimpleNamespace(space={LEAVES: [4]}, tune=SimpleNamespace(prune=True))
    for slot in (0, 1):
        study.enqueue_trial({LEAVES: 4}, {"slot": slot})
    first = study.ask()
    first.set_user_attr("values", {LEAVES: 4})
    study.tell(first, state=optuna.trial.TrialState.PRUNED)

    with pytest.raises(optuna.TrialPruned):
        work.attempt(study.ask())


def test_what_is_finished_stays_when_another_trial_of_its_values_is_lost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done, early = (Trial(name, {LEAVES: 4, "threshold": 0.2}, {"pawl.trial": name}) for name in ("done", "early"))
    work = tune.Work.__new__(tune.Work)
    work.lock, work.parent = threading.Lock(), "a" * 32
    with tracking.store() as store:
        work.experiment = store.experiment("pawl")
        store.client.set_terminated(tracking.begun(store, work.experiment, done.identity, done.name).info.run_id)

    for each in (done, early):
        work.lost(each, "ended early", "KILLED")

    with tracking.store() as store:
        runs = {each.info.run_name: each for each in store.client.search_runs([work.experiment])}
    assert {name: each.info.status for name, each in runs.items()} == {"done": "FINISHED", "early": "KILLED"}
    assert runs["early"].data.params == {LEAVES: "4"}  # a run's threshold is the one that was chosen


def test_a_search_whose_database_does_not_answer_for_a_while_hears_of_every_round(tmp_path):
    work, study = tune.Work.__new__(tune.Work), optuna.create_study()
    work.found, asked = SimpleNamespace(lower=False), study.ask()
    (tmp_path / "rounds").write_text("10 0.5\n20 0.6\n30 0.")
    seen, report = set(), asked.report
    silent = mock.Mock(side_effect=optuna.exceptions.StorageInternalError)

    for asked.report in (silent, report):
        work.watch(asked, seen, tmp_path / "rounds")

    assert silent.call_count == 1
    assert study.get_trials()[0].intermediate_values == {10: 0.5, 20: 0.6}


SHOWS = """
import signal, subprocess, sys, tempfile, time
signal.signal(signal.SIGTERM, signal.SIG_IGN if "stubborn" in sys.argv else lambda *_: sys.exit(143))
with tempfile.TemporaryDirectory(dir="."):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    open("began", "w").write(str(child.pid))
    try:
        time.sleep(60)
    finally:
        child.kill()
"""


@pytest.mark.parametrize("word", ["willing", "stubborn"])
def test_a_training_that_is_ended_takes_away_what_it_made_and_its_processes(tmp_path, monkeypatch, word):
    monkeypatch.setattr(workspace, "PATIENCE", 1)
    (tmp_path / "src").mkdir()
    (tmp_path / "src/shows.py").write_text(SHOWS)

    def hopeless():
        if (tmp_path / "began").exists() and (tmp_path / "began").read_text():
            raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        workspace.call(tmp_path, "shows", word, watch=hopeless)

    assert len(list(tmp_path.glob("tmp*"))) == (word == "stubborn")
    child = int((tmp_path / "began").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_what_a_search_sees_of_a_training_is_its_curve_on_the_validation_rows(tmp_path, monkeypatch, kind):
    rng = np.random.default_rng(0)
    X, noise, labels = rng.normal(size=(400, 3)), rng.normal(size=400), ["no", "yes"] if kind == "binary" else []
    y = (noise > 0).astype(int) if labels else noise
    model = "lightgbm.LGBMClassifier" if labels else "lightgbm.LGBMRegressor"
    params = msgspec.convert(
        {"model": model, "params": {"n_estimators": 25, "verbose": -1}, "early_stopping": 0}, config.Train
    )

    _, curves = train.fit(params, labels, X[:300], y[:300], X[300:], y[300:], str(tmp_path / "rounds"))
    monkeypatch.setenv(train.ROUNDS, str(tmp_path / "rounds"))
    train.fit(params, labels, X[:200], y[:200], X[200:], y[200:])  # a fold is none of its business

    (curve,) = curves["valid"].values()
    seen = [line.split() for line in (tmp_path / "rounds").read_text().splitlines()]
    assert [(int(number), -float(value)) for number, value in seen] == [
        (at, pytest.approx(curve[at - 1])) for at in (10, 20)
    ]


@pytest.mark.e2e  # two trials, of which one is begun twice
def test_a_trial_that_another_process_takes_for_dead_ends_no_search(fresh):
    fresh.set(**{"ingest.replace": {"income": {"<=50K.": "<=50K"}}})
    fresh.set(tune={"metric": "roc_auc", "prune": True, "grid": {LEAVES: [4, 7]}})
    words = [sys.executable, "-m", "scripts.tune", "--workers", "1"]
    going = subprocess.Popen(words, cwd=fresh.path, env=fresh.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    place, deadline = f"sqlite:///{fresh.path}/.pawl/tune/study.db", time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.2)
        with contextlib.suppress(Exception):  # it is not made yet
            (name,) = optuna.get_all_study_names(place)
            study = optuna.load_study(study_name=name, storage=place)
            if begun := [
                each for each in study.get_trials() if each.state.name == "RUNNING" and "values" in each.user_attrs
            ]:
                study.tell(begun[0].number, state=optuna.trial.TrialState.FAIL)
                break

    said = going.communicate(timeout=300)

    assert going.returncode == 0, said
    states = Counter((each.state.name, each.user_attrs["slot"]) for each in study.get_trials())
    assert states == {("FAIL", 0): 1, ("COMPLETE", 0): 1, ("COMPLETE", 1): 1}


@pytest.mark.e2e  # a search of seven trials
def test_a_trial_that_most_others_beat_is_ended_early_once_and_for_all(fresh, monkeypatch, capsys):
    good, hopeless = [5, 10, 20, 40, 60], [30_000, 40_000]  # rows in a leaf, of fewer: no split
    fresh.set(**{"ingest.replace": {"income": {"<=50K.": "<=50K"}}})
    fresh.set(**{"train.params.n_estimators": 100})
    fresh.set(tune={"metric": "roc_auc", "prune": True, "grid": {"train.params.min_child_samples": good + hopeless}})
    search = Search.__new__(Search)
    search.project = fresh

    said = search("--workers", "1")

    runs, names = search.runs, [f"lgbm_mcs_{number}" for number in hopeless]
    assert [line.split("  ")[-1] for line in said.stderr.splitlines() if " of 7 " in line][-2:] == ["ended early"] * 2
    assert "2 trials were ended early" in said.stderr
    assert "are left" not in said.stderr
    assert [runs[name].info.status for name in names] == ["KILLED"] * 2
    assert runs[names[0]].data.tags["mlflow.note.content"] == "ended early, at round 50: most others were better there"
    assert runs[names[0]].data.params["train.params.min_child_samples"] == "30000"
    assert sum(name in said.stdout for name in names) == 0
    assert not list((fresh.path / ".pawl/tune").glob("tmp*"))
    monkeypatch.chdir(fresh.path)
    assert tune.main(["--workers", "1"]) == 0
    again = capsys.readouterr()
    assert "7 trials: 7 are finished, 0 run" in again.err
    assert again.out == said.stdout


def test_without_a_section_it_is_said_what_to_add(asked, monkeypatch, capsys):
    monkeypatch.chdir(asked.project.path)
    params = yaml.safe_load((asked.project.path / "params.yaml").read_text())
    del params["tune"]
    (asked.project.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    try:
        code = tune.main([])
    finally:
        asked.space(GRID)

    assert code == 2
    assert "add for example  tune: {metric: roc_auc, grid:" in capsys.readouterr().err


def test_keys_with_the_same_initials_are_written_out():
    keys = ["train.params.max_depth", "train.params.min_data", "train.seed", "featurize.seed", "threshold"]

    assert list(initials(keys).values()) == ["max_depth", "min_data", "train.seed", "featurize.seed", "t"]
