"""A Kubernetes environment, through kubectl: what is put into it, why its pods are not ready, what it answers, what ran before."""

import base64
import contextlib
import json
import re
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from pawl import paths
from pawl.ledger import Release
from pawl.problem import Problem, Unreachable

OVERLAYS = Path("k8s/overlays")
NAME, RELEASE, KEPT = "model", "release", "pawl/kept"  # the Deployment's name, a ConfigMap's, a label of earlier ones
HELD, EARLIER = 90, 10  # seconds that a lock outlives its holder; releases that are kept
SERVER_SIDE = ("--server-side", "--field-manager=pawl", "--force-conflicts")
PATIENT = {"ContainerCreating", "PodInitializing", "ErrImagePull"}  # waiting reasons that may pass
Manifests = list[dict[str, Any]]


class Failed(Exception):  # noqa: N818 - a verdict on the release, not a mistake of its user
    """The release is not good: the reason is the message."""


class Recorded(NamedTuple):
    """A release that answered right, as it was applied."""

    release: Release
    manifests: Manifests


def render(environment: str, release: Release) -> Manifests:
    """Return the manifests of an overlay with the image and the identity of a release."""
    folder = OVERLAYS / environment
    if folder.parent != OVERLAYS or not (folder / "kustomization.yaml").exists():
        known = ", ".join(sorted(path.name for path in OVERLAYS.iterdir()))
        raise Problem(f"there is no environment {environment}", OVERLAYS, f"one of: {known}")
    # What ran before may have been put there by hand, by a tag.
    parts = re.fullmatch(r"(?P<newName>.+?)(?:@(?P<digest>.+)|:(?P<newTag>[\w.-]+))?", release.image)
    new = {key: value for key, value in (parts.groupdict() if parts else {}).items() if value}
    told = {"release": release.name, "commit": release.commit}
    told |= {"model-version": release.version, "bundle": release.digest}
    content = {
        "resources": [f"../../{folder}"],
        "images": [{"name": "model", **new}],
        "commonAnnotations": {f"pawl/{key}": value for key, value in told.items() if value},
    }
    paths.STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="deploy-", dir=paths.STATE) as temporary:  # two may render at once
        Path(temporary, "kustomization.yaml").write_text(yaml.safe_dump(content))
        found = list(yaml.safe_load_all(kubectl("kustomize", temporary)))
    if len({each["metadata"].get("namespace") for each in found if each["kind"] != "Namespace"}) != 1:
        raise Problem("not every manifest is in one namespace", folder, "let its kustomization.yaml say `namespace:`")
    return found


def space_of(manifests: Manifests) -> str:
    """Return the namespace of rendered manifests."""
    return str(next(each for each in manifests if each["kind"] == "Deployment")["metadata"]["namespace"])


def prepare(manifests: Manifests) -> None:
    """Make the namespace where it is missing; who deploys need not be allowed to change it."""
    for each in manifests:
        if each["kind"] == "Namespace" and not kubectl(
            "get", "namespace", each["metadata"]["name"], "--ignore-not-found"
        ):
            kubectl("create", "--filename", "-", given=json.dumps(each))


def apply(manifests: Manifests, *more: str) -> None:
    """Apply server-side: what others own, as an autoscaler the number of pods, stays theirs."""
    these = {"apiVersion": "v1", "kind": "List", "items": [each for each in manifests if each["kind"] != "Namespace"]}
    kubectl("apply", *SERVER_SIDE, *more, "--filename", "-", given=json.dumps(these))


def straighten(manifests: Manifests) -> list[str]:
    """Take back what others changed in the pods' template, which applying leaves alone; return who they were."""
    wanted = next(each for each in manifests if each["kind"] == "Deployment")
    words = ("deployment", NAME, "--namespace", space_of(manifests))
    others = hands(_json("get", *words, "--show-managed-fields"))
    if others:
        patch = [{"op": "replace", "path": "/spec/template", "value": wanted["spec"]["template"]}]
        kubectl("patch", *words, "--type", "json", "--field-manager=pawl", "--patch", json.dumps(patch))
    return others


