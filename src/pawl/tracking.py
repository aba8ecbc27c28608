"""Log the finished state as one MLflow run. Stages never do: a cached stage would log no run.

Where MLFLOW_TRACKING_URI names no server, one is started for the time of the call on mlflow.db and mlartifacts/: artifacts are then
named relative to the store, which may move to another machine; with a bare sqlite address MLflow writes absolute paths into it.
"""

import contextlib
import csv
import logging
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from pawl import paths
from pawl.problem import Unreachable

URI = "MLFLOW_TRACKING_URI"
# A dead server is known in seconds and by name: with MLflow's own defaults it takes four minutes.
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # fmt: skip
LOG = paths.STATE / "mlflow.log"


def command(port: int) -> list[str]:
    """Return the command that serves the embedded store."""
    where = ["--backend-store-uri", f"sqlite:///{paths.STORE}", "--artifacts-destination", f"./{paths.ARTIFACTS}"]
    return [sys.executable, "-m", "mlflow", "server", *where, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]  # fmt: skip


def quiet() -> dict[str, str]:
    """Return the environment of a server that only stores: no telemetry, no job queue."""
    return {**os.environ, **PATIENCE, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextlib.contextmanager
def store() -> Iterator[Any]:
    """Yield an mlflow.MlflowClient of the server in MLFLOW_TRACKING_URI, or of the embedded store; raise Unreachable if it does not answer."""
    os.environ.update({key: value for key, value in PATIENCE.items() if key not in os.environ})
    with contextlib.ExitStack() as stack:
        uri = os.environ.get(URI) or stack.enter_context(_embedded())
        if uri.startswith("http"):
            _answers(shown(uri))
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        if not os.environ.get(URI):  # MLflow writes it there, and the next call would ask a server that has ended
            stack.callback(os.environ.pop, URI, None)
        mlflow.set_tracking_uri(uri)
        try:
            yield mlflow.MlflowClient(uri)
        except mlflow.exceptions.MlflowException as error:
            fix = "a token goes into MLFLOW_TRACKING_TOKEN; the server's log says more"
            raise Unreachable(f"MLflow refuses: {str(error)[:300]}", shown(uri), fix) from error


def shown(uri: str) -> str:
    """Return an address without the user and password that may be in it."""
    return re.sub(r"(?<=://)[^/]*@", "", uri)


def log(
    client: Any, name: str, tags: Mapping[str, str], params: Mapping[str, Any], metrics: Mapping[str, float]
) -> str:
    """Return the run that has these tags: logged in one batch with the learning curves, the reports and the bundle, unless it is there already."""
    from mlflow.entities import Metric, Param, RunTag

    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    same = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in ("pawl.commit", "pawl.lock", "pawl.digest"))
    for run in client.search_runs([experiment], f"{same} and attributes.status = 'FINISHED'", max_results=1):
        if not client.list_artifacts(run.info.run_id, "bundle"):  # its files are gone: here they are again
            client.log_artifacts(run.info.run_id, str(paths.BUNDLE), "bundle")
        return str(run.info.run_id)
    run = client.create_run(experiment, run_name=tags["pawl.commit"][:7])
    now = int(time.time() * 1000)
    numbers = [Metric(f"test.{key}", value, now, 0) for key, value in metrics.items()]
    texts = [Param(key, str(value)[:6000]) for key, value in params.items()]
    identity = run.info.run_id
    client.log_batch(
        identity, metrics=numbers[:1000], params=texts[:100], tags=[RunTag(*each) for each in tags.items()]
    )
    curves = [Metric(key, value, now, step) for key, value, step in _curves()]
    for start in range(0, len(curves), 1000):
        client.log_batch(identity, metrics=curves[start : start + 1000])
    client.log_artifacts(identity, str(paths.BUNDLE), "bundle")
    for path in (
        paths.REPORT,
        paths.REPORT.with_suffix(".md"),
        paths.METRICS,
        paths.SLICES,
        paths.PARAMS,
        paths.SCHEMA,
        paths.LOCKFILE,
    ):
        client.log_artifact(identity, str(path), "reports" if path.parent.name else "inputs")
    client.set_terminated(identity)  # the last word: a run without it is logged again
    return str(identity)


def _curves() -> Iterator[tuple[str, float, int]]:
    with paths.HISTORY.open() as file:
        for line in csv.DictReader(file):
            yield f"{line['split']}.{line['metric']}", float(line["value"]), int(line["round"])


@contextlib.contextmanager
def _embedded() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths.STATE.mkdir(exist_ok=True)
    with LOG.open("w") as log_file:
        server = subprocess.Popen(command(port), env=quiet(), stdout=log_file, stderr=log_file, start_new_session=True)
    try:
        _answers(f"http://127.0.0.1:{port}", 60, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)


def _answers(uri: str, seconds: float = 5, server: Any = None) -> None:
    until, last = time.monotonic() + seconds, ""
    while True:
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=seconds).close()  # noqa: S310 - the user's server
        except OSError as error:
            last = str(getattr(error, "reason", error))
        else:
            return
        dead = server is not None and server.poll() is not None
        if dead or time.monotonic() > until:
            fix = (
                f"see {LOG}"
                if server is not None
                else f"start it, or correct {URI}; without it an embedded store is used"
            )
            raise Unreachable(f"the MLflow server does not answer: {last}", uri, fix)
        time.sleep(0.1)
