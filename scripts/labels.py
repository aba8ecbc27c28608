"""Join labels that arrived late to what was predicted: to retrain on, to judge by.

python -m scripts.labels --log s3://bucket/predictions --labels labels.csv                        writes data/labelled.parquet
python -m scripts.labels --log s3://bucket/predictions --labels new.parquet --to s3://bucket/labelled.parquet

Labels: CSV or Parquet with request_id, the target (or label), and row, where a request had several (0 without it). The table has the features and the
target, and can be `ingest.source`; with --answers it has the prediction, its scores, model_version, time and request_id too. Run it again when more arrive.
Exit code: 0 done, 2 your input, 3 a place does not answer.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from pawl import bundle, config, drift, paths, rows
from pawl.parts import utc
from pawl.problem import Problem
from scripts import cli, replay, ship

TABLE = Path("data/labelled.parquet")
BATCH, PART = 10_000, 50_000  # rows of the log, and of a table, that are held at once
OWN = {"model_version": "string", "time": "double", "request_id": "string", "row": "int64"}
TYPES: dict[str, Any] = {"integer": float, "number": float, "boolean": bool}


class Labels(NamedTuple):
    """Labels by the keys of their predictions, in order. came: which were asked for."""

    keys: Any
    values: Any
    came: Any

    def of(self, keys: Any) -> Any:
        """Return the label of each key as a pyarrow array, null where there is none."""
        import numpy as np
        import pyarrow as pa

        place = np.minimum(np.searchsorted(self.keys, keys), max(len(self.keys) - 1, 0))
        known = self.keys[place] == keys if len(self.keys) else np.zeros(len(keys), dtype=bool)
        self.came[place[known]] = True
        return self.values.take(pa.array(place, mask=~known))


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Join."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parser = cli.parser("labels", __doc__)
    parser.add_argument("--log", required=True, metavar="URL", help="PAWL_LOG_DIR, or where scripts.ship keeps it")
    parser.add_argument("--labels", required=True, metavar="URL", help="*.csv or *.parquet: request_id, row, label")
    parser.add_argument("--to", default=str(TABLE), metavar="URL", help=f"*.parquet ({TABLE})")
    said = "with what was answered, by which model, when: to look at, not to train on"
    parser.add_argument("--answers", action="store_true", help=said)
    args = parser.parse_args(argv)
    task, manifest = config.load(paths.PARAMS).problem, bundle.read(paths.BUNDLE)[0]
    labels, found, kind = read(args.labels, task.target), replay.Found(), line(manifest)
    stamp = _stamp(task, manifest["features"])
    place, root = ship.opened(args.to)
    joined = total = 0
    writer: Any = None
    with ship.reached("the table was not written", args.to, "see that the place answers and may be written"):
        place.makedirs(root.rpartition("/")[0], exist_ok=True)
        with place.open(f"{root}.part", "wb") as stream:
            for lines in batched(replay.logged(args.log, found, kind)):
                total += len(lines)
                truth = labels.of(keys(lines))
                held = [each for each, there in zip(lines, truth.is_valid().to_pylist(), strict=True) if there]
                own = {name: pa.array([getattr(each, name) for each in held], of) for name, of in OWN.items()}
                answered = columns(held, manifest)
                made = {name: answered[name] for name in manifest["features"]} | stamp(held)
                made[task.target] = truth.drop_null()
                table = pa.table(answered | made | own if args.answers else made)
                writer = writer or pq.ParquetWriter(stream, table.schema, compression="zstd")
                writer.write_table(table)
                joined += table.num_rows
            if writer:
                writer.close()
        place.mv(f"{root}.part", root) if joined else place.rm(f"{root}.part")
    unknown = len(labels.keys) - int(labels.came.sum())
    print(f"{joined:,} of {total:,} predictions have a label; of {total - joined:,} it never came")
    print(f"{unknown:,} labels are of no prediction in the log; {found.damaged:,} damaged lines were left out")
    print(f"next: `ingest.source: {args.to}` in params.yaml trains on them" if joined else "next: nothing was written; see that both name the same requests")  # fmt: skip
    return 0


def batched(logged: Iterable[tuple[int, replay.Logged]]) -> Iterator[list[replay.Logged]]:
    """Yield the lines of a log in parts."""
    lines = (each for _, each in logged)
    while part := [*islice(lines, BATCH)]:
        yield part


def line(manifest: Mapping[str, Any]) -> type[replay.Logged]:
    """Return the type of a line: one that does not hold what the model takes is damaged. What PAWL_LOG_WITHOUT left out is UNSET, not null."""
    fields = [(f"c{at}", TYPES.get(dtype, str) | None | msgspec.UnsetType, msgspec.UNSET) for at, dtype in enumerate(manifest["features"].values())]  # fmt: skip
    names = {f"c{at}": name for at, name in enumerate(manifest["features"])}
    features = msgspec.defstruct("Features", fields, rename=names, gc=False)
    own = [("prediction", str if manifest["labels"] else float), ("features", features)]
    return cast(type[replay.Logged], msgspec.defstruct("Row", own, bases=(replay.Logged,)))


def columns(lines: Sequence[Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return features, prediction and probabilities of lines as pyarrow arrays, by name."""
    import pyarrow as pa

    found, names = {}, manifest["labels"]
    for at, (name, dtype) in enumerate(manifest["features"].items()):
        cells = (getattr(each.features, f"c{at}") for each in lines)
        kind = {float: pa.float64(), bool: pa.bool_()}.get(TYPES.get(dtype, str), pa.string())
        found[name] = pa.array([None if cell is msgspec.UNSET else cell for cell in cells], kind)
    found["prediction"] = pa.array([each.prediction for each in lines], pa.string() if names else pa.float64())
    for at, label in enumerate(names):  # another version may have had other labels
        scores = [each.probabilities[at] if each.probabilities and len(each.probabilities) == len(names) else None for each in lines]  # fmt: skip
        found[f"probability {label}"] = pa.array(scores, pa.float64())
    return found


