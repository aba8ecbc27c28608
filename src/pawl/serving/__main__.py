"""Serve a bundle: python -m pawl.serving. The environment says which, where and how: pawl.serving.settings.

SIGTERM: not ready any more, answers close their connections, and after PAWL_DRAIN_SECONDS the rest ends. A second one ends at once.
"""

import signal
import sys

if __name__ == "__main__":  # as the first process of a container it would not hear it before uvicorn does
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))

import gc
import os
import resource
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from pawl.problem import Problem
from pawl.serving import predictor
from pawl.serving.log import event
from pawl.serving.settings import Settings


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Listen until SIGTERM."""
    started = time.monotonic()
    try:
        settings = Settings.of(environ)
        folder = Path(settings.bundle)
        _free(settings.host, settings.port, "PAWL_PORT")
        trial = predictor.tried(folder)  # meanwhile the libraries are imported
        from pawl.serving.app import create_app
        from pawl.serving.server import Server

        predictor.survived(trial, folder)
        app = create_app(predictor.load(folder), settings)
        if settings.metrics_port:
            from prometheus_client import start_http_server

            _free(settings.host, settings.metrics_port, "PAWL_METRICS_PORT")
            start_http_server(settings.metrics_port, settings.host, app.registry)
    except Problem as problem:
        print(problem, file=sys.stderr)  # noqa: T201 - an entry point
        return problem.code
    sys.setswitchinterval(0.0005)  # a row does not wait for the 5 ms that a batch may hold the interpreter
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a connection is a file
    gc.collect()
    gc.freeze()
    app.openapi()
    server = Server(app, settings.host, settings.port, settings.drain_seconds)
    identity = {"digest": app.served.manifest["digest"], "model_version": app.model_version, "served_by": app.served.by}
    event(
        "started",
        **identity,
        url=f"http://{settings.host}:{settings.port}",
        api_keys=len(app.keys),
        prediction_log=settings.log_dir or None,
        seconds=round(time.monotonic() - started, 2),
    )
    server.run()
    event("stopped")
    return 0


def _free(host: str, port: int, name: str) -> None:
    """Raise Problem unless one can listen there. name: the variable that says the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            fix = f"end what listens there, or set {name} to another"
            if isinstance(error, socket.gaierror):
                fix = "PAWL_HOST is an address of this machine: 127.0.0.1, or 0.0.0.0 for all"
            raise Problem(f"cannot listen on port {port}: {error.strerror}", host, fix) from error


if __name__ == "__main__":
    sys.exit(main())
