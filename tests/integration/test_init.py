"""Any table becomes a configuration, with every decision told, and what people wrote is never lost."""

import json
import re
import runpy
import shlex
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pawl import config, paths, schema
from pawl.gate import rules
from scripts import init

ROOT = Path(__file__).parents[2]
TABLES = runpy.run_path(str(ROOT / "tests/tables.py"))["TABLES"]
FILES = ("params.yaml", "schema.yaml", "gates.yaml", "src/task/card.md")
# What must be found in each: keys of params.yaml, and words of the screen.
FOUND = {
    "loans.csv": (
        {"task": "binary", "positive": "default", "threshold.rule": "f_beta", "columns.id": "Loan ID", "columns.time": "opened_at",
         "columns.ignore": ["currency", "remark", "nothing"], "ingest.csv.separator": ";", "ingest.csv.decimal": ",", "ingest.csv.encoding": "cp1252",
         "ingest.csv.trim": True, "prepare.split": "time", "evaluate.slices": ["branch"]},
        ("4,000 rows, 11 columns", "paid 3,744 (93.6%)", "nothing 100.0%", "missing also ?", "postcode: free text"),
    ),
    "visits.csv": (
        {"task": "multiclass", "columns.group": "customerID", "columns.ignore": ['said "yes"', "level (code)"], "prepare.split": "group",
         "prepare.drop_missing": ["level"], "ingest.replace.level": {"??": None, "hoch!": None}},
        ("?? 1 (0.0%)", "a quote, a backslash", "does it hold the answer?", "rows without level"),
    ),
    "orders.parquet": (
        {"task": "regression", "columns.id": "order_no", "columns.time": "ordered_at", "prepare.split": "time", "tune.metric": "mae"},
        ("skewness", "weight 19"),
    ),
    "iris.csv": ({"task": "multiclass", "validate.min_rows": 75, "prepare.split": "random"}, ("the table is small",)),
    "wine.tsv": ({"task": "multiclass", "ingest.csv.separator": "\t"}, ("class_1 71",)),
    "digits.csv.gz": ({"task": "multiclass", "tune.metric": "log_loss"}, ("pixel_0_0, pixel_4_0, pixel_4_7: all cells are the same",)),
    "diabetes.csv": ({"task": "regression"}, ("median 140.5", "r2 ≥ 0")),
    "breast_cancer.csv": ({"task": "binary", "positive": "malignant", "threshold": 0.5}, ("the rarer label",)),
}  # fmt: skip


@pytest.fixture(scope="session")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    for file, (make, _) in TABLES.items():
        make(folder / file)
    return folder


@pytest.fixture
def here(untouched, monkeypatch):
    """A project as it was shipped, in which the test stands."""
    monkeypatch.chdir(untouched.path)
    untouched.call("git", "checkout", "--quiet", ".")
    untouched.call("git", "clean", "--quiet", "-fdx")
    return untouched


@pytest.fixture
def people(monkeypatch):
    """Somebody at a terminal, who answers."""

    def sits(answer):
        asked = []
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda words: asked.append(words) or answer)
        return asked

    return sits


def texts(project):
    return {name: (project.path / name).read_text() for name in FILES}


def value(params, key):
    for part in key.split("."):
        params = params[part]
    return params


@pytest.mark.parametrize("file", TABLES)
def test_a_table_becomes_a_configuration_that_the_pipeline_takes_and_one_screen(file, tables, here, capsys):
    found, words = FOUND[file]

    assert init.main(["--data", str(tables / file), "--target", TABLES[file][1], "--yes"]) == 0

    params = yaml.safe_load(Path("params.yaml").read_text())
    assert {key: value(params, key) for key in found} == found
    config.load(paths.PARAMS), schema.load(paths.SCHEMA), rules.load(paths.GATES)
    screen = capsys.readouterr().out
    assert not [word for word in words if word not in " ".join(screen.split())]
    assert max(map(len, screen.splitlines())) <= 100
    assert len(screen.splitlines()) <= 36
    assert "sample" not in Path("src/task/card.md").read_text()


