"""How often scripts.drift alarms on nothing, and how often it finds what params.yaml looks for. Writes results/drift.json.

python benchmarks/drift.py                400 quiet windows and 200 shifted ones of each size
python benchmarks/drift.py --windows 20   fewer

The reference is 14,000 rows of the sample, with a model trained on them. Windows are drawn from 400,000 rows that no training saw, with
their labels; a quiet one is as it is, and in a shifted one some rows of one column get another value, so that its distance in truth is just `drift.effect`.
Each goes through `drift.assess`, which scripts.drift calls. Evidently's DataDriftPreset judges the first of them by its own defaults.
"""

import argparse
import json
import os
import platform
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa

from pawl import config, drift, metrics, sample
from pawl.drift import PREDICTION, Side, Window
from pawl.parts import Value

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "drift.json"
SIZES = (500, 1000, 4000)
NUMBERS = ("age", "education_years", "capital_gain", "hours_per_week")
SHIFTED = {"age": 90.0, "hours_per_week": 99.0, "occupation": "Sales", "region": "east"}  # the value that rows get
PEER = "Evidently's DataDriftPreset"
GOALS = {"quiet windows alarmed": "at most 0.05", "shifted windows found, from 1,000 rows": "at least 0.95"}


def rows(count: int, seed: int) -> Any:
    table = pa.Table.from_batches(sample.batches(count, seed, 0.0)).drop_columns(["month"])
    kinds = [(name, pa.float64() if name in NUMBERS else pa.string()) for name in table.column_names]
    return table.cast(pa.schema(kinds)).to_pandas()


def scored(reference: Any, pool: Any) -> tuple[Any, Any]:
    """Return the probabilities of the pool's rows, and of 4,000 more that stand for the test rows."""
    columns = [name for name in reference if name != "income"]
    for frame in (reference, pool):
        frame["y"] = (frame["income"] == ">50K").astype(np.int64)
    types = {name: pd.CategoricalDtype(sorted(reference[name].dropna().unique())) for name in columns if name not in NUMBERS}  # fmt: skip
    model = lightgbm.LGBMClassifier(n_estimators=120, learning_rate=0.05, num_leaves=15, n_jobs=1, verbose=-1)
    model.fit(reference[columns].astype(types), reference["y"])
    return model, lambda frame: model.predict_proba(frame[columns].astype(types))[:, 1]


def side(frame: Any, kinds: Any, seed: int) -> Side:
    found = Side(kinds, 50_000)
    table = pa.Table.from_pandas(frame[[*kinds]], preserve_index=False)
    found.add(table, np.random.default_rng(seed).integers(0, 2**63, len(frame)).astype(np.uint64))
    return found


def measured(frame: Any, score: Any) -> metrics.Estimate:
    return metrics.roc_auc(frame["y"].to_numpy(), np.stack([1 - score, score], axis=1))


def shift(frame: Any, pool: Any, name: str, effect: float, rng: Any) -> Any:
    """Return the window with one value in more rows, so that the distance to the pool is the effect."""
    share = effect / float((pool[name].dropna() != SHIFTED[name]).mean())
    return frame.assign(**{name: frame[name].where((rng.random(len(frame)) >= share) | frame[name].isna(), SHIFTED[name])})  # fmt: skip


def peer(reference: Any, frame: Any, columns: list[str]) -> tuple[bool, bool]:
    """Return whether Evidently's preset says that the table drifted, and that any column did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        words = [name for name in columns if name not in NUMBERS]
        shape = DataDefinition(numerical_columns=[*NUMBERS], categorical_columns=words)
        one, two = (Dataset.from_pandas(each[columns], data_definition=shape) for each in (reference, frame))
        found = Report([DataDriftPreset()]).run(two, one).dict()["metrics"][0]["value"]
    return bool(found["share"] >= 0.5), bool(found["count"] > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=400, help="quiet ones of each size; half as many are shifted")
    windows, begun = parser.parse_args().windows, time.time()
    limits = config.load(ROOT / "params.yaml").drift
    reference, pool = rows(14_000, 0), rows(400_000, 1)
    columns = [name for name in reference if name != "income"]
    _, predict = scored(reference, pool)
    pool[PREDICTION] = predict(pool)
    kinds: dict[str, drift.Kind] = {name: "number" if name in NUMBERS else "category" for name in [*columns, "income"]}
    answer: dict[str, drift.Kind] = {PREDICTION: "number"}
    test, rest = pool.iloc[:4000], pool.iloc[4000:]
    base, held = side(reference, kinds, 0), side(test, answer, 0)
    recorded = Value(*measured(test, test[PREDICTION].to_numpy()))
    kept: dict[str, Any] = {}
    for n in SIZES:
        alarms: dict[str, list[Any]] = {"quiet": [], "shifted": [], "peer quiet": [], "peer shifted": []}
        for number in range(windows + windows // 2):
            kind, rng = ("quiet" if number < windows else "shifted"), np.random.default_rng([n, number])
            frame = rest.iloc[rng.integers(0, len(rest), n)].reset_index(drop=True)
            if kind == "shifted":
                frame = shift(frame, rest, [*SHIFTED][number % len(SHIFTED)], limits.effect, rng)
                frame[PREDICTION] = predict(frame)
            now = side(frame, kinds | answer, number)
            got = drift.performance("roc_auc", 1, recorded, measured(frame, frame[PREDICTION].to_numpy()), limits)
            told = drift.assess(limits, base, now, name="the sample", window=Window(str(number)), prediction=(held, now), target=("income", now), measured=got)  # fmt: skip
            alarms[kind].append(told.verdict == "drift")
            if n == 1000 and len(alarms[f"peer {kind}"]) < min(windows, 60) // (1 if kind == "quiet" else 2):
                alarms[f"peer {kind}"].append(peer(reference, frame, columns))
        kept[f"{n:,} rows"] = alarms
        print(f"  {n:,} rows: {time.time() - begun:.0f} s", flush=True)
    ratios: dict[str, Any] = {}
    for n, alarms in kept.items():
        ratios[f"{n}: quiet windows alarmed"] = float(np.mean(alarms["quiet"]))
        ratios[f"{n}: shifted windows found"] = float(np.mean(alarms["shifted"]))
        for kind in ("quiet", "shifted"):
            if each := alarms[f"peer {kind}"]:
                ratios[f"{n}: {PEER}, {kind}: table, any column"] = np.mean(each, axis=0).tolist()
    for name, value in (ratios | GOALS).items():
        print(f"{name:<70} {value}")
    counts = {n: {kind: len(each) for kind, each in alarms.items()} for n, alarms in kept.items()}
    versions = {name: version(name) for name in ("evidently", "lightgbm", "numpy", "pandas", "scipy")}
    machine = {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}", "load": os.getloadavg()}
    report = {"ratios": ratios, "goals": GOALS, "windows": counts, "effect": limits.effect, "level": limits.level}
    report |= {"seconds": round(time.time() - begun), "versions": {"python": platform.python_version()} | versions}
    report |= {"machine": machine, "date": datetime.now(UTC).date().isoformat()}
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
