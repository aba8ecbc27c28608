"""What scripts tell GitHub, and what they take from it. Paths come in as values: a test passes a file."""

import base64
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
    return dict(json.loads(Path(environ["GITHUB_EVENT_PATH"]).read_text()))


def repository(environ: Mapping[str, str]) -> Any:
    """Return the repository as a github.Repository."""
    import github

    api = environ.get("GITHUB_API_URL", "https://api.github.com")
    client = github.Github(base_url=api, auth=github.Auth.Token(environ["GH_TOKEN"]), per_page=100, lazy=True)
    return client.get_repo(environ["GITHUB_REPOSITORY"])


def authorization(environ: Mapping[str, str]) -> str:
    """Return the HTTP header that lets git push with GH_TOKEN; nothing without it."""
    token = environ.get("GH_TOKEN")
    return f"Authorization: Basic {base64.b64encode(f'x-access-token:{token}'.encode()).decode()}" if token else ""


def _append(path: str | None, text: str) -> None:
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
