"""What `python -m scripts` lists is what there is."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import __main__ as verbs

ROOT = Path(__file__).parents[2]
COMMANDS = {path.stem for path in (ROOT / "scripts").glob("[a-z]*.py") if re.search(r"^def main\(", path.read_text(), re.MULTILINE)}  # fmt: skip


def test_every_script_is_listed_once_with_a_line_that_fits_the_screen(capsys):
    assert verbs.main() == 0

    out = capsys.readouterr().out
    listed = re.findall(r"^  (\w+) +[A-Z].*\.$", out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS | {"environment"})
    assert [line for line in out.splitlines() if len(line) > 100] == []


@pytest.mark.parametrize(("module", "code"), [("scripts", 0), ("scripts.gate", 2)])
def test_without_the_environment_the_list_shows_and_a_script_says_what_is_missing(module, code):
    done = subprocess.run([sys.executable, "-S", "-m", module], cwd=ROOT, env={}, check=False, capture_output=True, text=True)  # fmt: skip

    assert done.returncode == code, done.stderr
    assert ("fix: `make env`" in done.stderr) == bool(code)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["help", "EXAMPL=iris"], 2, "EXAMPL is not known; there are: "),
        (["help", "NOTE=lr=0.1 leaves=3", "ARGS=--a=1 --b=2", "MLFLOW_PORT=5001"], 0, ""),
        (["serve", "EXAMPLE=churm"], 2, "fix: make run EXAMPLE=<adult churn diabetes iris>"),
    ],
)
def test_make_refuses_a_variable_that_does_nothing_and_an_example_that_never_ran(words, code, said):
    done = subprocess.run(["make", *words], cwd=ROOT, env={**os.environ, "PAWL_ENV": "system"}, check=False, capture_output=True, text=True)  # fmt: skip

    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    ("fails", "code"), [("", 0), ("scripts.smoke", 7), ("scripts.register", 7), ("scripts.report", 7)]
)
def test_a_run_fails_where_the_gate_the_registry_or_the_service_does(tmp_path, fails, code):
    (tmp_path / "python").write_text('#!/bin/sh\necho "did $2"\n[ "$2" = "$FAILS" ] && exit 7\nexit 0\n')
    (tmp_path / "python").chmod(0o755)

    done = subprocess.run(
        ["make", f"PYTHON={tmp_path}/python", "run"], cwd=ROOT, env={**os.environ, "PAWL_ENV": "system", "FAILS": fails},
        check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert (done.returncode != 0, f"Error {code}" in done.stderr) == (bool(code), bool(code)), done.stdout + done.stderr
    later = [] if fails == "scripts.report" else ["scripts.register", "scripts.smoke"]
    assert sorted(re.findall("did (.+)", done.stdout)) == sorted(["scripts.run", "scripts.report", *later])
    assert ("next: " in done.stdout) == (not code)


def test_a_run_that_is_interrupted_leaves_no_process(tmp_path):
    waits = 'case "$2" in scripts.smoke) : > %s/asks; exec sleep 60;; scripts.register) : > %s/registers; exec sleep 60;; esac'
    (tmp_path / "python").write_text(f"#!/bin/sh\n{waits % (tmp_path, tmp_path)}\n")
    (tmp_path / "python").chmod(0o755)
    heeding = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    going = subprocess.Popen(  # where the tests run in the background, Ctrl-C is ignored
        [sys.executable, "-c", heeding, "make", f"PYTHON={tmp_path}/python", "run"], cwd=ROOT, env={**os.environ, "PAWL_ENV": "system"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline, left = time.monotonic() + 60, True
    try:
        while len(list(tmp_path.iterdir())) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)

        os.killpg(going.pid, signal.SIGINT)

        assert going.wait(30) != 0
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(going.pid, 0)
                time.sleep(0.1)
    finally:
        try:
            os.killpg(going.pid, signal.SIGKILL)
        except ProcessLookupError:
            left = False
        going.wait()
    assert not left
