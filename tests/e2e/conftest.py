"""Servers in containers, on loopback, for one module of tests. They need a Docker engine."""

import json
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "only-for-tests", "AWS_DEFAULT_REGION": "us-east-1"}

# What a registry holds: versions, aliases, tags, metrics of their runs, and the digest of every file.
HELD = """
import faulthandler, hashlib, json, mlflow
from pathlib import Path
faulthandler.dump_traceback_later(120, exit=True)  # a client that is sent to a bucket it cannot reach waits for long
client, versions, files = mlflow.MlflowClient(), {}, {}
for each in client.search_model_versions(""):
    run, model = client.get_run(each.run_id), client.get_model_version(each.name, each.version)
    versions[str(each.version)] = {"aliases": sorted(model.aliases), "tags": model.tags, "metrics": run.data.metrics, "run": run.data.tags}
    for uri in (run.info.artifact_uri, f"models:/{each.name}/{each.version}"):
        folder = Path(mlflow.artifacts.download_artifacts(uri))
        files |= {f"{uri} {path.relative_to(folder)}": hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}
print(json.dumps({"versions": versions, "files": files}))
"""


def docker(*words, check=True, **options):
    done = subprocess.run(["docker", *words], check=False, capture_output=True, text=True, **options)
    assert not check or done.returncode == 0, (
        f"docker {words[0]}: {done.stderr or 'no Docker engine answers: start one, or set DOCKER_HOST'}"
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def container():
    """Return a function that starts a container with one port on loopback, and gives its name and port."""
    started = []

    def start(image, port, *options, command=()):
        name = f"pawl-{uuid.uuid4().hex[:8]}"
        started.append(name)
        docker("run", "--detach", "--name", name, "--publish", f"127.0.0.1::{port}", *options, image, *command)
        return name, docker("port", name, str(port)).splitlines()[0].rpartition(":")[2]

    yield start
    for name in started:
        docker("rm", "--force", "--volumes", name, check=False)


@pytest.fixture(scope="module")
def extras(tmp_path_factory):
    """Return a folder with the packages of the s3 and postgres locks."""
    folder = tmp_path_factory.mktemp("extras")
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    for lock in ("s3", "postgres"):
        words = ["--quiet", "--python", sys.executable, "--target", folder, "--require-hashes"]
        subprocess.run([uv, "pip", "install", *words, "-r", f"requirements/{lock}.txt"], check=True)
    return str(folder)


@pytest.fixture(scope="module")
def patiently():
    """Return a function that gives what an action returns once it works; a server in a container needs a moment."""

    def wait(action):
        for _ in range(60):
            done = action()
            if done.returncode == 0:
                return done
            time.sleep(0.5)
        raise AssertionError(done.stderr)

    return wait


@pytest.fixture(scope="module")
def postgres(container, patiently):
    """Return (the container's name, its port, a function that runs a statement)."""
    name, port = container("postgres:17", 5432, "--env", "POSTGRES_PASSWORD=only-for-tests")
    words = ["psql", "--host=127.0.0.1", "--username=postgres", "--set=ON_ERROR_STOP=1", "--command"]

    def psql(statement, **options):
        command = ["docker", "exec", "--interactive", name, *words, statement]
        return subprocess.run(command, check=False, capture_output=True, text=True, **options)

    patiently(lambda: psql("SELECT 1"))
    return name, port, psql


@pytest.fixture(scope="module")
def s3(container, extras, patiently):
    """Return what the environment of a client of an S3 server holds; the bucket `pawl` is there."""
    keys = [f"ROOT_ACCESS_KEY={KEYS['AWS_ACCESS_KEY_ID']}", f"ROOT_SECRET_KEY={KEYS['AWS_SECRET_ACCESS_KEY']}"]
    settings = [*keys, "VGW_BACKEND=posix", "VGW_BACKEND_ARG=/data"]
    options = [word for each in settings for word in ("--env", each)]
    _, port = container("versity/versitygw:v1.8.0", 7070, *options, "--tmpfs", "/data")
    place = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_MAX_ATTEMPTS": "1"}
    make = "import s3fs; fs = s3fs.S3FileSystem(); fs.exists('pawl') or fs.mkdir('pawl')"
    environ = {**place, "PYTHONPATH": extras}
    patiently(
        lambda: subprocess.run([sys.executable, "-c", make], env=environ, check=False, capture_output=True, text=True)
    )
    return place


@pytest.fixture(scope="module")
def held():
    """Return a function that gives what the registry at an address holds."""

    def ask(project, uri):
        return json.loads(project.call(sys.executable, "-c", HELD, MLFLOW_TRACKING_URI=uri).stdout.splitlines()[-1])

    return ask
