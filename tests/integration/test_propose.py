"""`python -m scripts.propose`, asked in this process: a checkout, a bare repository that takes pushes, a GitHub on loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pawl import report
from pawl.gate import rules
from scripts import propose

ROOT = Path(__file__).parents[2]
TOKEN = "ghs_0123456789secret"
ENCODED = "eC1hY2Nlc3MtdG9rZW46Z2hzXzAxMjM0NTY3ODlzZWNyZXQ="  # x-access-token:TOKEN in base64
RULES = "version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0.8, max_regression: 0.01}}\n"
LOCK = "schema: '2.0'\nstages:\n  train:\n    cmd: train\n    outs:\n    - path: models/bundle\n      md5: {}.dir\n"
# Notes its words, then does what git does.
NOTING = """#!{python}
import json, os, sys
with open({notes!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
os.execv({git!r}, ["git", *sys.argv[1:]])
"""


class Checkout:
    """main as a runner has it, after a run that trained another model."""

    def __init__(self, folder, hub, craft, capture):
        self.craft = craft
        self.path, self.hub, self.capture, self.notes = folder / "checkout", hub, capture, folder / "notes.jsonl"
        self.remote = folder / "served" / hub.name
        self.path.mkdir()
        self.git("init", "--quiet", "--bare", str(self.remote))
        self.git("init", "--quiet", "--initial-branch=main")
        shutil.copy2(ROOT / ".gitignore", self.path)
        self.write("gates.yaml", RULES)
        self.write("dvc.lock", LOCK.format("a" * 32))
        self.write("reports/metrics.json", "{}\n")
        self.write("params.yaml", "a: 1\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "start")
        self.start = self.git("rev-parse", "HEAD")
        self.wrapper = folder / "bin" / "git"
        self.wrapper.parent.mkdir()
        self.wrapper.write_text(NOTING.format(python=sys.executable, notes=str(self.notes), git=shutil.which("git")))
        self.wrapper.chmod(0o755)

    def write(self, name, text):
        (self.path / name).parent.mkdir(exist_ok=True)
        (self.path / name).write_text(text)

    def git(self, *words, where=None):
        identity = {
            f"GIT_{role}_{key}": "tester@example.org" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")
        }
        return subprocess.run(
            ["git", *words], cwd=where or self.path, env=os.environ | identity, check=True, capture_output=True, text=True
        ).stdout.strip()  # fmt: skip

    def train(self, letter="b", noise=0.0, **fields):
        """Leave what a run and its report leave; fields replace what the report says."""
        self.write("dvc.lock", LOCK.format(letter * 32))
        self.write("reports/metrics.json", json.dumps({"test": {"noise": noise}}))
        found = self.craft.report(self.craft.answers(noise), rules.load(self.path / "gates.yaml"))
        self.write("reports/report.json", report.dump(msgspec.structs.replace(found, **fields)).decode())
        self.write("reports/report.md", f"the report of {letter}\n")

    def propose(self, *words, **environ):
        """Return the exit code, what was printed and what was complained of."""
        given = {
            "GITHUB_API_URL": self.hub.url,
            "GITHUB_SERVER_URL": f"file://{self.remote.parents[1]}",
            "GITHUB_REPOSITORY": self.hub.name,
            "GITHUB_REF_NAME": "main",
            "GITHUB_STEP_SUMMARY": str(self.path.parent / "summary.md"),
            "GH_TOKEN": TOKEN,
        } | environ
        code = propose.main([*words], given)
        said = self.capture.readouterr()
        assert TOKEN not in said.out + said.err
        assert ENCODED not in said.out + said.err
        return code, said.out, said.err

    def pushed(self):
        """Return the branches of the bare repository, by name."""
        lines = self.git("for-each-ref", "--format=%(refname:short) %(objectname)", where=self.remote).splitlines()
        return dict(line.split() for line in lines)


class More:
    """What the hub knows besides: issues, dispatches, whether a pull request can be merged."""

    def __init__(self, hub):
        self.issues, self.dispatched, self.mergeable, self.permitted = [], [], [None, True], True
        self.mutations, self.refused, self.kind = [], "", "UNPROCESSABLE"
        self.hub, self.rest = hub, hub.route
        hub.route = self.route

    def route(self, method, path, query, sent):
        path = path.removeprefix(f"/repos/{self.hub.name}")
        if path == "/graphql":
            self.mutations.append(sent)
            errors = {"errors": [{"type": self.kind, "message": self.refused}]}
            return (
                200,
                {"data": {"enablePullRequestAutoMerge": None if self.refused else {}}}
                | (errors if self.refused else {}),
                "",
            )
        if (method, path) == ("POST", "/pulls") and not self.permitted:
            return 403, {"message": "GitHub Actions is not permitted to create or approve pull requests."}, ""
        if method == "GET" and re.fullmatch(r"/pulls/\d+", path):
            state = self.mergeable.pop(0) if len(self.mergeable) > 1 else self.mergeable[0]
            return 200, self.hub.pulls[-1] | {"mergeable": state}, ""
        if path == "/issues" and method == "GET":
            return 200, [each for each in self.issues if (each["state"], each["labels"]) == (query["state"], [query["labels"]])], ""  # fmt: skip
        if path == "/issues":
            number = len(self.issues) + 100
            url = f"{self.hub.url}/repos/{self.hub.name}/issues/{number}"
            self.issues.append({"number": number, "url": url, "state": "open", **sent})
            return 201, self.issues[-1], ""
        if found := re.fullmatch(r"/issues/(\d+)", path):
            self.issues[int(found[1]) - 100].update(sent)
            return 200, self.issues[int(found[1]) - 100], ""
        if path == "/actions/workflows/pr.yml":
            return 200, {"id": 1, "url": f"{self.hub.url}/repos/{self.hub.name}{path}"}, ""
        if path == "/actions/workflows/pr.yml/dispatches":
            self.dispatched.append(sent)
            return 204, None, ""
        return self.rest(method, f"/repos/{self.hub.name}{path}", query, sent)


@pytest.fixture
def more(hub, monkeypatch):
    monkeypatch.setattr(propose.time, "sleep", lambda _: None)
    return More(hub)


@pytest.fixture
def checkout(tmp_path, hub, craft, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith(("GIT_", "GITHUB_", "GH_"))]:
        monkeypatch.delenv(name)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)
    made = Checkout(tmp_path, hub, craft, capsys)
    monkeypatch.setenv("PATH", f"{made.wrapper.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(made.path)
    return made


TITLE = "Retrain: ✅ roc_auc is 0.935, without a baseline; 1 of 1 gates pass."


def test_the_model_that_dvc_lock_names_is_not_proposed(checkout, hub):
    checkout.train(letter="a", noise=0.5)  # other numbers, the same model

    code, out, _err = checkout.propose()

    assert code == 0
    assert out == "The model is the one that dvc.lock names: nothing to propose.\n"
    assert "nothing to propose" in (checkout.path.parent / "summary.md").read_text()
    assert hub.asked == []
    assert checkout.pushed() == {}


def test_another_model_is_one_pull_request(checkout, hub):
    checkout.train()

    code, out, err = checkout.propose()

    [pull] = hub.pulls
    assert code == 0, err
    assert out == f"Opened pull request #1: {TITLE}\n"
    assert (pull["title"], pull["body"]) == (TITLE, "the report of b\n")
    assert (pull["head"]["ref"], pull["base"]["ref"]) == ("retrain", "main")
    assert list(checkout.pushed()) == ["retrain"]
    assert f"Opened pull request #1: {TITLE}" in (checkout.path.parent / "summary.md").read_text()


def test_the_commit_holds_the_lock_and_the_metrics_and_nothing_else(checkout):
    checkout.train()
    checkout.write("params.yaml", "a: 2\n")  # changed
    checkout.write("scripts/new.py", "")  # untracked
    checkout.write("gates.yaml", "version: 1\nmetrics: {roc_auc: {direction: higher, floor: 0.1}}\n")
    checkout.git("add", "gates.yaml")  # staged

    checkout.propose()

    log = checkout.git(
        "log", "-1", "--format=%s%n%an%n%P", "--name-only", "retrain", where=checkout.remote
    ).splitlines()
    assert log[0].startswith("Retrain: ✅")
    assert log[1:] == ["github-actions[bot]", checkout.start, "", "dvc.lock", "reports/metrics.json"]
    assert "b" * 32 in checkout.git("show", "retrain:dvc.lock", where=checkout.remote)


def test_the_pull_request_that_is_open_is_renewed(checkout, hub, tmp_path):
    hub.pull(3, sha="e" * 40, branch="retrain", source="stranger/model")
    checkout.train()
    checkout.propose()
    first = checkout.pushed()
    checkout.git("reset", "--quiet", "--hard", checkout.start)  # the next schedule checks main out again
    checkout.train("d", 0.5)

    _code, out, _err = checkout.propose()

    assert out.startswith("Renewed pull request #4: Retrain: ✅")
    assert [pull["number"] for pull in hub.pulls] == [3, 4]
    assert hub.pulls[0]["title"] == "a title"
    assert hub.pulls[1]["body"] == "the report of d\n"
    assert "roc_auc is 0.926" in hub.pulls[1]["title"]
    assert checkout.pushed() != first
    assert checkout.git("rev-parse", "retrain^", where=checkout.remote) == checkout.start  # nothing of the earlier one


BLOCKED = {
    "fail": ({"noise": 6.0}, "Retrain: ❌ Blocked: roc_auc is 0.662, below its floor 0.8"),
    "error": ({"verdict": "error", "allowed": False, "state": "lost", "why": "the ledger is gone"}, "Retrain: ⚠ Blocked: the baseline is lost: the ledger is gone"),
    "inconclusive": ({"verdict": "inconclusive", "allowed": False}, "Retrain: 🟡 Blocked: roc_auc: it may be chance"),
}  # fmt: skip


@pytest.mark.parametrize(("trained", "title"), BLOCKED.values(), ids=BLOCKED)
def test_a_model_that_may_not_ship_is_proposed_as_blocked(checkout, hub, trained, title):
    checkout.train(**trained)
    if "verdict" in trained:
        found = report.load((checkout.path / "reports/report.json").read_bytes(), "")
        reason = "the baseline is lost" if trained["verdict"] == "error" else "it may be chance"
        judged = msgspec.structs.replace(found.judged[0], verdict=trained["verdict"], reason=reason)
        checkout.train(**trained, judged=(judged,))

    code, _out, _err = checkout.propose()

    assert code == 0
    assert hub.pulls[0]["title"].startswith(title)


def test_the_token_is_in_no_configuration_and_among_no_words(checkout):
    checkout.train()

    checkout.propose()

    calls = [json.loads(line) for line in checkout.notes.read_text().splitlines()]
    assert ["push"] in [call[:1] for call in calls]
    for secret in (TOKEN, ENCODED, "uthorization"):
        assert secret not in checkout.notes.read_text()
        assert secret not in checkout.git("config", "--list", "--show-origin")
        assert not [
            path
            for path in (checkout.path / ".git").rglob("*")
            if path.is_file() and secret.encode() in path.read_bytes()
        ]


@pytest.mark.parametrize(
    ("status", "message"), [(403, "Resource not accessible by integration"), (422, "Validation Failed")]
)
def test_where_no_pull_request_may_be_opened_the_branch_is_there_and_the_code_is_3(checkout, hub, status, message):
    hub.refuses["POST"] = (status, {"message": message})
    checkout.train()

    code, _out, err = checkout.propose()

    assert code == 3
    assert list(checkout.pushed()) == ["retrain"]
    assert message in err
    assert "Allow GitHub Actions to create pull requests" in err
    assert "the branch is pushed, open it by hand" in err


def test_a_push_that_is_refused_is_told_and_nothing_is_opened(checkout, hub):
    checkout.train()
    hook = checkout.remote / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho protected branch >&2\nexit 1\n")
    hook.chmod(0o755)

    code, _out, err = checkout.propose()

    assert code in {2, 3}
    assert "protected branch" in err
    assert "contents: write" in err
    assert hub.writes == []


def test_after_a_push_that_failed_the_same_command_proposes(checkout, hub):
    """The commit of the first try must not look like a lock that names the model."""
    checkout.train()
    checkout.propose(GITHUB_REPOSITORY="octo/away")

    _code, out, _err = checkout.propose()

    assert out == f"Opened pull request #1: {TITLE}\n"
    assert list(checkout.pushed()) == ["retrain"]


def test_the_branch_that_is_checked_out_stays_where_it_was(checkout):
    checkout.train()

    checkout.propose()

    assert checkout.git("rev-parse", "main") == checkout.start


MISSING = {"dvc.lock": "make run", "reports/report.json": "make report", "reports/report.md": "make report"}


@pytest.mark.parametrize("name", MISSING)
def test_a_file_that_is_missing_is_2_and_told_with_what_makes_it(checkout, hub, name):
    checkout.train()
    (checkout.path / name).unlink()

    code, _out, err = checkout.propose()

    assert code == 2, err
    assert name in err
    assert MISSING[name] in err
    assert hub.asked == []
    assert checkout.pushed() == {}


def test_without_a_lock_in_git_the_model_is_proposed(checkout, hub):
    """dvc.lock may be left out of git's main."""
    checkout.git("rm", "--quiet", "dvc.lock")
    checkout.git("commit", "--quiet", "--message", "no lock")
    checkout.train()

    code, _out, err = checkout.propose()

    assert code == 0, err
    assert len(hub.pulls) == 1


@pytest.mark.parametrize("state", ["opened", "renewed"])
def test_what_actions_own_token_proposes_is_checked_by_a_dispatch_on_its_branch(checkout, hub, more, state):
    if state == "renewed":
        hub.pull(1, sha="e" * 40, branch="retrain")
    checkout.train()

    code, out, err = checkout.propose(DISPATCH="true")

    assert code == 0, err
    assert more.dispatched == [{"ref": "retrain", "inputs": {"pull": "1"}}]
    assert out.splitlines()[1] == "Started pr.yml on it"


@pytest.mark.parametrize("asked", ["", "false"])
def test_what_another_token_proposes_starts_its_workflow_by_itself(checkout, more, asked):
    checkout.train()

    code, _out, err = checkout.propose(DISPATCH=asked)

    assert code == 0, err
    assert more.dispatched == []


@pytest.mark.parametrize("state", ["opened", "renewed"])
def test_where_it_is_asked_for_github_merges_what_passes(checkout, hub, more, state):
    if state == "renewed":
        hub.pull(1, sha="e" * 40, branch="retrain")
    checkout.train()

    code, out, err = checkout.propose("--auto-merge")

    assert code == 0, err
    (sent,) = more.mutations
    assert "enablePullRequestAutoMerge" in sent["query"]
    assert sent["variables"]["input"] == {"pullRequestId": hub.pulls[0]["node_id"], "mergeMethod": "SQUASH"}
    assert out.splitlines()[1] == "GitHub merges it once what main requires has passed"


@pytest.mark.parametrize(
    "why", ["Auto merge is not allowed for this repository", "Pull request Pull request is in clean status"]
)
def test_where_github_does_not_merge_by_itself_it_is_said_what_that_needs(checkout, hub, more, why):
    more.refused = why
    checkout.train()

    code, out, err = checkout.propose("--auto-merge")

    assert code == 0, err
    assert len(hub.pulls) == 1
    assert f"{why}. It needs: Allow auto-merge" in out


def test_a_refusal_for_a_while_is_no_answer(checkout, more):
    more.refused, more.kind = "API rate limit exceeded", "RATE_LIMITED"
    checkout.train()

    code, _out, err = checkout.propose("--auto-merge")

    assert code == 3
    assert "API rate limit exceeded" in err


def test_what_actions_own_token_would_merge_starts_no_release_so_it_is_not_asked_to(checkout, more):
    checkout.train()

    code, out, err = checkout.propose("--auto-merge", DISPATCH="true")

    assert code == 0, err
    assert more.mutations == []
    assert "Set the secret RETRAIN_TOKEN" in out
    assert more.dispatched


def test_a_branch_that_conflicts_has_no_merge_to_check(checkout, more):
    more.mergeable = [False]
    checkout.train()

    code, out, _err = checkout.propose(DISPATCH="true")

    assert code == 0
    assert more.dispatched == []
    assert "was not started: the branch conflicts with its base" in out


def test_a_dispatch_that_is_refused_is_3(checkout, hub, more):
    checkout.train()
    refused = more.route
    hub.route = lambda method, path, *rest: (403, {"message": "Resource not accessible"}, "") if "dispatches" in path else refused(method, path, *rest)  # fmt: skip

    code, _out, err = checkout.propose(DISPATCH="true")

    assert code == 3
    assert "Resource not accessible" in err


def test_where_actions_may_open_no_pull_request_one_issue_asks_for_it(checkout, more):
    more.permitted = False
    checkout.train()
    code, out, err = checkout.propose(DISPATCH="true")
    checkout.git("reset", "--quiet", "--hard", checkout.start)
    checkout.train("d", 0.5)

    again, _out, _err = checkout.propose(DISPATCH="true")

    [issue] = more.issues
    assert (code, again) == (0, 0), err
    assert "Allow GitHub Actions to create pull requests" in out
    assert f"/{checkout.hub.name}/compare/main...retrain?expand=1)" in issue["body"]
    assert issue["body"].endswith("the report of d\n")
    assert "roc_auc is 0.926" in issue["title"]
    assert more.dispatched == []


def test_as_soon_as_the_pull_request_can_be_opened_the_issue_is_closed(checkout, more):
    more.permitted = False
    checkout.train()
    checkout.propose(DISPATCH="true")
    more.permitted = True

    checkout.propose(DISPATCH="true")

    assert [issue["state"] for issue in more.issues] == ["closed"]
    assert len(more.dispatched) == 1


NETWORK = (
    "fatal: unable to access 'https://github.com/octo/model/': Could not resolve host: github.com",
    "error: RPC failed; curl 56 recv failure; fatal: the remote end hung up unexpectedly",
    "fatal: unable to access 'https://github.com/octo/model/': The requested URL returned error: 502",
)
RIGHTS = (
    "remote: Permission to octo/model.git denied. fatal: The requested URL returned error: 403",
    " ! [remote rejected] HEAD -> retrain (protected branch hook declined)",
)


@pytest.mark.parametrize(("said", "expected"), [*[(each, 3) for each in NETWORK], *[(each, 2) for each in RIGHTS]])
def test_a_push_that_the_network_broke_is_3_and_one_that_was_refused_2(checkout, hub, said, expected):
    failing = checkout.wrapper.read_text().replace("os.execv", f"if 'push' in sys.argv: sys.exit({said!r})\nos.execv")
    checkout.wrapper.write_text(failing)
    checkout.train()

    code, _out, err = checkout.propose()

    assert code == expected
    assert said.strip() in err
    assert hub.writes == []


@pytest.mark.parametrize("name", ["$(touch PWN)", "`touch PWN`", "a;touch${IFS}PWN;#", "a%0A::set-output"])
def test_a_branch_with_a_hostile_name_is_text(checkout, hub, name):
    checkout.train()

    code, _out, err = checkout.propose(GITHUB_REF_NAME=name)

    assert code == 0, err
    assert hub.pulls[0]["base"]["ref"] == name
    assert not list(checkout.path.parent.rglob("PWN"))
