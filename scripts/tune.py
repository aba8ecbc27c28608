"""Try values of params.yaml, each in a run of its own; say which is best on the validation rows, and how sure that is.

python -m scripts.tune                          every combination in the section `tune` of params.yaml
python -m scripts.tune --workers 4              so many at once; half the cores without it
python -m scripts.tune --example adult          an example's params.yaml, apart from your own outputs

Ended in the middle, it goes on where it was; of a grid that grew, what is new runs. Exit code: 0 done, 2 a trial failed or your
configuration is wrong, 3 something outside did not answer.
"""

import itertools
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from pawl import answers, config, estimator, paths, tracking
from pawl.config import Params, Tune
from pawl.gate import rules, statistics
from pawl.parts import Value
from pawl.pipeline import train
from pawl.problem import Problem
from pawl.report import text
from pawl.tracking import Store
from pawl.yamlfile import line_of, read_yaml, refuse_name
from scripts import cli, run, track, workspace
from scripts.trial import Trial, Values, attempt, initials, named, replaced
from task.metrics import METRICS

FOLDER = paths.STATE / "tune"
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
LEVEL = 0.05
SHOWN = 20  # trials in the table


def grid(space: Tune) -> Iterator[Values]:
    """Yield every combination."""
    yield from (dict(zip(space.grid, each, strict=True)) for each in itertools.product(*space.grid.values()))


SAMPLERS: dict[str, Callable[[Tune], Iterator[Values]]] = {"grid": grid}  # each yields the values of the trials


class Result(NamedTuple):
    """A trial that is finished. p: how often chance alone tells it from the best as far as this, after Holm."""

    trial: Trial
    run: Any  # mlflow.entities.Run
    value: Value  # on the validation rows
    p: float = 1.0


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Tune."""
    parser = cli.parser("tune", __doc__)
    parser.add_argument("--sampler", choices=SAMPLERS, default="grid", help="what chooses the trials")
    parser.add_argument("--workers", type=int, default=max(1, CORES // 2), metavar="N", help="trials at once")
    parser.add_argument("--example", metavar="NAME", help="a folder in examples/")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error("--workers takes a number from 1")
    if args.example:
        os.chdir(run.workspace(args.example))
    params = config.load(paths.PARAMS)
    if params.tune is None:
        fix = "add for example  tune: {metric: roc_auc, grid: {train.params.num_leaves: [15, 31]}}"
        raise Problem("there is no section tune", paths.PARAMS, fix)
    lower = check(params, params.tune)
    trials = named(params, list(SAMPLERS[args.sampler](params.tune)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with run.only_run("tune.lock"):
            results, failed = search(params.tune.metric, trials, args, environ, lower=lower)
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; the same command goes on from there", file=sys.stderr)
        return run.INTERRUPTED
    if results:
        print(
            "\n".join([*table(params.tune.metric, results), "", *conclusion(params.tune.metric, results, args.example)])
        )
    for why in dict.fromkeys(failed.values()):
        names = ", ".join(name for name, said in failed.items() if said == why)
        print(
            f"error: {why}\n  where: {names}\n  fix: correct tune.grid; the same command tries them again",
            file=sys.stderr,
        )
    return 2 if failed else 0


def check(params: Params, space: Tune) -> bool:
    """Say whether lower is better; raise Problem, with its line, for a metric that is not measured and a value that cannot be tried."""
    values, lines = read_yaml(paths.PARAMS)
    known, where = statistics.names(params.task, METRICS), f"{paths.PARAMS}:{line_of(lines, ('tune', 'metric'))}"
    if space.metric not in known:
        refuse_name(f"tune.metric: {space.metric}", space.metric, [*known], where=where)
    rule = rules.load(paths.GATES).metrics.get(space.metric)
    if space.metric in METRICS and not rule:
        raise Problem(f"it is not known which {space.metric} is better", where, f"give it a direction in {paths.GATES}")
    for key, given in space.grid.items():
        for number, value in enumerate(given):
            try:
                one = config.of(replaced(values, {key: value}), lines, paths.PARAMS)
                estimator.check(one.problem, one.train)
            except Problem as problem:
                line = line_of(lines, ("tune", "grid", key, str(number)))
                raise Problem(f"tune.grid: {problem.what}", f"{paths.PARAMS}:{line}", problem.fix) from problem
    return rule.direction == "lower" if rule else space.metric in rules.LOWER


def search(metric: str, trials: Sequence[Trial], args: Any, environ: Mapping[str, str], *, lower: bool) -> tuple[list[Result], dict[str, str]]:  # fmt: skip
    """Run the trials that the store does not have; return the finished ones, the best first, and {name: why} of the others."""
    mine = {"pawl.search": trials[0].identity["pawl.search"], "pawl.sampler": args.sampler}
    name = "_".join([args.sampler, *initials(list(trials[0].values)).values()])
    with tracking.store() as store:
        experiment = store.experiment(track.experiment(environ))
        parent = tracking.begun(store, experiment, mine, name).info.run_id
        todo = [each for each in trials if not finished(store, experiment, each)]
        if todo:
            store.client.update_run(parent, "RUNNING")
    workers, known = min(args.workers, len(todo)), len(trials) - len(todo)
    print(f"{len(trials)} trials: {known} are finished, {len(todo)} run, {workers} at once", file=sys.stderr)
    failed = attempt_all(todo, workers, parent) if todo else {}
    with tracking.store() as store, tempfile.TemporaryDirectory() as folder:
        for each in todo:
            if why := failed.get(each.name):
                lost = tracking.begun(store, experiment, each.identity, each.name, parent).info.run_id
                record(store, lost, "FAILED", {"mlflow.note.content": f"failed: {why}"}, each.values)
        runs = [(each, found) for each in trials if (found := finished(store, experiment, each))]
        results = ranked(metric, store, runs, Path(folder), lower=lower)
        measured = {each.trial.name for each in results}
        failed |= {each.name: f"its {metric} is not a number" for each, _ in runs if each.name not in measured}
        tags = {"pawl.metric": metric}
        if results:
            best, others = results[0], {each.trial.name: round(each.p, 6) for each in results[1:SHOWN]}
            tags |= {"pawl.best": best.run.info.run_id, "pawl.best_name": best.trial.name}
            tags |= {
                "pawl.best_values": json.dumps(best.trial.values, default=str),
                "pawl.compared": json.dumps(others),
            }
            tags |= {"mlflow.note.content": sentence(metric, results)}
        record(store, parent, "FINISHED" if results else "FAILED", tags)
    return results, failed


def finished(store: Store, experiment: str, trial: Trial) -> Any:
    """Return the trial's run, if it is finished."""
    found = tracking.find(store, experiment, trial.identity)
    return found if found and found.info.status == "FINISHED" else None


