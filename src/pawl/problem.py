"""Errors a user can act on: what happened, where, how to fix it."""

from pathlib import Path


class Problem(Exception):  # noqa: N818 - it is reported, not raised at, a user
    """Your input or configuration is wrong."""

    code = 2

    def __init__(self, what: str, where: str | Path, fix: str) -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, str(where), fix

    def __str__(self) -> str:
        return f"error: {self.what}\n  where: {self.where}\n  fix: {self.fix}"


class Unreachable(Problem):
    """Something outside did not answer."""

    code = 3
