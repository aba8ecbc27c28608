"""What scripts tell GitHub, and what they take from it. Paths come in as values: a test passes a file."""

import base64
import json
import logging
import time
import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pawl.problem import Problem, Unreachable

if TYPE_CHECKING:
    from github.Repository import Repository
    from urllib3.response import BaseHTTPResponse
    from urllib3.util.retry import Retry

LONGEST = 90  # seconds that a limit is waited for
PAUSE = 5  # seconds before what was lost is looked for
Made = TypeVar("Made")


def project() -> str:
    """Return the project's name, said once in pyproject.toml: the experiment's and the registered model's too."""
    return str(tomllib.loads(Path("pyproject.toml").read_text())["project"]["name"])


def summary(environ: Mapping[str, str], text: str) -> None:
    """Add Markdown to the job's summary; do nothing elsewhere."""
    _append(environ.get("GITHUB_STEP_SUMMARY"), text)


def output(environ: Mapping[str, str], **values: str) -> None:
    """Set outputs of the step; do nothing elsewhere."""
    assert not any("\n" in value for value in values.values()), "an output is one line"
    _append(environ.get("GITHUB_OUTPUT"), "".join(f"{name}={value}\n" for name, value in values.items()))


def event(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the event that started the workflow."""
    path = environ.get("GITHUB_EVENT_PATH")
    if not path:
        fix = "this runs in a job of GitHub's, which sets it"
        raise Problem("GITHUB_EVENT_PATH is not set", "the environment", fix)
    return dict(json.loads(Path(path).read_text()))


def repository(environ: Mapping[str, str]) -> "Repository":
    """Return the repository. What GitHub does not answer is asked again, for two minutes at most; limits are waited for."""
    import github

    for name in ("GH_TOKEN", "GITHUB_REPOSITORY"):
        if not environ.get(name):
            raise Problem(f"{name} is not set", name, "a job has it with `GH_TOKEN: ${{ github.token }}` in its env")
    github.set_log_level(logging.WARNING)  # a question that is refused is an answer
    api = environ.get("GITHUB_API_URL", "https://api.github.com")
    token = github.Auth.Token(environ["GH_TOKEN"])
    client = github.Github(base_url=api, auth=token, per_page=100, lazy=True, timeout=15, retry=_patience())
    return client.get_repo(environ["GITHUB_REPOSITORY"])


def ask(repository: "Repository", path: str, method: str = "GET", body: Any = None) -> Any:  # Any: JSON
    """Return GitHub's answer for what lies below the repository, or for "/user" and its like; raise GithubException for a refusal."""
    where = path if path.startswith("/") else f"{repository.url}/{path}".rstrip("/")
    return repository.requester.requestJsonAndCheck(method, where, input=body)[1]


def again(act: Callable[[], Made]) -> Made:
    """Do what looks before it writes, again where the answer to its POST was lost: what was carried out is found, not made twice."""
    from github import GithubException

    for _ in range(2):
        try:
            return act()
        except (GithubException, OSError) as error:
            if not _lost(error):
                raise
        time.sleep(PAUSE)
    return act()


def why(error: Exception) -> str:
    """Return what GitHub, or the way to it, said, in a line."""
    doubt = "; it may have been carried out" if _lost(error) else ""
    data = getattr(error, "data", None)
    if not isinstance(data, dict):
        return f"no answer: {' '.join(str(error).split())[-200:]}{doubt}"
    errors = data.get("errors") or []
    more = [(isinstance(each, dict) and each.get("message")) or str(each) for each in errors]
    said = " ".join(" ".join([str(data.get("message") or ""), *more]).split())
    return f"{getattr(error, 'status', '')} {said}{doubt}"


def _lost(error: Exception) -> bool:
    """Return whether it was a POST that was sent, and not answered: those alone are not sent again by themselves."""
    from urllib3.exceptions import MaxRetryError

    sent = getattr(getattr(error, "request", None), "method", "") == "POST"
    never = sent and isinstance(error.args[0], MaxRetryError)  # refused for a limit, or nobody there
    return getattr(error, "status", 0) >= 500 or (sent and not never)


def _patience() -> "Retry":
    """Return when to ask again: never a POST that may have been carried out, never in an hour."""
    from github import GithubRetry

    class Patience(GithubRetry):
        def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:  # noqa: ARG002, FBT001, FBT002 - urllib3's
            return status_code in {403, 429} or (status_code >= 500 and method != "POST")  # a limit does nothing first

        def get_retry_after(self, response: "BaseHTTPResponse") -> float | None:
            wait, headers = super().get_retry_after(response), response.headers
            if wait is None and headers.get("X-RateLimit-Remaining") == "0":
                wait = max(int(headers.get("X-RateLimit-Reset", 0)) - time.time(), 0) + 1
            if wait and wait > LONGEST:
                when = datetime.fromtimestamp(time.time() + wait, UTC)
                what = f"GitHub's limit for this token is used up until {when:%H:%M} UTC, for {wait / 60:.0f} minutes"
                raise Unreachable(what, response.geturl() or "GitHub", "run it again after that")
            return wait

    repeatable = GithubRetry.DEFAULT_ALLOWED_METHODS | {"PATCH"}
    return Patience(total=5, backoff_factor=1, allowed_methods=repeatable)


def authorization(environ: Mapping[str, str]) -> str:
    """Return the HTTP header that lets git push with GH_TOKEN; nothing without it."""
    token = environ.get("GH_TOKEN")
    return f"Authorization: Basic {base64.b64encode(f'x-access-token:{token}'.encode()).decode()}" if token else ""


def _append(path: str | None, text: str) -> None:
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
