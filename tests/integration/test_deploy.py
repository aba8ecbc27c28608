"""A release into a cluster: what is applied, what leads back, and what is said. The cluster is a program that keeps a file."""

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

import scripts.cluster
from pawl.ledger import Ledger, Release
from scripts import deploy, ledger, rollback, status
from scripts.cluster import Recorded

ROOT = Path(__file__).parents[2]
NEW = "ghcr.io/me/model@sha256:" + "b" * 64
OLD = "ghcr.io/me/model@sha256:" + "a" * 64
DIGEST = "sha256:" + "d" * 64
TOKEN = "ghs_canary7f3a"

# A cluster that keeps its objects in a file. `faults` are {call: message}; pods of `broken` images never get ready, and look like `pods`;
# `said` is what the smoke job prints, by image. So many times as `lags` says the Deployment is shown as it was before it was applied.
KUBECTL = """\
#!{python} -IS
import hashlib, json, subprocess, sys
from pathlib import Path

file = Path({state!r})
state, words = json.loads(file.read_text()), sys.argv[1:]
call = " ".join(word for word in words[:2] if word[0] not in "-.")
state["calls"].append(words)
told, code = "", 0
objects, dry = state["objects"], "--dry-run=server" in words


def fail(message):
    global code
    code = 1
    print(message, file=sys.stderr)


def image():
    model = objects.get("Deployment/model")
    return model and model["spec"]["template"]["spec"]["containers"][0]["image"]


if call in state["faults"] or dry and "dry run" in state["faults"]:
    fail(state["faults"].get(call) or state["faults"]["dry run"])
elif words[0] == "kustomize":
    tree = b"".join(path.read_bytes() for path in sorted([*Path("k8s").rglob("*.yaml"), Path(words[1]) / "kustomization.yaml"]))
    kept = Path({kept!r}) / hashlib.sha256(tree).hexdigest()  # the same files give the same answer: one real call for them
    if not kept.exists():
        done = subprocess.run([*{kustomize!r}, *words], stdout=subprocess.PIPE, check=True)
        kept.write_bytes(done.stdout)
    told = kept.read_text()
elif words[0] in ("apply", "create", "replace") and "--filename" in words:
    given = json.loads(sys.stdin.read())
    given = given.get("items", [given])
    if not dry:
        kinds = [one["kind"] for one in given]
        if "Deployment" in kinds:
            state["applied"].append(given)
        for one in given:
            key = one["kind"] + "/" + one["metadata"]["name"]
            if words[0] == "create" and key in objects:
                fail("Error from server (AlreadyExists): " + key)
            else:
                objects[key] = one
elif call == "patch deployment":
    (change,) = json.loads(words[words.index("--patch") + 1])
    objects["Deployment/model"]["spec"]["template"], state["managed"] = change["value"], []
elif words[0] == "delete":
    name = words[1] if "/" in words[1] else words[1] + "/" + words[2]
    for key in [each for each in objects if each.lower() == name.lower()]:
        del objects[key]
elif call == "get deployment" and "annotations" in "".join(words):
    told = objects.get("Deployment/model", {{}}).get("metadata", {{}}).get("annotations", {{}}).get("pawl/release", "")
elif call == "get deployment" and "json" not in words:
    told = image() or ""
elif call == "get deployment" and image():
    ready = 0 if image() in state["broken"] else 2
    state["lags"] -= 1
    told = json.dumps({{"metadata": {{**objects["Deployment/model"].get("metadata", {{}}), "generation": 1, "managedFields": state["managed"]}}, "spec": {{**objects["Deployment/model"]["spec"], "replicas": 2, "progressDeadlineSeconds": state["deadline"]}}, "status": {{"observedGeneration": int(state["lags"] < 0), "updatedReplicas": 2, "replicas": 2, "availableReplicas": ready, "conditions": state["conditions"]}}}})
elif call == "get job":
    state["waits"] -= 1
    told = json.dumps({{"status": {{}} if state["waits"] >= 0 else {{"succeeded": 1}}}})
elif call == "get replicasets":
    sets = [("model-old", "8", "model"), ("model-new", "9", "model"), ("canary", "11", "model-canary"), ("model-older", "7", "model")]
    told = json.dumps({{"items": [{{"metadata": {{"name": name, "ownerReferences": [{{"name": owner}}], "annotations": {{"deployment.kubernetes.io/revision": number}}}}}} for name, number, owner in sets]}})
elif call == "get pods":
    told = json.dumps({{"items": state["pods"]}})
elif call == "get configmaps" and "name" in words:
    told = "".join("configmap/" + key.partition("/")[2] + chr(10) for key in objects if key.startswith("ConfigMap/release-"))
elif call == "get configmaps":
    told = json.dumps({{"items": [each for key, each in objects.items() if key.startswith("ConfigMap/release-")]}})
elif words[0] == "get":
    found = next((each for key, each in objects.items() if key.lower() == words[1] + "/" + words[2]), None)
    told = json.dumps(found) if found else ""
    if not found and "--ignore-not-found" not in words:
        fail("Error from server (NotFound)")
elif words[0] == "logs":
    told = state["said"].get(image(), "") if words[1].startswith("job/") else "" if "--previous" in words else "boom: no such file"
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
    for one in yaml.safe_load_all(path.read_text().replace("image: model", "image: " + name)):
        if one["kind"] != "Namespace":
            one["metadata"]["namespace"] = space
        one["metadata"]["annotations"] = over["commonAnnotations"]
        print("---")
        print(yaml.safe_dump(one))
"""


