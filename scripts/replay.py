"""Ask a candidate what was asked in production, and compare the answers.

python -m scripts.replay --log /var/log/predictions                         the bundle here, offline
python -m scripts.replay --log s3://bucket/predictions --max-changed 0.02   a verdict: at most 2 % of the labels may change
python -m scripts.replay --log s3://bucket/predictions --url http://127.0.0.1:8001   a service, asked as its callers will ask it

Reads the complete segments of the prediction log, the newest first. For --max-changed a row that the candidate refuses is changed.
Of a service that wants a key, the first of PAWL_API_KEYS is sent. Exit code: 0 done, 1 more changes than --max-changed,
2 your input, 3 the candidate or the log's place does not answer.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from pawl import metrics, paths
from pawl.parts import utc
from pawl.problem import Problem, Unreachable
from pawl.serving import predictor, smoke
from pawl.serving.log import Line
from pawl.serving.requests import MAX_ROWS, Forms, Refused, Rows
from pawl.serving.settings import listed
from scripts import cli, ship

BATCH = 1_000_000  # bytes of the log: as ASCII at most three times that, which a service takes
QUANTILES = (0.5, 0.9, 0.99)
SHOWN = 8  # versions, reasons, and labels that became others
COLUMNS = {
    "time": "double", "request_id": "string", "row": "int64", "model_version": "string", "was": "", "now": "", "same": "bool",
    "difference": "double", "refused": "string",
}  # fmt: skip
Answers = tuple[Sequence[Any], Sequence[Sequence[float]] | None]
Row = dict[str, Any]  # a row of the log and what became of it, by COLUMNS


class Logged(Line):
    """A line of the log, held to what is needed here."""

    time: Annotated[float, msgspec.Meta(ge=0, le=1e11)]
    row: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    prediction: str | float
    features: dict[str, Any]


class Candidate(NamedTuple):
    """Who is asked. many: rows in the order of the features, to labels or values, and probabilities or None."""

    digest: str
    forms: Forms
    many: Callable[[Rows], Answers]


@dataclass
class Found:
    """What was found so far. None of it grows with the rows: differences are counted by their first three digits."""

    damaged: int = 0
    same: int = 0
    refused: int = 0
    total: float = 0.0  # of all differences
    largest: float = 0.0
    times: tuple[float, float] = (math.inf, 0.0)
    versions: Counter[str] = field(default_factory=Counter)
    kinds: set[type] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    differences: Counter[float] = field(default_factory=Counter)


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Replay, and say what would change."""
    parser = cli.parser("replay", __doc__)
    parser.add_argument("--log", required=True, metavar="URL", help="PAWL_LOG_DIR, or where scripts.ship keeps it")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--bundle", type=Path, default=paths.BUNDLE, help="the candidate (models/bundle)")
    who.add_argument("--url", help="the candidate as a service that runs")
    parser.add_argument("--rows", type=int, default=100_000, help="at most (100000)")
    parser.add_argument("--max-changed", type=float, metavar="SHARE", help="of labels: 0.02 is 2 %%")
    parser.add_argument("--out", type=Path, help="*.parquet: each row, not its features; *.json: as --json prints it")
    parser.add_argument("--json", action="store_true", help="for a program")
    args = parser.parse_args(argv)
    kind = args.out.suffix if args.out else ""
    if args.rows < 1 or not 0 <= (args.max_changed or 0) <= 1 or kind not in {"", ".parquet", ".json"}:
        parser.error("--rows is at least 1, --max-changed a share from 0 to 1, and --out ends in .parquet or .json")
    if args.url and not args.url.startswith(("http://", "https://")):
        parser.error(f"--url {args.url}: an address begins with http://")
    if args.out:
        try:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.unlink(missing_ok=True)  # what an earlier one found is not what this one did
        except OSError as error:
            raise Problem(f"nothing can be written there: {error.strerror}", args.out, "name a file in a folder of yours") from error  # fmt: skip
    candidate = shadow(args.url.rstrip("/"), environ) if args.url else offline(args.bundle)
    found = Found()
    with table(args.out if kind == ".parquet" else None) as write:
        for batch in batches(islice(logged(args.log, found), args.rows)):
            rows = replay(batch, candidate)
            add(found, batch, rows)
            write(rows)
    told = summary(found, candidate, args.max_changed)
    content = json.dumps(told, indent=1)
    if kind == ".json":
        args.out.write_text(content + "\n")
    print(content if args.json else shown(told))
    return 0 if told.get("allowed", True) else 1


