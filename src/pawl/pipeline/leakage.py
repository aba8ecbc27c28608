"""How much of the target one column gives away by itself. Pure: arrays in, a number out."""

from typing import Any

import numpy as np

from pawl import metrics

BINS = 64


def codes_of(column: Any, dtype: str) -> Any:
    """Return small integers per value, shape (n,): categories, or quantile bins of numbers; missing is one of its own."""
    if dtype in {"integer", "number"}:
        values = column.cast("double", safe=False).to_numpy()
        known = values[np.isfinite(values)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else known
        return np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values, side="right"))
    encoded = column.cast("string").combine_chunks().dictionary_encode().indices
    return encoded.fill_null(len(encoded.unique())).to_numpy(zero_copy_only=False).astype(np.int64)


def predictive_power(codes: Any, target: Any, *, regression: bool) -> float:
    """Return how well the codes alone predict the target, learned on one half of the rows and judged on the other: AUC, the mean over classes by their rows, or R2.

    `codes` are integers, shape (n,); `target` has label numbers, or values for regression, shape (n,).
    """
    learn = np.arange(len(codes)) % 2 == 0
    size = int(codes.max()) + 1
    seen = np.bincount(codes[learn], minlength=size)

    def means(values: Any) -> Any:
        totals = np.bincount(codes[learn], weights=values[learn], minlength=size)
        return np.where(seen > 0, totals / np.maximum(seen, 1), values[learn].mean())[codes[~learn]]

    if regression:
        found = [(metrics.squared_influence("r2", target[~learn], means(target))[0], 1)]
    else:
        of_labels = [target == label for label in np.unique(target)[:20]]
        found = [
            (metrics.auc_influence(each[~learn], means(each.astype(float)))[0], each[~learn].sum())
            for each in of_labels
        ]
    known = [each for each in found if np.isfinite(each[0])]
    return float(np.average([value for value, _ in known], weights=[rows for _, rows in known])) if known else 0.0
