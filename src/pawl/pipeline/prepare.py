"""raw -> data/prepared/{train,valid,test}.parquet: picks rows and splits them; never changes a value.

A row's split is a function of its id, group, time or content and the seed alone, so that adding rows never moves another one.
Rows are written in the order of their hashes: the model does not depend on the order in which they came.
"""

import json
from typing import Any

from pawl import paths, rows
from pawl.config import Prepare, Task
from pawl.problem import Problem
from pawl.schema import Schema

SPLITS = ("train", "valid", "test")


def run(task: Task, params: Prepare, schema: Schema) -> None:
    """Write the three splits and reports/splits.json; raise Problem where one of them would be empty."""
    import pyarrow.parquet as pq

    table = pq.read_table(paths.RAW, memory_map=True)
    total = table.num_rows
    features = [name for name in schema.columns if name not in task.roles]
    content = rows.hash_rows(table, features)
    table, content, dropped = _dropped(table, content, params)
    if unknown := table.column(task.target).null_count:
        what, fix = f"{unknown} rows have no {task.target}", f"prepare.drop_missing: [{task.target}] drops them"
        raise Problem(what, f"{paths.PARAMS}: prepare", fix)
    split = _split(table, content, task, params)
    kept = [*[name for name in table.schema.names if name in schema.columns], "row_id"]
    report: dict[str, Any] = {"rows": total, "dropped": dropped, "splits": {}, "warnings": []}
    paths.PREPARED.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(SPLITS):
        part = _ordered(table.select(kept), content, split == number)
        if not part.num_rows:
            raise Problem(
                f"the {name} split is empty: {table.num_rows} rows, prepare.split: {params.split}",
                f"{paths.PARAMS}: prepare",
                "correct the shares or dates there",
            )
        pq.write_table(part, paths.PREPARED / f"{name}.parquet", compression="zstd", compression_level=1)
        report["splits"][name] = {"rows": part.num_rows} | _shares(part.column(task.target), task)
    report["warnings"] = _uneven(report["splits"])
    paths.SPLITS.parent.mkdir(parents=True, exist_ok=True)
    paths.SPLITS.write_text(json.dumps(report, indent=2) + "\n")


def _dropped(table: Any, content: Any, params: Prepare) -> tuple[Any, Any, dict[str, int]]:
    """Return the rows that stay, their hashes, and how many went for which reason."""
    import numpy as np

    stay = np.ones(table.num_rows, dtype=bool)
    counts = {}
    for name in params.drop_missing:
        missing = table.column(name).is_null().to_numpy() & stay
        counts[f"{name} missing"] = int(missing.sum())
        stay &= ~missing
    if params.drop_duplicates:
        first = np.zeros(table.num_rows, dtype=bool)
        kept = np.flatnonzero(stay)
        first[kept[np.unique(content[kept], return_index=True)[1]]] = True
        counts["duplicate"] = int((stay & ~first).sum())
        stay &= first
    return (table, content, counts) if stay.all() else (table.filter(stay), content[stay], counts)


def _split(table: Any, content: Any, task: Task, params: Prepare) -> Any:
    """Return the number of each row's split in SPLITS, shape (n,)."""
    import numpy as np

    if params.split == "time":
        return _by_time(table, task, params)
    key = content
    if params.split == "group":
        key = rows.hash_column(table.column(task.columns.group))
    elif task.columns.id:
        key = rows.hash_column(table.column(task.columns.id))
    place = rows.unit(key, params.seed)
    if params.split != "given":
        return np.select([place < params.test, place < params.test + params.valid], [2, 1], 0)
    said = np.array(table.column(task.columns.split or "split").to_pylist())
    if unknown := sorted(set(map(str, said)) - set(SPLITS)):
        raise Problem(
            f"{task.columns.split} holds {unknown[0]!r}",
            f"{paths.PARAMS}: columns.split",
            f"its values must be {', '.join(SPLITS)}",
        )
    split = np.select([said == "test", said == "valid"], [2, 1], 0)
    if not (split == 1).any():  # validation rows come out of the training rows
        split[(split == 0) & (place < params.valid)] = 1
    return split


def _by_time(table: Any, task: Task, params: Prepare) -> Any:
    """Return splits by two dates. They are dates, not shares: a share's border would move with every new row."""
    import numpy as np

    times = np.array([str(value) for value in table.column(task.columns.time).to_pylist()])
    if not (params.valid_from and params.test_from):
        ordered = np.sort(times)
        late, later = (
            ordered[int(len(ordered) * share)] for share in (1 - params.test - params.valid, 1 - params.test)
        )
        raise Problem(
            "prepare.split: time needs prepare.valid_from and prepare.test_from",
            f"{paths.PARAMS}: prepare",
            f"for your shares of this table: valid_from: {json.dumps(str(late))}, test_from: {json.dumps(str(later))}",
        )
    return np.select([times >= params.test_from, times >= params.valid_from], [2, 1], 0)


def _ordered(table: Any, content: Any, chosen: Any) -> Any:
    import numpy as np

    part = table.filter(chosen)
    return part.take(np.lexsort((part.column("row_id").to_numpy(), content[chosen])))


def _shares(target: Any, task: Task) -> dict[str, Any]:
    import pyarrow.compute as pc

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
