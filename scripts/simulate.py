"""Play a year in minutes: serve, log, watch, drift, retrain, release, month by month.

python -m scripts.simulate                              the sample, with drift from month 7 on
python -m scripts.simulate --table data.parquet         a table of yours, whose mix shifts: rows above the median of its first number come more often

Every part is the real one, in a copy of this project (.pawl/simulate): the service answers over HTTP, with a clock that is turned; its log is shipped, joined
with labels, held to the reference; what drifts goes through scripts.retrain, a branch, a merge, the gate, the registry. Where GITHUB_API_URL and
GITHUB_REPOSITORY name a GitHub, the proposal is a pull request there. Writes simulation.json and simulation.svg to --to. Exit code: 0 done, 2 a part failed.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from pawl import bundle, paths, sample, tracking
from pawl.problem import Problem
from pawl.report import draw, html
from scripts import cli, propose, workspace

HOME = paths.STATE / "simulate"
WINDOW, LOG, SHIPPED, LABELS = "window.parquet", "log", "shipped", "labels.parquet"
BATCH = 1000  # rows of a request
DAYS = 30  # of a month
SERVE = """import runpy, sys, time
ahead, real = float(sys.argv.pop(1)), time.time
time.time = lambda: real() + ahead  # the clock that is turned
runpy.run_module("pawl.serving", run_name="__main__", alter_sys=True)
"""


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Play the months, and say what they showed."""
    parser = cli.parser("simulate", __doc__)
    parser.add_argument("--months", type=int, default=12)
    parser.add_argument("--drift-from", type=int, default=7, metavar="MONTH")
    parser.add_argument("--rows", type=int, default=5000, help="asked in a month")
    parser.add_argument("--table", type=Path, help="Parquet, with the columns of schema.yaml, instead of the sample")
    said = "of params.yaml, schema.yaml, gates.yaml"
    parser.add_argument("--config", type=Path, default=Path(), metavar="FOLDER", help=said)
    parser.add_argument("--to", type=Path, default=HOME, metavar="FOLDER", help="where the result goes")
    args = parser.parse_args(argv)
    year = Year(args, environ)
    year.release()
    first = shutil.copytree(year.folder / paths.BUNDLE, year.folder.parent / "first", dirs_exist_ok=True)
    months = [month(year, number, first) for number in range(1, args.months + 1)]
    found = summary(months, args.drift_from)
    args.to.mkdir(parents=True, exist_ok=True)
    (args.to / "simulation.json").write_text(json.dumps(found, indent=2) + "\n")
    (args.to / "simulation.svg").write_text(picture(found))
    page = year.folder / "reports/drift_report.html"
    print(f"\n{found['headline']}\nnext: look at {args.to / 'simulation.svg'}, {page}")
    return 0


