"""checkov on what is applied: everything of it holds, but what is refused here with its reason."""

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
K8S = Path(__file__).parents[2] / "k8s"
IMAGE = f"registry.example/pawl@sha256:{64 * 'a'}"
CHECKOV = "checkov==3.3.30"
SKIPPED = {
    "CKV_K8S_11": "no CPU limit: it would make a burst wait while the node has cores left (k8s/base/deployment.yaml)",
    "CKV_K8S_35": "API keys come as a variable: they are read once, at the start, and stand nowhere but in the Secret",
}


def check(folder):
    """Return {check: what it refuses}, and how many passed."""
    words = ["--directory", str(folder), "--framework", "kubernetes", "--output", "json", "--skip-download"]
    words += [word for each in SKIPPED for word in ("--skip-check", each)]
    environ = {**os.environ, "LOG_LEVEL": "ERROR"}
    done = subprocess.run(["uvx", "--from", CHECKOV, "checkov", *words], check=False, capture_output=True, text=True, env=environ)  # fmt: skip
    found = json.loads(done.stdout)
    assert found["summary"]["parsing_errors"] == 0, done.stderr
    return {each["check_id"]: each["resource"] for each in found["results"]["failed_checks"]}, found["summary"][
        "passed"
    ]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Return a folder with every overlay and role, images by digest as a release puts them."""
    folder = tmp_path_factory.mktemp("rendered")
    for source in [*K8S.glob("overlays/*/"), *K8S.glob("access/[!d]*/")]:  # access/deployer itself names no namespace
        done = subprocess.run(["kubectl", "kustomize", source], check=True, capture_output=True, text=True)
        text = done.stdout.replace("image: model\n", f"image: {IMAGE}\n").replace(
            "image: trainer\n", f"image: {IMAGE}\n"
        )
        (folder / f"{source.parent.name}-{source.name}.yaml").write_text(text)
    return folder


def test_checkov_finds_nothing(rendered):
    failed, passed = check(rendered)

    assert failed == {}
    assert passed > 400


def test_checkov_finds_what_is_wrong(rendered, tmp_path):
    good = (rendered / "overlays-production.yaml").read_text()
    (tmp_path / "bad.yaml").write_text(good.replace("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false"))

    assert set(check(tmp_path)[0]) == {"CKV_K8S_22"}
