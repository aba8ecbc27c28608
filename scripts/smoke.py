"""Start the service of models/bundle on a free port, ask it its golden rows, end it.

python -m scripts.smoke

Exit code: 0 every answer is right, 1 one is not, 3 it did not start.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pawl import bundle, paths, tracking
from pawl.problem import Unreachable
from scripts import cli, once


@cli.told
def main() -> int:
    """Serve, ask, end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service ends with it
    sources = {str(path): path.read_text() for path in sorted(Path("src").rglob("*.py"))}
    key = [bundle.digest_of(paths.BUNDLE), sources]
    if said := once.done("smoke", key):
        print(said)
        return 0
    port = tracking.free_port()
    environ = {**os.environ, "PAWL_PORT": str(port), "PAWL_DRAIN_SECONDS": "0"}
    server = subprocess.Popen([sys.executable, "-m", "pawl.serving"], env=environ, stderr=subprocess.PIPE, text=True)
    try:  # what the service says is of interest only where it fails
        words = [sys.executable, "-m", "pawl.serving.smoke", "--url", f"http://127.0.0.1:{port}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as asked:
            try:
                while asked.poll() is None and server.poll() is None:
                    time.sleep(0.1)
            finally:
                if asked.poll() is None:
                    asked.terminate()
            said = asked.communicate()[0]
        if server.poll() is not None:
            print(server.communicate()[1], file=sys.stderr)
            raise Unreachable("the service did not start", paths.BUNDLE, "see its message above")
    finally:
        server.terminate()
        told = server.communicate(timeout=30)[1]
    if asked.returncode:
        print(f"{told}{said}", file=sys.stderr)
        return asked.returncode
    print(once.mark("smoke", key, "The service answers every golden row as it was evaluated, alone and in a batch."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
