"""As much of GitHub as the scripts talk to: a server on loopback that keeps pull requests and comments. And models that nobody trained."""

import json
import logging
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np
import pytest

from pawl import answers, ledger
from pawl.answers import Answers
from pawl.gate import compare
from pawl.gate.rules import SIZE, Gates
from pawl.gate.verdict import State
from pawl.ledger import Entry
from pawl.report import Model, Other, Report, assess
from pawl.report.assess import Known

BOT = "github-actions[bot]"


class Hub:
    """Pull requests and comments of octo/model, as GitHub's REST API tells them.

    asked: every request as (method, path). refuses: {method: (status, body)} for what is answered with an error instead.
    """

    name = "octo/model"

    def __init__(self) -> None:
        hub, self.pulls, self.comments = self, [], []
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.refuses: dict[str, tuple[int, dict[str, str]]] = {}

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_POST = do_PATCH = do_PUT = do_DELETE = do_GET  # noqa: N815 - the names that http.server calls

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.asked if method != "GET"]

    def pull(
        self, number: int, *, sha: str, branch: str = "topic", source: str | None = name, base: str = name
    ) -> dict[str, Any]:
        """Add an open pull request; source: the repository of its head, None where it is deleted."""
        owner = source.partition("/")[0] if source else "ghost"
        made = {
            "number": number,
            "url": f"{self.url}/repos/{self.name}/pulls/{number}",
            "issue_url": f"{self.url}/repos/{self.name}/issues/{number}",
            "comments_url": f"{self.url}/repos/{self.name}/issues/{number}/comments",
            "state": "open",
            "title": "a title",
            "body": "a body",
            "head": {
                "label": f"{owner}:{branch}",
                "ref": branch,
                "sha": sha,
                "repo": source and {"full_name": source, "owner": {"login": owner}},
            },
            "base": {"ref": "main", "sha": "0" * 40, "repo": {"full_name": base, "owner": {"login": "octo"}}},
        }
        self.pulls.append(made)
        return made

    def comment(self, number: int, body: str | None, author: str | None = BOT) -> dict[str, Any]:
        """Add a comment to a pull request."""
        made = {
            "id": 1000 + len(self.comments),
            "url": f"{self.url}/repos/{self.name}/issues/comments/{1000 + len(self.comments)}",
            "body": body,
            "user": author and {"login": author},
            "issue": number,
        }
        self.comments.append(made)
        return made

    def bodies(self, number: int) -> list[str]:
        return [comment["body"] for comment in self.comments if comment["issue"] == number]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        url, method = urlsplit(request.path), request.command
        sent = json.loads(request.rfile.read(int(request.headers.get("Content-Length") or 0)) or "{}")
        self.asked.append((method, url.path))
        self.tokens.add(request.headers.get("Authorization", ""))
        if method in self.refuses:
            status, content, link = *self.refuses[method], ""
        else:
            status, content, link = self.route(
                method, url.path, {k: v[0] for k, v in parse_qs(url.query).items()}, sent
            )
        body = json.dumps(content).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json; charset=utf-8")
        request.send_header("Content-Length", str(len(body)))
        if link:
            request.send_header("Link", link)
        request.end_headers()
        request.wfile.write(body)

    def route(self, method: str, path: str, query: dict[str, str], sent: dict[str, Any]) -> tuple[int, Any, str]:
        here = f"/repos/{self.name}"
        if (method, path) == ("GET", f"{here}/pulls"):
            head = query.get("head", "")  # without an owner GitHub takes no notice of it
            found = [pull for pull in self.pulls if pull["state"] == query.get("state", "open")]
            found = [pull for pull in found if ":" not in head or pull["head"]["label"] == head]
            return self.page(path, found, query)
        if (method, path) == ("POST", f"{here}/pulls"):
            made = self.pull(
                max([pull["number"] for pull in self.pulls], default=0) + 1, sha="0" * 40, branch=sent["head"]
            )
            made.update(title=sent["title"], body=sent["body"])
            made["base"]["ref"] = sent["base"]
            return 201, made, ""
        if found := re.fullmatch(rf"{here}/pulls/(\d+)", path):
            pull = next(pull for pull in self.pulls if pull["number"] == int(found[1]))
            pull.update(sent)
            return 200, pull, ""
        if found := re.fullmatch(rf"{here}/issues/(\d+)/comments", path):
            number = int(found[1])
            if method == "GET":
                return self.page(path, [each for each in self.comments if each["issue"] == number], query)
            if len(sent["body"]) > 65_536:
                return 422, {"message": "Body is too long (maximum is 65536 characters)"}, ""
            return 201, self.comment(number, sent["body"]), ""
        if found := re.fullmatch(rf"{here}/issues/comments/(\d+)", path):
            comment = next(each for each in self.comments if each["id"] == int(found[1]))
            comment.update(sent)
            return 200, comment, ""
        return 404, {"message": "Not Found"}, ""

    def page(self, path: str, found: list[Any], query: dict[str, str]) -> tuple[int, Any, str]:
        """Return one page, of at most 100, and the header that names the next."""
        size, number = min(int(query.get("per_page", 30)), 100), int(query.get("page", 1))
        more = {**query, "page": str(number + 1)}
        words = "&".join(f"{key}={value}" for key, value in more.items())
        link = f'<{self.url}{path}?{words}>; rel="next"' if len(found) > number * size else ""
        return 200, found[(number - 1) * size : number * size], link


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import github  # its import adds a handler that writes to the standard error of whichever test came first

    monkeypatch.setattr(github.Requester.Requester, "_Requester__deferRequest", lambda *_: None)  # a second per write
    logging.getLogger("github").handlers.clear()
    made = Hub()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


