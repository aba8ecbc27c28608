"""Set up GitHub: environments, branch rules, labels, variables, Actions' rights.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pawl.problem import Problem, Unreachable
from scripts import cli, github

CODEOWNERS = Path(".github/CODEOWNERS")
VARIABLES = ("ATTESTATIONS", "CACHE", "CLUSTER", "CLUSTER_CA", "COSIGN_PUBLIC_KEY", "MLFLOW_TRACKING_URI", "REGISTRY", "TRAIN_RUNNER")  # fmt: skip
LABELS = {
    "dependencies": "A newer version of what this is built with",
    "gate-waiver": "Asks that a model may pass in spite of a rule",
    "retrain": "What the schedule found",
}
APP = 15368  # GitHub's own, whose token workflows have
SETTINGS: dict[str, dict[str, Any]] = {
    "permissions": {"enabled": True, "sha_pinning_required": True},
    "permissions/workflow": {"default_workflow_permissions": "read", "can_approve_pull_request_reviews": True},
    "permissions/fork-pr-contributor-approval": {"approval_policy": "all_external_contributors"},
}
KEPT: dict[str, Any] = {"deletion": None, "non_fast_forward": None}


@dataclass(frozen=True)
class Step:
    """One thing. read: what there is of it, None for nothing; write: looks, and makes it what is wanted."""

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
    repository = github.repository({**environ, "GH_TOKEN": token(environ), "GITHUB_REPOSITORY": name})
    place = Place(lambda *words: github.ask(repository, *words))
    try:
        here, me = place.ask(""), place.ask("/user")
        people = [place.ask(f"/users/{login}") for login in args.reviewer] or [me]
    except (GithubException, OSError) as error:
        if isinstance(error, GithubException):
            fix = "--repository and --reviewer; GH_TOKEN must be a person's token, with administration: write"
            raise Problem(f"GitHub: {github.why(error)}", name, fix) from error
        raise Unreachable(f"GitHub: {github.why(error)}", name, "run it again") from error
    if not here.get("permissions", {}).get("admin"):
        raise Problem(f"{me['login']} does not administer {name}", name, "GH_TOKEN: the token of somebody who does")
    owner = here["owner"] if here["owner"]["type"] == "User" else me  # an organization owns no code
    wanted = [*steps(place, people, args.variable, chosen=bool(args.reviewer))]
    owners = people if len(people) > 1 else [owner]  # of several, one may approve the other's
    wanted.append(owned(" @".join(each["login"] for each in owners)))
    said = [taken(step, apply=args.apply) for step in wanted]
    print("\n".join(f"{word:13}{text}" for word, text in said))
    if {"would create", "differs"} & {word for word, _ in said}:
        print("nothing is changed; the same command with --apply does it")
    return 0


def variable(text: str) -> tuple[str, str, str]:
    """Return (environment or nothing, name, value)."""
    found = re.fullmatch(r"(?:(staging|production):)?(\w+)=(.*)", text, re.DOTALL)
    if not found:
        raise Problem(f"{text!r} is no variable", "--variable", "NAME=VALUE, or production:NAME=VALUE")
    where, name, value = found.groups(default="")
    if name not in VARIABLES:
        near = difflib.get_close_matches(name.upper(), VARIABLES, n=1) or [f"one of {', '.join(VARIABLES)}"]
        raise Problem(f"no workflow reads {name}", "--variable", f"{near[0]}; a secret is set by `gh secret set`")
    try:
        fits = name != "TRAIN_RUNNER" or isinstance(json.loads(value), str | list)
    except ValueError:
        fits = False
    if not fits:
        raise Problem(f"{value} is no JSON text or list", "--variable TRAIN_RUNNER", """'["self-hosted", "gpu"]'""")
    return where, name, value


def origin() -> str:
    """Return OWNER/NAME of the remote origin."""
    done = subprocess.run(["git", "remote", "get-url", "origin"], check=False, capture_output=True, text=True)
    if not (found := re.search(r"[:/]([\w.-]+/[\w.-]+?)(\.git)?/?$", done.stdout.strip())):
        raise Problem("there is no remote origin on GitHub", "git remote", "--repository OWNER/NAME")
    return found[1]


def token(environ: Mapping[str, str]) -> str:
    """Return the token of who runs this."""
    if given := environ.get("GH_TOKEN"):
        return given
    try:
        done = subprocess.run(["gh", "auth", "token"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Problem("there is no token", "GH_TOKEN", "`gh auth login`, or a token in GH_TOKEN") from error
    return done.stdout.strip()


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
        github.again(step.write)
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
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


class Place:
    """What lies below a repository. ask: (path, method, body) -> JSON, or GithubException."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self.ask = ask

    def get(self, path: str) -> Any:
        """Return what is there; an empty dict for nothing."""
        from github import UnknownObjectException

        try:
            return self.ask(path)
        except UnknownObjectException:
            return {}

    def put(self, there: object, path: str, body: Any, *, new: str, method: str = "PUT") -> None:
        """Change what is there, make what is not at `new`."""
        self.ask(*((path, method) if there else (new, "POST")), body)


