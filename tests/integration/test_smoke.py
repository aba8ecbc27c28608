"""The service as a process, and the program that asks it for its golden rows."""

import contextlib
import hashlib
import http.server
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from pawl import bundle
from pawl.serving import smoke

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(project, folder=None, **environ):
    """Yield (URL, process) of the service, once it is ready."""
    port = free_port()
    with subprocess.Popen(
        [sys.executable, "-m", "pawl.serving"],
        cwd=folder or project.path, env=project.environ(PAWL_PORT=str(port), **environ), stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            until_ready(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


def until_ready(url, process):
    while process.poll() is None:
        with contextlib.suppress(OSError):
            if smoke.call(f"{url}/readyz")[0] == 200:
                return
        time.sleep(0.05)
    raise AssertionError(process.stderr.read())


def serve(project, **environ):
    """Run a service that is expected not to start; one that does is ended, and the test with it."""
    return subprocess.run(
        [sys.executable, "-m", "pawl.serving"],
        cwd=project.path, env=project.environ(**environ), check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def ask(project, url, *words, **environ):
    return project.call(sys.executable, "-m", "pawl.serving.smoke", "--url", url, *words, check=False, **environ)


@pytest.fixture(scope="module")
def loaded(project):
    return bundle.load(project.path / "models/bundle")


@pytest.fixture
def other(project, tmp_path):
    """A copy of the bundle in which one golden row is stored otherwise: sealed again, so another model."""
    folder = tmp_path / "other"
    shutil.copytree(project.path / "models/bundle", folder)
    golden = json.loads((folder / bundle.GOLDEN).read_text())
    golden["probabilities"][2] = [0.25, 0.75]
    content = json.dumps(golden).encode()
    (folder / bundle.GOLDEN).write_bytes(content)
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    manifest["files"][bundle.GOLDEN] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    del manifest["digest"]
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest | {"digest": f"sha256:{digest}"}))
    return folder


@pytest.mark.parametrize("keys", [{}, {"PAWL_API_KEYS": "alpha, beta"}], ids=["open", "keys"])
def test_the_service_of_the_bundle_answers_every_golden_row(keys, project, loaded):
    with serving(project, **keys) as (url, _):
        done = ask(project, url, **keys)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"digest": loaded.digest, "rows": len(loaded.golden["records"]), "problems": []}


def test_a_service_of_another_model_is_told_by_both_digests(project, loaded, other):
    with serving(project) as (url, _):
        done = project.call(
            sys.executable, "-m", "pawl.serving.smoke", "--url", url, check=False, PAWL_BUNDLE=str(other)
        )

    assert done.returncode == 1
    assert json.loads(done.stdout)["problems"] == [f"it serves {loaded.digest}, not {bundle.digest_of(other)}"]


def test_a_service_whose_golden_rows_do_not_come_out_ends_with_one_clear_message(project, other):
    done = serve(project, PAWL_BUNDLE=str(other), PAWL_PORT=str(free_port()))

    assert done.returncode == 2
    assert "error: the model answers 1 of its golden rows otherwise" in done.stderr
    assert "Traceback" not in done.stderr


def right(records, answer):
    return 200, answer


def one_off(records, answer):
    answer["probabilities"][-1] = {"<=50K": 0.5, ">50K": 0.5}
    return 200, answer


def off_when_alone(records, answer):
    return one_off(records, answer) if len(records) == 1 else (200, answer)


def off_in_a_batch(records, answer):
    return one_off(records, answer) if len(records) > 1 else (200, answer)


def another_label(records, answer):
    answer["predictions"][0] = {"<=50K": ">50K", ">50K": "<=50K"}[answer["predictions"][0]]
    return 200, answer


def not_a_number(records, answer):
    answer["probabilities"][0] = dict.fromkeys(answer["probabilities"][0], float("nan"))
    return 200, answer


def no_answers(records, answer):
    return 200, answer | {"predictions": [], "probabilities": []}


def one_answer(records, answer):
    return 200, answer | {"predictions": answer["predictions"][:1], "probabilities": answer["probabilities"][:1]}


def failing(records, answer):
    return 500, {"detail": "Internal Server Error"}


