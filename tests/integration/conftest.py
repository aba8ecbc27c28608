"""As much of GitHub as the scripts talk to: a server on loopback that keeps pull requests and comments. Models that nobody trained. And registries."""

import contextlib
import hashlib
import importlib
import json
import logging
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np
import pytest
import yaml

from pawl import answers, ledger, paths, tracking
from pawl.answers import Answers
from pawl.gate import compare
from pawl.gate.rules import SIZE, Gates
from pawl.gate.verdict import State
from pawl.ledger import Entry
from pawl.report import Model, Other, Report, assess
from pawl.report.assess import Known

BOT = "github-actions[bot]"
ROOT = Path(__file__).parents[2]


class Hub:
    """Pull requests and comments of octo/model, as GitHub's REST API tells them.

    asked: every request as (method, path). refuses: {"METHOD path", or how it begins: (status, body)}: what is answered with an error instead.
    faults: the next requests' own, the first first, each for the first request whose "METHOD path" it matches.
    """

    name = "octo/model"

    def __init__(self) -> None:
        hub, self.pulls, self.comments = self, [], []
        self.asked: list[tuple[str, str]] = []
        self.tokens: set[str] = set()
        self.refuses: dict[str, tuple[int, dict[str, str]]] = {}
        self.faults: list[dict[str, Any]] = []
        self.settings = Settings()
        self.bodies_sent: list[tuple[str, str, Any]] = []
        self.ended = threading.Event()  # lets go of whom `silent` holds

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
            "node_id": f"PR_{number}",
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
        self.bodies_sent.append((method, url.path, sent))
        self.tokens.add(request.headers.get("Authorization", ""))
        fault = next((each for each in self.faults if re.match(each["match"], f"{method} {url.path}")), {})
        if fault:
            self.faults.remove(fault)
        if fault.get("silent"):
            self.ended.wait()
        if fault.keys() & {"cut", "silent"}:  # no answer; `after`: to what was carried out
            if fault.get("cut") == "after":
                self.route(method, url.path, {}, sent)
            request.close_connection = True
            return
        if "status" in fault:
            status, content, link = fault["status"], fault.get("body", {"message": "Server Error"}), ""
        elif refused := [each for key, each in self.refuses.items() if re.match(key, f"{method} {url.path}")]:
            status, content, link = *refused[0], ""
        else:
            status, content, link = self.route(
                method, url.path, {k: v[0] for k, v in parse_qs(url.query).items()}, sent
            )
        body = content.encode() if isinstance(content, str) else b"" if status == 204 else json.dumps(content).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json; charset=utf-8")
        request.send_header("Content-Length", str(len(body)))
        for name, value in ({"Link": link} if link else fault.get("headers", {})).items():
            request.send_header(name, str(value))
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
        return *self.settings.answer(method, path.removeprefix(here).strip("/"), sent), ""

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
    made.ended.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


