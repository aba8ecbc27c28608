"""Say whether what is asked in production has moved from what the champion learned.

python -m scripts.drift --log /var/log/predictions                               all that was predicted
python -m scripts.drift --log s3://bucket/predictions --last 7d --labels l.csv   the last week, with the labels that have arrived
python -m scripts.drift --log s3://bucket/predictions --every 1000               each whole thousand since the last run
python -m scripts.drift --reference a.parquet --current b.csv                    any two tables

Writes reports/drift.json, drift.md and drift_report.html, and adds a line per window to a history, which reports/drift_history.svg shows.
params.yaml, `drift`, has the limits. Exit code: 0 done, 1 drift (with --exit-code), 2 your input, 3 a place does not answer.
"""

import bisect
import contextlib
import html
import math
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from pawl import bundle, config, drift, paths, rows, schema
from pawl.drift import PREDICTION, Kind, Performance, Report, Side, Window
from pawl.gate import rules
from pawl.gate.compare import of_estimate
from pawl.parts import seconds_of, utc
from pawl.problem import Problem, Unreachable
from pawl.yamlfile import refuse_name
from scripts import cli, labels, replay, ship

OUT = Path("reports/drift.json")  # and drift.md, drift_report.html, drift_history.svg beside it
HISTORY = Path("reports/drift_history.jsonl")  # of two tables
KINDS: dict[str, Kind] = {"integer": "number", "number": "number", "boolean": "category", "category": "category", "text": "category"}  # fmt: skip
UNITS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
DAY = 86_400.0  # that a segment covers at most
PASS = 200_000  # rows of windows that are held at once
OWN = {"row_id", *labels.OWN}  # names of the pipeline


# After, and up to: (time, key); of a window of time: from, and before.
Cut = tuple[Window, tuple[float, int], tuple[float, int]]


class Reference(NamedTuple):
    """What a log is held against: rows, and what the model answers on rows that it has not seen."""

    name: str
    loaded: bundle.Bundle
    rows: Side
    scored: Side
    tests: str  # the table of the rows that it has not seen


