"""Predict a table, each row as the service would, or put it aside with the reason.

python -m scripts.predict --from new.csv --to predictions.parquet
python -m scripts.predict --from 's3://bucket/day/*.parquet' --to predictions/ --model @champion --workers 4

A row has its number in the source, its id (columns.id), the prediction, a probability per label, and the model's digest. What the service
would refuse goes to <to>.rejected.parquet with the reasons; <to>.json says what was counted, by which model, from what. Killed and run
again it goes on; where the source or the model changed meanwhile it begins anew. Exit code: 0 done, 2 your input, 3 something outside did not answer.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pawl import bundle, config, paths, registry, schema, source, tracking
from pawl.config import Ingest
from pawl.parts import utc
from pawl.pipeline.ingest import cast, replaced
from pawl.problem import Problem
from pawl.serving.bulk import Bulk
from pawl.serving.requests import LARGEST, TEXT, WANTED
from pawl.source.files import hash_file
from scripts import cli, github, run
from task import data

ROWS, BYTES = 100_000, 1 << 26  # of the source in a part, at least the one or the other
OURS = ("row", "reasons", "prediction", "model_version")  # columns that a source may have too
NAMED = re.compile(r"models:/([^/@]+)(?:/(\d+)|@([\w.-]+))|@([\w.-]+)")
EVERY = 10  # seconds from one line of progress to the next


class Job(NamedTuple):
    """What every part is made by."""

    bulk: Bulk
    ingest: Ingest
    id: str | None
    told: dict[str, str]  # the model's identity
    state: Path

    def file(self, kind: str, number: int) -> Path:
        """Return where a part lies."""
        return self.state / f"{kind}-{number:05d}.parquet"


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Predict."""
    parser = cli.parser("predict", __doc__)
    said = "a file, a pattern, a folder, an address, sql; ingest.source without"
    parser.add_argument("--from", dest="source", help=said)
    parser.add_argument("--to", type=Path, required=True, help="FILE.parquet, or a folder for the parts")
    parser.add_argument("--model", default=str(paths.BUNDLE), help="a bundle's folder, models:/name/3, models:/name@alias or @champion")  # fmt: skip
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), metavar="N", help="threads")
    args = parser.parse_args(argv)
    begun, params = time.time(), config.load(paths.PARAMS)
    ingest, to = params.ingest, args.to
    if args.source:
        ingest = msgspec.structs.replace(ingest, source=args.source, format=None)
    if args.workers < 1:
        raise Problem(f"{args.workers} workers do nothing", "--workers", "1 or more")
    if to.is_dir() and any(not re.fullmatch(r"part-\d+\.parquet", each.name) for each in to.iterdir()):
        raise Problem(f"{to} holds other files than parts of predictions", "--to", "name a folder that is not there")
    with run.only_run(f"predict-{hashlib.sha256(str(to.absolute()).encode()).hexdigest()[:16]}"):
        folder, told = chosen(args.model)
        bulk, files = Bulk(folder), source.find(ingest)
        of_sql = ingest.source == "sql"  # the digest of a query's rows does not know their order
        content = [hash_file(each.path)[0] if of_sql else each.sha256 for each in files] or msgspec.to_builtins(ingest.sample)  # fmt: skip
        code = hash_file(Path(str(data.__file__)))[0]
        reading = msgspec.to_builtins([code, ingest.csv, ingest.replace, params.columns.id, ROWS, to.suffix])
        key = {"the source": content, "the model": told, "how it is read": reading}
        job = Job(bulk, ingest, params.columns.id, told, Path(f"{to}.state"))
        begin(job.state, key)
        if files:  # as they were when they were hashed
            ingest = msgspec.structs.replace(ingest, source=tuple(str(each.path) for each in files))
        rows, count = predicted(job, ingest, args.workers)
        done, reasons = finished(job, to, rows, count)
        rejected = rows - done
        name = [each.name for each in files] or "sample"
        manifest = {"rows": rows, "predicted": done, "rejected": rejected, "reasons": reasons, "model": told,
                    "answered_by": "the compiled model" if bulk.parts else "the pipeline", "source": {"name": name, "digest": content},
                    "sha256": {each.name: hash_file(each)[0] for each in ([to] if to.is_file() else sorted(to.iterdir()))},
                    "begun": utc(begun), "ended": utc()}  # fmt: skip
        replace(Path(f"{to}.json"), lambda path: path.write_text(json.dumps(manifest, indent=2) + "\n"))
        shutil.rmtree(job.state)
    fast = f"{rows / (time.time() - begun):,.0f} rows a second"
    print(f"{done:,} of {rows:,} rows predicted by {told['digest'][:19]}, {rejected:,} rejected, {fast}")
    aside = f"; why {rejected:,} rows were rejected: {to}.rejected.parquet" * bool(rejected)
    print(f"next: read {to}, {to}.json says what it is{aside}")
    return 0


