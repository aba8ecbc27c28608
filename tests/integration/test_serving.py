"""What the service answers, what it refuses, and what it says of itself."""

import ast
import json
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from sklearn.ensemble import RandomForestClassifier

from pawl import bundle, frames
from pawl.problem import Problem
from pawl.serving import app, predictor
from pawl.serving.settings import Settings

ROOT = Path(__file__).parents[2]
CANARY = "canary-7f3a"
DIGITS = "71813"  # the canary among numbers
KINDS = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "category": pa.string()}
JSON = {"content-type": "application/json"}
KSERVE = "/v1/models/model:predict"
MODELS = {
    "binary": {}, "multiclass": {}, "regression": {},
    "binary, not compiled": {"compiled": False}, "multiclass, not compiled": {"compiled": False}, "regression, not compiled": {"compiled": False},
    "binary, a forest": {"estimator": RandomForestClassifier},
}  # fmt: skip

# Each form: (path, body of records, where the cell of a column of the first record is).
FORMS = {
    "a record": ("/predict", lambda given: given[0], "{}"),
    "a list": ("/predict", list, "[0].{}"),
    "features": ("/predict", lambda given: {"features": [[*each.values()] for each in given]}, "features[0].{}"),
    "split": ("/invocations", lambda given: {"dataframe_split": {"columns": [*given[0]], "data": [[*each.values()] for each in given]}}, "dataframe_split.data[0].{}"),
    "records": ("/invocations", lambda given: {"dataframe_records": given}, "dataframe_records[0].{}"),
    "instances": ("/invocations", lambda given: {"instances": given}, "instances[0].{}"),
    "instances, as rows": ("/invocations", lambda given: {"instances": [[*each.values()] for each in given]}, "instances[0].{}"),
    "KServe's": (KSERVE, lambda given: {"instances": given}, "instances[0].{}"),
    "KServe's, as rows": (KSERVE, lambda given: {"instances": [[*each.values()] for each in given]}, "instances[0].{}"),
}  # fmt: skip
NAMED = [name for name in FORMS if name not in {"features", "split"} and "rows" not in name]
every_form = pytest.mark.parametrize("form", FORMS)


