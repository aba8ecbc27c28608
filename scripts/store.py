"""Keep the embedded registry as an image: a registry without a server, in the repository's own container registry.

python -m scripts.store pull ghcr.io/me/model/registry:main   mlflow.db and mlartifacts/, as they were last pushed
python -m scripts.store push ghcr.io/me/model/registry:main

Where MLFLOW_TRACKING_URI names a server there is nothing to do. Exit code: 0 done, 2 your input, 3 the registry did not answer.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pawl import paths, tracking
from pawl.problem import Problem, Unreachable
from scripts import cli

ARRIVING = paths.STATE / "store"
KEPT = (paths.STORE, paths.ARTIFACTS)
# As registries say it. "executable file not found in $PATH", of a credential helper, is another thing: taken for an empty
# registry, it would be pushed over the full one.
ABSENT = re.compile(r"(manifest|name)[ _]unknown|: not found$", re.IGNORECASE)


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Pull or push."""
    parser = cli.parser("store", __doc__)
    parser.add_argument("verb", choices=("pull", "push"))
    parser.add_argument("image", type=str.lower)  # registries take no capitals, repositories may have them
    args = parser.parse_args(argv)
    if uri := environ.get("MLFLOW_TRACKING_URI"):
        print(f"The registry is {tracking.shown(uri)}: nothing to {args.verb}.")
        return 0
    print((pull if args.verb == "pull" else push)(args.image))
    return 0


def pull(image: str) -> str:
    """Write what was last pushed into the working directory; say so where nothing ever was."""
    if here := next(filter(Path.exists, KEPT), None):
        raise Problem(f"{here} is here already", Path.cwd(), "move it away: it would be lost")
    said = docker("pull", "--quiet", image, check=False)
    if said.returncode:
        cause = said.stderr.decode().strip()
        if ABSENT.search(cause):
            return f"There is no {image} yet: a new registry begins."
        raise Unreachable(f"cannot pull: {cause}", image, "docker login; the token needs the right to read packages")
    made = docker("create", image, "none").stdout.decode().strip()
    shutil.rmtree(ARRIVING, ignore_errors=True)
    ARRIVING.mkdir(parents=True)
    with subprocess.Popen(["docker", "export", made], stdout=subprocess.PIPE) as exporting:
        assert exporting.stdout
        try:
            with tarfile.open(fileobj=exporting.stdout, mode="r|") as files:
                for member in files:
                    if Path(member.name).parts[:1] and Path(Path(member.name).parts[0]) in KEPT:
                        files.extract(member, ARRIVING, filter="data")
        except tarfile.TarError:
            exporting.kill()
    docker("rm", made)
    if exporting.returncode or not (ARRIVING / paths.STORE).exists():
        raise Unreachable(
            "docker export gave no whole registry", image, "is it an image that `store push` made? try again"
        )
    for path in (paths.ARTIFACTS, paths.STORE):  # the database last: with it the registry is here
        if (ARRIVING / path).exists():
            (ARRIVING / path).rename(path)
    return f"{paths.STORE} and {paths.ARTIFACTS}/ are as in {image}."


def push(image: str) -> str:
    """Make an image of the store and push it."""
    if not paths.STORE.exists():
        raise Problem(f"there is no {paths.STORE}", Path.cwd(), "python -m scripts.track makes it")
    try:
        importing = subprocess.Popen(["docker", "import", "-", image], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise Problem("docker is not installed", "PATH", "https://docs.docker.com/get-docker") from error
    assert importing.stdin
    with (
        contextlib.suppress(BrokenPipeError),
        importing.stdin,
        tarfile.open(fileobj=importing.stdin, mode="w|") as files,
    ):
        for path in filter(Path.exists, KEPT):
            files.add(path)
    if importing.wait():
        raise Unreachable("docker import failed", image, "see its message above")
    docker("push", "--quiet", image)
    return f"{image} holds the registry."


def docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run docker; raise Unreachable with its message if it fails."""
    try:
        done = subprocess.run(["docker", *words], check=False, capture_output=True)
    except FileNotFoundError as error:
        raise Problem("docker is not installed", "PATH", "https://docs.docker.com/get-docker") from error
    if check and done.returncode:
        raise Unreachable(
            f"docker {words[0]} failed: {done.stderr.decode().strip()}",
            " ".join(words[1:]),
            "is the engine up, and are you logged in?",
        )
    return done


if __name__ == "__main__":
    sys.exit(main())
