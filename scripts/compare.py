"""Two models side by side: on the same test rows where possible, else as logged.

python -m scripts.compare 3f2a 9c41                       runs: ids, their beginnings, or names
python -m scripts.compare --versions candidate champion   versions of the registry, by number or alias
python -m scripts.compare 3f2a --baseline team=search     with the newest finished run that has this tag

Every difference is the first less the second, and is logged with the first run, once. Exit code: 0 done, 2 wrong input, or models
that cannot be compared, 3 the store did not answer.
"""

import argparse
import hashlib
import json
import math
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from msgspec.structs import asdict

from pawl import answers, bundle, config, paths, registry, rows, tracking
from pawl.answers import Answers
from pawl.gate import compare, rules, statistics
from pawl.gate.compare import finite
from pawl.gate.rules import Gates
from pawl.parts import Value
from pawl.pipeline import train
from pawl.problem import Problem
from pawl.report import text
from pawl.tracking import Store
from scripts import baseline, cli, github
from task.metrics import METRICS

TEST = paths.PREPARED / "test.parquet"
FINISHED = "attributes.status = 'FINISHED'"
PAIRED = """Difference: the first less the second, with its paired 90 % interval.
Better, worse: the first is, at p < 0.05, two-sided, after Holm's correction over all metrics."""
UNPAIRED = """Logged numbers, not the same rows. Difference: the first less the second; where both have logged 95 % intervals,
its unpaired 95 % interval (MOVER: from how far each value is from its ends). Better, worse: that excludes 0."""
SHOWN = 20
ASIDE = ("train.", "valid.", "gap.", "cv.", "seconds.")  # shown where there is nothing else


