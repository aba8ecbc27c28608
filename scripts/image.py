"""Build the image of the service, or that of training; push it, and say its digest.

python -m scripts.image                               for this machine: pawl:<commit>
python -m scripts.image --push ghcr.io/me/project --version 3              ghcr.io/me/project/model-server@sha256:...
python -m scripts.image trainer --push ghcr.io/me/project --attest         with SBOM and provenance beside it

In a workflow the tags are the commit, v<version> and latest. What was pushed of this commit, and signed (scripts.verify), is not built again; any other image
that the commit's tag names is left. Exit code: 0 done, 2 your input, 3 docker or the registry did not answer.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pawl import bundle, oci, paths
from pawl.problem import Problem, Unreachable
from scripts import cli, github, verify

SERVER, TRAINER = "model-server", "trainer"
FILES = {SERVER: ["--file=Dockerfile.serve"], TRAINER: ["--file=Dockerfile.train", "--target=project"]}
REVISION, DIGEST = "org.opencontainers.image.revision", "pawl.model.digest"
ATTEST = ("--attest=type=sbom", "--attest=type=provenance,mode=max")
NOTED = paths.STATE / "image.json"


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Build, and push where asked to."""
    parser = cli.parser("image", __doc__)
    parser.add_argument("which", nargs="?", choices=FILES, default=SERVER)
    parser.add_argument("--push", metavar="PLACE", help="registry/owner/name")
    parser.add_argument("--version", default="", help="the model's version in the registry")
    said = "SBOM and provenance beside it: takes a builder that can, such as setup-buildx-action's"
    parser.add_argument("--attest", action="store_true", help=said)
    args = parser.parse_args(argv)
    image = build(args.which, oci.place(args.push) if args.push else "", args.version, environ, attest=args.attest)
    print(image)
    github.summary(environ, f"`{image}`\n\n")
    name, _, digest = image.partition("@")
    github.output(environ, image=image, name=name, digest=digest)
    return 0


def build(which: str, place: str, version: str, environ: Mapping[str, str], *, attest: bool = False) -> str:
    """Return the image: name@digest where it was pushed, name:tag where not."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], check=False, capture_output=True, text=True).stdout.strip()
    commit = environ.get("GITHUB_SHA") or found or "unknown"
    facts = {"COMMIT": commit, "SOURCE": source(environ)}
    labels = {REVISION: commit}
    if which == SERVER:
        manifest, _ = bundle.read(paths.BUNDLE)
        lock = "serving-full" if manifest["not_compiled"] else "serving"
        facts |= {"LOCK": lock, "MODEL_VERSION": version, "DIGEST": manifest["digest"]}
        labels[DIGEST] = manifest["digest"]
    name = f"{place}/{which}" if place else github.project().lower() + ("" if which == SERVER else f"-{which}")
    tags = [commit[:12]]
    if place and "GITHUB_SHA" in environ:  # elsewhere files may differ from their commit
        more = [*([f"v{version}"] if version else []), "latest"]
        if there := pushed(f"{name}:{tags[0]}"):
            image = f"{name}@{there['manifest']['digest']}"
            if labels.items() <= labels_of(there).items() and ours(image, environ):
                return tagged(image, name, more)
            left = "is there, and not shown to be this one: it is left, this one is known by its digest"
            print(f"note: {name}:{tags[0]} {left}", file=sys.stderr)
        tags = [*([] if there else tags), *more]
    given = [f"--build-arg={key}={value}" for key, value in facts.items()]
    words = ["build", *FILES[which], *(f"--tag={name}:{tag}" for tag in tags), *given, *(ATTEST if attest else ())]
    NOTED.parent.mkdir(exist_ok=True)
    if buildx(*words, "--push" if place else "--load", f"--metadata-file={NOTED}", ".").returncode:
        raise Unreachable("docker did not build or push the image", f"{name}:{tags[0]}", "see its message above; docker login; is the engine up?")  # fmt: skip
    return f"{name}@{json.loads(NOTED.read_text())['containerimage.digest']}" if place else f"{name}:{tags[0]}"


def pushed(reference: str) -> dict[str, Any] | None:
    """Return what a registry has under a tag: {manifest: {digest}, image: {config}}; None if there is none, or the registry does not say."""
    words = ("imagetools", "inspect", reference, "--format={{json .}}")
    done = buildx(*words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else None


def ours(image: str, environ: Mapping[str, str]) -> bool:
    """Say whether an image was signed by this repository's build: labels are what anybody may write."""
    words = verify.question(image, environ)
    return bool(words and shutil.which(words[0])) and verify.asked(words, environ, tries=1) == 0


def labels_of(there: Mapping[str, Any]) -> dict[str, str]:
    """Return by which of our labels an image is known."""
    config = there.get("image", {}).get("config", {})
    return {name: value for name, value in (config.get("Labels") or {}).items() if name in {REVISION, DIGEST}}


def tagged(image: str, name: str, tags: Sequence[str]) -> str:
    """Let tags name an image that is there; return it."""
    print(f"{image} is there already", file=sys.stderr)
    words = ("imagetools", "create", *(f"--tag={name}:{tag}" for tag in tags), image)
    if buildx(*words, stdout=subprocess.DEVNULL).returncode:
        raise Unreachable("the registry did not take the tags", name, "see docker's message above")
    return image


def buildx(*words: str, **more: Any) -> "subprocess.CompletedProcess[bytes]":
    """Run docker buildx; raise Problem without docker."""
    try:
        return subprocess.run(["docker", "buildx", *words], check=False, **more)
    except FileNotFoundError as error:
        raise Problem("docker is not installed", "PATH", "https://docs.docker.com/get-docker") from error


def source(environ: Mapping[str, str]) -> str:
    """Return the address of the repository, where GitHub says it."""
    given = environ.get("GITHUB_SERVER_URL"), environ.get("GITHUB_REPOSITORY")
    return "/".join(filter(None, given)) if all(given) else ""


if __name__ == "__main__":
    sys.exit(main())
