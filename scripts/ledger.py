"""What main was: one entry per commit on the branch `ledger`, read by every report.

python -m scripts.ledger show
python -m scripts.ledger record [--from FOLDER]     what `make report` and the run left here, or there
python -m scripts.ledger overtaken                  refuses where a later commit than this one was released
python -m scripts.ledger lock                        dvc.lock of what is served, written here: `make pull` then fetches what it was made of
python -m scripts.ledger release --version 3 --digest sha256:... --image NAME@sha256:... --environment production

Pushes to the remote `origin` where there is one; GH_TOKEN authorizes it. Doing it again changes nothing. Exit code: 0 done, 2 wrong input, 3 the remote
did not answer.
"""

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from pawl import answers, ledger, paths, report
from pawl.gate import rules
from pawl.ledger import Corrupt, Entry, Ledger, Release
from pawl.parts import utc
from pawl.pipeline import train
from pawl.problem import Problem
from pawl.report import text
from scripts import cli, github, register, track


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Show or write."""
    parser = cli.parser("ledger", __doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("show", help="the entries, the newest first", allow_abbrev=False)
    verbs.add_parser("overtaken", help="refuse where a later commit was released", allow_abbrev=False)
    verbs.add_parser("lock", help="write dvc.lock of what is served", allow_abbrev=False)
    record = verbs.add_parser("record", help="an entry for the commit that was trained", allow_abbrev=False)
    said = "where reports/ and dvc.lock of the run lie"
    record.add_argument("--from", dest="folder", type=Path, default=Path(), help=said)
    served = verbs.add_parser("release", help="what is served from now on", allow_abbrev=False)
    for name in ("version", "digest", "image", "environment", "commit", "rejected", "reason"):
        served.add_argument(f"--{name}", required=name in {"version", "digest"}, default="")
    args = parser.parse_args(argv)
    kept = Ledger()
    if args.verb == "show":
        said = shown(kept)
    elif args.verb == "overtaken":
        said = overtaken(kept)
    elif args.verb == "lock":
        said = locked(kept)
    elif args.verb == "record":
        said = write(kept, args.folder, environ)
    else:
        said = release(kept, args, environ)
    print(said)
    return 0


def write(kept: Ledger, folder: Path, environ: Mapping[str, str]) -> str:
    """Write the entry; return what was done."""
    try:
        content, told, lock = ((folder / path).read_bytes() for path in (paths.REPORT, paths.ANSWERS, paths.LOCKFILE))
    except FileNotFoundError as error:
        fix = "run `make run` and `make report` first"
        raise Problem(f"{error.filename} does not exist", folder or Path(), fix) from error
    found, gates = report.load(content, str(paths.REPORT)), rules.load(paths.GATES)
    mine = answers.load(told, paths.ANSWERS)
    commit = found.candidate.commit
    if commit.endswith("-dirty") or commit == "unknown":
        raise Problem(f"the model is of no commit: {commit}", paths.REPORT, "commit, `make run`, `make report`")
    if found.candidate.rows != mine.digest:
        raise Problem("the answers are not those of the report", paths.ANSWERS, "run `make report`")
    files = {ledger.LOCK: lock, ledger.REPORT: content}
    if gates.baseline.predictions:
        files[ledger.ANSWERS] = answers.dump(mine, gates.baseline.predictions)
    entry = Entry(
        1, commit, found.verdict, found.allowed, utc(), found.candidate.digest or "",
        mine.digest, found.candidate.facts, {}, tuple(each.rule for each in found.judged if each.waived), found.candidate.splits,
        found.candidate.columns,
    )  # fmt: skip
    if commit in kept.commits() and whole(kept, entry, files):
        return f"the ledger has {commit[:7]} already"
    kept.write(ledger.write_entry(entry, files), f"{commit[:7]}: {found.verdict}", github.authorization(environ))
    return f"{commit[:7]} is in the ledger: {found.verdict}, {len(mine.rows):,} answers"


def locked(kept: Ledger) -> str:
    """Write dvc.lock of the release that is served; say so where there is none."""
    served = kept.champion()
    there = served is not None and served.commit in kept.commits()
    lock = kept.file(kept.entry(served.commit), ledger.LOCK) if served and there else None
    if served is None or lock is None:
        return f"{'the ledger has no lock of what is served' if served else 'nothing was released'}: {paths.LOCKFILE} stays as it is"
    paths.LOCKFILE.write_bytes(lock)
    return f"{paths.LOCKFILE} is that of release {served.name}"


def overtaken(kept: Ledger) -> str:
    """Return that no later commit was released than the one here; raise Problem if one was."""
    here, served = (train.commit() or "unknown").removesuffix("-dirty"), kept.champion()
    if served is None or register.before(served.commit, here):
        return "no later commit was released"
    what = f"{served.commit[:7]} was released, and {here[:7]} does not come after that"
    fix = "nothing to do where a later release has overtaken this one; else release a commit that contains it"
    raise Problem(what, f"release {served.name}", fix)


def whole(kept: Ledger, entry: Entry, files: Collection[str]) -> bool:
    """Say whether the ledger has this entry, whenever it was made, and its files as they were written."""
    try:
        there = kept.entry(entry.commit)
        for name in there.files:
            kept.file(there, name)
    except Corrupt:
        return False  # it is written anew
    alike = [msgspec.structs.replace(each, made="", files={}) for each in (there, entry)]
    return alike[0] == alike[1] and set(there.files) == set(files)


def release(kept: Ledger, args: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Append a release, and let it be what is served; return what was done."""
    commit = args.commit or train.commit() or "unknown"
    entry = kept.entry(commit) if commit in kept.commits() else None
    now = utc()
    made = Release(
        commit, args.version, args.digest, args.image, entry.verdict if entry else "", now, track.who(environ)[:300],
        args.environment, args.rejected, args.reason[:300],
    )  # fmt: skip
    before = kept.champion()
    if before and msgspec.structs.replace(before, made=now, by=made.by) == made:
        github.summary(environ, identity(before))
        return f"release {made.name} is in the ledger already"
    content = msgspec.json.encode(made) + b"\n"
    files = {f"releases/{now.replace(':', '')}-{made.name}.json": content, ledger.CHAMPION: content}
    kept.write(files, f"{commit[:7]}: release {made.name}", github.authorization(environ))
    github.summary(environ, identity(made))
    return f"release {made.name}: version {made.version} is served, of {commit[:7]}"


