"""Judge the model in models/bundle by gates.yaml, and compare it with another commit's.

python -m scripts.report                     the gates alone
python -m scripts.report --base origin/main  against the model of another commit, trained here from its own files
python -m scripts.report --exit-code         1 where a gate fails

Writes reports/report.json and reports/report.md, and GitHub's job summary where there is one. Exit code: 0 done, 1 a gate
fails (with --exit-code), 2 your input or configuration.
"""

import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from pawl import gate, paths, report
from pawl.pipeline import train
from pawl.problem import Problem
from pawl.report import Measured, Report, Value
from scripts import cli, github

BASES = paths.STATE / "base"


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Measure, judge, write."""
    parser = cli.parser("report", __doc__)
    parser.add_argument("--base", help="a commit, for example origin/main")
    parser.add_argument(
        "--committed",
        action="store_true",
        help="take the base's numbers from git: fresh data have no model of the base",
    )
    parser.add_argument("--exit-code", action="store_true", help="1 where a gate fails")
    args = parser.parse_args(argv)
    found = compare(args.base, committed=args.committed)
    gates = gate.load(judging(found.baseline))
    content = report.dump(found)
    report.load(content, str(paths.REPORT))  # what the comment would refuse is said here
    paths.REPORT.write_bytes(content)
    text = report.markdown(found, gates)
    paths.REPORT.with_suffix(".md").write_text(text)
    github.summary(environ, text)
    print(report.terminal(found, gates))
    return 1 if args.exit_code and gate.overall(found.judge(gates)) == "fail" else 0


def compare(base: str | None, *, committed: bool) -> Report:
    """Return the report on the model here, against the model of the commit `base` where there is one."""
    if changed := stale():
        raise Problem(f"the model was trained before {changed} changed", paths.BUNDLE, "run `make run`")
    candidate = measured(Path(), train.commit() or "unknown")
    seconds = stages()
    if base is None:
        return Report(1, candidate, None, "none", seconds=seconds)
    found = git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}", check=False).decode().strip()
    if not found:
        fix = "name a commit that is here: git log --oneline; a shallow clone needs git fetch --unshallow"
        raise Problem(f"there is no commit {base}", "--base", fix)
    theirs = at(found, paths.GATES)
    alone = Report(
        1, candidate, None, "none", seconds=seconds,
        params=tuple(report.changes(at(found, paths.PARAMS), yaml.safe_load(paths.PARAMS.read_text()))),
        gates=tuple(report.changes(theirs, yaml.safe_load(paths.GATES.read_text()))) if theirs else (),
    )  # fmt: skip
    folder, why = (None, "it was made of other data") if committed else rebuild(found)
    if folder:
        return msgspec.structs.replace(alone, baseline=measured(folder, found), how="rebuilt")
    try:
        numbers = values(at(found, paths.METRICS))
    except (KeyError, TypeError, AttributeError):  # none, or of another version
        return msgspec.structs.replace(alone, why=why)
    return msgspec.structs.replace(alone, baseline=Measured(found, numbers), how="committed", why=why)


def stale() -> str | None:
    """Return a parameter or a file of the pipeline that is another than when the model was made."""
    if not paths.LOCKFILE.exists():
        return None
    params = yaml.safe_load(paths.PARAMS.read_text())
    for stage in (yaml.safe_load(paths.LOCKFILE.read_text()) or {}).get("stages", {}).values():
        for key, value in stage.get("params", {}).get(str(paths.PARAMS), {}).items():
            if functools.reduce(lambda found, part: (found or {}).get(part), key.split("."), params) != value:
                return f"{key} in {paths.PARAMS}"
        for dep in stage.get("deps", ()):
            file = Path(dep["path"])
            if file.parts[0] not in {"data", "models", "reports"} and file.exists() and _md5(file) != dep["md5"]:
                return str(file)
    return None


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()  # as DVC names a file


def judging(baseline: Measured | None) -> Path:
    """Return the gates that judge: those of the baseline's commit, so that no change lowers its own bar."""
    theirs = git("show", f"{baseline.commit}:{paths.GATES}", check=False) if baseline else b""
    if not theirs or theirs == paths.GATES.read_bytes():
        return paths.GATES
    file = paths.STATE / paths.GATES
    file.write_bytes(theirs)
    print(f"{paths.GATES} differs from the base's, which judges", file=sys.stderr)
    return file


