"""What the service answers, and what it refuses."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline

from pawl import bundle, frames
from pawl.problem import Problem
from pawl.serving import app
from task.features import build_features
from task.model import build_model
from task.params import FeaturizeParams

ROOT = Path(__file__).parents[2]
CANARY = "canary-7f3a"
DTYPES = {"size.m²": "number", "age": "integer", "member": "boolean", "colour": "category", "column_0": "category"}
KINDS = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "category": pa.string()}
TASKS = {"binary": ["no", "yes"], "multiclass": ["a", "b", "c"], "regression": []}


def record(number):
    return {
        "size.m²": None if number % 11 == 0 else number / 7,
        "age": None if number % 13 == 0 else number * 7 % 50,
        "member": [True, False, None][number % 3],
        "colour": [None, "red", "green", "blue"][number % 4],
        "column_0": "xyz"[number % 3],
    }


def small(folder, task, estimator=None):
    """Make a bundle of another task, with every dtype and with names that a Python attribute cannot have."""
    records = [record(number) for number in range(300)]
    frame = frames.from_records(records, DTYPES)
    value = (
        frame["size.m²"].fillna(20).to_numpy()
        + 10 * (frame["colour"] == "red")
        + 5 * frame["member"].fillna(0)
        + 8 * frame["colour"].isna()
    )
    labels = TASKS[task]
    y = value if task == "regression" else np.searchsorted(np.quantile(value, [0.5, 0.8][: len(labels) - 1]), value)
    estimator = estimator or (LGBMRegressor if task == "regression" else LGBMClassifier)
    model = build_model(estimator, {"n_estimators": 10, "random_state": 0})
    pipeline = Pipeline([("features", build_features(DTYPES, FeaturizeParams(min_category_rows=2))), ("model", model)])
    manifest = {"task": task, "target": "worth", "labels": labels, "threshold": 0.4, "features": DTYPES}
    return bundle.save(
        folder,
        pipeline=pipeline.fit(frame, y),
        manifest={**manifest, "model": "lightgbm.LGBM", "digests": {"data": "d1"}},
        golden=records[:9],
        trained_on=np.arange(3, dtype=np.uint64),
    )


@pytest.fixture(scope="module")
def loaded(project):
    return bundle.load(project.path / "models/bundle")


@pytest.fixture(scope="module")
def client(loaded):
    with TestClient(app.create_app(loaded, model_version="3", commit="c0ffee")) as started:
        yield started


@pytest.fixture(scope="module")
def clients(client, loaded, tmp_path_factory):
    """The service of each task, with its bundle and with records: null, unseen and extreme ones among them."""
    rows = loaded.golden["records"]
    made = {"the project's": (client, loaded, rows)}
    for task in TASKS:
        other = small(tmp_path_factory.mktemp(task), task)
        edges = [dict.fromkeys(DTYPES), record(1) | {"colour": CANARY, "column_0": ""}, record(2) | {"age": -(10**15)}]
        with TestClient(app.create_app(other)) as started:  # it answers after its end as before
            made[task] = (started, other, [*map(record, range(0, 300, 7)), *edges])
    return made


def post(client, body, kind="application/json"):
    return client.post("/predict", content=body, headers={"content-type": kind})


def answers(client, records):
    """Return [(prediction, its probabilities)] of a request that must be answered."""
    answer = client.post("/predict", json={"records": records})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    probabilities = found["probabilities"] or [None] * len(records)
    return list(zip(found["predictions"], probabilities, strict=True))


def offline(loaded, records):
    """Return the same from a table, as the pipeline's stages take it."""
    columns = {name: [each[name] for each in records] for name in loaded.dtypes}
    table = pa.table({name: pa.array(columns[name], KINDS[dtype]) for name, dtype in loaded.dtypes.items()})
    predictions, probabilities = loaded.predict(frames.from_table(table, loaded.dtypes))
    labels = loaded.manifest["labels"]
    if not labels:
        return [(value, None) for value in predictions.tolist()]
    named = [dict(zip(labels, row, strict=True)) for row in probabilities.tolist()]
    return list(zip([labels[number] for number in predictions], named, strict=True))


