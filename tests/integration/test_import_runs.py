"""Runs of a spreadsheet become MLflow's: each row once, and none while a cell is wrong."""

import csv
import io
import os
import random
import re
import signal
import subprocess
import sys
import zipfile
from datetime import datetime
from pathlib import Path

import openpyxl
import pytest

from scripts import import_runs

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload``:DeprecationWarning")  # MLflow's own, of its queries
ROOT = Path(__file__).parents[2]
NAMES = ["run", "learning_rate", "early stop", "val auc", "loss", "owner", "date"]
KINDS = ["name", " Parameter", "PARAMETER", "metric", "metric ", "tag", "start"]

# The import, killed when it has all of the eighth run but its end.
KILLED = """
import os, signal, sys
import mlflow
from scripts import import_runs

ended, finish = [], mlflow.MlflowClient.set_terminated

def end(client, run, *args, **options):
    ended.append(run)
    if len(ended) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    finish(client, run, *args, **options)

mlflow.MlflowClient.set_terminated = end
import_runs.main(sys.argv[1:])
"""


def rows(count=20):
    rng = random.Random(0)
    return [
        NAMES,
        KINDS,
        *[
            [f"run {n}", rng.choice([0.1, 0.05]), True, round(rng.random(), 4), round(rng.random(), 9), "ana" if n % 2 else None, None]
            for n in range(count)
        ],
    ]  # fmt: skip


def to_csv(path, table, *, encoding="utf-8", **options):
    text = io.StringIO(newline="")
    csv.writer(text, **options).writerows(table)
    Path(path).write_bytes(text.getvalue().encode(encoding))
    return path


def to_xlsx(path, table, sheet="Spring"):
    made = openpyxl.Workbook()
    made.active.title = sheet
    for row in table:
        made.active.append(row)
    made.save(path)
    return path


WRITE = {"csv": to_csv, "xlsx": to_xlsx}


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


class Kept:
    """The experiment of one test, in a database that the tests share: MLflow takes seconds to make one."""

    def __init__(self, client, name):
        self.client, self.name = client, name

    @property
    def runs(self):
        found = self.client.get_experiment_by_name(self.name)
        return self.client.search_runs([found.experiment_id]) if found else []


