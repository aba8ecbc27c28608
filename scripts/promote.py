"""Say which version is the champion: the one that is served.

python -m scripts.promote                                        the version of the model in models/bundle
python -m scripts.promote --version 3 --image ghcr.io/me/model@sha256:...
python -m scripts.promote --version 3 --check                    0 if it may be promoted, before anything is deployed
python -m scripts.promote --best roc_auc --min 0.85              the best run of the experiment: chosen on validation rows, held to 0.85 on test rows
python -m scripts.promote --rollback 3 --reason "wrong for new customers"     [--to 1] to the version before; 3 is rejected
python -m scripts.promote --clear 3                              a person takes a rejection back

A release never overtakes a newer one. Exit code: 0 done, 2 refused or wrong input, 3 the registry did not answer.
"""

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from pawl import bundle, paths, registry, report, tracking
from pawl.gate import rules
from pawl.pipeline import train
from pawl.problem import Problem
from pawl.registry import Promoted
from pawl.tracking import Store
from pawl.yamlfile import refuse_name
from scripts import cli, github, once, register, track


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Promote, go back, or clear."""
    parser = cli.parser("promote", __doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--version", help="of the registry")
    what.add_argument("--best", metavar="METRIC", help="register and promote the best run of the experiment")
    said = "take the champion back: if it is this version"
    what.add_argument("--rollback", nargs="?", const="", metavar="VERSION", help=said)
    what.add_argument("--clear", metavar="VERSION", help="that was rejected")
    parser.add_argument("--min", type=float, help="with --best: what the metric must reach on test rows")
    parser.add_argument("--to", metavar="VERSION", help="with --rollback: this one instead")
    parser.add_argument("--reason", default="", help="with --rollback: why")
    parser.add_argument("--image", default="", help="that serves it")
    parser.add_argument("--check", action="store_true", help="only say whether it may be")
    args = parser.parse_args(argv)
    if args.check and (args.best or args.clear or args.rollback is not None):
        parser.error("--check goes with --version, or alone")
    if args.rollback is not None and not args.reason.strip():
        parser.error("--rollback needs --reason: it is what the next person reads")
    if (args.to or args.reason) and args.rollback is None:
        parser.error("--to and --reason go with --rollback")
    if args.min is not None and not args.best:
        parser.error("--min goes with --best")
    name = github.project()
    with tracking.store() as store:
        said = act(store, name, args, environ)
    print(said)
    github.summary(environ, f"{said}\n\n")
    return 0


def act(store: Store, name: str, args: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """Do it; return what was done in a sentence."""
    tags = {"pawl.images": args.image, "pawl.validated_by": by(environ)}
    if args.clear:
        registry.clear(store, name, args.clear)
        return f"{name} version {args.clear} may be promoted again."
    if args.rollback is not None:
        done = registry.roll_back(store, name, args.reason, tags, register.before, args.rollback, args.to)
        once.forget("register")
        return f"↩ {name} version {done.version} is champion again; version {done.before} is rejected until `--clear {done.before}`: {args.reason}"
    version = best(store, name, args.best, args.min) if args.best else args.version or mine(store, name)
    commit = released_from(registry.get(store.client, name, version).tags)
    strict = rules.load(paths.GATES).strict
    if args.check:
        registry.promotable(store, name, version, commit, register.before, strict=strict)
        return f"{name} version {version} may be promoted."
    return told(name, registry.promote(store, name, version, commit, tags, register.before, strict=strict))


def released_from(tags: Mapping[str, str]) -> str:
    """Return the commit that a version is released from: this checkout's, if it made this model too; else the version's own."""
    here = (train.commit() or "").removesuffix("-dirty")
    known = [each.removesuffix("-dirty") for each in tags.get("pawl.commits", "").split()]
    return here if here in known else tags["pawl.commit"].removesuffix("-dirty")


def told(name: str, done: Promoted) -> str:
    """Return what a promotion did."""
    warning = f" Warning: {done.warning}." if done.warning else ""
    before = "it was before" if done.before == done.version else f"before: {done.before or 'none'}"
    return f"✅ {name} version {done.version} is champion ({before}).{warning}"


def mine(store: Store, name: str) -> str:
    """Return the version of the model in models/bundle."""
    found = registry.of_digest(store.client, name, bundle.digest_of(paths.BUNDLE))
    if not found:
        raise Problem("the model in models/bundle is no version", name, "python -m scripts.register")
    return str(found[0].version)


def best(store: Store, name: str, metric: str, least: float | None) -> str:
    """Return the version of the best run of the experiment, registered if need be; raise Problem if its gates do not let it.

    Chosen on the validation rows: on the test rows the best of many would look better than it is.
    """
    client, experiment = store.client, store.experiment(track.experiment(os.environ))
    whole = "attributes.status = 'FINISHED' and tags.`pawl.digest` != ''"
    found = client.search_runs([experiment], whole, max_results=1000)
    values = {each.info.run_id: each.data.metrics.get(f"valid.{metric}", math.nan) for each in found}
    runs = [each for each in found if math.isfinite(values[each.info.run_id]) and f"test.{metric}" in each.data.metrics]
    if not runs:
        known = {key.removeprefix("valid.") for run in found for key in run.data.metrics if key.startswith("valid.")}
        names = sorted(each for each in known if not each.endswith((".low", ".high")))
        refuse_name(f"--best {metric}", metric, names, where=f"{store.shown}: the metrics of runs that have a model")
    sign = rules.load(paths.GATES).sign(metric) or 1
    chosen = max(runs, key=lambda run: sign * values[run.info.run_id])
    reached, run = chosen.data.metrics[f"test.{metric}"], chosen.info.run_id
    what = f"the best of {len(runs)} runs, {chosen.info.run_name} ({run[:8]}), has {metric} {reached:.4f} on test rows"
    if least is not None and sign * (reached - least) < 0:
        raise Problem(f"{what}: not {least}", store.shown, "nothing is promoted")
    if chosen.data.tags.get("pawl.allowed") != "true":
        verdict = chosen.data.tags.get("pawl.verdict", "unknown")
        raise Problem(f"{what}, and its verdict is {verdict}", store.shown, "nothing is promoted")
    if chosen.data.tags.get("pawl.rows") != (rows := current_rows()):
        fix = "`make run`; then train it anew on this table"
        raise Problem(f"{what}: others than those of the report here ({str(rows)[:19]})", store.shown, fix)
    tags = {key: value for key, value in chosen.data.tags.items() if key.startswith("pawl.")} | {"pawl.run": run}
    tags["pawl.commits"] = tags["pawl.commit"]
    with tempfile.TemporaryDirectory() as folder:
        card = store.download(chosen.info.artifact_uri, "reports/model_card.md", Path(folder)).read_text()
        model = tracking.model_of(store, run)
        bundle.load(store.download(model.artifact_location, "data/bundle", Path(folder)))  # what is registered is whole
    version, new = registry.register(store, name, model, tags, card, register.before)
    print(f"{what}: version {version} ({'new' if new else 'registered before'}).", file=sys.stderr)
    return version


def current_rows() -> str | None:
    """Return what names the test rows of the report here; None if there is no report."""
    return report.load(paths.REPORT.read_bytes(), str(paths.REPORT)).candidate.rows if paths.REPORT.exists() else None


def by(environ: Mapping[str, str]) -> str:
    """Return who or what validated it: the job on GitHub, or the person here."""
    if number := environ.get("GITHUB_RUN_ID"):
        return f"{environ['GITHUB_SERVER_URL']}/{environ['GITHUB_REPOSITORY']}/actions/runs/{number} ({track.who(environ)})"
    return track.who(environ)


if __name__ == "__main__":
    sys.exit(main())
