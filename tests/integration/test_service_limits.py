"""What one who means harm, or many at once, do to the service: as a process, through sockets."""

import contextlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import psutil
import pytest

from pawl import bundle, frames, tracking
from pawl.serving import smoke

# The limits are shorter than those of a service that is started as it should be: no test waits for half a minute.
START = """
import os, sys
from pawl.serving import __main__ as service, app, server
server.HEADER_SECONDS, server.REQUEST_SECONDS, server.KEEP_SECONDS, app.BODY_SECONDS = 1, 2, 3, 1
if longer := int(os.environ.get("SECONDS", "0")):
    server.HEADER_SECONDS, server.REQUEST_SECONDS, server.KEEP_SECONDS, app.BODY_SECONDS = longer, 2 * longer, 3 * longer, longer
sys.exit(service.main())
"""
HARM = 40_000_000  # bytes by which a service may grow
CLOSED = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Running:
    """A service that is ready."""

    def __init__(self, process, port):
        self.process, self.port, self.url = process, port, f"http://127.0.0.1:{port}"

    def connect(self, **options):
        made = socket.socket()
        made.settimeout(30)
        for name, value in options.items():
            made.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        made.connect(("127.0.0.1", self.port))
        return made

    def predict(self, body):
        return smoke.call(f"{self.url}/predict", body)

    @property
    def peak(self):
        """The most memory that it ever had, in bytes."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@contextlib.contextmanager
def running(folder, files=None, **environ):
    """Yield the Running service of a bundle. files: how many it may have open."""
    port = tracking.free_port()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PAWL_")} | environ
    few = ["prlimit", f"--nofile={files}"] if files else []
    with tempfile.TemporaryFile() as log, subprocess.Popen(
        [*few, sys.executable, "-c", START], stderr=log,
        env=environ | {"PAWL_BUNDLE": str(folder), "PAWL_PORT": str(port), "PAWL_DRAIN_SECONDS": "0"},
    ) as process:  # fmt: skip
        try:
            smoke.wait(f"http://127.0.0.1:{port}", 60)
            made = Running(process, port)
            yield made
            assert process.poll() is None
            assert smoke.call(f"{made.url}/readyz")[0] == 200
            process.terminate()
            assert process.wait(30) == 0
            log.seek(0)
            told = log.read().splitlines()
            assert [json.loads(line)["event"] for line in told] == ["started", "stopped"]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def folder(make_bundle, tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def service(folder):
    with running(folder) as made:
        yield made


@pytest.fixture(scope="module")
def one(make_records):
    return make_records(2)[1]


def head(length=None, path="/predict", method="POST", **headers):
    """Return the first line and the headers of a request."""
    given = {"Host": "x", "Content-Type": "application/json", "Content-Length": length, **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode()


def whole(body, **more):
    content = json.dumps(body).encode()
    return head(len(content), **more) + content


def status(connection):
    """Return (status, headers, body) of the next answer."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += (part := connection.recv(1))
        assert part, answer
    first, *lines = answer.decode().strip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = b""
    while len(body) < int(headers["content-length"]):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(first.split()[1]), headers, body


def answered(connection):
    return bool(select.select([connection], [], [], 0)[0])


WAYS = {
    "a record": whole,
    "a list of two": lambda one: whole([one, one]),
    "rows": lambda one: whole({"features": [list(one.values())]}),
    "a frame": lambda one: whole({"dataframe_records": [one]}, path="/invocations"),
    "KServe's": lambda one: whole({"instances": [one]}, path="/v1/models/model:predict"),
    "an id of the caller": lambda one: whole(one, X_Request_ID="7"),
    "a wrong value": lambda one: whole(one | {"age": "x"}),
    "no JSON": lambda _: head(3) + b"{a}",
    "another media type": lambda _: head(2, Content_Type="text/plain") + b"{}",
    "a body that is packed": lambda _: head(2, Content_Encoding="gzip") + b"{}",
    "as many as go to the thread": lambda one: whole([one] * 20),
}