def measured(root: Path, commit: str) -> Measured:
    """Return what the last run in `root` measured; raise Problem if it is not of the bundle there."""
    import pyarrow.parquet as pq

    try:
        metrics = json.loads((root / paths.METRICS).read_text())
        manifest = json.loads((root / paths.BUNDLE / "manifest.json").read_text())
        rows = pq.read_table(root / paths.PREDICTIONS, columns=["row_id", "target"])
        stages = yaml.safe_load((root / paths.LOCKFILE).read_text())["stages"]
        made, judged = (
            [each["md5"] for each in stages[stage][side] if each["path"] == str(paths.BUNDLE)]
            for stage, side in (("train", "outs"), ("evaluate", "deps"))
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise Problem(f"there is no evaluated model: {error}", root.absolute(), "run `make run`") from error
    if made != judged:
        raise Problem(f"{paths.METRICS} is not of {paths.BUNDLE}", root.absolute(), "run `make run`")
    pairs = sorted(f"{row}\t{target}" for row, target in zip(*(column.to_pylist() for column in rows), strict=True))
    return Measured(
        commit,
        values(metrics),
        manifest["digest"],
        hashlib.sha256("\n".join(pairs).encode()).hexdigest(),
        manifest["digests"],
    )


def values(metrics: Mapping[str, Any]) -> dict[str, Value]:
    """Return the metrics of the test split."""
    return {name: Value(each["value"], each["low"], each["high"], each["n"]) for name, each in metrics["test"].items()}


def rebuild(commit: str) -> tuple[Path | None, str]:
    """Return a folder in which the pipeline of a commit has run, from its own files and with DVC's cache of this project; or None and why not."""
    folder = BASES / commit
    if (folder / ".done").exists():
        return folder, ""
    shutil.rmtree(BASES, ignore_errors=True)  # one is kept
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", commit))) as files:
        files.extractall(folder, filter="data")
    if not (folder / "scripts/run.py").exists():
        return None, "that commit has no pipeline"
    for name in tables(at(commit, paths.PARAMS).get("ingest", {}).get("source")):
        for file in Path().glob(name):  # git need not have them
            if not (folder / file).exists():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).symlink_to(file.absolute())
    (folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {Path('.dvc/cache').absolute()}\n")
    print(f"training the model of {commit[:7]} ...", file=sys.stderr, flush=True)
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("GITHUB_", "PAWL_WORKER"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # stages are started as `python`
        "PYTHONPATH": str((folder / "src").absolute()),
        "PAWL_ENV": "system",
        "PAWL_COMMIT": commit,
    }
    done = subprocess.run(
        [sys.executable, "-m", "scripts.run"], cwd=folder, env=environ, check=False, capture_output=True, text=True
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("error:")] or ["error: it failed"]
        return None, f"could not be trained here: {said[0].removeprefix('error: ')}"[:300]
    (folder / ".done").touch()
    return folder, ""


def tables(source: Any) -> list[str]:
    """Return the paths inside the project that ingest.source names."""
    if isinstance(source, dict | list):
        return [name for part in (source.values() if isinstance(source, dict) else source) for name in tables(part)]
    return [source] if isinstance(source, str) and "://" not in source and not Path(source).is_absolute() else []


def stages() -> dict[str, float]:
    """Return the seconds of each stage of the last run."""
    lines = paths.STAGES.read_text().splitlines() if paths.STAGES.exists() else []
    return {entry["stage"]: entry["seconds"] for entry in map(json.loads, lines) if entry["stage"] != "fingerprint"}


def at(commit: str, path: Path) -> Any:
    """Return a YAML or JSON file of a commit; {} if it is not there, or cannot be read."""
    try:
        found = yaml.safe_load(git("show", f"{commit}:{path}", check=False))
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def git(*words: str, check: bool = True) -> bytes:
    """Return what a git command prints."""
    return subprocess.run(["git", *words], check=check, capture_output=True).stdout


if __name__ == "__main__":
    sys.exit(main())
