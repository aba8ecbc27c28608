"""`python -m scripts.comment`, asked in this process, against a GitHub on loopback."""

import json
import os
import re
import subprocess

import msgspec
import pytest

from pawl import answers, ledger, report
from pawl.gate import rules
from pawl.gate.verdict import Facts
from pawl.ledger import Ledger
from pawl.parts import Value
from pawl.report import Change, Changes, File, Other
from scripts import comment

HEAD, MERGE, BASE = "a" * 40, "c" * 40, "b" * 40
BOT = "github-actions[bot]"
TOKEN = "ghs_secret"
GATES = """version: 1
metrics:
  roc_auc: {direction: higher, floor: 0.80, max_regression: 0.005}
  accuracy: {direction: higher, floor: 0.75}
slices:
  - {by: [sex], min_rows: 100, metrics: {roc_auc: {direction: higher, floor: 0.7}}}
"""
PASSED = "### ✅ roc_auc is 0.9"


class Run:
    """A finished run of the workflow Pull request, and what main's code does with what it left."""

    def __init__(self, folder, hub, craft):
        self.folder, self.hub, self.craft = folder, hub, craft
        self.report, self.summary = folder / "artifact/report.json", folder / "summary.md"
        self.report.parent.mkdir()
        self.environ = {
            "GITHUB_API_URL": hub.url,
            "GITHUB_REPOSITORY": hub.name,
            "GITHUB_EVENT_PATH": str(folder / "event.json"),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GH_TOKEN": TOKEN,
        }
        self.runs, self.hub_route, hub.route = [], hub.route, self.route
        self.event = {
            "event": "pull_request",
            "display_title": "a title",
            "workflow_id": 11,
            "head_sha": HEAD,
            "head_branch": "topic",
            "head_repository": {"full_name": hub.name, "owner": {"login": "octo"}},
            "run_number": 7,
            "conclusion": "success",
            "html_url": "https://github.example/run/1",
        }
        self.write()

    def route(self, method, path, query, sent):
        if path == f"/repos/{self.hub.name}/actions/runs":
            found = [each for each in self.runs if (each["head_sha"], each["head_branch"]) == (query["head_sha"], query["branch"])]  # fmt: skip
            return 200, {"total_count": len(found), "workflow_runs": found}, ""
        return self.hub_route(method, path, query, sent)

    def write(self, noise=0.0, theirs=0.02, how="rebuilt", **fields):
        """Leave what a run leaves that has trained main's model beside its own; fields replace what its report says."""
        mine, base = (self.craft.answers(each) for each in (noise, theirs))
        gates = rules.load(self.folder / "gates.yaml")
        other = Other(BASE, "main", how, Facts({"model_bytes": Value(100_000.0, None, None, 0)}))
        found = self.craft.report(mine, gates, commit=MERGE, other=other, theirs=base, state="compared")
        self.report.write_bytes(report.dump(msgspec.structs.replace(found, **fields)))
        for name, each in (("candidate", mine), ("baseline", base)):
            (self.report.parent / f"{name}.answers").write_bytes(answers.dump(each))

    def claim(self, **fields):
        """Replace what the run's report says, and leave what its model answered."""
        found = report.load(self.report.read_bytes(), "report.json")
        self.report.write_bytes(report.dump(msgspec.structs.replace(found, **fields)))

    @property
    def claimed(self):
        return report.load(self.report.read_bytes(), "report.json")

    def git(self, *words):
        return subprocess.run(
            ["git", *words], cwd=self.folder, check=True, capture_output=True, text=True
        ).stdout.strip()

    def release(self, noise=0.0, **fields):
        """Let main have one commit more, and its ledger that commit's model; return the commit."""
        self.git("commit", "--quiet", "--allow-empty", "--message", "a release")
        commit = self.git("rev-parse", "HEAD")
        Ledger(self.folder).write(self.craft.entry(commit, self.craft.answers(noise), **fields), "an entry")
        return commit

    def comment(self, **event):
        (self.folder / "event.json").write_text(json.dumps({"workflow_run": self.event | event}))
        return comment.main(["--report", str(self.report)], self.environ)

    def told(self, **event):
        """Return the comment that this run gets, without its mark."""
        assert self.comment(**event) == 0
        return self.hub.bodies(5)[-1].partition("\n")[2]


