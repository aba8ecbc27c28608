"""A folder in which the pipeline runs apart from this project's outputs: another commit's files, an example's, a trial's."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pawl.problem import Problem
from pawl.yamlfile import read_yaml, refuse_name

OUTSIDE = ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "PAWL_WORKER")  # of the job and the run that start it

WATCHED, PATIENCE = 0.2, 5  # seconds between two looks at a process; until one that was asked to end is killed


def made(folder: Path, given: Path) -> Path:
    """Return the folder with this project's code in it, and over it what `given` has: configuration, name, src."""
    for name in re.findall(r"\$\{?(\w+)", (given / "params.yaml").read_text()):
        if os.environ.get(name) and Path(os.environ[name]).exists():
            # A path relative to here is another one there; the name of a bucket is none.
            os.environ[name] = str(Path(os.environ[name]).absolute())
    for name in ("src", "scripts", "requirements"):
        shutil.copytree(name, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (
        Path("dvc.yaml"),
        Path(".dvcignore"),
        Path("pyproject.toml"),
        *given.glob("*.yaml"),
        *given.glob("*.toml"),
    ):
        shutil.copy2(path, folder / path.name)
    if (given / "src").exists():
        shutil.copytree(given / "src", folder / "src", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".dvc").mkdir(exist_ok=True)
    shutil.copy2(".dvc/config", folder / ".dvc/config")
    return folder


def enter(example: str, module: str, words: Sequence[str]) -> None:
    """Go on as `python -m module` in .pawl/examples/<example>, on the example's own code; return where that is done already.

    Its generate.py makes the table that params.yaml names, where it is not there or older than that.
    """
    folder, given = Path(".pawl/examples", example).absolute(), Path("examples", example)
    if Path.cwd().parts[-3:] == folder.parts[-3:]:
        return
    if not (given / "params.yaml").exists():
        known = [path.parent.name for path in Path("examples").glob("*/params.yaml")]
        refuse_name(f"--example {example}", example, known, where="examples/")
    made(folder, given)
    source, generate = read_yaml(given / "params.yaml")[0]["ingest"]["source"], given / "generate.py"
    files = [folder / name for name in tables(source) if "$" not in name]
    old = [file for file in files if not file.exists() or file.stat().st_mtime < generate.stat().st_mtime]
    if old and subprocess.run([sys.executable, generate, folder], check=False).returncode:
        raise Problem("the example's table could not be made", generate, "see its message above")
    sys.stdout.flush()
    os.chdir(folder)
    places = filter(None, [str(folder / "src"), os.environ.get("PYTHONPATH")])
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "PAWL_ENV": "system"}
    os.execve(sys.executable, [sys.executable, "-m", module, *words], environ)  # noqa: S606 - our own interpreter, no shell


def share(folder: Path, ingest: dict[str, Any], *, cache: bool = True) -> None:
    """Let a folder read the tables and the query that `ingest` names, where it has none, and use DVC's cache of this project."""
    for name in tables([ingest.get("source"), (ingest.get("sql") or {}).get("query")]):
        for file in Path().glob(name):  # git need not have them
            if not (folder / file).exists():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).symlink_to(file.absolute())
    if cache:
        (folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {Path('.dvc/cache').absolute()}\n")


def tables(source: Any) -> list[str]:
    """Return the paths inside the project that ingest.source names."""
    if isinstance(source, dict | list):
        return [name for part in (source.values() if isinstance(source, dict) else source) for name in tables(part)]
    return [source] if isinstance(source, str) and "://" not in source and not Path(source).is_absolute() else []


def call(
    folder: Path, module: str, *words: str, watch: Callable[[], None] | None = None, **environ: str
) -> tuple[int, str]:
    """Run `python -m module` in the folder, on its own code; return its exit code, and why it failed.

    watch: called while it runs, and once after that. What it raises ends the process.
    """
    env = {key: value for key, value in os.environ.items() if key not in OUTSIDE}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # stages are started as `python`
    env |= {"PYTHONPATH": str((folder / "src").absolute()), "PAWL_ENV": "system", **environ}
    command = [sys.executable, "-m", module, *words]
    with tempfile.TemporaryFile("w+") as told:
        going = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=told)
        ended = False
        try:
            while not ended:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    going.wait(WATCHED)
                    ended = True
                if watch:
                    watch()
        except BaseException:
            if not ended:
                going.terminate()  # scripts.run ends its own, and takes away what it made
                with contextlib.suppress(subprocess.TimeoutExpired):
                    going.wait(PATIENCE)
            if going.poll() is None:
                end_children(going.pid)
            going.kill()
            raise
        finally:
            going.wait()
        told.seek(0)
        said = [line for line in told if line.startswith("error:")] or ["error: it failed"]
    return going.returncode, said[0].strip().removeprefix("error: ")[:300]


def end_children(process: int | None = None) -> None:
    """End what a process, without one this one, has started and still runs, so that nothing writes an output after it was put back."""
    import psutil

    for child in psutil.Process(process).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