@dataclass
class Gathered:
    """A window of the log."""

    window: Window
    rows: Side
    truth: Side
    models: Counter[str] = field(default_factory=Counter)
    present: set[str] = field(default_factory=set)
    times: list[float] = field(default_factory=list)


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Compare, write, say."""
    parser = cli.parser("drift", __doc__)
    parser.add_argument("--log", metavar="URL", help="PAWL_LOG_DIR, or where scripts.ship keeps it")
    parser.add_argument("--reference", metavar="FILE", help="instead of the rows that models/bundle was trained on")
    parser.add_argument("--current", metavar="FILE", help="a table instead of a log")
    parser.add_argument("--labels", metavar="FILE", help="*.csv, *.parquet: request_id, row, label; as scripts.labels takes them")  # fmt: skip
    parser.add_argument("--columns", help="these alone, separated by commas")
    parser.add_argument("--since", metavar="TIME", help="2026-01-31, or 2026-01-31T12:00; UTC")
    parser.add_argument("--until", metavar="TIME", help="before it")
    parser.add_argument("--last", metavar="7d", help="h, d or w before now")
    parser.add_argument("--every", type=int, metavar="N", help="each whole N predictions since the last window of the history")  # fmt: skip
    parser.add_argument("--history", metavar="URL", help="history.jsonl in the log's place, or reports/drift_history.jsonl")  # fmt: skip
    parser.add_argument("--exit-code", action="store_true", help="1 where the verdict is drift")
    args = parser.parse_args(argv)
    if bool(args.log) == bool(args.current) or (args.current and not args.reference):
        parser.error("give --log, or --reference and --current")
    if args.current and (args.labels or args.since or args.until or args.last or args.every):
        parser.error("labels and windows are of a log: give --log")
    if sum(map(bool, (args.since or args.until, args.last, args.every is not None))) > 1 or (
        args.every is not None and args.every < 1
    ):
        parser.error("give one of --since/--until, --last and --every, which is at least 1")
    if args.since and args.until and moment(args.since) >= moment(args.until):
        parser.error("--since is not before --until")
    params = config.load(paths.PARAMS)
    limits = params.drift
    if args.columns:
        limits = msgspec.structs.replace(limits, columns=tuple(filter(None, map(str.strip, args.columns.split(",")))))
    history = args.history or (f"{args.log.rstrip('/')}/history.jsonl" if args.log else str(HISTORY))
    known = read_history(history)
    found = of_log(args, params, limits, known) if args.log else [of_tables(args, params, limits)]
    reports = [each for each, _ in found]
    report, samples = next((each for each in reversed(found) if each[0].verdict == "drift"), found[-1])
    judged = [each for each in reports if each.window.name]
    known = merged(known, judged)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    OUT.with_suffix(".md").write_text(drift.markdown(report))
    page(report, samples, OUT.with_name("drift_report.html"))
    OUT.with_name("drift_history.svg").write_text(picture(known, limits))
    try:
        if judged:
            write_history(history, known)
    except Unreachable as error:  # keys that read and no more: the verdict is there all the same
        print(f"warning: {error}", file=sys.stderr)
    for each in reports[:-8:-1][::-1] if len(reports) > 1 else []:
        print(f"{each.window.name}: {each.headline}")
    print(drift.screen(report))
    following = {
        "drift": f"look at {OUT.with_name('drift_report.html')}; `python -m scripts.labels` gathers rows to retrain on",
        "no drift": f"nothing; {history} has {len(known):,} windows",
        "insufficient data": "wait for more rows, or lower drift.min_rows in params.yaml",
    }
    print(f"next: {following[report.verdict]}")
    return int(args.exit_code and any(each.verdict == "drift" for each in reports))


def of_tables(args: Any, params: config.Params, limits: config.Drift) -> tuple[Report, tuple[Any, Any]]:
    """Return the report of two tables, and their samples."""
    import pyarrow as pa

    def kind(field: Any) -> str | None:
        if pa.types.is_null(field.type):
            return None
        if pa.types.is_floating(field.type) or pa.types.is_integer(field.type) or pa.types.is_decimal(field.type):
            return "number"
        return "time" if pa.types.is_temporal(field.type) else "category"

    shapes = [{each.name: kind(each) for each in next(labels.chunks(url)).schema} for url in (args.reference, args.current)]  # fmt: skip
    both = [name for name in shapes[0] if name in shapes[1]]
    for name in limits.columns:
        if name not in both:
            refuse_name(name, name, both, where=f"{args.reference}, {args.current}")
    roles = (OWN | params.roles) - {params.target}
    kinds, left_out = dict[str, Kind](), dict[str, str]()
    for name in both:
        if name in roles - {*limits.columns} or (limits.columns and name not in {*limits.columns, params.target}):
            continue
        of = {shape[name] for shape in shapes} - {None} or {"category"}
        if "time" in of:
            left_out[name] = "it is a time"
        else:
            kinds[name] = "number" if of == {"number"} else "category"
    if not kinds:
        raise Problem("the tables share no column that can be tested", f"{args.reference}, {args.current}", "name columns that both have")  # fmt: skip
    one = filled(Side(kinds, limits.rows), args.reference)
    two = filled(Side(kinds, limits.rows, ends(one)), args.current)
    target = (params.target, two) if params.target in kinds else None
    window = Window(f"{args.current} {two.digest:016x}", until=utc())
    report = drift.assess(limits, one, two, name=args.reference, window=window, target=target, left_out=left_out)
    return report, (one.sample(), two.sample())


def of_log(args: Any, params: config.Params, limits: config.Drift, known: Sequence[Report]) -> list[tuple[Report, tuple[Any, Any]]]:  # fmt: skip
    """Return a report per window of the log, and its samples."""
    given = reference(args.reference, params, limits)
    kind = labels.line(given.loaded.manifest)
    truth = labels.read(args.labels, params.target) if args.labels else None
    now, name = time.time(), ""
    since, until = (moment(args.since) if args.since else 0.0), (moment(args.until) if args.until else math.inf)
    if args.last:
        since, until, name = now - duration(args.last), now, f"{args.last} to {utc(now)[:10]}"  # one line a day
    windows, short = [(Window(name), (since, -1), (until, -1))], ""
    if args.every:
        begun = next((each.window.edge for each in reversed(known) if each.window.name.startswith(f"every {args.every}:")), None) or (0.0, -1)  # fmt: skip
        windows, short = thousands(args, kind, begun)
    told: list[tuple[Report, tuple[Any, Any]]] = []
    size = max(1, PASS // min(args.every or PASS, limits.rows))
    for at in range(0, len(windows), size):
        gathered, found = gather(args.log, kind, windows[at : at + size], given, limits, truth)
        told += [report_of(each, given, params, limits, found.damaged) for each in gathered]
    if not told:
        nothing = Gathered(Window(""), Side({}, limits.rows), Side({}, limits.rows))
        report, samples = report_of(nothing, given, params, limits, 0)
        told = [(msgspec.structs.replace(report, headline=f"Insufficient data: {short}."), samples)]
    return told


def reference(file: str | None, params: config.Params, limits: config.Drift) -> Reference:
    """Return what a log is held against; raise Problem if the rows here are not those that the bundle has seen."""
    from pawl.pipeline import evaluate

    loaded = bundle.load(paths.BUNDLE)
    train = paths.PREPARED / "train.parquet"
    kinds = {name: KINDS[dtype] for name, dtype in loaded.dtypes.items() if dtype in KINDS}
    for name in limits.columns:
        if name not in kinds:
            refuse_name(name, name, list(kinds), where=f"--columns, or {paths.PARAMS}: drift.columns")
    kinds = {name: kind for name, kind in kinds.items() if name in (limits.columns or kinds)}
    fix = "`make run` trains it here, `make pull` fetches a released one; or give --reference FILE"
    if not file and not train.exists():
        raise Problem("the rows that the model was trained on are not here", train, fix)
    if not file:
        ids = [rows.hash_column(each.column("row_id")) for each in labels.chunks(str(train))]
        if not np.array_equal(np.sort(np.concatenate(ids)), np.sort(loaded.trained_on)):
            raise Problem(f"these are not the rows that {paths.BUNDLE} was trained on", train, fix)
    task: Kind = "number" if loaded.manifest["task"] == "regression" else "category"
    columns = next(labels.chunks(file or str(train))).column_names
    if absent := [name for name in loaded.dtypes if name not in columns]:
        raise Problem(f"it has no column {absent[0]}, which the model takes", file or train, "give a table with its features")  # fmt: skip
    target = {params.target: task} if params.target in columns else {}
    whole = filled(Side(kinds | target, limits.rows), file or str(train))
    # A model is surer of the rows that it was trained on than of any other: its answers are held against those on rows it has not seen.
    test = paths.PREPARED / "test.parquet"
    scored = Side({PREDICTION: score_kind(loaded)}, limits.rows)
    tests = file or str(test if test.exists() else train)
    for table, keys in keyed(tests):
        if not table.num_rows:
            continue
        prediction, probabilities = evaluate.score(loaded, table)
        named = [loaded.manifest["labels"][each] for each in prediction] if loaded.manifest["labels"] else prediction
        scored.add(typed({PREDICTION: probabilities[:, 1] if loaded.manifest["task"] == "binary" else named}, scored.kinds), keys)  # fmt: skip
    return Reference(file or str(train), loaded, whole, scored, tests)


def score_kind(loaded: bundle.Bundle) -> Kind:
    """Return what a prediction is tested as: a score or value, or a label of more than two."""
    return "category" if loaded.manifest["task"] == "multiclass" else "number"


def ends(side: Side) -> dict[str, tuple[float | None, float | None]]:
    """Return the limits of each number: those of schema.yaml, and where it has none the reference's own."""
    columns = schema.load(paths.SCHEMA).columns if paths.SCHEMA.exists() else {}
    found: dict[str, tuple[float | None, float | None]] = {}
    for name, total in side.totals.items():
        if side.kinds[name] == "number" and total.rows > total.missing:
            rule = columns.get(name)
            low, high = (rule.min, rule.max) if rule else (None, None)
            found[name] = total.least if low is None else low, total.most if high is None else high
    return found


