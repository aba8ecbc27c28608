"""The rules of k8s/ on a real cluster: what is admitted, what the deployer may, who reaches whom, how many pods there are."""

import concurrent.futures
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.e2e
K8S = Path(__file__).parents[2] / "k8s"
REGISTRY = os.environ.get("PAWL_REGISTRY", "localhost:5000")
OVERLAYS = {"local": "model", "staging": "model-staging", "production": "model-production"}
SPACE, OTHER = OVERLAYS["production"], OVERLAYS["staging"]
KEY = "only-for-tests"
METRICS = "https://github.com/kubernetes-sigs/metrics-server/releases/download/v0.8.0/components.yaml"
# A pod that asks: what it got for its question, or that nothing came back.
ASK = """
import sys, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=4).status)
except OSError as error:
    print(getattr(error, "reason", error))
"""
# A thousand golden rows a request, for as long as the pod lives.
LOAD = """
import concurrent.futures, itertools, json, pathlib, urllib.request
rows = json.loads(pathlib.Path("models/bundle/golden.json").read_text())["records"]
body = json.dumps(list(itertools.islice(itertools.cycle(rows), 1000))).encode()
def ask(_):
    while True:
        request = urllib.request.Request("http://model.{space}/predict", body, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=30).read()
        except OSError:
            pass
list(concurrent.futures.ThreadPoolExecutor(4).map(ask, range(4)))
"""


class Cluster:
    """kubectl, with one kubeconfig."""

    def __init__(self, config):
        self.config = str(config)

    def __call__(self, *words, given=None, check=True):
        command = ["kubectl", "--kubeconfig", self.config, *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True, input=given)
        assert not check or done.returncode == 0, f"{words}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
        return done

    def apply(self, text, *words, check=True):
        return self("apply", "--server-side", "--filename", "-", *words, given=text, check=check)

    def ready(self, space):
        self("rollout", "status", "deployment/model", "--namespace", space, "--timeout", "120s")

    def smoke(self, space):
        """Return what the smoke job of a namespace says."""
        job = f"smoke-{time.time_ns()}"
        self("create", "job", job, "--from", "cronjob/smoke", "--namespace", space)
        while True:
            status = json.loads(self("get", "job", job, "--namespace", space, "--output", "json").stdout)["status"]
            if status.get("succeeded") or status.get("failed"):
                return self("logs", f"job/{job}", "--namespace", space).stdout
            time.sleep(0.5)

    def ask(self, space, pod, url):
        """Return what a pod gets for a URL."""
        return self("exec", pod, "--namespace", space, "--", "python", "-c", ASK, url).stdout.strip()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of its own, as its administrator."""
    assert shutil.which("kind"), "`make e2e` needs kind: see tests/README.md"
    config = tmp_path_factory.mktemp("cluster") / "config"
    subprocess.run(["kind", "create", "cluster", "--name", "pawl-rules", "--kubeconfig", config], check=True)
    made = Cluster(config)
    if made("get", "apiservice", "v1beta1.metrics.k8s.io", check=False).returncode:  # kind itself brings none
        made("apply", "--filename", METRICS)
        insecure = (
            '[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--kubelet-insecure-tls"}]'
        )
        made("patch", "deployment", "metrics-server", "--namespace", "kube-system", "--type=json", "--patch", insecure)
    yield made
    subprocess.run(["kind", "delete", "cluster", "--name", "pawl-rules"], check=True)


@pytest.fixture(scope="module")
def image(project):
    """The image of the project's service, pushed."""
    return project.call(sys.executable, "-m", "scripts.image", "--push", f"{REGISTRY}/pawl-e2e").stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def rendered(image):
    """Return a function that gives (the namespace, the rest) of an overlay."""

    def render(overlay):
        done = subprocess.run(["kubectl", "kustomize", K8S / "overlays" / overlay], check=True, capture_output=True, text=True)  # fmt: skip
        text = done.stdout.replace("image: model\n", f"image: {image}\n").replace("image: trainer\n", f"image: {image}\n")  # fmt: skip
        objects = list(yaml.safe_load_all(text))
        spaces = [each for each in objects if each["kind"] == "Namespace"]
        return yaml.safe_dump_all(spaces), yaml.safe_dump_all(each for each in objects if each not in spaces)

    return render


