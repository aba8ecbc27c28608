"""Log the model in models/bundle as one MLflow run: how it was made, how it did.

python -m scripts.track
NOTE="a wider search" python -m scripts.track        the run's description; without it the commit's subject
MLFLOW_TRACKING_URI=http://... python -m scripts.track

Doing it again changes nothing: there is one run per commit and dvc.lock. Exit code: 0 done, 2 your input or configuration,
3 the store did not answer.
"""

import contextlib
import csv
import getpass
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pawl import bundle, flavor, paths, report, schema, tracking
from pawl.bundle import Bundle
from pawl.gate import rules
from pawl.problem import Problem
from pawl.report import Report, html
from pawl.tracking import Run, Store
from scripts import cli, github

INPUTS = (paths.PARAMS, paths.SCHEMA, paths.GATES, Path("dvc.yaml"), paths.LOCKFILE, paths.SOURCE)
REPORTS = (
    paths.REPORT, paths.REPORT.with_suffix(".md"), paths.REPORT.with_suffix(".html"), paths.CARD, paths.METRICS, paths.SLICES,
    paths.SPLITS, paths.VALIDATION, paths.HISTORY, paths.STAGES, paths.ANSWERS, paths.VALID_ANSWERS,
)  # fmt: skip


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Track."""
    parser = cli.parser("track", __doc__)
    parser.add_argument("--name", help="of the run; without it the commit's")
    parser.add_argument("--parent", help="the id of the run that this one belongs to")
    args = parser.parse_args(argv)
    found, loaded = here()
    with tracking.store() as store:
        run, new = track(store, found, loaded, environ, args.name, args.parent)
    print(f"Run {run} ({'new' if new else 'known'}) is in {store.shown}.")
    return 0


def here() -> tuple[Report, Bundle]:
    """Return the report and the bundle of this checkout; raise Problem unless they are of one model, and whole."""
    digest = bundle.digest_of(paths.BUNDLE)
    found = report.load(paths.REPORT.read_bytes(), str(paths.REPORT)) if paths.REPORT.exists() else None
    if found is None or found.candidate.digest != digest:
        raise Problem("the report is not of this model", paths.REPORT, "run `make report`")
    if not (paths.ESTIMATOR / "estimator.json").exists() or estimator()["digest"] != digest:
        bundle.load(paths.BUNDLE)  # evaluate did not: what is refused there is refused here
        raise Problem("what describes the estimator is not of this model", paths.ESTIMATOR, "run `make run`")
    return found, bundle.load(paths.BUNDLE, fitted=False)


def estimator() -> dict[str, Any]:
    """Return what `evaluate` wrote of the estimator."""
    told: dict[str, Any] = json.loads((paths.ESTIMATOR / "estimator.json").read_text())
    return told


def experiment(environ: Mapping[str, str]) -> str:
    """Return the experiment's name."""
    return environ.get(tracking.EXPERIMENT) or github.project()


def track(
    store: Store,
    found: Report,
    loaded: Bundle,
    environ: Mapping[str, str],
    name: str | None = None,
    parent: str | None = None,
    identity: Mapping[str, str] | None = None,
) -> tuple[str, bool]:
    """Return (id of the run, whether it is new). identity: tags by which it is known; without them commit and dvc.lock."""
    began, ended = times()
    tags = described(found, loaded, environ)
    run = Run(
        name=name or found.candidate.commit[:7],
        identity=identity or {key: tags[key] for key in ("pawl.commit", "pawl.lock")},
        tags=tags,
        params=params(loaded),
        metrics=metrics(loaded),
        started=began,
        ended=ended,
        files=files(found),
        datasets=datasets(tags["pawl.input"]),
        model=lambda run, model, folder: flavor.save(folder, paths.BUNDLE, loaded, run, model),
        parent=parent,
        note=git("log", "-1", "--format=%s"),
    )
    return tracking.log(store, store.experiment(experiment(environ)), run)


