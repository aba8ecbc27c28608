"""The service's image: built for what the bundle needs, run without rights, asked for its golden rows."""

import hashlib
import json
import re
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.e2e
HARD = ("--detach", "--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory=512m", "--publish=127.0.0.1:0:8000")  # fmt: skip
LARGEST = 250_000_000  # bytes of the image of a compiled bundle, as docker lists it: packed and unpacked
FOREST = {"model": "sklearn.ensemble.RandomForestClassifier", "params": {"n_estimators": 20}, "early_stopping": 0}
HEAVY = "numpy", "pandas", "sklearn", "skops", "mlflow"


def docker(*words):
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module", params=["compiled", "pipeline"])
def built(request, make_project, tmp_path_factory):
    """Return (project, its image, whether its bundle is compiled)."""
    project = make_project(tmp_path_factory.mktemp(request.param) / "project")
    if request.param == "pipeline":
        project.set(train=FOREST)
    project.run()
    image = project.call(sys.executable, "-m", "scripts.image", "--version", "7").stdout.splitlines()[-1]
    yield project, image, request.param == "compiled"
    docker("rmi", "--force", image)


@pytest.fixture
def running(built):
    """Return (URL, container) of the image without rights."""
    container = docker("run", *HARD, built[1])
    yield "http://" + docker("port", container, "8000").splitlines()[0], container
    subprocess.run(["docker", "rm", "--force", container], check=False, capture_output=True)


def test_it_answers_its_golden_rows_without_rights(built, running):
    project, _, compiled = built
    url, container = running

    asked = project.call(sys.executable, "-m", "pawl.serving.smoke", "--url", url)
    found = json.loads(docker("exec", container, "python", "-c", "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/version').read().decode())"))  # fmt: skip

    assert json.loads(asked.stdout)["problems"] == []
    assert found["served_by"] == ("the compiled model" if compiled else "the pipeline: sklearn.RandomForestClassifier is not LightGBM's")  # fmt: skip
    assert (found["model_version"], len(found["commit"])) == ("7", 40)
    assert docker("exec", container, "id", "-u") == "1000"
    until = time.monotonic() + 60
    while docker("inspect", container, "--format", "{{.State.Health.Status}}") != "healthy":
        assert time.monotonic() < until
        time.sleep(0.5)
    docker("stop", container)


def test_it_holds_what_its_bundle_needs_and_says_what_it_is(built):
    project, image, compiled = built

    here = docker("run", "--rm", image, "python", "-c", f"import importlib.util as u; print([each for each in {HEAVY} if u.find_spec(each)])")  # fmt: skip
    facts = json.loads(docker("inspect", image))[0]
    manifest = json.loads((project.path / "models/bundle/manifest.json").read_text())
    size = docker("images", image, "--format", "{{.Size}}")

    assert here == ("[]" if compiled else "['numpy', 'pandas', 'sklearn', 'skops']")
    assert facts["Config"]["User"] == "1000:1000"
    labels = facts["Config"]["Labels"]
    assert labels["pawl.model.digest"] == manifest["digest"]
    assert labels["org.opencontainers.image.version"] == "7"
    assert re.fullmatch("[0-9a-f]{40}", labels["org.opencontainers.image.revision"])

    assert not compiled or float(size.removesuffix("MB")) * 1e6 <= LARGEST


def test_a_bundle_that_does_not_answer_its_golden_rows_makes_no_image(built):
    project, _, _ = built
    bundle = project.path / "models/bundle"
    kept = {path: path.read_bytes() for path in (bundle / "golden.json", bundle / "manifest.json")}
    try:
        golden = json.loads(kept[bundle / "golden.json"])
        golden["probabilities"][0].reverse()
        content = json.dumps(golden).encode()
        (bundle / "golden.json").write_bytes(content)
        manifest = json.loads(kept[bundle / "manifest.json"])
        manifest["files"]["golden.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        del manifest["digest"]
        manifest["digest"] = "sha256:" + hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        done = project.call(sys.executable, "-m", "scripts.image", check=False)
    finally:
        for path, before in kept.items():
            path.write_bytes(before)

    assert done.returncode == 3
    assert "answers 1 of its golden rows otherwise than when it was made" in done.stderr
