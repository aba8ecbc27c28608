"""Make MLflow runs of the rows of a spreadsheet: csv or xlsx.

python -m scripts.import_runs runs.xlsx
python -m scripts.import_runs runs.xlsx --sheet Spring --experiment churn

Row 1 names the columns, row 2 says what each one is, every row below is a run:

    run       depth      val_auc  owner  date
    name      parameter  metric   tag    start
    baseline  6          0.912    ana    2024-05-03 14:00
    deeper    9          0.917

Each column is a parameter, a metric or a tag; one may be the runs' name, and one their start. Empty cells are left out.
Every cell is checked before the first run is written. Importing again adds only rows that are new; a row that was changed is
new, and the run of what it was stays. Exit code: 0 done, 2 the file is wrong, 3 the store did not answer.
"""

import csv
import difflib
import functools
import hashlib
import io
import json
import math
import os
import posixpath
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pawl import tracking
from pawl.problem import Problem
from pawl.tracking import Store
from scripts import cli, track

KINDS = ("parameter", "metric", "tag", "name", "start")
LIMITS = {"parameter": 6000, "tag": 8000, "name": 250}  # characters that MLflow and its databases take
IDENTITY = "pawl.import"
OLD_OR_LOCKED = bytes.fromhex("d0cf11e0")  # how an .xls begins, and an .xlsx with a password
SAVE = "open it in a spreadsheet program, and save it as .xlsx without a password, or as CSV UTF-8"


class Wrong(NamedTuple):
    """A cell that cannot be imported; row and column count from 1."""

    row: int
    column: int
    what: str
    fix: str


class Unfit(Exception):  # noqa: N818 - it becomes a Wrong
    """What is wrong in a text, and how to fix it."""


