"""Try values of params.yaml; say which is best on validation rows, and how surely.

python -m scripts.tune                          what the section `tune` of params.yaml says: a space by TPE, or every combination of a grid
python -m scripts.tune --trials 40 --timeout 3600 --write       and write the best values into params.yaml
python -m scripts.tune --storage postgresql://user:password@host/name      many processes and machines, one search
python -m scripts.tune --example adult          an example's params.yaml, apart from your own outputs

Ended in the middle, it goes on where it was, and does again what a killed process had begun; of a grid that grew, what is new
runs. Processes that share a storage, and a store (MLFLOW_TRACKING_URI), share the trials. The test rows have no say.
Exit code: 0 done, 2 a trial failed or your configuration is wrong, 3 something outside did not answer.
"""

import contextlib
import fcntl
import itertools
import json
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pawl import answers, config, estimator, paths, tracking
from pawl.config import Params, Space, Tune
from pawl.gate import rules, statistics
from pawl.parts import Value
from pawl.pipeline import train
from pawl.problem import Problem, Unreachable
from pawl.report import text
from pawl.tracking import Store
from pawl.yamlfile import change, line_of, read_yaml, refuse_name
from scripts import cli, run, track, trial, workspace
from scripts.trial import Trial, Values, attempt, digest, initials, named, replaced
from task.metrics import METRICS

FOLDER = paths.STATE / "tune"
STORAGE = "PAWL_TUNE_STORAGE"
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
LEVEL = 0.05
SHOWN = 20  # trials in the table
ENDED = ("COMPLETE", "PRUNED")
ALIVE = ("WAITING", "RUNNING", *ENDED)
# Of a trial's learning curve, from this round on: below that of so many percent of at least so many others, it is ended. Half of the
# others would do for Optuna's median; benchmarks/tune.py shows what that loses.
ROUND, BETTER, TRIED = 50, 75.0, 5
# Learning curves under several of their values cannot be compared.
OTHERWISE = {
    "train.class_weight",
    *(f"train.params.{each}" for each in ("objective", "metric", "scale_pos_weight", "is_unbalance", "class_weight")),
}
BEAT, GRACE = 10, 60  # seconds: a process that works says so; after a silence its trial is another's


class Search(NamedTuple):
    """What is searched. slots: the values that are fixed of each trial: all of a grid's, none where the sampler chooses."""

    tune: Tune
    space: Space
    sampler: str
    seed: int
    lower: bool  # is better
    slots: list[Values]
    code: str  # the digest of all else that its trials' models are made of
    params: Params

    def name(self, values: Values) -> Trial:
        """Return the trial of these values."""
        return named(self.code, self.params, values)

    @property
    def measured(self) -> str:
        """Return the metric by which trials are chosen, as it is called in a run."""
        return f"valid.{self.tune.metric}" if self.tune.objective == "valid" else f"cv.cv_{self.tune.metric}_mean"


