"""Say in the pull request what its run measured: one comment, kept up to date.

python -m scripts.comment --report folder/report.json     in a workflow_run workflow, from main's code

What the run left is data and nothing else, strictly parsed: from what its model answered on each row everything is measured and judged anew, by main's
code, gates.yaml and ledger. The pull request is found by its head commit and branch, not taken from the run's files. A run that failed or ran out of time
is told, one that was superseded is not. Exit code: 0 done or nothing to say, 2 wrong input, 3 GitHub did not answer.
"""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from pawl import answers, paths, report
from pawl.answers import Answers
from pawl.gate import compare, rules
from pawl.gate.rules import Gates
from pawl.gate.verdict import Facts, State
from pawl.ledger import Corrupt, Ledger
from pawl.problem import Problem, Unreachable
from pawl.report import Other, Report, assess, text
from pawl.report.assess import Known
from scripts import baseline, cli, github

# The first line of the comment: the run, then each commit with its result, the present one last. Nothing of a report stands in it.
MARK = re.compile(r"<!-- pawl:report run=(\d+)((?: [0-9a-f]{7} [✅⬆=🟡❌➖⚠])*) -->\n")
AUTHOR = "github-actions[bot]"  # whose token this is; anyone may write a comment with our mark in it
EARLIER = 10
STARTS = ("pull_request", "workflow_dispatch")  # what measures a model; a push to a branch does not


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
        if number := newer(github.repository(environ), run):
            print(f"run {number} has the same head, and is later: nothing to say")
            return 0
        said = body(args.report, run, pull.number)
        print(github.again(lambda: post(pull, run, said)))
    except (GithubException, OSError) as error:
        fix = "the workflow needs pull-requests: write; run it again"
        raise Unreachable(f"GitHub: {github.why(error)}", environ["GITHUB_REPOSITORY"], fix) from error
    github.summary(environ, said)
    return 0


def body(path: Path, run: Mapping[str, Any], number: int) -> str:
    """Return the comment: the report, or what is known where there is none."""
    link, ended = {"run": run["html_url"]}, run["conclusion"]
    how = "cancelled, by hand or out of time," if ended == "cancelled" else ended
    gates = rules.load(paths.GATES)
    try:
        found = judged(report.load(path.read_bytes(), str(path)), path.parent, gates)
    except FileNotFoundError:
        return f"### ⚠ No numbers: the run ended as {how} before the model was measured\n\n[Its log]({link['run']}) says why.\n"
    except Problem as problem:
        return f"### ⚠ No numbers: the run's report was refused\n\n{text.code(problem.what)} · [run]({link['run']})\n"
    fetch = f"git fetch origin pull/{number}/merge && git checkout FETCH_HEAD"
    said = text.markdown(found, gates, head=run["head_sha"], fetch=fetch, links=link)
    rebuilt = found.baseline and found.baseline.how == "rebuilt"
    failed = "" if ended == "success" else f"⚠ The run ended as {how.rstrip(',')}: [see its jobs]({link['run']}).\n\n"
    own = "; of main's model, too, what the run says it answered" if rebuilt else ""
    return f"{failed}{said}<sub>Measured and judged by main's code, from what the pull request's run says its model answered{own}: a forecast. Main trains and judges again before it releases.</sub>\n"


def judged(claimed: Report, folder: Path, gates: Gates) -> Report:
    """Return the report, measured and judged anew: of the run's report only what main cannot know itself is taken."""
    mine = answers.load((folder / paths.ANSWERS.name).read_bytes(), paths.ANSWERS.name)
    told = claimed.candidate.facts
    facts = compare.facts(mine, gates, size=told.size)
    facts = msgspec.structs.replace(facts, train=told.train, valid=told.valid)
    model = msgspec.structs.replace(claimed.candidate, facts=facts, rows=mine.digest)
    curves = {name: each for name, each in claimed.curves.items() if name == "learning"}
    ledger = Ledger()
    known, state, why = against(claimed, folder, gates, ledger, mine)
    champion, no_champion = baseline.champion(ledger, mine, {})
    found = msgspec.structs.replace(claimed, candidate=model, curves=curves, champion_why=no_champion[:300])
    today = datetime.now(UTC).date()
    try:
        marks = baseline.marks("HEAD", gates, ledger)
        return assess.assess(found, gates, mine, known, champion, marks, state, why, today)
    except Corrupt as problem:
        return assess.assess(found, gates, mine, None, champion, [], "lost", baseline.lost(problem).why, today)


