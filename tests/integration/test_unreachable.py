"""Servers that misbehave: each is told by its address, in one message, soon; nothing is half registered, and the next run against a live one does it."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pawl import tracking

LIMIT = 30  # seconds, after which a process is ended: no one waits longer for a dead server
PASSWORD = "canary7f3a"


def http(status, body, kind):
    """Return a server that answers everything alike."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

        def log_message(self, *_):
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return made


# who answers: (address, exit code, what is told, how to mend it)
CASES = {
    "nobody": ("http://me:{password}@127.0.0.1:{free}", 3, "the MLflow server does not answer: [Errno 111] Connection refused", "MLFLOW_TRACKING_URI"),
    "a server that is broken": ("http://me:{password}@127.0.0.1:{broken}", 3, "500", "its log says more"),
    "a server that says so in JSON": ("http://me:{password}@127.0.0.1:{locked}", 3, "MLflow refuses: ", "MLFLOW_TRACKING_TOKEN"),
    "a server that knows nobody": ("http://me:{password}@127.0.0.1:{closed}", 3, "MLflow refuses: ", "MLFLOW_TRACKING_TOKEN"),
    "a server that accepts and says nothing": ("http://me:{password}@127.0.0.1:{hole}", 3, "the MLflow server does not answer: timed out", "MLFLOW_TRACKING_URI"),
    "another web server": ("http://me:{password}@127.0.0.1:{page}", 3, "what answers there is no MLflow server", "MLFLOW_TRACKING_URI"),
    "no TLS there": ("https://me:{password}@127.0.0.1:{page}", 3, "the MLflow server does not answer: [SSL", "MLFLOW_TRACKING_URI"),
    "a port that is none": ("http://me:{password}@127.0.0.1:5000x", 3, "", "MLFLOW_TRACKING_URI"),
    "a scheme that is none": ("htp://me:{password}@127.0.0.1:5000", 2, "", "http://"),
    "no scheme": ("127.0.0.1:5000", 2, "", "http://"),
    "a database without a place for files": ("postgresql://me:{password}@127.0.0.1:{free}/mlflow", 2, "MLFLOW_TRACKING_URI is a database, which keeps no files", "PAWL_ARTIFACT_LOCATION"),
    "a database that cannot be opened": ("sqlite:////dev/null/mlflow.db", 3, "MLflow does not do it: ", "run it again"),
    "a database without its driver, or that is not there": ("postgresql://me:{password}@127.0.0.1:{free}/mlflow", 3, "MLflow does not do it: ", "run it again"),
}  # fmt: skip


@pytest.fixture(scope="module")
def ports():
    """The ports of servers that misbehave."""
    servers = {"broken": http(500, b"", "text/plain"), "closed": http(401, b"", "text/plain"), "locked": http(401, b'{"detail": "Unauthorized"}', "application/json"), "page": http(200, b"<html>Hello</html>", "text/html")}  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as hole:  # the kernel accepts for it
        yield {name: each.server_port for name, each in servers.items()} | {"hole": hole.getsockname()[1], "free": tracking.free_port()}  # fmt: skip
    for each in servers.values():
        each.shutdown()
        each.server_close()


@pytest.fixture(scope="module")
def asked(ports, warm, modelled, make_registry, tmp_path_factory):
    """Return {case: (registry, address, exit code, what was said)}: each asked at once, for some wait long."""
    found = {}
    for name, (address, expected, *_) in CASES.items():
        path = tmp_path_factory.mktemp("asked") / "project"
        registry = make_registry(modelled, path, path, uri=address.format(**ports, password=PASSWORD))
        found[name] = registry, registry.job("register", limit=LIMIT)
        if expected == 3 and not address.startswith("http"):
            found[name][1]["environ"]["PAWL_ARTIFACT_LOCATION"] = str(path / "files")
    ended = warm(*(job for _, job in found.values()))
    return {name: (registry, code, said) for (name, (registry, _)), (code, said) in zip(found.items(), ended, strict=True)}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_told_in_one_message_with_address_and_fix(asked, name):
    _, expected, cause, fix = CASES[name]
    registry, code, said = asked[name]
    address = tracking.without_password(registry.uri)

    assert code == expected, said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 3
    assert cause in said.splitlines()[0]
    assert said.splitlines()[1] == f"  where: {address}"
    assert fix in said.splitlines()[2]
    assert PASSWORD not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_written_here_but_what_the_pipeline_wrote(asked, name, modelled):
    registry, *_ = asked[name]

    assert json.loads((registry.path / "reports/metrics.json").read_text()) == json.loads((modelled.path / "reports/metrics.json").read_text())  # fmt: skip
    assert {path.name for path in registry.path.iterdir()} == {path.name for path in modelled.path.iterdir()}
    assert not (registry.path / ".pawl/done").exists()


def test_the_next_run_against_a_live_server_does_it(asked, warm, server):
    for number, (registry, *_) in enumerate(list(asked.values())[:3]):
        registry.edit("pyproject.toml", 'name = "pawl"', f'name = "after-{number}"')
        registry.uri, registry.store, registry.name = server.url, server.folder, f"after-{number}"

        ((code, said),) = warm(registry.job("register"))

        assert (code, said.count("\n")) == (0, 1), said
        assert registry.aliases == {"candidate": "1"}


def test_a_server_that_dies_while_files_are_sent_is_told_and_nothing_is_registered(copies, make_server, server, warm):
    dying = make_server().up()
    registry = copies(on=dying)

    ((code, said),) = warm(registry.job("register", limit=LIMIT, die=["log_artifact", 10, dying.process.pid]))

    assert code == 3, said
    assert said.startswith("error: ")
    assert dying.url in said
    assert "Traceback" not in said
    assert registry.versions == {}
    assert registry.aliases == {}
    assert [status for _, status in registry.runs] == ["RUNNING"]
    assert not (registry.path / ".pawl/done").exists()

    registry.uri, registry.store = server.url, server.folder
    ((code, said),) = warm(registry.job("register"))

    assert code == 0, said
    assert registry.aliases == {"candidate": "1"}
