"""The embedded registry in a container registry: nothing is lost, whoever writes; nothing is taken that is not what was pushed."""

import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pawl import oci, paths
from pawl.ledger import Kept, Ledger
from scripts import store

# What a command of a release does to the registry, in little: one version more, with a folder of its own.
ADD = """
import sqlite3, sys
from pathlib import Path
name = sys.argv[1]
with sqlite3.connect("mlflow.db") as base:
    base.execute("create table if not exists model_versions (name text)")
    base.execute("insert into model_versions values (?)", (name,))
model = Path("mlartifacts/pawl/models") / name / "artifacts"
model.mkdir(parents=True)
(model / "MLmodel").write_text(name * 1000)
"""


class Registry:
    """As much of the OCI distribution API as the store talks to. asked: (method, path); refuses: {(method, part of the path): status}."""

    def __init__(self):
        self.blobs, self.manifests, self.asked, self.refuses = {}, {}, [], {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                registry.answer(self)

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server calls

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.place = f"{self.host}/octo/model/registry"

    def answer(self, request):
        sent = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        method, path = request.command, request.path
        self.asked.append((method, path))
        status, body, headers = self.route(method, path, sent)
        for (refused, part), code in self.refuses.items():
            if refused == method and part in path:
                status, body, headers = code, b'{"errors": [{"message": "no"}]}', {}
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if method != "HEAD":
            request.wfile.write(body)

    def route(self, method, path, sent):
        found = re.fullmatch(r"/v2/octo/model/registry/(blobs|manifests)/([^?]*)(?:\?digest=(.*))?", path)
        kind, name, digest = found.groups()
        kept = self.blobs if kind == "blobs" else self.manifests
        if method == "POST":
            return 202, b"", {"Location": f"/v2/octo/model/registry/blobs/uploads/{uuid.uuid4().hex}"}
        if method == "PUT":
            actual = f"sha256:{hashlib.sha256(sent).hexdigest()}"
            kept[actual] = sent
            if kind == "manifests" and not name.startswith("sha256:"):
                kept[name] = sent
            return (201 if (digest or name) in {actual, "main"} else 400), b"", {}
        return (200, kept[name], {}) if name in kept else (404, b"{}", {})


@contextlib.contextmanager
def served():
    made = Registry()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()


@pytest.fixture
def registry():
    with served() as made:
        yield made


@pytest.fixture
def clones(tmp_path, monkeypatch):
    """Return a function that makes another clone of one repository, with its own working directory."""
    for key in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"):
        monkeypatch.setenv(key, "A person")
    for key in ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(key, "person@example.com")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", tmp_path / "origin"], check=True)
    first = tmp_path / "first"
    subprocess.run(["git", "clone", "--quiet", tmp_path / "origin", first], check=True, capture_output=True)
    subprocess.run(["git", "commit", "--quiet", "--allow-empty", "-m", "begin"], cwd=first, check=True)
    subprocess.run(["git", "push", "--quiet", "origin", "HEAD:main"], cwd=first, check=True)

    def clone(name):
        subprocess.run(
            ["git", "clone", "--quiet", tmp_path / "origin", tmp_path / name], check=True, capture_output=True
        )
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return clone


def add(name):
    subprocess.run([sys.executable, "-c", ADD, name], check=True)


def versions():
    with sqlite3.connect("mlflow.db") as base:
        return [name for (name,) in base.execute("select name from model_versions order by name")]


def test_what_was_pushed_in_one_clone_is_pulled_in_another(registry, clones, capsys):
    clones("one")
    assert store.main(["pull", registry.place], {}) == 0
    assert "a new registry begins" in capsys.readouterr().out
    add("a")
    assert store.main(["push", registry.place], {}) == 0
    clones("two")

    assert store.main(["pull", registry.place], {}) == 0

    assert versions() == ["a"]
    assert Path("mlartifacts/pawl/models/a/artifacts/MLmodel").read_text() == "a" * 1000
    assert Ledger().kept() == Kept(registry.place, f"sha256:{hashlib.sha256(registry.manifests['main']).hexdigest()}")


def test_a_version_more_sends_that_and_the_database_alone(registry, clones):
    clones("one")
    for name in ("a", "b"):
        add(name)
    store.main(["push", registry.place], {})
    add("c")
    before = set(registry.blobs)
    registry.asked.clear()

    assert store.main(["push", registry.place], {}) == 0

    titles = {
        layer["digest"]: layer["annotations"][oci.TITLE] for layer in json.loads(registry.manifests["main"])["layers"]
    }
    assert {titles[digest] for digest in set(registry.blobs) - before} == {"mlflow.db", "mlartifacts/pawl/models/c"}
    assert len(titles) == 4
    assert sum(method == "PUT" and "/blobs/" in path for method, path in registry.asked) == 2


def test_a_second_push_of_the_same_sends_nothing(registry, clones):
    clones("one")
    add("a")
    store.main(["push", registry.place], {})
    before, head = dict(registry.blobs), Ledger()._git("rev-parse", Ledger().ref)
    registry.asked.clear()

    assert store.main(["push", registry.place], {}) == 0

    assert registry.blobs == before
    assert not [path for method, path in registry.asked if method == "POST"]
    assert Ledger()._git("rev-parse", Ledger().ref) == head


def test_what_was_pulled_from_one_place_goes_whole_to_another(registry, clones):
    clones("one")
    store.main(["run", registry.place, "--", sys.executable, "-c", ADD, "a"], {})

    with served() as other:
        assert store.main(["push", other.place], {}) == 0

        layers = json.loads(other.manifests["main"])["layers"]
        assert {layer["digest"] for layer in layers} <= set(other.blobs)
        assert len(layers) == 2


def test_of_two_writers_at_once_both_versions_survive(registry, clones, tmp_path):
    clones("one")
    store.main(["run", registry.place, "--", sys.executable, "-c", ADD, "first"], {})
    folders = [clones(f"writer{number}") for number in range(3)]
    code = f"import sys; sys.path[:0] = {sys.path!r}; from scripts import store; sys.exit(store.main(sys.argv[1:]))"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, "run", registry.place, "--", sys.executable, "-c", ADD, f"writer{number}"],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number, folder in enumerate(folders)
    ]  # fmt: skip

    said = [writer.communicate()[0] for writer in writers]

    assert [writer.returncode for writer in writers] == [0, 0, 0], said
    clones("reader")
    store.main(["pull", registry.place], {})
    assert versions() == ["first", "writer0", "writer1", "writer2"]
    assert sorted(path.name for path in Path("mlartifacts/pawl/models").iterdir()) == versions()


