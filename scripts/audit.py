"""Audit what is locked, committed and released; what could not be looked at is red.

python -m scripts.audit packages                      requirements/*.txt, by pip-audit (requirements/audit.txt)
python -m scripts.audit packages --unless-as HEAD^1   only where requirements/ differs from that commit's
python -m scripts.audit secrets                       every commit, by gitleaks (requirements/go/gitleaks, takes Go)
python -m scripts.audit image ghcr.io/me/model/model-server:latest   by grype (requirements/go/grype, takes Go)

Exit code: 0 clean, 1 something was found, 2 your input, 3 an advisory database or a registry did not answer.
An advisory without a fixed release is listed, and is no failure. Only the standard library.
"""

import json
import os
import re
import secrets as tokens
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pawl.problem import Problem, Unreachable
from scripts import cli, github

PYPI = "PyPI's advisories"
BAD = "pyyaml==5.3"  # advisories of 2020 and 2021: a database that does not know them knows nothing
ABSENT = re.compile("no such manifest|manifest unknown|name unknown|denied|unauthorized", re.IGNORECASE)
UNFIXED = "none yet"
LEAKS = 7  # gitleaks' own 1 stands for leaks and for its errors


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Audit one of the three."""
    parser = cli.parser("audit", __doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("packages").add_argument("--unless-as", metavar="COMMIT", default="")
    parts.add_parser("secrets")
    parts.add_parser("image").add_argument("image", type=str.lower)
    args = parser.parse_args(argv)
    if args.part == "packages":
        code, text = packages(args.unless_as)
    elif args.part == "secrets":
        code, text = secrets(Path.cwd())
    else:
        code, text = image(args.image, environ)
    print(text)
    github.summary(environ, f"{text}\n")
    return code


def packages(unless_as: str) -> tuple[int, str]:
    """Audit every lock; return the exit code and what to say."""
    if unless_as and not run("git", "diff", "--quiet", unless_as, "--", "requirements").returncode:
        return 0, "➖ Packages: requirements/ is as in main, whose own runs audit it."
    locks = sorted(Path("requirements").glob("*.txt"))
    if not locks:
        raise Problem("there is no lock to audit", "requirements", "run from the project's root; restore it from git")
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder, "control.txt")
        control.write_text(f"{BAD} --hash=sha256:{'0' * 64}\n")  # nothing is downloaded
        if not advisories(control):
            raise Unreachable(f"packages were not audited: nothing is known against {BAD}", PYPI, "run the job again")
    found: dict[str, list[str]] = {}
    for lock in locks:
        for row in advisories(lock):
            found.setdefault(row, []).append(lock.name)
    bad = any(not row.endswith(UNFIXED) for row in found)
    todo = " `make lock ARGS=--upgrade` takes the fixed releases." if bad else ""
    text = f"{'❌' if bad else '✅'} Packages: {len(found)} advisories for {len(locks)} locks.{todo}"
    rows = [f"{row} | {', '.join(names)} |" for row, names in sorted(found.items())]
    return int(bad), table(text, ("package", "advisory", "fixed in", "locks"), rows)


def advisories(lock: Path) -> list[str]:
    """Return a row for each advisory against a lock's packages. Raises Unreachable where one was not audited."""
    # Without --strict, what could not be audited is a remark. The hashes are demanded, so nothing is resolved or downloaded.
    options = ("--strict", "--require-hashes", "--disable-pip", "--format=json", "--progress-spinner=off")
    done = run(sys.executable, "-m", "pip_audit", *options, f"--requirement={lock}")
    if "No module named pip_audit" in done.stderr:
        words = "python -m pip install --require-hashes --requirement requirements/audit.txt"
        fix = f"{words}, in an environment of its own"
        raise Problem("pip-audit is not installed", sys.executable, fix)
    try:
        audited = json.loads(done.stdout)["dependencies"]
    except ValueError as error:
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        raise Unreachable(f"packages of {lock} were not audited: {last}", PYPI, "run the job again") from error
    found = [(f"{each['name']}=={each['version']}", one) for each in audited for one in each["vulns"]]
    return [f"| {name} | {one['id']} | {', '.join(one['fix_versions']) or UNFIXED}" for name, one in found]


