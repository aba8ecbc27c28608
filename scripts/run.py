"""Run the pipeline of dvc.yaml: from the table in params.yaml to an evaluated model.

python -m scripts.run                          everything that changed
python -m scripts.run --force                  everything
python -m scripts.run --example adult          what examples/adult has over this project's files, apart from your own outputs

Exit code: 0 done, 2 your input or configuration, 3 something outside did not answer. After a failure data/, models/, reports/
and dvc.lock are what they were before.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts import environment

if __name__ == "__main__":
    environment.reenter("scripts.run", sys.argv[1:])  # what follows is not there without it

from pawl import config, paths, schema
from pawl.pipeline import fingerprint
from pawl.problem import Problem, Unreachable
from pawl.yamlfile import refuse_name
from scripts import cli, stage, worker, workspace

INTERRUPTED = 130
WRITABLE = "check disk space and rights, then run again"
OUTPUTS = ("data", "models", "reports", "dvc.lock")
HEADLINE = {
    "binary": ("roc_auc", "accuracy", "f1", "log_loss", "ece"),
    "multiclass": ("accuracy", "f1_macro", "roc_auc", "log_loss", "ece"),
    "regression": ("rmse", "mae", "r2", "median_ae"),
}


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Run, and show one screen."""
    parser = cli.parser("run", __doc__)
    parser.add_argument("stages", nargs="*", help="stages to end with; all without")
    parser.add_argument("--force", action="store_true", help="run stages that did not change too")
    parser.add_argument("--no-run-cache", action="store_true", help="take nothing from earlier runs")
    parser.add_argument("--example", help="a folder in examples/")
    parser.add_argument("--debug", action="store_true", help="show where an unexpected error happened")
    args = parser.parse_args(argv)
    if args.debug:
        os.environ["PAWL_DEBUG"] = "1"
    os.environ["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # stages are started as `python`
    )
    os.environ.update(environment.QUIET)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a cancelled job gets: outputs are put back
    try:
        if not paths.PARAMS.exists():
            raise Problem("params.yaml does not exist", Path.cwd(), "run from the project's root")
        if args.example:
            workspace.enter(args.example, "scripts.run", sys.argv[1:] if argv is None else argv)
        with only_run():
            return run(args)
    except OSError as error:
        if args.debug:
            raise
        raise Unreachable(str(error), Path.cwd(), WRITABLE) from error


def run(args: argparse.Namespace) -> int:
    """Check the configuration, run DVC, put outputs back where it failed, print the summary."""
    started = time.time()
    params = config.load(paths.PARAMS)
    check_columns(params, schema.load(paths.SCHEMA))
    for name in args.stages:
        if name not in stage.STAGES:
            refuse_name(f"stage {name}", name, list(stage.STAGES), where="dvc.yaml")
    paths.STAGES.unlink(missing_ok=True)
    found = fingerprint.text(params.ingest)
    same_source = paths.SOURCE.exists() and paths.SOURCE.read_text() == found
    with worker.Worker() as warm:
        check_estimator(warm)
        with kept() as put_back:
            try:
                ran, cached = reproduce(args, warm, same_source=same_source)
            except BaseException as error:
                workspace.end_children()
                put_back()
                code = next((entry["code"] for entry in _stages() if entry["code"]), None)
                ctrl_c = f"exited with -{signal.SIGINT:d}" in f"{error} {error.__cause__}"
                if ctrl_c or isinstance(error, KeyboardInterrupt):
                    environment.tell("interrupted: data/, models/ and reports/ are what they were before")
                    return INTERRUPTED
                if code is None:  # DVC's own trouble: no stage has spoken
                    if args.debug or not isinstance(error, Exception):
                        raise
                    raise of_dvc(error) from error
                environment.tell("  nothing was changed: data/, models/ and reports/ are what they were before")
                return int(code)
    print(summary(params.task, ran, cached, time.time() - started, whole=not args.stages or "evaluate" in args.stages))
    if params.ingest.source == "sample":
        print("data: the generated sample; `make init DATA=<file or URL> TARGET=<column>` takes a table of yours")
    return 0


