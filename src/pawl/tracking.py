"""MLflow's tracking store: the server or database in MLFLOW_TRACKING_URI, or mlflow.db and mlartifacts/ here. Stages never log: a cached one would log no run.

The embedded store is read and written in this process: a server takes seconds to start. It names its artifacts as a server does
(mlflow-artifacts:/...), where MLflow would write absolute paths: they stay valid when the folders move, and `make ui` serves them.
"""

import contextlib
import fcntl
import functools
import http.client
import logging
import os
import random
import re
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from pawl import paths
from pawl.problem import Problem, Unreachable

URI, EXPERIMENT, LOCATION = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "PAWL_ARTIFACT_LOCATION"
HOME = "PAWL_STORE"  # the folder of the embedded store: scripts.tune sets it, so that trials elsewhere write into one
# A dead server is known in seconds and by name: with MLflow's own defaults it takes four minutes.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "AWS_MAX_ATTEMPTS": "2",
}
# What MLflow answers to who writes the same at the same moment: the row is there already, or was deleted meanwhile.
CONTESTED = {"BAD_REQUEST", "INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}
OUTSIDE = ("requests", "urllib3", "botocore", "boto3", "s3transfer", "azure", "google", "sqlalchemy")
Given = ParamSpec("Given")
Made = TypeVar("Made")
KIND = {"mlflow.experimentKind": "custom_model_development"}  # or MLflow shows the pages of language models
PROXIED = "mlflow-artifacts:/"
NOTE = "mlflow.note.content"
BUCKET = "a bucket needs its credentials here: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; or let the server send files (--serve-artifacts)"


class Store(NamedTuple):
    """A tracking store that answers."""

    client: Any  # mlflow.MlflowClient
    shown: str  # its address, without a password
    embedded: bool

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, made if there is none; raise Problem if it was deleted."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            place = f"{PROXIED}{name}" if self.embedded else os.environ.get(LOCATION) or None
            try:
                return str(self.client.create_experiment(name, place, KIND))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            found = self.client.get_experiment_by_name(name)  # another process was first
        if found.lifecycle_stage != "active":
            raise Problem(
                f"the experiment {name} is deleted", self.shown, f"restore it, or set {EXPERIMENT} to another"
            )
        return str(found.experiment_id)

    def files(self, uri: str) -> Any:
        """Return MLflow's repository of the artifacts below an address."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        here = f"{_home() / paths.ARTIFACTS}/{uri.removeprefix(PROXIED)}"
        return get_artifact_repository(here if self.embedded and uri.startswith(PROXIED) else uri)

    def download(self, uri: str, path: str, folder: Path) -> Path:
        """Return where a folder of artifacts now lies, below `folder`; raise Unreachable if it cannot be had."""
        try:
            return Path(self.files(uri).download_artifacts(path, str(folder)))
        except Exception as error:  # each kind of store has its own exceptions
            raise Unreachable(f"{path} of {uri} cannot be had: {_plain(error)}", self.shown, "is the artifact store up, and complete?") from error  # fmt: skip


def settled(write: Callable[Concatenate[Store, Given], Made]) -> Callable[Concatenate[Store, Given], Made]:
    """Let a write that may be repeated be repeated when another writer was in its way, after a while that differs for each of them."""

    @functools.wraps(write)
    def repeated(store: Store, /, *args: Given.args, **options: Given.kwargs) -> Made:
        from mlflow.exceptions import MlflowException

        said: list[str] = []
        for seconds in () if store.embedded else (1, 2, 4, 8):  # which one process at a time has
            try:
                return write(store, *args, **options)
            except MlflowException as error:
                said.append(str(error))
                if error.error_code not in CONTESTED or said.count(str(error)) > 2:  # thrice the same is no accident
                    raise
                time.sleep(random.uniform(0, seconds))  # noqa: S311 - no secret
        return write(store, *args, **options)

    return repeated


class Run(NamedTuple):
    """What is to be known of a run.

    identity: the tags by which it is found again: the same identity is never logged twice.
    metrics: (name, value, step); files: {path among the artifacts: file, folder or content}; datasets: (context, mlflow.entities.Dataset).
    started, ended: milliseconds since 1970. model: writes an MLflow model into a folder, given the ids of the run and of the model.
    """

    name: str
    identity: Mapping[str, str]
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    metrics: Sequence[tuple[str, float, int]]
    started: int
    ended: int
    files: Mapping[str, Path | bytes] = {}
    datasets: Sequence[tuple[str, Any]] = ()
    model: Callable[[str, str, Path], None] | None = None
    parent: str | None = None
    note: str = ""  # its description, where it has none


@contextlib.contextmanager
def store() -> Iterator[Store]:
    """Yield the store; raise Unreachable, within seconds, if it does not answer, refuses, or ends in the middle."""
    given = os.environ.get(URI)
    shown = without_password(given) if given else str(paths.STORE)
    if given and given.startswith("http"):
        _answers(shown)
    elif given and not re.match(r"(sqlite|postgresql|mysql|mssql)(\+\w+)?:", given):
        raise Problem(f"{URI} is no address that MLflow can have", shown, "write http:// or https://, or a database's: sqlite, postgresql, mysql, mssql")  # fmt: skip
    elif given and not os.environ.get(LOCATION):
        raise Problem(f"{URI} is a database, which keeps no files", shown, f"set {LOCATION} to where they go, for example s3://bucket/path")  # fmt: skip
    with contextlib.ExitStack() as stack:
        if not given:
            stack.enter_context(_alone())
            stack.callback(os.environ.pop, URI, None)  # MLflow writes it there
        mlflow = _mlflow()
        uri = given or f"sqlite:///{_home() / paths.STORE}"
        mlflow.set_tracking_uri(uri)
        client = None
        try:
            if not given and not (_home() / paths.STORE).exists():
                _make(_home() / paths.STORE)
            client = mlflow.MlflowClient(uri)
            client.search_experiments(max_results=1)  # whether it lets us in
            yield Store(client, shown, embedded=not given)
        except Exception as error:  # each kind of store has its own exceptions
            raise _told(error, shown, opened=client is not None) from error


def _mlflow() -> Any:
    """Return MLflow, brief with servers and with words."""
    os.environ.update({key: value for key, value in PATIENCE.items() if key not in os.environ})
    import mlflow

    for name in ("mlflow", "alembic"):  # importing it sets their levels
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def _make(path: Path) -> None:
    """Make an empty store: beside its place, and in it once it is whole."""
    part = _home() / paths.STATE / "store.part"
    shutil.copyfile(empty(), part)
    _place(part, path)


def _place(made: Path, path: Path) -> Path:
    """Move a file to its place once the disk has all of it; return the place."""
    with made.open("rb") as file:
        os.fsync(file.fileno())
    return made.replace(path)


def empty() -> Path:
    """Return a store in which there is nothing, not even an experiment: MLflow needs seconds to make it, so the environment keeps one."""
    from sqlalchemy import Engine, event

    mlflow = _mlflow()
    ours = sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK)
    kept = (Path(sys.prefix) if ours else _home() / paths.STATE) / f"mlflow-{mlflow.__version__}.db"
    if kept.exists():
        return kept

    def unsynced(connection: Any, _: Any) -> None:  # hundreds of steps need not wait for the disk one by one
        connection.execute("PRAGMA synchronous=OFF")

    with tempfile.TemporaryDirectory(dir=kept.parent) as name:
        made = Path(name) / "mlflow.db"
        event.listen(Engine, "connect", unsynced)
        try:
            mlflow.MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        finally:
            event.remove(Engine, "connect", unsynced)
        with contextlib.closing(sqlite3.connect(made)) as base, base:
            base.execute("DELETE FROM experiments")  # MLflow makes its own again, under the path of the store
        return _place(made, kept)


def _home() -> Path:
    return Path(os.environ.get(HOME, "")).absolute()


def without_password(uri: str) -> str:
    """Return an address without the user and password that may be in it."""
    return re.sub(r"(?<=://)[^/\s]*@", "", uri)


def _same(identity: Mapping[str, str]) -> str:
    return " and ".join(f"tags.`{key}` = '{value}'" for key, value in identity.items())


def find(store: Store, experiment: str, identity: Mapping[str, str]) -> Any:
    """Return the run that has these tags, finished or not; None if there is none."""
    runs = store.client.search_runs([experiment], _same(identity), order_by=["attributes.start_time ASC"])
    return min(runs, key=lambda run: run.info.status != "FINISHED", default=None)


def tagged(store: Store, experiment: str, key: str) -> dict[str, Any]:
    """Return {value of a tag: RunInfo} of the runs that have it; of those with the same value, a finished one."""
    found: dict[str, Any] = {}
    token = None
    while token != "":
        page = store.client.search_runs([experiment], f"tags.`{key}` LIKE '%'", max_results=1000, page_token=token)
        for run in page:
            if run.data.tags[key] not in found or run.info.status == "FINISHED":
                found[run.data.tags[key]] = run.info
        token = page.token or ""
    return found


def begun(
    store: Store,
    experiment: str,
    identity: Mapping[str, str],
    name: str,
    parent: str | None = None,
    started: int | None = None,
) -> Any:
    """Return the run that has these tags, made if there is none. started: milliseconds since 1970; now without it."""
    nested = {"mlflow.parentRunId": parent} if parent else {}
    return find(store, experiment, identity) or store.client.create_run(
        experiment, started, {**identity, **nested}, name
    )


@settled
def log(store: Store, experiment: str, run: Run) -> tuple[str, bool]:
    """Return (id of the run, whether it is new). What was killed half-way is taken up where it is, under the same id.

    Numbers go in one batch, learning curves in batches of a thousand, while files are sent; then every file is asked for.
    """
    from mlflow.entities import DatasetInput, InputTag, LoggedModelOutput, Metric, Param, RunTag

    client, tags = store.client, {**run.tags, **run.identity}
    found = find(store, experiment, run.identity)
    new = found is None or found.info.status != "FINISHED"
    told = {key: value for key, value in tags.items() if key.startswith("pawl.") or key == NOTE}  # not who asked last
    if not new and told.items() <= found.data.tags.items() and _complete(store, found, run):
        _tidy(store, experiment, run.identity)
        return str(found.info.run_id), False
    found = found or begun(store, experiment, run.identity, run.name, run.parent, run.started)
    if run.note and NOTE not in found.data.tags:
        tags.setdefault(NOTE, run.note)
    identity = str(found.info.run_id)
    model = _model(store, experiment, identity, run) if run.model else None
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as sending:
        staged = _staged(run.files, Path(folder) / "run")
        sent = sending.submit(send, store, found.info.artifact_uri, staged)
        points = [Metric(name, value, run.ended, step) for name, value, step in run.metrics]
        texts = [Param(key, str(value)[:6000]) for key, value in run.params.items()]
        client.log_batch(identity, points[:800], texts[:100])
        for start in range(100, len(texts), 100):
            client.log_batch(identity, params=texts[start : start + 100])
        for start in range(800, len(points), 1000):
            client.log_batch(identity, points[start : start + 1000])
        client.log_inputs(identity, [DatasetInput(each, [InputTag("mlflow.data.context", context)]) for context, each in run.datasets])  # fmt: skip
        if model and run.model and not _whole(store, model):  # what an alias may name is not written anew
            run.model(identity, model.model_id, Path(folder) / "model")
            send(store, model.artifact_location, Path(folder) / "model")
        sent.result()
    if model:
        if not model.metrics:  # of these MLflow refuses to be told twice
            ends = [
                Metric(name, value, run.ended, 0, model_id=model.model_id)
                for name, value, step in run.metrics
                if not step
            ]
            client.log_batch(identity, ends[:1000])
        client.finalize_logged_model(model.model_id, "READY")
        if not client.get_run(identity).outputs.model_outputs:  # nor of these
            client.log_outputs(identity, [LoggedModelOutput(model.model_id, 0)])
        client.set_tag(identity, "pawl.output", model.artifact_location)
    client.log_batch(
        identity, tags=[RunTag(*each) for each in tags.items()]
    )  # they say what is there: a report that was sent, too
    client.set_terminated(identity, end_time=run.ended)  # the last word: a run without it is taken up again
    _tidy(store, experiment, run.identity)
    return identity, new


def _tidy(store: Store, experiment: str, identity: Mapping[str, str]) -> None:
    """Delete what others of this identity began and did not finish: who still writes is refused, and finds the finished one next time."""
    for other in store.client.search_runs([experiment], f"{_same(identity)} and attributes.status = 'RUNNING'"):
        store.client.delete_run(other.info.run_id)
        if store.client.get_run(other.info.run_id).info.status == "FINISHED":  # meanwhile: others may name it
            store.client.restore_run(other.info.run_id)


def model_of(store: Store, run: str) -> Any:
    """Return the model of a run as an mlflow.entities.LoggedModel: of those that many writers began at once, the one that is whole; None if there is none."""
    experiment = store.client.get_run(run).info.experiment_id
    oldest = [{"field_name": "creation_timestamp"}]
    begun = store.client.search_logged_models([experiment], f"source_run_id = '{run}'", order_by=oldest)
    return min(begun, key=lambda model: str(model.status) != "READY", default=None)


def _model(store: Store, experiment: str, identity: str, run: Run) -> Any:
    digest = {key: run.tags[key] for key in ("pawl.digest",) if key in run.tags}
    return model_of(store, identity) or store.client.create_logged_model(experiment, "model", identity, digest)


def _complete(store: Store, found: Any, run: Run) -> bool:
    """Say whether a finished run's files are there: a store may have lost them."""
    if run.model and not _whole(store, model_of(store, found.info.run_id)):
        return False
    return set(_tops(run.files)) <= set(_listing(store.files(found.info.artifact_uri), deep=False))


def _whole(store: Store, model: Any) -> bool:
    """Say whether a model was sent, and is there: it is READY when every file had arrived."""
    there = model and str(model.status) == "READY"
    return bool(there) and "MLmodel" in _listing(store.files(model.artifact_location), deep=False)


def _tops(files: Mapping[str, Path | bytes]) -> list[str]:
    return [Path(name).parts[0] for name in files]


def _staged(files: Mapping[str, Path | bytes], folder: Path) -> Path:
    folder.mkdir()
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        elif content.is_dir():
            shutil.copytree(content, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(content, target)
    return folder


def send(store: Store, uri: str, folder: Path) -> None:
    """Send a folder, and raise Unreachable unless every file of it arrived."""
    mine = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if not mine:
        return
    try:
        to = store.files(uri)
        to.log_artifacts(str(folder))
        there = _listing(to)
    except Exception as error:
        fix = "the MLflow server sends them on: its log says more" if uri.startswith(PROXIED) else BUCKET
        if isinstance(error, ImportError):
            fix = "uv pip install -r requirements/s3.txt, or gs.txt, azure.txt"
        raise Unreachable(f"files cannot be sent: {_plain(error)}", without_password(uri), fix) from error
    if lost := [name for name, size in mine.items() if there.get(name) != size]:
        raise Unreachable(f"{len(lost)} of {len(mine)} files did not arrive whole, {lost[0]} for one", without_password(uri), "run it again: what is there is kept")  # fmt: skip


def _listing(repository: Any, path: str | None = None, *, deep: bool = True) -> dict[str, int]:
    """Return {path: bytes} of what a repository holds."""
    found: dict[str, int] = {}
    for each in repository.list_artifacts(path):
        if each.is_dir and deep:
            found |= _listing(repository, each.path)
        else:
            found[each.path] = each.file_size
    return found


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let one process at a time use the embedded store."""
    (_home() / paths.STATE).mkdir(exist_ok=True)
    with (_home() / paths.STATE / "store.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _answers(shown: str) -> None:
    """Raise Unreachable if nothing answers at an address, given without a password: urllib takes one for a part of the name."""
    fix = f"start it, or correct {URI}; without it an embedded store is used"
    for attempt in range(3):
        try:
            with urllib.request.urlopen(f"{shown.rstrip('/')}/health", timeout=4) as answer:  # noqa: S310 - the user's server
                if answer.read(2) != b"OK":
                    raise Unreachable("what answers there is no MLflow server", shown, fix)
        except urllib.error.HTTPError as error:
            if error.code in {404, 501} and "html" in error.headers.get("Content-Type", ""):
                raise Unreachable("what answers there is no MLflow server", shown, fix) from error
            return  # something answers: what it refuses is told by the first call
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = str(getattr(error, "reason", error))
            if attempt == 2 or not isinstance(error, OSError):
                raise Unreachable(f"the MLflow server does not answer: {cause}", shown, fix) from error
            time.sleep(0.5)
        else:
            return


def _told(error: Exception, shown: str, *, opened: bool) -> Exception:
    """Return what an error of the store means to a user; the error itself where it is not the store's."""
    from mlflow.exceptions import MlflowException

    theirs = not opened or isinstance(error, MlflowException) or type(error).__module__.startswith(OUTSIDE)
    if isinstance(error, Problem) or not theirs:
        return error
    said = _plain(error)
    if re.search(r"(?i)\b40[13]\b|PERMISSION_DENIED|UNAUTHENTICATED|unauthorized|forbidden", said):
        return Unreachable(f"MLflow refuses: {said}", shown, "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD")  # fmt: skip
    if "Failed to list artifacts" in said:
        return Unreachable(f"files cannot be looked for: {said}", shown, BUCKET)
    if "out-of-date database schema" in said:
        return Problem(
            f"MLflow is newer than its database: {said}",
            shown,
            f"mlflow db upgrade sqlite:///{paths.STORE}; keep a copy first",
        )
    return Unreachable(
        f"MLflow does not do it: {said}",
        shown,
        "its log says more; run it again when it answers: what is there is taken up",
    )


def _plain(error: BaseException) -> str:
    return without_password(" ".join(f"{type(error).__name__}: {error}".split()))[:300]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(host: str, port: int) -> list[str]:
    """Return the command that serves the embedded store."""
    where = ["--backend-store-uri", f"sqlite:///{paths.STORE}", "--artifacts-destination", f"./{paths.ARTIFACTS}"]
    return [sys.executable, "-m", "mlflow", "server", *where, "--host", host, "--port", str(port), "--workers", "1"]


def quiet() -> dict[str, str]:
    """Return the environment of a server that only stores: no telemetry, no job queue."""
    return {**os.environ, **PATIENCE, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
