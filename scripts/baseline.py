"""What a candidate is compared with: the baseline of main from the ledger, or trained here; the champion; the best of main."""

import contextlib
import difflib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pawl import answers, bundle, oci, paths, schema
from pawl.answers import Answers
from pawl.bundle import Bundle
from pawl.gate.compare import Other as Mark
from pawl.gate.rules import Gates
from pawl.gate.verdict import Facts, State
from pawl.ledger import Corrupt, Ledger, Release, passing
from pawl.problem import Problem
from pawl.profile import Column
from pawl.report import Other
from pawl.report.assess import Known
from scripts import workspace
from scripts.measured import measured, values

BASES = paths.STATE / "base"
ROUNDED = 1e-6  # another processor may round the last bits otherwise
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
    if kept and (kept.known is None or not train or comparable(kept.known, mine, gates)):
        return kept
    folder, why = rebuild(base) if train else (None, "main was not trained here, as was asked for")
    if folder:
        return trained(folder, base, mine, gates)
    return kept or unseen(base, ledger.commits(), why)


def comparable(known: Known | None, mine: Answers, gates: Gates) -> bool:
    """Say whether a model answered enough of these test rows: after another table there may be none, and main itself is asked."""
    theirs = known and known.answers
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
                known = Known(shown, theirs, entry.facts.size)
                return Baseline(known, "compared", splits=entry.splits, columns=entry.columns, own=theirs)
    except Corrupt as problem:
        return lost(problem)
    return None


def lost(problem: Corrupt) -> Baseline:
    """Return what is left where the ledger cannot be trusted."""
    return Baseline(None, "lost", f"{problem.what}; {problem.fix}")


def trained(folder: Path, commit: str, mine: Answers, gates: Gates) -> Baseline:
    """Return the baseline whose pipeline ran in a folder; on rows that it was not measured on, it is scored anew."""
    model, own = measured(folder, commit, gates)
    scored = None if own.digest == mine.digest else rescored(bundle.load(folder / paths.BUNDLE), mine)
    theirs, seen = scored or (own, None)
    shown = Other(commit, "main", "rebuilt", model.facts, model.digest)
    known = Known(shown, theirs, model.facts.size, seen)
    return Baseline(known, "compared", "", model.splits, model.columns, own)


def unseen(commit: str, entries: set[str], why: str) -> Baseline:
    """Return what is known of a baseline that cannot be compared: that there was one, and its numbers where git has them."""
    known = None
    with contextlib.suppress(KeyError, TypeError, AttributeError):  # of another version
        facts = Facts(values(at(commit, paths.METRICS)))
        known = Known(Other(commit, "main", "committed", facts), None)
    if entries:
        has = f"the ledger has {len(entries)} commits, none of them this one or shortly before it"
        return Baseline(known, "lost", f"{has}; {why}")
    return Baseline(known, "first" if why == NO_PIPELINE and not known else "incomparable", why)


def champion(ledger: Ledger, mine: Answers, environ: Mapping[str, str]) -> tuple[Known | None, str]:
    """Return what is served, and why not if that cannot be had: what the ledger has of it, or its bundle from the registry scored on these rows."""
    try:
        served = ledger.champion()
        if served is None:
            return None, "no release is in the ledger"
        entry = ledger.entry(served.commit) if served.commit in ledger.commits() else None
        theirs = ledger.answers(entry) if entry else None
    except Problem as problem:
        return None, problem.what
    name = f"champion, version {served.version}"
    why = f"the ledger has no answers of version {served.version}, of {served.commit[:7]}"
    if (environ.get("MLFLOW_TRACKING_URI") or paths.STORE.exists()) and (
        theirs is None or theirs.digest != mine.digest
    ):
        try:
            if scored := from_registry(served, mine):
                shown = Other(served.commit, name, "registry", Facts({}), served.digest)
                return Known(shown, *scored), ""
        except Problem as problem:
            why = f"{problem.what} ({problem.where})"
    if entry is None or theirs is None:
        return None, why
    return Known(Other(served.commit, name, "ledger", entry.facts, entry.digest), theirs, entry.facts.size), ""


def from_registry(served: Release, mine: Answers) -> tuple[Answers, float, Any] | None:
    """Return (what the champion's bundle answers on these rows, its size in bytes, hashes of the rows that it was trained on); raise Problem unless it is the bundle that was released."""
    from pawl import registry, tracking
    from scripts import github

    with tracking.store() as store, tempfile.TemporaryDirectory() as folder:
        got = registry.download(store, github.project(), served.version, Path(folder))
        if bundle.digest_of(got) != served.digest:
            raise Problem(f"version {served.version} is not the bundle that was released", str(got), "release again")
        loaded = bundle.load(got)
    scored = rescored(loaded, mine)
    return scored and (scored[0], float(loaded.manifest["files"][bundle.PIPELINE]["size"]), scored[1])


