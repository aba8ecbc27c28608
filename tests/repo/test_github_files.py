"""The files that GitHub reads, and docs/runners.md, are held to what is there."""

import fnmatch
import json
import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest
import yaml

from scripts import lint

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LISTED = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()  # fmt: skip
RULES = [line.split() for line in (ROOT / ".github/CODEOWNERS").read_text().splitlines() if line and line[0] != "#"]
UPDATES = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
RUNNERS = (ROOT / "docs/runners.md").read_text()
# what decides: who is asked, what is checked, trained, gated, built, deployed
DECIDES = re.compile(r"\.github/|\.ci/|\.dvc/config|src/pawl/|scripts/|k8s/|requirements/|(gates|schema|dvc|compose)\.yaml$|Makefile$|pyproject\.toml$|Dockerfile")  # fmt: skip
FORKERS = ("src/task/x.py", "params.yaml", "README.md", "tests/unit/x.py", "dvc.lock", "reports/metrics.json")


def owned(name):
    """Say whether a rule of CODEOWNERS covers a file: all are anchored, a folder ends in /, a star stays in its folder."""
    return any(f"/{name}".startswith(rule) if rule.endswith("/") else fnmatch.fnmatch(f"/{name}", rule) and name.count("/") == rule.count("/") - 1 for rule, *_ in RULES)  # fmt: skip


def blocks(language):
    found = re.findall(rf"```{language}\n(.*?)```", RUNNERS, re.DOTALL)
    assert found, language
    return found


def test_every_rule_of_codeowners_is_of_something_that_is_there():
    for rule, *owners in RULES:
        assert rule.startswith("/")
        assert [name for name in LISTED if (f"/{name}".startswith(rule) if rule.endswith("/") else fnmatch.fnmatch(f"/{name}", rule))], rule  # fmt: skip
        assert len(owners) == 1
        assert re.fullmatch(r"@[\w-]+(/[\w.-]+)?", owners[0])  # a person or a team
    assert len({rule for rule, *_ in RULES}) == len(RULES)


def test_all_that_decides_has_an_owner():
    deciding = [name for name in LISTED if DECIDES.match(name)]

    assert [name for name in deciding if not owned(name)] == []
    assert len(deciding) > 100
    assert [name for name in FORKERS if owned(name)] == []  # and the rest has not: nobody would be asked for nothing


def test_the_placeholder_is_the_one_that_is_replaced():
    text = (ROOT / ".github/CODEOWNERS").read_text()
    names = {owner for _, owner in RULES}

    assert "scripts.setup_github" in text.splitlines()[0]
    assert len(names) == 1  # @OWNER, or the fork's own


def folders(ecosystem):
    return [folder for each in UPDATES if each["package-ecosystem"] == ecosystem for folder in each.get("directories") or [each["directory"]]]  # fmt: skip


@pytest.mark.parametrize(
    ("ecosystem", "pattern"),
    [
        pytest.param("github-actions", r"\.github/actions/.*/action\.ya?ml", id="our own actions"),
        pytest.param("uv", r"requirements/.*\.(in|txt)", id="locks of Python"),
        pytest.param("npm", r".*package\.json", id="locks of Node"),
        pytest.param("gomod", r".*go\.mod", id="locks of Go"),
        pytest.param("docker", r"(.*/)?Dockerfile(\.\w+)?", id="Dockerfiles"),
    ],
)
def test_dependabot_looks_at_every_file_that_pins(ecosystem, pattern):
    files = [PurePosixPath(f"/{name}") for name in LISTED if re.fullmatch(pattern, name) and not name.endswith(".dockerignore")]  # fmt: skip

    assert files
    assert [str(path) for path in files if not any(fnmatch.fnmatch(str(path.parent), folder) for folder in folders(ecosystem))] == []  # fmt: skip


def test_dependabot_looks_at_workflows_and_at_images_of_manifests():
    pinned = {f"/{Path(name).parent}" for name in LISTED if name.startswith("k8s/") and re.search(r"image: \S+@sha256:", (ROOT / name).read_text())}  # fmt: skip

    assert "/" in folders("github-actions")  # which stands for .github/workflows
    assert pinned
    assert pinned <= set(folders("docker"))


