"""`python -m scripts.preflight` and `python -m scripts.coverage`, asked in this process."""

import json
import os
from types import SimpleNamespace

import pytest

from pawl.problem import Problem
from scripts import coverage, preflight


@pytest.fixture
def machine(untouched, tmp_path, monkeypatch):
    """A machine with enough disk, where nobody has asked for a GPU."""
    monkeypatch.chdir(untouched.path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=50e9))
    return {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}


def test_what_the_machine_has_is_said(machine, tmp_path, capsys):
    assert preflight.main([], machine) == 0

    said = capsys.readouterr().out
    for name in ("processors", "memory", "disk          50.0 GB free", "GPU", "OpenCL", "train.device  cpu"):
        assert name in said
    assert said in (tmp_path / "summary.md").read_text()


def test_too_little_disk_is_2(machine, monkeypatch, capsys):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=1.25e9))

    assert preflight.main([], machine) == 2
    assert "1.2 GB of disk are free, of 5" in capsys.readouterr().err


def test_a_gpu_that_training_asks_for_is_looked_for(machine, untouched, monkeypatch, capsys):
    def none(params, labels):
        raise Problem(
            "train.device is gpu, and LightGBM cannot use one: No OpenCL device found", "params.yaml:30", "a driver"
        )

    monkeypatch.setattr(preflight.estimator, "make", none)
    assert preflight.main([], machine) == 0
    untouched.set(**{"train.device": "gpu"})
    try:
        assert preflight.main([], machine) == 2
    finally:
        untouched.set(**{"train.device": "cpu"})
    assert "No OpenCL device found" in capsys.readouterr().err


def test_nvidia_s_own_words_are_told(machine, tmp_path, monkeypatch, capsys):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '580.1, NVIDIA H200, 143000 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    preflight.main([], machine)

    assert "GPU           580.1, NVIDIA H200, 143000 MiB\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("library", "said"), [("libc.so.6", "OpenCL        some\n"), ("libnone.so.1", "that can be loaded\n")]
)
def test_a_driver_that_is_registered_and_absent_is_none(machine, tmp_path, monkeypatch, capsys, library, said):
    (tmp_path / "some.icd").write_text(f"{library}\n")
    monkeypatch.setattr(preflight, "DRIVERS", tmp_path)

    preflight.main([], machine)

    assert said in capsys.readouterr().out


TOTAL = {"totals": {"percent_covered": 91.26, "num_statements": 4321}}
CHANGED = {"total_num_lines": 12, "total_num_violations": 4, "src_stats": {"scripts/a.py": {"violation_lines": [3, 4, 5, 9]}, "src/b.py": {"violation_lines": []}}}  # fmt: skip


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A run of the tests that was measured, and tools that say what they are told to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(coverage, "BIN", tmp_path)
    (tmp_path / ".coverage").touch()

    def tools(changed, code=0):
        (tmp_path / "total").write_text(json.dumps(TOTAL))
        (tmp_path / "changed").write_text(json.dumps(changed))
        script = '#!/bin/sh\nfor word in "$@"; do case $word in --format=json:*) cp changed "${word#--format=json:}";; *.json) cp total "$word";; esac; done\n'
        for name in ("coverage", "diff-cover"):
            (tmp_path / name).write_text(f"{script}echo unknown revision >&2; exit {code}\n")
            (tmp_path / name).chmod(0o755)

    return tools


def test_all_lines_and_the_changed_ones_are_said(measured, tmp_path, capsys):
    measured(CHANGED)

    assert coverage.main(["--base", "HEAD^1"], {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}) == 0

    said = capsys.readouterr().out
    assert (
        said
        == "Tests ran 91.3 % of 4321 lines.\nThey did not run 4 of the 12 changed since `HEAD^1`.\n- `scripts/a.py`: 3-5, 9\n"
    )
    assert said.strip() in (tmp_path / "summary.md").read_text()


def test_a_change_without_code_says_the_total_alone(measured, capsys):
    measured({"total_num_lines": 0, "total_num_violations": 0, "src_stats": {}})

    coverage.main(["--base", "main"], {})

    assert capsys.readouterr().out == "Tests ran 91.3 % of 4321 lines.\n"


def test_without_a_measurement_or_a_base_it_is_2(measured, tmp_path, capsys):
    measured(CHANGED, code=1)
    assert coverage.main(["--base", "nowhere"], {}) == 2
    (tmp_path / ".coverage").unlink()
    assert coverage.main(["--base", "main"], {}) == 2

    said = capsys.readouterr().err
    assert "unknown revision" in said
    assert "make test ARGS=--cov" in said
