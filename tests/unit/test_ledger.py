import hashlib
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from pawl import answers, ledger
from pawl.answers import Answers
from pawl.gate.rules import SIZE
from pawl.gate.verdict import Facts, Slice
from pawl.ledger import Corrupt, Entry, Ledger, Overtaken, Release
from pawl.parts import Value
from pawl.problem import Problem, Unreachable

A, B, C = "a" * 40, "b" * 40, "c" * 40
REF = "refs/remotes/origin/ledger"
ROWS = np.arange(1, 7, dtype=np.uint64)
ANSWERS = answers.dump(
    Answers("binary", ("no", "yes"), ROWS, ROWS % 2, ROWS % 2, answers.pair(ROWS / 10), None, {"sex": (("sex=#1",), ROWS * 0)}, 6)
)  # fmt: skip


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for key in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setattr(ledger, "MAX_BYTES", 20_000)


def git(folder, *words):
    done = subprocess.run(["git", *words], cwd=folder, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.fixture
def here(tmp_path):
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    return tmp_path


@pytest.fixture
def remote(tmp_path_factory):
    start, path = tmp_path_factory.mktemp("start"), tmp_path_factory.mktemp("remote") / "bare.git"
    (start / "README.md").write_text("x\n")
    for words in ("init --quiet -b main", "add --all", "-c user.name=t -c user.email=t@t commit --quiet -m start"):
        git(start, *words.split())
    git(start, "clone", "--quiet", "--bare", str(start), str(path))
    return path


@pytest.fixture
def clone(remote, tmp_path):
    def made(name="one", *words):
        git(tmp_path, "clone", "--quiet", *words, f"file://{remote}", name)
        return tmp_path / name

    return made


def entry(commit=A, *, allowed=True, **more):
    metrics = {"roc_auc": Value(0.9, 0.8, 1.0, 6), SIZE: Value(2e3, None, None, 0), "ece": Value(None, None, None, 6)}
    facts = Facts(metrics, slices={"sex=#1": Slice(6, {"recall": Value(0.7, None, None, 6)})})
    return Entry(1, commit, "pass" if allowed else "fail", allowed, "2026-01-01", "d", "r", facts, {}, **more)


def files(commit=A, content=ANSWERS, **more):
    return ledger.write_entry(entry(commit, **more), {} if content is None else {ledger.ANSWERS: content})


def written(folder, commit=A, **more):
    found = Ledger(folder)
    found.write(files(commit, **more), f"{commit[:7]}: pass")
    return found


def planted(folder, path, content):
    found, all_files = Ledger(folder), {**files(), **files(B), path: content}
    found.write({name: each for name, each in all_files.items() if each is not None}, "planted")
    return found


def test_what_is_written_is_what_is_read(clone):
    wanted, kept = entry(waived=("roc_auc",), splits={"test": 6}), {ledger.ANSWERS: ANSWERS, ledger.LOCK: b"x\n"}

    found = Ledger(clone())
    found.write(ledger.write_entry(wanted, kept), "a")
    read = found.entry(A)

    assert found.commits() == {A}
    assert read.files == {name: hashlib.sha256(each).hexdigest() for name, each in kept.items()}
    assert (read.facts, read.waived, read.splits, read.facts.size) == (wanted.facts, ("roc_auc",), {"test": 6}, 2000.0)
    assert found.file(read, ledger.LOCK) == b"x\n"
    assert found.answers(read).rows.tolist() == ROWS.tolist()


def test_an_entry_is_what_the_gate_compares():
    other = Ledger().other(entry(waived=("ece",)))

    assert other.values == {("roc_auc", ""): 0.9, (SIZE, ""): 2000.0, ("recall", "sex=#1"): 0.7}
    assert (other.commit, other.key, other.size, other.waived) == (A, "r", 2000.0, {"ece"})


def test_the_branch_is_an_orphan_and_grows_by_a_commit_for_what_is_new(clone):
    folder = clone()
    for commit in (A, A, B, A):
        found = written(folder, commit)

    assert git(folder, "log", "--format=%s", REF).splitlines() == ["bbbbbbb: pass", "aaaaaaa: pass"]
    assert git(folder, "ls-tree", "-r", "--name-only", REF).split() == sorted({**files(A), **files(B)})
    assert found.commits() == {A, B}


def test_nothing_else_in_the_repository_is_touched(clone):
    folder = clone()
    (folder / "README.md").write_text("staged\n")
    git(folder, "add", "README.md")
    (folder / "README.md").write_text("changed\n")
    (folder / "new").touch()
    git(folder, "fetch", "--quiet", "origin", "main")
    kept = [folder / ".git" / name for name in ("index", "HEAD", "FETCH_HEAD", "config")] + [folder / "README.md"]

    def state():
        branches = set(git(folder, "branch", "--all").splitlines()) - {"  remotes/origin/ledger"}
        return git(folder, "status", "--porcelain"), branches, [path.read_bytes() for path in kept]

    before = state()
    written(folder)

    assert state() == before


def test_of_two_writers_at_once_nothing_is_lost(clone):
    names = [[f"{writer}{number}".ljust(40, "0") for number in range(8)] for writer in "de"]

    def write(folder, commits):
        for commit in commits:
            Ledger(folder).write({f"baselines/{commit}/{ledger.LOCK}": commit.encode()}, commit)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, [clone("d"), clone("e")], names))

    assert Ledger(clone("reader")).commits() == {commit for each in names for commit in each}