@pytest.fixture
def run(tmp_path, monkeypatch, hub, craft):
    for name in [name for name in os.environ if name.startswith(("GIT_", "PAWL_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for role in ("AUTHOR", "COMMITTER"):
        for key in ("NAME", "EMAIL"):
            monkeypatch.setenv(f"GIT_{role}_{key}", "tester@example.org")
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    (tmp_path / "gates.yaml").write_text(GATES)
    monkeypatch.chdir(tmp_path)
    made = Run(tmp_path, hub, craft)
    made.git("init", "--quiet", "--initial-branch=main")
    made.git("commit", "--quiet", "--allow-empty", "--message", "start")
    return made


@pytest.fixture
def pull(hub):
    return hub.pull(5, sha=HEAD)


def marked(number, text="an earlier report"):
    return f"<!-- pawl:report run={number} -->\n{text}"


def test_the_first_run_writes_the_comment(run, hub, pull, capsys):
    code = run.comment()

    [body] = hub.bodies(5)
    assert code == 0
    assert body.startswith(f"<!-- pawl:report run=7 aaaaaaa ✅ -->\n{PASSED}")
    assert "`aaaaaaa`, 400 test rows · against main bbbbbbb" in body  # not the merge, which nobody has seen
    assert "`ccccccc`" not in body
    assert "git fetch origin pull/5/merge && git checkout FETCH_HEAD" in body
    assert "[run](https://github.example/run/1)" in body
    assert "a forecast" in body
    assert capsys.readouterr().out == "commented on pull request 5\n"
    assert hub.tokens == {f"token {TOKEN}"}


def test_the_summary_of_the_job_has_it_too(run, hub, pull):
    run.comment()

    assert run.summary.read_text() in hub.bodies(5)[0]


def test_a_later_run_renews_the_comment(run, hub, pull, capsys):
    hub.comment(5, "looks good", "octocat")
    hub.comment(5, marked(6))

    code = run.comment()

    assert code == 0
    assert len(hub.bodies(5)) == 2
    assert hub.bodies(5)[1].startswith("<!-- pawl:report run=7 aaaaaaa ✅ -->\n### ✅")
    assert capsys.readouterr().out == "renewed the comment of pull request 5\n"


def test_the_same_run_again_renews_the_comment(run, hub, pull):
    run.comment()
    run.write(noise=6.0)

    run.comment()

    [body] = hub.bodies(5)
    assert "❌ Blocked: roc_auc is 0.6" in body


def test_the_comment_is_found_behind_a_hundred_others(run, hub, pull):
    for number in range(205):
        hub.comment(5, f"talk {number}", "octocat")
    hub.comment(5, marked(6))

    run.comment()

    assert len(hub.bodies(5)) == 206
    assert hub.bodies(5)[-1].startswith("<!-- pawl:report run=7")


@pytest.mark.parametrize("author", ["octocat", "github-actions", "github-actions[bot]x", "dependabot[bot]", None])
def test_a_comment_of_another_author_with_the_mark_is_never_touched(run, hub, pull, author):
    hub.comment(5, marked(6), author)
    hub.comment(5, marked(999_999), author)

    code = run.comment()

    assert code == 0
    assert hub.bodies(5)[:2] == [marked(6), marked(999_999)]
    assert hub.bodies(5)[2].startswith("<!-- pawl:report run=7")


@pytest.mark.parametrize(
    "body",
    [f"> {marked(6)}", "<!-- pawl:report run= -->", "<!-- pawl:report run=6", "<!-- pawl:drift run=6 -->", "", None],
    ids=ascii,
)
def test_another_comment_of_the_bot_is_never_touched(run, hub, pull, body):
    hub.comment(5, body)

    code = run.comment()

    assert code == 0
    assert hub.bodies(5)[0] == body
    assert len(hub.bodies(5)) == 2


def test_the_comment_of_a_later_run_stays(run, hub, pull, capsys):
    hub.comment(5, marked(8))

    code = run.comment()

    assert code == 0
    assert hub.bodies(5) == [marked(8)]
    assert hub.writes == []
    assert capsys.readouterr().out == "run 8 has commented already, and is later\n"


def test_runs_are_ordered_as_numbers(run, hub, pull):
    hub.comment(5, marked(10))

    run.comment(run_number=9)

    assert hub.bodies(5) == [marked(10)]


def test_a_fork_gets_its_comment(run, hub):
    hub.pull(6, sha=HEAD, source="stranger/model")

    code = run.comment(head_repository={"full_name": "stranger/model", "owner": {"login": "stranger"}})

    assert code == 0
    assert len(hub.bodies(6)) == 1


def test_of_equal_branches_of_other_owners_the_one_that_was_run_gets_it(run, hub):
    hub.pull(4, sha=HEAD, source="another/model")
    hub.pull(5, sha=HEAD)
    hub.pull(6, sha=HEAD, source="stranger/model")

    run.comment(head_repository={"full_name": "stranger/model", "owner": {"login": "stranger"}})

    assert [len(hub.bodies(number)) for number in (4, 5, 6)] == [0, 0, 1]


def test_a_branch_with_any_name_gets_its_comment(run, hub):
    branch = "fix/a&head=x#1 100%+ü"
    hub.pull(5, sha=HEAD, branch=branch)

    run.comment(head_branch=branch)

    assert len(hub.bodies(5)) == 1


NOBODY = {
    "the head has moved on": ({"sha": "e" * 40}, {}),
    "no such branch": ({"sha": HEAD, "branch": "another"}, {}),
    "the fork is gone, the run says so": ({"sha": HEAD, "source": None}, {"head_repository": None}),
    "the fork is gone since": (
        {"sha": HEAD, "source": None},
        {"head_repository": {"full_name": "ghost/model", "owner": {"login": "ghost"}}},
    ),
    "another repository of the same owner": (
        {"sha": HEAD, "source": "octo/other"},
        {"head_repository": {"full_name": "octo/model", "owner": {"login": "octo"}}},
    ),
    "a pull request to another repository": ({"sha": HEAD, "base": "upstream/model"}, {}),
    "a run of no branch": ({"sha": HEAD}, {"head_branch": None}),
}


@pytest.mark.parametrize(("pull", "event"), NOBODY.values(), ids=NOBODY)
def test_where_no_pull_request_has_this_head_nothing_is_said(run, hub, capsys, pull, event):
    hub.pull(5, **pull)

    code = run.comment(**event)

    assert code == 0
    assert hub.writes == []
    assert capsys.readouterr().out == "no open pull request has aaaaaaa as its head: nothing to say\n"


def test_a_closed_pull_request_gets_none(run, hub, pull):
    pull["state"] = "closed"

    assert run.comment() == 0
    assert hub.writes == []


def test_the_number_that_the_report_says_is_not_asked(run, hub, pull):
    """Which pull request it is comes from GitHub's event, not from files that a stranger wrote."""
    hub.pull(1, sha="e" * 40)
    (run.report.parent / "number").write_text("1")

    run.comment()

    assert hub.bodies(1) == []


def test_a_run_that_left_no_report_is_said(run, hub, pull):
    run.report.unlink()

    code = run.comment(conclusion="failure")

    [body] = hub.bodies(5)
    assert code == 0
    assert "⚠ No numbers: the run ended as failure before the model was measured" in body
    assert "[Its log](https://github.example/run/1)" in body


REFUSED = {
    "too large": b" " * 2_000_001,
    "no JSON": b"PK\x03\x04",
    "an unknown field": b'{"version": 1, "html": "<b>"}',
    "an unknown field with a mention in its name": b'{"version": 1, "` @octocat <img src=x>": 1}',
    "an unknown field with a long name": json.dumps({"x" * 100_000: 1}).encode(),
    "a metric with a mention": b'{"version":1,"candidate":{"commit":"unknown","metrics":{"@o/team":1}},"baseline":null,"how":"none"}',
    "deep": b"[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_a_report_that_is_none_is_said_to_be_refused(run, hub, pull, content):
    run.report.write_bytes(content)

    code = run.comment()

    [body] = hub.bodies(5)
    outside = "".join(body.split("`")[::2])
    assert code == 0
    assert body.startswith("<!-- pawl:report run=7 aaaaaaa ⚠ -->\n### ⚠ No numbers: the run's report was refused\n")
    assert "[run](https://github.example/run/1)" in body
    assert "@" not in outside
    assert "<img" not in outside


@pytest.mark.parametrize("size", [None, -1.0, 5e-324, 1.7e308])
@pytest.mark.parametrize("place", [(-1.7e308, 1.7e308), (0.0, 5e-324)], ids=["wide", "narrow"])
def test_numbers_that_no_metric_has_are_a_comment_too(run, hub, pull, place, size):
    odd = {"roc_auc": Value(0.5, *place, 400), "model_bytes": Value(size, None, None, 0)}
    facts = msgspec.structs.replace(run.claimed.candidate.facts, metrics=odd)
    run.claim(
        candidate=msgspec.structs.replace(run.claimed.candidate, facts=facts),
        baseline=Other(BASE, "main", "committed", Facts(odd)),
    )

    assert run.comment() == 0
    assert len(hub.bodies(5)) == 1


def test_a_failed_gate_is_the_headline_and_the_run_is_said_to_have_failed(run, hub, pull):
    run.write(noise=6.0)

    code = run.comment(conclusion="failure")

    [body] = hub.bodies(5)
    assert code == 0  # the comment is there; the run itself is red
    assert "### ❌ Blocked: roc_auc is 0.6" in body
    assert ", below its floor 0.8; " in body
    assert "⚠ The run ended as failure: [see its jobs](https://github.example/run/1)." in body


def test_a_report_of_a_run_that_failed_elsewhere_is_shown_with_that(run, hub, pull):
    run.comment(conclusion="timed_out")

    [body] = hub.bodies(5)
    assert "⚠ The run ended as timed_out" in body
    assert PASSED in body


def test_a_run_that_succeeded_is_not_said_to_have_ended(run, hub, pull):
    run.comment()

    assert "The run ended" not in hub.bodies(5)[0]


def test_the_gates_are_those_of_main(run, hub, pull):
    (run.report.parent / "gates.yaml").write_text("version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0}}\n")
    (run.folder / "gates.yaml").write_text("version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0.99}}\n")

    run.comment()

    assert "### ❌ Blocked: roc_auc is 0.9" in hub.bodies(5)[0]
    assert ", below its floor 0.99" in hub.bodies(5)[0]


def test_a_parameter_with_the_mark_does_not_become_the_mark(run, hub, pull):
    text = marked(999_999)
    run.claim(why=text, changes=Changes(params=(Change(text, text, text),)))
    run.comment()

    run.comment(run_number=8)

    [body] = hub.bodies(5)
    assert body.startswith("<!-- pawl:report run=8 aaaaaaa ✅ -->\n### ✅")


def test_the_longest_report_is_a_comment_that_github_takes(run, hub, pull):
    many = tuple(Change("|" * 300, "|" * 300, "|" * 300) for _ in range(500))
    run.claim(why="|" * 300, changes=Changes(params=many, gates=many, schema=many))

    assert run.comment() == 0
    assert len(hub.bodies(5)) == 1


def test_what_a_model_answered_is_measured_here_whatever_its_run_says_of_it(run, pull):
    run.write(noise=6.0)
    run.release(noise=6.0)
    lie = {name: Value(0.999, 0.998, 1.0, 100_000) for name in ("roc_auc", "accuracy")}
    model = msgspec.structs.replace(run.claimed.candidate, facts=Facts(lie), rows="9" * 64)
    run.claim(candidate=model, verdict="pass", allowed=True, judged=(), comparisons=())

    said = run.told()

    assert said.startswith("### ❌ Blocked: roc_auc is 0.6")
    assert "0.999" not in said
    assert ", 400 test rows" in said


BETTER = {
    "it says that it compared with a worse commit of main": {"worse": True},
    "it says that it compared with a commit that main has not": {"baseline": Other(BASE, "main", "ledger", Facts({}))},
    "it says that it trained main's model, and what that answered": {"baseline": Other(BASE, "main", "rebuilt", Facts({}))},
    "it says that main has numbers alone": {"baseline": Other(BASE, "main", "committed", Facts({})), "state": "incomparable"},
    "it says that main had none": {"baseline": None, "state": "first", "why": "this is the first commit"},
    "it says nothing of main": {"baseline": None, "state": "compared"},
    "it says that it cannot be compared": {"baseline": None, "state": "incomparable"},
}  # fmt: skip


@pytest.mark.parametrize("lie", BETTER.values(), ids=BETTER)
def test_the_baseline_is_main_s_newest_whatever_the_run_says_that_it_compared_with(run, pull, lie):
    run.write(noise=0.8, theirs=3.0)
    worse = run.release(noise=1.5)
    best = run.release(noise=0.0)
    if "worse" in lie:
        lie = {"baseline": Other(worse, "main", "ledger", Facts({}))}
    run.claim(verdict="pass", allowed=True, judged=(), comparisons=(), **lie)

    said = run.told()

    assert said.startswith("### ❌ Blocked: roc_auc fell by 0.0")
    assert f"· against main {best[:7]} on the 400 test rows of both" in said
    assert "what the run says it answered" not in said


NOT_RELEASED = {
    "it says that main had none": {"baseline": None, "state": "first"},
    "it says that it compared with what the ledger has": {"baseline": Other(BASE, "main", "ledger", Facts({})), "state": "compared"},
    "it says that main has numbers alone": {"baseline": Other(BASE, "main", "committed", Facts({})), "state": "first"},
    "it says that it trained nothing": {"baseline": None, "state": "incomparable"},
}  # fmt: skip


@pytest.mark.parametrize("lie", NOT_RELEASED.values(), ids=NOT_RELEASED)
def test_where_main_s_ledger_has_nothing_that_passed_only_a_model_that_was_trained_beside_it_compares(run, pull, lie):
    run.release(verdict="fail", allowed=False)
    run.claim(verdict="pass", allowed=True, judged=(), comparisons=(), **lie)

    assert run.told().startswith("### ⚠ Blocked: the baseline is lost: main's ledger has 1 commits, none ")


def test_before_main_has_a_ledger_numbers_alone_compare_nothing(run, pull):
    run.claim(baseline=Other(BASE, "main", "committed", Facts({})), state="first", verdict="pass", allowed=True)

    assert run.told().startswith("### ⚠ Blocked: not comparable")


@pytest.mark.parametrize("state", ["compared", "first", "incomparable", "lost"])
@pytest.mark.parametrize("released", [False, True], ids=["there is no ledger", "the ledger's commit did not pass"])
def test_what_main_s_model_answered_is_taken_from_the_run_where_main_does_not_know(run, pull, released, state):
    if released:
        run.release(verdict="fail", allowed=False)
    run.write(noise=0.8, theirs=0.0)
    run.claim(state=state, verdict="pass", allowed=True)

    said = run.told()

    assert said.startswith("### ❌ Blocked: roc_auc fell by 0.0")
    assert "· against main bbbbbbb, trained anew beside it on the 400 test rows of both" in said
    assert "of main's model, too, what the run says it answered" in said


def test_rows_that_main_s_model_has_trained_on_stay_left_out(run, pull, craft):
    run.write()
    theirs = craft.answers().take(slice(100, None))
    (run.report.parent / "baseline.answers").write_bytes(answers.dump(theirs))
    run.claim(baseline=msgspec.structs.replace(run.claimed.baseline, left_out=100))

    assert "on the 300 test rows of both, 100 rows that it has trained on left out" in run.told()


def test_many_small_losses_are_measured_against_the_best_that_main_had(run, pull):
    (run.folder / "gates.yaml").write_text(
        "version: 1\nmetrics: {log_loss: {direction: lower, ceiling: 9, max_regression: 0.03}}\n"
    )
    best = run.release(noise=0.0)
    run.release(noise=0.75)
    run.write(noise=0.8)

    assert f" against the best of main ({best[:7]})" in run.told().splitlines()[0]


@pytest.mark.parametrize("name", ["entry.json", "answers"])
@pytest.mark.parametrize("which", ["HEAD", "HEAD^"], ids=["the baseline", "an older commit"])
def test_a_ledger_that_cannot_be_trusted_is_an_error_whatever_the_run_says(run, pull, name, which):
    run.release(noise=0.0)
    run.release(noise=0.5)
    run.write(noise=0.6)
    commit = run.git("rev-parse", which)
    Ledger(run.folder).write({f"baselines/{commit}/{name}": b"damage"}, "damage")

    assert run.told().startswith(f"### ⚠ Blocked: the baseline is lost: the ledger's entry of {commit[:7]} cannot be ")


def test_what_is_served_is_what_main_s_ledger_says(run, pull):
    commit = run.release()
    Ledger(run.folder).write({ledger.CHAMPION: json.dumps({"commit": commit, "version": "3", "digest": ""}).encode()}, "")  # fmt: skip
    run.claim(champion=Other(BASE, "champion, version 9", "registry", Facts({})), champion_why="")

    said = run.told()

    assert f"; champion, version 3 {commit[:7]} on the" in said
    assert "version 9" not in said


def broken(content):
    return lambda file: file.write_bytes(content)


NONE = {
    "missing": lambda file: file.unlink(),
    "empty": broken(b""),
    "corrupt": broken(b"PK\x03\x04"),
    "cut off": lambda file: file.write_bytes(file.read_bytes()[:-20]),
    "too large": broken(b" " * (answers.MAX_BYTES + 1)),
}


@pytest.mark.parametrize("name", ["candidate", "baseline"])
@pytest.mark.parametrize("spoil", NONE.values(), ids=NONE)
def test_without_what_the_models_answered_there_are_no_numbers(run, pull, spoil, name):
    spoil(run.report.parent / f"{name}.answers")

    said = run.told()

    assert said.startswith("### ⚠ No numbers: the run")
    assert "0.9" not in said
    assert "✅" not in said


HOSTILE = (
    "`</details><img src=x onerror=alert(1)> @octocat #1 ![a](https://evil.example/x) [b](javascript:c) `d` | e\n\n# f"
)


def test_hostile_text_in_every_claimed_field_stays_inert(run, pull, craft):
    """What a stranger may write stands in a code span, or with every mark in it disarmed."""
    changed = tuple(Change(HOSTILE, HOSTILE, HOSTILE) for _ in range(3))
    found = run.claimed
    mine = craft.answers()._replace(slices={HOSTILE: ((HOSTILE, f"{HOSTILE}=x"), craft.answers().slices["sex"][1])})
    (run.report.parent / "candidate.answers").write_bytes(answers.dump(mine))
    judged = tuple(msgspec.structs.replace(each, rule=HOSTILE, slice=HOSTILE, reason=HOSTILE, waived=HOSTILE) for each in found.judged)  # fmt: skip
    run.claim(
        judged=judged, why=HOSTILE, champion_why=HOSTILE, importances=((HOSTILE, 0.5),), state="incomparable",
        baseline=Other(BASE, HOSTILE, "committed", found.baseline.facts),
        champion=Other(BASE, HOSTILE, "ledger", found.baseline.facts),
        changes=Changes(changed, changed, changed, changed, (File(HOSTILE, 1, 1),)),
    )  # fmt: skip
    (run.folder / "gates.yaml").write_text(GATES.replace("[sex]", json.dumps([HOSTILE])))

    said = run.told()

    plain = re.sub(r"`[^`\n]*`", "", "".join(said.split("```")[::2]))
    plain = re.sub(r"\\.", "", plain)  # what a backslash has disarmed
    assert "octocat" in said
    for sign in ("<img", "</details><img", "@octocat", "](javascript", "](https://evil", "\n# f", " #1"):
        assert sign not in plain, sign


TROUBLE = {
    "no right to read": ("GET", 403, {"message": "Resource not accessible by integration"}),
    "no right to write": ("POST", 403, {"message": "Resource not accessible by integration"}),
    "an unknown token": ("GET", 401, {"message": "Bad credentials"}),
    "an unknown repository": ("GET", 404, {"message": "Not Found"}),
    "what is written is refused": ("POST", 422, {"message": "Validation Failed"}),
    "GitHub is broken": ("GET", 500, {"message": "Server Error"}),
    "GitHub is away": ("POST", 503, {"message": "Service Unavailable"}),
}


@pytest.mark.parametrize(("method", "status", "answer"), TROUBLE.values(), ids=TROUBLE)
def test_what_github_refuses_is_3_with_a_fix(run, hub, pull, capsys, method, status, answer):
    hub.refuses[method] = (status, answer)

    code = run.comment()

    said = capsys.readouterr().err
    assert code == 3
    assert said.startswith("error: GitHub: ")
    assert f"  where: {hub.name}\n  fix: " in said
    assert "Traceback" not in said
    assert TOKEN not in said


def test_no_right_to_renew_is_3(run, hub, pull, capsys):
    hub.comment(5, marked(6))
    hub.refuses["PATCH"] = (403, {"message": "Resource not accessible by integration"})

    assert run.comment() == 3
    assert hub.bodies(5) == [marked(6)]


def test_nobody_at_the_address_is_3_with_a_fix(run, hub, pull, capsys):
    run.environ["GITHUB_API_URL"] = "http://127.0.0.1:9"  # discard: nothing listens

    code = run.comment()

    assert code == 3
    assert "error: GitHub: " in capsys.readouterr().err


def test_wrong_gates_are_2_and_nothing_is_written(run, hub, pull, capsys):
    (run.folder / "gates.yaml").write_text("version: 1\nmetrics: {}\n")

    code = run.comment()

    assert code == 2
    assert "it judges nothing" in capsys.readouterr().err
    assert hub.writes == []


def heads(*commits):
    """Return the histories' letters as commits."""
    return [letter * 40 for letter in commits]


def comment_of(run, hub, sha, number, **event):
    hub.pulls[0]["head"]["sha"] = sha
    assert run.comment(head_sha=sha, run_number=number, **event) == 0
    return hub.bodies(5)[-1]


def test_the_comment_has_the_results_of_earlier_commits_in_one_line(run, hub, pull):
    first, second, third = heads("4", "9", "c")
    run.write(noise=6.0)
    comment_of(run, hub, first, 7, conclusion="failure")
    run.write()
    comment_of(run, hub, second, 8)

    body = comment_of(run, hub, third, 9, conclusion="failure")

    assert len(hub.bodies(5)) == 1
    assert body.count("Earlier:") == 1
    assert body.endswith("\n<sub>Earlier: 4444444 ❌ → 9999999 ✅</sub>\n")
    assert body.startswith("<!-- pawl:report run=9 4444444 ❌ 9999999 ✅ ccccccc ⚠ -->\n")


def test_a_rerun_of_a_commit_replaces_its_entry(run, hub, pull):
    first, second = heads("4", "9")
    comment_of(run, hub, first, 7)
    comment_of(run, hub, second, 8, conclusion="failure")

    body = comment_of(run, hub, second, 8)

    assert body.startswith("<!-- pawl:report run=8 4444444 ✅ 9999999 ✅ -->\n")
    assert body.endswith("<sub>Earlier: 4444444 ✅</sub>\n")


def test_the_line_holds_ten(run, hub, pull):
    known = "".join(f" {number:07x} ✅" for number in range(11))
    hub.comment(5, f"<!-- pawl:report run=6{known} -->\nold")

    run.comment()

    line = hub.bodies(5)[0].splitlines()[-1]
    assert line.count("→") == 9
    assert "0000000 " not in line
    assert line.startswith("<sub>Earlier: 0000001 ✅ → 0000002")


FORGED = (
    "<!-- pawl:report run=6 4444444 ✅ [x](https://evil.example) -->\n",
    "<!-- pawl:report run=6 4444444 OK -->\n",
    "<!-- pawl:report run=6 44444444 ✅ -->\n",
    "<!-- pawl:report run=6 4444444 -->\n",
)


@pytest.mark.parametrize("first", FORGED)
def test_a_history_that_is_none_is_not_read(run, hub, pull, first):
    hub.comment(5, f"{first}old")

    run.comment()

    assert "Earlier" not in hub.bodies(5)[-1]


def test_a_history_in_the_text_or_of_another_author_is_not_read(run, hub, pull):
    hub.comment(5, "<!-- pawl:report run=6 4444444 ✅ -->\nold", "octocat")
    hub.comment(5, f"{marked(6)}\n<sub>Earlier: 4444444 ✅</sub>\n<!-- pawl:report run=6 4444444 ✅ -->\n")

    run.comment()

    assert "Earlier" not in hub.bodies(5)[-1]


def later(run, **fields):
    """Let the API tell of a run of the same head."""
    run.runs.append(
        {"workflow_id": 11, "event": "pull_request", "run_number": 8, "head_sha": HEAD, "head_branch": "topic",
         "head_repository": {"full_name": run.hub.name}} | fields
    )  # fmt: skip


@pytest.mark.parametrize("conclusion", ["success", "failure", "cancelled", "timed_out"])
@pytest.mark.parametrize("event", ["pull_request", "workflow_dispatch"])
def test_a_run_with_a_newer_one_of_the_same_head_says_nothing(run, hub, pull, capsys, conclusion, event):
    later(run, event=event)

    assert run.comment(conclusion=conclusion) == 0
    assert hub.writes == []
    assert capsys.readouterr().out == "run 8 has the same head, and is later: nothing to say\n"


OTHERS = {
    "the push of the branch": {"event": "push"},
    "another workflow": {"workflow_id": 12},
    "this run": {"run_number": 7},
    "an earlier one": {"run_number": 6},
    "a fork's of the same commit": {"head_repository": {"full_name": "stranger/model"}},
    "one whose fork is gone": {"head_repository": None},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS)
def test_another_run_does_not_silence_this_one(run, hub, pull, fields):
    later(run, **fields)

    assert run.comment() == 0
    assert len(hub.bodies(5)) == 1


def test_a_run_that_ran_out_of_time_is_said(run, hub, pull):
    """GitHub cancels such a job: without `Pass`, which then fails, the run is cancelled as by hand."""
    run.report.unlink()

    run.comment(conclusion="cancelled")

    assert "### ⚠ No numbers: the run ended as cancelled, by hand or out of time, before" in hub.bodies(5)[0]


def test_a_dispatched_run_comments_on_the_pull_request_of_its_branch_and_head(run, hub, pull):
    assert run.comment(event="workflow_dispatch", display_title="Pull request #5") == 0
    assert len(hub.bodies(5)) == 1


@pytest.mark.parametrize(
    ("event", "title", "expected"),
    [("workflow_dispatch", "Pull request #6", [0, 1]), ("workflow_dispatch", "Pull request #4", [0, 0]), ("pull_request", "Pull request #6", [1, 0])],
)  # fmt: skip
def test_of_two_pull_requests_from_one_branch_a_dispatch_names_one(run, hub, pull, event, title, expected):
    hub.pull(6, sha=HEAD)

    run.comment(event=event, display_title=title)

    assert [len(hub.bodies(number)) for number in (5, 6)] == expected


@pytest.mark.parametrize("moved", [{"sha": "e" * 40}, {"branch": "another"}])
def test_a_dispatched_run_cannot_name_a_pull_request_of_another_head(run, hub, moved):
    hub.pull(5, **{"sha": HEAD, **moved})

    run.comment(event="workflow_dispatch", display_title="Pull request #5")

    assert hub.writes == []


@pytest.mark.parametrize(
    "name", ["$(touch PWN)", "`touch PWN`", '";touch PWN;#', "a\n::set-output name=x::y", "%0A::add-mask::"]
)
def test_a_branch_and_a_title_that_are_commands_are_text(run, hub, capsys, name):
    hub.pull(5, sha=HEAD, branch=name)

    assert run.comment(head_branch=name, display_title=name) == 0
    assert len(hub.bodies(5)) == 1
    assert not list(run.folder.rglob("PWN"))
    assert "::" not in capsys.readouterr().out


def test_what_it_takes_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        comment.main(["--help"], {})

    assert stopped.value.code == 0
    assert "python -m scripts.comment --report" in capsys.readouterr().out


@pytest.mark.parametrize("when", [{"status": 502}, {"cut": "before"}, {"cut": "after"}])
def test_where_the_answer_to_a_comment_is_lost_there_is_one_comment(run, pull, hub, when, monkeypatch):
    monkeypatch.setattr("scripts.github.PAUSE", 0)
    hub.faults = [{"match": "POST", **when}]

    assert run.comment() == 0

    assert hub.faults == []
    assert len(hub.bodies(5)) == 1
