"""What a service counts, as Prometheus reads it. Plain numbers under one lock: prometheus_client's own cost a tenth of a prediction."""

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
TOGETHER = 64  # rows that are counted under the lock: a single row does not wait for a batch
REASONS = (
    "malformed", "unfit", "too_large", "media_type", "unauthorized", "overload", "timeout", "disconnected", "internal",
)  # fmt: skip


class Histogram:
    """Counts by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        """Return it as Prometheus has it: cumulated."""
        buckets, total = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self.sum)


class Counts(Collector):
    """The counters of one service. Labels come from the model and from lists here, never from a request."""

    def __init__(
        self, labels: Sequence[str], values: Iterable[float], seen: Mapping[str, Any], info: Mapping[str, str]
    ) -> None:
        """values: predictions of a regression, whose quantiles bound its histogram; seen: {column: [least, greatest] or categories} in training."""
        self.lock, self.info, self.dropped = threading.Lock(), dict(info), 0
        self.labels = dict.fromkeys(labels, 0)
        self.predictions, self.refused = 0, dict.fromkeys(REASONS, 0)
        self.seconds = Histogram(SECONDS)
        ordered = sorted({float(value) for value in values})
        deciles = [ordered[len(ordered) * tenth // 10] for tenth in range(1, 10)] if ordered else []
        tenths = [tenth / 10 for tenth in range(1, 10)]
        self.scores = Histogram(tenths if labels else sorted(set(deciles)))
        self.unexpected: dict[tuple[str, str], int] = {}
        held = [(at, name, each) for at, (name, each) in enumerate(seen.items()) if each]
        self.categories = [(at, name, frozenset(each)) for at, name, each in held if isinstance(each[0], str)]
        self.ranges = [(at, name, *each) for at, name, each in held if not isinstance(each[0], str)]

    def answered(
        self,
        rows: Sequence[Sequence[Any]],
        answers: Sequence[Any],
        scores: Sequence[Sequence[float]] | None,
        seconds: float,
    ) -> None:
        """Count the answers to a request."""
        for first in range(0, len(rows), TOGETHER):
            last = min(first + TOGETHER, len(rows))
            with self.lock:
                if not first:
                    self.seconds.add(seconds)
                self.predictions += last - first
                for at in range(first, last):
                    if scores is None:
                        self.scores.add(answers[at])
                    else:
                        self.labels[answers[at]] += 1
                        score = scores[at]
                        self.scores.add(score[1] if len(score) == 2 else max(score))
                if last - first == 1:
                    self._unusual(rows[first])
                else:
                    self._unusual_of([*zip(*rows[first:last], strict=True)])

    def _unusual(self, row: Sequence[Any]) -> None:
        for at, name, known in self.categories:
            if (cell := row[at]) not in known:
                self._note(name, "missing" if cell is None else "unknown")
        for at, name, low, high in self.ranges:
            if (cell := row[at]) is None or not low <= cell <= high:
                self._note(name, "missing" if cell is None else "out of range")

    def _unusual_of(self, columns: Sequence[Sequence[Any]]) -> None:
        for at, name, known in self.categories:
            if not known.issuperset(cells := columns[at]):
                for cell in cells:
                    if cell not in known:
                        self._note(name, "missing" if cell is None else "unknown")
        for at, name, low, high in self.ranges:
            if None in (cells := columns[at]) or low > min(cells) or max(cells) > high:
                for cell in cells:
                    if cell is None or not low <= cell <= high:
                        self._note(name, "missing" if cell is None else "out of range")

    def _note(self, name: str, kind: str) -> None:
        self.unexpected[name, kind] = self.unexpected.get((name, kind), 0) + 1

    def refuse(self, reason: str) -> None:
        """Count a request that was not answered."""
        with self.lock:
            self.refused[reason] += 1

    def drop(self, rows: int) -> None:
        """Count predictions that the log did not take."""
        with self.lock:
            self.dropped += rows

    def collect(self) -> Iterator[Any]:
        """Yield the metrics; called at each scrape."""
        with self.lock:
            yield InfoMetricFamily("model", "The model that answers", self.info)
            yield CounterMetricFamily("model_predictions", "Rows that were answered", value=self.predictions)
            yield self.seconds.family("model_prediction_duration_seconds", "Time from a whole request to its answer")
            words = "Probability of the positive label, or of the predicted one of several; the value for a regression"
            yield self.scores.family("model_prediction_score", words)
            yield _by("model_predicted_label", "Rows by the label that was predicted", "label", self.labels)
            yield _by("model_refused_requests", "Requests that were not answered", "reason", self.refused)
            words = "Cells that training did not have: answered as the pipeline does"
            yield _by("model_unexpected_values", words, "column kind", self.unexpected)
            yield CounterMetricFamily(
                "model_log_dropped_rows", "Predictions that the log did not take", value=self.dropped
            )


def _by(name: str, text: str, labels: str, counts: Mapping[Any, int]) -> CounterMetricFamily:
    """Return counts by the values of labels, one text of them or a tuple."""
    family = CounterMetricFamily(name, text, labels=labels.split())
    for key, count in counts.items():
        family.add_metric([key] if isinstance(key, str) else key, count)
    return family
