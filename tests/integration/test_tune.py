"""Trials: one run each below the search's, never twice; the best is named, and how sure that is."""

import contextlib
import json
import signal
import subprocess
import sys

import pytest
import yaml

from pawl import tracking
from scripts import tune
from scripts.trial import initials

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


def test_what_has_no_rounds_cannot_be_ended_early(asked, monkeypatch, capsys):
    monkeypatch.chdir(asked.project.path)
    before = yaml.safe_load((asked.project.path / "params.yaml").read_text())["train"]
    asked.project.set(**{"train.model": "sklearn.linear_model.LogisticRegression", "train.params": {}})
    asked.project.set(tune={"metric": "roc_auc", "prune": True, "grid": {"train.params.C": [1, 2]}})
    text = (asked.project.path / "params.yaml").read_text()
    try:
        code = tune.main([])
    finally:
        asked.project.set(train=before)
        asked.space(GRID)

    told = capsys.readouterr().err
    assert code == 2
    assert "tune.prune: sklearn.linear_model.LogisticRegression has no rounds" in told
    assert f"where: params.yaml:{text.splitlines().index('  prune: true') + 1}\n" in told


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
