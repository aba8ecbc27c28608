"""The ledger: an orphan branch of this repository that remembers what main was. Read from any clone; written by a release.

baselines/<commit>/entry.json    numbers, verdict, and the SHA-256 of the other files
                   answers       what its model answered on the rows of the test split, by hashed ids
                   dvc.lock      the lock of the run that was released
                   report.json   its report
releases/<time>-<name>.json      what was released, or rolled back to, and by whom
champion.json                    the last of them: what is served
registry.json                    where the embedded MLflow registry is kept, by digest

Git's push is the compare-and-set: who comes second takes the first one's tree and adds to it, so that nothing is lost.
"""

import hashlib
import os
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from pawl import answers
from pawl.answers import Answers
from pawl.gate.compare import Other
from pawl.gate.verdict import Facts, Verdict
from pawl.parts import Commit, Line, Name, Part, Rows, Text
from pawl.problem import Problem, Unreachable
from pawl.profile import Column

BRANCH, REMOTE = "ledger", "origin"
ENTRY, ANSWERS, LOCK, REPORT, CHAMPION = "entry.json", "answers", "dvc.lock", "report.json", "champion.json"
REGISTRY = "registry.json"
Typed = TypeVar("Typed", bound=Part)
TRIES = 12
MAX_BYTES = answers.MAX_BYTES  # of a file; git keeps gigabytes of zeros in a few kilobytes
# What a remote says when another writer was first. "[remote rejected]" alone is a hook or a rule of the branch: it stays.
RACE = (b"[rejected]", b"cannot lock", b"failed to update ref", b"incorrect old value", b"already exists")
BOT = {"NAME": "github-actions[bot]", "EMAIL": "41898282+github-actions[bot]@users.noreply.github.com"}


class Entry(Part):
    """What the ledger knows of a commit of main."""

    version: Literal[1]
    commit: Commit
    verdict: Verdict
    allowed: bool
    made: str  # UTC
    digest: str  # of the bundle
    rows: str  # what names the test rows and their targets
    facts: Facts
    files: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]]
    waived: tuple[Text, ...] = ()  # rules that it broke and was let pass
    splits: dict[Name, Rows] = {}
    columns: dict[Text, Column] = {}


class Release(Part):
    """What was released: a version of the model in an image. One model may have many images."""

    commit: Commit
    version: str
    digest: str
    image: str = ""
    verdict: str = ""
    made: str = ""  # UTC
    by: Line = ""
    environment: str = ""  # where it runs
    rejected: str = ""  # the version that was taken back for this one
    reason: Line = ""  # and why

    @property
    def name(self) -> str:
        """Return what people call it: version, commit and image, shortened."""
        return "-".join(filter(None, [self.version, self.commit[:7], self.image.rpartition(":")[2][:7]]))


class Kept(Part):
    """Where the embedded MLflow registry is kept."""

    image: str  # without a tag
    digest: str


class Corrupt(Problem):
    """What the ledger holds is not what was written."""


class Overtaken(Unreachable):
    """Another writer was first: what this one was based on is not the newest any more."""


