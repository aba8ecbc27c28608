"""What a release's jobs call: images and their names, whose build made them, the way into a cluster, what is kept."""

import base64
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from pawl import oci
from pawl.problem import Problem
from scripts import access, image, keep, verify

COMMIT = "c" * 40
PUSHED = "sha256:" + "1" * 64
PLACE = "localhost:5000/octo/project"
CI = {"GITHUB_SHA": COMMIT, "GITHUB_SERVER_URL": "https://github.example", "GITHUB_REPOSITORY": "Octo/Project"}
IMAGE = f"{PLACE}/model-server@{PUSHED}"

ATTESTED = {"ATTESTED": "true", "GITHUB_REPOSITORY": "Octo/Project", "GITHUB_REF": "refs/heads/main"}
KEYED = {"ATTESTED": "false", "COSIGN_PUBLIC_KEY": "-----BEGIN PUBLIC KEY-----"}

# What a command is called with goes into a file; its answer stands in another, by its first words.
STAND_IN = """#!{python}
import json, os, sys
from pathlib import Path
here, words = Path(__file__).parent, sys.argv[1:]
with (here / "calls.jsonl").open("a") as file:
    file.write(json.dumps([Path(__file__).name, *words]) + "\\n")
answers = json.loads((here / "answers.json").read_text())
for beginning, (code, said) in answers.items():
    if " ".join([Path(__file__).name, *words]).startswith(beginning):
        if said == "once":  # it works from the next time on
            (here / "answers.json").write_text(json.dumps({{key: each for key, each in answers.items() if key != beginning}}))
        print(said)
        sys.exit(code)
for word in words:
    if word.startswith("--metadata-file="):
        Path(word.partition("=")[2]).write_text(json.dumps({{"containerimage.digest": "{pushed}"}}))
"""


class Commands:
    """Commands on PATH that note how they are called."""

    def __init__(self, folder):
        self.folder = folder
        self.answer()

    def answer(self, **answers):
        (self.folder / "answers.json").write_text(json.dumps(answers.pop("given", {})))

    @property
    def calls(self):
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def called(self, *beginning):
        return [words for words in self.calls if words[: len(beginning)] == list(beginning)]


