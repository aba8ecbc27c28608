"""What many processes bring to one search, TPE to a grid, and a search to a model. Writes results/tune.json.

PAWL_TUNE_STORAGE=postgresql://... python benchmarks/tune.py        SQLite without it; Postgres needs requirements/postgres.txt
ADULT=<folder with adult.data and adult.test> python benchmarks/tune.py --only adult --trials 40
python benchmarks/tune.py --trials 4 --rows 3000 --seeds 1          in minutes: shows that it works, and nothing else

processes: the same number of trials by 1, 2 and 4 processes at once, each trial in one thread; then by two of which one is killed
after its first trial and another joins. samplers: the best value on the validation rows after as many trials as the grid has, per
seed. pruning: of searches of 20 out of 60 trainings in any order, what is ended early by tune.prune's rule and by Optuna's median, how
often that loses the best, and how much. adult: what is best on the validation rows against what the example's params.yaml has, on the test rows that neither saw.
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import optuna
import pyarrow.parquet as pq
from registry import ROOT, project
from sklearn.metrics import roc_auc_score

from pawl import answers, config, frames, paths, yamlfile
from pawl.gate import statistics as gate
from pawl.pipeline import train

sys.path.insert(0, str(ROOT))
from scripts import trial, tune

RESULTS = ROOT / "benchmarks" / "results" / "tune.json"
SPACE = """tune:
  metric: roc_auc
  grid:
    train.params.num_leaves: [7, 15, 31]
    train.params.learning_rate: [0.03, 0.05, 0.1]
    train.params.min_child_samples: [20, 80]
  space:
    train.params.num_leaves: {low: 7, high: 63, log: true}
    train.params.learning_rate: {low: 0.01, high: 0.2, log: true}
    train.params.min_child_samples: {low: 5, high: 200, log: true}
    train.params.colsample_bytree: {low: 0.3, high: 1.0}
