"""Take an environment back to an earlier release: pods, alias `champion`, ledger.

python -m scripts.rollback --environment production --reason "wrong for new customers"
python -m scripts.rollback --environment production --reason "..." --dry-run          which release that would be
python -m scripts.rollback --environment production --reason "..." --undo ghcr.io/...@sha256:...          a release's last step, where the champion could not be named
python -m scripts.rollback --environment production --to 3-1f2e3d4-9a8b7c6 --reason "..."       a release, or a version of the model

The same way as a deploy, with the manifests that the release was applied with; then what ran is rejected until a person clears it.
Exit code: 0 it answers, 1 it does not, and what ran before runs again, 2 your input, 3 the cluster or the registry did not answer.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence

import msgspec

from pawl.ledger import Ledger, Release
from pawl.problem import Problem
from scripts import cli, cluster, deploy, github, ledger, promote
from scripts.cluster import Recorded


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Go back."""
    parser = cli.parser("rollback", __doc__)
    parser.add_argument("--environment", required=True, help="a folder of k8s/overlays")
    parser.add_argument("--reason", required=True, help="why: it is what the next person reads")
    parser.add_argument("--to", default="", help="a release, or a version of the model (the release before)")
    said = "only where this image runs, and the ledger has not released it"
    parser.add_argument("--undo", metavar="IMAGE", help=said)
    parser.add_argument("--dry-run", action="store_true", help="only say which release that is")
    args = parser.parse_args(argv)
    if not args.reason.strip():
        parser.error("--reason is empty: it is what the next person reads")
    kept, environment = Ledger(), args.environment
    space = cluster.space_of(cluster.render(environment, Release("unknown", "", "", "model")))
    current, served = cluster.recorded(space), kept.champion()
    if current is None:
        raise Problem(f"nothing was deployed to {environment}", space, "python -m scripts.deploy")
    if args.undo and (current.release.image != args.undo or (served and served.image == args.undo)):
        print(f"{environment} does not run {args.undo}, or it was released: nothing to undo")
        return 0
    there = known(environment, space, kept)
    left = cluster.running(space) or current.release.name
    refused = rejected(kept.releases()) | rejected([each.release for each in cluster.earlier(space)])
    target = current if args.to == left == current.release.name else chosen(left, there, refused, args.to)
    github.output(environ, release=target.release.name, image=target.release.image)
    print(f"↩ {environment}: from {left} to {target.release.name}: {args.reason}")
    if args.dry_run:
        return 0
    ran = next((each.release for each in there if each.release.name == left), None)
    mark = {"rejected": (ran.version if ran else "") or left, "reason": " ".join(args.reason.split())[:300]}
    if target.release.name == left:  # the pods went back before, the alias may have not
        mark = {"rejected": target.release.rejected, "reason": target.release.reason}
    release = msgspec.structs.replace(target.release, made="", by="", verdict="", **mark)
    wanted = Recorded(release, target.manifests or cluster.render(environment, release))
    said, code = deploy.deploy(environment, wanted, environ)
    print(said)
    github.summary(environ, f"↩ From `{left}` to `{release.name}`: {args.reason}\n\n{said}\n\n")
    if args.undo:
        return code
    if code or served is None or served.environment != environment or served.version == release.version:
        print("" if code else "The alias `champion` and the ledger are not of this environment: they stay.\n", end="")
        return code
    words = ["--rollback", served.version, "--to", release.version, "--reason", args.reason, "--image", release.image]
    if code := promote.main(words, environ):
        by_hand = " ".join(shlex.quote(word) for word in ("python", "-m", "scripts.promote", *words))
        print(f"‼ The pods went back, the alias did not: {by_hand}", file=sys.stderr)
        return code
    told = {name: getattr(release, name) for name in ("version", "digest", "image", "environment", "commit")}
    told |= {"rejected": served.version, "reason": args.reason}
    return ledger.main(["release", *(word for name, value in told.items() for word in (f"--{name}", value))], environ)


def known(environment: str, space: str, kept: Ledger) -> list[Recorded]:
    """Return the releases of an environment, the newest first: with the manifests that the cluster keeps, or today's.

    Where the ledger has releases of this environment, what it does not have was deployed, and never released.
    """
    found = {each.release.name: each for each in reversed(cluster.earlier(space))}
    told = [each for each in kept.releases() if each.environment == environment and each.image]
    names = {each.name for each in told}
    there = [each for name, each in reversed(found.items()) if name in names or not names]
    return [*there, *(Recorded(each, []) for each in told if each.name not in found)]


def rejected(releases: Sequence[Release]) -> set[str]:
    """Return what was taken back, and not released since: versions, or names of releases. releases: the newest first."""
    out: set[str] = set()
    for each in reversed(releases):
        out = (out - {each.version, each.name}) | ({each.rejected} - {""})
    return out


def chosen(left: str, releases: Sequence[Recorded], refused: set[str], to: str) -> Recorded:
    """Return the release to go back to: what is asked for, or the newest before `left` that nobody took back.

    Where `left` is no release, as it never answered, that is the newest of all.
    """
    others = [each for each in releases if each.release.name != left]
    names = ", ".join(each.release.name for each in others) or "none"
    if to:
        found = [each for each in others if to in {each.release.name, each.release.version}]
        if not found:
            raise Problem(f"there is no other release {to}", "--to", f"one of: {names}")
        return found[0]
    place = next((number for number, each in enumerate(releases) if each.release.name == left), -1)
    found = [each for each in releases[place + 1 :] if not refused & {each.release.version, each.release.name}]
    if not found:
        raise Problem(f"there is no release before {left} to go back to", "the cluster and the ledger", f"name one with --to: {names}")  # fmt: skip
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
