"""The registry kept as an image, and the image of the service. Docker is a program that keeps a folder."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from scripts import image, store

NAME = "ghcr.io/me/model/registry:main"
DIGEST = "sha256:" + "e" * 64

# Images that were pushed are files in `registry/`, what is here is in `local/`. `faults` are {verb: message}.
DOCKER = """\
#!{python} -IS
import json, shutil, sys
from pathlib import Path

home = Path({home!r})
words = sys.argv[1:]
with (home / "calls").open("a") as calls:
    calls.write(json.dumps(words) + "\\n")
faults = json.loads((home / "faults").read_text())


def file(where, name):
    return home / where / name.replace("/", "~")


if words[0] in faults:
    print(faults[words[0]], file=sys.stderr)
    sys.exit(1)
if words[0] == "import":
    file("local", words[2]).write_bytes(sys.stdin.buffer.read())
elif words[0] == "push":
    shutil.copy(file("local", words[-1]), file("registry", words[-1]))
elif words[0] == "pull":
    if not file("registry", words[-1]).exists():
        print("Error response from daemon: manifest unknown", file=sys.stderr)
        sys.exit(1)
    shutil.copy(file("registry", words[-1]), file("local", words[-1]))
elif words[0] == "create":
    print(words[1])
elif words[0] == "export":
    content = file("local", words[1]).read_bytes()
    sys.stdout.buffer.write(content[: faults.get("cut", len(content))])
    sys.stdout.flush()
    sys.exit("cut" in faults)
elif words[0] == "buildx":
    Path(words[words.index("--metadata-file") + 1]).write_text(json.dumps({{"containerimage.digest": {digest!r}}}))
"""


class Docker:
    """What the stand-in keeps."""

    def __init__(self, home):
        self.home = home

    @property
    def calls(self):
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]

    def fails(self, **faults):
        (self.home / "faults").write_text(json.dumps(faults))


@pytest.fixture
def docker(tmp_path, monkeypatch):
    home = tmp_path / "docker"
    for name in ("local", "registry", "bin"):
        (home / name).mkdir(parents=True)
    (home / "calls").touch()
    program = home / "bin/docker"
    program.write_text(DOCKER.format(python=sys.executable, home=str(home), digest=DIGEST))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}{os.pathsep}{Path(shutil.which('git')).parent}")
    made = Docker(home)
    made.fails()
    return made


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a registry, as the working directory."""
    folder = tmp_path / "here"
    (folder / "mlartifacts/1/run/artifacts").mkdir(parents=True)
    (folder / "mlflow.db").write_bytes(os.urandom(300_000))
    (folder / "mlartifacts/1/run/artifacts/model").write_bytes(os.urandom(300_000))
    (folder / "params.yaml").write_text("not part of it")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def run(verb, name=NAME, **environ):
    return store.main([verb, name], environ)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".pawl" not in path.parts
    }


def test_what_was_pushed_is_pulled_elsewhere_file_by_file(docker, here, elsewhere, monkeypatch, capsys):
    pushed = run("push")
    monkeypatch.chdir(elsewhere)
    pulled = run("pull")

    assert (pushed, pulled) == (0, 0)
    assert files(elsewhere) == {name: content for name, content in files(here).items() if name != "params.yaml"}
    assert len(files(elsewhere)) == 2
    assert f"{NAME} holds the registry." in capsys.readouterr().out


def test_a_name_may_have_capitals_as_repositories_have(docker, here, elsewhere, monkeypatch):
    assert run("push", NAME.upper()) == 0
    monkeypatch.chdir(elsewhere)

    assert run("pull", NAME.replace("me", "Me")) == 0
    assert len(files(elsewhere)) == 2


