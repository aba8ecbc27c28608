"""One search on Postgres, by processes of which one is killed. `make e2e` runs it; it needs a Docker engine."""

import json
import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e
TRIALS = 6
SPACE = {
    "train.params.num_leaves": {"low": 4, "high": 31, "log": True},
    "train.params.learning_rate": {"low": 0.02, "high": 0.3, "log": True},
}
HELD = """
import json, sys, optuna
(name,) = optuna.get_all_study_names(sys.argv[1])
trials = optuna.load_study(study_name=name, storage=sys.argv[1]).get_trials()
print(json.dumps([(each.number, each.state.name, each.user_attrs["slot"], each.user_attrs.get("values")) for each in trials]))
import mlflow
client = mlflow.MlflowClient("sqlite:///mlflow.db")
runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
print(json.dumps([(each.info.run_name, each.info.status) for each in runs if "mlflow.parentRunId" in each.data.tags]))
"""


def test_processes_share_a_search_and_of_one_that_is_killed_nothing_is_lost(fresh, postgres, extras):
    _, port, psql = postgres
    assert psql("CREATE DATABASE search").returncode == 0
    url = f"postgresql://postgres:only-for-tests@127.0.0.1:{port}/search"
    fresh.set(tune={"metric": "roc_auc", "trials": TRIALS, "space": SPACE})
    fresh.set(**{"ingest.replace": {"income": {"<=50K.": "<=50K"}}})  # MLflow refuses such keys
    environ = {"PAWL_TUNE_STORAGE": url, "PYTHONPATH": f"{fresh.path / 'src'}{os.pathsep}{extras}"}
    command = [sys.executable, "-m", "scripts.tune", "--workers", "1"]

    def started():
        env = fresh.environ(**environ)
        return subprocess.Popen(command, cwd=fresh.path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip

    going = [started(), started()]
    said = ""
    while " of " not in said.replace("trials: ", ""):
        line = going[0].stderr.readline()
        assert line, said
        said += line
    going[0].send_signal(signal.SIGKILL)  # in the middle of its second trial
    going.append(started())
    told = [each.communicate(timeout=900) for each in going]

    assert [each.returncode for each in going] == [-signal.SIGKILL, 0, 0], told
    done = fresh.call(sys.executable, "-c", HELD, url.replace("postgresql:", "postgresql+psycopg:"), **environ)
    trials, runs = (json.loads(line) for line in done.stdout.splitlines())
    complete = sorted(slot for _, state, slot, _ in trials if state == "COMPLETE")
    assert complete == list(range(TRIALS))
    assert {state for _, state, *_ in trials} <= {"COMPLETE", "FAIL", "PRUNED"}
    (lost,) = [(slot, values) for _, state, slot, values in trials if state == "FAIL"]
    assert lost in [(slot, values) for _, state, slot, values in trials if state == "COMPLETE"]  # again, the same
    assert len({name for name, _ in runs}) == len(runs) == TRIALS
    assert {status for _, status in runs} == {"FINISHED"}
    assert told[1][0] == told[2][0]  # the same conclusion in both
    assert "is best on" in told[2][0]
    assert " of 6 " in told[2][1]  # who came later did some
