"""Set up a repository on GitHub: environments, branch rules, labels, variables, what Actions may do.

python -m scripts.setup_github                                     the plan: what is there, what would be made
python -m scripts.setup_github --apply --variable REGISTRY=ghcr.io --reviewer alice --reviewer bob

Doing it again changes nothing. What your plan does not allow is skipped, with GitHub's reason. The token is GH_TOKEN, else `gh auth token`, of somebody who
administers the repository. A cluster's variables are an environment's: --variable production:CLUSTER=https://...
Exit code: 0 done, 2 your input or token, 3 GitHub did not answer.
"""

import difflib
import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pawl.problem import Problem, Unreachable
from scripts import cli, github

if TYPE_CHECKING:
    from github.Repository import Repository

CODEOWNERS = Path(".github/CODEOWNERS")
VARIABLES = ("ATTESTATIONS", "CLUSTER", "CLUSTER_CA", "COSIGN_PUBLIC_KEY", "MLFLOW_TRACKING_URI", "REGISTRY", "TRAIN_RUNNER")  # fmt: skip
LABELS = {
    "dependencies": "A newer version of what this is built with",
    "gate-waiver": "Asks that a model may pass in spite of a rule",
    "retrain": "What the schedule found",
}
ACTIONS = 15368  # the id of GitHub's own app, whose token workflows have


@dataclass(frozen=True)
class Step:
    """One thing. read: what GitHub has of it, None for nothing; write: makes it what is wanted."""

    name: str
    want: Any
    read: Callable[[], Any]
    write: Callable[[], object]


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Ask, compare, make."""
    parser = cli.parser("setup_github", __doc__)
    parser.add_argument("--apply", action="store_true", help="make it; without, nothing is written")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="default: of the remote origin")
    parser.add_argument("--reviewer", action="append", default=[], metavar="LOGIN", help="who may approve a deployment to production; default: you")  # fmt: skip
    parser.add_argument("--variable", action="append", default=[], type=variable, metavar="[ENVIRONMENT:]NAME=VALUE")
    args = parser.parse_args(argv)
    from github import GithubException

    name = args.repository or origin()
    try:
        repository = github.repository({**environ, "GH_TOKEN": token(environ), "GITHUB_REPOSITORY": name})
        here, me = github.ask(repository, ""), github.ask(repository, "/user")
        if not here.get("permissions", {}).get("admin"):
            raise Problem(f"{me['login']} does not administer {name}", name, "the token of somebody who does, in GH_TOKEN")  # fmt: skip
        people = [github.ask(repository, f"/users/{login}") for login in args.reviewer] or [me]
    except GithubException as error:
        fix = "--repository, --reviewer and GH_TOKEN: the token must be a person's, with administration: write"
        raise (Unreachable if error.status >= 500 else Problem)(f"GitHub: {github.why(error)}", name, fix) from error
    except OSError as error:
        raise Unreachable(f"GitHub: {github.why(error)}", name, "run it again") from error
    owner = here["owner"] if here["owner"]["type"] == "User" else me  # an organization owns no code
    said = [taken(step, apply=args.apply) for step in steps(Place(repository), people, args)]
    said.append(taken(owned(owner["login"]), apply=args.apply))
    for word, text in said:
        print(f"{word:13}{text}")
    if not args.apply and any(word in {"would create", "differs"} for word, _ in said):
        print("nothing is changed; the same command with --apply does it")
    return 0


def variable(text: str) -> tuple[str, str, str]:
    """Return (environment or nothing, name, value)."""
    found = re.fullmatch(r"(?:(staging|production):)?(\w+)=(.*)", text, re.DOTALL)
    if not found:
        raise Problem(f"{text!r} is no variable", "--variable", "NAME=VALUE, or production:NAME=VALUE")
    name, value = found[2], found[3]
    if name not in VARIABLES:
        near = difflib.get_close_matches(name.upper(), VARIABLES, n=1) or [f"one of {', '.join(VARIABLES)}"]
        raise Problem(f"no workflow reads {name}", "--variable", f"{near[0]}; a secret is set by `gh secret set`")
    try:
        if name == "TRAIN_RUNNER" and not isinstance(json.loads(value), str | list):
            raise ValueError
    except ValueError as error:
        raise Problem(f"{value} is no JSON text or list", "--variable TRAIN_RUNNER", """'["self-hosted", "gpu"]'""") from error  # fmt: skip
    return found[1] or "", name, value


def origin() -> str:
    """Return OWNER/NAME of the remote origin."""
    done = subprocess.run(["git", "remote", "get-url", "origin"], check=False, capture_output=True, text=True)
    found = re.search(r"[:/]([\w.-]+/[\w.-]+?)(\.git)?/?$", done.stdout.strip())
    if not found:
        raise Problem("there is no remote origin on GitHub", "git remote", "--repository OWNER/NAME")
    return found[1]


def token(environ: Mapping[str, str]) -> str:
    """Return the token of who runs this."""
    try:
        return environ.get("GH_TOKEN") or subprocess.run(["gh", "auth", "token"], check=True, capture_output=True, text=True).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise Problem("there is no token", "GH_TOKEN", "`gh auth login`, or a token in GH_TOKEN") from error


def taken(step: Step, *, apply: bool) -> tuple[str, str]:
    """Compare, make it where that is wanted; return what was found or done, in a word and a line."""
    from github import GithubException

    try:
        now = step.read()
        if now == step.want:
            return "exists", step.name
        text = f"{step.name}: {'' if now is None else f'{shown(now)} → '}{shown(step.want)}"
        if not apply:
            return "would create" if now is None else "differs", text
        github.again(lambda: step.read() == step.want or step.write())
        if (after := step.read()) != step.want:
            return "skipped", f"{step.name}: GitHub took it, and has {shown(after)}"
    except (GithubException, OSError) as error:
        if getattr(error, "status", 0) in {403, 404, 409, 422}:
            return "skipped", f"{step.name}: {github.why(error)}"
        raise Unreachable(f"GitHub: {github.why(error)}", step.name, "run it again: what was made stays") from error
    return "created" if now is None else "changed", text


def shown(value: Any) -> str:
    """Return a value for people."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    return ", ".join(map(shown, value)) if isinstance(value, list) else str(value)