@pytest.fixture(scope="module")
def deployer(cluster, rendered, tmp_path_factory):
    """The deployer of production, with a token as CI has one. An administrator was there once."""
    cluster.apply(rendered("production")[0])
    cluster("apply", "--kustomize", str(K8S / "access/production"))
    token = cluster("create", "token", "deployer", "--namespace", SPACE, "--duration", "1h").stdout
    config = json.loads(cluster("config", "view", "--raw", "--minify", "--output", "json").stdout)
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    path = tmp_path_factory.mktemp("deployer") / "config"
    path.write_text(json.dumps(config))
    return Cluster(path)


@pytest.fixture(scope="module")
def production(deployer, rendered):
    """Production as its deployer puts it there: all but the namespace."""
    applied = deployer.apply(rendered("production")[1])
    deployer.ready(SPACE)
    return applied


def pod(name, space, image, command, **labels):
    """A pod that `restricted` admits."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "one", "image": image, "command": command, "securityContext": context}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}}  # fmt: skip
    metadata = {"name": name, "namespace": space, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def namespace(name, **labels):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_restricted_admits_everything_of_an_overlay(overlay, cluster, rendered, request):
    space, rest = rendered(overlay)
    cluster.apply(space)

    tried = cluster.apply(rest, "--dry-run=server")
    if overlay == "production":
        applied = request.getfixturevalue("production")
    else:
        applied = cluster.apply(rest)
        cluster.ready(OVERLAYS[overlay])
    said = json.loads(cluster.smoke(OVERLAYS[overlay]).splitlines()[-1])

    assert (
        "PodSecurity" not in tried.stderr + applied.stderr
    )  # a pod's owner is let in with a warning, its pods are not
    assert said["rows"] > 10
    assert said["problems"] == []
    if overlay == "local":
        cluster("delete", "namespace", OVERLAYS[overlay], "--wait=false")


BROKEN = {
    "root": lambda spec: spec["securityContext"].update(runAsNonRoot=False, runAsUser=0),
    "privileged": lambda spec: spec["containers"][0]["securityContext"].update(privileged=True, allowPrivilegeEscalation=True),
    "capabilities": lambda spec: spec["containers"][0]["securityContext"].pop("capabilities"),
    "no seccomp profile": lambda spec: spec["securityContext"].pop("seccompProfile"),
    "the node's files": lambda spec: spec.update(volumes=[{"name": "root", "hostPath": {"path": "/"}}]),
    "the node's network": lambda spec: spec.update(hostNetwork=True),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_a_pod_that_breaks_it_is_refused(broken, cluster, rendered, image):
    cluster.apply(rendered("production")[0])
    bad = pod("bad", SPACE, image, ["true"])
    good = yaml.safe_dump(bad)
    BROKEN[broken](bad["spec"])

    done = cluster.apply(yaml.safe_dump(bad), "--dry-run=server", check=False)

    assert cluster.apply(good, "--dry-run=server").returncode == 0
    assert done.returncode != 0
    assert 'violates PodSecurity "restricted:v1.34"' in done.stderr


EVERYTHING = "get list watch create patch update delete"
READ = "get list watch"
ALLOWED = {
    **dict.fromkeys(("deployments.apps", "services", "configmaps", "serviceaccounts", "cronjobs.batch", "jobs.batch", "horizontalpodautoscalers.autoscaling", "poddisruptionbudgets.policy", "networkpolicies.networking.k8s.io", "leases.coordination.k8s.io"), EVERYTHING),
    **dict.fromkeys(("pods", "replicasets.apps", "events"), READ),
    "pods/log": "get", "secrets/registry": "get create patch", f"namespaces/{SPACE}": "get",
}  # fmt: skip
REFUSED = {
    "secrets": f"{EVERYTHING} deletecollection", "secrets/api-keys": "get create patch update delete", "secrets/registry": "delete update list watch",
    "pods": "create patch update delete deletecollection", "pods/exec": "create get", "pods/attach": "create get", "pods/portforward": "create get",
    "pods/eviction": "create", "pods/ephemeralcontainers": "patch update", "services/proxy": "get create", "pods/proxy": "get create",
    "deployments.apps": "deletecollection", "deployments.apps/scale": "patch update", "replicasets.apps": "create patch update delete",
    "serviceaccounts/token": "create", "serviceaccounts": "impersonate", "events": "create delete",
    "statefulsets.apps": EVERYTHING, "daemonsets.apps": EVERYTHING, "persistentvolumeclaims": EVERYTHING, "ingresses.networking.k8s.io": EVERYTHING,
    "roles.rbac.authorization.k8s.io": f"{EVERYTHING} bind escalate", "rolebindings.rbac.authorization.k8s.io": EVERYTHING,
    f"namespaces/{SPACE}": "delete patch update", "namespaces": "list create", "resourcequotas": "create delete",
    "nodes": "get list patch", "persistentvolumes": "get list create", "clusterroles.rbac.authorization.k8s.io": "get create bind escalate", "customresourcedefinitions.apiextensions.k8s.io": "get create",
}  # fmt: skip
SUBRESOURCES = {"log", "exec", "attach", "portforward", "eviction", "ephemeralcontainers", "proxy", "scale", "token"}


def may(cluster, table, space):
    """Return what `kubectl auth can-i` answers for the deployer of production, by (verb, resource)."""
    asked = [(verb, resource) for resource, verbs in table.items() for verb in verbs.split()]

    def ask(one):
        verb, resource = one
        kind, _, rest = resource.partition("/")
        what = [kind, f"--subresource={rest}"] if rest in SUBRESOURCES else [resource]
        who = f"--as=system:serviceaccount:{SPACE}:deployer"
        return cluster("auth", "can-i", verb, *what, who, "--namespace", space, check=False).stdout.strip()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return dict(zip(asked, pool.map(ask, asked), strict=True))


def test_the_deployer_may_what_a_release_needs_and_nothing_else(cluster, deployer):
    allowed, refused = may(cluster, ALLOWED, SPACE), may(cluster, REFUSED, SPACE)

    assert [one for one, answer in allowed.items() if answer != "yes"] == []
    assert [one for one, answer in refused.items() if answer != "no"] == []


def test_the_deployer_of_one_environment_is_nobody_in_another(cluster, deployer):
    assert set(may(cluster, ALLOWED, OTHER).values()) == {"no"}


SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "registry", "namespace": SPACE}, "stringData": {"a": "b"}}  # fmt: skip
TRIED = {
    "exec": ["exec", "deployment/model", "--", "id"],
    "read secrets": ["get", "secrets"],
    "read the keys": ["get", "secret", "api-keys"],
    "delete pods": ["delete", "pods", "--all"],
    "forward a port": ["port-forward", "deployment/model", "18000:8000"],
    "make a token": ["create", "token", "deployer"],
    "make a secret of another name": ["create", "secret", "generic", "another", "--from-literal=a=b"],
    "give itself rights": ["create", "rolebinding", "more", "--clusterrole=admin", f"--serviceaccount={SPACE}:deployer"],
    "delete the namespace": ["delete", "namespace", SPACE],
    "look into another namespace": ["get", "deployments", "--namespace", "kube-system"],
    "look at another namespace": ["get", "namespace", OTHER],
    "look at nodes": ["get", "nodes"],
}  # fmt: skip


@pytest.mark.parametrize("what", TRIED)
def test_what_the_deployer_may_not_is_refused(what, deployer, production):
    done = deployer("--namespace", SPACE, *TRIED[what], check=False)

    assert done.returncode != 0
    assert "is forbidden" in done.stderr


def test_the_deployer_can_make_a_release(deployer, production):
    secret = deployer.apply(yaml.safe_dump(SECRET))
    again = deployer.apply(yaml.safe_dump(SECRET))
    other = deployer.apply(yaml.safe_dump(SECRET | {"metadata": {"name": "another", "namespace": SPACE}}), check=False)
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "release", "namespace": SPACE}}  # fmt: skip

    assert [secret.returncode, again.returncode] == [0, 0]
    assert "is forbidden" in other.stderr
    assert deployer("create", "--filename", "-", given=yaml.safe_dump(lease)).returncode == 0
    assert json.loads(deployer.smoke(SPACE).splitlines()[-1])["problems"] == []
    assert deployer("get", "namespace", SPACE, "--output", "name").stdout == f"namespace/{SPACE}\n"


@pytest.fixture(scope="module")
def askers(cluster, production, image):
    """Return {name: namespace} of pods that can ask, in namespaces of every sort."""
    pods = {
        "a stranger": ("strangers", {}), "a stranger called prometheus": ("strangers", {"app.kubernetes.io/name": "prometheus"}),
        "prometheus": ("monitoring", {"app.kubernetes.io/name": "prometheus"}), "another of its namespace": ("monitoring", {}),
        "a caller": ("callers", {}), "a neighbour": (SPACE, {"app": "smoke"}), "a neighbour without a policy": (SPACE, {}),
    }  # fmt: skip
    spaces = [namespace("strangers"), namespace("monitoring"), namespace("callers", **{"pawl/calls": "model"})]
    wait = ["python", "-c", "import time; time.sleep(3600)"]
    made = [pod(name.replace(" ", "-"), space, image, wait, **labels) for name, (space, labels) in pods.items()]
    cluster.apply(yaml.safe_dump_all(spaces + made))
    for each in made:
        name, space = each["metadata"]["name"], each["metadata"]["namespace"]
        cluster("wait", "--for=condition=Ready", f"pod/{name}", "--namespace", space, "--timeout=60s")
    time.sleep(2)  # policies follow a pod within moments
    return {name: (space, name.replace(" ", "-")) for name, (space, _) in pods.items()}


def test_who_is_named_reaches_the_service_and_a_stranger_does_not(cluster, askers):
    address = cluster("get", "service", "model", "--namespace", SPACE, "--output=jsonpath={.spec.clusterIP}").stdout
    answered = {name: cluster.ask(*asker, f"http://{address}/readyz") for name, asker in askers.items()}

    assert answered == {
        "a stranger": "timed out", "a stranger called prometheus": "timed out",
        "prometheus": "200", "another of its namespace": "timed out",
        "a caller": "200", "a neighbour": "200", "a neighbour without a policy": "timed out",
    }  # fmt: skip
    assert cluster.ask(*askers["a neighbour"], "http://model/readyz") == "200"


def test_the_service_reaches_nobody(cluster, askers):
    for service, space, port in (("kubernetes", "default", 443), ("kube-dns", "kube-system", 53)):
        where = ("get", "service", service, "--namespace", space, "--output=jsonpath={.spec.clusterIP}")
        url = f"http://{cluster(*where).stdout}:{port}/"

        assert cluster.ask(SPACE, "deployment/model", url) == "timed out"
        assert "timed out" not in cluster.ask(*askers["a stranger"], url)


def test_with_keys_in_the_secret_the_smoke_job_has_one_and_the_log_can_be_turned_on(cluster, rendered):
    space, rest = rendered("staging")
    objects = list(yaml.safe_load_all(rest))
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["env"].append({"name": "PAWL_LOG_DIR", "value": "/log"})
    hashed = hashlib.sha256(KEY.encode()).hexdigest()
    secret = {"metadata": {"name": "api-keys", "namespace": OTHER}, "stringData": {"keys": f"sha256:{hashed}", "smoke": KEY}}  # fmt: skip
    cluster.apply(space)
    cluster("delete", "deployment", "model", "--namespace", OTHER, "--ignore-not-found", "--cascade=foreground")
    cluster.apply(yaml.safe_dump_all([{"apiVersion": "v1", "kind": "Secret", **secret}, *objects]))
    cluster.ready(OTHER)

    said = json.loads(cluster.smoke(OTHER).splitlines()[-1])

    names = cluster("get", "pods", "--namespace", OTHER, "--selector=app=model", "--output=name").stdout.split()
    count = ["sh", "-c", "cat /log/* | wc --lines"]
    logged = [int(cluster("exec", each, "--namespace", OTHER, "--", *count).stdout) for each in names]
    posted = "import urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:8000/predict', b'{}', {'Content-Type': 'application/json'}))"  # fmt: skip
    keyless = cluster("exec", names[0], "--namespace", OTHER, "--", "python", "-c", posted, check=False)
    cluster("delete", "namespace", OTHER, "--wait=false")
    assert said["problems"] == []
    assert sum(logged) >= said["rows"]
    assert "HTTP Error 401" in keyless.stderr


def test_under_load_there_are_more_pods_and_the_next_release_keeps_them(cluster, deployer, rendered, askers, image):
    load = pod("load", "callers", image, ["python", "-c", LOAD.replace("{space}", SPACE)])

    def pods():
        return int(
            cluster("get", "deployment/model", "--namespace", SPACE, "--output=jsonpath={.spec.replicas}").stdout
        )

    before = pods()
    cluster.apply(yaml.safe_dump(load))
    until = time.monotonic() + 240
    while (reached := pods()) <= 2 and time.monotonic() < until:
        time.sleep(2)
    cluster("delete", "pod", "load", "--namespace", "callers")
    told = cluster("describe", "hpa", "model", "--namespace", SPACE).stdout
    deployer.apply(rendered("production")[1])

    assert [before, reached > 2] == [2, True], told
    assert pods() >= reached
