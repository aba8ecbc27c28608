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
import yaml

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.e2e
KEPT_TESTS = (  # a template's own tests, in little
    "tests/README.md", "tests/conftest.py", "tests/unit/test_rows.py", "tests/model/test_behaviour.py",
    "tests/sample/params.yaml", "tests/sample/schema.yaml", "tests/sample/gates.yaml",
)  # fmt: skip
# What `gh` is asked, answered from what the stand-in of actions/attest left: unsigned, so repository and digest are all that it can hold an image to.
GH = """#!{python}
import base64, json, os, sys
from pathlib import Path
assert sys.argv[1:3] == ["attestation", "verify"] and os.environ["GH_TOKEN"], sys.argv
given = dict(word.split("=", 1) for word in sys.argv[4:] if "=" in word)
assert given["--signer-workflow"] == given["--repo"] + "/.github/workflows/build.yml", given
assert given["--source-ref"] == "refs/heads/main" and "--deny-self-hosted-runners" in sys.argv, given
name, _, digest = sys.argv[3].removeprefix("oci://").partition("@sha256:")
for path in Path(os.environ["STANDIN_STORE"]).glob("runs/*/attestations/*.json"):
    told = json.loads(base64.b64decode(json.loads(path.read_text())["dsseEnvelope"]["payload"]))
    of = told["predicate"]["buildDefinition"]["externalParameters"]["workflow"]["repository"]
    if {{"name": name, "digest": {{"sha256": digest}}}} in told["subject"] and of.endswith("/" + given["--repo"]):
        sys.exit(0)
sys.exit("no attestation of " + sys.argv[3])
"""


class GitHub:
    """A project with its pretended GitHub."""

    def __init__(self, path, registry, project, *always):
        self.folder, self.registry, self.number, self.project, self.always = path, registry, 0, project, always
        (path / "bin").mkdir()
        (path / "bin/gh").write_text(GH.format(python=sys.executable))
        (path / "bin/gh").chmod(0o755)
        self.name = f"Octo-Org/Example-{uuid.uuid4().hex[:8]}"  # the registry may hold what an earlier run left; owners have capitals, images not
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
        environ = {**os.environ, "PATH": f"{self.folder}/bin{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            [*command, *self.always, *more],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=environ,
        )
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
    return {job["id"] or "build": job["result"] for job in run["jobs"]}  # what is called has no id of its own


def origin(github, *words):
    """Return what git says in the repository on the pretended GitHub."""
    return github.project.call("git", "--git-dir", str(github.folder / "github/origin.git"), *words).stdout


def champion(github, folder):
    """Return (version, tags, number of versions) of the champion in the registry that the releases keep."""
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
    return github.play("pull_request", "--workflow", "pr.yml")


@pytest.fixture(scope="module")
def released(github, pushed):
    github.merge("fewer-leaves")
    return github.play("push", "--workflow", "release.yml")


@pytest.fixture(scope="module")
def next_one(github, released):
    github.branch("more-leaves", "More leaves", **{"train.params.num_leaves": 9})
    played = github.play("pull_request", "--workflow", "pr.yml")
    github.project.call("git", "checkout", "--quiet", "main")
    return played


@pytest.fixture(scope="module")
def broken(github, next_one, tmp_path_factory):
    before = champion(github, tmp_path_factory.mktemp("registry") / "before")
    github.branch("one-tree", "One tree", **{"train.params.n_estimators": 1, "train.params.num_leaves": 2})
    github.merge("one-tree")
    return before, github.play("push", "--workflow", "release.yml")


def test_a_pull_request_gets_one_comment_with_what_it_does_to_the_model(opened):
    assert jobs(opened.runs["pr"]) == dict.fromkeys(jobs(opened.runs["pr"]), "success")
    assert opened.runs["report"]["conclusion"] == "success"
    (comment,) = opened.comments

    assert comment["user"] == "github-actions[bot]"
    assert "gates pass" in comment["body"]
    assert "| roc_auc\u00a0↑ |" in comment["body"]
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

    played = github.play("pull_request", "--workflow", "pr.yml", "--fork", "--var", 'TRAIN_RUNNER=["gpu"]')

    bodies = [comment["body"].split("\n\n", 2)[2].split("<sub>")[0] for comment in played.comments]
    tables = [body.split("\n\n")[0] for body in bodies]
    assert played.runs["pr"]["conclusion"] == "success"
    assert len(played.comments) == 2
    assert tables[0] == tables[1]


