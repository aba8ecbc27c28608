import datetime as dt
import math
from statistics import NormalDist
from typing import get_args

import pytest
from msgspec import structs

from pawl.answers import hidden
from pawl.gate import verdict
from pawl.gate.rules import SIZE, Baseline, Gates, Rule, SliceRules, Waiver
from pawl.gate.verdict import Comparison, Facts, Judged, Slice
from pawl.parts import Value

TODAY = dt.date(2026, 6, 30)
HIGHER, LOWER = (Rule(direction=way, max_regression=0.01) for way in ("higher", "lower"))
SHARE = Rule(direction="higher", max_regression="5%")
FLOOR = Rule(direction="higher", floor=0.5)


def compared(difference, error, metric="m", of="", against="baseline", baseline=0.8, p=None):
    """Return a comparison; without p, the p-values of a normal difference."""
    lower = p or (NormalDist().cdf(difference / error) if error else float(difference >= 0))
    higher = 1.0 if p else NormalDist().cdf(-difference / error) if error else float(difference <= 0)
    return Comparison(metric, of, against, "c" * 40, baseline, difference, error, None, None, lower, higher, 500, "bootstrap")  # fmt: skip


def judge(rules, comparisons=(), values=None, state="compared", slices=(), facts=None, today=TODAY, **gates):
    """Return the verdicts; every metric has the value 0.8 unless `values` says another."""
    found = {name: Value(value, None, None, 500) for name, value in ({**dict.fromkeys(rules, 0.8)} | (values or {})).items()}  # fmt: skip
    facts = facts or Facts(found)
    made = Gates(version=1, metrics=rules, slices=tuple(slices), **gates)
    return verdict.judge(made, facts, list(comparisons), state, today)


def words(judged):
    return {each.rule: each.verdict for each in judged}


# (rule, candidate minus baseline, its standard error, the verdict, its reason)
DIFFERENCES = {
    "surely better": (HIGHER, 0.02, 0.005, "improved", "worse by ≤ 0.01"),
    "bit-identical": (HIGHER, 0.0, 0.0, "unchanged", "worse by ≤ 0.01"),
    "as good, with other answers": (HIGHER, 0.0, 0.005, "pass", "worse by ≤ 0.01"),
    "surely worse, as is allowed": (HIGHER, -0.009, 0.001, "pass", "worse by ≤ 0.01"),
    "as much worse as is allowed": (HIGHER, -0.01, 0.001, "pass", "worse by ≤ 0.01"),
    "surely worse than allowed": (HIGHER, -0.02, 0.005, "fail", "worse by 0.02, allowed 0.01"),
    "worse than allowed, by chance": (HIGHER, -0.02, 0.02, "inconclusive", "worse by 0.02, allowed 0.01: it may be chance, p = 0.16"),
    "worse on every row alike": (HIGHER, -0.02, 0.0, "fail", "worse by 0.02, allowed 0.01"),
    "surely lower, which is better": (LOWER, -0.02, 0.005, "improved", "worse by ≤ 0.01"),
    "surely higher, which is worse": (LOWER, 0.02, 0.005, "fail", "worse by 0.02, allowed 0.01"),
    "higher, by chance": (LOWER, 0.02, 0.02, "inconclusive", "it may be chance"),
    "hardly more than allowed": (HIGHER, -0.01004, 0.0001, "fail", "worse by 0.01004, allowed 0.01"),
    "hardly more than the share": (SHARE, -0.04004, 0.0, "fail", "worse by 5.005%, allowed 5%"),
    "worse by less than the share": (SHARE, -0.039, 0.001, "pass", "worse by ≤ 5%"),
    "worse by more than the share": (SHARE, -0.041, 0.001, "fail", "worse by 5.1%, allowed 5%"),
    "a size above what is allowed": (Rule(direction="lower", max_regression="5%"), 0.08, None, "fail", "worse by 10%, allowed 5%"),
    "a size within it": (Rule(direction="lower", max_regression="5%"), 0.03, None, "pass", "worse by ≤ 5%"),
    "the same size": (Rule(direction="lower", max_regression="5%"), 0.0, None, "unchanged", "worse by ≤ 5%"),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "difference", "error", "expected", "reason"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_a_difference_is_held_to_its_allowance_and_to_chance(rule, difference, error, expected, reason):
    [judged] = judge({"m": rule}, [compared(difference, error)])

    assert (judged.verdict, reason in judged.reason) == (expected, True), judged.reason


# The value just below, and just above, are the nearest that a float can hold.
VALUES = {
    "just below a floor": (FLOOR, math.nextafter(0.5, 0), "fail", "below its floor 0.5"),
    "equal to a ceiling": (Rule(direction="lower", ceiling=0.5), 0.5, "pass", "≤ 0.5"),
    "just above a ceiling": (Rule(direction="lower", ceiling=0.5), math.nextafter(0.5, 1), "fail", "above its ceiling 0.5"),
    "equal to a floor, below a ceiling": (Rule(direction="higher", floor=0.5, ceiling=0.9), 0.5, "pass", "≥ 0.5, ≤ 0.9"),
    "too good": (Rule(direction="higher", floor=0.5, ceiling=0.9), 0.95, "fail", "above its ceiling 0.9"),
    "a floor of zero": (Rule(direction="higher", floor=0.0), -0.1, "fail", "below its floor 0"),
    "no limit": (Rule(direction="higher"), 0.1, "skipped", "shown, not judged"),
    "None": (FLOOR, None, "fail", "is not a number"),
    "NaN above a floor": (FLOOR, math.nan, "fail", "is not a number"),
    "infinity above a floor": (FLOOR, math.inf, "fail", "is not a number"),
    "minus infinity below a ceiling": (Rule(direction="lower", ceiling=0.5), -math.inf, "fail", "is not a number"),
    "NaN without a limit": (Rule(direction="higher"), math.nan, "fail", "is not a number"),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "value", "expected", "reason"), VALUES.values(), ids=VALUES)