def chosen(model: str) -> tuple[Path, dict[str, str]]:
    """Return (folder of the bundle, what the model is called); raise Problem if there is none of this name."""
    named = NAMED.fullmatch(model)
    if named is None:
        if model.startswith("models:"):
            raise Problem(f"{model} names no version", "--model", "models:/pawl/3, models:/pawl@champion, or @champion")
        folder = Path(model)
        digest = bundle.digest_of(folder)
        by = json.loads(paths.MADE_BY.read_text()) if paths.MADE_BY.exists() else {}
        return folder, {"digest": digest, "commit": str(by["commit"] if by.get("digest") == digest else "")}
    with tracking.store() as store:
        name, alias = named[1] or github.project(), named[3] or named[4]
        found = registry.named(store.client, name, alias) if alias else registry.get(store.client, name, named[2])
        if found is None:
            fix = "`python -m scripts.promote` names one; or --model models/bundle; `python -m scripts.models` lists what there is"
            raise Problem(f"no version of {name} is {alias}", store.shown, fix)
        told = {"digest": found.tags["pawl.digest"], "commit": found.tags.get("pawl.commit", "")}
        told |= {"name": name, "version": found.version}
        folder = paths.STATE / "models" / told["digest"].removeprefix("sha256:")
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=paths.STATE) as temporary:
                got = registry.download(store, name, found.version, Path(temporary))
                if bundle.digest_of(got) != told["digest"]:
                    raise Problem(f"version {found.version} is not the bundle that was registered", store.shown, "register it again")  # fmt: skip
                got.replace(folder)
    return folder, told


def begin(state: Path, key: dict[str, Any]) -> None:
    """Keep the parts of an earlier run for the same key; else begin anew, and say why."""
    noted = state / "key.json"
    text = json.dumps(key, sort_keys=True)
    before = json.loads(noted.read_text()) if noted.exists() else {}
    if before == json.loads(text):
        print(f"going on: {len(list(state.glob('part-*.parquet')))} parts are done", file=sys.stderr)
        return
    if before:
        changed = " and ".join(name for name in key if before.get(name) != json.loads(text)[name])
        print(f"beginning anew: {changed} changed since the run that was stopped", file=sys.stderr)
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)
    replace(noted, lambda path: path.write_text(text))


def predicted(job: Job, ingest: Ingest, workers: int) -> tuple[int, int]:
    """Write every part that is not there; return (rows of the source, parts). So many parts are in memory as there are workers, and two more."""
    rows, count, told = 0, 0, time.time()
    names: set[str] = set()
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for group in groups(data.tidy(batch) for _, batch in source.batches(ingest)):
            for batch in group:
                names = names or set(batch.schema.names)
                if odd := sorted(names ^ set(batch.schema.names)):
                    raise Problem(f"the files of the source have different columns: {', '.join(odd)}", "--from", "give files of one shape")  # fmt: skip
            if absent := sorted(set(job.bulk.manifest["features"]) - names):
                what = f"the source has no column {', '.join(absent)}, which the model needs; it has {', '.join(sorted(names))}"
                raise Problem(what, "--from", "correct the names, in the source or in src/task/data.py")
            if not job.file("part", count).exists():
                waiting.append(pool.submit(write, job, count, rows, group))
            rows, count = rows + sum(batch.num_rows for batch in group), count + 1
            while len(waiting) > workers:
                waiting.popleft().result()
            if time.time() > told + EVERY:
                told = time.time()
                print(f"{rows:,} rows", file=sys.stderr, flush=True)
        for each in waiting:
            each.result()
    return rows, count


def groups(batches: Iterator[Any]) -> Iterator[list[Any]]:
    """Yield neighbouring batches, as many as make a part: always the same ones of the same source."""
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if sum(each.num_rows for each in group) >= ROWS or sum(each.nbytes for each in group) >= BYTES:
            yield group
            group = []
    if group:
        yield group