def started(folder, **settings):
    """Return a client of the service of a bundle; it starts when it is entered, and an error of the service is an answer."""
    service = app.create_app(predictor.load(folder), Settings(**settings))
    return TestClient(service, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def small(make_bundle, tmp_path_factory):
    """The bundle of a binary model that is compiled."""
    return make_bundle(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def client(small):
    with started(small, model_version="3", commit="c0ffee") as client:
        yield client


@pytest.fixture(scope="module")
def one(make_records):
    return make_records(2)[1]


def post(client, path, body):
    """Post text or bytes as they are, and what else there is as JSON."""
    content = body if isinstance(body, (str, bytes)) else json.dumps(body)
    return client.post(path, content=content, headers=JSON)


def answered(client, form, records):
    """Return [(prediction, its probabilities)] of a request that must be answered."""
    path, body, _ = FORMS[form]
    answer = post(client, path, body(records))
    assert answer.status_code == 200, answer.text
    found = answer.json()["predictions"]
    if path == "/predict":
        return list(zip(found, answer.json()["probabilities"] or [None] * len(found), strict=True))
    return [(each["predictions"], each.get("probabilities")) for each in found]


def offline(folder, records):
    """Return the same from a table, as the pipeline's stages take it."""
    loaded = bundle.load(folder)
    columns = {name: [each[name] for each in records] for name in loaded.dtypes}
    table = pa.table({name: pa.array(columns[name], KINDS[dtype]) for name, dtype in loaded.dtypes.items()})
    predictions, probabilities = loaded.predict(frames.from_table(table, loaded.dtypes))
    labels = loaded.manifest["labels"]
    if not labels:
        return [(value, None) for value in predictions.tolist()]
    named = [dict(zip(labels, row, strict=True)) for row in probabilities.tolist()]
    return list(zip([labels[number] for number in predictions], named, strict=True))


def series(client):
    """Return {name and labels: value} of every time series."""
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def risen(client, action):
    before = series(client)
    action()
    after = series(client)
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


def refused(answer, *statuses):
    """Return the places of a refusal, which has the documented shape and repeats nothing of the request."""
    assert answer.status_code in statuses, answer.text
    assert list(answer.json()) == ["error", "fields"]
    assert answer.json()["error"]
    assert all(each["field"] and each["problem"] and len(each) == 2 for each in answer.json()["fields"])
    assert CANARY not in answer.text
    assert DIGITS not in answer.text
    return {each["field"]: each["problem"] for each in answer.json()["fields"]}


# Answers


def test_every_row_of_the_test_split_is_answered_at_every_door_as_it_was_evaluated(project):
    folder = project.path / "models/bundle"
    test = pq.read_table(project.path / "data/prepared/test.parquet")
    evaluated = {row["row_id"]: row for row in pq.read_table(project.path / "reports/predictions.parquet").to_pylist()}
    loaded = bundle.load(folder)
    rows = test.select(list(loaded.dtypes)).to_pylist()
    holes = [{**rows[0], name: None} for name in loaded.dtypes] + [dict.fromkeys(loaded.dtypes)]
    expected = offline(folder, [*rows, *holes])

    with started(folder) as client:
        for form in FORMS.keys() - {"a record"}:
            together = [
                each
                for at in range(0, len(expected), 1000)
                for each in answered(client, form, [*rows, *holes][at : at + 1000])
            ]
            assert together == expected, form
        for form in ("a record", "split", "KServe's"):
            assert [answered(client, form, [each])[0] for each in [*rows, *holes]] == expected, form

    assert len(rows) > 300
    evaluation = [evaluated[row] for row in test["row_id"].to_pylist()]
    assert [label for label, _ in expected[: len(rows)]] == [row["prediction"] for row in evaluation]
    for label in loaded.manifest["labels"]:
        assert [scores[label] for _, scores in expected[: len(rows)]] == [row[f"probability {label}"] for row in evaluation]  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_row_is_answered_alone_in_a_batch_and_at_every_door_as_the_pipeline_does(
    model, make_bundle, make_records, tmp_path
):
    folder = make_bundle(tmp_path, model.partition(",")[0], **MODELS[model])
    records = make_records(300)
    one = records[1]
    edges = [
        dict.fromkeys(one),
        *({**one, name: None} for name in one),
        *({**one, "colour": text} for text in (CANARY, "", "missing", "nan", "None", "infrequent_sklearn", "é" * 1000)),
        *({**one, "age": number} for number in (0, -0.0, 39.0, -(10**15), 2**53 + 1)),
        *({**one, "size.m²": number} for number in (5e-324, 1e-35, -0.0, 0.1 + 0.2, 3.4e38, -3.4e38)),
    ]
    records += edges
    expected = offline(folder, records)

    with started(folder) as client:
        assert client.get("/version").json()["served_by"].startswith("the compiled" if model in {"binary", "multiclass", "regression"} else "the pipeline")  # fmt: skip
        for form in FORMS:
            if form != "a record":
                assert answered(client, form, records) == expected, form
        step = 10 if "," in model else 1
        assert [answered(client, "a record", [each])[0] for each in records[::step]] == expected[::step]
        assert [answered(client, "KServe's, as rows", [each])[0] for each in edges] == expected[-len(edges) :]

    assert len({json.dumps(each) for each in expected}) > 5


def test_the_threshold_decides_and_probabilities_are_named_by_label(client, make_records):
    found = answered(client, "a list", make_records(300))

    assert {label for label, _ in found} == {"no", "yes"}
    assert any(0.4 <= scores["yes"] < 0.5 for _, scores in found)
    assert all(label == ("yes" if scores["yes"] >= 0.4 else "no") for label, scores in found)
    assert all(scores["no"] == 1 - scores["yes"] for _, scores in found)


def test_a_regression_has_numbers_and_no_probabilities(make_bundle, one, tmp_path):
    with started(make_bundle(tmp_path, "regression")) as client:
        plain = post(client, "/predict", one).json()
        other = post(client, "/invocations", {"instances": [one]}).json()

    assert plain["probabilities"] is None
    assert [type(each) for each in plain["predictions"]] == [float]
    assert other == {"predictions": [{"predictions": plain["predictions"][0]}]}


@pytest.mark.parametrize("form", NAMED)
def test_the_order_of_names_says_nothing(client, form, make_records):
    records = make_records(12)
    draw = random.Random(0)

    for _ in range(20):
        mixed = [dict(draw.sample([*each.items()], len(each))) for each in records]
        assert answered(client, form, mixed) == answered(client, form, records)


def test_a_split_frame_may_have_its_columns_in_any_order_and_an_index(client, make_records):
    records = make_records(12)
    expected = answered(client, "split", records)

    for number in range(20):
        mixed = [dict(random.Random(number).sample([*each.items()], len(each))) for each in records]
        assert answered(client, "split", mixed) == expected
    body = FORMS["split"][1](records)
    body["dataframe_split"]["index"] = [*range(12)]
    assert post(client, "/invocations", body).json() == post(client, "/invocations", FORMS["split"][1](records)).json()


@every_form
def test_a_whole_number_may_be_written_with_a_point(client, form, one):
    assert answered(client, form, [one | {"age": 39.0}]) == answered(client, form, [one | {"age": 39}])


@every_form
def test_a_text_may_hold_whatever_texts_hold(client, form, one):
    for text in (
        "12:30:00",
        '{"age": 1, "age": 2}',
        "features",
        "instances",
        "dataframe_records",
        "é\u2028\x7f😀",
        '"\\',
    ):
        written = {"column_0": text} | {name: value for name, value in one.items() if name != "column_0"}
        ordered = one | {"column_0": text}
        for ascii_only in (True, False):
            path, body, _ = FORMS[form]
            given = body([written if form in NAMED or form == "split" else ordered])
            assert post(client, path, json.dumps(given, ensure_ascii=ascii_only).encode()).status_code == 200, text


@every_form
def test_space_around_the_parts_of_a_body_says_nothing(client, form, one):
    path, body, _ = FORMS[form]
    space = " \n\t\r" * 40

    answer = post(client, path, space + json.dumps(body([one]), indent=60) + space)

    assert answer.status_code == 200, answer.text


@every_form
def test_a_thousand_rows_are_answered_and_one_more_is_refused(client, form, one):
    path, body, _ = FORMS[form]
    if form == "a record":
        return

    assert len(answered(client, form, [one] * 1000)) == 1000
    places = refused(post(client, path, body([one] * 1001)), 422)

    assert all(each.endswith("is needed, not of 1,001") for each in places.values())


# Refusals

VALUES = {
    "NaN": ("NaN", "null"),
    "Infinity": ("Infinity", "finite"),
    "-Infinity": ("-Infinity", "finite"),
    "1e999": ("1e999", "finite"),
    "400 digits": (DIGITS * 80, "finite"),
    "5000 digits": (DIGITS * 1000, "finite"),
    "a number in quotes": ('"1.5"', "not a text"),
    "text": (f'"{CANARY}"', "not a text"),
    "true": ("true", "not true or false"),
    "a part of a whole number": ("71813.5", "whole number"),
    "a list": (f'["{CANARY}"]', "not a list"),
    "an object": (f'{{"{CANARY}": 1}}', "not an object"),
}


@pytest.mark.parametrize("value", VALUES)
@every_form
def test_a_value_that_is_no_such_number_is_refused_by_the_name_of_its_field(client, form, value, one):
    path, body, where = FORMS[form]
    written, words = VALUES[value]
    text = json.dumps(body([one | {"age": "@"}, one]) if form != "a record" else one | {"age": "@"})

    if (written, path) == ("NaN", "/invocations"):
        # MLflow's client writes it for a missing number.
        given, null = (post(client, path, text.replace('"@"', cell)) for cell in ("NaN", "null"))
        assert given.json()["predictions"] == null.json()["predictions"]
        return
    places = refused(post(client, path, text.replace('"@"', written)), 422)

    assert list(places) == [where.format("age")]
    assert words in places[where.format("age")]


WRONG = {
    "text for a number": ("size.m²", "1.5", "a number or null is needed, not a text"),
    "true for a number": ("size.m²", True, "a number or null is needed, not true or false"),
    "a number too large for trees": ("size.m²", 1e39, "within"),
    "a number for true or false": ("member", 1, "true or false or null is needed, not a number"),
    "text for true or false": ("member", "true", "not a text"),
    "a number for a category": ("colour", int(DIGITS), "a text or null is needed, not a number"),
    "true for a category": ("colour", True, "not true or false"),
    "a list for a category": ("colour", [CANARY], "not a list"),
    "an object for a category": ("colour", {CANARY: CANARY}, "not an object"),
    "an endless category": ("colour", CANARY * 100, "1,000 characters"),
    "half a character": ("colour", f"{CANARY}\ud800", "surrogate"),
}


@pytest.mark.parametrize("wrong", WRONG)
@every_form
def test_a_value_of_another_type_is_refused_by_the_name_of_its_field(client, form, wrong, one):
    path, body, where = FORMS[form]
    name, value, words = WRONG[wrong]

    places = refused(post(client, path, body([one | {name: value}])), 422)

    assert list(places) == [where.format(name)]
    assert words in places[where.format(name)]


@pytest.mark.parametrize("form", NAMED)
def test_a_missing_an_extra_and_a_doubled_name_are_refused(client, form, one):
    path, body, where = FORMS[form]
    lacking = {name: value for name, value in one.items() if name != "age"}
    doubled = json.dumps(body([one])).replace('"age":', f'"age": {DIGITS}, "age":', 1)
    escaped = json.dumps(body([one])).replace('"age":', f'"\\u0061ge": {DIGITS}, "age":', 1)

    missing = refused(post(client, path, body([lacking])), 422)
    extra = refused(post(client, path, body([one | {"agee": CANARY, "🙂": CANARY}])), 422)
    moved = refused(post(client, path, body([lacking | {"c1": 5}])), 422)  # the name inside of the decoder

    assert list(missing) == [where.format("age")]
    assert list(extra) == [where.format("agee"), where.format("🙂")]
    assert extra[where.format("agee")] == "no such column; age?"
    assert list(moved) == [where.format("c1"), where.format("age")]
    for body_ in (doubled, escaped):
        assert refused(post(client, path, body_), 422) == {"age": "it is given twice"}


@pytest.mark.parametrize("form", [name for name in FORMS if name not in NAMED])
def test_a_row_that_is_too_short_or_too_long_is_refused(client, form, one):
    path, body, where = FORMS[form]
    whole = json.dumps(body([one]))
    last = json.dumps(one["column_0"])
    cut = len(whole) - whole[::-1].index(last[::-1]) - len(last)

    for row in (whole[: cut - 2] + whole[cut + len(last) :], f"{whole[:cut]}1, {whole[cut:]}"):
        places = refused(post(client, path, row), 422)
        assert list(places) == [where.format("")[:-1]]
        assert "5 values" in places[where.format("")[:-1]]


def split(columns=None, rows=None, **more):
    """Return a body of a split frame; None: as it must be."""
    names = ["size.m²", "age", "member", "colour", "column_0"]
    return {"dataframe_split": {"columns": columns or names, "data": rows or [[1, 2, True, "red", "x"]], **more}}


SHAPES = {
    "split: a column too few": ("/invocations", split(columns=["age"], rows=[[1]]), "dataframe_split.columns"),
    "split: a column twice": ("/invocations", split(columns=["size.m²", "age", "age", "colour", "column_0"]), "dataframe_split.columns"),
    "split: another column": ("/invocations", split(columns=["size.m²", "agee", "member", "colour", "column_0"]), "dataframe_split.columns.agee"),
    "split: columns are no list": ("/invocations", split(columns=CANARY), "dataframe_split.columns"),
    "split: names are no texts": ("/invocations", split(columns=[1, 2, 3, 4, 5]), "dataframe_split.columns"),
    "split: another part": ("/invocations", split(iq=CANARY), "dataframe_split.iq"),
    "split: data are no list": ("/invocations", split(rows={"a": CANARY}), "dataframe_split.data"),
    "split: no data": ("/invocations", {"dataframe_split": {"columns": []}}, "dataframe_split.columns"),
    "split: nothing": ("/invocations", {"dataframe_split": None}, "dataframe_split.columns"),
    "MLflow's parameters": ("/invocations", split() | {"params": {}}, "params"),
    "MLflow's inputs": ("/invocations", {"inputs": [1]}, "inputs"),
    "two forms at once": ("/invocations", split() | {"instances": []}, "body"),
    "no form": ("/invocations", {}, "body"),
    "no object": ("/invocations", [], "body"),
    "a frame for KServe": (KSERVE, split(), "dataframe_split"),
    "no instances": (KSERVE, {}, "body"),
    "an instance is null": (KSERVE, {"instances": [None]}, "instances[0]"),
    "an instance is text": (KSERVE, {"instances": [CANARY]}, "instances[0]"),
    "instances of nothing": (KSERVE, {"instances": []}, "instances"),
    "a list of nothing": ("/predict", [], "body"),
    "a list of null": ("/predict", [None], "[0]"),
    "a list of rows": ("/predict", [[1, 2, True, "red", "x"]], "[0]"),
    "text": ("/predict", CANARY, "body"),
    "null": ("/predict", None, "body"),
    "features of nothing": ("/predict", {"features": []}, "features"),
    "features are one row": ("/predict", {"features": [1, 2, True, "red", "x"]}, "features[0]"),
    "features are records": ("/predict", {"features": [{"age": 1}]}, "features[0]"),
    "features and more": ("/predict", {"features": [[1, 2, True, "red", "x"]], "iq": CANARY}, "iq"),
    "yesterday's form": ("/predict", {"records": []}, "records"),
    "MLflow's form": ("/predict", {"instances": []}, "body"),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_body_of_another_shape_is_refused_where_it_is_wrong(client, shape):
    path, body, field = SHAPES[shape]

    places = refused(post(client, path, json.dumps(body)), 422)

    assert field in places, places


@pytest.mark.parametrize("part", ["dataframe_split", "columns", "data", "index"])
def test_a_part_of_a_split_frame_that_is_given_twice_is_refused(client, part):
    text = json.dumps(split(index=[0]))
    values = {"dataframe_split": split(index=[0])["dataframe_split"], **split(index=[0])["dataframe_split"]}
    for given in (text, json.dumps(split()) if part != "index" else text):
        doubled = given.replace(f'"{part}":', f'"{part}": {json.dumps(values[part])}, "{part}":', 1)
        assert refused(post(client, "/invocations", doubled), 422) == {part: "it is given twice"}


def test_an_index_that_nobody_reads_is_never_an_error_of_the_service(client):
    known = json.dumps(split(index="@"))
    for index in ("7" * 5000, '{"a": 1, "b": [' + "7" * 5000 + "]}", '["a:b", "c:d", "\x01"]', "[" * 990 + "]" * 990, '{"a":' * 900 + "1" + "}" * 900, "NaN"):  # fmt: skip
        assert post(client, "/invocations", known.replace('"@"', index)).status_code in {200, 400, 422}, index[:40]
    raw = known.replace('"@"', '["a:b", "c:d:e:f", "@"]').encode().replace(b"@", b"\xff")
    assert post(client, "/invocations", raw).status_code in {200, 400, 422}


def test_ten_places_are_named_at_most(client, one):
    wrong = [{name: {CANARY: 1} for name in one}] * 50

    assert len(refused(post(client, "/predict", wrong), 422)) == 10


UNREADABLE = {
    "nothing": "",
    "spaces": "   ",
    "not JSON": f'{{"age": {CANARY}',
    "cut off": f'[{{"colour": "{CANARY}',
    "single quotes": f"{{'colour': '{CANARY}'}}",
    "a comma too many": '{"age": 1,}',
    "two documents": '{"age": 1} {"age": 2}',
    "not UTF-8": b'{"colour": "' + CANARY.encode() + b'\xff"}',
    "UTF-16": json.dumps({"colour": CANARY}).encode("utf-16"),
    "a mark of byte order": b"\xef\xbb\xbf{}",
    "too deep, lists": "[" * 100_000,
    "too deep, objects": '{"a":' * 100_000,
    "too deep, closed": "[" * 100_000 + "]" * 100_000,
    "a zero byte": "{}\x00",
    "a form": f"colour={CANARY}",
}


@pytest.mark.parametrize("path", ["/predict", "/invocations", KSERVE])
@pytest.mark.parametrize("body", UNREADABLE)
def test_what_is_not_json_is_refused_as_such_and_counted(client, body, path):
    def ask():
        answer = post(client, path, UNREADABLE[body])
        refused(answer, 400)
        assert answer.headers["connection"] == "close"

    assert risen(client, ask) == {'model_refused_requests_total{reason="malformed"}': 1}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", None])
def test_what_does_not_call_itself_json_is_refused(client, one, kind):
    def ask():
        headers = {} if kind is None else {"content-type": kind}
        refused(client.post("/predict", content=json.dumps(one | {"colour": CANARY}), headers=headers), 415)

    assert risen(client, ask) == {'model_refused_requests_total{reason="media_type"}': 1}


def test_json_may_be_called_so_in_every_way_but_not_packed(client, one):
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"):
        assert client.post("/predict", content=json.dumps(one), headers={"content-type": kind}).status_code == 200
    packed = client.post("/predict", content=b"\x1f\x8b", headers=JSON | {"content-encoding": "gzip"})

    refused(packed, 415)


@pytest.mark.parametrize("how", ["at once", "in pieces", "by its header alone"])
def test_a_body_over_the_limit_is_too_large(client, how):
    pieces = (CANARY.encode() * 10_000 for _ in range(app.MAX_BODY // 100_000 + 1))
    bodies = {"at once": CANARY.encode() * 10_000 * 40, "in pieces": pieces, "by its header alone": b""}
    length = {"content-length": str(app.MAX_BODY + 1)} if how == "by its header alone" else {}

    def ask():
        answer = client.post("/predict", content=bodies[how], headers=JSON | length)
        refused(answer, 413)
        assert answer.headers["connection"] == "close"

    assert risen(client, ask) == {'model_refused_requests_total{reason="too_large"}': 1}


def test_a_path_or_a_method_that_is_not_there_is_refused_in_the_same_shape(client):
    refused(client.get(f"/{CANARY}"), 404)
    refused(client.post("/v1/models/other:predict", content="{}", headers=JSON), 404)
    for path in ("/predict", "/invocations", KSERVE):
        answer = client.get(path)
        refused(answer, 405)
        assert answer.headers["allow"] == "POST"
    answer = client.post("/healthz")
    refused(answer, 405)
    assert answer.headers["allow"] == "GET"


def test_batches_wait_in_a_queue_that_ends_and_rows_pass_them(client, one):
    release, service = threading.Event(), client.app
    service.thread.submit(release.wait)
    with ThreadPoolExecutor(app.WAITING + 1) as several:
        try:
            waiting = [several.submit(post, client, "/predict", [one] * 20) for _ in range(app.WAITING)]
            while service.batches < app.WAITING:
                pass
            late, row = several.submit(post, client, "/predict", [one] * 20), post(client, "/predict", one)
            late = late.result(30)
        finally:
            release.set()
        answers = [each.result() for each in waiting]

    refused(late, 503)
    assert late.headers["retry-after"] == "1"
    assert row.status_code == 200
    assert {answer.status_code for answer in answers} == {200}
    assert post(client, "/predict", [one] * 20).status_code == 200


def test_a_model_that_fails_is_an_answer_without_a_word_of_the_request(small, one, capsys):
    with started(small) as client:
        client.app.predictor.one = lambda row: {}[row[3]]
        answer = post(client, "/predict", one | {"colour": CANARY})
        found = series(client)

    assert refused(answer, 500) == {}
    assert found['model_refused_requests_total{reason="internal"}'] == 1
    told = capsys.readouterr().err
    assert json.loads(told)["kind"] == "KeyError"
    assert json.loads(told)["where"].startswith("test_serving.py:")
    assert CANARY not in told


# 2,000 bodies that are broken in one place

CELLS = ["null", "true", "-0", "1e999", "-1e-999", "0.5", "1E5", "01", "+1", "NaN", '"x"', '""', "[]", "{}", '"\\ud800"', '"\\u0000"', f'"{CANARY}"', DIGITS * 80, DIGITS * 1000, "[[[[1]]]]", '{"a": {"a": 1}}', "undefined", "", '"' + "x" * 1001 + '"', "3.5e38", "18446744073709551616", "1" + "0" * 400 + ".5", "\x00", "'x'", '"\t"']  # fmt: skip


def broken(draw, text):
    """Return a body that is wrong in one place, mostly."""
    at, kind = draw.randrange(len(text)), draw.randrange(7)
    tokens = [*re.finditer(r'"[^"]*"|[-\d.]+|null|true|false', text)]
    token = draw.choice(tokens)
    if kind == 0:
        return (text[:at] + text[at + 1 :]).encode()
    if kind == 1:
        return (text[:at] + draw.choice(['"', "{", "}", "[", "]", ",", ":", "\\", "1", "é"]) + text[at:]).encode()
    if kind == 2:
        return text[:at].encode()
    if kind == 3:
        return text[:at].encode() + bytes([draw.randrange(256)]) + text[at + 1 :].encode()
    if kind == 4:
        other = draw.choice(tokens)
        return (text[: token.start()] + other[0] + text[token.end() :]).encode()
    return (text[: token.start()] + draw.choice(CELLS) + text[token.end() :]).encode()


def test_a_body_that_is_broken_in_one_place_is_answered_or_refused_and_never_repeated(client, make_records):
    draw, records, statuses = random.Random(0), make_records(40), []

    def ask(number):
        path, body, _ = FORMS[draw.choice([*FORMS])]
        chosen = [each | {"colour": CANARY} for each in draw.sample(records, draw.choice([1, 1, 2, 12]))]
        given = broken(draw, json.dumps(body(chosen), ensure_ascii=draw.random() < 0.5))
        answer = post(client, path, given)
        statuses.append(answer.status_code)
        if answer.status_code != 200:
            assert DIGITS not in answer.text, given
            assert CANARY not in answer.text or CANARY in str(keys(given)), given
            assert list(answer.json()) == ["error", "fields"], given
        assert answer.status_code in {200, 400, 422}, given

    for number in range(2000):
        ask(number)

    assert all(statuses.count(status) > 100 for status in (200, 400, 422))


def keys(given):
    """Return the names in a body: those a refusal may repeat."""
    found = []
    try:
        json.loads(given, object_pairs_hook=lambda pairs: found.extend(name for name, _ in pairs))
    except (ValueError, RecursionError):
        return []
    return found


# Metrics, events, the log


def test_metrics_count_rows_labels_and_refusals(client, make_records):
    labels = [label for label, _ in answered(client, "a list", make_records(5))]

    def ask():
        answered(client, "a list", make_records(5))
        post(client, "/predict", "{}")
        post(client, "/predict", "{")

    found = risen(client, ask)

    assert found["model_predictions_total"] == 5
    assert found["model_prediction_duration_seconds_count"] == 1
    assert found["model_prediction_score_count"] == 5
    assert found['model_refused_requests_total{reason="unfit"}'] == 1
    assert found['model_refused_requests_total{reason="malformed"}'] == 1
    for label in set(labels):
        assert found[f'model_predicted_label_total{{label="{label}"}}'] == labels.count(label)


UNEXPECTED = {
    "unknown": ("colour", [CANARY, ""]),
    "missing": ("age", [None]),
    "out of range": ("age", [-1, 50, 10**15]),
}


@every_form
@pytest.mark.parametrize("kind", UNEXPECTED)
def test_what_training_did_not_have_is_answered_and_counted_by_column(client, kind, form, one):
    name, values = UNEXPECTED[kind]

    for value in values:
        found = risen(client, lambda value=value: answered(client, form, [one | {name: value}]))
        assert found[f'model_unexpected_values_total{{column="{name}",kind="{kind}"}}'] == 1
        assert sum("unexpected" in each for each in found) == 1


def test_what_training_had_is_not_counted_as_unexpected(client, one):
    assert not any("unexpected" in name for name in risen(client, lambda: answered(client, "a record", [one])))


def test_nothing_that_a_client_sends_makes_a_time_series_of_its_own(client, one):
    for name, value in product(one, (CANARY, None, 10**9, True)):
        post(client, "/predict", one | {name: value})
    before = set(series(client))

    for number in range(300):
        client.request(random.Random(number).choice(["GET", "POST", "PUT"]), f"/{CANARY}/{number}?{number}")
        post(client, "/predict", {f"{CANARY}{number}": number})
        answered(client, "a record", [one | {"colour": f"{CANARY}{number}", "age": -number, "column_0": None}])
        client.post("/predict", content=json.dumps(one), headers=JSON | {"x-request-id": f"{CANARY}{number}"})

    assert set(series(client)) == before
    assert CANARY not in client.get("/metrics").text
    assert len(before) < 100


@pytest.mark.parametrize("without", ["", "colour, column_0"])
def test_a_value_is_in_the_prediction_log_and_nowhere_else(small, one, tmp_path, capfd, without):
    given = one | {"colour": CANARY, "column_0": f"{CANARY} too"}
    with started(small, log_dir=str(tmp_path / "log"), log_without=without) as client:
        for path, body, _ in FORMS.values():
            assert post(client, path, body([given])).status_code == 200
            assert CANARY not in post(client, path, body([given])).text
            refused(post(client, path, body([given | {"age": CANARY}])), 422)
            refused(post(client, path, json.dumps(body([given]))[:-1]), 400)
        counted = client.get("/metrics").text
    lines = [json.loads(line) for path in (tmp_path / "log").iterdir() for line in path.read_text().splitlines()]

    assert len(lines) == 2 * len(FORMS)
    told = {name: value for name, value in given.items() if name not in without}
    assert all(line["features"] == told for line in lines)
    assert CANARY not in counted
    assert CANARY not in "".join(capfd.readouterr())


# What it says of itself


def test_it_says_which_model_answers(client, small, one):
    manifest = bundle.load(small).manifest

    assert client.get("/version").json() == {
        "model_version": "3", "digest": manifest["digest"], "commit": "c0ffee", "model": "lightgbm.LGBMClassifier",
        "served_by": "the compiled model", "features": manifest["features"], "digests": manifest["digests"],
    }  # fmt: skip
    assert post(client, "/predict", one).json()["model_version"] == "3"
    assert series(client)[f'model_info{{commit="c0ffee",digest="{manifest["digest"]}",model_version="3"}}'] == 1


def test_without_a_version_the_digest_stands_in(small):
    with started(small) as client:
        assert client.get("/version").json()["model_version"] == bundle.digest_of(small)


def test_the_rows_of_features_are_in_the_order_that_the_version_tells(client, one):
    order = [*client.get("/version").json()["features"]]

    answer = post(client, "/predict", {"features": [[one[name] for name in order]]})

    assert answer.json()["predictions"] == [answered(client, "a record", [one])[0][0]]


def test_an_answer_has_the_id_of_its_request_or_one_of_its_own(client, one):
    def said(given=None):
        headers = JSON if given is None else JSON | {"x-request-id": given}
        return client.post("/predict", content=json.dumps(one), headers=headers).json()["request_id"]

    assert said("order 17/é".replace("é", "e")) == "order 17/e"
    assert said("x" * 128) == "x" * 128
    strange = ["", "x" * 129, b"caf\xe9", b"a\tb"]
    own = [said(), said(), *map(said, strange)]
    assert len(set(own)) == len(own)
    assert all(re.fullmatch("[0-9a-f]{24}", each) for each in own)


def test_it_is_alive_before_it_is_ready_and_ready_only_while_it_runs(small):
    service = app.create_app(predictor.load(small))
    outside = TestClient(service)  # without its start
    paths = ("/readyz", "/ping", "/healthz", "/health")

    def states(client):
        return [client.get(path).status_code for path in paths] + [client.get("/v1/models/model").json()["ready"]]

    before = states(outside)
    with TestClient(service) as client:
        during = states(client)
        service.draining = True
        draining = client.get("/readyz").status_code

    assert before == [503, 503, 200, 200, False]
    assert during == [200, 200, 200, 200, True]
    assert draining == 503


def test_kserve_finds_the_model_by_its_name(small, one):
    with started(small, model_name="income") as client:
        assert client.get("/v1/models").json() == {"models": ["income"]}
        assert client.get("/v1/models/income").json() == {"name": "income", "ready": True}
        assert post(client, "/v1/models/income:predict", {"instances": [one]}).status_code == 200
        assert post(client, KSERVE, {"instances": [one]}).status_code == 404


@pytest.mark.parametrize("model", [name for name in MODELS if "multi" not in name])
def test_a_bundle_whose_golden_rows_do_not_come_out_is_not_served(model, make_bundle, tmp_path, monkeypatch):
    folder = make_bundle(tmp_path, model.partition(",")[0], **MODELS[model])
    key = "predictions" if "regression" in model else "probabilities"
    golden = json.loads((folder / bundle.GOLDEN).read_text())
    golden[key][3] = golden[key][3] + 1e-6 if "regression" in model else [each + 1e-6 for each in golden[key][3]]
    real = bundle.read
    monkeypatch.setattr(bundle, "read", lambda where: (real(where)[0], real(where)[1] | {bundle.GOLDEN: json.dumps(golden).encode()}))  # fmt: skip

    with pytest.raises(Problem, match="answers 1 of its golden rows otherwise"):
        predictor.load(folder)


# The documents


@pytest.fixture(scope="module")
def fits(client):
    """Return whether the documents say that a body is answered at a path."""
    document = client.get("/openapi.json").json()

    def asked(path, body):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        schema = {"components": document["components"], **content["schema"]}
        jsonschema.Draft202012Validator.check_schema(schema)
        return jsonschema.Draft202012Validator(schema).is_valid(body)

    return asked


@pytest.mark.parametrize("model", [name for name in MODELS if "not" not in name])
def test_every_example_of_the_documents_is_answered_as_they_say(model, make_bundle, tmp_path):
    with started(make_bundle(tmp_path, model.partition(",")[0], **MODELS[model])) as client:
        document = client.get("/openapi.json").json()
        posts = {path: each["post"] for path, each in document["paths"].items() if "post" in each}
        answers = [
            (described, post(client, path, example["value"]))
            for path, described in posts.items()
            for example in described["requestBody"]["content"]["application/json"]["examples"].values()
        ]

    assert sorted(posts) == ["/invocations", "/predict", KSERVE]
    assert len(answers) == 6
    for described, answer in answers:
        assert answer.status_code == 200, answer.text
        schema = described["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), {"components": document["components"], **schema})


@every_form
def test_the_documents_allow_what_is_answered_and_nothing_else(client, fits, form, one):
    path, body, _ = FORMS[form]

    def agree(given, status):
        assert post(client, path, given).status_code == status, given
        assert fits(path, given) == (status == 200), given

    for changed in ({}, {"age": 39.0}, {"age": None}, {"colour": CANARY}, {"size.m²": -3.4e38}, {"colour": "x" * 1000}):
        agree(body([one | changed]), 200)
    if form == "split":  # its cells stand in any order: the documents say no more than that they are lists
        agree({"dataframe_split": body([one])["dataframe_split"] | {"index": [0]}}, 200)
        agree({"dataframe_split": body([one])["dataframe_split"] | {"iq": [0]}}, 422)
        agree({"dataframe_split": body([one])["dataframe_split"] | {"data": []}}, 422)
        agree(split(rows=[[1, 2]]), 422)
        agree(split(columns=["age", "age", "member", "colour", "column_0"]), 422)
        return
    for name, value, _ in (each for key, each in WRONG.items() if key != "half a character"):
        agree(body([one | {name: value}]), 422)
    agree(body([one | {"age": 1.5}]), 422)
    for name in ("age", "size.m²"):  # the last whole number that a double reads as the limit, and the next
        agree(body([one | {name: int(3.4e38) + 2**74 - 1}]), 200)
        agree(body([one | {name: -int(3.4e38) - 2**74}]), 422)
    if form in NAMED:
        agree(body([one | {"iq": 1}]), 422)
        agree(body([{"age": 1}]), 422)
    if form != "a record":
        agree(body([one] * 1000), 200)
        agree(body([one] * 1001), 422)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_documents_do_not_allow_another_shape(fits, shape):
    path, body, _ = SHAPES[shape]

    assert not fits(path, body)


def test_the_documents_describe_refusals_as_they_are(client, one):
    document = client.get("/openapi.json").json()
    responses = document["paths"]["/predict"]["post"]["responses"]
    answers = [post(client, "/predict", "{"), client.post("/predict"), post(client, "/predict", {})]

    assert [answer.status_code for answer in answers] == [400, 415, 422]
    for answer in answers:
        schema = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), {"components": document["components"], **schema})
    assert {"401", "408", "413", "503"} < set(responses)


def test_the_page_of_the_documents_needs_no_other_server(client):
    page = client.get("/docs")
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)|url: ["']([^"']+)""", page.text)
    parts = ["".join(each) for each in addresses]

    assert page.status_code == 200
    assert '<html lang="en">' in page.text
    assert client.get("/openapi.json").json()["paths"]["/readyz"]["get"]["summary"] == "Say whether this process should get traffic"  # fmt: skip
    assert not re.search(r"(https?:)?//\w", page.text)
    assert len(parts) == 4
    for part in parts:
        assert client.get(f"/{part}").status_code == 200, part


def test_the_image_holds_every_module_that_the_service_imports():
    copied = set()
    for line in (ROOT / "Dockerfile.serve").read_text().splitlines():
        if sources := re.match(r"COPY (src/.*) \S+$", line):
            for each in map(ROOT.joinpath, sources[1].split()):
                copied |= set(each.rglob("*.py")) if each.is_dir() else {each}

    assert imported(ROOT / "src/pawl/serving") - {ROOT / "src/pawl/compiler.py"} <= copied  # for who saves a bundle


def imported(folder):
    """Return our files that the modules in a folder import, whoever imports them, at the top or inside a function."""
    todo, seen = list(folder.glob("*.py")), set()
    while todo:
        if (path := todo.pop()) in seen:
            continue
        seen |= {path, path.with_name("__init__.py")}
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            bases = [ROOT / "src" / Path(*name.split(".")) for name in names if name.split(".")[0] in {"pawl", "task"}]
            todo += [
                file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py") if file.exists()
            ]
    return seen