def owned(login: str) -> Step:
    """Return the file that says who owns what decides: it ships without a name."""

    def read() -> Any:
        text = CODEOWNERS.read_text() if CODEOWNERS.exists() else ""
        return "@OWNER" if "@OWNER" in text else f"@{login}"

    write = lambda: CODEOWNERS.write_text(CODEOWNERS.read_text().replace("@OWNER", f"@{login}"))  # noqa: E731
    return Step(f"{CODEOWNERS} here, to be committed", f"@{login}", read, write)


class Place:
    """What lies below a repository."""

    def __init__(self, repository: "Repository") -> None:
        self.repository = repository

    def get(self, path: str) -> Any:
        """Return what is there; None for nothing."""
        from github import UnknownObjectException

        try:
            return github.ask(self.repository, path)
        except UnknownObjectException:
            return None

    def send(self, method: str, path: str, body: Any = None) -> Any:
        """Write."""
        return github.ask(self.repository, path, method, body)


def steps(place: Place, people: list[Any], args: Namespace) -> Iterator[Step]:
    """Yield all there is to do, in an order in which it can be done."""
    several = len(people) > 1
    yield deployers(place, "staging")
    yield deployers(place, "production")
    yield reviewers(place, "production", people, chosen=bool(args.reviewer))
    pull: dict[str, Any] = {
        "required_approving_review_count": int(several),  # nobody approves what is their own
        "require_code_owner_review": several,
        "dismiss_stale_reviews_on_push": True,
        "require_last_push_approval": False,
        "required_review_thread_resolution": False,
    }
    checks = {"required_status_checks": [{"context": "Pass", "integration_id": ACTIONS}], "strict_required_status_checks_policy": False}  # fmt: skip
    kept: dict[str, Any] = {"deletion": None, "non_fast_forward": None}
    yield ruleset(place, "main", "main", {**kept, "pull_request": pull, "required_status_checks": checks})
    yield ruleset(place, "ledger", "ledger", kept)
    yield ruleset(place, "ledger: written by Actions alone", "ledger", {"creation": None, "update": None}, bypass=True)
    for name, text in LABELS.items():
        yield label(place, name, text)
    for where, name, value in args.variable:
        yield valued(place, f"environments/{where}" if where else "actions", name, value)
    yield setting(place, "actions/permissions", {"enabled": True, "sha_pinning_required": True})
    token = {"default_workflow_permissions": "read", "can_approve_pull_request_reviews": True}
    yield setting(place, "actions/permissions/workflow", token)
    outside = {"approval_policy": "all_external_contributors"}
    yield setting(place, "actions/permissions/fork-pr-contributor-approval", outside)


def rules_of(found: Any) -> dict[str, Any]:
    """Return an environment's protection rules by type."""
    return {rule["type"]: rule for rule in (found or {}).get("protection_rules", [])}


def protect(place: Place, name: str, **change: Any) -> None:
    """Make an environment, or change it: what is not sent is switched off, so all that is there is sent too."""
    found = place.get(f"environments/{name}")
    rules = rules_of(found)
    asked = rules.get("required_reviewers", {})
    them = [{"type": each["type"], "id": each["reviewer"]["id"]} for each in asked.get("reviewers", [])]
    there = {
        "wait_timer": rules.get("wait_timer", {}).get("wait_timer", 0),
        "prevent_self_review": asked.get("prevent_self_review", False),
        "reviewers": them,
        "deployment_branch_policy": (found or {}).get("deployment_branch_policy"),
    }
    place.send("PUT", f"environments/{name}", there | change)


