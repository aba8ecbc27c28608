import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pawl import metrics, sample
from pawl.pipeline import leakage

# Of the first 20,000 rows of seed 0: the same on every processor. Who changes the generator changes it here too.
DIGEST = "92adda0f2a9785e603299948105f3810ed72ec28400a47b491634a641a17ca64"
NUMBERS = {"age", "education_years", "capital_gain", "hours_per_week"}
CHUNKS = 60


def table(rows=20_000, seed=0, drift=0.0):
    return pa.Table.from_batches(sample.batches(rows, seed, drift))


def test_the_rows_are_the_same_everywhere():
    cells = repr(table().to_pydict())

    assert hashlib.sha256(cells.encode()).hexdigest() == DIGEST


def test_the_attainable_auc_is_what_the_module_says():
    parts = [sample.chunk(number, 0, 0.0)[1:] for number in range(CHUNKS)]

    score, label = (np.concatenate(side) for side in zip(*parts, strict=True))
    found = metrics.roc_auc(label.astype(np.int64), np.column_stack([-score, score]).astype(float))

    assert found.low < sample.ATTAINABLE_AUC < found.high
    assert found.high - found.low < 0.002
    assert 0.87 < sample.ATTAINABLE_AUC < 0.92


def test_no_single_column_comes_near_the_attainable_auc():
    rows = table(100_000)
    target = leakage.codes_of(rows["income"], "category")

    power = {
        name: leakage.predictive_power(
            leakage.codes_of(rows[name], "integer" if name in NUMBERS else "category"), target, regression=False
        )
        for name in rows.schema.names
        if name != "income"
    }

    assert max(power.values()) < sample.ATTAINABLE_AUC - 0.08, power
    assert sum(value > 0.55 for value in power.values()) >= 5, power  # and several carry something


@pytest.mark.parametrize("rows", [1, 9_999, 10_000, 10_001])
def test_a_row_does_not_depend_on_how_many_there_are(rows):
    assert table(rows).equals(table().slice(0, rows))


def test_another_seed_gives_other_rows():
    assert table(100, seed=1) != table(100, seed=0)


def test_drift_changes_the_last_months_only():
    plain, shifted = table(), table(drift=1.0)
    late = pc.greater_equal(plain["month"], f"2025-{sample.DRIFT_FROM + 1:02d}")

    def northerners(rows):
        return pc.mean(pc.equal(rows.filter(late)["region"], "north").cast(pa.int8())).as_py()

    def mean_age(rows):
        return pc.mean(rows.filter(late)["age"]).as_py()

    assert shifted.filter(pc.invert(late)) == plain.filter(pc.invert(late))
    assert mean_age(shifted) > mean_age(table(drift=0.5)) > mean_age(plain) + 2
    assert abs(northerners(shifted) - northerners(plain)) > 0.1
    assert 0.2 < pc.mean(late.cast(pa.int8())).as_py() < 0.3


def test_drift_makes_education_worth_less():
    def worth(drift):
        rows = table(60_000, drift=drift)
        rows = rows.filter(pc.greater(rows["month"], "2025-09"))
        learned = pc.greater(rows["education_years"], 9)
        rich = pc.equal(rows["income"], ">50K").cast(pa.int8())
        return pc.mean(rich.filter(learned)).as_py() - pc.mean(rich.filter(pc.invert(learned))).as_py()

    assert worth(1.0) < worth(0.0) - 0.1


def test_it_has_what_real_tables_have():
    rows = table()
    missing = {name: rows[name].null_count / rows.num_rows for name in rows.schema.names if rows[name].null_count}
    shares = {
        name: min(entry["counts"] for entry in pc.value_counts(rows[name]).to_pylist()) / rows.num_rows
        for name in ("workclass", "occupation", "region")
    }

    assert missing == pytest.approx({"workclass": 0.06, "occupation": 0.06, "hours_per_week": 0.02}, abs=0.01)
    assert all(0 < share < 0.02 for share in shares.values()), shares
    assert 0.15 < pc.mean(pc.equal(rows["income"], ">50K").cast(pa.int8())).as_py() < 0.4
