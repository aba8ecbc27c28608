"""Train where nobody watches: pipeline, report, outputs to the remote, a version.

python -m scripts.unattended
DVC_REMOTE=s3://bucket/path python -m scripts.unattended         without it, outputs stay here

Begun again after it was ended half-way, it goes on with the stage that was not done. No git is needed. Exit code: 0 done, 1 the
verdict is no, 2 your input or configuration, 3 something outside did not answer: try again.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pawl.problem import Unreachable
from pawl.tracking import without_password
from scripts import cli, register, report, run


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Do one after the other, until one says no."""
    cli.parser("unattended", __doc__).parse_args(argv)
    if code := run.main([]) or report.main([]):
        return code
    if remote := environ.get("DVC_REMOTE"):
        push(remote)
    return register.main(["--exit-code"])


def push(remote: str) -> None:
    """Send the outputs that dvc.lock names to a remote; raise Unreachable if it does not take them."""
    from dvc.repo import Repo

    core = {"analytics": False, "check_update": False, "no_scm": not Path(".git").exists(), "remote": "environment"}
    try:
        with Repo(config={"core": core, "remote": {"environment": {"url": remote}}}) as repo:
            sent = repo.push()
    except Exception as error:  # each kind of remote has its own exceptions
        cause = f"{type(error).__name__}: {error}"[:300]
        raise Unreachable(f"outputs cannot be sent: {cause}", without_password(remote), "correct DVC_REMOTE, or the credentials of it") from error  # fmt: skip
    print(f"{sent} files are new in {without_password(remote)}.")


if __name__ == "__main__":
    sys.exit(main())
