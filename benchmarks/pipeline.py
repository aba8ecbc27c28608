"""What the pipeline costs over a bare script: ratios of commands that take turns on one machine. Writes results/pipeline.json.

python benchmarks/pipeline.py            Adult, and the sample table at 10,000, 100,000 and 1,000,000 rows
python benchmarks/pipeline.py --quick    Adult and 10,000 rows, fewer repeats

ADULT=<folder> says where adult.data and adult.test lie; without it ../shared/data/adult beside the checkout.
"""

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
RESULTS = ROOT / "benchmarks" / "results" / "pipeline.json"
COPIED = ("src", "scripts", "requirements", ".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "pyproject.toml")
RUN, DVC, EMPTY = "scripts.run", "dvc repro", "dvc repro without fingerprint"  # EMPTY: where DVC has nothing to run
COMMANDS = {RUN: ["python", "-m", "scripts.run"], DVC: ["dvc", "repro"], EMPTY: ["dvc", "repro"]}
GOALS = {  # at most
    f"Adult: cold, {RUN} / bare": 3.0,
    f"Adult: no-op, {RUN} / {EMPTY}": 1.1,
    f"1,000,000 rows: cold, {RUN} / bare": 1.1,
    "1,000,000 rows: validate / train": 0.25,
}
# A measurement during which others took more than this share of the machine is made again, and does not count.
DISTURBED = 0.1
ATTEMPTS, PATIENCE, LONG = 3, 20, 60  # tries; seconds to wait before each; one try where it takes longer than that


def clock() -> tuple[float, float, float]:
    """Return the time, the seconds that all processors together have worked, and those that this process has."""
    stat = Path("/proc/stat")
    ticks = [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]] if stat.exists() else [0] * 8
    mine = resource.getrusage(resource.RUSAGE_SELF)
    busy = (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), busy, mine.ru_utime + mine.ru_stime


def settle() -> None:
    """Wait until other processes leave the machine alone, but not for long."""
    for _ in range(PATIENCE):
        before = clock()
        time.sleep(1.0)
        seconds, busy, _ = (end - start for start, end in zip(before, clock(), strict=True))
        if busy / seconds / (os.cpu_count() or 1) < DISTURBED:
            return


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Run a command; return its seconds, processor seconds, peak MiB, and the share of the machine that others took meanwhile."""
    settle()
    before = clock()
    with (folder / "output.txt").open("w") as output:
        words = [str(BIN / command[0]), *command[1:]]
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    seconds, busy, mine = (end - start for start, end in zip(before, clock(), strict=True))
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(folder / 'output.txt').read_text()[-2000:]}")
    own = usage.ru_utime + usage.ru_stime
    others = max(0.0, busy - own - mine) / seconds / (os.cpu_count() or 1)
    return {"seconds": seconds, "cpu_seconds": own, "others": others, "peak_mib": usage.ru_maxrss / 1024}


def workspace(folder: Path, rows: int | None) -> Path:
    """Return a new checkout with an installed environment and nothing else: no outputs, no cache."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    config = ROOT if rows else ROOT / "examples" / "adult"
    shutil.copy2(config / "schema.yaml", folder)
    params = yaml.safe_load((config / "params.yaml").read_text())
    if rows:
        params["ingest"] = {"source": "sample", "sample": {"rows": rows, "seed": 0, "drift": 0.0}}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    git = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false"]
    for words in (["init"], ["add", "--all"], ["commit", "--message=bench"]):
        subprocess.run([*git, *words], cwd=folder, check=True, capture_output=True)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def splits(place: Path, environment: dict[str, str]) -> str:
    """Return a file with the split of each row as the pipeline draws it, in the order of the source."""
    import numpy as np
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    timed([*COMMANDS[DVC], "prepare"], place, environment)
    row_id = pq.read_table(place / "data/raw.parquet", columns=["row_id"]).column(0)
    split = np.full(len(row_id), "train")
    for name in ("valid", "test"):
        drawn = pq.read_table(place / f"data/prepared/{name}.parquet", columns=["row_id"]).column(0)
        split[pc.is_in(row_id, drawn).to_numpy()] = name
    np.save(place / "split.npy", split)
    return str(place / "split.npy")