class Line(NamedTuple):
    """A metric of two models. difference: the first less the second; ends are None where they are not known."""

    metric: str
    first: Value
    second: Value
    difference: Value
    verdict: str

    @property
    def numbers(self) -> dict[str, float]:
        """Return what is logged of it."""
        apart = self.difference
        found = {"difference": apart.value, "ratio": ratio(self.first, self.second)}
        found |= {"low": apart.low, "high": apart.high}
        return {key: value for key, value in found.items() if value is not None}


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Compare."""
    parser = cli.parser("compare", __doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="an id, the beginning of one, or a name")
    parser.add_argument("--versions", nargs=2, metavar="VERSION", help="of the registry: numbers or aliases")
    parser.add_argument("--baseline", metavar="KEY=VALUE", help="a tag")
    parser.add_argument("--json", action="store_true", help="for a program")
    args = parser.parse_args(argv)
    if (len(args.runs), bool(args.versions), bool(args.baseline)) not in {(2, False, False), (0, True, False), (1, False, True)}:  # fmt: skip
        parser.error("name two runs; or one, and --baseline; or --versions and two of them")
    gates = rules.load(paths.GATES)
    with tempfile.TemporaryDirectory() as folder:
        with tracking.store() as store:
            found = chosen(store, args)
            got = [each for run in found if (each := fetched(store, run, Path(folder) / run.info.run_id))]
        if both := len(got) == 2:
            one, two, left_out = answered(*got)
            lines, rows_said = scored(one, two, gates), f"on the same {len(one.rows):,} test rows"
            rows_said += f"; {left_out:,} that one of them was trained on are left out" if left_out else ""
        else:
            lines, rows_said = logged(found[0].data.metrics, found[1].data.metrics, gates), "by their logged numbers"
    lines.sort(key=lambda each: list(gates.metrics).index(each.metric) if each.metric in gates.metrics else math.inf)
    how = PAIRED if both else UNPAIRED
    told: dict[str, Any] = {
        "runs": [run.info.run_id for run in found], "rows": rows_said, "how": how,
        "metrics": {each.metric: {"first": asdict(each.first), "second": asdict(each.second), **each.numbers, "verdict": each.verdict} for each in lines},
    }  # fmt: skip
    versions = [f"version {each}" if each.isdigit() else each for each in args.versions or ()]
    names = versions or [called(run) for run in found]
    print(json.dumps(told, indent=1) if args.json else shown(lines, names, rows_said, how, gates), flush=True)
    with tracking.store() as store:
        log(store, found[0], found[1], lines, told)
    return 0


def chosen(store: Store, args: argparse.Namespace) -> list[Any]:
    """Return the two runs that are meant."""
    found = [of_version(store, each) for each in args.versions or ()] + [find(store, each) for each in args.runs]
    if args.baseline:
        found.append(tagged(store, found[0].info.run_id, args.baseline))
    if found[0].info.run_id == found[1].info.run_id:
        raise Problem(f"both are the same run, {found[0].info.run_id}", store.shown, "name two")
    return found


def find(store: Store, name: str) -> Any:
    """Return the finished run that an id, the beginning of one or a name means; raise Problem if there is not exactly one."""
    found = search(store, f"attributes.run_name = {quoted(name)}")
    if re.fullmatch("[0-9a-f]{1,32}", name):
        found += search(store, f"attributes.run_id LIKE '{name}%'")
    there = {run.info.run_id: run for run in found}
    if not there:
        raise Problem(f"there is no run {name}", store.shown, "`make ui` shows the runs; or fetch the store it is in")
    if len(there) > 1:
        shown = ", ".join(f"{each[:12]} ({run.info.run_name})" for each, run in list(there.items())[:5])
        raise Problem(f"{name} may be one of {len(there)} runs: {shown}", store.shown, "write more of the id")
    return finished(found[0])


def of_version(store: Store, version: str) -> Any:
    """Return the run of a version, which is a number or an alias."""
    name = github.project()
    found = registry.named(store.client, name, version) or registry.get(store.client, name, version)
    run = found.tags.get("pawl.run", found.run_id)  # the newest commit's that made this model
    if not run:
        raise Problem(f"version {version} was not made of a run", name, "name one that `make register` made")
    return finished(store.client.get_run(run))


def finished(run: Any) -> Any:
    """Return the run; raise Problem unless it is whole."""
    if run.info.status != "FINISHED":
        raise Problem(f"{called(run)} is not whole: it is {run.info.status}", run.info.run_id, "log it again, or name another run")  # fmt: skip
    return run


def tagged(store: Store, other: str, tag: str) -> Any:
    """Return the newest finished run with a tag, other than the one with this id."""
    key, _, value = tag.partition("=")
    if not re.fullmatch(r"[\w./ -]+", key) or not value:
        raise Problem(f"{tag} is no tag", "--baseline", "write key=value, for example team=search")
    found = search(store, f"{FINISHED} and tags.`{key}` = {quoted(value)}", other)
    if not found:
        tags = [run.data.tags for run in search(store, FINISHED, other)]
        values = Counter(each[key] for each in tags if key in each)
        keys = sorted({each for run in tags for each in run if not each.startswith(("mlflow.", "pawl.", "vs."))})
        there = [f"{key}={each} ({count})" for each, count in values.most_common(8)] or keys[:20] or ["no tags at all"]
        raise Problem(f"no other finished run has the tag {tag}", store.shown, f"there are: {', '.join(there)}")
    if len(found) > 1:
        print(f"{len(found)} runs have the tag {tag}: {called(found[0])}, the newest, is taken", file=sys.stderr)
    return found[0]


def search(store: Store, query: str, other: str = "") -> list[Any]:
    """Return the runs of every experiment that a query finds, without the one with this id; the newest first, 1,000 at most."""
    places = [each.experiment_id for each in store.client.search_experiments()]
    found = store.client.search_runs(places, query, order_by=["attributes.start_time DESC"], max_results=1000)
    return [run for run in found if run.info.run_id != other]


def quoted(value: str) -> str:
    """Return a value as a query takes it."""
    if '"' in value:
        raise Problem(f"{value} cannot be asked for", "its quotation marks", "name the run by its id")
    return f'"{value}"'


def called(run: Any) -> str:
    """Return the beginnings of a run's name and id."""
    return f"{''.join(filter(str.isprintable, run.info.run_name or ''))[:10]} {run.info.run_id[:7]}"


