"""A process with MLflow imported that forks a child per job: one that may die anywhere, without paying for the imports each time.

A line of JSON on standard input is a list of jobs, done at once; the answer is a line with the exit code of each. A job:
folder, environ, out (a file for what it prints), limit (seconds), and a script with its words, or code.
die: [name, number, when]: SIGKILL before, after, or half-way through that call of MLflow; late, before it, when other threads have done
what they can; or to the group of the process `when` before it.
noted: a file for the names of all such calls.
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

CHANGES = ("create_", "log_", "set_", "delete_", "update_", "finalize_")


def wrapped(name, call, job, counts, lock):
    """Return a call that is noted, and that may be the last thing this process does."""

    def calling(self, *given, **more):
        with lock:
            counts[name] = number = counts.get(name, 0) + 1
            if job.get("noted"):
                with Path(job["noted"]).open("a") as file:
                    file.write(f"{name} {number}\n")
        when = job["die"][2] if job.get("die") and job["die"][:2] == [name, number] else None
        if when == "late":
            time.sleep(1)
        if when in {"before", "late"}:
            os.kill(os.getpid(), signal.SIGKILL)
        if isinstance(when, int):
            os.killpg(when, signal.SIGKILL)
        if when == "half":
            files = sorted(path for path in Path(given[0]).rglob("*") if path.is_file())
            for path in files[: len(files) // 2]:
                target = Path(self.artifact_dir, path.relative_to(given[0]))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            os.truncate(target, target.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        answer = call(self, *given, **more)
        if when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    return calling


def wrap(job):
    from mlflow import MlflowClient
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    counts, lock = {}, threading.Lock()
    for name in dir(MlflowClient):
        if name.startswith(CHANGES):
            setattr(MlflowClient, name, wrapped(name, getattr(MlflowClient, name), job, counts, lock))
    for kind in (LocalArtifactRepository, HttpArtifactRepository):
        kind.log_artifacts = wrapped("log_artifacts", kind.log_artifacts, job, counts, lock)
    HttpArtifactRepository.log_artifact = wrapped(
        "log_artifact", HttpArtifactRepository.log_artifact, job, counts, lock
    )


def child(job):
    os.setsid()
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["environ"])
    with Path(job["out"]).open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.alarm(job["limit"])
    wrap(job)
    if "code" in job:
        exec(job["code"], {"__name__": "__main__"})
        return 0
    return importlib.import_module(f"scripts.{job['script']}").main(job["words"])


def forked(job):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = child(job)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - whatever it was is what a test reads
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main():
    for name in ("mlflow.pyfunc", "mlflow.sklearn", "mlflow.lightgbm", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store", "alembic.command", "scripts.register", "scripts.promote", "scripts.models", "skops.io", "sklearn.pipeline", "pyarrow.parquet"):  # fmt: skip
        importlib.import_module(name)
    from mlflow.utils import requirements_utils

    requirements_utils.warn_dependency_requirement_mismatches(["numpy"])  # it looks at every package once
    say("warm")
    for line in sys.stdin:
        started = [forked(job) for job in json.loads(line)]
        say(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started]))


if __name__ == "__main__":
    main()
