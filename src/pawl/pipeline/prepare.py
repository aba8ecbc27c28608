"""raw -> data/prepared/{train,valid,test}.parquet: picks rows and splits them; never changes a value.

A row's split is a function of its id, group, time or content and the seed alone, so that adding rows never moves another one.
Rows are written in the order of their hashes: the model does not depend on the order in which they came.
"""

import hashlib
import json
import re
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pawl import paths, rows
from pawl.config import Prepare, Task
from pawl.problem import Problem
from pawl.schema import Schema

SPLITS = ("train", "valid", "test")
WHERE = f"{paths.PARAMS}: prepare"


def run(task: Task, params: Prepare, schema: Schema) -> None:
    """Write the three splits and reports/splits.json; raise Problem where one of them would be empty."""
    table = pq.read_table(paths.RAW, memory_map=True)
    total = table.num_rows
    features = [name for name in schema.columns if name not in task.roles]
    content = rows.hash_rows(table, features)
    table, content, dropped = _dropped(table, content, task, params, schema)
    if unknown := table.column(task.target).null_count:
        fix = f"prepare.drop_missing: [{task.target}] drops them"
        raise Problem(f"{unknown} rows have no {task.target}", WHERE, fix)
    split = _split(table, content, task, params, schema)
    kept = [*[name for name in table.schema.names if name in schema.columns], "row_id"]
    report: dict[str, Any] = {"rows": total, "dropped": dropped, "splits": {}, "warnings": []}
    paths.PREPARED.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(SPLITS):
        if not (split == number).any():
            what = f"the {name} split is empty: {table.num_rows} rows, prepare.split: {params.split}"
            raise Problem(what, WHERE, "correct the shares or dates there")
        part = _ordered(table.select(kept), content, split == number)
        file = paths.PREPARED / f"{name}.parquet"
        pq.write_table(part, file, compression="zstd", compression_level=1)
        with file.open("rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        report["splits"][name] = {"rows": part.num_rows, "sha256": digest} | _shares(part.column(task.target), task)
    report["warnings"] = _uneven(report["splits"])
    paths.SPLITS.parent.mkdir(parents=True, exist_ok=True)
    paths.SPLITS.write_text(json.dumps(report, indent=2) + "\n")


def _dropped(table: Any, content: Any, task: Task, params: Prepare, schema: Schema) -> tuple[Any, Any, dict[str, int]]:
    """Return the rows that stay, their hashes, and how many went for which reason."""
    stay = np.ones(table.num_rows, dtype=bool)
    counts = {}
    for name in params.drop_missing:
        missing = table.column(name).is_null().to_numpy() & stay
        counts[f"{name} missing"] = int(missing.sum())
        stay &= ~missing
    if params.drop_duplicates:
        kept = np.flatnonzero(stay)
        whole = rows.hash_rows(table, [name for name in schema.columns if name != task.columns.id])  # as in `validate`
        first = np.zeros(table.num_rows, dtype=bool)
        first[kept[np.unique(whole[kept], return_index=True)[1]]] = True
        counts["duplicate"] = int((stay & ~first).sum())
        stay = first
    return (table, content, counts) if stay.all() else (table.filter(stay), content[stay], counts)


def _split(table: Any, content: Any, task: Task, params: Prepare, schema: Schema) -> Any:
    """Return the number of each row's split in SPLITS, shape (n,)."""
    if params.split == "time":
        return _by_time(table, task, params, schema)
    place = rows.unit(split_key(table, content, task, params), params.seed)
    if params.split != "given":
        return np.select([place < params.test, place < params.test + params.valid], [2, 1], 0)
    said = np.array(table.column(task.columns.split or "split").to_pylist())
    if unknown := sorted(set(map(str, said)) - set(SPLITS)):
        what, fix = f"{task.columns.split} holds {unknown[0]!r}", f"its values must be {', '.join(SPLITS)}"
        raise Problem(what, f"{paths.PARAMS}: columns.split", fix)
    split = np.select([said == "test", said == "valid"], [2, 1], 0)
    if not (split == 1).any():  # validation rows come out of the training rows
        split[(split == 0) & (place < params.valid)] = 1
    return split


def split_key(table: Any, content: Any, task: Task, params: Prepare) -> Any:
    """Return the hash that decides where a row goes, shape (n,): of its group, its id, or its content."""
    if params.split == "group":
        return rows.hash_column(table.column(task.columns.group))
    return rows.hash_column(table.column(task.columns.id)) if task.columns.id else content


def times(table: Any, task: Task, schema: Schema) -> tuple[Any, Any]:
    """Return the rows' times in an order, shape (n,), and the type of a border between them."""
    name = str(task.columns.time)
    column, dtype = table.column(name), schema.columns[name].dtype
    border: Any
    if column.null_count:
        raise Problem(f"{column.null_count} rows have no {name}", WHERE, f"prepare.drop_missing: [{name}] drops them")
    if dtype in {"integer", "number"}:
        found, border = column.cast("double", safe=False).to_numpy(), float
    elif dtype == "datetime":
        found, border = column.to_numpy(), np.datetime64
    else:
        found, border = column.cast("string").to_numpy().astype(str), str
        if odd := next((text for text in found if not re.fullmatch(r"\d{4}(-\d\d(-\d\d([ T].*)?)?)?", text)), None):
            fix = "bring ISO dates (2025-01-31), whose order is that of their text; or dtype datetime or integer in schema.yaml"
            raise Problem(f"{name} holds {str(odd)!r}, which cannot be ordered as text", WHERE, fix)
    return found, border


def borders(found: Any, params: Prepare) -> tuple[str, str]:
    """Return the (valid_from, test_from) that give these times, shape (n,), the shares of valid and test."""
    ordered, share = np.sort(found), 1 - params.test
    late, later = (str(ordered[int(len(ordered) * each)]) for each in (share - params.valid, share))
    return late, later


def _by_time(table: Any, task: Task, params: Prepare, schema: Schema) -> Any:
    """Return splits by two borders. They are dates or numbers, not shares: a share's border would move with every new row."""
    dtype = schema.columns[str(task.columns.time)].dtype
    found, border = times(table, task, schema)
    if not (params.valid_from and params.test_from):
        late, later = map(json.dumps, borders(found, params))
        fix = f"for your shares of this table: valid_from: {late}, test_from: {later}"
        raise Problem("prepare.split: time needs prepare.valid_from and prepare.test_from", WHERE, fix)
    try:
        valid, test = border(params.valid_from), border(params.test_from)
    except ValueError as error:
        fix = "write it as the column's cells are written"
        raise Problem(f"a border is no {dtype}: {error}", WHERE, fix) from error
    if not valid < test:
        raise Problem(f"valid_from {params.valid_from} is not before test_from {params.test_from}", WHERE, "swap them")
    return np.select([found >= test, found >= valid], [2, 1], 0)


def _ordered(table: Any, content: Any, chosen: Any) -> Any:
    """Return the chosen rows in the order of their hashes; equal ones in that of their ids."""
    place = np.flatnonzero(chosen)
    order = place[np.argsort(content[place], kind="stable")]
    same = content[order[1:]] == content[order[:-1]]
    again = np.flatnonzero(np.append(same, False) | np.append(False, same))
    ids = table.column("row_id").take(order[again]).to_numpy()
    order[again] = order[again][np.lexsort((ids, content[order[again]]))]
    return table.take(order)


def _shares(target: Any, task: Task) -> dict[str, Any]:
    if task.task == "regression":
        return {"mean": pc.mean(target).as_py()}
    counts = {str(entry["values"]): entry["counts"] for entry in pc.value_counts(target.cast("string")).to_pylist()}
    return {"classes": {name: count / len(target) for name, count in sorted(counts.items())}}


def _uneven(splits: dict[str, Any]) -> list[str]:
    """Say which class has another share in a split than in train, by more than chance: four standard errors."""
    base = splits["train"].get("classes", {})
    found = []
    for name in ("valid", "test"):
        for label, share in base.items():
            other = splits[name]["classes"].get(label, 0.0)
            error = (share * (1 - share) * (1 / splits[name]["rows"] + 1 / splits["train"]["rows"])) ** 0.5
            if abs(other - share) > 4 * error:
                found.append(f"class {label} is {share:.1%} of train and {other:.1%} of {name}")
    return found