def offline(folder: Path) -> Candidate:
    """Return the bundle in a folder."""
    served = predictor.load(folder)
    return Candidate(served.manifest["digest"], Forms(served.manifest["features"]), served.predictor.many)


def shadow(url: str, environ: Mapping[str, str]) -> Candidate:
    """Return a service that runs; it and what it is asked raise Unreachable where it does not answer."""
    key = next(iter(listed(environ.get("PAWL_API_KEYS", ""))), "")

    def call(path: str, body: Any = None) -> Any:
        status, answer = 503, None
        for wait in (0, 1, 2, 4):  # many may be asking it
            time.sleep(wait)
            try:
                status, answer = smoke.call(f"{url}{path}", body, key)
            except (OSError, ValueError) as error:  # ValueError: no URL
                raise Unreachable(f"the candidate does not answer: {getattr(error, 'reason', error)}", url, "see that it runs") from error  # fmt: skip
            if status != 503:
                break
        if status == 401:
            raise Problem("the candidate wants an API key", url, "put one that it knows first into PAWL_API_KEYS")
        if status != 200 or not isinstance(answer, dict):
            what = f"the candidate answers {path} with status {status}: {str(answer)[:200]}"
            raise Unreachable(what, url, "see its log")
        return answer

    identity = call("/version")
    if not {"digest", "features"} <= identity.keys():
        raise Unreachable("what answers is no service of a bundle", url, "give the address at which it has /version")

    def many(rows: Rows) -> Answers:
        found = call("/predict", [dict(zip(identity["features"], row, strict=True)) for row in rows])
        if len(found.get("predictions", ())) != len(rows):
            raise Unreachable(f"the candidate does not answer each of {len(rows):,} rows", url, "see its log")
        return found["predictions"], found["probabilities"] and [[*each.values()] for each in found["probabilities"]]

    return Candidate(identity["digest"], Forms(identity["features"]), many)


def logged(url: str, found: Found, kind: type[Logged] = Logged, wanted: Callable[[str], bool] = bool) -> Iterator[tuple[int, Logged]]:  # fmt: skip
    """Return each row of the complete segments whose name is wanted, with the bytes of its line; count the lines that are none."""
    place, root = ship.opened(url)
    decoder = msgspec.json.Decoder(kind)
    what, fix = "the log cannot be read", "see that the store answers; if a shipper took it away, run again"
    with ship.reached(what, url, fix):
        segments = ship.segments(place, root)
    for name in filter(wanted, sorted(segments, reverse=True)):
        with ship.reached(what, segments[name], fix), place.open(segments[name], "rb") as stream:
            for content in stream:
                try:
                    yield len(content), decoder.decode(content)
                except (msgspec.MsgspecError, ValueError, RecursionError):
                    found.damaged += 1
    if not segments:
        raise Problem("there is no complete segment of a prediction log", url, "give PAWL_LOG_DIR of the service, or where scripts.ship keeps it; one that ends in .open is complete after PAWL_LOG_SEGMENT_SECONDS, or when the service ends")  # fmt: skip


def batches(rows: Iterable[tuple[int, Logged]]) -> Iterator[list[Logged]]:
    """Return the rows in parts that a service takes."""
    batch: list[Logged] = []
    total = 0
    for size, row in rows:
        if batch and (len(batch) == MAX_ROWS or total + size > BATCH):
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += size
    if batch:
        yield batch


