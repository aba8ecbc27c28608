"""Serve the bundle in PAWL_BUNDLE (models/bundle): python -m pawl.serving."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from pawl.problem import Problem


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Listen until SIGTERM; requests in flight are answered first."""
    host, port = environ.get("PAWL_HOST", "127.0.0.1"), environ.get("PAWL_PORT", "8000")
    try:
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise Problem(f"PAWL_PORT is {port}", "the environment", "give a number, for example 8000")
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, int(port)))
            except OSError as error:
                fix = "end what listens there, or set PAWL_PORT to another"
                raise Problem(f"cannot listen on port {port}: {error.strerror}", host, fix) from error

        import uvicorn

        from pawl import bundle
        from pawl.serving.app import create_app

        loaded = bundle.load(Path(environ.get("PAWL_BUNDLE", "models/bundle")))
        version, commit = environ.get("PAWL_MODEL_VERSION", ""), environ.get("PAWL_COMMIT", "")
        app = create_app(loaded, model_version=version, commit=commit)
    except Problem as problem:
        print(problem, file=sys.stderr)  # noqa: T201 - an entry point
        return problem.code
    print(f"{loaded.digest} on http://{host}:{port}  (/docs has examples)", file=sys.stderr, flush=True)  # noqa: T201 - same
    # One process: pods are what is scaled. Health and metrics would otherwise speak for one worker of several.
    uvicorn.run(app, host=host, port=int(port), access_log=False, log_level="warning", timeout_graceful_shutdown=10, server_header=False)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
