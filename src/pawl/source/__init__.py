"""Where the table comes from: found, fingerprinted, streamed. Text files give strings; their types come from schema.yaml."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec

from pawl import paths
from pawl.config import Ingest
from pawl.problem import Problem
from pawl.source.files import File, find_files
from pawl.source.query import run_query
from pawl.source.text import first_line, read_text

BATCH_ROWS = 100_000


def find(ingest: Ingest) -> list[File]:
    """Return the files of the source, fetched and hashed; none for `sample`. Raise Problem or Unreachable, naming what is missing."""
    if ingest.source == "sample":
        return []
    if ingest.source == "sql":
        return [run_query(ingest.sql)]
    by_part = ingest.source.items() if isinstance(ingest.source, dict) else [(None, ingest.source)]
    names = [(part, name) for part, given in by_part for name in ([given] if isinstance(given, str) else given)]
    return [file for part, name in names for file in find_files(name, part)]


def fingerprint(ingest: Ingest) -> dict[str, Any]:
    """Return what identifies the data: a digest, and the files it is made of. Raise Problem if params.yaml pins another digest."""
    files = [{"name": file.name, "part": file.part, "sha256": file.sha256, "size": file.size} for file in find(ingest)]
    content: Any = [[file["part"], file["sha256"]] for file in files] or {"sample": msgspec.to_builtins(ingest.sample)}
    digest = "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    if ingest.digest and ingest.digest != digest:
        what = f"the source's digest is {digest}, params.yaml pins {ingest.digest}"
        fix = "restore the data it was pinned to, or pin the new digest in a commit that says why"
        raise Problem(what, f"{paths.PARAMS}: ingest.digest", fix)
    return {"digest": digest, "files": files}


def batches(ingest: Ingest) -> Iterator[tuple[str | None, Any]]:
    """Yield (part, pyarrow.RecordBatch) in the order of the files; cells of text files are strings or null."""
    if ingest.source == "sample":
        from pawl import sample

        made = sample.batches(ingest.sample.rows, ingest.sample.seed, ingest.sample.drift)
        yield from ((None, batch) for batch in made)
    for file in find(ingest):
        kind = ingest.format or ("parquet" if file.path.suffix in {".parquet", ".pq"} else "csv")
        rows = 0
        for batch in _read_parquet(file) if kind == "parquet" else read_text(file, ingest.csv):
            rows += batch.num_rows
            yield file.part, batch
        if not rows:
            raise Problem(f"{file.name} holds 0 rows", file.name, "check the file, or ingest.source in params.yaml")


def _read_parquet(file: File) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as table:
            yield from table.iter_batches(BATCH_ROWS)
    except (pa.ArrowInvalid, OSError) as error:
        what = f"{file.name} is not a complete parquet file ({file.size} bytes): {first_line(error)}"
        raise Problem(what, file.name, "fetch or write it again") from error
