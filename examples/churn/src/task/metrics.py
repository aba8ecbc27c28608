"""Metrics of your own, beside the standard ones of the task."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def lift_at_10(y: Any, prediction: Any, probabilities: Any) -> float:
    """Return how many times more of those leave whom the model fears for most, a tenth, than of all: what calling that tenth is worth.

    y: 1 for who left, shape (n,); probabilities: shape (n, 2).
    """
    feared = np.argsort(-probabilities[:, 1], kind="stable")[: max(1, len(y) // 10)]
    return float(y[feared].mean() / y.mean()) if y.any() else float("nan")


# name -> function(y, prediction, probabilities) -> float
METRICS: Mapping[str, Callable[[Any, Any, Any], float]] = {"lift_at_10": lift_at_10}
