"""Ask a running service for its golden rows: python -m pawl.serving.smoke --url http://127.0.0.1:8000.

Where the service wants a key, the first of PAWL_API_KEYS is sent. Prints one line of JSON: {"digest", "rows", "problems"}.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pawl import bundle
from pawl.problem import Problem, Unreachable
from pawl.serving.predictor import near
from pawl.serving.settings import listed


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Ask, and say what was found."""
    name, words = "python -m pawl.serving.smoke", argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=name, description=__doc__, formatter_class=words)
    parser.add_argument("--url", required=True, help="of the service, for example http://127.0.0.1:8000")
    parser.add_argument("--wait", type=float, default=60, help="seconds in which it must be ready")
    args = parser.parse_args(argv)
    try:
        manifest, files = bundle.read(Path(environ.get("PAWL_BUNDLE", "models/bundle")))
        golden = json.loads(files[bundle.GOLDEN])
        key = next(iter(listed(environ.get("PAWL_API_KEYS", ""))), "")
        wait(args.url, args.wait)
        try:
            problems = ask(args.url, manifest, golden, key)
        except OSError as error:
            raise Unreachable(f"it stopped answering: {error}", args.url, "see the service's log") from error
    except Problem as problem:
        print(problem, file=sys.stderr)  # noqa: T201 - an entry point
        return problem.code
    rows = len(golden["records"])
    print(json.dumps({"digest": manifest["digest"], "rows": rows, "problems": problems}))  # noqa: T201 - same
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
    wanted = golden["predictions"] if golden["probabilities"] is None else golden["probabilities"]
    labels = manifest["labels"]
    problems: list[str] = []
    batches = [(0, golden["records"]), *((number, [record]) for number, record in enumerate(golden["records"]))]
    for first, records in batches:
        status, answer = call(f"{url}/predict", records, key)
        if status != 200:
            return [*problems, f"golden row {first}: status {status}: {answer}"]
        if len(answer["predictions"]) != len(records):
            return [*problems, f"golden row {first}: {len(answer['predictions'])} answers to {len(records)} records"]
        for number, row in enumerate(answer["probabilities"] or answer["predictions"], first):
            got = [row[label] for label in labels] if isinstance(row, dict) else [row]
            right = wanted[number] if isinstance(wanted[number], list) else [wanted[number]]
            label = labels[golden["predictions"][number]] if labels else row
            if not near(got, right) or answer["predictions"][number - first] != label:
                alone = "alone" if len(records) == 1 else f"among {len(records)}"
                problems.append(f"golden row {number}, {alone}: {got}, not {right}")
    status, _ = call(f"{url}/predict", {"no such column": 1}, key)
    return problems + ([] if status == 422 else [f"a malformed record got status {status}, not 422"])


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