def secrets(project: Path) -> tuple[int, str]:
    """Scan the whole history, after a secret that was planted and taken away again in another one."""
    if run("git", "rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        raise Problem("the whole history is not here", project, "git fetch --unshallow; in a workflow: fetch-depth: 0")
    config = f"--config={project / '.github/gitleaks.toml'}"
    with tempfile.TemporaryDirectory() as folder:
        planted = Path(folder, "planted.env")
        run("git", "init", "--quiet", folder)
        for text in (f"GITHUB_TOKEN=ghp_{tokens.token_hex(18)}\n", ""):
            planted.write_text(text)
            run("git", "-C", folder, "add", "--all")
            run("git", "-C", folder, "-c", "user.name=pawl", "-c", "user.email=pawl@localhost", "commit", "--quiet", "--message=planted", "--no-gpg-sign")  # fmt: skip
        if [each["RuleID"] for each in leaks(Path(folder), config)] != ["github-pat"]:
            raise Unreachable("gitleaks does not find a secret that was planted", "requirements/go/gitleaks", "see its message above")  # fmt: skip
    rows = [f"| {each['RuleID']} | {each['File']}:{each['StartLine']} | {each['Commit'][:12]} |" for each in leaks(project, config)]  # fmt: skip
    commits = run("git", "rev-list", "--all", "--count").stdout.strip()
    if not rows:
        return 0, f"✅ Secrets: none in {commits} commits of all branches and tags."
    text = f"❌ Secrets: {len(rows)} in {commits} commits. Revoke each at its issuer: it is known now. One that was never real: .github/gitleaks.toml."
    return 1, table(text, ("rule", "where", "commit"), rows)


def leaks(project: Path, config: str) -> list[dict[str, Any]]:
    """Return what gitleaks finds in a history; no secret is in it."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "found.json")
        done = tool("gitleaks", "git", "--no-banner", "--redact", "--log-level=error", f"--exit-code={LEAKS}", config, f"--report-path={found}", str(project))  # fmt: skip
        if done not in {0, LEAKS} or not found.exists():
            raise Unreachable("gitleaks did not scan", "requirements/go/gitleaks", "see its message above")
        return list(json.loads(found.read_text()))


def image(name: str, environ: Mapping[str, str]) -> tuple[int, str]:
    """Audit an image of the registry; one that is not there is named, and is no failure."""
    there = run("docker", "manifest", "inspect", name)
    said = there.stderr.strip()
    if there.returncode and ABSENT.search(said):
        return 0, f"➖ {name} skipped: a release pushes it; the registry has none that this job may read ({said})."
    if there.returncode:
        raise Unreachable(f"the registry did not answer: {said}", name, "run the job again")
    found = Path(".pawl/image.sarif").absolute()
    found.parent.mkdir(exist_ok=True)
    code = tool("grype", f"registry:{name}", "--fail-on=high", "--only-fixed", "--output=table", f"--output=sarif={found}")  # fmt: skip
    if code not in {0, 2}:
        raise Unreachable("grype did not scan", name, "see its message above")
    github.output(environ, sarif=str(found))
    said = "advisories of severity high, of which a fixed release is out: build and release anew" if code else "no advisory of severity high that a release would fix"  # fmt: skip
    return code // 2, f"{'❌' if code else '✅'} {name}: {said}."


def table(text: str, heads: Sequence[str], rows: Sequence[str]) -> str:
    """Return a sentence, and below it a table where there are rows."""
    lines = ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *rows] if rows else []
    return "\n".join([text, *lines])


def tool(name: str, *words: str) -> int:
    """Run a tool of requirements/go, which Go builds in the version whose hash is there; return its exit code."""
    try:
        return subprocess.call(["go", "-C", f"requirements/go/{name}", "tool", name, *words])
    except FileNotFoundError as error:
        raise Problem("Go is not installed", "PATH", "https://go.dev/dl") from error


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command for what it says."""
    return subprocess.run(words, check=False, capture_output=True, text=True)


if __name__ == "__main__":
    raise SystemExit(main())
