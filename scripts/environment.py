"""Make the environment that everything runs in: .venv, from the hashed lock.

python3 -m scripts.environment

Only the standard library, and syntax that old interpreters can read: this file is what tells a new user what is missing.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

VENV = Path(".venv")
SETTINGS = (".dvc/config", ".dvc/config.local", "params.yaml")
PLACES = ("PREDICTION_LOG", "LABELS", "PREDICTIONS_URL", "DVC_REMOTE")  # variables
LOCK = Path("requirements/dev.txt")
INSTALLER = Path("requirements/uv.txt")
VERSIONS = ((3, 11), (3, 15))  # from, below; pyproject.toml says the same, and a test compares them

# Nothing phones home. Set for every process that is started from here.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "DVC_NO_ANALYTICS": "1"}


def missing_pieces() -> list[tuple[str, str]]:
    """Return what this machine lacks, each with the command that installs it."""
    found = []
    if suitable_python() is None:
        low, high, have = (".".join(map(str, version)) for version in (*VERSIONS, sys.version_info[:3]))
        fix = "apt-get install python3, or uv python install 3.13"
        found.append((f"Python {low} or newer, below {high} (found {have})", fix))
    elif importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        found.append(("the venv module of Python", "apt-get install python3-venv"))
    if shutil.which("git") is None and not os.environ.get("PAWL_COMMIT"):
        found.append(("git", "apt-get install git (or set PAWL_COMMIT where there is no checkout)"))
    libraries = {"linux": ("gomp", "apt-get install libgomp1"), "darwin": ("omp", "brew install libomp")}
    name, fix = libraries.get(sys.platform, ("", ""))
    if name and ctypes.util.find_library(name) is None:
        found.append((f"lib{name}, which LightGBM loads", fix))
    return found


def suitable_python() -> str | None:
    """Return an interpreter of a supported version: this one, or the newest on PATH."""
    low, high = VERSIONS
    if low <= sys.version_info[:2] < high:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(high[1] - 1, low[1] - 1, -1)]
    for path in filter(None, map(shutil.which, names)):
        if subprocess.run([path, "-V"], check=False, capture_output=True).returncode == 0:
            return path
    return None


def drivers() -> list[Path]:
    """Return the locks of what the settings here name besides: s3://, gs:// or azure:// as remote or source."""
    texts = [path.read_text(encoding="utf-8") for path in map(Path, SETTINGS) if path.exists()]
    lines = [line.partition("#")[0] for text in texts for line in text.splitlines()]
    lines += [os.environ.get(name, "") for name in PLACES]
    named = [name for name in ("azure", "gs", "s3") if any(name + "://" in line for line in lines)]
    return [Path("requirements", name + ".txt") for name in named]


def stamp_of(lock: Path) -> str:
    """Return what the environment must have been made from to be up to date."""
    files = [lock, Path("pyproject.toml"), *drivers()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def python() -> Path:
    """Return the environment's interpreter."""
    return (VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")).absolute()


def ready() -> bool:
    """Say whether the environment stands and was made from the present lock."""
    stamp = VENV / "pawl.stamp"
    return python().exists() and stamp.exists() and stamp.read_text() == stamp_of(LOCK)


def make() -> None:
    """Make or renew the environment; raise SystemExit(3) with the cause if the package index does not answer."""
    tell(f"Making {VENV} from {LOCK} (once: a minute or two, on a busy machine several) ...")
    if not python().exists():
        shutil.rmtree(VENV, ignore_errors=True)
        call([suitable_python() or sys.executable, "-m", "venv", str(VENV)])
    uv = shutil.which("uv")
    if uv is None:
        pip = [str(python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        call([*pip, "--require-hashes", "-r", str(INSTALLER)])
        uv = str(python().with_name("uv.exe" if os.name == "nt" else "uv"))
    target = ["--quiet", "--python", str(python())]
    compiled = [] if os.environ.get("GITHUB_ACTIONS") else ["--compile-bytecode"]  # a job imports a part of it, once
    for lock in (LOCK, *drivers()):
        call([uv, "pip", "install", *target, "--require-hashes", *compiled, "-r", str(lock)])
    call([uv, "pip", "install", *target, "--no-deps", "--no-build-isolation", "--editable", "."])
    if compiled:  # what the first registration would wait for; without it, it does
        subprocess.run(
            [str(python()), "-W", "ignore", "-c", "from pawl import tracking; tracking.empty()"], check=False
        )
    (VENV / "pawl.stamp").write_text(stamp_of(LOCK))


def call(command: list[str]) -> None:
    """Run a command; on failure say which, and stop with 3."""
    if subprocess.run(command, check=False).returncode:
        fix = "see its message above; a package index must be reachable, then run the same command again"
        tell(f"error: {' '.join(command[:6])} ... failed\n  where: {LOCK}\n  fix: {fix}")
        raise SystemExit(3)


def ensure() -> None:
    """Make the environment unless it is ready, or PAWL_ENV=system says that this interpreter has it all; stop with 2 where a piece is missing."""
    if os.environ.get("PAWL_ENV") == "system" or ready():
        return
    missing = missing_pieces()
    for what, fix in missing:
        tell(f"error: {what} is missing\n  where: this machine\n  fix: {fix}")
    if missing:
        raise SystemExit(2)
    make()


def reenter(module: str, arguments: list[str]) -> None:
    """Go on as `python -m module` inside the environment, unless this process is in it already."""
    ensure()
    os.environ.update(QUIET)
    if os.environ.get("PAWL_ENV") == "system":
        return
    os.environ["PATH"] = str(python().parent) + os.pathsep + os.environ.get("PATH", "")
    if Path(sys.prefix).resolve() != VENV.resolve():
        sys.stdout.flush()
        os.execv(str(python()), [str(python()), "-m", module, *arguments])  # noqa: S606 - our own interpreter, no shell


def tell(text: str) -> None:
    """Print to standard error: results alone go to standard output."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    ensure()
