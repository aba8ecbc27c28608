import bz2
import contextlib
import gzip
import http.server
import json
import sqlite3
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pawl import config, paths, source
from pawl.config import Columns, Csv, Ingest, Sql, Task
from pawl.pipeline import ingest
from pawl.problem import Problem, Unreachable
from pawl.schema import Column, Schema, load

ROOT = Path(__file__).parents[2]
TASK = Task(task="binary", target="b", positive="x", threshold=0.5, columns=Columns())
PLAIN = {"a": ["1", "2"], "b": ["x", "y"]}


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PAWL_SQL_URL", raising=False)


def write(name, content):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)


def parquet(name, **columns):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), name)


def read(given="data.csv", **options):
    """Return the source's cells, {column: [cell, ...]}."""
    found = source.batches(Ingest(source=given, csv=Csv(**options)))
    return pa.Table.from_batches([batch for _, batch in found]).to_pydict()


def ingested(given, **dtypes):
    """Return raw.parquet as a table, made with a schema of these dtypes."""
    ingest.run(TASK, given, Schema(columns={name: Column(dtype=dtype) for name, dtype in dtypes.items()}))
    return pq.read_table(paths.RAW)


def digest(**given):
    return source.fingerprint(Ingest(**given))["digest"]


# Text files


@pytest.mark.parametrize(
    ("content", "options", "cells"),
    [
        pytest.param("a,b\n1,x\n2,y\n", {}, PLAIN, id="commas"),
        pytest.param("a;b\n1;x\n2;y\n", {"separator": ";"}, PLAIN, id="semicolons"),
        pytest.param("a\tb\n1\tx\n2\ty\n", {"separator": "\t"}, PLAIN, id="tabs"),
        pytest.param("1,x\n2,y\n", {"names": ("a", "b")}, PLAIN, id="no header"),
        pytest.param("a,b\n1,x\n2,y", {}, PLAIN, id="no newline at the end"),
        pytest.param("\n\na,b\n1,x\n\n2,y\n", {}, PLAIN, id="blank lines"),
        pytest.param("a,b\r\n1,x\r\n2,y\r\n", {}, PLAIN, id="CRLF"),
        pytest.param("a , b\n 1 ,x\n2,  y\n", {"trim": True}, PLAIN, id="trim"),
        pytest.param("# by\na,b\n1,x\n# mid\n2,y\n", {"comment": "#"}, PLAIN, id="comments, the first line too"),
        pytest.param(b"\xef\xbb\xbf# by\na,b\n1,x\n2,y\n", {"comment": "#"}, PLAIN, id="comment after a BOM"),
        pytest.param(b'\xef\xbb\xbf"a",b\n1,x\n2,y\n', {}, PLAIN, id="UTF-8 with BOM"),
        pytest.param('"a\nc",b\n1,2\n', {}, {"a\nc": ["1"], "b": ["2"]}, id="newline in the header"),
        pytest.param('a,b\n1,"x\ny, ""z"""\n', {}, {"a": ["1"], "b": ['x\ny, "z"']}, id="newline in quotes"),
        pytest.param('a,b\n1,"x\n#y"\n', {"comment": "#"}, {"a": ["1"], "b": ["x\n#y"]}, id="no comment in quotes"),
        pytest.param(
            "a;b\n1,5;1,5 m\n-,25;1,234,5\n",
            {"separator": ";", "decimal": ","},
            {"a": ["1.5", "-.25"], "b": ["1,5 m", "1,234,5"]},
            id="decimal commas",
        ),
        pytest.param('a,b\n1,"x\n2,y"\n', {"quote": ""}, {"a": ["1", "2"], "b": ['"x', 'y"']}, id="no quotes"),
        pytest.param("a,b\n,NA\nnull,?\n", {}, {"a": [None, None], "b": [None, "?"]}, id="missing"),
        pytest.param("a,b\n,NA\nx,?\n", {"missing": ("?",)}, {"a": ["", "x"], "b": ["NA", None]}, id="own missing"),
        pytest.param("a,b\n?,NA\n", {"missing": ()}, {"a": ["?"], "b": ["NA"]}, id="nothing is missing"),
        pytest.param("a,b\n1, ? \n", {"missing": ("?",), "trim": True}, {"a": ["1"], "b": [None]}, id="trim, missing"),
        pytest.param(b"a,b\n1,Zo\xeb\n", {"encoding": "latin-1"}, {"a": ["1"], "b": ["Zoë"]}, id="latin-1"),
        pytest.param(
            "a,b\n1,ë\n".encode("utf-16"), {"encoding": "utf-16"}, {"a": ["1"], "b": ["ë"]}, id="UTF-16 with BOM"
        ),
        pytest.param(
            "a,b\n1,ë\n".encode("utf-16-le"), {"encoding": "utf-16-le"}, {"a": ["1"], "b": ["ë"]}, id="UTF-16LE"
        ),
    ],
)
def test_a_text_file_gives_the_cells_that_its_author_meant(content, options, cells):
    write("data.csv", content)

    assert read(**options) == cells


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        pytest.param(b"a,b\n1,x\n2,Zo\xeb\n", {}, ["0xeb", "line 3", "latin-1"], id="latin-1, undeclared"),
        pytest.param(b"a,b\n" + b"1,x\n" * 600_000 + b"2,\xeb\n", {}, ["line 600002"], id="latin-1, far down"),
        pytest.param("a,b\n1,x\n".encode("utf-16"), {}, ["UTF-16", "encoding: utf-16"], id="UTF-16, undeclared"),
        pytest.param("a,b\n1,x\n", {"encoding": "utf-16"}, ["is not utf-16"], id="declared, not UTF-16"),
        pytest.param("a,b\n1,x\n", {"encoding": "klingon"}, ["klingon"], id="no such encoding"),
        pytest.param("a,b\n1,x\0\n", {}, ["NUL", "line 2"], id="NUL"),
        pytest.param("a,b\n1,x\n2\n3,y,z\n", {}, ["2 rows", "row 3 has 1", "row 4 has 3"], id="ragged"),
        pytest.param('a,b\n1,"x\n2,y\n', {}, ["quote", "not closed"], id="unclosed quote"),
        pytest.param('a,b\n1,"x\n2,"y"\n3,z\n', {}, ["quote", "not closed"], id="unclosed quote, closed by another"),
        pytest.param('a,"b\n1,2\n', {}, ["quote", "not closed"], id="unclosed quote in the header"),
        pytest.param("a,b,a\n1,2,3\n", {}, ["'a' more than once"], id="duplicated header"),
        pytest.param("1,2\n", {"names": ("a", "a")}, ["'a' more than once"], id="duplicated names"),
        pytest.param("a,,b\n1,2,3\n", {}, ["column 2 has no name"], id="nameless column"),
        pytest.param("a;b\n1;2\n", {}, ["one column", 'separator: ";"'], id="wrong separator"),
        pytest.param("", {}, ["is empty"], id="empty"),
        pytest.param("# nothing\n", {"comment": "#"}, ["is empty"], id="comments only"),
        pytest.param("a,b\n", {}, ["0 rows"], id="header only"),
        pytest.param("a,b", {}, ["0 rows"], id="header only, no newline"),
    ],
)
def test_a_text_file_that_cannot_be_read_is_refused_with_what_and_where(content, options, told):
    write("data.csv", content)

    with pytest.raises(Problem) as raised:
        read(**options)

    assert raised.value.code == 2
    assert all(word in str(raised.value) for word in told)


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_a_compressed_file_is_read_by_its_suffix(suffix, pack):
    write(f"data.csv.{suffix}", pack(b"a,b\n1,x\n2,y\n"))

    assert read(f"data.csv.{suffix}") == PLAIN