def hands(deployment: Mapping[str, Any]) -> list[str]:
    """Return who else set something in the pods' template of a Deployment."""
    managed = deployment["metadata"].get("managedFields", [])
    own = {each["manager"] for each in managed if "f:template" in each.get("fieldsV1", {}).get("f:spec", {})}
    return sorted(own - {"pawl"})


def running(space: str) -> str:
    """Return the name of the release that was applied last, whether it answered or not; nothing if it has none."""
    words = ("get", "deployment", NAME, "--namespace", space, "--ignore-not-found", "--output")
    return kubectl(*words, "jsonpath={.metadata.annotations.pawl/release}").strip()


def remove(these: Manifests, but: Manifests) -> None:
    """Delete the objects of some manifests that others do not have."""
    kept = {_key(each) for each in but}
    for kind, name in sorted({_key(each) for each in these} - kept - {("Namespace", space_of(these))}):
        kubectl("delete", kind, name, "--namespace", space_of(these), "--ignore-not-found", "--wait=false")


def _key(manifest: Mapping[str, Any]) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def settle(space: str) -> None:
    """Wait until every pod runs what was applied; raise Failed with the reason once one cannot, or none more did for progressDeadlineSeconds."""
    since, most, said, pod = time.monotonic(), (0, 0), "the cluster does not act on it", ""
    while True:
        deployment = _json("get", "deployment", NAME, "--namespace", space)
        if settled(deployment):
            return
        final = False
        if seen(deployment):  # before, its newest pods are those of the release before
            sets = _json("get", "replicasets", "--selector", f"app={NAME}", "--namespace", space)["items"]
            pods = _json("get", "pods", "--selector", f"app={NAME}", "--namespace", space)["items"]
            said, pod, final = why(deployment, newest(sets, pods))
            status = deployment.get("status", {})
            now = status.get("updatedReplicas", 0), status.get("availableReplicas", 0) - status.get("replicas", 0)
            if now > most:
                since, most = time.monotonic(), now
        if final or time.monotonic() - since > deployment["spec"].get("progressDeadlineSeconds", 600):
            raise Failed(f"no pod became ready: {said}{_last_words(space, pod)}")
        time.sleep(1)


def settled(deployment: Mapping[str, Any]) -> bool:
    """Say whether all pods of a Deployment are of its newest revision, and ready."""
    status, wanted = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    counts = {status.get(key, 0) for key in ("updatedReplicas", "replicas", "availableReplicas")}
    return seen(deployment) and counts == {wanted}