class Cluster:
    """What the stand-in keeps."""

    def __init__(self, file):
        self.file = file
        self.set(
            calls=[],
            faults={},
            broken=[],
            applied=[],
            waits=0,
            managed=[],
            lags=0,
            deadline=-1,
            pods=[],
            conditions=[],
            said={NEW: right(), OLD: right()},
        )
        self.set(objects={"Namespace/model": {"kind": "Namespace"}})

    def runs(self, image):
        """Let an image run that somebody put there."""
        containers = {"containers": [{"image": image}]}
        self.set(objects=self.objects | {"Deployment/model": {"spec": {"template": {"spec": containers}}}})

    def set(self, **values):
        state = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.file.write_text(json.dumps(state | values))

    def __getattr__(self, name):
        return json.loads(self.file.read_text())[name]

    @property
    def image(self):
        return self.objects["Deployment/model"]["spec"]["template"]["spec"]["containers"][0]["image"]

    @property
    def verbs(self):
        return [words[0] for words in self.calls if words[0] != "kustomize"]


def right(**changes):
    return "starting\n" + json.dumps({"digest": DIGEST, "rows": 38, "problems": []} | changes) + "\n"


def pod(name, revision="new", **status):
    about = {"name": f"model-{name}", "ownerReferences": [{"name": f"model-{revision}"}]}
    return {"metadata": about, "status": {"phase": "Pending", **status}}


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
    (tmp_path / "bin/git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.sleep", lambda _: None)
    made = Cluster(state)
    made.runs(OLD)
    return made


def run(environment="local", image=NEW, *more, digest=DIGEST, **environ):
    return deploy.main(["--environment", environment, "--image", image, "--digest", digest, *more], environ)


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

    said, told = capsys.readouterr()
    assert (code, told) == (0, "applying ...\nwaiting for the pods ...\nasking the golden rows ...\n")
    assert said == f"✅ Deployed to local: 38 golden rows answered right through the Service by `{NEW}`.\n"
    assert (tmp_path / "summary.md").read_text().strip() == said.strip()
    assert [images(manifests) for manifests in cluster.applied] == [{"Deployment": NEW, "CronJob": NEW}]
    dry = [words for words in cluster.calls if words[0] == "apply" and "--dry-run=server" in words]
    assert cluster.calls.index(dry[0]) < min(number for number, words in enumerate(cluster.calls) if words == [each for each in dry[0] if each != "--dry-run=server"])  # fmt: skip


