"""What was done, and for what: so that a command run again says what it said, in a moment."""

import hashlib
import json
from typing import Any

from pawl import paths


def done(step: str, key: Any) -> str | None:
    """Return what the step said when it was done for this key; None if it was not."""
    try:
        noted = json.loads((paths.STATE / "done" / step).read_text())
    except (OSError, ValueError):
        return None
    return str(noted["said"]) if noted["key"] == _digest(key) else None


def mark(step: str, key: Any, said: str) -> str:
    """Note that the step was done for this key; return what it said."""
    file = paths.STATE / "done" / step
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"key": _digest(key), "said": said}))
    return said


def forget(step: str) -> None:
    """Let the step be done again."""
    (paths.STATE / "done" / step).unlink(missing_ok=True)


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
