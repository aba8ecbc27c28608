"""source -> data/raw.parquet: the table as it came, with the types of schema.yaml and a row_id.

A cell that does not have its column's type becomes null here and is reported by `validate`, together with every other broken rule.
"""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pawl import paths, rows, source
from pawl.config import Ingest, Task
from pawl.problem import Problem
from pawl.schema import Schema, arrow_types
from task import data

SHOWN = 10


def run(task: Task, params: Ingest, schema: Schema) -> None:
    """Stream the source into raw.parquet; raise Problem where a file cannot be read as a table."""
    types = arrow_types(schema.dtypes())
    names: dict[str, int] = {}
    untyped: dict[str, dict[str, Any]] = {}
    writer: Any = None
    done = 0
    paths.RAW.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as opened:
        for part, given in source.batches(params):
            batch = data.tidy(given)
            for name in {"row_id", *(["split"] if part else [])} & set(batch.schema.names):
                fix = "rename it in the source, or in src/task/data.py"
                raise Problem(f"a column is called {name}, a name the pipeline gives", "ingest.source", fix)
            columns = {name: replaced(batch.column(name), params.replace.get(name, {})) for name in batch.schema.names}
            for name, column in columns.items():
                if name in types:
                    columns[name], bad = cast(column, types[name])
                    if len(bad):
                        note = untyped.setdefault(name, {"count": 0, "rows": []})
                        note["count"] += len(bad)
                        note["rows"] += (bad[: SHOWN - len(note["rows"])] + done + 1).tolist()
            if part:
                columns["split"] = pa.array([part] * batch.num_rows).dictionary_encode()
            columns["row_id"] = _row_ids(pa.RecordBatch.from_pydict(columns), task, names)
            typed = pa.RecordBatch.from_pydict(columns)
            if writer is None:
                # Declared columns in the order of the schema, so that a source may reorder its own; then what it has beyond them.
                order = [name for name in types if name in columns] + [name for name in columns if name not in types]
                fields = pa.schema([typed.schema.field(name) for name in order])
                made = pq.ParquetWriter(paths.RAW, fields, compression="zstd", compression_level=1)
                writer = opened.enter_context(made)
            if odd := sorted(set(typed.schema.names) ^ set(writer.schema.names)):
                what = f"the files of the source have different columns: {', '.join(odd)}"
                raise Problem(what, "ingest.source", "give files of one shape")
            writer.write_batch(typed.select(writer.schema.names).cast(writer.schema))
            done += batch.num_rows
        if writer is not None:
            given_split = "split" in writer.schema.names and "split" not in types
            notes = {"untyped": json.dumps(untyped), "given_split": json.dumps(given_split)}
            writer.add_key_value_metadata(notes)


def cast(column: Any, wanted: Any) -> tuple[Any, Any]:
    """Return the pyarrow array as the wanted type, and the positions, shape (k,), of values that are not of it (null there)."""
    nothing = np.empty(0, dtype=np.int64)
    if pa.types.is_dictionary(wanted) or pa.types.is_string(wanted):
        text = column.cast(pa.string())
        return (text.dictionary_encode() if pa.types.is_dictionary(wanted) else text), nothing
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.cast(wanted), nothing
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        encoded = column.dictionary_encode()
    values = encoded.dictionary
    if pa.types.is_string(values.type):
        values = pc.utf8_trim_whitespace(values)
        if pa.types.is_integer(wanted):
            values = pc.replace_substring_regex(values, r"^\+|\.0*$", "")  # "40.0" is the integer 40
        if (typed := _one(values, wanted)) is not None:
            return typed.take(encoded.indices), nothing
    cells = [_one(values[number : number + 1], wanted) for number in range(len(values))]
    wrong = np.array([cell is None for cell in cells], dtype=bool)
    typed = pa.concat_arrays([pa.nulls(1, wanted) if cell is None else cell for cell in cells])
    index = encoded.indices
    known = ~index.is_null().to_numpy(zero_copy_only=False)
    return typed.take(index), np.flatnonzero(wrong[index.fill_null(0).to_numpy(zero_copy_only=False)] & known)


def _one(values: Any, wanted: Any) -> Any:
    """Return the array as the wanted type, by way of a float ("1e3") or of UTC where needed; None if it is not of it."""
    ways = [wanted]
    if pa.types.is_integer(wanted):
        ways.append(pa.float64())
    if pa.types.is_timestamp(wanted):
        ways.append(pa.timestamp("us", "UTC"))
    for way in ways:
        with contextlib.suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return values.cast(way).cast(wanted)
    return None


def replaced(column: Any, renames: Mapping[str, str | None]) -> Any:
    """Return the column with values replaced as ingest.replace says."""
    if not renames:
        return column
    encoded = column.cast(pa.string()).dictionary_encode()
    values = pa.array([renames.get(value, value) for value in encoded.dictionary.to_pylist()], pa.string())
    return pc.take(values, encoded.indices)


def _row_ids(batch: Any, task: Task, seen: dict[Any, int]) -> Any:
    """Return one id per row: the id column's value, or a hash of the content, numbered where the same row comes again."""
    if task.columns.id and task.columns.id in batch.schema.names:
        return batch.column(task.columns.id).cast(pa.string())
    ids = []
    for value in rows.hash_rows(batch, sorted(set(batch.schema.names) - {"split"})).tolist():
        again = seen.get(value, 0)
        seen[value] = again + 1
        ids.append(f"{value:016x}-{again}" if again else f"{value:016x}")
    return pa.array(ids)
