"""A release into a cluster: what is applied, what leads back, and what is said. The cluster is a program that keeps a file."""

import base64
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from scripts import deploy

ROOT = Path(__file__).parents[2]
NEW = "ghcr.io/me/model@sha256:" + "b" * 64
OLD = "ghcr.io/me/model@sha256:" + "a" * 64
DIGEST = "sha256:" + "d" * 64
TOKEN = "ghs_canary7f3a"

# `faults` are {call: message}; `broken` images never get ready; `said` is what the smoke job prints, by image.
KUBECTL = """\
#!{python} -IS
import json, re, subprocess, sys
from pathlib import Path

file = Path({state!r})
state, words = json.loads(file.read_text()), sys.argv[1:]
call = " ".join(word for word in words[:2] if word[0] not in "-.")
state["calls"].append(words)
told, code = "", 0
if call in state["faults"]:
    print(state["faults"][call], file=sys.stderr)
    code = 1
elif words[0] == "kustomize":
    asked = "-".join(re.findall("[A-Za-z0-9]+", (Path(words[1]) / "kustomization.yaml").read_text()))
    kept = Path({kept!r}) / asked  # the same files give the same answer: one real call per image
    if not kept.exists():
        done = subprocess.run([*{kustomize!r}, *words], stdout=subprocess.PIPE, check=True)
        kept.write_bytes(done.stdout)
    told = kept.read_text()
elif words[0] == "apply":
    state["applied"].append(sys.stdin.read())
    state["image"] = re.search("image: (.*)", state["applied"][-1].partition("kind: Deployment")[2])[1]
elif call == "get deployment":
    told = state["image"]
elif words[0] == "rollout" and state["image"] in state["broken"]:
    print("error: timed out waiting for the condition", file=sys.stderr)
    code = 1
elif call == "get job":
    state["waits"] -= 1
    told = json.dumps({{"status": {{}} if state["waits"] >= 0 else {{"succeeded": 1}}}})
elif call == "get pods":
    told = json.dumps({{"items": state["pods"]}})
elif words[0] == "logs":
    told = state["said"].get(state["image"], "") if words[1].startswith("job/") else "boom: no such file"
file.write_text(json.dumps(state))
print(told, end="")
sys.exit(code)
"""


# Enough of `kubectl kustomize` for our own files, where there is no kubectl.
KUSTOMIZE = """
import sys
from pathlib import Path
import yaml

folder = Path(sys.argv[2])
over = yaml.safe_load((folder / "kustomization.yaml").read_text())
overlay, image = folder / over["resources"][0], over["images"][0]
name = image["newName"] + "".join({"digest": "@", "newTag": ":"}[key] + image[key] for key in image if key in {"digest", "newTag"})
space = yaml.safe_load((overlay / "kustomization.yaml").read_text())["namespace"]
for path in [*overlay.glob("[!k]*.yaml"), *(overlay / "../../base").glob("[!k]*.yaml")]:
    one = yaml.safe_load(path.read_text().replace("image: model", "image: " + name))
    if one["kind"] != "Namespace":
        one["metadata"]["namespace"] = space
    print("---")
    print(yaml.safe_dump(one))
"""


class Cluster:
    """What the stand-in keeps."""

    def __init__(self, file):
        self.file = file
        self.set(calls=[], faults={}, broken=[], applied=[], image=OLD, waits=0, pods=[], said={NEW: right()})

    def set(self, **values):
        state = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.file.write_text(json.dumps(state | values))

    def __getattr__(self, name):
        return json.loads(self.file.read_text())[name]

    @property
    def manifests(self):
        """Return what was applied, each time."""
        return [list(yaml.safe_load_all(text)) for text in self.applied]

    @property
    def verbs(self):
        return [words[0] for words in self.calls if words[0] != "kustomize"]


def right(**changes):
    return "starting\n" + json.dumps({"digest": DIGEST, "rows": 38, "problems": []} | changes) + "\n"


def pod(made, **status):
    return {"metadata": {"name": f"model-{made}", "creationTimestamp": made}, "status": {"phase": "Pending", **status}}


CRASHED = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kustomized")


@pytest.fixture
def cluster(tmp_path, monkeypatch, kept):
    """A project folder and a cluster in which OLD runs."""
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s")
    (tmp_path / "bin").mkdir()
    program, state = tmp_path / "bin/kubectl", tmp_path / "cluster.json"
    kubectl = shutil.which("kubectl")
    kustomize = [kubectl] if kubectl else [sys.executable, "-c", KUSTOMIZE]
    words = {"python": sys.executable, "state": str(state), "kept": str(kept), "kustomize": kustomize}
    program.write_text(KUBECTL.format(**words))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(deploy.time, "sleep", lambda _: None)
    return Cluster(state)


