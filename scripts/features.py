"""Say what of this repository is lit on GitHub, and what lights the rest.

python -m scripts.features      a table, and the same in the job's summary

What a job was given comes in the environment: TRAIN_RUNNER, MLFLOW_TRACKING_URI, STAGING and PRODUCTION (the overlay deployed; local is a throw-away cluster), ATTESTATIONS,
COSIGN_PRIVATE_KEY, COSIGN_PASSWORD, COSIGN_PUBLIC_KEY, RETRAIN_TOKEN: of secrets it is enough that they are not empty. The rest is asked, where GH_TOKEN may.
Exit code: 0, whatever it found.
"""

import configparser
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pawl.problem import Problem
from scripts import cli, github

DVC = Path(".dvc/config")
COSIGN = ("COSIGN_PRIVATE_KEY", "COSIGN_PASSWORD", "COSIGN_PUBLIC_KEY")
CLUSTER = "environment secret `KUBECONFIG`, or variables `CLUSTER` and `CLUSTER_CA`"
SETUP = "`python -m scripts.setup_github --apply`"
Row = tuple[str, str, str]  # feature, state, what lights it up


@cli.told
def main(argv: list[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Look, ask, tell."""
    cli.parser("features", __doc__).parse_args(argv)
    ask = asking(environ)
    rows = [("feature", "state", "lit by"), ("---",) * 3, *given(environ, ask), *probed(ask)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    github.summary(environ, f"### What is lit\n\n{table}\n")
    return 0


Ask = Callable[[str], tuple[Any, str]]  # a path below the repository -> (JSON or None, why there is none)


def asking(environ: Mapping[str, str]) -> Ask:
    """Return what asks GitHub. Once it does not answer, it is not asked again."""
    from github import GithubException

    away: list[str] = []

    def ask(path: str) -> tuple[Any, str]:
        try:
            return (None, away[0]) if away else (github.ask(github.repository(environ), path), "")
        except GithubException as error:
            said = github.why(error)
            unknown = error.status not in {403, 404} or "not accessible" in said  # by this job's token
            return None, f"{'unknown' if unknown else 'skipped'}: {said}"
        except (OSError, Problem) as error:
            away.append(f"unknown: {error.what if isinstance(error, Problem) else github.why(error)}")
            return None, away[0]

    return ask


def given(environ: Mapping[str, str], ask: Ask) -> list[Row]:
    """Return the rows of what the job was given."""
    dvc = configparser.ConfigParser(interpolation=None, strict=False)
    dvc.read(DVC)
    here, why = ask("")
    attested = environ.get("ATTESTATIONS") == "true" or (here and not here["private"])
    signed = all(environ.get(name) for name in COSIGN)
    how = "on: GitHub's attestations" if attested else "on: cosign" if signed else why
    rows = [
        ("Training runner", environ.get("TRAIN_RUNNER") and "on", "variable `TRAIN_RUNNER`"),
        ("MLflow server", environ.get("MLFLOW_TRACKING_URI") and "on", "variable `MLFLOW_TRACKING_URI`"),
        ("DVC remote", dvc.get("core", "remote", fallback="") and "on", "`dvc remote add -d storage <s3://...>`"),
    ]
    for name in ("staging", "production"):
        overlay = environ.get(name.upper(), "")
        kind = "skipped: a throw-away cluster on the runner" if overlay == "local" else overlay and f"on: {overlay}"
        rows.append((f"Cluster of {name}", kind, CLUSTER))
    keys = ", ".join(f"`{name}`" for name in COSIGN)
    rows += [
        ("Attestation of the image", how, f"a public repository; variable `ATTESTATIONS=true` on Enterprise Cloud; or {keys}"),
        ("Retraining's own token", environ.get("RETRAIN_TOKEN") and "on", "secret `RETRAIN_TOKEN`; without it the job's own opens the pull request, and its checks are dispatched"),
    ]  # fmt: skip
    return [(name, state or "skipped", lit) for name, state, lit in rows]


def probed(ask: Ask) -> list[Row]:
    """Return the rows of what GitHub was asked."""
    questions: list[tuple[str, str, Callable[[Any], bool], str]] = [
        ("Dependency graph", "dependency-graph/sbom", bool, "Settings > Advanced Security > Dependency graph"),
        ("Code scanning", "code-scanning/alerts?per_page=1", lambda _: True, "Settings > Advanced Security > Code scanning"),
        ("Reviewers of production", "environments/production", reviewed, SETUP),
        ("Actions may open pull requests", "actions/permissions/workflow", lambda found: bool(found["can_approve_pull_request_reviews"]), SETUP),
        ("`Pass` is required on main", "rules/branches/main", passing, SETUP),
    ]  # fmt: skip
    rows = []
    for name, path, lit, by in questions:
        found, why = ask(path)
        rows.append((name, why or ("on" if lit(found) else "skipped"), by))
    return rows


def reviewed(environment: Any) -> bool:
    """Return whether somebody must approve a deployment."""
    return any(rule["type"] == "required_reviewers" for rule in environment.get("protection_rules", []))


def passing(rules: Any) -> bool:
    """Return whether the rules of a branch require the check `Pass`."""
    mine = (each["parameters"] for each in rules if each["type"] == "required_status_checks")
    return any(check["context"] == "Pass" for each in mine for check in each["required_status_checks"])


if __name__ == "__main__":
    sys.exit(main())
