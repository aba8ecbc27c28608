"""Log the model in models/bundle as one MLflow run; where its gates pass, make it a version of the registry.

python -m scripts.track
python -m scripts.track --promote VERSION --image ghcr.io/me/model@sha256:...    after it was deployed: `champion` names it

The registry is the server in MLFLOW_TRACKING_URI, or mlflow.db here. Doing it again changes nothing. Exit code: 0 done,
2 your input or configuration, 3 the server did not answer.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pawl import bundle, paths, report, tracking
from pawl.pipeline import train
from pawl.problem import Problem
from scripts import cli, github, once


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Track, or promote."""
    parser = cli.parser("track", __doc__)
    parser.add_argument("--promote", metavar="VERSION", help="let `champion` name it")
    parser.add_argument("--image", default="", help="what was deployed")
    args = parser.parse_args(argv)
    said = promote(args.promote, args.image) if args.promote else track(environ)
    print(said)
    github.summary(environ, f"{said}\n\n")
    return 0


def track(environ: Mapping[str, str]) -> str:
    """Log and register; return what was done in a sentence."""
    found = report.load(paths.REPORT.read_bytes(), str(paths.REPORT)) if paths.REPORT.exists() else None
    digest = bundle.digest_of(paths.BUNDLE)
    if found is None or found.candidate.digest != digest:
        raise Problem("the report is not of this model", paths.REPORT, "run `make report`")
    name, verdict = github.project(), found.verdict
    commit = train.commit() or "unknown"
    tags = {
        "pawl.commit": commit,
        "pawl.digest": digest,
        "pawl.lock": hashlib.sha256(paths.LOCKFILE.read_bytes()).hexdigest(),
        "pawl.gate": verdict,
        **{f"pawl.{part}": value for part, value in found.candidate.digests.items()},
    }
    where = tracking.shown(environ.get("MLFLOW_TRACKING_URI") or str(paths.STORE))
    key = [name, where, tags, where != str(paths.STORE) or (paths.STORE.exists() and paths.ARTIFACTS.exists())]
    if not environ.get("GITHUB_OUTPUT") and (said := once.done("track", key)):
        return said
    from pawl import registry

    bundle.load(paths.BUNDLE)  # what is registered is whole
    with tracking.store() as client:
        metrics = {
            metric: each.value for metric, each in found.candidate.facts.metrics.items() if each.value is not None
        }
        run = tracking.log(client, name, tags, flat(yaml.safe_load(paths.PARAMS.read_text())), metrics)
        if not found.allowed:
            return f"Run {run} is in {where}; no version was made: the verdict is {verdict}."
        version, new = registry.register(client, name, run, tags)
    github.output(environ, version=version, digest=digest)
    key[-1] = True
    return once.mark(
        "track", key, f"{name} version {version} ({'new' if new else 'known'}, candidate) is in {where}: {digest[:19]}"
    )


def promote(version: str, image: str) -> str:
    """Move the alias; return what was done in a sentence."""
    from pawl import registry

    commit = train.commit() or "unknown"
    with tracking.store() as client:
        before = registry.promote(client, github.project(), version, commit, image, older)
    return f"✅ Released: {github.project()} version {version} is champion (before: {before or 'none'}), as {image or 'no image'}."


def older(commit: str, other: str) -> bool:
    """Say whether a commit comes before another in this checkout's history."""
    return not subprocess.run(
        ["git", "merge-base", "--is-ancestor", commit, other], check=False, capture_output=True
    ).returncode


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


if __name__ == "__main__":
    sys.exit(main())
