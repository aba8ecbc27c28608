"""How the service listens: uvicorn, with deadlines and a drain, and with a shorter way for the request that is asked most.

uvicorn makes a task, an event and two writes for each request. One that is whole in what was just read, and small, needs none: it is
answered at once where its last byte is parsed. A client repeats its first line and headers to the byte: what httptools made of them is
remembered, and not asked again. Everything else goes uvicorn's way, through the same application.
"""

import logging
import re
import signal
import time
from http import HTTPStatus
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Java's client offers HTTP/2 with its first request; httptools would leave out the body. JSON has no new line before a name without quotes.
UPGRADE = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
HEAD = 300_000  # bytes of a request beside its body: first line, headers, what stands between chunks and behind them
HEADER_SECONDS = 5  # for the first line and the headers of a request
REQUEST_SECONDS = 30  # for all of it, and for who asked to take the answer
KEEP_SECONDS = 75  # a connection without a request: longer than balancers keep theirs (60), who would race its end
FORCED_SECONDS = 10  # for what is under way when the drain ends
REMEMBERED = 1000  # heads of requests, of at most as many bytes each
LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}


class Protocol(HttpToolsProtocol):
    """A connection. It knows since when it waits: uvicorn has no deadline for headers, nor for who does not take the answer. Nor has httptools a limit for headers."""

    begun, heard, whole, beside = 0.0, False, True, 0
    answering: Any = None
    parts: list[bytes] | None = None  # of the body of a request that may be answered at once
    data, refused = b"", False  # what was just read; whether it was found to need uvicorn's way

    def connection_made(self, transport: Any) -> None:
        """See uvicorn."""
        super().connection_made(transport)
        self.begun = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """See uvicorn, which tells only the last of a pipeline."""
        if self.answering:
            self.answering.disconnected = True
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.answering = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """See uvicorn."""
        end = data.find(b"\r\n\r\n") + 4
        known = self.config.app.heads.get(data[:end])  # type: ignore[union-attr]  # the service
        between = self.whole  # requests: what comes now is the beginning of one
        if known and between and len(data) - end == known[2] and self._free():
            self._unset_keepalive_if_required()
            self.begun, self.heard, self.whole = time.monotonic(), True, True
            if self._answered(known[0], known[1], data[end:], known=True):
                return
            self.refused = True
        if b"pgrade:" in data:
            data = UPGRADE.sub(b"\r\nx-grade:", data)
        self.data = data if between else b""
        self.beside += len(data)
        super().data_received(data)
        self.data, self.refused = b"", False
        if self.parts is not None:
            self._long_way()  # the rest has yet to come
        if self.beside > HEAD and not self.transport.is_closing():
            self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        """See uvicorn."""
        super().on_message_begin()
        self.begun, self.heard, self.whole, self.beside = time.monotonic(), False, False, 0

    def on_headers_complete(self) -> None:
        """See uvicorn; a prediction waits for its body, if nothing before it on this connection is under way."""
        self.heard = True
        plain = not self.expect_100_continue and self.parser.get_method() == b"POST" and self.parser.should_keep_alive()
        if self._free() and plain and self.url in self.config.app.at and not self.refused:  # type: ignore[union-attr]  # the service
            self.parts = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See uvicorn."""
        self.beside -= len(body)
        if self.parts is None:
            super().on_body(body)
        else:
            self.parts.append(body)

    def on_message_complete(self) -> None:
        """See uvicorn."""
        self.whole = True
        if self.parts is None:
            super().on_message_complete()
            return
        parts, self.parts = self.parts, None
        if self.transport.is_closing():  # the one before it was the last
            return
        path, headers, body = self.url.decode(), dict(self.headers), b"".join(parts)
        if not (status := self._answered(path, headers, body)):
            self.parts = parts
            self._long_way()
            super().on_message_complete()
            return
        head = self.data[: len(self.data) - len(body)]
        if (
            status == HTTPStatus.OK
            and head.find(b"\r\n\r\n") == len(head) - 4 <= REMEMBERED
            and self.data.endswith(body)
        ):
            heads = self.config.app.heads  # type: ignore[union-attr]  # the service
            if len(heads) >= REMEMBERED:
                heads.clear()
            heads[head] = path, headers, len(body)

    def _free(self) -> bool:
        """Say whether nothing before it on this connection is under way."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused and not self.transport.is_closing()  # fmt: skip

    def _answered(self, path: str, headers: dict[bytes, bytes], body: bytes, *, known: bool = False) -> int:
        """Answer a request if that can be done at once; return the status, or 0."""
        service: Any = self.config.app
        answer = service.at_once(path, headers, body, known=known)
        if answer is None:
            return 0
        status, content, extra = answer
        lines = [LINES[status]]
        lines += [
            b"%b: %b\r\n" % each for each in (*self.server_state.default_headers, *service.headers(content, extra))
        ]
        self.transport.write(b"".join([*lines, b"\r\n", content]))
        self.server_state.total_requests += 1
        if (b"connection", b"close") in extra:
            self.transport.close()
        return int(status)

    def _long_way(self) -> None:
        """Give uvicorn what was held back."""
        parts, self.parts = self.parts or [], None
        super().on_headers_complete()
        for part in parts:
            super().on_body(part)

    def late(self, now: float) -> bool:
        """Say whether the connection has had its time."""
        waited = now - self.begun
        if not self.heard:
            return waited > HEADER_SECONDS
        idle = self.whole and (self.cycle is None or self.cycle.response_complete)
        return waited > (KEEP_SECONDS if idle and not self.transport.get_write_buffer_size() else REQUEST_SECONDS)


class Server(uvicorn.Server):
    """One process, since pods are what is scaled."""

    def __init__(self, app: Any, host: str, port: int, drain: float) -> None:
        """drain: seconds between SIGTERM and the end, in which it still answers."""
        config = uvicorn.Config(
            app, host=host, port=port, http=Protocol, ws="none", access_log=False, log_level="error", server_header=False, proxy_headers=False,
            timeout_graceful_shutdown=FORCED_SECONDS, timeout_keep_alive=KEEP_SECONDS, backlog=4096,
        )  # fmt: skip
        super().__init__(config)
        self.app, self.drain, self.until = app, drain, 0.0
        app.waiting = lambda: len(self.server_state.tasks)

    def handle_exit(self, sig: int, frame: Any) -> None:  # noqa: ARG002 - uvicorn's
        """Begin the drain; at the second signal, or at Ctrl+C, end."""
        if self.app.draining:
            logging.getLogger("uvicorn.error").disabled = True  # it would tell what it cuts off, as a traceback
        if self.app.draining or sig == signal.SIGINT:
            self.until, self.force_exit = time.monotonic(), self.app.draining
        else:
            self.until = time.monotonic() + self.drain
        self.app.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Show out who is late, turn the log, end the drain. Called ten times a second."""
        now = time.monotonic()
        if counter % 10 == 0:
            for connection in list(self.server_state.connections):
                if connection.late(now):  # type: ignore[union-attr]  # each is a Protocol
                    connection.transport.abort()
            if self.app.log:
                self.app.log.tick()
        if self.app.draining and now >= self.until:
            self.should_exit = True
        return await super().on_tick(counter)
