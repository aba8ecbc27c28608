"""A fork takes later versions of the template, as they are released by an upstream that is this very tree."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import update

OVERLAY = "k8s/overlays/production/kustomization.yaml"
FEATURES, PARAMS, CONFIG, FLOW = "src/task/features.py", "params.yaml", "src/pawl/config.py", ".github/workflows/pr.yml"
MINE = (FEATURES, PARAMS, "schema.yaml", "gates.yaml", "README.md")


class Repository:
    """A folder with a history."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def git(self, *words: str) -> str:
        return subprocess.run(["git", *words], cwd=self.path, check=True, capture_output=True, text=True).stdout.strip()

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def edit(self, name: str, old: str, new: str) -> None:
        assert old in self.read(name), f"{name} does not say {old}"
        (self.path / name).write_text(self.read(name).replace(old, new, 1))

    def add(self, name: str, text: str) -> None:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text((self.read(name) if (self.path / name).exists() else "") + text)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def release(self, version: str, news: str) -> None:
        was = tomllib.loads(self.read("pyproject.toml"))["tool"]["pawl"]["template"]
        for key in ("version", "template"):
            self.edit("pyproject.toml", f'{key} = "{was}"', f'{key} = "{version}"')
        self.edit("CHANGELOG.md", f"## {was}", f"## {version}\n\n{news}\n\n## {was}")
        self.commit(f"Version {version}")
        self.git("tag", f"v{version}", "--annotate", "--message", version)

    def state(self) -> tuple[str, ...]:
        return tuple(self.git(*words.split()) for words in ("rev-parse HEAD", "status --short", "tag", "branch --all"))


@pytest.fixture(autouse=True)
def somebody(monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "tester")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "tester@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture(scope="module")
def versions(tmp_path_factory, make_project) -> Path:
    """Upstream at v0.1.0, v0.2.0, v0.3.0, and a version that nobody shall take by himself."""
    with pytest.MonkeyPatch.context() as patch:
        somebody.__wrapped__(patch)
        up = Repository(make_project(tmp_path_factory.mktemp("upstream")).path)
        for name in MINE[1:]:
            shutil.copy2(Path(__file__).parents[2] / name, up.path / name)
        up.add("dvc.lock", "schema: '2.0'\n")
        up.edit("pyproject.toml", tomllib.loads(up.read("pyproject.toml"))["tool"]["pawl"]["template"], "0.1.0")
        (up.path / "CHANGELOG.md").write_text("# Changes\n\n## 0.1.0\n\nThe first.\n")
        up.commit("Before")
        up.git("tag", "v0.1.0")
        up.edit(PARAMS, "# How the model is built.", "# How the model is made.")
        up.edit(PARAMS, "  min_rows: 1000\n", "  min_rows: 1000\n  latest: 3\n")
        up.edit(CONFIG, "    min_rows: Count = 1000\n", "    min_rows: Count = 1000\n    latest: int = 3\n")
        up.edit(FLOW, "timeout-minutes: 15", "timeout-minutes: 16")
        up.add(".github/workflows/security.yml", "# later\n")
        up.add("k8s/base/later.yaml", "# later\n")
        up.add("dvc.lock", "# of another run\n")
        up.release("0.2.0", "`validate.latest` is new.")
        up.edit("pyproject.toml", '"Apache-2.0"\nrequires-python = ">=3.11', '"Apache-2.0"\nrequires-python = ">=3.12')
        up.edit(OVERLAY, "components: [../../components/monitoring]", "components: [../../components/watching]")
        up.git("mv", "k8s/components/monitoring", "k8s/components/watching")
        up.git("mv", "scripts/keep.py", "scripts/keeper.py")
        up.git("rm", "--quiet", "scripts/heartbeat.py")
        up.add(FEATURES, "# upstream's\n")
        up.add("src/task/later.py", '"""New."""\n')
        up.add("examples/later/params.yaml", "task: binary\n")
        up.edit("README.md", "# ", "# New ")
        up.release("0.3.0", "The monitoring is called watching.")
        up.git("tag", "v0.4.0-rc.1")
        return up.path


