"""The loop as GitHub plays it: the real workflow files, a real registry, a real cluster; GitHub alone is pretended.

PAWL_WORKFLOWS names the program that runs workflow files; tests/README.md says what it must do.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.e2e
KEPT_TESTS = (  # a template's own tests, in little
    "tests/conftest.py", "tests/unit/test_rows.py", "tests/model/test_behaviour.py",
    "tests/sample/params.yaml", "tests/sample/schema.yaml", "tests/sample/gates.yaml",
)  # fmt: skip


class GitHub:
    """A project with its pretended GitHub."""

    def __init__(self, path, registry, project):
        self.folder, self.registry, self.number, self.project = path, registry, 0, project
        self.name = f"octo-org/example-{uuid.uuid4().hex[:8]}"  # the registry may hold what an earlier run left
        shutil.copy2(ROOT / "tests/sample/params.yaml", project.path)
        for name in KEPT_TESTS:
            (self.project.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.project.path / name)
        # act's schema is older than `queue`; GitHub's own parser takes it, and `make lint` asks that one.
        self.project.edit(".github/workflows/release.yml", "  queue: max # every merge is released, in order\n", "")
        self.project.run()
        self.project.commit("The template")

    def branch(self, name, message, **params):
        self.project.call("git", "checkout", "--quiet", "-B", name)
        self.project.set(**params)
        self.project.run()  # as DVC's users do: the lock goes with the change
        self.project.commit(message)

    def merge(self, name):
        self.project.call("git", "checkout", "--quiet", "main")
        self.project.call("git", "merge", "--quiet", name)

    def play(self, event, *more):
        """Play an event and all that follows from it; return its runs, comments, pull requests, summaries and log."""
        self.number += 1
        out = self.folder / f"out{self.number}"
        command = [*shlex.split(os.environ["PAWL_WORKFLOWS"]), str(self.project.path), "--event", event]
        command += [
            "--chain",
            "--github",
            str(self.folder / "github"),
            "--out",
            str(out),
            "--var",
            f"REGISTRY={self.registry}",
            "--repository",
            self.name,
        ]
        done = subprocess.run([*command, *more], check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert (out / "result.json").exists(), done.stdout[-3000:] + done.stderr[-3000:]
        state = json.loads((out / "github.json").read_text())
        summaries = {file.stem: file.read_text() for file in out.glob("*/summary/*.md")}
        if kept := os.environ.get("PAWL_KEEP"):
            shutil.copytree(out, Path(kept) / out.name, dirs_exist_ok=True)
        return SimpleNamespace(
            runs={Path(run["path"]).stem: run for run in json.loads((out / "result.json").read_text())["runs"]},
            comments=[each for each in state["comments"].values() if "pawl:report" in each["body"]],
            state=state, summaries=summaries, log=done.stdout + done.stderr,
        )  # fmt: skip


def jobs(run):
    return {job["id"]: job["result"] for job in run["jobs"]}


def champion(github, folder):
    """Return (version, tags) of the champion in the registry that the releases keep."""
    project = github.project
    project.call("git", "clone", "--quiet", str(github.folder / "github/origin.git"), str(folder))
    code = (
        "from pawl import registry, tracking; import json\n"
        "with tracking.store() as store:\n"
        "    made = registry.named(store.client, 'pawl', 'champion')\n"
        "    print(json.dumps([made.version, made.tags, len(registry.versions(store.client, 'pawl'))]))\n"
    )
    environ = {"PYTHONPATH": f"{project.path}/src{os.pathsep}{project.path}"}
    place = f"{github.registry}/{github.name}/registry"
    for words in (["-m", "scripts.store", "pull", place], ["-c", code]):
        run = {"cwd": folder, "env": project.environ(**environ), "capture_output": True, "text": True}
        done = subprocess.run([sys.executable, *words], check=False, **run)
        assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def github(tmp_path_factory, make_project):
    missing = [name for name in ("docker", "kubectl") if shutil.which(name) is None]
    missing += ["PAWL_WORKFLOWS in the environment"] if "PAWL_WORKFLOWS" not in os.environ else []
    assert not missing, f"`make e2e` needs {', '.join(missing)}: see tests/README.md"
    registry = os.environ.get("PAWL_REGISTRY", "localhost:5000")
    urllib.request.urlopen(f"http://{registry}/v2/", timeout=5).close()
    folder = tmp_path_factory.mktemp("github")
    return GitHub(folder, registry, make_project(folder / "project"))


@pytest.fixture(scope="module")
def opened(github):
    github.branch("fewer-leaves", "Fewer leaves", **{"train.params.num_leaves": 7})
    return github.play("pull_request")


@pytest.fixture(scope="module")
def pushed(github, opened):
    github.branch("fewer-leaves", "Larger leaves", **{"train.params.min_child_samples": 60})
    return github.play("pull_request")


@pytest.fixture(scope="module")
def released(github, pushed):
    github.merge("fewer-leaves")
    return github.play("push")


@pytest.fixture(scope="module")
def next_one(github, released):
    github.branch("more-leaves", "More leaves", **{"train.params.num_leaves": 9})
    played = github.play("pull_request")
    github.project.call("git", "checkout", "--quiet", "main")
    return played


@pytest.fixture(scope="module")
def broken(github, next_one, tmp_path_factory):
    before = champion(github, tmp_path_factory.mktemp("registry") / "before")
    github.branch("one-tree", "One tree", **{"train.params.n_estimators": 1, "train.params.num_leaves": 2})
    github.merge("one-tree")
    return before, github.play("push")


def test_a_pull_request_gets_one_comment_with_what_it_does_to_the_model(opened):
    assert jobs(opened.runs["pr"]) == dict.fromkeys(jobs(opened.runs["pr"]), "success")
    assert opened.runs["report"]["conclusion"] == "success"
    (comment,) = opened.comments

    assert comment["user"] == "github-actions[bot]"
    assert "gates pass" in comment["body"]
    assert "| roc_auc ↑ |" in comment["body"]
    assert "trained anew beside it" in comment["body"]
    assert "| `train.params.num_leaves` | `15` | `7` |" in comment["body"]
    assert "gates pass" in opened.summaries["model"]


def test_the_next_push_renews_the_comment(opened, pushed):
    (before,), (comment,) = opened.comments, pushed.comments

    assert comment["id"] == before["id"]
    assert comment["body"] != before["body"]
    assert "| `train.params.min_child_samples` | `40` | `60` |" in comment["body"]


def test_a_fork_gets_the_same_comment(github, pushed):
    github.project.call("git", "checkout", "--quiet", "-B", "from-a-fork", "fewer-leaves")
    github.project.commit("The same, from a fork")

    played = github.play("pull_request", "--fork", "--var", 'TRAIN_RUNNER=["gpu"]')

    bodies = [comment["body"].split("\n\n", 2)[2].split("<sub>")[0] for comment in played.comments]
    tables = [body.split("\n\n")[0] for body in bodies]
    assert played.runs["pr"]["conclusion"] == "success"
    assert len(played.comments) == 2
    assert tables[0] == tables[1]


def test_a_merge_is_trained_gated_registered_built_deployed_asked_and_promoted(github, released, tmp_path):
    run = released.runs["release"]

    assert run["conclusion"] == "success", released.log[-3000:]
    assert "golden rows answered right through the Service" in released.summaries["deploy"]
    version, tags, count = champion(github, tmp_path / "registry")
    assert (str(version), count) == ("1", 1)
    assert tags["pawl.released"] == github.project.call("git", "rev-parse", "fewer-leaves").stdout.strip()
    assert tags["pawl.verdict"] == "pass"
    assert f"{github.registry}/{github.name}@sha256:" in tags["pawl.images"]
    assert tags["pawl.validated_by"]
    origin = ("git", "--git-dir", str(github.folder / "github/origin.git"))
    release = json.loads(github.project.call(*origin, "show", "ledger:champion.json").stdout)
    assert (release["version"], release["image"], release["verdict"]) == ("1", tags["pawl.images"], "pass")
    assert release["environment"] == "local"


def test_the_next_pull_request_is_compared_with_what_the_release_wrote_into_the_ledger(next_one):
    (comment,) = [each for each in next_one.comments if "`train.params.num_leaves`" in each["body"]][-1:]

    assert next_one.runs["report"]["conclusion"] == "success"
    assert "trained anew" not in comment["body"]
    assert "against main" in comment["body"]
    assert "champion, version 1" in comment["body"]
    assert "training the model of" not in next_one.log


def test_a_merge_that_breaks_a_floor_promotes_nothing_and_deploys_nothing(github, broken, tmp_path):
    before, played = broken

    done = {"train": "failure", "register": "success", "image": "skipped", "deploy": "skipped", "promote": "skipped"}
    assert jobs(played.runs["release"]) == done
    assert "❌ Blocked: roc_auc is" in played.summaries["train"]
    assert champion(github, tmp_path / "registry") == before


def test_fresh_data_make_one_pull_request(github, broken):
    github.project.call("git", "revert", "--no-edit", "HEAD")

    nothing = github.play("schedule", "--workflow", "retrain.yml")
    github.project.set(**{"ingest.sample.seed": 1})  # as if the source had changed
    github.project.commit("Another month")
    first = github.play("schedule", "--workflow", "retrain.yml")
    second = github.play("schedule", "--workflow", "retrain.yml")

    assert nothing.runs["retrain"]["conclusion"] == first.runs["retrain"]["conclusion"] == "success", first.log[-3000:]
    assert "nothing to propose" in nothing.summaries["retrain"]
    proposals = [
        [pull for pull in each.state["issues"].values() if (pull.get("pull") or {}).get("head") == "retrain"]
        for each in (first, second)
    ]
    assert [len(each) for each in proposals] == [1, 1]
    assert "Renewed pull request" in second.summaries["retrain"]
    assert "against main" in proposals[1][0]["body"]
