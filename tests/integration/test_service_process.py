"""The service as a process: how it ends, what it does not serve, what its prediction log keeps, who may ask."""

import contextlib
import hashlib
import http.client
import json
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from lightgbm import LGBMClassifier
from sklearn.pipeline import Pipeline

from pawl import bundle, frames
from pawl.serving import predictor
from task.features import build_features
from task.model import build_model
from task.params import FeaturizeParams

ROOT = Path(__file__).parents[2]
DTYPES = {"age": "integer", "income": "number", "colour": "category"}
RECORDS = [
    {"age": number * 7 % 50, "income": None if number % 9 == 0 else number * 1.5, "colour": [None, "red", "green", "blue"][number % 4]}
    for number in range(300)
]  # fmt: skip
BODY = json.dumps(RECORDS[1]).encode()
JSON = {"Content-Type": "application/json"}


def make(folder, *, dtypes=DTYPES, rounds=15, compiled=True):
    whole, frame = (frames.from_records(RECORDS, each) for each in (DTYPES, dtypes))
    steps = [
        ("features", build_features(dtypes, FeaturizeParams(min_category_rows=1))),
        ("model", build_model(LGBMClassifier, {"n_estimators": rounds, "min_child_samples": 5, "random_state": 0})),
    ]
    pipeline = Pipeline(steps).fit(frame, (whole["age"] + 10 * (whole["income"] > 200) > 25).astype(int))
    manifest = {
        "task": "binary", "target": "y", "labels": ["no", "yes"], "threshold": 0.5, "features": dtypes, "rounds": None,
        "model": "lightgbm.LGBMClassifier", "digests": {}, "seen": {"age": [0, 49]},
    }  # fmt: skip
    golden = [{name: record[name] for name in dtypes} for record in RECORDS[:20]]
    return bundle.save(folder, pipeline, manifest, golden, np.arange(3, dtype=np.uint64), compiled=compiled)


def seal(folder, changed):
    """Change files of a bundle, and make its manifest right again as an attacker would."""
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    for name, content in changed.items():
        (folder / name).write_bytes(content)
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    del manifest["digest"]
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest | {"digest": f"sha256:{digest}"}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    make(folder)
    return folder


