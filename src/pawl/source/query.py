"""A database query, run into a parquet file in .pawl/downloads."""

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from pawl import paths
from pawl.config import Sql
from pawl.problem import Problem, Unreachable
from pawl.source.files import File
from pawl.source.text import first_line

WHERE = f"{paths.PARAMS}: ingest.sql"
BLOCK_ROWS = 50_000


def run_query(sql: Sql) -> File:
    """Return the query's result, fetched again unless `version` says that nothing changed. Its digest is of the rows in any order."""
    url = os.environ.get("PAWL_SQL_URL")
    if not url:
        fix = "set it to the database's address, for example sqlite:///data.db"
        raise Problem("PAWL_SQL_URL is not set", WHERE, fix)
    for query in filter(None, (sql.query, sql.version)):
        if not Path(query).exists():
            raise Problem(f"{query} does not exist", WHERE, "write the query into that file")
    bounds = window(sql)
    from sqlalchemy import create_engine, exc

    try:
        engine = create_engine(url)
    except (exc.ArgumentError, ImportError) as error:
        fix = "see SQLAlchemy's addresses; postgresql+psycopg://... needs requirements/postgres.txt"
        raise Problem(f"PAWL_SQL_URL cannot be used: {first_line(error)}", "environment", fix) from error
    try:
        version = str(next(_blocks(engine, Path(sql.version), {}), [])) if sql.version else str(time.time_ns())
        key = hashlib.sha256("\n".join([str(engine.url), Path(sql.query).read_text(), str(bounds), version]).encode())
        path = paths.DOWNLOADS / f"sql-{key.hexdigest()[:32] if sql.version else 'latest'}.parquet"
        if not sql.version or not path.exists():
            _save(engine, Path(sql.query), bounds, path)
    except exc.SQLAlchemyError as error:
        # SQLite calls a wrong query OperationalError too, with the statement; one that never arrived has none.
        lost = isinstance(error, exc.OperationalError) and (error.connection_invalidated or not error.statement)
        if not lost:
            fix = "try it in the database's own client"
            raise Problem(f"the query failed: {first_line(error)}", sql.query, fix) from error
        what = f"the database did not answer: {first_line(getattr(error, 'orig', None) or error)}"
        raise Unreachable(what, "PAWL_SQL_URL", "check that it runs and that the address is right") from error
    finally:
        engine.dispose()
    return File(sql.query, None, path, _digest(path), path.stat().st_size)


def window(sql: Sql) -> dict[str, str]:
    """Return the bounds that a query may use as :since and :until, ISO dates: up to today (UTC) where `until` is not given."""
    if sql.days is None and sql.until is None:
        return {}
    try:
        until = date.fromisoformat(sql.until) if sql.until else datetime.now(UTC).date()
        since = until - timedelta(days=sql.days or 0)
    except (ValueError, OverflowError) as error:
        raise Problem(f"not a window: {error}", WHERE, 'until: "2025-01-31", days: a few') from error
    return {"until": until.isoformat()} | ({"since": since.isoformat()} if sql.days is not None else {})


def _blocks(engine: Any, query: Path, bounds: Mapping[str, str]) -> Iterator[list[dict[str, Any]]]:
    from sqlalchemy import text

    statement = text(query.read_text())
    used = {name: value for name, value in bounds.items() if name in statement.compile().params}
    with engine.connect() as connection:
        result = connection.execution_options(stream_results=True).execute(statement, used)
        names = list(result.keys())
        if twice := sorted({name for name in names if names.count(name) > 1}):
            what = f"the query names {', '.join(map(repr, twice))} more than once"
            raise Problem(what, query, "give each column a name of its own: AS ...")
        while block := result.mappings().fetchmany(BLOCK_ROWS):
            yield [dict(row) for row in block]


def _save(engine: Any, query: Path, bounds: Mapping[str, str], path: Path) -> None:
    """Write the result as text, like a file's cells: a column whose first rows are null has no type of its own yet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    writer = None
    try:
        for rows in _blocks(engine, query, bounds):
            cells = {name: [_text(row[name]) for row in rows] for name in rows[0]}
            batch = pa.RecordBatch.from_pydict(cells, schema=pa.schema([(name, pa.string()) for name in cells]))
            writer = writer or pq.ParquetWriter(partial, batch.schema)
            writer.write_batch(batch)
        if writer is None:
            raise Problem("the query returned 0 rows", query, "check the query and its window (ingest.sql.days, until)")
        writer.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _text(value: Any) -> str | None:
    """Return a cell as text; times in UTC, whatever zone the session has."""
    if isinstance(value, datetime) and value.tzinfo:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return None if value is None else str(value)


def _digest(path: Path) -> str:
    import pyarrow.parquet as pq

    from pawl.rows import hash_rows

    count, total = 0, 0
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(BLOCK_ROWS):
            hashes = hash_rows(batch, batch.schema.names)
            count += len(hashes)
            total += int(hashes.astype(object).sum())
    return hashlib.sha256(f"{count} {total}".encode()).hexdigest()