def test_a_pattern_a_folder_and_a_path_from_the_root_are_sources(tables, here, capsys):
    Path("tables/inner").mkdir(parents=True)
    for name in ("a", "b"):
        Path(f"tables/inner/{name}.csv").write_bytes((tables / "iris.csv").read_bytes())

    for data, source in (("tables/inner", "tables/inner"), ("tables/inner/*.csv", "tables/inner/*.csv"), (str(Path("tables/inner").absolute()), "tables/inner")):  # fmt: skip
        assert init.main(["--data", data, "--target", "target", "--yes"]) == 0

        assert "300 rows" in capsys.readouterr().out
        assert config.load(paths.PARAMS).ingest.source == source


@pytest.mark.parametrize(("answer", "code"), [("", 0), ("y", 0), ("n", 1), ("what?", 1)])
def test_it_asks_and_takes_the_sample_s_place_at_once(answer, code, tables, here, people, capsys):
    before, asked = texts(here), people(answer)

    assert init.main(["--data", str(tables / "iris.csv"), "--target", "target"]) == code

    assert asked == ["Write them? [Y/n] "]
    assert (texts(here) == before) == (code == 1)


@pytest.mark.parametrize("committed", [False, True])
def test_edits_are_replaced_only_by_a_yes_are_named_and_come_back(committed, tables, here, people, capsys):
    words = ["--data", str(tables / "iris.csv"), "--target", "target"]
    if committed:
        init.main([*words, "--yes"])
    with Path("gates.yaml").open("a") as file:
        file.write("# mine\n")
    if committed:
        here.commit("mine")
    before, asked = texts(here), people("")

    assert init.main(words) == 1
    assert asked == ["Write them? [y/N] "]
    assert texts(here) == before
    people("y")
    assert init.main(words) == 0

    said = capsys.readouterr().out
    state = "yours, as committed" if committed else "with changes that are not committed"
    assert f"gates.yaml ({state})" in " ".join(said.split())
    assert "# mine" not in Path("gates.yaml").read_text()
    subprocess.run(shlex.split(re.findall(r"`(cp -R [^`]+)`", said)[-1]), check=True)
    assert texts(here) == before
    if committed:
        here.call("git", "reset", "--quiet", "--hard", "HEAD~1")


def test_without_a_terminal_it_writes_after_a_yes_alone(tables, here, capsys):
    before = texts(here)

    assert init.main(["--data", str(tables / "iris.csv"), "--target", "target"]) == 2

    assert "fix: add YES=1, or --yes" in capsys.readouterr().err
    assert texts(here) == before


