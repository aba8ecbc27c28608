"""Run one stage of dvc.yaml on the files and params.yaml of the working directory.

python -m scripts.stage train

Exit code: 0 done, 2 your input or configuration, 3 something outside did not answer.
"""

import argparse
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
from pawl.problem import Problem
from scripts import worker

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
    parser = argparse.ArgumentParser(
        prog="python -m scripts.stage", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    stage = parser.parse_args(argv).stage
    os.environ.update(worker.THREADS | os.environ)
    if stage in HEAVY and (code := worker.ask(stage)) is not None:
        return code
    return run(stage)


def run(stage: str) -> int:
    """Run the stage in this process; note its time and memory for the summary of `scripts.run`."""
    started, code = time.time(), 1
    try:
        params = config.load(paths.PARAMS)
        importlib.import_module(f"pawl.pipeline.{stage}").run(*STAGES[stage](params))
        code = 0
    except Problem as problem:
        code = problem.code
        print(problem, file=sys.stderr)
    except MemoryError:
        code = 2
        print(
            f"error: out of memory\n  where: stage {stage}\n  fix: give it more memory, or fewer rows", file=sys.stderr
        )
    except OSError as error:
        code = 3
        print(
            f"error: {error.strerror or error}\n  where: {error.filename or stage}\n  fix: check disk space and rights, then run again",
            file=sys.stderr,
        )
    except Exception as error:  # noqa: BLE001 - a stage's last words name the stage
        print(
            f"error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n  where: stage {stage}\n  fix: python -m scripts.run --debug shows where",
            file=sys.stderr,
        )
        if os.environ.get("PAWL_DEBUG"):
            traceback.print_exc()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    paths.STATE.mkdir(exist_ok=True)
    with paths.STAGES.open("a") as file:
        file.write(
            json.dumps(
                {
                    "stage": stage,
                    "started": started,
                    "seconds": round(time.time() - started, 3),
                    "peak_mib": round(peak),
                    "code": code,
                }
            )
            + "\n"
        )
    return code


if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # Ctrl-C ends it without a traceback; `scripts.run` says what that means
    raise SystemExit(main())
