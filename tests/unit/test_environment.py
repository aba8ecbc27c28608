import ctypes.util
import shutil
import sys
from pathlib import Path

import pytest

from scripts import environment

ROOT = Path(__file__).parents[2]


def told(capsys):
    with pytest.raises(SystemExit) as stopped:
        environment.ensure()
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def bare(tmp_path, monkeypatch):
    """A folder without an environment, on a machine that has everything."""
    monkeypatch.chdir(tmp_path)
    for name in ("PAWL_ENV", "PAWL_COMMIT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"lib{name}.so")
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")


def test_a_machine_with_everything_lacks_nothing():
    assert environment.missing_pieces() == []


def test_git_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(shutil, "which", lambda _: None)

    said = told(capsys)

    assert "error: git is missing" in said
    assert "apt-get install git" in said
    assert "PAWL_COMMIT" in said


def test_git_is_not_needed_where_the_commit_is_given(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("PAWL_COMMIT", "abc")

    assert environment.missing_pieces() == []


def test_libgomp_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(ctypes.util, "find_library", lambda _: None)

    assert "apt-get install libgomp1" in told(capsys)


def test_another_python_is_named_with_what_is_needed(monkeypatch, capsys):
    monkeypatch.setattr(environment, "VERSIONS", ((3, 98), (3, 99)))
    monkeypatch.setattr(shutil, "which", lambda name: None if name.startswith("python") else f"/bin/{name}")

    said = told(capsys)

    assert "error: Python 3.98 or newer, below 3.99" in said
    assert f"found {'.'.join(map(str, sys.version_info[:3]))}" in said


def test_the_venv_module_is_named_with_the_command_that_installs_it(monkeypatch, capsys):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert "apt-get install python3-venv" in told(capsys)


def test_old_interpreters_can_read_it():
    """It is what tells them that they are too old."""
    import ast

    ast.parse((ROOT / "scripts/environment.py").read_text(), feature_version=(3, 7))
    ast.parse((ROOT / "scripts/__init__.py").read_text(), feature_version=(3, 7))


def test_the_drivers_of_what_the_settings_name_belong_to_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dev", "s3", "gs"):
        (tmp_path / "requirements").mkdir(exist_ok=True)
        (tmp_path / f"requirements/{name}.txt").write_text(f"{name}\n")
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "params.yaml").write_text("source: sample  # or s3://bucket\n")
    plain = environment.stamp_of(environment.LOCK)
    assert environment.drivers() == []

    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("['remote \"storage\"']\n    url = s3://bucket/path\n")

    assert [path.name for path in environment.drivers()] == ["s3.txt"]
    assert environment.stamp_of(environment.LOCK) != plain
