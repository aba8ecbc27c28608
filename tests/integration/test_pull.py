"""A DVC remote that is down, refuses, lacks, alters, cuts or hangs: each is told by its name, nothing of it is used, nothing in it is touched."""

import errno
import gc
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from scripts import pull

# DVC closes no session over HTTP; what the collector finds of one is not this project's.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def contents(folder):
    """Return every file below a folder: its bytes, and when it was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


class Server(ThreadingHTTPServer):
    """A folder over HTTP. faults: what happens to a path that ends so; asked: every path that was."""

    daemon_threads = True

    def __init__(self, folder):
        server, self.faults, self.asked, self.ended = self, {}, [], threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked.append(self.path)
                fault = next((does for end, does in server.faults.items() if self.path.endswith(end)), None)
                path = folder / self.path.lstrip("/")
                status = fault if isinstance(fault, int) else 200 if path.is_file() else 404
                if fault == "silent":
                    server.ended.wait()
                body = path.read_bytes() if status == 200 else b"an answer"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:100] if fault in ("stops", "cut") else body)
                if fault == "stops":
                    self.wfile.flush()
                    server.ended.wait()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Clone:
    """A fresh clone, and the remote that it is set to."""

    def __init__(self, path, project):
        subprocess.run(["git", "clone", "--quiet", project.path, path], check=True)
        self.path, self.project = path, project
        self.lock = yaml.safe_load((path / "dvc.lock").read_text())["stages"]

    def set(self, url):
        config = f"[core]\n    remote = store\n['remote \"store\"']\n    url = {url}\n"
        (self.path / ".dvc/config.local").write_text(config)

    def object(self, stage, path, file=None):
        """Return the name of what a stage made; of a file in a folder, that file's."""
        name = next(out["md5"] for out in self.lock[stage]["outs"] if out["path"] == path)
        if not file:
            return name
        listed = json.loads(self.project.path.joinpath(".dvc/cache/files/md5", name[:2], name[2:]).read_text())
        return next(each["md5"] for each in listed if each["relpath"] == file)

    def made(self):
        """Return what lies where the pipeline writes."""
        names = ("data", "models", "reports")
        return {
            str(p.relative_to(self.path)): p.read_bytes()
            for n in names
            for p in (self.path / n).rglob("*")
            if p.is_file()
        }

    def cached(self):
        return {path.parent.name + path.name for path in self.path.glob(".dvc/cache/files/md5/*/*")}


@pytest.fixture(scope="module")
def pushed(project, tmp_path_factory):
    """A folder that has what the project made, and DVC's records of how."""
    folder = tmp_path_factory.mktemp("remote")
    dvc = (sys.executable, "-m", "dvc")
    project.commit("made")
    project.call(*dvc, "remote", "add", "--local", "--default", "store", str(folder))
    project.call(*dvc, "push", "--quiet", "--run-cache")
    return folder


@pytest.fixture
def remote(pushed, tmp_path):
    return Path(shutil.copytree(pushed, tmp_path / "remote"))


