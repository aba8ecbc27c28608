"""What the last run in a folder measured, and what it answered."""

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from ruamel.yaml import YAML

from pawl import answers, bundle, paths, profile, schema
from pawl.answers import Answers
from pawl.gate import compare
from pawl.gate.rules import Gates
from pawl.parts import Value
from pawl.problem import Problem
from pawl.report import Model


def measured(root: Path, commit: str, gates: Gates) -> tuple[Model, Answers]:
    """Return what the last run in `root` measured, and what it answered; raise Problem if it is not of the bundle there."""
    import pyarrow.parquet as pq

    try:
        metrics = json.loads((root / paths.METRICS).read_text())
        manifest = json.loads((root / paths.BUNDLE / bundle.MANIFEST).read_text())
        stages = yaml.safe_load((root / paths.LOCKFILE).read_text())["stages"]
        sides = (stages["train"]["outs"], stages["evaluate"]["deps"])
        made, judged = ([each["md5"] for each in side if each["path"] == str(paths.BUNDLE)] for side in sides)
        table = pq.read_table(root / paths.PREDICTIONS)
        tables = [pq.read_table(root / paths.PREPARED / f"{split}.parquet") for split in ("train", "valid", "test")]
    except (FileNotFoundError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise Problem(f"there is no evaluated model: {error}", root.absolute(), "run `make run`") from error
    # git brings the numbers of another commit, and leaves the model that is here.
    files = [each for each in stages["evaluate"]["outs"] if (root / each["path"]).is_file()]
    other = [each["path"] for each in files if _md5(root / each["path"]) != each["md5"]]
    if made != judged or other:
        what = other[0] if other else paths.METRICS
        raise Problem(f"{what} is not of the model that {paths.LOCKFILE} names", root.absolute(), "run `make run`")
    columns = schema.load(root / paths.SCHEMA).columns
    public = {name for name, column in columns.items() if column.public}
    found = answers.of_table(table, manifest["task"], manifest["labels"], public)
    size = float(manifest["files"][bundle.PIPELINE]["size"])
    facts = compare.facts(found, gates, values(metrics), size)
    train, valid = ({name: each["value"] for name, each in metrics[split].items()} for split in ("train", "valid"))
    splits = dict(zip(("train", "valid", "test"), (each.num_rows for each in tables), strict=True))
    facts, digests = msgspec.structs.replace(facts, train=train, valid=valid), manifest["digests"]
    why = manifest["not_compiled"][:300]
    return Model(commit, facts, manifest["digest"], found.digest, digests, splits, profile.of(tables), why), found


def values(metrics: Mapping[str, Any]) -> dict[str, Value]:
    """Return the metrics of the test split."""
    return {name: Value(each["value"], each["low"], each["high"], each["n"]) for name, each in metrics["test"].items()}


def stale() -> str | None:
    """Return a parameter or a file of the pipeline that is another than when the model was made."""
    if not paths.LOCKFILE.exists():
        return None
    # As DVC reads them: to PyYAML its yes is true.
    params, lock = (YAML(typ="safe").load(path) for path in (paths.PARAMS, paths.LOCKFILE))
    for stage in (lock or {}).get("stages", {}).values():
        for key, value in stage.get("params", {}).get(str(paths.PARAMS), {}).items():
            if functools.reduce(lambda found, part: (found or {}).get(part), key.split("."), params) != value:
                return f"{key} in {paths.PARAMS}"
        for dep in stage.get("deps", ()):
            file = Path(dep["path"])
            if file.parts[0] not in {"data", "models", "reports"} and file.exists() and _md5(file) != dep["md5"]:
                return str(file)
    return None


def stages() -> dict[str, float]:
    """Return the seconds of each stage of the last run."""
    lines = paths.STAGES.read_text().splitlines() if paths.STAGES.exists() else []
    return {entry["stage"]: entry["seconds"] for entry in map(json.loads, lines) if entry["stage"] != "fingerprint"}


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()  # as DVC names a file