@pytest.fixture
def commands(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("docker", "gh", "cosign"):
        path = folder / name
        path.write_text(STAND_IN.format(python=sys.executable, pushed=PUSHED))
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return Commands(folder)


@pytest.fixture
def bundled(tmp_path, monkeypatch, make_bundle):
    """A folder with a bundle and a commit; return the bundle's digest."""
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text('[project]\nname = "pawl"\n')
    made = make_bundle(tmp_path / "models/bundle")
    return json.loads((made / "manifest.json").read_text())["digest"]


def there(digest, commit=COMMIT, at=PUSHED):
    """What a registry says of a tag."""
    labels = {image.REVISION: commit} | ({image.DIGEST: digest} if digest else {})
    return [0, json.dumps({"manifest": {"digest": at}, "image": {"config": {"Labels": labels}}})]


def tags(words):
    return [word.rpartition(":")[2] for word in words if word.startswith("--tag=")]


def test_names_are_made_small_and_what_is_no_place_is_refused():
    assert oci.place("ghcr.io/Octo-Org/My.Model/") == "ghcr.io/octo-org/my.model"
    assert oci.place("LOCALHOST:5000/A/b_c") == "localhost:5000/a/b_c"
    for wrong in (
        "ghcr.io",
        "ghcr.io//x",
        "https://ghcr.io/me/x",
        "ghcr.io/me/x:latest",
        "ghcr.io/-x/y",
        "ghcr.io/me/x y",
        "",
    ):
        with pytest.raises(Problem, match="names no place"):
            oci.place(wrong)


def test_an_image_is_pushed_under_commit_version_and_latest_and_known_by_its_digest(
    commands, bundled, tmp_path, capsys
):
    commands.answer(given={"docker buildx imagetools inspect": [1, "not found"]})
    output = tmp_path / "output"

    words = ["--push", "localhost:5000/Octo/Project", "--version", "3", "--attest"]
    assert image.main(words, CI | {"GITHUB_OUTPUT": str(output)}) == 0

    (built,) = commands.called("docker", "buildx", "build")
    assert tags(built) == [COMMIT[:12], "v3", "latest"]
    assert {"--push", "--file=Dockerfile.serve", "--attest=type=sbom", "--attest=type=provenance,mode=max"} <= set(
        built
    )
    assert {f"--build-arg=DIGEST={bundled}", f"--build-arg=COMMIT={COMMIT}", "--build-arg=MODEL_VERSION=3"} <= set(
        built
    )
    assert "--build-arg=SOURCE=https://github.example/Octo/Project" in built
    assert capsys.readouterr().out.strip() == IMAGE
    assert output.read_text().splitlines() == [f"image={IMAGE}", f"name={PLACE}/model-server", f"digest={PUSHED}"]


def test_what_was_pushed_of_this_commit_and_signed_is_not_built_again(commands, bundled, capsys):
    at = "sha256:" + "2" * 64
    commands.answer(given={"docker buildx imagetools inspect": there(bundled, at=at)})

    assert image.main(["--push", PLACE, "--version", "3"], {**CI, **ATTESTED, "PATH": os.environ["PATH"]}) == 0

    assert commands.called("docker", "buildx", "build") == []
    (tagged,) = commands.called("docker", "buildx", "imagetools", "create")
    assert tags(tagged) == ["v3", "latest"]
    assert tagged[-1] == capsys.readouterr().out.strip() == f"{PLACE}/model-server@{at}"


@pytest.mark.parametrize("environ", ["attested", "keyed", "unsigned"])
def test_what_anybody_may_have_pushed_is_built_and_its_tag_left(commands, bundled, environ, capsys):
    commands.answer(given={"docker buildx imagetools inspect": there(bundled), "gh": [1, ""], "cosign": [1, ""]})
    more = {"attested": ATTESTED, "keyed": KEYED, "unsigned": {}}[environ]

    assert image.main(["--push", PLACE, "--version", "3"], {**CI, **more, "PATH": os.environ["PATH"]}) == 0

    (built,) = commands.called("docker", "buildx", "build")
    assert tags(built) == ["v3", "latest"]
    assert "not shown to be this one: it is left" in capsys.readouterr().err


@pytest.mark.parametrize("other", [("sha256:" + "9" * 64, COMMIT), ("", COMMIT)])
def test_a_tag_that_names_another_model_is_left(commands, bundled, other, capsys):
    commands.answer(given={"docker buildx imagetools inspect": there(*other)})

    assert image.main(["--push", PLACE, "--version", "3"], CI) == 0

    (built,) = commands.called("docker", "buildx", "build")
    assert tags(built) == ["v3", "latest"]
    assert "it is left" in capsys.readouterr().err


def test_the_trainer_has_its_own_name_and_needs_no_bundle(commands, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands.answer(given={"docker buildx imagetools inspect": [1, ""]})

    assert image.main(["trainer", "--push", PLACE], CI) == 0

    (built,) = commands.called("docker", "buildx", "build")
    assert {"--file=Dockerfile.train", "--target=project"} <= set(built)
    assert f"--tag={PLACE}/trainer:latest" in built
    assert capsys.readouterr().out.strip() == f"{PLACE}/trainer@{PUSHED}"


def test_on_a_laptop_files_may_differ_from_their_commit_so_nothing_is_taken_for_built(commands, bundled):
    commands.answer(given={"docker buildx imagetools inspect": there(bundled)})

    assert image.main(["--push", PLACE], {}) == 0

    (built,) = commands.called("docker", "buildx", "build")
    assert "latest" not in tags(built)
    assert commands.called("docker", "buildx", "imagetools") == []


def test_a_push_that_is_cut_is_told_and_done_again(commands, bundled, capsys):
    commands.answer(given={"docker buildx imagetools inspect": [1, ""], "docker buildx build": [1, "once"]})

    assert image.main(["--push", PLACE, "--version", "3"], CI) == 3
    assert "docker did not build or push the image" in capsys.readouterr().err
    assert image.main(["--push", PLACE, "--version", "3"], CI) == 0


def test_an_image_is_held_to_the_build_of_this_repository_on_this_branch(commands, capsys):
    assert verify.main([IMAGE], {**ATTESTED, "PATH": os.environ["PATH"]}) == 0

    (asked,) = commands.calls
    assert asked[:5] == ["gh", "attestation", "verify", f"oci://{IMAGE}", "--repo=Octo/Project"]
    assert "--signer-workflow=Octo/Project/.github/workflows/build.yml" in asked
    assert "--source-ref=refs/heads/main" in asked
    assert "✅" in capsys.readouterr().out


@pytest.mark.parametrize(("environ", "program"), [(ATTESTED, "gh"), (KEYED, "cosign")])
def test_what_is_not_shown_to_be_ours_is_refused(commands, monkeypatch, environ, program, capsys):
    monkeypatch.setattr(verify, "PAUSE", 0)
    commands.answer(given={program: [1, ""]})

    assert verify.main([IMAGE], {**environ, "PATH": os.environ["PATH"]}) == 1

    assert len(commands.called(program)) == verify.TRIES
    assert "❌ The image was not shown to be of this repository's build" in capsys.readouterr().out


def test_an_attestation_may_be_on_its_way(commands, monkeypatch):
    monkeypatch.setattr(verify, "PAUSE", 0)
    commands.answer(given={"gh": [1, "once"]})

    assert verify.main([IMAGE], {**ATTESTED, "PATH": os.environ["PATH"]}) == 0


def test_where_nothing_is_signed_that_is_said(commands, tmp_path):
    summary = tmp_path / "summary.md"

    assert verify.main([IMAGE], {"ATTESTED": "false", "GITHUB_STEP_SUMMARY": str(summary)}) == 0

    assert commands.calls == []
    assert "held to its digest alone" in summary.read_text()


def test_without_the_program_the_image_is_refused(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))

    assert verify.main([IMAGE], ATTESTED) == 2
    assert "gh is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "environ", "told"),
    [
        ("ghcr.io/me/x:latest", {}, "does not name an image by its digest"),
        (IMAGE, {"ATTESTED": "true"}, "GITHUB_REPOSITORY is not set"),
    ],
)
def test_what_cannot_be_verified_is_no_pass(commands, given, environ, told, capsys):
    assert verify.main([given], environ) == 2
    assert told in capsys.readouterr().err


