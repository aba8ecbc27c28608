"""Look at a table; write its first params, schema and gates, and say why each is so.

python -m scripts.init --data customers.csv --target churned
python -m scripts.init --data https://example.org/wine.csv --target quality --task regression --yes

A file (csv, compressed or not; parquet), a pattern, a folder, an address. It asks before it writes, and keeps what was there.
Exit code: 0 written, 1 you said no, 2 your input, 3 the address did not answer.
"""

import codecs
import csv
import io
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pawl import config, initial, paths, schema, source
from pawl.config import Columns, Csv, Ingest, Prepare, Task
from pawl.gate import rules
from pawl.initial import Column, Plan
from pawl.pipeline import ingest, leakage, prepare, validate
from pawl.problem import Problem
from pawl.yamlfile import flow, refuse_name
from scripts import cli
from scripts.schema import MOST_VALUES, TYPES, Seen, text_of

CARD = Path("src/task/card.md")
CARD_OF_SAMPLE = "The sample stands in for your model"
FORMATS = {  # how files begin that are no tables of text
    "an Excel workbook, or a zip": (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"),
    "JSON": (b'{"', b"{\n", b"[{", b"[\n"),
    "a web page, or XML": (b"<!", b"<?", b"<html"),
}
MARKS = {"?", "\\N", "#N/A", "<NA>"}  # of a missing cell, beside what a Csv takes for one
UNKNOWN = MARKS | {"-", "--", ".", "n/a", "na"}  # and among numbers
KEPT = paths.STATE / "init"  # what was replaced, by time
MANY = 30  # categories of a column: of more, `values` would refuse what is new
WIDTH = 100
PARAMS_HEAD = (
    "# How the model is built. `make init` wrote it; change a value, run `make run`: what depends on it runs again."
)
GATES_HEAD = """\
# What may ship: rules on the test split, in the order in which reports show them; the first is the headline's.
# A metric that is missing, or is not a number, fails. A pull request is judged by main's copy of this file.
#
# floor, ceiling: what a model must keep to, whatever came before. `make init` wrote what needs no model (the most frequent class, the
#   shares of the classes, the median), give or take what chance does to so many test rows. Raise it once you know what yours reaches.
# max_regression: how much worse than main, and than the best of main's last commits. It fails where the loss is larger and more than
#   chance; a loss that may be chance is inconclusive. Take what you would not notice in production, not 0. 5% is of main's value."""
CARD_TEXT = "It predicts `{target}`. Write here what that is for, what it must not be used for, and whom to ask.\n"
PARTED = {"ingest.replace", "train.params", "tune.grid"}  # written one below the other, as what stands at the top
COMMENTS = {
    "task": "binary | multiclass | regression",
    "positive": "the label whose probability is predicted; null unless binary",
    "threshold": "or a rule on the validation split, of a binary task: docs/configuration.md",
    "columns": "columns with a role; none of them is a feature",
    "ingest.source": "or s3://bucket/part-*.parquet, https://..., {train: a.csv, test: b.csv}; or sql",
    "ingest.replace": "null: becomes missing",
    "validate.min_rows": "half of what there is today: a file that broke off stops here",
    "prepare.split": "random | group | time | given",
    "train.model": "any scikit-learn-compatible class",
    "train.early_stopping": "rounds without improvement on the validation split",
    "evaluate.slices": "columns whose groups are measured one by one",
    "tune": "what `python -m scripts.tune` tries: every combination, compared on the validation split; no stage reads it",
    "drift": "when `python -m scripts.drift` says that what is asked has moved; no stage reads it",
    "drift.effect": "a change is drift from here on (KS distance, total variation), if it is more than chance at level 0.05",
    "drift.max_loss": "and a loss of the first metric of gates.yaml from here on, on rows whose labels have arrived",
    "drift.min_rows": "of a window, and of those with labels: fewer cannot be told from chance",
    "slices": "each value of these columns",
    "baseline.min_rows": "test rows that both models must share: there are few",
}


class Table(NamedTuple):
    """What was found, and how it is read."""

    ingest: Ingest
    cells: Any  # a pyarrow.Table; of text files, of strings


@cli.told
def main(argv: Sequence[str] | None = None) -> int:
    """Look, decide, show, ask, write."""
    parser = cli.parser("init", __doc__)
    parser.add_argument("--data", required=True, help="a file, a folder, a pattern or an address")
    parser.add_argument("--target", required=True, help="the column to predict")
    parser.add_argument(
        "--task", choices=("binary", "multiclass", "regression"), help="where it is not what it looks like"
    )
    parser.add_argument("--yes", action="store_true", help="write without asking")
    args = parser.parse_args(argv)
    for name in ("data", "target"):
        if not getattr(args, name):
            raise Problem(f"{name.upper()} is empty", f"--{name}", "make init DATA=<file or URL> TARGET=<column>")
    table = look(args.data)
    if args.target not in table.cells.column_names:
        refuse_name(f"TARGET={args.target}", args.target, table.cells.column_names, where=args.data)
    columns, seen = facts(table, args.target, args.task)
    plan = initial.decide(columns, args.target, args.data, args.task)
    new = texts(table, plan, seen)
    check(new)
    lost = report(args.data, table, columns, plan, new)
    if not args.yes:
        if not sys.stdin.isatty():
            raise Problem(
                "nobody is here to say yes", "standard input is no terminal", "add YES=1, or --yes, where you mean it"
            )
        answer = input(f"Write them? {'[y/N]' if lost else '[Y/n]'} ").strip().lower()
        if not (answer in {"y", "yes"} or (not answer and not lost)):
            print("nothing was written")
            return 1
    write(new)
    print("next: read the three files, then `make run`")
    return 0


def look(data: str) -> Table:
    """Return the table, and the settings by which it is read; raise Problem where it is none."""
    here = Path(data)
    if here.is_absolute() and here.is_relative_to(Path.cwd()):
        data = str(here.relative_to(Path.cwd()))
    if here.is_dir() and not any(file.is_file() for file in here.rglob("*")):
        raise Problem(f"{data} is an empty folder", data, "name a file, or a folder that holds some")
    found = Ingest(source=data)
    try:
        file = source.find(found)[0]
        with fsspec.open(str(file.path), "rb", compression="infer").open() as stream:
            head = stream.read(1 << 20)
        start = head.lstrip(b"\xef\xbb\xbf \r\n")
        if name := next((name for name, starts in FORMATS.items() if start.startswith(starts)), None):
            fix = "save its sheet as CSV" if "Excel" in name else "bring CSV or Parquet"
            raise Problem(f"{file.name} is {name}, not a table", data, fix)
        if head.startswith(b"PAR1"):
            if file.path.suffix not in {".parquet", ".pq"}:
                found = msgspec.structs.replace(found, format="parquet")
            return Table(found, usable(pa.Table.from_batches(tidied(found)), data))
        encoding = encoding_of(file.path)
        options = Csv(separator=separator_of(head.decode(encoding, errors="replace")), encoding=encoding)
        found = msgspec.structs.replace(found, csv=options)
        cells = pa.Table.from_batches(tidied(found))
        options = msgspec.structs.replace(options, **found_in(cells))
        if options != found.csv:
            found = msgspec.structs.replace(found, csv=options)
            cells = pa.Table.from_batches(tidied(found))
    except Problem as problem:
        problem.where = problem.where.replace(f"{paths.PARAMS}: ingest.source", f"DATA={data}")
        raise
    return Table(found, usable(cells, data))


def usable(cells: Any, data: str) -> Any:
    """Return the table; raise Problem for columns that the pipeline refuses."""
    for field in cells.schema:
        if pa.types.is_nested(field.type):
            raise Problem(f"{field.name} holds lists or records, not single values", data, "leave it out of the file, or in src/task/data.py")  # fmt: skip
    if "row_id" in cells.column_names:
        fix = "rename it in the file, or in src/task/data.py"
        raise Problem("a column is called row_id, a name that the pipeline gives", data, fix)
    return cells


def tidied(found: Ingest) -> list[Any]:
    """Return the batches as the pipeline will see them."""
    from task import data

    return [data.tidy(batch) for _, batch in source.batches(found)]


def encoding_of(path: Path) -> str:
    """Return the encoding in which the whole file can be read."""
    with fsspec.open(str(path), "rb", compression="infer").open() as stream:
        if stream.read(2) in {b"\xff\xfe", b"\xfe\xff"}:
            return "utf-16"
    for name in ("utf-8", "cp1252"):
        decoder = codecs.getincrementaldecoder(name)()
        with fsspec.open(str(path), "rb", compression="infer").open() as stream:
            try:
                while block := stream.read(1 << 20):
                    decoder.decode(block)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                continue
            return name
    return "latin-1"


def separator_of(head: str) -> str:
    """Return the mark that cuts most lines into as many cells as the first has."""
    lines = [line for line in head.splitlines()[:200] if line]

    def cuts(mark: str) -> tuple[float, int]:
        try:
            rows = [len(row) for row in csv.reader(io.StringIO("\n".join(lines[:-1] or lines)), delimiter=mark)]
        except csv.Error:
            return 0.0, 0
        widths, first = Counter(rows), rows[0] if rows else 0
        return (widths[first] / max(widths.total(), 1) if first > 1 else 0.0, first)

    return max(",;\t|", key=cuts)


def found_in(cells: Any) -> dict[str, Any]:
    """Return what a Csv must say of these cells: spaces around them, marks of missing ones, decimal commas."""
    trim, commas, marks = False, False, set[str]()
    for column in cells.columns:
        values = column.combine_chunks().drop_null().unique()
        bare = pc.utf8_trim_whitespace(values)
        trim = trim or not bare.equals(values)
        known = bare.filter(pc.not_equal(bare, ""))
        sure = known.filter(pc.invert(pc.is_in(known, pa.array(sorted(UNKNOWN)))))
        numbers = len(sure) and pc.all(pc.match_substring_regex(sure, r"^[+-]?\d*(,\d+)?$")).as_py()
        comma = bool(numbers and pc.any(pc.match_substring_regex(sure, r",(\d\d?|\d{4,})$")).as_py())
        commas = commas or comma
        _, bad = ingest.cast(pc.replace_substring(known, ",", ".") if comma else known, TYPES["number"])
        names = set(known.take(pa.array(bad)).to_pylist()) if 0 < len(bad) < min(len(known), len(UNKNOWN)) else set()
        marks |= (names if names <= UNKNOWN else set()) | (MARKS & set(known.slice(0, 5000).to_pylist()))
    found: dict[str, Any] = {"trim": True} if trim else {}
    found |= {"decimal": ","} if commas else {}
    return found | ({"missing": (*Csv().missing, *sorted(marks))} if marks else {})


def odd_of(cells: Any) -> tuple[str, ...]:
    """Return the few cells that are no numbers in a column of numbers: marks of what is missing, or mistakes."""
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return ()
    counted = cells.drop_null().value_counts()
    values, counts = counted.field("values").cast(pa.string()), counted.field("counts").to_numpy()
    _, bad = ingest.cast(values, TYPES["number"])
    if not 0 < len(bad) <= 5 or len(values) - len(bad) < 10:
        return ()
    names = tuple(values.take(pa.array(bad)).to_pylist())
    share = counts[bad].sum() / counts.sum()
    digits = any(character.isdigit() for name in names for character in name)
    return names if share <= 0.01 or (share <= 0.1 and not digits) else ()


def facts(table: Table, target: str, task: str | None) -> tuple[list[Column], dict[str, Seen]]:
    """Return what the decisions rest on, and what `make schema` sees of each column."""
    found, seen, typed = list[Column](), dict[str, Seen](), dict[str, Any]()
    for name in table.cells.column_names:
        cells = table.cells.column(name).combine_chunks()
        odd = odd_of(cells)
        cells = ingest.replaced(cells, dict.fromkeys(odd))
        seen[name] = Seen()
        seen[name].add(cells)
        dtype = seen[name].rules(label=False, role=False)["dtype"]
        typed[name] = ingest.cast(cells, schema.arrow_types({name: dtype})[name])[0]
        counted = cells.drop_null().cast(pa.string()).value_counts()
        few = counted.to_pylist() if len(counted) <= MOST_VALUES else []
        counts = {
            each["values"]: each["counts"] for each in sorted(few, key=lambda each: (-each["counts"], each["values"]))
        }
        more = numbers(typed[name].drop_null()) if dtype in {"integer", "number"} else {}
        found.append(Column(name, dtype, len(cells), cells.null_count, len(counted), counts, odd=odd, **more))
    answer = next(each for each in found if each.name == target)
    regression = (task or initial.kind_of(answer)[0]) == "regression" and answer.dtype in {"integer", "number"}
    if not regression:
        typed[target] = table.cells.column(target).combine_chunks().cast(pa.string())
    places = np.flatnonzero(typed[target].is_valid().to_numpy(zero_copy_only=False))
    some = pa.array(np.sort(np.random.default_rng(0).permutation(places)[: validate.LEAK_ROWS]))
    given = pa.chunked_array([typed[target].take(some)])
    codes = given.cast("double").to_numpy() if regression else leakage.codes_of(given, "category")
    for number, each in enumerate(found if len(some) > 1 else []):
        if each.name == target or each.distinct < 2:
            continue
        cells = pa.chunked_array([typed[each.name].take(some)])
        power = leakage.predictive_power(leakage.codes_of(cells, each.dtype), codes, regression=regression)
        ends = borders_of(each, cells, None if regression else codes)
        found[number] = each._replace(power=power, borders=ends)
    return found, seen


def numbers(values: Any) -> dict[str, Any]:
    """Return what is to be known of a column of numbers."""
    sizes = values.cast("double", safe=False).to_numpy(zero_copy_only=False)
    sizes = sizes[np.isfinite(sizes)]
    if not len(sizes):
        return {}
    distance, deviation = np.abs(sizes - np.median(sizes)), sizes - sizes.mean()
    return {
        "whole": bool((sizes % 1 == 0).all()),
        "running": bool(len(np.unique(sizes)) == len(sizes) == sizes.max() - sizes.min() + 1),
        "center": float(np.median(sizes)),
        "spread": float(distance.mean()), "scatter": float(distance.std()),
        "skew": float((deviation**3).mean() / (deviation.std() ** 3 or 1.0)),
    }  # fmt: skip


def borders_of(column: Column, cells: Any, classes: Any) -> tuple[str, str] | None:
    """Return two times that cut rows into train, valid and test by the usual shares, if each part has rows of every class."""
    if column.dtype not in {"datetime", "text", "category"} or cells.null_count:
        return None
    problem = Task(task="regression", target="", positive=None, threshold=0.5, columns=Columns(time=column.name))
    known = schema.Schema(columns={column.name: schema.Column(dtype="datetime" if column.dtype == "datetime" else "text")})  # fmt: skip
    try:
        found, _ = prepare.times(pa.table({column.name: cells}), problem, known)
    except Problem:
        return None  # no times
    ends = prepare.borders(found, Prepare())
    kind = found.dtype.type if column.dtype == "datetime" else str
    part = np.select([found >= kind(ends[1]), found >= kind(ends[0])], [2, 1], 0)
    labels, counts = np.unique(np.zeros(len(part)) if classes is None else classes, return_counts=True)
    large = labels[counts >= initial.FEW_OF_CLASS]
    groups = [part if classes is None else part[classes == label] for label in large]
    least = min((np.bincount(each, minlength=3).min() for each in groups), default=0)
    late, later = (end.removesuffix("T00:00:00.000000") for end in ends)
    return (late, later) if least >= 5 and np.bincount(part, minlength=3).min() >= len(part) / 25 else None


def texts(table: Table, plan: Plan, seen: dict[str, Seen]) -> dict[Path, str]:
    """Return what the files will hold."""
    params, usual = plan.params, msgspec.structs.asdict(Csv())
    target, replace = params["target"], params["ingest"].get("replace", {})
    if target in replace:
        seen[target] = Seen()
        seen[target].add(ingest.replaced(table.cells.column(target).combine_chunks(), replace[target]))
    roles = {each for named in params["columns"].values() for each in ([named] if isinstance(named, str) else named)}
    inferred = {}
    for name, each in seen.items():
        known = each.rules(label=name == target and params["task"] != "regression", role=name in roles)
        if name in plan.dtypes:
            known = {"dtype": plan.dtypes[name], **({"missing": known["missing"]} if "missing" in known else {})}
        if len(each.values) > MANY and name != target:
            known.pop("values", None)  # of so many, new ones will come
        inferred[name] = known
    options = {key: value for key, value in msgspec.to_builtins(table.ingest.csv).items() if value != usual[key]}
    read = {"source": table.ingest.source, "format": table.ingest.format, "csv": options, **params["ingest"]}
    params = params | {"ingest": {key: value for key, value in read.items() if value}}
    made = {
        paths.PARAMS: "\n".join([PARAMS_HEAD, *written(params)]) + "\n",
        paths.SCHEMA: text_of(inferred, "")[0],
        paths.GATES: "\n".join([GATES_HEAD, *written(plan.gates)]) + "\n",
    }
    if CARD.exists() and CARD.read_text("utf-8").startswith(CARD_OF_SAMPLE):
        made[CARD] = CARD_TEXT.format(target=target)
    return made


def written(values: dict[str, Any], at: str = "") -> Iterator[str]:
    """Yield the lines of a mapping: sections one below the other, values in one line, with their comments."""
    for key, value in values.items():
        name, comment = f"{at}{key}", COMMENTS.get(f"{at}{key}", "")
        parted = isinstance(value, dict) and value and (not at or name in PARTED) and name != "threshold"
        if parted and not at and key not in {"metrics", "columns"}:
            yield ""
        said = "  " * name.count(".", 0, len(at)) + f"{flow(key)}:" + ("" if parted else f" {flow(value)}")
        yield f"{said:<23} # {comment}" if comment else said
        if parted:
            yield from written(value, f"{name}.")


def check(new: dict[Path, str]) -> None:
    """Raise Problem if the pipeline would not take the files."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in new.items():
            (Path(folder) / path.name).write_text(text, "utf-8")
        config.load(Path(folder) / paths.PARAMS)
        schema.load(Path(folder) / paths.SCHEMA)
        rules.load(Path(folder) / paths.GATES)


def report(data: str, table: Table, columns: Sequence[Column], plan: Plan, new: dict[Path, str]) -> bool:
    """Print the one screen; return whether somebody's own edits are replaced."""
    rows, target = table.cells.num_rows, plan.params["target"]
    answer = next(each for each in columns if each.name == target)
    options = table.ingest.csv
    read = [f"separator {options.separator!r}" * (options.separator != ","), options.encoding * (options.encoding != "utf-8"), "decimal commas" * (options.decimal == ","), "spaces trimmed" * options.trim, f"missing also {', '.join(options.missing[len(Csv().missing) :])}" * (options.missing != Csv().missing)]  # fmt: skip
    fill(f"{data}: {rows:,} rows, {len(columns)} columns" + "".join(f", {each}" for each in read if each))
    if plan.params["task"] == "regression":
        tell(target, f"median {answer.center:,.6g}, mean distance from it {answer.spread:,.4g}")
    else:
        tell(target, initial.listed(f"{label} {count:,} ({count / (rows - answer.missing):.1%})" for label, count in answer.counts.items()))  # fmt: skip
    gaps = sorted((each for each in columns if each.missing), key=lambda each: -each.missing)
    tell("missing", initial.listed((f"{each.name} {each.missing / rows:.1%}" for each in gaps), 8) or "nowhere")
    print()
    for what, value, why in plan.said:
        tell(what, value, why)
    print()
    if (here := Path(data)).is_absolute():
        tell("mind", f"{data} is a path of this machine: others need an address, or the file in git or DVC")
    elif here.parts[:1] == ("data",):
        tell(
            "mind", "data/ is the pipeline's: git ignores it, `make clean` empties it; a folder such as tables/ is safe"
        )
    states = {path: state_of(path) for path, text in new.items() if path.exists() and path.read_text("utf-8") != text}
    mine = [f"{path} ({state})" for path, state in states.items() if state]
    tell("writes", ", ".join(map(str, new)))
    if mine:
        tell("replaces", ", ".join(mine), f"what is there now is kept in {KEPT}/")
    return bool(mine)


def tell(what: str, value: str, why: str = "") -> None:
    """Print a line of the screen."""
    fill(f"  {what:<11} {value}{': ' * bool(why)}{why}")


def fill(text: str) -> None:
    """Print text, and below it what does not fit; a path stays whole, to be copied."""
    lines = textwrap.wrap(text, WIDTH, subsequent_indent=" " * 14, break_on_hyphens=False, break_long_words=False)
    print("\n".join(lines))


def state_of(path: Path) -> str:
    """Say what a file holds that would be replaced; nothing of the sample's, as git has it."""
    words = ["git", "status", "--porcelain", "--", str(path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode or done.stdout:
        return "with changes that are not committed"
    given = paths.PARAMS.read_text("utf-8") if paths.PARAMS.exists() else ""
    return "" if re.search(r"^  source: sample\b", given, re.MULTILINE) else "yours, as committed"


def write(new: dict[Path, str]) -> None:
    """Write the files, and keep what was there."""
    kept = KEPT / datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")  # a second may see two
    for path, text in new.items():
        if path.exists() and path.read_text("utf-8") != text:
            (kept / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, kept / path)
        path.write_text(text, "utf-8")
    if kept.exists():
        print(f"written; `cp -R {kept}/. .` takes back what was there")


if __name__ == "__main__":
    sys.exit(main())