class Row(NamedTuple):
    """A row that is a run. start: milliseconds since 1970; identity: a digest of its content."""

    number: int
    name: str
    start: int | None
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    identity: str


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Import."""
    parser = cli.parser("import_runs", __doc__)
    parser.add_argument("file", type=Path, help=".xlsx or .csv")
    parser.add_argument("--sheet", help="of an .xlsx; without it the first")
    parser.add_argument("--experiment", help="without it the project's")
    args = parser.parse_args(argv)
    where, cells, wrong = read(args.file, args.sheet)
    rows = runs(where, cells, wrong)
    experiment = args.experiment or track.experiment(environ)
    with tracking.store() as store:
        new = write(store, store.experiment(experiment), rows, args.file, track.who(environ))
    print(f"{where}: new runs: {new}, known: {len(rows) - new}, in experiment {experiment} of {store.shown}.")
    print("next: `make ui`" if store.embedded else f"next: look at them in {store.shown}")
    return 0


def read(path: Path, sheet: str | None) -> tuple[str, list[list[str]], list[Wrong]]:
    """Return (the table's place, its cells as text, what cannot be read of them); raise Problem if it is no table."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Problem(f"the file cannot be read: {error.strerror}", path, "correct its name") from error
    kind = path.suffix.lower()
    if kind not in {".xlsx", ".xlsm", ".xls", ".csv", ".tsv", ".txt"}:
        raise Problem(f"{kind or 'a file without an ending'} is not read: only .xlsx and .csv are", path, SAVE)
    if kind == ".xls" or content.startswith(OLD_OR_LOCKED):
        raise Problem("this is an .xls of old, or it has a password", path, SAVE)
    if kind in {".xlsx", ".xlsm"}:
        return book(path, content, sheet)
    if sheet is not None:
        raise Problem("only an .xlsx has sheets", "--sheet", "leave it out")
    return str(path), table(path, content), []


def table(path: Path, content: bytes) -> list[list[str]]:
    """Return the cells of a csv, whose separator is the one of , ; and tab that its first line has most of."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise Problem(f"the text is not UTF-8: byte {content[error.start]:#04x}", f"{path}:{line}", SAVE) from error
    if "\0" in text:
        raise Problem("this is no text, though its name ends like a csv's", path, SAVE)
    first = re.sub(r'"[^"]*"', "", text).partition("\n")[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        return [[cell.strip() for cell in line] for line in lines]
    except csv.Error as error:
        raise Problem(f"the csv is broken: {error}", f"{path}:{lines.line_num}", 'a quote in a cell is doubled: ""') from error  # fmt: skip


def book(path: Path, content: bytes, sheet: str | None) -> tuple[str, list[list[str]], list[Wrong]]:
    """Return what `read` returns, of an xlsx."""
    import openpyxl

    wrong: list[Wrong] = []
    try:
        with warnings.catch_warnings(action="ignore"):  # of formatting that it does not know
            load = functools.partial(openpyxl.load_workbook, read_only=True)
            values, formulas = (load(io.BytesIO(content), data_only=only) for only in (True, False))
            names = [each.title for each in values.worksheets]
            chosen = sheet or names[0]
            if chosen in names:
                sides = [each.worksheets[names.index(chosen)] for each in (values, formulas)]
                for side in sides:
                    side.reset_dimensions()  # what a file says of its size may be wrong
                cells = [list(zip(*both, strict=True)) for both in zip(*(side.rows for side in sides), strict=True)]
    except Exception as error:  # each way in which a file can be broken has its own
        raise Problem(f"the file is no .xlsx, or is damaged: {error}", path, SAVE) from error
    if chosen not in names:
        raise Problem(f"there is no sheet {chosen}", path, f"--sheet takes one of: {', '.join(names)}")
    for row, line in enumerate(cells, 1):
        for column, (value, formula) in enumerate(line, 1):
            # A formula whose result is an empty text has the type of a text.
            if formula.data_type == "f" and value.value is None and value.data_type == "n":
                wrong.append(Wrong(row, column, "the formula's result is not in the file", "open and save the file in a spreadsheet program, or write the value"))  # fmt: skip
            elif value.data_type == "e":
                wrong.append(Wrong(row, column, f"the cell is an error: {value.value}", "correct it, or empty it"))
    texts = [["" if value.value is None or value.data_type == "e" else plain(str(value.value)) for value, _ in line] for line in cells]  # fmt: skip
    return f"{path}, sheet {chosen}", texts, wrong


def plain(text: str) -> str:
    """Return a cell's text as it is shown: a date without a time has none."""
    return text.removesuffix(" 00:00:00").strip()


def runs(where: str, cells: Sequence[Sequence[str]], wrong: Sequence[Wrong]) -> list[Row]:
    """Return the rows that are runs; raise Problem, with every wrong cell, if there are any."""
    width = max(map(len, cells), default=0)
    cells = [[*line, *[""] * (width - len(line))] for line in cells]
    if not any(map(any, cells[2:])):
        fix = "row 1 names the columns, row 2 says what each is, a run is a row below"
        raise Problem("there are no runs", where, fix)
    if not {kind.lower() for kind in cells[1]} & set(KINDS):
        raise Problem("row 2 does not say what the columns are", where, f"insert a row below the names, with one of these in each column: {', '.join(KINDS)}")  # fmt: skip
    columns, of_columns = kinds(cells)
    wrong, rows, seen = [*wrong, *of_columns], [], Counter[str]()
    for number, line in enumerate(cells[2:], 3):
        found: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
        for column, (name, kind) in columns.items():
            if text := line[column - 1]:
                found[kind][name] = text
                try:
                    CHECKS.get(kind, short)(text, kind)
                except Unfit as error:
                    wrong.append(Wrong(number, column, *error.args))
        if wrong or not any(line):
            continue
        name, start = ("".join(found[kind].values()) for kind in ("name", "start"))
        metrics = {key: finite(text) for key, text in found["metric"].items()}
        content = json.dumps([name, start, found["parameter"], metrics, found["tag"]], sort_keys=True)
        seen[content] += 1  # equal rows are runs of their own
        identity = hashlib.sha256(f"{content}{seen[content]}".encode()).hexdigest()
        rows.append(Row(number, name, moment(start) if start else None, found["parameter"], metrics, found["tag"], identity))  # fmt: skip
    if wrong:
        raise refusal(where, cells[0], sorted(wrong))
    return rows


def kinds(cells: Sequence[Sequence[str]]) -> tuple[dict[int, tuple[str, str]], list[Wrong]]:
    """Return {column: (name, kind)} of the columns that are right, and what is wrong with the others."""
    from openpyxl.utils import get_column_letter as letters

    columns: dict[int, tuple[str, str]] = {}
    wrong, names, once = [], dict[str, str](), dict[str, str]()
    for column, (name, given) in enumerate(zip(cells[0], cells[1], strict=True), 1):
        kind, at = given.lower(), letters(column)
        near = difflib.get_close_matches(kind, KINDS, n=1) or [f"one of {', '.join(KINDS)}"]
        if not name and not any(line[column - 1] for line in cells):
            continue
        if not name:
            wrong.append(Wrong(1, column, "the column has no name", f"name it in {at}1, or empty the column"))
        elif name in names:
            wrong.append(Wrong(1, column, f"column {names[name]} has this name too", "rename one of them"))
        elif kind not in KINDS:
            what = f'"{given[:40]}" is no kind of column' if given else "row 2 does not say what the column is"
            wrong.append(Wrong(2, column, what, f"write {near[0]}"))
        elif kind in once:
            wrong.append(Wrong(2, column, f"column {once[kind]} is the {kind} already", "make one of them a tag"))
        else:
            try:
                named(name, kind)
            except Unfit as error:
                wrong.append(Wrong(1, column, *error.args))
            columns[column] = (name, kind)
        names.setdefault(name, at)
        if kind in {"name", "start"}:
            once.setdefault(kind, at)
    return columns, wrong


def named(name: str, kind: str) -> None:
    """Raise Unfit if MLflow takes no parameter, metric or tag of this name."""
    if kind in {"name", "start"}:
        return
    if bad := sorted(set(re.findall(r"[^/\w.\- :]", name))):
        what = f"MLflow takes no {' '.join(map(repr, bad))} in a name"
        raise Unfit(what, "use letters, digits, spaces and _ - . : /")
    if posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
        raise Unfit("MLflow reads the name as a path", "take out what is a step: / at an end, //, ./ and ..")
    if len(name) > 250:
        raise Unfit(f"the name has {len(name)} characters, and MLflow takes 250", "shorten it")
    if kind == "tag" and name.startswith(("mlflow.", "pawl.")):
        raise Unfit("tags that begin with mlflow. or pawl. are not yours to set", "name it otherwise")


def short(text: str, kind: str) -> None:
    """Raise Unfit for a text that MLflow would cut off."""
    if len(text) > LIMITS[kind]:
        raise Unfit(f"the text has {len(text):,} characters, and MLflow takes {LIMITS[kind]:,}", "shorten it")


def finite(text: str, _: str = "") -> float:
    """Return a metric; raise Unfit unless it is a finite number."""
    number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE)
    if number and math.isfinite(float(text)):
        return float(text)
    if number or re.fullmatch(r"[+-]?(nan|inf(inity)?|∞)", text.lower()):
        raise Unfit(f"{text} is not finite", "leave the cell empty; a tag may tell why")
    fix = "numbers look like 0.93, 1234.5 or 1e-3; leave the cell empty where there is none"
    if comma := re.fullmatch(r"([+-]?\d+),(\d+)", text):
        thousands = len(comma[2]) == 3 and comma[1].strip("+-0") != ""
        fix = f"write {comma[1]}.{comma[2]}" + f", or {comma[1]}{comma[2]}" * thousands
    raise Unfit(f'"{text[:40]}" is no number', fix)