class Craft:
    """Answers, reports and entries of models that nobody trained."""

    digest = f"sha256:{'1' * 64}"

    def answers(self, noise: float = 0.0, n: int = 400, seed: int = 0) -> Answers:
        """Return what a calibrated model answered; the more noise, the worse it is."""
        rng = np.random.default_rng(seed)
        p = rng.beta(0.3, 0.6, n).clip(0.001, 0.999)
        y = (rng.random(n) < p).astype(int)
        score = np.float32(1 / (1 + np.exp(noise * rng.normal(size=n) - np.log(p / (1 - p))))).astype(float)
        rows = np.sort(rng.integers(1, 2**63, n).astype(np.uint64))
        sex = (("sex=Female", "sex=Male"), rng.integers(0, 2, n))
        chosen = (score >= 0.5).astype(int)
        return Answers("binary", ("<=50K", ">50K"), rows, y, chosen, answers.pair(score), None, {"sex": sex}, n)

    def report(
        self,
        mine: Answers,
        gates: Gates | None = None,
        *,
        commit: str = "c" * 40,
        other: Other | None = None,
        theirs: Answers | None = None,
        state: State = "first",
    ) -> Report:
        """Return the report of a model that answered this."""
        gates = gates or Gates(version=1, metrics={})
        model = Model(commit, compare.facts(mine, gates, size=100_000.0, resamples=20), self.digest, mine.digest)
        base = Known(other, theirs, 100_000.0) if other else None
        today = datetime.now(UTC).date()
        return assess.assess(assess.empty(model), gates, mine, base, None, [], state, "", today)

    def entry(self, commit: str, theirs: Answers, **more: Any) -> dict[str, bytes]:
        """Return the files of an entry, as a release that was allowed writes them."""
        facts = compare.facts(theirs, Gates(version=1, metrics={}), size=100_000.0, resamples=20)
        assert SIZE in facts.metrics
        made = Entry(1, commit, "pass", True, "2026-01-01T00:00:00Z", self.digest, theirs.digest, facts, {})  # noqa: FBT003 - allowed
        return ledger.write_entry(msgspec.structs.replace(made, **more), {ledger.ANSWERS: answers.dump(theirs)})


@pytest.fixture(scope="session")
def craft() -> Craft:
    return Craft()
