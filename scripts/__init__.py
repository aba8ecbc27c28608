"""Thin entry points: parse, call one function, write, exit."""

import importlib.util
import sys

if (
    sys.version_info >= (3, 10)
    and importlib.util.find_spec("pawl") is None
    and not {"scripts", "scripts.run", "scripts.environment", "scripts.in_image", "scripts.preflight"}
    & set(getattr(sys, "orig_argv", ()))
):
    fix = "`make env`, then use .venv/bin/python"
    sys.stderr.write(
        f"error: this Python does not have the project's environment\n  where: {sys.executable}\n  fix: {fix}\n"
    )
    raise SystemExit(2)