def typed(columns: Any, kinds: Mapping[str, Kind]) -> Any:
    """Return a pyarrow table of doubles and strings, null where a number is not finite."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def column(values: Any, kind: Kind) -> Any:
        values = values if isinstance(values, pa.ChunkedArray | pa.Array) else pa.array(values)
        values = values.cast(pa.float64() if kind == "number" else pa.string(), safe=False)
        return pc.if_else(pc.is_finite(values), values, None) if kind == "number" else values

    return pa.table({name: column(columns[name], kind) for name, kind in kinds.items()})


def keyed(url: str) -> Iterator[tuple[Any, Any]]:
    """Yield a table in parts, and a key per row: of its id, or of its content and how often that came before, so that like rows have other keys."""
    names = next(labels.chunks(url)).column_names
    if own := next((each for each in ("row_id", "request_id") if each in names), ""):
        for table in labels.chunks(url):
            yield table, drift.keys_of(table.column(own), table.column("row").to_numpy() if own == "request_id" and "row" in names else 0)  # fmt: skip
        return
    hashes = np.concatenate([rows.hash_rows(each, names) for each in labels.chunks(url)])
    order = np.argsort(hashes, kind="stable")
    place = np.arange(len(order))
    first = np.append(True, np.diff(hashes[order]) != 0)[: len(order)]
    again = np.empty(len(order), dtype=np.uint64)
    again[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    keys, at = rows.mix(hashes + again * np.uint64(0x9E3779B97F4A7C15)), 0
    for table in labels.chunks(url):
        yield table, keys[at : at + table.num_rows]
        at += table.num_rows


def filled(side: Side, url: str) -> Side:
    """Return the side with the rows of a table."""
    import pyarrow as pa

    for table, keys in keyed(url):
        try:
            side.add(typed({name: table.column(name) for name in side.kinds}, side.kinds), keys)
        except pa.ArrowInvalid as error:
            raise Problem(f"a column of numbers holds something else: {error}", url, "correct the cell") from error
    return side


def wanted(since: float, until: float) -> Callable[[str], bool]:
    """Return what says whether a segment of that name may hold rows of a window."""

    def may(name: str) -> bool:
        stamp = re.match(r"predictions-(\d{8}T\d{6})Z", name)
        begun = datetime.strptime(stamp[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp() if stamp else None
        return begun is None or (begun <= until + 1 and begun + 2 * DAY >= since)

    return may


def thousands(args: Any, kind: Any, begun: tuple[float, int]) -> tuple[list[Cut], str]:
    """Return the windows of N whole predictions after the last one, and what is left over. Rows that are shipped later than younger ones are in none."""
    parts: list[Any] = [np.empty(0, [("time", "f8"), ("key", "u8")])]
    for lines in labels.batched(replay.logged(args.log, replay.Found(), kind, wanted(begun[0], math.inf))):  # fmt: skip
        part = np.empty(len(lines), parts[0].dtype)
        part["time"], part["key"] = [each.time for each in lines], labels.keys(lines)
        parts.append(part)
    every = np.sort(np.concatenate(parts), order=["time", "key"])
    after = bisect.bisect_right(every, begun, key=lambda each: (float(each["time"]), int(each["key"])))
    cuts = [(float(each["time"]), int(each["key"])) for each in every[after + args.every - 1 :: args.every]]
    left = len(every) - after - len(cuts) * args.every
    low, found = begun, []
    for cut in cuts:
        found.append((Window(f"every {args.every}: {utc(cut[0])} {cut[1]:016x}", edge=cut), (low[0], low[1]), cut))
        low = cut
    return found, f"{left:,} predictions since the last window, {args.every:,} are one"


def gather(log: str, kind: Any, windows: Sequence[Cut], given: Reference, limits: config.Drift, truth: labels.Labels | None) -> tuple[list[Gathered], replay.Found]:  # fmt: skip
    """Return what lies in windows that follow one another, read once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    manifest, found = given.loaded.manifest, replay.Found()
    features = {name: kind for name, kind in given.rows.kinds.items() if name in manifest["features"]}
    task: Kind = "number" if manifest["task"] == "regression" else "category"
    scores = [f"probability {label}" for label in manifest["labels"]]
    real: dict[str, Kind] = {manifest["target"]: task, "prediction": task, **dict.fromkeys(scores, "number")}
    held = [Gathered(window, Side(features | given.scored.kinds, limits.rows, ends(given.rows)), Side(real, limits.rows)) for window, _, _ in windows]  # fmt: skip
    strange = 0
    low, uppers, every = windows[0][1], [up for _, _, up in windows], bool(windows[0][0].edge)
    for lines in labels.batched(replay.logged(log, found, kind, wanted(low[0], uppers[-1][0]))):
        keys, times = labels.keys(lines), np.array([each.time for each in lines])
        pairs = zip(times.tolist(), keys.tolist(), strict=True)
        at = [bisect.bisect_left(uppers, pair) if pair > low else -1 for pair in pairs] if every else np.where((times >= low[0]) & (times < uppers[0][0]), 0, -1)  # fmt: skip
        for number in set(np.unique(at).tolist()) & set(range(len(held))):
            mask, into = np.asarray(at) == number, held[number]
            some, key = [lines[place] for place in np.flatnonzero(mask)], keys[mask]
            columns = labels.columns(some, manifest)
            columns[PREDICTION] = columns[scores[1] if manifest["task"] == "binary" else "prediction"]
            into.rows.add(typed(columns, into.rows.kinds), key)
            into.models.update(each.model_version for each in some)
            into.present |= {name for place, name in enumerate(manifest["features"]) if any(getattr(each.features, f"c{place}") is not msgspec.UNSET for each in some)}  # fmt: skip
            into.times = [min([*into.times, times[mask].min()]), max([*into.times, times[mask].max()])]
            if truth is not None:
                columns[manifest["target"]] = truth.of(key)
                there = np.logical_and.reduce([columns[name].is_valid().to_numpy(zero_copy_only=False) for name in real])  # fmt: skip
                if manifest["labels"]:  # another model's, or a mistake: neither right nor wrong
                    classes = pa.array(manifest["labels"])
                    texts = (columns[name].cast("string") for name in (manifest["target"], "prediction"))
                    known, told = (pc.is_in(each, classes).to_numpy(zero_copy_only=False) for each in texts)
                    strange += int((there & ~known).sum())
                    there = there & known & told
                into.truth.add(typed(columns, real).filter(pa.array(there)), key[there])
    if strange:
        print(f"warning: {strange:,} labels are of no class that the model knows: left out", file=sys.stderr)
    for each, (window, after, up) in zip(held, windows, strict=True):
        first, last = each.times or (after[0], min(up[0], time.time()))
        since, until = utc(first if every else after[0] or first), utc(last if every or up[0] == math.inf else up[0])
        each.window = msgspec.structs.replace(window, name=window.name or f"{since} to {until}", since=since, until=until)  # fmt: skip
    return held, found


