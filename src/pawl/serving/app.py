"""One bundle as an HTTP service. Predictions take a short way of their own; FastAPI has the rest: health, metrics, documents, and what you add.

An answer takes a few dozen microseconds, so one row is answered where it arrives; batches, and pipelines that are not compiled, in one thread.
"""

import asyncio
import contextlib
import hashlib
import hmac
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from pawl.compiled import Compiled
from pawl.problem import Problem
from pawl.serving import documents
from pawl.serving.counts import Counts
from pawl.serving.log import PredictionLog, event
from pawl.serving.predictor import Served
from pawl.serving.requests import Forms, Refused, Rows
from pawl.serving.settings import Settings, listed

MAX_BODY = 4_000_000  # bytes
SMALL = 65_536  # bytes: longer bodies are read in the thread
FEW = 8  # rows that are answered where they arrive
WAITING = 16  # batches: more are answered 503
HELD = 16 * MAX_BODY  # bytes of all bodies that are on their way: more are answered 503
BODY_SECONDS = 10
Message = MutableMapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[Message], Any]
Headers = list[tuple[bytes, bytes]]
Head = tuple[str, dict[bytes, bytes], int]  # path, headers, bytes of the body


class Service(FastAPI):
    """The application. `draining` and `waiting` are set by who runs it."""

    def __init__(self, served: Served, settings: Settings) -> None:
        manifest = served.manifest
        version = settings.model_version or manifest["digest"]
        title = f"{manifest['target']} by {manifest['model'].rpartition('.')[2]}"
        off: dict[str, Any] = {"docs_url": None, "redoc_url": None, "redirect_slashes": False}
        super().__init__(title=title, version=version, lifespan=self._lifespan, max_body_size=MAX_BODY, **off)
        self.served, self.settings, self.model_version = served, settings, version
        self.ready = self.draining = False
        self.waiting: Callable[[], int] = int  # how many requests are under way: who listens knows
        self.labels, self.predictor = manifest["labels"], served.predictor
        fields = {f"p{number}": label for number, label in enumerate(self.labels)}
        scores = [(each, float) for each in fields]
        self.named: Any = msgspec.defstruct("Probabilities", scores, rename=fields, gc=False)
        self.quick = isinstance(self.predictor, Compiled)
        identity = {"model_version": version, "digest": manifest["digest"], "commit": settings.commit}
        values = [] if self.labels else served.golden["predictions"]
        self.counts = Counts(self.labels, values, manifest.get("seen", {}), identity)
        self.log: PredictionLog | None = None
        if settings.log_dir:
            self.log = PredictionLog(settings, list(manifest["features"]), version, self.counts.drop)
        self.keys = [_hashed(key, number) for number, key in enumerate(listed(settings.api_keys), 1)]
        self.forms = Forms(manifest["features"])
        named = f"/v1/models/{settings.model_name}:predict"
        self.ways = {"/predict": self.forms.predict, "/invocations": self.forms.mlflow, named: self.forms.kserve}
        self.at = frozenset(path.encode() for path in self.ways)
        self.heads: dict[bytes, Head] = {}  # by first line and headers, as they came
        # One thread, behind the one that reads requests: a batch never delays a single row by more than a few of its own.
        self.thread = ThreadPoolExecutor(1, "batches", _step_back)
        self.batches = self.reading = self.held = self.looked = 0
        self.prefix, self.number = os.urandom(6).hex(), 0
        self._routes()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and (decode := self.ways.get(scope["path"])):
            if scope["method"] != "POST":
                refused = JSONResponse({"error": "ask with POST", "fields": []}, 405, {"allow": "POST"})
                await refused(scope, receive, send)
            else:
                await self._predict(decode, dict(scope["headers"]), receive, send, plain=scope["path"] == "/predict")
        else:
            await super().__call__(scope, receive, send)

    async def _predict(
        self, decode: Callable[[bytes], Rows], headers: dict[bytes, bytes], receive: Receive, send: Send, *, plain: bool
    ) -> None:
        try:
            self._admit(headers)
            self._crowd()
            self._media(headers)
            self.reading += 1
            try:
                body, more = await _part(receive)  # mostly all of it, without the price of a deadline
                if more or len(body) > MAX_BODY:
                    body = await self._rest(body, receive, more=more)
            finally:
                self.reading -= 1
            request = self._request(headers)
            large = len(body) > SMALL
            if large or not self.quick:
                content = await self._in_thread(self._answer, decode, body, request, plain=plain, large=large)
            else:
                started = time.perf_counter()
                rows = decode(body)
                if len(rows) <= FEW:
                    content = self._answered(rows, request, started, plain=plain, here=True)
                else:
                    content = await self._in_thread(self._answered, rows, request, started, plain=plain, large=True)
            status, extra = 200, self._ending()
        except Exception as error:  # noqa: BLE001 - what it is, `_refused` says
            status, content, extra = self._refused(error)
        await send({"type": "http.response.start", "status": status, "headers": self.headers(content, extra)})
        await send({"type": "http.response.body", "body": content})

    def at_once(self, path: str, headers: dict[bytes, bytes], body: bytes, *, known: bool = False) -> tuple[int, bytes, Headers] | None:  # fmt: skip
        """Return (status, answer, more headers) of a whole request; None of one that is not answered where it arrives.

        known: one with these headers was answered before: they need no second look.
        """
        if not self.quick or len(body) > SMALL:
            return None
        try:
            if not known:
                self._admit(headers)
            self._crowd(at_once=True)
            if not known:
                self._media(headers)
            started = time.perf_counter()
            if len(rows := self.ways[path](body)) > FEW:
                return None
            content = self._answered(rows, self._request(headers), started, plain=path == "/predict", here=True)
            return 200, content, self._ending()
        except Exception as error:  # noqa: BLE001 - what it is, `_refused` says
            return self._refused(error)

    def _refused(self, error: Exception) -> tuple[int, bytes, Headers]:
        """Count a request that is not answered; return what it gets instead. Of an unforeseen error the caller gets no more than that there was one."""
        if not isinstance(error, Refused):
            event("error", kind=type(error).__name__, where=_where(error))
            error = Refused(500, "internal", "the model failed; the service's log says where")
        self.counts.refuse(error.reason)
        extra = [(b"retry-after", b"1")] if error.status == 503 else []
        if error.status == 401:
            extra.append((b"www-authenticate", b"Bearer"))
        if error.status in {400, 408, 413} and not self.draining:  # what is left of the body is not read
            extra.append((b"connection", b"close"))
        content = msgspec.json.encode({"error": error.error, "fields": error.places})
        return error.status, content, [*extra, *self._ending()]

    def _ending(self) -> Headers:
        return [(b"connection", b"close")] if self.draining else []

    @staticmethod
    def headers(content: bytes, extra: Headers) -> Headers:
        """Return the headers of an answer."""
        return [JSON, (b"content-length", b"%d" % len(content)), *extra]

    def _turn(self) -> None:
        self.looked = 0

    def _admit(self, headers: dict[bytes, bytes]) -> None:
        """Raise Refused without a key, where one is needed."""
        if self.keys and not self._may(headers):
            raise Refused(401, "unauthorized", "an API key is needed: Authorization: Bearer <key>, or X-API-Key")

    def _crowd(self, *, at_once: bool = False) -> None:
        """Raise Refused if too many are waiting: before the body is read."""
        # Who sends slowly keeps nobody out, nor do those that were looked at in this turn of the loop: of a burst some are answered.
        if at_once or (waiting := self.waiting() - self.reading) > self.settings.max_waiting:
            if not self.looked:
                asyncio.get_running_loop().call_soon(self._turn)
            self.looked += 1
            if (self.looked > self.settings.max_waiting) if at_once else (waiting - self.looked >= self.settings.max_waiting):  # fmt: skip
                raise Refused(503, "overload", "too many requests are waiting: try again")

    @staticmethod
    def _media(headers: dict[bytes, bytes]) -> None:
        """Raise Refused for a body that need not be read."""
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
            raise Refused(415, "media_type", "send JSON, with the header Content-Type: application/json")
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refused(415, "media_type", "send the body without Content-Encoding")
        if int(headers.get(b"content-length", b"0")) > MAX_BODY:
            raise Refused(413, "too_large", f"the body is larger than {MAX_BODY:,} bytes")

    def _may(self, headers: dict[bytes, bytes]) -> bool:
        given = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        hashed = hashlib.sha256(given).digest()
        return sum(hmac.compare_digest(hashed, key) for key in self.keys) > 0  # each of them: the time tells nothing

    async def _rest(self, body: bytes, receive: Receive, *, more: bool) -> bytes:
        parts, size = [body], len(body)
        self.held += size
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more and size <= MAX_BODY:
                    if self.held > HELD:
                        raise Refused(503, "overload", "too many bodies are on their way: try again")
                    body, more = await _part(receive)
                    parts.append(body)
                    size += len(body)
                    self.held += len(body)
        except TimeoutError as error:
            raise Refused(408, "timeout", f"the body did not arrive within {BODY_SECONDS} s") from error
        finally:
            self.held -= size
        if size > MAX_BODY:
            raise Refused(413, "too_large", f"the body is larger than {MAX_BODY:,} bytes")
        return b"".join(parts)

    def _request(self, headers: dict[bytes, bytes]) -> str:
        """Return the caller's X-Request-ID, or one of our own."""
        given = headers.get(b"x-request-id", b"")
        if 0 < len(given) <= 128 and given.isascii() and given.decode().isprintable():
            return given.decode()
        self.number += 1
        return f"{self.prefix}{self.number:012x}"

    async def _in_thread(self, work: Callable[..., bytes], *given: Any, plain: bool, large: bool) -> bytes:
        if self.batches >= (WAITING if large else self.settings.max_waiting):
            raise Refused(503, "overload", "too many batches are waiting: try again")
        self.batches += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.thread, lambda: work(*given, plain=plain))
        finally:
            self.batches -= 1

    def _answer(self, decode: Callable[[bytes], Rows], body: bytes, request: str, *, plain: bool) -> bytes:
        started = time.perf_counter()
        return self._answered(decode(body), request, started, plain=plain)

    def _answered(self, rows: Rows, request: str, started: float, *, plain: bool, here: bool = False) -> bytes:
        """Return the answer to rows, counted and logged. here: in the thread of the event loop, to which the compiled model's `one` belongs; `many` is the other thread's."""
        if here:
            found = [self.predictor.one(row) for row in rows]
            answers = [answer for answer, _ in found]
            scores: Any = [score for _, score in found] if self.labels else None
        else:
            answers, scores = self.predictor.many(rows)
        if self.log:
            self.log.write(request, rows, answers, scores)
        named = None if scores is None else [self.named(*each) for each in scores]
        if plain:
            content = ENCODER.encode(Answer(answers, named, self.model_version, request))
        elif named is None:
            content = ENCODER.encode({"predictions": [{"predictions": answer} for answer in answers]})
        else:
            pairs = zip(answers, named, strict=True)
            told = [{"predictions": answer, "probabilities": each} for answer, each in pairs]
            content = ENCODER.encode({"predictions": told})
        self.counts.answered(rows, answers, scores, time.perf_counter() - started)
        return content

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.ready = True
        yield
        self.ready = False
        self.thread.shutdown()
        if self.log:
            self.log.close()

    def _routes(self) -> None:
        manifest, settings = self.served.manifest, self.settings
        registry = CollectorRegistry()
        registry.register(self.counts)
        self.registry = registry
        identity = {
            "model_version": self.model_version, "digest": manifest["digest"], "commit": settings.commit, "model": manifest["model"],
            "served_by": self.served.by, "features": manifest["features"], "digests": manifest["digests"],
        }  # fmt: skip
        served_name = settings.model_name

        @self.exception_handler(HTTPException)
        def turn_away(_: Request, error: HTTPException) -> JSONResponse:
            told = "no such route: /docs lists them" if error.status_code == 404 else error.detail
            return JSONResponse({"error": told, "fields": []}, error.status_code, error.headers)

        @self.get("/healthz", tags=["operations"])
        async def healthz() -> dict[str, str]:
            """Say that the process lives; nothing else."""
            return {"status": "alive"}

        @self.get("/health", tags=["operations"])
        async def health() -> dict[str, str]:
            """Say the same, in the words of many load balancers."""
            return {"status": "healthy"}

        @self.get("/readyz", tags=["operations"], responses={503: {"description": "starting, or draining"}})
        async def readyz() -> JSONResponse:
            """Say whether this process should get traffic."""
            ready = self.ready and not self.draining
            return JSONResponse({"ready": ready}, 200 if ready else 503)

        @self.get("/version", tags=["operations"])
        async def version() -> dict[str, Any]:
            """Which model answers, what it was made of, and in which order rows are given."""
            return identity

        @self.get("/ping", include_in_schema=False)
        async def ping() -> Response:
            return Response("\n" if self.ready else "", 200 if self.ready else 503)

        @self.get("/v1/models", include_in_schema=False)
        async def models() -> dict[str, list[str]]:
            return {"models": [served_name]}

        @self.get(f"/v1/models/{served_name}", include_in_schema=False)
        async def model() -> dict[str, Any]:
            return {"name": served_name, "ready": self.ready}

        if not settings.metrics_port:

            @self.get("/metrics", include_in_schema=False)
            async def metrics() -> Response:
                return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

        # The page's parts come from here, by relative addresses: clusters reach no other server, and proxies add prefixes.
        parts = Path(str(files("fastapi_swagger"))) / "resources"
        self.mount("/docs/parts", StaticFiles(directory=parts))

        @self.get("/docs", include_in_schema=False)
        async def docs() -> Response:
            at: dict[str, Any] = {f"swagger_{kind}_url": f"docs/parts/{name}" for kind, name in PARTS.items()}
            page = get_swagger_ui_html(openapi_url="openapi.json", title=self.title, **at)
            return HTMLResponse(bytes(page.body).replace(b"<html>", b'<html lang="en">', 1))

    def openapi(self) -> dict[str, Any]:
        """Return the description of the service, predictions included."""
        if not self.openapi_schema:
            given, keys = super().openapi(), bool(self.keys)
            self.openapi_schema = documents.described(given, self.served, self.forms, self.settings, keys=keys)
        return self.openapi_schema