def deployers(place: Place, name: str) -> Step:
    """Let main alone deploy to an environment."""
    path = f"environments/{name}/deployment-branch-policies"

    def policies() -> list[Any]:
        return list((place.get(f"{path}?per_page=100") or {}).get("branch_policies", []))

    def read() -> Any:
        if (found := place.get(f"environments/{name}")) is None:
            return None
        policy = found.get("deployment_branch_policy") or {}
        if policy.get("custom_branch_policies"):
            return sorted(each["name"] for each in policies())
        return ["protected branches" if policy else "every branch"]

    def write() -> None:
        protect(place, name, deployment_branch_policy={"protected_branches": False, "custom_branch_policies": True})
        for each in policies():
            if each["name"] != "main":
                place.send("DELETE", f"{path}/{each['id']}")
        if "main" not in [each["name"] for each in policies()]:
            place.send("POST", path, {"name": "main", "type": "branch"})

    return Step(f"environment {name}: who may deploy", ["main"], read, write)


def reviewers(place: Place, name: str, people: list[Any], *, chosen: bool) -> Step:
    """Let somebody approve a deployment; who does already stays, unless others are chosen."""
    several = len(people) > 1
    want = {"by": sorted(each["login"] for each in people), "not by who started it": several}

    def read() -> Any:
        if not (rule := rules_of(place.get(f"environments/{name}")).get("required_reviewers")):
            return None
        them = sorted(each["reviewer"].get("login") or each["reviewer"]["name"] for each in rule["reviewers"])
        return {"by": them, "not by who started it": rule["prevent_self_review"]} if chosen else want

    them = [{"type": "User", "id": each["id"]} for each in people]
    write = lambda: protect(place, name, reviewers=them, prevent_self_review=several)  # noqa: E731
    return Step(f"environment {name}: approved", want, read, write)


def ruleset(place: Place, name: str, branch: str, rules: dict[str, Any], *, bypass: bool = False) -> Step:
    """Hold a branch to rules; what somebody added to them stays. bypass: they do not hold for GitHub's own app."""

    def find() -> Any:
        found = place.get("rulesets?includes_parents=false&per_page=100") or []
        return next((place.get(f"rulesets/{each['id']}") for each in found if each["name"] == name), None)

    def terms(given: list[Any], actors: list[Any]) -> list[str]:
        checks = [check["context"] for rule in given for check in (rule.get("parameters") or {}).get("required_status_checks", [])]  # fmt: skip
        free = any(each["actor_id"] == ACTIONS for each in actors)
        return [*(rule["type"] for rule in given), *(f"check {each}" for each in checks), *["but for Actions"] * free]

    def read() -> Any:
        if (found := find()) is None:
            return None
        held = terms(found["rules"], found.get("bypass_actors") or []) if found["enforcement"] == "active" else []
        return [each for each in want if each in held]

    def write() -> None:
        there = find() or {"rules": [], "bypass_actors": []}
        others = [rule for rule in there["rules"] if rule["type"] not in rules]
        body = {
            "name": name,
            "target": "branch",
            "enforcement": "active",
            "conditions": {"ref_name": {"include": [f"refs/heads/{branch}"], "exclude": []}},
            "rules": [*mine, *others],
            "bypass_actors": actors or there["bypass_actors"],
        }
        place.send(*(("PUT", f"rulesets/{there['id']}") if "id" in there else ("POST", "rulesets")), body)

    mine = [{"type": kind, **({"parameters": given} if given else {})} for kind, given in rules.items()]
    actors = [{"actor_id": ACTIONS, "actor_type": "Integration", "bypass_mode": "always"}] if bypass else []
    want = terms(mine, actors)
    return Step(f"rules of branch {name}", want, read, write)


def label(place: Place, name: str, text: str) -> Step:
    """Make a label."""
    body = {"name": name, "description": text}
    read = lambda: (place.get(f"labels/{name}") or {}).get("description")  # noqa: E731
    return Step(f"label {name}", text, read, lambda: place.send("POST", "labels", body))


def valued(place: Place, where: str, name: str, value: str) -> Step:
    """Set a variable."""
    path = f"{where}/variables"

    def write() -> None:
        there = place.get(f"{path}/{name}")
        place.send(*(("PATCH", f"{path}/{name}") if there else ("POST", path)), {"name": name, "value": value})

    return Step(f"variable {name} ({where})", value, lambda: (place.get(f"{path}/{name}") or {}).get("value"), write)


def setting(place: Place, path: str, want: dict[str, Any]) -> Step:
    """Set what Actions may do."""

    def read() -> Any:
        return {key: value for key, value in github.ask(place.repository, path).items() if key in want}

    def write() -> None:
        there = github.ask(place.repository, path)
        place.send("PUT", path, {key: there[key] for key in {"allowed_actions"} & there.keys()} | want)

    return Step(path, want, read, write)


if __name__ == "__main__":
    sys.exit(main())
