"""What a page says that can be held to the project: its commands and the places that it names."""

import contextlib
import functools
import importlib
import io
import os
import re
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, re.MULTILINE)
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
FOLDERS = re.compile(r"(?:src|scripts|tests|k8s|docs|examples|benchmarks|requirements|\.github|\.ci)/[\w./-]+|Dockerfile[\w.]*")  # fmt: skip


def code(text):
    """Yield what stands in blocks of shell and in backticks: what a reader copies."""
    for language, block in BLOCK.findall(text):
        if language in {"sh", "console"}:
            yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))


@functools.cache
def help_of(module):
    """Return what a module says with --help; nothing where it takes no options, None where there is no such module."""
    path = ROOT / ("" if module.startswith("scripts") else "src") / module.replace(".", "/")
    path = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__main__.py"
    if not path.exists():
        return None
    if not re.search(r"cli\.parser\(|ArgumentParser\(", path.read_text()):
        return ""
    said = io.StringIO()
    with mock.patch.dict(os.environ, PAWL_ENV="system"), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):  # fmt: skip
        importlib.import_module(module).main(["--help"])
    return said.getvalue()


def broken(text):
    """Return the commands that this project does not have, and the places that are not there."""
    found = []
    for said in code(text):
        for target, given in re.findall(r"\bmake ([a-z][a-z0-9-]*)((?: [A-Z]+=(?:\"[^\"]*\"|<[^>]*>|\S*))*)", said):
            found += [] if target in TARGETS else [f"make {target}"]
            found += [f"make {target} {name}=" for name in re.findall(r" ([A-Z]+)=", given) if not re.search(rf"\$\({name}\b|\({name}\)|^export {name}$|\$\({name}:|\$\${name}\b", MAKEFILE, re.MULTILINE)]  # fmt: skip
        for module, words in re.findall(r"-m ((?:scripts|pawl)\.[\w.]*\w)([^|;#&]*)", said):
            options = help_of(module)
            found += [module] if options is None else [f"{module} {each}" for each in re.findall(r"(?<!\S)--[\w-]+", words) if each not in re.findall(r"--[\w-]+", options)]  # fmt: skip
        for module in re.findall(r"(?<![\w.-])scripts\.(\w+)", said):
            found += [] if (ROOT / f"scripts/{module}.py").exists() else [f"scripts.{module}"]
        found += [each for each in re.findall(r"(?<![\w./-])[a-z_]+\.yml\b", said) if not (ROOT / ".github/workflows" / each).exists()]  # fmt: skip
        place = FOLDERS.fullmatch(said)
        found += [said] if place and not (ROOT / said).exists() else []
    return sorted(set(found))