def test_a_pull_request_that_makes_the_model_worse_is_red_and_its_comment_says_by_how_much(github, pushed):
    github.branch("two-trees", "Two trees", **{"train.params.n_estimators": 2, "train.params.num_leaves": 3})

    played = github.play("pull_request", "--workflow", "pr.yml")

    done = jobs(played.runs["pr"])
    (comment,) = [each["body"] for each in played.comments if "`train.params.n_estimators`" in each["body"]]
    assert (done["model"], done["images"], done["pass"]) == ("failure", "skipped", "failure")
    assert "### ❌ Blocked: roc_auc" in comment
    assert "The run ended as failure" in comment


def test_a_pipeline_that_crashes_is_told_in_the_comment(github, pushed):
    project = github.project
    project.call("git", "checkout", "--quiet", "-B", "crash", "fewer-leaves")
    (project.path / "src/task/features.py").write_text("raise RuntimeError('no such thing')\n")
    project.commit("Features that do not load")

    played = github.play("pull_request", "--workflow", "pr.yml")

    (comment,) = [each["body"] for each in played.comments if "No numbers" in each["body"]]
    assert jobs(played.runs["pr"])["model"] == jobs(played.runs["pr"])["pass"] == "failure"
    assert "the run ended as failure before the model was measured" in comment
    assert played.runs["report"]["conclusion"] == "success"


def test_a_merge_is_trained_gated_registered_built_deployed_asked_and_promoted(github, released, tmp_path):
    run = released.runs["release"]

    assert run["conclusion"] == "success", released.log[-3000:]
    assert "golden rows answered right through the Service" in released.summaries["staging"]
    assert "no cluster, nothing is deployed" in released.summaries["production"]
    version, tags, count = champion(github, tmp_path / "registry")
    assert (str(version), count) == ("1", 1)
    assert tags["pawl.released"] == github.project.call("git", "rev-parse", "fewer-leaves").stdout.strip()
    assert tags["pawl.verdict"] == "pass"
    assert f"{github.registry}/{github.name}/model-server@sha256:".lower() in tags["pawl.images"]
    assert tags["pawl.validated_by"]
    release = json.loads(origin(github, "show", "ledger:champion.json"))
    assert (release["version"], release["image"], release["verdict"]) == ("1", tags["pawl.images"], "pass")
    assert release["environment"] == "local"


def test_the_images_carry_what_is_in_them_and_how_they_were_made(github, released):
    for name in ("model-server", "trainer"):
        place = f"{github.registry}/{github.name}/{name}:latest".lower()
        for kind in ("SBOM", "Provenance"):
            words = ["docker", "buildx", "imagetools", "inspect", place, f"--format={{{{json .{kind}}}}}"]
            told = json.loads(github.project.call(*words).stdout)
            assert told.get("SPDX", {}).get("packages") or told.get("SLSA"), f"{name} has no {kind}: {told}"


def test_the_summary_says_what_was_skipped_and_what_lights_it_up(released):
    said = released.summaries["production"]

    for light in ("TRAIN_RUNNER", "MLFLOW_TRACKING_URI", "KUBECONFIG", "RETRAIN_TOKEN"):
        assert light in said
    assert "### Release 1-" in said
    assert "| environment | `local` |" in said


def test_the_next_pull_request_is_compared_with_what_the_release_wrote_into_the_ledger(next_one):
    (comment,) = [each for each in next_one.comments if "`train.params.num_leaves`" in each["body"]][-1:]

    assert next_one.runs["report"]["conclusion"] == "success"
    assert "trained anew" not in comment["body"]
    assert "against main" in comment["body"]
    assert "champion, version 1" in comment["body"]
    assert "training the model of" not in next_one.log


def test_a_merge_that_breaks_a_floor_promotes_nothing_and_deploys_nothing(github, broken, tmp_path):
    before, played = broken

    done = {"train": "failure", "register": "success"}
    assert jobs(played.runs["release"]) == dict.fromkeys(jobs(played.runs["release"]), "skipped") | done
    assert "❌ Blocked: roc_auc is" in played.summaries["train"]
    assert champion(github, tmp_path / "registry") == before


def test_fresh_data_make_one_pull_request(github, broken):
    github.project.call("git", "revert", "--no-edit", "HEAD")

    nothing = github.play("schedule", "--workflow", "retrain.yml")
    github.project.set(**{"ingest.sample.seed": 1, "drift.max_loss": 0.005})  # as if the source had other rows
    github.project.commit("Another month")
    good = github.play("schedule", "--workflow", "retrain.yml")
    github.project.set(**{"ingest.sample.drift": 1.0})  # and then other people in them
    github.project.commit("And another")
    first = github.play("schedule", "--workflow", "retrain.yml")
    second = github.play("schedule", "--workflow", "retrain.yml")

    for each in (nothing, good, first, second):
        assert each.runs["retrain"]["conclusion"] == "success", each.log[-3000:]
    assert "nothing to retrain on" in nothing.summaries["retrain"]
    assert "The champion, version 1, is good enough: roc_auc is" in good.summaries["retrain"]
    proposals = [
        [pull for pull in each.state["issues"].values() if (pull.get("pull") or {}).get("head") == "retrain"]
        for each in (nothing, good, first, second)
    ]
    assert [len(each) for each in proposals] == [0, 0, 1, 1]
    assert "Renewed pull request" in second.summaries["retrain"]
    body = proposals[3][0]["body"]
    assert body.startswith("**Why**: The champion, version 1, is no longer good enough: roc_auc is")
    assert "against champion, version 1" in body