def replay(batch: Sequence[Logged], candidate: Candidate) -> list[Row]:
    """Return each row with what the candidate answers, or why it does not."""
    taken = fitted(candidate.forms, batch)
    rows = [each for each in taken if not isinstance(each, Refused)]
    answers, scores = candidate.many(rows) if rows else ([], None)
    answered = zip(answers, scores or repeat(None), strict=False)
    told: list[Row] = []
    for line, each in zip(batch, taken, strict=True):
        row: Row = {name: getattr(line, name, None) for name in COLUMNS} | {"was": line.prediction, "same": False}
        if isinstance(each, Refused):
            reasons = (f"{one['field'].removeprefix('[0].')}: {one['problem']}" for one in each.places)
            row["refused"] = "; ".join(reasons) or each.error
        else:
            row["now"], score = next(answered)
            now, was = (score, line.probabilities) if score else ([row["now"]], [line.prediction])
            row["same"] = row["now"] == line.prediction and [*now] == was
            row["difference"] = apart(now, was)
        told.append(row)
    return told


def fitted(forms: Forms, batch: Sequence[Logged]) -> list[tuple[Any, ...] | Refused]:
    """Return each row as the service of a candidate takes it, or why it does not."""
    try:
        return [*forms.predict(msgspec.json.encode([each.features for each in batch]))]
    except Refused as refused:
        return [refused] if len(batch) == 1 else [fitted(forms, [each])[0] for each in batch]


def apart(now: Sequence[Any], was: Sequence[Any] | None) -> float | None:
    """Return the largest difference of numbers; None where there are other labels, or another task."""
    if not was or len(now) != len(was) or isinstance(now[0], str) or isinstance(was[0], str):
        return None
    return float(max(abs(one - other) for one, other in zip(now, was, strict=True)))


def add(found: Found, batch: Sequence[Logged], rows: Sequence[Row]) -> None:
    """Add rows to what was found; raise Problem if they are of another task than the candidate."""
    for line, row in zip(batch, rows, strict=True):
        found.versions[line.model_version] += 1
        found.times = min(found.times[0], line.time), max(found.times[1], line.time)
        found.kinds |= {type(each) for each in (row["was"], row["now"]) if each is not None}
        found.same += row["same"]
        if row["refused"]:
            found.refused += 1
            found.reasons[row["refused"]] += 1
            found.columns |= line.features.keys()
        elif isinstance(row["now"], str) and row["was"] != row["now"]:
            found.moves[row["was"], row["now"]] += 1
        if row["difference"] is not None:
            found.differences[float(f"{row['difference']:.2e}")] += 1
            found.total += row["difference"]
            found.largest = max(found.largest, row["difference"])
    if len(found.kinds) > 1:
        raise Problem("labels and values cannot be compared", "--log", "name the log of a model for the candidate's task")  # fmt: skip


def summary(found: Found, candidate: Candidate, most: float | None) -> dict[str, Any]:
    """Return what was found, as numbers; raise Problem where nothing can be said."""
    total, changed = found.versions.total(), found.moves.total()
    compared = total - found.refused
    if not total:
        raise Problem(f"no row in the log can be read, of {found.damaged:,}", "--log", "name the prediction log of a service")  # fmt: skip
    if not compared and (lacking := [name for name in candidate.forms.dtypes if name not in found.columns]):
        what, fix = f"these rows cannot be replayed: none has {', '.join(lacking)}", "PAWL_LOG_WITHOUT left it out, or the candidate is the first to take it: let callers try it, see docs/rollouts.md"  # fmt: skip
        raise Problem(what, "--log", fix)
    if most is not None and float in found.kinds:
        raise Problem("values are answered, and --max-changed is a share of labels", "--max-changed", "leave it out: --json has the differences")  # fmt: skip
    told: dict[str, Any] = {
        "candidate": candidate.digest, "rows": total, "damaged": found.damaged, "versions": dict(found.versions.most_common()),
        **dict(zip(("from", "to"), map(utc, found.times), strict=True)),
        "same": found.same, "refused": {"rows": found.refused, "reasons": dict(found.reasons.most_common())},
    }  # fmt: skip
    if str in found.kinds and compared:
        share = metrics.wilson(changed, compared)
        moves = [{"was": was, "now": now, "rows": count} for (was, now), count in found.moves.most_common()]
        told["changed"] = {"rows": changed, "share": share.value, "low": share.low, "high": share.high, "labels": moves}
    if count := found.differences.total():
        quantiles = {str(each): quantile(found.differences, each) for each in QUANTILES}
        told["difference"] = {"mean": found.total / count, "quantiles": quantiles, "largest": found.largest}
    if most is not None:
        told |= {"max_changed": most, "allowed": (changed + found.refused) / total <= most}
    return told


