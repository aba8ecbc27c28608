"""Where the table comes from: find it, fingerprint it, stream it. Text files give strings; their types come from schema.yaml.

Anything that is not a local file is fetched once into .pawl/downloads and read from there.
"""

import csv
import hashlib
import io
import json
import os
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import msgspec

from pawl import paths, sample
from pawl.config import Csv, Ingest, Sql
from pawl.problem import Problem, Unreachable

BATCH_ROWS = 100_000
ATTEMPTS = 3
T = TypeVar("T")


class File(NamedTuple):
    """One file of the source. `name` is what params.yaml says, without secrets; `path` is where its bytes lie here."""

    name: str
    part: str | None  # train, valid or test, where the source says so
    path: Path
    sha256: str
    size: int


def find(ingest: Ingest) -> list[File]:
    """Return the files of the source, fetched and hashed; none for `sample`. Raise Problem or Unreachable, naming what is missing."""
    if ingest.source == "sample":
        return []
    if ingest.source == "sql":
        return [_query(ingest.sql)]
    by_part = ingest.source.items() if isinstance(ingest.source, dict) else [(None, ingest.source)]
    names = [(part, name) for part, given in by_part for name in ([given] if isinstance(given, str) else given)]
    return [file for part, name in names for file in _files(name, part)]


def fingerprint(ingest: Ingest) -> dict[str, Any]:
    """Return what identifies the data: a digest, and the files it is made of. Raise Problem if params.yaml pins another digest."""
    files = [{"name": file.name, "part": file.part, "sha256": file.sha256, "size": file.size} for file in find(ingest)]
    content: Any = [[file["part"], file["sha256"]] for file in files] or {"sample": msgspec.to_builtins(ingest.sample)}
    digest = "sha256:" + hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    if ingest.digest and ingest.digest != digest:
        raise Problem(
            f"the source's digest is {digest}, params.yaml pins {ingest.digest}",
            f"{paths.PARAMS}: ingest.digest",
            "restore the data it was pinned to, or pin the new digest in a commit that says why",
        )
    return {"digest": digest, "files": files}


def batches(ingest: Ingest) -> Iterator[tuple[str | None, Any]]:
    """Yield (part, pyarrow.RecordBatch) in the order of the files; cells of text files are strings or null."""
    if ingest.source == "sample":
        yield from (
            (None, batch) for batch in sample.batches(ingest.sample.rows, ingest.sample.seed, ingest.sample.drift)
        )
    for file in find(ingest):
        rows = 0
        for batch in _read(file, ingest):
            rows += batch.num_rows
            yield file.part, batch
        if not rows:
            raise Problem(f"{file.name} holds 0 rows", file.name, "check the file, or ingest.source in params.yaml")


def _read(file: File, ingest: Ingest) -> Iterator[Any]:
    kind = ingest.format or (
        "parquet" if Path(file.name.split("?")[0]).suffix in {".parquet", ".pq"} or ingest.source == "sql" else "csv"
    )
    return _parquet(file) if kind == "parquet" else _csv(file, ingest.csv)


def _parquet(file: File) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as table:
            yield from table.iter_batches(BATCH_ROWS)
    except (pa.ArrowInvalid, OSError) as error:
        raise Problem(
            f"{file.name} is not a complete parquet file ({file.size} bytes): {_first_line(error)}",
            file.name,
            "fetch or write it again",
        ) from error


class _Text(io.RawIOBase):
    """UTF-8 bytes of a text file in any encoding, without comment lines; what cannot be decoded is refused with its line."""

    def __init__(self, stream: BinaryIO, file: File, options: Csv) -> None:
        self.stream, self.file, self.options = stream, file, options
        self.line = 0
        self.rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self.rest) < max(size, 1):
            lines = self.stream.readlines(max(size, 1 << 20))
            if not lines:
                break
            self.rest += self._checked(lines)
        taken, self.rest = (self.rest, b"") if size < 0 else (self.rest[:size], self.rest[size:])
        return taken

    def _checked(self, lines: list[bytes]) -> bytes:
        first, self.line = self.line, self.line + len(lines)
        if first == 0:
            if lines[0].startswith((b"\xff\xfe", b"\xfe\xff")):
                self._refuse("is UTF-16", 1, "set ingest.csv.encoding: utf-16")
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        block = b"".join(lines)
        if b"\0" in block:
            self._refuse(
                "holds a NUL byte",
                first + next(number for number, line in enumerate(lines, 1) if b"\0" in line),
                "it is not a text file, or not in this encoding: set ingest.csv.encoding",
            )
        try:
            block.decode("utf-8")
        except UnicodeDecodeError as error:
            number = block.count(b"\n", 0, error.start) + 1
            self._refuse(
                f"is not {self.options.encoding} at byte 0x{block[error.start]:02x}",
                first + number,
                "set ingest.csv.encoding, for example latin-1 or cp1252",
            )
        if self.options.comment:
            mark = self.options.comment.encode()
            block = b"".join(line for line in lines if not line.startswith(mark))
        return block

    def _refuse(self, what: str, line: int, fix: str) -> None:
        raise Problem(f"{self.file.name} {what}", f"{self.file.name}, line {line}", fix)