def rescored(loaded: Bundle, mine: Answers) -> tuple[Answers, Any] | None:
    """Return (answers of a bundle on the candidate's test rows, hashes of the rows that it was trained on); None where it cannot read them."""
    import numpy as np
    import pyarrow.parquet as pq

    from pawl import rows
    from pawl.pipeline import evaluate

    table = pq.read_table(paths.PREPARED / "test.parquet")
    if unread(loaded, loaded.manifest["target"], mine.labels, table):
        return None
    names = rows.hash_column(table.column("row_id"))
    shared = np.flatnonzero(np.isin(names, mine.rows))
    prediction, probabilities = evaluate.score(loaded, table.take(shared))
    order = np.argsort(names[shared], kind="stable")
    scores = None if probabilities is None else np.float32(probabilities[order]).astype(float)
    scores = answers.pair(scores[:, 1]) if scores is not None and mine.task == "binary" else scores
    return mine._replace(prediction=prediction[order], probabilities=scores), loaded.trained_on


def unread(loaded: Bundle, target: str, labels: Sequence[str], table: Any) -> str:
    """Return why a bundle cannot be scored on a table, whose target has these labels; nothing if it can."""
    manifest, columns = loaded.manifest, schema.load(paths.SCHEMA).columns
    if (manifest["target"], list(manifest["labels"])) != (target, list(labels)):
        return f"it predicts {manifest['target']} ({', '.join(manifest['labels'])}), and not {target} ({', '.join(labels)})"
    if absent := sorted(set(loaded.dtypes) - set(table.column_names)):
        return f"it needs {', '.join(absent)}, not a column of the table"
    other = (name for name, dtype in loaded.dtypes.items() if columns[name].dtype != dtype)
    if changed := next((f"{name} is {columns[name].dtype} now, and was {loaded.dtypes[name]}" for name in other), ""):
        return changed
    # A bundle names functions of src/task: with other code behind them its answers are nobody's.
    wrong = bundle.check_golden(loaded, ROUNDED)
    return f"it answers {len(wrong)} of its golden rows otherwise by the src/task that is here" if wrong else ""


def marks(base: str, gates: Gates, ledger: Ledger) -> list[Mark]:
    """Return the passing commits of main, the newest first, whose best the candidate must not fall behind."""
    if not gates.baseline.high_water or ledger.ref is None:
        return []
    return [ledger.other(entry) for entry in passing(ledger, history(base, gates.baseline.high_water))]


def history(commit: str, count: int) -> list[str]:
    """Return a commit and the ones of main before it, the newest first."""
    return git("rev-list", "--first-parent", f"--max-count={count}", commit, check=False).decode().split()


def rebuild(commit: str) -> tuple[Path | None, str]:
    """Return a folder in which the pipeline of a commit has run, from its own files and with DVC's cache of this project; or None and why not."""
    folder = BASES / commit
    if (folder / ".done").exists():
        return folder, ""
    shutil.rmtree(BASES, ignore_errors=True)  # one is kept
    code, said = play(commit, folder)
    if code:
        return None, said if said == NO_PIPELINE else f"main could not be trained here: {said}"[:300]
    (folder / ".done").touch()
    return folder, ""


def play(commit: str, folder: Path, *words: str, cache: bool = True) -> tuple[int, str]:
    """Run the pipeline of a commit in a new folder, from its own files, with its own or this DVC cache; return its exit code, and why it failed."""
    folder.mkdir(parents=True)
    packed = io.BytesIO(git("archive", "--format=tar", commit))
    with contextlib.suppress(tarfile.ReadError), tarfile.open(fileobj=packed) as files:
        oci.unpack(files, folder)  # a commit without files is no archive
    if not (folder / "scripts/run.py").exists():
        return 2, NO_PIPELINE
    workspace.share(folder, at(commit, paths.PARAMS).get("ingest") or {}, cache=cache)
    print(f"training the model of {commit[:7]} ...", file=sys.stderr, flush=True)
    return workspace.call(folder, "scripts.run", *words, PAWL_COMMIT=commit)


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
    names = git("for-each-ref", "--format=%(refname:short)", check=False).decode().split()
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    fix = "git fetch --unshallow" if shallow else "name a commit that is here: git log --oneline, git branch --all"
    fix += f"; did you mean {near[0]}?" if near else ""
    raise Problem(f"there is no commit {name}{' in this shallow clone' if shallow else ''}", "--base", fix)


def git(*words: str, check: bool = True) -> bytes:
    """Return what a git command prints; nothing if it fails and that is not checked."""
    return subprocess.run(["git", *words], check=check, capture_output=True).stdout