def identity(made: Release) -> str:
    """Return all that a release is known by, in Markdown."""
    rows = "".join(f"| {name} | {text.code(value)} |\n" for name, value in msgspec.to_builtins(made).items() if value)
    return f"### Release {text.cell(made.name)}\n\n| | |\n|---|---|\n{rows}\n"


def shown(kept: Ledger) -> str:
    """Return the entries of the last hundred commits, a line each."""
    from scripts.baseline import history

    there, served, gates = kept.commits(), kept.champion(), rules.load(paths.GATES)
    lines = []
    for commit in (each for each in history("HEAD", 1000) if each in there):
        entry = kept.entry(commit)
        values = [f"{name} {text.number(entry.facts.metrics[name].value, entry.facts.metrics[name])}" for name in gates.metrics if name in entry.facts.metrics]  # fmt: skip
        mark = f"  champion, version {served.version}" if served and served.commit == commit else ""
        verdict = f"{text.SYMBOLS[entry.verdict]} {entry.verdict:<12}"
        lines.append(f"{commit[:7]}  {entry.made}  {verdict}  {'  '.join(values[:2])}{mark}")
        if len(lines) == 100:
            break
    nothing = "the ledger has no entry of a commit here: a release writes one, `python -m scripts.ledger record` does"
    return "\n".join(lines) or nothing


if __name__ == "__main__":
    sys.exit(main())