def quantile(counted: Counter[float], share: float) -> float:
    """Return the least value that so large a share does not exceed."""
    left = share * counted.total()
    return next(value for value in sorted(counted) if (left := left - counted[value]) <= 0)


def shown(told: Mapping[str, Any]) -> str:
    """Return what was found as a screen."""
    total, changed, refused = told["rows"], told.get("changed"), told["refused"]
    lines = [f"{told['candidate'][:19]} on {total:,} rows from {told['from']} to {told['to']}", ""]
    lines += [f"  answered by     {name[:19]}: {count:,}" for name, count in [*told["versions"].items()][:SHOWN]]
    if told["same"] == total:
        lines.append("  every answer is the same, bit for bit")
    else:
        lines.append(f"  bit for bit     {told['same']:,} answers are the same")
        if changed:
            share = f"{changed['share']:.2%} ({changed['low']:.2%} to {changed['high']:.2%})"
            lines.append(f"  another label   {changed['rows']:,} of {total - refused['rows']:,}: {share}")
            lines += [f"{'':18}{each['was']} -> {each['now']}: {each['rows']:,}" for each in changed["labels"][:SHOWN]]
        if apart := told.get("difference"):
            ends = ", ".join(f"{float(part):.0%} up to {value:.3g}" for part, value in apart["quantiles"].items())
            what = "probabilities" if changed else "values       "
            mean = f"differ by {apart['mean']:.3g} in the mean"
            lines.append(f"  {what}   {mean}; {ends}, all up to {apart['largest']:.3g}")
    if refused["rows"]:
        lines.append(f"  refused         {refused['rows']:,}")
        lines += [f"{'':18}{count:,}: {why}" for why, count in [*refused["reasons"].items()][:SHOWN]]
    if told["damaged"]:
        lines.append(f"  damaged         {told['damaged']:,} of the lines, left out")
    if "allowed" in told:
        gone = (changed["rows"] if changed else 0) + refused["rows"]
        what = f"{gone / total:.2%} of the rows get another label{', or none' if refused['rows'] else ''}"
        lines += ["", f"{'✅' if told['allowed'] else '❌'} {what}; {told['max_changed']:.2%} may."]
    return "\n".join(lines)


@contextlib.contextmanager
def table(path: Path | None) -> Iterator[Callable[[list[Row]], None]]:
    """Return what writes rows into a Parquet file; nothing without a path."""
    if path is None:
        yield lambda _: None
        return
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with contextlib.ExitStack() as stack:
        writers: list[Any] = []

        def write(rows: list[Row]) -> None:
            answer = "string" if isinstance(rows[0]["was"], str) else "double"
            schema = pa.schema([(name, pa.type_for_alias(kind or answer)) for name, kind in COLUMNS.items()])
            if not writers:
                writers.append(stack.enter_context(ParquetWriter(path, schema)))
            writers[0].write_table(pa.Table.from_pylist(rows, schema))

        yield write


if __name__ == "__main__":
    sys.exit(main())
