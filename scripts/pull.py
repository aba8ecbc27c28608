"""Fetch what dvc.lock and .dvc files name from the remote, each held to its name.

python -m scripts.pull
python -m scripts.pull --run-cache --if-set    before a pull request's pipeline: what earlier runs of this code made, too

Where an object is missing, altered or cut short the workspace stays as it was, and what came whole stays in the cache. The remote is only
read. What `dvc import` brought is left to `dvc pull`. Exit code: 0 done, 2 your configuration, or what the remote holds, 3 it does not answer.
"""

import argparse
import contextlib
import errno
import hashlib
import json
import os
import queue
import re
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pawl.problem import Problem, Unreachable
from pawl.tracking import without_password
from scripts import cli, run

AT_ONCE = 8
PATIENCE = 14  # seconds without one byte; looked at as often: at most twice as much goes by
KEYS = ("AWS_ACCESS_KEY_ID", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
MISSING, ALTERED = "missing", "altered"
PUSH = "push it from where it was made: make push"
AGAIN = "delete what is wrong in the remote, for DVC sends nothing that is there by name, and push it from where it was made: make push"


class Out(NamedTuple):
    """What a stage made: its path, whose it is, its object (of a folder it ends in .dir), the bytes of it all."""

    path: str
    stage: str
    name: str
    size: int | None


class Refused(Problem):
    """The remote wants credentials, or others."""


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Fetch, then put into place."""
    parser = cli.parser("pull", __doc__)
    parser.add_argument("--run-cache", action="store_true", help="records of runs of this code and what they made, too")
    parser.add_argument("--if-set", action="store_true", help="no remote, no credentials, never pushed: say so, go on")
    parser.add_argument("--force", action="store_true", help="replace changed files that DVC has no copy of")
    args = parser.parse_args(argv)
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    core = {"analytics": False, "check_update": False, "no_scm": not Path(".git").exists()}
    try:
        with run.only_run(), run.kept():
            pass  # what a run left that was killed is put back, before its dvc.lock is read
        with run.only_run(), Repo(config={"core": core}) as repo, lock_repo(repo):
            if repo.config["core"].get("remote"):
                pull(repo, args)
            elif args.if_set:
                print("nothing is fetched: no DVC remote is set")
            else:
                fix = "dvc remote add --default storage <folder, or s3://...>"
                raise Problem("no DVC remote is set", ".dvc/config", fix)
    except Refused as refused:
        if not args.if_set or any(environ.get(key) for key in KEYS):
            raise
        print(f"nothing is fetched, and no credentials are set: {refused.what}")
    except DvcException as error:
        raise run.of_dvc(error) from error
    except OSError as error:
        raise Unreachable(str(error), Path.cwd(), run.WRITABLE) from error
    return 0


def pull(repo: Any, args: argparse.Namespace) -> None:
    """Fetch what the repository names, and put it into the workspace if it is whole."""
    store = Store(repo)
    outs = [
        Out(out.def_path, stage.addressing, out.hash_info.value, out.meta.size)
        for stage in repo.index.stages
        for out in stage.outs
        if out.use_cache and out.hash_info and not stage.is_repo_import
    ]
    wrong = store.bring(outs)
    if args.run_cache:
        records(repo, store)
    print(f"{store.fetched} objects are fetched from {store.url}, each as its name says")
    if lost := [told for told in wrong if told.startswith(MISSING)] if args.if_set else []:
        print("\n  ".join(["not in the DVC remote, so that the pipeline makes it:", *some(lost)]))
    if harm := [told for told in wrong if told not in lost]:
        fix = PUSH if all(told.startswith(MISSING) for told in harm) else AGAIN
        raise Problem("\n  ".join(["what the DVC remote holds is not whole:", *some(harm)]), store.url, fix)
    if outs and not lost:
        with run.kept() as put_back:
            try:
                repo.checkout(force=args.force, allow_missing=True)
            except BaseException:
                put_back()
                raise


def some(lines: list[str]) -> list[str]:
    """Return as many lines as are read."""
    return lines[:10] + ([f"and {len(lines) - 10} more"] if lines[10:] else [])


class Store:
    """The default remote, which is only read, and the cache. wrong: of each object that is not whole, why."""

    def __init__(self, repo: Any) -> None:
        self.url = without_password(repo.config["remote"][repo.config["core"]["remote"]]["url"])
        try:
            self.objects = repo.cloud.get_remote_odb()
            self.root = repo.cloud.get_remote_odb(hash_name="md5-dos2unix").path  # where DVC 3 keeps records, too
        except Exception as error:
            raise self.unanswered(error) from error
        self.fs, self.cache = self.objects.fs, repo.cache.local
        self.partials = Path(repo.cache.legacy.path)  # the cache's own folder: DVC lists what lies deeper
        self.partials.mkdir(parents=True, exist_ok=True)
        self.wrong: dict[str, str] = {}
        self.open: set[Path] = set()
        self.fetched = 0

    def bring(self, outs: Sequence[Out]) -> list[str]:
        """Fetch what is not whole in the cache, the lists of folders first; return what is wrong, by file."""
        for out in outs:
            # Of what git keeps DVC pushes no object, and asks for one where a record names it.
            if not self.place(out.name).exists() and whole(Path(out.path), out.name):
                shutil.copyfile(out.path, partial := self.partials / f"{out.name}.partial")
                self.take(partial, out.name, None)
        self.get({out.name: None if out.name.endswith(".dir") else out.size for out in outs})
        files = {out: self.files(out) for out in outs}
        self.get({name: None for each in files.values() for _, name in each})
        for out, each in files.items():
            names = [name for _, name in each]
            bad = {name for name in names if name in self.wrong}
            if (
                out.name.endswith(".dir")
                and len(bad) == 1
                and out.size
                and self.wrong[name := min(bad)] == ALTERED
                and name != out.name
            ):  # the folder's size says its
                others = sum(self.place(other).stat().st_size for other in names if other != name)
                del self.wrong[name]
                self.get({name: (out.size - others) // names.count(name)})
        return [
            f"{self.wrong[name]}: {path} of {out.stage} ({self.objects.oid_to_path(name)})"
            for out, each in files.items()
            for path, name in each
            if name in self.wrong
        ]

    def files(self, out: Out) -> list[tuple[str, str]]:
        """Return an output's files and their objects; of a folder whose list is not whole, that list."""
        if not out.name.endswith(".dir") or out.name in self.wrong:
            return [(out.path, out.name)]
        listed = json.loads(self.place(out.name).read_text())
        return [(f"{out.path}/{each['relpath']}", each["md5"]) for each in listed]

    def place(self, name: str) -> Path:
        """Return where an object lies in the cache."""
        return Path(self.cache.oid_to_path(name))

    def get(self, sizes: Mapping[str, int | None]) -> None:
        """Fetch objects that the cache does not have whole; sizes: how many bytes they are, where that is known."""
        strange = [name for name in sizes if not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", name)]
        self.wrong |= dict.fromkeys(strange, "no object has such a name")  # it would be a path, anywhere

        def one(name: str) -> tuple[str, str]:
            source = self.objects.oid_to_path(name)
            return name, self.fetch(source, name, lambda partial: self.take(partial, name, sizes[name]))

        lacking = [name for name in sizes if name not in self.wrong and not whole(self.place(name), name)]
        for name, told in self.several(one, lacking):
            if told:
                self.wrong[name] = told
            else:
                self.fetched += 1

    def fetch(self, source: str, name: str, take: Callable[[Path], str]) -> str:
        """Bring a file of the remote to the cache's disk and let it be taken; return what is wrong with it."""
        partial = self.partials / f"{name}.partial"
        try:
            try:
                with self.waiting(partial):
                    self.fs.get_file(source, str(partial))
            except FileNotFoundError as error:
                if "bucket does not exist" in str(error) or (
                    self.fs.protocol == "local" and not Path(self.root).exists()
                ):
                    raise self.unanswered(error) from error
                return MISSING
            except Exception as error:
                if getattr(error, "errno", 0) in FULL:
                    raise
                if not (partial.exists() and partial.stat().st_size):
                    raise self.unanswered(error) from error
                # Bytes came: whether they are enough, `take` says.
            return take(partial)
        finally:
            partial.unlink(missing_ok=True)

    @contextlib.contextmanager
    def waiting(self, partial: Path) -> Iterator[None]:
        """Note that something is to come from the remote."""
        self.open.add(partial)
        try:
            yield
        finally:
            self.open.discard(partial)

    def take(self, partial: Path, name: str, size: int | None) -> str:
        """Move a whole object into the cache; return what is wrong with another."""
        found = partial.stat().st_size
        if size is not None and found < size:
            return f"truncated, {found} of {size} bytes"
        if not whole(partial, name):
            return ALTERED
        self.cache.makedirs(str(self.place(name).parent))
        self.cache.protect(str(partial))
        partial.replace(self.place(name))
        return ""

    def several(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Yield what `work` returns of each item, eight at a time; raise Unreachable where nothing moves any more."""
        todo, done = deque(items), queue.SimpleQueue[Any]()

        def worker() -> None:
            with contextlib.suppress(IndexError):  # nothing is left to do
                while True:
                    item = todo.popleft()
                    try:
                        done.put(work(item))
                    except Exception as error:  # noqa: BLE001 - it is raised where results are awaited
                        done.put(error)

        for _ in items[:AT_ONCE]:  # no pool: the end of the process would wait for a thread that hangs
            threading.Thread(target=worker, daemon=True).start()
        try:
            for _ in items:
                if isinstance(result := self.next(done), Exception):
                    raise result
                yield result
        finally:
            todo.clear()

    def next(self, done: queue.SimpleQueue[Any]) -> Any:
        """Return what is done next, as long as there is movement."""

        def come() -> dict[Path, int]:
            sizes = {}
            for path in self.open.copy():
                with contextlib.suppress(FileNotFoundError):  # of it nothing came yet, or it was taken just now
                    sizes[path] = path.stat().st_size
            return sizes

        before = come()
        while True:
            try:
                return done.get(timeout=PATIENCE)
            except queue.Empty:
                if (now := come()) == before and self.open:  # else it came, and is held to its name
                    raise self.unanswered(TimeoutError(f"nothing came in {PATIENCE} seconds")) from None
                before = now

    def unanswered(self, error: Exception) -> Problem:
        """Return what an error of the remote's means."""
        from dvc.exceptions import DvcException
        from dvc_objects.fs.errors import RemoteMissingDepsError

        words = without_password(f"{type(error).__name__}: {error}")[:300]
        if isinstance(error, DvcException | RemoteMissingDepsError | ImportError):
            fix = "uv pip install -r requirements/s3.txt (or gs.txt, azure.txt), or correct .dvc/config"
            return Problem(f"the DVC remote cannot be used: {words}", self.url, fix)
        codes = (getattr(error, name, None) for name in ("status", "status_code", "code"))
        kind = PermissionError.__name__ if isinstance(error, PermissionError) else type(error).__name__
        if next(filter(None, codes), 0) in (401, 403) or re.search("Permission|Credential|Auth", kind):
            fix = "credentials that may read: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or `dvc remote modify --local`"
            return Refused(f"the DVC remote refuses: {words}", self.url, fix)
        fix = "look whether it is up, and whether .dvc/config names it"
        return Unreachable(f"the DVC remote does not answer: {words}", self.url, fix)


def whole(path: Path, name: str) -> bool:
    """Say whether a file holds what an object's name says."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == name.removesuffix(".dir")


def records(repo: Any, store: Store) -> None:
    """Fetch the records of runs whose code and parameters are the workspace's, once what they name is whole in the cache.

    A stage is restored by a record under the hash of all it reads; what it reads of other stages their records bring.
    """
    from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA
    from dvc.stage.serialize import to_single_stage_lockfile
    from dvc.utils import dict_sha256
    from dvc.utils.serialize import load_yaml

    made = [out.def_path for out in repo.index.outs]
    found: dict[str, tuple[Any, bytes]] = {}

    def inputs(record: Any) -> tuple[Any, ...]:
        read = {each["path"]: each.get("md5") for each in record.get("deps", ())}
        code = {path: md5 for path, md5 in read.items() if not any(Path(path).is_relative_to(out) for out in made)}
        return record["cmd"], code, record.get("params", {})

    def listed(folder: str) -> list[str]:
        try:
            with store.waiting(store.partials):
                return list(store.fs.find(folder))
        except FileNotFoundError:
            return []
        except NotImplementedError:
            print("records of runs are not fetched: what is in a remote of this kind cannot be listed")
            return []
        except Exception as error:
            raise store.unanswered(error) from error

    def one(source: str) -> tuple[str, str]:
        key, value = source.split("/")[-2:]

        def take(partial: Path) -> str:
            try:
                record = COMPILED_LOCK_FILE_STAGE_SCHEMA(load_yaml(partial))
                asked = {**record, "outs": [out["path"] for out in record["outs"]]}
            except Exception:  # noqa: BLE001 - anything may stand there
                return "cannot be read"
            found[source] = record, partial.read_bytes()
            held = [dict_sha256(each, exclude=["size", "nfiles"]) for each in (asked, record)]
            return "" if held == [key, value] else ALTERED

        return source, store.fetch(source, value, take)

    known = []
    for stage in repo.index.stages:
        if stage.cmd:
            stage.save_deps(allow_missing=True)
            known.append(inputs(to_single_stage_lockfile(stage)))
    (every,) = store.several(listed, [store.fs.join(store.root, "runs")])
    for source, unread in list(store.several(one, every)):
        record, text = found.get(source, (None, b""))
        wrong = [unread] if unread else []
        if not unread and inputs(record) in known:
            by = f"a run of `{record['cmd']}`"
            wrong = store.bring([Out(out["path"], by, out.get("md5", ""), out.get("size")) for out in record["outs"]])
            if not wrong:
                key, value = source.split("/")[-2:]
                place = Path(repo.stage_cache.cache_dir, key[:2], key, value)
                (partial := store.partials / f"{value}.partial").write_bytes(text)
                place.parent.mkdir(parents=True, exist_ok=True)
                partial.replace(place)
        if wrong:
            print(f"left out, a record of a run: {source}: {'; '.join(wrong)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