@pytest.mark.parametrize("content", [gzip.compress(b"a,b\n1,x\n" * 999)[:-9], b"a,b\n1,x\n"], ids=["cut", "not gzip"])
def test_a_compressed_file_that_is_broken_is_refused(content):
    write("data.csv.gz", content)

    with pytest.raises(Problem, match=r"data\.csv\.gz cannot be unpacked"):
        read("data.csv.gz")


@pytest.mark.parametrize("first", ["|1x3 Cross validator\n", ""], ids=["with UCI's first line", "without"])
def test_adult_loses_no_row(first, tmp_path, monkeypatch):
    cells = "Private, 226802, 11th, 7, Never-married, Machine-op-inspct, Own-child, Black, Male, 0, 0, 40, ?"
    rows = [f"{age}, {cells}, {'>' if age % 2 else '<='}50K" for age in range(20, 70)]
    write("uci/adult.data", "".join(f"{row}\n" for row in rows) + "\n")
    write("uci/adult.test", first + "".join(f"{row}.\n" for row in rows) + "\n")
    monkeypatch.setenv("ADULT", str(tmp_path / "uci"))
    example = ROOT / "examples/adult"
    params = config.load(example / "params.yaml")

    ingest.run(params.problem, params.ingest, load(example / "schema.yaml"))

    table = pq.read_table(paths.RAW)
    assert table["split"].to_pylist() == ["train"] * 50 + ["test"] * 50
    assert table["age"].to_pylist() == [*range(20, 70)] * 2
    assert set(table["income"].to_pylist()) == {"<=50K", ">50K"}
    assert table["native_country"].null_count == 100


