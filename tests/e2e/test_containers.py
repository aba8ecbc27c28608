"""The images, as they are built and run: training's environment, and the service on a real cluster, where a bad image gives way."""

import json
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e
REGISTRY = os.environ.get("PAWL_REGISTRY", "localhost:5000")


def call(*words, check=True, **options):
    done = subprocess.run(words, check=False, capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


def test_the_pipeline_runs_in_its_image_on_the_files_of_the_project(fresh):
    done = fresh.call("python3", "-m", "scripts.in_image", "scripts.run")
    again = fresh.call("python3", "-m", "scripts.in_image", "scripts.run")
    judged = fresh.call("python3", "-m", "scripts.in_image", "scripts.report", "--base", "HEAD")

    assert "test rows" in done.stdout
    assert "nothing: no input changed" in again.stdout
    assert "training the model of" in judged.stderr
    assert "Unchanged" in judged.stdout or "Blocked" in judged.stdout  # the small sample may miss a floor
    assert (fresh.path / "models/bundle/manifest.json").stat().st_uid == os.getuid()


@pytest.fixture(scope="module")
def images(project):
    """Return the image of the project's service, and one whose pods cannot start, both pushed."""
    name = f"{REGISTRY}/pawl-e2e/model-server"
    good = project.call(sys.executable, "-m", "scripts.image", "--push", f"{REGISTRY}/pawl-e2e").stdout.splitlines()[-1]
    text = f"FROM {name}:{project.call('git', 'rev-parse', 'HEAD').stdout[:12]}\nENV PAWL_BUNDLE=/nowhere\n"
    call("docker", "build", "--quiet", "--tag", f"{name}:bad", "-", input=text)
    pushed = call("docker", "push", f"{name}:bad").stdout
    return good, f"{name}@{next(word for word in pushed.split() if word.startswith('sha256:'))}"


@pytest.fixture(scope="module")
def deploy(project, tmp_path_factory):
    """Return a function that deploys to a cluster of its own."""
    assert shutil.which("kind"), "`make e2e` needs kind: see tests/README.md"
    config = str(tmp_path_factory.mktemp("cluster") / "config")
    call("kind", "create", "cluster", "--name", "pawl-e2e", "--kubeconfig", config)
    digest = json.loads((project.path / "models/bundle/manifest.json").read_text())["digest"]

    def run(image, expected=digest):
        words = ["--environment", "local", "--image", image, "--digest", expected]
        done = project.call(sys.executable, "-m", "scripts.deploy", *words, check=False, KUBECONFIG=config)
        words = [
            "get",
            "deployment",
            "model",
            "--namespace",
            "model",
            "--output",
            "jsonpath={..image} {..readyReplicas}",
        ]
        return done, call("kubectl", *words, env={**os.environ, "KUBECONFIG": config}).stdout

    yield run
    call("kind", "delete", "cluster", "--name", "pawl-e2e")


def test_a_good_image_answers_and_a_bad_one_gives_way_to_it(images, deploy):
    good, bad = images

    done, state = deploy(good)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "golden rows answered right through the Service" in done.stdout
    assert state == f"{good} 1"

    done, state = deploy(bad)
    assert done.returncode == 1
    assert "no pod became ready" in done.stdout
    assert f"`{good}` runs again" in done.stdout
    assert state == f"{good} 1"

    done, state = deploy(good, expected="sha256:" + 64 * "0")
    assert done.returncode == 1
    assert "the Service answers with sha256:" in done.stdout
    assert state == f"{good} 1"
