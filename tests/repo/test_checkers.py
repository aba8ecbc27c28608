"""Each checker of `make lint` is shown something bad, and must go red."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

BAD = {
    "ruff": ("src/task/bad.py", '"""Bad."""\n\nimport os\n', ["ruff", "check", "src/task/bad.py"], "F401"),
    "format": ("src/task/bad.py", '"""Bad."""\nX   =  1\n', ["ruff", "format", "--check", "src/task/bad.py"], "would be reformatted"),
    "mypy": ("src/task/bad.py", '"""Bad."""\n\nX: int = "one"\n', ["mypy", "src/task/bad.py"], "Incompatible types"),
    "layers": ("src/task/bad.py", '"""Bad."""\n\nfrom pawl import config\n', ["lint-imports", "--no-cache"], "task is not allowed to import pawl"),
}  # fmt: skip


@pytest.mark.parametrize("checker", BAD)
def test_a_checker_goes_red(checker, project):
    path, content, command, said = BAD[checker]
    (project.path / path).write_text(content)

    done = project.call(str(BIN / command[0]), *command[1:], check=False)

    (project.path / path).unlink()
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_locks_hold_hashes_and_no_address():
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]

        assert all("==" in line for line in pins), path
        assert text.count("--hash=sha256:") >= len(pins), path
        assert "://" not in text, path
        assert "--index" not in text, path


def test_no_file_names_this_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    for name in listed:
        if (ROOT / name).is_file():
            assert str(ROOT) + "/" not in (ROOT / name).read_text(errors="replace"), name


def test_python_versions_are_said_once(project):
    import tomllib

    from scripts.environment import VERSIONS

    low, high = (".".join(map(str, version)) for version in VERSIONS)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == f">={low},<{high}"
