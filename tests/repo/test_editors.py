"""What editors and hooks are told is what `make lint` says, and what the files keep to."""

import configparser
import json
import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
LISTED = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()  # fmt: skip


def read(name):
    return (ROOT / name).read_text()


def test_the_hooks_run_what_make_lint_runs_and_nothing_more():
    (recipe,) = re.findall(r"^lint: .*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    commands = [line.removeprefix("\t@").replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    repos = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]

    assert [each["repo"] for each in repos] == ["local"]
    assert [hook["entry"] for hook in repos[0]["hooks"]] == commands
    for hook in repos[0]["hooks"]:  # of the environment here, on all files
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
        assert not {"files", "exclude", "types", "stages"} & set(hook)


def test_an_editor_and_its_container_use_the_environment_that_make_makes():
    container, settings = (
        json.loads(read(f".{name}.json")) for name in ("devcontainer/devcontainer", "vscode/settings")
    )

    assert (ROOT / ".devcontainer" / container["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile.dev"
    assert container["postCreateCommand"] == "make env"
    assert f"useradd --uid 1000 --create-home --shell /bin/bash {container['remoteUser']}\n" in read("Dockerfile.dev")
    assert (
        container["customizations"]["vscode"]["extensions"]
        == json.loads(read(".vscode/extensions.json"))["recommendations"]
    )
    assert settings["python.defaultInterpreterPath"] == "${workspaceFolder}/.venv/bin/python"
    (base, *_), (trained, *_) = (
        re.findall(r"^FROM (\S+)", read(f"Dockerfile.{name}"), re.MULTILINE) for name in ("dev", "train")
    )
    assert base == trained  # one version of Python


def test_files_are_as_editorconfig_says():
    rules = configparser.ConfigParser()
    rules.read_string("[top]\n" + read(".editorconfig"))

    assert rules["*"]["insert_final_newline"] == rules["*"]["trim_trailing_whitespace"] == "true"
    for name in LISTED:
        if (ROOT / name).suffix in {".py", ".yaml", ".yml", ".toml", ".md", ".in"} or name in {"Makefile", ".ci/run"}:
            text = (ROOT / name).read_bytes().decode("utf-8")
            assert text.endswith("\n") or not text, name
            assert not re.search(r"[ \t\r]\n", text), name
