"""The sources and remotes that need a server: Postgres and S3, in containers. `make e2e` runs it; it needs a Docker engine."""

import json
import os
import subprocess
import sys

import pytest

from pawl import sample

pytestmark = pytest.mark.e2e


def test_a_query_on_postgres_is_a_source(fresh, postgres, extras):
    name, port, psql = postgres
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

    subprocess.run(["docker", "stop", name], check=True, capture_output=True)
    gone = fresh.run(check=False, **place)
    assert gone.returncode == 3
    assert "the database did not answer" in gone.stderr
    assert "only-for-tests" not in gone.stderr


def test_s3_is_a_source_and_a_remote(fresh, s3, extras, tmp_path):
    place = {**s3, "PYTHONPATH": f"{fresh.path / 'src'}{os.pathsep}{extras}"}

    def python(code):
        return fresh.call(sys.executable, "-c", code, check=False, **place)

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
