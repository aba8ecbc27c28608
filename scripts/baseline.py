"""What a candidate is compared with: the baseline of main from the ledger, or trained here; the champion; the best of main."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pawl import answers, bundle, paths, schema
from pawl.answers import Answers
from pawl.gate.compare import Other as Mark
from pawl.gate.rules import SIZE, Gates
from pawl.gate.verdict import Facts, State
from pawl.ledger import Champion, Corrupt, Entry, Ledger, passing
from pawl.parts import Value
from pawl.problem import Problem
from pawl.profile import Column
from pawl.report import Other
from pawl.report.assess import Known
from scripts.measured import measured

BASES = paths.STATE / "base"
NO_PIPELINE = "main has no pipeline"


class Baseline(NamedTuple):
    """The model of main, as far as it can be had."""

    known: Known | None
    state: State
    why: str = ""
    splits: Mapping[str, int] = {}
    columns: Mapping[str, Column] = {}
    own: Answers | None = None  # on its own test rows


def find(base: str, mine: Answers, gates: Gates, ledger: Ledger, *, train: bool = True) -> Baseline:
    """Return the baseline for a commit: its entry in the ledger, its nearest passing ancestor's, or its model trained here."""
    kept = remembered(base, gates, ledger)
    if kept and (kept.known is None or not train or comparable(kept, mine, gates)):
        return kept
    folder, why = rebuild(base) if train else (None, "main was not trained here, as was asked for")
    if folder:
        return trained(folder, base, mine, gates)
    return kept or unseen(base, ledger.commits(), why)


def comparable(kept: Baseline, mine: Answers, gates: Gates) -> bool:
    """Say whether a baseline has enough test rows in common with these: after another table there may be none, and main itself is asked."""
    theirs = kept.known and kept.known.answers
    return theirs is not None and len(answers.common(mine, theirs)[0].rows) >= gates.baseline.min_rows


def remembered(base: str, gates: Gates, ledger: Ledger) -> Baseline | None:
    """Return what the ledger has for a commit: its entry, or its nearest passing ancestor's; None where it has no answers of one."""
    entries = ledger.commits()
    try:
        for behind, commit in enumerate(history(base, gates.baseline.ancestors + 1)):
            if commit in entries and (entry := ledger.entry(commit)).allowed:
                theirs = ledger.answers(entry)
                if theirs is None:
                    return None  # numbers alone were kept: its model can be trained
                shown = Other(commit, "main", "ledger", entry.facts, entry.digest, behind=behind)
                known = Known(shown, theirs, entry.size)
                return Baseline(known, "compared", splits=entry.splits, columns=entry.columns, own=theirs)
    except Corrupt as problem:
        return lost(problem)
    return None


def lost(problem: Corrupt) -> Baseline:
    """Return what is left where the ledger cannot be trusted."""
    return Baseline(None, "lost", f"{problem.what}; {problem.fix}")


def trained(folder: Path, commit: str, mine: Answers, gates: Gates) -> Baseline:
    """Return the baseline whose pipeline ran in a folder; on rows that it was not measured on, it is scored anew."""
    found = measured(folder, commit, gates)
    theirs, seen = found.answers, None
    if theirs.digest != mine.digest and (scored := rescored(folder / paths.BUNDLE, mine)):
        theirs, seen = scored
    shown = Other(commit, "main", "rebuilt", found.model.facts, found.model.digest)
    size = found.model.facts.metrics[SIZE].value
    known = Known(shown, theirs, size, seen)
    return Baseline(known, "compared", "", found.model.splits, found.model.columns, found.answers)


def unseen(commit: str, entries: set[str], why: str) -> Baseline:
    """Return what is known of a baseline that cannot be compared: that there was one, and its numbers where git has them."""
    known = None
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # of another version
        numbers = at(commit, paths.METRICS)["test"].items()
        values = {name: Value(each["value"], each["low"], each["high"], each["n"]) for name, each in numbers}
        known = Known(Other(commit, "main", "committed", Facts(values)), None)
    if entries:
        return Baseline(
            known, "lost", f"the ledger has {len(entries)} commits, none of them this one or shortly before it; {why}"
        )
    return Baseline(known, "first" if why == NO_PIPELINE and not known else "incomparable", why)


def champion(ledger: Ledger, mine: Answers, environ: Mapping[str, str]) -> tuple[Known | None, str]:
    """Return what is served, and why not if that cannot be had: what the ledger has of it, or its bundle from the registry scored on these rows."""
    try:
        served = ledger.champion()
        if served is None:
            return None, "no release is in the ledger"
        name = f"champion, version {served.version}"
        entry = ledger.entry(served.commit) if served.commit in ledger.commits() else None
        theirs = ledger.answers(entry) if entry else None
    except Problem as problem:
        return None, problem.what
    if environ.get("MLFLOW_TRACKING_URI") and (theirs is None or theirs.digest != mine.digest):
        try:
            scored = from_registry(served, mine)
        except Problem as problem:
            if theirs is None:
                return None, f"{problem.what} ({problem.where})"
            scored = None
        if scored:
            shown = Other(served.commit, name, "registry", Facts({}), served.digest)
            return Known(shown, scored[0], seen=scored[1]), ""
    if entry is None or theirs is None:
        return None, f"the ledger has no answers of version {served.version}, of {served.commit[:7]}"
    return Known(Other(served.commit, name, "ledger", entry.facts, entry.digest), theirs, entry.size), ""