@pytest.fixture
def clone(project, remote, tmp_path, monkeypatch):
    made = Clone(tmp_path / "clone", project)
    made.set(remote)
    monkeypatch.chdir(made.path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return made


@pytest.fixture
def server(remote):
    made = Server(remote)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.ended.set()
    made.shutdown()
    made.server_close()
    thread.join()
    gc.collect()  # here, not in another file's test


@pytest.fixture(params=["folder", "http"])
def kind(request, clone, server):
    if request.param == "http":
        clone.set(server.url)
    return request.param


def at(remote, name):
    return remote / "files/md5" / name[:2] / name[2:]


def write(path, content):
    """Write into an object as whoever may: DVC's are read-only."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def test_what_was_pushed_is_pulled_and_the_remote_is_what_it_was(kind, clone, remote, project, capsys):
    before = contents(remote)

    codes = pull.main([], {}), pull.main([], {})

    assert codes == (0, 0)
    wanted = {path: digest for path, digest in project.outputs().items() if path in clone.made()}
    assert {path: hashlib.sha256(text).hexdigest() for path, text in clone.made().items()} == wanted
    assert {"data/raw.parquet", "models/bundle/manifest.json", "reports/slices.json"} <= wanted.keys()
    assert contents(remote) == before
    first, second = re.findall(r"(\d+) objects? ", capsys.readouterr().out)
    assert int(first) == len(clone.cached())
    assert second == "0"
    assert list(clone.path.rglob("*.partial")) == []
    status = [sys.executable, "-m", "dvc", "status"]
    done = subprocess.run(status, check=True, env=clone.project.environ(), capture_output=True, text=True)
    assert done.stdout.split() == ["fingerprint:", "always", "changed"]


WHAT = {
    "a file": ("ingest", "data/raw.parquet", None),
    "a file in a folder": ("train", "models/bundle", "manifest.json"),
    "the list of a folder": ("prepare", "data/prepared", None),
}


@pytest.mark.parametrize("harm", ["missing", "altered", "truncated"])
@pytest.mark.parametrize("what", WHAT)
def test_an_object_that_is_not_whole_is_told_and_never_used(what, harm, kind, clone, remote, capsys):
    stage, path, file = WHAT[what]
    name = clone.object(stage, path, file)
    honest = at(remote, name).read_bytes()
    if harm == "missing":
        at(remote, name).unlink()
    else:
        write(at(remote, name), honest[: len(honest) // 2] if harm == "truncated" else honest[:-1] + b"?")
    before, lay = contents(remote), clone.made()

    code = pull.main([], {})

    told = capsys.readouterr().err
    size = harm == "truncated" and what != "the list of a folder"  # nothing says how long that was
    words = (
        f"truncated, {len(honest) // 2} of {len(honest)} bytes"
        if size
        else "missing"
        if harm == "missing"
        else "altered"
    )
    assert code == 2
    assert f"{words}: {path}{'/' + file if file else ''} of {stage} (" in told
    assert name[2:] in told
    assert "make push" in told
    assert ("delete" in told) == (harm != "missing")
    assert contents(remote) == before
    assert clone.made() == lay
    assert name not in clone.cached()
    assert len(clone.cached()) > 5

    if harm == "missing":
        at(remote, name).write_bytes(b"")
    write(at(remote, name), honest)
    assert pull.main([], {}) == 0
    assert clone.made().keys() >= {"data/raw.parquet", "data/prepared/train.parquet", "models/bundle/manifest.json"}


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [(403, 2, "refuses"), (401, 2, "refuses"), (500, 3, "does not answer"), ("silent", 3, "nothing came in"), ("stops", 3, "nothing came in")],
)  # fmt: skip
def test_a_server_that_refuses_fails_or_hangs_is_told_apart(fault, code, words, clone, server, capsys, monkeypatch):
    monkeypatch.setattr(pull, "PATIENCE", 1)
    clone.set(server.url)
    server.faults[clone.object("ingest", "data/raw.parquet")[2:]] = fault
    lay = clone.made()

    assert pull.main([], {"AWS_ACCESS_KEY_ID": ""}) == code

    assert words in capsys.readouterr().err
    assert clone.made() == lay


def test_a_transfer_that_ends_early_is_told_with_what_came(clone, server, capsys):
    clone.set(server.url)
    server.faults[clone.object("ingest", "data/raw.parquet")[2:]] = "cut"

    assert pull.main([], {}) == 2

    assert "truncated, 100 of " in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://nowhere.invalid", "https://a:secret@127.0.0.1:9", "gone"]
)
def test_a_remote_that_is_not_there_is_told(url, clone, tmp_path, capsys):
    clone.set(tmp_path / url if url == "gone" else url)

    assert pull.main([], {}) == 3

    told = capsys.readouterr().err
    assert "the DVC remote does not answer" in told
    assert "secret" not in told


def test_a_driver_that_is_not_installed_is_named(clone, capsys):
    clone.set("s3://bucket/path")

    assert pull.main([], {}) == 2

    assert "requirements/s3.txt" in capsys.readouterr().err


def test_without_a_remote_it_is_told_or_said(clone, capsys):
    (clone.path / ".dvc/config.local").unlink()

    assert pull.main([], {}) == 2
    assert "no DVC remote is set" in capsys.readouterr().err
    assert pull.main(["--if-set"], {}) == 0
    assert "no DVC remote is set" in capsys.readouterr().out


@pytest.mark.parametrize(("keys", "code"), [({}, 0), ({"AWS_ACCESS_KEY_ID": ""}, 0), ({"AWS_ACCESS_KEY_ID": "a"}, 2)])
def test_if_set_goes_on_without_credentials_and_stops_with_wrong_ones(keys, code, clone, server, capsys):
    clone.set(server.url)
    server.faults[""] = 403

    assert pull.main(["--run-cache", "--if-set"], keys) == code

    said = capsys.readouterr()
    assert ("no credentials are set" in said.out) == (code == 0)
    assert "403" in said.out + said.err


def test_if_set_goes_on_where_objects_were_never_pushed_but_not_with_altered_ones(clone, remote, capsys):
    name, other = clone.object("ingest", "data/raw.parquet"), clone.object("evaluate", "reports/slices.json")
    at(remote, name).unlink()

    assert pull.main(["--if-set"], {}) == 0
    assert "missing: data/raw.parquet of ingest" in capsys.readouterr().out
    (clone.path / ".dvc/cache/files/md5" / other[:2] / other[2:]).unlink()
    write(at(remote, other), b"{}")
    assert pull.main(["--if-set"], {}) == 2
    assert "data/raw.parquet" not in capsys.readouterr().err


def test_a_cache_that_is_damaged_here_is_fetched_anew(clone, capsys):
    assert pull.main([], {}) == 0
    honest, name = clone.made(), clone.object("train", "models/bundle", "manifest.json")
    place = clone.path / ".dvc/cache/files/md5" / name[:2] / name[2:]
    write(place, b"{}")
    (clone.path / "models/bundle/manifest.json").unlink()

    assert pull.main([], {}) == 0

    assert "1 object" in capsys.readouterr().out
    assert clone.made() == honest


def test_a_file_that_dvc_has_no_copy_of_is_not_lost(clone, capsys):
    (clone.path / "data").mkdir()
    (clone.path / "data/raw.parquet").write_text("mine")
    lay = clone.made()

    assert pull.main([], {}) == 2
    assert "data/raw.parquet" in capsys.readouterr().err
    assert clone.made() == lay
    assert pull.main(["--force"], {}) == 0
    assert clone.made()["data/raw.parquet"] != b"mine"


def test_killed_while_it_fetches_it_goes_on(clone, server):
    clone.set(server.url)
    late = clone.object("train", "models/bundle", "manifest.json")
    server.faults[late[2:]] = "stops"
    command = [sys.executable, "-m", "scripts.pull"]
    running = subprocess.Popen(command, cwd=clone.path, env=clone.project.environ())
    until = time.monotonic() + 60
    while time.monotonic() < until and not any(f"{late}.partial" in names for *_, names in os.walk(clone.path)):
        time.sleep(0.02)  # folders come and go meanwhile: rglob would stumble
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    came = clone.cached()
    assert late not in came
    assert "data" not in {path.name for path in clone.path.iterdir()}
    server.faults.clear()
    server.asked.clear()

    assert pull.main([], {}) == 0

    again = {re.sub(r".*/(..)/(.*)", r"\1\2", path) for path in server.asked}
    assert late in again
    assert not again & came
    assert list(clone.path.rglob("*.partial")) == []


def test_a_disk_that_takes_no_more_is_told_as_that(clone, server, monkeypatch, capsys):
    """What came is no object that was cut: the remote is not to blame."""

    def full(_, source, target):
        Path(target).write_bytes(b"as much as fitted")
        raise OSError(errno.ENOSPC, "No space left on device")

    clone.set(server.url)
    monkeypatch.setattr("dvc_http.HTTPFileSystem.get_file", full)

    assert pull.main([], {}) == 3

    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert "check disk space" in told


def ran(clone):
    """Run the pipeline in the clone; return the stages that ran, beside fingerprint, which always does."""
    noted = clone.path / ".pawl/stages.jsonl"
    subprocess.run(
        [sys.executable, "-m", "scripts.run"], cwd=clone.path, check=True, capture_output=True,
        env=clone.project.environ(PYTHONPATH=str(clone.path / "src")),
    )  # fmt: skip
    return [stage for line in noted.read_text().splitlines() if (stage := json.loads(line)["stage"]) != "fingerprint"]


def test_a_fresh_clone_runs_nothing_whose_inputs_are_main_s(clone, capsys):
    """Its dvc.lock names none of it: all comes by DVC's records."""
    (clone.path / "dvc.lock").unlink()

    assert pull.main(["--run-cache", "--if-set"], {}) == 0

    assert clone.made().keys() == {"reports/metrics.json"}
    assert ran(clone) == []
    assert clone.made().keys() >= {"models/bundle/manifest.json", "reports/slices.json"}


def test_a_pull_request_s_change_runs_what_depends_on_it_and_takes_the_rest(clone):
    text = (clone.path / "params.yaml").read_text()
    (clone.path / "params.yaml").write_text(text.replace("num_leaves: 15", "num_leaves: 7"))

    assert pull.main(["--run-cache", "--if-set"], {}) == 0

    assert ran(clone) == ["train", "evaluate"]


def record_of(remote, stage):
    return next(path for path in remote.glob("runs/*/*/*") if f"scripts.stage {stage}\n" in path.read_text())


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("garbage", "cannot be read"),
        ("other outputs", "altered"),
        ("an output that is altered", "altered: models/bundle/manifest.json of a run"),
        ("an output that is missing", "missing: models/bundle/manifest.json of a run"),
        ("a path for an object", "altered"),
    ],
)
def test_a_record_that_is_not_whole_is_left_out_and_named(harm, words, clone, remote, capsys):
    record, name = record_of(remote, "train"), clone.object("train", "models/bundle", "manifest.json")
    text = record.read_text()
    if harm == "garbage":
        write(record, b"\x00{: not yaml")
    elif harm == "other outputs":
        write(
            record,
            text.replace(clone.object("train", "models/bundle"), clone.object("prepare", "data/prepared")).encode(),
        )
    elif harm == "a path for an object":
        write(record, text.replace(clone.object("train", "models/bundle"), "../../../../x").encode())
    elif harm == "an output that is missing":
        at(remote, name).unlink()
    else:
        write(at(remote, name), at(remote, name).read_bytes()[:-1] + b"?")
    (clone.path / "dvc.lock").unlink()
    before = contents(remote)

    assert pull.main(["--run-cache"], {}) == 0

    told = capsys.readouterr().err
    assert str(record) in told
    assert words in told
    assert told.count("left out") == 1
    taken = {path.name for path in clone.path.glob(".dvc/cache/runs/*/*/*")}
    assert taken == {path.name for path in remote.glob("runs/*/*/*")} - {record.name}
    assert contents(remote) == before
    assert name not in clone.cached()


def test_records_of_other_code_bring_nothing(clone, remote):
    (clone.path / "dvc.lock").unlink()
    with (clone.path / "src/pawl/pipeline/train.py").open("a") as file:
        file.write("# another\n")

    assert pull.main(["--run-cache"], {}) == 0

    assert clone.object("ingest", "data/raw.parquet") in clone.cached()
    assert clone.object("train", "models/bundle") not in clone.cached()


def test_a_remote_that_cannot_list_says_that_it_has_no_records_to_give(clone, server, capsys):
    clone.set(server.url)

    assert pull.main(["--run-cache"], {}) == 0

    assert "cannot be listed" in capsys.readouterr().out
    assert "models/bundle/manifest.json" in clone.made()