# Which files


@pytest.mark.parametrize(
    "given",
    [
        "parts",
        "parts/",
        "parts/*",
        "parts/*.parquet",
        "par*/*.parquet",
        ("parts/a.parquet", "parts/b.parquet"),
        "${PARTS}",
        "$PARTS/*",
    ],
)
def test_a_source_is_a_file_several_a_folder_or_a_pattern(given, monkeypatch):
    parquet("parts/a.parquet", a=[1])
    parquet("parts/b.parquet", a=[2])
    for beside in (".gitignore", "_SUCCESS", "a.parquet.dvc", ".ipynb_checkpoints/a.parquet"):
        write(f"parts/{beside}", "not data")
    monkeypatch.setenv("PARTS", "parts")

    assert read(given) == {"a": [1, 2]}


@pytest.mark.parametrize("given", ["parts", "parts/*", "parts/a.parquet"])
def test_one_parquet_file_is_parquet_however_it_is_named(given):
    parquet("parts/a.parquet", a=[1])

    assert read(given) == {"a": [1]}


def test_a_source_per_split_marks_its_rows():
    write("a.csv", "a,b\n1,x\n2,y\n")
    write("b.csv", "b,a\nz,3\n")

    table = ingested(Ingest(source={"train": "a.csv", "test": ("b.csv",)}), a="integer", b="category")

    assert table["split"].to_pylist() == ["train", "train", "test"]
    assert table["a"].to_pylist() == [1, 2, 3]


def test_files_of_different_columns_are_refused():
    write("a.csv", "a,b\n1,x\n")
    write("b.csv", "a,c\n1,x\n")

    with pytest.raises(Problem, match="different columns: b, c"):
        ingested(Ingest(source=("a.csv", "b.csv")))


