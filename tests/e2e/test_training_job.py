"""Training in a cluster of its own, restricted and closed by default: to a version in MLflow, through the death of a pod and of the registry."""

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import pytest
import yaml

from pawl import tracking

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
REGISTRY = os.environ.get("PAWL_REGISTRY", "localhost:5000")
SPACE = f"pawl-{uuid.uuid4().hex[:8]}"
STAND_INS = {"postgres": "postgres:17", "versity/versitygw": "versity/versitygw:v1.8.0"}
DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "default-deny"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}
LEVELS = {f"pod-security.kubernetes.io/{each}": "restricted" for each in ("enforce", "warn")}
DEADLINE = 180


def call(*words, check=True, **options):
    done = subprocess.run(words, check=False, capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def images(untouched):
    """Return what an overlay says of images: those of the project, and of servers, where the cluster finds them."""
    lenient = {"version": 1, "metrics": {"roc_auc": {"direction": "higher", "floor": 0.5}}}
    (untouched.path / "gates.yaml").write_text(json.dumps(lenient))
    untouched.set(
        **{"train.params.n_estimators": 2000, "train.params.learning_rate": 0.001}
    )  # a moment in which to die
    untouched.commit("lenient gates")
    made = {**STAND_INS, "trainer": "pawl-e2e-trainer", "mlflow": "pawl-e2e-mlflow"}
    untouched.call("docker", "build", "--quiet", "--file=Dockerfile.mlflow", f"--tag={made['mlflow']}", ".")
    train(untouched, made["trainer"])
    found = []
    for name, image in made.items():
        there = f"{REGISTRY}/pawl-e2e-{name.rpartition('/')[2]}"
        found.append({"name": name, "newName": there, "newTag": SPACE})
        push(image, f"{there}:{SPACE}")
    return found


def train(project, tag):
    commit = f"--build-arg=COMMIT={project.call('git', 'rev-parse', 'HEAD').stdout.strip()}"
    project.call(
        "docker", "build", "--quiet", "--file=Dockerfile.train", "--target=project", commit, f"--tag={tag}", "."
    )


def push(image, there):
    call("docker", "tag", image, there)
    call("docker", "push", "--quiet", there)


@pytest.fixture(scope="module")
def cluster(untouched, images, tmp_path_factory):
    """Return (kubectl in a namespace of its own, the overlay): a Secret, and MLflow and training that are ready."""
    assert shutil.which("kind"), "`make e2e` needs kind: see tests/README.md"
    folder = tmp_path_factory.mktemp("cluster")
    config = str(folder / "config")
    call("kind", "create", "cluster", "--name", "pawl-e2e", "--kubeconfig", config)
    overlay = render(
        folder / "overlay", ["mlflow", "training"], namespace=SPACE, images=images, resources=["deny.yaml"]
    )
    (overlay / "deny.yaml").write_text(json.dumps(DENY))

    def kubectl(*words, **options):
        return call("kubectl", "--namespace", SPACE, *words, env={**os.environ, "KUBECONFIG": config}, **options)

    try:
        kubectl("create", "namespace", SPACE)
        kubectl("label", "namespace", SPACE, *[f"{name}={value}" for name, value in LEVELS.items()])
        first, *_ = documented("create secret")
        shell(first, config)
        up(kubectl, overlay)
        yield kubectl, overlay, config
    finally:
        kubectl("delete", "namespace", SPACE, "--wait=false", check=False)
        call("kind", "delete", "cluster", "--name", "pawl-e2e")


def render(folder, components, **more):
    """Write an overlay that names components of this repository."""
    folder.mkdir()
    up = "../" * len(folder.parts[1:])
    named = [f"{up}{ROOT.relative_to('/')}/k8s/components/{name}" for name in components]
    overlay = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "components": named, **more}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return folder


def documented(*about):
    """Return the commands that the component's first lines tell, of which each says one of these words."""
    text = (ROOT / "k8s/components/mlflow/kustomization.yaml").read_text()
    lines = re.findall(r"^#   (kubectl .*)$", text, re.MULTILINE)
    return [line for line in lines if any(word in line for word in about)]


def shell(line, config, folder=None):
    line = line.replace("kubectl ", f"kubectl --namespace {SPACE} ", 1)
    call("bash", "-o", "pipefail", "-c", line, env={**os.environ, "KUBECONFIG": config}, cwd=folder)


def up(kubectl, overlay):
    kubectl("apply", "--server-side", "--kustomize", str(overlay))
    for each in ("statefulset/postgres", "statefulset/s3", "deployment/mlflow"):
        kubectl("rollout", "status", each, f"--timeout={DEADLINE}s")


@pytest.fixture
def asked(cluster, untouched, held):
    """Return a function that gives what the registry in the cluster holds."""
    _, _, config = cluster

    def ask():
        port = tracking.free_port()
        words = ["kubectl", "--namespace", SPACE, "port-forward", "service/mlflow", f"{port}:5000"]
        environ = {**os.environ, "KUBECONFIG": config}
        with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, text=True) as forward:
            try:
                assert "Forwarding" in forward.stdout.readline()
                return held(untouched, f"http://127.0.0.1:{port}")
            finally:
                forward.terminate()

    return ask


