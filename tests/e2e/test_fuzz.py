"""Ten thousand requests that nobody wrote: schemathesis makes three of ten from the documents, the others are golden rows, broken. uv fetches it; it is in no lock."""

import contextlib
import http.client
import json
import random
import re
import socket
import subprocess
import sys

import pytest

from pawl import bundle, tracking
from pawl.serving import smoke

pytestmark = pytest.mark.e2e
DRAWN, BROKEN = 10_000, 7_000
CONFIG = """
[[operations]]                                      # the documents cannot say that a frame's rows stand in the order of its columns
include-path = "/invocations"
checks.positive_data_acceptance.enabled = false
"""
TOKENS = [
    b"null", b"true", b"{}", b"[]", b"[null]", b'""', b'"%b"' % (b"x" * 1001), b'"%b"' % (b"\\\\" * 70_000), b'"\\ud800"', b'"\\u0000"',
    b"NaN", b"-Infinity", b"1e999", b"-1e-999", b"9" * 5000, b"0." + b"1" * 5000, b"-0", b"01", b"1.", b"0x1", b"1.5", b"3.5e38", b"5e-324",
    b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\0", b"\\", b'"', b"{", b"}", b"]", b",", b":", b"[" * 3000,
]  # fmt: skip
TYPES = ["", "text/plain", "multipart/form-data; boundary=x", "APPLICATION/JSON ; charset=latin-1", "application/jsonl", "\xff", "a" * 9000]  # fmt: skip
LENGTHS = ["-1", "+5", "1e3", "0x10", "", "5, 6", "4000001", "9" * 30, "9" * 5000]
MORE = [("Connection", "close"), ("Content-Encoding", "gzip"), ("Expect", "100-continue"), ("Upgrade", "h2c")]


@pytest.fixture(scope="module")
def url(project, tmp_path_factory):
    """The address of a service. In the end it must answer its golden rows, and have said nothing but that it started and stopped."""
    port, told = tracking.free_port(), tmp_path_factory.mktemp("log") / "log"
    url = f"http://127.0.0.1:{port}"
    with told.open("w") as log:
        service = subprocess.Popen([sys.executable, "-m", "pawl.serving"], cwd=project.path, env=project.environ(PAWL_PORT=str(port)), stderr=log)  # fmt: skip
    try:
        smoke.wait(url, 60)
        yield url
        manifest, files = bundle.read(project.path / "models/bundle")
        assert smoke.ask(url, manifest, json.loads(files[bundle.GOLDEN])) == []
    finally:
        service.terminate()
        service.wait()
    assert [json.loads(line)["event"] for line in told.read_text().splitlines()] == ["started", "stopped"]