def test_it_answers_what_the_evaluation_predicted(project, client, loaded):
    test = pq.read_table(project.path / "data/prepared/test.parquet").slice(0, 200)
    evaluated = {row["row_id"]: row for row in pq.read_table(project.path / "reports/predictions.parquet").to_pylist()}

    got = answers(client, test.select(list(loaded.dtypes)).to_pylist())

    expected = [evaluated[row] for row in test["row_id"].to_pylist()]
    assert len(expected) == 200
    assert [label for label, _ in got] == [row["prediction"] for row in expected]
    for label in loaded.manifest["labels"]:
        mine, theirs = [row[label] for _, row in got], [row[f"probability {label}"] for row in expected]
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", ["the project's", *TASKS])
def test_a_record_alone_is_answered_as_in_a_batch_and_as_in_a_table(clients, which):
    client, loaded, records = clients[which]

    batch = answers(client, records)

    assert [answers(client, [each])[0] for each in records] == batch
    assert batch == offline(loaded, records)
    assert len({json.dumps(each) for each in batch}) > 5


@pytest.mark.parametrize("which", ["the project's", *TASKS])
def test_every_column_may_be_null_alone_and_together(clients, which):
    client, loaded, records = clients[which]
    holes = [records[2] | dict.fromkeys([name]) for name in loaded.dtypes] + [dict.fromkeys(loaded.dtypes)]

    assert [answers(client, [each])[0] for each in holes] == offline(loaded, holes)


def test_the_order_of_columns_says_nothing(client, loaded):
    one = loaded.golden["records"][0]

    assert answers(client, [dict(reversed(one.items()))]) == answers(client, [one])


def test_a_whole_number_may_be_written_with_a_point(client, loaded):
    one = loaded.golden["records"][0] | {"age": 39}

    assert answers(client, [one | {"age": 39.0}]) == answers(client, [one])


@pytest.mark.parametrize("column", ["size.m²", "age"])
@pytest.mark.parametrize("extreme", [1e39, -1.7e308, 1.0, -0.0])
def test_an_extreme_number_is_answered_or_refused_never_an_error_of_the_service(tmp_path, column, extreme):
    forest = small(tmp_path, "binary", RandomForestClassifier)  # it computes in 32 bits

    with TestClient(app.create_app(forest), raise_server_exceptions=False) as client:
        answer = client.post("/predict", json={"records": [record(1) | {column: extreme}]})

    assert answer.status_code in {200, 422}
    assert answer.status_code == 200 or column in answer.json()["fields"][0]["field"]


def test_a_regression_has_numbers_and_no_probabilities(clients):
    client, _, records = clients["regression"]

    answer = client.post("/predict", json={"records": records[:2]}).json()

    assert answer["probabilities"] is None
    assert all(isinstance(value, float) for value in answer["predictions"])


def test_probabilities_are_named_by_label_and_the_threshold_decides(clients):
    client, _, records = clients["binary"]
    found = answers(client, records)

    assert {label for label, _ in found} == {"no", "yes"}
    assert any(0.4 <= row["yes"] < 0.5 for _, row in found)
    assert all(label == ("yes" if row["yes"] >= 0.4 else "no") for label, row in found)


def given(name, value, *, instead=None):
    """Return a change of the first golden record; `instead` is raw JSON for the value."""

    def change(one):
        text = json.dumps({"records": [one, one | {name: value}]})
        return text.replace(json.dumps(value), instead) if instead else text

    return change


def lacking(one):
    return json.dumps({"records": [one, {name: value for name, value in one.items() if name != "age"}]})