class Year:
    """The copy of the project, and what happens in it."""

    def __init__(self, args: Any, environ: Mapping[str, str]) -> None:
        self.args, self.environ = args, environ
        shutil.rmtree(HOME, ignore_errors=True)
        self.folder = workspace.made((HOME / "project").absolute(), args.config)
        for name in ("Makefile", ".gitignore", "gates.yaml"):
            if not (self.folder / name).exists():
                shutil.copy2(name, self.folder / name)
        params = yaml.safe_load((self.folder / paths.PARAMS).read_text())
        schema = yaml.safe_load((self.folder / paths.SCHEMA).read_text())
        roles = params.pop("columns")
        for name in [*(each for role, each in roles.items() if role != "ignore"), *roles.get("ignore", ())]:
            schema["columns"].pop(name, None)  # who asks does not say it
        params |= {"columns": {}, "ingest": {"source": WINDOW}, "prepare": {"split": "random"}}
        for path, content in ((paths.PARAMS, params), (paths.SCHEMA, schema)):
            (self.folder / path).write_text(yaml.safe_dump(content, sort_keys=False))
        self.target, self.features = params["target"], [name for name in schema["columns"] if name != params["target"]]
        today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        self.began = today - timedelta(days=DAYS * (args.months + 1))
        write(self.folder / WINDOW, self.table(0, 3 * args.rows))
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "The months before")
        self.proposals = 0

    def table(self, month: int, rows: int) -> Any:
        """Return the rows of a month: 0 is before the first."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        names = [*self.features, self.target]
        drifts = month >= self.args.drift_from
        if self.args.table:
            whole = pq.read_table(self.args.table, columns=names)
            number = next(each for each in whole.columns if pa.types.is_integer(each.type))
            late = number.fill_null(0).to_numpy() > pc.approximate_median(number).as_py()
            weight = np.where(late, 4.0, 1.0) if drifts else np.ones(len(late))
            drawn = np.random.default_rng(month).choice(len(late), rows, replace=False, p=weight / weight.sum())
            return whole.take(drawn)
        found: list[Any] = []
        while sum(map(len, found)) < rows:
            made = pa.Table.from_batches([sample.chunk(len(found), 1000 + month, float(drifts))[0]])
            found.append(made.filter(pc.greater_equal(made["month"], f"2025-{sample.DRIFT_FROM + 1:02d}")))
        return pa.concat_tables(found).select(names).slice(0, rows)

    def do(self, module: str, *words: str, **environ: Any) -> None:
        """Run a script there; raise Problem where it fails."""
        code, why = workspace.call(self.folder, f"scripts.{module}", *words, **environ)
        if code:
            raise Problem(f"scripts.{module} ended with {code}: {why}", self.folder, "see what it says there")

    def git(self, *words: str) -> str:
        """Return what git says there."""
        who = ["-c", "user.name=simulate", "-c", "user.email=simulate@example.org"]
        return subprocess.check_output(["git", *who, *words], cwd=self.folder, text=True).strip()

    def release(self) -> None:
        """Do what release.yml does for the commit that is main now, up to the champion."""
        outputs = self.folder.parent / "outputs"
        outputs.unlink(missing_ok=True)
        self.do("run", "--no-run-cache")
        later = self.git("rev-list", "--count", "HEAD") != "1"
        self.do("report", *(("--base", "HEAD^1", "--exit-code") if later else ()))
        self.do("ledger", "record")
        self.do("register", "--exit-code", GITHUB_OUTPUT=str(outputs))
        made = dict(line.split("=", 1) for line in outputs.read_text().splitlines())
        self.do("promote", "--version", made["version"])
        self.do("ledger", "release", "--version", made["version"], "--digest", made["digest"])

    def retrain(self, rows: Path) -> bool:
        """Let the labelled month be the data, and ask scripts.retrain; merge and release what it proposes, and say whether it did."""
        shutil.copy2(rows, self.folder / WINDOW)
        self.git("checkout", "--quiet", "HEAD", "--", str(paths.PARAMS))
        names = ("GITHUB_API_URL", "GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GH_TOKEN")
        on_github = {name: self.environ[name] for name in names if name in self.environ}
        before = (self.folder / paths.LOCKFILE).read_text()
        self.do("retrain", **on_github)
        if propose.bundle_of((self.folder / paths.LOCKFILE).read_text()) == propose.bundle_of(before):
            return False
        self.git("switch", "--quiet", "--create", f"retrain-{self.proposals}")
        self.git("commit", "--quiet", "--all", "--message", "Retrain")
        self.git("switch", "--quiet", "main")
        self.git("merge", "--quiet", "--no-ff", "--message", "Merge what was proposed", f"retrain-{self.proposals}")
        self.proposals += 1
        self.release()
        return True


def month(year: Year, number: int, first: Path) -> dict[str, Any]:
    """Play a month; return what was seen in it."""
    begin, end = (year.began + timedelta(days=DAYS * (number + later)) for later in (0, 1))
    table = year.table(number, year.args.rows)
    asked, scores = served(year, table, begin)
    label(year, asked, table)
    year.do("ship", "--from", LOG, "--to", SHIPPED)
    window = ["--since", f"{begin:%Y-%m-%d}", "--until", f"{end:%Y-%m-%d}"]
    year.do("drift", "--log", SHIPPED, "--labels", LABELS, *window)
    found = json.loads((year.folder / "reports/drift.json").read_text())
    retrained = False
    if found["verdict"] == "drift":
        year.do("labels", "--log", SHIPPED, "--labels", LABELS, "--to", "labelled.parquet", "--answers")
        retrained = year.retrain(of_month(year, year.folder / "labelled.parquet", begin, end))
    told = {"month": number, "verdict": found["verdict"], "headline": found["headline"], "retrained": retrained}
    told |= {"served": auc(year, table, scores), "without": auc(year, table, offline(first, table))}
    print(f"month {number:>2}  AUC {told['served']:.4f}, of the first model {told['without']:.4f}  {found['headline']}{'  retrained, merged, released' if retrained else ''}", flush=True)  # fmt: skip
    return told


def served(year: Year, table: Any, begin: datetime) -> tuple[list[tuple[str, int]], list[float]]:
    """Ask the service for a month's rows; return (request id, row) and the score of the positive label of each."""
    asked, scores = [], []
    rows = table.select(year.features).to_pylist()
    with service(year, begin) as url:
        for start in range(0, len(rows), BATCH):
            body = json.dumps(rows[start : start + BATCH]).encode()
            request = urllib.request.Request(f"{url}/predict", body, {"Content-Type": "application/json"})  # noqa: S310 - on loopback
            with urllib.request.urlopen(request, timeout=60) as got:  # noqa: S310 - the same
                answer = json.loads(got.read())
            asked += [(answer["request_id"], place) for place in range(len(answer["predictions"]))]
            scores += [[*each.values()][-1] for each in answer["probabilities"]]
    return asked, scores


