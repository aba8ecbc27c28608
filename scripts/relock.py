"""Settle a merge conflict in dvc.lock: take main's side, then run what changed.

python -m scripts.relock
"""

import subprocess
import sys
from pathlib import Path

from scripts import environment, run

LOCK = Path("dvc.lock")


def main() -> int:
    """Rewrite the lock and run the pipeline."""
    if LOCK.exists() and "<<<<<<< " in LOCK.read_text():
        for side in ("--ours", "--theirs"):
            if subprocess.run(["git", "checkout", side, str(LOCK)], check=False, capture_output=True).returncode == 0:
                break
        else:
            LOCK.unlink()  # not a merge in progress: the markers were committed
    metrics = Path("reports/metrics.json")
    conflict = metrics.read_text() if metrics.exists() and "<<<<<<< " in metrics.read_text() else ""
    if conflict:
        metrics.unlink()
    code = run.main([])
    if code and conflict:
        metrics.write_text(conflict)
    if code == 0:
        print("next: git add dvc.lock reports/metrics.json, and go on with the merge")
    return code


if __name__ == "__main__":
    environment.reenter("scripts.relock", sys.argv[1:])  # stages are started as `python`
    sys.exit(main())
