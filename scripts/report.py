"""Judge the model by gates.yaml, and compare it with main's and the champion.

python -m scripts.report                     floors and ceilings alone
python -m scripts.report --base origin/main  against the model of another commit: from the ledger, or trained here from its own files
python -m scripts.report --exit-code         1 where the verdict is no

Writes reports/report.json, and from it report.md, report.html and model_card.md; GitHub's job summary where there is one. Exit code:
0 done, 1 the verdict is no (with --exit-code), 2 your input or configuration.
"""

import csv
import io
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from pawl import answers, bundle, paths, report
from pawl.answers import Answers
from pawl.gate import rules
from pawl.gate.rules import Gates
from pawl.ledger import Corrupt, Ledger
from pawl.pipeline import train
from pawl.problem import Problem
from pawl.report import Report, assess, card, html, text
from scripts import baseline, changes, cli, github
from scripts.measured import measured, stages, stale

ABOUT = Path("src/task/card.md")  # yours: use and limits, in words


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Measure, compare, judge, write."""
    parser = cli.parser("report", __doc__)
    parser.add_argument("--base", help="a commit, for example origin/main")
    parser.add_argument("--no-train", action="store_true", help="never train the base: its ledger entry, or nothing")
    parser.add_argument("--exit-code", action="store_true", help="1 where the verdict is no")
    args = parser.parse_args(argv)
    base = None if args.base is None else baseline.resolve(args.base)
    rules.load(paths.GATES)  # a mistake in it is told in the change that makes it, not when it judges
    gates = rules.load(judging(base))
    found, mine, theirs = compare(base, args.base, gates, environ, may_train=not args.no_train)
    write(found, gates, mine, theirs)
    github.summary(environ, text.markdown(found, gates))
    width, color = min(100, shutil.get_terminal_size((100, 24)).columns), sys.stdout.isatty()
    print(text.terminal(found, gates, width, color=color and "NO_COLOR" not in environ))
    print(f"\nreport: {paths.REPORT.with_suffix('.html')}, with plots, slices and what changed")
    return 1 if args.exit_code and not found.allowed else 0


def compare(
    base: str | None, asked: str | None, gates: Gates, environ: Mapping[str, str], *, may_train: bool
) -> tuple[Report, Answers, Answers | None]:
    """Return the report on the model here, its answers, and the baseline's where it was trained here."""
    if changed := stale():
        raise Problem(f"the model was trained before {changed} changed", paths.BUNDLE, "run `make run`")
    model, mine = measured(paths.BUNDLE.parent.parent, train.commit() or "unknown", gates)
    metric, curves = learning()
    measures = {"seconds": stages(), "curves": {"learning": curves}, "learning": metric, "importances": importances()}
    found = msgspec.structs.replace(assess.empty(model), **measures)
    today = datetime.now(UTC).date()
    if base is None:
        why = "none was asked for (BASE=main, for example)" if asked is None else "this is the first commit"
        return assess.assess(found, gates, mine, None, None, [], "first", why, today), mine, None
    ledger = Ledger()
    other = baseline.find(base, mine, gates, ledger, train=may_train)
    champion, no_champion = baseline.champion(ledger, mine, environ)
    if champion and not baseline.comparable(other.known, mine, gates) and baseline.comparable(champion, mine, gates):
        # Wholly other rows than main's: what is served was asked about them.
        other = other._replace(known=champion, state="compared", why="")
    known = other.known
    differs = changes.since(known.shown.commit if known else base, base)
    if known:
        if known is not champion:
            known = known._replace(shown=msgspec.structs.replace(known.shown, name=called(known.shown.commit, asked)))
        data = changes.data(other.splits, other.columns, other.own, model, mine)
        differs = msgspec.structs.replace(differs, data=data)
    found = msgspec.structs.replace(found, changes=differs, champion_why=no_champion[:300])
    try:
        marks = baseline.marks(base, gates, ledger) if other.state == "compared" else []
        champion = None if known is champion else champion  # once is enough
        done = assess.assess(found, gates, mine, known, champion, marks, other.state, other.why, today)
    except Corrupt as problem:  # of an older commit, whose best is the mark
        known, other = None, baseline.lost(problem)
        done = assess.assess(found, gates, mine, None, champion, [], other.state, other.why, today)
    if known is None or known.shown.how != "rebuilt" or known.answers is None:
        return done, mine, None
    return done, mine, known.answers if known.seen is None else answers.without(known.answers, known.seen)