@pytest.fixture(scope="module")
def stopped(github, released):
    """A release that was stopped after one job, after another, and was begun again each time."""
    github.project.call("git", "checkout", "--quiet", "main")
    github.project.set(**{"train.params.num_leaves": 12})
    github.project.run()
    github.project.commit("Twelve leaves")
    for job in ("build", "staging"):
        github.play("push", "--workflow", "release.yml", "--job", job)
    return github.play("push", "--workflow", "release.yml")


def test_a_release_that_was_stopped_anywhere_is_one_release(github, stopped, tmp_path):
    assert stopped.runs["release"]["conclusion"] == "success", stopped.log[-3000:]
    version, tags, _ = champion(github, tmp_path / "registry")
    releases = [
        line for line in origin(github, "ls-tree", "-r", "--name-only", "ledger").splitlines() if "releases/" in line
    ]
    head = github.project.call("git", "rev-parse", "HEAD").stdout.strip()

    assert len(tags["pawl.images"].split()) == 1
    assert (tags["pawl.released"], tags["pawl.commits"]) == (head, head)
    assert len([name for name in releases if f"-{version}-" in name]) == 1, releases
    assert "is there already" in stopped.log


def test_an_older_release_that_is_run_again_overtakes_nothing(github, stopped, tmp_path):
    before, head = champion(github, tmp_path / "before"), github.project.call("git", "rev-parse", "HEAD").stdout.strip()

    github.project.call("git", "branch", "--force", "newest")  # main on GitHub keeps the later commit
    github.project.call("git", "reset", "--quiet", "--hard", before[1]["pawl.released"] + "^")
    played = github.play("push", "--workflow", "release.yml")
    github.project.call("git", "reset", "--quiet", "--hard", head)

    done = jobs(played.runs["release"])
    assert done == dict.fromkeys(done, "skipped") | {"train": "success", "register": "failure"}
    assert "does not come after that" in played.log
    assert champion(github, tmp_path / "after")[0] == before[0]


def test_a_poisoned_lock_and_remote_do_not_reach_the_registry(github, stopped, tmp_path):
    project, honest = github.project, champion(github, tmp_path / "before")
    dvc = (sys.executable, "-m", "dvc")
    project.call(*dvc, "remote", "add", "--default", "storage", str(tmp_path / "remote"))
    lock = yaml.safe_load((project.path / "dvc.lock").read_text())
    project.set(**{"train.params.num_leaves": 2})
    project.run()
    project.call(*dvc, "push", "--quiet", "--run-cache")
    poison = yaml.safe_load((project.path / "dvc.lock").read_text())["stages"]["train"]["outs"]
    lock["stages"]["train"]["outs"] = poison
    project.set(**{"train.params.num_leaves": 12})
    (project.path / "dvc.lock").write_text(yaml.safe_dump(lock))
    project.commit("A lock that names another bundle, which the remote has")

    played = github.play("push", "--workflow", "release.yml")

    assert played.runs["release"]["conclusion"] == "success", played.log[-3000:]
    version, tags, count = champion(github, tmp_path / "after")
    assert (version, tags["pawl.digest"], count) == (honest[0], honest[1]["pawl.digest"], honest[2])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster that outlives a job, as users have it; return its kubeconfig."""
    config = tmp_path_factory.mktemp("cluster") / "config"
    subprocess.run(["kind", "create", "cluster", "--name", "pawl-e2e", "--kubeconfig", str(config)], check=True)
    yield config
    subprocess.run(["kind", "delete", "cluster", "--name", "pawl-e2e"], check=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two key pairs of cosign: ours, and somebody's."""
    assert shutil.which("cosign"), "`make e2e` needs cosign: see tests/README.md"
    made = []
    for name in ("ours", "others"):
        folder = tmp_path_factory.mktemp(name)
        subprocess.run(["cosign", "generate-key-pair"], cwd=folder, env={**os.environ, "COSIGN_PASSWORD": "only-for-tests"}, check=True, capture_output=True)  # fmt: skip
        made.append(((folder / "cosign.key").read_text(), (folder / "cosign.pub").read_text()))
    return made