def test_a_truncated_parquet_file_is_refused_with_its_size():
    parquet("a.parquet", a=list(range(1000)))
    write("cut.parquet", Path("a.parquet").read_bytes()[:-100])

    with pytest.raises(Problem, match=r"cut.parquet is not a complete parquet file \(\d+ bytes\)"):
        read("cut.parquet")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        pytest.param("gone.csv", "correct the path", id="missing"),
        pytest.param("gone/*.csv", "correct the path", id="no match"),
        pytest.param("kept.csv", "dvc pull", id="a file that dvc keeps"),
        pytest.param("folder", "dvc pull", id="a folder that dvc keeps"),
        pytest.param("folder/a.csv", "dvc pull", id="a file in it"),
        pytest.param("${NOWHERE}/a.csv", "environment variable NOWHERE is not set", id="unset variable"),
        pytest.param("abc://x/a.csv", "cannot be opened", id="unknown storage"),
    ],
)
def test_a_source_that_is_not_there_is_told_with_the_way_to_it(given, told, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    write("kept.csv.dvc", "")
    write("folder.dvc", "")

    with pytest.raises(Problem) as raised:
        read(given)

    assert told in str(raised.value)


# Types and identity


def test_a_cell_without_its_type_is_null_and_its_row_is_noted():
    write("a.csv", "a,b\n40.0,x\n,y\n4x,z\n")
    write("b.csv", "a,b\n41,x\n4.5,y\n")

    table = ingested(Ingest(source=("a.csv", "b.csv")), a="integer", b="category")

    assert table["a"].to_pylist() == [40, None, None, 41, None]
    noted = pq.read_metadata(paths.RAW).metadata
    assert json.loads(noted[b"untyped"]) == {"a": {"count": 2, "rows": [3, 5]}}
    assert json.loads(noted[b"given_split"]) is False


def test_a_value_may_be_replaced_by_nothing():
    write("data.csv", "a,b\n1,x\n-9,y\n")

    table = ingested(Ingest(source="data.csv", replace={"a": {"-9": None}}), a="integer", b="category")

    assert table["a"].to_pylist() == [1, None]


def test_a_pinned_digest_is_held():
    write("data.csv", "a,b\n1,x\n")
    pinned = digest(source="data.csv")

    assert digest(source="data.csv", digest=pinned) == pinned

    write("data.csv", "a,b\n2,x\n")
    with pytest.raises(Problem, match="pins " + pinned):
        digest(source="data.csv", digest=pinned)


def test_one_changed_cell_changes_the_fingerprint_and_a_new_name_does_not():
    write("data.csv", "a,b\n1,x\n2,y\n")
    write("copy.csv", "a,b\n1,x\n2,y\n")
    write("other.csv", "a,b\n1,x\n2,z\n")

    digests = [digest(source=name) for name in ("data.csv", "copy.csv", "other.csv")]

    assert digests[0] == digests[1] != digests[2]


# https://


class Site(http.server.BaseHTTPRequestHandler):
    """One file, and the ways in which it can fail; the server holds what it answers and what it was asked."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        if self.answer():
            self.server.sent += 1
            self.wfile.write(self.server.body[: -3 if self.server.cut else None])

    def answer(self):
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.server.body) if status == 200 else 0))
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.end_headers()
        return status == 200

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        server.body, server.etag, server.statuses, server.cut, server.sent = b"a,b\n1,x\n2,y\n", '"1"', [], False, 0
        server.url = f"http://127.0.0.1:{server.server_port}/data.csv?signature=secret"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch):
    noted = []
    monkeypatch.setattr("time.sleep", noted.append)
    return noted


def downloads():
    return sorted(path.name for path in paths.DOWNLOADS.glob("*"))


def test_a_file_with_an_etag_is_fetched_once_until_it_changes(site):
    first = digest(source=site.url), read(site.url), site.sent

    site.body, site.etag = b"a,b\n3,z\n", '"2"'
    second = digest(source=site.url), read(site.url), site.sent

    assert first[1:] == (PLAIN, 1)
    assert second[1:] == ({"a": ["3"], "b": ["z"]}, 2)
    assert first[0] != second[0]


def test_a_file_without_an_etag_is_fetched_each_time_and_kept_once(site):
    site.etag = None

    assert read(site.url) == PLAIN
    site.body = b"a,b\n3,z\n"
    assert read(site.url) == {"a": ["3"], "b": ["z"]}

    assert len(downloads()) == 1


def test_the_fingerprint_holds_no_signature(site):
    assert "secret" not in json.dumps(source.fingerprint(Ingest(source=site.url)))


def test_two_failures_of_the_server_are_lived_through(site, pauses):
    site.statuses = [500] * 4  # HEAD and GET, twice

    assert read(site.url) == PLAIN
    assert pauses == [0.5, 1.0]


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        pytest.param(404, Problem, "does not exist", id="not there"),
        pytest.param(403, Problem, "was refused", id="forbidden"),
        pytest.param(503, Unreachable, "HTTP 503", id="out of order"),
    ],
)
def test_what_the_server_says_is_told(status, kind, told, site, pauses):
    site.statuses = [status] * 9

    with pytest.raises(Problem, match=told) as raised:
        read(site.url)

    assert type(raised.value) is kind
    assert "secret" not in str(raised.value)


def test_a_body_that_breaks_off_is_unreachable_and_leaves_nothing(site, pauses):
    site.cut = True

    with pytest.raises(Unreachable) as raised:
        read(site.url)

    assert raised.value.code == 3
    assert downloads() == []


def test_a_refused_connection_is_told_in_seconds_without_secrets():
    started = time.monotonic()

    with pytest.raises(Unreachable) as raised:
        read("http://me:password@127.0.0.1:1/data.csv?signature=secret")

    assert time.monotonic() - started < 10
    assert "http://127.0.0.1:1/data.csv" in str(raised.value)
    assert not {"secret", "password"} & set(str(raised.value).replace("=", " ").replace(":", " ").split())


# sql


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setenv("PAWL_SQL_URL", "sqlite:///data.db")

    def execute(*statements):
        with contextlib.closing(sqlite3.connect(tmp_path / "data.db")) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    execute(
        "CREATE TABLE rows (day TEXT, price NUMERIC, note TEXT)",
        "INSERT INTO rows VALUES ('2024-01-01', 1.5, NULL), ('2024-02-01', 10, 'x'), ('2024-03-01', NULL, 'y')",
    )
    write("query.sql", "SELECT * FROM rows ORDER BY day")
    return execute


def test_a_query_gives_its_rows_with_decimals_and_nulls(database):
    table = ingested(Ingest(source="sql"), day="datetime", price="number", note="category")

    assert table["price"].to_pylist() == [1.5, 10.0, None]
    assert table["note"].to_pylist() == [None, "x", "y"]
    assert str(table["day"][1]) == "2024-02-01 00:00:00"


def test_the_order_of_rows_does_not_change_a_query_digest(database):
    before = digest(source="sql")

    write("query.sql", "SELECT note, price, day FROM rows ORDER BY day DESC")

    assert digest(source="sql") == before


def test_a_changed_cell_changes_a_query_digest(database):
    before = digest(source="sql")

    database("UPDATE rows SET price = 11 WHERE note = 'x'")

    assert digest(source="sql") != before
    assert len(downloads()) == 1


def test_a_window_bounds_a_query(database):
    write("query.sql", "SELECT day FROM rows WHERE day >= :since AND day < :until")

    found = source.batches(Ingest(source="sql", sql=Sql(days=31, until="2024-03-01")))

    assert [batch.to_pydict() for _, batch in found] == [{"day": ["2024-02-01"]}]


def test_a_version_query_spares_the_query_until_its_result_changes(database):
    write("version.sql", "SELECT count(*) FROM rows")
    given = {"source": "sql", "sql": Sql(version="version.sql")}
    before = digest(**given)

    database("UPDATE rows SET price = 11 WHERE note = 'x'")
    unseen = digest(**given)
    database("INSERT INTO rows VALUES ('2024-04-01', 1, 'z')")
    seen = digest(**given)

    assert before == unseen != seen


@pytest.mark.parametrize(
    ("query", "sql", "told"),
    [
        pytest.param("SELEC 1", {}, "the query failed: .*syntax error", id="syntax"),
        pytest.param("SELECT * FROM nowhere", {}, "the query failed: .*no such table", id="no table"),
        pytest.param("SELECT :since AS day", {}, "the query failed: .*'since'", id="no window"),
        pytest.param("SELECT * FROM rows WHERE price > 99", {}, "returned 0 rows", id="0 rows"),
        pytest.param("SELECT a.day, b.day FROM rows a JOIN rows b", {}, "'day' more than once", id="same names"),
        pytest.param("SELECT 1", {"until": "2024-13-01"}, "not a window: month", id="no date"),
        pytest.param("SELECT 1", {"query": "gone.sql"}, "gone.sql does not exist", id="no file"),
        pytest.param("SELECT 1", {"version": "gone.sql"}, "gone.sql does not exist", id="no version file"),
    ],
)
def test_a_query_that_cannot_be_used_is_refused(query, sql, told, database):
    write("query.sql", query)

    with pytest.raises(Problem, match=told) as raised:
        digest(source="sql", sql=Sql(**sql))

    assert raised.value.code == 2
    assert downloads() == []


@pytest.mark.parametrize(
    ("url", "code", "told"),
    [
        pytest.param("", 2, "PAWL_SQL_URL is not set", id="unset"),
        pytest.param("nothing", 2, "PAWL_SQL_URL cannot be used", id="no address"),
        pytest.param("sqlite:////nowhere/data.db", 3, "did not answer", id="no database"),
    ],
)
def test_a_database_that_cannot_be_reached_is_told(url, code, told, database, monkeypatch):
    monkeypatch.setenv("PAWL_SQL_URL", url)

    with pytest.raises(Problem, match=told) as raised:
        digest(source="sql")

    assert raised.value.code == code
