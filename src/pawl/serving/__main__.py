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
import time
from collections.abc import Mapping
from pathlib import Path

from pawl.problem import Problem
from pawl.serving import predictor
from pawl.serving.log import event
from pawl.serving.settings import Settings, free


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Listen until SIGTERM."""
    started = time.monotonic()
    try:
        settings = Settings.of(environ)
        folder = Path(settings.bundle)
        free(settings.host, settings.port, "PAWL_HOST", "PAWL_PORT")
        trial = predictor.tried(folder)  # meanwhile the libraries are imported
        from pawl.serving.app import create_app
        from pawl.serving.server import Server

        predictor.survived(trial, folder)
        app = create_app(predictor.load(folder), settings)
        if settings.metrics_port:
            from prometheus_client import start_http_server

            free(settings.host, settings.metrics_port, "PAWL_HOST", "PAWL_METRICS_PORT")
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
    url, seconds = f"http://{settings.host}:{settings.port}", round(time.monotonic() - started, 2)
    log = settings.log_dir or None
    event("started", **identity, url=url, api_keys=len(app.keys), prediction_log=log, seconds=seconds)
    server.run()
    event("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