def owned(login: str) -> Step:
    """Let the file that says who owns what decides name somebody: it ships without a name."""
    text = CODEOWNERS.read_text() if CODEOWNERS.exists() else ""
    read = lambda: "@OWNER" if "@OWNER" in CODEOWNERS.read_text() else f"@{login}"  # noqa: E731 - a pair, beside each other
    write = lambda: CODEOWNERS.write_text(text.replace("@OWNER", f"@{login}"))  # noqa: E731 - a pair, beside each other
    return Step(
        f"{CODEOWNERS} in this clone, to be committed", f"@{login}", read if text else lambda: f"@{login}", write
    )


def steps(place: Place, people: list[Any], variables: list[tuple[str, str, str]], *, chosen: bool) -> Iterator[Step]:
    """Yield all there is to do, in an order in which it can be done."""
    yield deployers(place, "staging")
    yield deployers(place, "production")
    yield reviewers(place, "production", people, chosen=chosen)
    several = len(people) > 1  # nobody approves what is their own
    pull = {"required_approving_review_count": int(several), "require_code_owner_review": several, "dismiss_stale_reviews_on_push": True, "require_last_push_approval": False, "required_review_thread_resolution": False}  # fmt: skip
    checks = {"required_status_checks": [{"context": "Pass", "integration_id": APP}], "strict_required_status_checks_policy": False}  # fmt: skip
    yield ruleset(place, "main", "main", {**KEPT, "pull_request": pull, "required_status_checks": checks})
    yield ruleset(place, "ledger", "ledger", KEPT)
    yield ruleset(place, "ledger: written by Actions alone", "ledger", {"creation": None, "update": None}, free=[APP])
    for name, text in LABELS.items():
        yield listed(place, "labels", name, {"name": name, "description": text}, "name")
    for where, name, value in variables:
        path = f"environments/{where}" if where else "actions"
        yield listed(place, f"{path}/variables", name, {"name": name, "value": value}, "value")
    for path, want in SETTINGS.items():
        yield setting(place, f"actions/{path}", want)


def deployers(place: Place, name: str) -> Step:
    """Let main alone deploy to an environment."""
    path = f"environments/{name}/deployment-branch-policies"

    def policies() -> dict[str, int]:
        found = place.get(f"{path}?per_page=100").get("branch_policies", [])
        return {each["name"]: each["id"] for each in found}

    def read() -> Any:
        if not (found := place.get(f"environments/{name}")):
            return None
        policy = found.get("deployment_branch_policy") or {}
        return sorted(policies()) if policy.get("custom_branch_policies") else ["protected branches" if policy else "every branch"]  # fmt: skip

    def write() -> None:
        protect(place, name, deployment_branch_policy={"protected_branches": False, "custom_branch_policies": True})
        there = policies()
        for other in there.keys() - {"main"}:
            place.ask(f"{path}/{there[other]}", "DELETE")
        if "main" not in there:
            place.ask(path, "POST", {"name": "main", "type": "branch"})

    return Step(f"environment {name}: who may deploy", ["main"], read, write)