def of_dvc(error: Exception) -> Exception:
    """Return what DVC's error means to a user."""
    cause = " ".join(" ".join(str(part) for part in (error, error.__cause__ or "")).split())[:300]
    if "is busy" in cause or "Unable to acquire lock" in cause:
        return Unreachable("another DVC command works on this project", cause, "wait for it, or end it, then run again")
    if any(sign in cause for sign in ("[Errno 28]", "[Errno 30]", "[Errno 13]", "No possible cache link types")):
        return Unreachable(f"DVC cannot write: {cause}", Path.cwd(), WRITABLE)
    fix = "a conflict in dvc.lock: `make relock`; anything else: see DVC's message"
    return Problem(f"DVC stopped: {cause}", "dvc.yaml, dvc.lock", fix)


def check_columns(params: Any, known: Any) -> None:
    """Raise Problem if params.yaml names a column that schema.yaml does not have."""
    names = {"target": params.target}
    names |= {f"columns.{role}": getattr(params.columns, role) for role in ("id", "time", "group", "split")}
    lists = {
        "columns.ignore": params.columns.ignore,
        "evaluate.slices": params.evaluate.slices,
        "prepare.drop_missing": params.prepare.drop_missing,
        "validate.allow_leakage": params.validate.allow_leakage,
    }
    for key, listed in lists.items():
        names |= {f"{key}[{number}]": name for number, name in enumerate(listed)}
    schema.check_names(known, names, path=paths.PARAMS)


def check_estimator(warm: Any) -> None:
    """Raise SystemExit unless the estimator and its parameters exist. It costs an import of seconds, so that what was found right is noted."""
    noted, causes = paths.STATE / "checked", (paths.PARAMS, paths.LOCK, Path("src/task/model.py"))
    state = hashlib.sha256(b"".join(path.read_bytes() for path in causes)).hexdigest()
    if noted.exists() and noted.read_text() == state:
        return
    warm.start()
    asked = worker.ask("check")
    if code := worker.check() if asked is None else asked:
        raise SystemExit(code)
    noted.parent.mkdir(exist_ok=True)
    noted.write_text(state)