def run(overlay="local", image=NEW, **environ):
    return deploy.main(["--overlay", overlay, "--image", image, "--digest", DIGEST], environ)


def images(manifests):
    """Return the images of a list of manifests, by kind."""
    found = {}
    for one in manifests:
        spec = one.get("spec", {}).get("jobTemplate", one).get("spec", {})
        for container in spec.get("template", {}).get("spec", {}).get("containers", []):
            found[one["kind"]] = container["image"]
    return found


def test_a_good_image_is_applied_asked_and_told(cluster, capsys, tmp_path):
    code = run(GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"))

    said = capsys.readouterr().out
    assert code == 0
    assert said == f"✅ Deployed to local: 38 golden rows answered right through the Service by `{NEW}`.\n"
    assert (tmp_path / "summary.md").read_text().strip() == said.strip()
    assert [images(manifests) for manifests in cluster.manifests] == [{"Deployment": NEW, "CronJob": NEW}]
    assert cluster.verbs == ["version", "get", "apply", "rollout", "create", "get", "logs"]


def test_every_manifest_of_the_overlay_is_applied_in_its_namespace(cluster):
    run()

    (applied,) = cluster.manifests
    assert sorted(one["kind"] for one in applied) == ["CronJob", "Deployment", "Namespace", "Service"]
    assert {one["metadata"].get("namespace", "model") for one in applied} == {"model"}
    inside = [words for words in cluster.calls if words[0] in {"rollout", "create", "logs", "get"}]
    assert all("model" in words[words.index("--namespace") + 1] for words in inside)


def test_a_smoke_job_that_takes_its_time_is_waited_for(cluster):
    cluster.set(waits=3)

    assert run() == 0
    assert cluster.verbs.count("get") == 1 + 4


def never_ready(cluster):
    cluster.set(broken=[NEW], pods=[pod("2", containerStatuses=[{"state": CRASHED}]), pod("1")])


def never_started(cluster):
    cluster.set(broken=[NEW])


def never_placed(cluster):
    cluster.set(broken=[NEW], pods=[pod("1")])


def another_model(cluster):
    cluster.set(said={NEW: right(digest="sha256:other")})


def wrong_answers(cluster):
    cluster.set(said={NEW: right(problems=["golden row 3, alone: [0.5], not [0.25]"])})


def silent(cluster):
    cluster.set(said={})


def not_answering(cluster):
    cluster.set(said={NEW: "error: not ready after 60 s: refused\n  where: http://model\n  fix: see its log\n"})


def muddled(cluster):
    cluster.set(said={NEW: "12\n"})


def no_job(cluster):
    cluster.set(faults={"create job": "Error from server (Forbidden): jobs.batch is forbidden"})


def no_answer_of_the_job(cluster):
    cluster.set(faults={"get job": "Unable to connect to the server: i/o timeout"})


BAD = {
    never_ready: "no pod became ready: CrashLoopBackOff back-off 10s restarting boom: no such file",
    never_started: "no pod became ready: no pod was started",
    never_placed: "no pod became ready: it is Pending",
    another_model: f"the Service answers with sha256:other, not with {DIGEST}",
    wrong_answers: "wrong answers through the Service: golden row 3, alone: [0.5], not [0.25]",
    silent: "the Service did not answer: the smoke job said nothing",
    not_answering: "the Service did not answer: error: not ready after 60 s",
    muddled: "the Service did not answer: 12",
    no_job: "jobs.batch is forbidden",
    no_answer_of_the_job: "i/o timeout",
}


@pytest.mark.parametrize("fault", BAD, ids=lambda fault: fault.__name__)
def test_a_bad_image_is_taken_back_and_the_reason_is_said(cluster, capsys, tmp_path, fault):
    fault(cluster)

    code = run(GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"), REGISTRY_TOKEN=TOKEN)

    said = capsys.readouterr().out
    assert code == 1
    assert TOKEN not in said + json.dumps(cluster.calls)
    assert said.startswith("❌ Not deployed to local: ")
    assert BAD[fault] in said
    assert said.endswith(f"`{OLD}` runs again.\n")
    assert (tmp_path / "summary.md").read_text().strip() == said.strip()
    assert cluster.image == OLD
    assert images(cluster.manifests[-1]) == {"Deployment": OLD, "CronJob": OLD}
    assert "rollout" in cluster.verbs[cluster.verbs.index("apply") + 2 :]  # and it was waited for


@pytest.mark.parametrize("fault", [never_ready, no_job], ids=lambda fault: fault.__name__)
def test_where_nothing_ran_before_it_says_so(cluster, capsys, fault):
    fault(cluster)
    cluster.set(image="")

    code = run()

    assert code == 1
    assert BAD[fault] in (said := capsys.readouterr().out)
    assert said.endswith("Nothing ran there before.\n")
    assert len(cluster.applied) == 1


@pytest.mark.parametrize("before", ["model", "pawl:3f2a", "host:5000/me/model", "host:5000/me/model:v1"])
def test_an_image_that_was_put_there_by_a_tag_comes_back_too(cluster, capsys, before):
    wrong_answers(cluster)
    cluster.set(image=before)

    assert run() == 1
    assert f"`{before}` runs again." in capsys.readouterr().out
    assert cluster.image == before


def test_where_the_way_back_fails_too_both_reasons_are_said(cluster, capsys):
    never_ready(cluster)
    cluster.set(broken=[NEW, OLD])

    code = run()

    said = capsys.readouterr().out
    assert code == 1
    assert said.count("no pod became ready: CrashLoopBackOff") == 2
    assert f"`{OLD}` does not run again" in said


def test_what_the_cluster_refuses_is_said(cluster, capsys):
    cluster.set(faults={"apply": "admission webhook denied the request"})

    code = run()

    assert code == 1
    assert "admission webhook denied the request" in capsys.readouterr().out
    assert cluster.image == OLD


def test_a_cluster_that_does_not_answer_is_no_bad_image(cluster, capsys):
    cluster.set(faults={"version": "Unable to connect to the server: dial tcp 10.0.0.1:6443"})

    code = run()

    told = capsys.readouterr().err
    assert code == 3
    assert "Unable to connect to the server: dial tcp 10.0.0.1:6443" in told
    assert cluster.verbs == ["version"]


IMAGES = [
    "ghcr.io/me/model",
    "ghcr.io/me/model:v1",
    "ghcr.io/me/model@sha256:abc",
    f"@sha256:{'a' * 64}",
    f"{NEW}; x",
    "",
]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_without_its_digest_is_refused_before_anything_is_done(cluster, capsys, image):
    code = run(image=image)

    assert code == 2
    assert f"error: {image} does not name an image by its digest" in capsys.readouterr().err
    assert cluster.verbs == []


def test_an_overlay_that_does_not_exist_is_told_with_those_that_do(cluster, capsys):
    code = run(overlay="production")

    assert code == 2
    told = capsys.readouterr().err
    assert "there is no overlay production" in told
    assert "one of: local" in told
    assert cluster.verbs == []


def test_without_kubectl_it_says_so(cluster, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert run() == 2
    assert "kubectl is not installed" in capsys.readouterr().err


def test_the_token_of_the_registry_is_in_a_secret_and_nowhere_else(cluster, capsys, tmp_path):
    wrong_answers(cluster)

    run(
        REGISTRY_USER="me",
        REGISTRY_TOKEN=TOKEN,
        REGISTRY="reg.example",
        GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"),
    )

    login = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    for applied in cluster.manifests:  # of the image, and of the one before
        (secret,) = [one for one in applied if one["kind"] == "Secret"]
        assert secret["metadata"] == {"name": "registry", "namespace": "model"}
        assert json.loads(secret["stringData"][".dockerconfigjson"]) == {"auths": {"reg.example": {"auth": login}}}
        assert secret["type"] == "kubernetes.io/dockerconfigjson"
    written = [path.read_text() for path in (tmp_path / ".pawl").rglob("*") if path.is_file()]
    shown = [*capsys.readouterr(), (tmp_path / "summary.md").read_text(), *written, json.dumps(cluster.calls)]
    assert len(cluster.applied) == 2
    assert not [text for text in shown if TOKEN in text or login in text]


def test_the_secret_has_the_name_that_the_pods_ask_for(cluster):
    run(REGISTRY_TOKEN=TOKEN)

    (applied,) = cluster.manifests
    names = {one["kind"]: one for one in applied}
    pods = [names["Deployment"]["spec"], names["CronJob"]["spec"]["jobTemplate"]["spec"]]
    secret = names["Secret"]["metadata"]["name"]
    assert [each["template"]["spec"]["imagePullSecrets"] for each in pods] == [[{"name": secret}]] * 2


def test_without_a_token_there_is_no_secret(cluster):
    run(REGISTRY_USER="me", REGISTRY_TOKEN="")

    assert "Secret" not in [one["kind"] for one in cluster.manifests[0]]


def test_the_smoke_job_asks_the_service_by_its_name():
    base = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "k8s/base").glob("[!k]*.yaml")}
    job = base["smoke"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]

    assert job["command"][-1] == f"http://{base['service']['metadata']['name']}"
    assert job["image"] == base["deployment"]["spec"]["template"]["spec"]["containers"][0]["image"]