def described(found: Report, loaded: Bundle, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the tags: what names the model and everything that it was made of."""
    commit = found.candidate.commit
    made = json.loads(paths.MADE_BY.read_text()) if paths.MADE_BY.exists() else {}
    source = yaml.safe_load(paths.PARAMS.read_text())["ingest"]["source"]
    kind = estimator()
    tags = {
        tracking.NOTE: environ.get("NOTE", ""),
        "mlflow.source.name": "scripts/run.py",
        "mlflow.source.type": "JOB" if environ.get("GITHUB_ACTIONS") else "LOCAL",
        "mlflow.source.git.commit": commit.removesuffix("-dirty"),
        "mlflow.source.git.branch": environ.get("GITHUB_REF_NAME") or git("rev-parse", "--abbrev-ref", "HEAD"),
        "mlflow.source.git.repoURL": tracking.without_password(git("remote", "get-url", "origin")),
        "mlflow.user": who(environ),
        "estimator_name": kind["name"],
        "estimator_class": f"{kind['module']}.{kind['name']}",
        "pawl.commit": commit,
        "pawl.trained_commit": str(made.get("commit")) if made.get("digest") == loaded.digest else "",
        "pawl.lock": hashlib.sha256(paths.LOCKFILE.read_bytes()).hexdigest(),
        "pawl.digest": loaded.digest,
        "pawl.rows": found.candidate.rows or "",
        "pawl.verdict": found.verdict,
        "pawl.allowed": str(found.allowed).lower(),
        "pawl.waived": "; ".join(f"{each.rule}: {each.waived}" for each in found.judged if each.waived)[:5000],
        "pawl.report": hashlib.sha256(paths.REPORT.read_bytes()).hexdigest(),
        "pawl.input": tracking.without_password(source if isinstance(source, str) else json.dumps(source))[:5000],
        **{f"pawl.{part}": value for part, value in loaded.manifest["digests"].items()},
    }
    if number := environ.get("GITHUB_RUN_ID"):
        tags["pawl.job"] = f"{environ['GITHUB_SERVER_URL']}/{environ['GITHUB_REPOSITORY']}/actions/runs/{number}"
    return {key: value for key, value in tags.items() if value}


def params(loaded: Bundle) -> dict[str, Any]:
    """Return params.yaml by dotted key, and every parameter that the estimator has, given or not."""
    given = flat(yaml.safe_load(tracking.without_password(paths.PARAMS.read_text())))
    given = {
        key: value
        for key, value in given.items()
        if not key.startswith(("train.params.", "tune.", "drift.", "retrain."))
    }  # the estimator has the first; no stage reads the others, so that dvc.lock does not know them
    return {**given, **estimator()["params"], "threshold": loaded.manifest["threshold"]}


def metrics(loaded: Bundle) -> list[tuple[str, float, int]]:
    """Return (name, value, step): every metric of every split with its 95 % interval, learning curves by round, seconds per stage."""
    found = [(name, value, 0) for name, value in ends(json.loads(paths.METRICS.read_text())).items()]
    found += [(f"seconds.{stage}", end - start, 0) for stage, (start, end) in stages().items()]
    if loaded.manifest["rounds"]:
        found.append(("best_iteration", loaded.manifest["rounds"], 0))
    with paths.HISTORY.open() as file:
        curves = [
            (f"{line['split']}.{line['metric']}", float(line["value"]), int(line["round"]))
            for line in csv.DictReader(file)
        ]
    # A metric of a curve may have the name of a metric: the number of the finished model stays the one that is shown.
    names = {name for name, *_ in found}
    curves = [(f"{name}.curve" if name in names else name, value, step) for name, value, step in curves]
    return found + ([("stopped_iteration", max(step for *_, step in curves), 0)] if curves else []) + curves


def ends(told: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of metrics.json by the names that they have in a run: test.roc_auc, test.roc_auc.low, test.roc_auc.high."""
    return {
        f"{split}.{name}{end}": each[key]
        for split, values in told.items()
        for name, each in values.items()
        for key, end in (("value", ""), ("low", ".low"), ("high", ".high"))
        if each[key] is not None
    }


def files(found: Report) -> dict[str, Path | bytes]:
    """Return {path among the run's artifacts: file or content}."""
    there = {f"inputs/{path.name}": path for path in INPUTS} | {f"reports/{path.name}": path for path in REPORTS}
    there |= {f"environment/{path.name}": path for path in (paths.LOCK, paths.MADE_BY)} | {"plots": paths.PLOTS}
    made: dict[str, Path | bytes] = {name: path for name, path in there.items() if path.exists()}
    made |= {
        f"plots/{name}.svg": drawn.encode() for name, drawn in html.pictures(found, rules.load(paths.GATES)).items()
    }
    return made | {path.name: path for path in paths.ESTIMATOR.iterdir()}


def datasets(source: str) -> list[tuple[str, Any]]:
    """Return (split, mlflow.entities.Dataset) of each split, named by the digest of its file."""
    from mlflow.entities import Dataset

    types = {"integer": "long", "number": "double", "category": "string", "text": "string"}
    columns = [
        {"name": name, "type": types.get(each.dtype, each.dtype)}
        for name, each in schema.load(paths.SCHEMA).columns.items()
    ]
    described = json.dumps({"mlflow_colspec": columns})
    made = []
    for split, each in json.loads(paths.SPLITS.read_text())["splits"].items():
        place = json.dumps({"uri": str(paths.PREPARED / f"{split}.parquet"), "from": source})
        profile = json.dumps({"num_rows": each["rows"]})
        made.append((split, Dataset(split, each["sha256"][:36], "local", place, described[:1_000_000], profile)))
    return made


def times() -> tuple[int, int]:
    """Return when the first stage began and the last one ended, in milliseconds since 1970."""
    found = list(stages().values()) or [(time.time(), time.time())]
    return int(min(start for start, _ in found) * 1000), int(max(end for _, end in found) * 1000)


def stages() -> dict[str, tuple[float, float]]:
    """Return {stage: (when it began, when it ended)}, in seconds since 1970, of the last time that each ran here."""
    found: dict[str, tuple[float, float]] = {}
    with contextlib.suppress(OSError, ValueError, KeyError):
        made = json.loads(paths.MADE_BY.read_text())
        found["train"] = (made["started"], made["ended"])
    for line in paths.STAGES.read_text().splitlines() if paths.STAGES.exists() else ():
        each = json.loads(line)
        found[each["stage"]] = (each["started"], each["started"] + each["seconds"])
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key; a mapping as it is where MLflow would refuse one of its keys, such as <=50K."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        deeper = isinstance(value, dict) and value and all(re.fullmatch(r"[\w. :/-]+", str(name)) for name in value)
        found |= flat(value, f"{prefix}{key}.") if deeper else {f"{prefix}{key}": value}
    return found


def who(environ: Mapping[str, str]) -> str:
    """Return who does it: the person on GitHub, or here."""
    return environ.get("GITHUB_ACTOR") or git("config", "user.name") or getpass.getuser()


def git(*words: str) -> str:
    """Return what a git command prints; nothing where there is no checkout."""
    done = subprocess.run(["git", *words], check=False, capture_output=True, text=True)
    return "" if done.returncode else done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
