"""One bundle as an HTTP service, by the same pipeline that was evaluated: there is no feature code here."""

import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from starlette.exceptions import HTTPException

from pawl import bundle
from pawl.problem import Problem

MAX_RECORDS = 1000
MAX_BODY = 4_000_000  # bytes
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)  # seconds
TOLERANCE = 1e-9  # another libm may round the last bit of a probability otherwise


class Answer(BaseModel):
    """What /predict returns: one entry per record, in their order."""

    predictions: list[str] | list[float]
    probabilities: list[dict[str, float]] | None = Field(description="label: probability; null for a regression")
    model_version: str
    request_id: str


class Place(BaseModel):
    """A part of a request that was refused."""

    field: str
    problem: str


class Refusal(BaseModel):
    """What a request that does not fit gets: where and why, never a value of it."""

    error: str
    fields: list[Place]


class Version(BaseModel):
    """What /version returns: which model answers, and what it was made of."""

    model_version: str
    digest: str
    commit: str
    model: str
    digests: dict[str, str]


def create_app(loaded: bundle.Bundle, *, model_version: str = "", commit: str = "") -> FastAPI:
    """Return the service of a bundle; raise Problem unless it answers its golden rows. Its digest stands in for a model_version."""
    if wrong := bundle.check_golden(loaded, TOLERANCE):
        what = f"the model answers {len(wrong)} of its golden rows otherwise than when it was made"
        fix = "use the versions of the lock that it was made with: requirements/serving.txt"
        raise Problem(what, loaded.digest, fix)
    version = model_version or loaded.digest
    registry = CollectorRegistry()
    predictions = Counter("model_predictions", "Records that were answered", registry=registry)
    rejected = Counter("model_rejected_requests", "Requests that were refused as malformed", registry=registry)
    name, help_text = "model_prediction_duration_seconds", "Time from a valid request to its answer"
    duration = Histogram(name, help_text, buckets=BUCKETS, registry=registry)
    info = Gauge("model_info", "The model that answers", ["model_version", "digest", "commit"], registry=registry)
    info.labels(version, loaded.digest, commit).set(1)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.ready = True
        yield
        app.state.ready = False

    title = f"{loaded.manifest['target']} by {loaded.manifest['model'].rpartition('.')[2]}"
    app = FastAPI(title=title, version=version, lifespan=lifespan, max_body_size=MAX_BODY)
    app.state.ready = False

    @app.exception_handler(RequestValidationError)
    def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        rejected.inc()
        return JSONResponse({"error": "the request does not fit the model", "fields": told(error)}, 422)

    @app.exception_handler(HTTPException)
    def turn_away(request: Request, error: HTTPException) -> JSONResponse:
        if request.url.path == "/predict":
            rejected.inc()
        return JSONResponse({"error": error.detail, "fields": []}, error.status_code, error.headers)

    records, labels = request_model(loaded.dtypes), loaded.manifest["labels"]

    @app.post("/predict", response_model=Answer, responses={422: {"model": Refusal}})
    def predict(body: records) -> dict[str, Any]:  # type: ignore[valid-type]  # made above
        started = time.perf_counter()
        given = [record.model_dump(by_alias=True) for record in body.records]  # type: ignore[attr-defined]  # made above
        answers, probabilities = loaded.predict_records(given)
        predictions.inc(len(answers))
        duration.observe(time.perf_counter() - started)
        named = [dict(zip(labels, row, strict=True)) for row in probabilities.tolist()] if labels else None
        answer = {"predictions": answers, "probabilities": named}
        return {**answer, "model_version": version, "request_id": uuid.uuid4().hex}

    # These answer on the event loop: predictions that fill every thread do not delay them.
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Say that the process lives; nothing else."""
        return {"status": "alive"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Say whether this process should get traffic."""
        return JSONResponse({"ready": app.state.ready}, 200 if app.state.ready else 503)

    @app.get("/version", response_model=Version)
    def identity() -> dict[str, Any]:
        made = {key: loaded.manifest[key] for key in ("digest", "model", "digests")}
        return {**made, "model_version": version, "commit": commit}

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    # Written into the finished document: FastAPI drops nulls from the examples that it is given, and a record needs them.
    # The golden row of which nothing is known: others hold cells of the table, which not everyone who reads this may see.
    example = {"golden": {"summary": "a golden row", "value": {"records": [dict.fromkeys(loaded.dtypes)]}}}
    asked = app.openapi()["paths"]["/predict"]["post"]["requestBody"]
    asked["content"]["application/json"]["examples"] = example
    return app


def request_model(dtypes: Mapping[str, str]) -> type[BaseModel]:
    """Return the model of a request: every record names every column, null where it is missing, and nothing else."""
    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # no number in quotes, no true for 1, no NaN
    columns = ((TYPES[dtype] | None, Field(alias=name)) for name, dtype in dtypes.items())
    fields: dict[str, Any] = {f"column_{number}": column for number, column in enumerate(columns)}
    record = create_model("Record", __config__=strict, **fields)
    many = Field(min_length=1, max_length=MAX_RECORDS)
    return create_model("Records", __config__=strict, records=(list[record], many))  # type: ignore[valid-type]  # made above


def _whole(value: float) -> float:
    if not value.is_integer():
        raise ValueError("a whole number is needed")
    return value


Number = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]  # scikit-learn's trees compute in 32 bits, and fail beyond

TYPES: dict[str, Any] = {
    "integer": Annotated[Number, AfterValidator(_whole)],  # 39.0 too: tables with missing values write whole numbers so
    "number": Number,
    "boolean": bool,
    "category": Annotated[str, Field(max_length=1000)],
    "text": Annotated[str, Field(max_length=100_000)],
    "datetime": Annotated[datetime, Field(strict=False)],
}


def told(error: RequestValidationError) -> list[dict[str, str]]:
    """Return where, as records[0].age, and why a request was refused, without a value of it: at most ten places."""
    places = []
    for found in error.errors()[:10]:  # its place is (body, records, 0, age)
        words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in found["loc"][1:])
        field = words.removeprefix(".")[:200] or "body"
        places.append({"field": field, "problem": str(found["msg"])[:200]})
    return places
