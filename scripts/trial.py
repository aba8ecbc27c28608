"""One trial of scripts.tune. As a command: judge and log the model in the folder where the pipeline ran for it.

python -m scripts.trial --name lgbm_nl_31 --parent <run> --identity '{"pawl.trial": "..."}'

Beside what scripts.track logs, the run keeps what the model answered on the validation rows: by that, trials are compared.
"""

import copy
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pawl import answers, bundle, config, paths, tracking
from pawl.config import Params
from pawl.pipeline import evaluate, fingerprint, train
from pawl.yamlfile import read_yaml
from scripts import cli, report, run, track, workspace

Values = dict[str, Any]  # {dotted key of params.yaml: value}


class Trial(NamedTuple):
    """One set of values. identity: the tags by which its run is found again."""

    name: str
    values: Values
    identity: dict[str, str]

    @property
    def told(self) -> str:
        """Return the values as people say them."""
        return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in self.values.items())


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Judge by floors and ceilings, answer, log."""
    parser = cli.parser("trial", __doc__)
    parser.add_argument("--name", required=True, help="of the run")
    parser.add_argument("--parent", required=True, help="the search's run")
    parser.add_argument("--identity", required=True, type=json.loads, help="the tags by which the run is found again")
    args = parser.parse_args(argv)
    if code := report.main([], environ):
        return code
    paths.VALID_ANSWERS.write_bytes(answers.dump(answered()))
    found, loaded = track.here()
    with tracking.store() as store:
        track.track(store, found, loaded, environ, args.name, args.parent, args.identity)
    return 0


def answered() -> answers.Answers:
    """Return what the model here answers on the validation rows."""
    import pyarrow.parquet as pq

    task, loaded = config.load(paths.PARAMS).problem, bundle.load(paths.BUNDLE)
    table, labels = pq.read_table(paths.PREPARED / "valid.parquet"), loaded.manifest["labels"]
    y = train.target(table.column(task.target), labels)
    found = evaluate.predictions(task, table, {}, labels, y, *evaluate.score(loaded, table))
    return answers.of_table(found, task.task, labels, ())


def attempt(base: Path, trial: Trial, parent: str, environ: Mapping[str, str]) -> str:
    """Run a trial in a copy of `base`; return why it failed."""
    folder = base.parent / trial.identity["pawl.trial"]
    words = ["--name", trial.name, "--parent", parent, "--identity", json.dumps(trial.identity)]
    try:
        shutil.copytree(base, folder, symlinks=True)
        params = replaced(read_yaml(folder / paths.PARAMS)[0], trial.values)
        (folder / paths.PARAMS).write_text(yaml.safe_dump(params, sort_keys=False))
        for module, given in (("scripts.run", []), ("scripts.trial", words)):
            code, why = workspace.call(folder, module, *given, NOTE=trial.told, **environ)
            if code:
                return why
    except OSError as error:  # a full disk, for one
        return str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


def replaced(params: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Return parameters with other values, by dotted key, and without what is to be tried."""
    found = copy.deepcopy({key: value for key, value in params.items() if key != "tune"})
    for key, value in values.items():
        section, *parts = found, *key.split(".")
        for part in parts[:-1]:
            section[part] = section[part] if isinstance(section.get(part), dict) else {}
            section = section[part]
        section[parts[-1]] = value
    return found


def named(params: Params, found: Sequence[Values]) -> list[Trial]:
    """Return trials of the same keys. Each is known by its values, and by all else that its model is made of and judged by: the search."""
    keys = list(found[0])
    raw = replaced(read_yaml(paths.PARAMS)[0], dict.fromkeys(keys))
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"].values()
    deps = {Path(dep) for stage in stages for dep in stage["deps"] if Path(dep).parts[0] not in run.OUTPUTS}
    files = sorted({paths.GATES, *(file for dep in deps for file in (dep, *dep.rglob("*")) if file.is_file())})
    content = [(str(file), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    search, short = _digest([raw, sorted(keys), content, fingerprint.text(params.ingest)]), initials(keys)
    trials = []
    for values in found:
        path = str(values.get("train.model", params.train.model))
        name = path.rpartition(".")[2]
        model = "lgbm" if path.startswith("lightgbm.") else "".join(re.findall("[A-Z]", name)).lower() or name
        words = [re.sub(r"[^\w.+-]+", "-", f"{short[key]}_{value}") for key, value in values.items()]
        identity = {"pawl.search": search, "pawl.trial": _digest(values)}
        trials.append(Trial("_".join([model, *words]), values, identity))
    return trials


def initials(keys: Sequence[str]) -> dict[str, str]:
    """Return a short name per key: num_leaves is nl; where two would be the same the whole word, or the whole key."""
    last = {key: key.rpartition(".")[2] for key in keys}
    short = {key: "".join(word[:1] for word in word.split("_")) for key, word in last.items()}
    for longer in (last, {key: key for key in keys}):
        taken = list(short.values())
        short = {key: longer[key] if taken.count(name) > 1 else name for key, name in short.items()}
    return short


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
