"""What an answer costs, here and elsewhere: one model behind several servers, asked in turn. Writes results/serving.json and serving.md.

python benchmarks/serving.py                         all of it: twelve minutes, and the first time the peers' environments
python benchmarks/serving.py --quick                 two short cycles of four servers, none repeated
python benchmarks/serving.py --only ours,uvicorn     some: ours, forest, boosting, uvicorn, mlflow, bentoml, adaptive, mlserver, fastapi

All servers are up at once, on one core; the load generator (wrk) has another, and goes round them in cycles. A ratio is the median of
the cycles' ratios, a figure the median with the least and the most. A cycle in which others took more than 0.15 core is repeated,
three in all. forest and boosting are other estimators in our service, which answers with their pipeline. ADULT=<folder> says where
adult.data and adult.test lie; without it ../shared/data/adult beside the checkout, or a table by examples/adult/generate.py.
"""

import argparse
import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, Self

import joblib
import psutil
import yaml

from pawl import bundle, frames

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PEERS, KEPT = ROOT / "benchmarks/results", ROOT / "benchmarks/peers", ROOT / ".pawl/bench"
COPIED = ("src", "scripts", "requirements", ".dvc/config", ".dvcignore", "dvc.yaml", "pyproject.toml")
PINNED = [f"{name}=={version(name)}" for name in ("scikit-learn", "lightgbm", "numpy", "pandas")]  # the pipeline loads
UVICORN = [f"{name}=={version(name)}" for name in ("uvicorn", "uvloop", "httptools")]  # the faster of its ways
LOCKED = ["--no-deps", "--require-hashes", "--requirement"]
ENVIRONMENTS = {  # what `uv pip install` gets
    "ours": [*LOCKED, "requirements/serving.txt"],
    "full": [*LOCKED, "requirements/serving-full.txt"],
    "mlflow": [f"mlflow=={version('mlflow')}", *UVICORN, *PINNED],
    "bentoml": ["bentoml==1.4.39", *PINNED],
    "mlserver": [
        "mlserver==1.7.1",
        "mlserver-sklearn==1.7.1",
        "uvloop<0.22",
        *PINNED,
    ],  # does not start with a newer one
    "fastapi": [f"fastapi=={version('fastapi')}", *UVICORN, *PINNED],
}
MODELS: dict[str, dict[str, Any]] = {
    "lightgbm": {},
    "forest": {"model": "sklearn.ensemble.RandomForestClassifier", "params": {"n_estimators": 100, "max_depth": 12}},
    "boosting": {"model": "sklearn.ensemble.GradientBoostingClassifier", "params": {"n_estimators": 100}},
}
QUICK = ("ours", "uvicorn", "mlflow", "fastapi")
CONNECTIONS, BATCH, ROWS = (1, 16, 64), 1000, 300
FOREIGN, FAILED = 0.15, 0.01
CORES = sorted(os.sched_getaffinity(0))[:2]  # of the servers, of the load
WRK = """
local requests, turn = {}, 0
function init()
  for line in io.lines("%s") do
    requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, line)
  end
end
function request()
  turn = turn %% #requests + 1
  return requests[turn]
end
function done(sum, latency)
  local bad = sum.errors.status + sum.errors.connect + sum.errors.read + sum.errors.write + sum.errors.timeout
  local good = sum.requests - sum.errors.status
  io.write(string.format('\\n{"per_second": %%f, "p50_ms": %%f, "p99_ms": %%f, "failed": %%f}\\n', good / sum.duration * 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, bad / math.max(1, good + bad)))
end
"""
Records = list[dict[str, Any]]


class Server(NamedTuple):
    """How one is started (the line's $PORT, $SECOND, $THIRD are free ports), asked, and understood."""

    title: str
    home: str  # its environment in .pawl/bench
    line: str
    path: str
    body: Callable[[Records], Any]
    read: Callable[[Any], list[float]]  # answer -> probabilities of the positive label
    model: str = "lightgbm"


def record_or_list(records: Records) -> Any:
    """Return the body of our /predict."""
    return records if len(records) > 1 else records[0]


