"""`python -m scripts.setup_github`, asked in this process, against a GitHub on loopback that keeps what it is told."""

import copy
import os
import subprocess

import pytest

from scripts import github, setup_github

TOKEN = "ghp_secret"
ENVIRONMENT = {"wait_timer": 5, "prevent_self_review": True, "reviewers": [{"type": "User", "id": 3}]}


@pytest.fixture
def setup(hub, tmp_path, monkeypatch, capsys):
    """Return a function that runs it in a clone; it returns (exit code, lines on standard output, standard error)."""
    for name in [name for name in os.environ if name.startswith(("GIT_", "GITHUB_", "GH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(github, "PAUSE", 0)
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["git", "remote", "add", "origin", f"git@github.com:{hub.name}.git"], check=True)
    (tmp_path / ".github").mkdir()
    (tmp_path / ".github/CODEOWNERS").write_text("# the owner's name is written by scripts.setup_github\n*  @OWNER\n")

    def call(*words, **environ):
        code = setup_github.main(
            words, {"GITHUB_API_URL": hub.url, "GH_TOKEN": TOKEN, "PATH": os.environ["PATH"]} | environ
        )
        said = capsys.readouterr()
        assert TOKEN not in said.out + said.err
        return code, said.out.splitlines(), said.err

    return call


def words(lines):
    """Return how often each thing was done."""
    done = [line[:13].strip() for line in lines if line[12:13] == " " and not line.startswith("nothing")]
    return {word: done.count(word) for word in done}


def line(lines, part):
    [found] = [each for each in lines if part in each]
    return " ".join(found.split())


def test_without_apply_nothing_is_written_and_all_is_said(setup, hub):
    code, lines, _ = setup("--variable", "REGISTRY=ghcr.io")

    assert code == 0
    assert hub.writes == []
    assert words(lines) == {"would create": 10, "differs": 4}
    assert (
        line(lines, "approved") == "would create environment production: approved: by octo, not by who started it False"
    )
    assert line(lines, "rules of branch main") == (
        "would create rules of branch main: deletion, non_fast_forward, pull_request, required_status_checks, check Pass"
    )
    assert (
        "default_workflow_permissions write, can_approve_pull_request_reviews False → default_workflow_permissions read, can_approve"
        in line(lines, "can_approve")
    )
    assert line(lines, "CODEOWNERS").endswith("@OWNER → @octo")
    assert lines[-1] == "nothing is changed; the same command with --apply does it"
    assert "@OWNER" in setup_github.CODEOWNERS.read_text()


def test_apply_makes_it_all(setup, hub):
    code, lines, _ = setup("--apply", "--variable", "REGISTRY=ghcr.io", "--variable", "production:CLUSTER=https://k8s")

    assert code == 0
    assert words(lines) == {"created": 11, "changed": 4}
    has = hub.settings
    assert [each["name"] for each in has.policies["staging"]] == ["main"]
    assert [each["name"] for each in has.policies["production"]] == ["main"]
    [rule] = has.environments["production"]["protection_rules"]
    assert ([each["reviewer"]["login"] for each in rule["reviewers"]], rule["prevent_self_review"]) == (["octo"], False)
    assert has.environments["staging"]["protection_rules"] == []
    rules = {each["name"]: {rule["type"]: rule.get("parameters") for rule in each["rules"]} for each in has.rulesets}
    assert list(rules) == ["main", "ledger", "ledger: written by Actions alone"]
    assert set(rules["main"]) == {"pull_request", "required_status_checks", "deletion", "non_fast_forward"}
    assert rules["main"]["required_status_checks"]["required_status_checks"] == [
        {"context": "Pass", "integration_id": 15368}
    ]
    assert rules["main"]["pull_request"]["required_approving_review_count"] == 0  # who is alone could never merge
    assert [each["conditions"]["ref_name"]["include"] for each in has.rulesets] == [
        ["refs/heads/main"],
        ["refs/heads/ledger"],
        ["refs/heads/ledger"],
    ]
    assert [[each["actor_id"] for each in ruleset["bypass_actors"]] for ruleset in has.rulesets] == [[], [], [15368]]
    assert set(has.labels) == set(setup_github.LABELS)
    assert has.variables["actions/variables"]["REGISTRY"]["value"] == "ghcr.io"
    assert has.variables["environments/production/variables"]["CLUSTER"]["value"] == "https://k8s"
    assert has.actions["permissions"] == {"enabled": True, "allowed_actions": "all", "sha_pinning_required": True}
    assert has.actions["permissions/workflow"] == {
        "default_workflow_permissions": "read",
        "can_approve_pull_request_reviews": True,
    }
    assert has.actions["permissions/fork-pr-contributor-approval"] == {"approval_policy": "all_external_contributors"}
    assert setup_github.CODEOWNERS.read_text().endswith("*  @octo\n")


def test_a_second_apply_writes_nothing_and_says_so(setup, hub):
    given = ("--apply", "--variable", "REGISTRY=ghcr.io", "--reviewer", "alice", "--reviewer", "bob")
    setup(*given)
    writes, state = len(hub.writes), copy.deepcopy(vars(hub.settings))

    code, lines, _ = setup(*given)

    assert code == 0
    assert words(lines) == {"exists": len(lines)}
    assert len(hub.writes) == writes
    assert vars(hub.settings) == state


def test_several_reviewers_approve_for_one_another(setup, hub):
    setup("--apply", "--reviewer", "alice", "--reviewer", "bob")

    [rule] = hub.settings.environments["production"]["protection_rules"]
    assert [each["reviewer"]["login"] for each in rule["reviewers"]] == ["alice", "bob"]
    assert setup_github.CODEOWNERS.read_text().endswith(
        "*  @alice @bob\n"
    )  # else nobody may approve the one owner's own
    assert rule["prevent_self_review"] is True
    [pull] = [rule["parameters"] for rule in hub.settings.rulesets[0]["rules"] if rule["type"] == "pull_request"]
    assert (pull["required_approving_review_count"], pull["require_code_owner_review"]) == (1, True)


def test_what_somebody_added_stays(setup, hub):
    hub.settings.protect("production", ENVIRONMENT)
    signed = {"type": "required_signatures"}
    hub.settings.ruleset(
        "POST", 0, {"name": "main", "target": "branch", "enforcement": "active", "conditions": {}, "rules": [signed]}
    )
    hub.settings.labels["retrain"] = {"name": "retrain", "description": "ours"}
    hub.settings.actions["permissions"]["allowed_actions"] = "selected"

    _, lines, _ = setup("--apply")

    assert line(lines, "approved") == "exists environment production: approved"
    assert {rule["type"] for rule in hub.settings.environments["production"]["protection_rules"]} == {
        "wait_timer",
        "required_reviewers",
    }
    assert line(lines, "branch main:").startswith("changed rules of branch main: none → deletion")
    assert signed in hub.settings.rulesets[0]["rules"]
    assert hub.settings.labels["retrain"]["description"] == "ours"
    assert hub.settings.actions["permissions"]["allowed_actions"] == "selected"


def test_what_differs_is_set_right(setup, hub):
    setup("--apply", "--variable", "REGISTRY=ghcr.io")
    hub.settings.rulesets[0]["enforcement"] = "disabled"
    hub.settings.policies["staging"].append({"id": 99, "name": "release/*"})
    hub.settings.protect("production", ENVIRONMENT)

    _, plan, _ = setup("--variable", "REGISTRY=quay.io", "--reviewer", "alice")
    _, lines, _ = setup("--apply", "--variable", "REGISTRY=quay.io", "--reviewer", "alice")

    assert line(plan, "REGISTRY") == "differs actions/variables REGISTRY: ghcr.io → quay.io"
    assert line(plan, "staging") == "differs environment staging: who may deploy: main, release/* → main"
    assert line(plan, "production: who") == "differs environment production: who may deploy: every branch → main"
    assert line(plan, "approved").endswith("by bob, not by who started it True → by alice, not by who started it False")
    assert words(lines)["changed"] == 5
    assert hub.settings.rulesets[0]["enforcement"] == "active"
    assert [each["name"] for each in hub.settings.policies["staging"]] == ["main"]
    assert hub.settings.environments["production"]["protection_rules"][0]["wait_timer"] == 5


PLANS = {
    "no environments": ("PUT .*/environments/", 404, "Not Found", 3),
    "no rules": (".*/rulesets", 403, "Upgrade to GitHub Pro or make this repository public to enable this feature.", 3),
    "a private repository": (".*/fork-pr-contributor-approval", 422, "not available for private repositories", 1),
    "an organization forbids": ("PUT .*/permissions/workflow", 409, "Conflict", 1),
    "no Actions": (".*/actions/permissions$", 404, "Not Found", 1),
}  # fmt: skip


@pytest.mark.parametrize(("match", "status", "message", "count"), PLANS.values(), ids=PLANS)
def test_what_the_plan_does_not_allow_is_skipped_with_its_reason_and_the_rest_is_made(setup, hub, match, status, message, count):  # fmt: skip
    hub.refuses[match] = (status, {"message": message})

    code, lines, _ = setup("--apply")

    assert code == 0
    assert words(lines)["skipped"] == count
    assert len([each for each in lines if each.startswith("skipped") and f"{status} {message}" in each]) == count
    assert words(lines).get("created", 0) + words(lines).get("changed", 0) == 13 - count


def test_an_environment_is_made_where_the_plan_has_no_reviewers(setup, hub):
    hub.settings.lacks = {"wait_timer", "prevent_self_review", "reviewers"}

    _, lines, _ = setup("--apply")

    assert words(lines)["skipped"] == 1
    assert "422 Failed to create the environment protection rule" in line(lines, "approved")
    assert [each["name"] for each in hub.settings.policies["production"]] == ["main"]


def test_the_ledger_is_kept_where_githubs_app_cannot_be_let_through(setup, hub):
    """GitHub refuses its own app in the rules of a person's repository: a rule without it would stop the release."""
    refused = {"message": "Validation Failed", "errors": ["Actor GitHub Actions integration must be part of the ruleset source or owner organization"]}  # fmt: skip
    route = hub.settings.ruleset

    def refuse(method, number, sent):
        return (422, refused) if sent.get("bypass_actors") else route(method, number, sent)

    hub.settings.ruleset = refuse

    code, lines, _ = setup("--apply")

    assert code == 0
    assert [each["name"] for each in hub.settings.rulesets] == ["main", "ledger"]
    assert "must be part of the ruleset source" in line(lines, "Actions alone")


def test_what_github_takes_and_does_not_keep_is_not_called_done(setup, hub):
    hub.settings.protect = lambda name, sent: hub.settings.environments.setdefault(name, {"protection_rules": [], "deployment_branch_policy": sent["deployment_branch_policy"]})  # fmt: skip

    _, lines, _ = setup("--apply")

    assert line(lines, "approved").startswith("skipped environment production: approved: GitHub took it, and has")


@pytest.mark.parametrize("fault", [{"status": 502, "body": "Bad gateway"}, {"cut": "before"}, {"cut": "after"}], ids=["502", "cut", "cut after"])  # fmt: skip
def test_an_answer_that_is_lost_makes_nothing_twice(setup, hub, fault, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.faults = [
        {"match": f"POST .*/{each}", **fault}
        for each in ("rulesets", "labels", "deployment-branch-policies", "variables")
    ]

    code, lines, err = setup("--apply", "--variable", "REGISTRY=ghcr.io")

    assert (code, err) == (0, "")
    assert words(lines) == {"created": 10, "changed": 4}
    assert hub.faults == []
    assert len(hub.settings.rulesets) == 3
    assert [each["name"] for each in hub.settings.policies["staging"]] == ["main"]


@pytest.mark.parametrize("path", ["/user", "/repos/.*/rulesets", "/repos/.*/labels"])
def test_a_github_that_is_down_is_3_and_the_same_command_goes_on(setup, hub, monkeypatch, path):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.refuses[f"(GET|POST) {path}"] = (502, {"message": "Server Error"})

    code, _, err = setup("--apply")
    hub.refuses.clear()
    again, lines, _ = setup("--apply")

    assert code == 3
    assert "502" in err
    assert "run it again" in err
    assert again == 0
    assert "skipped" not in words(lines)


WRONG = {
    "a name that nothing reads": (("--variable", "TRAIN_RUNER=x"), "no workflow reads TRAIN_RUNER", "fix: TRAIN_RUNNER"),
    "a secret": (("--variable", "RETRAIN_TOKEN=x"), "no workflow reads RETRAIN_TOKEN", "gh secret set"),
    "no value": (("--variable", "REGISTRY"), "'REGISTRY' is no variable", "NAME=VALUE"),
    "a runner that is no JSON": (("--variable", "TRAIN_RUNNER=gpu"), "gpu is no JSON text or list", '["self-hosted", "gpu"]'),
    "a runner that is no list": (("--variable", "TRAIN_RUNNER=1"), "1 is no JSON text or list", '["self-hosted", "gpu"]'),
    "nobody": (("--reviewer", "nobody"), "404 Not Found", "--reviewer"),
    "another repository": (("--repository", "octo/away"), "404 Not Found", "--repository"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "what", "fix"), WRONG.values(), ids=WRONG)
def test_a_wrong_word_is_2_and_nothing_is_written(setup, hub, given, what, fix):
    code, _, err = setup("--apply", *given)

    assert code == 2
    assert what in err
    assert fix in err
    assert hub.writes == []


def test_who_does_not_administer_it_is_told(setup, hub):
    hub.settings.repository["permissions"] = {"admin": False}

    code, _, err = setup("--apply")

    assert (code, hub.writes) == (2, [])
    assert "octo does not administer octo/model" in err


@pytest.mark.parametrize(
    ("status", "message"), [(401, "Bad credentials"), (403, "Resource not accessible by integration")]
)
def test_a_token_that_is_refused_is_told(setup, hub, status, message):
    hub.refuses["GET /user"] = (status, {"message": message})

    code, _, err = setup()

    assert code == 2
    assert message in err
    assert "GH_TOKEN" in err


def test_the_token_of_gh_is_taken_and_none_is_told(setup, hub, tmp_path):
    (tmp_path / "bin").mkdir()
    gh = tmp_path / "bin/gh"
    gh.write_text("#!/bin/sh\necho ghp_other\n")
    gh.chmod(0o755)
    os.environ["PATH"] = f"{gh.parent}{os.pathsep}{os.environ['PATH']}"

    code, _, _ = setup(GH_TOKEN="")

    assert code == 0
    assert hub.tokens == {"token ghp_other"}
    gh.write_text("#!/bin/sh\nexit 1\n")
    code, _, err = setup(GH_TOKEN="")
    assert code == 2
    assert "there is no token" in err


def test_an_organization_owns_no_code(setup, hub):
    hub.settings.repository["owner"] = {"login": "acme", "type": "Organization"}

    setup("--apply")

    assert setup_github.CODEOWNERS.read_text().endswith("*  @octo\n")


def test_without_an_origin_the_repository_must_be_named(setup, hub):
    subprocess.run(["git", "remote", "remove", "origin"], check=True)

    code, _, err = setup()
    named, _, _ = setup("--repository", hub.name)

    assert (code, named) == (2, 0)
    assert "--repository OWNER/NAME" in err
