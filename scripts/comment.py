"""Say in the pull request what its run measured: one comment, kept up to date.

python -m scripts.comment --report folder/report.json     in a workflow_run workflow, from main's code

What the run left is data and nothing else: it is parsed by its schema, judged by main's gates.yaml, rendered here. The pull
request is found by its head commit, not taken from the run's files. Exit code: 0 done or nothing to say, 2 wrong input, 3 GitHub did not answer.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pawl import gate, paths, report
from pawl.problem import Problem, Unreachable
from scripts import cli, github

MARK = "<!-- pawl:report run="
AUTHOR = "github-actions[bot]"  # whose token this is; anyone may write a comment with our mark in it


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Render, find the pull request, post."""
    parser = cli.parser("comment", __doc__)
    parser.add_argument("--report", type=Path, required=True)
    args = parser.parse_args(argv)
    from github import GithubException

    run = github.event(environ)["workflow_run"]
    try:
        pull = pull_request(github.repository(environ), run, environ["GITHUB_REPOSITORY"])
        if pull is None:
            print(f"no open pull request has {run['head_sha'][:7]} as its head: nothing to say")
            return 0
        text = body(args.report, run, pull.number)
        print(post(pull, run["run_number"], text))
    except (GithubException, OSError) as error:
        fix = "the workflow needs pull-requests: write; run it again"
        raise Unreachable(f"GitHub: {error}", environ["GITHUB_REPOSITORY"], fix) from error
    github.summary(environ, text)
    return 0


def body(path: Path, run: Mapping[str, Any], number: int) -> str:
    """Return the comment: the report, or what is known where there is none."""
    link = {"run": run["html_url"]}
    try:
        found = report.load(path.read_bytes(), str(path))
    except FileNotFoundError:
        return f"### ⚠ No numbers: the run ended as {run['conclusion']} before the model was measured\n\n[Its log]({link['run']}) says why.\n"
    except Problem as problem:
        return f"### ⚠ No numbers: the run's report was refused\n\n{report.code(problem.what)} · [run]({link['run']})\n"
    fetch = f"git fetch origin pull/{number}/merge && git checkout FETCH_HEAD"
    text = report.markdown(found, gate.load(paths.GATES), head=run["head_sha"], fetch=fetch, links=link)
    failed = (
        ""
        if run["conclusion"] == "success"
        else f"⚠ The run ended as {run['conclusion']}: [see its jobs]({link['run']}).\n\n"
    )
    return f"{failed}{text}<sub>Measured by the pull request's own code, judged by main's gates: a forecast. Main trains and judges again before it releases.</sub>\n"


def pull_request(repository: Any, run: Mapping[str, Any], full_name: str) -> Any:
    """Return the open pull request whose head this run is of; None if there is none, or if its head has moved on."""
    source = run["head_repository"]
    if source is None:  # the fork is gone
        return None
    head = f"{source['owner']['login']}:{run['head_branch']}"
    for pull in repository.get_pulls(state="open", head=head):
        same = pull.head.sha == run["head_sha"] and pull.head.ref == run["head_branch"]
        if (
            same
            and pull.head.repo is not None
            and pull.head.repo.full_name == source["full_name"]
            and pull.base.repo.full_name == full_name
        ):
            return pull
    return None


def post(pull: Any, number: int, text: str) -> str:
    """Write or renew the one comment; return what was done. A later run's comment stays."""
    content = f"{MARK}{number} -->\n{text}"
    for comment in pull.get_issue_comments():
        author = comment.user and comment.user.login  # None: an account that is gone
        if author == AUTHOR and (found := re.match(re.escape(MARK) + r"(\d+) -->", comment.body or "")):
            if int(found[1]) > number:
                return f"run {found[1]} has commented already, and is later"
            comment.edit(content)
            return f"renewed the comment of pull request {pull.number}"
    pull.create_issue_comment(content)
    return f"commented on pull request {pull.number}"


if __name__ == "__main__":
    sys.exit(main())
