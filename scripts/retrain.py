"""Look at fresh data; where the champion fell on it: tune, train, judge, propose.

python -m scripts.retrain              on GitHub the pull request, elsewhere what to commit; where there is no checkout, a candidate of the registry
python -m scripts.retrain --check      the question alone; exit code 1 where the champion is not good enough
python -m scripts.retrain --force      whatever the champion does
python -m scripts.retrain --dispatch   start retrain.yml on GitHub, unless it runs or ran within retrain.cooldown_days: what drift asks for

What pins the data in params.yaml (ingest.digest, ingest.sql.until, the borders of a split by time) moves with it. The champion is scored on rows that it
was not trained on, and held to what it made on its own test rows: drift.metric, drift.max_loss. Where nothing is to be proposed, everything here stays as
it was, and a proposal that is open is closed. Exit code: 0 done, 1 not good enough (--check), 2 your input, 3 something outside did not answer.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from pawl import bundle, config, drift, paths, registry, rows, schema, source, tracking
from pawl.config import Params
from pawl.drift import Performance
from pawl.gate import rules
from pawl.parts import Value
from pawl.problem import Problem
from pawl.report.text import between
from pawl.yamlfile import change
from scripts import baseline, cli, github, in_image, report, run, unattended

WORKFLOW = "retrain.yml"


class Checked(NamedTuple):
    """Whether the champion is good enough, and the sentence that says why."""

    good: bool
    said: str


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Check; where it has to be, retrain and propose."""
    parser = cli.parser("retrain", __doc__)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="say whether the champion is good enough, and no more")
    how.add_argument("--force", action="store_true", help="retrain in any case")
    how.add_argument("--dispatch", action="store_true", help="start retrain.yml on GitHub")
    args = parser.parse_args(argv)
    if args.dispatch:
        print(dispatched(environ, config.load(paths.PARAMS).retrain.cooldown_days))
        return 0
    with run.only_run("retrain.lock"), run.kept("retrain") as put_back:  # a look at fresh data changes nothing
        try:
            found = fresh(environ)
            if not args.check and (args.force or not found.good):
                return retrained(environ, found)
        except BaseException:
            put_back()
            raise
        put_back()
    print(found.said)
    github.summary(environ, f"{found.said}\n\n")
    return told(environ, args, found)


def told(environ: Mapping[str, str], args: argparse.Namespace, found: Checked) -> int:
    """Close what is open where nothing is to be proposed; return the exit code."""
    if args.check:
        return 0 if found.good else 1
    if not environ.get("GITHUB_REPOSITORY"):
        return 0
    from scripts import propose  # a cluster has no PyGithub

    return propose.main(["--obsolete", found.said], environ)


def retrained(environ: Mapping[str, str], found: Checked) -> int:
    """Tune, train, judge, propose; return the exit code."""
    asked = config.load(paths.PARAMS).retrain
    github.summary(environ, f"{found.said}\n\n")
    print(found.said)
    if not Path(".git").exists():  # a cluster: nothing to propose, but a candidate
        return unattended.main([], environ)
    from scripts import propose, tune

    on_github = bool(environ.get("GITHUB_REPOSITORY"))  # where main's own data may be gone
    code = tune.main(["--write"]) if asked.tune else 0
    code = code or pipeline(environ) or report.main(["--base", "HEAD", *(["--no-train"] if on_github else [])], environ)
    if code:
        return code
    if not on_github:
        allowed = json.loads(paths.REPORT.read_text())["allowed"]
        print("" if allowed else "The gates say no: look at reports/report.html first.\n", end="")
        print(f"next: git switch --create {propose.BRANCH} && git commit {paths.PARAMS} {' '.join(propose.FILES)}")
        return 0
    words = ["--why", f"**Why**: {found.said}", "--file", str(paths.PARAMS)]
    return propose.main([*words, *(["--auto-merge"] if asked.auto_merge else [])], environ)


def pipeline(environ: Mapping[str, str], *stages: str) -> int:
    """Run the pipeline, here or in its image, as `make pipeline` does; return the exit code."""
    return in_image.main(["scripts.run", *stages]) if environ.get("IN") == "image" else run.main(stages)


def fresh(environ: Mapping[str, str]) -> Checked:
    """Bring the source as it is now, move what pins it, and ask the champion about it; raise SystemExit where the pipeline fails."""
    params = config.load(paths.PARAMS)
    change(paths.PARAMS, pins(params, datetime.now(UTC).date().isoformat()))
    brought(environ, "ingest")
    if table_of(paths.LOCKFILE.read_text()) == table_of(committed()):
        return Checked(good=True, said="The data are those that dvc.lock names: nothing to retrain on.")
    if params.prepare.split == "time":
        change(paths.PARAMS, borders(params))
    brought(environ, "prepare")
    return check(config.load(paths.PARAMS))


def brought(environ: Mapping[str, str], stage: str) -> None:
    """Run the pipeline to a stage, without its summary: what comes next there is not what comes next here."""
    with contextlib.redirect_stdout(io.StringIO()):
        if code := pipeline(environ, stage):
            raise SystemExit(code)