@pytest.fixture
def copied(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Running:
    """A service that was started: what it says on standard error is in a file."""

    def __init__(self, folder, told, *words, **environ):
        self.port, self.told = free_port(), told
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PAWL_", "COV_"))}
        env |= {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1", "PAWL_DRAIN_SECONDS": "0"}
        env |= {"PAWL_BUNDLE": str(folder), "PAWL_PORT": str(self.port), **environ}
        command = [sys.executable, *words, "-m", "pawl.serving"]
        with told.open("w") as stream:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=stream)

    def get(self, path, port=None):
        return ask(port or self.port, "GET", path)

    def post(self, body=BODY, path="/predict", **headers):
        return ask(self.port, "POST", path, body, {**JSON, **headers})

    def until(self, condition):
        """Return what a condition gives once it is true, as long as the process lives."""
        until = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if found := condition():
                    return found
            time.sleep(0.02)
        raise AssertionError(self.said())

    def ready(self):
        self.until(lambda: self.get("/readyz")[0] == 200)
        return self

    def end(self, number=signal.SIGTERM):
        """Return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def said(self):
        return self.told.read_text()

    def counted(self, name):
        lines = self.get("/metrics")[1].decode().splitlines()
        return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])


def ask(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def start(made, tmp_path):
    """Return what starts a service; all are ended."""
    running = []

    def begin(*words, folder=made, **more):
        running.append(Running(folder, tmp_path / f"said-{len(running)}", *words, **more))
        return running[-1]

    yield begin
    for each in running:
        each.process.kill()
        each.process.wait()


# How it ends


def test_who_follows_readiness_and_connection_close_loses_no_request(start):
    service = start(PAWL_DRAIN_SECONDS="3").ready()
    failed, answered, closed, away = [], [0] * 6, [0] * 6, threading.Event()

    def balancer():
        unready = 0
        while unready < 2:
            time.sleep(0.2)
            unready = 0 if service.get("/readyz")[0] == 200 else unready + 1
        away.set()

    def client(number):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        while not away.is_set():
            try:
                connection.request("POST", "/predict", BODY, JSON)
                answer = connection.getresponse()
                content = json.loads(answer.read())
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))
                return
            if answer.status != 200 or not content["predictions"]:
                failed.append(content)
            answered[number] += 1
            closed[number] += answer.getheader("Connection") == "close"  # http.client connects anew by itself

    threads = [threading.Thread(target=client, args=[number]) for number in range(6)]
    for thread in [*threads, watch := threading.Thread(target=balancer)]:
        thread.start()
    service.until(lambda: min(answered) > 20)
    code = service.end()
    for thread in [*threads, watch]:
        thread.join()

    assert failed == []
    assert sum(closed) > 0  # it went on answering after the signal, and said so
    assert code == 0
    assert [json.loads(line)["event"] for line in service.said().splitlines()] == ["started", "stopped"]


def test_a_request_in_flight_is_answered_after_sigterm_and_no_other_is_taken(start):
    service = start().ready()
    with socket.create_connection(("127.0.0.1", service.port)) as caller:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n"
        caller.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert caller.recv(1024).startswith(b"HTTP/1.1 100")  # the service reads it: it is in flight
        caller.sendall(BODY[:10])
        service.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):
            while True:
                socket.create_connection(("127.0.0.1", service.port)).close()
        caller.sendall(BODY[10:])
        answer = b"".join(iter(lambda: caller.recv(65536), b""))

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert service.process.wait(60) == 0


def test_a_second_sigterm_ends_the_drain(start):
    service = start(PAWL_DRAIN_SECONDS="80000").ready()
    service.process.send_signal(signal.SIGTERM)
    service.until(lambda: service.get("/readyz")[0] == 503)

    assert service.post()[0] == 200
    assert service.get("/healthz")[0] == 200
    assert service.end() == 0


def test_ctrl_c_does_not_wait_for_the_drain(start):
    assert start(PAWL_DRAIN_SECONDS="80000").ready().end(signal.SIGINT) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_ends_it(start, tmp_path, number):
    folder = tmp_path / "endless"
    folder.mkdir()
    os.mkfifo(folder / bundle.MANIFEST)
    service = start(folder=folder)
    held = os.open(folder / bundle.MANIFEST, os.O_WRONLY)  # waits until the service reads it: it starts

    assert service.end(number) == 0
    os.close(held)
    assert service.said() == ""


# What it does not serve


class Canary:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def cut(name, part=0.5):
    return lambda right: {name: right[name][: int(len(right[name]) * part)]}


SEALED = {
    "a model that was cut off": (cut(bundle.MODEL), "ends the process that loads it"),
    "an empty model": (cut(bundle.MODEL, 0), "LightGBM: "),
    "zeros for a model": (lambda right: {bundle.MODEL: bytes(len(right[bundle.MODEL]))}, "LightGBM: "),
    "another's model": (lambda right: {bundle.MODEL: right["other"]}, "golden rows otherwise than when it was made"),
    "a model of fewer features": (lambda right: {bundle.MODEL: right["narrow"]}, "the trees take 5 features and give 1 outputs, the encoder makes 6"),
    "an encoder that was cut off": (cut(bundle.ENCODER), "cannot be loaded: JSONDecodeError"),
    "an encoder of nothing": (lambda _: {bundle.ENCODER: b"{}"}, "cannot be loaded: KeyError"),
    "golden rows that were cut off": (cut(bundle.GOLDEN), "cannot be loaded: JSONDecodeError"),
}  # fmt: skip


@pytest.fixture(scope="module")
def right(made, tmp_path_factory):
    """Return the files of a bundle, and models of two others."""
    folder = tmp_path_factory.mktemp("others")
    make(folder / "other", rounds=16)
    make(folder / "narrow", dtypes={name: DTYPES[name] for name in ("age", "colour")})
    others = {name: (folder / name / bundle.MODEL).read_bytes() for name in ("other", "narrow")}
    return {name: (made / name).read_bytes() for name in (bundle.ENCODER, bundle.GOLDEN, bundle.MODEL)} | others


def test_no_damage_that_was_sealed_again_is_served_and_who_serves_goes_on(start, right, made, tmp_path):
    serving = start().ready()
    begun = {}
    for what, (change, _) in SEALED.items():
        folder = Path(shutil.copytree(made, tmp_path / what))
        seal(folder, change(right))
        begun[what] = start(folder=folder)

    told = {what: (each.process.wait(60), each.said()) for what, each in begun.items()}

    for what, (code, said) in told.items():
        assert (what, code) == (what, 2)
        assert SEALED[what][1] in said
        assert "Traceback" not in said
    assert serving.post()[0] == 200


@pytest.mark.parametrize("name", [bundle.MODEL, bundle.ENCODER])
def test_a_file_other_than_the_manifest_says_is_told_with_both_digests(start, copied, right, name):
    content = right[name][:-7]
    (copied / name).write_bytes(content)
    service = start(folder=copied)

    assert service.process.wait(60) == 2
    told = [f"{len(each)} bytes, SHA-256 {hashlib.sha256(each).hexdigest()}" for each in (content, right[name])]
    assert f"error: {name} is not the file that was written: {', expected '.join(told)}\n" in service.said()


def test_a_pickle_in_place_of_the_pipeline_never_runs(start, tmp_path):
    folder = tmp_path / "bundle"
    make(folder, compiled=False)
    seal(folder, {bundle.PIPELINE: pickle.dumps(Canary())})
    service = start(folder=folder)

    assert service.process.wait(60) == 2
    assert "error: the model cannot be loaded: BadZipFile" in service.said()
    assert not (ROOT / "canary").exists()


SWEEP = """
import os, signal, sys
from pathlib import Path
from pawl.problem import Problem
from pawl.serving import predictor
for folder in sys.stdin.read().split():
    child = os.fork()
    if not child:
        os.close(1), os.close(2)
        signal.setitimer(signal.ITIMER_PROF, 0.5)
        try:
            predictor.load(Path(folder))
            os._exit(0)
        except Problem:
            os._exit(2)
        except BaseException:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(folder.rpartition("/")[2], code, flush=True)
"""


def swept(made, tmp_path, name, contents):
    """Return {what: exit code} of processes that load a bundle in which one file has other contents, sealed again."""
    for what, content in contents.items():
        seal(Path(shutil.copytree(made, tmp_path / what)), {name: content})
    folders = "\n".join(str(tmp_path / what) for what in contents)
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", SWEEP], input=folders, env=env, check=True, stdout=subprocess.PIPE, text=True
    )
    return {what: int(code) for what, code in map(str.split, done.stdout.splitlines())}


@pytest.mark.parametrize("name", [bundle.MODEL, bundle.ENCODER])
def test_whatever_is_damaged_ends_in_a_message_or_in_the_process_that_tries(made, tmp_path, name):
    content, draw = (made / name).read_bytes(), random.Random(0)
    cuts = {f"cut-{part}": content[: len(content) * part // 40] for part in range(40)}
    bits = [(draw.randrange(len(content)), 1 << draw.randrange(8)) for _ in range(200)]
    flips = {f"{at}^{bit}": content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :] for at, bit in bits}

    codes = swept(made, tmp_path, name, cuts | flips)

    parameters = content.find(b"\nend of trees") if name == bundle.MODEL else len(content)  # what follows is a remark
    assert {what for what, code in codes.items() if code == 1} == set()  # a message, not a traceback
    assert {what for what in cuts if codes[what] == 0 and len(cuts[what]) <= parameters} == set()
    assert len(codes) == len(cuts | flips)
    assert {2} < set(codes.values())


class Endless:
    """A process that loads a model without end."""

    killed, returncode = False, None

    def wait(self, timeout):
        raise subprocess.TimeoutExpired("it", timeout)

    def kill(self):
        self.killed = True


def test_a_model_that_is_loaded_without_end_is_not_served(made):
    trial = Endless()

    with pytest.raises(predictor.Problem, match="the model was not loaded within 60 s"):
        predictor.survived(trial, made)
    assert trial.killed


# What its log keeps


def kept(folder, *, complete=False):
    """Return the lines of the prediction log, each read as JSON."""
    ending = "*.jsonl" if complete else "*.jsonl*"
    texts = [path.read_text() for path in sorted(folder.glob(f"predictions-{ending}"))]
    assert all(text.endswith("\n") for text in texts if text)
    return [json.loads(line) for text in texts for line in text.splitlines()]


def test_every_row_that_was_acknowledged_is_in_the_log_of_a_service_that_was_killed(start, tmp_path):
    log, sent = tmp_path / "log", RECORDS[:3]
    environ = {"PAWL_LOG_DIR": str(log), "PAWL_LOG_SEGMENT_BYTES": "20000", "PAWL_MODEL_VERSION": "7"}
    service, acknowledged = start(**environ).ready(), [[] for _ in range(4)]

    def client(number):
        with contextlib.suppress(OSError, http.client.HTTPException):
            for count in range(1_000_000):
                status, content = service.post(json.dumps(sent).encode(), **{"X-Request-ID": f"{number}-{count}"})
                assert status == 200
                acknowledged[number].append(json.loads(content))

    threads = [threading.Thread(target=client, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    service.until(lambda: min(map(len, acknowledged)) > 30)
    service.process.kill()
    for thread in threads:
        thread.join()

    left = list(log.glob("*.open")) or [log / "predictions-left.jsonl.open"]  # none while one segment follows another
    assert len(left) == 1
    with left[0].open("a") as stream:
        stream.write('{"time": 1, "request_')  # it may have been killed within a write
    start(**environ).ready()
    lines = {(line["request_id"], line["row"]): line for line in kept(log, complete=True)}
    for answer in (answer for each in acknowledged for answer in each):
        for row, record in enumerate(sent):
            line = lines[answer["request_id"], row]
            assert line["features"] == record
            assert line["prediction"] == answer["predictions"][row]
            assert dict(zip(["no", "yes"], line["probabilities"], strict=True)) == answer["probabilities"][row]
            assert line["model_version"] == "7"
    assert len(list(log.glob("*.jsonl"))) > 1  # segments were turned meanwhile
    assert not set(left) & set(log.glob("*.open"))


def test_a_full_disk_stops_the_log_and_not_the_service(start, tmp_path):
    log, limit = tmp_path / "log", 5_000
    service = start(PAWL_LOG_DIR=str(log), PAWL_LOG_WITHOUT="age, colour").ready()
    resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (limit, limit))

    asked = 40
    answers = [service.post() for _ in range(asked)]

    assert {status for status, _ in answers} == {200}
    lines = kept(log)
    assert 0 < len(lines) < asked
    assert service.counted("model_log_dropped_rows_total") == asked - len(lines)
    assert service.counted("model_predictions_total") == asked
    assert {tuple(line["features"]) for line in lines} == {("income",)}
    assert service.end() == 0


def test_segments_are_turned_by_size_and_never_more_than_allowed_until_a_shipper_takes_them(start, tmp_path):
    log = tmp_path / "log"
    size, most = 2_000, 7_000
    service = start(PAWL_LOG_DIR=str(log), PAWL_LOG_SEGMENT_BYTES=str(size), PAWL_LOG_MAX_BYTES=str(most)).ready()

    assert {service.post()[0] for _ in range(60)} == {200}
    assert service.counted("model_log_dropped_rows_total") == 60 - len(kept(log))
    sizes = [path.stat().st_size for path in log.iterdir()]
    assert max(sizes) <= size
    assert most - 2 * size < sum(sizes) <= most

    shipped = kept(log)
    for path in log.glob("*.jsonl"):
        path.unlink()
    service.until(lambda: service.post()[0] == 200 and kept(log))
    assert service.end() == 0
    lines = shipped + kept(log, complete=True)
    assert len({line["request_id"] for line in lines}) == len(lines)
    assert not list(log.glob("*.open"))


def test_a_quiet_service_completes_its_segment_by_time(start, tmp_path):
    log = tmp_path / "log"
    service = start(PAWL_LOG_DIR=str(log), PAWL_LOG_SEGMENT_SECONDS="0.1").ready()

    service.post()

    assert len(service.until(lambda: kept(log, complete=True))) == 1


WRONG = {
    "a folder below a file": ({"PAWL_LOG_DIR": "pyproject.toml/log"}, "the prediction log cannot be written: Not a directory"),
    "a file for a folder": ({"PAWL_LOG_DIR": "pyproject.toml"}, "the prediction log cannot be written: File exists"),
    "a folder that takes nothing": ({"PAWL_LOG_DIR": "/proc/pawl"}, "the prediction log cannot be written: "),
    "no such column": ({"PAWL_LOG_DIR": "{tmp}", "PAWL_LOG_WITHOUT": "age,sex"}, "PAWL_LOG_WITHOUT names sex, which is no column"),
    "a hash that is none": ({"PAWL_API_KEYS": "right,sha256:5ecre7"}, "PAWL_API_KEYS: entry 2 is not sha256: and 64 hexadecimal"),
    "the same port twice": ({"PAWL_METRICS_PORT": "{port}", "PAWL_PORT": "{port}"}, "as PAWL_PORT"),
    "no such host": ({"PAWL_HOST": "192.0.2.1"}, "cannot listen on port"),
    "no address": ({"PAWL_HOST": "nope.invalid"}, "PAWL_HOST is an address of this machine"),
    "a secret that came out empty": ({"PAWL_API_KEYS": ""}, "PAWL_API_KEYS holds no key"),
}  # fmt: skip


def test_a_wrong_setting_ends_the_start_with_one_message(start, tmp_path):
    given = {"tmp": tmp_path / "log", "port": free_port()}
    begun = {
        what: start(**{name: value.format(**given) for name, value in environ.items()})
        for what, (environ, _) in WRONG.items()
    }

    for what, each in begun.items():
        assert (what, each.process.wait(60)) == (what, 2)
        assert WRONG[what][1] in each.said()
        assert "fix: " in each.said()
        assert "Traceback" not in each.said()
        assert "5ecre7" not in each.said()


# Who may ask


def test_only_who_has_a_key_may_predict_and_probes_need_none(start):
    hashed = hashlib.sha256(b"beta").hexdigest()
    service = start(PAWL_API_KEYS=f" alpha, sha256:{hashed} ,").ready()
    bearer = lambda key: {"Authorization": f"Bearer {key}"}  # noqa: E731
    none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9."  # a JWT with alg: none
    may = [bearer("alpha"), bearer("beta"), {"X-API-Key": "alpha"}, {"X-API-Key": "beta"}]
    may_not = [
        {}, bearer("gamma"), bearer(""), bearer(none), bearer(hashed), bearer(f"sha256:{hashed}"), bearer("alpha,beta"),
        bearer("ALPHA"), bearer("alph"), bearer("alpha "*3), {"X-API-Key": "gamma", **bearer("alpha")}, {"Authorization": "Basic YWxwaGE6"},
    ]  # fmt: skip

    for path in ("/predict", "/invocations", "/v1/models/model:predict"):
        refused = {service.post(b"not even JSON", path, **headers) for headers in may_not}
        assert [status for status, _ in refused] == [401]  # one answer: it does not say what was wrong
        assert [service.post(path=path, **headers)[0] for headers in may] == [200 if path == "/predict" else 422] * 4
    assert {service.get(path)[0] for path in ("/healthz", "/health", "/readyz", "/ping", "/metrics", "/version")} == {
        200
    }
    assert b"alpha" not in b"".join(service.get(path)[1] for path in ("/version", "/metrics", "/openapi.json"))
    assert service.counted('model_refused_requests_total{reason="unauthorized"}') == 3 * len(may_not)


def test_metrics_may_have_a_port_of_their_own(start):
    port = free_port()
    service = start(PAWL_METRICS_PORT=str(port), PAWL_API_KEYS="alpha").ready()

    assert service.post(**{"X-API-Key": "alpha"})[0] == 200
    assert service.get("/metrics")[0] == 404
    status, content = service.get("/metrics", port)
    assert status == 200
    assert b"\nmodel_predictions_total 1.0\n" in content


# What it is made of


def test_a_compiled_service_imports_no_library_of_training(start, made):
    service = start("-X", "importtime").ready()
    assert service.post()[0] == service.post(json.dumps(RECORDS[:50]).encode())[0] == 200
    assert service.get("/docs")[0] == service.get("/openapi.json")[0] == 200
    version = json.loads(service.get("/version")[1])
    assert service.end() == 0

    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in service.said().splitlines() if "|" in line
    }
    assert "fastapi" in imported
    assert not imported & {
        "numpy",
        "pandas",
        "sklearn",
        "scipy",
        "skops",
        "lightgbm",
        "mlflow",
        "pyarrow",
        "yaml",
        "dvc",
    }
    assert version["served_by"] == "the compiled model"
    assert version["digest"] == bundle.digest_of(made)


def test_a_pipeline_that_serves_itself_answers_the_same(start, tmp_path):
    loaded = make(tmp_path / "bundle", compiled=False)
    for name in ("model.pkl", "python_model.pkl", "sitecustomize.py"):  # what is beside is nobody's business
        (tmp_path / "bundle" / name).write_bytes(pickle.dumps(Canary()))
    service = start(folder=tmp_path / "bundle").ready()

    content = json.loads(service.post(json.dumps(RECORDS[:50]).encode())[1])

    labels, probabilities = loaded.predict_records(RECORDS[:50])
    assert content["predictions"] == labels
    assert [list(each.values()) for each in content["probabilities"]] == probabilities.tolist()
    assert json.loads(service.get("/version")[1])["served_by"] == "the pipeline: train.compile is false"
    assert not (ROOT / "canary").exists()
    assert service.end() == 0
