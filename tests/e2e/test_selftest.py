"""The sabotages, each through the real pipeline and scripts."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.e2e


def test_every_sabotage_gets_its_verdict():
    done = subprocess.run([sys.executable, "-m", "scripts.selftest"], cwd=ROOT, check=False, capture_output=True, text=True)  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "as expected" in done.stdout
