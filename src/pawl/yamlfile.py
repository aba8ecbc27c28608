"""YAML files that people edit: read with the line of every key, so that a mistake can be pointed at."""

import difflib
import os
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


def change(path: Path, values: Mapping[str, Any]) -> None:
    """Write values into a YAML file, by dotted key, and change nothing else in it; what is absent is added to its section.

    A comment behind a value keeps its column. Raise Problem, with the file as it was, for a value that stands in several lines.
    """
    found = read_yaml(path)[0]  # says what is wrong with the file
    with path.open(encoding="utf-8", newline="") as file:
        before = text = file.read()
    try:
        for key, value in values.items():
            text = _changed(text, key.split("."), value, path)
            put(found, key, value)
        same = yaml.load(text, Loader=yaml.CSafeLoader) == found
    except yaml.YAMLError:
        same = False
    if not same:  # an anchor, for one, whose value stands elsewhere too
        what = "the values cannot be written without changing others"
        raise Problem(what, path, f"write them by hand: {dict(values)}")
    if text != before:
        target = path.resolve()
        new = target.with_name(f".{target.name}.{os.getpid()}")
        with new.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        new.chmod(target.stat().st_mode)
        new.replace(target)


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by dotted key, in sections that are made where there are none."""
    *parts, last = key.split(".")
    for part in parts:
        values[part] = values[part] if isinstance(values.get(part), dict) else {}
        values = values[part]
    values[last] = value


def _changed(text: str, parts: list[str], value: Any, path: Path) -> str:
    """Return the text with one value in the place of another, or with one key more."""
    node: Any = yaml.compose(text, Loader=yaml.CSafeLoader)
    rest = list(parts)
    while rest and isinstance(node, yaml.MappingNode):
        inner = next((each for name, each in node.value if name.value == rest[0]), None)
        if inner is None:
            break
        node, rest = inner, rest[1:]
    start, end = node.start_mark.index, node.end_mark.index
    if rest and isinstance(node, yaml.MappingNode) and node.value:
        for part in reversed(rest[1:]):
            value = {part: value}
        return _added(text, node, f"{rest[0]}: {flow(value)}")
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        where = f"{path}:{node.start_mark.line + 1}"
        raise Problem(f"{'.'.join(parts)} stands in several lines", where, "write it in one line, in {} or []")
    for part in reversed(rest):  # below a section that is empty
        value = {part: value}
    new, line_end = flow(value), text.find("\n", end) % (len(text) + 1)
    space = len(text[end:line_end]) - len(text[end:line_end].lstrip(" "))
    if text[end + space : end + space + 1] == "#":
        new += " " * max(space + end - start - len(new), 1)
        end += space
    return text[:start] + ("" if text[start - 1 : start] in {" ", "\n", "[", "{"} else " ") + new + text[end:]


def _added(text: str, section: yaml.MappingNode, entry: str) -> str:
    """Return the text with an entry at the end of a section that has others."""
    name, last = section.value[-1]
    if section.flow_style:
        return text[: last.end_mark.index] + f", {entry}" + text[last.end_mark.index :]
    while isinstance(last, yaml.CollectionNode) and not last.flow_style and last.value:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    place, newline = text.find("\n", last.end_mark.index), "\r\n" if "\r\n" in text else "\n"
    place, before = (len(text), newline) if place < 0 else (place + 1, "")
    return f"{text[:place]}{before}{' ' * name.start_mark.column}{entry}{newline}{text[place:]}"


def flow(value: Any) -> str:
    """Return a value as YAML writes it in one line."""
    said = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True)
    return said.strip().removesuffix("...").strip()


def line_of(lines: Mapping[Key, int], key: Key) -> int:
    """Return the line of a key, or of the nearest section around it."""
    return next((lines[key[:end]] for end in range(len(key), 0, -1) if key[:end] in lines), 1)


def refuse_name(label: str, name: str, allowed: list[str], *, where: str) -> None:
    """Raise Problem for a name that does not exist, with the nearest that does."""
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise Problem(f"{label} is not a known name", where, f"{hint}allowed: {', '.join(sorted(allowed))}")