class _Recoded(io.RawIOBase):
    """A text stream's lines as UTF-8."""

    def __init__(self, text: io.TextIOWrapper, file: File) -> None:
        self.text, self.file, self.line = text, file, 0

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        try:
            lines = self.text.readlines(-1 if hint is None else hint)
        except UnicodeError as error:
            raise Problem(
                f"{self.file.name} is not {self.text.encoding}: {error}",
                f"{self.file.name}, after line {self.line}",
                "set ingest.csv.encoding",
            ) from error
        self.line += len(lines)
        return [line.encode() for line in lines]


def _open(file: File, options: Csv) -> _Text:
    import fsspec

    stream: Any = fsspec.open(str(file.path), "rb", compression="infer").open()
    if options.encoding.lower().replace("_", "-") not in {"utf-8", "utf8", "utf-8-sig", "ascii"}:
        try:
            stream = _Recoded(io.TextIOWrapper(stream, encoding=options.encoding, newline=""), file)
        except LookupError as error:
            raise Problem(
                f"no encoding is called {options.encoding}",
                f"{paths.PARAMS}: ingest.csv.encoding",
                "utf-8, latin-1, cp1252, utf-16 ...",
            ) from error
    return _Text(stream, file, options)


def _csv(file: File, options: Csv) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.csv as pacsv

    names = list(options.names) or _header(file, options)
    bad: list[tuple[int | None, int]] = []

    def refuse(row: Any) -> str:
        bad.append((row.number, row.actual_columns))
        return "skip"

    try:
        reader = pacsv.open_csv(
            pa.PythonFile(_open(file, options), mode="r"),
            pacsv.ReadOptions(
                column_names=list(names), skip_rows=0 if options.names else 1, block_size=8 << 20, use_threads=False
            ),
            pacsv.ParseOptions(
                delimiter=options.separator,
                quote_char=options.quote or False,
                invalid_row_handler=refuse,
                newlines_in_values=bool(options.quote),
            ),
            pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
        for batch in reader:
            yield _cells(batch, options)
    except pa.ArrowInvalid as error:
        message = _first_line(error)
        if "Empty CSV" in message:
            return
        raise Problem(
            f"{file.name} cannot be read as a table: {message}",
            file.name,
            "look for a quote that is not closed; ingest.csv in params.yaml sets separator and quote",
        ) from error
    if bad:
        shown = "; ".join(
            f"row {number} has {columns}" if number else f"a row has {columns}" for number, columns in bad[:5]
        )
        raise Problem(
            f"{len(bad)} rows of {file.name} do not have {len(names)} columns: {shown}",
            f"{file.name}, row {bad[0][0]}" if bad[0][0] else file.name,
            "repair the rows, or correct ingest.csv (separator, quote, comment, names) in params.yaml",
        )


def _header(file: File, options: Csv) -> list[str]:
    text = _open(file, options)
    head = text.read(1 << 20).decode("utf-8", errors="replace").splitlines()
    row = next(
        csv.reader(
            head,
            delimiter=options.separator,
            **({"quotechar": options.quote} if options.quote else {"quoting": csv.QUOTE_NONE}),
        ),
        [],
    )
    names = [name.strip() if options.trim else name for name in row]
    where, fix = f"{file.name}, line 1", "correct the header, or give ingest.csv.names for a file without one"
    if not names:
        raise Problem(f"{file.name} is empty", file.name, "check the file, or ingest.source in params.yaml")
    if len(names) == 1 and (other := next((mark for mark in ";\t|," if mark in names[0]), None)):
        raise Problem(
            f"{file.name} has one column with {options.separator!r} as separator",
            where,
            f"set ingest.csv.separator: {json.dumps(other)}",
        )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Problem(f"the header names {', '.join(map(repr, twice))} more than once", where, fix)
    if "" in names:
        raise Problem(f"column {names.index('') + 1} has no name", where, fix)
    return names


def _cells(batch: Any, options: Csv) -> Any:
    """Return the batch with cells trimmed if asked for, and missing markers as null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pa.array(options.missing)
    columns = [pc.utf8_trim_whitespace(column) if options.trim else column for column in batch.columns]
    return pa.RecordBatch.from_arrays(
        [pc.if_else(pc.is_in(column, missing), None, column) for column in columns], names=batch.schema.names
    )


def _files(name: str, part: str | None) -> list[File]:
    """Return the files that one entry of ingest.source stands for: a file, a pattern, a folder or a URL."""
    import fsspec

    address = os.path.expandvars(name)
    if undefined := re.search(r"\$\{?(\w+)", address):
        raise Problem(
            f"the environment variable {undefined[1]} is not set",
            f"{paths.PARAMS}: ingest.source, {name}",
            f"set it: {undefined[1]}=<folder> make run ...",
        )
    label = name.split("?", maxsplit=1)[0]  # what follows may be a signature
    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ValueError, ImportError) as error:
        raise Problem(
            f"{label} cannot be opened: {error}",
            f"{paths.PARAMS}: ingest.source",
            "install the extra of that storage: requirements/{s3,gs,azure}.txt",
        ) from error
    local = "file" in ((system.protocol,) if isinstance(system.protocol, str) else system.protocol)
    if local:
        found = sorted(system.glob(path)) if "*" in path else [path]
        found = [
            inner
            for outer in found
            for inner in (
                sorted(entry for entry in system.find(outer) if not Path(entry).name.startswith((".", "_")))
                if system.isdir(outer)
                else [outer]
            )
        ]
        if not found or not all(Path(each).is_file() for each in found):
            kept = Path(f"{path}.dvc").exists()
            raise Problem(
                f"{label} does not exist",
                f"{paths.PARAMS}: ingest.source",
                "dvc keeps it: run `dvc pull` or `dvc checkout`"
                if kept
                else f"correct the path; it is relative to {Path.cwd()}",
            )
        return [
            File(label if len(found) == 1 else str(Path(each).name), part, Path(each), *_hash(Path(each)))
            for each in found
        ]
    many = "*" in path and "http" not in str(system.protocol)
    addresses = _patiently(label, lambda: sorted(system.glob(path))) if many else [path]
    if not addresses:
        raise Problem(f"{label} matches nothing", f"{paths.PARAMS}: ingest.source", "correct the pattern")
    return [_download(system, each, each if many else label, part) for each in addresses]


def _download(system: Any, address: str, label: str, part: str | None) -> File:
    """Fetch a remote file, unless the version it has now was fetched before. A partial one is never left under its name."""
    info = _patiently(label, lambda: system.info(address))
    version = next(
        (
            str(info[key])
            for key in ("VersionId", "ETag", "etag", "md5Hash", "generation", "content_md5")
            if info.get(key)
        ),
        None,
    )
    key = hashlib.sha256(f"{address} {version or time.time_ns()}".encode()).hexdigest()[:32]
    path = paths.DOWNLOADS / (key + Path(urllib.parse.urlsplit(label).path).suffix)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(path.suffix + f".{os.getpid()}.part")
        try:
            _patiently(label, lambda: system.get_file(address, str(partial)))
            size = partial.stat().st_size
            if info.get("size") not in (None, size):
                raise Unreachable(
                    f"{label} broke off: {size} of {info['size']} bytes came",
                    f"{paths.PARAMS}: ingest.source",
                    "run again",
                )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    return File(label, part, path, *_hash(path))


def _patiently(label: str, action: Callable[[], T]) -> T:
    """Return what the action returns, tried ATTEMPTS times with growing pauses."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except FileNotFoundError as error:
            raise Problem(f"{label} does not exist", f"{paths.PARAMS}: ingest.source", "correct the address") from error
        except PermissionError as error:
            raise Problem(
                f"access to {label} was refused",
                f"{paths.PARAMS}: ingest.source",
                "check the credentials in the environment",
            ) from error
        except Exception as error:  # each storage library has exceptions of its own
            if attempt == ATTEMPTS - 1:
                raise Unreachable(
                    f"{label} did not answer: {type(error).__name__}",
                    f"{paths.PARAMS}: ingest.source",
                    "check the network and the address, then run again",
                ) from error
            time.sleep(0.5 * 2**attempt)
    raise AssertionError


def _hash(path: Path) -> tuple[str, int]:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), path.stat().st_size