KUBECONFIG = yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "it"}]})
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"


def entered(tmp_path, environment="staging", **settings):
    """Return what `access` sets: {overlay, kubeconfig}."""
    output = tmp_path / "output"
    output.write_text("")
    environ = {"GITHUB_OUTPUT": str(output), "RUNNER_TEMP": str(tmp_path), **settings}
    assert access.main(["--environment", environment], environ) == 0
    return dict(line.split("=", 1) for line in output.read_text().splitlines())


def test_without_a_cluster_staging_is_thrown_away_and_production_is_nothing(tmp_path, capsys):
    assert entered(tmp_path) == {"overlay": "local", "kubeconfig": ""}
    assert entered(tmp_path, "production", KUBECONFIG_CONTENT="", CLUSTER="") == {"overlay": "", "kubeconfig": ""}
    assert "secret KUBECONFIG, or variables CLUSTER and CLUSTER_CA" in capsys.readouterr().out
    assert access.main(["--environment", "production", "--needed"], {}) == 2


def test_a_kubeconfig_is_written_for_its_owner_alone_and_never_shown(tmp_path, capsys):
    found = entered(tmp_path, "production", KUBECONFIG_CONTENT=KUBECONFIG)

    path = Path(found["kubeconfig"])
    assert found["overlay"] == "production"
    assert yaml.safe_load(path.read_text()) == yaml.safe_load(KUBECONFIG)
    assert path.stat().st_mode & 0o077 == 0
    assert "clusters" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"KUBECONFIG_CONTENT": "/home/me/.kube/config"}, "it names no clusters"),
        ({"KUBECONFIG_CONTENT": "a: [secret"}, "it is not YAML"),
        ({"CLUSTER": "10.0.0.1", "CLUSTER_CA": AUTHORITY}, "CLUSTER takes https://"),
        ({"CLUSTER": "https://c.example"}, "CLUSTER takes https://"),
    ],
)
def test_a_setting_that_makes_no_kubeconfig_is_named_and_not_shown(tmp_path, settings, told, capsys):
    assert access.main(["--environment", "staging"], {"RUNNER_TEMP": str(tmp_path), **settings}) == 2

    said = "".join(capsys.readouterr())
    assert told in said
    assert "[secret" not in said