BAD = {
    "a number in quotes": (given("age", "39"), "records[1].age"),
    "text for a number": (given("age", CANARY), "records[1].age"),
    "true for a number": (given("age", value=True), "records[1].age"),
    "a part of a whole number": (given("age", 1.5), "records[1].age"),
    "NaN": (given("age", float("nan")), "records[1].age"),
    "Infinity": (given("capital_gain", float("inf")), "records[1].capital_gain"),
    "1e999": (given("age", CANARY, instead="1e999"), "records[1].age"),
    "400 digits": (given("age", 10**400), "records[1].age"),
    "a list": (given("age", [CANARY]), "records[1].age"),
    "a number for a category": (given("sex", 7181), "records[1].sex"),
    "an object for a category": (given("sex", {CANARY: CANARY}), "records[1].sex"),
    "half a character": (given("sex", CANARY, instead=f'"{CANARY}\\ud800"'), "records[1].sex"),
    "an endless category": (given("sex", CANARY * 100), "records[1].sex"),
    "a missing column": (lacking, "records[1].age"),
    "an extra column": (given("iq", CANARY), "records[1].iq"),
    "an inner name": (given("column_0", CANARY), "records[1].column_0"),
    "an extra part": (lambda one: json.dumps({"records": [one], "iq": CANARY}), "iq"),
    "no records": (lambda _: "{}", "records"),
    "an empty list": (lambda _: '{"records": []}', "records"),
    "1001 records": (lambda one: json.dumps({"records": [one] * 1001}), "records"),
    "null": (lambda _: '{"records": [null]}', "records[0]"),
    "text for a record": (lambda _: json.dumps({"records": [CANARY]}), "records[0]"),
    "a list at the top": (lambda one: json.dumps([one | {"sex": CANARY}]), "body"),
    "nothing": (lambda _: "", "body"),
}


@pytest.mark.parametrize(("change", "field"), BAD.values(), ids=BAD)
def test_a_request_that_does_not_fit_is_refused_by_the_name_of_its_field_and_no_value_comes_back(
    client, loaded, change, field
):
    answer = post(client, change(loaded.golden["records"][0]))

    assert answer.status_code == 422
    assert [found["field"] for found in answer.json()["fields"]] == [field]
    assert answer.json()["fields"][0]["problem"]
    assert CANARY not in answer.text
    assert "7181" not in answer.text


UNREADABLE = {
    "not JSON": (f'{{"records": {CANARY}', "application/json"),
    "cut off": (f'{{"records": [{{"sex": "{CANARY}', "application/json"),
    "not UTF-8": (b'{"records": "' + CANARY.encode() + b'\xff"}', "application/json"),
    "too deep": ("[" * 100_000, "application/json"),
    "5000 digits": (f'{{"records": {"7" * 5000}, "{CANARY}": 1}}', "application/json"),
    "text": (json.dumps({"records": [{"sex": CANARY}]}), "text/plain"),
    "a form": (f"records={CANARY}", "application/x-www-form-urlencoded"),
}