def compare(case: str, rows: int | None, adult: Path, folder: Path, repeats: int) -> tuple[dict[str, Any], Any]:
    """Return (ratios, figures) of one table. A repetition runs every command once, in turn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pawl import sample

    tables = [adult / "adult.data", adult / "adult.test"]
    if rows:
        tables = [folder / "table.parquet"]
        pq.write_table(pa.Table.from_batches(sample.batches(rows, 0, 0.0)), tables[0])
    quiet = {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(folder / "site"), "ADULT": str(adult)}
    environment = os.environ | quiet | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    given = splits(workspace(folder / "split", rows), environment)
    bare = ["python", str(ROOT / "benchmarks/bare.py"), "params.yaml", given, "bare", *map(str, tables)]
    runs: dict[str, list[dict[str, float]]] = {}

    def measure(name: str, command: list[str], place: Path, *, fresh: bool) -> None:
        tries: list[dict[str, Any]] = []
        while not tries or (tries[-1]["others"] > DISTURBED and tries[-1]["seconds"] < LONG and len(tries) < ATTEMPTS):
            here = workspace(place, rows) if fresh else place
            tries.append(timed(command, here, environment))
            stages = here / ".pawl/stages.jsonl"
            tries[-1]["stages"] = list(map(json.loads, stages.read_text().splitlines())) if stages.exists() else []
        best = min(tries, key=lambda each: each["others"])
        for entry in best.pop("stages") if name == f"cold, {RUN}" else []:
            found = {key: entry[key] for key in ("seconds", "peak_mib")} | {"others": best["others"]}
            runs.setdefault(f"stage {entry['stage']}", []).append(found)
        if fresh:
            made = {"bare": "bare/metrics.json"}.get(name, "models/bundle/manifest.json")
            best["rounds"] = json.loads((here / made).read_text())["rounds"]
        best.pop("stages", None)
        runs.setdefault(name, []).append(best)
        print(f"  {case}: {name}: {best['seconds']:.2f} s, others took {best['others']:.0%}", flush=True)

    cold = [RUN, DVC] if not rows else [RUN]
    for _ in range(repeats):
        measure("bare", bare, folder / "bare", fresh=True)
        for name in cold:
            measure(f"cold, {name}", [*COMMANDS[name], "--force", "--no-run-cache"], folder / name, fresh=True)
    idle = list(COMMANDS) if not rows or rows <= 10_000 else []
    for name in idle:
        place = workspace(folder / name, rows)
        if name == EMPTY:
            lines = (place / "dvc.yaml").read_text().splitlines(keepends=True)
            (place / "dvc.yaml").write_text("".join(line for line in lines if "always_changed" not in line))
        timed(COMMANDS[name], place, environment)
    for _ in range(repeats + 2):
        for name in idle:
            measure(f"no-op, {name}", COMMANDS[name], folder / name, fresh=False)

    def counted(name: str) -> list[dict[str, float]]:
        return [each for each in runs[name] if each["others"] <= DISTURBED] or runs[name]

    def ratio(ours: str, theirs: str) -> dict[str, Any]:
        a, b = ([each["seconds"] for each in counted(name)] for name in (ours, theirs))
        middle = statistics.median(a) / statistics.median(b)
        return {
            "ratio": round(middle, 3),
            "range": [round(min(a) / max(b), 3), round(max(a) / min(b), 3)],
            "counted": [len(a), len(b)],
            "disturbed": max(each["others"] for name in (ours, theirs) for each in counted(name)) > DISTURBED,
        }

    ratios = {f"{case}: cold, {name} / bare": ratio(f"cold, {name}", "bare") for name in cold}
    for name in idle[:2]:
        ratios[f"{case}: no-op, {name} / {EMPTY}"] = ratio(f"no-op, {name}", f"no-op, {EMPTY}")
    ratios[f"{case}: validate / train"] = ratio("stage validate", "stage train")
    figures = {
        name: {key: round(statistics.median(each[key] for each in counted(name)), 3) for key in runs[name][0]}
        for name in runs
    }
    return ratios, figures


def main() -> None:
    """Measure every table, print the ratios beside their goals, write the file."""
    quick = "--quick" in sys.argv[1:]
    cases: dict[str, int | None] = {"Adult": None}
    cases |= {f"{rows:,} rows": rows for rows in ([10_000] if quick else [10_000, 100_000, 1_000_000])}
    adult = Path(os.environ.get("ADULT", ROOT.parent / "shared/data/adult")).absolute()
    skipped = {}
    if not (adult / "adult.data").exists():
        skipped = {"Adult": f"{adult.name}/adult.data does not exist: set ADULT to its folder"}
        del cases["Adult"]
        print(f"skipped: Adult: {skipped['Adult']}")
    ratios: dict[str, Any] = {}
    figures = {}
    for case, rows in cases.items():
        repeats = 1 if rows == 1_000_000 else 2 if quick or rows else 3  # a million rows take minutes
        with tempfile.TemporaryDirectory(prefix="pawl-bench-") as folder:
            found, figures[case] = compare(case, rows, adult, Path(folder), repeats)
        ratios |= found
    for name, value in ratios.items():
        goal = f"  goal: at most {GOALS[name]}" if name in GOALS else ""
        print(
            f"{name:<65} {value['ratio']:>6}  ({value['range'][0]} to {value['range'][1]}){goal}{', disturbed' * value['disturbed']}"
        )
    machine = {"cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}", "load": os.getloadavg()}
    versions = {name: version(name) for name in ("dvc", "lightgbm", "numpy", "pandas", "pyarrow", "scikit-learn")}
    report = {"ratios": ratios, "goals": GOALS, "figures": figures, "skipped": skipped, "quick": quick}
    report |= {"versions": {"python": platform.python_version()} | versions, "machine": machine}
    report["date"] = datetime.now(UTC).date().isoformat()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