def fetched(store: Store, run: Any, folder: Path) -> Path | None:
    """Return where the bundle of a run now lies, None if it has none; raise Problem if it is another than the run names."""
    digest, model = run.data.tags.get("pawl.digest"), tracking.model_of(store, run.info.run_id)
    if digest is None or model is None:
        return None
    folder.mkdir()
    got = store.download(model.artifact_location, "data/bundle", folder)
    if bundle.digest_of(got) != digest:
        raise Problem(f"the bundle of {called(run)} is not the one that was logged", model.artifact_location, "it was changed in the store: do not use it")  # fmt: skip
    return got


def answered(*folders: Path) -> tuple[Answers, Answers, int]:
    """Return what two bundles answer on the test rows here that neither was trained on, and how many rows that leaves out."""
    import numpy as np
    import pyarrow.parquet as pq

    loaded, task = [bundle.load(folder) for folder in folders], config.load(paths.PARAMS)
    if not TEST.exists():
        raise Problem("there are no test rows", TEST, "run `make run`, or `make pull`")
    table = pq.read_table(TEST)
    labels = train.labels_of(pq.read_table(TEST.with_stem("train"), columns=[task.target]).column(task.target), task)
    for each in loaded:
        if why := baseline.unread(each, task.target, labels, table):
            raise Problem(f"the model {each.digest[:19]} cannot be asked: {why}", TEST, "compare it in a checkout that has its table")  # fmt: skip
    names, place = np.unique(rows.hash_column(table.column("row_id")), return_index=True)
    y = train.target(table.column(task.target), labels)[place]
    group = rows.hash_column(table.column(task.columns.group))[place] if task.columns.group else None
    asked = Answers(task.task, tuple(labels), names, y, y, None, group, {}, len(y))
    (first, seen), (second, seen_too) = (found for each in loaded if (found := baseline.rescored(each, asked)))
    one, two = (answers.without(each, np.concatenate([seen, seen_too])) for each in (first, second))
    if len(one.rows) == 0:
        raise Problem(f"one of them was trained on all {len(y):,} test rows", TEST, "compare them on another table")
    return one, two, len(y) - len(one.rows)


def scored(one: Answers, two: Answers, gates: Gates) -> list[Line]:
    """Return every metric of two models on the same rows."""
    first, second = compare.measure(one), compare.measure(two)
    found = {name: statistics.difference(name, two, one, custom=METRICS.get(name)) for name in first}
    p = [2 * min(each.p_lower, each.p_higher) if math.isfinite(each.value) else 1.0 for each in found.values()]
    lines = []
    for (name, each), adjusted in zip(found.items(), statistics.holm(p), strict=True):
        said = "same" if each.value == each.error == 0 else verdict(each.value, gates.sign(name), sure=adjusted < 0.05)  # fmt: skip
        lines.append(Line(name, first[name], second[name], compare.of_estimate(each), said))
    return lines


def logged(one: Mapping[str, float], two: Mapping[str, float], gates: Gates) -> list[Line]:
    """Return the metrics that two runs have logged; raise Problem if they have none in common."""
    first, second = ({name.removeprefix("test."): each[name] for name in sorted(each, key=lambda name: name.startswith("test."))} for each in (one, two))  # fmt: skip
    shared = [name for name in first if name in second and not name.startswith("vs.") and not name.endswith((".low", ".high"))]  # fmt: skip
    if not shared:
        there = "; ".join(", ".join(list(each)[:8]) or "none" for each in (first, second))
        raise Problem("the runs have no metric in common", there, "log them under the same names")
    lines = []
    for name in [each for each in shared if not each.startswith(ASIDE)] or shared:
        mine, other = interval(first, name), interval(second, name)
        difference = unpaired(mine, other)
        sure = difference.low is not None and difference.high is not None and difference.low * difference.high > 0
        said = verdict(difference.value, gates.sign(name), sure=sure) if difference.low is not None else ""
        lines.append(Line(name, mine, other, difference, said))
    return lines