CSV = "age,city,bought\n" + "".join(f"{20 + row},{'ab'[row % 2]},{('yes', 'no')[row % 2]}\n" for row in range(60))
ODD = {
    "no file": ({}, "a.csv", "bought", "a.csv does not exist", "relative to"),
    "an empty folder": ({"folder/": b""}, "folder", "bought", "folder is an empty folder", "name a file"),
    "an empty file": ({"a.csv": b""}, "a.csv", "bought", "a.csv is empty", "check the file"),
    "a header alone": ({"a.csv": b"age,bought\n"}, "a.csv", "bought", "a.csv holds 0 rows", "check the file"),
    "a workbook": ({"a.xlsx": b"PK\x03\x04..."}, "a.xlsx", "bought", "a.xlsx is an Excel workbook", "save its sheet as CSV"),
    "an old workbook named CSV": ({"a.csv": b"\xd0\xcf\x11\xe0.."}, "a.csv", "bought", "a.csv is an Excel workbook", "save its sheet as CSV"),
    "JSON": ({"a.json": b'[{"age": 1}]'}, "a.json", "bought", "a.json is JSON", "bring CSV or Parquet"),
    "a page that asks for a password": ({"a.csv": b"<!doctype html><p>log in"}, "a.csv", "bought", "a.csv is a web page", "bring CSV or Parquet"),
    "a picture": ({"a.csv": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"}, "a.csv", "bought", "holds a NUL byte", "it is no text"),
    "a parquet file that broke off": ({"a.parquet": b"PAR1...."}, "a.parquet", "bought", "not a complete parquet file", "fetch or write it again"),
    "a target that is not there": ({"a.csv": CSV.encode()}, "a.csv", "bougth", "TARGET=bougth is not a known name", "did you mean bought?"),
    "rows that broke off": ({"a.csv": CSV.encode() + b"7,x\n"}, "a.csv", "bought", "1 rows of a.csv do not have 3 columns", "repair the rows"),
    "a name of the pipeline": ({"a.csv": CSV.replace("age", "row_id", 1).encode()}, "a.csv", "bought", "a column is called row_id", "rename it"),
    "no name": ({"a.csv": b"," + CSV.encode()}, "a.csv", "bought", "column 1 has no name", "pandas' index: write the file with index=False; or correct the header"),
    "one value": ({"a.csv": CSV.replace("yes", "no").encode()}, "a.csv", "bought", "bought is no in all 60 rows", "name another TARGET"),
    "nothing named": ({"a.csv": CSV.encode()}, "a.csv", "", "TARGET is empty", "make init DATA="),
}  # fmt: skip


@pytest.mark.parametrize(("files", "data", "target", "what", "fix"), ODD.values(), ids=ODD)
def test_what_is_no_table_is_refused_with_what_where_and_how_to_fix_it(files, data, target, what, fix, here, capsys):
    before = texts(here)
    for name, content in files.items():
        Path(name).mkdir() if name.endswith("/") else Path(name).write_bytes(content)

    assert init.main(["--data", data, "--target", target, "--yes"]) == 2

    told = capsys.readouterr().err
    assert what in told
    assert fix in told.partition("fix: ")[2]
    assert "params.yaml: ingest.source" not in told
    assert texts(here) == before


def test_lists_in_a_parquet_file_are_refused_by_column(here, capsys):
    pq.write_table(pa.table({"tags": [["a"], ["b"]], "y": [1, 2]}), "a.parquet")

    assert init.main(["--data", "a.parquet", "--target", "y", "--yes"]) == 2

    assert "error: tags holds lists or records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options"),
    [
        pytest.param(CSV, {}, id="commas"),
        pytest.param(CSV.replace(",", ";"), {"separator": ";"}, id="semicolons"),
        pytest.param(CSV.replace(",", "|"), {"separator": "|"}, id="bars"),
        pytest.param(CSV.replace("city", '"city; town"'), {}, id="a semicolon in a name"),
        pytest.param(CSV.encode("utf-16"), {"encoding": "utf-16"}, id="UTF-16"),
        pytest.param(CSV.replace("city", "größe").encode("latin-1"), {"encoding": "cp1252"}, id="one byte per letter"),
        pytest.param(CSV.replace("20,a", "20,ä").encode(), {}, id="UTF-8"),
        pytest.param(CSV.replace("21,b", "  ,b"), {"trim": True}, id="blanks for a number"),
        pytest.param(CSV.replace("21,b", "?,b"), {"missing": "?"}, id="question marks"),
        pytest.param(CSV.replace("21,b", "-,b").replace("22,", "n/a,"), {"missing": "-"}, id="dashes among numbers"),
        pytest.param(CSV.replace(",a,", ",-,"), {}, id="dashes among texts"),
        pytest.param(re.sub(r"^(\d+),", r"\1,5;", CSV.replace(",", ";").replace(";", ",", 0), flags=re.MULTILINE), {"separator": ";"}, id="semicolons again"),
        pytest.param(re.sub(r"(?m)^(\d+);", r"\1,5;", CSV.replace(",", ";")), {"separator": ";", "decimal": ","}, id="decimal commas"),
        pytest.param(re.sub(r"(?m)^(\d+);", r"\1,5;", CSV.replace(",", ";")).replace("21,5;", "n/a;"), {"separator": ";", "decimal": ",", "missing": "n/a"}, id="decimal commas and a mark"),
        pytest.param(re.sub(r"(?m)^(\d+);", r"\1,500;", CSV.replace(",", ";")), {"separator": ";"}, id="thousands"),
    ],
)  # fmt: skip
def test_how_a_file_is_written_is_found(content, options, here):
    Path("a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())

    read = init.look("a.csv").ingest.csv

    usual = config.Csv()
    found = {name: getattr(read, name) for name in usual.__struct_fields__ if getattr(read, name) != getattr(usual, name)}  # fmt: skip
    if "missing" in options:
        found["missing"] = found["missing"][len(usual.missing)]
    assert found == options


@pytest.mark.parametrize(
    ("cells", "odd"),
    [
        pytest.param([*map(str, range(200)), "x"], ("x",), id="one of many"),
        pytest.param([*map(str, range(30)), "none given", "none given"], ("none given",), id="no digit, a tenth"),
        pytest.param([*map(str, range(30)), "30+", "30+"], (), id="a digit"),
        pytest.param([*"0123", "more"] * 20, (), id="few numbers"),
        pytest.param([*map(str, range(30)), *"abcdef"], (), id="many others"),
        pytest.param([*map(str, range(30)), *["other"] * 30], (), id="a half"),
    ],
)
def test_few_cells_among_numbers_are_mistakes_and_a_kind_of_its_own_is_not(cells, odd):
    assert init.odd_of(pa.array(cells)) == odd


def test_an_address_is_a_source_and_one_without_a_file_is_told(here, tables, capsys):
    import http.server
    import threading

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: Quiet(*given, directory=str(tables)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        assert init.main(["--data", urllib.parse.urljoin(address, "wine.tsv"), "--target", "target", "--yes"]) == 0
        assert config.load(paths.PARAMS).ingest.source == f"{address}wine.tsv"
        assert init.main(["--data", f"{address}beer.tsv", "--target", "target", "--yes"]) == 2
    finally:
        server.shutdown()
        server.server_close()

    told = capsys.readouterr().err
    assert f"error: {address}beer.tsv does not exist\n  where: DATA={address}beer.tsv" in told


def run_whole(project, file, target, timeout=600):
    """`make init`, `make run`, as people do, with no edit; return what was said."""
    words = {"PYTHON": sys.executable}
    said = project.call("make", "init", f"DATA={file}", f"TARGET={target}", "YES=1", **words).stdout
    return said + project.call("make", "run", **words).stdout


def test_make_init_and_make_run_go_through_with_no_edit(fresh):
    """Groups, booleans, names in every script, rows twice, rare labels, missing targets: see tests/tables.py."""
    TABLES["visits.csv"][0](fresh.path / "visits.csv", people=150)

    said = run_whole(fresh, "visits.csv", "level")

    assert "gates pass" in said
    assert "pawl version 1 is in mlflow.db (new; candidate)" in said
    assert "The service answers every golden row as it was evaluated" in said
    splits = json.loads((fresh.path / "reports/splits.json").read_text())
    assert splits["dropped"]["level missing"] > 0


@pytest.mark.e2e
@pytest.mark.parametrize("file", TABLES)
def test_every_table_goes_through_with_no_edit_and_is_served(file, fresh):
    make, target = TABLES[file]
    make(fresh.path / file)

    said = run_whole(fresh, file, target)

    assert "gates pass" in said
    assert "(new; candidate)" in said
    assert "The service answers every golden row as it was evaluated" in said
    asked = fresh.call(sys.executable, "-c", ASK).stdout
    assert json.loads(asked)["predictions"]


ASK = """
import json, mlflow
from pathlib import Path
from pawl import bundle, frames
loaded = bundle.load(Path("models/bundle"))
frame = frames.from_records(loaded.golden["records"][:3], loaded.dtypes)
answer = mlflow.pyfunc.load_model(str(next(Path("mlartifacts").rglob("MLmodel")).parent)).predict(frame)
print(json.dumps({"predictions": answer["predictions"].tolist()}))
"""
