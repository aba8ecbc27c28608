"""Releases under load, on a real cluster: callers lose no answer and get no wrong one, whatever is done to the pods, and whatever a release is."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from scripts.cluster import alone

pytestmark = pytest.mark.e2e
REGISTRY = os.environ.get("PAWL_REGISTRY", "localhost:5000")
SPACE, NAME = "model", f"{REGISTRY}/pawl-rollout"
LOAD = Path(__file__).with_name("load.py")
LEAST = 10_000  # answers while something is done three times
NOWHERE = "sha256:" + 64 * "0"


def call(*words, check=True, **options):
    done = subprocess.run(words, check=False, capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


class Environment:
    """A project, two models of it as images, and a cluster in which they run in turn."""

    def __init__(self, project, config):
        self.project, self.environ = project, {**os.environ, "KUBECONFIG": str(config)}
        self.models, releases = {}, []
        for rate in (0.05, 0.2):
            project.set(**{"train.params.learning_rate": rate})
            project.run()
            project.commit(f"learning rate {rate}")
            golden = json.loads((project.path / "models/bundle/golden.json").read_text())
            self.models[self.digest()] = golden
            image = project.call(sys.executable, "-m", "scripts.image", "--push", NAME).stdout.splitlines()[-1]
            releases.append((image, self.digest()))
        self.good, self.other = releases

    def digest(self):
        return json.loads((self.project.path / "models/bundle/manifest.json").read_text())["digest"]

    def kubectl(self, *words, check=True, **options):
        return call("kubectl", "--namespace", SPACE, *words, check=check, env=self.environ, **options)

    def deploy(self, image, digest):
        words = self.words(image, digest)
        return self.project.call(*words, check=False, KUBECONFIG=self.environ["KUBECONFIG"])

    def words(self, image, digest):
        return [sys.executable, "-m", "scripts.deploy", "--environment", "local", "--image", image, "--digest", digest]

    def pods(self):
        """Return {name: image} of the pods that are ready, and stay."""
        found = json.loads(self.kubectl("get", "pods", "--selector=app=model", "--output=json").stdout)["items"]
        return {
            each["metadata"]["name"]: each["spec"]["containers"][0]["image"]
            for each in found
            if "deletionTimestamp" not in each["metadata"]
            and {"type": "Ready", "status": "True"}.items() <= next((one for one in each["status"].get("conditions", []) if one["type"] == "Ready"), {}).items()
        }  # fmt: skip

    def until(self, true):
        until = time.monotonic() + 120
        while not true():
            assert time.monotonic() < until, self.kubectl("get", "pods,hpa,events").stdout
            time.sleep(0.3)

    @contextlib.contextmanager
    def load(self, least=1):
        """Ask the service meanwhile; what is yielded holds what was seen once that has ended: 0 failed, 0 wrong."""
        words = ["exec", "--stdin", "load", "--", "python", "/load/load.py", f"http://{SPACE}", "/load/models.json", str(least)]  # fmt: skip
        seen = {}
        with subprocess.Popen(["kubectl", "--namespace", SPACE, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self.environ) as asking:  # fmt: skip
            assert asking.stdout.readline() == "started\n"
            try:
                yield seen
            finally:
                said = asking.communicate("over\n", timeout=180)[0]
        seen |= json.loads(said)
        print(seen)  # noqa: T201 - the figures: pytest -s shows them
        assert (seen["failed"], seen["wrong"]) == (0, 0), seen["told"]
        assert seen["requests"] >= least


@pytest.fixture(scope="module")
def cluster(project, tmp_path_factory):
    """An Environment, whose callers stand by."""
    assert shutil.which("kind"), "`make e2e` needs kind: see tests/README.md"
    config = tmp_path_factory.mktemp("cluster") / "config"
    call("kind", "create", "cluster", "--name", "pawl-rollout", "--kubeconfig", config)
    project.edit("k8s/overlays/local/kustomization.yaml", "value: 1", "value: 2")
    project.edit("k8s/base/deployment.yaml", "progressDeadlineSeconds: 120", "progressDeadlineSeconds: 40")
    project.edit("k8s/base/deployment.yaml", "requests: {cpu: 250m", "requests: {cpu: 100m")  # six pods on two cores
    project.edit("k8s/base/scaling.yaml", "averageUtilization: 70", "averageUtilization: 700")
    project.edit("k8s/base/smoke.yaml", '--watch, "10"', '--watch, "2", --slowest, "5000"')
    made = Environment(project, config)
    first, second = made.models.values()
    assert first["records"] == second["records"]
    assert all(abs(one[0] - other[0]) > 1e-6 for one, other in zip(first["probabilities"], second["probabilities"], strict=True))  # fmt: skip
    done = made.deploy(*made.other)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {"load.py": LOAD.read_text(), "models.json": json.dumps(made.models)}
    context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "load", "image": made.good[0], "command": ["python", "-c", "import time; time.sleep(86400)"], "securityContext": context,
        "volumeMounts": [{"name": "load", "mountPath": "/load"}],
    }  # fmt: skip
    spec = {
        "containers": [container], "volumes": [{"name": "load", "configMap": {"name": "load"}}], "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False, "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
    }  # fmt: skip
    about = {"name": "load", "namespace": SPACE}
    objects = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": files},
        {"apiVersion": "v1", "kind": "Pod", "metadata": about | {"labels": {"app": "smoke"}}, "spec": spec},
    ]
    made.kubectl("apply", "--filename", "-", input=yaml.safe_dump_all(objects))
    made.kubectl("wait", "--for=condition=Ready", "pod/load", "--timeout=60s")
    yield made
    call("kind", "delete", "cluster", "--name", "pawl-rollout")


def test_a_rolling_update_loses_nothing(cluster):
    with cluster.load(LEAST) as seen:
        for release in (cluster.good, cluster.other, cluster.good):
            done = cluster.deploy(*release)
            assert done.returncode == 0, done.stdout + done.stderr

    assert set(seen["by_model"]) == set(cluster.models)
    assert set(cluster.pods().values()) == {cluster.good[0]}


def test_scaling_up_and_down_loses_nothing(cluster):
    def bounds(least, most):  # or the autoscaler would have an opinion meanwhile
        limits = {"spec": {"minReplicas": least, "maxReplicas": most}}
        cluster.kubectl("patch", "hpa", "model", "--patch", json.dumps(limits))

    with cluster.load(LEAST):
        for _ in range(3):
            for number in (4, 2):
                bounds(number, number)
                cluster.kubectl("scale", "deployment/model", f"--replicas={number}")
                cluster.until(lambda number=number: len(cluster.pods()) == number)
    bounds(2, 20)


def test_a_deleted_pod_takes_no_answer_with_it(cluster):
    with cluster.load(LEAST):
        for _ in range(3):
            cluster.kubectl("delete", "pod", next(iter(cluster.pods())))
            cluster.until(lambda: len(cluster.pods()) == 2)


def test_pods_are_evicted_one_after_the_other_and_nothing_is_lost(cluster, tmp_path):
    def evict(pod):
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": SPACE}}
        (tmp_path / "eviction.json").write_text(json.dumps(body))
        where = f"/api/v1/namespaces/{SPACE}/pods/{pod}/eviction"
        return cluster.kubectl("create", "--raw", where, "--filename", str(tmp_path / "eviction.json"), check=False)

    with cluster.load(LEAST):
        for _ in range(3):
            first, second = cluster.pods()
            assert evict(first).returncode == 0
            assert "disruption budget" in evict(second).stderr
            cluster.until(lambda second=second: evict(second).returncode == 0)
            cluster.until(lambda: len(cluster.pods()) == 2)


def absent(cluster):
    return f"{NAME}@{NOWHERE}", cluster.good[1]


def crashing(cluster):
    return derived(cluster, "crashing", "ENV PAWL_BUNDLE=/nowhere"), cluster.good[1]


def never_ready(cluster):
    return derived(cluster, "never-ready", 'CMD ["python", "-m", "http.server", "8000"]'), cluster.good[1]


def hungry(cluster):
    return derived(cluster, "hungry", """CMD ["python", "-c", "b'x' * 2**30"]"""), cluster.good[1]


def wrong_digest(cluster):
    return cluster.other[0], NOWHERE


def altered(cluster):
    """Other leaves in the trees, and a manifest that was sealed again."""
    folder = cluster.project.path / ".pawl/altered"
    shutil.copytree(cluster.project.path / "models/bundle", folder, dirs_exist_ok=True)
    text = (folder / "model.txt").read_text()  # which says where each tree begins, by bytes
    text = re.sub(r"(?m)(?<=^leaf_value=)\S+", lambda found: "0.5".ljust(len(found[0]), "0"), text)
    (folder / "model.txt").write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    content = text.encode()
    manifest["files"]["model.txt"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    del manifest["digest"]
    manifest["digest"] = "sha256:" + hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return derived(cluster, "altered", "COPY . models/bundle", folder), manifest["digest"]


def derived(cluster, tag, line, folder=None):
    """Return the image of the first model with another line behind it, pushed."""
    folder = folder or cluster.project.path / "k8s"
    name = f"{NAME}:{tag}"
    text = f"FROM {cluster.good[0]}\n{line}\n"
    call("docker", "build", "--quiet", "--tag", name, "--file", "-", str(folder), input=text)
    pushed = call("docker", "push", name).stdout
    return f"{NAME}@{next(word for word in pushed.split() if word.startswith('sha256:'))}"


FAULTS = {
    absent: "no pod became ready: ImagePullBackOff",
    crashing: "said: error: not a complete bundle",
    never_ready: "no pod became ready: it runs, and does not say that it is ready",
    hungry: "OOMKilled",
    altered: "of its golden rows otherwise",
    wrong_digest: f", not with {NOWHERE}",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_release_gives_way_to_what_ran_before_and_no_caller_notices(cluster, fault, record_property):
    image, digest = fault(cluster)
    with cluster.load(500):
        done = cluster.deploy(image, digest)

    assert done.returncode == 1, done.stdout + done.stderr
    assert FAULTS[fault] in done.stdout
    assert done.stdout.endswith(f"`{cluster.good[0]}` runs again.\n")
    record_property("seconds to what ran before", re.search(r"Back in (\d+) s", done.stdout)[1])
    print(done.stdout)  # noqa: T201 - same
    assert set(cluster.pods().values()) == {cluster.good[0]}


def test_manifests_that_the_cluster_refuses_change_nothing(cluster):
    path, before = "k8s/base/deployment.yaml", cluster.pods()
    cluster.project.edit(path, "maxUnavailable: 0, maxSurge: 50%", "maxUnavailable: 0, maxSurge: 0")
    with cluster.load(500):
        done = cluster.deploy(*cluster.other)
    cluster.project.edit(path, "maxUnavailable: 0, maxSurge: 0", "maxUnavailable: 0, maxSurge: 50%")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "maxUnavailable" in done.stdout
    assert done.stdout.endswith("Nothing was changed.\n")
    assert cluster.pods() == before


def test_where_the_way_back_fails_the_command_that_is_told_leads_back(cluster):
    words = ("get", "configmap", "release", "--output=jsonpath={.data.manifests\\.yaml}")
    kept = cluster.kubectl(*words).stdout

    def keep(text):
        cluster.kubectl("patch", "configmap", "release", "--patch", json.dumps({"data": {"manifests.yaml": text}}))

    keep(kept.replace(cluster.good[0], f"{NAME}@{NOWHERE}"))
    with cluster.load(500):
        done = cluster.deploy(*crashing(cluster))
        keep(kept)
        command = re.search("By hand: `(.+)`", done.stdout)
        assert done.returncode == 1
        assert command, done.stdout + done.stderr
        call("sh", "-c", command[1], env=cluster.environ)
        cluster.kubectl("rollout", "status", "deployment/model", "--timeout=60s")

    assert "does not run again either: no pod became ready: ImagePullBackOff" in done.stdout
    assert set(cluster.pods().values()) == {cluster.good[0]}


def test_of_two_deploys_at_once_one_wins(cluster):
    environ = cluster.project.environ(KUBECONFIG=cluster.environ["KUBECONFIG"])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environ}
    with cluster.load(500):
        both = [subprocess.Popen(cluster.words(*each), cwd=cluster.project.path, **pipes) for each in (cluster.good, cluster.other)]  # fmt: skip
        told = [(*each.communicate(), each.returncode) for each in both]

    assert sorted(code for *_, code in told) == [0, 3]
    (won,) = (image for (image, _), (*_, code) in zip((cluster.good, cluster.other), told, strict=True) if code == 0)
    assert next("another deploy is under way" in error for _, error, code in told if code == 3)
    assert set(cluster.pods().values()) == {won}


def test_a_lock_is_renewed_while_it_is_held(cluster, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", cluster.environ["KUBECONFIG"])
    monkeypatch.setattr("scripts.cluster.HELD", 4)

    def renewed():
        return json.loads(cluster.kubectl("get", "lease", "deploy", "--output=json").stdout)["spec"]["renewTime"]

    with alone(SPACE, "tester"):
        first = renewed()
        cluster.until(lambda: renewed() != first)


def test_a_release_leaves_the_number_of_pods_to_the_autoscaler(cluster):
    cluster.project.edit("k8s/overlays/local/kustomization.yaml", "value: 2", "value: 4")
    with cluster.load(500):
        done = cluster.deploy(*cluster.good)
        assert done.returncode == 0, done.stdout + done.stderr
        cluster.until(lambda: len(cluster.pods()) == 4)
        asked = subprocess.Popen(cluster.words(*cluster.other), cwd=cluster.project.path, env=cluster.project.environ(KUBECONFIG=cluster.environ["KUBECONFIG"]))  # fmt: skip
        counts = set()
        while asked.poll() is None:
            counts.add(len(cluster.pods()))
            time.sleep(0.3)

    assert asked.returncode == 0
    assert min(counts) >= 4
    assert list(cluster.pods().values()) == [cluster.other[0]] * 4
