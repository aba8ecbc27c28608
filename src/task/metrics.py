"""Metrics of your own, beside the standard ones of the task."""

from collections.abc import Callable, Mapping
from typing import Any

# name -> function(y, prediction, probabilities) -> float
#   y              shape (n,): label numbers 0..k-1, in the order of the bundle's labels; the target itself for regression
#   prediction     shape (n,): the same
#   probabilities  shape (n, k); None for regression
# Intervals come from resampling rows. Name it in gates.yaml to gate on it.
METRICS: Mapping[str, Callable[[Any, Any, Any], float]] = {}
