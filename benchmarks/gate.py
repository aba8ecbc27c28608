"""What the gate stops and lets pass, and what it costs: simulations and timings. Writes results/gate.json.

python benchmarks/gate.py            test sets of 500, 2,000 and 8,000 rows; comparisons of 10,000 to 10 million predictions
python benchmarks/gate.py --quick    fewer simulations, at most 1 million predictions

ADULT=<folder> says where adult.data and adult.test lie; without it ../shared/data/adult beside the checkout.

Each model is trained once and answers a pool of rows: the 16,281 of adult.test, or 400,000 of the sample that no training
saw. A test set is drawn from the pool with replacement, so that the pool is the population, and the truth is the difference
on all of it. A simulation judges one candidate against the base model on one test set. Candidates are trained with other
seeds or on other 80 % of the rows, or lack trees or a column. The former are
harmless; the latter worse, or allowed where in truth no metric of all rows loses more than gates.yaml allows. A test set
too small for a required slice fails with any model: `for a loss` counts the rest. What training itself adds by chance
is not simulated. Ratios are of processor seconds, which others on the machine change little.
"""

import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from scipy.stats import norm

from pawl import metrics
from pawl.answers import Answers, pair
from pawl.gate import compare, rules
from pawl.gate.statistics import difference, value
from pawl.gate.verdict import judge, overall

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "gate.json"
NOW = datetime.now(UTC).date()
SIZES = (500, 2000, 8000)
SLICES = {"sample": ("sex", "region"), "Adult": ("sex", "race")}
MODELS: dict[str, dict[str, Any]] = {
    "base": {},
    **{f"seed {seed}": {"random_state": seed} for seed in (1, 2)},
    **{f"80 % of rows, {part}": {"part": part} for part in (1, 2)},
    **{f"{trees} trees": {"n_estimators": trees} for trees in (40, 80)},
    **{f"no {column}": {"without": column} for column in ("capital_gain", "occupation")},
}
CLOSED = ("roc_auc", "accuracy", "log_loss", "brier")  # their errors are formulas
DRAWN = ("f1", "recall", "ece", "average_precision")  # of resamples, which take longer: at 2,000 rows alone
Z95 = 1.959964
FLOOR = "roc_auc_score of both models"  # scikit-learn's: what any comparison of two models costs
STEP = "roc_auc, first step of Holm"
MLFLOW = 0.001  # min_absolute_change: an improvement is asked for, and 0 is not taken
GOALS = {
    "harmless changes that fail for a loss": "at most 0.05",
    "power of roc_auc, less what is promised": "-0.05 to 0.05",
    "coverage of a 95 % interval": "0.93 to 0.97",
    "1,000,000 predictions": "at most 5 seconds and 1,024 MiB",
}
TRAINED: dict[str, tuple[Answers, dict[str, Any], int]] = {}  # of the case at hand: the processes below inherit it


