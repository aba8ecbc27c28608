"""Keep in the DVC remote what a release made: pull requests need not make it again.

python -m scripts.keep

Without a remote the output `kept` is `cache`: the workflow keeps .dvc/cache in GitHub's own cache. Exit code: 0 done, 3 the remote did not take it.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from pawl.problem import Unreachable
from scripts import cli, github


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Push, or say that there is nowhere to push to."""
    cli.parser("keep", __doc__).parse_args(argv)
    dvc = [sys.executable, "-m", "dvc"]
    remote = subprocess.run([*dvc, "config", "core.remote"], check=False, capture_output=True, text=True).stdout.strip()
    if remote and subprocess.run([*dvc, "push", "--run-cache", "--quiet"], check=False).returncode:
        fix = "see DVC's message above; credentials are secrets: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ..."
        raise Unreachable("the DVC remote did not take the outputs", remote, fix)
    nowhere = "There is no DVC remote: GitHub's cache keeps the outputs"
    print(f"Outputs are in the DVC remote {remote}" if remote else nowhere)
    github.output(environ, kept="remote" if remote else "cache")
    return 0


if __name__ == "__main__":
    sys.exit(main())
