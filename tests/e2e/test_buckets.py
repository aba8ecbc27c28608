"""All that a service leaves behind, and all that is made of it, in a bucket: no folder is shared. `make e2e` runs it; it needs a Docker engine."""

import csv
import json
import os
import re
import subprocess
import sys
import urllib.request
import uuid

import pyarrow.parquet as pq
import pytest

from pawl import paths, tracking

pytestmark = pytest.mark.e2e
WRITE = "import sys, fsspec; fsspec.open(sys.argv[1], 'wb').open().write(open(sys.argv[2], 'rb').read())"
READ = "import sys, fsspec; print(fsspec.open(sys.argv[1], 'rt').open().read())"
LIST = "import sys, fsspec; print(*fsspec.core.url_to_fs(sys.argv[1])[0].find(sys.argv[1].removeprefix('s3://')))"


class Bucket:
    """A project, and a folder of a bucket that its scripts write and read."""

    def __init__(self, project, s3, extras):
        self.project, self.url = project, f"s3://pawl/{uuid.uuid4().hex[:8]}"
        self.environ = {**s3, "PYTHONPATH": f"{project.path / 'src'}{os.pathsep}{extras}"}

    def __call__(self, *words, code=0):
        done = self.project.call(sys.executable, *words, check=False, **self.environ)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def script(self, name, *words, code=0):
        return self("-m", f"scripts.{name}", *[word.replace("bucket:", f"{self.url}/") for word in words], code=code)

    def put(self, name, file):
        self("-c", WRITE, f"{self.url}/{name}", str(file))

    def get(self, name):
        return self("-c", READ, f"{self.url}/{name}")

    def listed(self):
        return self("-c", LIST, self.url).split()

    def serve(self, requests, patiently):
        """Ask a service, and end it; it writes what it answers into the folder `log`."""
        port = tracking.free_port()
        environ = self.project.environ(**self.environ, PAWL_PORT=str(port), PAWL_LOG_DIR="log", PAWL_DRAIN_SECONDS="0")
        server = subprocess.Popen([sys.executable, "-m", "pawl.serving"], cwd=self.project.path, env=environ, stderr=subprocess.PIPE, text=True)  # fmt: skip
        try:
            patiently(
                lambda: subprocess.run(
                    ["curl", "--fail", "--silent", "--output", os.devnull, f"http://127.0.0.1:{port}/readyz"],
                    check=False,
                    stderr=subprocess.PIPE,
                )
            )
            for name, records in requests:
                asked = urllib.request.Request(
                    f"http://127.0.0.1:{port}/predict",
                    json.dumps(records).encode(),
                    {"X-Request-Id": name, "Content-Type": "application/json"},
                )
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    assert answer.status == 200
        finally:
            server.terminate()
            server.communicate(timeout=30)


@pytest.fixture(scope="module")
def bucket(make_project, tmp_path_factory, s3, extras, patiently):
    """The bucket after a service was asked the test rows and its log was shipped; its labels lie there as a table."""
    project = make_project(tmp_path_factory.mktemp("watched"))
    project.set(**{"drift.min_rows": 50, "ingest.replace": {"income": {"<=50K.": "<=50K"}}})
    (project.path / "gates.yaml").write_text(
        "version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0.6, max_regression: 0.1}}\n"
    )
    project.commit("a model")
    project.run()
    for step in ("report", "register", "promote"):
        project.call(sys.executable, "-m", f"scripts.{step}")
    made = Bucket(project, s3, extras)
    dtypes = json.loads((project.path / paths.BUNDLE / "manifest.json").read_text())["features"]
    rows = pq.read_table(project.path / paths.PREPARED / "test.parquet").to_pylist()
    made.rows = len(rows)
    groups = [(f"r{at}", rows[at : at + 20]) for at in range(0, len(rows), 20)]
    made.serve(
        [(name, [{column: row[column] for column in dtypes} for row in each]) for name, each in groups], patiently
    )
    with (project.path / "labels.csv").open("w", newline="") as file:
        lines = [(name, at, row["income"]) for name, each in groups for at, row in enumerate(each)]
        csv.writer(file).writerows([("request_id", "row", "income"), *lines])
    made.put("labels.csv", project.path / "labels.csv")
    made.script("ship", "--from", "log", "--to", "bucket:log")
    return made


