"""What the entry points share: help from the docstring, and the one place where an error becomes an exit code.

2 your input, 3 something outside, 70 (EX_SOFTWARE) what nobody expected: 1 is a verdict, and never an accident.
"""

import argparse
import functools
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from pawl.problem import Problem

Given = ParamSpec("Given")
ROOT = Path(__file__).parents[1]
OURS = (str(ROOT / "src"), str(ROOT / "scripts"))


def parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """Return the parser of `python -m scripts.<name>`."""
    words = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(
        prog=f"python -m scripts.{name}", description=text, formatter_class=words, allow_abbrev=False
    )


def told(main: Callable[Given, int]) -> Callable[Given, int]:
    """Let a script tell a Problem on standard error, and end with its code."""

    @functools.wraps(main)
    def ended(*args: Given.args, **options: Given.kwargs) -> int:
        try:
            return main(*args, **options)
        except BrokenPipeError:  # who read the output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
        except Problem as problem:
            print(problem, file=sys.stderr)
            return problem.code
        except Exception as error:  # noqa: BLE001 - a user gets a message, whatever it was
            return unexpected(error)

    return ended


def unexpected(error: Exception) -> int:
    """Tell an error that no script has words for, with its traceback where PAWL_DEBUG is set; return the exit code."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename.startswith(OURS)]
    where = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}" if frames else "outside the project"
    what, code = next(iter(str(error).splitlines()), ""), 70
    fix = "PAWL_DEBUG=1 before the command shows how it came to it"
    if isinstance(error, FileNotFoundError) and error.filename:
        what, fix, code = (
            f"{os.fspath(error.filename)} is not there",
            "run from the project's root; make it, or install it",
            2,
        )
    elif isinstance(error, OSError):
        fix, code = "see to what it names, to disk space and rights, then run again", 3
    else:
        what = f"{type(error).__name__}: {what}"
    print(Problem(what, where, fix), file=sys.stderr)
    if os.environ.get("PAWL_DEBUG"):
        traceback.print_exception(error)
    return code
