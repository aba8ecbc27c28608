"""A deterministic table with the shape of a census-income problem, whose attainable AUC is known.

Integer arithmetic only, so that a row is the same on every processor, and a function of (seed, its number) alone.
Someone earns more than 50K when score + noise > 0. The score is what a perfect model would recover: no model ranks better than it does.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

ATTAINABLE_AUC = 0.9039  # of the score itself, over 2,000,000 rows of seed 0 without drift; a test measures it again
CHUNK = 10_000
MONTHS = 12
DRIFT_FROM = 9  # months 10 to 12 carry the shift

WORKCLASS = {
    "Private": (70, 0), "Self-employed": (12, 20), "Local-gov": (8, 10), "State-gov": (5, 5), "Federal-gov": (4, 40),
    "Without-pay": (1, -160),
}  # fmt: skip
OCCUPATION = {
    "Clerical": (20, -15), "Craft": (18, 5), "Sales": (16, 10), "Service": (16, -70), "Professional": (14, 45),
    "Managerial": (12, 70), "Farming": (3, -60), "Armed-forces": (1, 0),
}  # fmt: skip
MARITAL = {
    "Married": (48, 130), "Never-married": (32, -90), "Divorced": (14, -55), "Separated": (3, -70), "Widowed": (3, -40),
}  # fmt: skip
REGION = {"north": (30, 0), "south": (30, -15), "east": (20, 10), "west": (19, 15), "islands": (1, -25)}


def batches(rows: int, seed: int, drift: float) -> Iterator[Any]:
    """Yield pyarrow.RecordBatch of at most CHUNK rows; `drift` from 0 (none) to 1 shifts age, region and what education is worth in the last months."""
    for start in range(0, rows, CHUNK):
        yield chunk(start // CHUNK, seed, drift)[0].slice(0, min(CHUNK, rows - start))


def chunk(number: int, seed: int, drift: float) -> tuple[Any, Any, Any]:
    """Return (batch, score, label) of one chunk, shape (CHUNK,) each; the attainable AUC is measured from the last two."""
    import pyarrow as pa

    rng = np.random.Generator(np.random.PCG64([seed, number]))
    shift = round(100 * drift)  # in hundredths, so that everything below stays whole

    def pick(weights: dict[str, tuple[int, int]], extra: Any = 0) -> Any:
        bounds = np.cumsum([weight for weight, _ in weights.values()])
        drawn = np.minimum(rng.integers(0, bounds[-1], CHUNK) + extra, bounds[-1] - 1)
        return np.searchsorted(bounds, drawn, side="right")

    month = rng.integers(0, MONTHS, CHUNK)
    shifted = (month >= DRIFT_FROM) * shift
    age = 17 + (rng.integers(0, 31, CHUNK) + rng.integers(0, 31, CHUNK)) * 63 // 60 * (100 + shifted // 2) // 100
    age = np.minimum(age, 90)
    education = 1 + (rng.integers(0, 6, CHUNK) + rng.integers(0, 6, CHUNK) + rng.integers(0, 6, CHUNK))
    spread = (rng.integers(-12, 13, CHUNK) + rng.integers(-12, 13, CHUNK)) * (rng.integers(0, 3, CHUNK) > 0)
    hours = np.clip(40 + spread, 1, 99)
    invested = rng.integers(0, 100, CHUNK)
    gain = np.where(invested < 8, rng.integers(1, 150, CHUNK) * 100, 0)
    workclass, occupation, marital = pick(WORKCLASS), pick(OCCUPATION), pick(MARITAL)
    region = pick(REGION, extra=shifted // 3)
    female = rng.integers(0, 3, CHUNK) == 0
    no_workclass, no_occupation, no_hours = (rng.integers(0, 100, CHUNK) < percent for percent in (6, 6, 2))

    def effect(weights: dict[str, tuple[int, int]], index: Any) -> Any:
        return np.array([value for _, value in weights.values()])[index]

    # A missing value has no effect of its own, so that the score is a function of what can be seen.
    jobs = effect(OCCUPATION, occupation) * np.where(education > 9, 3, 2) // 2
    score = -118 - (age - 47) ** 2 // 7 + (education - 9) * (24 - 40 * shifted // 100) - 25 * female
    score += np.where(no_hours, 0, hours - 40) * 3 + np.where(gain > 7000, 220, gain // 100)
    score += np.where(no_workclass, 0, effect(WORKCLASS, workclass)) + np.where(no_occupation, 0, jobs)
    score += effect(MARITAL, marital) + effect(REGION, region)
    noise = sum(rng.integers(-62, 63, CHUNK) for _ in range(9))  # near normal, sd about 108
    label = (score + noise) > 0

    def text(names: Iterable[str], index: Any, missing: Any = None) -> Any:
        codes = pa.array(index.astype(np.int32), mask=missing)
        return pa.DictionaryArray.from_arrays(codes, list(names)).cast(pa.string())

    batch = pa.RecordBatch.from_pydict({
        "month": pa.array([f"2025-{each + 1:02d}" for each in month.tolist()]),
        "age": pa.array(age),
        "workclass": text(WORKCLASS, workclass, no_workclass),
        "education_years": pa.array(education),
        "marital_status": text(MARITAL, marital),
        "occupation": text(OCCUPATION, occupation, no_occupation),
        "sex": text(("Male", "Female"), female),
        "capital_gain": pa.array(gain),
        "hours_per_week": pa.array(hours, mask=no_hours),
        "region": text(REGION, region),
        "income": text(("<=50K", ">50K"), label),
    })  # fmt: skip
    return batch, score, label
