"""Whether a window of rows is still like the reference: tests by column with a floor for the effect, and one verdict. Pure: tables in, a report out.

Numbers: Kolmogorov-Smirnov's two-sample test, whose effect is its distance. Categories: the chi-square test of homogeneity, whose effect is the
total variation (half the sum of how far each share moved). Missing values: a one-sided test of two shares, whose effect is the rise.
A column drifted where one of its tests is significant after Holm's correction over all of them *and* its effect, with what chance may have taken
from it, reaches the floor: a change of the floor's size is found in 95 % of windows that are large enough, and a tiny one in no window, however large.
"""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from pawl import rows
from pawl.config import Drift
from pawl.gate.statistics import Z90, holm
from pawl.metrics import Estimate, Z
from pawl.parts import Part, Value
from pawl.report.draw import number
from pawl.report.text import between

Kind = Literal["number", "category"]
Verdict = Literal["drift", "no drift", "insufficient data"]
SYMBOLS: Mapping[Verdict, str] = {"drift": "❌", "no drift": "✅", "insufficient data": "🟡"}
SAID = {"ks": "KS", "chisquare": "total variation", "missing": "missing"}
PREDICTION = "(prediction)"  # the column of scores, values, or labels of more than two classes
MANY = 1000  # categories: more are names, not categories
EXPECTED = 5  # rows of a category that chi-square's law needs
NAMED, SHOWN = 3, 12  # columns in the headline, and in the table


class Test(Part):
    """One test of one column."""

    column: str
    test: Literal["ks", "chisquare", "missing"]
    statistic: float
    p: float
    effect: float
    margin: float  # what chance may take from an effect, one-sided 95 %: so that one of the size that is looked for is found so often
    adjusted: float = 1.0  # after Holm
    drifted: bool = False


class Quality(Part):
    """What is wrong with a column's cells; shares are of all rows of the window, not of the sample."""

    column: str
    missing_reference: float
    missing: float
    new: int  # categories that the reference does not have; their names are cells, which stay where they are
    new_share: float
    outside: float  # beyond the limits of schema.yaml, or of the reference where it has none
    least: float | None
    most: float | None


class Performance(Part):
    """The metric on the rows that have labels, against the one that training recorded on its test rows."""

    metric: str
    reference: Value
    current: Value
    loss: float  # how much worse, in the metric's unit; its 95 % interval; and one-sided: how often chance alone makes it so large
    low: float
    high: float
    p: float
    lost: bool

    @property
    def worse(self) -> Value:
        """Return the loss, with its interval."""
        return Value(self.loss, self.low, self.high, self.current.n)


class Window(Part):
    """Which rows. name: the same window has the same; edge: (time, key) of the last row, where the next one begins after it."""

    name: str
    since: str = ""
    until: str = ""
    edge: tuple[float, int] | None = None


class Report(Part):
    """reports/drift.json."""

    version: Literal[1]
    verdict: Verdict
    headline: str
    window: Window
    reference: str
    reference_rows: int
    rows: int
    sampled: int  # of them, what the tests saw
    labelled: int
    models: dict[str, int]  # rows by the version that answered them
    damaged: int
    drift_share: float | None  # of the columns that could be tested
    columns: list[Test]  # of a column with missing cells, two
    prediction: Test | None
    target: Test | None
    quality: list[Quality]
    performance: Performance | None
    left_out: dict[str, str]  # column: why it was not tested
    limits: Drift


class Total:
    """What all rows of a column are, not only the sampled ones."""

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        self.rows = self.missing = self.outside = 0
        self.least, self.most = math.inf, -math.inf
        self.low, self.high, self.counts, self.many = low, high, Counter[str](), False

    def add(self, column: Any) -> None:
        """Add a pyarrow column of doubles or strings."""
        import pyarrow as pa
        import pyarrow.compute as pc

        self.rows, self.missing = self.rows + len(column), self.missing + column.null_count
        if pa.types.is_floating(column.type):
            ends = pc.min_max(column).as_py()
            if ends["min"] is not None:
                self.least, self.most = min(self.least, ends["min"]), max(self.most, ends["max"])
            limits = ((pc.less, self.low), (pc.greater, self.high))
            self.outside += sum(pc.sum(test(column, end)).as_py() or 0 for test, end in limits if end is not None)
        elif not self.many:
            self.counts.update(counted(column))
            self.many = len(self.counts) > MANY


