"""Thin entry points: parse, call one function, write, exit."""

import importlib.util
import sys

if (
    sys.version_info >= (3, 10)
    and importlib.util.find_spec("pawl") is None
    and not {"scripts.run", "scripts.environment", "scripts.in_image", "scripts.preflight"}
    & set(getattr(sys, "orig_argv", ()))
):
    raise SystemExit(
        f"error: this Python does not have the project's environment\n  where: {sys.executable}\n  fix: `make env`, then use .venv/bin/python"
    )