"""
DRAWN = 20  # trials of a search


def searching(folder: Path, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([f"{folder}/src", os.environ.get("PYTHONPATH", "")])}
    env |= {"PAWL_ENV": "system", "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "scripts.tune", "--workers", "1", *words]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(*going: subprocess.Popen[str]) -> None:
    for each in going:
        said = each.communicate()
        if each.returncode:
            sys.exit("".join(said))


def made(folder: Path, rows: int) -> Path:
    """Return a folder with this checkout's files and the space above, for its own params.yaml and the example's."""
    folder = project(folder)
    for path in (folder / "params.yaml", folder / "examples/adult/params.yaml"):
        text = path.read_text()
        path.write_text(text[: text.index("\ntune:") + 1] + SPACE)
    yamlfile.change(folder / "params.yaml", {"ingest.sample.rows": rows})
    return folder


def processes(root: Path, args: argparse.Namespace) -> dict[str, object]:
    seed, found = random.SystemRandom().randrange(10**6), {}
    for number, count in enumerate((1, 2, 4, "2, one killed, another joins")):
        folder = made(root / f"processes{number}", args.rows)
        words = ["--trials", str(args.trials), "--seed", str(seed + number)]  # a study of its own
        url = os.environ.get("PAWL_TUNE_STORAGE", "")
        known = set(optuna.get_all_study_names(driver(url))) if url and number else set()
        started = time.perf_counter()
        going = [searching(folder, *words) for _ in range(count if isinstance(count, int) else 2)]
        if not isinstance(count, int):
            while " done" not in (going[0].stderr.readline() if going[0].stderr else " done"):
                pass
            going.pop(0).send_signal(signal.SIGKILL)
            going.append(searching(folder, *words))
        ended(*going)
        seconds = time.perf_counter() - started
        place = driver(url or f"sqlite:///{folder}/.pawl/tune/study.db")
        new = sorted(set(optuna.get_all_study_names(place)) - known)
        trials = [each for name in new for each in optuna.load_study(study_name=name, storage=place).get_trials()]
        slots = [each.user_attrs["slot"] for each in trials if each.state.name == "COMPLETE"]
        found[str(count)] = {
            "seconds": round(seconds, 1),
            "trials": len(slots),
            "lost": args.trials - len(set(slots)),
            "twice": len(slots) - len(set(slots)),
            "of killed processes": sum(each.state.name == "FAIL" for each in trials),
            "studies": len(new),
        }
    for each in found.values():
        each["times as fast as one"] = round(found["1"]["seconds"] / each["seconds"], 2)
    return found


def driver(url: str) -> str:
    return url.replace("postgresql:", "postgresql+psycopg:")


def samplers(root: Path, args: argparse.Namespace) -> dict[str, object]:
    """Ask the search's own samplers, and the grid, for the values of the pipeline's own training."""
    with featurized(root / "samplers", args.rows):
        values, (asked, measured) = yamlfile.read_yaml(paths.PARAMS)[0], trainer()
        keys, choices = zip(*asked.grid.items(), strict=True)
        grid = [measured(dict(zip(keys, each, strict=True)))[0] for each in itertools.product(*choices)]
        found: dict[str, object] = {"trials": len(grid), "rows": args.rows, "grid": best([max(grid)])}
        for kind in ("random", "tpe"):
            most = []
            for seed in range(args.seeds):
                study = optuna.create_study(
                    direction="maximize", sampler=tune.sampler(SimpleNamespace(sampler=kind, seed=seed))
                )
                for slot in range(len(grid)):  # as scripts.tune does: what is there now comes first
                    study.enqueue_trial({} if slot else trial.current(values, asked.space), {"slot": slot})
                study.optimize(lambda one: measured(trial.suggested(one, asked.space))[0], n_trials=len(grid))
                most.append(study.best_value)
            found[kind] = best(most)
    return found


def best(values: Sequence[float]) -> dict[str, object]:
    return {"best": round(statistics.median(values), 5), "per seed": [round(each, 5) for each in values]}


def pruning(root: Path, args: argparse.Namespace) -> dict[str, object]:
    """Ask Optuna's own pruners about the curves of the pipeline's own training."""
    with featurized(root / "pruning", args.rows):
        asked, measured = trainer()
        drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
        trained = [measured(trial.suggested(drawn.ask(), asked.space)) for _ in range(args.trainings)]
    rules = {
        "tune.prune": optuna.pruners.PercentilePruner(tune.BETTER, tune.TRIED, tune.ROUND, n_min_trials=tune.TRIED),
        "Optuna's median, from the first round on": optuna.pruners.MedianPruner(tune.TRIED, n_min_trials=tune.TRIED),
    }
    spread = [value for value, _ in trained]
    told: dict[str, object] = {"trainings": len(trained), "trials": DRAWN, "searches": args.searches, "rows": args.rows}
    told["roc_auc, least and greatest"] = [round(min(spread), 5), round(max(spread), 5)]
    for name, pruner in rules.items():
        found = [
            searched([trained[at] for at in np.random.default_rng(seed).permutation(len(trained))[:DRAWN]], pruner)
            for seed in range(args.searches)
        ]
        told[name] = {
            "rounds spared": round(statistics.mean(spared for spared, _ in found), 3),
            "searches that lose their best": round(statistics.mean(lost > 0 for _, lost in found), 3),
            "roc_auc lost, mean": round(statistics.mean(lost for _, lost in found), 6),
            "roc_auc lost, 95 of 100": round(sorted(lost for _, lost in found)[int(0.95 * len(found))], 6),
        }
    return told


@contextlib.contextmanager
def featurized(folder: Path, rows: int) -> Iterator[None]:
    """Go into a folder in which all that comes before training has run."""
    folder = made(folder, rows)
    env = {
        **os.environ,
        "PYTHONPATH": f"{folder}/src",
        "PAWL_ENV": "system",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    words = [sys.executable, "-m", "scripts.run", "featurize"]
    done = subprocess.run(words, cwd=folder, env=env, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    with contextlib.chdir(folder):
        yield


def trainer() -> tuple[config.Tune, Callable[[dict[str, Any]], tuple[float, list[float]]]]:
    """Return the section `tune`, and what trains with values: (roc_auc on the validation rows, the curve's metric per round, higher is better)."""
    params = config.load(paths.PARAMS)
    tables = {name: pq.read_table(paths.PREPARED / f"{name}.parquet") for name in ("train", "valid")}
    labels = train.labels_of(tables["train"].column(params.target), params.problem)
    y = {name: train.target(table.column(params.target), labels) for name, table in tables.items()}
    X = {name: frames.read_matrix(paths.FEATURES / name) for name in tables}

    def measured(values: dict[str, Any]) -> tuple[float, list[float]]:
        own = {key.rpartition(".")[2]: value for key, value in values.items()}
        given = msgspec.structs.replace(params.train, params={**params.train.params, **own})
        model, curves = train.fit(given, labels, X["train"], y["train"], X["valid"], y["valid"])
        curve = next(iter(curves["valid"].values()))  # binary_logloss: LightGBM's own for two classes
        return roc_auc_score(y["valid"], model.predict_proba(X["valid"])[:, 1]), [-each for each in curve]

    assert params.tune
    return params.tune, measured


def searched(order: Sequence[tuple[float, list[float]]], pruner: Any) -> tuple[float, float]:
    """Return (the share of rounds that a search in this order spares, what its best loses)."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    rounds, best = 0, -math.inf
    for value, curve in order:
        asked = study.ask()
        for number in range(10, len(curve) + 1, 10):
            asked.report(curve[number - 1], number)
            if asked.should_prune():
                study.tell(asked, state=optuna.trial.TrialState.PRUNED)
                rounds += number
                break
        else:
            study.tell(asked, value)
            rounds, best = rounds + len(curve), max(best, value)
    return 1 - rounds / sum(len(curve) for _, curve in order), max(value for value, _ in order) - best


def adult(root: Path, args: argparse.Namespace) -> dict[str, object]:
    if not os.environ.get("ADULT"):
        sys.exit("ADULT is not set: the folder with adult.data and adult.test")
    folder = made(root / "adult", args.rows)
    told = [tested(folder)]
    ended(searching(folder, "--example", "adult", "--trials", str(args.trials), "--write"))
    told.append(tested(folder))
    each = gate.difference("roc_auc", *told)
    low, high = each.value - 1.96 * each.error, each.value + 1.96 * each.error
    return {
        "test roc_auc before": round(gate.value("roc_auc", told[0]), 5),
        "after": round(gate.value("roc_auc", told[1]), 5),
        "gain": round(each.value, 5),
        "95 % interval, paired (DeLong)": [round(low, 5), round(high, 5)],
        "differs from zero": low > 0 or high < 0,
        "test rows": each.n,
        "trials": args.trials,
        "values": yamlfile.read_yaml(folder / "examples/adult/params.yaml")[0]["train"]["params"],
    }


def tested(folder: Path) -> answers.Answers:
    command = [sys.executable, "-m", "scripts.run", "--example", "adult"]
    env = {**os.environ, "PYTHONPATH": f"{folder}/src", "PAWL_ENV": "system"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    subprocess.run(command, cwd=folder, check=True, env=env, stdout=subprocess.DEVNULL)
    table = pq.read_table(folder / ".pawl/examples/adult/reports/predictions.parquet")
    return answers.of_table(table, "binary", ["<=50K", ">50K"], ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--rows", type=int, default=20_000, help="of the sample")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trainings", type=int, default=60)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=[*PARTS], help="the others stay as they were measured"
    )
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for part in args.only:
        with tempfile.TemporaryDirectory() as name:
            told = PARTS[part](Path(name), args)
        if part in {"processes", "adult"}:  # the others keep no study
            told["storage"] = os.environ.get("PAWL_TUNE_STORAGE", "sqlite").partition(":")[0]
        found[part] = told | {"date": datetime.now(UTC).date().isoformat()}
        found |= {"cores": os.cpu_count(), "python": platform.python_version()}
        found |= {"versions": {one: version(one) for one in ("optuna", "lightgbm")}}
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps({part: found[part]}, indent=2), flush=True)


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, object]]] = {"processes": processes, "samplers": samplers, "pruning": pruning, "adult": adult}  # fmt: skip


if __name__ == "__main__":
    main()
