"""`python -m scripts.exporter`: what Prometheus reads of what lies there, and of what does not."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

DRIFT = {
    "version": 1, "verdict": "drift", "headline": "", "window": {"name": "", "since": "2026-01-30T00:00:00Z", "until": "2026-01-31T00:00:00Z"}, "drift_share": 0.25,
    "performance": {"metric": "accuracy", "reference": {"value": 0.83}, "current": {"value": 0.75}, "loss": 0.08, "low": 0.05, "high": 0.11},
}  # fmt: skip
PERFORMANCE = {"model_metric{metric=accuracy}": 0.75, "model_accuracy": 0.75, "model_metric_loss{metric=accuracy}": 0.08, "model_metric_loss_least{metric=accuracy}": 0.05}  # fmt: skip


@pytest.fixture
def exporter(tmp_path):
    """Return a function that starts it in a folder, and gives a function that waits for a state of its series."""
    started = []

    def start(*words, **environ):
        inside = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **environ}
        command = [sys.executable, "-m", "scripts.exporter", "--port", "0", "--every", "0.2", *words]
        process = subprocess.Popen(command, cwd=tmp_path, env=inside, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        started.append(process)
        url = process.stdout.readline().strip()

        def until(holds):
            for _ in range(300):
                with urllib.request.urlopen(url, timeout=10) as answer:
                    lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if line[0] != "#"]
                found = {name.replace('"', ""): float(value) for name, _, value in lines}
                if holds(found):
                    return found
                time.sleep(0.1)
            raise AssertionError(found)

        until.process, until.url = process, url
        return until

    yield start
    for process in started:
        process.kill()
        process.communicate()


def write(folder, name, content):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_what_is_not_there_has_no_series(exporter, tmp_path):
    found = exporter("--log", str(tmp_path / "log"))(lambda found: "prediction_log_rows" in found)

    assert found == {"exporter_source_up{source=drift}": 1, "exporter_source_up{source=model}": 1, "exporter_source_up{source=log}": 1, "prediction_log_rows": 0}  # fmt: skip


def test_what_drift_found_and_when_the_model_was_trained(exporter, tmp_path):
    write(tmp_path, "reports/drift.json", DRIFT)
    write(tmp_path, "models/made_by.json", {"ended": 1700000000.5})
    until = exporter()
    verdicts = {f"data_drift_verdict{{verdict={name}}}": float(name == "drift") for name in ("drift", "no drift", "insufficient data")}  # fmt: skip
    up = {"exporter_source_up{source=drift}": 1, "exporter_source_up{source=model}": 1}

    assert until(lambda found: "model_trained_timestamp_seconds" in found) == {
        **up, **verdicts, **PERFORMANCE, "data_drift_score": 0.25, "data_drift_timestamp_seconds": 1769817600, "model_trained_timestamp_seconds": 1700000000.5,
    }  # fmt: skip
    write(tmp_path, "reports/drift.json", DRIFT | {"verdict": "insufficient data", "drift_share": None, "performance": None})  # fmt: skip
    found = until(lambda found: found.get("data_drift_verdict{verdict=insufficient data}"))
    assert not found.keys() & {"data_drift_score", *PERFORMANCE}


@pytest.mark.parametrize("content", ["{", "[]", "{}", DRIFT | {"verdict": "maybe"}, DRIFT | {"drift_share": "much"}], ids=str)  # fmt: skip
def test_a_report_that_cannot_be_read_is_no_series_and_is_said(exporter, tmp_path, content):
    write(tmp_path, "reports/drift.json", content)
    until = exporter()

    found = until(lambda found: "exporter_source_up{source=model}" in found)
    until.process.send_signal(signal.SIGTERM)
    _, said = until.process.communicate(timeout=60)

    assert found == {"exporter_source_up{source=drift}": 0, "exporter_source_up{source=model}": 1}
    assert until.process.returncode == 0
    assert json.loads(said.splitlines()[0]) | {"time": "", "why": ""} == {"event": "source cannot be read", "source": "drift", "time": "", "why": ""}  # fmt: skip


def test_a_row_of_the_log_is_counted_once_wherever_its_segment_goes(exporter, tmp_path):
    write(tmp_path, "log/20260131/predictions-20260131T000000Z-a-1.jsonl", "{}\n" * 3)
    write(tmp_path, "log/predictions-20260131T000500Z-a-2.jsonl.open", "{}\n")
    write(tmp_path, "log/history.jsonl", "{}\n")
    until = exporter("--log", str(tmp_path / "log"))
    until(lambda found: found.get("prediction_log_rows") == 3)

    write(tmp_path, "log/predictions-20260131T000500Z-a-2.jsonl", "{}\n" * 2)
    until(lambda found: found["prediction_log_rows"] == 5)
    (tmp_path / "log/predictions-20260131T000500Z-a-2.jsonl").rename(tmp_path / "log/20260131/predictions-20260131T000500Z-a-2.jsonl")  # fmt: skip
    write(tmp_path, "log/20260131/predictions-20260131T001000Z-a-3.jsonl", "{}\n" * 4)

    assert until(lambda found: found["prediction_log_rows"] > 5)["prediction_log_rows"] == 9


@pytest.mark.parametrize(("ended", "status"), [(["cancelled", "failure", "success"], 0), (["success", "failure"], 1), (["skipped"], None)])  # fmt: skip
def test_how_the_last_retraining_ended(exporter, hub, ended, status):
    asked = []
    runs = {"workflow_runs": [{"conclusion": each} for each in ended]}
    hub.route = lambda *request: asked.append(request[1:3]) or (200, runs, "")
    until = exporter(GITHUB_API_URL=hub.url, GITHUB_REPOSITORY=hub.name, GH_TOKEN="secret")

    found = until(lambda found: "exporter_source_up{source=retrain}" in found)

    assert found.get("retrain_last_status") == status
    assert found["exporter_source_up{source=retrain}"] == 1
    assert asked[0] == (
        "/repos/octo/model/actions/workflows/retrain.yml/runs",
        {"status": "completed", "per_page": "20"},
    )


def test_a_port_that_is_taken_is_named(exporter, capfd):
    from scripts import exporter as script

    until = exporter()
    until(lambda found: found)
    port = re.search(r":(\d+)/", until.url)[1]

    assert script.main(["--port", port]) == 2
    assert f"127.0.0.1:{port}" in capfd.readouterr().err