def write(found: Report, gates: Gates, mine: Answers, theirs: Answers | None) -> None:
    """Write the report, what is rendered from it, and the answers by which it can be judged again."""
    content = report.dump(found)
    report.load(content, str(paths.REPORT))  # what the comment would refuse is said here
    paths.REPORT.write_bytes(content)
    paths.REPORT.with_suffix(".md").write_text(text.markdown(found, gates))
    paths.REPORT.with_suffix(".html").write_text(html.page(found, gates))
    about = ABOUT.read_text("utf-8") if ABOUT.exists() else ""
    paths.CARD.write_text(card.card(found, gates, github.project(), predicts(), about))
    for path, each in ((paths.ANSWERS, mine), (paths.BASE_ANSWERS, theirs)):
        path.unlink(missing_ok=True)
        if each is not None:
            path.write_bytes(answers.dump(each))


def predicts() -> str:
    """Return what the model predicts, in a sentence."""
    made = json.loads((paths.BUNDLE / bundle.MANIFEST).read_text())
    what = f"`{made['model']}` predicts `{made['target']}`"
    if made["task"] == "regression":
        return f"{what}, a number, of one row at a time."
    what += f", one of {', '.join(f'`{label}`' for label in made['labels'][:10])}, of one row at a time, with their probabilities."
    positive = f" `{made['labels'][-1]}` is answered from a probability of {made['threshold']:g}."
    return what + (positive if made["task"] == "binary" else "")


def judging(base: str | None) -> Path:
    """Return the gates that judge: those of the baseline's commit, so that no change lowers its own bar."""
    theirs = baseline.git("show", f"{base}:{paths.GATES}", check=False) if base else b""
    if not theirs or theirs == paths.GATES.read_bytes():
        return paths.GATES
    file = paths.STATE / paths.GATES
    paths.STATE.mkdir(exist_ok=True)
    file.write_bytes(theirs)
    print(f"{paths.GATES} differs from the base's, which judges", file=sys.stderr)
    return file


def called(commit: str, asked: str | None) -> str:
    """Return what people call the baseline: main where main has it, else as it was asked for."""
    for branch in ("origin/main", "main"):
        if commit in baseline.git("rev-list", "--first-parent", "--max-count=1000", branch, "--", check=False).decode():
            return "main"
    return "main" if os.environ.get("CI") else str(asked)[:100]


def learning() -> tuple[str, dict[str, report.Points]]:
    """Return the first metric of the training, and its curve per split."""
    lines = list(csv.DictReader(io.StringIO(paths.HISTORY.read_text())))
    first, found = lines[0]["metric"] if lines else "", dict[str, report.Points]()
    for split in dict.fromkeys(line["split"] for line in lines):
        chosen = [line for line in lines if (line["split"], line["metric"]) == (split, first)]
        some = chosen[:: max(1, -(-len(chosen) // report.POINTS))]
        found[split] = tuple((float(line["round"]), float(line["value"])) for line in some)
    return first[:300], found


def importances() -> tuple[tuple[str, float], ...]:
    """Return the features that the model rests on most, and their share."""
    path = paths.PLOTS / "importances.csv"
    lines = list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []
    return tuple((line["feature"][:300], float(line["importance"])) for line in lines[:30])


if __name__ == "__main__":
    sys.exit(main())