@pytest.fixture
def kept(database, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.setenv("PAWL_ARTIFACT_LOCATION", str(tmp_path))
    return Kept(mlflow.MlflowClient(database), os.urandom(8).hex())


def add(kept, path, *words, code=0):
    assert import_runs.main([path, "--experiment", kept.name, *words]) == code


@pytest.mark.parametrize("kind", WRITE)
def test_twenty_runs_imported_twice_are_twenty(kept, capsys, kind):
    path = WRITE[kind](f"runs.{kind}", rows())

    add(kept, path)
    first = capsys.readouterr().out
    add(kept, path)

    assert "new runs: 20, known: 0," in first
    assert "new runs: 0, known: 20," in capsys.readouterr().out
    assert len(kept.runs) == 20
    assert {run.info.status for run in kept.runs} == {"FINISHED"}


def test_csv_and_xlsx_of_the_same_table_are_the_same_runs(kept, capsys):
    add(kept, to_xlsx("runs.xlsx", rows()))
    add(kept, to_csv("renamed.csv", rows(), delimiter=";", encoding="utf-8-sig"))

    assert "renamed.csv: new runs: 0, known: 20," in capsys.readouterr().out
    assert len(kept.runs) == 20


@pytest.mark.parametrize("kind", WRITE)
def test_each_value_arrives_as_what_row_two_says(kept, kind):
    when = datetime(2024, 5, 3, 14, 30)  # noqa: DTZ001 - a sheet's time has no zone
    table = [NAMES, KINDS, [], ["the first", 0.05, True, 0.5, None, "Zoë, of the team", when], ["", 3, "", 2e-7]]

    add(kept, WRITE[kind](f"runs.{kind}", table))

    second, first = sorted(kept.runs, key=lambda run: -float(run.data.params["learning_rate"]))
    assert first.info.run_name == "the first"
    assert first.info.start_time == first.info.end_time == when.timestamp() * 1000
    assert first.data.params == {"learning_rate": "0.05", "early stop": "True"}
    assert first.data.metrics == {"val auc": 0.5}
    assert first.data.tags["owner"] == "Zoë, of the team"
    assert first.data.tags["pawl.import_file"] == first.data.tags["mlflow.source.name"] == f"runs.{kind}"
    assert first.data.tags["pawl.import_row"] == "4"
    assert second.info.run_name == "runs row 5"
    assert second.info.start_time == int(Path(f"runs.{kind}").stat().st_mtime * 1000)
    assert second.data.params == {"learning_rate": "3"}
    assert second.data.metrics == {"val auc": 2e-7}
    assert "owner" not in second.data.tags


def test_equal_rows_are_runs_of_their_own_and_one_more_row_is_one_more_run(kept, capsys):
    table = [["depth", "auc"], ["parameter", "metric"], [3, 0.5], [4, 0.5], [3, 0.5]]
    add(kept, to_csv("runs.csv", table))
    add(kept, to_csv("runs.csv", table))
    assert len(kept.runs) == 3

    for more in ([3, 0.5], [5, 0.5]):
        table.insert(2, more)  # above the others: the row's number is no part of what it is
        add(kept, to_csv("runs.csv", table))
        assert capsys.readouterr().out.splitlines()[-2].startswith(f"runs.csv: new runs: 1, known: {len(table) - 3},")

    assert sorted(run.data.params["depth"] for run in kept.runs) == ["3", "3", "3", "4", "5"]


@pytest.mark.parametrize("kind", ["parameter", "metric", "tag", "name", "start"])
def test_a_row_that_differs_in_one_column_is_another_run(kept, kind):
    values = ("2024", "2025") if kind != "start" else ("2024-05-03", "2024-05-04")
    for count, value in enumerate(values, 1):
        add(kept, to_csv("runs.csv", [["a", "b"], ["parameter", kind], ["1", value]]))
        assert len(kept.runs) == count


def test_the_mark_at_a_files_beginning_is_no_part_of_the_first_name(kept):
    add(kept, to_csv("runs.csv", [["depth"], ["parameter"], [3]], encoding="utf-8-sig"))

    assert kept.runs[0].data.params == {"depth": "3"}


def test_a_sheet_is_chosen_by_name_and_else_is_the_first(kept, capsys):
    to_xlsx("runs.xlsx", rows(2))
    book = openpyxl.load_workbook("runs.xlsx")
    for row in rows(5):
        book.create_sheet("Summer") if "Summer" not in book.sheetnames else None
        book["Summer"].append(row)
    book.save("runs.xlsx")

    add(kept, "runs.xlsx")
    add(kept, "runs.xlsx", "--sheet", "Summer")
    add(kept, "runs.xlsx", "--sheet", "Autumn", code=2)

    said = capsys.readouterr()
    assert "runs.xlsx, sheet Spring: new runs: 2, known: 0," in said.out
    assert "runs.xlsx, sheet Summer: new runs: 3, known: 2," in said.out
    assert "there is no sheet Autumn\n  where: runs.xlsx\n  fix: --sheet takes one of: Spring, Summer" in said.err


def test_an_import_that_was_killed_goes_on_where_it_was(kept, capsys):
    path = to_csv("runs.csv", rows())
    words = [sys.executable, "-c", KILLED, path, "--experiment", kept.name]
    killed = subprocess.run(words, check=False, env={**os.environ, "PYTHONPATH": f"{ROOT}/src{os.pathsep}{ROOT}"})
    assert killed.returncode == -signal.SIGKILL
    before = {run.info.run_id: run.info.status for run in kept.runs}
    assert sorted(before.values()) == ["FINISHED"] * 7 + ["RUNNING"]
    os.utime(path, (1e9, 1e9))  # saved anew in between

    add(kept, path)

    assert "new runs: 13, known: 7," in capsys.readouterr().out
    assert len(kept.runs) == 20
    assert before.keys() <= {run.info.run_id for run in kept.runs}
    assert {run.info.status for run in kept.runs} == {"FINISHED"}
    for run in before:
        assert len(kept.client.get_metric_history(run, "val auc")) == 1


def test_a_sheet_wider_than_one_of_mlflows_batches_arrives_whole(kept):
    counts = {"parameter": 150, "metric": 900, "tag": 150}
    columns = [(f"{kind} {n}", kind, "1") for kind, count in counts.items() for n in range(count)]

    add(kept, to_csv("runs.csv", zip(*columns, strict=True)))

    (run,) = kept.runs
    assert [len(run.data.params), len(run.data.metrics)] == [150, 900]
    assert sum(name.startswith("tag ") for name in run.data.tags) == 150


def cell(at, value):
    """Return the table with another value in one cell, as A1 or G22."""
    column, row = re.fullmatch(r"([A-Z])(\d+)", at).groups()
    table = [[*row] for row in rows()]
    table[int(row) - 1][ord(column) - ord("A")] = value
    return table


WRONG = [
    ("D22", "0,93", '"0,93" is no number', "write 0.93"),
    ("D3", "1,234", '"1,234" is no number', "write 1.234, or 1234"),
    ("D7", "1_000", '"1_000" is no number', "numbers look like 0.93"),
    ("E7", "93 %", '"93 %" is no number', "leave the cell empty where there is none"),
    ("E7", True, '"True" is no number', "numbers look like 0.93"),
    ("E7", "NaN", "NaN is not finite", "leave the cell empty"),
    ("E7", "-inf", "-inf is not finite", "leave the cell empty"),
    ("E7", "1e999", "1e999 is not finite", "leave the cell empty"),
    ("B1", "run", "column A has this name too", "rename one"),
    ("B1", "", "the column has no name", "name it in B1, or empty the column"),
    ("B2", "", "row 2 does not say what the column is", "write one of parameter, metric, tag, name, start"),
    ("B2", "param", '"param" is no kind of column', "write parameter"),
    ("F2", "name", "column A is the name already", "make one of them a tag"),
    ("D1", "auc@5 (%)", "MLflow takes no '%' '(' ')' '@' in a name", "use letters, digits, spaces and _ - . : /"),
    ("D1", "a//b", "MLflow reads the name as a path", "take out what is a step"),
    ("D1", "/a", "MLflow reads the name as a path", "take out what is a step"),
    ("D1", "a" * 251, "the name has 251 characters, and MLflow takes 250", "shorten it"),
    ("F1", "mlflow.user", "tags that begin with mlflow. or pawl. are not yours to set", "name it otherwise"),
    ("B9", "x" * 6001, "the text has 6,001 characters, and MLflow takes 6,000", "shorten it"),
    ("F9", "x" * 8001, "the text has 8,001 characters, and MLflow takes 8,000", "shorten it"),
    ("A9", "x" * 251, "the text has 251 characters, and MLflow takes 250", "shorten it"),
    ("G9", "last spring", '"last spring" is no date', "write it like 2024-05-03 14:00"),
    ("G9", "1924-05-03", "1924-05-03 is before 1970", "leave the cell empty"),
]  # fmt: skip


@pytest.mark.parametrize("kind", WRITE)
@pytest.mark.parametrize(("at", "value", "what", "fix"), WRONG, ids=[f"{at}-{what[:20]}" for at, _, what, _ in WRONG])
def test_a_wrong_cell_is_named_and_nothing_is_written(kept, capsys, kind, at, value, what, fix):
    table = cell(at, value)

    add(kept, WRITE[kind](f"runs.{kind}", table), code=2)

    place = {"csv": "runs.csv", "xlsx": "runs.xlsx, sheet Spring"}[kind]
    name = table[0][ord(at[0]) - ord("A")][:40]
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: {what}; nothing was imported\n  where: {place}, {at}{f' ({name})' if name else ''}\n"
    )
    assert fix in said.splitlines()[2]
    assert kept.runs == []


