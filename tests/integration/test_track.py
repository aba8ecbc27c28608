"""One run and one version per model, in the embedded registry and in a server's; and which version is champion."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request

import msgspec
import pytest
import yaml

from pawl import report, tracking
from scripts import track

LENIENT, STRICT = (
    {"version": 1, "metrics": {"roc_auc": {"direction": "higher", "floor": floor}}} for floor in (0.5, 1)
)

# What a test asks of the store in the working directory, through the door that the scripts use.
LOOK = """
import json, sys
from pathlib import Path
from mlflow.artifacts import download_artifacts
from pawl import tracking
from scripts import track

track.main([])
with tracking.store() as client:
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    versions = client.search_model_versions("name = 'pawl'")
    download_artifacts(f"runs:/{runs[0].info.run_id}/bundle", dst_path=sys.argv[1])
versions = [each.version for each in versions]
print(json.dumps({"runs": [run.info.run_id for run in runs], "versions": versions, "url": client.tracking_uri}))
"""


@pytest.fixture(scope="module")
def tracked(project):
    """A project with a report that passes its gates."""
    (project.path / "gates.yaml").write_text(yaml.safe_dump(LENIENT))
    project.call(sys.executable, "-m", "scripts.report")
    project.commit("a model")
    return project


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A tracking server, as others run it."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            tracking.command(port), cwd=folder, env=tracking.quiet(), stdout=log, stderr=log, start_new_session=True
        )
    until = f"http://127.0.0.1:{port}"
    try:
        tracking._answers(until, 60, process)
        yield until
    finally:
        process.terminate()
        process.wait()


class Registry:
    """What the server knows of one project."""

    def __init__(self, client, project):
        self.client, self.project = client, project
        self.name = f"pawl-{os.urandom(4).hex()}"

    @property
    def runs(self):
        found = self.client.get_experiment_by_name(self.name)
        return self.client.search_runs([found.experiment_id]) if found else []

    @property
    def versions(self):
        return sorted(int(each.version) for each in self.client.search_model_versions(f"name = '{self.name}'"))

    @property
    def aliases(self):
        return self.client.get_registered_model(self.name).aliases

    def commit(self, message):
        self.project.commit(message)
        return self.project.call("git", "rev-parse", "HEAD").stdout.strip()

    def model(self, threshold):
        """Put another model into the project, with its report."""
        path = self.project.path / "models/bundle/manifest.json"
        manifest = json.loads(path.read_text()) | {"threshold": threshold}
        del manifest["digest"]
        digest = "sha256:" + hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(manifest | {"digest": digest}))
        told = json.loads((self.project.path / "reports/report.json").read_text())
        told["candidate"]["digest"] = digest
        (self.project.path / "reports/report.json").write_text(json.dumps(told))
        return digest


@pytest.fixture
def registry(tracked, url, monkeypatch, tmp_path):
    """An empty registry on the server, and the project as its user; everything as it was after the test."""
    import mlflow

    kept = [
        tracked.path / name
        for name in ("models/bundle/manifest.json", "reports/report.json", "pyproject.toml", "gates.yaml")
    ]
    contents = [path.read_bytes() for path in kept]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    for key, value in tracking.PATIENCE.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tracked.path)
    made = Registry(mlflow.MlflowClient(url), tracked)
    tracked.edit("pyproject.toml", 'name = "pawl"', f'name = "{made.name}"')
    made.commit("a project of its own")
    yield made
    shutil.rmtree(tracked.path / ".pawl/done", ignore_errors=True)
    for path, content in zip(kept, contents, strict=True):
        path.write_bytes(content)


def run(*words, code=0):
    assert track.main(words, os.environ) == code


def test_the_embedded_registry_keeps_one_run_and_one_version_and_its_files_when_it_moves(tracked, tmp_path):
    first = tracked.call(sys.executable, "-m", "scripts.track").stdout
    again = tracked.call(sys.executable, "-m", "scripts.track").stdout
    moved = tracked.path.rename(tracked.path.with_name("moved"))
    original, tracked.path = tracked.path, moved
    try:
        shutil.rmtree(moved / ".pawl/done")
        third, looked = tracked.call(sys.executable, "-c", LOOK, str(tmp_path)).stdout.splitlines(keepends=True)
    finally:
        moved.rename(original)
        tracked.path = original

    found = json.loads(looked)
    assert first.startswith("pawl version 1 (new, candidate) is in mlflow.db: sha256:")
    assert again == first
    assert third == first.replace("(new,", "(known,")
    assert len(found["runs"]) == 1
    assert found["versions"] == ["1"]
    for path in (original / "models/bundle").iterdir():
        assert (tmp_path / "bundle" / path.name).read_bytes() == path.read_bytes()
    assert len(list((tmp_path / "bundle").iterdir())) == 4
    with pytest.raises(OSError, match="refused"):  # its server has ended with the call
        urllib.request.urlopen(f"{found['url']}/health")


def test_a_server_is_used_instead_of_the_embedded_store(registry, url, capsys):
    run()

    assert f"{registry.name} version 1 (new, candidate) is in {url}: sha256:" in capsys.readouterr().out
    assert registry.versions == [1]
    assert registry.aliases == {"candidate": "1"}
    assert not (registry.project.path / "mlflow.db").exists() or registry.name not in tracked_names(registry)


def tracked_names(registry):
    import sqlite3

    connection = sqlite3.connect(registry.project.path / "mlflow.db")
    try:
        return [name for (name,) in connection.execute("select name from registered_models")]
    finally:
        connection.close()


def test_a_run_holds_what_the_model_was_made_of_and_how_good_it_is(registry):
    run()

    (made,) = registry.runs
    digest = json.loads((registry.project.path / "models/bundle/manifest.json").read_text())["digest"]
    measured = json.loads((registry.project.path / "reports/metrics.json").read_text())["test"]
    head = registry.project.call("git", "rev-parse", "HEAD").stdout.strip()
    assert made.info.status == "FINISHED"
    assert made.data.tags["pawl.commit"] == head
    assert made.data.tags["pawl.digest"] == digest
    assert made.data.tags["pawl.gate"] == "pass"
    assert made.data.params["train.params.n_estimators"] == "30"
    assert made.data.metrics["test.roc_auc"] == measured["roc_auc"]["value"]
    curve = registry.client.get_metric_history(made.info.run_id, "valid.binary_logloss")
    assert [each.step for each in curve] == list(range(1, 31))
    folders = {each.path for each in registry.client.list_artifacts(made.info.run_id)}
    assert folders == {"bundle", "inputs", "reports"}
    version = registry.client.get_model_version(registry.name, "1")
    assert version.run_id == made.info.run_id
    assert version.tags["pawl.digest"] == digest


@pytest.mark.parametrize("forgotten", [False, True])
def test_the_same_again_makes_nothing_new(registry, capsys, forgotten):
    run()
    said = capsys.readouterr().out
    if forgotten:
        shutil.rmtree(registry.project.path / ".pawl/done")

    run()

    assert capsys.readouterr().out == (said.replace("(new,", "(known,") if forgotten else said)
    assert len(registry.runs) == 1
    assert registry.versions == [1]


@pytest.mark.parametrize("forgotten", [False, True])
def test_the_workflow_gets_version_and_digest_each_time(registry, tmp_path, monkeypatch, forgotten):
    digest = json.loads((registry.project.path / "models/bundle/manifest.json").read_text())["digest"]
    for name in ("first", "second"):
        monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / name))
        run()
        if forgotten:
            shutil.rmtree(registry.project.path / ".pawl/done")

    assert (tmp_path / "first").read_text() == f"version=1\ndigest={digest}\n"
    assert (tmp_path / "second").read_text() == f"version=1\ndigest={digest}\n"


def test_the_same_model_of_another_commit_is_a_run_and_no_version(registry):
    run()
    registry.commit("only words")

    run()

    assert len(registry.runs) == 2
    assert registry.versions == [1]


def test_a_run_that_was_cut_off_is_logged_again(registry):
    run()
    (made,) = registry.runs
    registry.client.update_run(made.info.run_id, status="RUNNING")
    shutil.rmtree(registry.project.path / ".pawl/done")

    run()

    assert sorted(each.info.status for each in registry.runs) == ["FINISHED", "RUNNING"]
    assert registry.versions == [1]


VERDICTS = {
    "fail": False, "error": False, "skipped": False, "inconclusive where that is strict": False,
    "inconclusive": True, "unchanged": True, "improved": True, "fail where nothing is enforced": True,
}  # fmt: skip


@pytest.mark.parametrize(("verdict", "allowed"), VERDICTS.items(), ids=VERDICTS)
def test_only_what_its_verdict_lets_pass_becomes_a_version(registry, capsys, tmp_path, monkeypatch, verdict, allowed):
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    path, word = registry.project.path / "reports/report.json", verdict.split()[0]
    found = report.load(path.read_bytes(), str(path))
    path.write_bytes(report.dump(msgspec.structs.replace(found, verdict=word, allowed=allowed)))

    run()

    assert (f"; no version was made: the verdict is {word}." in capsys.readouterr().out) != allowed
    (made,) = registry.runs
    assert made.data.tags["pawl.gate"] == word
    assert registry.versions == [1][:allowed]
    assert (tmp_path / "output").exists() == allowed


def test_a_model_that_may_not_ship_is_refused_each_time_that_it_is_asked_for(registry, capsys):
    (registry.project.path / "gates.yaml").write_text(yaml.safe_dump(STRICT))
    registry.project.call(sys.executable, "-m", "scripts.report")

    for _ in range(2):
        run()

    assert capsys.readouterr().out.count("no version was made: the verdict is fail.") == 2
    assert len(registry.runs) == 1
    assert registry.versions == []


def test_another_model_is_the_next_version_and_the_candidate(registry):
    first = registry.model(0.41)
    run()
    registry.model(0.42)
    run()
    after_second = registry.aliases
    assert registry.model(0.41) == first
    shutil.rmtree(registry.project.path / ".pawl/done")
    run()

    assert registry.versions == [1, 2]
    assert after_second == {"candidate": "2"}
    assert registry.aliases == {"candidate": "1"}  # a revert makes no third


def versions(registry, count):
    """Make versions 1 to count, each of a commit of its own; return the commits."""
    commits = []
    for number in range(1, count + 1):
        registry.model(number / 100)
        commits.append(registry.commit(f"model {number}"))
        run()
    return commits


def promote(monkeypatch, version, commit, image="", code=0):
    monkeypatch.setenv("PAWL_COMMIT", commit)
    run("--promote", version, "--image", image, code=code)


def test_promoting_moves_champion_and_remembers_the_one_before(registry, monkeypatch, capsys):
    commits = versions(registry, 3)
    capsys.readouterr()

    said, seen = [], []
    for number, commit in enumerate(commits, 1):
        promote(monkeypatch, str(number), commit, f"model@sha256:{number}")
        said.append(capsys.readouterr().out.strip())
        seen.append({key: value for key, value in registry.aliases.items() if key != "candidate"})

    assert said == [
        f"✅ Released: {registry.name} version {number} is champion (before: {before}), as model@sha256:{number}."
        for number, before in ((1, "none"), (2, 1), (3, 2))
    ]
    assert seen == [
        {"champion": "1"}, {"champion": "2", "previous_champion": "1"}, {"champion": "3", "previous_champion": "2"},
    ]  # fmt: skip
    tags = registry.client.get_model_version(registry.name, "2").tags
    assert (tags["pawl.released"], tags["pawl.image"]) == (commits[1], "model@sha256:2")


def test_promoting_again_changes_no_alias(registry, monkeypatch):
    commits = versions(registry, 2)
    for number in ("1", "2", "2"):
        promote(monkeypatch, number, commits[int(number) - 1])

    assert registry.aliases == {"candidate": "2", "champion": "2", "previous_champion": "1"}


def test_an_older_commit_does_not_take_champion_back(registry, monkeypatch, capsys):
    commits = versions(registry, 2)
    promote(monkeypatch, "2", commits[1])
    before = registry.aliases

    promote(monkeypatch, "1", commits[0], code=2)

    told = capsys.readouterr().err
    assert f"version 2 is champion since {commits[1][:7]}, which is newer than {commits[0][:7]}" in told
    assert "fix: nothing to do" in told
    assert registry.aliases == before
    assert "pawl.released" not in registry.client.get_model_version(registry.name, "1").tags


def test_a_revert_makes_an_earlier_version_champion_again(registry, monkeypatch):
    commits = versions(registry, 2)
    promote(monkeypatch, "1", commits[0])
    promote(monkeypatch, "2", commits[1])

    promote(monkeypatch, "1", registry.commit("Revert model 2"))

    assert registry.aliases == {"candidate": "2", "champion": "1", "previous_champion": "2"}


@pytest.mark.parametrize("version", ["9", "latest", "1; drop", "-1"])
def test_a_version_that_does_not_exist_cannot_be_promoted(registry, monkeypatch, capsys, version):
    (commit,) = versions(registry, 1)

    monkeypatch.setenv("PAWL_COMMIT", commit)
    run(f"--promote={version}", code=2)

    assert f"there is no version {version}" in capsys.readouterr().err
    assert registry.aliases == {"candidate": "1"}


def test_the_report_of_another_model_is_refused(registry, capsys):
    told = (registry.project.path / "reports/report.json").read_bytes()
    registry.model(0.77)
    (registry.project.path / "reports/report.json").write_bytes(told)

    run(code=2)

    assert (
        "error: the report is not of this model\n  where: reports/report.json\n  fix: run `make report`"
        in capsys.readouterr().err
    )
    assert registry.runs == []


@pytest.mark.parametrize(
    ("gone", "fix"), [("reports/report.json", "make report"), ("models/bundle/manifest.json", "make run")]
)
def test_without_a_model_or_its_report_it_says_what_to_run(registry, capsys, gone, fix):
    (registry.project.path / gone).unlink()

    run(code=2)

    assert fix in capsys.readouterr().err
    assert registry.runs == []


def test_a_server_that_does_not_answer_is_told_by_name_and_nothing_is_written_here(tracked, monkeypatch, capsys):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.chdir(tracked.path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead)
    before = {path.name for path in tracked.path.iterdir()}

    run(code=3)

    told = capsys.readouterr().err
    assert f"error: the MLflow server does not answer: [Errno 111] Connection refused\n  where: {dead}" in told
    assert "MLFLOW_TRACKING_URI" in told
    assert {path.name for path in tracked.path.iterdir()} == before


def test_a_password_in_the_address_is_never_shown(registry, url, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url.replace("http://", "http://me:canary7f3a@"))

    run()

    told = capsys.readouterr()
    assert "canary7f3a" not in told.out + told.err
    assert registry.versions == [1]


def test_a_bundle_that_is_not_whole_is_never_registered(registry, capsys):
    stored = registry.project.path / "models/bundle/pipeline.skops"
    content, mode = stored.read_bytes(), stored.stat().st_mode
    stored.unlink()  # it may be a link to the cache
    stored.write_bytes(b"garbage")

    run(code=2)

    stored.write_bytes(content)
    stored.chmod(mode)
    assert "pipeline.skops is not the file that was written" in capsys.readouterr().err
    assert registry.runs == []