@pytest.fixture(params=["a fork", "a copy without history"])
def fork(request, versions, tmp_path) -> Repository:
    """A project that was made from v0.1.0, and edited where it is meant to be; it removed what it does not need."""
    made = Repository(tmp_path / "fork")
    subprocess.run(["git", "clone", "--quiet", versions, made.path], check=True)
    made.git("checkout", "--quiet", "-B", "main", "v0.1.0")
    made.git("tag", "--delete", *made.git("tag").split())
    if request.param == "a copy without history":
        shutil.rmtree(made.path / ".git")
        made.git("init", "--quiet", "--initial-branch=main")
        made.commit("All in one")
        made.git("remote", "add", "upstream", str(versions))
    else:
        made.git("remote", "rename", "origin", "upstream")
    for name, old, new in (
        (FEATURES, '"""', '"""Mine: '), (PARAMS, "min_rows: 1000", "min_rows: 500"), (PARAMS, "# How the model is built.", "# Ours."),
        ("schema.yaml", "age: {dtype: integer, min: 0", "age: {dtype: integer, min: 16"), ("gates.yaml", "floor: 0.85", "floor: 0.80"),
        (OVERLAY, "kind: Kustomization\n", "kind: Kustomization\nnamePrefix: loans-\n"), ("README.md", "# ", "# Loans, by "),
        ("pyproject.toml", 'name = "pawl"', 'name = "loans"'), ("pyproject.toml", 'version = "0.1.0"', 'version = "7.0.0"'),
        ("pyproject.toml", 'license = "Apache-2.0"', 'license = "MIT"'), (CONFIG, '"""', '"""Ours too: '),
    ):  # fmt: skip
        made.edit(name, old, new)
    shutil.rmtree(made.path / "examples")
    made.git("rm", "--quiet", "LICENSE", ".github/workflows/security.yml")
    made.add(".github/workflows/ours.yml", "name: Ours\n")
    made.add("k8s/components/monitoring/ours.yaml", "# ours\n")
    made.git("tag", "v9.9.9")
    made.commit("Loans")
    return made