@pytest.mark.parametrize("what", WAYS)
def test_a_request_in_one_piece_and_one_in_two_are_answered_alike(service, one, what):
    request = WAYS[what](one)
    end = request.index(b"\r\n\r\n") + 4
    found = []
    for cut in (len(request), end - 5, end, end + 1):  # only what is whole when it is read is answered at once
        with service.connect() as connection:
            connection.sendall(request[:cut])
            if cut < len(request):
                time.sleep(0.05)
                connection.sendall(request[cut:])
            code, headers, body = status(connection)
            told = json.loads(body)
            if b"X-Request-ID" not in request:
                told.pop("request_id", None)
            headers.pop("date")
            found.append((code, headers | {"content-length": ""}, told))
            if headers.get("connection") == "close":
                assert connection.recv(1) == b""
            else:  # it goes on, in order
                connection.sendall(whole(one) + head(0, "/healthz", "GET") + whole(one))
                assert [status(connection)[0] for _ in range(3)] == [200, 200, 200]

    assert found == [found[0]] * 4


def test_a_head_that_was_seen_before_is_no_short_cut_for_anything_else(folder, make_records):
    records = [dict(sorted(each.items())) for each in make_records(40)]
    longest = max(len(json.dumps(each)) for each in records)
    bodies = [json.dumps(each).encode().ljust(longest) for each in records]  # so that all have the same head
    with running(folder, PAWL_API_KEYS="good") as service:
        known, wrong = head(longest, X_API_Key="good"), head(longest, X_API_Key="bad")
        with service.connect() as connection:
            found = []
            for body in [*bodies, *bodies]:
                connection.sendall(known + body)
                found.append(json.loads(status(connection)[2])["probabilities"])
            connection.sendall(known + bodies[0] + known + bodies[1] + known[:30])  # in a row, and a piece
            answers = [json.loads(status(connection)[2])["probabilities"] for _ in range(2)]
            connection.sendall(known[30:] + bodies[2][:9])
            connection.sendall(bodies[2][9:])
            answers.append(json.loads(status(connection)[2])["probabilities"])
            connection.sendall(known + b"x" * longest)
            malformed = status(connection)[0]
        with service.connect() as connection:
            connection.sendall(known[:9])
            time.sleep(0.05)
            connection.sendall(known[9:] + bodies[0])  # what comes second is no head, and must not be taken for one
            split = status(connection)[0]
        codes = []
        for content in (
            known[9:] + bodies[0],
            wrong + bodies[0],
            wrong + bodies[0],
            known.replace(b"POST", b"GET ") + bodies[0],
        ):
            with service.connect() as connection:
                connection.sendall(content)
                codes.append(int(connection.recv(12).split()[1]))

    assert len({str(each) for each in found}) > 5
    assert found[:40] == found[40:]
    assert answers == found[:3]
    assert (malformed, split) == (400, 200)
    assert codes == [400, 401, 401, 405]


@pytest.mark.parametrize("how", ["with its length", "in chunks"])
def test_a_hundred_megabytes_are_refused_and_not_kept(service, how):
    before, megabyte = service.peak, b"[" * 1_000_000
    connections = [service.connect() for _ in range(4)]
    length = {"length": 100_000_000} if how == "with its length" else {"Transfer_Encoding": "chunked"}
    for connection in connections:
        connection.sendall(head(**length))
        with contextlib.suppress(OSError):  # it is closed while we send
            for _ in range(100):
                if answered(connection):
                    break
                connection.sendall(megabyte if "length" in length else b"f4240\r\n%b\r\n" % megabyte)
        found, headers, body = status(connection)
        connection.close()
        assert (found, headers["connection"]) == (413, "close")
        assert json.loads(body) == {"error": "the body is larger than 4,000,000 bytes", "fields": []}

    assert service.peak - before < HARM


CHUNKED = head(Transfer_Encoding="chunked") + b"1\r\n1\r\n"


@pytest.mark.parametrize("first", [b"POST /predict HTTP/1.1\r\n", CHUNKED + b"0\r\n", CHUNKED + b"1;"])
def test_endless_headers_trailers_and_extensions_are_refused_and_not_kept(service, first):
    before = service.peak
    for line in (b"a: b\r\n" * 100_000, b"a" * 1_000_000):
        connection, sent = service.connect(), 0
        with contextlib.suppress(ConnectionError):
            connection.sendall(first)
            for _ in range(200):
                connection.sendall(line)
                sent += len(line)
        connection.close()
        assert sent < 20_000_000

    assert service.peak - before < HARM


