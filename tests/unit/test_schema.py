from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from pawl import schema
from pawl.config import Section
from pawl.pipeline import ingest
from pawl.problem import Problem
from scripts import schema as command

ROOT = Path(__file__).parents[2]
PARAMS = """
task: binary
target: y
positive: 1
threshold: 0.5
columns: {id: key, time: month}
ingest: {source: data.csv}
validate: {}
prepare: {}
featurize: {}
train: {}
evaluate: {}
"""
# What 250 rows of each column hold, and what is inferred from it.
INFERRED = {
    "key": ([f"k{number}" for number in range(250)], {"dtype": "text"}),
    "month": (["2025-01", "2025-02"] * 125, {"dtype": "text"}),  # new ones come every month
    "count": ([None if number < 60 else number % 7 for number in range(250)], {"dtype": "integer", "missing": 0.5, "min": 0, "scale": 3.01}),
    "balance": ([number - 125.5 for number in range(250)], {"dtype": "number", "scale": 62.5}),
    "member": (["true", "False"] * 125, {"dtype": "boolean"}),
    "day": ([f"2025-01-{number % 28 + 1:02d}" for number in range(250)], {"dtype": "datetime"}),
    "at": ([f"2025-01-02T03:04:{number % 60:02d}" for number in range(250)], {"dtype": "datetime"}),
    "colour": (["red", "green", "no", "blue", None] * 50, {"dtype": "category", "missing": 0.25, "values": ["blue", "green", "no", "red"]}),
    "note": ([f"free text {number}" for number in range(250)], {"dtype": "text"}),
    "blanks": ([[" 7", "8 ", "+9", "1e3"][number % 4] for number in range(250)], {"dtype": "integer", "min": 0, "scale": 254.0}),
    "nothing": ([None] * 250, {"dtype": "category", "missing": 1.0}),
    "y": ([0, 1] * 125, {"dtype": "category", "values": ["0", "1"]}),
}  # fmt: skip

CELLS = ["7", " 7", "7 ", "+7", "-0", "007", "1e3", "7.0", "7.", "12345678901234567890", "\u0667", "1_000", "0x10", "-"]
CELLS += [
    "0.5",
    ".5",
    " 0.5",
    "+1.5",
    "1E-3",
    "1e400",
    "inf",
    "TRUE",
    "True",
    "false",
    " true",
    "2025-01-02",
    " 2025-01-02",
]
CELLS += ["2025-01-02 03:04", "2025-01-02T03:04:05Z", "2025-01-02T03:04+0100", "2025-01-02 03:04:05.1234567"]
CELLS += [
    "2025-01-02T03:04:05.12-09:30",
    "2025-13-45",
    "2025-01-02Z",
    "2025-01-02T03:04Z",
    "2025-02-29",
    "2024-01-01 24:00",
]


