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
    theirs, lock = at(judging, paths.GATES), git("show", f"{commit}:{paths.LOCK}", check=False).decode()
    before, after = pins(lock), pins(paths.LOCK.read_text() if paths.LOCK.exists() else "")
    pinned = ((name, before.get(name), after.get(name)) for name in sorted({*before, *after}))
    return Changes(
        params=_differing(at(commit, paths.PARAMS), paths.PARAMS),
        gates=_differing(theirs, paths.GATES) if theirs else (),
        schema=_differing(at(commit, paths.SCHEMA), paths.SCHEMA),
        dependencies=tuple(Change(name, old, new) for name, old, new in pinned if old != new)[:1000],
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


def _differing(theirs: object, path: Path) -> tuple[Change, ...]:
    return tuple(report.differing(theirs, yaml.safe_load(path.read_text()) if path.exists() else {}))[:1000]