def finished(kubectl, job):
    """Return what the last pod of a job said, once the job is complete."""
    for _ in range(DEADLINE):
        status = json.loads(kubectl("get", "job", job, "--output=json"))["status"]
        assert "failed" not in {each["type"].lower() for each in status.get("conditions", [])}, kubectl(
            "logs", f"job/{job}"
        )
        if status.get("completionTime"):
            return kubectl("logs", f"--selector=job-name={job}", "--tail=-1")
        time.sleep(1)
    raise AssertionError(kubectl("describe", "pods"))


def test_a_killed_pod_goes_on_a_second_commit_registers_and_a_backup_brings_it_all_back(
    cluster, untouched, asked, images, tmp_path
):
    kubectl, overlay, config = cluster
    kubectl("create", "job", "first", "--from=cronjob/train")
    pod = dies_in_training(kubectl)
    said = finished(kubectl, "first")

    assert pod not in kubectl("get", "pods", "--selector=job-name=first", "--output=name")
    assert re.search(
        r"  (from cache  |unchanged   ) ingest, validate, prepare, featurize", said
    )  # what was done stays done
    assert "pawl version 1 is in http://mlflow:5000 (new; candidate)" in said

    untouched.set(**{"train.params.n_estimators": 20})  # the next commit, in another image, without a history
    untouched.commit("fewer trees")
    train(untouched, "pawl-e2e-trainer")
    there = next(each for each in images if each["name"] == "trainer")
    push("pawl-e2e-trainer", f"{there['newName']}:{SPACE}-2")
    there["newTag"] = f"{SPACE}-2"
    text = yaml.safe_load((overlay / "kustomization.yaml").read_text())
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump({**text, "images": images}))
    up(kubectl, overlay)  # a Job that stands does not stop it
    kubectl("create", "job", "second", "--from=cronjob/train")
    assert "pawl version 2 is in http://mlflow:5000 (new; candidate)" in finished(kubectl, "second")
    before = asked()
    assert set(before["versions"]) == {"1", "2"}
    assert len(before["files"]) > 80

    for line in documented("pg_dump", "tar -C /data -cf"):
        shell(line, config, tmp_path)
    kubectl("delete", "statefulset,deployment,job,pvc", "--all")
    up(kubectl, overlay)
    assert asked() == {"versions": {}, "files": {}}
    for line in documented("replicas", "tar -C /data -xf", "pg_restore"):
        shell(line, config, tmp_path)
    up(kubectl, overlay)
    assert asked() == before


def dies_in_training(kubectl):
    """Delete the pod at once when the first four stages are in DVC's cache; return its name."""
    look = "find /project/.dvc/cache/runs -type f 2>/dev/null | wc -l"
    for _ in range(DEADLINE * 2):
        for pod in kubectl(
            "get", "pods", "--selector=app=train", "--field-selector=status.phase=Running", "--output=name"
        ).split():
            if int(kubectl("exec", pod, "--", "sh", "-c", look, check=False) or 0) >= 4:
                kubectl("delete", pod, "--grace-period=0", "--force")
                return pod
        time.sleep(0.3)
    raise AssertionError(kubectl("describe", "pods"))


def test_who_has_no_business_with_the_registry_does_not_reach_it(cluster):
    kubectl, _, _ = cluster
    probe = "import urllib.request as r; print(r.urlopen('http://mlflow:5000/health', timeout=5).read())"
    job = json.loads(kubectl("get", "cronjob", "train", "--output=json"))["spec"]["jobTemplate"]["spec"]
    for name, labels, expected in (
        ("stranger", {"app": "stranger"}, False),
        ("friend", {"app": "train", "pawl/registry": "use"}, True),
    ):
        spec = json.loads(json.dumps(job["template"]["spec"]))
        spec["containers"][0] |= {"command": ["python", "-c", probe]}
        spec["volumes"][0] = {"name": "project", "emptyDir": {}}
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
        kubectl("apply", "--filename=-", input=json.dumps(made))
        ended = "Succeeded" if expected else "Failed"
        kubectl("wait", f"--for=jsonpath={{.status.phase}}={ended}", f"pod/{name}", "--timeout=60s")


def test_the_nightly_run_is_the_job_word_for_word_and_a_gpu_is_added_to_it(tmp_path):
    def cron(name, *components):
        folder = render(tmp_path / name, components)
        found = yaml.safe_load_all(call("kubectl", "kustomize", str(folder)))
        return next(each for each in found if each["kind"] == "CronJob")

    job = yaml.safe_load((ROOT / "k8s/components/training/job.yaml").read_text())
    plain, gpu = cron("plain", "training"), cron("gpu", "training", "gpu")
    assert plain["spec"]["jobTemplate"]["spec"] == job["spec"]

    spec = gpu["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert spec.pop("nodeSelector") == {"nvidia.com/gpu.present": "true"}
    assert spec.pop("tolerations") == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu") == "1"
    assert gpu == plain