@contextlib.contextmanager
def service(year: Year, begin: datetime) -> Iterator[str]:
    """Yield the address of a service of the champion's bundle, whose clock stands in the middle of the month."""
    port = tracking.free_port()
    ahead = (begin + timedelta(days=DAYS / 2)).timestamp() - time.time()
    environ = {**os.environ, "PYTHONPATH": str(year.folder / "src"), "PAWL_PORT": str(port)}
    environ["PAWL_LOG_DIR"] = str(year.folder / LOG)
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(ahead)], cwd=year.folder, env=environ, stderr=subprocess.DEVNULL
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 - on loopback
                    break
                time.sleep(0.1)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)  # it drains, and completes its log


def label(year: Year, asked: Sequence[tuple[str, int]], table: Any) -> None:
    """Let the month's labels arrive."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, target = year.folder / LABELS, table.column(year.target).cast("string")
    came = pa.table({"request_id": [each for each, _ in asked], "row": [row for _, row in asked], "label": target})
    write(path, pa.concat_tables([pq.read_table(path), came]) if path.exists() else came)


def of_month(year: Year, path: Path, begin: datetime, end: datetime) -> Path:
    """Return a file of the labelled rows of a month, with what schema.yaml names."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    inside = pc.and_(pc.greater_equal(table["time"], begin.timestamp()), pc.less(table["time"], end.timestamp()))
    return write(path.with_name("month.parquet"), table.filter(inside).select([*year.features, year.target]))


def write(path: Path, table: Any) -> Path:
    """Write a table; return where."""
    import pyarrow.parquet as pq

    pq.write_table(table, path)
    return path


def offline(folder: Path, table: Any) -> Any:
    """Return what a bundle answers for the positive label."""
    from pawl.pipeline import evaluate

    return evaluate.score(bundle.load(folder), table)[1][:, 1]


def auc(year: Year, table: Any, scores: Any) -> float:
    """Return the AUC of scores of the positive label."""
    import numpy as np

    from pawl import metrics

    labels = json.loads((year.folder / paths.BUNDLE / bundle.MANIFEST).read_text())["labels"]
    y = np.array([str(each) == labels[-1] for each in table.column(year.target).to_pylist()]).astype(np.int64)
    return metrics.roc_auc(y, np.column_stack([1 - np.asarray(scores), scores])).value


def summary(months: Sequence[Mapping[str, Any]], drift_from: int) -> dict[str, Any]:
    """Return what the year showed."""
    alarms = [each["month"] for each in months if each["verdict"] == "drift"]
    retrained = [each["month"] for each in months if each["retrained"]]
    final = {how: round(months[-1][how] / months[0][how], 4) for how in ("served", "without")}
    early = [each for each in alarms if each < drift_from]
    headline = f"Drift from month {drift_from}: {len(early)} alarms before it, the first after it in month {next((each for each in alarms if each >= drift_from), 'none')}; retrained in month {', '.join(map(str, retrained)) or 'none'}. AUC of the last month: {100 * final['served']:.1f} % of the first, {100 * final['without']:.1f} % without retraining."  # fmt: skip
    return {"headline": headline, "last / first month": final["served"], "last / first month, never retrained": final["without"],
            "alarms before the drift": len(early), "alarms": alarms, "retrained": retrained, "drift from": drift_from, "months": [*months]}  # fmt: skip


def picture(found: Mapping[str, Any]) -> str:
    """Return the year as SVG: the AUC of what was served, and of the first model."""
    months = found["months"]
    lines = {
        "candidate": [(each["month"], each["served"]) for each in months],
        "baseline": [(each["month"], each["without"]) for each in months],
    }
    values = [value for points in lines.values() for _, value in points]
    frame = draw.Frame((0.5, len(months) + 0.5), draw.span(values), right=268)
    parts = [
        frame.axes("month →", "↑ AUC of the month"),
        frame.upright(found["drift from"] - 0.5, "allowed"),
        draw.text(frame.at(found["drift from"] - 0.4)[0], frame.top + 6, "drift begins", "axis"),
    ]
    parts += [
        draw.group(kind, frame.line(points), *(draw.dot(*frame.at(*point), 3) for point in points))
        for kind, points in lines.items()
    ]
    ends = [
        (*frame.at(*points[-1]), name)
        for name, points in (("retrained", lines["candidate"]), ("never retrained", lines["baseline"]))
    ]
    parts += [
        draw.group("candidate" if name == "retrained" else "baseline", draw.text(x + 8, y + 4, name))
        for x, y, name in ends
    ]
    for each in months:
        if each["retrained"]:
            x, y = frame.at(each["month"] - 0.6, each["served"])
            parts.append(draw.text(x, y - 6, "retrained, released", "axis end"))
    return html.svg(found["headline"], "".join(parts), 270)


if __name__ == "__main__":
    sys.exit(main())