def test_every_manifest_of_the_overlay_is_applied_in_its_namespace(cluster):
    run()

    (applied,) = cluster.applied
    written = [one for path in (ROOT / "k8s/base").glob("[!k]*.yaml") for one in yaml.safe_load_all(path.read_text())]
    assert sorted(one["kind"] for one in applied) == sorted(one["kind"] for one in written)
    assert {one["metadata"]["namespace"] for one in applied} == {"model"}
    inside = [words for words in cluster.calls if words[0] in {"create", "logs", "get", "delete"} and "--filename" not in words and words[1] != "namespace"]  # fmt: skip
    assert all(words[words.index("--namespace") + 1] == "model" for words in inside)


def test_a_namespace_is_made_where_it_is_missing_and_never_changed(cluster):
    run()
    cluster.set(objects={})
    run()

    made = [words for words in cluster.calls if words[0] == "create" and "--filename" in words]
    assert "Namespace/model" in cluster.objects
    assert len(made) == 2 + 1  # a lock each, and the namespace


def test_the_identity_stands_on_every_object(cluster):
    run("local", NEW, "--version", "3", "--commit", "c" * 40)

    told = {
        "pawl/release": "3-ccccccc-bbbbbbb",
        "pawl/commit": "c" * 40,
        "pawl/model-version": "3",
        "pawl/bundle": DIGEST,
    }
    assert all(one["metadata"]["annotations"] == told for one in cluster.applied[0])
    kept = json.loads(cluster.objects["ConfigMap/release"]["data"]["release.json"])
    assert (kept["version"], kept["image"], kept["digest"], kept["environment"]) == ("3", NEW, DIGEST, "local")


def test_what_is_recorded_can_be_applied_by_who_may_not_change_the_namespace(cluster):
    run()

    assert "kind: Deployment" in (kept := cluster.objects["ConfigMap/release"]["data"]["manifests.yaml"])
    assert "kind: Namespace" not in kept


def test_the_same_release_again_changes_nothing(cluster, capsys):
    run()
    before = cluster.objects
    capsys.readouterr()

    assert run() == 0
    assert capsys.readouterr().out.startswith("✅ Nothing new for local: 38 golden rows")
    assert cluster.objects == before


def test_who_stops_a_deploy_finds_what_ran_before(cluster, capsys, monkeypatch):
    errors = iter([KeyboardInterrupt])

    def settle(_):
        for error in errors:
            raise error

    monkeypatch.setattr("scripts.cluster.settle", settle)

    assert run() == 1
    assert f"❌ Not deployed to local: it was stopped. Back in 0 s: `{OLD}` runs again." in capsys.readouterr().out
    assert "Lease/deploy" not in cluster.objects


def test_what_somebody_changed_by_hand_is_undone_and_said(cluster, capsys):
    run()
    template = cluster.objects["Deployment/model"]["spec"]["template"]
    edited = [{"manager": name, "fieldsV1": {"f:spec": {"f:template": {}}}} for name in ("pawl", "kubectl-set")]
    cluster.set(managed=[*edited, {"manager": "autoscaler", "fieldsV1": {"f:spec": {"f:replicas": {}}}}])
    capsys.readouterr()

    assert run() == 0
    said = capsys.readouterr().out
    assert said.startswith("✅ Deployed to local")
    assert said.endswith("Undone: what kubectl-set had changed.\n")
    (patch,) = [words for words in cluster.calls if words[0] == "patch"]
    assert json.loads(patch[patch.index("--patch") + 1])[0]["value"] == template


@pytest.mark.parametrize("digest", ["", "abc", "sha256:abc", f"{DIGEST}x"])
def test_a_digest_that_is_none_is_refused_before_anything_is_done(cluster, capsys, digest):
    assert run(digest=digest) == 2
    assert "is no digest of a bundle" in capsys.readouterr().err
    assert cluster.verbs == []


