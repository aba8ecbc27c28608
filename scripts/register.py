"""Make the model in models/bundle a version of the registry, the `candidate`.

python -m scripts.register
python -m scripts.register --image ghcr.io/me/model@sha256:...      once more, when its image is there

One version per model, whoever registers it and how often. The registry is the server in MLFLOW_TRACKING_URI, or mlflow.db here.
Where the verdict is no, the run is logged and no version made. Exit code: 0 done, 1 the verdict is no (with --exit-code), 2 your
input, or the model was taken back, 3 the registry did not answer.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pawl import paths, registry, tracking
from pawl.bundle import Bundle
from pawl.problem import Problem
from pawl.report import Report
from pawl.tracking import Store
from scripts import cli, github, once, track


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Register."""
    parser = cli.parser("register", __doc__)
    parser.add_argument("--image", default="", help="that serves it")
    parser.add_argument("--exit-code", action="store_true", help="1 where the verdict is no")
    args = parser.parse_args(argv)
    where = environ.get(tracking.URI) or str(paths.STORE)
    there = where != str(paths.STORE) or (paths.STORE.exists() and paths.ARTIFACTS.exists())
    key = [
        where,
        track.experiment(environ),
        args.image,
        there,
        environ.get("NOTE", ""),
        *(path.read_text() for path in (paths.LOCKFILE, paths.REPORT) if path.exists()),
    ]
    if not args.exit_code and "GITHUB_OUTPUT" not in environ and (said := once.done("register", key)):
        print(said)
        return 0
    found, loaded = track.here()
    with tracking.store() as store:
        if not found.allowed:
            run, _ = track.track(store, found, loaded, environ)
            said = f"run {run} is in {store.shown}, and no version was made: the verdict is {found.verdict}"
            print(once.mark("register", key, said))
            return 1 if args.exit_code else 0
        version, new, aliases = register(store, found, loaded, environ, args.image)
    what = f"{'new' if new else 'registered before'}; {', '.join(aliases) or 'no alias'}"
    said = f"{github.project()} version {version} is in {store.shown} ({what}): {loaded.digest[:19]}"
    print(said)
    key[3] = True  # the next time, the store is there
    once.mark("register", key, said.replace("(new;", "(registered before;"))
    github.output(environ, version=version, digest=loaded.digest)
    github.summary(environ, f"{said}\n\n")
    return 0


def register(
    store: Store, found: Report, loaded: Bundle, environ: Mapping[str, str], image: str = ""
) -> tuple[str, bool, list[str]]:
    """Return (version, whether it is new, its aliases)."""
    name, client = github.project(), store.client
    registry.refuse_rejected(name, registry.of_digest(client, name, loaded.digest))
    run, _ = track.track(store, found, loaded, environ)
    tags = {key: value for key, value in track.described(found, loaded, environ).items() if key.startswith("pawl.")}
    tags |= {"pawl.run": run, "pawl.commits": found.candidate.commit, "pawl.images": image}
    tags["pawl.report_link"] = tags.get("pawl.job", f"runs:/{run}/reports/report.html")
    card = paths.CARD.read_text() if paths.CARD.exists() else ""
    # An image holds no history: there, what was trained last is the newest.
    order = before if Path(".git").exists() else lambda _, other: other == found.candidate.commit
    version, new = registry.register(store, name, tracking.model_of(store, run), tags, card, order)
    return version, new, registry.get(client, name, version).aliases


def before(commit: str, other: str) -> bool:
    """Say whether a commit is another, or comes before it; raise Problem where this checkout cannot tell."""
    names = [each.removesuffix("-dirty") for each in (commit, other)]
    if names[0] == names[1] or not names[0]:
        return True
    done = subprocess.run(["git", "merge-base", "--is-ancestor", *names], check=False, capture_output=True)
    if done.returncode > 1:
        missing = next(
            (
                each
                for each in names
                if subprocess.run(
                    ["git", "cat-file", "-e", f"{each}^{{commit}}"], check=False, capture_output=True
                ).returncode
            ),
            names[0],
        )
        fix = "git fetch --unshallow, or fetch its branch; where history was rewritten, delete the tag pawl.released of the version in question"
        raise Problem(f"which commit is older cannot be told: {missing[:7]} is not in this checkout", Path.cwd(), fix)
    return done.returncode == 0


if __name__ == "__main__":
    gc.disable()  # a tenth of the time goes into looking through what MLflow imports
    sys.exit(main())