def record(store: Store, run: str, status: str, tags: Mapping[str, str], params: Values | None = None) -> None:
    """Write tags and parameters into a run, and end it."""
    from mlflow.entities import Param, RunTag

    texts = [Param(key, str(value)) for key, value in (params or {}).items()]
    store.client.log_batch(run, params=texts, tags=[RunTag(*each) for each in tags.items()])
    store.client.set_terminated(run, status)


def attempt_all(todo: Sequence[Trial], workers: int, parent: str) -> dict[str, str]:
    """Run trials, some at once; return {name: why} of those that failed. What comes before training runs once, for all."""
    shutil.rmtree(FOLDER, ignore_errors=True)  # of a search that was killed
    FOLDER.mkdir(parents=True)
    failed: dict[str, str] = {}
    commit = (train.commit() or "unknown").removesuffix("-dirty")
    environ = {
        tracking.HOME: str(Path.cwd()),
        "PAWL_COMMIT": commit if commit == "unknown" else f"{commit}-dirty",  # a trial's params.yaml is not the commit's
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT"), str(max(1, CORES // workers))),
    }  # fmt: skip
    waiting: dict[Future[str], Trial] = {}
    with (
        tempfile.TemporaryDirectory(dir=FOLDER, ignore_cleanup_errors=True) as folder,
        ThreadPoolExecutor(workers) as pool,
    ):
        try:
            base = workspace.made(Path(folder).absolute() / "base", Path())
            workspace.share(base, read_yaml(paths.PARAMS)[0]["ingest"])
            code, why = workspace.call(base, "scripts.run", "featurize")
            if code:
                raise Problem(f"no trial can run: {why}", paths.PARAMS, "`make run` says more")
            waiting = {pool.submit(attempt, base, each, parent, environ): each for each in todo}
            for count, done in enumerate(as_completed(waiting), 1):
                name, why = waiting[done].name, done.result()
                print(f"{count} of {len(todo)}  {name}  {'failed' if why else 'done'}", file=sys.stderr, flush=True)
                failed |= {name: why} if why else {}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(each.done() for each in waiting):
                run.end_children()
                time.sleep(0.1)
            raise
    return failed