def test_going_back_applies_what_was_recorded_not_todays_files(cluster, capsys):
    run("local", OLD)
    service = Path("k8s/base/service.yaml")
    service.write_text(service.read_text().replace("port: 80,", "port: 81,"))
    more = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}}
    Path("k8s/base/more.yaml").write_text(yaml.safe_dump(more))
    kustomization = Path("k8s/base/kustomization.yaml")
    kustomization.write_text(kustomization.read_text().replace("[deployment.yaml", "[more.yaml, deployment.yaml"))
    wrong_answers(cluster)

    assert run() == 1
    assert f"`{OLD}` runs again" in capsys.readouterr().out
    assert cluster.objects["Service/model"]["spec"]["ports"][0]["port"] == 80
    assert "ConfigMap/more" not in cluster.objects
    assert json.loads(cluster.objects["ConfigMap/release"]["data"]["release.json"])["image"] == OLD


def test_what_a_release_no_longer_has_is_deleted(cluster):
    run("local", OLD)
    network = Path("k8s/base/network.yaml")
    _, *rest = network.read_text().split("---")
    network.write_text("---".join(rest))

    assert "NetworkPolicy/deny" in cluster.objects
    assert run() == 0
    assert "NetworkPolicy/deny" not in cluster.objects


def test_two_deploys_at_once_are_one(cluster, capsys):
    held = {
        "holderIdentity": "somebody 1",
        "leaseDurationSeconds": 90,
        "acquireTime": "2998-01-01T00:00:00.000000Z",
        "renewTime": "2999-01-01T00:00:00.000000Z",
    }
    cluster.set(objects=cluster.objects | {"Lease/deploy": {"metadata": {"resourceVersion": "7"}, "spec": held}})

    assert run() == 3
    said = capsys.readouterr().err
    assert "another deploy is under way: somebody 1, since 2998-01-01T00:00:00Z" in said
    assert "if it was killed, from 00:01:30 UTC on" in said
    assert cluster.applied == []
    assert "Lease/deploy" in cluster.objects


def test_a_lock_whose_holder_was_killed_is_taken_over_and_given_back(cluster):
    held = {"holderIdentity": "somebody 1", "leaseDurationSeconds": 90, "renewTime": "2001-01-01T00:00:00.000000Z"}
    cluster.set(objects=cluster.objects | {"Lease/deploy": {"metadata": {"resourceVersion": "7"}, "spec": held}})

    assert run() == 0
    assert "Lease/deploy" not in cluster.objects


def test_a_smoke_job_that_takes_its_time_is_waited_for(cluster):
    cluster.set(waits=3)

    assert run() == 0
    assert [words[:2] for words in cluster.calls].count(["get", "job"]) == 4


def test_what_ran_before_is_not_judged_as_what_was_applied(cluster):
    cluster.set(lags=2, deadline=120, pods=[pod("1", containerStatuses=[{"state": CRASHED}])])

    assert run() == 0


def never_ready(cluster):
    cluster.set(broken=[NEW], pods=[pod("2", containerStatuses=[{"state": CRASHED}]), pod("1", "old")])


def never_started(cluster):
    cluster.set(broken=[NEW])


def never_placed(cluster):
    placed = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes: Insufficient cpu",
    }
    cluster.set(broken=[NEW], pods=[pod("1", conditions=[placed])])


def no_image(cluster):
    waits = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    cluster.set(broken=[NEW], pods=[pod("1", containerStatuses=[{"state": waits}])])


def no_memory(cluster):
    ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    cluster.set(broken=[NEW], pods=[pod("1", containerStatuses=[{"state": ended, "restartCount": 2}])])


def never_says_so(cluster):
    cluster.set(broken=[NEW], pods=[pod("1", containerStatuses=[{"state": {"running": {}}}])])


def no_room(cluster):
    quota = "pods is forbidden: exceeded quota: pods"
    cluster.set(broken=[NEW], conditions=[{"type": "ReplicaFailure", "status": "True", "message": quota}])


def another_model(cluster):
    cluster.set(said={NEW: right(digest="sha256:other"), OLD: right()})


def wrong_answers(cluster):
    cluster.set(said={NEW: right(problems=["golden row 3, alone: [0.5], not [0.25]"]), OLD: right()})


def silent(cluster):
    cluster.set(said={OLD: right()})


def not_answering(cluster):
    cluster.set(
        said={NEW: "error: not ready after 60 s: refused\n  where: http://model\n  fix: see its log\n", OLD: right()}
    )


