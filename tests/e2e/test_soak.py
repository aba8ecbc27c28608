"""Ten minutes of everything that callers do. PAWL_SOAK_SECONDS says how many instead."""

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

SECONDS = float(os.environ.get("PAWL_SOAK_SECONDS", "600"))
JSON = {"Content-Type": "application/json"}
pytestmark = pytest.mark.e2e


class Traffic:
    """What callers do, each in a thread of its own, until `over`; what they were told."""

    def __init__(self, port, records):
        self.port, self.records, self.over = port, records, threading.Event()
        self.rows, self.wrong, self.done, self.lock = 0, [], {}, threading.Lock()
        kinds = [self.single, self.single, self.batch, self.malformed, self.slow, self.broken, self.scrape]
        draws = [random.Random(number) for number in range(len(kinds))]
        self.threads = [threading.Thread(target=self.repeat, args=each) for each in zip(kinds, draws, strict=True)]

    def heard(self, what, status, expected, rows=0):
        with self.lock:
            self.done[what] = self.done.get(what, 0) + 1
            self.rows += rows if status == 200 else 0
            if status not in expected:
                self.wrong.append((what, status))

    def end(self):
        self.over.set()
        for each in self.threads:
            each.join()

    def repeat(self, kind, draw):
        kept = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.over.is_set():
            try:
                kind(kept, draw)
            except Exception as error:  # noqa: BLE001 - told by the test
                self.wrong.append((kind.__name__, repr(error)))
                kept.close()
            time.sleep(0.002)
        kept.close()

    def post(self, connection, body, path="/predict"):
        connection.request("POST", path, body, JSON)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, content

    def single(self, kept, draw):
        status, content = self.post(kept, json.dumps(draw.choice(self.records)))
        assert len(json.loads(content)["predictions"]) == 1
        self.heard("single", status, {200}, 1)

    def batch(self, kept, draw):
        count = draw.choice([2, 9, 100, 1000])
        body = json.dumps({"instances": draw.choices(self.records, k=count)})
        status, content = self.post(kept, body, draw.choice(["/invocations", "/v1/models/model:predict"]))
        assert len(json.loads(content)["predictions"]) == count
        self.heard("batch", status, {200}, count)

    def malformed(self, kept, draw):
        bad = [b"{", b"[]", b"\xff", b'{"age": "old"}', b"[" * 10_000, b'"' + b"x" * 100_000 + b'"', b"9" * 5_000]
        status, _ = self.post(kept, draw.choice(bad))
        self.heard("malformed", status, {400, 422})
        if draw.random() < 0.1:
            status = 413
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was taken
                status, _ = self.post(kept, bytes(4_000_001))
            kept.close()
            self.heard("too large", status, {413})

    def slow(self, _, draw):
        """Send a request in pieces, and take the answer late; or never send the rest."""
        body = json.dumps(draw.choice(self.records)).encode()
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as caller:
            for part in (head[:20].encode(), head[20:].encode(), body[:5]):
                caller.sendall(part)
                time.sleep(draw.random() * 0.1)
            if draw.random() < 0.5:
                caller.sendall(body[5:])
                answer = b"".join(iter(lambda: caller.recv(4096), b""))
                self.heard("slow", int(answer.split()[1]), {200}, 1)
            else:
                self.heard("given up", 0, {0})

    def broken(self, _, draw):
        """Speak no HTTP, or hang up at once."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as caller:
            caller.sendall(
                draw.choice([b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST /predict HTTP/1.1\r\n"])
            )
        self.heard("broken", 0, {0})

    def scrape(self, kept, draw):
        kept.request("GET", draw.choice(["/metrics", "/readyz", "/version", "/docs", "/nowhere"]))
        answer = kept.getresponse()
        answer.read()
        self.heard("scrape", answer.status, {200, 404})
        time.sleep(0.05)


def test_memory_and_files_stay_the_same_and_no_row_is_lost(project, tmp_path):
    """Flat: after a fifth for warming up, medians of the last quarter exceed those of the first by no more than 2 % and 2 MB, and by no 3 files."""
    log, shipped = tmp_path / "log", 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"PAWL_LOG_DIR": str(log), "PAWL_LOG_SEGMENT_BYTES": "2000000", "PAWL_LOG_SEGMENT_SECONDS": "3"}
    environ = project.environ(PAWL_PORT=str(port), PAWL_DRAIN_SECONDS="0", **settings)
    records = json.loads((project.path / "models/bundle/golden.json").read_text())["records"]
    with subprocess.Popen([sys.executable, "-m", "pawl.serving"], cwd=project.path, env=environ) as process:
        traffic = Traffic(port, records)
        try:
            ready(port, process)
            for each in traffic.threads:
                each.start()
            seen, files = [], []
            until = time.monotonic() + SECONDS
            while time.monotonic() < until and process.poll() is None:
                pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                seen.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
                files.append(len(list(Path(f"/proc/{process.pid}/fd").iterdir())))
                shipped += ship(log)
                time.sleep(0.5)
            traffic.end()
            counted = metric(port, "model_predictions_total"), metric(port, "model_log_dropped_rows_total")
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
        finally:
            traffic.over.set()
            process.kill()
    shipped += ship(log)

    quarters = lambda values: [  # noqa: E731
        statistics.median(values[len(values) * (4 + 4 * part) // 20 : len(values) * (8 + 4 * part) // 20]) for part in range(4)
    ]  # fmt: skip
    memory, opened = quarters(seen), quarters(files)
    print(f"{traffic.done}, {traffic.rows} rows; MB {memory}, files {opened}")  # noqa: T201 - what a soak saw
    assert traffic.wrong == []
    assert min(traffic.done.get(kind, 0) for kind in ("single", "batch", "malformed", "slow", "given up", "broken")) > 0
    assert counted == (traffic.rows, 0)
    assert shipped == traffic.rows
    assert code == 0
    assert memory[-1] <= memory[0] * 1.02 + 2, memory
    assert opened[-1] <= opened[0] + 2, opened


def ready(port, process):
    while process.poll() is None:
        with contextlib.suppress(OSError):
            if get(port, "/readyz")[0] == 200:
                return
        time.sleep(0.1)
    raise AssertionError(process.returncode)


def get(port, path):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def metric(port, name):
    lines = get(port, "/metrics")[1].decode().splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[1])


def ship(log):
    """Take the complete segments away, and return how many rows they had."""
    rows = 0
    for path in log.glob("*.jsonl"):
        rows += sum(1 for line in path.read_text().splitlines() if json.loads(line)["request_id"])
        path.unlink()
    return rows
