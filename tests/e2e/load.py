"""Callers of the service, from inside the cluster: python load.py URL MODELS LEAST, until a line comes in and LEAST requests were made.

Eight keep a connection each, two send a body for two seconds. MODELS names a file of {model_version: golden rows}.
failed: every request for which a connection was tried or a byte was sent, and which got no whole answer, or another status than 200. Nothing
is asked twice. Only a kept connection that is found closed before anything was sent on it is opened again, and counted as that: `reopened`.
wrong: an answer that names none of the models, or has not the numbers of the one that it names.
Prints {"requests", "failed", "wrong", "by_model", "reopened", "p50_ms", "p99_ms", "seconds", "told": of what went wrong the first}.
"""

import collections
import http.client
import json
import math
import select
import sys
import threading
import time
import urllib.parse
from pathlib import Path

FAST, SLOW, PAUSE = 8, 2, 0.01
HEADERS = {"Content-Type": "application/json"}


class Callers:
    """Threads that ask golden rows, and what they saw."""

    def __init__(self, host, models):
        self.host, self.models, self.over = host, models, threading.Event()
        self.rows = next(iter(models.values()))["records"]
        self.took, self.by, self.told = [], collections.Counter(), []
        self.asked = self.failed = self.wrong = self.reopened = 0
        self.lock = threading.Lock()
        kinds = [*[self.fast] * FAST, *[self.slow] * SLOW]
        self.threads = [threading.Thread(target=self.repeat, args=each) for each in enumerate(kinds)]

    def repeat(self, number, kind):
        connection = http.client.HTTPConnection(self.host, timeout=30)
        while not self.over.is_set():
            number = (number + 7) % len(self.rows)
            if (
                connection.sock and select.select([connection.sock], [], [], 0)[0]
            ):  # nothing was asked: it can only be the end
                connection.close()
                with self.lock:
                    self.reopened += 1
            started = time.perf_counter()
            try:
                status, content = kind(connection, json.dumps(self.rows[number]).encode())
                problem = "" if status == 200 else f"status {status}: {content[:200]}"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                problem = repr(error)
            with self.lock:
                self.asked += 1
                if kind == self.fast:
                    self.took.append(time.perf_counter() - started)
                if problem:
                    self.failed += 1
                    self.tell(problem)
                else:
                    try:
                        self.check(number, content)
                    except (ValueError, KeyError, TypeError, AttributeError) as error:
                        self.wrong += 1
                        self.tell(f"row {number}: {error!r}: {content}")
            time.sleep(PAUSE)

    def check(self, number, content):
        answer = json.loads(content)
        version, (scores,) = answer["model_version"], answer["probabilities"]
        self.by[version] += 1
        pairs = zip(scores.values(), self.models[version]["probabilities"][number], strict=True)
        if not all(math.isclose(*pair, abs_tol=1e-9) for pair in pairs):
            raise ValueError("not its numbers")

    def tell(self, what):
        if len(self.told) < 5:
            self.told.append(f"{time.strftime('%H:%M:%S')} {what}")

    def fast(self, connection, body):
        connection.request("POST", "/predict", body, HEADERS)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def slow(self, connection, body):
        connection.putrequest("POST", "/predict")
        for name, value in {**HEADERS, "Content-Length": len(body), "Connection": "close"}.items():
            connection.putheader(name, value)
        connection.endheaders()
        for number in range(10):
            time.sleep(0.2)
            connection.send(body[len(body) * number // 10 : len(body) * (number + 1) // 10])
        answer = connection.getresponse()
        return answer.status, answer.read()


def main():
    url, models, least = sys.argv[1:]
    callers = Callers(urllib.parse.urlsplit(url).netloc, json.loads(Path(models).read_text()))
    started = time.perf_counter()
    for each in callers.threads:
        each.start()
    while len(callers.took) < 100:
        time.sleep(0.05)
    print("started", flush=True)  # noqa: T201 - a program
    sys.stdin.readline()
    while len(callers.took) < int(least):
        time.sleep(0.05)
    callers.over.set()
    for each in callers.threads:
        each.join()
    took = sorted(callers.took)
    middle, slow = (round(1000 * took[len(took) * share // 100], 1) for share in (50, 99))
    seen = {
        "requests": sum(callers.by.values()) + callers.failed,
        "by_model": callers.by,
        "p50_ms": middle,
        "p99_ms": slow,
    }
    seen |= {name: getattr(callers, name) for name in ("failed", "wrong", "reopened", "told")}
    print(json.dumps(seen | {"seconds": round(time.perf_counter() - started, 1)}))  # noqa: T201 - same


if __name__ == "__main__":
    main()
