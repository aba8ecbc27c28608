"""Ask GitHub whether a feature is there that a plan or a fork can lack.

What is not there is named, and is no failure.

python -m scripts.probe graph      dependency review of the pull request in GITHUB_EVENT_PATH
python -m scripts.probe scanning   the repository's page of code scanning

Sets the step's output `there`. Exit code: 0 whatever GitHub says of it, 3 where it does not answer. Only the standard library.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

from pawl.problem import Problem, Unreachable
from scripts import cli, github

# name, path of the API, what lights it up
FEATURES = {
    "graph": ("Dependency review", "dependency-graph/compare/{}", "Settings, Advanced Security: Dependency graph; a private repository needs GitHub Code Security"),
    "scanning": ("Code scanning", "code-scanning/alerts?per_page=1", "a public repository, or GitHub Code Security"),
}  # fmt: skip


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Ask, and say."""
    parser = cli.parser("probe", __doc__)
    parser.add_argument("feature", choices=FEATURES)
    name, path, fix = FEATURES[parser.parse_args(argv).feature]
    for needed in ("GH_TOKEN", "GITHUB_REPOSITORY"):
        if not environ.get(needed):
            raise Problem(f"{needed} is not set", "the environment", "this runs in a job of GitHub's")
    if "{}" in path:
        pull = github.event(environ)["pull_request"]
        path = path.format(f"{pull['base']['sha']}...{pull['head']['sha']}")
    status, said = ask(path, environ)
    there = status == 200 or "no analysis found" in said  # so says a scanning that is on, and was never used
    if not there:
        text = f"➖ {name} skipped: GitHub answers {status} {said}. It takes: {fix}.\n"
        print(text, end="")
        github.summary(environ, text)
    github.output(environ, there=str(there).lower())
    return 0


def ask(path: str, environ: Mapping[str, str]) -> tuple[int, str]:
    """Return the status and GitHub's message: 200, 403 or 404. Raises Unreachable for all others and for a rate limit."""
    url = f"{environ.get('GITHUB_API_URL', 'https://api.github.com')}/repos/{environ['GITHUB_REPOSITORY']}/{path}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {environ['GH_TOKEN']}"})  # noqa: S310 - GitHub's
    try:
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310 - same
            return 200, ""
    except urllib.error.HTTPError as error:
        limited = "retry-after" in error.headers or error.headers.get("x-ratelimit-remaining") == "0"
        if error.code not in {403, 404} or limited:
            raise Unreachable(f"GitHub answers {error.code} {error.reason}", url, "run the job again") from error
        return error.code, message(error.read())
    except OSError as error:
        raise Unreachable(f"GitHub did not answer: {error}", url, "run the job again") from error


def message(body: bytes) -> str:
    """Return what GitHub says in an answer."""
    try:
        return str(json.loads(body)["message"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        return "and no reason"


if __name__ == "__main__":
    raise SystemExit(main())
