"""A small real project: a copy of the tree in a folder of its own, driven through its commands."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests/sample"  # what the template ships: the tests hold it to that, whatever yours says by now
SMALL = {"ingest.sample.rows": 3000, "train.params.n_estimators": 30, "evaluate.bootstrap": 20}


class Project:
    """A copy of this repository, with a sample that trains in a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file() and not name.startswith(("tests/", "dvc.lock", "reports/")):
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, path / name)
        for name in ("params.yaml", "schema.yaml", "gates.yaml"):
            shutil.copy2(SAMPLE / name, path / name)
        self.set(**SMALL)
        self.call("git", "init", "--quiet", "--initial-branch=main")
        self.commit("start")

    def set(self, **values: Any) -> None:
        """Write values into params.yaml, by dotted key."""
        params = yaml.safe_load((self.path / "params.yaml").read_text())
        for key, value in values.items():
            section = params
            for part in key.split(".")[:-1]:
                section = section.setdefault(part, {})
            section[key.split(".")[-1]] = value
        (self.path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.path / name).read_text()
        assert old in text
        (self.path / name).write_text(text.replace(old, new))

    def environ(self, **more: str) -> dict[str, str]:
        """Return the environment of a user of this project alone."""
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PAWL_", "DVC_", "COV_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.path / "src"),
            "PAWL_ENV": "system",
            "CI": "true",
            "DVC_SITE_CACHE_DIR": str(self.path / ".dvc/tmp/site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "tester", "GIT_AUTHOR_EMAIL": "tester@example.org",
            "GIT_COMMITTER_NAME": "tester", "GIT_COMMITTER_EMAIL": "tester@example.org",
            **more,
        }  # fmt: skip

    def call(self, *command: str, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project; its output is in the assertion when it fails."""
        env = self.environ(**environ)
        done = subprocess.run(
            command, cwd=self.path, env=env, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def run(self, *args: str, check: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.call(sys.executable, "-m", "scripts.run", *args, check=check, **environ)

    def commit(self, message: str) -> None:
        self.call("git", "add", "--all")
        self.call("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def outputs(self) -> dict[str, str]:
        """Return the digest of every output, by path."""
        folders = [self.path / name for name in ("data", "models", "reports")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()] + [self.path / "dvc.lock"]
        return {
            str(path.relative_to(self.path)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.exists()
        }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose pipeline has run once; tests of a module share it, and leave it as they found it."""
    made = Project(tmp_path_factory.mktemp("project"))
    made.run()
    return made


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """A project in which nothing has run."""
    return Project(tmp_path / "project")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which nothing has run, for a whole module."""
    return Project(tmp_path_factory.mktemp("untouched"))


@pytest.fixture(scope="session")
def make_project() -> type[Project]:
    """What makes a project in a folder, for tests that need one of their own."""
    return Project