class Settings:
    """What the pages of a repository's settings hold, and its workflows. answer: as GitHub's REST API, for what lies below the repository."""

    def __init__(self) -> None:
        self.next = 10
        self.repository = {"full_name": Hub.name, "private": False, "owner": {"login": "octo", "type": "User"}, "permissions": {"admin": True}}  # fmt: skip
        self.people = {name: {"login": name, "id": number} for number, name in enumerate(("octo", "alice", "bob"), 1)}
        self.answers: dict[str, Any] = {}  # what GET of a path answers
        self.environments: dict[str, Any] = {}
        self.lacks: set[str] = set()  # what the plan does not have of an environment: refused if it is sent at all
        self.policies: dict[str, list[Any]] = {}
        self.rulesets: list[Any] = []
        self.labels: dict[str, Any] = {}
        self.variables: dict[str, dict[str, Any]] = {}
        self.actions: dict[str, Any] = {
            "permissions": {"enabled": True, "allowed_actions": "all", "sha_pinning_required": False},
            "permissions/workflow": {
                "default_workflow_permissions": "write",
                "can_approve_pull_request_reviews": False,
            },
            "permissions/fork-pr-contributor-approval": {"approval_policy": "first_time_contributors"},
        }

    def answer(self, method: str, path: str, sent: Any) -> tuple[int, Any]:
        if method == "GET" and path in {"", "user", *self.answers}:
            return 200, {"": self.repository, "user": self.people["octo"]}.get(path) or self.answers[path]
        if found := re.fullmatch(r"users/(\w+)", path):
            return self.found(self.people.get(found[1]))
        if found := re.fullmatch(r"environments/(\w+)", path):
            if method == "PUT" and self.lacks & sent.keys():
                return 422, {"message": "Failed to create the environment protection rule. Please ensure the billing plan supports it."}  # fmt: skip
            if method == "PUT":
                self.protect(found[1], sent)
            return self.found(self.environments.get(found[1]))
        if found := re.fullmatch(r"environments/(\w+)/deployment-branch-policies(?:/(\d+))?", path):
            return self.policy(method, found[1], int(found[2] or 0), sent)
        if found := re.fullmatch(r"rulesets(?:/(\d+))?", path):
            return self.ruleset(method, int(found[1] or 0), sent)
        if found := re.fullmatch(r"(labels|actions/variables|environments/\w+/variables)(?:/([\w-]+))?", path):
            kept = self.labels if found[1] == "labels" else self.variables.setdefault(found[1], {})
            if method == "POST" and sent["name"] in kept:
                return 422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]}
            if method in {"POST", "PATCH"}:
                kept[sent["name"]] = sent
                return (201, sent if kept is self.labels else {}) if method == "POST" else (204, None)
            return self.found(kept.get(found[2]))
        if path.removeprefix("actions/") in self.actions:
            kept = self.actions[path.removeprefix("actions/")]
            kept.update(
                ({"allowed_actions": "all"} if "allowed_actions" in kept and sent else {}) | sent
            )  # not sent: as if new
            return (200, kept) if method == "GET" else (204, None)
        return self.found(None)

    def found(self, what: Any) -> tuple[int, Any]:
        return (200, what) if what is not None else (404, {"message": "Not Found"})

    def protect(self, name: str, sent: Any) -> None:
        """Let an environment be what was sent; what was not is switched off."""
        rules: list[Any] = [{"id": 1, "type": "wait_timer", "wait_timer": sent.get("wait_timer")}] * bool(sent.get("wait_timer"))  # fmt: skip
        if sent.get("reviewers"):
            ids = [each["id"] for each in sent["reviewers"]]
            them = [{"type": "User", "reviewer": each} for each in self.people.values() if each["id"] in ids]
            rules.append({"id": 2, "type": "required_reviewers", "prevent_self_review": sent.get("prevent_self_review", False), "reviewers": them})  # fmt: skip
        policy = sent.get("deployment_branch_policy")
        self.environments[name] = {"name": name, "protection_rules": rules, "deployment_branch_policy": policy}
        if not (policy or {}).get("custom_branch_policies"):
            self.policies.pop(name, None)

    def policy(self, method: str, name: str, number: int, sent: Any) -> tuple[int, Any]:
        """Answer for the branches that may deploy: none, unless the environment has a list of its own."""
        if not (self.environments.get(name, {}).get("deployment_branch_policy") or {}).get("custom_branch_policies"):
            return self.found(None)
        kept = self.policies.setdefault(name, [])
        if method == "POST":
            self.next += 1
            kept.append({"id": self.next, **sent})
            return 200, kept[-1]
        if method == "DELETE":
            kept[:] = [each for each in kept if each["id"] != number]
            return 204, None
        return 200, {"total_count": len(kept), "branch_policies": kept}

    def ruleset(self, method: str, number: int, sent: Any) -> tuple[int, Any]:
        """Answer for the rules of branches: a list holds less than what a number has."""
        if method == "POST":
            self.next += 1
            self.rulesets.append({"id": self.next, "bypass_actors": [], **sent})
            return 201, self.rulesets[-1]
        if not number:
            return 200, [{"id": each["id"], "name": each["name"]} for each in self.rulesets]
        found = next((each for each in self.rulesets if each["id"] == number), None)
        if found and method == "PUT":
            found.update(sent)
        return self.found(found)


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


LENIENT = {"version": 1, "metrics": {"roc_auc": {"direction": "higher", "floor": 0.5}}}


