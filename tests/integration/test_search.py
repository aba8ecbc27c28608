"""A search by Optuna: every trial once, what was killed again, the same values for the same seed. The pipeline is played by a formula."""

import contextlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from pawl import answers, tracking
from scripts import track, tune, workspace

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # MLflow's own use of SQLAlchemy
LEAVES, RATE, TREES = "train.params.num_leaves", "train.params.learning_rate", "train.params.extra_trees"
SPACE = """tune:
  metric: roc_auc
  trials: 4
  space:
    train.params.num_leaves: {low: 7, high: 63, log: true}
    train.params.learning_rate: {low: 0.01, high: 0.2}
"""


class Searcher:
    """A project with a space, where a trial takes no time; tried: the values of the trials that ran."""

    def __init__(self, path, capsys):
        self.path, self.capsys, self.tried, self.dies = path, capsys, [], None
        shipped = (path / "params.yaml").read_text()
        self.write(shipped[: shipped.index("tune:")] + SPACE)

    def write(self, text):
        (self.path / "params.yaml").write_text(text)

    def space(self, old, new):
        text = (self.path / "params.yaml").read_text()
        assert old in text
        self.write(text.replace(old, new))

    def __call__(self, *words, code=0):
        """Return what a search says; it must end with this code."""
        with contextlib.chdir(self.path):
            ended = tune.main(["--workers", "1", *words], {})
        told = self.capsys.readouterr()
        assert ended == code, told
        return told

    def pipeline(self, folder, module, *words, **_):
        """Be the pipeline: answer rows the better, the nearer the values are to the best ones, and log that as a trial does."""
        if module != "scripts.trial":
            return 0, ""
        if len(self.tried) == self.dies:
            raise SystemExit(9)  # Optuna sees as little of it as of SIGKILL
        params = yaml.safe_load((folder / "params.yaml").read_text())["train"]["params"]
        leaves, rate = params["num_leaves"], params["learning_rate"]
        self.tried.append((leaves, rate))
        value = 0.9 - (math.log(leaves / 20) ** 2 + math.log(rate / 0.12) ** 2) / 50
        y, noise = np.arange(60) % 2, np.random.default_rng(0).random(60)
        probability = np.clip(y * (value - 0.5) + noise / 2, 0, 1)
        found = answers.Answers("binary", ("a", "b"), np.arange(60, dtype=np.uint64), y, (probability > 0.5).astype(int), answers.pair(probability), None, {}, 60)  # fmt: skip
        given = dict(zip(words[::2], words[1::2], strict=True))
        metrics = {"valid.roc_auc": value, "valid.roc_auc.low": value - 0.1, "valid.roc_auc.high": value + 0.1}
        metrics |= {"cv.cv_roc_auc_mean": 1 - leaves / 100, "test.roc_auc": leaves / 100}  # the test rows say otherwise
        one = tracking.Run(
            given["--name"], json.loads(given["--identity"]), {}, params, [(*each, 0) for each in metrics.items()], 0, 1,
            {"reports/valid.answers": answers.dump(found)}, parent=given["--parent"],
        )  # fmt: skip
        with contextlib.chdir(self.path), tracking.store() as store:
            tracking.log(store, store.experiment(track.experiment({})), one)
        return 0, ""

    @property
    def runs(self):
        with contextlib.chdir(self.path), tracking.store() as store:
            return store.client.search_runs([each.experiment_id for each in store.client.search_experiments()])

    @property
    def trials(self):
        """Return {state: slots} of the studies together."""
        url = f"sqlite:///{self.path}/.pawl/tune/study.db"
        found = {}
        for name in optuna.get_all_study_names(url):
            for each in optuna.load_study(study_name=name, storage=url).get_trials():
                found.setdefault(each.state.name, []).append(each.user_attrs.get("slot"))
        return {state: sorted(slots) for state, slots in found.items()}


@pytest.fixture
def searcher(untouched, empty, tmp_path, monkeypatch, capsys):
    """Return a function that makes a project with an empty store."""
    made = []

    def make():
        path = shutil.copytree(untouched.path, tmp_path / f"search{len(made)}", symlinks=True)
        shutil.copy2(Path(__file__).parents[1] / "sample/params.yaml", path / "params.yaml")
        shutil.copy(empty, path / "mlflow.db")
        made.append(Searcher(path, capsys))
        monkeypatch.setattr(workspace, "call", made[-1].pipeline)
        monkeypatch.delenv(tracking.URI, raising=False)
        return made[-1]

    return make