def written(columns):
    """Write data.csv and params.yaml into the working directory."""
    cells = [[f'"{name}"' for name in columns]]
    cells += [["" if cell is None else str(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
    Path("data.csv").write_text("\n".join(map(",".join, cells)) + "\n")
    Path("params.yaml").write_text(PARAMS)


def inferred(*args):
    """Run the command and return what schema.yaml then says."""
    assert command.main(list(args)) == 0
    return yaml.safe_load(Path("schema.yaml").read_text())["columns"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def table():
    columns = {name: cells for name, (cells, _) in INFERRED.items()}
    written(columns)
    return columns


@pytest.mark.parametrize(
    ("values", "dtype"), [([True, None], "boolean"), ([datetime(2025, 1, 2, 3, 4, tzinfo=UTC), None], "datetime"), ([date(2025, 1, 2)], "datetime")]
)  # fmt: skip
def test_a_type_that_a_file_gave_is_kept(values, dtype):
    seen = command.Seen()
    seen.add(pa.array(values))

    assert seen.rules(label=False, role=False)["dtype"] == dtype


def test_rules_are_inferred_from_the_whole_table(table):
    found = inferred()

    assert found == {name: rules for name, (_, rules) in INFERRED.items()}
    assert list(schema.load(Path("schema.yaml")).columns) == list(INFERRED)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_has_the_type_that_was_inferred_from_it(cell):
    seen = command.Seen()
    seen.add(pa.array([cell]))
    dtype = seen.rules(label=False, role=False)["dtype"]

    _, bad = ingest.cast(pa.array([cell]), schema.arrow_types({"x": dtype})["x"])

    assert not len(bad), f"inferred as {dtype}, and refused as one"


def test_what_people_wrote_stays_through_a_second_run(table):
    inferred()
    path = Path("schema.yaml")
    text = path.read_text().replace("  count: {", "  # counted by hand\n  count: {max: 9, ")
    text = text.replace("dtype: boolean}", "dtype: boolean}  # says the customer")
    path.write_text("# Mine: see the columns: below\n" + text)
    table["more"] = [7] * 250
    written(table)

    found = inferred()

    assert (
        path.read_text() == "# Mine: see the columns: below\n" + text + "  more: {dtype: integer, min: 0, scale: 7.0}\n"
    )
    assert found["count"]["max"] == 9
    schema.load(path)


def test_force_infers_again(table):
    expected = inferred()
    path = Path("schema.yaml")
    path.write_text(path.read_text().replace("  count: {", "  count: {max: 9, "))

    assert inferred("--force") == expected


def test_a_column_that_is_gone_goes_and_is_named(table, capsys):
    inferred()
    path = Path("schema.yaml")
    path.write_text(
        path.read_text().replace("  note:", "  # on notes\n  note:").replace("  blanks:", "  # on blanks\n  blanks:")
    )
    del table["note"]
    written(table)
    capsys.readouterr()

    assert list(inferred()) == list(table)
    assert "removed: note; kept as they were: 11" in capsys.readouterr().out
    assert "# on notes" not in path.read_text()
    assert "  # on blanks\n  blanks:" in path.read_text()


def test_a_file_without_a_last_line_end_is_extended_in_a_line_of_its_own(table):
    inferred()
    path = Path("schema.yaml")
    path.write_text(path.read_text().removesuffix("\n"))
    table["more"] = [7] * 250
    written(table)

    assert list(inferred()) == list(table)


@pytest.mark.parametrize(
    "name", ["on", "null", "1", "007", "2025-01-02", "a: b", "# a", "question " * 20 + "?", "żółw", "*"]
)
def test_a_column_may_be_called_anything(name):
    written({name: [1, 2] * 5, "key": range(10), "y": [0, 1] * 5})

    assert list(inferred()) == [name, "key", "y"]
    assert list(inferred()) == [name, "key", "y"]  # and is found again
    assert list(schema.load(Path("schema.yaml")).columns) == [name, "key", "y"]


@pytest.mark.parametrize("columns", [{"key": range(3), "yy": [0, 1, 0]}])
def test_a_target_that_is_missing_is_a_problem_that_names_the_nearest(columns, capsys):
    written(columns)

    assert command.main([]) == 2
    assert "error: target: y is not a known name" in (said := capsys.readouterr().err)
    assert "did you mean yy?" in said
    assert not Path("schema.yaml").exists()


@pytest.mark.parametrize("text", ["columns: [", "columns:\n\ta: 1\n"])
def test_a_schema_that_cannot_be_read_is_a_problem_and_stays(table, text, capsys):
    Path("schema.yaml").write_text(text)

    assert command.main([]) == 2
    assert "where: schema.yaml" in capsys.readouterr().err
    assert Path("schema.yaml").read_text() == text


# (the file, its line, what the problem says, its fix)
WRONG = {
    "a misspelt rule": ("columns:\n  a: {dtype: text}\n  b: {dtyp: text}\n", 3, "b.dtyp is not a known name", "did you mean dtype?"),
    "a misspelt rule in a block": ("columns:\n  b:\n    dtype: text\n    mising: 0.1\n", 4, "b.mising", "did you mean missing?"),
    "another type": ("columns:\n  b: {dtype: int}\n", 2, "nvalid enum value 'int'", ""),
    "too large a share": ("columns:\n  b: {dtype: text, missing: 1.5}\n", 2, "xpected `float` <= 1.0", ""),
    "a word for a number": ("columns:\n  b: {dtype: number, min: low}\n", 2, "xpected `float | null`, got `str`", ""),
    "no type": ("columns:\n  b: {min: 0}\n", 2, "missing required field `dtype`", ""),
    "no rules": ("columns:\n  a: {dtype: text}\n  b:\n", 3, "b has no rules", "b: {dtype: number}"),
    "a column that stands twice": ("columns:\n  b: {dtype: text}\n  b: {dtype: text}\n", 3, "columns.b stands there twice", "remove"),
    "a word that YAML takes for true": ("columns:\n  on: {dtyp: text}\n", 2, "reads the name of this column as True", "quotes"),
    "values that YAML takes for true": ("columns:\n  b: {dtype: category, values: [yes, no]}\n", 2, "one of its values as True", "quotes"),
    "values of a number": ("columns:\n  b: {dtype: integer, values: [1, 2]}\n", 2, "values means nothing for dtype integer", "remove"),
    "bounds of a category": ("columns:\n  b: {dtype: category, min: 0}\n", 2, "min means nothing for dtype category", "remove"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "line", "what", "fix"), WRONG.values(), ids=WRONG)
def test_a_wrong_rule_is_one_problem_with_its_line(text, line, what, fix):
    Path("schema.yaml").write_text(text)

    with pytest.raises(Problem) as caught:
        schema.load(Path("schema.yaml"))

    assert what in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.where == f"schema.yaml:{line}"


@pytest.mark.parametrize("text", ["", "columns: []", "columns: {}\nmore: 1", "rules: {}"])
def test_a_file_that_is_no_schema_is_a_problem(text):
    Path("schema.yaml").write_text(text)

    with pytest.raises(Problem, match=r"holds no mapping|must hold `columns:`"):
        schema.load(Path("schema.yaml"))


def test_a_file_that_is_not_there_is_a_problem_that_says_how_to_make_it():
    with pytest.raises(Problem, match="run `make schema`"):
        schema.load(Path("schema.yaml"))


@pytest.mark.parametrize(
    "path",
    [ROOT / "tests/sample/schema.yaml", *sorted(ROOT.glob("examples/*/schema.yaml"))],
    ids=lambda path: path.parent.name,
)
def test_what_is_shipped_is_right_and_cannot_be_changed(path):
    shipped = schema.load(path)

    *_, target = shipped.columns.values()
    assert target.dtype in {"category", "number"}
    assert isinstance(shipped, Section)
    with pytest.raises(AttributeError):
        target.dtype = "text"


def test_numbers_written_as_values_are_texts():
    Path("schema.yaml").write_text("columns:\n  b: {dtype: category, values: [1, 2]}\n")

    assert schema.load(Path("schema.yaml")).columns["b"].values == ("1", "2")


def test_a_name_that_no_column_has_is_a_problem():
    shipped = schema.load(ROOT / "tests/sample/schema.yaml")

    schema.check_names(shipped, {"columns.time": "month", "columns.id": None}, path=ROOT / "params.yaml")
    with pytest.raises(Problem, match=r"columns\.time: mont is not a known name") as caught:
        schema.check_names(shipped, {"columns.time": "mont"}, path=ROOT / "params.yaml")
    assert "did you mean month?" in caught.value.fix
