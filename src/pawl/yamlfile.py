"""YAML files that people edit: read with the line of every key, so that a mistake can be pointed at."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pawl.problem import Problem

Key = tuple[str, ...]


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """Return a YAML file's mapping and the line of each key; refuse duplicate keys, which YAML readers drop silently."""
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
        values = yaml.load(text, Loader=yaml.CSafeLoader)
        keys = list(_keys(node, ()))
    except RecursionError as error:
        raise Problem("an alias (*) in the file holds itself", path, "write out what it stands for") from error
    except FileNotFoundError as error:
        fix = "run from the project's root, or restore the file from git"
        raise Problem(f"{path} does not exist", Path.cwd(), fix) from error
    except UnicodeDecodeError as error:
        raise Problem(f"{path} is not UTF-8: {error.reason} at byte {error.start}", path, "save it as UTF-8") from error
    except ValueError as error:
        raise Problem(f"a date that there is not: {error}", path, "put a date in quotes, and correct it") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        fix = "correct the line; indentation is two spaces, strings with : or # are quoted"
        raise Problem(f"not valid YAML: {getattr(error, 'problem', error)}", where, fix) from error
    if not isinstance(values, dict):
        raise Problem("the file holds no mapping", path, "restore it from git")
    lines: dict[Key, int] = {}
    for key, line in keys:
        if key in lines:
            what = f"{'.'.join(key)} stands there twice (first on line {lines[key]})"
            raise Problem(what, f"{path}:{line}", "remove one of them")
        lines[key] = line
    return values, lines


def _keys(node: Any, prefix: Key) -> Iterator[tuple[Key, int]]:
    found: Iterable[tuple[Any, Any, Any]] = ()  # word, where it stands, what it holds
    if isinstance(node, yaml.MappingNode):
        found = ((name.value, name, value) for name, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        found = ((number, value, value) for number, value in enumerate(node.value))
    for word, place, value in found:
        yield (*prefix, str(word)), place.start_mark.line + 1
        yield from _keys(value, (*prefix, str(word)))


def line_of(lines: Mapping[Key, int], key: Key) -> int:
    """Return the line of a key, or of the nearest section around it."""
    return next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), 1)


def refuse_name(label: str, name: str, allowed: list[str], *, where: str) -> None:
    """Raise Problem for a name that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise Problem(f"{label} is not a known name", where, f"{hint}allowed: {', '.join(sorted(allowed))}")
