"""Put an image into a Kubernetes environment, and let it be asked for its golden rows through the Service.

python -m scripts.deploy --overlay local --image ghcr.io/me/model@sha256:... --digest sha256:...

record the image that runs -> apply -> wait for the rollout -> ask -> on any failure, the recorded image again.
Exit code: 0 it answers, 1 it does not, and what ran before runs again, 2 your input, 3 the cluster did not answer.
"""

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pawl import paths
from pawl.problem import Problem, Unreachable
from scripts import cli, github

OVERLAYS = Path("k8s/overlays")


class Failed(Exception):  # noqa: N818 - a verdict on the release, not a mistake of its user
    """The image is not good: the reason is the message."""


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Deploy, verify, or go back."""
    parser = cli.parser("deploy", __doc__)
    parser.add_argument("--overlay", required=True, help="a folder of k8s/overlays")
    parser.add_argument("--image", required=True, help="name@sha256:...: by digest, so that it cannot change")
    parser.add_argument("--digest", required=True, help="of the bundle that must answer")
    args = parser.parse_args(argv)
    said, code = deploy(args.overlay, args.image, args.digest, environ)
    print(said)
    github.summary(environ, f"{said}\n\n")
    return code


def deploy(overlay: str, image: str, digest: str, environ: Mapping[str, str]) -> tuple[str, int]:
    """Return what happened in a sentence, and the exit code."""
    if not re.fullmatch(r"[\w./:-]+@sha256:[0-9a-f]{64}", image):
        fix = "name@sha256:..., as docker push prints it"
        raise Problem(f"{image} does not name an image by its digest", "--image", fix)
    rendered = render(overlay, image)
    deployment = next(each for each in rendered if each["kind"] == "Deployment")
    name, space = deployment["metadata"]["name"], deployment["metadata"]["namespace"]
    kubectl("version", "--request-timeout=10s")  # a cluster that does not answer is not a bad image
    words = ("get", "deployment", name, "--namespace", space, "--ignore-not-found", "--output")
    before = kubectl(*words, "jsonpath={.spec.template.spec.containers[0].image}").strip()
    extra = pull_secret(environ, space)
    try:
        settle([*rendered, *extra], name, space)
        answered = ask(space)
        if answered.get("digest") != digest:
            raise Failed(f"the Service answers with {answered.get('digest')}, not with {digest}")
        if answered.get("problems"):
            raise Failed(f"wrong answers through the Service: {'; '.join(answered['problems'][:3])}")
    except (Failed, Unreachable) as failed:  # once something was applied, whatever fails leads back
        said = f"❌ Not deployed to {overlay}: {failed.args[0]}."
        if not before:
            return f"{said} Nothing ran there before.", 1
        try:
            settle([*render(overlay, before), *extra], name, space)
        except (Failed, Unreachable) as again:
            return f"{said} `{before}` does not run again either: {again.args[0]}.", 1
        return f"{said} `{before}` runs again.", 1
    right = f"{answered['rows']} golden rows answered right through the Service by `{image}`"
    return f"✅ Deployed to {overlay}: {right}.", 0


def render(overlay: str, image: str) -> list[dict[str, Any]]:
    """Return the manifests of an overlay with this image."""
    folder = OVERLAYS / overlay
    if folder.parent != OVERLAYS or not (folder / "kustomization.yaml").exists():
        known = ", ".join(sorted(path.name for path in OVERLAYS.iterdir()))
        raise Problem(f"there is no overlay {overlay}", OVERLAYS, f"one of: {known}")
    # What ran before may have been put there by hand, by a tag.
    parts = re.fullmatch(r"(?P<newName>.+?)(?:@(?P<digest>.+)|:(?P<newTag>[\w.-]+))?", image)
    new = {key: value for key, value in (parts.groupdict() if parts else {}).items() if value}
    temporary = paths.STATE / "deploy"
    temporary.mkdir(parents=True, exist_ok=True)
    content = {"resources": [f"../../{folder}"], "images": [{"name": "model", **new}]}
    (temporary / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return list(yaml.safe_load_all(kubectl("kustomize", str(temporary))))


def settle(manifests: Sequence[dict[str, Any]], name: str, space: str) -> None:
    """Apply and wait until every pod runs what was applied; raise Failed with the reason if one does not."""
    kubectl("apply", "--filename", "-", given=yaml.safe_dump_all(manifests))
    try:
        kubectl("rollout", "status", f"deployment/{name}", "--namespace", space, "--timeout", "150s")
    except Unreachable as error:
        raise Failed(f"no pod became ready: {why(name, space)}") from error


def ask(space: str) -> dict[str, Any]:
    """Return what the smoke job found: {digest, rows, problems}; raise Failed if it found nothing."""
    job = f"smoke-{int(time.time())}"
    kubectl("create", "job", job, "--from", "cronjob/smoke", "--namespace", space)
    until = time.monotonic() + 130
    while time.monotonic() < until:
        status = json.loads(kubectl("get", "job", job, "--namespace", space, "--output", "json"))["status"]
        if status.get("succeeded") or status.get("failed"):
            break
        time.sleep(1)
    said = kubectl("logs", f"job/{job}", "--namespace", space, "--tail", "20", check=False)
    try:
        return dict(json.loads(said.splitlines()[-1]))
    except (ValueError, IndexError, TypeError) as error:
        raise Failed(f"the Service did not answer: {said.strip()[-300:] or 'the smoke job said nothing'}") from error


def why(name: str, space: str) -> str:
    """Return what the newest pod of a deployment complains of."""
    found = json.loads(kubectl("get", "pods", "--namespace", space, "--selector", f"app={name}", "--output", "json"))
    pods = sorted(found["items"], key=lambda pod: pod["metadata"]["creationTimestamp"])
    for status in pods[-1]["status"].get("containerStatuses", []) if pods else []:
        state = status["state"].get("waiting") or status["state"].get("terminated") or {}
        said = kubectl("logs", pods[-1]["metadata"]["name"], "--namespace", space, "--tail", "3", check=False)
        return " ".join(f"{state.get('reason', 'not ready')} {state.get('message', '')} {said}".split())[:300]
    return "no pod was started" if not pods else f"it is {pods[-1]['status']['phase']}"


def pull_secret(environ: Mapping[str, str], space: str) -> list[dict[str, Any]]:
    """Return the secret with which the cluster pulls from a private registry; none without REGISTRY_TOKEN."""
    if not (token := environ.get("REGISTRY_TOKEN")):
        return []
    user = environ.get("REGISTRY_USER", "token")
    login = {"auth": base64.b64encode(f"{user}:{token}".encode()).decode()}
    content = json.dumps({"auths": {environ.get("REGISTRY", "ghcr.io"): login}})
    metadata = {"name": "registry", "namespace": space}
    kind = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson"}
    return [{**kind, "metadata": metadata, "stringData": {".dockerconfigjson": content}}]


def kubectl(*words: str, given: str | None = None, check: bool = True) -> str:
    """Return what kubectl prints; raise Unreachable with its message if it fails."""
    try:
        done = subprocess.run(["kubectl", *words], input=given, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise Problem("kubectl is not installed", "PATH", "https://kubernetes.io/docs/tasks/tools") from error
    if check and done.returncode:
        what = f"kubectl {words[0]} failed: {' '.join(done.stderr.split())[-400:]}"
        raise Unreachable(what, "the cluster", "kubectl config current-context says which it is")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
