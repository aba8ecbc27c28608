"""Refuse an image that this repository's build did not make.

python -m scripts.verify ghcr.io/me/project/model-server@sha256:...

ATTESTED=true: GitHub's attestation, signed by build.yml of this repository, on main (`gh attestation verify`). Else
COSIGN_PUBLIC_KEY: a signature by that key. With neither there is nothing to hold the image to but its digest, and it says so.
Exit code: 0 it is ours, or cannot be asked, 1 it was not shown to be, 2 your input.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from pawl.problem import Problem
from scripts import cli, github

TRIES, PAUSE = 3, 5  # an attestation may be seconds on its way


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Ask gh or cosign."""
    parser = cli.parser("verify", __doc__)
    parser.add_argument("image", help="name@sha256:...")
    image = parser.parse_args(argv).image
    if "@sha256:" not in image:
        fix = "name@sha256:..., as docker push prints it"
        raise Problem(f"{image} does not name an image by its digest", "the command line", fix)
    words = question(image, environ)
    if not words:
        said, code = "➖ The image is held to its digest alone: it is not signed.", 0
    else:
        if shutil.which(words[0]) is None:
            fix = "GitHub's runners have gh; sigstore/cosign-installer brings cosign"
            raise Problem(f"{words[0]} is not installed", "PATH", fix)
        code = asked(words, environ)
        said = f"{'✅' if code == 0 else '❌'} The image {'is' if code == 0 else 'was not shown to be'} of this repository's build, says {words[0]}."
    print(said)
    github.summary(environ, f"{said}\n\n")
    return code


def question(image: str, environ: Mapping[str, str]) -> list[str]:
    """Return the command that tells whether an image is ours; none where nothing was signed."""
    if environ.get("ATTESTED") == "true":
        repository = environ.get("GITHUB_REPOSITORY")
        if not repository:
            raise Problem("GITHUB_REPOSITORY is not set", "ATTESTED=true", "owner/name: whose build it must be")
        signer = f"--signer-workflow={repository}/.github/workflows/build.yml"
        where = [f"--repo={repository}", signer, "--source-ref=refs/heads/main", "--deny-self-hosted-runners"]
        return ["gh", "attestation", "verify", f"oci://{image}", *where]
    if environ.get("COSIGN_PUBLIC_KEY"):
        # What a private repository signs does not go into a public log.
        return ["cosign", "verify", "--key=env://COSIGN_PUBLIC_KEY", "--insecure-ignore-tlog=true", image]
    return []


def asked(words: Sequence[str], environ: Mapping[str, str], tries: int = TRIES) -> int:
    """Return 0 if the command says yes, 1 if it does not."""
    for attempt in range(tries):
        if subprocess.run(words, check=False, env=dict(environ), stdout=subprocess.DEVNULL).returncode == 0:
            return 0
        if attempt + 1 < tries:
            time.sleep(PAUSE)
    return 1


if __name__ == "__main__":
    sys.exit(main())