def seen(deployment: Mapping[str, Any]) -> bool:
    """Say whether the cluster acts on the Deployment as it is now."""
    return bool(deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"]["generation"])


def newest(sets: Sequence[dict[str, Any]], pods: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the pods of the Deployment's newest revision; a canary beside it has the same label, and another owner."""
    revision = "deployment.kubernetes.io/revision"
    mine = [each for each in sets if NAME in _owners(each)]
    last = max(mine, key=lambda each: int(each["metadata"].get("annotations", {}).get(revision, 0)), default=None)
    return [each for each in pods if last and last["metadata"]["name"] in _owners(each)]


def _owners(one: Mapping[str, Any]) -> list[str]:
    return [each["name"] for each in one["metadata"].get("ownerReferences", [])]


def why(deployment: Mapping[str, Any], pods: Sequence[dict[str, Any]]) -> tuple[str, str, bool]:
    """Return why a Deployment is not ready, the pod that shows it, and whether waiting is of no use."""
    conditions = {each["type"]: each for each in deployment.get("status", {}).get("conditions", [])}
    if conditions.get("ReplicaFailure", {}).get("status") == "True":  # a quota, an admission
        return conditions["ReplicaFailure"].get("message", "the cluster takes no pod"), "", True
    found = ("no pod was started", "", False)
    for pod in pods:
        name, status = pod["metadata"]["name"], pod["status"]
        placed = {each["type"]: each for each in status.get("conditions", [])}.get("PodScheduled", {})
        if placed.get("status") == "False":
            found = f"{placed.get('reason')}: {placed.get('message')}", name, False
        for each in status.get("containerStatuses", []):
            waiting, ended = each["state"].get("waiting", {}), each.get("lastState", {}).get("terminated", {})
            ended = each["state"].get("terminated") or ended
            said = " ".join(filter(None, [waiting.get("reason"), waiting.get("message")]))
            if ended:
                said = f"{said or 'it ended'} ({ended.get('reason')}, exit code {ended.get('exitCode')})"
            again = each.get("restartCount", 0) >= 2 or (waiting.get("reason") or "ContainerCreating") not in PATIENT
            if again and not each.get("ready"):
                return said, name, True
            if not each.get("ready"):
                found = said or "it runs, and does not say that it is ready", name, False
    return found


def _last_words(space: str, pod: str) -> str:
    """Return what a pod wrote last."""
    if not pod:
        return ""
    words = ("logs", pod, "--namespace", space, "--tail", "3")
    said = kubectl(*words, check=False) or kubectl(*words, "--previous", check=False)
    return f"; {pod} said: {' '.join(said.split())[-300:]}" if said.strip() else f" ({pod})"


def ask(space: str) -> dict[str, Any]:
    """Return what the smoke job found: {digest, rows, problems, ...}; raise Failed if it found nothing."""
    job = f"smoke-{int(time.time())}"
    kubectl("create", "job", job, "--from", "cronjob/smoke", "--namespace", space)
    until = time.monotonic() + 130
    while time.monotonic() < until:
        status = _json("get", "job", job, "--namespace", space)["status"]
        if status.get("succeeded") or status.get("failed"):
            break
        time.sleep(1)
    said = kubectl("logs", f"job/{job}", "--namespace", space, "--tail", "20", check=False)
    try:
        return dict(json.loads(said.splitlines()[-1]))
    except (ValueError, IndexError, TypeError) as error:
        raise Failed(f"the Service did not answer: {said.strip()[-300:] or 'the smoke job said nothing'}") from error


def recorded(space: str) -> Recorded | None:
    """Return the release that answered right last; None if there is none."""
    found = kubectl("get", "configmap", RELEASE, "--namespace", space, "--ignore-not-found", "--output", "json")
    return _recorded(json.loads(found), space) if found.strip() else None


def earlier(space: str) -> list[Recorded]:
    """Return the releases that are kept, the newest first, that which runs among them."""
    items = _json("get", "configmaps", "--selector", f"{KEPT}=true", "--namespace", space)["items"]
    items.sort(key=lambda each: each["metadata"]["name"], reverse=True)
    return [_recorded(each, space) for each in items]


def _recorded(found: Mapping[str, Any], space: str) -> Recorded:
    try:
        release = msgspec.json.decode(found["data"]["release.json"], type=Release)
        return Recorded(release, list(yaml.safe_load_all(found["data"]["manifests.yaml"])))
    except (KeyError, msgspec.MsgspecError, yaml.YAMLError) as error:
        name = found["metadata"]["name"]
        fix = f"kubectl --namespace {space} delete configmap {name}"
        raise Problem(f"the ConfigMap {name} cannot be read: {str(error)[:100]}", space, fix) from error


def record(space: str, done: Recorded) -> None:
    """Keep a release as the one that runs, and among the earlier ones."""
    data = {"release.json": msgspec.json.encode(done.release).decode()}
    data["manifests.yaml"] = yaml.safe_dump_all(done.manifests)
    stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
    names = {RELEASE: {}, f"{RELEASE}-{stamp}": {"labels": {KEPT: "true"}}}
    kind = {"apiVersion": "v1", "kind": "ConfigMap", "data": data}
    apply([{**kind, "metadata": {"name": name, "namespace": space, **more}} for name, more in names.items()])
    listed = kubectl("get", "configmaps", "--selector", f"{KEPT}=true", "--namespace", space, "--output", "name")
    for name in sorted(listed.split())[:-EARLIER]:
        kubectl("delete", name, "--namespace", space, "--ignore-not-found")


@contextlib.contextmanager
def alone(space: str, who: str) -> Iterator[None]:
    """Hold the Lease `deploy` of a namespace; raise Unreachable if another does."""
    holder, ended = f"{who} at {socket.gethostname()} ({uuid.uuid4().hex[:8]})", threading.Event()

    def now() -> str:
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def lease(**metadata: Any) -> str:
        spec = {"holderIdentity": holder, "leaseDurationSeconds": HELD, "acquireTime": now(), "renewTime": now()}
        about = {"name": "deploy", "namespace": space, **metadata}
        return json.dumps({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": about, "spec": spec})

    def renew() -> None:
        while not ended.wait(HELD / 4):
            ours = {"op": "test", "path": "/spec/holderIdentity", "value": holder}
            patch = json.dumps([ours, {"op": "replace", "path": "/spec/renewTime", "value": now()}])
            with contextlib.suppress(Unreachable):  # the next one may do it
                kubectl("patch", "lease", "deploy", "--namespace", space, "--type", "json", "--patch", patch)

    try:
        kubectl("create", "--filename", "-", given=lease())
    except Unreachable as error:
        if "AlreadyExists" not in error.what:
            raise
        held = _json("get", "lease", "deploy", "--namespace", space)
        spec = held["spec"]
        until = datetime.fromisoformat(spec["renewTime"]) + timedelta(seconds=spec["leaseDurationSeconds"])
        if until > datetime.now(UTC):
            what = f"another deploy is under way: {spec['holderIdentity']}, since {spec['acquireTime'][:19]}Z"
            fix = f"run it again when that has ended; if it was killed, from {until:%H:%M:%S} UTC on"
            raise Unreachable(what, space, fix) from error
        found = lease(resourceVersion=held["metadata"]["resourceVersion"])  # one of two wins
        kubectl("replace", "--filename", "-", given=found)
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(Unreachable):
            if _json("get", "lease", "deploy", "--namespace", space)["spec"]["holderIdentity"] == holder:
                kubectl("delete", "lease", "deploy", "--namespace", space)


def pull_secret(environ: Mapping[str, str], space: str) -> Manifests:
    """Return the secret with which the cluster pulls from a private registry; none without REGISTRY_TOKEN."""
    if not (token := environ.get("REGISTRY_TOKEN")):
        return []
    user = environ.get("REGISTRY_USER", "token")
    login = {"auth": base64.b64encode(f"{user}:{token}".encode()).decode()}
    content = json.dumps({"auths": {environ.get("REGISTRY", "ghcr.io"): login}})
    metadata = {"name": "registry", "namespace": space}
    kind = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson"}
    return [{**kind, "metadata": metadata, "stringData": {".dockerconfigjson": content}}]


def _json(*words: str) -> dict[str, Any]:
    return dict(json.loads(kubectl(*words, "--output", "json")))


def kubectl(*words: str, given: str | None = None, check: bool = True) -> str:
    """Return what kubectl prints; raise Unreachable with its message if it fails."""
    patience = () if words[0] == "kustomize" else ("--request-timeout=20s",)
    try:
        done = subprocess.run(["kubectl", *words, *patience], input=given, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Problem("kubectl is not installed", "PATH", "https://kubernetes.io/docs/tasks/tools") from error
    if check and done.returncode:
        said = re.sub(r"(?m)^[EWI]\d{4} .*$", "", done.stderr)  # not its log
        fix = "kubectl config current-context says which it is"
        if "Forbidden" in done.stderr:
            role = "`kubectl apply -k k8s/access/<environment>`"
            fix = f"this account may not: an administrator gives it the role, {role}"
        raise Unreachable(f"kubectl {words[0]} failed: {' '.join(said.split())[-400:]}", "the cluster", fix)
    return done.stdout