def create_app(served: Served, settings: Settings | None = None) -> Service:
    """Return the service of a bundle that was loaded: `predictor.load`."""
    return Service(served, settings or Settings())


class Answer(msgspec.Struct, gc=False):
    """Of /predict."""

    predictions: Sequence[Any]
    probabilities: Sequence[Any] | None
    model_version: str
    request_id: str


ENCODER = msgspec.json.Encoder()
PARTS = {"js": "swagger-ui-bundle.js", "css": "swagger-ui.css", "favicon": "favicon-32x32.png"}
JSON = (b"content-type", b"application/json")


async def _part(receive: Receive) -> tuple[bytes, bool]:
    """Return what is there of a body, and whether there is more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Refused(400, "disconnected", "the connection was closed before the request was whole")
    return message.get("body", b""), message.get("more_body", False)


def _hashed(key: str, number: int) -> bytes:
    """Return the SHA-256 of a key, or of `sha256:<hex>` what it says; raise Problem if it says none."""
    hexed = key.removeprefix("sha256:")
    if hexed == key:
        return hashlib.sha256(key.encode()).digest()
    if not re.fullmatch("[0-9a-fA-F]{64}", hexed):
        fix = "printf %s <key> | sha256sum gives them"
        raise Problem(f"PAWL_API_KEYS: entry {number} is not sha256: and 64 hexadecimal digits", "the environment", fix)
    return bytes.fromhex(hexed)


def _step_back() -> None:
    """Let the thread of batches run when the others wait."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _where(error: BaseException) -> str:
    """Return file and line of an error, without its message: that may hold values."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
