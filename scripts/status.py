"""Say what runs where, and where environments, registry and ledger disagree.

python -m scripts.status          [--json]

Exit code: 0 all agree, 1 they do not, 2 your input, 3 the registry or the cluster did not answer.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pawl import registry, tracking
from pawl.ledger import Ledger, Release
from pawl.problem import Problem, Unreachable
from scripts import cli, cluster, github


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Look, and tell."""
    parser = cli.parser("status", __doc__)
    parser.add_argument("--json", action="store_true", help="for a program")
    args = parser.parse_args(argv)
    kept = Ledger()
    released = kept.champion()
    champion, where = of_registry()
    environments: dict[str, dict[str, Any]] = {}
    for path in sorted(cluster.OVERLAYS.iterdir()):
        environments[path.name] = environment(path.name)
        if "Forbidden" not in environments[path.name].get("error", "Forbidden"):  # the others would not answer either
            break
    wrong = disagreements(environments, champion, released)
    if args.json:
        told = {"environments": environments, "champion": champion}
        told |= {"released": released and released.name, "disagreements": wrong}
        print(json.dumps(told, indent=1))
        return ended(environments, wrong)
    for name, found in environments.items():
        print(f"{name:<12} {line(found)}")
        print("".join(f"{'':<12} {each}\n" for each in addresses(found)), end="")
    print(f"{'champion':<12} {'version {version}, {digest}'.format(**champion) if champion else 'none'}, in {where}")
    last = released and f"{released.name}, {released.verdict or 'no verdict'}, {released.made}, by {released.by}"
    print(f"{'ledger':<12} {last or 'no release'}")
    print(f"{'pages':<12} MLflow: {environ.get('MLFLOW_TRACKING_URI') or '`make ui`'}")
    print("".join(f"‼ {each}\n" for each in wrong), end="")
    return ended(environments, wrong)


def ended(environments: Mapping[str, Mapping[str, Any]], wrong: Sequence[str]) -> int:
    """Return the exit code."""
    return 1 if wrong else 3 if all("error" in found for found in environments.values()) else 0


def of_registry() -> tuple[dict[str, str], str]:
    """Return {version, digest} of the champion, empty without one, and where the registry is."""
    with tracking.store() as store:
        named = registry.named(store.client, github.project(), registry.CHAMPION)
        return {"version": named.version, "digest": named.tags.get("pawl.digest", "")} if named else {}, store.shown


def environment(name: str) -> dict[str, Any]:
    """Return what is known of an environment: {release, image, ready, wanted, space}, or {error}."""
    space = cluster.space_of(cluster.render(name, Release("unknown", "", "", "model")))
    try:
        recorded = cluster.recorded(space)
        found = cluster.kubectl("get", "deployment", cluster.NAME, "--namespace", space, "--ignore-not-found", "--show-managed-fields", "--output", "json")  # fmt: skip
    except Unreachable as error:
        return {"space": space, "error": error.what}
    except Problem as problem:
        return {"space": space, "error": problem.what}
    if not found.strip():
        return {"space": space}
    deployment = json.loads(found)
    release = recorded.release if recorded else None
    names = {"release": "name", "version": "version", "digest": "digest", "recorded": "image"}
    return {
        "space": space,
        **{key: getattr(release, name, None) for key, name in names.items()},
        "running": deployment["metadata"].get("annotations", {}).get("pawl/release", ""),
        "hands": cluster.hands(deployment),
        "settled": cluster.settled(deployment),
        "image": deployment["spec"]["template"]["spec"]["containers"][0]["image"],
        "ready": deployment.get("status", {}).get("readyReplicas", 0),
        "wanted": deployment["spec"].get("replicas", 1),
    }


def disagreements(environments: Mapping[str, Mapping[str, Any]], champion: Mapping[str, str], released: Release | None) -> list[str]:  # fmt: skip
    """Return what does not fit together, in sentences."""
    said = []
    for name, found in environments.items():
        if "image" not in found:
            continue
        if found["image"] != found["recorded"] or found["running"] != (found["release"] or ""):
            again = f"`python -m scripts.rollback --environment {name} --reason ...` goes back to {found['release']}"
            last = f"not {found['release']}, which answered right last; {again}"
            what = last if found["release"] else "and nothing was deployed"
            said.append(f"{name} runs {found['running'] or 'what somebody put there'} by {found['image']}, {what}")
        if found["hands"]:
            said.append(f"the pods of {name} were changed by {', '.join(found['hands'])}: a deploy undoes that")
        if not found["settled"]:
            pods = f"{found['ready']} of {found['wanted']} pods are ready"
            said.append(f"{name} is being rolled out, or is stuck: {pods}")
    if released and champion and (released.version, released.digest) != (champion["version"], champion["digest"]):
        other = f"the registry's champion version {champion['version']}"
        said.append(f"the ledger's last release is version {released.version}, {other}")
    if bool(released) != bool(champion):
        said.append("the ledger has a release, the registry no champion" if released else "the registry has a champion, the ledger no release")  # fmt: skip
    served = environments.get(released.environment, {}) if released else {}
    if released and "error" not in served and served.get("release") != released.name:
        runs = served.get("release") or "nothing that was deployed"
        said.append(f"the ledger says that {released.name} is served in {released.environment}, and {runs} is")
    return said


def line(found: Mapping[str, Any]) -> str:
    """Return an environment in a line."""
    if "error" in found:
        return "? this account may not look into it" if "Forbidden" in found["error"] else f"? {found['error']}"
    if "image" not in found:
        return f"nothing runs in {found['space']}"
    return f"{found['release'] or 'by hand'}  {found['ready']}/{found['wanted']} pods ready  {found['digest'] or ''}\n{'':<12} {found['image']}"


def addresses(found: Mapping[str, Any]) -> list[str]:
    """Return how the service of an environment is reached."""
    words = f"kubectl --namespace {found['space']} port-forward service/model 8080:80"
    return [f"{words}  # http://127.0.0.1:8080/docs, /metrics"] if "image" in found else []


if __name__ == "__main__":
    sys.exit(main())