@pytest.fixture
def tokens():
    """GitHub's token service on loopback: refuses once, then gives a token that names its audience."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            audience = parse_qs(urlsplit(self.path).query)["audience"][0]
            content = json.dumps({"value": f"token-for-{audience}"}).encode() if len(asked) > 1 else b"{}"
            self.send_response(200 if len(asked) > 1 else 502)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield (
        {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"http://127.0.0.1:{server.server_port}/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "runner",
        },
        asked,
    )
    server.shutdown()
    server.server_close()


def test_a_cluster_that_takes_githubs_tokens_needs_no_secret(tmp_path, tokens):
    environ, asked = tokens
    found = entered(tmp_path, CLUSTER="https://c.example:6443", CLUSTER_CA=AUTHORITY)

    content = yaml.safe_load(Path(found["kubeconfig"]).read_text())
    asker = content["users"][0]["user"]["exec"]
    told = subprocess.run([asker["command"], *asker["args"]], env={**os.environ, **environ}, check=True, capture_output=True, text=True)  # fmt: skip
    assert content["clusters"][0]["cluster"]["server"] == "https://c.example:6443"
    assert base64.b64decode(content["clusters"][0]["cluster"]["certificate-authority-data"]).decode() == AUTHORITY
    assert json.loads(told.stdout) == {
        "apiVersion": asker["apiVersion"], "kind": "ExecCredential", "status": {"token": "token-for-https://c.example:6443"},
    }  # fmt: skip
    assert asked[-1] == ("/token?api-version=2.0&audience=https%3A%2F%2Fc.example%3A6443", "Bearer runner")


def test_a_job_that_gets_no_token_is_told_which_permission_it_lacks(capsys):
    assert access.main(["token", "--audience", "https://c.example"], {}) == 2
    assert "id-token: write" in capsys.readouterr().err


def test_outputs_go_to_the_remote_where_there_is_one(project, tmp_path):
    output, remote = tmp_path / "output", tmp_path / "remote"

    def kept():
        output.write_text("")
        project.call(sys.executable, "-m", "scripts.keep", GITHUB_OUTPUT=str(output))
        return output.read_text().strip()

    project.run()
    without = kept()
    project.call(sys.executable, "-m", "dvc", "remote", "add", "--default", "storage", str(remote))
    try:
        assert (without, kept()) == ("kept=cache", "kept=remote")
        assert list(remote.glob("files/md5/*/*"))
        assert list(remote.glob("runs/*/*"))
    finally:
        project.call(sys.executable, "-m", "dvc", "remote", "remove", "storage")


def test_a_remote_that_is_gone_is_told(project, tmp_path):
    (tmp_path / "file").write_text("")
    project.run()
    project.call(sys.executable, "-m", "dvc", "remote", "add", "--default", "storage", str(tmp_path / "file/below"))
    try:
        done = project.call(sys.executable, "-m", "scripts.keep", check=False)
    finally:
        project.call(sys.executable, "-m", "dvc", "remote", "remove", "storage")

    assert done.returncode == 3
    assert "the DVC remote did not take the outputs" in done.stderr


def test_keep_takes_no_arguments(capsys):
    with pytest.raises(SystemExit):
        keep.main(["--all"], {})
    assert "unrecognized arguments" in capsys.readouterr().err