def test_a_push_from_an_older_state_is_refused_and_says_so(registry, clones, capsys):
    one = clones("one")
    store.main(["run", registry.place, "--", sys.executable, "-c", ADD, "a"], {})
    clones("two")
    store.main(["run", registry.place, "--", sys.executable, "-c", ADD, "b"], {})
    os.chdir(one)
    add("c")

    code = store.main(["push", registry.place], {})

    assert code == 3
    assert "another writer was first" in capsys.readouterr().err
    assert json.loads(registry.manifests["main"])["layers"][0]["annotations"][oci.TITLE] == "mlartifacts/pawl/models/a"
    assert "mlartifacts/pawl/models/c" not in registry.manifests["main"].decode()


def test_a_registry_that_was_never_pulled_is_not_pushed_over_the_one_that_is_kept(registry, clones, capsys):
    clones("one")
    store.main(["run", registry.place, "--", sys.executable, "-c", ADD, "a"], {})
    clones("two")
    add("mine")

    assert store.main(["push", registry.place], {}) == 3

    assert "another writer was first" in capsys.readouterr().err


def test_a_failing_command_pushes_nothing_and_gives_its_code(registry, clones):
    clones("one")

    assert store.main(["run", registry.place, "--", sys.executable, "-c", "raise SystemExit(7)"], {}) == 7

    assert (registry.blobs, registry.manifests, Ledger().kept()) == ({}, {}, None)


def altered(registry, title):
    layer = next(
        each for each in json.loads(registry.manifests["main"])["layers"] if each["annotations"][oci.TITLE] == title
    )
    content = registry.blobs[layer["digest"]]
    return layer["digest"], content