class Warm:
    """The process of warm.py."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.jobs = folder, 0
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, *jobs: dict[str, Any]) -> list[tuple[int, str]]:
        """Do jobs at once; return (exit code, what it printed) of each."""
        if self.process is None:
            environ = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PAWL_"))}
            environ |= tracking.PATIENCE | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
            command = [sys.executable, str(Path(__file__).with_name("warm.py"))]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ, text=True)  # fmt: skip
            assert self.process.stdout.readline() == "warm\n"
        outs = []
        for job in jobs:
            self.jobs += 1
            outs.append(self.folder / f"{self.jobs}.out")
            job |= {"out": str(outs[-1]), "folder": str(job["folder"]), "limit": job.get("limit", 120)}
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        codes = json.loads(self.process.stdout.readline())
        return list(zip(codes, [out.read_text() for out in outs], strict=True))

    def end(self) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    made = Warm(tmp_path_factory.mktemp("warm"))
    yield made
    made.end()


class Server:
    """MLflow's own server on the store of a folder, as `make ui` starts it."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder, self.port = folder, port or tracking.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                tracking.command("127.0.0.1", self.port), cwd=folder, env=tracking.quiet(), stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip

    def up(self) -> "Server":
        """Wait until it answers."""
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)
            else:
                return self

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        self.process.wait()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty: Path) -> Iterator[Server]:
    """An MLflow server; tests take a name of their own."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty, folder / "mlflow.db")
    made = Server(folder)
    yield made.up()
    made.end()


@pytest.fixture
def make_server(tmp_path: Path, empty: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that starts an MLflow server, on an empty store or on that of a folder."""
    made: list[Server] = []

    def start(folder: Path | None = None) -> Server:
        if folder is None:
            folder = tmp_path / f"server{len(made)}"
            folder.mkdir()
            shutil.copy(empty, folder / "mlflow.db")
        made.append(Server(folder))
        return made[-1]

    yield start
    for each in made:
        each.end(signal.SIGKILL)


@pytest.fixture(scope="session")
def make_registry() -> type["Registry"]:
    return Registry


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """The database of an embedded store in which there is nothing: to make one takes longer than all else."""
    folder = tmp_path_factory.mktemp("empty")
    ((code, said),) = warm({"folder": folder, "environ": dict(os.environ), "code": "from pawl import tracking\nwith tracking.store(): pass"})  # fmt: skip
    assert code == 0, said
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def modelled(tmp_path_factory: pytest.TempPathFactory, make_project: type) -> Any:
    """A project with a model and a report that lets it pass. Tests take copies."""
    made = make_project(tmp_path_factory.mktemp("modelled"))
    (made.path / "gates.yaml").write_text(yaml.safe_dump(LENIENT))
    made.call("git", "remote", "add", "origin", "https://me:canary7f3a@example.org/me/model.git")
    made.commit("a model")
    made.run()
    made.call(sys.executable, "-m", "scripts.report")
    return made


