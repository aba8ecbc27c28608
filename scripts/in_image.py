"""Run a script in the environment of Dockerfile.train, on the files of this folder.

python3 -m scripts.in_image scripts.run
python3 -m scripts.in_image scripts.report --base HEAD^1

With a GPU where NVIDIA's driver is. Exit codes are those of the script; 3 where the image cannot be built or started.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

IMAGE = "pawl-train"
PASSED = ("PAWL_", "MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "CI", "GITHUB_STEP_SUMMARY")


def main(argv: Sequence[str] | None = None) -> int:
    """Build, run."""
    words = sys.argv[1:] if argv is None else list(argv)
    if shutil.which("docker") is None:
        return refused(2, "docker is not installed", "PATH", "https://docs.docker.com/get-docker")
    if subprocess.call(["docker", "build", "--quiet", "--file", "Dockerfile.train", "--tag", IMAGE, "."]):
        return refused(3, "the image was not built", "Dockerfile.train", "see docker's message above")
    names = {name for name in os.environ if name.startswith(PASSED)} - {"PAWL_ENV", "PAWL_WORKER"}
    passed = [f"--env={name}" for name in sorted(names)]
    gpu = ["--gpus=all"] if shutil.which("nvidia-smi") else []
    user = f"--user={os.getuid()}:{os.getgid()}"
    mounts = [f"--volume={Path.cwd()}:/project"]
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        mounts.append(f"--volume={summary}:{summary}")
    command = ["docker", "run", "--rm", "--init", user, *mounts, *passed, *gpu, IMAGE, "python", "-m", *words]
    code = subprocess.run(command, check=False).returncode
    if code == 125:  # docker's own
        fix = "see docker's message above"
        if gpu:
            fix += "; a GPU takes NVIDIA's container toolkit: https://docs.nvidia.com/datacenter/cloud-native/container-toolkit"
        return refused(3, "the container was not started", IMAGE, fix)
    return code


def refused(code: int, what: str, where: str, fix: str) -> int:
    """Tell a problem as the other scripts do, whose package this Python may not have; return the exit code."""
    print(f"error: {what}\n  where: {where}\n  fix: {fix}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
