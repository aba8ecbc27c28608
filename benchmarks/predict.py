"""What batch prediction costs: ratios of commands that take turns on one machine, with the model of models/bundle. Writes results/predict.json.

python benchmarks/predict.py            1,000,000 rows of the sample as CSV, MLflow's on 100,000, ours alone on 10,000,000; after `make run`
python benchmarks/predict.py --quick    50,000, 10,000 and 100,000 rows, fewer repeats

The peers: a plain pandas script (read, predict_proba of the same bundle's pipeline, write), `mlflow models predict` on the registered model, and
the floor of whoever walks the trees: LightGBM's predict alone, with every core, on a matrix that is there.
"""

import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pipeline
import pyarrow.csv
import pyarrow.parquet as pq
from pipeline import DISTURBED, ROOT, timed

from pawl import bundle, sample

RESULTS = ROOT / "benchmarks" / "results" / "predict.json"
GOALS = {"plain script / ours": "at least 1.5", "peak MiB": "at most 1000"}
MODEL = ROOT / "models/bundle"
PLAIN = """
import sys, numpy as np, pandas as pd
from pathlib import Path
from pawl import bundle
model = bundle.load(Path(sys.argv[1]))
table = pd.read_csv(sys.argv[2])
scores = model.pipeline.predict_proba(table[list(model.dtypes)])
labels = model.manifest["labels"]
answers = pd.DataFrame(scores, columns=[f"probability {label}" for label in labels])
answers.insert(0, "prediction", np.array(labels)[(scores[:, 1] >= model.manifest["threshold"]).astype(int)])
answers.to_parquet(sys.argv[3])
"""
TREES = """
import sys, time, numpy as np, pandas as pd
from pathlib import Path
from pawl import bundle
model = bundle.load(Path(sys.argv[1]))
made = model.pipeline[:-1].transform(pd.read_csv(sys.argv[2])[list(model.dtypes)])
matrix = np.ascontiguousarray(made.toarray() if hasattr(made, "toarray") else made, dtype=float)
started = time.perf_counter()
model.pipeline[-1].booster_.predict(matrix)
print(time.perf_counter() - started)
"""


def table(rows: int, path: Path) -> Path:
    batches = sample.batches(rows, 1, 0.0)
    first = next(batches)
    with pyarrow.csv.CSVWriter(path, first.schema) as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    return path


def differing(ours: Path, theirs: Any) -> dict[str, Any]:
    """Return of how many rows an answer differs, and by how much at most."""
    import numpy as np

    mine = pq.read_table(ours)
    names = [name for name in mine.column_names if name.startswith("probability ")]
    apart = np.abs(np.stack([mine.column(name).to_numpy() - theirs[name] for name in names]))
    labels = mine.column("prediction").cast("string").to_pylist()
    other = sum(one != each for one, each in zip(labels, theirs["prediction"], strict=True))
    return {
        "rows": len(labels),
        "differ in a bit": int((apart > 0).any(axis=0).sum()),
        "at most": float(apart.max()),
        "other label": other,
    }


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    rows, few, many, repeats = (50_000, 10_000, 100_000, 2) if quick else (1_000_000, 100_000, 10_000_000, 3)
    pipeline.PATIENCE = 0 if quick else pipeline.PATIENCE
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    digest, registered = bundle.digest_of(MODEL), None
    for each in (ROOT / "mlartifacts").glob("*/models/*/artifacts"):
        registered = each if bundle.digest_of(each / "data/bundle") == digest else registered
    if registered is None:
        sys.exit("the model in models/bundle is not in mlartifacts/: `make run`")
    with tempfile.TemporaryDirectory(prefix="pawl-bench-") as name:
        folder, runs = Path(name), {}
        for file in ("params.yaml", "pyproject.toml"):
            shutil.copy2(ROOT / file, folder)
        whole, part = str(table(rows, folder / "whole.csv")), str(table(few, folder / "part.csv"))
        ours = ["python", "-m", "scripts.predict", "--model", str(MODEL), "--from"]
        commands = {
            "ours": [*ours, whole, "--to", "ours.parquet"],
            "plain script": ["python", "-c", PLAIN, str(MODEL), whole, "plain.parquet"],
            "trees alone": ["python", "-c", TREES, str(MODEL), whole],
            "ours, fewer rows": [*ours, part, "--to", "part.parquet"],
            "mlflow models predict, fewer rows": ["mlflow", "models", "predict", "--model-uri", str(registered), "--input-path", part,
                                                  "--content-type", "csv", "--output-path", "mlflow.json", "--env-manager", "local"],
        }  # fmt: skip
        for _ in range(repeats):
            for title, command in commands.items():
                found = timed(command, folder, environment)
                if title == "trees alone":
                    found["seconds"] = float((folder / "output.txt").read_text().split()[-1])
                runs.setdefault(title, []).append(found)
                print(f"  {title}: {found['seconds']:.2f} s, others took {found['others']:.0%}", flush=True)
        plain = pq.read_table(folder / "plain.parquet").to_pandas()
        told = json.loads((folder / "mlflow.json").read_text())["predictions"]
        labels = json.loads((MODEL / "manifest.json").read_text())["labels"]
        theirs: dict[str, Any] = {
            f"probability {label}": [each["probabilities"][label] for each in told] for label in labels
        }
        theirs["prediction"] = [each["predictions"] for each in told]
        identity = {
            "plain script": differing(folder / "ours.parquet", plain),
            "mlflow models predict": differing(folder / "part.parquet", theirs),
        }
        largest = timed([*ours, str(table(many, folder / "many.csv")), "--to", "many"], folder, environment)
        assert pq.read_table(folder / "many", columns=["row"]).num_rows == many

    middle = {title: statistics.median(each["seconds"] for each in found) for title, found in runs.items()}
    ratios = {
        "plain script / ours": round(middle["plain script"] / middle["ours"], 2),
        "mlflow models predict / ours, fewer rows": round(
            middle["mlflow models predict, fewer rows"] / middle["ours, fewer rows"], 2
        ),
        "trees alone / ours": round(middle["trees alone"] / middle["ours"], 2),
    }
    figures = {
        title: {key: round(statistics.median(each[key] for each in found), 2) for key in found[0]}
        for title, found in runs.items()
    }
    versions = {name: version(name) for name in ("lightgbm", "mlflow", "numpy", "pandas", "pyarrow", "scikit-learn")}
    report = {
        "ratios": ratios, "goals": GOALS, "identity": identity, "rows": {"whole": rows, "fewer": few},
        "ours alone": {"rows": many, **{key: round(value, 2) for key, value in largest.items()}, "rows a second": round(many / largest["seconds"])},
        "figures": figures, "trees": json.loads((MODEL / "manifest.json").read_text())["rounds"], "quick": quick,
        "disturbed": max(each["others"] for found in runs.values() for each in found) > DISTURBED,
        "versions": {"python": platform.python_version(), **versions},
        "machine": {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}, "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: report[key] for key in ("ratios", "identity", "ours alone", "disturbed")}, indent=2))


if __name__ == "__main__":
    main()
