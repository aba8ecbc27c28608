"""One trial of scripts.tune: judge and log the model where the pipeline ran for it.

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
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pawl import answers, bundle, config, paths, tracking
from pawl.config import Params, Space
from pawl.pipeline import evaluate, fingerprint, train
from pawl.yamlfile import put, read_yaml
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


def attempt(
    base: Path, trial: Trial, parent: str, environ: Mapping[str, str], watch: Callable[[Path], None] | None = None
) -> str:
    """Run a trial in a copy of `base`; return why it failed.

    watch: called while it trains, with the file in which training writes how it goes; what it raises ends the trial.
    """
    folder = Path(tempfile.mkdtemp(dir=base.parent))
    words = ["--name", trial.name, "--parent", parent, "--identity", json.dumps(trial.identity)]
    try:
        shutil.copytree(base, folder, symlinks=True, dirs_exist_ok=True)
        params = replaced(read_yaml(folder / paths.PARAMS)[0], trial.values)
        (folder / paths.PARAMS).write_text(yaml.safe_dump(params, sort_keys=False))
        (rounds := folder / "rounds").touch()
        environ = {**environ, "NOTE": trial.told, **({train.ROUNDS: str(rounds)} if watch else {})}
        for module, given in (("scripts.run", []), ("scripts.trial", words)):
            code, why = workspace.call(
                folder, module, *given, watch=partial(watch, rounds) if watch else None, **environ
            )
            if code:
                return why
    except OSError as error:  # a full disk, for one
        return str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


def suggested(asked: Any, space: Space) -> Values:
    """Return the values that Optuna's trial suggests; numbers with four digits, as people write them."""
    found: Values = {}
    for key, each in space.items():
        if isinstance(each, list):
            shown = choices(each)
            found[key] = each[shown.index(asked.suggest_categorical(key, shown))]
        elif each.whole:
            found[key] = asked.suggest_int(key, each.low, each.high, log=each.log, step=int(each.step or 1))
        else:
            value = asked.suggest_float(key, each.low, each.high, log=each.log, step=each.step)
            found[key] = min(max(float(f"{value:.4g}"), each.low), each.high)
    return found


def choices(values: Sequence[Any]) -> list[Any]:
    """Return values as Optuna takes them: a list or a mapping as text."""
    plain = (bool, int, float, str, type(None))
    return [value if isinstance(value, plain) else json.dumps(value, default=str) for value in values]


def current(params: Mapping[str, Any], space: Space) -> Values:
    """Return the values that parameters have now; nothing unless all lie in the space."""
    found: Values = {}
    for key, each in space.items():
        value: Any = params
        for word in key.split("."):
            value = value.get(word) if isinstance(value, Mapping) else None
        if isinstance(each, list) and value in each:
            found[key] = choices([value])[0]
        elif not isinstance(each, list) and isinstance(value, int | float) and each.low <= value <= each.high:
            found[key] = value
    return found if len(found) == len(space) else {}


def replaced(params: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Return parameters with other values, by dotted key, and without what is to be tried."""
    found = copy.deepcopy({key: value for key, value in params.items() if key != "tune"})
    for key, value in values.items():
        put(found, key, value)
    return found


def searched(params: Params, keys: Sequence[str]) -> str:
    """Return the digest of all that the models of a search are made of and judged by, but the values of these keys."""
    raw = replaced(read_yaml(paths.PARAMS)[0], dict.fromkeys(keys))
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"].values()
    deps = {Path(dep) for stage in stages for dep in stage["deps"] if Path(dep).parts[0] not in run.OUTPUTS}
    files = sorted({paths.GATES, *(file for dep in deps for file in (dep, *dep.rglob("*")) if file.is_file())})
    content = [(str(file), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    return digest([raw, sorted(keys), content, fingerprint.text(params.ingest)])


def named(search: str, params: Params, values: Values) -> Trial:
    """Return a trial. It is known by its values, and by its search."""
    path, short = str(values.get("train.model", params.train.model)), initials(list(values))
    name = path.rpartition(".")[2]
    model = "lgbm" if path.startswith("lightgbm.") else "".join(re.findall("[A-Z]", name)).lower() or name
    words = [re.sub(r"[^\w.+-]+", "-", f"{short[key]}_{value}") for key, value in values.items()]
    return Trial("_".join([model, *words]), values, {"pawl.search": search, "pawl.trial": digest(values)})


def initials(keys: Sequence[str]) -> dict[str, str]:
    """Return a short name per key: num_leaves is nl; where two would be the same the whole word, or the whole key."""
    last = {key: key.rpartition(".")[2] for key in keys}
    short = {key: "".join(word[:1] for word in word.split("_")) for key, word in last.items()}
    for longer in (last, {key: key for key in keys}):
        taken = list(short.values())
        short = {key: longer[key] if taken.count(name) > 1 else name for key, name in short.items()}
    return short


def digest(content: Any) -> str:
    """Return what names values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