def test_bodies_that_do_not_end_are_kept_up_to_a_limit(folder, one):
    part = b" " * 3_900_000
    with running(folder, SECONDS="5") as service:  # in which all of them have begun
        before = service.peak
        connections = [service.connect() for _ in range(60)]
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(head(4_000_000) + part)
        assert service.predict(one)[0] == 200
        found = set()
        for connection in connections:
            with contextlib.suppress(ConnectionResetError):  # it was answered while we still sent
                found.add(status(connection)[0])
            connection.close()

        assert found == {408, 503}
        assert service.peak - before < HARM + 64_000_000


def slow(service, one):
    """Yield (what it does, connections, bytes that it sends again and again)."""
    good = whole(one)
    kinds = {
        "says nothing": (b"", b""),
        "says new lines": (b"", b"\r\n"),
        "does not end its first line": (b"POST /pre", b"d"),
        "does not end its headers": (head()[:-2], b"a: b\r\n"),
        "begins no body": (head(100), b""),
        "does not end its body": (head(1000) + b"{", b" "),
        "does not end its chunks": (head(Transfer_Encoding="chunked"), b"1\r\n \r\n"),
        "does not end a body that was refused": (head(1000, Content_Type="text/plain"), b" "),
        "stops within a body that was refused": (head(1000, path="/nowhere") + b"{", b""),
        "does not end a body that nobody reads": (head(1000, "/healthz", "GET"), b" "),
        "stops in a second request": (good + good[:-20], b""),
        "says new lines after a request": (good, b"\r\n"),
    }
    for kind, (first, again) in kinds.items():
        connections = [service.connect() for _ in range(33)]
        for connection in connections:
            connection.sendall(first)
        yield kind, connections, again
    many = whole([one] * 1000)
    connections = [service.connect(SO_RCVBUF=4096) for _ in range(4)]
    for connection in connections:
        connection.settimeout(0)
    yield "takes no answer", connections, many


def test_who_is_slow_is_shown_out_and_others_are_answered_meanwhile(folder, one):
    with running(folder) as service:
        left = {connection: (kind, again) for kind, made, again in slow(service, one) for connection in made}
        assert len(left) == 400
        until = time.monotonic() + 60
        while left and time.monotonic() < until:
            assert service.predict(one)[0] == 200
            assert smoke.call(f"{service.url}/readyz")[0] == smoke.call(f"{service.url}/healthz")[0] == 200
            poll = select.poll()
            for connection in left:
                poll.register(connection, select.POLLRDHUP)
            gone = {number for number, what in poll.poll(100) if what & CLOSED}
            for connection, (_, again) in list(left.items()):
                if connection.fileno() in gone:
                    connection.close()
                    del left[connection]
                else:
                    with contextlib.suppress(OSError):
                        connection.send(again)
        assert {kind for kind, _ in left.values()} == set()
        assert not [each for each in psutil.Process(service.process.pid).net_connections() if each.status == "ESTABLISHED"]  # fmt: skip


def test_a_body_that_stops_is_answered_before_the_connection_is_closed(service):
    connection = service.connect()
    connection.sendall(head(1000) + b"{")
    connection.sendall(b" ")

    found, headers, body = status(connection)

    assert (found, headers["connection"]) == (408, "close")
    assert list(json.loads(body)) == ["error", "fields"]
    connection.close()


def test_bodies_that_do_not_arrive_keep_nobody_else_out(folder, one):
    with running(folder, PAWL_MAX_WAITING="10") as service:
        connections = [service.connect() for _ in range(100)]
        for number, connection in enumerate(connections):
            connection.sendall(head(1000) + b"{" * (number % 2))

        assert [service.predict(one)[0] for _ in range(20)] == [200] * 20
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("rows", [1, 20])
def test_more_than_may_wait_are_told_to_come_again(folder, one, rows):
    with running(folder, PAWL_MAX_WAITING="30") as service:
        connections = [service.connect() for _ in range(500)]
        for connection in connections:  # it knows each of them
            connection.sendall(head(path="/healthz", method="GET"))
            assert status(connection)[0] == 200
        service.process.send_signal(signal.SIGSTOP)  # all arrive at once
        for connection in connections:
            connection.sendall(whole([one] * rows))
        service.process.send_signal(signal.SIGCONT)
        found = [status(connection) for connection in connections]

        assert {each[0] for each in found} == {200, 503}
        for code, headers, body in found:
            assert headers.get("retry-after") == ("1" if code == 503 else None)
            assert code == 200 or json.loads(body)["error"].endswith("try again")
        for connection in connections:  # and it has recovered
            connection.sendall(whole(one))
            assert status(connection)[0] == 200
            connection.close()


