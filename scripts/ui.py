"""Open MLflow's pages on the embedded registry.

python -m scripts.ui                                 http://127.0.0.1:5000
python -m scripts.ui --host 0.0.0.0 --port 8080      for others too: MLflow asks nobody for a password

The registry of GitHub's runs: python -m scripts.store pull ghcr.io/OWNER/REPOSITORY/registry, in a folder without one.
"""

import subprocess
import sys
from collections.abc import Sequence

from pawl import paths, tracking
from pawl.problem import Problem
from pawl.serving.settings import free
from scripts import cli


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    parser = cli.parser("ui", __doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    args = parser.parse_args(argv)
    if not paths.STORE.exists():
        raise Problem(f"there is no {paths.STORE}", "the embedded registry", "run `make run`")
    free(args.host, args.port, "--host", "--port (make ui PORT=5001)")
    print(f"http://{args.host}:{args.port}", file=sys.stderr, flush=True)
    try:
        return subprocess.run(tracking.command(args.host, args.port), env=tracking.quiet(), check=False).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
