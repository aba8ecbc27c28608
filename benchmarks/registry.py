"""What tracking and registration add to `make run`, and what the kept registry costs. Writes results/registry.json.

python benchmarks/registry.py        PAWL_REGISTRY=localhost:5000 names a container registry that takes pushes without a login

The peer writes with MLflow alone what `mlflow.lightgbm.autolog` would, and registers the model: no report, no pipeline, no digest, a new
version each time. Medians of five, alternating; seconds are of this machine, ratios hold elsewhere.
"""

import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "registry.json"
VERSIONS = 100
PEER = """
import mlflow, yaml
from pathlib import Path
from pawl import bundle
loaded = bundle.load(Path("models/bundle"))
mlflow.set_tracking_uri("sqlite:///peer.db")
with mlflow.start_run():
    mlflow.log_params(loaded.pipeline[-1].get_params())
    mlflow.log_metrics({"roc_auc": 0.9})
    mlflow.lightgbm.log_model(loaded.pipeline[-1].booster_, name="model", registered_model_name="peer")
"""


def timed(*command: str, folder: Path, **environ: str) -> float:
    started = time.perf_counter()
    env = {
        **os.environ,
        "PYTHONPATH": f"{folder}/src",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PAWL_ENV": "system",
        **environ,
    }
    done = subprocess.run(command, cwd=folder, env=env, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.perf_counter() - started


def project(folder: Path) -> Path:
    """Return a folder with this checkout's files, committed."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    who = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    for words in (["init", "--quiet"], ["add", "--all"], [*who, "commit", "--quiet", "--message", "bench"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def forget(folder: Path) -> None:
    for name in ("mlflow.db", "peer.db"):
        (folder / name).unlink(missing_ok=True)
    for name in ("mlartifacts", "mlruns", ".pawl/done"):
        shutil.rmtree(folder / name, ignore_errors=True)


def registration(folder: Path) -> dict[str, float]:
    """`make run` whose pipeline has nothing to do, with a registration and without: what it adds. The store is new each time."""
    make = ["make", f"PYTHON={sys.executable}", "run"]
    whole = timed(*make, folder=folder)
    added, bare, ours, first, peer = [], [], [], [], []
    for _ in range(5):
        (folder / ".pawl/done/smoke").unlink()
        bare.append(timed(*make, folder=folder))
        forget(folder)
        added.append(timed(*make, folder=folder) - bare[-1])
        forget(folder)
        first.append(timed(sys.executable, "-m", "scripts.register", folder=folder))
        shutil.rmtree(folder / ".pawl/done")
        with sqlite3.connect(folder / "mlflow.db") as store:  # as after another commit: nothing of it is known
            for table in ("tags", "model_version_tags"):
                store.execute(f"update {table} set value = 'other' where key in ('pawl.lock', 'pawl.digest')")  # noqa: S608 - two words
        ours.append(timed(sys.executable, "-m", "scripts.register", folder=folder))
        peer.append(timed(sys.executable, "-c", PEER, folder=folder))
        timed(*make, folder=folder)
    again = timed(sys.executable, "-m", "scripts.register", folder=folder)
    more, new, into, alone = (statistics.median(each) for each in (added, first, ours, peer))
    return {
        "share of make run": round(more / whole, 3),
        "first registration / MLflow alone": round(new / alone, 2),
        "make run, seconds": round(whole, 1),
        "added to make run, seconds": round(more, 1),
        "first registration, seconds": round(new, 1),
        "registration into an existing store, seconds": round(into, 1),
        "nothing to do, seconds": round(again, 2),
        "MLflow alone, new store, seconds": round(alone, 1),
    }


def store(folder: Path, host: str) -> dict[str, float]:
    place = f"{host}/bench-{uuid.uuid4().hex[:8]}/registry"
    models = next((folder / "mlartifacts/pawl/models").iterdir())
    runs = next(path for path in (folder / "mlartifacts/pawl").iterdir() if path.name != "models")
    for number in range(VERSIONS - 1):
        for original in (models, runs):
            copy = original.with_name(f"{original.name}-{number}")
            shutil.copytree(original, copy)
            (copy / "artifacts/salt").write_bytes(os.urandom(64))
            trees = copy / "artifacts/model.lgb"
            if trees.exists():  # other trees: nothing in a registry shares blocks with another version
                trees.write_bytes(bytes(byte ^ (number + 1) for byte in trees.read_bytes()))
    size = sum(path.stat().st_size for path in (folder / "mlartifacts").rglob("*") if path.is_file())
    script = [sys.executable, "-m", "scripts.store"]
    first = timed(*script, "push", place, folder=folder)
    shutil.copytree(models, models.with_name("one-more"))
    (models.with_name("one-more") / "artifacts/salt").write_bytes(os.urandom(64))
    more = timed(*script, "push", place, folder=folder)
    packed = sum(layer["size"] for layer in json.loads((folder / ".pawl/store.json").read_text())["manifest"]["layers"])
    for name in ("mlflow.db", "mlartifacts"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    pull = timed(*script, "pull", place, folder=folder)
    return {
        "one version more / the first push": round(more / first, 3),
        "kept / files": round(packed / size, 3),
        "versions": VERSIONS,
        "files, MB": round(size / 1e6, 1),
        "kept, MB": round(packed / 1e6, 1),
        "first push, seconds": round(first, 1),
        "one version more, seconds": round(more, 1),
        "pull, seconds": round(pull, 1),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = project(Path(name))
        found = {
            "registration": registration(folder),
            "store": store(folder, os.environ.get("PAWL_REGISTRY", "localhost:5000")),
            "date": datetime.now(UTC).date().isoformat(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in ("mlflow", "oras", "lightgbm", "scikit-learn")},
        }
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
