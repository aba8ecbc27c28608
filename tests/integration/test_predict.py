"""`scripts.predict`: a table is answered as the service answers each row, and no row is lost."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pawl import bundle, compiled
from pawl.serving import bulk, predictor
from scripts import predict

ROOT = Path(__file__).parents[2]
SPLIT = {"min_child_samples": 1, "min_child_weight": 0, "min_data_in_bin": 1}  # to the last row
ODD = [
    {},
    {"colour": "never seen", "age": 10**15},
    {"size.m²": -0.0, "column_0": ""},
    {"size.m²": 1e-36},
    {"size.m²": 3e38},
]


@pytest.fixture
def place(untouched, tmp_path, monkeypatch, capsys):
    """A folder with params.yaml, in which tables of the columns of `make_records` are predicted."""
    for name in ("params.yaml", "pyproject.toml"):
        (tmp_path / name).write_text((untouched.path / name).read_text())
    params = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("columns:\n", "columns:\n  id: id\n"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compiled, "TREES", 4)  # or ten trees would be handed to the pipeline
    return Place(tmp_path, capsys)


class Place:
    def __init__(self, path, capsys):
        self.path, self.capsys = path, capsys

    def table(self, name, records):
        """Write records as a table, and return its name."""
        names = list(dict.fromkeys(key for record in records for key in record))
        (self.path / name).parent.mkdir(exist_ok=True)
        with (self.path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(records)
        return name

    def do(self, *words, code=0):
        """Return what the script says, on both streams."""
        self.capsys.readouterr()
        assert predict.main([str(each) for each in words]) == code
        told = self.capsys.readouterr()
        return told.out + told.err

    def read(self, name="out.parquet"):
        return pq.read_table(self.path / name).to_pylist()

    def told(self, name="out.parquet"):
        return json.loads((self.path / f"{name}.json").read_text())


@pytest.fixture
def model(make_bundle, tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("model"))


def records(make_records, count=60):
    made = [record | {"id": f"r{number}"} for number, record in enumerate(make_records(count))]
    return (
        made
        + [made[3] | odd | {"id": f"odd{number}"} for number, odd in enumerate(ODD)]
        + [dict.fromkeys(made[0]) | {"id": "empty"}]
    )


def expected(folder, rows):
    """Return what the service and what the pipeline answer, as (labels or values, probabilities)."""
    served, whole = predictor.load(folder), bundle.load(folder)
    given = [
        {name: row.get(name) or None if row.get(name) == "" else row.get(name) for name in whole.dtypes} for row in rows
    ]
    return served.predictor.many([tuple(row.values()) for row in given]), whole.predict_records(given)


def same(found, folder, rows):
    labels = json.loads((folder / "manifest.json").read_text())["labels"]
    for answers, scores in expected(folder, rows):
        assert [row["prediction"] for row in found] == answers
        for at, label in enumerate(labels):
            assert [row[f"probability {label}"] for row in found] == [score[at] for score in np.array(scores).tolist()]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("by", ["the compiled model", "the pipeline"])
def test_each_row_is_answered_as_the_service_and_the_pipeline_answer_it(
    place, make_bundle, make_records, tmp_path, task, by
):
    folder = make_bundle(tmp_path / "model", task, compiled=by == "the compiled model")
    rows = records(make_records)

    said = place.do("--from", place.table("new.csv", rows), "--to", "out.parquet", "--model", folder)

    found, told = place.read(), place.told()
    same(found, folder, rows)
    assert [row["row"] for row in found] == list(range(1, 67))
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert {row["model_version"] for row in found} == {bundle.digest_of(folder)} == {told["model"]["digest"]}
    assert [told["rows"], told["predicted"], told["rejected"], told["answered_by"]] == [66, 66, 0, by]
    assert pq.read_schema("out.parquet").metadata[b"digest"].decode() == told["model"]["digest"]
    assert "66 of 66 rows predicted" in said
    assert sorted(path.name for path in place.path.glob("out*")) == ["out.parquet", "out.parquet.json"]


@pytest.mark.parametrize(
    ("more", "by"),
    [
        ({"zero_as_missing": True}, "the compiled model"),
        ({"use_missing": False}, "the compiled model"),
        ({"num_leaves": 60, **SPLIT}, "the compiled model"),
        ({"linear_tree": True}, "the pipeline"),
        ({"boosting_type": "rf", "subsample": 0.7, "subsample_freq": 1}, "the pipeline"),
    ],
)
def test_trees_of_any_kind_are_read_right_or_left_to_the_pipeline(
    place, make_bundle, make_records, tmp_path, monkeypatch, more, by
):
    from task import model as ours

    build = ours.build_model
    monkeypatch.setattr(ours, "build_model", lambda estimator, params: build(estimator, params | more))
    folder, rows = make_bundle(tmp_path / "model"), records(make_records)

    place.do("--from", place.table("new.csv", rows), "--to", "out.parquet", "--model", folder)

    same(place.read(), folder, rows)
    assert place.told()["answered_by"] == by


def test_a_table_that_is_read_wrong_is_noticed_by_what_the_service_answers(place, model, make_records, monkeypatch):
    monkeypatch.setattr(bulk, "ZERO", 1.0)
    bulk_walk = bulk._walk
    monkeypatch.setattr(bulk, "_walk", lambda *given: bulk_walk(*given)[::-1])

    said = place.do(
        "--from", place.table("new.csv", records(make_records)), "--to", "out.parquet", "--model", model, code=2
    )

    assert "the model answers a table otherwise than the service" in said
    assert not Path("out.parquet").exists()


def test_what_the_service_would_refuse_is_put_aside_with_each_reason_and_can_be_given_again(place, model, make_records):
    rows = records(make_records)
    rows[4] |= {"age": "forty", "size.m²": "1e39"}
    rows[7] |= {"member": "perhaps"}
    rows[9] |= {"colour": "x" * 1001}
    rows[12] |= {"age": 1.5}
    rows[13] |= {"size.m²": "inf"}

    said = place.do("--from", place.table("new.csv", rows), "--to", "out.parquet", "--model", model)

    aside, found = place.read("out.parquet.rejected.parquet"), place.read()
    assert {each["row"]: each["reasons"] for each in aside} == {
        5: "size.m²: a finite number is needed, within ±3.4e+38; age: a whole number or null is needed",
        8: "member: true or false or null is needed",
        10: "colour: at most 1,000 characters are taken",
        13: "age: a whole number or null is needed",
        14: "size.m²: a finite number is needed, within ±3.4e+38",
    }
    assert next((each["id"], each["age"]) for each in aside) == ("r4", "forty")
    assert sorted([each["row"] for each in [*aside, *found]]) == list(range(1, 67))
    same(found, model, [row for row in rows if row["id"] not in {each["id"] for each in aside}])
    assert "5 rejected" in said
    assert place.told()["reasons"]["age: a whole number or null is needed"] == 2

    place.table("repaired.csv", [each | {"age": 40, "size.m²": 1, "member": "", "colour": "red"} for each in aside])
    place.do("--from", "repaired.csv", "--to", "out.parquet", "--model", model)
    assert [each["id"] for each in place.read()] == ["r4", "r7", "r9", "r12", "r13"]
    assert not Path("out.parquet.rejected.parquet").exists()


KILLED = """
import os, signal
from pawl import compiled
from scripts import predict
compiled.TREES, predict.ROWS, write = 4, 1, predict.write
def once(job, number, *given):
    if number == 3: os.kill(os.getpid(), signal.SIGKILL)
    write(job, number, *given)