class Registry:
    """A copy of a project, and the store that it registers in: driven through the scripts, looked into past MLflow."""

    def __init__(self, modelled: Any, path: Path, store: Path, name: str = "pawl", uri: str = "") -> None:
        self.path, self.store, self.name, self.uri = path, store, name, uri
        self.origin = getattr(modelled, "origin", modelled)
        self.commits: dict[str, str] = dict(getattr(modelled, "commits", {}))
        shutil.copytree(modelled.path, path, symlinks=True, ignore=shutil.ignore_patterns("cache", "tmp", "hooks"))
        if name != "pawl":
            self.edit("pyproject.toml", 'name = "pawl"', f'name = "{name}"')

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.path / file).read_text()
        assert old in text
        (self.path / file).write_text(text.replace(old, new))

    @property
    def environ(self) -> dict[str, str]:
        kept = self.origin.environ(PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{ROOT}", GIT_AUTHOR_NAME="tester")
        kept = {key: value for key, value in kept.items() if not key.startswith(("MLFLOW_", "GITHUB_"))}
        return kept | ({tracking.URI: self.uri} if self.uri else {})

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.path, env=self.environ, check=True, capture_output=True, text=True)  # fmt: skip
        return done.stdout.strip()

    def commit(self, subject: str) -> str:
        """Make a commit, and let the report be of it; return it."""
        self.git("commit", "--quiet", "--allow-empty", "--all", "--message", subject)
        return self.of(self.git("rev-parse", "HEAD"))

    def of(self, commit: str) -> str:
        """Check a commit out, and let the report be of it."""
        if commit != self.git("rev-parse", "HEAD"):
            self.git("checkout", "--quiet", "--force", commit)
        self.report(commit=commit)
        return commit

    def report(self, *, verdict: str = "", allowed: bool | None = None, **candidate: Any) -> None:
        """Change what the report says."""
        path = self.path / "reports/report.json"
        told = json.loads(path.read_text())
        told["candidate"].update(candidate)
        if verdict:
            told |= {"verdict": verdict, "allowed": verdict != "fail" if allowed is None else allowed}
        replace(path, json.dumps(told))

    def model(self, threshold: float) -> str:
        """Put another model, that nobody trained, here, with its report; return its digest."""
        path = self.path / "models/bundle/manifest.json"
        manifest = json.loads(path.read_text()) | {"threshold": threshold}
        del manifest["digest"]
        digest = "sha256:" + hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
        replace(path, json.dumps(manifest | {"digest": digest}))
        described = self.path / "reports/estimator/estimator.json"
        replace(described, json.dumps(json.loads(described.read_text()) | {"digest": digest}))
        self.report(digest=digest)
        return digest

    def forget(self) -> None:
        """Let nothing say that it was done before."""
        shutil.rmtree(self.path / ".pawl/done", ignore_errors=True)

    def job(self, script: str, *words: str, **more: Any) -> dict[str, Any]:
        """Return a job for the warm process."""
        environ = self.environ | more.pop("environ", {})
        return {"folder": self.path, "environ": environ, "script": script, "words": words, **more}

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return what the database says."""
        if not (self.store / "mlflow.db").exists():
            return []
        # Not mode=ro: a server that was killed in a transaction leaves a journal, which the next reader has to roll back.
        connection = sqlite3.connect(f"file:{self.store / 'mlflow.db'}?mode=rw", uri=True, timeout=30)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()

    def tag(self, version: str, key: str, value: str) -> None:
        """Write a tag of a version."""
        with contextlib.closing(sqlite3.connect(self.store / "mlflow.db")) as connection, connection:
            connection.execute("delete from model_version_tags where name = ? and version = ? and key = ?", (self.name, version, key))  # fmt: skip
            connection.execute("insert into model_version_tags (name, version, key, value) values (?, ?, ?, ?)", (self.name, version, key, value))  # fmt: skip

    @property
    def runs(self) -> list[tuple[str, str]]:
        """Return (id, status) of the runs that were not deleted, the first first."""
        query = "select run_uuid, status from runs join experiments using (experiment_id) where experiments.name = ? and runs.lifecycle_stage = 'active' order by runs.rowid"
        return self.rows(query, self.name)

    @property
    def versions(self) -> dict[str, dict[str, str]]:
        """Return {version: tags}."""
        found = {str(number): {} for (number,) in self.rows("select version from model_versions where name = ? and current_stage != 'Deleted_Internal' order by version", self.name)}  # fmt: skip
        for number, key, value in self.rows(
            "select version, key, value from model_version_tags where name = ?", self.name
        ):
            if str(number) in found:
                found[str(number)][key] = value
        return found

    @property
    def aliases(self) -> dict[str, str]:
        query = "select alias, version from registered_model_aliases where name = ?"
        return {alias: str(version) for alias, version in self.rows(query, self.name)}

    def values(self, table: str, run: str) -> dict[str, Any]:
        """Return a run's tags, params or latest_metrics."""
        return dict(self.rows(f"select key, value from {table} where run_uuid = ?", run))

    def files(self, run: str) -> dict[str, bytes]:
        """Return {path: content} of a run's artifacts."""
        ((uri,),) = self.rows("select artifact_uri from runs where run_uuid = ?", run)
        return content(self.place(uri))

    def model_files(self, version: str) -> dict[str, bytes]:
        """Return {path: content} of the model of a version."""
        ((source,),) = self.rows("select source from model_versions where name = ? and version = ?", self.name, version)
        ((uri,),) = self.rows("select artifact_location from logged_models where model_id = ?", source.rpartition("/")[2])  # fmt: skip
        return content(self.place(uri))

    def place(self, uri: str) -> Path:
        return self.store / "mlartifacts" / uri.removeprefix("mlflow-artifacts:/")


def replace(path: Path, text: str) -> None:
    """Write a file that may be a link into the cache, or be shared with other copies."""
    path.unlink()
    path.write_text(text)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Here(Registry):
    """A registry whose scripts are called in this process."""

    def __init__(self, *given: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(*given)
        self.capsys = capsys
        for name in set(os.environ) - set(self.environ):
            monkeypatch.delenv(name)
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(self.path)
        # MLflow keeps an engine per address for as long as a process lives: here that outlives the folder.
        monkeypatch.setattr(paths, "STORE", self.store / "mlflow.db")

    def do(self, script: str, *words: str, code: int = 0, environ: dict[str, str] | None = None) -> str:
        """Return what a script says; it must end with this code."""
        self.capsys.readouterr()
        module = importlib.import_module(f"scripts.{script}")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # MLflow's, on its import and with SQLAlchemy; a user sees none: test_register asks
            ended = module.main(words, os.environ | (environ or {}))
        told = self.capsys.readouterr()
        assert ended == code, told.out + told.err
        assert "Traceback" not in told.err
        return told.err if code else told.out


@pytest.fixture
def copies(modelled: Any, empty: Path, tmp_path: Path) -> Callable[..., Registry]:
    """Return a function that makes one more copy of a project, with an empty embedded store, that of the copied one, or a server."""
    made: list[Registry] = []

    def copy(of: Registry | None = None, on: Server | None = None, name: str = "pawl") -> Registry:
        path = tmp_path / f"copy{len(made)}"
        made.append(Registry(of or modelled, path, on.folder if on else path, name, on.url if on else ""))
        if of is None and on is None:
            shutil.copy(empty, path / "mlflow.db")
        return made[-1]

    return copy


@pytest.fixture
def here(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], modelled: Any) -> Callable[..., Here]:  # fmt: skip
    """Return a function that makes a copy of a project, called in this process, with an empty embedded store or that of the copied one."""

    def make(of: Registry | None = None) -> Here:
        made = Here(of or modelled, tmp_path / "here", tmp_path / "here", monkeypatch=monkeypatch, capsys=capsys)
        if of is None:
            shutil.copy(empty, made.path / "mlflow.db")
        return made

    return make