class Service(http.server.BaseHTTPRequestHandler):
    """Answers for the bundle, changed by `twist`; a malformed record gets the status `malformed`."""

    loaded, twist, malformed, version = None, staticmethod(right), 422, 200

    def do_GET(self):
        self.say(self.version if self.path == "/version" else 200, {"digest": self.loaded.digest})

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        records = given if isinstance(given, list) else [given]
        if set(records[0]) != set(self.loaded.dtypes):
            return self.say(self.malformed, {})
        predictions, probabilities = self.loaded.predict_records(records)
        named = [dict(zip(self.loaded.manifest["labels"], row, strict=True)) for row in probabilities.tolist()]
        return self.say(*self.twist(records, {"predictions": predictions, "probabilities": named}))

    def say(self, status, body):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Gone(Service):
    """Says that it is ready, and hangs up on everything else."""

    def say(self, status, body):
        if self.path == "/readyz":
            super().say(status, body)


class Page(Service):
    """Another program: its pages are not JSON."""

    def say(self, *_):
        super().say(200, b"<html>welcome</html>")


class Busy(Service):
    """Never ready."""

    def say(self, *_):
        super().say(503, {})


@contextlib.contextmanager
def standing_in(loaded, base=Service, **changes):
    handler = type("Handler", (base,), {"loaded": loaded, **changes})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


WRONG = {
    one_off: ["golden row {last}, among {rows}: [0.5, 0.5], not"],
    off_when_alone: ["golden row 0, alone: [0.5, 0.5], not", "golden row 1, alone: [0.5, 0.5], not"],
    off_in_a_batch: ["golden row {last}, among {rows}"],
    another_label: ["golden row 0, among {rows}"],
    not_a_number: ["golden row 0, among {rows}: [nan, nan]"],
    no_answers: ["0 answers to {rows} records"],
    one_answer: ["1 answers to {rows} records"],
    failing: ["status 500"],
}


@pytest.mark.parametrize("twist", WRONG, ids=lambda twist: twist.__name__)
def test_a_wrong_answer_is_found_and_told(project, loaded, capsys, twist):
    rows = len(loaded.golden["records"])
    with standing_in(loaded, twist=staticmethod(twist)) as url:
        code = smoke.main(["--url", url], {"PAWL_BUNDLE": str(project.path / "models/bundle")})

    assert code == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert all(any(told.format(last=rows - 1, rows=rows) in each for each in problems) for told in WRONG[twist])


@pytest.mark.parametrize("status", [200, 500])
def test_a_service_that_takes_a_malformed_record_is_found(project, loaded, capsys, status):
    with standing_in(loaded, malformed=status) as url:
        code = smoke.main(["--url", url], {"PAWL_BUNDLE": str(project.path / "models/bundle")})

    assert code == 1
    assert json.loads(capsys.readouterr().out)["problems"] == [f"a malformed record got status {status}, not 422"]


def test_a_service_that_answers_right_is_right_whoever_it_is(project, loaded, capsys):
    with standing_in(loaded) as url:
        assert smoke.main(["--url", url], {"PAWL_BUNDLE": str(project.path / "models/bundle")}) == 0

    assert json.loads(capsys.readouterr().out)["problems"] == []


