"""What `python -m scripts` lists is what there is."""

import re
import subprocess
import sys
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
