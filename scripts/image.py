"""Build the image of the service from models/bundle; push it, and say by which digest it is known.

python -m scripts.image                               for this machine: pawl:<commit>
python -m scripts.image --push ghcr.io/me/model --version 3

Exit code: 0 done, 2 your input, 3 docker or the registry did not answer.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pawl import bundle, paths
from pawl.problem import Problem, Unreachable
from scripts import cli, github


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Build, and push where asked to."""
    parser = cli.parser("image", __doc__)
    parser.add_argument("--push", metavar="NAME", type=str.lower, help="registry/owner/name")
    parser.add_argument("--version", default="", help="the model's version in the registry")
    args = parser.parse_args(argv)
    image = build(args.push, args.version, environ)
    print(image)
    github.output(environ, image=image)
    return 0


def build(push: str | None, version: str, environ: Mapping[str, str]) -> str:
    """Return the image: name@digest where it was pushed, name:tag where not."""
    manifest, _ = bundle.read(paths.BUNDLE)
    found = subprocess.run(["git", "rev-parse", "HEAD"], check=False, capture_output=True, text=True).stdout.strip()
    commit = environ.get("GITHUB_SHA") or found or "unknown"
    tag = f"{push or github.project().lower()}:{commit[:12]}"
    noted = paths.STATE / "image.json"
    noted.parent.mkdir(exist_ok=True)
    facts = {
        "LOCK": "serving-full" if manifest["not_compiled"] else "serving",
        "COMMIT": commit,
        "MODEL_VERSION": version,
        "DIGEST": manifest["digest"],
        "SOURCE": source(environ),
    }
    given = [word for name, value in facts.items() for word in ("--build-arg", f"{name}={value}")]
    where = ["--push"] if push else ["--load"]
    words = ["docker", "buildx", "build", "--file", "Dockerfile.serve", "--tag", tag, *given, *where]
    try:
        done = subprocess.run([*words, "--metadata-file", str(noted), "."], check=False)
    except FileNotFoundError as error:
        raise Problem("docker is not installed", "PATH", "https://docs.docker.com/get-docker") from error
    if done.returncode:
        raise Unreachable(
            "docker did not build or push the image", tag, "see its message above; docker login; is the engine up?"
        )
    return f"{push}@{json.loads(Path(noted).read_text())['containerimage.digest']}" if push else tag


def source(environ: Mapping[str, str]) -> str:
    """Return the address of the repository, where GitHub says it."""
    given = environ.get("GITHUB_SERVER_URL"), environ.get("GITHUB_REPOSITORY")
    return "/".join(filter(None, given)) if all(given) else ""


if __name__ == "__main__":
    sys.exit(main())