def window(sql: Sql, today: date | None = None) -> dict[str, str]:
    """Return the bounds that a query may use as :since and :until, ISO dates; `today` is UTC's unless given."""
    if sql.days is None and sql.until is None:
        return {}
    until = date.fromisoformat(sql.until) if sql.until else today or datetime.now(UTC).date()
    return {"until": until.isoformat()} | (
        {"since": (until - timedelta(days=sql.days)).isoformat()} if sql.days is not None else {}
    )


def _query(sql: Sql) -> File:
    """Run the query into a parquet file, unless `version` says that nothing changed since."""
    where = f"{paths.PARAMS}: ingest.sql"
    url = os.environ.get("PAWL_SQL_URL")
    if not url:
        raise Problem(
            "PAWL_SQL_URL is not set", where, "set it to the database's address, for example sqlite:///data.db"
        )
    if not sql.query.exists():
        raise Problem(f"{sql.query} does not exist", where, "write the query into that file")
    from sqlalchemy import create_engine, exc

    try:
        engine = create_engine(url)
    except (exc.ArgumentError, ImportError) as error:
        raise Problem(
            f"PAWL_SQL_URL cannot be used: {_first_line(error)}",
            "environment",
            "postgresql+psycopg://... needs requirements/postgres.txt",
        ) from error
    bounds = window(sql)
    try:
        version = str(next(_rows(engine, sql.version, {}), [])) if sql.version else str(time.time_ns())
        key = hashlib.sha256(
            "\n".join([str(engine.url), sql.query.read_text(), str(bounds), version]).encode()
        ).hexdigest()[:32]
        path = paths.DOWNLOADS / f"sql-{key}.parquet"
        if not path.exists():
            _save(engine, sql.query, bounds, path)
    except exc.OperationalError as error:
        raise Unreachable(
            f"the database did not answer: {_first_line(error.orig or error)}",
            "PAWL_SQL_URL",
            "check that it runs and that the address is right",
        ) from error
    except exc.SQLAlchemyError as error:
        raise Problem(
            f"the query failed: {_first_line(error)}", sql.query, "try it in the database's own client"
        ) from error
    finally:
        engine.dispose()
    return File(str(sql.query), None, path, _content(path), path.stat().st_size)


