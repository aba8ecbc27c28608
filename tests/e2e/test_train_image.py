"""Training's image: for any user, on a system it cannot write to, without git; with an OpenCL driver, and without one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
IMAGE = "pawl-e2e-train"
BUILD, RUN = re.findall(
    r"^docker (?:build|run) .*train.*$", (ROOT / "docs/platform-engineer.md").read_text(), re.MULTILINE
)
USER = f"{os.getuid() or 4321}:{os.getgid() or 4321}"  # whom the image does not know, and not root
HARD = ("--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", f"--user={USER}")
DRIVER = f"""FROM {IMAGE}
USER 0:0
RUN apt-get update && apt-get install --yes --no-install-recommends pocl-opencl-icd
USER 1000:1000
"""


def shell(line, folder=ROOT):
    done = subprocess.run(["bash", "-c", line], cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{line}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def docker(*words, check=True, **options):
    done = subprocess.run(["docker", *words], check=False, capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done


@pytest.fixture(scope="module")
def image():
    shell(BUILD.replace("pawl-train", IMAGE))
    return IMAGE


@pytest.fixture
def mounted(fresh):
    """Return a project without git that belongs to USER, and a function that runs its pipeline in a container."""
    shell(f"rm -r .git && chown -R {USER} .", fresh.path)

    def run(image, *words, tmp="/tmp", check=True):
        mounts = f"--tmpfs={tmp}", f"--volume={fresh.path}:/project"
        return docker("run", *HARD, *mounts, image, "python", "-m", "scripts.run", *words, check=check)

    fresh.run_in = run
    return fresh


def manifest(project):
    return json.loads((project.path / "models/bundle/manifest.json").read_text())


def test_it_trains_the_same_model_twice_which_is_served_here(image, mounted):
    mounted.run_in(image)
    first = manifest(mounted)["digest"]
    again = mounted.run_in(image, "--force", "--no-run-cache")

    assert "train" in again.stdout.split("  ran ")[1]
    assert manifest(mounted)["digest"] == first
    assert "The service answers every golden row" in mounted.call(sys.executable, "-m", "scripts.smoke").stdout
    owner = (mounted.path / "models/bundle/manifest.json").stat()
    assert f"{owner.st_uid}:{owner.st_gid}" == USER
    assert list(mounted.path.rglob("*.pyc")) == []


def test_the_line_of_readme_trains_but_for_the_gpu(image, fresh):
    assert " --gpus all " in RUN
    shell(RUN.replace("--gpus all ", "").replace("pawl-train", image), fresh.path)

    made = json.loads((fresh.path / "models/made_by.json").read_text())
    assert made["commit"] == fresh.call("git", "rev-parse", "HEAD").stdout.strip()


def test_an_image_with_the_project_in_it_trains_in_an_empty_volume(image, mounted):
    (mounted.path / ".env").write_text("TOKEN=secret\n")
    facts = ["--build-arg=COMMIT=4f2a", "--build-arg=SOURCE=https://example.org/model"]
    shell(f"{BUILD.replace('pawl-train', IMAGE + '-project')} --target project {' '.join(facts)}", mounted.path)
    line = "python -m scripts.run >&2 && cat models/made_by.json && ls -A /opt/project"
    done = docker("run", *HARD, "--tmpfs=/tmp", "--tmpfs=/project", f"{IMAGE}-project", "sh", "-c", line)
    known, environment = (json.loads(docker("inspect", name).stdout)[0] for name in (f"{IMAGE}-project", image))

    made, _, held = done.stdout.partition("}\n}")
    assert json.loads(made + "}}")["commit"] == "4f2a"
    assert {"params.yaml", "src"} <= set(held.split())
    assert {".env", ".git", "data", "models"} & set(held.split()) == set()
    shared = environment["RootFS"]["Layers"]
    assert known["RootFS"]["Layers"][: len(shared)] == shared  # which serves every commit with the same lock
    assert known["Config"]["Labels"] == {
        "org.opencontainers.image.revision": "4f2a",
        "org.opencontainers.image.source": "https://example.org/model",
    }


def test_nothing_is_left_to_compile_nor_to_run_as_root(image):
    known = json.loads(docker("inspect", image).stdout)[0]["Config"]
    code = """
import dvc.repo, lightgbm, os, pandas, sklearn.compose, sys
stored = [module.__spec__.cached for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
print(len(stored), [path for path in stored if path and not os.path.exists(path)])
"""
    number, missing = docker("run", *HARD, "--tmpfs=/tmp", image, "python", "-c", code).stdout.split(maxsplit=1)

    assert known["User"] == "1000:1000"
    assert int(number) > 1000
    assert missing == "[]\n"


def test_a_gpu_trains_through_opencl_and_where_there_is_none_it_is_said(image, mounted):
    mounted.set(**{"train.device": "gpu", "ingest.sample.rows": 1000, "train.params.n_estimators": 5})
    docker("build", "--quiet", f"--tag={IMAGE}-opencl", "-", input=DRIVER)

    refused = mounted.run_in(image, check=False)
    assert refused.returncode == 2
    assert "LightGBM cannot use one: No OpenCL device found" in refused.stderr
    assert "fix: register the driver in /etc/OpenCL/vendors" in refused.stderr
    assert not (mounted.path / "models/bundle").exists()

    trained = mounted.run_in(f"{IMAGE}-opencl", tmp="/tmp:exec")  # this driver compiles to libraries, and loads them
    assert "train " in trained.stdout.split("  ran ")[1]


def test_a_driver_without_its_container_toolkit_is_said(fresh, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{fresh.environ()['PATH']}"
    done = fresh.call("python3", "-m", "scripts.in_image", "scripts.run", check=False, PATH=path)

    assert done.returncode == 3
    assert "a GPU takes NVIDIA's container toolkit" in done.stderr
