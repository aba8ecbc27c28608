"""Keep the embedded MLflow registry in a container registry: it needs no server.

python -m scripts.store run  ghcr.io/me/model/registry -- make register      pull, do it, push; once more where another was first
python -m scripts.store pull ghcr.io/me/model/registry                       mlflow.db and mlartifacts/, as they are kept now
python -m scripts.store push ghcr.io/me/model/registry

Which digest is the newest stands in the ledger: container registries have no conditional write, a git push is one, so that two writers never
lose a version. Where MLFLOW_TRACKING_URI names a server there is nothing to keep. Exit code: 0 done, 2 your input, 3 something outside
did not answer, or another writer was first; of `run`, the command's own where it fails.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pawl import ledger, oci, paths, tracking
from pawl.ledger import Kept, Ledger, Overtaken
from pawl.problem import Problem, Unreachable
from scripts import cli, github

ARRIVING = paths.STATE / "store"
BASE = paths.STATE / "store.json"  # what was pulled: a push adds to that, and to nothing else
HERE = (paths.STORE, paths.ARTIFACTS)
TRIES = 5


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Pull, push, or both around a command."""
    given = list(sys.argv[1:] if argv is None else argv)
    words, command = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = cli.parser("store", __doc__)
    parser.add_argument("verb", choices=("run", "pull", "push"))
    parser.add_argument("place")
    args = parser.parse_args(words)
    if (args.verb == "run") != bool(command):
        parser.error("a command after -- goes with `run`, and with nothing else")
    if uri := environ.get(tracking.URI):
        print(f"The registry is {tracking.without_password(uri)}: nothing to keep.")
        return subprocess.run(command, check=False).returncode if command else 0
    place = oci.repository(args.place)
    if command:
        return run(place, command, environ)
    print(pull(place, environ) if args.verb == "pull" else push(place, environ))
    return 0


def run(place: oci.Repository, command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a command, which may be run again, on the newest registry, until what it wrote is kept."""
    for attempt in range(TRIES):
        print(pull(place, environ))
        code = subprocess.run(command, check=False).returncode
        if code:
            return code
        try:
            print(push(place, environ))
        except Overtaken as error:
            if attempt == TRIES - 1:
                raise
            print(f"{error.what}: it is done again on that", file=sys.stderr)
            for path in HERE:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        else:
            return 0
    return 3


def pull(place: oci.Repository, environ: Mapping[str, str]) -> str:
    """Write what is kept into the working directory; say so where nothing is."""
    if here := next(filter(Path.exists, HERE), None):
        raise Problem(f"{here} is here already", Path.cwd(), "move it away: it would be lost")
    book = Ledger()
    book.fetch(github.authorization(environ))
    kept = book.kept()
    ours = kept is not None and kept.image == place.name
    found = oci.manifest(place, kept.digest if kept and ours else "main")
    paths.STATE.mkdir(exist_ok=True)
    shutil.rmtree(paths.STATE / "done", ignore_errors=True)  # what was done was done to another store
    if found is None:
        if kept and ours:
            raise Unreachable(f"the ledger names {kept.digest[:19]}, which is not there", place.name, "was it deleted? restore it, or delete registry.json from the branch `ledger` to begin anew")  # fmt: skip
        note(place, kept, None)
        return f"There is nothing at {place.name} yet: a new registry begins."
    shutil.rmtree(ARRIVING, ignore_errors=True)
    ARRIVING.mkdir(parents=True)
    oci.pull(place, found, ARRIVING)
    check(ARRIVING / paths.STORE, place.name)
    for path in (paths.ARTIFACTS, paths.STORE):  # the database last: with it the registry is here
        if (ARRIVING / path).exists():
            (ARRIVING / path).rename(path)
    note(place, kept, found)
    return f"{paths.STORE} and {paths.ARTIFACTS}/ are as at {place.name}@{found['digest'][:19]}."


def push(place: oci.Repository, environ: Mapping[str, str]) -> str:
    """Send the registry here, and let the ledger name it; raise Overtaken if it was not made from the one that the ledger names now."""
    if not paths.STORE.exists():
        raise Problem(f"there is no {paths.STORE}", Path.cwd(), "python -m scripts.register makes it")
    nothing: dict[str, Any] = {"place": "", "ledger": None, "manifest": None}
    base = json.loads(BASE.read_text()) if BASE.exists() else nothing
    copy = paths.STATE / "push" / paths.STORE
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)
    with sqlite3.connect(paths.STORE) as here, sqlite3.connect(copy) as there:
        here.backup(there)  # whole, whoever writes at this moment
    check(copy, str(paths.STORE))
    runs = [path for path in paths.ARTIFACTS.glob("*/*") if path.name != "models"]
    folders = {str(path): path for path in (*runs, *paths.ARTIFACTS.glob("*/models/*"))}
    sent = base["manifest"] if base["place"] == place.name else None  # another place has none of its blobs
    digest = oci.push(place, {str(paths.STORE): copy, **folders}, sent)
    kept, based = Kept(place.name, digest), base["ledger"]
    if based != dict(zip(("image", "digest"), msgspec.structs.astuple(kept), strict=True)):
        expected = written(msgspec.convert(based, Kept)) if based else None
        message, header = f"registry {digest[:19]}", github.authorization(environ)
        Ledger().write({ledger.REGISTRY: written(kept)}, message, header, {ledger.REGISTRY: expected})
    oci.tag(place, digest, "main")
    note(place, kept, oci.manifest(place, digest))
    return f"{place.name}@{digest[:19]} keeps the registry: {len(folders)} folders of runs and models."


def written(kept: Kept) -> bytes:
    """Return the ledger's file."""
    return msgspec.json.encode(kept) + b"\n"


def note(place: oci.Repository, kept: Kept | None, manifest: Mapping[str, Any] | None) -> None:
    """Remember what the registry here was made from."""
    BASE.write_bytes(msgspec.json.encode({"place": place.name, "ledger": kept, "manifest": manifest}))


def check(database: Path, where: str) -> None:
    """Raise Unreachable unless a database is whole."""
    try:
        with sqlite3.connect(database) as opened:
            whole = opened.execute("pragma integrity_check").fetchone() == ("ok",)
            opened.execute("select count(*) from model_versions")
    except sqlite3.Error:
        whole = False
    if not whole:
        fix = "the branch `ledger` has the digests before it: git log ledger -- registry.json"
        raise Unreachable("the registry's database is damaged", where, fix)


if __name__ == "__main__":
    sys.exit(main())