def servers(folder: Path, columns: dict[str, str], positive: str) -> dict[str, Server]:
    """Return every server by name. `folder` holds bundles, model.joblib, manifest.json, mlflow/ and mlserver/."""

    def ours(title: str, home: str, model: str) -> Server:
        line = f"env PYTHONPATH={ROOT}/src PAWL_PORT=$PORT PAWL_BUNDLE={model} PAWL_LOG_DIR=log-{model} PAWL_DRAIN_SECONDS=0 python -m pawl.serving"
        return Server(title, home, line, "/predict", record_or_list, lambda got: [row[positive] for row in got["probabilities"]], model)  # fmt: skip

    def v2(records: Records) -> Any:
        kinds = {"category": "BYTES", "boolean": "BOOL"}
        inputs = [{"name": name, "shape": [len(records), 1], "datatype": kinds.get(dtype, "FP64"), "data": [record[name] for record in records]} for name, dtype in columns.items()]  # fmt: skip
        return {"parameters": {"content_type": "pd"}, "inputs": inputs, "outputs": [{"name": "predict_proba"}]}

    def plain(records: Records) -> Any:
        return {"records": records}

    def second(rows: Any) -> list[float]:
        return [row[1] for row in rows]

    mlflow = "env MLFLOW_DISABLE_TELEMETRY=true mlflow models serve --model-uri mlflow --env-manager local --host 127.0.0.1 --port $PORT"
    bento = f"env MODEL={folder}/model.joblib BENTOML_HOME={folder}/bentoml BENTOML_DO_NOT_TRACK=true bentoml serve bento:Model --working-dir {PEERS} --host 127.0.0.1 --port $PORT"
    mlserver = "env MLSERVER_HOST=127.0.0.1 MLSERVER_PARALLEL_WORKERS=0 MLSERVER_HTTP_PORT=$PORT MLSERVER_GRPC_PORT=$SECOND MLSERVER_METRICS_PORT=$THIRD mlserver start mlserver"
    return {
        "ours": ours("Pawl", "ours", "lightgbm"),
        "forest": ours("Pawl, RandomForest", "full", "forest"),
        "boosting": ours("Pawl, GradientBoosting", "full", "boosting"),
        "uvicorn": Server("uvicorn, constant bytes", "ours", f"python {PEERS}/constant.py $PORT $SIZE", "/", plain, lambda _: []),
        "mlflow": Server("MLflow models serve", "mlflow", mlflow, "/invocations", lambda rows: {"dataframe_records": rows}, lambda got: second(got["predictions"])),
        "bentoml": Server("BentoML", "bentoml", bento, "/predict", plain, second),
        "adaptive": Server("BentoML, adaptive batching", "bentoml", bento, "/adaptive", plain, second),
        "mlserver": Server("MLServer", "mlserver", mlserver, "/v2/models/adult/infer", v2, lambda got: got["outputs"][0]["data"][1::2]),
        "fastapi": Server("FastAPI, pydantic, pandas", "fastapi", f"python {PEERS}/naive.py $PORT", "/predict", plain, second),
    }  # fmt: skip


def end(family: list[psutil.Process]) -> None:
    """End processes, by force where asking does not help within 5 s."""
    for way in (psutil.Process.terminate, psutil.Process.kill):
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                way(process)
        family = psutil.wait_procs(family, 5)[1]


