"""Thin entry points: parse, call one function, write, exit."""

import importlib.util
import sys

if importlib.util.find_spec("pawl") is None and not {"scripts.run", "scripts.environment"} & set(getattr(sys, "orig_argv", ())):
    raise SystemExit("error: this Python does not have the project's environment\n  where: {}\n  fix: `make env`, then use .venv/bin/python".format(sys.executable))
