"""A candidate is asked what was asked in production: what it would answer otherwise, and what it would refuse."""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from scipy.stats import binomtest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from pawl import bundle
from pawl.serving import app, predictor
from pawl.serving.log import PredictionLog
from pawl.serving.settings import Settings
from scripts import replay, ship

TASKS = ["binary", "multiclass", "regression"]
KEY = "a key of the candidate"


@pytest.fixture(scope="module")
def bundles(make_bundle, tmp_path_factory):
    """Bundles by task, and others of the same tasks that answer otherwise; each is made when it is asked for."""
    folder = tmp_path_factory.mktemp("bundles")

    class Made(dict):
        def __missing__(self, name):
            task = name.removeprefix("other ")
            forest = RandomForestRegressor if task == "regression" else RandomForestClassifier
            self[name] = make_bundle(folder / name, task, estimator=forest if name != task else None)
            return self[name]

    return Made()


@pytest.fixture(scope="module")
def records(make_records):
    """Rows as training did not have them: each column has an order of its own."""
    columns = {name: [each[name] for each in make_records(200)] for name in make_records(1)[0]}
    for number, cells in enumerate(columns.values()):
        random.Random(number).shuffle(cells)
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


@pytest.fixture
def write(bundles, records, tmp_path):
    """Return a function that lets a bundle answer records, and its log keep that; it returns the log's folder."""

    def written(task="binary", given=records, requests=4, **settings):
        folder = tmp_path / "log"
        served = predictor.load(bundles[task])
        log = PredictionLog(Settings(log_dir=str(folder), **settings), list(served.manifest["features"]), f"{task} 3", pytest.fail)  # fmt: skip
        rows = [tuple(each.values()) for each in given]
        for number in range(requests):
            part = rows[number::requests]
            log.write(f"request {number}", part, *served.predictor.many(part))
        log.close()
        return folder

    return written


@pytest.fixture
def ask(capsys):
    """Return a function that calls the script; it returns what --json prints, or what is told where it ends otherwise."""

    def asked(log, *words, code=0, environ=None, json_=True):
        assert replay.main(["--log", str(log), *map(str, words), *(["--json"] if json_ else [])], environ or {}) == code
        told = capsys.readouterr()
        return told.err if code > 1 else json.loads(told.out) if json_ else told.out

    return asked


def lines(folder):
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def rewrite(folder, change):
    """Let the only segment hold what `change` makes of its lines."""
    (segment,) = folder.glob("*.jsonl")
    found = [json.dumps(change(number, line)) for number, line in enumerate(lines(folder))]
    segment.write_text("\n".join(found) + "\n")


def offline(folder, kept):
    """Return what the pipeline of a bundle answers to lines of a log: predictions, and probabilities or None."""
    return bundle.load(folder).predict_records([each["features"] for each in kept])


def test_the_model_that_answered_answers_its_own_log_bit_for_bit(bundles, records, tmp_path, ask):
    log = tmp_path / "log"
    service = app.create_app(predictor.load(bundles["binary"]), Settings(log_dir=str(log), model_version="3"))
    with TestClient(service) as client:
        for asked in (records[0], records[1:40], records[40:]):
            assert client.post("/predict", json=asked).status_code == 200
        assert ask(log, "--bundle", bundles["binary"], code=2).startswith("error: there is no complete segment")

    told = ask(log, "--bundle", bundles["binary"])

    assert told["candidate"] == bundle.digest_of(bundles["binary"])
    assert [told["rows"], told["same"], told["changed"]["rows"]] == [200, 200, 0]
    assert told["versions"] == {"3": 200}
    assert told["difference"] == {"mean": 0, "quantiles": {"0.5": 0, "0.9": 0, "0.99": 0}, "largest": 0}
    said = ask(log, "--bundle", bundles["binary"], "--max-changed", 0, json_=False)
    assert "every answer is the same" in said
    assert said.endswith("\n✅ 0.00% of the rows get another label; 0.00% may.\n")