def test_a_value_is_held_to_its_limits(rule, value, expected, reason):
    assert judge({"m": rule}, values={"m": value}) == [Judged("m", "m", "", expected, "error", reason)]


def test_a_comparison_helps_neither_a_value_nor_a_difference_that_is_no_number():
    assert words(judge({"m": HIGHER}, [compared(0.1, 0.001)], {"m": math.nan})) == {"m": "fail"}
    assert words(judge({"m": HIGHER}, [structs.replace(compared(0.0, 0.0), difference=None)])) == {"m": "error"}


def test_a_metric_that_was_not_measured_fails_and_the_nearest_is_named():
    facts = Facts({each: Value(0.9, None, None, 500) for each in ("roc_auc", "log_loss", "f1")})
    for name, hint in (("roc_acu", ": did you mean roc_auc?"), ("revenue", "")):
        [judged] = judge({name: HIGHER}, facts=facts)
        assert (judged.verdict, judged.reason) == ("fail", f"was not measured{hint}")


GAP = Rule(direction="higher", max_gap=0.1)
GAPS = {
    "allowed": (GAP, 0.9, 0.85, "pass"),
    "too large": (GAP, 0.95, 0.8, "fail"),
    "too large, of a loss": (Rule(direction="lower", max_gap=0.1), 0.1, 0.3, "fail"),
    "the other way, of a loss": (Rule(direction="lower", max_gap=0.1), 0.3, 0.1, "pass"),
    "no training split": (GAP, None, 0.9, "fail"),
    "no number on the training split": (GAP, math.nan, 0.9, "fail"),
}


@pytest.mark.parametrize(("rule", "train", "valid", "expected"), GAPS.values(), ids=GAPS)
def test_a_gap_between_training_and_validation_is_overfitting(rule, train, valid, expected):
    facts = Facts({"m": Value(0.9, None, None, 500)}, {"m": train}, {"m": valid})

    assert words(judge({"m": rule}, facts=facts)) == {"m": expected}


def test_a_chance_that_one_rule_fails_by_is_no_reason_among_five():
    five = {f"m{number}": HIGHER for number in range(5)}
    found = judge(five, [compared(-0.02, 0.01, name, p=0.03) for name in five])

    assert words(judge({"m": HIGHER}, [compared(-0.02, 0.01, p=0.03)])) == {"m": "fail"}
    assert [(each.verdict, "p = 0.15" in each.reason) for each in found] == [("inconclusive", True)] * 5