def test_tpe_tries_what_is_there_now_and_others_below_one_run(searcher):
    search = searcher()

    said = search()

    parent, *trials = sorted(search.runs, key=lambda each: "mlflow.parentRunId" in each.data.tags)
    assert search.tried[0] == (15, 0.05)  # params.yaml's
    assert search.trials == {"COMPLETE": [0, 1, 2, 3]}
    assert len(set(search.tried)) == len(trials) == 4
    assert all(isinstance(leaves, int) and 7 <= leaves <= 63 and 0.01 <= rate <= 0.2 for leaves, rate in search.tried)
    assert {each.data.tags["mlflow.parentRunId"] for each in trials} == {parent.info.run_id}
    assert parent.info.run_name == "tpe_nl_lr"
    best = max(trials, key=lambda each: each.data.metrics["valid.roc_auc"])
    assert parent.data.tags["pawl.best"] == best.info.run_id
    assert "What params.yaml has now, num_leaves 15" in " ".join(said.out.split())
    page = (search.path / f"mlartifacts/pawl/{parent.info.run_id}/artifacts/search.html").read_text()
    assert all(name in page for name in ("Optimization History", "Parallel Coordinate", "Hyperparameter Importances"))
    assert [line for line in said.err.splitlines() if " of 4 " not in line] == [
        "4 trials: 0 are finished, 4 run, 1 at once"
    ]


def test_a_search_that_was_killed_goes_on_with_the_values_that_it_would_have_had(searcher):
    search = searcher()
    search.dies = 2
    with pytest.raises(SystemExit):
        search()
    assert search.trials == {"COMPLETE": [0, 1], "RUNNING": [2], "WAITING": [3]}
    search.dies = None

    said = search("--trials", "6")

    assert "6 trials: 2 are finished, 4 run" in said.err
    assert search.trials == {"COMPLETE": [0, 1, 2, 3, 4, 5], "FAIL": [2]}
    whole = searcher()
    whole("--trials", "6")
    assert sorted(search.tried) == sorted(whole.tried)
    assert len(set(whole.tried)) == 6
    whole("--seed", "-100000000", "--trials", "2")
    assert whole.tried[-1] not in whole.tried[:-1]


def test_a_slot_that_two_processes_filled_is_tried_once(searcher, monkeypatch):
    search, fill = searcher(), tune.fill

    def twice(asked, slots, *, again):
        fill(asked, slots, again=again)
        if again:
            asked.enqueue_trial({}, {"slot": 1})

    monkeypatch.setattr(tune, "fill", twice)

    search()

    assert search.trials == {"COMPLETE": [0, 1, 2, 3], "PRUNED": [1]}
    assert len(search.tried) == 4


def test_workers_that_begin_at_once_try_different_values(searcher):
    search = searcher()

    search("--workers", "2", "--trials", "6", "--sampler", "random")

    assert search.trials == {"COMPLETE": [0, 1, 2, 3, 4, 5]}
    assert len(set(search.tried)) == len(search.tried) == 6


def test_after_the_time_no_trial_begins(searcher):
    search = searcher()

    said = search("--timeout", "0")

    assert search.tried == []
    assert "4 trials are left: the same command goes on" in said.err


def test_the_best_is_written_into_the_file_and_nothing_else_changes(searcher):
    search = searcher()
    search.space("    train.params.learning_rate: {low: 0.01, high: 0.2}", f"    {TREES}: [true]")
    search.space("num_leaves: {low: 7, high: 63, log: true}", "num_leaves: {low: 16, high: 24, step: 4}")
    before = (search.path / "params.yaml").read_text()

    said = search("--write", "--sampler", "random")

    after = (search.path / "params.yaml").read_text()
    assert after == before.replace("    num_leaves: 15\n", "    num_leaves: 20\n").replace(
        "    colsample_bytree: 0.7\n", "    colsample_bytree: 0.7\n    extra_trees: true\n"
    )
    assert "written into params.yaml" in said.out
    assert "What params.yaml has now is none of the trials" in " ".join(said.out.split())
    assert "0 run" in search("--sampler", "random").err  # it is the same search


def test_folds_choose_where_they_shall_and_the_test_rows_never(searcher):
    search = searcher()
    search.space("  trials: 4\n", "  trials: 5\n  objective: folds\n")
    search.space("  min_slice_rows: 50\n", "  min_slice_rows: 50\n  folds: 2\n")

    said = search()

    fewest = min(search.tried)[0]
    assert f"num_leaves {fewest}, " in said.out.splitlines()[7]
    assert f"roc_auc {1 - fewest / 100:.4g}" in " ".join(said.out.split())


def test_a_storage_that_does_not_answer_is_told_without_its_password(searcher):
    said = searcher()("--storage", "postgresql://me:canary@127.0.0.1:1/search", code=3)

    assert "the search's storage does not answer" in said.err
    assert "127.0.0.1:1/search" in said.err
    assert "canary" not in said.err
