"""`python -m scripts.heartbeat` and `python -m scripts.features`: what a repository on GitHub, on loopback, is said to do."""

from datetime import UTC, datetime, timedelta

import pytest

from scripts import features, github, heartbeat

WORKFLOWS = {"retrain": "17 4 * * 1", "nightly": "5 3 * * *", "pr": ""}
DENIED = {"message": "Resource not accessible by integration"}


def ago(days):
    return f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
def job(hub, tmp_path, monkeypatch, capsys):
    """Return a function that runs a script in a job of this repository; it returns what it printed. It must end with 0."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".github/workflows").mkdir(parents=True)
    for name, cron in WORKFLOWS.items():
        on = f"{{schedule: [{{cron: {cron}}}], workflow_dispatch: }}" if cron else "pull_request"
        (tmp_path / f".github/workflows/{name}.yml").write_text(f"on: {on}\n")

    def call(script, **environ):
        given = {"GITHUB_API_URL": hub.url, "GITHUB_REPOSITORY": hub.name, "GH_TOKEN": "ghs_secret"}
        summary = tmp_path / "summary.md"
        summary.unlink(missing_ok=True)
        assert script.main([], given | {"GITHUB_STEP_SUMMARY": str(summary)} | environ) == 0
        said = capsys.readouterr()
        assert said.err == ""
        call.summary = summary.read_text()
        return said.out

    return call


@pytest.fixture
def runs(hub):
    """Return a function that says of each workflow with a schedule: its state, its age in days, and when it ran last, in days."""

    def say(name, state, age, last=None):
        path = f"actions/workflows/{name}.yml"
        found = [] if last is None else [{"created_at": ago(last)}]
        hub.settings.answers[path] = {"state": state, "created_at": ago(age)}
        hub.settings.answers[f"{path}/runs"] = {"total_count": len(found), "workflow_runs": found}

    say("nightly", "active", 100, 1)
    say("retrain", "active", 100, 3)
    return say


def test_schedules_that_run_are_told_without_a_warning(job, runs):
    said = job(heartbeat)

    assert "::" not in said
    assert [line.partition(":")[0] for line in said.splitlines()] == ["nightly.yml", "retrain.yml"]
    assert job.summary.count("active, its schedule ran last on 20") == 2


STOPPED = {
    "after 60 days": ("disabled_inactivity", 1, "switched off, after 60 days without a commit"),
    "by hand": ("disabled_manually", 1, "switched off by somebody"),
    "in a fork": ("disabled_fork", None, "switched off, as in every new fork"),
    "late": ("active", 16, "active, but its schedule ran last on 20"),
    "never, in a month": ("active", None, "active, but its schedule ran last on 20"),
}


@pytest.mark.parametrize(("state", "last", "what"), STOPPED.values(), ids=STOPPED)
def test_a_schedule_that_does_not_run_is_a_warning_with_the_command_that_helps(job, runs, state, last, what):
    runs("retrain", state, 30, last)

    said = job(heartbeat)

    [warning] = [line for line in said.splitlines() if line.startswith("::warning")]
    assert warning.startswith("::warning title=retrain.yml does not run by its schedule::")
    for told in (warning, job.summary):
        assert what in told
        assert "`gh workflow enable retrain.yml`" in told


IN_TIME = {"a week": ("retrain", 14, 100), "a day": ("nightly", 8, 100), "not yet": ("retrain", None, 3)}


@pytest.mark.parametrize(("name", "last", "age"), IN_TIME.values(), ids=IN_TIME)
def test_what_is_late_depends_on_its_schedule(job, runs, name, last, age):
    runs(name, "active", age, last)

    assert "::" not in job(heartbeat)


def test_a_nightly_run_is_late_sooner(job, runs):
    runs("nightly", "active", 100, 10)

    assert "::warning title=nightly.yml" in job(heartbeat)


@pytest.mark.parametrize(("cron", "days"), [("5 3 * * *", 1), ("17 4 * * 1", 7), ("0 0 1 * *", 31), ("0 0 1 1 *", 366)])
def test_a_schedule_has_a_period(cron, days):
    assert heartbeat.period(cron) == timedelta(days=days)


@pytest.mark.parametrize(
    ("refused", "environ", "why"),
    [
        ((403, DENIED), {}, "403 Resource not accessible by integration; the job needs `actions: read`"),
        ((404, {"message": "Not Found"}), {}, "404 Not Found"),
        ((502, {"message": "Server Error"}), {}, "502"),
        (None, {"GH_TOKEN": ""}, "GH_TOKEN is not set"),
        (None, {"GITHUB_API_URL": "http://127.0.0.1:1"}, "refused"),
    ],
)
@pytest.mark.parametrize("script", [heartbeat, features])
def test_where_it_may_not_ask_it_is_unknown_and_green(job, runs, hub, monkeypatch, script, refused, environ, why):
    monkeypatch.setattr("time.sleep", lambda _: None)
    if refused:
        hub.refuses["GET"] = refused

    said = job(script, **environ)

    assert "::" not in said
    if script is heartbeat:
        assert said.count(": unknown: ") == 2
        assert why in said
    else:
        state = "skipped" if refused and refused[0] == 404 else "unknown"
        assert {row(said, name)[1].partition(":")[0] for name in PROBES} == {state}
        assert why.partition(";")[0] in row(said, "Dependency graph")[1]
    assert job.summary


def test_a_github_that_is_away_is_not_asked_about_each_feature(job, hub, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.refuses["GET"] = (502, {"message": "Server Error"})

    job(features)

    assert len(hub.asked) == 6  # the first question, and its repetitions


PROBES = ("Attestation of the image", "Dependency graph", "Code scanning", "Reviewers of production", "Actions may open pull requests", "`Pass` is required on main")  # fmt: skip
LIT = {
    "TRAIN_RUNNER": '["self-hosted", "gpu"]',
    "MLFLOW_TRACKING_URI": "https://mlflow.example",
    "STAGING": "staging",
    "PRODUCTION": "production",
    "RETRAIN_TOKEN": "set",
}


def row(table, name):
    [found] = [line for line in table.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in found.strip("|").split(" | ")]


def test_a_fork_without_a_variable_is_told_what_lights_what(job, hub):
    hub.settings.repository["private"] = True

    said = job(features)

    assert job.summary == f"### What is lit\n\n{said}\n"
    states = {name: row(said, name)[1] for name in ("Training runner", "MLflow server", "DVC remote", "Cluster of staging", "Retraining's own token", "Attestation of the image")}  # fmt: skip
    assert set(states.values()) == {"skipped"}
    assert row(said, "Training runner")[2] == "variable `TRAIN_RUNNER`"
    assert "COSIGN_PUBLIC_KEY" in row(said, "Attestation of the image")[2]


def test_what_is_lit_is_on(job, hub, tmp_path):
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    autostage = false\n    remote = storage\n['remote \"storage\"']\n    url = s3://50%/x\n")  # fmt: skip
    hub.settings.answers |= {
        "dependency-graph/sbom": {"sbom": {}},
        "code-scanning/alerts": [],
        "rules/branches/main": [],
    }
    hub.settings.protect("production", {"reviewers": [{"type": "User", "id": 1}]})
    hub.settings.actions["permissions/workflow"]["can_approve_pull_request_reviews"] = True
    checks = {"required_status_checks": [{"context": "Pass"}]}
    hub.settings.answers["rules/branches/main"] = [{"type": "deletion"}, {"type": "required_status_checks", "parameters": checks}]  # fmt: skip

    said = job(features, **LIT)

    states = [[cell.strip() for cell in line.split("|")][2] for line in said.splitlines()[2:]]
    assert len(states) == 12
    assert {state.partition(":")[0] for state in states} == {"on"}


DARK = {
    "another check": ("`Pass` is required on main", "rules/branches/main", [{"type": "required_status_checks", "parameters": {"required_status_checks": [{"context": "lint"}]}}]),
    "no rule": ("`Pass` is required on main", "rules/branches/main", []),
    "nobody reviews": ("Reviewers of production", "environments/production", {"protection_rules": [{"type": "branch_policy"}]}),
    "Actions may not": ("Actions may open pull requests", "actions/permissions/workflow", {"can_approve_pull_request_reviews": False}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "path", "answer"), DARK.values(), ids=DARK)
def test_what_is_there_and_does_not_do_it_is_skipped(job, hub, name, path, answer):
    hub.settings.answers[path] = answer

    assert row(job(features), name)[1] == "skipped"


def test_a_plan_that_lacks_it_is_told_in_githubs_words(job, hub):
    hub.refuses["GET .*/rules/"] = (403, {"message": "Upgrade to GitHub Pro or | make this public"})

    assert "| skipped: 403 Upgrade to GitHub Pro or \\| make this public |" in job(features)


ATTESTED = {
    "public": (False, {}, "on: GitHub's attestations"),
    "private, Enterprise Cloud": (True, {"ATTESTATIONS": "true"}, "on: GitHub's attestations"),
    "private, with keys": (True, dict.fromkeys(features.COSIGN, "set"), "on: cosign"),
    "private, a key is missing": (True, dict.fromkeys(features.COSIGN[1:], "set"), "skipped"),
}


@pytest.mark.parametrize(("private", "environ", "state"), ATTESTED.values(), ids=ATTESTED)
def test_who_attests_the_image(job, hub, private, environ, state):
    hub.settings.repository["private"] = private

    assert row(job(features, **environ), "Attestation of the image")[1] == state


def test_a_throw_away_cluster_is_not_lit(job):
    assert "throw-away" in row(job(features, STAGING="local"), "Cluster of staging")[1]


def test_what_github_says_is_one_line():
    from github import GithubException

    assert github.why(GithubException(422, {"message": "a\nb", "errors": ["c", {"message": "d"}]})) == "422 a b c d"