def write(job: Job, number: int, start: int, group: list[Any]) -> None:
    """Write a part: what was rejected first, so that a part that is there is whole."""
    answered, refused = [], []
    for batch in group:
        typed, why = fitting(batch, job)
        keys = {"row": pa.array(np.arange(start + 1, start + batch.num_rows + 1))}
        if job.id and job.id in batch.schema.names:
            keys[named(job.id)] = batch.column(job.id).cast(pa.string())
        start += batch.num_rows
        if why:
            cells = {named(name): batch.column(name).cast(pa.string()) for name in typed.schema.names}
            reasons = pa.array(["; ".join(why[row]) for row in sorted(why)])
            aside = pa.Table.from_pydict(keys | cells).take(pa.array(sorted(why)))
            refused.append(aside.add_column(1, "reasons", reasons))
            keep = pa.array([row not in why for row in range(batch.num_rows)])
            typed, keys = typed.filter(keep), {name: column.filter(keep) for name, column in keys.items()}
        numbers, probabilities = job.bulk.answer(typed)
        labels = job.bulk.manifest["labels"]
        codes = pa.array(numbers, pa.int32() if labels else None)
        given = {"prediction": pa.DictionaryArray.from_arrays(codes, labels) if labels else codes}
        given |= {f"probability {label}": pa.array(probabilities[:, at]) for at, label in enumerate(labels)}
        version = pa.DictionaryArray.from_arrays(pa.nulls(len(numbers), pa.int32()).fill_null(0), [job.told["digest"]])
        answered.append(pa.Table.from_pydict({**keys, **given, "model_version": version}))
    for kind, tables in (("rejected", refused), ("part", answered)):
        if tables:
            table = pa.concat_tables(tables).replace_schema_metadata(job.told)
            replace(job.file(kind, number), lambda path, table=table: pq.write_table(table, path, compression="zstd", compression_level=1))  # fmt: skip


def named(name: str) -> str:
    """Return what a column of the source is called beside ours."""
    return f"{name} (source)" if name in OURS else name


def fitting(batch: Any, job: Job) -> tuple[Any, dict[int, list[str]]]:
    """Return (the features with their types, why the service would refuse a row, by its place in the batch)."""
    dtypes, columns = job.bulk.manifest["features"], {}
    why: dict[int, list[str]] = {}
    for name, wanted in schema.arrow_types(dtypes).items():
        given = replaced(batch.column(name), job.ingest.replace.get(name, {}))
        try:
            column, bad = cast(given, wanted)
        except pa.ArrowException as error:
            raise Problem(f"{name} is {given.type} in the source, and no {dtypes[name]}", "--from", "give it another type there") from error  # fmt: skip
        found = [(bad.tolist(), f"{WANTED.get(dtypes[name], 'a time')} or null is needed")]
        if pa.types.is_floating(wanted):
            large = pc.greater(pc.abs(pc.if_else(pc.is_nan(column), None, column)), LARGEST)
            found.append((places(large), f"a finite number is needed, within ±{LARGEST:g}"))
        if pa.types.is_dictionary(wanted):
            long = pc.greater(pc.utf8_length(column.dictionary), TEXT)
            at = places(long.take(column.indices)) if pc.any(long).as_py() else []
            found.append((at, f"at most {TEXT:,} characters are taken"))
        for rows, reason in found:
            for row in rows:
                why.setdefault(row, []).append(f"{name}: {reason}")
        columns[name] = column
    return pa.RecordBatch.from_pydict(columns), why


def places(mask: Any) -> list[int]:
    """Return where a pyarrow array is true."""
    return list(pc.indices_nonzero(mask.fill_null(False)).to_pylist())  # noqa: FBT003 - pyarrow's


def finished(job: Job, to: Path, rows: int, count: int) -> tuple[int, dict[str, int]]:
    """Put the parts together under their name; return (rows predicted, rows by reason)."""
    parts, aside = [job.file("part", number) for number in range(count)], sorted(job.state.glob("rejected-*.parquet"))
    done, rejected = (sum(pq.read_metadata(path).num_rows for path in files) for files in (parts, aside))
    assert done + rejected == rows, f"{done} predicted and {rejected} rejected are not the {rows} rows of the source"
    why: Counter[str] = Counter()
    for path in aside:
        for row in pq.read_table(path, columns=["reasons"]).column(0).to_pylist():
            why.update(row.split("; "))
    Path(f"{to}.rejected.parquet").unlink(missing_ok=True)
    if aside:
        replace(Path(f"{to}.rejected.parquet"), lambda path: joined(aside, path))
    if not done:
        told = ", ".join(f"{reason} ({rows:,} rows)" for reason, rows in why.most_common(3))
        raise Problem(f"not one of {rows:,} rows fits the model: {told}", f"{to}.rejected.parquet", "is it the model's table?")  # fmt: skip
    if to.suffix == ".parquet":
        to.parent.mkdir(parents=True, exist_ok=True)
        replace(to, lambda path: joined(parts, path))
    else:
        fresh = Path(f"{to}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for path in parts:
            path.replace(fresh / path.name)
        shutil.rmtree(to, ignore_errors=True)
        fresh.replace(to)
    return done, dict(why)


def joined(files: Sequence[Path], to: Path) -> None:
    """Write the rows of parquet files of one schema into one."""
    with pq.ParquetWriter(to, pq.read_schema(files[0]), compression="zstd", compression_level=1) as writer:
        for path in files:
            writer.write_table(pq.read_table(path))


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Let a file be whole or not there."""
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
