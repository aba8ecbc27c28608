"""Open MLflow's pages on the embedded registry: python -m scripts.ui.

The registry of GitHub's runs: python -m scripts.store pull ghcr.io/OWNER/REPOSITORY/registry:main, in a folder without one.
"""

import os
import socket
import subprocess
import sys

from pawl import paths, tracking
from pawl.problem import Problem
from scripts import cli


@cli.told
def main() -> int:
    """Serve until Ctrl-C."""
    if not paths.STORE.exists():
        raise Problem(f"there is no {paths.STORE}", "the embedded registry", "run `make run`")
    port = int(os.environ.get("PAWL_UI_PORT", "5000"))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise Problem(
                f"port {port} is taken", "127.0.0.1", "end what listens there, or set PAWL_UI_PORT to another"
            )
    print(f"http://127.0.0.1:{port}", file=sys.stderr, flush=True)
    try:
        return subprocess.run(tracking.command(port), env=tracking.quiet(), check=False).returncode
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