def tables(case: str, adult: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Return (training rows, pool, parameters)."""
    import pandas as pd
    import pyarrow as pa

    from pawl import sample

    params = yaml.safe_load((ROOT / ("params.yaml" if case == "sample" else "examples/adult/params.yaml")).read_text())
    if case == "sample":
        drawn = [sample.batches(rows, seed, 0.0) for rows, seed in ((16_000, 0), (400_000, 1))]
        return *(pa.Table.from_batches(each).to_pandas().drop(columns="month") for each in drawn), params
    given = {"names": params["ingest"]["csv"]["names"], "skipinitialspace": True, "na_values": "?", "comment": "|"}
    parts = [pd.read_csv(adult / f"adult.{part}", **given).drop(columns="fnlwgt") for part in ("data", "test")]
    return parts[0], parts[1].assign(income=parts[1]["income"].str.rstrip(".")), params


def train(case: str, table: Any, pool: Any, params: dict[str, Any]) -> None:
    """Fill TRAINED with {model: (its answers on the pool, what it loses on training and validation rows, its bytes)}."""
    import lightgbm
    from sklearn.metrics import log_loss

    TRAINED.clear()
    y, truth = ((each.pop("income") == ">50K").to_numpy().astype(np.int64) for each in (table, pool))
    coded = {name: np.unique(pool[name], return_inverse=True) for name in SLICES[case]}
    slices = {name: (tuple(f"{name}={each}" for each in values), codes) for name, (values, codes) in coded.items()}
    for name in table.columns.difference(table.select_dtypes("number").columns):
        table[name] = table[name].astype("category")
        pool[name] = pool[name].astype(table[name].dtype)
    order, fit = np.random.default_rng(0).permutation(len(y)), params["train"]
    valid, rest = order[: len(y) // 10], order[len(y) // 10 :]
    for name, change in MODELS.items():
        part = change.get("part")
        rows = np.random.default_rng(part).permutation(rest)[: len(rest) * 8 // 10] if part else rest
        given = {key: change.get(key, each) for key, each in ({"random_state": 0} | fit["params"]).items()}
        columns = table.columns.drop(change.get("without", []))
        (X, target), (held, other) = ((table.loc[each, columns], y[each]) for each in (rows, valid))
        model = lightgbm.LGBMClassifier(**given, deterministic=True, force_row_wise=True, n_jobs=1, verbose=-1)
        stop = lightgbm.early_stopping(fit["early_stopping"], verbose=False)
        model.fit(X, target, eval_X=(held,), eval_y=(other,), callbacks=[stop])
        gap = {"train": (target, X), "valid": (other, held)}
        gap = {part: {"log_loss": float(log_loss(real, model.predict_proba(of)))} for part, (real, of) in gap.items()}
        score, size = model.predict_proba(pool[columns])[:, 1], len(model.booster_.model_to_string())
        TRAINED[name] = answers(truth, score, slices), gap, size


def answers(y: Any, score: Any, slices: Any) -> Answers:
    """Return the answers of a model that gives these scores."""
    rows, prediction = np.arange(len(y), dtype=np.uint64), (score >= 0.5).astype(np.int64)
    return Answers("binary", ("no", "yes"), rows, y, prediction, pair(score), None, slices, len(y))


def gates(by: tuple[str, ...]) -> rules.Gates:
    """Return gates.yaml as it ships, with slices of these columns."""
    shipped = rules.load(ROOT / "gates.yaml")
    slices = tuple(msgspec.structs.replace(each, by=by) for each in shipped.slices)
    return msgspec.structs.replace(shipped, slices=slices)


def verdicts(file: rules.Gates, one: Answers, two: Answers, sizes: tuple[float, float], gap: Any) -> dict[str, float]:
    """Return what the whole of gates.yaml says of one candidate."""
    facts = msgspec.structs.replace(compare.facts(two, file, size=sizes[1]), **gap)
    baseline = compare.Other("0" * 40, lambda: one, size=sizes[0])
    compared, state, why = compare.compare(file, two, sizes[1], baseline)
    judged = judge(file, facts, compared, state, why, NOW)
    loss = {each.rule for each in judged if each.verdict == "fail" and "worse by" in each.reason}
    found = {word: overall(judged) == word for word in ("fail", "inconclusive")}
    found |= {"fail for a loss": bool(loss), "roc_auc fails": "roc_auc" in loss}
    return found | {"tests": sum(bool(each.error) for each in compared)}


def simulate(by: tuple[str, ...], name: str, n: int, counts: tuple[int, int, int]) -> tuple[Any, Any]:
    """Return (the mean of what gates.yaml says, {metric: (difference, its error, p) of each test set})."""
    (base, _, size), (other, gap, its_size) = TRAINED["base"], TRAINED[name]
    file, said = gates(by), []
    metrics.DRAWS = 10  # of the intervals beside values, which judge nothing
    found: dict[str, list[Any]] = {}
    for simulation in range(counts[1]):
        chosen = np.random.default_rng([n, simulation]).integers(0, len(base.y), n)
        rows = {"rows": np.arange(n, dtype=np.uint64), "total": n}
        one, two = (each.take(chosen)._replace(**rows) for each in (base, other))
        if simulation < counts[0]:
            said.append(verdicts(file, one, two, (size, its_size), gap))
        for metric in CLOSED + DRAWN * (n == 2000 and simulation < counts[2]):
            each = difference(metric, one, two)
            found.setdefault(metric, []).append((each.value, each.error, each.p_lower))
    means = {key: float(np.mean([each[key] for each in said])) for key in said[0]}
    return means, {metric: np.array(values).T for metric, values in found.items()}


def check_mlflow(changes: Any) -> None:
    """Assert that MLflow refuses just those changes of AUC that are below MLFLOW."""
    import logging

    import mlflow
    from mlflow.models.evaluation import EvaluationResult, MetricThreshold
    from mlflow.models.evaluation.validation import ModelValidationFailedException

    logging.getLogger("mlflow").setLevel("WARNING")
    asked = {"roc_auc": MetricThreshold(min_absolute_change=MLFLOW, greater_is_better=True)}
    for change in changes:
        try:
            results = [EvaluationResult({"roc_auc": auc}, {}) for auc in (0.9 + change, 0.9)]
            mlflow.validate_evaluation_results(asked, *results)
        except ModelValidationFailedException:
            assert change < MLFLOW
        else:
            assert change >= MLFLOW


def rates(case: str, counts: tuple[int, int, int]) -> tuple[dict[str, Any], dict[str, list[bool]]]:
    """Return what each rule says of each candidate at each size, and where 95 % intervals held the truth."""
    base, of_file = TRAINED["base"][0], gates(SLICES[case])
    limits = [(each, rule) for each, rule in of_file.metrics.items() if isinstance(rule.max_regression, float)]
    margin, found, held = 0.005, {}, dict[str, list[bool]]()
    assert of_file.metrics["roc_auc"].max_regression == margin
    cells = list(itertools.product(SIZES, list(MODELS)[1:]))
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        jobs = [pool.submit(simulate, SLICES[case], name, n, counts) for n, name in cells]
        for (n, name), job in zip(cells, jobs, strict=True):
            said, differences = job.result()
            truth = {metric: value(metric, TRAINED[name][0]) - value(metric, base) for metric in CLOSED + DRAWN}
            for metric, (change, error, _) in differences.items():
                inside = np.abs(change - truth[metric]) <= Z95 * error
                held.setdefault(f"{metric}, {n:,} rows", []).extend(inside.tolist())
            change, error, p = differences["roc_auc"]
            spread, loss, tests = float(np.median(error)), -truth["roc_auc"], max(said["tests"], 1)
            promised = norm.sf((max(margin, norm.ppf(1 - 0.05 / tests) * spread) - loss) / spread)
            within = all(-rule.sign * truth[metric] <= rule.allowance(0) for metric, rule in limits)
            if name == "seed 1":
                check_mlflow(change[:5])
            found[f"{case}, {n:,} rows, {name}"] = {
                "kind": "harmless" if name.startswith(("seed", "80 %")) else "allowed" if within else "worse",
                "loss of roc_auc": loss,
                "its standard error": spread,
                **{f"gates.yaml: {key}": share for key, share in said.items()},
                f"{STEP}: fails": float(np.mean((change < -margin) & (p * tests < 0.05))),
                f"{STEP}: promised": float(promised),
                "no drop": float(np.mean(change < 0)),
                "drop > 0.005": float(np.mean(change < -margin)),
                "MLflow": float(np.mean(change < MLFLOW)),
            }
            print(f"  {case}, {n:,} rows, {name}: {said}", flush=True)
    return found, held


def child(n: int, what: str) -> dict[str, float]:
    """Return the seconds of one comparison of n predictions, and the peak memory of this process."""
    from sklearn.metrics import roc_auc_score

    file = gates(("sex", "region"))
    for count in (2000, n):  # the first one imports what the second one needs
        rng = np.random.default_rng(0)
        signal = rng.normal(size=count)
        y = (signal + rng.normal(size=count) > 1).astype(np.int64)
        named = {"sex": ("sex=Female", "sex=Male"), "region": tuple("abcde")}
        slices = {name: (values, rng.integers(0, len(values), count)) for name, values in named.items()}
        noise = (rng.normal(0, 0.3, count) for _ in range(2))
        one, two = (answers(y, 1 / (1 + np.exp(1.2 - 1.5 * (signal + each))), slices) for each in noise)
        before, begun = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            (time.perf_counter(), time.process_time()),
        )
        if what == FLOOR:
            [roc_auc_score(each.y, each.probabilities[:, 1]) for each in (one, two)]
        else:
            verdicts(file, one, two, (1e6, 1e6), {"train": {"log_loss": 0.4}, "valid": {"log_loss": 0.4}})
    found = {"seconds": time.perf_counter() - begun[0], "cpu_seconds": time.process_time() - begun[1]}
    return found | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "peak_mib_before": before}


def scale(sizes: list[int], repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (ratios, figures) of comparisons, each in a process of its own, in turn with the floor."""
    figures: dict[str, Any] = {}
    for n in sizes:
        runs: dict[str, list[dict[str, float]]] = {FLOOR: [], "gate": []}
        for _, (name, tries) in itertools.product(range(repeats if n <= 1_000_000 else 1), runs.items()):
            command = [sys.executable, __file__, "--child", str(n), name]
            tries.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
        keys = list(runs["gate"][0])
        middle = {
            name: {key: statistics.median(each[key] for each in tries) for key in keys} for name, tries in runs.items()
        }
        figures[f"{n:,} predictions"] = middle
    ours, floor = ([each[name]["cpu_seconds"] for each in figures.values()] for name in ("gate", FLOOR))
    pairs = zip(figures, ours, floor, strict=True)
    ratios: dict[str, Any] = {f"{name}: gate / {FLOOR}": round(mine / other, 2) for name, mine, other in pairs}
    for (low, high), (one, two) in zip(itertools.pairwise(sizes), itertools.pairwise(ours), strict=True):
        growth = [np.log(two / one), np.log(high * np.log(high) / low / np.log(low))] / np.log(high / low)
        ratios[f"{low:,} to {high:,}: exponent of growth, and that of n log n"] = growth.round(2).tolist()
    return ratios, figures


def main() -> None:
    """Measure, simulate, print the ratios beside their goals, write the file."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(int(sys.argv[2]), sys.argv[3])))
        return
    quick = "--quick" in sys.argv[1:]
    adult = Path(os.environ.get("ADULT", ROOT.parent / "shared/data/adult")).absolute()
    ratios, figures = scale([10_000, 100_000, 1_000_000] + [10_000_000] * (not quick), 1 if quick else 3)
    simulated: dict[str, Any] = {}
    held: dict[str, list[bool]] = {}
    skipped = {}
    for case in SLICES:
        if case == "Adult" and not (adult / "adult.data").exists():
            skipped = {case: f"{adult.name}/adult.data does not exist: set ADULT to its folder"}
            continue
        train(case, *tables(case, adult))
        found, covered = rates(case, (10, 30, 5) if quick else (80, 400, 40))
        simulated |= found
        for name, each in covered.items():
            held.setdefault(name, []).extend(each)
    shares: dict[str, Any] = {}
    for n, kind in itertools.product(SIZES, ("harmless", "allowed", "worse")):
        chosen = [each for name, each in simulated.items() if f" {n:,} rows" in name and each["kind"] == kind]
        keys = [key for key in (chosen or [{}])[0] if key.startswith(("gates", "no", "drop", "MLflow"))]
        means = {key: round(statistics.mean(each[key] for each in chosen), 4) for key in keys}
        shares[f"{n:,} rows, {kind}"] = means
    power = {name: round(each[f"{STEP}: fails"] - each[f"{STEP}: promised"], 4) for name, each in simulated.items()}
    coverage = {name: round(statistics.mean(each), 4) for name, each in held.items()}
    report = {"shares that fail": shares, "power of roc_auc, less what is promised": power, "coverage": coverage}
    for name, each in (ratios | shares | power | coverage | GOALS).items():
        print(f"{name:<70} {each}")
    machine = {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}", "load": os.getloadavg()}
    versions = {name: version(name) for name in ("lightgbm", "mlflow", "numpy", "pandas", "scikit-learn", "scipy")}
    report = {"ratios": ratios, "goals": GOALS} | report | {"figures": figures, "simulated": simulated}
    report |= {"skipped": skipped, "quick": quick, "versions": {"python": platform.python_version()} | versions}
    report |= {"machine": machine, "date": NOW.isoformat()}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    report = json.loads(json.dumps(report), parse_float=lambda digits: round(float(digits), 5))
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
