"""A window is held against the reference: what is drift, what is chance, what is too little; and late labels find their predictions."""

import html
import json
import random
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from pawl import bundle, config, drift, paths, schema
from pawl.pipeline import ingest
from scripts import drift as script
from scripts import labels

START = 1_767_225_600  # 2026-01-01


@pytest.fixture(scope="module")
def answered(project):
    """Lines of a log as the project's model answers its test rows, three rows a request; with their targets."""
    loaded = bundle.load(project.path / paths.BUNDLE)
    table = pq.read_table(project.path / paths.PREPARED / "test.parquet").to_pylist()
    records = [{name: row[name] for name in loaded.dtypes} for row in table]
    predictions, scores = loaded.predict_records(records)
    lines = [
        {"time": START + number // 3, "request_id": f"r{number // 3}", "row": number % 3, "model_version": "7", "prediction": label,
         "probabilities": score.tolist(), "features": record}
        for number, (record, label, score) in enumerate(zip(records, predictions, scores, strict=True))
    ]  # fmt: skip
    return lines, [row["income"] for row in table]


@pytest.fixture
def place(project, tmp_path, monkeypatch):
    """A copy of what the project has, as the working directory; Evidently's page is not drawn."""
    for name in ("data", "models"):
        shutil.copytree(project.path / name, tmp_path / name, ignore=shutil.ignore_patterns("features"))
    for name in ("params.yaml", "schema.yaml", "gates.yaml", "reports/metrics.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(project.path / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "page", lambda *_: None)
    limit(tmp_path, min_rows=100)
    return tmp_path


def limit(folder, **values):
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["drift"] = params.get("drift", {}) | values
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def write(folder, lines, name="predictions-20260101T000000Z-aa-1.jsonl"):
    (folder / "log").mkdir(exist_ok=True)
    (folder / "log" / name).write_text("".join(json.dumps(each) + "\n" for each in lines))
    return str(folder / "log")


def asked(*words, code=0):
    assert script.main([*map(str, words)]) == code
    return json.loads(script.OUT.read_text())


def tables(folder, reference, current, *words, code=0):
    for name, columns in (("reference", reference), ("current", current)):
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return asked("--reference", folder / "reference.parquet", "--current", folder / "current.parquet", *words, code=code)  # fmt: skip


def rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return {"size": rng.normal(size=count), "kind": rng.choice(["a", "b", "c"], count, p=[0.6, 0.3, 0.1]).tolist()}


def spoiled(count, seed=1, **changed):
    return rows(count, seed) | {name: change(rows(count, seed)[name]) for name, change in changed.items()}


WINDOWS = {
    "other rows of the same": (rows(400, 1), "no drift", "No drift: 2 columns of 400 rows"),
    "the same rows": (rows(1000), "no drift", "No drift"),
    "a number moved": (spoiled(400, size=lambda each: each + 0.6), "drift", "Drift: size moved (KS 0.2"),
    "shares moved": (spoiled(400, kind=lambda each: ["b" if one == "a" and at % 2 else one for at, one in enumerate(each)]), "drift", "Drift: kind moved (total variation 0."),
    "one new category": (spoiled(400, kind=lambda each: ["z", *each[1:]]), "no drift", "No drift"),
    "a new category in every fifth row": (spoiled(400, kind=lambda each: ["z" if at % 5 == 0 else one for at, one in enumerate(each)]), "drift", "Drift: kind moved"),
    "every cell another category": (spoiled(400, kind=lambda _: ["z"] * 400), "drift", "total variation 1.00"),
    "a third is missing": (spoiled(400, size=lambda each: [None if at % 3 == 0 else one for at, one in enumerate(each.tolist())]), "drift", "size is missing in 34 % more"),
    "all is missing": (spoiled(400, size=lambda _: pa.nulls(400, pa.float64())), "drift", "size is missing in 100 % more"),
    "NaN is missing": (spoiled(400, size=lambda each: np.where(np.arange(400) % 3 == 0, np.nan, each)), "drift", "size is missing"),
    "a constant": (spoiled(400, size=lambda each: each * 0), "drift", "size moved"),
    "few rows": (spoiled(99, size=lambda each: each + 9), "insufficient data", "99 rows in the window"),
    "no row": ({"size": pa.nulls(0, pa.float64()), "kind": pa.nulls(0, pa.string())}, "insufficient data", "0 rows in the window"),
}  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_gets_its_verdict_and_the_headline_says_why(place, window):
    current, verdict, said = WINDOWS[window]

    told = tables(place, rows(1000), current, "--exit-code", code=int(verdict == "drift"))

    assert told["verdict"] == verdict
    assert said in told["headline"]
    assert told["headline"] in (place / "reports/drift.md").read_text()


def test_a_constant_that_stays_and_a_reference_of_few_rows(place):
    assert tables(place, {"one": [1] * 500, "word": ["x"] * 500}, {"one": [1] * 500, "word": ["x"] * 500})["verdict"] == "no drift"  # fmt: skip
    few = tables(place, rows(50), rows(1000, 1))
    assert [few["verdict"], few["headline"]] == ["insufficient data", "Insufficient data: 50 rows in the reference, 100 are needed."]  # fmt: skip
    only = tables(place, {"size": pa.nulls(500, pa.float64())}, {"size": pa.nulls(500, pa.float64())})
    assert only["verdict"] == "insufficient data"


def test_one_row_of_a_new_category_is_no_certainty_and_samples_of_one_size_are_two_samples():
    assert drift.of_categories({"a": 100_000}, {"a": 199, "z": 1})[1:] == (1.0, pytest.approx(0.005))
    rng = np.random.default_rng(0)
    quiet = [[dict(zip("abcdef", each, strict=True)) for each in rng.multinomial(1000, [1 / 6] * 6, 2).tolist()] for _ in range(400)]  # fmt: skip
    assert np.mean([drift.of_categories(*each)[1] < 0.05 for each in quiet]) < 0.08


def test_a_shift_that_is_significant_and_tiny_is_no_drift(place):
    current = spoiled(40_000, size=lambda each: each + 0.08)

    told = tables(place, rows(40_000), current)
    assert told["columns"][0]["adjusted"] < 1e-6
    assert [told["columns"][0]["drifted"], told["verdict"]] == [False, "no drift"]

    limit(place, effect=0.0)
    assert tables(place, rows(40_000), current)["verdict"] == "drift"


def test_chance_in_one_of_many_columns_is_corrected_for(place):
    limit(place, effect=0.0)
    rng = np.random.default_rng(5)
    reference = {f"c{number}": rng.normal(size=500) for number in range(20)}
    current = {name: rng.normal(size=500) for name in reference}
    alone = {name: drift.of_numbers(reference[name], current[name])[1] for name in reference}
    name = min(alone, key=alone.get)
    assert alone[name] < 0.05

    told = tables(place, reference, current)
    least = min(told["columns"], key=lambda each: each["p"])
    assert [least["column"], least["p"]] == [name, alone[name]]
    assert least["adjusted"] == min(1, alone[name] * 20)
    assert told["verdict"] == "no drift"
    assert tables(place, reference, current, "--columns", name)["headline"].startswith(f"Drift: {name} moved")


def test_the_same_rows_are_sampled_whatever_their_order_and_totals_are_of_all(place):
    limit(place, rows=200)
    current, order = spoiled(3000, size=lambda each: each + 0.3), np.random.default_rng(2).permutation(3000)
    current["size"][17] = 99.0
    mixed = {name: [values[at] for at in order] for name, values in current.items()}

    one, other = tables(place, rows(1000), current), tables(place, rows(1000), mixed)

    assert [one["rows"], one["sampled"], one["quality"][0]["most"]] == [3000, 200, 99.0]
    assert {**one, "window": 0} == {**other, "window": 0}
    assert one["window"]["name"] == other["window"]["name"]
    few = {"size": [1.0, 2.0] * 1500, "kind": ["a", "b"] * 1500}  # like rows are drawn as others are, not all or none
    assert tables(place, few, few | {"size": [2.0, 1.0] * 1500})["columns"][0]["effect"] < 0.15


def test_a_log_is_held_against_the_rows_of_its_model(place, answered, capsys):
    lines, _ = answered
    log = write(place, [*lines[:300], {"not": "a line"}])
    write(place, [{**each, "model_version": "8"} for each in lines[300:]], "predictions-20260101T000100Z-bb-1.jsonl")
    with (place / "log/predictions-20260101T000100Z-bb-1.jsonl").open("a") as stream:
        stream.write('{"time": 1, "request_\n' + json.dumps(lines[0] | {"features": lines[0]["features"] | {"age": "old"}}) + "\n")  # fmt: skip

    told = asked("--log", log)

    assert [told["verdict"], told["rows"], told["damaged"]] == ["no drift", len(lines), 3]
    assert told["models"] == {"7": 300, "8": len(lines) - 300}
    assert told["prediction"]["effect"] == 0  # these are the rows that it is held against
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120
    older = [
        each | {"features": each["features"] | {"age": each["features"]["age"] + 35}, "probabilities": [0.3, 0.7]}
        for each in lines
    ]
    shutil.rmtree(log)
    moved = asked("--log", write(place, older), "--exit-code", code=1)
    assert moved["headline"].startswith("Drift: age moved (KS 0.")
    assert "the prediction moved" in moved["headline"]


def test_a_log_in_another_order_gives_the_same_report(place, answered):
    limit(place, rows=150)
    lines = list(answered[0])
    one = asked("--log", write(place, lines))
    random.Random(0).shuffle(lines)

    assert asked("--log", write(place, lines)) == one
    assert one["sampled"] == 150


def test_a_column_that_the_log_leaves_out_is_not_taken_for_missing(place, answered):
    lines = [each | {"features": {name: cell for name, cell in each["features"].items() if name != "age"}} for each in answered[0]]  # fmt: skip

    told = asked("--log", write(place, lines))

    assert [told["verdict"], [*told["left_out"]]] == ["no drift", ["age"]]


def test_a_window_without_rows_is_never_without_drift(place, answered):
    log = write(place, answered[0])

    assert asked("--log", log, "--since", "2027-01-01")["verdict"] == "insufficient data"
    assert asked("--log", log, "--last", "1h")["verdict"] == "insufficient data"
    assert asked("--log", log, "--since", "2026-01-01", "--until", "2026-01-01T00:01")["rows"] == 180


def test_each_window_stands_once_in_the_history(place, answered):
    log = write(place, answered[0])
    words = ["--log", log, "--since", "2026-01-01", "--until", "2026-02-01"]
    for _ in range(2):
        asked(*words)
        history = (place / "log/history.jsonl").read_text().splitlines()
        assert [json.loads(each)["verdict"] for each in history] == ["no drift"]

    limit(place, min_rows=5000)  # another verdict of the same window replaces the first
    asked(*words)
    asked("--log", log, "--since", "2026-01-02", "--history", "log/history.jsonl")
    history = (place / "log/history.jsonl").read_text().splitlines()
    assert [json.loads(each)["verdict"] for each in history] == ["insufficient data"] * 2
    assert "Drift in 0 of 2 windows" in (place / "reports/drift_history.svg").read_text()


def test_every_whole_hundred_is_a_window_and_what_is_left_waits(place, answered, capsys):
    lines = answered[0][:250]
    random.Random(0).shuffle(lines)
    log = write(place, lines[:130])
    write(place, lines[130:], "predictions-20260101T000100Z-bb-1.jsonl")

    def kept():
        return [json.loads(each) for each in (place / "log/history.jsonl").read_text().splitlines()]

    asked("--log", log, "--every", 100)
    assert [each["rows"] for each in kept()] == [100, 100]
    least = asked("--log", log, "--every", 100)
    assert [least["verdict"], least["headline"]] == ["insufficient data", "Insufficient data: 50 predictions since the last window, 100 are one."]  # fmt: skip
    write(place, [each | {"features": each["features"] | {"age": 90}} for each in answered[0][250:400]], "predictions-20260101T000200Z-cc-1.jsonl")  # fmt: skip
    asked("--log", log, "--every", 100, "--exit-code", code=1)
    assert [each["verdict"] for each in kept()] == ["no drift", "no drift", "drift", "drift"]
    edges = [each["window"]["edge"] for each in kept()]
    assert edges == sorted(edges)


def test_an_empty_cell_of_a_csv_file_is_no_new_category(tmp_path):
    table = pa.table({"job": ["a", None, "b", None], "age": [1, None, 3, 4], "note": ["", "x", "y", "z"]})
    pyarrow.csv.write_csv(table, tmp_path / "cells.csv")

    _, read = labels.chunks(str(tmp_path / "cells.csv"))

    assert read.to_pydict() == table.to_pydict() | {"note": [None, "x", "y", "z"]}


def label(folder, answered, truth=None, count=None, name="labels.csv"):
    lines, own = answered
    table = {"request_id": [each["request_id"] for each in lines], "row": [each["row"] for each in lines], "label": truth or own}  # fmt: skip
    pyarrow.csv.write_csv(pa.table(table).slice(0, count), folder / name)
    return str(folder / name)


def test_a_loss_that_is_large_and_certain_is_drift_and_one_of_few_rows_is_not(place, answered):
    log, (_, own) = write(place, answered[0]), answered
    right = asked("--log", log, "--labels", label(place, answered))
    recorded = json.loads((place / "reports/metrics.json").read_text())["test"]["roc_auc"]
    assert right["performance"]["current"]["value"] == pytest.approx(recorded["value"])
    assert [right["verdict"], right["labelled"], right["performance"]["lost"]] == ["no drift", len(own), False]
    assert right["target"]["effect"] < 0.05

    wrong = own[:300] + random.Random(0).sample(own[300:], len(own) - 300)
    lost = asked("--log", log, "--labels", label(place, answered, wrong), "--exit-code", code=1)
    assert lost["headline"].startswith("Drift: roc_auc fell by 0.")
    assert f"on {len(own):,} labelled rows." in lost["headline"]

    few = label(place, answered, own[:85] + [{">50K": "<=50K", "<=50K": ">50K"}[each] for each in own[85:105]] + own[105:], 105)  # fmt: skip
    limit(place, metric="accuracy", max_loss=0.05)
    chance = asked("--log", log, "--labels", few)
    assert chance["performance"]["loss"] > 0.05
    limit(place, level=1e-9)
    assert asked("--log", log, "--labels", few)["verdict"] == "no drift"
    assert asked("--log", log, "--labels", label(place, answered, count=99))["performance"] is None


def test_a_performance_loss_needs_to_be_larger_than_allowed_and_more_than_chance():
    limits = config.Drift(max_loss=0.05)
    before = drift.Value(0.90, 0.88, 0.92, 4000)

    def lost(value, half):
        return drift.performance(
            "roc_auc", 1, before, drift.Estimate(value, value - half, value + half, 500), limits
        ).lost

    assert [lost(0.80, 0.03), lost(0.80, 0.2), lost(0.86, 0.01), lost(0.99, 0.01)] == [True, False, False, False]
    assert drift.performance("log_loss", -1, before, drift.Estimate(1.1, 1.0, 1.2, 500), limits).lost
    assert drift.performance("roc_auc", 1, before, drift.Estimate(np.nan, np.nan, np.nan, 500), limits) is None


def test_late_labels_find_their_predictions_and_the_table_is_a_source(place, answered, capsys):
    log, (lines, own) = write(place, answered[0]), answered

    def joined(*given, code=0):
        assert labels.main(["--log", log, "--labels", *given, "--to", str(place / "new/labelled.parquet")]) == code
        told = capsys.readouterr()
        return told.out or told.err

    assert f"200 of {len(lines)} predictions have a label; of {len(lines) - 200} it never came" in joined(label(place, answered, count=200))  # fmt: skip
    twice = label(place, answered)
    with Path(twice).open("a") as stream:
        stream.write(f'"r0",0,"{own[0]}"\n"nobody",0,"{own[0]}"\n')
    assert f"{len(lines)} of {len(lines)} predictions" in (said := joined(twice, "--answers"))
    assert "1 labels are of no prediction" in said
    found = {(each["request_id"], each["row"]): each for each in pq.read_table(place / "new/labelled.parquet").to_pylist()}  # fmt: skip
    assert len(found) == len(lines)
    for line, target in zip(lines, own, strict=True):
        row = found[line["request_id"], line["row"]]
        assert {name: row[name] for name in line["features"]} == line["features"]
        assert [row["income"], row["prediction"], row["probability >50K"], row["model_version"], row["time"], row["month"]] == [
            target, line["prediction"], line["probabilities"][1], "7", line["time"], "2026-01"]  # fmt: skip
    joined(twice)
    assert set(pq.read_schema(place / "new/labelled.parquet").names) == set(schema.load(paths.SCHEMA).columns)
    params = config.load(paths.PARAMS)
    ingest.run(params.problem, config.Ingest(source="new/labelled.parquet"), schema.load(paths.SCHEMA))
    assert set(schema.load(paths.SCHEMA).columns) <= set(pq.read_table(paths.RAW).column_names)

    with Path(twice).open("a") as stream:
        stream.write('"r1",0,"one"\n"r1",0,"other"\n')
    assert "error: 1 predictions have two labels: r1" in joined(twice, code=2)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_are_held_by_their_labels_or_values(place, make_bundle, make_records, task):
    shutil.rmtree(place / "models")
    folder, records = make_bundle(place / "models/bundle", task), make_records(300)
    answers, scores = bundle.load(folder).predict_records(records)
    params = yaml.safe_load((place / "params.yaml").read_text())
    metric = "accuracy" if task == "multiclass" else "mae"
    params |= {"task": task, "target": "worth", "positive": None, "threshold": 0.5, "drift": {"min_rows": 100, "metric": metric, "max_loss": 0.2}}  # fmt: skip
    (place / "params.yaml").write_text(yaml.safe_dump(params))
    pq.write_table(pa.Table.from_pylist([each | {"worth": own} for each, own in zip(records, answers, strict=True)]), "reference.parquet")  # fmt: skip
    lines = [{"time": START + at, "request_id": f"r{at}", "row": 0, "model_version": "1", "prediction": answers[at],
              "probabilities": None if scores is None else scores[at].tolist(), "features": records[at]} for at in range(300)]  # fmt: skip
    lost = [answers[0] if task == "multiclass" else each + 30 for each in answers]

    good = asked("--log", write(place, lines), "--reference", "reference.parquet", "--labels", label(place, (lines, answers)))  # fmt: skip
    bad = asked("--log", place / "log", "--reference", "reference.parquet", "--labels", label(place, (lines, lost)))

    assert [good["verdict"], good["rows"], good["damaged"], good["prediction"]["effect"]] == ["no drift", 300, 0, 0]
    assert good["prediction"]["test"] == ("chisquare" if task == "multiclass" else "ks")
    assert f"{metric} {'fell' if task == 'multiclass' else 'rose'} by" in bad["headline"]


def test_what_others_wrote_wrong_ends_no_watch(place, answered, capsys):
    """Labels that have not arrived, or are of no class; answers of another model; lines of the log and of the history that are none."""
    lines, own = answered
    odd = [{**lines[0], "request_id": "odd", "prediction": "zzz"}, {**lines[0], "request_id": "far", "row": 2**64 + 5}]
    log = write(place, [*lines, *odd])
    (place / "none.csv").write_text("request_id,label\n")
    assert asked("--log", log, "--labels", "none.csv")["labelled"] == 0

    given = Path(label(place, answered))
    given.write_text(given.read_text().replace(own[0], "maybe", 1) + f'"odd",0,"{own[0]}"\n')
    history = Path(log) / "history.jsonl"
    future = json.loads(history.read_text()) | {"window": {"name": "far", "edge": [9e10, 1]}}
    history.write_text(history.read_text() + "nonsense\n" + json.dumps(future) + "\n")
    found = asked("--log", log, "--labels", str(given))

    told = capsys.readouterr().err
    assert found["labelled"] == len(lines) - 1
    assert found["damaged"] == 1
    assert "1 labels are of no class that the model knows" in told
    assert "2 lines of" in told
    assert all(json.loads(each) for each in history.read_text().splitlines())


def test_where_the_history_cannot_be_written_the_verdict_is_there_all_the_same(place, answered, capsys):
    log = write(place, answered[0])
    (place / "file").write_text("")

    found = asked("--log", log, "--history", str(place / "file/history.jsonl"))

    assert found["verdict"] == "no drift"
    assert "warning: error: the history was not written" in capsys.readouterr().err


PROBLEMS = {
    "labels with half a row": (["--labels", "half.csv"], "a row is no whole number", "from 0"),
    "labels with a name twice": (["--labels", "twice.csv"], "two of its columns have one name", "request_id"),
    "an unknown column": (["--columns", "agee"], "agee is not a known name", "did you mean age?"),
    "a wrong time": (["--since", "yesterday"], "yesterday is no time", "2026-01-31"),
    "a wrong span": (["--last", "7 days"], "7 days is no span", "7d"),
    "labels without ids": (["--labels", "data/prepared/test.parquet"], "no column request_id", "name them"),
    "no labels": (["--labels", "none.csv"], "there is no such file", "correct"),
    "a reference without a feature": (["--reference", "labels.csv"], "no column age", "features"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_bad_input_is_told_and_writes_nothing(place, answered, capsys, problem):
    words, what, fix = PROBLEMS[problem]
    log = write(place, answered[0])
    label(place, answered)
    (place / "half.csv").write_text("request_id,row,label\nr0,0.5,no\n")
    (place / "twice.csv").write_text("request_id,request_id,label\nr0,r0,no\n")

    assert script.main(["--log", log, *words]) == 2
    told = capsys.readouterr().err
    assert what in told
    assert fix in told
    assert not script.OUT.exists()


def test_a_reference_that_is_not_the_models_is_refused(place, answered, capsys):
    log, train = write(place, answered[0]), place / "data/prepared/train.parquet"
    pq.write_table(pq.read_table(train).slice(1), train)
    assert script.main(["--log", log]) == 2
    assert "these are not the rows that models/bundle was trained on" in capsys.readouterr().err
    assert asked("--log", log, "--reference", train)["verdict"] == "no drift"
    train.unlink()
    assert script.main(["--log", log]) == 2
    assert "make pull" in capsys.readouterr().err


def test_evidently_draws_what_was_decided_and_its_ks_is_this_one(place, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(place)

    told = tables(place, rows(1000), spoiled(400, kind=lambda each: ["z" if at % 5 == 0 else one for at, one in enumerate(each)]))  # fmt: skip

    page = (place / "reports/drift_report.html").read_text()
    assert "Data drift detected" in page
    summary = (place / "reports/drift.md").read_text()
    assert "| column | test | effect | p, Holm | missing | found |\n| :-- | :-- | --: | --: | --: | :-- |\n" in summary
    assert "| drifted" in summary
    assert f"❌ {html.escape(told['headline'])}</h1>" in page
    assert page.index("Data drift detected") < page.index("Data drift not detected")
    assert "Data drift not detected" in page
    from evidently.legacy.calculations.stattests import ks_stat_test
    from evidently.legacy.core import ColumnType

    one, two = (pq.read_table(place / f"{name}.parquet").to_pandas()["size"] for name in ("reference", "current"))
    assert ks_stat_test(one, two, ColumnType.Numerical, 0.05).drift_score == told["columns"][0]["p"]
    assert msgspec.json.decode(script.OUT.read_bytes(), type=drift.Report).version == 1
