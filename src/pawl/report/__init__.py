"""The one report of a change: what was measured of the candidate, how it compares, the verdict, what changed. Everything shown comes from it.

report.json carries numbers and short texts alone, strictly typed, because a fork's pull request writes it: main's code judges it anew and renders
it. schema.json beside this file describes it.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from pawl.gate.verdict import Comparison, Facts, Judged, State, Verdict
from pawl.parts import Commit, Hash, Line, Name, Part, Rows, Text
from pawl.problem import Problem
from pawl.profile import Column, Shift

MAX_BYTES = 2_000_000
POINTS = 120  # of a curve

Point = Annotated[tuple[float, ...], msgspec.Meta(max_length=5)]
Points = Annotated[tuple[Point, ...], msgspec.Meta(max_length=2 * POINTS)]
Curves = dict[Annotated[str, msgspec.Meta(max_length=40)], Points]  # {model or split: points}
Picture = Literal["roc", "precision_recall", "calibration", "residuals", "learning"]


class Model(Part):
    """The candidate."""

    commit: Commit
    facts: Facts
    digest: Hash | None = None  # of the bundle
    rows: Hash | None = None  # what names the test rows and their targets
    digests: Annotated[dict[Name, Hash], msgspec.Meta(max_length=20)] = {}  # what the bundle was made of
    splits: Annotated[dict[Name, Rows], msgspec.Meta(max_length=10)] = {}
    columns: Annotated[dict[Text, Column], msgspec.Meta(max_length=2000)] = {}  # of the table
    not_compiled: Line = ""  # why its pipeline serves itself

    @property
    def served_by(self) -> str:
        """Say what answers in the service."""
        return f"the pipeline: {self.not_compiled}" if self.not_compiled else "the compiled model"


class Other(Part):
    """The baseline, or the champion."""

    commit: Commit
    name: Line  # main; champion, version 3
    how: Literal["ledger", "rebuilt", "committed", "registry"]  # where its answers, or its numbers alone, come from
    facts: Facts  # on the rows that it shares with the candidate
    digest: Hash | None = None
    common: Rows = 0  # test rows that both were measured on
    left_out: Rows = 0  # test rows of the candidate that this model was trained on
    behind: Rows = 0  # commits between the one that was asked for and this one


class Change(Part):
    """A value that differs; None where it is not there."""

    key: Line
    before: Line | None
    after: Line | None


class File(Part):
    """A file that differs; lines are None where they are not counted."""

    path: Line
    added: Rows | None
    removed: Rows | None


class Data(Part):
    """How the table differs. Test rows are compared one by one, of the rest the number is."""

    rows: Annotated[dict[Name, tuple[Rows, Rows]], msgspec.Meta(max_length=10)]  # {split: (before, after)}
    added: Rows | None = None  # of the test rows
    removed: Rows | None = None
    shifts: Annotated[tuple[Shift, ...], msgspec.Meta(max_length=500)] = ()


Many = Annotated[tuple[Change, ...], msgspec.Meta(max_length=1000)]


class Changes(Part):
    """What is another than in the baseline's commit."""

    params: Many = ()
    gates: Many = ()
    schema: Many = ()
    dependencies: Many = ()
    code: Annotated[tuple[File, ...], msgspec.Meta(max_length=1000)] = ()
    data: Data | None = None


class Report(Part):
    """What a change does to the model."""

    version: Literal[1]
    verdict: Verdict
    allowed: bool  # whether this verdict lets it pass: mode and strict of gates.yaml say
    judged: Annotated[tuple[Judged, ...], msgspec.Meta(max_length=5000)]
    candidate: Model
    baseline: Other | None
    state: State
    why: Line  # why there is no baseline, or why it cannot be compared
    champion: Other | None
    champion_why: Line  # why there is no champion
    comparisons: Annotated[tuple[Comparison, ...], msgspec.Meta(max_length=5000)]
    changes: Changes = Changes()
    curves: dict[Picture, Curves] = {}
    importances: Annotated[tuple[tuple[Line, float], ...], msgspec.Meta(max_length=30)] = ()
    seconds: Annotated[dict[Name, float], msgspec.Meta(max_length=20)] = {}  # per stage that ran
    learning: Line = ""  # the metric of the learning curves

    def comparison(self, metric: str, name: str = "", against: str = "baseline") -> Comparison | None:
        """Return the comparison of a metric, on all rows or a slice."""
        wanted = (metric, name, against)
        return next((each for each in self.comparisons if (each.metric, each.slice, each.against) == wanted), None)


def dump(report: Report) -> bytes:
    """Return report.json."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def load(content: bytes, where: str) -> Report:
    """Return the report in report.json; raise Problem unless it is small and holds nothing but what the types above allow."""
    if len(content) > MAX_BYTES:
        raise Problem(f"{len(content)} bytes are more than a report has", where, f"at most {MAX_BYTES}")
    try:
        return msgspec.json.decode(content, type=Report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(f"not a report: {str(error)[:300]}", where, "write it with `make report`") from error


def schema() -> bytes:
    """Return the JSON Schema of report.json."""
    content = msgspec.json.encode(msgspec.json.schema(Report))
    content = content.replace(rb"\\Z", b"$")  # Python's own; it is no anchor for other readers of a schema
    return msgspec.json.format(content, indent=1) + b"\n"


def differing(before: Any, after: Any, prefix: str = "") -> list[Change]:
    """Return the keys in which two YAML files differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        pairs = {key: (before.get(key, msgspec.UNSET), after.get(key, msgspec.UNSET)) for key in [*after, *before]}
        return [each for key, pair in pairs.items() for each in differing(*pair, f"{prefix}{key}.")]
    if before == after:
        return []
    old, new = (None if value is msgspec.UNSET else str(value)[:300] for value in (before, after))
    return [Change(prefix.removesuffix(".")[:300], old, new)]