def _rows(engine: Any, query: Path, bounds: Mapping[str, str]) -> Iterator[Any]:
    from sqlalchemy import text

    statement = text(query.read_text())
    used = {name: value for name, value in bounds.items() if name in statement.compile().params}
    with engine.connect() as connection:
        result = connection.execution_options(stream_results=True).execute(statement, used)
        while block := result.mappings().fetchmany(BATCH_ROWS // 2):
            yield [dict(row) for row in block]


def _save(engine: Any, query: Path, bounds: Mapping[str, str], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    writer = None
    try:
        for rows in _rows(engine, query, bounds):
            # As text, like a file's cells: a column whose first rows are null has no type of its own yet.
            batch = pa.RecordBatch.from_pydict(
                {name: [None if row[name] is None else str(row[name]) for row in rows] for name in rows[0]},
                schema=pa.schema([(name, pa.string()) for name in rows[0]]),
            )
            writer = writer or pq.ParquetWriter(partial, batch.schema)
            writer.write_batch(batch)
        if writer is None:
            raise Problem("the query returned 0 rows", query, "check the query and its window (ingest.sql.days, until)")
        writer.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _content(path: Path) -> str:
    """Return a digest of the rows in any order: a query promises none."""
    import pyarrow.parquet as pq

    from pawl.rows import hash_rows

    count, total = 0, 0
    for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS):
        hashes = hash_rows(batch, sorted(batch.schema.names))
        count += len(hashes)
        total += int(hashes.astype(object).sum())
    return hashlib.sha256(f"{count} {total}".encode()).hexdigest()


def _first_line(error: object) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