def report_of(each: Gathered, given: Reference, params: config.Params, limits: config.Drift, damaged: int) -> tuple[Report, tuple[Any, Any]]:  # fmt: skip
    """Return the report of a window, and its samples."""
    reference = given.rows
    left_out = {name: "it is not in the log: PAWL_LOG_WITHOUT" for name in each.rows.kinds if name in reference.kinds and name not in each.present and each.rows.rows}  # fmt: skip
    each.rows.kinds = {name: kind for name, kind in each.rows.kinds.items() if name not in left_out}
    measured = performance(each.truth, given, params, limits) if each.truth.rows >= limits.min_rows else None
    target = (params.target, each.truth) if each.truth.rows and params.target in reference.kinds else None
    report = drift.assess(
        limits, reference, each.rows, name=given.name, window=each.window, target=target,
        prediction=(given.scored, each.rows) if each.rows.rows else None,
        measured=measured, labelled=each.truth.rows, models=each.models, damaged=damaged, left_out=left_out,
    )  # fmt: skip
    return report, (reference.sample(), each.rows.sample())


def performance(truth: Side, given: Reference, params: config.Params, limits: config.Drift) -> Performance | None:
    """Return the metric on rows that have labels, against that of the same model on rows it has not seen; None where those have no target."""
    import pyarrow as pa

    from pawl.pipeline import evaluate, train

    loaded, tables = given.loaded, []
    for table in labels.chunks(given.tests):
        tables.append(table)
        if sum(map(len, tables)) >= limits.rows:
            break
    tests = pa.concat_tables(each for each in tables if len(each))
    target, names = loaded.manifest["target"], loaded.manifest["labels"]
    if target not in tests.column_names:
        return None
    y = train.target(tests.column(target), names)
    recorded = evaluate.measure(params.problem, y, *evaluate.score(loaded, tests), params.evaluate)
    metric, sign = rules.load(paths.GATES).watched(limits.metric, recorded)
    sample = truth.sample()
    y, answer = (train.target(sample.column(name), names) for name in (target, "prediction"))
    scores = np.column_stack([sample.column(f"probability {label}").to_numpy() for label in names]) if names else None
    found = evaluate.measure(params.problem, y, answer, scores, params.evaluate)
    return drift.performance(metric, sign, of_estimate(recorded[metric]), found[metric], limits)