def pins(params: Params, today: str) -> dict[str, Any]:
    """Return the values of params.yaml that let today's data in: the end of a query's window, and the digest of what is there now."""
    ingest, values = params.ingest, dict[str, Any]()
    if ingest.sql.until:
        values["ingest.sql.until"] = today
        ingest = msgspec.structs.replace(ingest, sql=msgspec.structs.replace(ingest.sql, until=today))
    if ingest.digest:
        values["ingest.digest"] = source.fingerprint(msgspec.structs.replace(ingest, digest=None))["digest"]
    return values


def borders(params: Params) -> dict[str, Any]:
    """Return the dates that give a split by time its shares (prepare.valid, prepare.test) of the table as it is now."""
    import pyarrow.parquet as pq

    from pawl.pipeline import prepare

    table = pq.read_table(paths.RAW, columns=[params.columns.time])
    found = prepare.times(table, params.problem, schema.load(paths.SCHEMA))[0]
    return dict(zip(("prepare.valid_from", "prepare.test_from"), prepare.borders(found, params.prepare), strict=True))


def table_of(lock: str) -> Any:
    """Return what a dvc.lock names as the table; None where it names none."""
    stages = (yaml.safe_load(lock) or {}).get("stages", {})
    return next((out["md5"] for out in stages.get("ingest", {}).get("outs", [])), None)


def committed() -> str:
    """Return dvc.lock as the commit has it; nothing where there is no checkout, or the commit has none."""
    if not Path(".git").exists():
        return ""
    return baseline.git("show", f"HEAD:{paths.LOCKFILE}", check=False).decode()


def check(params: Params) -> Checked:
    """Score the champion on the prepared rows that are new to it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = github.project()
    with tracking.store() as store, tempfile.TemporaryDirectory() as folder:
        champion = registry.named(store.client, name, registry.CHAMPION)
        if champion is None:
            return Checked(good=False, said="There is no champion yet: what is trained on these data is the first.")
        loaded = bundle.load(registry.download(store, name, champion.version, Path(folder)))
        recorded = store.client.get_run(champion.tags["pawl.run"]).data.metrics
    # A row's split is its own, so that what is in train and was not trained on is new; by time the last rows are.
    table = pq.read_table(paths.PREPARED / ("test.parquet" if params.prepare.split == "time" else "train.parquet"))
    table = table.filter(pa.array(~np.isin(rows.hash_column(table.column("row_id")), loaded.trained_on)))
    who, limits = f"the champion, version {champion.version},", params.drift
    if table.num_rows < limits.min_rows:
        return Checked(good=True, said=f"Only {table.num_rows:,} rows are new to {who} of {limits.min_rows:,} that are needed to judge it.")  # fmt: skip
    if why := baseline.unread(loaded, params.target, loaded.manifest["labels"], table):
        return Checked(good=False, said=f"The data are no longer what {who} can read: {why}.")
    try:
        lost = performance(params, loaded, table, recorded)
    except Problem as problem:  # a class that it does not know
        return Checked(good=False, said=f"The data are no longer what {who} knows: {problem.what}.")
    was, now = drift.shown(lost.reference), drift.shown(lost.current)
    interval = f"95 % interval {between(lost.worse)}"
    worse = f"worse by {drift.shown(lost.worse)}, {interval}; allowed {limits.max_loss:g}"
    verdict = "is no longer good enough" if lost.lost else "is good enough"
    said = f"{who.capitalize()} {verdict}: {lost.metric} is {now} on {lost.current.n:,} fresh rows, and was {was} ({worse})."
    return Checked(good=not lost.lost, said=said)


def performance(params: Params, loaded: bundle.Bundle, table: Any, recorded: Mapping[str, float]) -> Performance:
    """Return the metric of a bundle on a table's rows, against the one that its run recorded on its own test rows."""
    from pawl.pipeline import evaluate, train

    known = [name.removeprefix("test.") for name in recorded if name.startswith("test.") and name.count(".") == 1]
    metric, sign = rules.load(paths.GATES).watched(params.drift.metric, known)
    value, low, high = (recorded.get(f"test.{metric}{end}") for end in ("", ".low", ".high"))
    was = Value(value, low, high, 0)
    y = train.target(table.column(params.target), loaded.manifest["labels"])
    now = evaluate.measure(params.problem, y, *evaluate.score(loaded, table), params.evaluate)[metric]
    lost = drift.performance(metric, sign, was, now, params.drift)
    if lost is None:
        raise Problem(f"{metric} has no interval on these rows", paths.PARAMS, "drift.metric: one that has")
    return lost


def dispatched(environ: Mapping[str, str], cooldown: float) -> str:
    """Start the workflow, unless it is going on or was started not long ago; return what was done."""
    workflow = github.repository(environ).get_workflow(WORKFLOW)
    last = next(iter(workflow.get_runs(event="workflow_dispatch")), None)
    if last is not None:
        age = (datetime.now(UTC) - last.created_at).total_seconds() / 86_400
        if last.status != "completed":
            return f"{WORKFLOW} is going on already: {last.html_url}"
        if age < cooldown:
            return (
                f"{WORKFLOW} was started {age:.1f} days ago; the next time after {cooldown:g} (retrain.cooldown_days)"
            )
    workflow.create_dispatch(environ.get("GITHUB_REF_NAME", "main"), {}, throw=True)
    return f"Started {WORKFLOW}"


if __name__ == "__main__":
    sys.exit(main())
