"""Put a release into a Kubernetes environment, and ask it for its golden rows there.

python -m scripts.deploy --environment staging --image ghcr.io/me/project/model-server@sha256:... --digest sha256:... --version 3

what ran is known -> the cluster is asked whether it would take this -> apply -> every pod ready -> golden rows -> watched for a while ->
recorded. Whatever fails, Ctrl+C too: what ran before is applied again, as it was. Doing it again changes nothing.
`python -m scripts.image --push ghcr.io/me/project` makes an image of models/bundle, and prints its name with its digest.
Exit code: 0 it answers, 1 it does not, and what ran before runs again, 2 your input, 3 the cluster did not answer, or another deploy runs.
"""

import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pawl import bundle, paths
from pawl.ledger import Release
from pawl.pipeline import train
from pawl.problem import Problem, Unreachable
from scripts import cli, cluster, github, track
from scripts.cluster import Failed, Manifests, Recorded


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Deploy, verify, or go back."""
    parser = cli.parser("deploy", __doc__)
    parser.add_argument("--environment", required=True, help="a folder of k8s/overlays")
    parser.add_argument("--image", required=True, help="name@sha256:...: by digest, so that it cannot change")
    parser.add_argument("--digest", help="of the bundle that must answer (that of models/bundle)")
    parser.add_argument("--version", default="", help="of the model, in the registry: a part of the release's name")
    parser.add_argument("--commit", default="", help="that made it (the one that is checked out)")
    args = parser.parse_args(argv)
    if not re.fullmatch(r"[\w./:-]+@sha256:[0-9a-f]{64}", args.image):
        fix = "name@sha256:..., as docker push prints it"
        raise Problem(f"{args.image} does not name an image by its digest", "--image", fix)
    digest = bundle.digest_of(paths.BUNDLE) if args.digest is None else args.digest
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        what = f"{digest or 'nothing'} is no digest of a bundle"
        raise Problem(what, "--digest", "sha256:..., as in its manifest.json")
    commit = (args.commit or train.commit() or "unknown").removesuffix("-dirty")
    release = Release(commit, args.version, digest, args.image, environment=args.environment)
    said, code = deploy(args.environment, Recorded(release, cluster.render(args.environment, release)), environ)
    print(said)
    github.summary(environ, f"{said}\n\n")
    return code


def deploy(environment: str, wanted: Recorded, environ: Mapping[str, str]) -> tuple[str, int]:
    """Return what happened in a sentence, and the exit code."""
    space, image = cluster.space_of(wanted.manifests), wanted.release.image
    cluster.kubectl("version")  # a cluster that does not answer is not a bad image
    cluster.prepare(wanted.manifests)
    # The namespace is nothing to go back to, and who deploys may not change it.
    wanted = wanted._replace(manifests=[each for each in wanted.manifests if each["kind"] != "Namespace"])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who is told to end leads back too
    with cluster.alone(space, track.who(environ)):
        before = cluster.recorded(space) or unrecorded(environment, space)
        same = before is not None and before.release.image == image and cluster.running(space) == wanted.release.name
        extra = cluster.pull_secret(environ, space)
        refused = f"❌ Not deployed to {environment}: "
        try:
            cluster.apply([*wanted.manifests, *extra], "--dry-run=server")
        except Unreachable as error:
            return f"{refused}{error.what}. Nothing was changed.", 1
        try:
            found, others = put(wanted, before.manifests if before else [], extra, space)
        except (Failed, Unreachable, KeyboardInterrupt) as failed:  # once something was applied, it leads back
            said = f"{refused}{failed.args[0] if failed.args else 'it was stopped'}."
            if before:
                return back(said, before, wanted.manifests, extra, space), 1
            cluster.remove(wanted.manifests, [])
            return f"{said} Nothing ran there before, and nothing does now.", 1
        if before != wanted:
            cluster.record(space, wanted)
    what = f"{found['rows']} golden rows answered right through the Service by `{image}`{watched(found)}"
    undone = f" Undone: what {', '.join(others)} had changed." if others else ""
    return f"✅ {'Nothing new for' if same and not others else 'Deployed to'} {environment}: {what}.{undone}", 0


def unrecorded(environment: str, space: str) -> Recorded | None:
    """Return what somebody put there without us, as far as it can be known: today's manifests with its image."""
    words = ("get", "deployment", cluster.NAME, "--namespace", space, "--ignore-not-found", "--output")
    image = cluster.kubectl(*words, "jsonpath={.spec.template.spec.containers[0].image}").strip()
    release = Release("unknown", "", "", image)
    return Recorded(release, cluster.render(environment, release)) if image else None


def put(wanted: Recorded, before: Manifests, extra: Manifests, space: str) -> tuple[dict[str, Any], list[str]]:
    """Apply, wait, ask; return what was found, and who had changed what ran. Raise Failed if it does not answer as it should."""
    told("applying")
    cluster.apply([*wanted.manifests, *extra])
    others = cluster.straighten(wanted.manifests)
    told("waiting for the pods")
    cluster.settle(space)
    if before:
        cluster.remove(before, wanted.manifests)
    told("asking the golden rows")
    return verify(wanted, space), others


def told(step: str) -> None:
    """Say on standard error what is done: it takes a while."""
    print(f"{step} ...", file=sys.stderr, flush=True)


def verify(wanted: Recorded, space: str) -> dict[str, Any]:
    """Return what the smoke job found through the Service; raise Failed unless every answer is right."""
    answered = cluster.ask(space)
    if answered.get("digest") != (wanted.release.digest or answered.get("digest")):
        raise Failed(f"the Service answers with {answered.get('digest')}, not with {wanted.release.digest}")
    if answered.get("problems"):
        raise Failed(f"wrong answers through the Service: {'; '.join(answered['problems'][:3])}")
    return answered


def back(said: str, before: Recorded, tried: Manifests, extra: Manifests, space: str) -> str:
    """Let run again what ran before; return what was said, and how that went."""
    image, started = before.release.image, time.monotonic()
    told("going back")
    try:
        cluster.apply([*before.manifests, *extra])
        cluster.straighten(before.manifests)
        cluster.settle(space)
        seconds = time.monotonic() - started
        cluster.remove(tried, before.manifests)
    except (Failed, Unreachable) as again:
        return f"{said} ‼ `{image}` does not run again either: {again.args[0]}. By hand: `{by_hand(before, space)}`"
    said = f"{said} Back in {seconds:.0f} s: `{image}` runs again."
    try:
        verify(before, space)
    except (Failed, Unreachable) as unsure:
        return f"{said} ‼ It was not shown to answer: {unsure.args[0]}."
    return said


def by_hand(before: Recorded, space: str) -> str:
    """Return the command that does what `back` does. `rollout undo` would not: the revision before is by then the one that failed."""
    if not before.release.digest:
        return f"kubectl --namespace {space} set image deployment/{cluster.NAME} {cluster.NAME}={before.release.image}"
    get = f"kubectl --namespace {space} get configmap {cluster.RELEASE} --output 'jsonpath={{.data.manifests\\.yaml}}'"
    return f"{get} | kubectl apply {' '.join(cluster.SERVER_SIDE)} --filename -"


def watched(found: Mapping[str, Any]) -> str:
    """Return how long it was watched, if it was."""
    if not found.get("requests"):
        return ""
    return f"; then {found['requests']:,} in {found['seconds']:g} s, 99 % within {found['p99_ms']:g} ms"


if __name__ == "__main__":
    sys.exit(main())