class Failed(Exception):  # noqa: N818 - it ends a trial, not the search
    """A trial that failed."""


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
    parser.add_argument("--sampler", choices=("tpe", "random", "grid"), help="what chooses the trials")
    parser.add_argument("--trials", type=int, metavar="N", help="how many, of all processes together")
    parser.add_argument("--timeout", type=float, default=math.inf, metavar="SECONDS", help="begin no trial after that")
    parser.add_argument("--workers", type=int, default=max(1, CORES // 2), metavar="N", help="trials at once, here")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampler: with one worker it decides")
    parser.add_argument("--storage", default=environ.get(STORAGE), metavar="URL", help=f"of the search; or {STORAGE}")
    parser.add_argument("--write", action="store_true", help="write the best values into params.yaml")
    parser.add_argument("--example", metavar="NAME", help="a folder in examples/")
    args = parser.parse_args(argv)
    if min(args.workers, args.trials or 1) < 1:
        parser.error("--workers and --trials take a number from 1")
    if args.example:
        workspace.enter(args.example, "scripts.tune", sys.argv[1:] if argv is None else argv)
    mine = Path("../../../examples", args.example, "params.yaml").resolve() if args.example else paths.PARAMS.absolute()
    params = config.load(paths.PARAMS)
    if params.tune is None:
        fix = "add for example  tune: {metric: roc_auc, grid: {train.params.num_leaves: [15, 31]}}"
        raise Problem("there is no section tune", paths.PARAMS, fix)
    found = planned(params, params.tune, args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with shared() as alone:
            results, failed = search(found, args, environ, alone=alone)
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; the same command goes on from there", file=sys.stderr)
        return run.INTERRUPTED
    if results:
        print("\n".join([*table(params.tune.metric, results), "", *conclusion(params.tune.metric, results, args)]))
        if args.write:
            change(mine, results[0].trial.values)
    for why in dict.fromkeys(failed.values()):
        names = ", ".join(name for name, said in failed.items() if said == why)
        fix = f"correct tune.{'grid' if found.sampler == 'grid' else 'space'}; the same command tries them again"
        print(f"error: {why}\n  where: {names}\n  fix: {fix}", file=sys.stderr)
    return 2 if failed else 0


def planned(params: Params, tune: Tune, args: Any) -> Search:
    """Return what is searched."""
    lower = check(params, tune)
    chosen = args.sampler or tune.sampler or ("tpe" if tune.space else "grid")
    if chosen == "grid" and not tune.grid:
        fix = "add for example  grid: {train.params.num_leaves: [15, 31]}"
        raise Problem("tune.grid has nothing to try", f"{paths.PARAMS}: tune", fix)
    space = dict(tune.grid) if chosen == "grid" else tune.space or dict(tune.grid)
    slots: list[Values] = [{}] * (args.trials or tune.trials)
    if chosen == "grid":
        shown = {key: trial.choices(given) for key, given in space.items() if isinstance(given, list)}
        slots = [dict(zip(shown, each, strict=True)) for each in itertools.product(*shown.values())]
    else:  # what is there now is the first: the others have to beat it
        slots[0] = trial.current(read_yaml(paths.PARAMS)[0], space)
    return Search(tune, space, chosen, args.seed, lower, slots, trial.searched(params, list(space)), params)


@contextlib.contextmanager
def shared() -> Iterator[bool]:
    """Yield whether no other search goes on in this folder; then what one left that was killed is removed."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
            for path in FOLDER.glob("tmp*"):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            alone = False
        fcntl.flock(file, fcntl.LOCK_SH)
        yield alone


def check(params: Params, tune: Tune) -> bool:
    """Say whether lower is better; raise Problem, with its line, for a metric that is not measured and a value that cannot be tried."""
    values, lines = read_yaml(paths.PARAMS)
    known, where = statistics.names(params.task, METRICS), f"{paths.PARAMS}:{line_of(lines, ('tune', 'metric'))}"
    if tune.metric not in known:
        refuse_name(f"tune.metric: {tune.metric}", tune.metric, [*known], where=where)
    rule = rules.load(paths.GATES).metrics.get(tune.metric)
    if tune.metric in METRICS and not rule:
        raise Problem(f"it is not known which {tune.metric} is better", where, f"give it a direction in {paths.GATES}")
    for key in {*tune.grid, *tune.space} & OTHERWISE if tune.prune else ():
        line = line_of(lines, ("tune", "prune"))
        raise Problem(
            f"tune.prune: with other {key} training's metric is another one",
            f"{paths.PARAMS}:{line}",
            f"remove it, or {key}",
        )
    if tune.prune and not estimator.is_lightgbm(params.train) and "train.model" not in {*tune.grid, *tune.space}:
        line = line_of(lines, ("tune", "prune"))
        raise Problem(
            f"tune.prune: {params.train.model} has no rounds to be ended after", f"{paths.PARAMS}:{line}", "remove it"
        )
    tried = [("grid", *each) for each in tune.grid.items()] + [("space", *each) for each in tune.space.items()]
    for part, key, given in tried:
        ends = enumerate(given) if isinstance(given, list) else [("low", given.low), ("high", given.high)]
        for place, value in ends:
            try:
                one = config.of(replaced(values, {key: value}), lines, paths.PARAMS)
                estimator.check(one.problem, one.train)
            except Problem as problem:
                line = line_of(lines, ("tune", part, key, str(place)))
                raise Problem(f"tune.{part}: {problem.what}", f"{paths.PARAMS}:{line}", problem.fix) from problem
    return rule.direction == "lower" if rule else tune.metric in rules.LOWER


@contextlib.contextmanager
def answering(url: str) -> Iterator[None]:
    """Tell what the search's database did not do."""
    import sqlalchemy
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        said = next(iter(str(error.__cause__ or error).splitlines()), "")
        fix = "is it up, and the address right? postgresql://... needs requirements/postgres.txt"
        raise Unreachable(f"the search's storage does not answer: {said[:200]}", tracking.without_password(url), fix) from error  # fmt: skip


def stored(url: str) -> Any:
    """Return Optuna's storage."""
    import optuna
    import sqlalchemy

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a trial that failed is told here
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    url = re.sub(r"^postgres(ql)?:", "postgresql+psycopg:", url)
    file = url.startswith("sqlite:")
    options = {"connect_args": {"timeout": 60, "isolation_level": None}} if file else {"pool_pre_ping": True}
    for left in (2, 1, 0):  # two that make its tables at once are in each other's way
        try:
            storage = optuna.storages.RDBStorage(url, options, heartbeat_interval=BEAT, grace_period=GRACE)
            break
        except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError):
            if not left:
                raise
            time.sleep(1)
    if file:  # it knows no SELECT FOR UPDATE: two would take the same trial
        sqlalchemy.event.listen(storage.engine, "begin", lambda each: each.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage


def study(found: Search, storage: Any) -> Any:
    """Return Optuna's study, made if there is none: its name is the digest of all that decides its trials."""
    import optuna

    space = {key: each if isinstance(each, list) else repr(each) for key, each in found.space.items()}
    prune = found.tune.prune
    name = digest([found.code, found.sampler, found.seed, found.measured, space, *["prune"] * prune])
    best = optuna.study.StudyDirection(1 if found.lower else 2)
    pruner = (
        optuna.pruners.PercentilePruner(BETTER, TRIED, ROUND, n_min_trials=TRIED)
        if prune
        else optuna.pruners.NopPruner()
    )
    return optuna.create_study(storage=storage, sampler=sampler(found), pruner=pruner, study_name=name, direction=best, load_if_exists=True)  # fmt: skip


def of(asked: Any, *states: str) -> list[Any]:
    """Return the trials of a study that are in these states. One that two processes took is none: it never began."""
    found = [each for each in asked.get_trials(deepcopy=False) if each.state.name in states]
    return [each for each in found if each.state.name != "PRUNED" or "values" in each.user_attrs]


def fill(asked: Any, slots: Sequence[Values], *, again: bool) -> None:
    """Let every slot have a trial: what is new, what a killed process had begun, and what failed, if `again`."""
    taken = {each.user_attrs.get("slot") for each in of(asked, *ALIVE)}
    lost = {each.user_attrs.get("slot"): each for each in of(asked, "FAIL")}
    for slot, fixed in enumerate(slots):
        last = lost.get(slot)
        if slot not in taken and (again or not last or "why" not in last.user_attrs):
            asked.enqueue_trial((last and last.params) or fixed, {"slot": slot})


def bury(asked: Any, dead: Sequence[int]) -> None:
    """Let trials fail whose process is gone."""
    import optuna

    for number in dead:
        with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):  # another did
            asked.tell(number, state=optuna.trial.TrialState.FAIL)


def sampler(found: Search) -> Any:
    """Return a sampler that has its own seed for each trial: what was killed goes on as if it had not been, and no two begin alike."""
    import optuna

    kind: Any = optuna.samplers.TPESampler if found.sampler == "tpe" else optuna.samplers.RandomSampler

    class Seeded(kind):
        def before_trial(self, study: Any, trial: Any) -> None:
            kind.__init__(self, seed=int(digest([found.seed, trial.user_attrs.get("slot")])[:8], 16))
            super().before_trial(study, trial)

    return Seeded()


class Work:
    """What the workers of this process share."""

    def __init__(self, found: Search, args: Any, storage: Any, experiment: str, parent: str, folder: Path) -> None:
        self.found, self.storage, self.experiment, self.parent, self.folder = found, storage, experiment, parent, folder
        self.lock, self.stop, self.base, self.failed = threading.Lock(), threading.Event(), Path(), dict[str, str]()
        self.until = time.monotonic() + args.timeout
        commit = (train.commit() or "unknown").removesuffix("-dirty")
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LOKY_MAX_CPU_COUNT")
        self.environ = {name: os.environ.get(name, str(max(1, CORES // args.workers))) for name in threads}
        # A trial's params.yaml is not the commit's.
        self.environ |= {
            tracking.HOME: str(Path.cwd()),
            "PAWL_COMMIT": commit if commit == "unknown" else f"{commit}-dirty",
        }

    def __call__(self) -> None:
        """Do trials until none is left, or the time is over. What others do is waited for: they may be killed."""
        import optuna

        mine = study(self.found, self.storage)  # a thread has its own
        mute: dict[int, float] = {}
        while not self.stop.is_set() and (now := time.monotonic()) < self.until:
            if of(mine, "WAITING"):
                try:
                    mine.optimize(self.attempt, n_trials=1, catch=(Failed,))
                except (optuna.exceptions.UpdateFinishedTrialError, ValueError, AssertionError) as error:
                    # Taken for dead, a trial is ended by another; Optuna cannot end it again, and says that in three ways.
                    if "optuna" not in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts:
                        raise
                continue
            optuna.storages.fail_stale_trials(mine)
            # Killed before its first sign of life, a trial would never be stale.
            mute = {each.number: mute.get(each.number, now) for each in of(mine, "RUNNING") if "values" not in each.user_attrs}  # fmt: skip
            bury(mine, [number for number, since in mute.items() if now - since > GRACE])
            fill(mine, self.found.slots, again=False)
            if not of(mine, "WAITING", "RUNNING"):
                return
            self.stop.wait(1)

    def attempt(self, asked: Any) -> float:
        """Return what a trial measures; it runs, unless the store has it."""
        import optuna

        slot = asked.user_attrs.get("slot")
        others = [each for each in of(asked.study, *ALIVE) if each.number < asked.number]
        if slot is None or slot in {each.user_attrs.get("slot") for each in others}:
            raise optuna.TrialPruned  # two processes filled it
        values = trial.suggested(asked, self.found.space)
        asked.set_user_attr("values", values)
        if self.found.tune.prune and values in (each.user_attrs["values"] for each in of(asked.study, "PRUNED")):
            raise optuna.TrialPruned
        one, why = self.found.name(values), ""
        done = self.known(one)
        word = "known" if done else "done"
        if not done:
            watch = partial(self.watch, asked, set()) if self.found.tune.prune else None
            try:
                why = attempt(self.made(), one, self.parent, self.environ, watch)
            except optuna.TrialPruned as early:
                self.lost(one, f"ended early, {early}: most others were better there", "KILLED")
                print(f"{slot + 1} of {len(self.found.slots)}  {one.name}  ended early", file=sys.stderr, flush=True)
                raise
            if self.stop.is_set():
                raise Failed
            done = self.known(one)
        value = done.data.metrics.get(self.found.measured, math.nan) if done else math.nan
        if not math.isfinite(value):
            word, why = "failed", why or f"its {self.found.tune.metric} is not a number"
            self.failed[one.name] = why
            if not done:
                self.lost(one, f"failed: {why}", "FAILED")
            asked.set_user_attr("why", why)
        print(f"{slot + 1} of {len(self.found.slots)}  {one.name}  {word}", file=sys.stderr, flush=True)
        if why:
            raise Failed
        return float(value)

    def known(self, one: Trial) -> Any:
        """Return a trial's run, if it is finished."""
        with self.lock, tracking.store() as store:
            return finished(store, self.experiment, one)

    def watch(self, asked: Any, seen: set[str], rounds: Path) -> None:
        """Tell Optuna how a trial's training goes; raise TrialPruned where it is worse than most others were at that round."""
        import optuna
        import sqlalchemy

        for line in rounds.read_text().splitlines(keepends=True):
            if line in seen or not line.endswith("\n"):
                continue
            number, value = line.split()
            try:
                asked.report(float(value) * (-1 if self.found.lower else 1), int(number))
                hopeless = asked.should_prune()
            except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError):
                return  # training goes on: at the next look the database may answer
            seen.add(line)
            if hopeless:
                raise optuna.TrialPruned(f"at round {number}")

    def lost(self, one: Trial, why: str, status: str) -> None:
        """Log a trial that has no model; where another with the same values has one, that stays."""
        with self.lock, tracking.store() as store:
            if finished(store, self.experiment, one):
                return
            lost = tracking.begun(store, self.experiment, one.identity, one.name, self.parent).info.run_id
            record(
                store,
                lost,
                status,
                {tracking.NOTE: why},
                {key: value for key, value in one.values.items() if key != "threshold"},
            )  # a run has the one that was chosen

    def made(self) -> Path:
        """Return a folder in which all that comes before training has run: once, for all."""
        with self.lock, (FOLDER / "base").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # two DVCs that keep the same stage at once are in each other's way
            if self.base == Path():
                base = workspace.made(self.folder.absolute() / "base", Path())
                workspace.share(base, read_yaml(paths.PARAMS)[0]["ingest"])
                code, why = workspace.call(base, "scripts.run", "featurize")
                if code:
                    raise Problem(f"no trial can run: {why}", paths.PARAMS, "`make run` says more")
                self.base = base
            return self.base


def search(found: Search, args: Any, environ: Mapping[str, str], *, alone: bool) -> tuple[list[Result], dict[str, str]]:
    """Run the trials that nobody has run; return the finished ones, the best first, and {name: why} of the others."""
    mine = {"pawl.search": found.code, "pawl.sampler": found.sampler}
    name = "_".join([found.sampler, *initials(list(found.space)).values()])
    with tracking.store() as store:
        experiment = store.experiment(track.experiment(environ))
        parent = tracking.begun(store, experiment, mine, name).info.run_id
        store.client.update_run(parent, "RUNNING")
    url = args.storage or f"sqlite:///{FOLDER.absolute()}/study.db"
    with answering(url), tempfile.TemporaryDirectory(dir=FOLDER, ignore_cleanup_errors=True) as folder:
        storage = stored(url)
        asked = study(found, storage)
        if alone and not args.storage:  # nobody else can be at it
            bury(asked, [each.number for each in of(asked, "RUNNING")])
        fill(asked, found.slots, again=True)
        complete = len(of(asked, *ENDED))
        todo = max(len(found.slots) - complete, 0)
        workers = min(args.workers, todo)
        print(f"{len(found.slots)} trials: {complete} are finished, {todo} run, {workers} at once", file=sys.stderr)
        work = Work(found, args, storage, experiment, parent, Path(folder))
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            going = [pool.submit(work) for _ in range(workers)]
            try:
                for each in as_completed(going):
                    each.result()
            except BaseException:
                work.stop.set()
                while not all(each.done() for each in going):
                    workspace.end_children()
                    time.sleep(0.1)
                raise
        done = of(asked, "COMPLETE")
        tell_rest(asked, len(found.slots) - len(work.failed))
        drawn = pictures(asked, found.tune.metric) if len(done) > 1 else ""
    with tracking.store() as store, tempfile.TemporaryDirectory() as folder:
        trials = {each.identity["pawl.trial"]: each for each in (found.name(one.user_attrs["values"]) for one in done)}
        runs = [(each, there) for each in trials.values() if (there := finished(store, experiment, each))]
        missing = {each.name for each in trials.values()} - {each.name for each, _ in runs}
        work.failed |= dict.fromkeys(sorted(missing), f"it is finished, and not in {store.shown}: set {tracking.URI} to where all write")  # fmt: skip
        results = ranked(found, store, runs, Path(folder))
        tags = {"pawl.metric": found.tune.metric}
        if results:
            best, others = results[0], {each.trial.name: round(each.p, 6) for each in results[1:SHOWN]}
            values = json.dumps(best.trial.values, default=str)
            tags |= {"pawl.best": best.run.info.run_id, "pawl.best_name": best.trial.name, "pawl.best_values": values}
            tags |= {"pawl.compared": json.dumps(others), tracking.NOTE: sentence(found.tune.metric, results)}
        if drawn:
            (to := Path(folder) / "pictures").mkdir()
            (to / "search.html").write_text(drawn, encoding="utf-8")
            tracking.send(store, store.client.get_run(parent).info.artifact_uri, to)
        record(store, parent, "FINISHED" if results else "FAILED", tags)
    return results, work.failed


def tell_rest(asked: Any, trials: int) -> None:
    """Say how many trials have no result, and why."""
    ended, early = len(of(asked, *ENDED)), len(of(asked, "PRUNED"))
    if early:
        print(f"{early} trials were ended early: at the same round, most others were better", file=sys.stderr)
    if ended < trials:
        print(f"{trials - ended} trials are left: the same command goes on", file=sys.stderr)


def pictures(asked: Any, metric: str) -> str:
    """Return a page: the search's course, its values side by side, and how much each matters."""
    from optuna import importance, visualization

    drawn = [visualization.plot_optimization_history(asked, target_name=metric)]
    drawn.append(visualization.plot_parallel_coordinate(asked, target_name=metric))
    with contextlib.suppress(ValueError, RuntimeError):  # where all are alike there is no importance
        drawn.append(visualization.plot_param_importances(asked, evaluator=importance.FanovaImportanceEvaluator(seed=0), target_name=metric))  # fmt: skip
    parts = [each.to_html(full_html=False, include_plotlyjs=not number) for number, each in enumerate(drawn)]
    return f'<!doctype html><meta charset="utf-8"><title>{metric}</title>{"".join(parts)}'


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


def ranked(search: Search, store: Store, runs: Sequence[tuple[Trial, Any]], folder: Path) -> list[Result]:
    """Return the trials that have the metric, the best first, each tested against the best on the same validation rows."""
    found: dict[str, tuple[Result, answers.Answers]] = {}
    for one, each in runs:
        value, low, high = (each.data.metrics.get(f"{search.measured}{end}", math.nan) for end in ("", ".low", ".high"))
        if math.isfinite(value):
            (to := folder / each.info.run_id).mkdir()
            path = store.download(each.info.artifact_uri, str(paths.VALID_ANSWERS), to)
            theirs = answers.load(path.read_bytes(), path)
            found[one.name] = Result(one, each, Value(value, low, high, len(theirs.rows))), theirs
    first = sorted(found.values(), key=lambda each: (each[0].value.value or 0) * (1 if search.lower else -1))
    metric = search.tune.metric
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


def conclusion(metric: str, results: Sequence[Result], args: Any) -> list[str]:
    """Return what the table means, and what to do next."""
    warning = "It was chosen on validation rows, where the best of many looks better than it is: the test rows still have to judge it."
    rule = rules.load(paths.GATES).metrics.get(metric)
    least = f" --min {rule.floor}" if rule and rule.floor is not None else ""
    example = args.example
    where, again = f"examples/{example}/" if example else "", f" EXAMPLE={example}" if example else ""
    other = "" if example else f", or `python -m scripts.promote --best {metric}{least}`"
    values = [f"  {key}: {json.dumps(value, default=str)}" for key, value in results[0].trial.values.items()]
    raw = read_yaml(paths.PARAMS)[0]
    now = next((each for each in results if replaced(raw, each.trial.values) == replaced(raw, {})), None)
    if now is None:
        warning = f"What params.yaml has now is none of the trials. {warning}"
    elif now is results[0]:
        warning = f"That is what params.yaml has now. {warning}"
    else:
        verdict = "is worse" if now.p < LEVEL else "cannot be told from it"
        warning = f"What params.yaml has now, {now.trial.told}, {verdict} (p {now.p:.3f}). {warning}"
    said = [textwrap.fill(each, 80, break_on_hyphens=False) for each in (sentence(metric, results), warning)]
    put = "written into" if args.write else "next: put into"
    return [*said, "", f"{put} {where}params.yaml", *values, f"and `make run{again}`{other}"]


if __name__ == "__main__":
    sys.exit(main())
