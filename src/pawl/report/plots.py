"""The plots of the report: baseline, champion and candidate in one frame, and a title that says what is seen. Pure.

Points that are no numbers are left out; where none is left, there is no plot.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pawl.gate.rules import Gates
from pawl.gate.verdict import Judged
from pawl.parts import Value
from pawl.report import Report, draw
from pawl.report.draw import LARGEST, NONE, Frame, Row, dot, esc, group, known, text
from pawl.report.text import SYMBOLS, between, change, number, shown, signed

WHO = ("baseline", "champion", "candidate")  # the last is on top
ROWS = 24  # of a plot at most
HEIGHT = 260
Series = Mapping[str, Sequence[Sequence[float]]]


class Plot(NamedTuple):
    """A picture, what is seen on it, and its numbers."""

    title: str
    drawing: str
    height: float
    note: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def plots(report: Report, gates: Gates) -> dict[str, Plot]:
    """Return the plots of the whole test split, by name."""
    of = report.curves.get
    auc, precision = _against(report, "roc_auc"), _against(report, "average_precision")
    rates, shares = ("false positive rate", "true positive rate"), ("recall", "precision")
    found = {
        "differences": deltas(report, gates),
        "roc": curve(of("roc", {}), auc or "True by false positive rate", rates, falling=False),
        "precision_recall": curve(of("precision_recall", {}), precision or "Precision by recall", shares, falling=True),
        "calibration": calibration(of("calibration", {})),
        "residuals": residuals(of("residuals", {})),
        "learning": learning(of("learning", {}), report.learning),
        "importances": importances(report.importances),
    }
    return {name: each for name, each in found.items() if each}


def values(report: Report, metric: str) -> dict[str, Value]:
    """Return the metric of each model that has it; of the baseline as it was compared."""
    models = {"candidate": report.candidate, "baseline": report.baseline, "champion": report.champion}
    measured = {who: model.facts.metrics for who, model in models.items() if model}
    found = {who: metrics[metric] for who, metrics in measured.items() if metric in metrics}
    compared = report.comparison(metric)
    if compared and known(compared.baseline):
        found["baseline"] = Value(compared.baseline, None, None, compared.n)
    return found


def deltas(report: Report, gates: Gates) -> Plot | None:
    """Return the differences of the metrics, each in units of what is allowed; right is better."""
    rows, worse, judged = [], 0, {each.metric: each.verdict for each in report.judged if not each.slice}
    for each in report.comparisons:
        rule, verdict = gates.metrics.get(each.metric), judged.get(each.metric)
        if each.slice or each.against != "baseline" or not verdict or not rule or rule.max_regression is None:
            continue
        unit = rule.allowance(each.baseline or 0.0)
        if not known(each.difference) or not known(unit) or unit <= 0:
            continue
        worse += -rule.sign * each.difference > unit
        middle, low, high = (
            max(min(rule.sign * end / unit, LARGEST), -LARGEST) if known(end) else None
            for end in (each.difference, *(each.low, each.high)[:: rule.sign])
        )
        value = Value(middle, low, high, each.n)
        kind = verdict if verdict in {"fail", "error", "improved"} else "change"
        allowed = f"allowed {shown(each.metric, Value(unit, None, None, 0), None)}"
        rows.append(Row(SYMBOLS[verdict], each.metric, allowed, {kind: value}, change(each)))
    if not rows:
        return None
    ends = _ends(rows)
    frame = Frame((max(min([-1.5, *ends]) * 1.05, -12), min(max([1.5, *ends]) * 1.05, 12)), left=132, right=296)
    title = f"{worse} of {len(rows)} metrics {'is' if worse == 1 else 'are'} worse than allowed"
    note = "Right is better. Each row is divided by its allowed loss, the dashed line; bars: 90 % intervals."
    if any(abs(end) > 12 for end in ends):
        note += " What is beyond 12 lies on the edge."
    head = ["metric", "slice", "against", "value there", "Δ", "90 % interval", "n", "test"]
    table = [
        [esc(each.metric), esc(each.slice or "all rows"), f"{each.against} {esc(each.commit[:7])}",
         shown(each.metric, Value(each.baseline, None, None, 0), each), change(each), between(each, signed), f"{each.n:,}" if each.n else NONE, each.method]
        for each in report.comparisons
    ]  # fmt: skip
    drawing, height = draw.strips(rows, frame, "Δ / allowed loss →", {0: "", -1: "allowed"})
    return Plot(title if worse else "No metric is worse than allowed", drawing, height, note, head, table)


def curve(series: Series, title: str, axes: tuple[str, str], *, falling: bool) -> Plot | None:
    """Return ROC, or precision by recall."""
    found, frame = _clean(series, WHO, 2), Frame((0, 1))
    parts, places = [frame.axes(f"{axes[0]} →", f"↑ {axes[1]}")], []
    parts += [] if falling else [frame.line([(0, 0), (1, 1)], "even")]
    for share, (who, points) in zip((0.3, 0.45, 0.6), found.items(), strict=False):
        x, y = frame.at(*points[int(share * (len(points) - 1))])
        places.append((x - 8 if falling else x + 8, y + 16, who))
        parts.append(group(who, frame.line(points), dot(x, y, 3)))
    parts.append(draw.names(places, "end" if falling else "", frame))
    return _lines(title, parts, "", ["model", *axes], found) if found else None


def calibration(series: Series) -> Plot | None:
    """Return the share that came true by what was predicted."""
    shares = {who: [each for each in points if all(0 <= share <= 1 for share in each[:4])] for who, points in series.items()}  # fmt: skip
    found, frame = _clean(shares, WHO, 5), Frame((0, 1), right=288)
    if not found:
        return None
    parts = [frame.axes("predicted →", "↑ came true"), frame.line([(0, 0), (1, 1)], "even")]
    for aside, (who, points) in zip((-4, 0, 4), found.items(), strict=False):  # or they would hide one another
        parts.append(f'<g class="{who}" transform="translate({aside} 0)">')
        for score, share, low, high, _ in points:
            parts += [frame.line([(score, low), (score, high)], "range"), dot(*frame.at(score, share), 2.5)]
        parts.append("</g>")
    mine = found.get("candidate", [])
    inside = sum(low <= score <= high for score, _, low, high, _ in mine)
    note = f"The 95 % interval holds the diagonal in {inside} of {len(mine)} bins of the candidate. " if mine else ""
    head = ["model", "predicted", "came true", "low", "high", "n"]
    note += "Models stand a little apart." if len(found) > 1 else ""
    return _lines(calibrated(mine), [*parts, _names(found, frame)], note, head, found)


def calibrated(bins: Sequence[Sequence[float]]) -> str:
    """Return how far what was predicted is from what came true; within 5 points, over half of the range or more, is calibrated."""
    gaps = [math.ceil(abs(share - score) * 100 - 1e-9) for score, share, *_ in bins]
    if not gaps:
        return "Calibration"
    good = next((place for place, gap in enumerate(gaps) if gap > 5), len(gaps))
    edge = math.floor(bins[good][0] * 10) / 10 if good < len(gaps) else 1.0
    if good and edge >= 0.5:
        points = max(1, *gaps[:good])
        return f"Calibrated within {points} point{'s' * (points != 1)}{f' up to {edge:g}' * (good < len(gaps))}"
    worst = max(range(len(gaps)), key=gaps.__getitem__)
    return f"Off by up to {gaps[worst]:.4g} points, at {bins[worst][0]:.2g}"


def residuals(series: Series) -> Plot | None:
    """Return the median residual and a band of 90 % by what was predicted."""
    found = _clean(series, WHO, 4)
    if not found:
        return None
    points = [point for each in found.values() for point in each]
    ups = draw.span([0, *(value for point in points for value in point[1:])])
    frame = Frame(draw.span(point[0] for point in points), ups, right=288)
    zero = frame.line([(frame.x[0], 0), (frame.x[1], 0)], "even")
    parts = [frame.axes("predicted →", "↑ residual: measured − predicted"), zero]
    for who, each in found.items():
        band = [(x, low) for x, _, low, _ in each] + [(x, high) for x, _, _, high in reversed(each)]
        parts.append(group(who, frame.line(band, "band"), frame.line(each)))
    mine = [point[1] for point in found.get("candidate") or points]
    low, high = min(mine), max(mine)
    title = f"Median residual from {draw.number(low, low, high)} to {draw.number(high, low, high)}"
    note = "Line: median. Band: 90 % of the residuals. Each point is an equal part of the test rows."
    return _lines(title, [*parts, _names(found, frame)], note, ["model", "predicted", "median", "5 %", "95 %"], found)


def learning(series: Series, metric: str) -> Plot | None:
    """Return what the metric of training did, on its own rows and on others."""
    found = _clean(series, ("train", "valid"), 2)
    if not found:
        return None
    points = [point for each in found.values() for point in each]
    frame = Frame(draw.span(point[0] for point in points), draw.span(point[1] for point in points), right=310)
    parts = [frame.axes("round →", f"↑ {metric or 'metric of the training'}")]
    parts += [group(split, frame.line(each)) for split, each in found.items()]
    ends = ", ".join(f"{split} {each[-1][1]:.4g}".replace("-", "−") for split, each in found.items())
    title = f"Round {number(max(points)[0])}: {ends}"
    return _lines(title, [*parts, _names(found, frame)], "", ["split", "round", "value"], found)


def importances(items: Iterable[tuple[str, float]]) -> Plot | None:
    """Return a bar per feature."""
    found = sorted(((name, value) for name, value in items if known(value)), key=lambda item: -item[1])
    if not found:
        return None
    shown = found[:12]
    low, high = min(0.0, shown[-1][1]), max(0.0, shown[0][1])
    across = (low, high) if high - low > 1e-280 else (0, 1)
    frame, parts = Frame(across, left=160, right=316, top=4, bottom=4 + 22 * len(shown)), []
    for place, (name, value) in enumerate(shown):
        y, start, end = 8 + 22 * place, *sorted((frame.at(0)[0], frame.at(value)[0]))
        bar = f'<rect x="{start:.1f}" y="{y}" width="{end - start:.1f}" height="14"/>'
        parts += [text(152, y + 11, name, "end", 21), group("candidate", bar)]
        parts.append(text(end + 6, y + 11, draw.short(float(f"{value:.2g}")), "axis"))
    parts.append(frame.upright(0, "even"))
    title = f"{shown[0][0][:60]} counts most" if shown[0][1] > 0 else "No feature counts"
    rows = [[esc(name), number(value)] for name, value in found]
    return Plot(title, "".join(parts), frame.bottom + 8, "", ["feature", "importance"], rows)


def slices(report: Report, judged: Mapping[tuple[str, str], Judged]) -> list[Plot]:
    """Return a plot per column of slices and metric: candidate and baseline on each."""
    facts, base = report.candidate.facts, report.baseline.facts.slices if report.baseline else {}
    found = []
    for by, listed in facts.by.items():
        there = {name: facts.slices[name] for name in listed if name in facts.slices}
        for metric in dict.fromkeys(metric for each in there.values() for metric in each.metrics):
            rows = []
            for name, each in there.items():
                both = {who: some[name].metrics.get(metric) for who, some in (("candidate", there), ("baseline", base)) if name in some}  # fmt: skip
                models = {who: value for who, value in both.items() if value and known(value.value)}
                symbol = SYMBOLS[judged[metric, name].verdict] if (metric, name) in judged else ""
                rows += [Row(symbol, name.removeprefix(f"{by}="), f"n {each.rows:,}", models)] if models else []
            found += [_slices_of(metric, rows)] if rows else []
    return found


def _slices_of(metric: str, rows: Sequence[Row]) -> Plot:
    frame = Frame(draw.span(_ends(rows[:ROWS])), left=132, right=344)
    drawing, height = draw.strips(rows[:ROWS], frame, f"{metric} →", {})
    both = ((row.name, row.values["candidate"]) for row in rows if "candidate" in row.values)
    mine = sorted((each.value or 0.0, f"{name:.40} {number(each.value, each)}") for name, each in both)
    ends = " to ".join(dict.fromkeys((mine[0][1], mine[-1][1]))) if mine else "of the baseline alone"
    note = "Bars: 95 % intervals." + (f" The first {ROWS} of {len(rows)} slices are drawn." if len(rows) > ROWS else "")
    return Plot(f"{metric}: {ends}", drawing, height, note)


def _ends(rows: Iterable[Row]) -> list[float]:
    """Return every number that rows show."""
    shown = (each for row in rows for each in row.values.values())
    return [end for each in shown for end in (each.value, each.low, each.high) if known(end)]


def _lines(title: str, parts: Iterable[str], note: str, head: Sequence[str], series: Series) -> Plot:
    """Return a plot of points, which are its numbers too."""
    rows = [[name, *(f"{value:.6g}" for value in point)] for name, points in series.items() for point in points]
    return Plot(title, "".join(parts), HEIGHT, note, head, rows)


def _names(found: Series, frame: Frame) -> str:
    """Return the names of lines where they end."""
    ends = ((frame.right + 6, frame.at(*each[-1][:2])[1] + 4, name) for name, each in found.items())
    return draw.names(ends, "", frame)


def _clean(series: Series, order: Iterable[str], size: int) -> dict[str, list[tuple[float, ...]]]:
    """Return the points that are numbers, by x."""
    found = {}
    for name in order:
        points = [tuple(point[:size]) for point in series.get(name, ()) if len(point) >= size]
        if kept := sorted(point for point in points if all(map(known, point))):
            found[name] = kept
    return found


def _against(report: Report, metric: str) -> str:
    """Return `roc_auc: 0.897 against 0.896`; nothing where it is not known."""
    found = values(report, metric)
    now, before = found.get("candidate"), found.get("baseline")
    if now is None or not known(now.value):
        return ""
    other = f" against {number(before.value, now)}" if before and known(before.value) else ""
    return f"{metric}: {number(now.value, now)}{other}"