class Side:
    """Rows as they stream by: totals of all, and the `size` with the smallest keys, which are the same in whatever order they come."""

    def __init__(self, kinds: Mapping[str, Kind], size: int, limits: Mapping[str, tuple[float | None, float | None]] | None = None) -> None:  # fmt: skip
        self.kinds, self.size, self.rows, self.digest = dict(kinds), size, 0, 0
        self.totals = {name: Total(*(limits or {}).get(name, ())) for name in kinds}
        self.kept: tuple[Any, Any] | None = None
        self.most, self.cut = np.uint64(2**64 - 1), False

    def add(self, table: Any, keys: Any) -> None:
        """Add rows of `kinds`, doubles and strings; keys: 64-bit hashes, shape (n,)."""
        import pyarrow as pa

        self.rows += table.num_rows
        self.digest = (self.digest + int(keys.sum(dtype=np.uint64))) % 2**64
        for name, total in self.totals.items():
            total.add(table.column(name))
        chosen = keys <= self.most
        table, keys = table.filter(pa.array(chosen)), keys[chosen]
        if self.kept:
            table, keys = pa.concat_tables([self.kept[0], table]), np.concatenate([self.kept[1], keys])
        self.kept, self.cut = (table, keys), False
        if len(keys) > 2 * self.size:
            self._cut()

    def _cut(self) -> None:
        assert self.kept
        table, keys = self.kept
        order = np.argsort(keys, kind="stable")[: self.size]
        self.kept, self.cut = (table.take(order).combine_chunks(), keys[order]), True
        if len(order) == self.size:
            self.most = keys[order[-1]]

    def sample(self) -> Any:
        """Return the sampled rows as a pyarrow table, ordered by key; None where there are none."""
        if self.kept and not self.cut:
            self._cut()
        return self.kept and self.kept[0]


def counted(column: Any) -> dict[str, int]:
    """Return how often each category is in a pyarrow column."""
    return {each["values"]: each["counts"] for each in column.drop_null().value_counts().to_pylist()}