def from_registry(served: Champion, mine: Answers) -> tuple[Answers, Any] | None:
    """Return what the champion's bundle answers on these rows; raise Problem unless it is the bundle that was released."""
    from pawl import registry, tracking
    from scripts import github

    with tracking.store() as client, tempfile.TemporaryDirectory() as folder:
        got = registry.download(client, github.project(), served.version, Path(folder))
        if bundle.digest_of(got) != served.digest:
            raise Problem(f"version {served.version} is not the bundle that was released", str(got), "release again")
        return rescored(got, mine)


def rescored(folder: Path, mine: Answers) -> tuple[Answers, Any] | None:
    """Return (answers of a bundle on the candidate's test rows, hashes of the rows that it was trained on); None where it cannot read them."""
    import numpy as np
    import pyarrow.parquet as pq

    from pawl import rows
    from pawl.pipeline import evaluate

    loaded = bundle.load(folder)
    table = pq.read_table(paths.PREPARED / "test.parquet")
    if tuple(loaded.manifest["labels"]) != mine.labels or not set(loaded.dtypes) <= set(table.column_names):
        return None
    if any(schema.load(paths.SCHEMA).columns[name].dtype != dtype for name, dtype in loaded.dtypes.items()):
        return None
    names = rows.hash_column(table.column("row_id"))
    table = table.take(np.flatnonzero(np.isin(names, mine.rows)))
    prediction, probabilities = evaluate.score(loaded, table)
    order = np.argsort(rows.hash_column(table.column("row_id")), kind="stable")
    scores = None if probabilities is None else np.float32(probabilities[order]).astype(float)
    scores = answers.pair(scores[:, 1]) if scores is not None and mine.task == "binary" else scores
    return mine._replace(prediction=prediction[order], probabilities=scores), loaded.trained_on


def marks(base: str, gates: Gates, ledger: Ledger) -> list[Mark]:
    """Return the passing commits of main, the newest first, whose best the candidate must not fall behind."""
    if not gates.baseline.high_water or ledger.ref is None:
        return []
    found: list[Entry] = passing(ledger, history(base, gates.baseline.high_water))
    return [ledger.other(entry) for entry in found]


def history(commit: str, count: int) -> list[str]:
    """Return a commit and the ones of main before it, the newest first."""
    return git("rev-list", "--first-parent", f"--max-count={count}", commit, check=False).decode().split()


def rebuild(commit: str) -> tuple[Path | None, str]:
    """Return a folder in which the pipeline of a commit has run, from its own files and with DVC's cache of this project; or None and why not."""
    folder = BASES / commit
    if (folder / ".done").exists():
        return folder, ""
    shutil.rmtree(BASES, ignore_errors=True)  # one is kept
    folder.mkdir(parents=True)
    with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", commit))) as files:  # fmt: skip
        files.extractall(folder, filter="data")  # a commit without files is no archive
    if not (folder / "scripts/run.py").exists():
        return None, NO_PIPELINE
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
        return None, f"main could not be trained here: {said[0].removeprefix('error: ')}"[:300]
    (folder / ".done").touch()
    return folder, ""


def tables(source: Any) -> list[str]:
    """Return the paths inside the project that ingest.source names."""
    if isinstance(source, dict | list):
        return [name for part in (source.values() if isinstance(source, dict) else source) for name in tables(part)]
    return [source] if isinstance(source, str) and "://" not in source and not Path(source).is_absolute() else []


def at(commit: str, path: Path) -> Any:
    """Return a YAML or JSON file of a commit; {} if it is not there, or cannot be read."""
    try:
        found = yaml.safe_load(git("show", f"{commit}:{path}", check=False))
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def resolve(name: str) -> str | None:
    """Return the commit that a name means; None for the parent of a first commit; raise Problem if there is no such commit."""
    if found := git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False).decode().strip():
        return found
    shallow = git("rev-parse", "--is-shallow-repository", check=False).strip() == b"true"
    of = name.removesuffix("1").removesuffix("^").removesuffix("~")
    if of != name.removesuffix("1") and not shallow and git("rev-parse", "--verify", "--quiet", of, check=False):
        return None
    fix = "git fetch --unshallow" if shallow else "name a commit that is here: git log --oneline"
    raise Problem(f"there is no commit {name}{' in this shallow clone' if shallow else ''}", "--base", fix)


def git(*words: str, check: bool = True) -> bytes:
    """Return what a git command prints; nothing if it fails and that is not checked."""
    return subprocess.run(["git", *words], check=check, capture_output=True).stdout
