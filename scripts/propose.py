"""Propose the model just trained on fresh data: one pull request, kept up to date.

scripts.retrain ends with it.

python -m scripts.propose                        after scripts.run and scripts.report
python -m scripts.propose --file params.yaml     what else the proposal changes
python -m scripts.propose --obsolete "..."       close what is open, and say why

Nothing is proposed where the model is the one that dvc.lock names. With DISPATCH=true pr.yml is started on the branch: what Actions' own token proposes starts
nothing. Where Actions may open no pull request it is an issue, from which you open it. Exit code: 0 done, 2 your input, 3 GitHub did not answer.
"""

import argparse
import os
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from github import GithubException

from pawl import paths, report
from pawl.gate import rules
from pawl.problem import Problem, Unreachable
from pawl.report import text
from scripts import cli, github, notify

BRANCH = "retrain"
WORKFLOW = "pr.yml"
MARK = "<!-- pawl:retrain -->"
SETTING = "Settings > Actions > General > Allow GitHub Actions to create pull requests"
REFUSED = (
    "rejected",
    "denied",
    "403",
    "401",
    "not found",
    "does not exist",
    "Authentication failed",
)  # the rest is the network's
MERGED = 20  # times, two seconds apart, that it is asked whether GitHub has made the merge commit
FILES = ("dvc.lock", str(paths.METRICS))
BOT = {"NAME": "github-actions[bot]", "EMAIL": "41898282+github-actions[bot]@users.noreply.github.com"}


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Compare, push, propose."""
    parser = cli.parser("propose", __doc__)
    parser.add_argument("--why", default="", help="Markdown that stands above the report")
    parser.add_argument(
        "--file", type=Path, action="append", default=[], help="that belongs to the proposal, if it changed"
    )
    parser.add_argument(
        "--auto-merge", action="store_true", help="let GitHub merge it once what it requires has passed"
    )
    parser.add_argument("--obsolete", metavar="WHY", help="nothing is to be proposed: close what is open")
    args = parser.parse_args(argv)
    for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GH_TOKEN"):
        if not environ.get(name):
            raise Problem(
                f"{name} is not set", name, "retrain.yml sets it; by hand: `make pipeline`, then commit dvc.lock"
            )
    try:
        said = withdrawn(environ, args.obsolete) if args.obsolete is not None else proposed(environ, args)
    except (GithubException, OSError) as error:
        fix = f"{SETTING}; where the branch is pushed, open it by hand; or run it again"
        raise Unreachable(
            f"GitHub: {github.why(error)}", environ.get("GITHUB_REPOSITORY", "GITHUB_REPOSITORY"), fix
        ) from error
    print(said)
    github.summary(environ, f"{said}\n\n")
    return 0


def proposed(environ: Mapping[str, str], args: argparse.Namespace) -> str:
    """Propose the model, unless dvc.lock names it; return what was done."""
    lock, content, body = (read(path) for path in (paths.LOCKFILE, paths.REPORT, paths.REPORT.with_suffix(".md")))
    named = git("show", "HEAD:dvc.lock") if git("ls-tree", "HEAD", "dvc.lock") else ""  # git need not have one
    if bundle_of(named) == bundle_of(lock):
        return "The model is the one that dvc.lock names: nothing to propose."
    found = report.load(content.encode(), str(paths.REPORT))
    title = f"Retrain: {text.headline(found, rules.load(paths.GATES))}"
    push(environ, title, [*FILES, *map(str, args.file)])
    told = f"{args.why}\n\n{body}" if args.why else body
    return github.again(lambda: propose(environ, title, told, auto_merge=args.auto_merge))


def withdrawn(environ: Mapping[str, str], why: str) -> str:
    """Close the pull request and the issue that are open; return what was done."""
    repository = github.repository(environ)
    done = []
    for kind, each in (("pull request", opened(repository, environ)), ("issue", asked(repository))):
        if each:
            repository.get_issue(each.number).create_comment(f"Closed: {why}")
            each.edit(state="closed")
            done.append(f"Closed {kind} #{each.number}: {why}")
    return "\n".join(done) or "Nothing is proposed, and nothing was open."


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


def push(environ: Mapping[str, str], title: str, files: Sequence[str]) -> None:
    """Let the branch hold HEAD and these files, and nothing of an earlier proposal."""
    identity = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in BOT.items()}
    # In the environment, not among the words: those can be read by every process.
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraheader"}
    settings["GIT_CONFIG_VALUE_0"] = github.authorization(environ)
    git("add", "--", *files)
    git("commit", "--quiet", "--message", title, "--", *files, environ=identity)
    where = f"{environ['GITHUB_SERVER_URL']}/{environ['GITHUB_REPOSITORY']}"
    try:
        git("push", "--quiet", "--force", where, f"HEAD:refs/heads/{BRANCH}", environ=settings)
    except Problem as problem:
        if any(word in problem.what for word in REFUSED):
            raise
        raise Unreachable(problem.what, where, "run it again") from problem
    finally:
        git("reset", "--quiet", "--soft", "HEAD^")  # a second try must not take this commit's lock for the known one


def opened(repository: Any, environ: Mapping[str, str]) -> Any:
    """Return the pull request that is open, if there is one."""
    owner = environ["GITHUB_REPOSITORY"].partition("/")[0]
    return next(iter(repository.get_pulls(state="open", head=f"{owner}:{BRANCH}")), None)


def propose(environ: Mapping[str, str], title: str, body: str, *, auto_merge: bool) -> str:
    """Open the pull request, or renew the one that is open, and see to it that it is checked; return what was done."""
    repository = github.repository(environ)
    pull = opened(repository, environ)
    if pull:
        pull.edit(title=title, body=body)
        said = f"Renewed pull request #{pull.number}: {title}"
    else:
        base = environ.get("GITHUB_REF_NAME", "main")
        try:
            pull = repository.create_pull(title=title, body=body, head=BRANCH, base=base)
        except GithubException as error:
            if error.status != 403 or "not permitted" not in str(error):
                raise
            return ask(repository, environ, title, body)
        said = f"Opened pull request #{pull.number}: {title}"
        notify.notify("retrain_opened", title, body, pull.html_url, environ)
    if auto_merge:
        said += f"\n{merged_by_itself(pull, environ)}"
    if environ.get("DISPATCH") != "true":
        return said
    if issue := asked(repository):
        issue.edit(state="closed")
    return f"{said}\n{dispatch(repository, pull.number)}"


def merged_by_itself(pull: Any, environ: Mapping[str, str]) -> str:
    """Let GitHub merge it once what main requires has passed; return what was done, or what that needs."""
    if environ.get("DISPATCH") == "true":
        return "GitHub does not merge it by itself: what Actions' own token merges starts no release. Set the secret RETRAIN_TOKEN"
    try:
        pull.enable_automerge(merge_method="SQUASH")
    except GithubException as error:
        refused = (error.data or {}).get("errors", [])
        if not refused or any(each.get("type") == "RATE_LIMITED" for each in refused):
            raise
        why = "; ".join(each.get("message", "") for each in refused)
        needs = "Allow auto-merge and squash merging (Settings, General), and a check that main requires: python -m scripts.setup_github"
        return f"GitHub does not merge it by itself: {why}. It needs: {needs}"
    return "GitHub merges it once what main requires has passed"


def asked(repository: Any) -> Any:
    """Return the open issue that asks for the pull request, if there is one."""
    issues = repository.get_issues(state="open", labels=[BRANCH])
    return next((each for each in issues if MARK in (each.body or "")), None)


def ask(repository: Any, environ: Mapping[str, str], title: str, body: str) -> str:
    """Open or renew the issue that asks somebody to open the pull request; return what was done, and the setting that spares it."""
    there = f"{environ['GITHUB_SERVER_URL']}/{environ['GITHUB_REPOSITORY']}"
    between = "...".join(urllib.parse.quote(name, safe="") for name in (environ.get("GITHUB_REF_NAME", "main"), BRANCH))
    text = f"{MARK}\n**[Open the pull request]({there}/compare/{between}?expand=1)**: Actions may not. To let it: {SETTING}.\n\n{body}"
    if issue := asked(repository):
        issue.edit(title=title, body=text)
    else:
        issue = repository.create_issue(title=title, body=text, labels=[BRANCH])
    return f"Issue #{issue.number} asks for the pull request: {title}\nActions may not open it. To let it: {SETTING}."


def dispatch(repository: Any, number: int) -> str:
    """Start pr.yml on the branch as soon as there is a merge commit to check; return what was done."""
    for _ in range(MERGED):
        mergeable = repository.get_pull(number).mergeable  # asking is what makes GitHub merge
        if mergeable is not None:
            break
        time.sleep(2)
    if mergeable is False:
        return f"{WORKFLOW} was not started: the branch conflicts with its base, run this again"
    repository.get_workflow(WORKFLOW).create_dispatch(BRANCH, {"pull": str(number)}, throw=True)
    return f"Started {WORKFLOW} on it"


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
