import zipfile
from datetime import date, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pandas.testing import assert_frame_equal

from pawl import frames
from pawl.schema import arrow_types

DTYPES = {
    "age": "integer",
    "share": "number",
    "member": "boolean",
    "colour": "category",
    "note": "text",
    "at": "datetime",
}
RECORDS = [
    {
        "age": 40,
        "share": 0.25,
        "member": True,
        "colour": "red",
        "note": "a",
        "at": datetime.fromisoformat("2025-01-02 03:04:05.000006"),
    },
    {"age": None, "share": None, "member": None, "colour": None, "note": None, "at": None},
    {},
    {
        "age": 0,
        "share": -0.0,
        "member": False,
        "colour": "",
        "note": "None",
        "at": datetime.fromisoformat("1969-12-31"),
    },
    {
        "age": 2**53,
        "share": 1e300,
        "member": True,
        "colour": "null",
        "note": "żółw",
        "at": datetime.fromisoformat("2025-01-02"),
    },
]


def made_table(records=RECORDS, dtypes=DTYPES):
    return pa.table({
        name: pa.array([record.get(name) for record in records], pa.string() if dtypes[name] == "category" else kind)
        .cast(kind) for name, kind in arrow_types(dtypes).items()
    })  # fmt: skip


@pytest.mark.parametrize("form", [pa.Table.combine_chunks, lambda table: table.combine_chunks().to_batches()[0]])
def test_records_and_a_table_make_the_same_frame(form):
    from_table = frames.from_table(form(made_table()), DTYPES)

    assert_frame_equal(frames.from_records(RECORDS, DTYPES), from_table)


def test_a_table_in_chunks_makes_the_same_frame():
    chunks = pa.concat_tables([made_table([record]) for record in RECORDS])

    assert_frame_equal(frames.from_table(chunks, DTYPES), frames.from_records(RECORDS, DTYPES))


@pytest.mark.parametrize("number", range(len(RECORDS)))
def test_a_row_does_not_depend_on_its_batch(number):
    alone = frames.from_records([RECORDS[number]], DTYPES)

    together = frames.from_records(RECORDS, DTYPES)

    assert_frame_equal(alone, together.iloc[[number]].reset_index(drop=True))


@pytest.mark.parametrize(
    "written", [["2025-01-02", "2025-01-02 10:00:00"], ["2025-01-02T10:00:00.5", "2025-01-02"], [None, "2025-01-02"]]
)
def test_dates_may_be_written_differently_in_one_batch(written):
    records = [{"at": text} for text in written]

    together = frames.from_records(records, {"at": "datetime"})

    assert together["at"].tolist() == [
        frames.from_records([record], {"at": "datetime"})["at"][0] if record["at"] else pd.NaT for record in records
    ]


@pytest.mark.parametrize("missing", [None, float("nan")])
@pytest.mark.parametrize("dtype", ["category", "text"])
def test_a_missing_category_is_nan_and_never_none(missing, dtype):
    cells = [
        *frames.from_records([{"x": missing}, {}], {"x": dtype})["x"],
        *frames.from_table(pa.table({"x": pa.array([None], pa.string())}), {"x": dtype})["x"],
        *frames.from_table(pa.table({"x": pa.array([None, "a"]).dictionary_encode()}), {"x": dtype})["x"][:1],
    ]

    assert all(isinstance(cell, float) and np.isnan(cell) for cell in cells), cells


@pytest.mark.parametrize("value", [7, True, False, 1.5, 2.0, date(2025, 1, 2)])
def test_a_category_that_is_no_text_reads_as_in_a_table(value):
    from_table = frames.from_table(pa.table({"x": pa.array([value]).cast(pa.string())}), {"x": "category"})

    assert_frame_equal(frames.from_records([{"x": value}], {"x": "category"}), from_table)


@pytest.mark.parametrize("dtype", sorted(set(DTYPES.values())))
def test_no_records_make_an_empty_frame_of_the_same_types(dtype):
    empty, one = frames.from_records([], {"x": dtype}), frames.from_records([{"x": None}], {"x": dtype})

    assert len(empty) == 0
    assert (empty.dtypes == one.dtypes).all()


def test_a_frame_has_the_named_columns_in_their_order():
    names = ["note", "age"]

    frame = frames.from_records([RECORDS[0] | {"more": 1}], {name: DTYPES[name] for name in names})

    assert list(frame.columns) == names


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_matrix_is_read_as_it_was_written(kind, tmp_path):
    import scipy.sparse as sp

    matrix = np.array([[0.0, 1.5], [np.nan, 0.0]])

    frames.write_matrix(sp.csr_matrix(matrix) if kind == "sparse" else matrix, tmp_path / "train")
    found = frames.read_matrix(tmp_path / "train")

    np.testing.assert_array_equal(found.toarray() if kind == "sparse" else found, matrix)


def test_a_sparse_matrix_is_the_same_file_whatever_python_wrote_it(tmp_path):
    import scipy.sparse as sp

    frames.write_matrix(sp.csr_matrix(np.eye(3)), tmp_path / "train")

    with zipfile.ZipFile(tmp_path / "train.npz") as file:
        content = (tmp_path / "train.npz").read_bytes()
        for each in (
            file.infolist()
        ):  # of a small file, Python 3.11.2 and 3.11.7 write another extra field where zip64 is forced
            assert int.from_bytes(content[each.header_offset + 28 : each.header_offset + 30], "little") == 0
            assert each.date_time == (1980, 1, 1, 0, 0, 0)