def moment(text: str, _: str = "") -> int:
    """Return milliseconds since 1970, of a date in this machine's time zone unless it names one; raise Unfit if it is none."""
    try:
        found = int(datetime.fromisoformat(text).timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise Unfit(f'"{text[:40]}" is no date', "write it like 2024-05-03 14:00") from error
    if found < 0:
        raise Unfit(f"{text} is before 1970", "write the year with four digits, or leave the cell empty")
    return found


CHECKS = {"metric": finite, "start": moment}


def refusal(where: str, names: Sequence[str], wrong: Sequence[Wrong]) -> Problem:
    """Return the Problem that tells the first ten wrong cells."""
    from openpyxl.utils import get_column_letter as letters

    told = [f"{letters(each.column)}{each.row}{f' ({name[:40]})' if (name := names[each.column - 1]) else ''}" for each in wrong]  # fmt: skip
    if len(wrong) == 1:
        return Problem(f"{wrong[0].what}; nothing was imported", f"{where}, {told[0]}", wrong[0].fix)
    lines = [f"  {cell}: {each.what}: {each.fix}" for cell, each in zip(told[:10], wrong, strict=False)]
    lines += [f"  and {len(wrong) - 10} more"] * (len(wrong) > 10)
    what = "\n".join([f"{len(wrong)} cells are wrong; nothing was imported", *lines])
    return Problem(what, where, "correct them, and import again")


def write(store: Store, experiment: str, rows: Sequence[Row], path: Path, who: str) -> int:
    """Write the runs that are not there; return how many."""
    known, new = tracking.tagged(store, experiment, IDENTITY), 0
    changed = int(path.stat().st_mtime * 1000)
    for row in rows:
        before = known.get(row.identity)
        if before and before.status == "FINISHED":
            continue
        # What was killed half-way has its numbers at the time of that attempt: at another they would be there twice.
        start = before.start_time if before else changed if row.start is None else row.start
        tags = {"mlflow.source.name": path.name, "mlflow.user": who, "pawl.import_file": path.name, "pawl.import_row": str(row.number)}  # fmt: skip
        run = tracking.Run(
            name=row.name or f"{path.stem} row {row.number}",
            identity={IDENTITY: row.identity},
            tags={**tags, **row.tags},
            params=row.params,
            metrics=[(key, value, 0) for key, value in row.metrics.items()],
            started=start,
            ended=start,
        )
        tracking.log(store, experiment, run)
        new += 1
        if new % 100 == 0:
            print(f"{new} runs are written", file=sys.stderr)
    return new


if __name__ == "__main__":
    sys.exit(main())