def read_history(url: str) -> list[Report]:
    """Return the windows so far."""
    place, root = ship.opened(url)
    with ship.reached("the history cannot be read", url, "see that the store answers"):
        content = place.cat_file(root) if place.exists(root) else b""
    found, decoder = [], msgspec.json.Decoder(Report)
    for line in content.splitlines():  # whoever may write there must not end the watch
        with contextlib.suppress(msgspec.MsgspecError):
            found.append(decoder.decode(line))
    whole = [each for each in found if not each.window.edge or each.window.edge[0] < time.time() + DAY]
    if lost := len(content.splitlines()) - len(whole):
        print(f"warning: {lost} lines of {url} are no windows, or of the future: left out", file=sys.stderr)
    return whole


def merged(known: Sequence[Report], reports: Sequence[Report]) -> list[Report]:
    """Return the history with these windows, each once, in the order of their ends."""
    found = {each.window.name: each for each in known}
    for each in reports:
        found[each.window.name] = msgspec.structs.replace(each, quality=[])
    return sorted(found.values(), key=lambda each: (each.window.until, each.window.edge or (0.0, 0)))


def write_history(url: str, entries: Sequence[Report]) -> None:
    """Write the windows, all or none."""
    place, root = ship.opened(url)
    content = msgspec.json.Encoder().encode_lines(entries)
    fix = "see that the place answers and may be written; or give --history"
    with ship.reached("the history was not written", url, fix):
        place.makedirs(root.rpartition("/")[0], exist_ok=True)
        place.pipe_file(f"{root}.part", content)
        place.mv(f"{root}.part", root)


