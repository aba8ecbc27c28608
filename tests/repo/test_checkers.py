"""Each checker of `make lint` is shown something bad, and must go red."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

BAD = {
    "ruff": ("src/task/bad.py", '"""Bad."""\n\nimport os\n', ["ruff", "check", "src/task/bad.py"], "F401"),
    "format": ("src/task/bad.py", '"""Bad."""\nX   =  1\n', ["ruff", "format", "--check", "src/task/bad.py"], "would be reformatted"),
    "mypy": ("src/task/bad.py", '"""Bad."""\n\nX: int = "one"\n', ["mypy", "src/task/bad.py"], "Incompatible types"),
    "layers": ("src/task/bad.py", '"""Bad."""\n\nfrom pawl import config\n', ["lint-imports", "--no-cache"], "task is not allowed to import pawl"),
}  # fmt: skip


FLOW = """\
name: Sample
on: push
permissions: {}
concurrency:
  group: sample
  cancel-in-progress: true
jobs:
  one:
    name: One
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    steps:
      - uses: actions/checkout@11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2
        with:
          persist-credentials: false
      - if: github.event_name == 'push'
        run: make test
"""
ACTION = """\
name: Sample
description: Sample
inputs:
  extra:
    description: Sample
runs:
  using: composite
  steps:
    - run: make test
      shell: bash
"""
IMAGE = """\
FROM python:3.13-slim
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN python --version | wc
"""
SCRIPT = """\
#!/usr/bin/env bash
set -euo pipefail
make test
"""
UPDATES = """\
version: 2
updates:
  - package-ecosystem: github-actions
    directory: /
    schedule:
      interval: weekly
    cooldown:
      default-days: 7
"""
KUSTOMIZATION = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [sample.yaml]\n"
COMPONENT = """\
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
patches:
  - target: {kind: Deployment}
    patch: "- {op: add, path: /spec/replica, value: 2}"
"""
MANIFEST = """\
apiVersion: v1
kind: Pod
metadata:
  name: sample
spec:
  containers:
    - name: sample
      image: sample
      resources: {}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: sample
spec:
  minAvailable: 1
"""
PAGE = """\
# A page

