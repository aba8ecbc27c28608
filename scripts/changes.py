"""What is another here than in a commit: parameters, schema, gates, dependencies, code, data."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from pawl import paths, profile, report
from pawl.answers import Answers
from pawl.profile import Column
from pawl.report import Change, Changes, Data, File, Model
from scripts.baseline import at, git

CODE = ("src", "scripts", "dvc.yaml", "Dockerfile.train")


def since(commit: str, judging: str) -> Changes:
    """Return how the files here differ from those of a commit; gates.yaml from that of the commit whose gates judge."""
    theirs = at(judging, paths.GATES)
    before, after = pins(git("show", f"{commit}:{paths.LOCK}", check=False).decode()), pins(_text(paths.LOCK))
    return Changes(
        params=tuple(report.differing(at(commit, paths.PARAMS), _yaml(paths.PARAMS)))[:1000],
        gates=tuple(report.differing(theirs, _yaml(paths.GATES)))[:1000] if theirs else (),
        schema=tuple(report.differing(at(commit, paths.SCHEMA), _yaml(paths.SCHEMA)))[:1000],
        dependencies=tuple(
            Change(name, before.get(name), after.get(name))
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        )[:1000],
        code=tuple(numstat(commit))[:1000],
    )


def data(
    splits: Mapping[str, int], columns: Mapping[str, Column], theirs: Answers | None, model: Model, mine: Answers
) -> Data:
    """Return how the candidate's table differs from the baseline's."""
    import numpy as np

    rows = {split: (splits.get(split, 0), count) for split, count in model.splits.items()} if splits else {}
    shifts = tuple(profile.shifts(columns, model.columns))[:500] if columns else ()
    whole = theirs is not None and len(theirs.rows) == theirs.total and len(mine.rows) == mine.total
    if theirs is None or not whole:
        return Data(rows, shifts=shifts)
    both = int(np.isin(mine.rows, theirs.rows).sum())
    return Data(rows, len(mine.rows) - both, len(theirs.rows) - both, shifts)


def pins(lock: str) -> dict[str, str]:
    """Return {package: version} of a lock; a package may have one per version of Python."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", lock, flags=re.MULTILINE):
        found.setdefault(name, []).append(version)
    return {name: ", ".join(versions)[:300] for name, versions in found.items()}


def numstat(commit: str) -> list[File]:
    """Return the files of the pipeline that differ."""
    lines = git("diff", "--numstat", "-z", "--no-renames", commit, "--", *CODE, check=False).decode(errors="replace")
    parts = [line.split("\t") for line in lines.split("\0") if line.count("\t") == 2]
    return [File(path[:300], *(int(count) if count.isdigit() else None for count in counts)) for *counts, path in parts]


def _yaml(path: Path) -> object:
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
