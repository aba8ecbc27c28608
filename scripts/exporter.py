"""Let Prometheus read drift, performance, stored predictions and the model's age.

python -m scripts.exporter                                      http://127.0.0.1:9100/metrics
python -m scripts.exporter --drift s3://bucket/drift.json --log s3://bucket/predictions --every 300

--drift is what scripts.drift writes, --log what scripts.ship fills; the model's age is of models/made_by.json and of the ledger's last release, and the retraining is
retrain.yml's, where GITHUB_REPOSITORY and GH_TOKEN are set. What is not there has no series, never a zero; exporter_source_up is 0 where something is there that cannot
be read. Exit code: 0 ended, 2 your input.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pawl import paths
from pawl.ledger import Ledger
from pawl.parts import seconds_of
from pawl.problem import Problem
from pawl.serving.log import event
from scripts import cli, github, ship

VERDICTS = ("drift", "no drift", "insufficient data")
Series = tuple[str, str, dict[str, str], float]  # name, what it is, labels, value
CONCLUSIONS = {"success": 1, "failure": 0, "timed_out": 0, "startup_failure": 0}  # one that was cancelled says nothing


class Exporter(Collector):
    """What was found in each source, the last time that somebody looked."""

    def __init__(self, sources: Mapping[str, Callable[[], Iterator[Series]]]) -> None:
        self.sources, self.found = sources, dict[str, list[Series] | None]()

    def look(self) -> None:
        """Read every source; one that cannot be read is told, and stops no other."""
        for name, source in self.sources.items():
            try:
                self.found[name] = [*source()]
            except Exception as error:  # noqa: BLE001 - each store has exceptions of its own
                self.found[name] = None
                why = github.why(error) if hasattr(error, "data") else str(error)
                event("source cannot be read", source=name, why=f"{type(error).__name__}: {why}"[:500])

    def collect(self) -> Iterator[Any]:
        """Yield the metrics; called at each scrape."""
        found = dict(self.found)
        up = ("exporter_source_up", "Whether the source was read")
        series = [(*up, {"source": name}, float(each is not None)) for name, each in found.items()]
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in [*series, *(one for each in found.values() for one in each or ())]:
            families.setdefault(name, GaugeMetricFamily(name, text, labels=[*labels])).add_metric([*labels.values()], value)  # fmt: skip
        yield from families.values()


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Look again and again, until SIGTERM."""
    parser = cli.parser("exporter", __doc__)
    parser.add_argument("--host", default="127.0.0.1", help="where it listens (127.0.0.1)")
    parser.add_argument("--port", type=int, default=9100, help="9100")
    parser.add_argument("--drift", metavar="FILE", help="or an address: a report, or a history; without it that of the log, or reports/drift.json")  # fmt: skip
    parser.add_argument("--log", metavar="URL", help="where the prediction log is kept")
    parser.add_argument("--every", type=float, default=60, metavar="SECONDS", help="how often it looks (60)")
    args = parser.parse_args(argv)
    sources: dict[str, Callable[[], Iterator[Series]]]
    watched = args.drift or (f"{args.log.rstrip('/')}/history.jsonl" if args.log else "reports/drift.json")
    sources = {"drift": lambda: drift(watched), "model": trained}
    if Path(".git").exists():
        sources["ledger"] = lambda: released(environ)
    if args.log:
        sources["log"] = Rows(args.log)
    if environ.get("GITHUB_REPOSITORY") and environ.get("GH_TOKEN"):
        sources["retrain"] = lambda: retrain(environ)
    exporter, registry, ended = Exporter(sources), CollectorRegistry(), threading.Event()
    registry.register(exporter)
    try:
        server, _ = start_http_server(args.port, args.host, registry)
    except OSError as error:
        raise Problem(f"it cannot listen: {error.strerror}", f"{args.host}:{args.port}", "name another --port") from error  # fmt: skip
    print(f"http://{args.host}:{server.server_port}/metrics", flush=True)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: ended.set())
    while not ended.is_set():
        exporter.look()
        ended.wait(args.every)
    server.shutdown()
    return 0


def drift(url: str) -> Iterator[Series]:
    """Yield what scripts.drift found; nothing before it looked for the first time."""
    place, path = ship.opened(url)
    try:
        found = json.loads(place.cat_file(path).splitlines()[-1] if url.endswith(".jsonl") else place.cat_file(path))
    except FileNotFoundError:
        return
    if found["verdict"] not in VERDICTS:
        raise ValueError(found["verdict"])
    for verdict in VERDICTS:
        yield "data_drift_verdict", "1 for the verdict of the last look", {"verdict": verdict}, verdict == found["verdict"]  # fmt: skip
    if until := found["window"]["until"]:
        yield "data_drift_timestamp_seconds", "Up to when predictions were looked at", {}, seconds_of(until)
    if (share := found["drift_share"]) is not None:
        yield "data_drift_score", "Share of the columns that drifted", {}, float(share)
    if measured := found["performance"]:
        text, labels, value = "On predictions whose labels have arrived", {"metric": measured["metric"]}, float(measured["current"]["value"])  # fmt: skip
        yield "model_metric", text, labels, value
        if measured["metric"] == "accuracy":
            yield "model_accuracy", text, {}, value
        yield "model_metric_loss", "How much worse than on the test rows of the training", labels, float(measured["loss"])  # fmt: skip
        yield "model_metric_loss_least", "The least loss in its interval", labels, float(measured["low"])


def trained() -> Iterator[Series]:
    """Yield when the model here was trained."""
    if paths.MADE_BY.exists():
        made = json.loads(paths.MADE_BY.read_text())
        yield "model_trained_timestamp_seconds", "When the model here was trained", {}, made["ended"]


def released(environ: Mapping[str, str]) -> Iterator[Series]:
    """Yield when the champion was released."""
    kept = Ledger()
    kept.fetch(github.authorization(environ))
    if release := kept.champion():
        yield "model_released_timestamp_seconds", "When the champion was released", {}, seconds_of(release.made)


class Rows:
    """Rows of the prediction log. A complete segment does not change: each is counted once."""

    def __init__(self, url: str) -> None:
        self.place, self.root = ship.opened(url)
        self.known, self.rows = set[str](), 0

    def __call__(self) -> Iterator[Series]:
        """Count what is new. One that somebody deleted stays counted."""
        self.place.invalidate_cache()
        segments = ship.segments(self.place, self.root)
        for name in segments.keys() - self.known:
            with self.place.open(segments[name], "rb") as stream:
                rows = sum(part.count(b"\n") for part in iter(lambda: stream.read(1 << 20), b""))
            self.rows += rows
            self.known.add(name)
        yield "prediction_log_rows", "Rows that are stored", {}, self.rows


def retrain(environ: Mapping[str, str]) -> Iterator[Series]:
    """Yield how the last retraining ended."""
    path = "actions/workflows/retrain.yml/runs?status=completed&per_page=20"
    runs = github.ask(github.repository(environ), path)["workflow_runs"]
    if last := next((run["conclusion"] for run in runs if run["conclusion"] in CONCLUSIONS), None):
        yield "retrain_last_status", "1 where the last retraining ended well, 0 where it failed", {}, CONCLUSIONS[last]


if __name__ == "__main__":
    sys.exit(main())