class Running:
    """A server on its core; its processes end with the block."""

    def __init__(self, server: Server, folder: Path, size: int) -> None:
        self.server, self.log = server, folder / f"{server.title}.log"
        with contextlib.ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(3)]
            for probe in probes:
                probe.bind(("127.0.0.1", 0))
            self.port, second, third = (probe.getsockname()[1] for probe in probes)
        line = Template(server.line).substitute(PORT=self.port, SECOND=second, THIRD=third, SIZE=size)
        environ = {"PATH": f"{KEPT / server.home}/bin{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        words = ["taskset", "-c", str(CORES[0]), *line.split()]
        self.started = time.perf_counter()
        with self.log.open("w") as log:
            self.process = psutil.Popen(words, env=os.environ | environ, cwd=folder, stdout=log, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.family())

    def family(self) -> list[psutil.Process]:
        """Return its processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def seconds(self) -> float:
        """Return the processor time that it has had."""
        found = 0.0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                found += sum(process.cpu_times()[:4])
        return found

    def ask(self, records: Records) -> tuple[list[float] | None, int]:
        """Return (probabilities, or None where it refuses; bytes of the answer)."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(line):
            body = json.dumps(self.server.body(records))
            line.request("POST", self.server.path, body, {"Content-Type": "application/json"})
            answer = line.getresponse()
            said = answer.read()
            return self.server.read(json.loads(said)) if answer.status == 200 else None, len(said)

    def ready(self, record: dict[str, Any], expected: float) -> float:
        """Return the seconds from its start to its first right answer; raise TimeoutError after 90."""
        said: Any = None
        while time.perf_counter() < self.started + 90 and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
                said = self.ask([record])[0]
                if said == [] or (said and abs(said[0] - expected) < 1e-6):  # uvicorn says nothing of it
                    return time.perf_counter() - self.started
            time.sleep(0.002)
        raise TimeoutError(f"no right answer, {said}: {' '.join(self.log.read_text().split())[-300:]}")

    def correct(self, records: Records, expected: Sequence[float]) -> dict[str, Any]:
        """Compare its answers to rows sent alone with the pipeline's, apart for rows with a null."""
        found = {}
        for kind, nulls in (("complete", False), ("null", True)):
            pairs = [each for each in zip(records, expected, strict=True) if (None in each[0].values()) is nulls]
            off = [abs(said[0] - right) if (said := self.ask([row])[0]) else None for row, right in pairs]
            told = [each for each in off if each is not None]
            found[kind] = {"rows": len(off), "refused": len(off) - len(told), "wrong": sum(each > 1e-6 for each in told), "most": max(told, default=0.0)}  # fmt: skip
        return found


def wrk(at: Running, bodies: Path, connections: int, seconds: int) -> "subprocess.Popen[str]":
    """Start a load: the lines of `bodies` in turn, over as many kept connections."""
    script = bodies.with_suffix(".lua")
    script.write_text(WRK % bodies)
    words = f"taskset -c {CORES[1]} wrk -t1 -c{connections} -d{seconds}s --timeout 20s -s {script} http://127.0.0.1:{at.port}{at.server.path}"
    return subprocess.Popen(words.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def done(load: "subprocess.Popen[str]") -> dict[str, float]:
    """Return answers per second, percentiles, and the share of requests that failed."""
    said = load.communicate()[0]
    if load.returncode:
        raise SystemExit(f"wrk: {said[-600:]}")
    return dict(json.loads(said.splitlines()[-1]))


def settle(at: Running) -> None:
    """Wait until a server has done what it was asked before: some go on for those who have left."""
    for _ in range(30):
        before = at.seconds()
        time.sleep(0.1)
        if at.seconds() - before < 0.03:
            return


def visit(name: str, at: Running, folder: Path, seconds: int) -> dict[str, Any]:
    """Measure one server once: {measurement: result}."""
    rows, batches, found = folder / f"{name}-rows.jsonl", folder / f"{name}-batches.jsonl", {}
    loads: dict[str, tuple[Path, int]] = {str(count): (rows, count) for count in CONNECTIONS}
    loads |= {} if name == "uvicorn" else {"batch": (batches, 2)}
    loads |= {} if name in {"uvicorn", *MODELS} else {"alone": (rows, 8)}
    for kind, (bodies, connections) in loads.items():
        settle(at)
        found[kind] = done(wrk(at, bodies, connections, seconds))
    if "alone" in loads:
        beside = wrk(at, batches, 1, seconds + 1)
        time.sleep(0.3)
        found["beside"] = done(wrk(at, rows, 8, seconds))
        found["beside"]["batches_per_second"] = done(beside)["per_second"]
    return found


def clock(up: dict[str, Running]) -> tuple[float, float]:
    """Return the time, and the processor seconds that others have had, the hypervisor among them."""
    every = psutil.cpu_times()
    mine = sum(psutil.Process().cpu_times()[:4]) + sum(at.seconds() for at in up.values())
    return time.perf_counter(), every.user + every.nice + every.system + every.steal - mine


def cycles(
    count: int, repeats: int, up: dict[str, Running], trees: Callable[[], float], folder: Path, seconds: int
) -> Records:
    """Return per cycle: each server's measurements, milliseconds of the trees alone, cores that others took."""
    kept, names = [], list(up)
    for turn in range(count):
        tries: Records = []
        while not tries or (tries[-1]["foreign"] > FOREIGN and repeats > 0):
            repeats -= bool(tries)
            before, found = clock(up), {}
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                found[name] = visit(name, up[name], folder, seconds)
            passed, others = (end - start for start, end in zip(before, clock(up), strict=True))
            tries.append({"servers": found, "trees_ms": trees(), "foreign": round(max(0.0, others) / passed, 3)})
            print(f"cycle {turn + 1}: {passed:.0f} s, others took {tries[-1]['foreign']} core", flush=True)
        kept.append(min(tries, key=lambda each: each["foreign"]) | {"tries": len(tries)})
    return kept


def tree_clock(pipeline: Any, frame: Any) -> Callable[[], float]:
    """Return what times LightGBM's own prediction for the frame's ready matrix, sparse or dense, in ms, on the servers' core."""
    sparse = pipeline[:-1].transform(frame)

    def measure() -> float:
        os.sched_setaffinity(0, {CORES[0]})
        times: dict[int, list[float]] = {0: [], 1: []}
        for kind, matrix in enumerate((sparse, sparse.toarray())):
            for _ in range(15):
                started = time.perf_counter()
                pipeline[-1].booster_.predict(matrix, num_threads=1)
                times[kind].append((time.perf_counter() - started) * 1e3)
        os.sched_setaffinity(0, {CORES[1]})
        return min(map(statistics.median, times.values()))

    return measure


def train(folder: Path, names: Sequence[str]) -> str:
    """Train each model, copy the bundles into the folder, by name; return the table's. What did not change is not trained again."""
    adult, place = Path(os.environ.get("ADULT", ROOT.parent / "shared/data/adult")).absolute(), KEPT / "adult"
    if not (adult / "adult.data").exists():
        adult = KEPT / "generated"
        subprocess.run([sys.executable, "examples/adult/generate.py", adult, "20000"], check=True)
    for name in COPIED:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        if Path(name).is_dir():
            shutil.copytree(name, place / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(name, place / name)
    shutil.copy2("examples/adult/schema.yaml", place)
    environ = {"ADULT": str(adult), "PAWL_ENV": "system", "PYTHONPATH": f"{place}/src"}
    environ |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for name in names:
        params = yaml.safe_load(Path("examples/adult/params.yaml").read_text())
        if MODELS[name]:
            params["train"] = MODELS[name] | {"seed": 0}
        (place / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        subprocess.run([sys.executable, "-m", "scripts.run"], cwd=place, env=os.environ | environ, check=True, stdout=subprocess.PIPE)  # fmt: skip
        shutil.copytree(place / "models/bundle", folder / name)
    return "a generated table" if adult == KEPT / "generated" else "Adult"


def install(name: str) -> float:
    """Make an environment in .pawl/bench unless it stands; return the MB of its site-packages without what Python compiles."""
    stamp, place = KEPT / name / "stamp", KEPT / name
    words = [Path(word).read_text() if word.endswith(".txt") else word for word in ENVIRONMENTS[name]]
    text = hashlib.sha256("\n".join(words).encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != text:
        uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        for words in (["venv", "--clear", "--python", sys.executable, place], ["pip", "install", "--compile-bytecode", "--python", place, *ENVIRONMENTS[name]]):  # fmt: skip
            subprocess.run([uv, "--quiet", *words], check=True, stderr=subprocess.PIPE, text=True)
        stamp.write_text(text)
    files = (path for path in place.glob("lib/*/site-packages/**/*") if path.is_file() and path.suffix != ".pyc")
    return round(sum(path.stat().st_size for path in files) / 1e6, 1)


def prepare(folder: Path, names: Sequence[str]) -> tuple[dict[str, Server], Records, dict[str, list[float]], Any, dict[str, Any]]:  # fmt: skip
    """Train, and write what each server loads and is sent; return (servers, rows to check, what each model answers, the clock of the trees, facts)."""
    import pyarrow.parquet as pq

    trained_on = train(folder, ["lightgbm", *(name for name in names if name in MODELS)])
    manifest = json.loads((folder / "lightgbm/manifest.json").read_text())
    columns = manifest["features"]
    table = pq.read_table(KEPT / "adult/data/prepared/test.parquet", columns=list(columns)).to_pylist()
    with_null = [row for row in table if None in row.values()][: ROWS // 3]
    rows = [row for row in table if None not in row.values()][: ROWS - len(with_null)] + with_null
    frame, fitted = frames.from_records(rows, columns), {}
    for path in sorted(folder.glob("*/pipeline.skops")):
        fitted[path.parent.name] = bundle.restore(path.read_bytes(), path)
    expected = {name: pipeline.predict_proba(frame)[:, 1].tolist() for name, pipeline in fitted.items()}
    shutil.copy2(folder / "lightgbm/manifest.json", folder)
    joblib.dump(fitted["lightgbm"], folder / "model.joblib")
    if "mlflow" in names:
        import mlflow

        signature = mlflow.models.infer_signature(frame, fitted["lightgbm"].predict_proba(frame))
        mlflow.sklearn.save_model(fitted["lightgbm"], folder / "mlflow", signature=signature, pyfunc_predict_fn="predict_proba", serialization_format="cloudpickle")  # fmt: skip
    (folder / "mlserver").mkdir()
    settings = {"uri": f"{folder}/model.joblib", "content_type": "pd"}
    settings = {"name": "adult", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": settings}
    (folder / "mlserver/model-settings.json").write_text(json.dumps(settings))
    found = servers(folder, columns, manifest["labels"][1])
    for name in names:
        for kind, size, count in (("rows", 1, ROWS), ("batches", BATCH, 3)):
            lines = [json.dumps(found[name].body(table[at * size : (at + 1) * size])) for at in range(count)]
            (folder / f"{name}-{kind}.jsonl").write_text("\n".join(lines) + "\n")
    facts = {"table": trained_on, "rows": len(table), "columns": len(columns), "trees": manifest["rounds"]}
    return found, rows, expected, tree_clock(fitted["lightgbm"], frames.from_records(table[:BATCH], columns)), facts


def middle(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the most."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def page(report: dict[str, Any]) -> str:
    """Return the results as Markdown."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    def get(*keys: str, scale: float = 1) -> str:
        found = report
        for key in keys:
            found = found.get(key, {})
        return number(found["median"] * scale) if found else ""

    def load(name: str, kind: str, *keys: str, scale: float = 1) -> str:
        """Return what wrk found, or which share failed: failures are fast."""
        found = report["figures"][name].get(kind)
        if found and found["failed"]["median"] > FAILED:
            return f"{found['failed']['median']:.0%} failed"
        return ", ".join(number(found[key]["median"] * scale) for key in keys) if found else ""

    def differs(found: dict[str, Any]) -> str:
        if found["refused"]:
            return f"{found['refused']} of {found['rows']} refused"
        return f"{found['wrong']} of {found['rows']} wrong, by up to {found['most']:.2g}" if found["wrong"] else "0"

    speed = ["behind it the same model | rows/s | Pawl ÷ it | p50, p99 ms at 1 | at 16 | at 64 connections | rows/s in 1,000s | Pawl ÷ it | p99 ms at 8 | beside batches"]  # fmt: skip
    costs = ["behind it the same model | cold start, s | memory, MiB | site-packages, MB | rows that differ from the pipeline | rows with a null, alone"]  # fmt: skip
    for name, title in report["servers"].items():
        both = [each for kind in ("16", "batch") for each in (load(name, kind, "per_second", scale=BATCH if kind == "batch" else 1), get("ratios", name, kind))]  # fmt: skip
        spans = [load(name, str(count), "p50_ms", "p99_ms") for count in CONNECTIONS]
        speed.append(" | ".join([title, *both[:2], *spans, *both[2:], load(name, "alone", "p99_ms"), load(name, "beside", "p99_ms")]))  # fmt: skip
        right = [differs(each) for each in report["correct"].get(name, {}).values()] or ["", ""]
        taken = [get("cold", name), number(report["memory_mib"][name]), number(report["site_packages_mb"][name])]
        costs.append(" | ".join([title, *taken, *right]))
    data, disturbed = report["data"], sum(each["foreign"] > FOREIGN for each in report["cycles"])
    lines = ["# Serving", "", (
        f"{data['table']}, {data['trees']} trees, {data['columns']} columns; the servers together on one core, wrk on another, keep-alive, closed loop. "
        f"`rows/s`: one row a request, 16 connections. Medians of {len(report['cycles'])}{' short' * report['quick']} cycles, ratios within a cycle. {report['date']}, {report['machine']['cpu']}."
    )]  # fmt: skip
    for table in (speed, costs):
        lines += ["", *(f"| {row} |" for row in [table[0], " | ".join(["---"] * len(table[0].split("|"))), *table[1:]])]
    if "trees" in report:
        share, taken_ms = report["trees"]["share"]["median"], get("trees", "ms")
        lines.append(
            f"\nLightGBM's own prediction of a batch of {BATCH:,} rows, all trees at once, takes {share:.0%} of our whole time for it ({taken_ms} ms)."
        )
    lines += [f"\nNot measured, {name}: {why}" for name, why in report["absent"].items()]
    lines += [f"\nDisturbed: in {disturbed} cycles others took more than {FOREIGN} core."] if disturbed else []
    return "\n".join(lines) + "\n"


def image() -> float | None:
    """Return the MB of the image that `make image` built of this commit; None without one."""
    from scripts import github

    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True)[:12]
        words = ["docker", "image", "inspect", f"{github.project().lower()}:{commit}", "--format", "{{.Size}}"]
        return round(int(subprocess.check_output(words, stderr=subprocess.DEVNULL, timeout=20)) / 1e6, 1)
    return None


def measure(names: list[str], *, quick: bool) -> dict[str, Any]:
    """Install, train, start, ask, end; return the report."""
    count, repeats, seconds, starts = (2, 0, 1, 2) if quick else (5, 3, 2, 5)
    sizes: dict[str, float] = {}
    absent: dict[str, str] = {}
    for name, server in servers(Path(), {}, "").items():
        try:
            if name in names:
                sizes[name] = install(server.home)
        except subprocess.CalledProcessError as error:
            absent[name] = f"it cannot be installed: {error.stderr.strip()[-300:]}"
            names.remove(name)
    with tempfile.TemporaryDirectory(prefix="pawl-bench-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        found, rows, expected, trees, facts = prepare(folder, names)
        os.sched_setaffinity(0, {CORES[1]})
        size, correct, memory = 300, {}, {}
        up: dict[str, Running] = {}
        for name in names:
            at = stack.enter_context(Running(found[name], folder, size))
            try:
                at.ready(rows[0], expected[found[name].model][0])
            except TimeoutError as error:
                absent[name] = str(error)
                continue
            up[name] = at
            size = at.ask(rows[:1])[1] if name == "ours" else size
            if name != "uvicorn":
                correct[name] = at.correct(rows, expected[found[name].model])
            memory[name] = round(sum(process.memory_info().rss for process in at.family()) / 2**20, 1)
        rounds = cycles(count, repeats, up, trees, folder, seconds)
        stack.pop_all().close()
        begun: dict[str, list[float]] = {name: [] for name in up if name != "adaptive"}
        for _ in range(starts):
            for name, runs in begun.items():
                with Running(found[name], folder, size) as at:
                    runs.append(at.ready(rows[0], expected[found[name].model][0]))
    report: dict[str, Any] = {"servers": {name: found[name].title for name in up}, "figures": {}, "ratios": {}}
    for name in up:
        for kind, first in rounds[0]["servers"][name].items():
            each = [one["servers"][name][kind] for one in rounds]
            report["figures"].setdefault(name, {})[kind] = {key: middle([one[key] for one in each]) for key in first}
            if "ours" in up and name != "ours":
                pairs = [one["servers"]["ours"][kind]["per_second"] / max(other["per_second"], 1e-9) for one, other in zip(rounds, each, strict=True)]  # fmt: skip
                report["ratios"].setdefault(name, {})[kind] = middle(pairs)
    if "ours" in up:
        shares = [one["trees_ms"] * one["servers"]["ours"]["batch"]["per_second"] / 1e3 for one in rounds]
        report["trees"] = {"ms": middle([one["trees_ms"] for one in rounds]), "share": middle(shares)}
    report |= {"cold": {name: middle(runs) for name, runs in begun.items()}, "memory_mib": memory}
    report |= {"correct": correct, "site_packages_mb": sizes, "image_mb": image(), "absent": absent, "data": facts}
    return report | {"cycles": [{key: one[key] for key in ("foreign", "tries")} for one in rounds], "quick": quick}


def main() -> None:
    """Measure, write, show."""
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    known = list(servers(Path(), {}, ""))
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--quick", action="store_true", help="two short cycles")
    words.add_argument("--only", help="servers, by name")
    args = words.parse_args()
    asked = args.only.split(",") if args.only else QUICK if args.quick else known
    if unknown := set(asked) - set(known):
        raise SystemExit(f"error: --only {','.join(unknown)} is not known: {', '.join(known)}")
    if not shutil.which("wrk") or not shutil.which("taskset") or len(CORES) < 2:
        raise SystemExit("error: this takes two cores, taskset and wrk: apt-get install wrk util-linux")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # every block ends what it started
    os.environ["OMP_NUM_THREADS"] = "1"
    ctypes.CDLL(None).prctl(36, 1)  # what a server leaves behind becomes a child of this process
    try:
        report = measure([name for name in known if name in asked], quick=args.quick)
    finally:
        end(psutil.Process().children(recursive=True))
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    report["machine"] = {"cpu": model.rpartition(": ")[2], "cores": os.cpu_count(), "system": platform.platform()}
    report["versions"] = {"python": platform.python_version(), "installed": ENVIRONMENTS}
    report["date"] = datetime.now(UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "serving.json").write_text(json.dumps(report, indent=2) + "\n")
    (RESULTS / "serving.md").write_text(page(report))
    print(page(report))


if __name__ == "__main__":
    main()
