"""What the entry points share: help from the docstring, and the one place where a Problem becomes an exit code."""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

from pawl.problem import Problem

Given = ParamSpec("Given")


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

    return ended