def picture(entries: Sequence[Report], limits: config.Drift) -> str:
    """Return the history as SVG: the largest change of each window."""
    from pawl.report import draw
    from pawl.report.html import svg

    points = [(number, max([test.effect for test in (*each.columns, each.prediction) if test], default=0.0), each) for number, each in enumerate(entries, 1)]  # fmt: skip
    top = max([limits.effect * 1.5, *(effect for _, effect, _ in points)])
    frame = draw.Frame((0.5, max(len(points), 2) + 0.5), (0, top * 1.05))
    colours = {"drift": "fail", "no drift": "improved", "insufficient data": "baseline"}
    parts = [frame.axes("window →", "↑ largest change: KS distance, total variation"), frame.line([(frame.x[0], limits.effect), (frame.x[1], limits.effect)], "allowed")]  # fmt: skip
    parts += [draw.group("baseline", frame.line([point[:2] for point in points]))] if points else []
    parts += [draw.group(colours[each.verdict], draw.dot(*frame.at(number, effect), 4 if each.verdict == "drift" else 3)) for number, effect, each in points]  # fmt: skip
    alarms = sum(each.verdict == "drift" for each in entries)
    title = f"Drift in {alarms} of {len(entries)} windows"
    parts.append(draw.text(frame.right, frame.at(0, limits.effect)[1] - 5, "drift from here on", "axis end"))
    parts.append(draw.text(frame.left, 240 + 30, title + (": larger dots" if alarms else ""), "axis"))
    return svg(title, "".join(parts), 280)