predict.write = once
predict.main({words})
"""


def folder_of(place, make_records, name="day"):
    rows = records(make_records)
    for number in range(6):
        place.table(f"{name}/{number}.csv", rows[number * 11 : number * 11 + 11])
    return name


@pytest.fixture
def killed(place, model, make_records, monkeypatch):
    """A prediction of six parts that was killed in the fourth; written: the parts of which others write."""
    words = ["--from", folder_of(place, make_records), "--to", "out.parquet", "--model", str(model), "--workers", "1"]
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run([sys.executable, "-c", KILLED.format(words=words)], check=False, env=environ)
    assert done.returncode == -signal.SIGKILL
    assert not Path("out.parquet").exists()
    place.words, place.written, write = words, [], predict.write
    monkeypatch.setattr(predict, "ROWS", 1)
    monkeypatch.setattr(
        predict, "write", lambda job, number, *given: (place.written.append(number), write(job, number, *given))
    )
    return place


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(killed):
    said = killed.do(*killed.words)

    assert killed.written == [3, 4, 5]
    assert "going on: 3 parts are done" in said
    first = Path("out.parquet").read_bytes()
    killed.do(*killed.words[:2], "--to", "again.parquet", *killed.words[4:6], "--workers", "2")
    assert sorted(killed.written) == [0, 1, 2, 3, 3, 4, 4, 5, 5]
    assert Path("again.parquet").read_bytes() == first
    assert [row["row"] for row in killed.read()] == list(range(1, 67))


def test_another_table_or_model_is_begun_anew(killed, make_bundle, tmp_path):
    (killed.path / "day/0.csv").write_text((killed.path / "day/0.csv").read_text().replace("r1,", "s1,"))
    said = killed.do(*killed.words)

    assert "beginning anew: the source changed" in said
    assert killed.written == [0, 1, 2, 3, 4, 5]

    killed.written.clear()
    words = ["--from", "day", "--to", "out", "--model"]
    monkey = predict.finished
    try:
        predict.finished = lambda *_: sys.exit("here")
        with pytest.raises(SystemExit):
            predict.main([*words, killed.words[5]])
    finally:
        predict.finished = monkey
    said = killed.do(*words, make_bundle(tmp_path / "other", "multiclass"))
    assert "beginning anew: the model changed" in said
    assert len(killed.written) == 12
    assert len(list(Path("out").glob("part-*.parquet"))) == 6
    assert pq.read_table("out").num_rows == 66


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (lambda rows: [{"id": row["id"]} for row in rows], [], "the source has no column age, colour, column_0, member, size.m²"),
        (lambda rows: [row | {"age": "x"} for row in rows], [], "not one of 66 rows fits the model: age: a whole number"),
        (lambda rows: rows, ["--to", "full"], "full holds other files than parts of predictions"),
        (lambda rows: rows, ["--workers", "0"], "0 workers do nothing"),
        (lambda rows: rows, ["--model", "models:/pawl"], "models:/pawl names no version"),
        (lambda rows: rows, ["--model", "nowhere"], "there is no bundle"),
        (lambda rows: rows, ["--from", "absent.csv"], "absent.csv does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_predicted_is_told_and_leaves_what_is_there(place, model, make_records, change, words, said):
    (place.path / "full").mkdir()
    (place.path / "full/mine.txt").write_text("mine")
    Path("out.parquet").write_text("before")
    table = place.table("new.csv", change(records(make_records)))

    assert said in place.do("--from", table, "--to", "out.parquet", "--model", model, *words, code=2)
    assert (Path("out.parquet").read_text(), Path("full/mine.txt").read_text()) == ("before", "mine")


def test_a_version_and_the_champion_are_had_from_the_registry_and_a_missing_one_says_who_names_it(registry, capsys):
    here = Place(registry.path, capsys)
    registry.do("register")
    said = here.do("--to", "none.parquet", "--model", "@champion", code=2)
    registry.do("promote", "--version", "1")
    outs = {}
    for number, model in enumerate(("@champion", "models:/pawl@champion", "models:/pawl/1", "models/bundle")):
        here.do("--from", "data/prepared/test.parquet", "--to", f"{number}.parquet", "--model", model)
        outs[model] = pq.read_table(f"{number}.parquet")
    told = json.loads(Path("0.parquet.json").read_text())["model"]
    absent = here.do("--to", "none.parquet", "--model", "models:/pawl/7", code=2)

    assert "no version of pawl is champion" in said
    assert "scripts.promote" in said
    assert "there is no version 7 of pawl" in absent
    assert all(table.equals(outs["@champion"]) for table in outs.values())
    assert [told["name"], told["version"], told["digest"]] == ["pawl", "1", bundle.digest_of(Path("models/bundle"))]
    offline = pq.read_table("reports/predictions.parquet").column("probability >50K").to_pylist()
    assert sorted(outs["@champion"].column("probability >50K").to_pylist()) == sorted(offline)