def test_five_hundred_connections_at_once_are_all_answered(service, one):
    connections = [service.connect() for _ in range(500)]
    for _ in range(5):
        for connection in connections:
            connection.sendall(whole(one))
        assert {status(connection)[0] for connection in connections} <= {200, 503}
    for connection in connections:
        connection.close()

    assert service.predict(one)[0] == 200


@pytest.mark.e2e
def test_ten_thousand_connections_at_once_are_answered_or_told_to_come_again(folder, one):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the service gets the same
    with running(folder, SECONDS="60") as service:  # to connect takes its time
        connections = [service.connect() for _ in range(min(10_000, most - 200))]
        for _ in range(2):
            service.process.send_signal(signal.SIGSTOP)  # all arrive at once
            for connection in connections:
                connection.sendall(whole(one))
            service.process.send_signal(signal.SIGCONT)
            found = [status(connection) for connection in connections]
            assert {each[0] for each in found} <= {200, 503}
            assert sum(each[0] == 200 for each in found) >= 500
            assert all(headers["retry-after"] for code, headers, _ in found if code == 503)
        for connection in connections:
            connection.close()
        assert service.predict(one)[0] == 200


def test_more_connections_than_files_may_be_open_are_survived(folder, one):
    with running(folder, files=100) as service:
        connections = [service.connect() for _ in range(300)]
        time.sleep(0.2)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(whole(one))
        for connection in connections:
            connection.close()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                if service.predict(one)[0] == 200:
                    break
        assert service.predict(one)[0] == 200


NOISE = {
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "another version": b"GET / HTTP/9.9\r\n\r\n",
    "no number of bytes": b"POST /predict HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    "less than no bytes": b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST /predict HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n1",
    "a length and chunks": b"POST /predict HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a path that is none": b"GET \xff\xfe HTTP/1.1\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
}


@pytest.mark.parametrize("noise", NOISE)
def test_what_is_no_request_is_turned_away(service, noise, one):
    connection = service.connect()
    connection.sendall(NOISE[noise])
    connection.shutdown(socket.SHUT_WR)
    told = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65_536):
            told += part
    connection.close()

    assert b" 200 " not in told
    assert b" 500 " not in told
    assert service.predict(one)[0] == 200


def test_requests_one_behind_the_other_are_answered_in_order(service, make_records):
    records = make_records(100)
    connection = service.connect()
    connection.sendall(b"".join(whole(each, X_Request_ID=number) for number, each in enumerate(records)))

    answers = [json.loads(status(connection)[2]) for _ in records]

    assert [each["request_id"] for each in answers] == [str(number) for number in range(100)]
    together = service.predict(records)[1]["predictions"]
    assert [each["predictions"][0] for each in answers] == together
    connection.close()


@pytest.mark.parametrize("offer", [{"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2_Settings": "AAMAAABk"}, {"Connection": "Upgrade", "Upgrade": "websocket"}, {"Expect": "100-continue"}])  # fmt: skip
def test_who_offers_another_protocol_or_asks_before_it_sends_is_answered(service, one, offer):
    connection = service.connect()
    content = json.dumps(one).encode()
    connection.sendall(head(len(content), **offer))
    if "Expect" in offer:
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(content)

    assert status(connection)[0] == 200
    connection.close()


def test_mlflows_own_client_is_answered_as_the_pipeline_does(service, folder, make_records):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    loaded, records = bundle.load(folder), make_records(300)
    client = ScoringServerClient("127.0.0.1", service.port)
    frame = frames.from_records(records, loaded.dtypes).astype({"member": object})
    frame["member"] = [each["member"] for each in records]
    assert frame.isna().to_numpy().any()  # which it writes as NaN

    client.wait_server_ready(timeout=30)
    answers = client.invoke(frame[["colour", *(name for name in frame if name != "colour")]]).get_predictions()

    labels, probabilities = loaded.predict_records(records)
    assert answers["predictions"].tolist() == labels
    named = [dict(zip(loaded.manifest["labels"], row, strict=True)) for row in probabilities.tolist()]
    assert answers["probabilities"].tolist() == named
    assert json.loads(client.get_version())["digest"] == loaded.digest
