"""Say whether the workflows that have a schedule still run.

GitHub switches them off in forks, and after 60 days without a commit.

python -m scripts.heartbeat     in a job with `actions: read`, GH_TOKEN and GITHUB_REPOSITORY

A warning and a line in the job's summary for each that does not; never red. Exit code: 0, whatever it found.
"""

import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from pawl.problem import Problem
from scripts import cli, github

if TYPE_CHECKING:
    from github.Repository import Repository

WORKFLOWS = Path(".github/workflows")
GRACE = timedelta(days=8)
OFF = {
    "disabled_inactivity": "switched off, after 60 days without a commit",
    "disabled_manually": "switched off by somebody",
    "disabled_fork": "switched off, as in every new fork",
}


@cli.told
def main(argv: list[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Ask, warn."""
    cli.parser("heartbeat", __doc__).parse_args(argv)
    for path in sorted(WORKFLOWS.glob("*.yml")):
        on = yaml.safe_load(path.read_text()).get(True)  # YAML reads the key `on` as true
        crons = [each["cron"] for each in on.get("schedule", [])] if isinstance(on, dict) else []
        if crons:
            fine, said = beat(environ, path.name, min(period(cron) for cron in crons))
            if not fine:
                print(f"::warning title={path.name} does not run by its schedule::{said}")
            github.summary(environ, f"- {'' if fine else '⚠ '}{path.name}: {said}\n")
            print(f"{path.name}: {said}")
    return 0


def period(cron: str) -> timedelta:
    """Return the longest time between two runs, to the day."""
    _minute, _hour, day, month, weekday = cron.split()
    return timedelta(days=366 if month != "*" else 31 if day != "*" else 7 if weekday != "*" else 1)


def beat(environ: Mapping[str, str], name: str, every: timedelta) -> tuple[bool, str]:
    """Return whether a workflow runs by its schedule, as far as one may know, and what is known."""
    from github import GithubException

    try:
        state, last = asked(github.repository(environ), name)
    except (GithubException, OSError) as error:
        return True, f"unknown: {github.why(error)}; the job needs `actions: read`"
    except Problem as problem:
        return True, f"unknown: {problem.what}"
    on = f"`gh workflow enable {name}` switches it on again"
    if state != "active":
        return False, f"{OFF.get(state, state)}; {on}"
    ran = f"its schedule ran last on {last:%Y-%m-%d}"
    late = datetime.now(UTC) - last > every + GRACE
    return not late, f"active, but {ran}; {on}" if late else f"active, {ran}"


def asked(repository: "Repository", name: str) -> tuple[str, datetime]:
    """Return a workflow's state, and when it ran last by schedule: when it came to be, if it never did."""
    workflow = github.ask(repository, f"actions/workflows/{name}")
    runs = github.ask(repository, f"actions/workflows/{name}/runs?event=schedule&per_page=1")["workflow_runs"]
    return workflow["state"], datetime.fromisoformat((runs or [workflow])[0]["created_at"])


if __name__ == "__main__":
    sys.exit(main())