def test_what_mlflow_takes_is_not_refused(kept):
    table = cell("D1", "größe/a b_c-d.e:" + "f" * 234)
    table[2][1], table[2][5], table[2][0] = "x" * 6000, "y" * 8000, "z" * 250

    add(kept, to_csv("runs.csv", table))

    (run,) = [run for run in kept.runs if run.info.run_name == "z" * 250]
    assert (run.data.params["learning_rate"], run.data.tags["owner"]) == ("x" * 6000, "y" * 8000)


def test_many_wrong_cells_are_told_at_once_ten_of_them_with_their_place(kept, capsys):
    table = rows()
    for number, row in enumerate(table[2:16]):
        row[3] = f"0,{number}"

    add(kept, to_xlsx("runs.xlsx", table), code=2)

    first, *lines = capsys.readouterr().err.splitlines()
    assert first == "error: 14 cells are wrong; nothing was imported"
    assert lines[:10] == [f'  D{n + 3} (val auc): "0,{n}" is no number: write 0.{n}' for n in range(10)]
    assert lines[10:] == ["  and 4 more", "  where: runs.xlsx, sheet Spring", "  fix: correct them, and import again"]
    assert kept.runs == []


def test_a_column_beyond_z_is_named_as_a_spreadsheet_names_it(kept, capsys):
    add(kept, to_csv("runs.csv", [[f"m{n}" for n in range(60)], ["metric"] * 60, ["1"] * 59 + ["x"]]), code=2)

    assert "runs.csv, BH3 (m59)\n" in capsys.readouterr().err


