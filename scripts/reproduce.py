"""Train what a run names once more, and say whether it comes out the same.

python -m scripts.reproduce --run 3f2a          an id, the beginning of one, or a name
python -m scripts.reproduce --version champion

The commit's own files run, in this environment, below .pawl/reproduce. Exit code: 0 reproduced, 1 it came out differently, 2 wrong input,
3 the store or the source did not answer.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pawl import bundle, paths, tracking
from pawl.problem import Problem, Unreachable
from scripts import baseline, cli, compare, track
from scripts.stage import STAGES

FOLDER = paths.STATE / "reproduce"
SHOWN = 12


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Reproduce."""
    parser = cli.parser("reproduce", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", metavar="RUN", help="an id, the beginning of one, or a name")
    what.add_argument("--version", help="of the registry: a number or an alias")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(temporary)
        with tracking.store() as store:
            run = compare.of_version(store, args.version) if args.version else compare.find(store, args.run)
            commit = commit_of(run)
            for name in ("inputs", "environment"):
                store.download(run.info.artifact_uri, name, kept)
        folder = FOLDER / run.info.run_id
        shutil.rmtree(folder, ignore_errors=True)
        code, said = baseline.play(commit, folder, "--force", "--no-run-cache", cache=False)
        if code:
            kind = Unreachable if code == Unreachable.code else Problem
            raise kind(f"its pipeline does not run here: {said}", folder, "see `python -m scripts.run --force` there")
        found = differences(run, kept, folder)
    if found:
        print("\n".join([f"{compare.called(run)} came out differently:", "", *(f"  {each}" for each in found), "", f"kept: {folder}"]))  # fmt: skip
        return 1
    count = len(track.ends(json.loads((folder / paths.METRICS).read_text())))
    shutil.rmtree(folder)
    print(f"Reproduced: the same model, bit for bit ({run.data.tags['pawl.digest']}), every metric equal ({count} numbers).")  # fmt: skip
    return 0


def commit_of(run: Any) -> str:
    """Return the commit of a run; raise Problem if it cannot be had."""
    name, tags = compare.called(run), run.data.tags
    commit = str(tags.get("pawl.commit", ""))
    if commit.endswith("-dirty"):
        raise Problem(f"{name} was trained with files that differ from commit {commit[:7]}: these are not in git", run.info.run_id, "commit first, then train and log")  # fmt: skip
    if not re.fullmatch("[0-9a-f]{40}", commit) or "pawl.digest" not in tags:
        raise Problem(f"{name} names no commit and model of this repository", run.info.run_id, "name a run that `make track` made")  # fmt: skip
    if not baseline.git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", check=False):
        origin = tags.get("mlflow.source.git.repoURL", "its repository")
        raise Problem(f"commit {commit[:7]} of {name} is not in this clone", Path.cwd(), f"git fetch {origin} {commit}; a shallow clone: git fetch --unshallow")  # fmt: skip
    return commit


def differences(run: Any, kept: Path, folder: Path) -> list[str]:
    """Return what differs between a run and its repetition in a folder, causes first; kept: where the files of the run are."""
    tags, manifest = run.data.tags, json.loads((folder / paths.BUNDLE / bundle.MANIFEST).read_text())
    now = track.ends(json.loads((folder / paths.METRICS).read_text()))
    metrics = {name: (run.data.metrics.get(name), value) for name, value in now.items() if run.data.metrics.get(name) != value}  # fmt: skip
    if manifest["digest"] == tags["pawl.digest"] and not metrics:
        return []
    found = [f"{part}: {tags.get(f'pawl.{part}', 'none')[:12]} → {digest[:12]}" for part, digest in manifest["digests"].items() if digest != tags.get(f"pawl.{part}")]  # fmt: skip
    if first := other_output(read(kept / "inputs/dvc.lock"), read(folder / paths.LOCKFILE)):
        source = first == str(paths.SOURCE)
        what = "the source data has changed since" if source else "the first output that differs"
        found.append(f"{what}: {first}")
    lock = kept / "environment" / paths.LOCK.name
    if not lock.exists() or lock.read_bytes() != paths.LOCK.read_bytes():
        found.append(f"the environment: {paths.LOCK} here is not the run's")
    before, after = (track.flat(read(path)) for path in (kept / "environment/made_by.json", folder / paths.MADE_BY))
    made = [key for key in after if key.startswith(("python", "platform", "versions"))]
    found += [f"{key}: {before.get(key, 'unknown')} → {after[key]}" for key in made if before.get(key) != after[key]]
    if manifest["digest"] != tags["pawl.digest"]:
        found.append(f"model: {tags['pawl.digest'][:19]} → {manifest['digest'][:19]}")
    values = [name for name in metrics if not name.endswith((".low", ".high"))]
    for name in sorted(values, key=lambda each: not each.startswith("test."))[:SHOWN]:
        was, value = metrics[name]
        found.append(f"{name}: {'none' if was is None else f'{was:.6g}'} → {value:.6g}{'' if was is None else f' ({value - was:+.2g})'}")  # fmt: skip
    return [*found, f"{len(metrics)} of {len(now)} numbers differ"]


def other_output(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the first output, in the pipeline's order, that two dvc.lock have differently; nothing if there is none."""
    for stage in STAGES:
        outs = [{out["path"]: out["md5"] for out in lock.get("stages", {}).get(stage, {}).get("outs", ())} for lock in (before, after)]  # fmt: skip
        for path in outs[1]:
            if outs[0].get(path) != outs[1][path]:
                return str(path)
    return ""


def read(path: Path) -> dict[str, Any]:
    """Return a JSON or YAML file; {} where the run has none."""
    return yaml.safe_load(path.read_text()) if path.exists() else {}


if __name__ == "__main__":
    sys.exit(main())