@pytest.mark.parametrize(("base", "code"), [(Gone, 3), (Busy, 3), (Page, 1)])
def test_what_is_no_such_service_is_told_as_such(project, loaded, capsys, base, code):
    with standing_in(loaded, base) as url:
        got = smoke.main(["--url", url, "--wait", "1"], {"PAWL_BUNDLE": str(project.path / "models/bundle")})

    told = capsys.readouterr()
    assert got == code
    assert url in told.err if code == 3 else "it serves None" in told.out


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_port_that_speaks_no_http_does_not_answer(project, capsys, greeting):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet():
            with contextlib.suppress(OSError):
                while True:
                    with listening.accept()[0] as caller:
                        caller.sendall(greeting)
                        caller.recv(65536)

        threading.Thread(target=greet, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        code = smoke.main(["--url", url, "--wait", "0.5"], {"PAWL_BUNDLE": str(project.path / "models/bundle")})

    assert code == 3
    assert "not ready after 0.5 s" in capsys.readouterr().err


def test_nothing_that_listens_is_told_with_its_address(project):
    url = f"http://127.0.0.1:{free_port()}"

    done = ask(project, url, "--wait", "0.5")

    assert done.returncode == 3
    assert f"error: not ready after 0.5 s: [Errno 111] Connection refused\n  where: {url}/readyz" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told_with_a_fix(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve(project, PAWL_PORT=str(port))

    assert done.returncode == 2
    assert f"error: cannot listen on port {port}: Address already in use" in done.stderr
    assert "set PAWL_PORT to another" in done.stderr


@pytest.mark.parametrize("port", ["http", "65536"])
def test_a_port_that_is_none_is_told_as_such(project, port):
    done = serve(project, PAWL_PORT=port)

    assert done.returncode == 2
    assert f"error: PAWL_PORT is {port}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["pawl.serving", "scripts.smoke"])
def test_without_a_bundle_it_says_how_to_make_one(untouched, module):
    done = untouched.call(sys.executable, "-m", module, check=False, PAWL_PORT=str(free_port()))

    assert done.returncode == 2
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_project_asks_its_own_service_once_per_model(project):
    wrong = {"PAWL_HOST": "192.0.2.1"}  # nobody's: a service that is started there ends
    never = project.call(sys.executable, "-m", "scripts.smoke", check=False, **wrong)
    first = project.call(sys.executable, "-m", "scripts.smoke")
    again = project.call(sys.executable, "-m", "scripts.smoke", **wrong)

    assert never.returncode == 3
    assert "the service did not start" in never.stderr
    assert (
        first.stdout
        == again.stdout
        == "The service answers every golden row as it was evaluated, alone and in a batch.\n"
    )
    assert first.stderr == again.stderr == ""


@pytest.mark.usefixtures("put_back")
def test_a_project_whose_service_does_not_start_says_so(project, other):
    shutil.rmtree(project.path / "models/bundle")
    shutil.copytree(other, project.path / "models/bundle")

    done = project.call(sys.executable, "-m", "scripts.smoke", check=False)

    assert done.returncode == 3
    assert "golden rows otherwise" in done.stderr
    assert "the service did not start" in done.stderr


@pytest.fixture
def put_back(project, tmp_path):
    shutil.copytree(project.path / "models/bundle", tmp_path / "kept")
    yield
    shutil.rmtree(project.path / "models/bundle")
    shutil.copytree(tmp_path / "kept", project.path / "models/bundle")


@pytest.mark.usefixtures("put_back")
def test_a_model_that_is_not_to_be_compiled_is_served_by_its_pipeline(project, loaded):
    params = (project.path / "params.yaml").read_text()
    project.set(**{"train.compile": False})
    project.run()
    (project.path / "params.yaml").write_text(params)

    made = bundle.load(project.path / "models/bundle")

    assert loaded.manifest["not_compiled"] == ""
    assert made.manifest["not_compiled"] == "train.compile is false"
    assert not (project.path / "models/bundle" / bundle.MODEL).exists()
    assert made.golden == loaded.golden
    with serving(project) as (url, _):
        assert smoke.ask(url, made.manifest, made.golden) == []
        assert smoke.call(f"{url}/version")[1]["served_by"] == "the pipeline: train.compile is false"


REFUSE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(name + " is not in the image", name=name)
sys.meta_path.insert(0, Refuse())
"""


def test_the_service_of_a_compiled_bundle_runs_on_what_its_image_holds(project, loaded, tmp_path):
    assert not loaded.manifest["not_compiled"]
    image = tmp_path / "srv"
    for sources, target in re.findall(
        r"^COPY ((?:src|models)\S*(?: \S+)*) (\S+)$", (ROOT / "Dockerfile.serve").read_text(), re.MULTILINE
    ):
        for source in map(project.path.joinpath, sources.split()):
            if source.is_dir():
                shutil.copytree(source, image / target)
            else:
                (image / target).mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, image / target)
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/serving.txt").read_text(), re.MULTILINE))
    providers = importlib.metadata.packages_distributions()
    absent = {
        name for name, by in providers.items() if not {re.sub("[-_.]+", "-", each.lower()) for each in by} & locked
    }
    absent = (absent | {"scripts"}) - {"pawl", "task"}
    (tmp_path / "sitecustomize.py").write_text(REFUSE.format(absent=sorted(absent)))
    path = os.pathsep.join([str(tmp_path), str(image / "src")])

    with serving(project, image, PYTHONPATH=path) as (url, _):
        status, answer = smoke.call(f"{url}/predict", loaded.golden["records"])
        held = {
            "numpy",
            "pandas",
            "sklearn",
            "scipy",
            "skops",
            "mlflow",
            "dvc",
            "pyarrow",
            "pytest",
            "scripts",
        } - absent
        with urllib.request.urlopen(f"{url}/docs") as page:
            documented = page.status

    assert held == set()
    assert status == 200
    assert documented == 200
    assert len(answer["predictions"]) == len(loaded.golden["records"])