def test_what_was_shipped_is_all_there_and_no_more_here(bucket):
    assert not list((bucket.project.path / "log").glob("*.jsonl"))
    segments = [name for name in bucket.listed() if name.endswith(".jsonl")]
    assert sum(len(bucket.get(name.partition(bucket.url.rpartition("/")[2] + "/")[2]).split("\n")) - 2 for name in segments) == bucket.rows  # fmt: skip


def test_drift_reads_log_and_labels_and_keeps_its_history_there(bucket):
    first = bucket.script("drift", "--log", "bucket:log", "--labels", "bucket:labels.csv")
    bucket.script("drift", "--log", "bucket:log", "--labels", "bucket:labels.csv")

    told = json.loads((bucket.project.path / "reports/drift.json").read_text())
    history = [json.loads(line) for line in bucket.get("log/history.jsonl").splitlines() if line]
    assert "No drift" in first
    assert (told["verdict"], told["labelled"]) == ("no drift", bucket.rows)
    assert told["performance"]["metric"] == "roc_auc"
    assert [each["verdict"] for each in history] == ["no drift"]


def test_labels_find_their_predictions_and_the_table_is_a_source(bucket, fresh):
    bucket.script("labels", "--log", "bucket:log", "--labels", "bucket:labels.csv", "--to", "bucket:labelled.parquet")

    fresh.set(**{"ingest.source": f"{bucket.url}/labelled.parquet", "validate.min_rows": 100})
    again = Bucket(fresh, bucket.environ, bucket.environ["PYTHONPATH"].partition(os.pathsep)[2])
    again("-m", "scripts.run", "ingest")
    assert pq.read_metadata(fresh.path / paths.RAW).num_rows == bucket.rows


def test_a_replay_of_the_log_changes_nothing(bucket):
    told = json.loads(bucket.script("replay", "--log", "bucket:log", "--max-changed", "0", "--json"))

    assert (told["rows"], told["changed"]["rows"]) == (bucket.rows, 0)


def test_predictions_are_read_from_there_and_published_there(bucket):
    bucket.put("day/new.parquet", bucket.project.path / paths.PREPARED / "test.parquet")

    bucket.script("predict", "--from", f"{bucket.url}/day/*.parquet", "--to", "predictions.parquet")
    bucket.script(
        "cycle", "--to", "bucket:predictions", "--from", f"{bucket.url}/day/*.parquet", "--window", "2026-01-31"
    )

    latest = json.loads(bucket.get("predictions/latest.json"))
    assert (latest["window"], latest["rows"]) == ("2026-01-31", bucket.rows)
    assert f"{bucket.url}/predictions/{latest['files'][0]}".removeprefix("s3://") in bucket.listed()


def test_the_exporter_reads_them_there(bucket, patiently):
    bucket.script("drift", "--log", "bucket:log")
    words = [sys.executable, "-m", "scripts.exporter", "--port", "0", "--log", f"{bucket.url}/log"]
    environ = bucket.project.environ(**bucket.environ)
    exporter = subprocess.Popen(words, cwd=bucket.project.path, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        place = re.search(r"http://\S+", exporter.stdout.readline())[0]
        # What it has not looked at yet has no series.
        said = patiently(
            lambda: subprocess.run(
                f"curl --fail --silent {place} | grep -v '^#' | grep -az data_drift_score",
                shell=True,
                check=False,
                capture_output=True,
                text=True,
            )
        ).stdout
    finally:
        exporter.terminate()
        exporter.communicate(timeout=30)
    series = dict(line.rsplit(" ", 1) for line in said.strip("\0").splitlines())
    assert float(series["data_drift_score"]) < 0.1
    assert {float(value) for name, value in series.items() if name.startswith("exporter_source_up")} == {1.0}
    assert any(
        float(value) == bucket.rows for name, value in series.items() if name.startswith("prediction_log_rows")
    ), said


def test_a_bucket_that_is_not_there_is_named(bucket):
    done = bucket.project.call(sys.executable, "-m", "scripts.drift", "--log", "s3://elsewhere/log", check=False, **bucket.environ)  # fmt: skip

    assert done.returncode in {2, 3}
    assert "s3://elsewhere/log" in done.stderr
    assert "Traceback" not in done.stderr
