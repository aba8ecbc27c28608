"""From answers to the report: measured, compared, judged. Pure, so that main's code can do it again with what a stranger's run has left."""

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple

import msgspec
import numpy as np

from pawl import metrics
from pawl.answers import Answers, Hashes, common, without
from pawl.gate import compare, verdict
from pawl.gate.rules import Gates
from pawl.gate.verdict import Facts, State
from pawl.report import POINTS, Model, Other, Points, Report


class Known(NamedTuple):
    """A model that the candidate is compared with."""

    shown: Other
    answers: Answers | None
    size: float | None = None
    seen: Hashes | None = None  # the rows that it was trained on, where it answered rows of the candidate's test split


def assess(
    found: Report, gates: Gates, answers: Answers, baseline: Known | None, champion: Known | None, marks: Sequence[compare.Other],
    state: State, why: str, today: date,
) -> Report:  # fmt: skip
    """Return the report with its comparisons, verdicts, columns and curves. found: what is known before anything is compared."""
    facts = found.candidate.facts
    comparisons: list[verdict.Comparison] = []
    shown: dict[str, Other | None] = {"baseline": None, "champion": None}
    curves = {name: {"candidate": points} for name, points in pictures(answers).items()}
    for who, known in (("baseline", baseline), ("champion", champion)):
        if known is None:
            continue
        theirs, shown[who] = known.answers, known.shown
        if theirs is not None:
            total, left_out, of_both = theirs.total, known.shown.left_out, known.shown.facts
            if known.seen is not None:
                left_out = int(np.isin(answers.rows, known.seen).sum())
                theirs = without(theirs, known.seen)
            mine, theirs = common(answers, theirs)
            own = known.seen is None and len(mine.rows) == len(answers.rows) == total  # rows: those of both
            if not own or not of_both.metrics:
                of_both = compare.facts(theirs, gates, size=known.size) if len(theirs.rows) else Facts({})
            shown[who] = msgspec.structs.replace(known.shown, facts=of_both, common=len(mine.rows), left_out=left_out)
            if len(theirs.rows) >= gates.baseline.min_rows:
                for name, points in pictures(theirs).items():
                    curves[name][who] = points
        if who == "baseline" and state == "compared":
            other = compare.Other(known.shown.commit, lambda: theirs, size=known.size)  # noqa: B023 - called in this turn
            comparisons, state, why = compare.compare(gates, answers, facts.size, other, marks)
    judged = verdict.judge(gates, facts, comparisons, state, today)
    word = verdict.overall(judged)
    return msgspec.structs.replace(
        found, verdict=word, allowed=verdict.allowed(word, gates), judged=tuple(judged), comparisons=tuple(comparisons),
        **shown, state=state, why=why[:300], curves={**found.curves, **curves},
    )  # fmt: skip


def empty(candidate: Model) -> Report:
    """Return a report in which nothing is judged yet."""
    return Report(1, "error", False, (), candidate, None, "first", "", None, "", ())  # noqa: FBT003 - allowed


def pictures(answers: Answers) -> dict[Any, Points]:
    """Return the points of each picture that the answers alone can draw."""
    y, probabilities, two = answers.y, answers.probabilities, len(answers.labels) == 2
    if probabilities is None:
        order, residual, points = np.argsort(answers.prediction, kind="stable"), y - answers.prediction, []
        for part in np.array_split(order, min(20, len(order))):
            middle, low, high = np.quantile(residual[part], [0.5, 0.05, 0.95]).tolist()
            points.append((float(answers.prediction[part].mean()), middle, low, high))
        return {"residuals": tuple(points)}
    score = probabilities[:, 1] if two else probabilities.max(axis=1)
    hit = y == 1 if two else y == probabilities.argmax(axis=1)
    cell, bins = np.minimum(score * 10, 9).astype(int), []
    for number in np.unique(cell):
        inside = cell == number
        share = metrics.wilson(int(hit[inside].sum()), int(inside.sum()))
        bins.append((float(score[inside].mean()), share.value, share.low, share.high, float(share.n)))
    found: dict[Any, Points] = {"calibration": tuple(bins)}
    if two and 0 < y.sum() < len(y):
        order = np.argsort(-score, kind="stable")
        last = np.append(np.flatnonzero(np.diff(score[order])), len(y) - 1)  # rows of equal score are taken together
        true = np.cumsum(y[order])[last]
        taken, positives = last + 1, int(y.sum())
        found["roc"] = thinned(np.append(0, taken - true) / (len(y) - positives), np.append(0, true) / positives)
        found["precision_recall"] = thinned(true / positives, true / taken)
    return found


def thinned(x: Any, y: Any) -> Points:
    """Return at most POINTS points of a curve, evenly along both axes, its ends among them."""
    way = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    keep = np.unique(np.searchsorted(way, np.linspace(0, way[-1], POINTS)).clip(0, len(x) - 1))
    return tuple((round(float(x[place]), 5), round(float(y[place]), 5)) for place in keep)