@pytest.mark.parametrize("task", TASKS)
def test_the_same_bundle_is_the_same_and_another_differs_as_counted_by_itself(bundles, write, tmp_path, ask, task):
    log = write(task, log_segment_bytes=10_000)
    kept = lines(log)
    assert len(list(log.glob("*.jsonl"))) > 2
    now, scores = offline(bundles[f"other {task}"], kept)
    was = [each["prediction"] for each in kept]
    apart = np.abs(np.array(now) - was) if scores is None else np.abs(scores - [each["probabilities"] for each in kept]).max(axis=1)  # fmt: skip

    assert ask(log, "--bundle", bundles[task])["same"] == 200
    told = ask(log, "--bundle", bundles[f"other {task}"], "--out", tmp_path / "new/rows.parquet")

    assert [told["rows"], told["damaged"], told["versions"]] == [200, 0, {f"{task} 3": 200}]
    assert told["same"] < 200
    assert told["difference"]["mean"] == pytest.approx(apart.mean(), rel=1e-12)
    assert told["difference"]["largest"] == apart.max()
    for share, value in told["difference"]["quantiles"].items():
        assert value == float(f"{np.quantile(apart, float(share), method='inverted_cdf'):.2e}")
    stamps = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(each["time"])) for each in kept]
    assert [told["from"], told["to"]] == [min(stamps), max(stamps)]
    if task == "regression":
        assert "changed" not in told
    else:
        moves = Counter((one, other) for one, other in zip(was, now, strict=True) if one != other)
        assert {(each["was"], each["now"]): each["rows"] for each in told["changed"]["labels"]} == moves
        assert told["changed"]["rows"] == moves.total() > 1
        interval = binomtest(moves.total(), 200).proportion_ci(method="wilson")
        assert [told["changed"][each] for each in ("share", "low", "high")] == pytest.approx([moves.total() / 200, *interval])  # fmt: skip
    rows = {
        (each["request_id"], each["row"]): each for each in pq.read_table(tmp_path / "new/rows.parquet").to_pylist()
    }
    assert len(rows) == 200
    for line, answer, distance in zip(kept, now, apart, strict=True):
        row = rows[line["request_id"], line["row"]]
        assert [row["was"], row["now"], row["difference"], row["refused"]] == [
            line["prediction"],
            answer,
            distance,
            None,
        ]
        assert [row["time"], row["model_version"]] == [line["time"], f"{task} 3"]
        assert row["same"] == (distance == 0 and line["prediction"] == answer)


def test_a_line_that_is_none_is_counted_and_costs_no_other(bundles, write, ask):
    (segment,) = (log := write()).glob("*.jsonl")
    whole = segment.read_bytes().splitlines()
    line = json.loads(whole[0])
    damaged = [b"", b"\xff\xfe", whole[0][:-20], b"[]", b"[" * 9999, b'{"time": 1}']
    damaged += [json.dumps(line | change).encode() for change in ({"time": -1}, {"features": [1]}, {"prediction": None}, {"row": "x"}, {"time": 1e300})]  # fmt: skip
    segment.write_bytes(b"\n".join([*whole[:100], *damaged, *whole[100:], whole[0][:40]]))

    told = ask(log, "--bundle", bundles["binary"])

    assert [told["rows"], told["same"], told["damaged"]] == [200, 200, len(damaged) + 1]
    assert f"{len(damaged) + 1} of the lines, left out" in ask(log, "--bundle", bundles["binary"], json_=False)
    segment.write_bytes(b"\n".join(damaged))
    assert ask(log, "--bundle", bundles["binary"], code=2).startswith(f"error: no row in the log can be read, of {len(damaged)}")  # fmt: skip


def test_a_segment_that_is_still_written_and_other_files_are_left_out(bundles, write, ask):
    (segment,) = (log := write()).glob("*.jsonl")
    (log / f"{segment.name}.open").write_bytes(segment.read_bytes())
    (log / "notes.jsonl").write_bytes(segment.read_bytes())

    assert ask(log, "--bundle", bundles["binary"])["rows"] == 200
    segment.unlink()
    assert "one that ends in .open is complete after" in ask(log, "--bundle", bundles["binary"], code=2)
    assert "no complete segment" in ask(log / "nowhere", "--bundle", bundles["binary"], code=2)


def test_the_newest_rows_are_taken_from_where_they_were_shipped(bundles, write, tmp_path, ask, capsys):
    (segment,) = (log := write(requests=1)).glob("*.jsonl")
    for name, first in (("20260131T235959Z-0a0b-1", 0), ("20260201T000001Z-0a0b-2", 1000)):
        changed = [
            json.dumps(line | {"time": first + number}) for number, line in enumerate(lines(log)) if number < 100
        ]
        (tmp_path / f"predictions-{name}.jsonl").write_text("\n".join(changed) + "\n")
    segment.unlink()
    kept = (tmp_path / "kept").as_uri()
    assert ship.main(["--from", str(tmp_path), "--to", kept]) == 0

    capsys.readouterr()

    for rows, first, last in (
        (30, "00:16:40", "00:17:09"),
        (101, "00:00:00", "00:18:19"),
        (999, "00:00:00", "00:18:19"),
    ):
        told = ask(kept, "--bundle", bundles["binary"], "--rows", rows)
        assert [told["rows"], told["same"]] == [min(rows, 200)] * 2
        assert [told["from"], told["to"]] == [f"1970-01-01T{first}Z", f"1970-01-01T{last}Z"]