def test_slices_and_the_mark_are_in_the_family_and_what_does_not_block_or_is_exact_is_not():
    value = Value(0.8, None, None, 500)
    facts = Facts(dict.fromkeys(("m", "n", SIZE), value), slices={"s=x": Slice(500, {"m": value})}, by={"s": ("s=x",)})
    quiet, size = Rule(direction="higher", max_regression=0.01, level="warn"), Rule(direction="lower", max_regression=9)
    worse = compared(-0.02, 0.01, p=0.03)
    beside = [compared(-0.02, 0.01, "n", p=0.03), compared(5.0, None, SIZE), compared(-0.02, 0.0, "n")]

    assert words(judge({"m": HIGHER, "n": quiet, SIZE: size}, [worse, *beside], facts=facts))["m"] == "fail"
    for other in (compared(-0.02, 0.01, "m", "s=x", p=0.03), compared(-0.02, 0.01, against="high_water", p=0.03)):
        slices = [SliceRules(by=("s",), metrics={"m": HIGHER})]
        assert words(judge({"m": HIGHER}, [worse, other], facts=facts, slices=slices))["m"] == "inconclusive"


@pytest.mark.parametrize("level", ["warn", "info"])
def test_what_does_not_block_does_not_decide(level):
    quiet = {"n": Rule(direction="higher", floor=0.99, level=level)}
    waiver = Waiver(rule="*", reason="for the table", until="2027-01-01")
    for rules, waivers, expected in (({"m": FLOOR}, (), "pass"), ({}, (), "skipped"), ({}, (waiver,), "skipped")):
        assert verdict.overall(judge(rules | quiet, waivers=waivers)) == expected


def sliced(rows, names=("sex=Female", "sex=Male"), value=0.8, rule=FLOOR, **keys):
    """Return the verdicts on slices with so many rows each."""
    slices = {name: Slice(count, {"m": Value(value, None, None, count)}) for name, count in zip(names, rows, strict=True) if count}  # fmt: skip
    facts = Facts({"m": Value(0.8, None, None, 500)}, slices=slices, by={"sex": names})
    return judge({}, facts=facts, slices=[SliceRules(**({"by": ("sex",), "metrics": {"m": rule}} | keys))])


HIDDEN = (hidden("sex=Female"), hidden("sex=Male"))
SLICES = {
    "large ones": (sliced([200, 300]), {"m[sex=Female]": "pass", "m[sex=Male]": "pass"}),
    "one that is too small": (sliced([199, 300]), {"m[sex=Male]": "pass"}),
    "a required one is too small": (sliced([199, 300], required=("sex=Female",)), {"m[sex=Female]": "fail", "m[sex=Male]": "pass"}),
    "a required one is empty": (sliced([0, 300], required=("sex=Female",)), {"m[sex=Female]": "fail", "m[sex=Male]": "pass"}),
    "a required one is not there": (sliced([300, 300], required=("sex=Other",)), {"m[sex=Female]": "pass", "m[sex=Male]": "pass", "m[sex=Other]": "fail"}),
    "a required one is hidden": (sliced([300, 300], HIDDEN, required=("sex=Female",)), {f"m[{name}]": "pass" for name in HIDDEN}),
    "a required one is hidden and too small": (sliced([9, 300], HIDDEN, required=("sex=Female",)), {f"m[{HIDDEN[0]}]": "fail", f"m[{HIDDEN[1]}]": "pass"}),
    "a column that is not measured": (sliced([300, 300], by=("age",)), {"m[age]": "fail"}),
    "below the floor": (sliced([300, 300], value=0.4), {"m[sex=Female]": "fail", "m[sex=Male]": "fail"}),
    "no number": (sliced([300, 300], value=None), {"m[sex=Female]": "fail", "m[sex=Male]": "fail"}),
}  # fmt: skip


@pytest.mark.parametrize(("judged", "expected"), SLICES.values(), ids=SLICES)
def test_a_slice_is_judged_where_it_is_large_enough_and_missed_where_it_is_required(judged, expected):
    assert words(judged) == expected


