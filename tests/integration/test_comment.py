"""`python -m scripts.comment`, asked in this process, against a GitHub on loopback."""

import json
import shutil
from pathlib import Path

import pytest

from pawl import report
from pawl.report import Change, Measured, Report, Value
from scripts import comment

ROOT = Path(__file__).parents[2]
HEAD, MERGE, BASE = "a" * 40, "c" * 40, "b" * 40
BOT = "github-actions[bot]"
TOKEN = "ghs_secret"
GOOD = {"roc_auc": 0.9, "accuracy": 0.85, "log_loss": 0.3, "ece": 0.02}


class Run:
    """A finished run of the workflow Pull request, and what main's code does with what it left."""

    def __init__(self, folder, hub):
        self.folder, self.hub = folder, hub
        self.report, self.summary = folder / "artifact/report.json", folder / "summary.md"
        self.report.parent.mkdir()
        self.environ = {
            "GITHUB_API_URL": hub.url,
            "GITHUB_REPOSITORY": hub.name,
            "GITHUB_EVENT_PATH": str(folder / "event.json"),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GH_TOKEN": TOKEN,
        }
        self.event = {
            "head_sha": HEAD,
            "head_branch": "topic",
            "head_repository": {"full_name": hub.name, "owner": {"login": "octo"}},
            "run_number": 7,
            "conclusion": "success",
            "html_url": "https://github.example/run/1",
        }
        self.write()

    def write(self, why="", params=(), **values):
        metrics = {name: Value(value, value - 0.01, value + 0.01, 500) for name, value in (GOOD | values).items()}
        found = Report(
            1, Measured(MERGE, metrics, None, "1" * 64), Measured(BASE, metrics, None, "1" * 64), "rebuilt", why, params
        )
        self.report.write_bytes(report.dump(found))

    def comment(self, **event):
        (self.folder / "event.json").write_text(json.dumps({"workflow_run": self.event | event}))
        return comment.main(["--report", str(self.report)], self.environ)


@pytest.fixture
def run(tmp_path, monkeypatch, hub):
    shutil.copy2(ROOT / "tests/sample/gates.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path, hub)


@pytest.fixture
def pull(hub):
    return hub.pull(5, sha=HEAD)


def marked(number, text="an earlier report"):
    return f"<!-- pawl:report run={number} -->\n{text}"


def test_the_first_run_writes_the_comment(run, hub, pull, capsys):
    code = run.comment()

    [body] = hub.bodies(5)
    assert code == 0
    assert body.startswith("<!-- pawl:report run=7 -->\n### ✅ 4 of 4 gates pass; roc_auc is 0.900")
    assert "`aaaaaaa` against main `bbbbbbb`" in body  # not the merge, which nobody has seen
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
    assert hub.bodies(5)[1].startswith("<!-- pawl:report run=7 -->\n### ✅")
    assert capsys.readouterr().out == "renewed the comment of pull request 5\n"


def test_the_same_run_again_renews_the_comment(run, hub, pull):
    run.comment()
    run.write(roc_auc=0.95)

    run.comment()

    [body] = hub.bodies(5)
    assert "roc_auc is 0.950" in body


def test_the_comment_is_found_behind_a_hundred_others(run, hub, pull):
    for number in range(205):
        hub.comment(5, f"talk {number}", "octocat")
    hub.comment(5, marked(6))

    run.comment()

    assert len(hub.bodies(5)) == 206
    assert hub.bodies(5)[-1].startswith("<!-- pawl:report run=7 -->")


@pytest.mark.parametrize("author", ["octocat", "github-actions", "github-actions[bot]x", "dependabot[bot]", None])
def test_a_comment_of_another_author_with_the_mark_is_never_touched(run, hub, pull, author):
    hub.comment(5, marked(6), author)
    hub.comment(5, marked(999_999), author)

    code = run.comment()

    assert code == 0
    assert hub.bodies(5)[:2] == [marked(6), marked(999_999)]
    assert hub.bodies(5)[2].startswith("<!-- pawl:report run=7 -->")


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
    "too large": b" " * 300_000,
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
    assert body.startswith("<!-- pawl:report run=7 -->\n### ⚠ No numbers: the run's report was refused\n")
    assert "[run](https://github.example/run/1)" in body
    assert "@" not in outside
    assert "<img" not in outside


@pytest.mark.parametrize(
    "place", [{"low": -1.7e308, "high": 1.7e308}, {"low": 0.0, "high": 5e-324}], ids=["wide", "narrow"]
)
def test_numbers_that_no_metric_has_are_a_comment_too(run, hub, pull, place):
    found = json.loads(run.report.read_text())
    found["candidate"]["metrics"]["roc_auc"] |= place
    run.report.write_text(json.dumps(found))

    assert run.comment() == 0
    assert len(hub.bodies(5)) == 1


def test_a_failed_gate_is_the_headline_and_the_run_is_said_to_have_failed(run, hub, pull):
    run.write(roc_auc=0.5)

    code = run.comment(conclusion="failure")

    [body] = hub.bodies(5)
    assert code == 0  # the comment is there; the run itself is red
    assert "### ❌ Blocked: roc_auc is 0.5, below its floor 0.88 (1 of 4 gates fails)." in body
    assert "⚠ The run ended as failure: [see its jobs](https://github.example/run/1)." in body


def test_a_report_of_a_run_that_failed_elsewhere_is_shown_with_that(run, hub, pull):
    run.comment(conclusion="timed_out")

    [body] = hub.bodies(5)
    assert "⚠ The run ended as timed_out" in body
    assert "✅ 4 of 4 gates pass" in body


def test_a_run_that_succeeded_is_not_said_to_have_ended(run, hub, pull):
    run.comment()

    assert "The run ended" not in hub.bodies(5)[0]


def test_the_gates_are_those_of_main(run, hub, pull):
    (run.report.parent / "gates.yaml").write_text("version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0}}\n")
    (run.folder / "gates.yaml").write_text("version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0.99}}\n")

    run.comment()

    assert "❌ Blocked: roc_auc is 0.9, below its floor 0.99" in hub.bodies(5)[0]


def test_a_parameter_with_the_mark_does_not_become_the_mark(run, hub, pull):
    text = marked(999_999)
    run.write(why=text, params=(Change(text, text, text),))
    run.comment()

    run.comment(run_number=8)

    [body] = hub.bodies(5)
    assert body.startswith("<!-- pawl:report run=8 -->\n### ✅")


def test_the_longest_report_is_a_comment_that_github_takes(run, hub, pull):
    run.write(why="|" * 300, params=tuple(Change("|" * 300, "|" * 300, "|" * 300) for _ in range(250)))

    assert run.comment() == 0
    assert len(hub.bodies(5)) == 1


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


def test_what_it_takes_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        comment.main(["--help"], {})

    assert stopped.value.code == 0
    assert "python -m scripts.comment --report" in capsys.readouterr().out