def keys(lines: Iterable[Any]) -> Any:
    """Return the keys of lines of a log."""
    import pyarrow as pa

    told = [(line.request_id, line.row) for line in lines]
    return drift.keys_of(pa.array([name for name, _ in told], pa.string()), [row for _, row in told])


def _stamp(task: config.Task, features: Iterable[str]) -> Any:
    """Return what makes the column of columns.time, which the log has by another name: a time, or so much of a text as the reference's cells have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name, train = task.columns.time, paths.PREPARED / "train.parquet"
    if not name or name in features or not train.exists():
        return lambda _: {}
    (cell,) = next(pq.ParquetFile(train).iter_batches(1, columns=[name])).column(name).to_pylist()
    if not isinstance(cell, str):
        return lambda lines: {name: pa.array([round(line.time * 1e6) for line in lines], pa.timestamp("us"))}
    return lambda lines: {name: pa.array([utc(line.time)[: len(cell)] for line in lines], pa.string())}


def read(url: str, target: str) -> Labels:
    """Return the labels of a table; raise Problem where one prediction has two."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = []
    for given in chunks(url):
        names = given.column_names
        label = next((name for name in (target, "label") if name in names), "")
        if "request_id" not in names or not label:
            raise Problem(f"it has no column {'request_id' if 'request_id' not in names else target + ', or label'}", url, f"its columns are {', '.join(names)}; name them request_id, row and {target}")  # fmt: skip
        if len(names) > len(set(names)):
            raise Problem("two of its columns have one name", url, f"its columns are {', '.join(names)}")
        table = given.filter(pc.and_(given.column("request_id").is_valid(), given.column(label).is_valid()))
        try:
            place = table.column("row").cast("int64").fill_null(0).to_numpy() if "row" in names else 0
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            fix = "row is the place in the request, from 0"
            raise Problem(f"a row is no whole number: {error}", url, fix) from error
        value = table.column(label)
        value = value.cast("string") if pa.types.is_null(value.type) else value  # none has arrived yet
        if pa.types.is_dictionary(value.type):
            value = value.cast(value.type.value_type)
        parts.append((table.column("request_id").cast("string"), place, value))
    if not sum(len(value) for *_, value in parts):
        return Labels(np.empty(0, np.uint64), pa.array([], pa.string()), np.zeros(0, dtype=bool))
    ids, values = (pa.concat_arrays([one for each in column for one in each.chunks]) for column in ([part[0] for part in parts], [part[2] for part in parts]))  # fmt: skip
    named = drift.keys_of(ids, np.concatenate([np.broadcast_to(place, len(each)) for each, place, _ in parts]))
    order = np.argsort(named, kind="stable")
    named, values = named[order], values.take(pa.array(order))
    again = np.append(False, named[1:] == named[:-1])
    hashed = rows.hash_column(values)
    if (other := again & np.append(False, hashed[1:] != hashed[:-1])).any():
        said = ", ".join(sorted({*ids.take(pa.array(order[other])).to_pylist()})[:3])
        raise Problem(f"{len({*named[other].tolist()}):,} predictions have two labels: {said}", url, "leave one of each: the right one")  # fmt: skip
    values = values.filter(pa.array(~again))
    return Labels(named[~again], values, np.zeros(len(values), dtype=bool))


def chunks(url: str) -> Iterator[Any]:
    """Yield a CSV or Parquet file of any address of fsspec as pyarrow tables, the first one empty: it has the columns."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    place, root = ship.opened(url)
    if not root.endswith((".csv", ".parquet", ".pq")):
        raise Problem("it is neither a CSV nor a Parquet file", url, "give *.csv or *.parquet")
    with ship.reached("the table cannot be read", url, "see that the store answers"):
        try:
            with place.open(root, "rb") as stream:
                if root.endswith(".csv"):
                    ids = pc.ConvertOptions(column_types={"request_id": "string"})
                    many: Any = pc.open_csv(stream, pc.ReadOptions(block_size=1 << 24), convert_options=ids)
                    yield many.schema.empty_table()
                else:
                    file = pq.ParquetFile(stream)
                    yield file.schema_arrow.empty_table()
                    many = file.iter_batches(PART)
                for batch in many:
                    table = pa.Table.from_batches([batch])
                    yield blanks(table) if root.endswith(".csv") else table
        except FileNotFoundError as error:
            raise Problem("there is no such file", url, "correct the address") from error
        except pa.ArrowInvalid as error:
            raise Problem(f"it cannot be read as a table: {error}", url, "correct the file; its first line names the columns") from error  # fmt: skip


def blanks(table: Any) -> Any:
    """Return a table in which an empty text is no value: a CSV file cannot tell them apart, and pyarrow takes it for a text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for at, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            column = table.column(at)
            table = table.set_column(at, field, pc.if_else(pc.equal(column, ""), None, column))
    return table


if __name__ == "__main__":
    sys.exit(main())