[One](#one), [the stages](../dvc.yaml), [what is fixed where](../.github/SECURITY.md#reporting).

## One

Two.
"""
BUNDLE = """\
apiVersion: certificates.k8s.io/v1alpha1
kind: ClusterTrustBundle
metadata:
  name: sample
spec:
  trustBundle: sample
"""
GOOD = {
    ".github/workflows/sample.yml": FLOW,
    ".github/actions/sample/action.yml": ACTION,
    "Dockerfile.sample": IMAGE,
    "k8s/overlays/sample/kustomization.yaml": KUSTOMIZATION,
    "k8s/overlays/sample/sample.yaml": MANIFEST,
    ".github/dependabot.yml": UPDATES,
    ".ci/run": SCRIPT,
    "docs/sample.md": PAGE,
}
WORKFLOW, COMPOSITE, DOCKERFILE, _, RESOURCE, DEPENDABOT, RUN, MARKDOWN = GOOD
CHECK = {WORKFLOW: "workflows", COMPOSITE: "workflows", DOCKERFILE: "dockerfiles", RESOURCE: "k8s", DEPENDABOT: "dependabot", MARKDOWN: "markdown"}  # fmt: skip
KUBECTL = {
    "CI": "true" if shutil.which("kubectl") else ""
}  # where there is none, a laptop's check is what can be tested

# file, what is changed in it, what must be said of it
SPOILED = {
    "an action not pinned": (WORKFLOW, "11bd71901bbe5b1630ceea73d27597364c9af683 # v4.2.2", "v4", ["unpinned-uses"]),
    "not a workflow": (WORKFLOW, "runs-on", "runs_on", ["Unexpected value 'runs_on'", "failed to load"]),
    "not YAML": (WORKFLOW, "ubuntu-24.04", "[", ["sample.yml:11: Flow sequence"]),
    "needs an unknown job": (WORKFLOW, "    name: One", "    needs: two", ["Value 'two' is not valid"]),
    "an unknown step": (WORKFLOW, "github.event_name", "steps.nope.outputs.x", ["sample.yml:16: Context access might be invalid: nope"]),
    "an unknown context": (WORKFLOW, "github.event_name", "github.evnt_name", ["Context access might be invalid: evnt_name"]),
    "an unknown action of our own": (WORKFLOW, "run: make test", "uses: $/.github/actions/nope", ["Unable to resolve action"]),
    "an unknown input of our own action": (WORKFLOW, "run: make test", "uses: $/.github/actions/sample\n        with:\n          x: y", ["Invalid action input 'x'"]),
    "a commit without its version": (WORKFLOW, " # v4.2.2", "", ["sample.yml:13: no version behind the commit"]),
    "a branch for a version": (WORKFLOW, "# v4.2.2", "# main", ["sample.yml:13: no version behind the commit"]),
    "an action's action without its version": (COMPOSITE, "run: make test\n      shell: bash", f"uses: actions/cache@{'1' * 40}", ["action.yml:9: no version behind the commit"]),
    "runs main's file with a fork's code": (WORKFLOW, "on: push", "on: pull_request_target", ["dangerous-triggers"]),
    "a job without a name": (WORKFLOW, "    name: One\n", "", ["anonymous-definition"]),
    "rights that nobody named": (WORKFLOW, "permissions: {}\n", "", ["excessive-permissions"]),
    "a right without its reason": (WORKFLOW, "    name: One", "    name: One\n    permissions:\n      contents: write", ["undocumented-permissions"]),
    "all secrets handed on": (WORKFLOW, "    name: One", f"    name: Two\n    uses: a/b/.github/workflows/c.yml@{'1' * 40} # v1.0.0\n    secrets: inherit\n  two:\n    name: Two", ["secrets-inherit"]),
    "no timeout": (WORKFLOW, "    timeout-minutes: 5\n", "", ["sample.yml:8: job one has no timeout-minutes"]),
    "a step without shell": (COMPOSITE, "      shell: bash\n", "", ["Required property is missing: shell"]),
    "an ecosystem that there is not": (DEPENDABOT, "github-actions", "github-action", ["'github-action' is not one of"]),
    "a key that there is not": (DEPENDABOT, "cooldown", "cool-down", ["'cool-down' was unexpected"]),
    "no cooldown": (DEPENDABOT, "    cooldown:\n      default-days: 7\n", "", ["dependabot-cooldown"]),
    "no updates at all": (DEPENDABOT, UPDATES, "", ["None is not of type 'object'"]),
    "latest": (DOCKERFILE, "3.13-slim", "latest", ["DL3007"]),
    "no pipefail": (DOCKERFILE, "SHELL", "# SHELL", ["DL4006"]),
    "an image of nothing": (DOCKERFILE, IMAGE, "", ["Dockerfile.sample: there is no FROM"]),
    "a typo": (RESOURCE, "resources", "resorces", ["'resorces' was unexpected"]),
    "a field that the oldest Kubernetes lacks": (RESOURCE, "  containers", "  hostnameOverride: x\n  containers", ["'hostnameOverride' was unexpected"]),
    "an API that was removed": (RESOURCE, "policy/v1", "policy/v1beta1", ["WARN", "api version policy/v1beta1"]),
    "an API that the newest Kubernetes lacks": (RESOURCE, MANIFEST.partition("---\n")[2], BUNDLE, ["api version certificates.k8s.io/v1alpha1 for kubernetes version 1.37"]),
    "a link to what is not there": (MARKDOWN, "../dvc.yaml", "../dvc.yml", ["sample.md:3", "MD057", "'../dvc.yml' does not exist"]),
    "a link to a heading that is not there": (MARKDOWN, "](#one)", "](#two)", ["sample.md:3", "MD051", "'#two' does not exist"]),
    "a link to a heading that another page has not": (MARKDOWN, "md#reporting", "md#report", ["sample.md:3", "MD051"]),
    "a heading below no other": (MARKDOWN, "## One", "#### One", ["sample.md:5", "MD001"]),
    "a table of uneven rows": (MARKDOWN, "Two.", "| a | b |\n|---|---|\n| c |", ["sample.md:9", "MD056"]),
    "a picture without words": (MARKDOWN, "Two.", "![](../.github/loop.png)", ["sample.md:7", "MD045"]),
    "an empty manifest": (RESOURCE, MANIFEST, "---\n", ["sample.yaml holds no manifest"]),
}  # fmt: skip


# file, what is changed in it, what shellcheck must say of it
CARELESS = {
    "a step": (WORKFLOW, "run: make test", "run: rm -r $HOME/$1", [".github/workflows/sample.yml.17:2:", "SC2086"]),
    "a step of many lines": (WORKFLOW, "run: make test", "run: |\n          true\n          rm $1", ["sample.yml.17:3:", "SC2086"]),
    "a step with an expression": (WORKFLOW, "run: make test", "run: make ${{ vars.TARGET }} $1", ["SC2086"]),
    "an action of our own": (COMPOSITE, "make test", "cd $1", [".github/actions/sample/action.yml.9:2:", "SC2086"]),
    "what sh does not know": (COMPOSITE, "make test\n      shell: bash", "'[[ 1 == 1 ]]'\n      shell: sh", ["SC3010"]),
    "what CI runs": (RUN, "make test", "rm $1", [".ci/run:3:", "SC2086"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(untouched):
    """The project, with one good file more of each kind. Tests leave it as they found it."""
    for name, content in GOOD.items():
        (untouched.path / name).parent.mkdir(parents=True, exist_ok=True)
        (untouched.path / name).write_text(content)
    for page in (ROOT / "tests").rglob("*.md"):  # which other pages name
        (untouched.path / page.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(page, untouched.path / page.relative_to(ROOT))
    if (ROOT / ".pawl/npm").exists():  # `make lint` was run: nothing to download
        shutil.copytree(ROOT / ".pawl/npm", untouched.path / ".pawl/npm")
    return untouched


def lint(tree, *check, **environ):
    done = tree.call(sys.executable, "-m", "scripts.lint", *check, check=False, **{**KUBECTL, **environ})
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("checker", BAD)
def test_a_checker_goes_red(checker, tree):
    path, content, command, said = BAD[checker]
    (tree.path / path).write_text(content)

    done = tree.call(str(BIN / command[0]), *command[1:], check=False)

    (tree.path / path).unlink()
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_what_is_in_order_is_green(tree):
    code, output = lint(tree)

    assert code == 0, output
    assert [
        f"{check}: passed" in output for check in ("workflows", "shell", "dependabot", "dockerfiles", "k8s", "markdown")
    ] == [True] * 6


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_file_is_red(case, tree):
    path, old, new, words = SPOILED[case]
    tree.edit(path, old, new)

    code, output = lint(tree, CHECK[path])

    (tree.path / path).write_text(GOOD[path])
    assert code != 0, output
    assert [said for said in words if said not in output] == [], output


@pytest.mark.parametrize("case", CARELESS)
def test_careless_shell_is_red_whatever_the_user_has_told_shellcheck(case, tree):
    path, old, new, words = CARELESS[case]
    tree.edit(path, old, new)
    (tree.path / ".shellcheckrc").write_text("disable=all\n")

    code, output = lint(tree, "shell", SHELLCHECK_OPTS="--severity=error")

    (tree.path / ".shellcheckrc").unlink()
    (tree.path / path).write_text(GOOD[path])
    assert code == 1, output
    assert [said for said in words if said not in output] == [], output


def test_an_expression_is_a_word_of_which_nothing_is_known(tree):
    tree.edit(WORKFLOW, "run: make test", 'run: test "${{ runner.os }}" = Linux && test "${{ github.ref\n          }}"')

    code, output = lint(tree, "shell")

    (tree.path / WORKFLOW).write_text(FLOW)
    assert code == 0, output


@pytest.mark.parametrize(
    ("check", "gone"), [("workflows", ".github"), ("shell", ".github"), ("shell", ".ci"), ("dependabot", ".github/dependabot.yml"), ("dockerfiles", "Dockerfile*"), ("k8s", "k8s/**/kustomization.yaml"), ("k8s", "k8s/overlays"), ("markdown", "**/*.md")]
)  # fmt: skip
def test_a_check_of_nothing_is_red(check, gone, tree, tmp_path):
    kept = [(path, tmp_path / str(number)) for number, path in enumerate(tree.path.glob(gone))]
    for path, away in kept:
        path.rename(away)

    code, output = lint(tree, check, PATH=stand_in(tmp_path, MANIFEST))

    for path, away in kept:
        away.rename(path)
    assert code == 2, output
    assert "error: nothing to check" in output


def test_what_is_rendered_is_checked_too(tree, tmp_path):
    code, output = lint(tree, "k8s", PATH=stand_in(tmp_path, MANIFEST.replace("minAvailable", "minAvailabel")))

    assert code == 1, output
    for rendered in ("base", "overlays/sample", "components/monitoring", "access/production"):
        assert f".pawl/k8s/{rendered}.yaml did not validate" in output
    assert "'minAvailabel' was unexpected" in output


def test_a_component_is_rendered_on_the_base(tree):
    component = tree.path / "k8s/components/sample/kustomization.yaml"
    component.parent.mkdir()
    component.write_text(COMPONENT)

    code, output = lint(tree, "k8s")

    shutil.rmtree(component.parent)
    said = ".pawl/k8s/components/sample.yaml did not validate", "'replica' was unexpected"
    assert [code, *(words in output for words in said)] == ([1, True, True] if KUBECTL["CI"] else [0, False, False])


def test_an_overlay_that_cannot_be_rendered_is_red(tree, tmp_path):
    code, output = lint(tree, "k8s", PATH=stand_in(tmp_path, MANIFEST, code=1))

    assert code == 2, output
    assert "error: the overlay cannot be rendered\n  where: k8s/base" in output


@pytest.mark.parametrize(("where", "expected", "said"), [("true", 2, "error"), ("", 0, "note")])
def test_without_kubectl_a_laptop_is_told_and_ci_is_red(where, expected, said, tree, tmp_path):
    code, output = lint(tree, "k8s", PATH=str(tmp_path), CI=where)

    assert code == expected, output
    assert f"{said}: overlays were not rendered, kubectl is missing" in output


def stand_in(folder, rendered, code=0):
    """Return a PATH whose kubectl renders the same whatever it is given, so that no test needs the real one."""
    (folder / "rendered.yaml").write_text(rendered)
    (folder / "kubectl").write_text(f"#!/bin/sh\ncat '{folder}/rendered.yaml'\nexit {code}\n")
    (folder / "kubectl").chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_locks_hold_hashes_and_no_address():
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]

        assert all("==" in line for line in pins), path
        assert text.count("--hash=sha256:") >= len(pins), path
        assert "://" not in text, path
        assert "--index" not in text, path
    packages = json.loads((ROOT / "requirements/npm/package-lock.json").read_text())["packages"]
    for name, package in packages.items():
        assert not name or package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


def test_no_file_names_this_machine():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    for name in listed:
        if (ROOT / name).is_file():
            assert str(ROOT) + "/" not in (ROOT / name).read_text(errors="replace"), name


def test_python_versions_are_said_once():
    import tomllib

    from scripts.environment import VERSIONS

    low, high = (".".join(map(str, version)) for version in VERSIONS)
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == f">={low},<{high}"
