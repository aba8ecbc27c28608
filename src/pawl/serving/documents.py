"""The OpenAPI description of the ways to ask for predictions, from the types that decode them."""

from typing import Any

import msgspec

from pawl.serving.predictor import Served
from pawl.serving.requests import MAX_ROWS, Forms
from pawl.serving.settings import Settings

REFUSALS = {
    "400": "not JSON", "401": "an API key is needed", "408": "the body did not arrive", "413": "too large", "415": "not JSON by its header",
    "422": "the request does not fit the model", "503": "overloaded or ending: try again after Retry-After seconds",
}  # fmt: skip


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the schema of an object that has all of these."""
    return {"type": "object", "properties": properties, "required": [*properties], **more}


def _list(items: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": items, **more}


def described(given: dict[str, Any], served: Served, forms: Forms, settings: Settings, *, keys: bool) -> dict[str, Any]:
    """Return FastAPI's document with the predictions added."""
    record: Any = forms.record
    wanted = [record, forms.records, forms.features, forms.instances]
    schemas, parts = msgspec.json.schema_components(wanted, ref_template="#/components/schemas/{name}")
    one, many, features, instances = schemas
    components = given.setdefault("components", {}).setdefault("schemas", {})
    labels = served.manifest["labels"]
    text, label = {"type": "string"}, {"type": "string", "enum": labels} if labels else {"type": "number"}
    probabilities = _object({each: {"type": "number", "minimum": 0, "maximum": 1} for each in labels})
    row = _object({"predictions": label} | ({"probabilities": probabilities} if labels else {}))
    scores = _list(probabilities) if labels else {"type": "null"}
    answer = {"predictions": _list(label), "probabilities": scores, "model_version": text, "request_id": text}
    places = _list(_object({"field": text, "problem": text}))
    components |= parts | {"Answer": _object(answer), "Answers": _object({"predictions": _list(row)})}
    components["Refusal"] = _object({"error": text, "fields": places})
    width = {"minItems": len(forms.dtypes), "maxItems": len(forms.dtypes)}
    split = _object({
        "columns": _list({"enum": [*forms.dtypes]}, uniqueItems=True, **width),
        "data": _list({"type": "array", **width}, minItems=1, maxItems=MAX_ROWS),
    }, additionalProperties=False)  # fmt: skip
    split["properties"]["index"] = {}

    def of_one(name: str, content: Any) -> dict[str, Any]:
        return _object({name: content}, additionalProperties=False)

    # Of nobody: the others hold cells of the table, which not everyone who reads this may see.
    typical, nothing = served.golden["records"][:2]
    rows = [list(typical.values()), list(nothing.values())]
    shown = {
        "/predict": (
            "Answer a record, several, or rows of features", {"anyOf": [one, many, features]}, "Answer",
            {"record": typical, "records": [typical, nothing], "features": {"features": rows}},
        ),
        "/invocations": (
            "MLflow's scoring protocol", {"oneOf": [of_one("dataframe_split", split), of_one("dataframe_records", many), of_one("instances", instances)]}, "Answers",
            {"split": {"dataframe_split": {"columns": [*forms.dtypes], "data": rows}}, "records": {"dataframe_records": [typical]}},
        ),
        f"/v1/models/{settings.model_name}:predict": (
            "KServe's v1 protocol", of_one("instances", instances), "Answers", {"instances": {"instances": [typical]}},
        ),
    }  # fmt: skip
    refusal = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}}
    asked: dict[str, Any] = {}
    for path, (summary, schema, named, examples) in shown.items():
        content = {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}
        held = {"application/json": {"schema": {"$ref": f"#/components/schemas/{named}"}}}
        good = {"description": "the answers, in the order of the rows", "content": held}
        asked[path] = {"post": {
            "tags": ["predictions"], "summary": summary, "operationId": path.strip("/").replace("/", "_").replace(":", "_"),
            "requestBody": {"required": True, "content": {"application/json": content}},
            "responses": {"200": good, **{code: {"description": words, **refusal} for code, words in REFUSALS.items()}},
            **({"security": [{"bearer": []}]} if keys else {}),
        }}  # fmt: skip
    for operation in (each for path in given["paths"].values() for each in path.values()):
        operation["summary"] = operation.pop("description").rstrip(".")  # what it says, not what its function is called
    given["paths"] = asked | given["paths"]
    given["info"]["version"] = given["info"]["version"][:19]  # a digest is long
    if keys:
        given["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return given