def truncate(registry):
    digest, content = altered(registry, "mlartifacts/pawl/models/a")
    registry.blobs[digest] = content[: len(content) // 2]


def poison(registry):
    digest, _ = altered(registry, "mlflow.db")
    registry.blobs[digest] = gzip.compress(b"another database")


def forge(registry):
    digest = f"sha256:{hashlib.sha256(registry.manifests['main']).hexdigest()}"
    registry.manifests[digest] = registry.manifests["main"].replace(b"layers", b"layers ")


def forget(registry):
    registry.manifests.clear()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "mlartifacts/pawl/models/a is not what was pushed"),
        (poison, "mlflow.db is not what was pushed"),
        (forge, "the manifest is not the one that"),
        (forget, "which is not there"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_damaged_is_refused_and_nothing_is_taken(registry, clones, capsys, damage, said):
    clones("one")
    store.main(["run", registry.place, "--", sys.executable, "-c", ADD, "a"], {})
    damage(registry)
    clones("two")

    assert store.main(["pull", registry.place], {}) == 3

    assert said in capsys.readouterr().err
    assert not paths.STORE.exists()
    assert not paths.ARTIFACTS.exists()


def test_a_database_that_is_damaged_is_refused(registry, clones, capsys):
    clones("one")
    add("a")
    with paths.STORE.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    shutil.copy2(paths.STORE, "kept")

    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect("kept").execute("select * from model_versions")
    assert store.main(["push", registry.place], {}) == 3

    assert "damaged" in capsys.readouterr().err
    assert not registry.manifests


@pytest.mark.parametrize("title", ["../outside", "/tmp/outside"])
def test_a_path_that_leads_outside_is_refused(registry, clones, capsys, title):
    clones("one")
    add("a")
    oci.push(oci.repository(registry.place), {title: paths.STORE}, None)
    (digest,) = registry.manifests
    registry.manifests["main"] = registry.manifests[digest]
    paths.STORE.unlink()
    shutil.rmtree("mlartifacts")

    assert store.main(["pull", registry.place], {}) == 2

    assert "refused: the path" in capsys.readouterr().err


def test_what_is_here_is_never_written_over(registry, clones, capsys):
    clones("one")
    add("a")

    assert store.main(["pull", registry.place], {}) == 2

    assert "mlflow.db is here already" in capsys.readouterr().err
    assert versions() == ["a"]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [((("GET", "/manifests/"), 500), "refuses (500)"), ((("GET", "/manifests/"), 403), "let us in")],
    ids=["500", "403"],
)
def test_a_registry_that_refuses_is_no_empty_one(registry, clones, capsys, refusal, said):
    clones("one")
    registry.refuses = dict([refusal])

    assert store.main(["pull", registry.place], {}) == 3

    assert said in capsys.readouterr().err


def test_an_upload_that_breaks_off_leaves_the_kept_one_as_it_was(registry, clones, capsys):
    clones("one")
    store.main(["run", registry.place, "--", sys.executable, "-c", ADD, "a"], {})
    kept, tag = Ledger().kept(), registry.manifests["main"]
    add("b")
    registry.refuses = {("PUT", "/blobs/"): 503}

    assert store.main(["push", registry.place], {}) == 3
    assert (Ledger().kept(), registry.manifests["main"]) == (kept, tag)

    registry.refuses = {}
    assert store.main(["push", registry.place], {}) == 0
    assert "mlartifacts/pawl/models/b" in registry.manifests["main"].decode()


@pytest.mark.parametrize("words", [["run", "x/y"], ["pull", "x/y", "--", "ls"], ["pull"], ["fetch", "x/y"]], ids=str)
def test_wrong_words_are_told(clones, words):
    clones("one")

    with pytest.raises(SystemExit) as stopped:
        store.main(words, {})

    assert stopped.value.code == 2


def test_a_place_that_is_none_is_told(clones, capsys):
    clones("one")

    assert store.main(["pull", "registry"], {}) == 2

    assert "names no place in a container registry" in capsys.readouterr().err


def test_nobody_listens(clones, capsys):
    clones("one")

    assert store.main(["pull", "127.0.0.1:9/octo/registry"], {}) == 3

    assert "does not answer" in capsys.readouterr().err


def test_with_a_server_the_command_runs_and_nothing_is_kept(registry, clones, capsys):
    clones("one")
    environ = {"MLFLOW_TRACKING_URI": "https://me:secret@mlflow.example.com"}

    code = store.main(["run", registry.place, "--", sys.executable, "-c", "raise SystemExit(5)"], environ)

    assert code == 5
    assert "secret" not in capsys.readouterr().out
    assert not registry.asked