def ranked(metric: str, store: Store, runs: Sequence[tuple[Trial, Any]], folder: Path, *, lower: bool) -> list[Result]:
    """Return the trials that have the metric, the best first, each tested against the best on the same validation rows."""
    found: dict[str, tuple[Result, answers.Answers]] = {}
    for trial, each in runs:
        value, low, high = (each.data.metrics.get(f"valid.{metric}{end}", math.nan) for end in ("", ".low", ".high"))
        if math.isfinite(value):
            (to := folder / each.info.run_id).mkdir()
            path = store.download(each.info.artifact_uri, str(paths.VALID_ANSWERS), to)
            theirs = answers.load(path.read_bytes(), path)
            found[trial.name] = Result(trial, each, Value(value, low, high, len(theirs.rows))), theirs
    first = sorted(found.values(), key=lambda each: (each[0].value.value or 0) * (1 if lower else -1))
    p = statistics.from_best(metric, [theirs for _, theirs in first], METRICS.get(metric))
    return [each._replace(p=one) for (each, _), one in zip(first, p, strict=True)]


def table(metric: str, results: Sequence[Result]) -> list[str]:
    """Return the trials, the best first, 80 columns wide."""
    width = min(34, max(len(each.trial.name) for each in results))
    lines = [f"  {'':>3}  {'trial':<{width}} {metric[:8]:>8}  {'95 % interval':<16} {'seconds':>7}  from the best"]
    for rank, each in enumerate(results[:SHOWN], 1):
        value, low, high = (text.number(one, each.value) for one in (each.value.value, each.value.low, each.value.high))
        trained = each.run.data.metrics.get("seconds.train")
        seconds = "cached" if trained is None else f"{trained:.1f}"
        verdict = "" if rank == 1 else f"{'worse' if each.p < LEVEL else 'open '} p {each.p:.3f}"
        lines.append(
            f"  {rank:>3}  {each.trial.name[:width]:<{width}} {value:>8}  {f'{low} to {high}':<16} {seconds:>7}  {verdict}".rstrip()
        )
    return [*lines, *([f"       and {len(results) - SHOWN} more: `make ui`"] if len(results) > SHOWN else [])]


def sentence(metric: str, results: Sequence[Result]) -> str:
    """Say which is best, and from which others it cannot be told."""
    best, others = results[0], results[1:]
    said = f"{best.trial.told} is best on {best.value.n:,} validation rows ({metric} {text.number(best.value.value, best.value)})"
    if not others:
        return f"{said}: there is no other."
    alike = [each.trial.name for each in others if each.p >= LEVEL]
    names = ": " * bool(alike) + ", ".join(alike[:5]) + f" and {len(alike) - 5} more" * (len(alike) > 5)
    sure = "differs significantly" if others[0].p < LEVEL else "does not differ significantly"
    said += f" and {sure} from the next, {others[0].trial.told} (p {others[0].p:.3f})"
    return f"{said}; {len(alike)} of {len(others)} others cannot be told from it{names}."


def conclusion(metric: str, results: Sequence[Result], example: str | None) -> list[str]:
    """Return what the table means, and what to do next."""
    warning = "It was chosen on validation rows, where the best of many looks better than it is: the test rows still have to judge it."
    rule = rules.load(paths.GATES).metrics.get(metric)
    least = f" --min {rule.floor}" if rule and rule.floor is not None else ""
    where, again = f"examples/{example}/" if example else "", f" EXAMPLE={example}" if example else ""
    other = "" if example else f", or `python -m scripts.promote --best {metric}{least}`"
    values = [f"  {key}: {json.dumps(value, default=str)}" for key, value in results[0].trial.values.items()]
    raw = read_yaml(paths.PARAMS)[0]
    for each in results[1:]:
        if replaced(raw, each.trial.values) == replaced(raw, {}):
            verdict = "is worse" if each.p < LEVEL else "cannot be told from it"
            warning = f"What params.yaml has now, {each.trial.told}, {verdict} (p {each.p:.3f}). {warning}"
    said = [textwrap.fill(each, 80, break_on_hyphens=False) for each in (sentence(metric, results), warning)]
    return [*said, "", f"next: put into {where}params.yaml", *values, f"and `make run{again}`{other}"]


if __name__ == "__main__":
    sys.exit(main())
