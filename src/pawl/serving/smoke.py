"""Ask a running service for its golden rows: python -m pawl.serving.smoke --url http://127.0.0.1:8000.

Where the service wants a key, the first of PAWL_API_KEYS is sent. --watch 10 asks on for ten seconds, as a caller would.
Prints one line of JSON: {"digest", "rows", "problems"}, and of what was watched "requests", "seconds", "p99_ms".
Exit code: 0 every answer is right, 1 one is not, 3 the service does not answer.
"""

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from pawl import bundle
from pawl.problem import Problem, Unreachable
from pawl.serving.predictor import unlike
from pawl.serving.settings import listed


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Ask, and say what was found."""
    name, words = "python -m pawl.serving.smoke", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=name, description=__doc__, formatter_class=words)
    parser.add_argument("--url", required=True, help="of the service, for example http://127.0.0.1:8000")
    parser.add_argument("--wait", type=float, default=60, help="seconds in which it must be ready")
    parser.add_argument("--watch", type=float, default=0, help="seconds in which every answer must be right")
    parser.add_argument("--slowest", type=float, default=1000, help="milliseconds within which 99 %% of them must come")
    args = parser.parse_args(argv)
    try:
        manifest, files = bundle.read(Path(environ.get("PAWL_BUNDLE", "models/bundle")))
        golden = json.loads(files[bundle.GOLDEN])
        key = next(iter(listed(environ.get("PAWL_API_KEYS", ""))), "")
        wait(args.url, args.wait)
        try:
            problems = ask(args.url, manifest, golden, key)
            seen = {} if problems or not args.watch else watch(args.url, manifest, golden, key, args.watch)
            problems += seen.pop("problems", [])
            if seen and seen["p99_ms"] > args.slowest:
                problems.append(f"99 % of the answers took up to {seen['p99_ms']:g} ms, more than {args.slowest:g}")
        except OSError as error:
            raise Unreachable(f"it stopped answering: {error}", args.url, "see the service's log") from error
    except Problem as problem:
        print(problem, file=sys.stderr)  # noqa: T201 - an entry point
        return problem.code
    rows = len(golden["records"])
    print(json.dumps({"digest": manifest["digest"], "rows": rows, "problems": problems, **seen}))  # noqa: T201 - same
    return 1 if problems else 0


def wait(url: str, seconds: float) -> None:
    """Return once /readyz says yes; raise Unreachable after `seconds`."""
    until, last = time.monotonic() + seconds, "no answer"
    while time.monotonic() < until:
        try:
            status, _ = call(f"{url}/readyz")
            if status == 200:
                return
            last = f"status {status}"
        except OSError as error:
            last = str(getattr(error, "reason", error))
        time.sleep(0.2)
    raise Unreachable(f"not ready after {seconds:g} s: {last}", f"{url}/readyz", "see the service's log")


def ask(url: str, manifest: Mapping[str, Any], golden: Mapping[str, Any], key: str = "") -> list[str]:
    """Return what is wrong with the service: another model, a golden row answered otherwise, alone or among others, a malformed request let through."""
    _, identity = call(f"{url}/version")
    digest = identity.get("digest") if isinstance(identity, dict) else None
    if digest != manifest["digest"]:
        return [f"it serves {digest}, not {manifest['digest']}"]
    batches = [(0, golden["records"]), *((number, [record]) for number, record in enumerate(golden["records"]))]
    problems = answers(url, batches, manifest, golden, key)
    status, _ = call(f"{url}/predict", {"no such column": 1}, key)
    return problems + ([] if status == 422 else [f"a malformed record got status {status}, not 422"])


def watch(url: str, manifest: Mapping[str, Any], golden: Mapping[str, Any], key: str, seconds: float) -> dict[str, Any]:
    """Ask for golden rows one by one, fifty a second at most; return what was seen: {problems, requests, seconds, p99_ms}."""
    took: list[float] = []
    problems: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number = len(took) % len(golden["records"])
        started = time.perf_counter()
        try:
            problems += answers(url, [(number, [golden["records"][number]])], manifest, golden, key)
        except OSError as error:
            problems.append(f"golden row {number}: {getattr(error, 'reason', error)}")
        took.append(1000 * (time.perf_counter() - started))
        time.sleep(0.02)
    slow = sorted(took)[len(took) * 99 // 100]
    return {"problems": problems, "requests": len(took), "seconds": seconds, "p99_ms": round(slow, 1)}


def answers(url: str, batches: Iterable[tuple[int, Any]], manifest: Mapping[str, Any], golden: Mapping[str, Any], key: str) -> list[str]:  # fmt: skip
    """Return what is wrong with the answers to batches of golden rows: (number of the first, records)."""
    problems: list[str] = []
    for first, records in batches:
        status, answer = call(f"{url}/predict", records, key)
        if status != 200:
            return [*problems, f"golden row {first}: status {status}: {answer}"]
        if len(answer["predictions"]) != len(records):
            return [*problems, f"golden row {first}: {len(answer['predictions'])} answers to {len(records)} records"]
        rows = zip(answer["predictions"], answer["probabilities"] or repeat(None), strict=False)
        for number, (got, scores) in enumerate(rows, first):
            listed = scores and [scores[label] for label in manifest["labels"]]
            if wrong := unlike(manifest, golden, number, got, listed):
                alone = "alone" if len(records) == 1 else f"among {len(records)}"
                problems.append(f"golden row {number}, {alone}: {wrong}")
    return problems


def call(url: str, body: Any = None, key: str = "") -> tuple[int, Any]:
    """Return (status, JSON) of a GET, or of a POST where there is a body."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})}
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - the URL is the user's
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - same
            status, content = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, content = error.code, error.read()
    except http.client.HTTPException as error:
        raise OSError(f"not an answer of HTTP: {error!r}") from error
    try:
        return status, json.loads(content)
    except ValueError:  # another program may listen there
        return status, content[:200].decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