def with_xml(path, old, new):
    """Replace a cell in an xlsx, as another program would have written it."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    assert re.search(old, parts[sheet])
    parts[sheet] = re.sub(old, new, parts[sheet])
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            file.writestr(name, content)


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        (b'<c r="D5"><f>1/2</f></c>', "the formula's result is not in the file"),
        (b'<c r="D5"><f>1/2</f><v></v></c>', "the formula's result is not in the file"),
        (b'<c r="D5" t="e"><f>1/0</f><v>#DIV/0!</v></c>', "the cell is an error: #DIV/0!"),
    ],
)
def test_a_formula_without_a_result_is_named(kept, capsys, xml, said):
    with_xml(to_xlsx("runs.xlsx", rows()), rb'<c r="D5"[^>]*>.*?</c>', xml)

    add(kept, "runs.xlsx", code=2)

    assert f"error: {said}; nothing was imported\n  where: runs.xlsx, sheet Spring, D5 (val auc)" in capsys.readouterr().err  # fmt: skip
    assert kept.runs == []


@pytest.mark.parametrize(
    ("xml", "metrics"),
    [(b'<c r="D3"><f>1/2</f><v>0.5</v></c>', {"val auc": 0.5}), (b'<c r="D3" t="str"><f>""</f><v></v></c>', {})],
    ids=["number", "empty text"],
)
def test_a_formula_is_its_result(kept, xml, metrics):
    with_xml(to_xlsx("runs.xlsx", [NAMES, KINDS, ["a", 1, 2, 3]]), rb'<c r="D3"[^>]*>.*?</c>', xml)

    add(kept, "runs.xlsx")

    (run,) = kept.runs
    assert run.data.metrics == metrics


HEAD = b"a,b\nparameter,metric\n"
FILES = {
    "latin-1": ("runs.csv", HEAD + b"\xe9t\xe9,1\n", "the text is not UTF-8: byte 0xe9\n  where: runs.csv:3\n", "CSV UTF-8"),
    "no text": ("runs.csv", HEAD + b"x\0y,1\n", "this is no text", "save it as .xlsx"),
    "open quote": ("runs.csv", HEAD + b'"x,1\n', "the csv is broken", "a quote in a cell is doubled"),
    "empty csv": ("runs.csv", b"", "there are no runs", "row 1 names the columns"),
    "no runs": ("runs.csv", HEAD + b",\n", "there are no runs", "row 1 names the columns"),
    "no kinds": ("runs.csv", b"a,b\n1,2\n3,4\n", "row 2 does not say what the columns are", "insert a row below the names"),
    "empty xlsx": ("runs.xlsx", b"", "the file is no .xlsx, or is damaged", "save it"),
    "csv named xlsx": ("runs.xlsx", HEAD + b"x,1\n", "the file is no .xlsx, or is damaged", "save it"),
    "xls": ("runs.xls", b"\xd0\xcf\x11\xe0old", "this is an .xls of old", "save it as .xlsx without a password"),
    "password": ("runs.xlsx", b"\xd0\xcf\x11\xe0locked", "or it has a password", "save it as .xlsx without a password"),
    "parquet": ("runs.parquet", b"PAR1", ".parquet is not read", "save it as .xlsx"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "what", "fix"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_table_of_runs_is_told(kept, capsys, name, content, what, fix):
    Path(name).write_bytes(content)

    add(kept, name, code=2)

    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert what in said
    assert fix in said.splitlines()[2]
    assert kept.runs == []


def test_a_file_that_is_not_there_is_told(kept, capsys):
    add(kept, "runs.csv", code=2)

    assert "error: the file cannot be read: No such file or directory\n  where: runs.csv" in capsys.readouterr().err


def test_without_a_server_the_runs_are_in_the_embedded_store_under_the_projects_name(tmp_path):
    to_csv(tmp_path / "runs.csv", rows(2))
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "wheel"\n')
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PAWL_"))}
    done = subprocess.run(
        [sys.executable, "-m", "scripts.import_runs", "runs.csv"],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": f"{ROOT}/src{os.pathsep}{ROOT}"},
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.stdout == "runs.csv: new runs: 2, known: 0, in experiment wheel of mlflow.db.\nnext: `make ui`\n"
    assert done.stderr == ""
    assert (done.returncode, (tmp_path / "mlflow.db").exists()) == (0, True)