def reviewers(place: Place, name: str, people: list[Any], *, chosen: bool) -> Step:
    """Let somebody approve a deployment; who does already stays, unless others are chosen."""
    several = len(people) > 1
    want = {"by": sorted(each["login"] for each in people), "not by who started it": several}

    def read() -> Any:
        if not (rule := protection(place.get(f"environments/{name}"), "required_reviewers")):
            return None
        them = sorted(each["reviewer"].get("login") or each["reviewer"]["name"] for each in rule["reviewers"])
        return {"by": them, "not by who started it": rule["prevent_self_review"]} if chosen else want

    them = [{"type": "User", "id": each["id"]} for each in people]
    write = lambda: protect(place, name, reviewers=them, prevent_self_review=several)  # noqa: E731 - a pair, beside each other
    return Step(f"environment {name}: approved", want, read, write)


def protection(found: Any, kind: str) -> Any:
    """Return an environment's rule of a kind."""
    return next((rule for rule in found.get("protection_rules", []) if rule["type"] == kind), {})


def protect(place: Place, name: str, **change: Any) -> None:
    """Make an environment, or change it: GitHub switches off what is not sent, and refuses what a plan lacks even if it is off."""
    found = place.get(f"environments/{name}")
    asked = protection(found, "required_reviewers")
    there = {
        "wait_timer": protection(found, "wait_timer").get("wait_timer", 0),
        "prevent_self_review": asked.get("prevent_self_review", False),
        "reviewers": [{"type": each["type"], "id": each["reviewer"]["id"]} for each in asked.get("reviewers", [])],
        "deployment_branch_policy": found.get("deployment_branch_policy"),
    }
    place.ask(f"environments/{name}", "PUT", {key: value for key, value in there.items() if value} | change)


def ruleset(place: Place, name: str, branch: str, rules: dict[str, Any], *, free: Sequence[int] = ()) -> Step:
    """Hold a branch to rules; what somebody added to them stays. free: the apps that they do not hold for."""
    body = {"name": name, "target": "branch", "enforcement": "active", "conditions": {"ref_name": {"include": [f"refs/heads/{branch}"], "exclude": []}}}  # fmt: skip
    mine = [{"type": kind, **({"parameters": given} if given else {})} for kind, given in rules.items()]
    actors = [{"actor_id": each, "actor_type": "Integration", "bypass_mode": "always"} for each in free]

    def find() -> Any:
        found = place.get("rulesets?includes_parents=false&per_page=100") or []
        return next((place.get(f"rulesets/{each['id']}") for each in found if each["name"] == name), {})

    def terms(given: list[Any], actors: Any) -> list[str]:
        checks = [check["context"] for rule in given for check in (rule.get("parameters") or {}).get("required_status_checks", [])]  # fmt: skip
        apps = [each["actor_id"] for each in actors or []]
        return [*(rule["type"] for rule in given), *(f"check {each}" for each in checks), *["but for Actions"] * (APP in apps)]  # fmt: skip

    def read() -> Any:
        if not (found := find()):
            return None
        held = terms(found["rules"], found.get("bypass_actors")) if found["enforcement"] == "active" else []
        return [each for each in want if each in held]

    def write() -> None:
        there = find()
        others = [rule for rule in there.get("rules", []) if rule["type"] not in rules]
        bypass = actors or there.get("bypass_actors", [])
        place.put(there, f"rulesets/{there.get('id')}", {**body, "rules": [*mine, *others], "bypass_actors": bypass}, new="rulesets")  # fmt: skip

    want = terms(mine, actors)
    return Step(f"rules of branch {name}", want, read, write)


def listed(place: Place, where: str, name: str, body: dict[str, str], key: str) -> Step:
    """Let a list have a label or a variable by this name, with this value."""
    get: Callable[[], Any] = lambda: place.get(f"{where}/{name}")  # noqa: E731 - a pair, beside each other
    write = lambda: place.put(get(), f"{where}/{name}", body, new=where, method="PATCH")  # noqa: E731 - a pair, beside each other
    return Step(f"{where} {name}", body[key], lambda: get().get(key), write)


def setting(place: Place, path: str, want: dict[str, Any]) -> Step:
    """Set what Actions may do."""

    def write() -> None:
        there = place.ask(path)
        place.ask(path, "PUT", {key: there[key] for key in {"allowed_actions"} & there.keys()} | want)

    return Step(path, want, lambda: {key: value for key, value in place.ask(path).items() if key in want}, write)


if __name__ == "__main__":
    sys.exit(main())