@pytest.fixture
def take(monkeypatch, capsys):
    """Update a project as its user does: code, what was printed, what was told."""

    def called(project: Repository, *words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(project.path)
        code = update.main(list(words))
        return code, *capsys.readouterr()

    return called


def test_a_fork_takes_two_versions_one_after_the_other_and_keeps_what_is_its_own(fork, take):
    mine = {name: fork.read(name) for name in MINE}
    commits = int(fork.git("rev-list", "--count", "HEAD"))

    code, out, err = take(fork, "--version", "v0.2.0")

    assert (code, err) == (0, "")
    assert "v0.1.0 -> v0.2.0" in out
    assert "`validate.latest` is new." in out
    assert "The first." not in out
    assert f"scope `workflow`):\n  {FLOW}\n" in out
    assert "though upstream changed it:\n  .github/workflows/security.yml\n  params.yaml\n" in out

    code, out, err = take(fork, "--from", fork.git("remote", "get-url", "upstream"))

    assert (code, err) == (0, "")
    assert "v0.2.0 -> v0.3.0" in out
    assert "validate.latest" not in out
    assert {name: fork.read(name) for name in MINE} == mine
    assert fork.git("status", "--short") == ""
    assert int(fork.git("rev-list", "--count", "HEAD")) == commits + 2
    assert "namePrefix: loans-" in fork.read(OVERLAY)
    assert "components/watching" in fork.read(OVERLAY)
    assert "latest: int = 3" in fork.read(CONFIG)
    assert '"""Ours too: ' in fork.read(CONFIG)
    there = (
        "k8s/base/later.yaml",
        "scripts/keeper.py",
        "src/task/later.py",
        "k8s/components/watching",
        "k8s/components/monitoring/ours.yaml",
        ".github/workflows/ours.yml",
    )
    assert [name for name in there if not (fork.path / name).exists()] == []
    gone = (
        "scripts/keep.py",
        "scripts/heartbeat.py",
        "k8s/components/monitoring/kustomization.yaml",
        "LICENSE",
        "examples",
        ".github/workflows/security.yml",
    )
    assert [name for name in gone if (fork.path / name).exists()] == []
    project = tomllib.loads(fork.read("pyproject.toml"))
    assert [project["project"][key] for key in ("name", "version", "license")] == ["loans", "7.0.0", "MIT"]
    assert project["project"]["requires-python"].startswith(">=3.12")
    assert project["tool"]["pawl"]["template"] == "0.3.0"
    assert "# of another run" in fork.read("dvc.lock")  # it was never run here: upstream's is as good
    assert (fork.git("tag"), fork.git("log", "-1", "--format=%s")) == ("v9.9.9", "Update the template to v0.3.0")
    assert take(fork)[:2] == (0, f"v0.3.0 is here, and {fork.git('remote', 'get-url', 'upstream')} has nothing newer\n")
    say = "from pathlib import Path; from pawl import config; print(config.load(Path('params.yaml')).validate)"
    loaded = subprocess.run([sys.executable, "-c", say], cwd=fork.path, env={**os.environ, "PYTHONPATH": "src"}, check=True, capture_output=True, text=True)  # fmt: skip
    assert "min_rows=500" in loaded.stdout
    assert "latest=3" in loaded.stdout


def test_two_versions_at_once_come_to_the_same(fork, take):
    before = fork.git("rev-parse", "HEAD")
    for version in ("0.2.0", "v0.3.0"):
        take(fork, "--version", version)
    one_by_one = fork.git("rev-parse", "HEAD^{tree}")
    fork.git("reset", "--hard", "--quiet", before)

    code, out, _ = take(fork)

    assert code == 0
    assert (
        out.index("0.3.0\n") < out.index("The monitoring is called watching.") < out.index("`validate.latest` is new.")
    )
    assert fork.git("rev-parse", "HEAD^{tree}") == one_by_one


@pytest.mark.parametrize("fork", ["a fork"], indirect=True)
def test_a_conflict_is_shown_and_nothing_is_lost(fork, take):
    fork.edit(FLOW, "timeout-minutes: 15", "timeout-minutes: 99")
    fork.add("scripts/heartbeat.py", "# ours\n")
    fork.commit("Where upstream works")
    before = fork.state()

    code, out, err = take(fork)

    assert code == 2
    assert f"UU {FLOW}" in out
    assert "UD scripts/heartbeat.py" in out
    assert err.startswith(f"error: you and upstream changed the same: {FLOW}, scripts/heartbeat.py\n")
    assert "git cherry-pick --continue" in err
    assert "git cherry-pick --abort" in err
    assert "<<<<<<< HEAD\n    timeout-minutes: 99\n" in fork.read(FLOW)
    assert ">>>>>>> " in fork.read(FLOW)
    assert "# ours" in fork.read("scripts/heartbeat.py")
    assert take(fork)[2].startswith("error: not committed: ")

    fork.git("cherry-pick", "--abort")
    assert fork.state() == before

    take(fork)
    fork.git("checkout", "--ours", FLOW)
    fork.git("add", FLOW, "scripts/heartbeat.py")
    fork.git("-c", "core.editor=true", "cherry-pick", "--continue")
    assert take(fork)[1].startswith("v0.3.0 is here")


@pytest.mark.parametrize("fork", ["a copy without history"], indirect=True)
def test_what_cannot_be_taken_is_refused_and_nothing_changes(fork, take):
    before = fork.state()

    for words, code, said in (
        (["--version", "v0.9.9"], 2, "error: upstream has no version v0.9.9\n  where: --version\n  fix: it has v0.1.0, v0.2.0, v0.3.0\n"),
        (["--version", "main"], 2, "error: upstream has no version vmain\n"),
        (["--from", "http://127.0.0.1:9/none.git"], 3, "error: git failed: fatal: unable to access"),
        (["--from", "nowhere"], 3, "error: git failed: fatal: 'nowhere' does not appear to be a git repository"),
        (["--from", "--upload-pack=touch hacked"], 3, "error: git failed: "),
    ):  # fmt: skip
        found, _, err = take(fork, *words)

        assert found == code
        assert err.startswith(said)
        assert fork.state() == before
    assert not (fork.path / "hacked").exists()


@pytest.mark.parametrize("fork", ["a fork"], indirect=True)
def test_where_an_update_cannot_begin_it_says_what_is_missing(fork, versions, take, monkeypatch, capsys):
    def told(*words):
        code, out, err = take(fork, *words)
        assert (code, out) == (2, "")
        return err

    source = ("--from", str(versions))
    fork.edit(PARAMS, "min_rows: 500", "min_rows: 400")
    assert told().startswith("error: not committed: params.yaml\n")
    fork.git("checkout", "--quiet", ".")
    fork.add("k8s/base/later.yaml", "# mine\n")
    fork.add(".git/info/exclude", "later.yaml\n")
    code, _, err = take(fork)
    assert (code, "where: k8s/base/later.yaml\n" in err) == (2, True)
    assert fork.read("k8s/base/later.yaml") == "# mine\n"
    fork.git("remote", "remove", "upstream")
    assert "fix: make update FROM=<address>" in told()
    fork.edit("pyproject.toml", 'template = "0.1.0"', 'template = "0.3.1"')
    fork.commit("Wrong")
    assert told(*source).startswith("error: upstream has no version v0.3.1\n  where: pyproject.toml")
    assert told(*source, "--version", "v0.2.0").startswith("error: upstream has no version v0.3.1\n")
    fork.edit("pyproject.toml", 'template = "0.3.1"', 'template = "0.3.0"')
    fork.commit("Not quite")
    assert told(*source, "--version", "v0.2.0").startswith("error: v0.2.0 is older than v0.3.0")
    fork.edit("pyproject.toml", 'template = "0.3.0"', "")
    fork.commit("Gone")
    assert told().startswith("error: the template's version is not recorded\n  where: pyproject.toml\n")
    monkeypatch.chdir(fork.path / "scripts")
    assert update.main([]) == 2
    assert "is not the root of the repository" in capsys.readouterr().err
    shutil.rmtree(fork.path / ".git")
    assert told().startswith("error: git failed: fatal: not a git repository")


@pytest.mark.parametrize("fork", ["a copy without history"], indirect=True)
def test_a_kill_is_harmless(fork, tmp_path):
    before, source = fork.state(), str(Path(__file__).parents[2])
    environ = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{source}/src"}
    git, fake = shutil.which("git"), tmp_path / "bin/git"
    fake.parent.mkdir()

    def ended(path: str) -> int:
        command = [sys.executable, "-P", "-m", "scripts.update"]
        return subprocess.run(
            command, cwd=fork.path, check=False, capture_output=True, env={**environ, "PATH": path}
        ).returncode

    for moment in ("fetch", "update-index", "commit-tree", "cherry-pick"):
        fake.write_text(f'#!/bin/sh\ncase " $* " in *" {moment} "*) kill -9 $PPID;; *) exec {git} "$@";; esac\n')
        fake.chmod(0o755)

        assert ended(f"{fake.parent}{os.pathsep}{environ['PATH']}") == -9
        assert fork.state() == before
    assert ended(environ["PATH"]) == 0


def test_what_was_made_between_two_versions_is_no_conflict(versions, take, tmp_path):
    upstream = Repository(tmp_path / "upstream")
    subprocess.run(["git", "clone", "--quiet", versions, upstream.path], check=True)
    upstream.git("checkout", "--quiet", "-b", "between", "v0.2.0~1")
    made = Repository(tmp_path / "copy")
    upstream.edit(FLOW, "timeout-minutes: 15", "timeout-minutes: 14")
    upstream.commit("On the way")
    shutil.copytree(upstream.path, made.path, ignore=shutil.ignore_patterns(".git"))
    upstream.edit(FLOW, "timeout-minutes: 14", "timeout-minutes: 13")
    upstream.release("0.1.1", "Between.")
    made.git("init", "--quiet")
    made.commit("From main, as a button makes it")

    code, out, _ = take(made, "--from", "../upstream", "--version", "v0.1.1")

    assert (code, "Between." in out, "timeout-minutes: 13" in made.read(FLOW)) == (0, True, True)
