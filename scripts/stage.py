"""Run one stage of dvc.yaml on the files and params.yaml of the working directory.

python -m scripts.stage train

Exit code: 0 done, 2 your input or configuration, 3 something outside did not answer, 70 an error that nobody expected.
"""

import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from pawl import config, paths, schema
from pawl.problem import Problem, Unreachable
from scripts import cli, worker

# stage: what its run() takes. Each part of params.yaml that stands here stands in dvc.yaml too; a test compares them.
STAGES: dict[str, Callable[[config.Params], tuple[Any, ...]]] = {
    "fingerprint": lambda params: (params.ingest,),
    "ingest": lambda params: (params.problem, params.ingest, schema.load(paths.SCHEMA)),
    "validate": lambda params: (params.problem, params.validate, schema.load(paths.SCHEMA)),
    "prepare": lambda params: (params.problem, params.prepare, schema.load(paths.SCHEMA)),
    "featurize": lambda params: (params.problem, params.featurize, schema.load(paths.SCHEMA)),
    "train": lambda params: (params.problem, params.train),
    "evaluate": lambda params: (params.problem, params.evaluate, params.train, params.featurize, params.prepare),
}
HEAVY = {"featurize", "train", "evaluate"}  # they import scikit-learn and LightGBM, which a worker has ready


def main(argv: list[str] | None = None) -> int:
    """Run the stage, in a warm worker where `scripts.run` keeps one."""
    parser = cli.parser("stage", __doc__)
    parser.add_argument("stage", choices=STAGES)
    stage = parser.parse_args(argv).stage
    os.environ.update(worker.THREADS | os.environ)
    if stage in HEAVY and (code := worker.ask(stage)) is not None:
        return code
    return run(stage)


def run(stage: str) -> int:
    """Run the stage in this process; note its time and memory for the summary of `scripts.run`."""
    started, failed, bug = time.time(), None, None
    try:
        params = config.load(paths.PARAMS)
        importlib.import_module(f"pawl.pipeline.{stage}").run(*STAGES[stage](params))
    except Problem as problem:
        failed = problem
    except MemoryError:
        failed = Problem("out of memory", f"stage {stage}", "give it more memory, or fewer rows")
    except OSError as error:
        fix = "check disk space and rights, then run again"
        failed = Unreachable(error.strerror or str(error), error.filename or stage, fix)
    except Exception as error:  # noqa: BLE001 - a stage's last words name the stage
        what = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        failed, bug = Problem(what, f"stage {stage}", "python -m scripts.run --debug shows where"), error
    code = 70 if bug else failed.code if failed else 0
    if failed:
        print(failed, file=sys.stderr)
    if bug and os.environ.get("PAWL_DEBUG"):
        traceback.print_exception(bug)
    seconds, peak = round(time.time() - started, 3), round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    paths.STATE.mkdir(exist_ok=True)
    with paths.STAGES.open("a") as file:
        note = {"stage": stage, "started": started, "seconds": seconds, "peak_mib": peak, "code": code}
        file.write(json.dumps(note) + "\n")
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback; `scripts.run` says what it means
    raise SystemExit(main())
