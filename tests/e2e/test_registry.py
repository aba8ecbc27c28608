"""A registry on servers: Postgres, S3, MLflow's own; and without one, in a container registry. `make e2e` runs it; it needs a Docker engine."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
import uuid

import pytest

from pawl import tracking

pytestmark = pytest.mark.e2e
# What a user of MLflow does, with nothing of ours but the name: the champion against the pipeline, bit for bit.
USE = """
import json, sys, mlflow, numpy as np, pandas as pd, pyarrow.parquet as pq
from pathlib import Path
model = mlflow.pyfunc.load_model("models:/pawl@champion")
rows = pq.read_table("data/prepared/test.parquet").to_pandas()
names = [each.name for each in model.metadata.get_input_schema().inputs]
texts = rows[names].select_dtypes("category").columns
answer = model.predict(rows[names].astype(dict.fromkeys(texts, object)))  # MLflow takes no pandas category for a text
kept = pq.read_table("reports/predictions.parquet").to_pandas().set_index("row_id").loc[rows["row_id"]]
score = np.array([each[">50K"] for each in answer["probabilities"]])
print(json.dumps({"rows": len(rows), "same": bool((score == kept["probability >50K"]).all()), "labels": sorted(set(answer["predictions"]))}))
native = mlflow.lightgbm.load_model("models:/pawl@champion")
print(json.dumps({"trees": native.num_trees()}))
"""


@pytest.fixture(scope="module")
def served(postgres, s3, extras, tmp_path_factory, patiently):
    """Return a function that starts MLflow's server on Postgres and S3, and gives its address."""
    started = []
    _, port, psql = postgres

    def start(*words):
        name = f"mlflow_{uuid.uuid4().hex[:6]}"
        assert psql(f"CREATE DATABASE {name}").returncode == 0
        database = f"postgresql+psycopg://postgres:only-for-tests@127.0.0.1:{port}/{name}"
        number = tracking.free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, *words]
        folder = tmp_path_factory.mktemp("mlflow")
        with (folder / "log").open("w") as log:
            environ = {**tracking.quiet(), **s3, "PYTHONPATH": extras}
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(number), "--workers", "1"],
                cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        started.append(process)
        uri = f"http://127.0.0.1:{number}"
        patiently(lambda: subprocess.run(["curl", "-sf", f"{uri}/health"], check=False, capture_output=True, text=True))
        return uri, database

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def project(fresh):
    """A small project whose model passes."""
    lenient = {"version": 1, "metrics": {"roc_auc": {"direction": "higher", "floor": 0.5}}}
    (fresh.path / "gates.yaml").write_text(json.dumps(lenient))
    fresh.commit("lenient gates")
    return fresh


def used(project, **environ):
    done = project.call(sys.executable, "-c", USE, **environ)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("how", ["files through the server", "files straight to the bucket"])
def test_make_run_against_a_server_and_mlflow_serves_what_it_registered(project, served, s3, extras, how):
    place = "s3://pawl/" + uuid.uuid4().hex[:6]
    words = (
        ["--artifacts-destination", place]
        if "through" in how
        else ["--default-artifact-root", place, "--no-serve-artifacts"]
    )
    uri, _ = served(*words)
    environ = {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_EXPERIMENT_NAME": "income models",
        "PYTHONPATH": f"{project.path / 'src'}{os.pathsep}{extras}",
    }
    environ |= s3 if "straight" in how else {}

    ran = project.call("make", "run", **environ)
    promoted = project.call(sys.executable, "-m", "scripts.promote", **environ)
    again = project.call(sys.executable, "-m", "scripts.register", "--image", "x@sha256:1", **environ)

    assert f"pawl version 1 is in {uri} (new; candidate)" in ran.stdout
    assert "pawl version 1 is champion" in promoted.stdout
    assert "registered before; candidate, champion" in again.stdout
    python = {**environ, "PYTHONPATH": extras}  # nothing of this project: what the model needs lies in it
    table, native = used(project, **python)
    assert table["same"]
    assert table["labels"] == ["<=50K", ">50K"]
    assert native["trees"] > 0

    port = tracking.free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/pawl@champion", "--env-manager", "local", "-p", str(port)],
        cwd=project.path, env=project.environ(**python), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        golden = json.loads((project.path / "models/bundle/golden.json").read_text())
        answers = [
            asked(port, [record], server) for record in golden["records"]
        ]  # each alone: a lone null is the hard case
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
    assert [each[0]["probabilities"][">50K"] for each in answers] == [pair[1] for pair in golden["probabilities"]]
    assert {each[0]["predictions"] for each in answers} <= {"<=50K", ">50K"}


def asked(port, records, server):
    """Return what `mlflow models serve` answers, once it does."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps({"dataframe_records": records}).encode(),
        {"Content-Type": "application/json"},
    )
    for _ in range(240):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)["predictions"]
        except OSError:  # a URLError too
            assert server.poll() is None
            subprocess.run(["sleep", "0.25"], check=True)
    raise AssertionError("mlflow models serve does not answer")


def test_a_database_without_a_server_and_files_in_a_bucket(project, served, s3, extras):
    project.run()
    project.call(sys.executable, "-m", "scripts.report")
    _, database = served("--default-artifact-root", "s3://pawl/unused", "--no-serve-artifacts")
    environ = {
        **s3,
        "MLFLOW_TRACKING_URI": database,
        "PAWL_ARTIFACT_LOCATION": "s3://pawl/straight",
        "PYTHONPATH": f"{project.path / 'src'}{os.pathsep}{extras}",
    }

    done = project.call(sys.executable, "-m", "scripts.register", **environ)
    wrong = project.call(
        sys.executable,
        "-m",
        "scripts.register",
        "--image",
        "y",
        check=False,
        **{**environ, "AWS_SECRET_ACCESS_KEY": "wrong"},
    )
    absent = project.call(
        sys.executable,
        "-m",
        "scripts.register",
        "--image",
        "z",
        check=False,
        **{**environ, "PAWL_ARTIFACT_LOCATION": ""},
    )

    assert "version 1" in done.stdout
    assert "only-for-tests" not in done.stdout + done.stderr
    assert (wrong.returncode, absent.returncode) == (3, 2), wrong.stderr + absent.stderr
    assert "AWS_SECRET_ACCESS_KEY" in wrong.stderr
    assert "set PAWL_ARTIFACT_LOCATION" in absent.stderr
    assert "only-for-tests" not in wrong.stderr + absent.stderr


def test_without_a_server_the_registry_moves_through_a_container_registry(project, tmp_path):
    host = os.environ.get("PAWL_REGISTRY", "localhost:5000")
    place = f"{host}/pawl-{uuid.uuid4().hex[:8]}/registry"
    project.run()
    project.call(sys.executable, "-m", "scripts.report")
    script = [sys.executable, "-m"]

    project.call(*script, "scripts.store", "run", place, "--", *script, "scripts.register")
    for name in ("mlflow.db", "mlartifacts"):
        project.path.joinpath(name).rename(tmp_path / name)
    project.call(*script, "scripts.store", "run", place, "--", *script, "scripts.promote")
    again = project.call(*script, "scripts.register", GITHUB_OUTPUT=os.devnull)

    assert "version 1" in again.stdout
    assert "registered before; candidate, champion" in again.stdout
    listed = project.call(*script, "scripts.models").stdout
    assert listed.count("champion 20") == 1