@pytest.fixture
def registry(here: Callable[..., Here]) -> Here:
    """A project with an empty embedded store."""
    return here()


@pytest.fixture(scope="session")
def three(modelled: Any, empty: Path, warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A project with three commits, each with a model of its own that is a version; commits: {version: commit}."""
    path = tmp_path_factory.mktemp("three") / "project"
    made = Registry(modelled, path, path)
    shutil.copy(empty, path / "mlflow.db")
    for number in (1, 2, 3):
        made.model(float(f"0.4{number}"))
        made.commits[str(number)] = made.commit(f"model {number}")
        ((code, said),) = warm(made.job("register"))
        assert code == 0, said
    return made


DTYPES = {"size.m²": "number", "age": "integer", "member": "boolean", "colour": "category", "column_0": "category"}
LABELS = {"binary": ["no", "yes"], "multiclass": ["a", "b", "c"], "regression": []}


def small_records(count: int) -> list[dict[str, Any]]:
    """Return records with every dtype, with missing values, and with names that a Python attribute cannot have."""
    return [
        {
            "size.m²": None if number % 11 == 0 else number / 7,
            "age": None if number % 13 == 0 else number * 7 % 50,
            "member": [True, False, None][number % 3],
            "colour": [None, "red", "green", "blue"][number % 4],
            "column_0": "xyz"[number % 3],
        }
        for number in range(count)
    ]


def small_bundle(folder: Path, task: str = "binary", *, compiled: bool = True, estimator: Any = None) -> Path:
    """Train on `small_records` within a blink and return the folder of the bundle; estimator: a class, LightGBM's by default."""
    import lightgbm
    import pyarrow as pa
    from sklearn.pipeline import Pipeline

    from pawl import bundle, frames
    from pawl.pipeline import train
    from task.features import build_features
    from task.model import build_model
    from task.params import FeaturizeParams

    records, labels = small_records(300), LABELS[task]
    frame = frames.from_records(records, DTYPES)
    value = frame["size.m²"].fillna(20).to_numpy() + 10 * (frame["colour"] == "red") + 8 * frame["colour"].isna()
    y = value if task == "regression" else np.searchsorted(np.quantile(value, [0.5, 0.8][: len(labels) - 1]), value)
    estimator = estimator or (lightgbm.LGBMRegressor if task == "regression" else lightgbm.LGBMClassifier)
    model = build_model(estimator, {"n_estimators": 10, "random_state": 0})
    pipeline = Pipeline([("features", build_features(DTYPES, FeaturizeParams(min_category_rows=2))), ("model", model)])
    kinds = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "category": pa.string()}
    columns = {name: pa.array([each[name] for each in records], kinds[dtype]) for name, dtype in DTYPES.items()}
    manifest = {
        "task": task, "target": "worth", "labels": labels, "threshold": 0.4, "features": DTYPES, "digests": {"data": "d1"},
        "model": f"{estimator.__module__.partition('.')[0]}.{estimator.__name__}",
        "seen": {name: train.seen_in(columns[name], dtype) for name, dtype in DTYPES.items()},
    }  # fmt: skip
    ids, golden = np.arange(3, dtype=np.uint64), train.golden_records(pa.table(columns), DTYPES)
    bundle.save(folder, pipeline.fit(frame, y), manifest, golden, ids, compiled=compiled)
    return folder


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    return small_bundle


@pytest.fixture(scope="session")
def make_records() -> Callable[[int], list[dict[str, Any]]]:
    return small_records
