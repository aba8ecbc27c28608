"""The sources and remotes that need a server: Postgres and S3, in containers. `make e2e` runs it; it needs a Docker engine."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from pawl import sample

pytestmark = pytest.mark.e2e
KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "only-for-tests", "AWS_DEFAULT_REGION": "us-east-1"}


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
        subprocess.run(
            [
                uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                sys.executable,
                "--target",
                folder,
                "--require-hashes",
                "-r",
                f"requirements/{lock}.txt",
            ],
            check=True,
        )
    return str(folder)


def patiently(action):
    """Return what the action returns once it works; a server in a container needs a moment."""
    for _ in range(60):
        done = action()
        if done.returncode == 0:
            return done
        time.sleep(0.5)
    raise AssertionError(done.stderr)


def test_a_query_on_postgres_is_a_source(fresh, container, extras):
    name, port = container("postgres:17", 5432, "--env", "POSTGRES_PASSWORD=only-for-tests")

    def psql(statement, **options):
        return subprocess.run(
            [
                "docker",
                "exec",
                "--interactive",
                name,
                "psql",
                "--host=127.0.0.1",
                "--username=postgres",
                "--set=ON_ERROR_STOP=1",
                "--command",
                statement,
            ],
            check=False,
            capture_output=True,
            text=True,
            **options,
        )

    patiently(lambda: psql("SELECT 1"))
    columns = next(iter(sample.batches(1, 0, 0.0))).schema.names
    kinds = {
        "age": "bigint",
        "education_years": "integer",
        "capital_gain": "numeric(12,2)",
        "hours_per_week": "integer",
    }
    assert (
        psql(
            "CREATE TABLE people (seen timestamptz DEFAULT '2025-06-01', "
            + ", ".join(f"{name} {kinds.get(name, 'text')}" for name in columns)
            + ")"
        ).returncode
        == 0
    )
    rows = [row for batch in sample.batches(3000, 0, 0.0) for row in batch.to_pylist()]
    lines = ["\t".join("\\N" if value is None else str(value) for value in row.values()) for row in rows]
    assert psql(f"COPY people ({', '.join(columns)}) FROM STDIN", input="\n".join(lines) + "\n").returncode == 0
    assert psql("INSERT INTO people (seen, income) VALUES ('2020-01-01', 'outside the window')").returncode == 0
    (fresh.path / "query.sql").write_text(
        f"SELECT {', '.join(columns)} FROM people WHERE seen >= CAST(:since AS date)\n"
    )
    fresh.set(**{"ingest.source": "sql", "ingest.sql": {"query": "query.sql", "days": 365, "until": "2025-12-31"}})
    place = {
        "PYTHONPATH": f"{fresh.path / 'src'}{os.pathsep}{extras}",
        "PAWL_SQL_URL": f"postgresql+psycopg://postgres:only-for-tests@127.0.0.1:{port}/postgres",
    }

    first = fresh.run(**place)
    again = fresh.run(**place)
    assert (
        psql(
            "UPDATE people SET age = age + 1 WHERE ctid = (SELECT min(ctid) FROM people WHERE age IS NOT NULL)"
        ).returncode
        == 0
    )
    changed = fresh.run(**place)

    assert "roc_auc" in first.stdout
    assert json.loads((fresh.path / "reports/splits.json").read_text())["rows"] == 3000
    assert "nothing: no input changed" in again.stdout
    assert "ran          ingest" in changed.stdout

    docker("stop", name)
    gone = fresh.run(check=False, **place)
    assert gone.returncode == 3
    assert "the database did not answer" in gone.stderr
    assert "only-for-tests" not in gone.stderr


def test_s3_is_a_source_and_a_remote(fresh, container, extras, tmp_path):
    _, port = container(
        "versity/versitygw:v1.8.0",
        7070,
        "--env",
        f"ROOT_ACCESS_KEY={KEYS['AWS_ACCESS_KEY_ID']}",
        "--env",
        f"ROOT_SECRET_KEY={KEYS['AWS_SECRET_ACCESS_KEY']}",
        "--env",
        "VGW_BACKEND=posix",
        "--env",
        "VGW_BACKEND_ARG=/data",
        "--tmpfs",
        "/data",
    )
    place = {
        **KEYS,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_MAX_ATTEMPTS": "1",
        "PYTHONPATH": f"{fresh.path / 'src'}{os.pathsep}{extras}",
    }

    def python(code):
        return fresh.call(sys.executable, "-c", code, check=False, **place)

    patiently(lambda: python("import s3fs; fs = s3fs.S3FileSystem(); fs.exists('pawl') or fs.mkdir('pawl')"))
    write = "import pyarrow as pa, pyarrow.parquet as pq, s3fs; from pawl import sample; fs = s3fs.S3FileSystem()\nfor number, batch in enumerate(sample.batches(15_000, {seed}, 0.0)): pq.write_table(pa.Table.from_batches([batch]), f'pawl/rows/part-{{number}}.parquet', filesystem=fs)"
    assert python(write.format(seed=0)).returncode == 0
    fresh.set(**{"ingest.source": "s3://pawl/rows/*.parquet"})

    first = fresh.run(**place)
    again = fresh.run(**place)
    assert python(write.format(seed=1)).returncode == 0
    changed = fresh.run(**place)

    assert json.loads((fresh.path / "reports/splits.json").read_text())["rows"] == 15_000
    assert "roc_auc" in first.stdout
    assert "nothing: no input changed" in again.stdout
    assert "ran          ingest" in changed.stdout

    fresh.call("dvc", "remote", "add", "--default", "storage", "s3://pawl/dvc")
    fresh.commit("remote")
    fresh.call("dvc", "push", **place)
    clone = tmp_path / "clone"
    fresh.call("git", "clone", "--quiet", str(fresh.path), str(clone))
    pulled = {**place, "PYTHONPATH": f"{clone / 'src'}{os.pathsep}{extras}"}
    fresh.call("dvc", "--cd", str(clone), "pull", **pulled)
    assert (clone / "models/bundle/manifest.json").read_bytes() == (
        fresh.path / "models/bundle/manifest.json"
    ).read_bytes()

    wrong = fresh.run(check=False, **{**place, "AWS_SECRET_ACCESS_KEY": "wrong"})
    assert wrong.returncode == 2
    assert "access to s3://pawl/rows/*.parquet was refused" in wrong.stderr
