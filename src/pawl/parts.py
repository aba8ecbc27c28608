"""Types of what travels as JSON: strict, because a stranger may have written it. And times, which it has as text: in UTC, to the second."""

import time
from datetime import UTC, datetime
from typing import Annotated

import msgspec

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.\[\]=@ -]{1,64}\Z")]
Text = Annotated[str, msgspec.Meta(max_length=200)]
Line = Annotated[str, msgspec.Meta(max_length=300)]
Commit = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{40}(-dirty)?|unknown)\Z")]
Hash = Annotated[str, msgspec.Meta(pattern=r"^(sha256:)?[0-9a-f]{64}\Z")]
Rows = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a file."""


class Value(Part):
    """A metric with its 95 % interval; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None
    n: Rows


def utc(seconds: float | None = None) -> str:
    """Return a time, given in seconds since 1970, as text; now without one."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def seconds_of(text: str) -> float:
    """Return seconds since 1970 of an ISO time, in UTC where it says nothing; raise ValueError if it is none."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