def reproduce(args: argparse.Namespace, warm: Any, *, same_source: bool) -> tuple[list[str], list[str]]:
    """Run `dvc repro` in this process; return the stages that ran, and those that came from the run cache."""
    from dvc.repo import Repo, lock_repo

    ran: list[str] = []
    cached: list[str] = []

    class Progress(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            words = str(record.msg)
            if words.startswith("Running stage"):
                ran.append(str(record.args[0]))  # type: ignore[index]  # DVC passes the stage's name
                if ran[-1] != "fingerprint":
                    warm.start()
                    if sys.stderr.isatty() and not os.environ.get("CI"):  # CI's log needs no progress
                        environment.tell(f"{ran[-1]} ...")
            elif words.startswith("Stage '%s' is cached"):
                cached.append(str(record.args[0]))  # type: ignore[index]  # same

    log = logging.getLogger("dvc")
    log.setLevel(logging.INFO)
    before, log.handlers, log.propagate = log.handlers, [Progress()], False  # what DVC would print is in the summary
    offline = {"core": {"analytics": False, "check_update": False, "no_scm": not Path(".git").exists()}}
    try:
        with Repo(config=offline) as repo, lock_repo(repo):
            for each in repo.index.stages:
                # It was just looked at: DVC need not start a process to look again.
                each.always_changed = each.always_changed and not same_source
            repo.reproduce(args.stages or None, force=args.force, run_cache=not args.no_run_cache)
    finally:
        log.handlers = before
    return [name for name in ran if name != "fingerprint"], cached


@contextlib.contextmanager
def kept(under: str = "before") -> Iterator[Callable[[], None]]:
    """Keep hard links to every output: DVC removes a stage's outputs before it runs it. Yields the function that puts them back.

    What a run left that was killed is put back first: it holds the only copy of what that run had removed. Under another name it is
    kept around runs, with params.yaml, for one that looks and changes nothing.
    """
    folder, partial = paths.STATE / under, paths.STATE / f"{under}.partial"
    names = [Path(name) for name in OUTPUTS]

    def put_back() -> None:
        if not folder.is_dir():  # whoever took it away must not make us remove what is here
            raise FileNotFoundError(folder)
        for name in names:
            shutil.rmtree(name, ignore_errors=True) if name.is_dir() else name.unlink(missing_ok=True)
            if (folder / name).exists():
                shutil.move(folder / name, name)
        shutil.rmtree(folder)

    if folder.exists():
        put_back()
    if under != "before":  # what a killed one left of it is not put back: somebody may have edited it since
        names.append(paths.PARAMS)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in names:
        if name.is_dir():
            shutil.copytree(name, partial / name, copy_function=_link, symlinks=True)
        elif name.exists():
            shutil.copy2(name, partial / name)
    partial.rename(folder)  # a copy that is not whole never has this name
    yield put_back
    shutil.rmtree(folder, ignore_errors=True)


def _link(source: str, target: str) -> None:
    with contextlib.suppress(OSError):
        if not source.endswith("metrics.json"):  # it is not of DVC's: a stage may write into the same file
            os.link(source, target, follow_symlinks=False)
            return
    shutil.copy2(source, target)


@contextlib.contextmanager
def only_run(lock: str = "lock") -> Iterator[None]:
    """Refuse a second run of the same project at the same time; of the same kind, by the lock's name."""
    paths.STATE.mkdir(exist_ok=True)
    with (paths.STATE / lock).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            what, fix = "another run of this project is going on", "wait for it, or end it"
            raise Unreachable(what, Path.cwd(), fix) from error
        yield


def summary(task: str, ran: list[str], cached: list[str], seconds: float, *, whole: bool) -> str:
    """Return the one screen that ends a run."""
    where = f"  (in .pawl/examples/{Path.cwd().name})" if Path.cwd().parent.name == "examples" else ""
    seconds_of = {entry["stage"]: entry["seconds"] for entry in _stages() if entry["stage"] in ran}
    times = ", ".join(f"{name} {taken:.1f} s" for name, taken in seconds_of.items())
    unchanged = [name for name in stage.STAGES if name not in {"fingerprint", *ran, *cached}]
    lines = ["", *(_measured(task) if whole else [])]
    lines.append(f"  ran          {times or 'nothing: no input changed'}")
    lines += [f"  {'unchanged' if whole else 'not run':<12} {', '.join(unchanged)}"] if unchanged else []
    lines += [f"  from cache   {', '.join(cached)}"] if cached else []
    lines.append(f"  in all       {seconds:.1f} s")
    made = f"model: models/bundle · numbers: reports/metrics.json, reports/slices.json{where}"
    return "\n".join([*lines, "", made if whole else "next: `make run` for the rest"])


def _measured(task: str) -> list[str]:
    """Return what the reports say of the model."""
    report = json.loads(paths.METRICS.read_text())
    manifest = json.loads((paths.BUNDLE / "manifest.json").read_text())
    splits = json.loads(paths.SPLITS.read_text())
    name, rows = manifest["model"].rpartition(".")[2], splits["splits"]["test"]["rows"]
    lines = [f"{name} for {manifest['target']}, on {rows:,} test rows  ({manifest['digest'][:19]})", ""]
    lines.append(f"  {'metric':<12} {'test':>8}  {'95 % interval':<18} {'valid':>8} {'train':>8}")
    for metric in HEADLINE[task]:
        value = report["test"][metric]
        others = "".join(f" {_number(report[split][metric]['value']):>8}" for split in ("valid", "train"))
        interval = f"{_number(value['low'])} to {_number(value['high'])}"
        lines.append(f"  {metric:<12} {_number(value['value']):>8}  {interval:<18}" + others)
    counts = ", ".join(f"{split} {entry['rows']:,}" for split, entry in splits["splits"].items())
    lines += ["", f"  rows         {counts}"]
    if folds := report.get("cv"):
        mean, spread = (folds[f"cv_{HEADLINE[task][0]}_{each}"] for each in ("mean", "std"))
        said = f"{HEADLINE[task][0]} {_number(mean['value'])}, standard deviation {_number(spread['value'])}"
        lines.append(f"  {mean['n']} folds      {said}")
    lines += [
        f"  served by    the pipeline: {why}"
        if (why := manifest["not_compiled"])
        else "  served by    the compiled model, which answers every row as the pipeline does"
    ]
    lines += [f"  dropped      {count:,} rows: {reason}" for reason, count in splits["dropped"].items() if count]
    return lines + [f"  warning      {text}" for text in splits["warnings"]]


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def _stages() -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths.STAGES.read_text().splitlines()] if paths.STAGES.exists() else []


if __name__ == "__main__":
    if (paths.STATE / "retrain").exists():
        with contextlib.suppress(Unreachable), only_run("retrain.lock"):  # one that goes on runs us, in its image
            shutil.rmtree(paths.STATE / "retrain")  # of one that was killed: this run is the newer state
    sys.exit(main())