def test_an_update_waits_a_week_and_comes_with_its_likes():
    for each in UPDATES:
        assert each["cooldown"]["default-days"] >= 7, each
        assert [group["patterns"] for group in each["groups"].values()] == [["*"]], each


def test_locks_of_go_hold_hashes_of_what_they_name():
    for path in (ROOT / "requirements/go").glob("*/go.mod"):
        sums = path.with_name("go.sum").read_text()
        (tool,) = re.findall(r"^tool (\S+)", path.read_text(), re.MULTILINE)
        module, version = next((name, version) for name, version in re.findall(r"(\S+) (v\S+)", path.read_text()) if tool.startswith(name))  # fmt: skip

        assert re.search(rf"^{re.escape(module)} {re.escape(version)} h1:", sums, re.MULTILINE)
        assert "replace" not in path.read_text()


def test_issue_forms_are_valid():
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*"))

    assert {path.name for path in forms} == {"bug.yml", "idea.yml"}
    subprocess.run([BIN / "check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *forms], check=True)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "PULL_REQUEST_TEMPLATE.md"])
def test_what_a_page_names_is_there(name):
    text = (ROOT / ".github" / name).read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert text.strip()
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / ".github" / link).exists(), link
    for path in re.findall(r"`((?:src|\.github|requirements|docs)/[\w./]*|[\w]+\.yaml)`", text):
        assert (ROOT / path).exists(), path


def test_a_reviewer_is_told_three_things():
    lines = (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").read_text().split("\n\n")

    assert [line.strip()[:2] for line in lines] == ["**"] * 3


@pytest.mark.parametrize("version", lint.KUBERNETES)
def test_the_runner_s_pod_is_valid(version, tmp_path):
    (values,) = map(yaml.safe_load, blocks("yaml"))
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runner"}, "spec": values["template"]["spec"]}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod))

    assert lint.valid([str(tmp_path / "pod.yaml")], version)
    volumes = {each["name"] for each in pod["spec"]["volumes"]}
    assert {each["name"] for each in pod["spec"]["containers"][0]["volumeMounts"]} == volumes


def test_the_values_are_those_of_the_commands():
    (values,) = map(yaml.safe_load, blocks("yaml"))
    shell = "".join(blocks("sh"))

    assert set(values) == {"githubConfigUrl", "githubConfigSecret", "runnerScaleSetName", "minRunners", "maxRunners", "template"}  # fmt: skip
    assert f"create secret generic {values['githubConfigSecret']} " in shell  # and no token in the file
    assert f"--body '\"{values['runnerScaleSetName']}\"'" in shell
    spaces = dict(re.findall(r"helm install (\w+) .*?--namespace ([\w-]+)", shell))
    assert len(set(spaces.values())) == 2  # controller and runners
    asks = yaml.safe_load((ROOT / "k8s/components/gpu/kustomization.yaml").read_text())["patches"][0]["patch"]
    trains = yaml.safe_load(asks)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert {name: values["template"]["spec"][name] for name in ("nodeSelector", "tolerations")} == {name: trains[name] for name in ("nodeSelector", "tolerations")}  # fmt: skip
    assert values["template"]["spec"]["containers"][0]["resources"]["limits"].items() >= trains["containers"][0]["resources"]["limits"].items()  # fmt: skip


def test_the_commands_and_the_dockerfile_of_the_runner_parse(tmp_path):
    (tmp_path / "Dockerfile").write_text(blocks("dockerfile")[0])
    (tmp_path / "shell").write_text("".join(blocks("sh")))

    subprocess.run([BIN / "hadolint", "--failure-threshold", "error", tmp_path / "Dockerfile"], check=True)
    words = [
        BIN / "shellcheck",
        "--norc",
        "--shell=bash",
        "--exclude=SC2154",
        tmp_path / "shell",
    ]  # names in capitals are the reader's
    subprocess.run(words, check=True)


def test_the_labels_are_json_and_the_variable_is_the_workflows():
    for body in re.findall(r"gh variable set (\w+) --body '(.*?)'", RUNNERS):
        assert body[0] == "TRAIN_RUNNER"
        assert json.loads(body[1])
    flows = [path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")]
    assert any("vars.TRAIN_RUNNER" in flow for flow in flows)
