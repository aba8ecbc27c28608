"""Each example as a user runs it: `make run EXAMPLE=name` in a fresh clone, to its registered, served and printed end. Adult is in test_run.py."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from pawl import tracking
from pawl.gate import rules, verdict
from pawl.gate.verdict import Facts
from pawl.parts import Value
from scripts import workspace

ROOT = Path(__file__).parents[2]
DEAD = "http://127.0.0.1:9"  # examples have a registry of their own, wherever yours is


@pytest.fixture(scope="module")
def ran(untouched):
    """Return (folder of an example, what `make run` said of it)."""
    said = {}

    def run(name):
        if name not in said:
            said[name] = untouched.call("make", "run", f"EXAMPLE={name}", MLFLOW_TRACKING_URI=DEAD).stdout
        return untouched.path / ".pawl/examples" / name, said[name]

    return run


def blocks(name, kind):
    return re.findall(
        rf"^```{kind}\n(.*?)^```$", (ROOT / f"examples/{name}/README.md").read_text(), re.MULTILINE | re.DOTALL
    )


def measured(folder, split="test"):
    found = json.loads((folder / "reports/metrics.json").read_text())[split]
    return {name: each["value"] for name, each in found.items()}


@pytest.mark.parametrize(
    ("name", "registered", "model"),
    [
        ("iris", "iris", "LogisticRegression for species"),
        ("churn", "ChurnPredictor", "GradientBoostingClassifier for churned"),
        pytest.param("diabetes", "diabetes", "Ridge for progression", marks=pytest.mark.e2e),  # .ci/run runs it too
    ],
)
def test_an_example_goes_the_whole_way_and_says_what_its_readme_says(ran, untouched, name, registered, model):
    folder, said = ran(name)

    assert model in said
    assert f"\n{registered} version 1 is in mlflow.db (new; candidate): sha256:" in said
    assert "The service answers every golden row as it was evaluated, alone and in a batch." in said
    assert f"models:/{registered}@candidate is version 1. Ten rows of the test split:" in said
    (shown,) = blocks(name, "text")
    assert [line for line in shown.splitlines() if f"\n{line}" not in said] == []
    assert (folder / "mlflow.db").exists()
    assert not {"data", "models", "mlflow.db", "dvc.lock"} & {path.name for path in untouched.path.iterdir()}
    assert untouched.call("git", "status", "--porcelain").stdout == ""
    HELD[name](folder, printed(said))


def printed(said):
    lines = said.split("Ten rows of the test split:\n")[1].split("next:")[0].splitlines()
    head, *rows = [tuple(line.split()) for line in lines if line]
    assert (head, len(rows)) == (("actual", "predicted"), 10)
    return rows


def iris(folder, rows):
    tested = pd.read_parquet(folder / "data/prepared/test.parquet")["species"].astype(str)
    assert [actual for actual, _ in rows] == tested.head(10).tolist()
    assert {predicted for _, predicted in rows} <= {"setosa", "versicolor", "virginica"}
    assert sum(actual == predicted for actual, predicted in rows) >= 9
    assert measured(folder)["accuracy"] > 0.9


def diabetes(folder, rows):
    assert all(0 < float(actual) < 400 and 0 < float(predicted) < 400 for actual, predicted in rows)
    assert measured(folder)["rmse"] < 62
    assert measured(folder)["r2"] > 0.3
    assert measured(folder, "cv")["cv_rmse_mean"] < 62


def churn(folder, rows):
    assert {cell for row in rows for cell in row} == {"yes", "no"}
    report = json.loads((folder / "reports/report.json").read_text())
    found = json.loads((folder / "reports/metrics.json").read_text())["cv"]["cv_roc_auc_mean"]
    assert (found["n"], found["value"] > 0.85) == (5, True)
    assert measured(folder)["roc_auc"] > 0.85
    judged = [(each["verdict"], each["reason"][:6]) for each in report["judged"] if each["rule"] == "roc_auc"]
    assert judged == [("pass", "≥ 0.85")]
    names = json.loads((folder / "models/bundle/manifest.json").read_text())["feature_names"]
    assert names[:5] == ["tenure_months", "monthly_charges", "num_support_tickets", "total_value", "tickets_per_month"]


HELD = {"iris": iris, "diabetes": diabetes, "churn": churn}


def test_churn_ships_nothing_below_its_gate():
    gates = rules.load(ROOT / "examples/churn/gates.yaml")

    found = [
        verdict.judge(gates, Facts({"roc_auc": Value(auc, auc, auc, 800)}), [], "first", date(2026, 1, 1))[0].verdict
        for auc in (0.8499, 0.8501)
    ]

    assert found == ["fail", "pass"]


def test_what_churn_derives_and_what_cannot_be_derived():
    place = ROOT / "examples/churn/src/task/features.py"
    features = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("churn", place))
    spec.loader.exec_module(features)
    given = {
        "tenure_months": [11, -1, 3e38, None],
        "monthly_charges": [50, 50, 3e38, 50],
        "num_support_tickets": [6, 6, 6, 6],
    }

    found = features.derive(pd.DataFrame(given, dtype=float))

    assert found["total_value"].fillna(-7).tolist() == [550, -7, 1e30, -7]
    assert found["tickets_per_month"].fillna(-7).tolist() == [0.5, -7, 6 / (3e38 + 1), -7]
    assert [*found] == [*features.derived_names(None, [*given])]


def test_the_differences_in_churns_readme_are_those_of_the_files():
    before, after = (
        {line for path in (ROOT / place / "task").glob("*.py") for line in path.read_text().splitlines()}
        for place in ("src", "examples/churn/src")
    )

    shown = [line for block in blocks("churn", "diff") for line in block.splitlines()]

    assert [line for line in shown if line[1:] not in (before if line[0] == "-" else after)] == []
    assert len(shown) > 15


def test_another_name_is_refused_with_those_that_there_are(untouched):
    done = untouched.call("make", "run", "EXAMPLE=irs", check=False)

    assert done.returncode != 0
    assert "did you mean iris? allowed: adult, churn, diabetes, iris" in done.stderr


def test_its_table_is_made_where_there_is_none_or_an_older_one(untouched, monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *_: None)
    example, table = "examples/iris/generate.py", untouched.path / ".pawl/examples/iris/iris.csv"

    def entered():
        monkeypatch.chdir(untouched.path)
        workspace.enter("iris", "scripts.run", [])
        return table.read_text()

    assert (made := entered()).startswith("sepal_length,")
    table.write_text("mine")
    assert entered() == "mine"
    os.utime(untouched.path / example, (time.time() + 9,) * 2)
    assert entered() == made


@pytest.mark.e2e  # MLflow's server takes its time
def test_the_lines_of_python_in_the_readme_of_iris_load_it_by_its_alias(ran, untouched):
    _, said = ran("iris")
    (lines,), port = blocks("iris", "python"), tracking.free_port()
    words = ["make", "ui", "EXAMPLE=iris", f"PORT={port}"]
    with subprocess.Popen(words, cwd=untouched.path, env=untouched.environ(), start_new_session=True) as server:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            done = untouched.call(
                sys.executable, "-W", "ignore", "-c", lines.replace(":5000", f":{port}"), PYTHONPATH=""
            )
        finally:
            os.killpg(server.pid, signal.SIGTERM)

    rows = [tuple(line.split()[1:]) for line in done.stdout.splitlines()[1:]]
    assert rows == printed(said)