def test_nothing_else_of_an_image_is_written(docker, here, elsewhere, monkeypatch):
    import io
    import tarfile

    run("push")
    pushed = docker.home / "registry" / NAME.replace("/", "~")
    with tarfile.open(pushed, "a") as archive:
        for name in ("etc/passwd", ".dockerenv", "dev/null", "../mlflow.db", "mlflow.db.old", "scripts/track.py"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
    monkeypatch.chdir(elsewhere)

    assert run("pull") == 0
    assert set(files(elsewhere)) == {"mlflow.db", "mlartifacts/1/run/artifacts/model"}
    assert not (elsewhere.parent / "mlflow.db").exists()


ABSENT = [
    "Error response from daemon: manifest unknown",
    "Error response from daemon: name unknown: repository name not known to registry",
    "manifest for ghcr.io/me/model/registry:main not found: manifest unknown: manifest unknown",
    'Error response from daemon: failed to resolve reference "ghcr.io/me/model/registry:main": ghcr.io/me/model/registry:main: not found',
    "errors: MANIFEST_UNKNOWN: manifest unknown",
]  # fmt: skip


@pytest.mark.parametrize("message", ABSENT)
def test_where_nothing_was_ever_pushed_a_new_registry_begins(docker, elsewhere, monkeypatch, capsys, message):
    monkeypatch.chdir(elsewhere)
    docker.fails(pull=message)

    assert run("pull") == 0
    assert capsys.readouterr().out == f"There is no {NAME} yet: a new registry begins.\n"
    assert files(elsewhere) == {}


TROUBLE = [
    "Error response from daemon: denied: permission_denied: read_package",
    'Error response from daemon: Get "https://ghcr.io/v2/": dial tcp: lookup ghcr.io: no such host',
    "unauthorized: authentication required",
    'error getting credentials - err: exec: "docker-credential-desktop": executable file not found in $PATH, out: ``',
    "Error response from daemon: received unexpected HTTP status: 502 Bad Gateway",
]  # fmt: skip


@pytest.mark.parametrize("message", TROUBLE)
def test_a_registry_that_cannot_be_read_is_never_taken_for_an_empty_one(
    docker, elsewhere, monkeypatch, capsys, message
):
    monkeypatch.chdir(elsewhere)
    docker.fails(pull=message)

    assert run("pull") == 3
    told = capsys.readouterr().err
    assert f"error: cannot pull: {message}\n  where: {NAME}\n" in told
    assert files(elsewhere) == {}


@pytest.mark.parametrize("cut", [0, 1024, 100_000, 400_000])
def test_a_registry_that_arrives_cut_off_is_not_taken(docker, here, elsewhere, monkeypatch, capsys, cut):
    run("push")
    monkeypatch.chdir(elsewhere)
    docker.fails(cut=cut)

    assert run("pull") == 3
    assert "docker export" in capsys.readouterr().err
    assert files(elsewhere) == {}

    docker.fails()
    assert run("pull") == 0
    assert len(files(elsewhere)) == 2


@pytest.mark.parametrize("part", ["mlflow.db", "mlartifacts"])
def test_a_registry_that_is_here_is_not_overwritten(docker, here, capsys, part):
    run("push")
    if part == "mlartifacts":
        (here / "mlflow.db").unlink()
    before = files(here)

    assert run("pull") == 2
    assert f"error: {part} is here already" in capsys.readouterr().err
    assert files(here) == before


def test_what_is_not_here_cannot_be_pushed(docker, elsewhere, monkeypatch, capsys):
    monkeypatch.chdir(elsewhere)

    assert run("push") == 2
    assert "there is no mlflow.db" in capsys.readouterr().err
    assert docker.calls == []


@pytest.mark.parametrize(
    ("verb", "message"), [("import", "no space left on device"), ("push", "denied: write_package")]
)
def test_a_push_that_fails_says_so(docker, here, capfd, verb, message):
    docker.fails(**{verb: message})

    assert run("push") == 3
    told = capfd.readouterr().err
    assert message in told
    assert f"error: docker {verb} failed" in told
    assert list((docker.home / "registry").iterdir()) == []


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_with_a_server_there_is_nothing_to_do(docker, here, capsys, verb):
    assert run(verb, MLFLOW_TRACKING_URI="https://me:canary7f3a@mlflow.example") == 0
    assert capsys.readouterr().out == f"The registry is https://mlflow.example: nothing to {verb}.\n"
    assert docker.calls == []


@pytest.mark.parametrize("verb", ["pull", "push"])
def test_without_docker_it_says_so(here, elsewhere, monkeypatch, capsys, verb):
    monkeypatch.setenv("PATH", str(elsewhere))
    if verb == "pull":
        monkeypatch.chdir(elsewhere)

    assert run(verb) == 2
    assert "error: docker is not installed" in capsys.readouterr().err


@pytest.fixture
def buildable(tmp_path, monkeypatch):
    """A folder that has a bundle, as far as its image is concerned."""
    folder = tmp_path / "buildable"
    (folder / "models/bundle").mkdir(parents=True)
    (folder / "models/bundle/manifest.json").write_text("{}")
    (folder / "pyproject.toml").write_text('[project]\nname = "My-Model"\n')
    monkeypatch.chdir(folder)
    return folder


def test_an_image_that_is_pushed_is_known_by_its_digest(docker, buildable, capsys, tmp_path):
    environ = {"GITHUB_SHA": "c0ffee" * 6 + "abcd", "GITHUB_OUTPUT": str(tmp_path / "output")}

    code = image.main(["--push", "ghcr.io/Me/Model", "--version", "3"], environ)

    assert code == 0
    assert capsys.readouterr().out == f"ghcr.io/me/model@{DIGEST}\n"
    assert (tmp_path / "output").read_text() == f"image=ghcr.io/me/model@{DIGEST}\n"
    (words,) = docker.calls
    assert words[words.index("--tag") + 1] == "ghcr.io/me/model:c0ffeec0ffee"
    assert "--push" in words
    assert "--load" not in words
    arguments = {words[place + 1] for place, word in enumerate(words) if word == "--build-arg"}
    assert arguments == {f"COMMIT={environ['GITHUB_SHA']}", "MODEL_VERSION=3"}


def test_an_image_for_this_machine_is_known_by_its_tag_in_lower_case(docker, buildable, capsys):
    assert image.main([], {"GITHUB_SHA": "c0ffee" * 7}) == 0
    assert capsys.readouterr().out == "my-model:c0ffeec0ffee\n"
    (words,) = docker.calls
    assert "--load" in words
    assert "--push" not in words


def test_every_argument_that_is_built_with_is_one_that_the_dockerfile_takes(docker, buildable):
    image.main([], {})

    (words,) = docker.calls
    given = {words[place + 1].partition("=")[0] for place, word in enumerate(words) if word == "--build-arg"}
    dockerfile = Path(__file__).parents[2] / words[words.index("--file") + 1]
    (line,) = [line for line in dockerfile.read_text().splitlines() if line.startswith("ARG ")]
    assert {word.partition("=")[0] for word in line.split()[1:]} == given


def test_without_a_bundle_there_is_no_image(docker, elsewhere, monkeypatch, capsys):
    monkeypatch.chdir(elsewhere)

    assert image.main([], {}) == 2
    assert "error: there is no bundle\n  where: models/bundle\n  fix: run `make run`" in capsys.readouterr().err
    assert docker.calls == []


def test_an_image_that_is_not_built_is_not_named(docker, buildable, capfd, tmp_path):
    docker.fails(buildx="failed to solve: no space left on device")

    assert image.main([], {"GITHUB_OUTPUT": str(tmp_path / "output")}) == 3
    told = capfd.readouterr()
    assert "failed to solve" in told.err
    assert "error: docker did not build or push the image" in told.err
    assert told.out == ""
    assert not (tmp_path / "output").exists()


def test_without_docker_there_is_no_image(buildable, monkeypatch, capsys):
    git = Path(shutil.which("git"))
    (buildable / "bin").mkdir()
    (buildable / "bin/git").symlink_to(git)
    monkeypatch.setenv("PATH", str(buildable / "bin"))

    assert image.main([], {}) == 2
    assert "error: docker is not installed" in capsys.readouterr().err