def page(report: Report, samples: tuple[Any, Any], path: Path) -> None:
    """Write Evidently's page: the distributions of each column, with the tests and the verdicts of the report, what moved most first; none where nothing was tested."""
    path.unlink(missing_ok=True)  # an earlier window's is not this one's
    if not (tests := {each.column: each for each in report.columns if each.test != "missing"}):
        return
    os.environ["DO_NOT_TRACK"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports, and bins of constant columns
        from evidently import DataDefinition, Dataset
        from evidently import Report as Page
        from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
        from evidently.legacy.core import ColumnType
        from evidently.metrics import ValueDrift

        def homogeneity(one: Any, two: Any, _: Any, threshold: float) -> tuple[float, bool]:
            p = drift.of_categories(dict(one.value_counts()), dict(two.value_counts()))[1]
            return p, p <= threshold

        two_samples = StatTest("chisquare of two samples", "chi-square p_value", [ColumnType.Categorical])
        register_stattest(two_samples, homogeneity)
        named = [[name for name, each in tests.items() if each.test == test] for test in ("ks", "chisquare")]
        shape = DataDefinition(numerical_columns=named[0], categorical_columns=named[1])
        one, two = (Dataset.from_pandas(each.select([*tests]).to_pandas(), data_definition=shape) for each in samples)
        # Its threshold is one of p alone; ours are Holm's and the effect's, so it is told what they came to.
        asked = [ValueDrift(column=name, method="ks" if each.test == "ks" else two_samples.name, threshold=report.limits.level if each.drifted else 0.0)
                 for name, each in sorted(tests.items(), key=lambda item: (-item[1].drifted, -item[1].effect))]  # fmt: skip
        Page(asked).run(two, one).save_html(str(path))
    drawn = path.read_text("utf-8").replace("<head>", f"<head><title>{html.escape(report.headline)}</title>", 1)
    said = f'<h1 style="margin: 0; padding: 1.5rem; background: #fff; color: #1f2328; font: 600 1.4rem sans-serif">{drift.SYMBOLS[report.verdict]} {html.escape(report.headline)}</h1>'
    path.write_text(drawn.replace("<body>", f"<body>{said}", 1), "utf-8")


def moment(text: str) -> float:
    """Return seconds since 1970 of an ISO time; UTC where it says nothing."""
    try:
        return seconds_of(text)
    except ValueError as error:
        raise Problem(f"{text} is no time", "--since, --until", "write 2026-01-31, or 2026-01-31T12:00") from error


def duration(text: str) -> float:
    """Return the seconds in 7d."""
    if not re.fullmatch(r"\d{1,5}[hdw]", text):
        raise Problem(f"{text} is no span of time", "--last", "write 24h, 7d or 4w")
    return int(text[:-1]) * UNITS[text[-1]]


if __name__ == "__main__":
    sys.exit(main())