def test_requests_made_from_the_documents_find_nothing(project, url, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    # With a database of examples, hypothesis compares each case with its best so far: the more there are, the longer each takes.
    options = f"--max-examples {DRAWN // 3} --generation-database none --continue-on-failure --no-color"
    words = f"uvx --quiet schemathesis@4.32.5 --config-file schemathesis.toml run {url}/openapi.json --url {url} {options}"  # fmt: skip
    found = subprocess.run(words.split(), cwd=tmp_path, env=project.environ(), check=False, capture_output=True, text=True)  # fmt: skip
    assert "Test cases:" in found.stdout, f"uvx could not bring schemathesis: {found.stdout}{found.stderr}"
    assert found.returncode == 0, found.stdout
    assert int(re.search(r"([\d,]+) generated", found.stdout)[1].replace(",", "")) >= DRAWN


def test_golden_rows_that_were_broken_get_an_answer_that_the_documents_name(project, url):
    documents = smoke.call(f"{url}/openapi.json")[1]["paths"]
    allowed = {path: {int(code) for code in way["post"]["responses"]} for path, way in documents.items() if "post" in way}  # fmt: skip
    golden = json.loads((project.path / "models/bundle/golden.json").read_text())["records"]
    heard = set()
    for number in range(BROKEN):
        draw = random.Random(number)
        path, records = draw.choice(sorted(allowed)), draw.choices(golden, k=draw.choice([1, 1, 1, 2, 9, 400]))
        body = broken(json.dumps(draw.choice(forms(path, records))).encode(), draw)
        head, sent, whole = framed(path, body, draw)
        for status, content in asked(int(url.rpartition(":")[2]), head + sent, whole=whole):
            heard.add(status)
            assert status in allowed[path] - {500, 503}, (number, status, content)
            assert not whole or ("predictions" if status == 200 else "error") in json.loads(content), (number, content)
            objects = []
            if whole and status == 200:  # it was JSON, and no name stood twice
                json.loads(body.decode(), object_pairs_hook=objects.append)
            assert all(len(dict(pairs)) == len(pairs) for pairs in objects), number
    assert heard >= {200, 400, 413, 415, 422}


def forms(path, records):
    """Return the bodies in which a route takes records."""
    rows = [list(each.values()) for each in records]
    frame, instances = {"columns": list(records[0]), "data": rows}, [{"instances": records}, {"instances": rows}]
    mlflow = [*instances, {"dataframe_split": frame}, {"dataframe_records": records}]
    return {"/predict": [records[0], records, {"features": rows}], "/invocations": mlflow}.get(path, instances)


def broken(body, draw):
    """Return a body after none to three accidents."""
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
        start, end = sorted(draw.choices(range(len(body) + 1), k=2))
        value = draw.choice([*re.finditer(rb'"[^"]*"|-?\d[\d.e+-]*|null|$', body)])
        pair = draw.choice([*re.finditer(rb'"[^"]*": [^,{}\[\]]+|$', body)])
        token, deep = draw.choice(TOKENS), draw.choice([1, 2, 500, 30_000])
        body = draw.choice([
            body[:start], body[:start] + body[end:], body[:end] + body[start:],
            body[:start] + draw.randbytes(1) + body[start + 1 :],
            body[:start] + token + body[start:], body[: value.start()] + token + body[value.end() :],
            body[: pair.end()] + b", " + pair[0] + body[pair.end() :],
            b"[" * deep + body + b"]" * deep, b'{"instances":' * deep + body + b"}" * deep,
            body.decode("latin-1").encode(draw.choice(["utf-16", "utf-32", "utf-8-sig"])),
        ])  # fmt: skip
    return body


def framed(path, body, draw):
    """Return (first line and headers, what is sent behind them, whether that is one whole request)."""
    size, chunked = ("Content-Length", len(body)), ("Transfer-Encoding", "chunked")
    parts = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part) + b"0\r\n\r\n"
    wrong = ("Content-Length", draw.choice([*LENGTHS, max(0, len(body) + draw.randrange(-9, 9))]))
    lies = [([wrong], body, False), ([chunked], body, False), ([size, chunked], parts, False), ([size, wrong], body, False)]  # fmt: skip
    framing, sent, whole = draw.choice([([size], body, True)] * 12 + [([chunked], parts, True)] * 3 + lies)
    name = "".join(map(chr, draw.choices([9, *range(32, 127), *range(128, 256)], k=draw.randrange(200))))
    told = [("Host", "x"), ("X-Request-ID", name), ("Content-Type", draw.choice(["application/json"] * 50 + TYPES))]
    told += draw.choices(MORE, k=draw.random() < 0.2) + framing
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in told) + "\r\n"
    return head.encode("latin-1"), sent, whole


def asked(port, request, *, whole):
    """Return [(status, content)] of the answers. Who sends no whole request says that no more comes, and may get none."""
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        if whole:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return [(answer.status, answer.read())]
        heard = b""
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
            with contextlib.suppress(OSError):  # it may have been shown out
                connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                heard += part
        return [(int(status), b"") for status in re.findall(rb"HTTP/1.1 ([2-9]\d+)", heard)]
