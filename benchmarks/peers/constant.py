"""The same bytes for every request: what uvicorn itself costs. python constant.py PORT BYTES."""

import sys
from typing import Any

import uvicorn

BODY = b'"%s"' % (b"0" * (int(sys.argv[2]) - 2))
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", lifespan="off", log_level="error")