@pytest.fixture(scope="module")
def running(bundles, tmp_path_factory):
    """The other bundle, as a service that wants a key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PAWL_", "COV_"))}
    environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PAWL_BUNDLE": str(bundles["other binary"])}
    environ |= {"PAWL_PORT": str(port), "PAWL_API_KEYS": KEY, "PAWL_DRAIN_SECONDS": "0"}
    told = tmp_path_factory.mktemp("running") / "told"
    with told.open("w") as stream, subprocess.Popen([sys.executable, "-m", "pawl.serving"], env=environ, stderr=stream) as process:  # fmt: skip
        url, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
        try:
            while True:
                assert process.poll() is None and time.monotonic() < until, told.read_text()  # noqa: PT018 - one message
                try:
                    with urllib.request.urlopen(f"{url}/readyz"):
                        break
                except OSError:
                    time.sleep(0.05)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def test_a_service_that_runs_beside_is_asked_and_found_as_its_bundle_is(bundles, write, running, ask):
    log, key = write(), {"PAWL_API_KEYS": f"{KEY}, another"}
    rewrite(log, lambda number, line: line | {"features": line["features"] | ({"new": 1} if number % 4 == 0 else {})})

    told = ask(log, "--url", f"{running}/", environ=key)

    assert told == ask(log, "--bundle", bundles["other binary"])
    assert told["refused"]["rows"] == 50
    assert told["changed"]["rows"] > 1
    assert ask(log, "--url", running, code=2).startswith("error: the candidate wants an API key")


def test_rows_with_long_texts_are_asked_in_parts_that_a_service_takes(records, write, running, ask):
    long = [each | {"colour": "🐎" * 1000, "column_0": "é" * 1000} for each in records]
    log = write(given=long * 2, requests=1)

    told = ask(log, "--url", running, environ={"PAWL_API_KEYS": KEY})

    assert [told["rows"], told["refused"]["rows"]] == [400, 0]


@pytest.mark.parametrize(("status", "answers", "said"), [
    (200, {"/version": {}}, "what answers is no service of a bundle"),
    (404, {}, "the candidate answers /version with status 404"),
    (200, {"/predict": {"predictions": ["no"], "probabilities": None}}, "the candidate does not answer each of 200 rows"),
    (200, {"/predict": []}, "the candidate answers /predict with status 200"),
])  # fmt: skip
def test_what_does_not_answer_as_a_candidate_is_told(bundles, write, ask, status, answers, said):
    manifest = json.loads((bundles["binary"] / bundle.MANIFEST).read_text())
    told = {"/version": {"digest": "sha256:1", "features": manifest["features"]}} | answers

    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(told[self.path]).encode())

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        error = ask(write(), "--url", f"http://127.0.0.1:{server.server_port}", code=3)
        server.shutdown()

    assert f"error: {said}" in error


def test_nobody_at_the_address_is_told(write, ask):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"

        assert ask(write(), "--url", url, code=3).startswith("error: the candidate does not answer: ")


def test_a_row_that_the_candidate_refuses_is_counted_with_its_reason(bundles, write, tmp_path, ask):
    log = write()

    def change(number, line):
        features = dict(line["features"])
        if number % 10 == 1:
            del features["colour"]
        if number % 10 in {1, 2}:
            features["color"] = "red"
        if number % 10 == 3:
            features["age"] = "forty"
        return line | {"features": features}

    rewrite(log, change)
    told = ask(log, "--bundle", bundles["binary"], "--out", tmp_path / "rows.parquet")

    assert [told["rows"], told["same"], told["refused"]["rows"]] == [200, 140, 60]
    assert told["refused"]["reasons"] == {
        "color: no such column; colour?; colour: missing: give null where the value is not known": 20,
        "color: no such column; colour?": 20, "age: a whole number or null is needed, not a text": 20,
    }  # fmt: skip
    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert Counter(each["refused"] for each in rows) == Counter({None: 140, **told["refused"]["reasons"]})
    assert [told["changed"]["share"], ask(log, "--bundle", bundles["binary"], "--max-changed", 0.3)["allowed"]] == [0, True]  # fmt: skip
    said = ask(log, "--bundle", bundles["binary"], "--max-changed", 0.29, code=1, json_=False)
    assert "  refused         60\n" in said
    assert "20: age: a whole number or null is needed, not a text\n" in said
    assert said.endswith("\n❌ 30.00% of the rows get another label, or none; 29.00% may.\n")


def test_every_row_may_be_refused(bundles, write, ask):
    log = write()
    rewrite(log, lambda _, line: line | {"features": line["features"] | {"new": 1}})

    told = ask(log, "--bundle", bundles["binary"], "--max-changed", 0.5, code=1)

    assert told["refused"] == {"rows": 200, "reasons": {"new: no such column": 200}}
    assert "changed" not in told


def test_a_log_without_columns_cannot_be_replayed_and_they_are_named(bundles, write, ask):
    error = ask(write(log_without="colour, age"), "--bundle", bundles["binary"], code=2)

    assert error.startswith("error: these rows cannot be replayed: none has age, colour\n")
    assert "PAWL_LOG_WITHOUT" in error


def test_the_verdict_is_no_from_the_first_label_more_than_may_change(bundles, write, tmp_path, ask):
    log, other = write(), ("--bundle", bundles["other binary"])
    changed = ask(log, *other)["changed"]["rows"]

    for most, code in ((changed / 200, 0), ((changed - 1) / 200, 1), (1, 0)):
        out = tmp_path / "found.json"
        told = ask(log, *other, "--max-changed", most, "--out", out, code=code)
        assert [told["allowed"], told["max_changed"]] == [code == 0, most]
        assert json.loads(out.read_text()) == told
        last = ask(log, *other, "--max-changed", most, code=code, json_=False).splitlines()[-1]
        assert last == f"{'❌' if code else '✅'} {changed / 200:.2%} of the rows get another label; {most:.2%} may."


@pytest.mark.parametrize(("task", "candidate", "words", "said"), [
    ("regression", "regression", ["--max-changed", 0.1], "values are answered, and --max-changed is a share of labels"),
    ("regression", "binary", [], "labels and values cannot be compared"),
    ("multiclass", "regression", [], "labels and values cannot be compared"),
])  # fmt: skip
def test_what_cannot_be_compared_is_told(bundles, write, ask, task, candidate, words, said):
    assert ask(write(task), "--bundle", bundles[candidate], *words, code=2).startswith(f"error: {said}\n")


def test_other_labels_are_changed_labels_without_a_difference(bundles, write, ask):
    told = ask(write(), "--bundle", bundles["multiclass"])

    assert told["changed"]["rows"] == 200
    assert "difference" not in told


def test_a_threshold_that_moved_changes_labels_where_no_probability_changed(bundles, write, ask):
    log = write()
    other = {"yes": "no", "no": "yes"}
    rewrite(log, lambda number, line: line | {"prediction": other[line["prediction"]] if number < 10 else line["prediction"]})  # fmt: skip

    told = ask(log, "--bundle", bundles["binary"])

    assert [told["same"], told["changed"]["rows"], told["difference"]["largest"]] == [190, 10, 0]


@pytest.mark.parametrize("words", [["--rows", "0"], ["--max-changed", "2"], ["--out", "rows.csv"], ["--url", "http://x", "--bundle", "y"]])  # fmt: skip
def test_words_that_mean_nothing_are_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        replay.main(["--log", ".", *words])

    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_place_that_does_not_answer_is_told(bundles, write, ask, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    def gone(*_, **__):
        raise FileNotFoundError("taken away")

    monkeypatch.setattr(LocalFileSystem, "open", gone)

    error = ask(write(), "--bundle", bundles["binary"], code=3)

    assert error.startswith("error: the log cannot be read: FileNotFoundError: taken away\n  where: /")
    assert ask("nosuch://log", "--bundle", bundles["binary"], code=2).startswith("error: nosuch://log cannot be used")


def test_what_cannot_be_written_is_told_and_what_was_found_earlier_does_not_stay(bundles, write, tmp_path, ask):
    log, (out, folder) = write(), (tmp_path / "rows.parquet", tmp_path / "folder.json")
    out.write_text("of an earlier one")
    folder.mkdir()

    ask(log, "--bundle", bundles["regression"], "--out", out, code=2)

    assert not out.exists()
    for path in (folder, tmp_path / "log" / next(log.glob("*.jsonl")).name / "below.json"):
        assert ask(log, "--out", path, code=2).startswith("error: nothing can be written there: ")


def test_a_share_that_floats_cannot_hold_is_met_exactly(bundles, write, ask):
    log = write()
    rewrite(log, lambda number, line: line | {"features": line["features"] | ({"new": 1} if number < 58 else {})})

    assert ask(log, "--bundle", bundles["binary"], "--max-changed", 0.29)["allowed"]  # 0.29 * 200 is less than 58


def test_a_folder_without_a_bundle_is_told(write, tmp_path, ask):
    assert ask(write(), "--bundle", tmp_path, code=2).startswith("error: not a complete bundle")