class Ledger:
    """The ledger as this clone has it: of the remote, or the local branch where there is no remote's."""

    def __init__(self, root: Path = Path()) -> None:
        self.root = root
        self._find()

    def _find(self) -> None:
        refs = (f"refs/remotes/{REMOTE}/{BRANCH}", f"refs/heads/{BRANCH}")
        self.ref = next((ref for ref in refs if self._git("rev-parse", "--verify", "--quiet", ref, check=False)), None)

    def _remote(self) -> str | None:
        return REMOTE if REMOTE in self._git("remote").decode().split() else None

    def fetch(self, header: str = "") -> None:
        """Take over what the remote has, if there is one."""
        if remote := self._remote():
            done = self._run("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", remote, f"+refs/heads/{BRANCH}:refs/remotes/{remote}/{BRANCH}", header=header)  # fmt: skip
            if done.returncode and b"couldn't find remote ref" not in done.stderr:
                fix = "run it again when the remote answers"
                raise Unreachable(f"the ledger cannot be fetched: {_last(done)}", remote, fix)
            self._find()

    def commits(self) -> set[str]:
        """Return the commits that have an entry."""
        if self.ref is None:
            return set()
        paths = self._git("ls-tree", "-d", "-z", "--name-only", self.ref, "baselines/").split(b"\0")
        return {found[1].decode() for path in paths if (found := re.fullmatch(rb"baselines/([0-9a-f]{40})", path))}

    def entry(self, commit: str) -> Entry:
        """Return a commit's entry; raise Corrupt if it cannot be read."""
        content = self._read(f"baselines/{commit}/{ENTRY}") or b""
        try:
            found = msgspec.json.decode(content, type=Entry)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._corrupt(commit, f"{str(error)[:150] if content else 'it is empty'}") from error
        if found.commit != commit:
            raise self._corrupt(commit, f"it says that it is of {found.commit[:7]}")
        return found

    def file(self, entry: Entry, name: str) -> bytes | None:
        """Return a file of an entry, None if none was kept; raise Corrupt if it is another than was written."""
        if name not in entry.files:
            return None
        content = self._read(f"baselines/{entry.commit}/{name}")
        if content is None:
            raise self._corrupt(entry.commit, f"{name} is missing")
        if hashlib.sha256(content).hexdigest() != entry.files[name]:
            raise self._corrupt(entry.commit, f"{name} is not the file that was written")
        return content

    def answers(self, entry: Entry) -> Answers | None:
        """Return what the entry's model answered; None if that was not kept."""
        content = self.file(entry, ANSWERS)
        try:
            return None if content is None else answers.load(content, ANSWERS)
        except Problem as problem:
            raise self._corrupt(entry.commit, problem.what) from problem

    def other(self, entry: Entry) -> Other:
        """Return the entry as the gate compares it; its answers are read when they are needed."""
        parts = {"": entry.facts.metrics} | {name: part.metrics for name, part in entry.facts.slices.items()}
        cells = (((metric, name), each.value) for name, part in parts.items() for metric, each in part.items())
        known = {key: value for key, value in cells if value is not None}
        return Other(
            entry.commit, lambda: self.answers(entry), entry.rows, known, entry.facts.size, frozenset(entry.waived)
        )

    def champion(self) -> Release | None:
        """Return what is served; None if nothing was released."""
        return self._json(CHAMPION, Release)

    def kept(self) -> Kept | None:
        """Return where the embedded registry is kept; None if it is not."""
        return self._json(REGISTRY, Kept)

    def releases(self) -> list[Release]:
        """Return every release, the newest first."""
        listed = self._git("ls-tree", "-z", "--name-only", self.ref, "releases/") if self.ref else b""
        names = sorted(filter(None, listed.decode().split("\0")), reverse=True)
        found = (self._json(name, Release) for name in names)
        return [each for each in found if each]

    def _json(self, path: str, kind: type[Typed]) -> Typed | None:
        content = self._read(path)
        try:
            return None if content is None else msgspec.json.decode(content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Corrupt(f"the ledger's {path} cannot be read: {str(error)[:150]}", str(self.ref), "release again: it is written anew") from error  # fmt: skip

    def write(
        self,
        files: Mapping[str, bytes],
        message: str,
        header: str = "",
        only_if: Mapping[str, bytes | None] | None = None,
    ) -> str:
        """Add files to the ledger, here and at the remote if there is one; return the ledger's new commit.

        header: what authorizes the push, in the environment of git alone. Another writer who was first is no error: its files
        are taken over and this is tried again. only_if: what files must hold now (None: not be there); raise Overtaken where they do not.
        """
        remote = self._remote()
        for attempt in range(TRIES):
            self.fetch(header)
            base = f"refs/remotes/{remote}/{BRANCH}" if remote else f"refs/heads/{BRANCH}"
            parent = self._git("rev-parse", "--verify", "--quiet", base, check=False).decode().strip()
            for path, content in (only_if or {}).items():
                if (self._git("cat-file", "blob", f"{parent}:{path}", check=False) or None) != content:
                    what = f"another writer was first: {path} of the ledger is another now"
                    raise Overtaken(what, base, "take its state, and do it again")
            made = self._commit(files, parent, message)
            if made == parent:
                self._find()
                return parent
            if remote:
                done = self._run("push", "--quiet", remote, f"{made}:refs/heads/{BRANCH}", header=header)
            else:
                done = self._run("update-ref", f"refs/heads/{BRANCH}", made, parent or "0" * 40)
            if done.returncode == 0:
                if remote:  # a clone of one branch does not do that by itself
                    self._git("update-ref", f"refs/remotes/{remote}/{BRANCH}", made)
                self._find()
                return made
            if remote and not any(word in done.stderr for word in RACE):
                fix = "the job needs contents: write; run it again"
                raise Unreachable(f"the ledger cannot be pushed: {_last(done)}", remote, fix)
            time.sleep(random.uniform(0, 0.2 * 2 ** min(attempt, 5)))  # noqa: S311 - so that two writers do not meet again
        what = f"{TRIES} times another writer was first"
        raise Unreachable(what, f"{remote}/{BRANCH}", "run it again: nothing is lost")

    def _commit(self, files: Mapping[str, bytes], parent: str, message: str) -> str:
        """Return a commit that has the parent's files and these; the parent if it has them already."""
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": f"{folder}/index"}
            self._git("read-tree", *([parent] if parent else ["--empty"]), environ=index)
            for path, content in files.items():
                blob = self._git("hash-object", "-w", "--stdin", given=content).decode().strip()
                self._git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environ=index)
            tree = self._git("write-tree", environ=index).decode().strip()
        if parent and self._git("rev-parse", f"{parent}^{{tree}}").decode().strip() == tree:
            return parent
        identity = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in BOT.items()}
        words = ("commit-tree", tree, *(("-p", parent) if parent else ()), "-m", message)
        return self._git(*words, environ=identity).decode().strip()

    def _read(self, path: str) -> bytes | None:
        """Return a file, None if there is none; raise Corrupt if it is larger than any that is written."""
        size = self._git("cat-file", "-s", f"{self.ref}:{path}", check=False) if self.ref else b""
        if not size:
            return None
        if int(size) > MAX_BYTES:
            said = f"the ledger's {path} has {int(size):,} bytes, more than any that is written"
            raise Corrupt(said, str(self.ref), "run the release of that commit again: it is written anew")
        return self._git("cat-file", "blob", f"{self.ref}:{path}", check=False)

    def _corrupt(self, commit: str, what: str) -> Corrupt:
        said = f"the ledger's entry of {commit[:7]} cannot be trusted: {what}"
        fix = f"run the release of {commit[:7]} again: it writes the entry anew; until then nothing can be compared with it"
        return Corrupt(said, f"{self.ref}:baselines/{commit}", fix)

    def _git(
        self, *words: str, check: bool = True, given: bytes | None = None, environ: Mapping[str, str] | None = None
    ) -> bytes:
        done = self._run(*words, given=given, environ=environ)
        if check and done.returncode:
            raise Problem(f"git {words[0]} failed: {_last(done)}", self.root.absolute(), "run it in a git checkout")
        return b"" if done.returncode else done.stdout

    def _run(
        self, *words: str, given: bytes | None = None, environ: Mapping[str, str] | None = None, header: str = ""
    ) -> "subprocess.CompletedProcess[bytes]":
        extra = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **(environ or {})}
        if header:  # in the environment, not among the words: those can be read by every process
            extra |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraheader", "GIT_CONFIG_VALUE_0": header}
        return subprocess.run(
            ["git", *words], cwd=self.root, check=False, capture_output=True, input=given, env={**os.environ, **extra}
        )


def write_entry(entry: Entry, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of an entry, by their path in the ledger."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    text = msgspec.json.format(msgspec.json.encode(msgspec.structs.replace(entry, files=sums)), indent=1) + b"\n"
    return {f"baselines/{entry.commit}/{name}": content for name, content in {ENTRY: text, **files}.items()}


def _last(done: "subprocess.CompletedProcess[bytes]") -> str:
    return " ".join(done.stderr.decode(errors="replace").split())[-1000:]


def passing(ledger: Ledger, commits: Sequence[str]) -> list[Entry]:
    """Return the entries of those commits, in their order, whose verdict let them pass; raise Corrupt for one that cannot be read."""
    there = ledger.commits()
    return [entry for commit in commits if commit in there and (entry := ledger.entry(commit)).allowed]
