"""Propose the model that was just trained on fresh data: one pull request, kept up to date.

python -m scripts.retrain     after scripts.run and scripts.report

Nothing is proposed where the model is the one that dvc.lock names. Exit code: 0 done, 2 your input, 3 GitHub did not answer.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from github import GithubException

from pawl import paths, report
from pawl.gate import rules
from pawl.problem import Problem, Unreachable
from pawl.report import text
from scripts import cli, github

BRANCH = "retrain"
FILES = ("dvc.lock", str(paths.METRICS))
BOT = {"NAME": "github-actions[bot]", "EMAIL": "41898282+github-actions[bot]@users.noreply.github.com"}


@cli.told
def main(environ: Mapping[str, str] = os.environ) -> int:
    """Compare, push, propose."""
    try:
        lock, content, body = (read(path) for path in (paths.LOCKFILE, paths.REPORT, paths.REPORT.with_suffix(".md")))
        named = git("show", "HEAD:dvc.lock") if git("ls-tree", "HEAD", "dvc.lock") else ""  # git need not have one
        if bundle_of(named) == bundle_of(lock):
            said = "The model is the one that dvc.lock names: nothing to propose."
        else:
            found = report.load(content.encode(), str(paths.REPORT))
            title = f"Retrain: {text.headline(found, rules.load(paths.GATES))}"
            push(environ, title)
            said = propose(environ, title, body)
    except (GithubException, OSError) as error:
        fix = "Settings > Actions > General > Allow GitHub Actions to create pull requests; the branch is pushed, open it by hand"
        raise Unreachable(f"GitHub: {error}", environ.get("GITHUB_REPOSITORY", "GITHUB_REPOSITORY"), fix) from error
    print(said)
    github.summary(environ, f"{said}\n\n")
    return 0


def read(path: Path) -> str:
    """Return what a run left; raise Problem if it did not."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise Problem(f"{path} does not exist", path, "`make run`, then `make report`") from error


def bundle_of(lock: str) -> Any:
    """Return what a dvc.lock names as the bundle."""
    stages = (yaml.safe_load(lock) or {}).get("stages", {})
    return [out for out in stages.get("train", {}).get("outs", []) if out["path"] == str(paths.BUNDLE)]


def push(environ: Mapping[str, str], title: str) -> None:
    """Let the branch hold HEAD and the new lock, and nothing of an earlier proposal."""
    identity = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in BOT.items()}
    # In the environment, not among the words: those can be read by every process.
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraheader"}
    settings["GIT_CONFIG_VALUE_0"] = github.authorization(environ)
    git("add", "--", *FILES)
    git("commit", "--quiet", "--message", title, "--", *FILES, environ=identity)
    where = f"{environ['GITHUB_SERVER_URL']}/{environ['GITHUB_REPOSITORY']}"
    try:
        git("push", "--quiet", "--force", where, f"HEAD:refs/heads/{BRANCH}", environ=settings)
    finally:
        git("reset", "--quiet", "--soft", "HEAD^")  # a second try must not take this commit's lock for the known one


def propose(environ: Mapping[str, str], title: str, body: str) -> str:
    """Open the pull request, or renew the one that is open; return what was done."""
    repository = github.repository(environ)
    owner = environ["GITHUB_REPOSITORY"].partition("/")[0]
    for pull in repository.get_pulls(state="open", head=f"{owner}:{BRANCH}"):
        pull.edit(title=title, body=body)
        return f"Renewed pull request #{pull.number}: {title}"
    pull = repository.create_pull(title=title, body=body, head=BRANCH, base=environ.get("GITHUB_REF_NAME", "main"))
    return f"Opened pull request #{pull.number}: {title}"


def git(*words: str, environ: Mapping[str, str] | None = None) -> str:
    """Return what git prints; raise Problem with its message if it fails."""
    inside = {**os.environ, **(environ or {})}
    done = subprocess.run(["git", *words], check=False, capture_output=True, text=True, env=inside)
    if done.returncode:
        what = f"git {words[0]} failed: {' '.join(done.stderr.split())[-1000:]}"
        raise Problem(what, BRANCH, "the token needs contents: write")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