def test_what_was_written_on_a_condition_holds_for_one_writer_alone(clone):
    folders = [clone(f"writer{number}") for number in range(4)]

    def write(folder):
        try:
            return Ledger(folder).write({"x.json": folder.name.encode()}, "mine", only_if={"x.json": None})
        except Overtaken:
            return None

    with ThreadPoolExecutor(4) as writers:
        won = [made for made in writers.map(write, folders) if made]

    assert len(won) == 1
    last = Ledger(clone("reader"))
    content = last._read("x.json")
    with pytest.raises(Overtaken, match="another writer was first: x"):
        last.write({"x.json": b"new"}, "new", only_if={"x.json": b"older"})
    assert last._read("x.json") == content
    last.write({"x.json": b"new"}, "new", only_if={"x.json": content})
    assert last._read("x.json") == b"new"


@pytest.fixture
def asked(monkeypatch):
    calls, instead, run = [], {}, Ledger._run

    def answer(self, *words, **more):
        calls.append(words[0])
        return instead.get(words[0]) or run(self, *words, **more)

    monkeypatch.setattr(Ledger, "_run", answer)
    return calls, instead


@pytest.mark.parametrize("said", ["[rejected] x -> ledger (fetch first)", "[remote rejected] (cannot lock ref 'refs/heads/ledger')", "[remote rejected] (failed to update ref)", "[remote rejected] (incorrect old value provided)"])  # fmt: skip
def test_a_writer_who_is_always_second_tries_again_and_then_says_so(clone, asked, monkeypatch, said):
    monkeypatch.setattr(ledger.time, "sleep", lambda _: None)
    asked[1]["push"] = subprocess.CompletedProcess([], 1, b"", said.encode())

    with pytest.raises(Unreachable, match="12 times another writer was first"):
        written(clone())

    assert asked[0].count("push") == 12


REFUSED, GONE = "cannot be pushed: .*pre-receive hook declined", "cannot be fetched: .*not appear"


@pytest.mark.parametrize(("what", "tries"), [(REFUSED, 1), (GONE, 0)], ids=["it refuses", "it is gone"])
def test_a_remote_that_does_not_take_it_is_said_at_once(clone, remote, asked, what, tries):
    folder = clone()
    (remote / "hooks/pre-receive").write_text("#!/bin/sh\nexit 1\n")
    (remote / "hooks/pre-receive").chmod(0o755)
    if what == GONE:
        remote.rename(remote.with_name("gone"))

    with pytest.raises(Unreachable, match=what) as caught:
        written(folder)

    assert (caught.value.where, "run it again" in caught.value.fix) == ("origin", True)
    assert asked[0].count("push") == tries
    assert Ledger(folder).commits() == set()


def test_without_a_remote_it_is_a_branch_here(here):
    assert written(here).ref == "refs/heads/ledger"
    assert written(here, B).commits() == {A, B}
    assert git(here, "rev-list", "--count", "ledger") == "2"


def test_outside_git_it_is_empty_and_nothing_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    found = Ledger(tmp_path)

    assert (found.commits(), found.champion()) == (set(), None)
    with pytest.raises(Problem, match="git remote failed"):
        found.write(files(), "a")


def test_a_new_clone_reads_it_and_a_shallow_one_has_none_until_it_writes(clone):
    written(clone())

    assert Ledger(clone("whole")).entry(A).commit == A
    shallow = Ledger(clone("shallow", "--depth=1"))
    assert (shallow.ref, shallow.commits(), shallow.champion()) == (None, set(), None)
    with pytest.raises(Corrupt):
        shallow.entry(A)
    assert [written(shallow.root, each).commits() for each in (A, B)] == [{A}, {A, B}]