def muddled(cluster):
    cluster.set(said={NEW: "12\n", OLD: right()})


def no_job(cluster):
    cluster.set(faults={"create job": "Error from server (Forbidden): jobs.batch is forbidden"})


def no_answer_of_the_job(cluster):
    cluster.set(faults={"get job": "Unable to connect to the server: i/o timeout"})


BAD = {
    never_ready: "no pod became ready: CrashLoopBackOff back-off 10s restarting; model-2 said: boom: no such file",
    never_started: "no pod became ready: no pod was started",
    never_placed: "no pod became ready: Unschedulable: 0/1 nodes: Insufficient cpu",
    no_image: "no pod became ready: ImagePullBackOff not found",
    no_memory: "no pod became ready: it ended (OOMKilled, exit code 137)",
    never_says_so: "no pod became ready: it runs, and does not say that it is ready",
    no_room: "no pod became ready: pods is forbidden: exceeded quota: pods",
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
    unsure = " ‼ It was not shown to answer: kubectl" if fault in {no_job, no_answer_of_the_job} else ""
    end = said.partition(f"`{OLD}` runs again.")[2]
    assert (unsure in end) if unsure else end == "\n"
    assert (tmp_path / "summary.md").read_text().strip() == said.strip()
    assert cluster.image == OLD
    assert images(cluster.applied[-1]) == {"Deployment": OLD, "CronJob": OLD}
    last = len(cluster.verbs) - 1 - cluster.verbs[::-1].index("apply")
    assert ["get", "deployment"] in [words[:2] for words in cluster.calls if words[0] != "kustomize"][
        last:
    ]  # and it was waited for


@pytest.mark.parametrize("fault", [never_ready, no_job], ids=lambda fault: fault.__name__)
def test_where_nothing_ran_before_it_says_so(cluster, capsys, fault):
    fault(cluster)
    cluster.set(objects={})

    code = run()

    assert code == 1
    assert BAD[fault] in (said := capsys.readouterr().out)
    assert said.endswith("Nothing ran there before, and nothing does now.\n")
    assert len(cluster.applied) == 1
    assert "Deployment/model" not in cluster.objects


@pytest.mark.parametrize("before", ["model", "pawl:3f2a", "host:5000/me/model", "host:5000/me/model:v1"])
def test_an_image_that_was_put_there_by_a_tag_comes_back_too(cluster, capsys, before):
    wrong_answers(cluster)
    cluster.runs(before)
    cluster.set(said=cluster.said | {before: right()})

    assert run() == 1
    assert f"`{before}` runs again." in capsys.readouterr().out
    assert cluster.image == before


@pytest.mark.parametrize("known", [True, False])
def test_where_the_way_back_fails_too_both_reasons_are_said_and_what_to_do(cluster, capsys, known):
    if known:
        run("local", OLD)
    never_ready(cluster)
    cluster.set(broken=[NEW, OLD])
    capsys.readouterr()

    code = run()

    said = capsys.readouterr().out
    again = r"get configmap release --output 'jsonpath={.data.manifests\.yaml}' | kubectl apply --server-side --field-manager=pawl --force-conflicts --filename -"  # fmt: skip
    assert code == 1
    assert said.count("no pod became ready: CrashLoopBackOff") == 2
    assert f"`{OLD}` does not run again" in said
    assert said.endswith(f"By hand: `kubectl --namespace model {again if known else f'set image deployment/model model={OLD}'}`\n")  # fmt: skip


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
    code = run(environment="preview")

    assert code == 2
    told = capsys.readouterr().err
    assert "there is no environment preview" in told
    assert "one of: local, production, staging" in told
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
    for applied in cluster.applied:  # of the image, and of the one before
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

    (applied,) = cluster.applied
    names = {one["kind"]: one for one in applied}
    pods = [names["Deployment"]["spec"], names["CronJob"]["spec"]["jobTemplate"]["spec"]]
    secret = names["Secret"]["metadata"]["name"]
    assert [each["template"]["spec"]["imagePullSecrets"] for each in pods] == [[{"name": secret}]] * 2


def test_without_a_token_there_is_no_secret(cluster):
    run(REGISTRY_USER="me", REGISTRY_TOKEN="")

    assert "Secret" not in [one["kind"] for one in cluster.applied[0]]


def test_the_smoke_job_asks_the_service_by_its_name(cluster):
    run()

    names = {one["kind"]: one for one in cluster.applied[0]}
    job = names["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert job["command"][job["command"].index("--url") + 1] == f"http://{names['Service']['metadata']['name']}"
    assert job["image"] == names["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"]


def git(*words):
    identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    return subprocess.run(["git", *identity, *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def released(cluster, monkeypatch):
    """Three releases in the cluster and in the ledger; return the calls that would move the alias."""
    git("init", "--quiet", "--initial-branch=main")
    git("commit", "--quiet", "--allow-empty", "--message", "one")
    moved = []
    monkeypatch.setattr("scripts.promote.main", lambda words, _: moved.append(words) or 0)
    Path("pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for number in (1, 2, 3):
        image = f"ghcr.io/me/model@sha256:{str(number) * 64}"
        cluster.set(said=cluster.said | {image: right()})
        release = Release("unknown", str(number), DIGEST, image, environment="local")
        manifests = yaml.safe_dump_all(scripts.cluster.render("local", release))
        data = {"release.json": msgspec.json.encode(release).decode(), "manifests.yaml": manifests}
        kept = {f"ConfigMap/{name}": {"metadata": {"name": name}, "data": data} for name in ("release", f"release-{number}")}  # fmt: skip
        cluster.runs(image)
        cluster.set(objects=cluster.objects | kept)
        words = ["--version", str(number), "--digest", DIGEST, "--image", image, "--environment", "local"]
        assert ledger.main(["release", *words, "--commit", "unknown"], {}) == 0
    return moved


def served():
    last = Ledger().champion()
    return last.version, last.rejected, last.reason


def test_going_back_moves_pods_alias_and_ledger_and_marks_what_was_left(cluster, released, capsys):
    code = rollback.main(["--environment", "local", "--reason", "wrong for new customers"], {})

    assert code == 0
    assert "Deployed to local: 38 golden rows" in capsys.readouterr().out
    assert cluster.image.endswith("2" * 64)
    image = f"ghcr.io/me/model@sha256:{'2' * 64}"
    assert released == [["--rollback", "3", "--to", "2", "--reason", "wrong for new customers", "--image", image]]
    assert served() == ("2", "3", "wrong for new customers")


def test_going_back_twice_goes_further_and_never_to_what_was_taken_back(cluster, released):
    words = ["--environment", "local", "--reason", "no"]
    codes = [rollback.main(words, {}), rollback.main(words, {})]

    assert codes == [0, 0]
    assert cluster.image.endswith("1" * 64)
    assert served() == ("1", "2", "no")


def test_a_dry_run_names_the_release_and_doing_it_again_by_its_name_goes_no_further(cluster, released, tmp_path):
    output, words = tmp_path / "output", ["--environment", "local", "--reason", "no"]

    assert rollback.main([*words, "--dry-run"], {"GITHUB_OUTPUT": str(output)}) == 0
    assert cluster.image.endswith("3" * 64)
    name, image = (line.partition("=")[2] for line in output.read_text().splitlines())
    assert image.endswith("2" * 64)
    codes = [rollback.main([*words, "--to", name], {}) for _ in range(2)]

    assert codes == [0, 0]
    assert cluster.image.endswith("2" * 64)
    assert served() == ("2", "3", "no")


def test_an_alias_that_did_not_move_with_the_pods_moves_the_next_time(cluster, released, monkeypatch):
    words = ["--environment", "local", "--reason", "no", "--to", "2"]
    monkeypatch.setattr("scripts.promote.main", lambda *_: 3)
    assert rollback.main(words, {}) == 3
    assert (served()[0], cluster.image[-1]) == ("3", "2")
    name = scripts.cluster.recorded("model").release.name
    monkeypatch.setattr("scripts.promote.main", lambda *_: 0)

    assert rollback.main([*words[:-1], name], {}) == 0
    assert served() == ("2", "3", "no")


def test_what_could_not_become_champion_is_undone_once_and_nothing_else(cluster, released, capsys):
    """The third release runs, and the ledger has it: nothing to undo. A fourth that no ledger has goes, and a second try goes no further."""
    image, other = (f"ghcr.io/me/model@sha256:{digit * 64}" for digit in "34")
    words = ["--environment", "local", "--reason", "no champion", "--undo"]

    assert rollback.main([*words, image], {}) == 0
    assert cluster.image == image
    cluster.set(said=cluster.said | {other: right()})
    assert deploy.main(["--environment", "local", "--image", other, "--digest", DIGEST, "--version", "4"], {}) == 0
    codes = [rollback.main([*words, other], {}) for _ in range(2)]

    assert codes == [0, 0]
    assert cluster.image == image
    assert released == []
    assert served() == ("3", "", "")
    assert "nothing to undo" in capsys.readouterr().out


def test_going_back_to_a_named_release_or_version(cluster, released, capsys):
    assert rollback.main(["--environment", "local", "--reason", "no", "--to", "1"], {}) == 0
    assert cluster.image.endswith("1" * 64)
    assert rollback.main(["--environment", "local", "--reason", "no", "--to", "9"], {}) == 2
    assert "there is no other release 9" in capsys.readouterr().err


def test_a_rollback_that_does_not_answer_moves_no_alias(cluster, released, capsys):
    cluster.set(said=cluster.said | {f"ghcr.io/me/model@sha256:{'2' * 64}": right(digest="sha256:other")})

    assert rollback.main(["--environment", "local", "--reason", "no"], {}) == 1
    assert released == []
    assert cluster.image.endswith("3" * 64)
    assert served()[0] == "3"


def test_where_the_cluster_forgot_a_release_the_ledger_names_its_image(cluster, released):
    forgot = {key: each for key, each in cluster.objects.items() if not key.startswith("ConfigMap/release-")}
    cluster.set(objects=forgot)

    assert rollback.main(["--environment", "local", "--reason", "no"], {}) == 0
    assert cluster.image.endswith("2" * 64)


def test_after_a_deploy_that_was_killed_going_back_means_what_answered_last(cluster, released):
    made = scripts.cluster.render("local", Release("unknown", "4", DIGEST, NEW))
    cluster.set(
        objects=cluster.objects | {"Deployment/model": next(one for one in made if one["kind"] == "Deployment")}
    )

    assert rollback.main(["--environment", "local", "--reason", "it was killed"], {}) == 0
    assert cluster.image.endswith("3" * 64)
    assert released == []  # the champion was never another
    assert served()[0] == "3"


def test_without_a_ledger_what_was_left_is_no_place_to_go_back_to(cluster, capsys):
    git("init", "--quiet")
    cluster.set(said=cluster.said | {NEW: right(), OLD: right()})
    third = "ghcr.io/me/model@sha256:" + "c" * 64
    cluster.set(said=cluster.said | {third: right()})
    words = ["--environment", "local", "--reason", "no"]
    scripts.cluster.record("model", Recorded(Release("unknown", "1", DIGEST, OLD), scripts.cluster.render("local", Release("unknown", "1", DIGEST, OLD))))  # fmt: skip
    stamp(cluster, "1")
    for number, image in (("2", NEW), ("3", third)):
        assert run("local", image, "--version", number) == 0
        stamp(cluster, number)

    assert rollback.main(words, {}) == 0
    assert cluster.image == NEW
    stamp(cluster, "4")
    assert "The alias `champion` and the ledger are not of this environment: they stay." in capsys.readouterr().out
    assert rollback.main(words, {}) == 0
    assert cluster.image == OLD
    assert json.loads(cluster.objects["ConfigMap/release"]["data"]["release.json"])["reason"] == "no"


def stamp(cluster, number):
    """Give the release that was kept last a time of its own: tests are faster than a second."""
    name = max(key for key in cluster.objects if key.startswith("ConfigMap/release-2"))
    objects = cluster.objects
    objects[f"ConfigMap/release-1{number}"] = objects.pop(name) | {"metadata": {"name": f"release-1{number}"}}
    cluster.set(objects=objects)


def test_what_was_deployed_and_never_released_is_no_place_to_go_back_to(cluster, released):
    cluster.set(said=cluster.said | {NEW: right(), OLD: right()})
    run("local", OLD, "--version", "4")  # its promotion failed
    run("local", NEW, "--version", "5")
    assert ledger.main(["release", "--version", "5", "--digest", DIGEST, "--image", NEW, "--environment", "local", "--commit", "unknown"], {}) == 0  # fmt: skip

    assert rollback.main(["--environment", "local", "--reason", "no"], {}) == 0
    assert cluster.image.endswith("3" * 64)


def test_there_is_nothing_to_go_back_to(cluster, capsys):
    git("init", "--quiet")

    assert rollback.main(["--environment", "local", "--reason", "no"], {}) == 2
    assert "nothing was deployed to local" in capsys.readouterr().err


NAME = "3-ccccccc-a"
ENVIRONMENT = {
    "space": "model", "release": NAME, "version": "3", "digest": "sha256:d", "recorded": "a", "running": NAME, "image": "a", "hands": [],
    "settled": True, "ready": 2, "wanted": 2,
}  # fmt: skip
CHAMPION = {"version": "3", "digest": "sha256:d"}
LEDGER = Release("c" * 40, "3", "sha256:d", "a", environment="local")
BACK = f"not {NAME}, which answered right last; `python -m scripts.rollback --environment local --reason ...` goes back to {NAME}"
TOLD = [
    ({}, CHAMPION, LEDGER, []),
    ({"image": "b"}, CHAMPION, LEDGER, [f"local runs {NAME} by b, {BACK}"]),
    ({"running": "4-d-a"}, CHAMPION, LEDGER, [f"local runs 4-d-a by a, {BACK}"]),
    ({"recorded": None, "release": None, "running": ""}, CHAMPION, None, [
        "local runs what somebody put there by a, and nothing was deployed", "the registry has a champion, the ledger no release",
    ]),
    ({"hands": ["kubectl-set"]}, CHAMPION, LEDGER, ["the pods of local were changed by kubectl-set: a deploy undoes that"]),
    ({"settled": False}, CHAMPION, LEDGER, ["local is being rolled out, or is stuck: 2 of 2 pods are ready"]),
    ({}, CHAMPION | {"version": "2"}, LEDGER, ["the ledger's last release is version 3, the registry's champion version 2"]),
    ({}, {}, LEDGER, ["the ledger has a release, the registry no champion"]),
    ({"release": "4-c-b", "running": "4-c-b"}, CHAMPION, LEDGER, [f"the ledger says that {NAME} is served in local, and 4-c-b is"]),
    ({}, {}, None, []),
]  # fmt: skip


@pytest.mark.parametrize(("found", "champion", "last", "said"), TOLD)
def test_status_says_where_cluster_registry_and_ledger_disagree(found, champion, last, said):
    assert status.disagreements({"local": ENVIRONMENT | found, "staging": {"space": "s"}}, champion, last) == said


def test_status_shows_every_environment(cluster, released, capsys, monkeypatch):
    monkeypatch.setattr(status, "of_registry", lambda: ({}, "mlflow.db"))
    code = status.main([])

    said = capsys.readouterr().out
    assert code == 1  # this registry has no champion
    assert "local        3-" in said
    assert "production" in said
    assert "‼ the ledger has a release, the registry no champion" in said


def test_status_tells_a_cluster_that_does_not_answer(cluster, released, capsys, monkeypatch):
    monkeypatch.setattr(status, "of_registry", lambda: ({}, "mlflow.db"))
    cluster.set(faults={"get configmap": "Unable to connect to the server"})

    status.main(["--json"])

    told = json.loads(capsys.readouterr().out)
    assert "Unable to connect" in told["environments"]["local"]["error"]
    assert not [each for each in told["disagreements"] if "served in local" in each]