@pytest.mark.parametrize(("body", "kind"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_cannot_be_read_is_refused_in_the_same_shape_and_counted(client, body, kind):
    before = metrics(client)["model_rejected_requests_total"]

    answer = post(client, body, kind)

    assert answer.status_code in {400, 422}
    assert list(answer.json()) == ["error", "fields"]
    assert CANARY not in answer.text
    assert "7777" not in answer.text
    assert metrics(client)["model_rejected_requests_total"] == before + 1


@pytest.mark.parametrize("how", ["at once", "in pieces", "by its header alone"])
def test_a_body_over_the_limit_is_too_large(client, how):
    pieces = (CANARY.encode() * 10_000 for _ in range(app.MAX_BODY // 100_000 + 1))
    bodies = {"at once": CANARY.encode() * 10_000 * 40, "in pieces": pieces, "by its header alone": b""}
    length = {"content-length": str(app.MAX_BODY + 1)} if how == "by its header alone" else {}

    answer = client.post("/predict", content=bodies[how], headers={"content-type": "application/json", **length})

    assert answer.status_code == 413
    assert CANARY not in answer.text


def test_a_request_of_the_greatest_size_is_answered(client, loaded):
    one = loaded.golden["records"][0]

    assert len(answers(client, [one] * 1000)) == 1000


def metrics(client):
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_count_records_requests_and_refusals(client, loaded):
    before = metrics(client)

    answers(client, loaded.golden["records"][:5])
    post(client, "{}")
    after = metrics(client)

    risen = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert risen["model_predictions_total"] == 5
    assert risen["model_rejected_requests_total"] == 1
    assert risen["model_prediction_duration_seconds_count"] == 1


def test_nothing_that_a_client_sends_makes_a_new_time_series(client):
    before = set(metrics(client))

    for path in (f"/{CANARY}", f"/predict/{CANARY}", f"/version?{CANARY}"):
        client.get(path)
    post(client, json.dumps({"records": [{CANARY: CANARY}]}))

    assert set(metrics(client)) == before


def test_it_says_which_model_answers(client, loaded):
    told = client.get("/version").json()

    assert told == {
        "model_version": "3", "digest": loaded.digest, "commit": "c0ffee",
        "model": "lightgbm.LGBMClassifier", "digests": loaded.manifest["digests"],
    }  # fmt: skip
    assert client.post("/predict", json={"records": loaded.golden["records"][:1]}).json()["model_version"] == "3"
    info = f'model_info{{commit="c0ffee",digest="{loaded.digest}",model_version="3"}}'
    assert metrics(client)[info] == 1


def test_without_a_version_the_digest_stands_in(clients):
    client, loaded, _ = clients["regression"]

    assert client.get("/version").json()["model_version"] == loaded.digest


def test_each_answer_has_an_id_of_its_own(client, loaded):
    body = {"records": loaded.golden["records"][:1]}

    assert len({client.post("/predict", json=body).json()["request_id"] for _ in range(5)}) == 5


def test_it_is_alive_before_it_is_ready_and_ready_only_while_it_runs(loaded):
    service = app.create_app(loaded)
    outside = TestClient(service)  # without its start

    states = [outside.get("/readyz").status_code]
    alive = outside.get("/healthz").status_code
    with TestClient(service) as client:
        states.append(client.get("/readyz").status_code)
    states.append(outside.get("/readyz").status_code)

    assert alive == 200
    assert states == [503, 200, 503]


@pytest.mark.parametrize("which", ["the project's", *TASKS])
def test_a_bundle_whose_golden_rows_do_not_come_out_does_not_start(clients, which):
    _, loaded, _ = clients[which]
    key = "predictions" if which == "regression" else "probabilities"
    changed = np.array(loaded.golden[key])
    changed[3] += 1e-6
    wrong = loaded._replace(golden=loaded.golden | {key: changed.tolist()})

    with pytest.raises(Problem, match="answers 1 of its golden rows otherwise"), TestClient(app.create_app(wrong)):
        pass


@pytest.mark.parametrize("which", ["the project's", *TASKS])
def test_the_example_of_the_documentation_is_answered(clients, which):
    client, _, _ = clients[which]
    described = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    example = described["requestBody"]["content"]["application/json"]["examples"]["golden"]["value"]

    assert len(answers(client, example["records"])) == 1


def test_the_documentation_describes_a_refusal_as_it_is(client):
    document = client.get("/openapi.json").json()
    shape = document["paths"]["/predict"]["post"]["responses"]["422"]["content"]["application/json"]["schema"]

    described = document["components"]["schemas"][shape["$ref"].rpartition("/")[2]]

    assert set(described["properties"]) == set(post(client, "{}").json())


def test_the_image_holds_every_module_that_the_service_imports():
    copied = set()
    for line in (ROOT / "Dockerfile.serve").read_text().splitlines():
        if sources := re.match(r"COPY (src/.*) \S+$", line):
            for each in map(ROOT.joinpath, sources[1].split()):
                copied |= set(each.rglob("*.py")) if each.is_dir() else {each}

    assert imported(ROOT / "src/pawl/serving") <= copied


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