def as_entry(**fields):
    return json.dumps(json.loads(files()[f"baselines/{A}/{ledger.ENTRY}"]) | fields).encode()


HUGE = b" " * 20_001  # the cap is at 64 MB, and lower in these tests
ENTRIES = {
    "missing": (None, "it is empty"), "empty": (b"", "it is empty"), "cut off": (as_entry()[:-9], "truncated"),
    "of another commit": (as_entry(commit=B), "it says that it is of bbbbbbb"), "of another version": (as_entry(version=2), "version"),
    "with a field more": (as_entry(x=1), "unknown field"), "without what was measured": (as_entry(facts=None), "facts"),
    "allowed in words": (as_entry(allowed="yes"), "allowed"), "no UTF-8": (b'{"commit": "\xff"}', "trusted"),
    "no JSON": (b"<<<<<<< ours", "malformed"), "deep lists": (b'{"facts":{"by":' + b'{"a":' * 3_000, "trusted"),
    "too large": (HUGE, "20,001 bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "what"), ENTRIES.values(), ids=ENTRIES)
def test_an_entry_that_cannot_be_trusted_is_refused_and_does_not_pass(here, content, what):
    found = planted(here, f"baselines/{A}/{ledger.ENTRY}", content)

    for read in (lambda: found.entry(A), lambda: ledger.passing(found, [B, A])):
        with pytest.raises(Corrupt, match=what) as caught:
            read()
        assert "release" in caught.value.fix
    assert found.entry(B).commit == B


@pytest.mark.parametrize("content", [None, b"", ANSWERS[:-1], ANSWERS + b"x", HUGE], ids=["missing", "empty", "cut off", "more", "too large"])  # fmt: skip
def test_answers_that_are_not_the_ones_written_are_refused(here, content):
    found = planted(here, f"baselines/{A}/{ledger.ANSWERS}", content)

    with pytest.raises(Corrupt, match="aaaaaaa"):
        found.answers(found.entry(A))


def test_what_was_written_wrong_is_refused_and_what_was_not_written_is_none(here):
    with pytest.raises(Corrupt, match="no answers of a model"):
        written(here, content=b"no answers").answers(Ledger(here).entry(A))
    assert written(here, content=None).answers(Ledger(here).entry(A)) is None


@pytest.mark.parametrize("name", ["x y", "ä", "a\nb", "A" * 40, "a" * 39, f"{B}-dirty", "-x"], ids=ascii)
def test_a_folder_that_is_no_commit_is_no_entry(here, name):
    assert planted(here, f"baselines/{name}/{ledger.ENTRY}", b"{}").commits() == {A, B}


def test_the_champion_is_what_was_written(here):
    served = Release(A, "3", "d", "image@sha256:1")

    assert written(here).champion() is None
    assert planted(here, ledger.CHAMPION, msgspec.json.encode(served)).champion() == served


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 10_000, b'"\xff"', b'{"commit":"main"}', HUGE], ids=["empty", "no fields", "deep", "no UTF-8", "a branch", "too large"])  # fmt: skip
def test_a_champion_that_cannot_be_read_is_not_the_same_as_none(here, content):
    with pytest.raises(Corrupt, match=ledger.CHAMPION):
        planted(here, ledger.CHAMPION, content).champion()


def test_what_was_not_let_pass_is_left_out_and_the_order_stays(here):
    for commit, allowed in ((A, True), (B, False), (C, True)):
        written(here, commit, allowed=allowed)

    assert [each.commit for each in ledger.passing(Ledger(here), [C, "0" * 40, B, A])] == [C, A]


def test_what_authorizes_a_push_is_in_no_command_message_or_file(clone, monkeypatch):
    folder, secret, calls, run = clone(), "c2VjcmV0", [], subprocess.run

    def seen(words, **more):
        calls.append((words, str(more.get("env"))))
        return run(words, **more)

    monkeypatch.setattr(subprocess, "run", seen)
    Ledger(folder).write(files(), "a", f"AUTHORIZATION: basic {secret}")
    git(folder, "remote", "set-url", "origin", "http://127.0.0.1:9/x")
    with pytest.raises(Unreachable) as caught:
        Ledger(folder).write(files(B), "b", f"AUTHORIZATION: basic {secret}")

    assert {words[1] for words, environ in calls if secret in environ} == {"fetch", "push"}
    assert secret not in str([words for words, _ in calls]) + str(caught.value)
    assert not [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
