"""Hold the week's predictions to the champion's reference; on drift tell, retrain.

PREDICTION_LOG=s3://bucket/predictions python -m scripts.watch
PREDICTION_LOG=s3://bucket/predictions LABELS=s3://bucket/labels.parquet python -m scripts.watch --last 30d

Takes the reference from what the release that is served was made of: its dvc.lock from the ledger, its files from the DVC remote or the cache. Without
PREDICTION_LOG there is nothing to watch, and it says so. Exit code: 0 done, 2 your input, 3 something outside did not answer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pawl import paths
from pawl.ledger import Ledger
from pawl.problem import Problem
from scripts import cli, drift, github, ledger, notify, pull, retrain

NEEDED = (str(paths.PREPARED), str(paths.BUNDLE), str(paths.METRICS))
UNSET = (
    "No prediction log is named: nothing is watched. Set the variable PREDICTION_LOG to where `scripts.ship` keeps it."
)


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Compare, tell, dispatch."""
    parser = cli.parser("watch", __doc__)
    parser.add_argument("--last", default="7d", help="how far back: h, d or w; 7d without it")
    args = parser.parse_args(argv)
    log, labels = environ.get("PREDICTION_LOG"), environ.get("LABELS")
    if not log:
        print(UNSET)
        github.summary(environ, f"➖ {UNSET}\n\n")
        return 0
    print(ledger.locked(Ledger()))
    brought()
    if code := drift.main(["--log", log, "--last", args.last, *(["--labels", labels] if labels else [])]):
        return code
    github.summary(environ, drift.OUT.with_suffix(".md").read_text())
    found = json.loads(drift.OUT.read_text())
    here = bool(environ.get("GITHUB_REPOSITORY"))
    if found["verdict"] == "drift":
        notify.notify(
            "drift", found["headline"], drift.OUT.with_suffix(".md").read_text(), notify.run_of(environ), environ
        )
        return retrain.main(["--dispatch"], environ) if here else 0
    if found["verdict"] == "no drift" and here:
        notify.main(["--event", "drift", "--resolved", "--title", found["headline"]], environ)
    return 0


def brought() -> None:
    """Bring the outputs that dvc.lock names: from the remote, where there is one, else from DVC's cache."""
    if pull.main(["--if-set"]) == 0 and all(Path(name).exists() for name in NEEDED):
        return
    words = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--force", *NEEDED[:2]]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        what = f"what the served model was trained on cannot be had: {' '.join(done.stderr.split())[-300:]}"
        raise Problem(
            what,
            paths.LOCKFILE,
            "a DVC remote (docs/platform-engineer.md) keeps it; or `make run`, where nothing changed since",
        )


if __name__ == "__main__":
    sys.exit(main())