# (state, what the baseline's section says, the verdict of a relative rule, its reason)
STATES = {
    "first": ("first", {}, "skipped", "no baseline"),
    "first, which fails": ("first", {"if_missing": "fail"}, "error", "no baseline"),
    "lost is never a first run": ("lost", {"if_not_comparable": "skip", "if_missing": "skip"}, "error", "is lost"),
    "incomparable": ("incomparable", {}, "error", "not comparable"),
    "incomparable, which is skipped": ("incomparable", {"if_not_comparable": "skip"}, "skipped", "not comparable"),
    "not compared": ("compared", {}, "error", "not defined"),
}


@pytest.mark.parametrize(("state", "baseline", "expected", "reason"), STATES.values(), ids=STATES)
def test_without_a_baseline_nothing_passes_for_compared(state, baseline, expected, reason):
    both = Rule(direction="higher", floor=0.5, max_regression=0.01)
    found = judge({"m": HIGHER, "n": both}, state=state, baseline=Baseline(**baseline))

    assert words(found) == {"m": expected, "n": "pass" if expected == "skipped" else expected}
    assert all(reason in each.reason for each in found)
    assert verdict.overall(found[:1]) == expected


# (difference to the baseline, difference to the mark, both with a small error; the verdict)
MARKS = {
    "worse than both": (-0.005, -0.02, "fail"),
    "worse than the mark, identical to the baseline": (0.0, -0.02, "unchanged"),
    "worse than the mark, better than the baseline": (0.005, -0.02, "improved"),
    "worse than both, as the mark allows": (-0.005, -0.009, "pass"),
    "worse than the baseline allows": (-0.02, -0.005, "fail"),
}


@pytest.mark.parametrize(("step", "creep", "expected"), MARKS.values(), ids=MARKS)
@pytest.mark.parametrize("sign", [1, -1], ids=["higher", "lower"])
def test_the_best_of_main_stops_a_loss_in_small_steps(step, creep, expected, sign):
    pair = [compared(sign * step, 0.001 if step else 0.0), compared(sign * creep, 0.001, against="high_water")]

    [judged] = judge({"m": HIGHER if sign == 1 else LOWER}, pair)
    assert judged.verdict == expected
    assert ("the best of main (ccccccc)" in judged.reason) == (expected == "fail" and step == -0.005)


def test_a_chance_against_the_mark_is_inconclusive_and_no_worse_than_one_against_the_baseline():
    mark = compared(-0.02, 0.02, against="high_water")

    for step, of_mark in ((-0.005, True), (-0.011, False)):
        [judged] = judge({"m": HIGHER}, [compared(step, 0.01), mark])
        assert (judged.verdict, "best of main" in judged.reason) == ("inconclusive", of_mark)


@pytest.mark.parametrize(("today", "expected"), [("2026-06-30", "pass"), ("2026-07-01", "fail")])
def test_a_waiver_holds_until_its_date(today, expected):
    waivers = tuple(Waiver(rule="m", reason="for the table", until=f"2026-06-{day}") for day in ("01", "30"))

    judged = judge({"m": FLOOR, "n": FLOOR}, values={"m": 0.1}, today=dt.date.fromisoformat(today), waivers=waivers)
    assert words(judged) == {"m": "fail", "n": "pass"}
    assert [each.waived for each in judged] == ["waived until 2026-06-30: for the table" * (expected == "pass"), ""]
    assert verdict.overall(judged) == expected


OVERALL = {
    "": "skipped", "skipped": "skipped", "pass": "pass", "pass skipped": "pass", "unchanged": "unchanged",
    "unchanged skipped": "unchanged", "unchanged pass": "unchanged", "improved unchanged pass": "improved",
    "inconclusive improved": "inconclusive", "fail inconclusive pass": "fail", "fail error": "error",
}  # fmt: skip


def test_the_worst_verdict_decides_and_nothing_judged_is_no_pass():
    for each, expected in OVERALL.items():
        assert verdict.overall([Judged("m", "m", "", word, "error", "") for word in each.split()]) == expected, each


def test_what_may_ship_depends_on_mode_and_strict():
    every = set(get_args(verdict.Verdict))
    for keys, more in (({}, {"inconclusive"}), ({"strict": True}, set()), ({"mode": "report"}, every)):
        gates = Gates(version=1, metrics={}, **keys)
        assert {word for word in every if verdict.allowed(word, gates)} == verdict.GOOD | more