@pytest.fixture(scope="module")
def private(tmp_path_factory, make_project, cluster, keys):
    """A private repository with environments: a cluster for both, images that cosign signs."""
    folder = tmp_path_factory.mktemp("private")
    always = [
        "--private",
        "--secret",
        f"KUBECONFIG={cluster.read_text()}",
        "--secret",
        "COSIGN_PASSWORD=only-for-tests",
    ]
    always += ["--secret", f"COSIGN_PRIVATE_KEY={keys[0][0]}", "--workflow", "release.yml"]
    made = GitHub(folder, os.environ.get("PAWL_REGISTRY", "localhost:5000"), make_project(folder / "project"), *always)
    made.key = f"COSIGN_PUBLIC_KEY={keys[0][1]}"
    return made


def production(cluster):
    """Return the image that production runs."""
    words = [
        "kubectl",
        "get",
        "deployment",
        "model",
        "--namespace",
        "model-production",
        "--output",
        "jsonpath={..image}",
    ]
    return subprocess.run(words, env={**os.environ, "KUBECONFIG": str(cluster)}, check=True, capture_output=True, text=True).stdout  # fmt: skip


@pytest.fixture(scope="module")
def two(private, cluster):
    """Two releases in production, one after the other; return what was played, and the images."""
    played, images = [], []
    for leaves in (7, 9):
        private.project.set(**{"train.params.num_leaves": leaves})
        private.project.run()
        private.project.commit(f"{leaves} leaves")
        played.append(private.play("push", "--var", private.key))
        assert played[-1].runs["release"]["conclusion"] == "success", played[-1].log[-5000:]
        images.append(production(cluster))
    return played, images


def test_a_release_goes_through_staging_to_production_by_a_signature(private, two, tmp_path):
    played, images = two

    for each in played:
        assert "of this repository's build, says cosign" in each.summaries["staging"]
        assert "✅ Deployed to staging" in each.summaries["staging"]
        assert "✅ Deployed to production" in each.summaries["production"]
    assert images[0] != images[1]
    version, tags, _ = champion(private, tmp_path / "registry")
    assert (str(version), tags["pawl.images"]) == ("2", images[1])
    assert json.loads(origin(private, "show", "ledger:champion.json"))["environment"] == "production"


def test_an_image_that_somebody_else_signed_is_not_deployed(private, two, cluster, keys, tmp_path):
    private.project.set(**{"train.params.num_leaves": 10})
    private.project.run()
    private.project.commit("Ten leaves")

    played = private.play("push", "--var", f"COSIGN_PUBLIC_KEY={keys[1][1]}")

    done = jobs(played.runs["release"])
    assert (done["build"], done["staging"], done["production"]) == ("success", "failure", "skipped")
    assert "❌ The image was not shown to be of this repository's build" in played.summaries["staging"]
    assert production(cluster) == two[1][1]
    assert str(champion(private, tmp_path / "registry")[0]) == "2"


def test_what_cannot_become_champion_does_not_stay_in_production(private, two, cluster, tmp_path):
    release = (private.project.path / ".github/workflows/release.yml").read_text()
    private.project.edit(".github/workflows/release.yml", '-m scripts.promote --version "$VERSION" --image "$IMAGE"', "-c 'raise SystemExit(3)'")  # fmt: skip
    private.project.set(**{"train.params.num_leaves": 11})
    private.project.run()
    private.project.commit("Eleven leaves, and a registry that fails at the last moment")

    played = private.play("push", "--var", private.key)

    done = jobs(played.runs["release"])
    assert (done["staging"], done["production"], done["cache"]) == ("success", "failure", "skipped")
    assert "✅ Deployed to production" in played.summaries["production"]
    assert "the champion could not be named" in played.summaries["production"]
    assert production(cluster) == two[1][1]
    assert str(champion(private, tmp_path / "registry")[0]) == "2"
    (private.project.path / ".github/workflows/release.yml").write_text(release)
    private.project.commit("The registry answers again")
    assert private.play("push", "--var", private.key).runs["release"]["conclusion"] == "success"
    assert production(cluster) != two[1][1]


def test_a_rollback_by_hand_takes_pods_alias_and_ledger_back(private, two, cluster, tmp_path):
    words = [
        "--workflow",
        "rollback.yml",
        "--input",
        "environment=production",
        "--input",
        "to=1",
        "--input",
        "reason=wrong $(touch PWN) for `some`",
    ]

    private.always = tuple(word for word in private.always if word not in {"--workflow", "release.yml"})
    played = private.play("workflow_dispatch", *words)

    assert played.runs["rollback"]["conclusion"] == "success", played.log[-5000:]
    assert production(cluster) == two[1][0]
    assert str(champion(private, tmp_path / "registry")[0]) == "1"
    last = json.loads(origin(private, "show", "ledger:champion.json"))
    assert (last["version"], last["environment"], last["reason"]) == (
        "1",
        "production",
        "wrong $(touch PWN) for `some`",
    )