def against(
    claimed: Report, folder: Path, gates: Gates, ledger: Ledger, mine: Answers
) -> tuple[Known | None, State, str]:
    """Return what the candidate is compared with: what main's ledger has for main, whatever the run says that it compared with.

    Only where the ledger has nothing to compare with is it what the run says that main's model answered.
    """
    base, entries = claimed.baseline, ledger.commits()
    kept = baseline.remembered("HEAD", gates, ledger)
    trained = base is not None and base.how == "rebuilt"
    if kept and (kept.known is None or not trained or baseline.comparable(kept.known, mine, gates)):
        return kept.known, kept.state, kept.why
    if base and trained:
        theirs = answers.load((folder / paths.BASE_ANSWERS.name).read_bytes(), paths.BASE_ANSWERS.name)
        shown = Other(base.commit, "main", "rebuilt", Facts({}), base.digest, left_out=base.left_out)
        return Known(shown, theirs, base.facts.size), "compared", ""
    state: State = "lost" if entries else "incomparable" if base else claimed.state
    why = f"main's ledger has {len(entries)} commits, none that this can be compared with" if entries else claimed.why
    return Known(msgspec.structs.replace(base, name="main"), None) if base else None, state, why


def pull_request(repository: Any, run: Mapping[str, Any], full_name: str) -> Any:
    """Return the open pull request whose head this run is of; None if there is none, or if its head has moved on."""
    source = run["head_repository"]
    if source is None:  # the fork is gone
        return None
    head = f"{source['owner']['login']}:{run['head_branch']}"
    wanted = (run["head_sha"], run["head_branch"], source["full_name"], full_name)
    # Of two from one branch it is the one that was named; a title that somebody wrote names none.
    named = run["event"] == "workflow_dispatch" and re.fullmatch(r"Pull request #(\d+)", run["display_title"])
    for pull in repository.get_pulls(state="open", head=head):
        of = pull.head.repo and pull.head.repo.full_name  # None: the fork is gone
        found = (pull.head.sha, pull.head.ref, of, pull.base.repo.full_name) == wanted
        if found and (not named or pull.number == int(named[1])):
            return pull
    return None


def newer(repository: Any, run: Mapping[str, Any]) -> int | None:
    """Return the number of a later run of this workflow that measures the same head."""
    source = run["head_repository"]["full_name"]
    for each in repository.get_workflow_runs(head_sha=run["head_sha"], branch=run["head_branch"]):
        of = each.head_repository and each.head_repository.full_name
        if (
            (each.workflow_id, of) == (run["workflow_id"], source)
            and each.event in STARTS
            and each.run_number > run["run_number"]
        ):
            return int(each.run_number)
    return None


def post(pull: Any, run: Mapping[str, Any], said: str) -> str:
    """Write or renew the one comment; return what was done. A later run's comment stays."""
    number = run["run_number"]
    for comment in pull.get_issue_comments():
        author = comment.user and comment.user.login  # None: an account that is gone
        if author == AUTHOR and (found := MARK.match(comment.body or "")):
            if int(found[1]) > number:
                return f"run {found[1]} has commented already, and is later"
            comment.edit(marked(run, said, found[2].split()))
            return f"renewed the comment of pull request {pull.number}"
    pull.create_issue_comment(marked(run, said, []))
    return f"commented on pull request {pull.number}"


def marked(run: Mapping[str, Any], said: str, known: Sequence[str]) -> str:
    """Return the comment with its mark and the results of earlier commits. known: commit, result, commit, result, as our own mark had them."""
    commit = run["head_sha"][:7]
    result = re.findall(r"^### (\S)", said, re.MULTILINE)[0]
    if run["conclusion"] != "success" and result in "✅⬆=➖":
        result = "⚠"  # the model is right, something else is not
    earlier = [pair for pair in zip(known[::2], known[1::2], strict=True) if pair[0] != commit][-EARLIER:]
    history = " → ".join(" ".join(pair) for pair in earlier)
    entries = "".join(f" {one} {its}" for one, its in [*earlier, (commit, result)])
    mark = f"<!-- pawl:report run={run['run_number']}{entries} -->\n"
    return f"{mark}{said}\n<sub>Earlier: {history}</sub>\n" if history else f"{mark}{said}"


if __name__ == "__main__":
    sys.exit(main())
