"""schemathesis against a running service: it asks what the documents allow, and what they do not. uv fetches it; it is in no lock."""

import re
import subprocess
import sys

import pytest

from pawl import tracking
from pawl.serving import smoke

pytestmark = pytest.mark.e2e
CASES = 10_000
CONFIG = """
[[operations]]                                      # the documents cannot say that a frame's rows stand in the order of its columns
include-path = "/invocations"
checks.positive_data_acceptance.enabled = false
"""


def test_ten_thousand_requests_made_from_the_documents_find_nothing(project, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    port = tracking.free_port()
    url = f"http://127.0.0.1:{port}"
    with (tmp_path / "log").open("w") as log:
        service = subprocess.Popen([sys.executable, "-m", "pawl.serving"], cwd=project.path, env=project.environ(PAWL_PORT=str(port)), stderr=log)  # fmt: skip
    try:
        smoke.wait(url, 60)
        words = [
            "uvx",
            "--quiet",
            "schemathesis@4.32.5",
            "--config-file",
            "schemathesis.toml",
            "run",
            f"{url}/openapi.json",
        ]
        options = [
            "--url",
            url,
            "--max-examples",
            str(CASES // 3),
            "--continue-on-failure",
            "--no-color",
            "--workers",
            "2",
        ]
        found = subprocess.run([*words, *options], cwd=tmp_path, env=project.environ(), check=False, capture_output=True, text=True)  # fmt: skip
        assert "Test cases:" in found.stdout, f"uvx could not bring schemathesis: {found.stdout}{found.stderr}"
        assert found.returncode == 0, found.stdout
        assert int(re.search(r"([\d,]+) generated", found.stdout)[1].replace(",", "")) >= CASES
        assert smoke.call(f"{url}/readyz")[0] == 200
    finally:
        service.terminate()
        service.wait()
    assert [line for line in (tmp_path / "log").read_text().splitlines() if '"started"' not in line and '"stopped"' not in line] == []  # fmt: skip
