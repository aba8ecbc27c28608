"""Say what this machine has, and stop on one that has too little to train.

python -m scripts.preflight                                 here
python3 -m scripts.in_image scripts.preflight               in Dockerfile.train's environment

Exit code: 0 go on; 2 where train.device is gpu and there is none, or the disk is nearly full.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from scripts import environment

if __name__ == "__main__":
    environment.reenter("scripts.preflight", sys.argv[1:])  # what follows is not there without it

import msgspec

from pawl import config, estimator, paths
from pawl.problem import Problem
from scripts import cli, github

DISK = 5  # GB: the outputs, DVC's copy of them, an image of the service
DRIVERS = Path("/etc/OpenCL/vendors")


@cli.told
def main(argv: list[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Print, then judge."""
    cli.parser("preflight", __doc__).parse_args(argv)
    train = config.load(paths.PARAMS).train
    free = shutil.disk_usage(".").free / 1e9
    drivers = ", ".join(sorted(file.stem for file in DRIVERS.glob("*.icd") if loads(file)))
    found = {
        "processors": f"{os.cpu_count()}",
        "memory": f"{memory() / 1e9:.1f} GB free",
        "disk": f"{free:.1f} GB free",
        "GPU": nvidia() or "none that nvidia-smi knows",
        "OpenCL": drivers or f"no driver in {DRIVERS} that can be loaded",
        "train.device": train.device,
    }
    said = "".join(f"{name:13} {value}\n" for name, value in found.items())
    print(said, end="", flush=True)
    github.summary(environ, f"```\n{said}```\n")
    if free < DISK:
        raise Problem(f"{free:.1f} GB of disk are free, of {DISK} that a run needs", Path.cwd(), "make room; `docker system prune`")  # fmt: skip
    if train.device == "gpu":
        estimator.make(msgspec.structs.replace(train, class_weight=None), [])  # LightGBM itself is asked for it
    return 0


def loads(file: Path) -> bool:
    """Say whether the library that a driver's registration names is there: an image registers one that comes with the machine."""
    try:
        ctypes.CDLL(file.read_text().strip())
    except OSError:
        return False
    return True


def memory() -> int:
    """Return how many bytes a process can have."""
    import psutil

    return int(psutil.virtual_memory().available)


def nvidia() -> str:
    """Return driver, name and memory of each GPU, as nvidia-smi tells them; nothing without it."""
    query = ["nvidia-smi", "--query-gpu=driver_version,name,memory.free", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, check=False, capture_output=True, text=True, timeout=60)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.splitlines()) if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())