def keys_of(ids: Any, place: Any = 0) -> Any:
    """Return a 64-bit key per row from its id, and its place in it: a pyarrow column, and a number or an array of them."""
    return rows.mix(rows.hash_column(ids) + np.asarray(place).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def of_numbers(reference: Any, current: Any) -> tuple[float, float, float]:
    """Return (statistic, p, effect) of two samples, shape (n,) and (m,): what Evidently's `ks` calls."""
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # without the exact law it takes the asymptotic one
        found = ks_2samp(reference, current)
    return float(found.statistic), float(found.pvalue), float(found.statistic)


def of_categories(reference: Mapping[str, int], current: Mapping[str, int]) -> tuple[float, float, float]:
    """Return (statistic, p, effect) of two counts.

    Evidently's `chisquare` takes the reference for the truth: it divides by zero for a new category, and where the reference is no larger than
    the window it alarms on a third of quiet windows (six categories). So this is the test of two samples; categories too rare for its law are one.
    """
    from scipy.stats import chi2_contingency

    names = sorted({*reference, *current})
    counts = np.array([[side.get(name, 0) for name in names] for side in (reference, current)], dtype=float)
    sums = counts.sum(1, keepdims=True)
    if not sums.all():
        return math.nan, math.nan, math.nan
    effect = float(np.abs(np.diff(counts / sums, axis=0)).sum() / 2)
    counts = counts[:, np.argsort(counts.sum(0), kind="stable")]
    expected = counts.sum(0) * sums.min() / sums.sum()
    if expected[0] < EXPECTED:  # the rare ones, and as many more as make them enough together
        pooled = max(int((expected < EXPECTED).sum()), int(np.searchsorted(expected.cumsum(), EXPECTED)) + 1)
        counts = np.column_stack([counts[:, :pooled].sum(1), counts[:, pooled:]])
    if counts.shape[1] < 2:
        return 0.0, 1.0, effect
    found = chi2_contingency(counts, correction=False)
    return float(found.statistic), float(found.pvalue), effect


def of_missing(reference: Total, current: Total) -> tuple[float, float, float]:
    """Return (statistic, p, effect): one-sided, that a larger share is missing."""
    from scipy.stats import norm

    before, now = reference.missing / reference.rows, current.missing / current.rows
    share = (reference.missing + current.missing) / (reference.rows + current.rows)
    error = math.sqrt(share * (1 - share) * (1 / reference.rows + 1 / current.rows))
    z = (now - before) / error if error else 0.0
    return z, float(norm.sf(z)), now - before


def margin(reference: int, current: int) -> float:
    """Return the margin of an effect from its largest standard error, that of a share of a half."""
    return Z90 * 0.5 * math.sqrt(1 / reference + 1 / current)


def tested(name: str, reference: Side, current: Side, least: int) -> Test | str:
    """Return the test of a column's values, or why there is none."""
    kind = reference.kinds[name]
    pairs = [(side.sample(), side.totals[name]) for side in (reference, current)]
    if any(total.many for _, total in pairs):
        return f"more than {MANY:,} categories"
    columns = [table.column(name).drop_null() if table is not None else [] for table, _ in pairs]
    if (short := min(map(len, columns))) < least:
        return f"{short:,} values, {least:,} are needed"
    if kind == "number":
        return Test(name, "ks", *of_numbers(*(each.to_numpy() for each in columns)), margin(*map(len, columns)))
    return Test(name, "chisquare", *of_categories(*map(counted, columns)), margin(*map(len, columns)))


def quality(name: str, reference: Total, current: Total) -> Quality:
    """Return what is wrong with a column's cells."""
    of = max(current.rows, 1)
    new = [] if reference.many or current.many else [count for key, count in current.counts.items() if key not in reference.counts]  # fmt: skip
    ends = [end if math.isfinite(end) else None for end in (current.least, current.most)]
    share = reference.missing / max(reference.rows, 1)
    return Quality(name, share, current.missing / of, len(new), sum(new) / of, current.outside / of, *ends)  # fmt: skip


def performance(metric: str, sign: int, reference: Value, current: Estimate, limits: Drift) -> Performance | None:
    """Return what was lost, in the metric's unit; sign: 1 where higher is better. None where one of them has no interval. The rows are other ones: the errors add up."""
    from scipy.stats import norm

    ends = (reference.value, reference.low, reference.high, *current[:3])
    if any(end is None or not math.isfinite(end) for end in ends):
        return None
    before, low, high, value, least, most = (float(end) for end in ends if end is not None)  # numpy's are no JSON
    loss = sign * (before - value)
    error = math.hypot(high - low, most - least) / (2 * Z)
    p = float(norm.sf(loss / error)) if error else float(loss <= 0)
    lost = loss > limits.max_loss and p < limits.level
    now, half = Value(value, least, most, current.n), Z * error
    return Performance(metric, reference, now, loss, loss - half, loss + half, p, lost)


def assess(
    limits: Drift,
    reference: Side,
    current: Side,
    *,
    name: str,
    window: Window,
    prediction: tuple[Side, Side] | None = None,
    target: tuple[str, Side] | None = None,
    measured: Performance | None = None,
    labelled: int = 0,
    models: Mapping[str, int] | None = None,
    damaged: int = 0,
    left_out: Mapping[str, str] | None = None,
) -> Report:
    """Return the report. prediction: (reference, current) with the column PREDICTION; target: its name, and the labelled rows of the window."""
    features = [each for each in reference.kinds if each in current.kinds and not (target and each == target[0])]
    # Some cells of a column may be missing: of a window that has just enough rows, half have to be there.
    found = {each: tested(each, reference, current, limits.min_rows // 2) for each in features}
    why = {**(left_out or {}), **{each: got for each, got in found.items() if isinstance(got, str)}}
    totals = {each: (reference.totals[each], current.totals[each]) for each in features}
    enough = min(reference.rows, current.rows) >= limits.min_rows
    gone = [Test(each, "missing", *of_missing(*both), margin(both[0].rows, both[1].rows)) for each, both in totals.items() if enough and both[1].missing]  # fmt: skip
    score = tested(PREDICTION, *prediction, limits.min_rows) if prediction else ""
    truth = tested(target[0], reference, target[1], limits.min_rows) if target else ""
    every = [each for each in (*found.values(), *gone, score, truth) if isinstance(each, Test)]
    adjusted = {id(each): p for each, p in zip(every, holm([each.p for each in every]), strict=True)}
    judged = {id(each): msgspec.structs.replace(each, adjusted=adjusted[id(each)], drifted=adjusted[id(each)] < limits.level and each.effect + each.margin >= limits.effect) for each in every}  # fmt: skip
    columns = [judged[id(each)] for each in (*found.values(), *gone) if id(each) in judged]
    moved = {each.column for each in columns if each.drifted}
    could = {each.column for each in columns if each.test != "missing"} | moved
    share = len(moved) / len(could) if could and enough else None
    sample = current.sample()
    report = Report(
        1, "insufficient data", "", window, name, reference.rows, current.rows, 0 if sample is None else sample.num_rows, labelled,
        dict(models or {}), damaged, share, columns, judged.get(id(score)), judged.get(id(truth)), [quality(each, *both) for each, both in totals.items()],
        measured, why, limits,
    )  # fmt: skip
    verdict, headline = judge(report)
    return msgspec.structs.replace(report, verdict=verdict, headline=headline)


def judge(report: Report) -> tuple[Verdict, str]:
    """Return the verdict, and the sentence that says it with its reasons and needs no other line."""
    limits = report.limits
    for count, what in ((report.reference_rows, "the reference"), (report.rows, f"the window ({report.window.name})")):
        if count < limits.min_rows:
            return "insufficient data", f"Insufficient data: {count:,} rows in {what}, {limits.min_rows:,} are needed."
    if report.drift_share is None:
        return "insufficient data", f"Insufficient data: no column can be tested ({next(iter(report.left_out.values()), 'none is in both')})."  # fmt: skip
    moved = sorted((each for each in report.columns if each.drifted), key=lambda each: -each.effect)
    causes = [said(each) for each in moved[:NAMED]] if moved and report.drift_share >= limits.share else []
    causes += [f"{len(moved) - NAMED} more columns"] if causes and len(moved) > NAMED else []
    causes += [said(report.prediction)] if report.prediction and report.prediction.drifted else []
    if (lost := report.performance) and lost.lost:
        verb = "fell" if lost.current.value < lost.reference.value else "rose"  # type: ignore[operator]  # both are numbers
        by = f"{shown(lost.worse)} (95 % interval {between(lost.worse)})"
        causes.append(f"{lost.metric} {verb} by {by} on {lost.current.n:,} labelled rows")
    if causes:
        return "drift", f"Drift: {', '.join(causes)}."
    values = [each for each in report.columns if each.test != "missing"]
    most = max([*values, *([report.prediction] if report.prediction else [])], key=lambda each: each.effect)
    far = f"; the largest change is {_called(most)} ({SAID[most.test]} {most.effect:.2f}, {limits.effect:g} is looked for)"
    kept = f"; {lost.metric} is {shown(lost.current)} on {lost.current.n:,} labelled rows" if lost else ""
    return "no drift", f"No drift: {len(values)} columns of {report.rows:,} rows{far}{kept}."


def said(each: Test) -> str:
    """Return what a test found, for a headline."""
    p = chance(each.adjusted)
    if each.test == "missing":
        return f"{each.column} is missing in {100 * each.effect:.0f} % more of the rows ({p})"
    return f"{_called(each)} moved ({SAID[each.test]} {each.effect:.2f}, {p})"


def shown(value: Value) -> str:
    """Return a value with the digits that its interval supports."""
    return number(value.value, value.low, value.high)


def _called(each: Test) -> str:
    return "the prediction" if each.column == PREDICTION else each.column


def chance(p: float) -> str:
    """Return a p-value as it is shown."""
    return "p n/a" if math.isnan(p) else "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def lines(report: Report) -> tuple[list[str], list[list[str]], list[str]]:
    """Return (head, rows, notes): the columns, those that moved most first, and what else there is to say."""
    of = {each.column: each for each in report.quality}
    tests = [each for each in report.columns if each.drifted or each.test != "missing"]
    tests.sort(key=lambda each: (-each.drifted, -each.effect))
    cells = []
    for each in [*tests[:SHOWN], *(each for each in (report.prediction, report.target) if each)]:
        cell = of.get(each.column)
        notes = ["drifted"] * each.drifted
        notes += [f"{share:.1%} {what}" for what, share in (("new", cell.new_share), ("outside", cell.outside)) if share] if cell else []  # fmt: skip
        shares = f"{cell.missing_reference:.1%} → {cell.missing:.1%}" if cell else ""
        role = "target" if each is report.target else _called(each)
        cells.append([role, SAID[each.test], f"{each.effect:.3f}", chance(each.adjusted)[2:], shares, ", ".join(notes)])
    told = [f"{len(tests) - SHOWN:,} more are in drift.json"] if len(tests) > SHOWN else []
    told += [f"{name} was not tested: {why}" for name, why in [*report.left_out.items()][:5]]
    if lost := report.performance:
        moved = f"{shown(lost.reference)} → {shown(lost.current)} on {lost.current.n:,} labelled rows"
        worse = (
            f"a loss of {shown(lost.worse)} (95 % interval {between(lost.worse)}), allowed {report.limits.max_loss:g}"
        )
        told.append(f"{lost.metric}: {moved}; {worse}")
    elif report.models:
        judged = f"the performance is judged from {report.limits.min_rows:,} on"
        told.append(f"{report.labelled:,} rows have labels: {judged}")
    told += [f"answered by {name[:19]}: {count:,} rows" for name, count in [*report.models.items()][:3]]
    sampled = f", the tests saw {report.sampled:,} of them" if report.sampled < report.rows else ""
    told.append(f"{report.rows:,} rows{sampled}, against {report.reference_rows:,} of {report.reference}")
    told += [f"{report.damaged:,} damaged lines of the log were left out"] if report.damaged else []
    head = ["column", "test", "effect", "p, Holm", "missing", "found"]
    there = [
        place for place in range(len(head)) if any(row[place] for row in cells)
    ]  # nothing is found in most windows
    return [head[place] for place in there], [[row[place] for place in there] for row in cells], told


def screen(report: Report) -> str:
    """Return the report as a screen."""
    head, cells, told = lines(report)
    sizes = [min(max(len(row[at]) for row in [head, *cells]), 24) for at in range(len(head))]
    listed = ["  ".join(["", *(cell[:24].ljust(size) for cell, size in zip(row, sizes, strict=True))]).rstrip() for row in [head, *cells]]  # fmt: skip
    return "\n".join([f"{SYMBOLS[report.verdict]} {report.headline}", "", *listed * bool(cells), "", *(f"  {each}" for each in told)])  # fmt: skip


def markdown(report: Report) -> str:
    """Return the report for a job's summary, or an issue."""
    head, cells, told = lines(report)

    def row(each: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', '¦').replace('`', '') for cell in each)} |"

    marks = ["--:" if name in {"effect", "p, Holm", "missing"} else ":--" for name in head]
    listed = [row(head), row(marks), *map(row, cells)] if cells else []
    return "\n".join([f"### {SYMBOLS[report.verdict]} {report.headline}", "", *listed, "", *(f"- {each}" for each in told), ""])  # fmt: skip