def interval(numbers: Mapping[str, float], name: str) -> Value:
    """Return a number that was logged, with the ends of its interval where they were."""
    value, low, high = (finite(numbers.get(f"{name}{end}")) for end in ("", ".low", ".high"))
    return Value(value, low, high, 0)


def unpaired(one: Value, two: Value) -> Value:
    """Return the difference of independent values with its interval (MOVER: Zou and Donner 2008); None for what is not known."""
    if one.value is None or two.value is None:
        return Value(None, None, None, 0)
    change = one.value - two.value
    if one.low is None or one.high is None or two.low is None or two.high is None:
        return Value(change, None, None, 0)
    down = math.hypot(one.value - one.low, two.high - two.value)
    up = math.hypot(one.high - one.value, two.value - two.low)
    return Value(change, change - down, change + up, 0)


def ratio(one: Value, two: Value) -> float | None:
    """Return the first over the second; None where that is not defined."""
    return finite(one.value / two.value) if one.value is not None and two.value else None


def verdict(change: float | None, sign: int, *, sure: bool) -> str:
    """Return what a difference means for the first, in a word."""
    if not sure or not change:
        return "may be chance"
    return ("better" if change * sign > 0 else "worse") if sign else ("higher" if change > 0 else "lower")


def shown(lines: Sequence[Line], names: Sequence[str], on: str, how: str, gates: Gates) -> str:
    """Return the comparison as a screen: under each number its interval."""
    cells = [("", *names, "difference", "ratio")]
    for metric, first, second, apart, verdict in lines[:SHOWN]:
        arrow = {1: " ↑", -1: " ↓", 0: ""}[gates.sign(metric)]
        one, two = ((text.number(each.value, first), between(each, text.number, first)) for each in (first, second))
        less = text.signed(apart.value, apart), between(apart, text.signed, apart)
        cells.append((metric + arrow, one[0], two[0], less[0], text.number(ratio(first, second))))
        cells.append(("", one[1], two[1], less[1], verdict))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    table = ["  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in cells]  # fmt: skip
    more = [f"  … and {len(lines) - SHOWN} more: --json"] if len(lines) > SHOWN else []
    head = f"{names[0]} against {names[1]}, {on}"
    return "\n".join([head, "", *(f"  {line}".rstrip() for line in table), *more, "", how])


def between(value: Value, said: Callable[[float | None, Value], str], like: Value) -> str:
    """Return an interval; nothing where there is none."""
    return "" if value.low is None or value.high is None else f"{said(value.low, like)} to {said(value.high, like)}"


def log(store: Store, run: Any, other: Any, lines: Sequence[Line], told: Mapping[str, Any]) -> None:
    """Log the comparison with a run: a file, numbers, and a tag that says it in a line; nothing if that was done before."""
    from mlflow.entities import Metric, RunTag

    content = json.dumps(told, indent=1).encode()
    mark, head = f"vs.{other.info.run_id[:7]}", lines[0]
    said = f"{head.metric} {text.signed(head.difference.value, head.difference)} {head.verdict}, against {called(other)}, {told['rows']} (sha256:{hashlib.sha256(content).hexdigest()[:12]})"
    if run.data.tags.get(mark) == said:
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{other.info.run_id}.json").write_bytes(content)
        tracking.send(store, f"{run.info.artifact_uri}/comparisons", Path(folder))
    numbers = [Metric(f"{mark}.{each.metric}.{name}", value, int(time.time() * 1000), 0) for each in lines for name, value in each.numbers.items()]  # fmt: skip
    store.client.log_batch(run.info.run_id, numbers[:1000], tags=[RunTag(mark, said)])


if __name__ == "__main__":
    sys.exit(main())
