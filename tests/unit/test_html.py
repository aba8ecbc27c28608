import re
from html.parser import HTMLParser

import msgspec
import pytest

from pawl.gate.rules import Gates, Rule
from pawl.gate.verdict import Comparison, Facts, Judged, Slice, Value
from pawl.report import Change, Changes, Data, File, Model, Other, Report, Shift
from pawl.report.draw import number, short, span, ticks
from pawl.report.html import page
from pawl.report.plots import calibrated

GATES = Gates(1, {"roc_auc": Rule("higher", max_regression=0.005), "rmse": Rule("lower", max_regression="5%")})
EVIL = "<script>alert(1)</script>\"'&\u202e\u2066🦊 " + "x" * 200
ROC = ((0.0, 0.0), (0.1, 0.7), (1.0, 1.0))
BINS = ((0.05, 0.06, 0.04, 0.08, 900.0), (0.55, 0.6, 0.5, 0.7, 90.0), (0.95, 0.7, 0.6, 0.8, 40.0))


def value(middle=0.9, half=0.01, n=4000):
    return Value(middle, middle - half, middle + half, n)


def facts(metric="roc_auc", **slices):
    there = {name: Slice(400, {metric: each}) for name, each in slices.items()}
    return Facts({metric: value()}, {metric: 0.95}, {metric: 0.9}, there, {"sex": tuple(there)} if there else {})


def compared(difference=0.001, metric="roc_auc", **more):
    ends = {"low": difference - 0.002, "high": difference + 0.002}
    fields = {"baseline": 0.9, "error": 0.001, **ends, "p_lower": 0.5, "p_higher": 0.5} | more
    return Comparison(metric, "", "baseline", "b" * 40, difference=difference, n=4000, method="delong", **fields)


def report(verdict="pass", metric="roc_auc", reason="≥ 0.8", **more):
    judged = (Judged(metric, metric, "", verdict, "error", reason),)
    other = Other("b" * 40, "main", "ledger", facts(metric), common=3977, left_out=23, behind=2)
    fields = {"baseline": other, "state": "compared", "why": "", "champion": None, "champion_why": "no release yet"}
    fields |= {"comparisons": (compared(metric=metric),)} | more
    return Report(1, verdict, verdict != "fail", judged, Model("c" * 40, facts(metric)), **fields)


KINDS = {
    "pass": (report(), "No metric is worse than allowed"),
    "compared": (report(), "2 commits before it on the 3,977 test rows of both, 23 rows that it has trained on left out"),
    "fail": (report("fail", comparisons=(compared(-0.02),)), "1 of 1 metrics is worse than allowed"),
    "improved": (report("improved"), "⬆ improved"),
    "unchanged": (report("unchanged", comparisons=(compared(0.0, error=0.0, low=0.0, high=0.0),)), "= unchanged"),
    "inconclusive": (report("inconclusive"), "🟡 inconclusive"),
    "first": (report(baseline=None, state="first", why="it is the first", comparisons=()), "no baseline to differ from"),
    "lost": (report("error", baseline=None, state="lost", why="its row is gone", comparisons=(), reason="is lost: its row is gone"), "lost: <bdi>its row"),
    "champion": (report(champion=Other("d" * 40, "champion, version 3", "registry", facts())), "champion, version 3"),
    "regression": (report(metric="rmse", curves={"residuals": {"candidate": ((1.0, -2.0, -5.0, 4.0), (2.0, 3.0, -4.0, 6.0))}}), "Median residual from −2.0 to 3.0"),
    "roc": (report(curves={"roc": {"candidate": ROC, "baseline": ROC}}), "roc_auc: 0.900 against 0.900"),
    "precision": (report(curves={"precision_recall": {"candidate": ROC}}), "Precision by recall"),
    "calibration": (report(curves={"calibration": {"candidate": BINS}}), "holds the diagonal in 2 of 3 bins"),
    "learning": (report(curves={"learning": {"train": ((1.0, 0.9), (20.0, 0.3)), "valid": ((1.0, 0.9), (20.0, 0.4))}}), "Round 20: train 0.3, valid 0.4"),
    "importances": (report(importances=(("age", 0.1), ("income", 0.4), ("none", -0.1))), "income counts most"),
    "changed": (
        report(changes=Changes(params=(Change("seed", None, "1"),) * 20, code=(File("a.py", 3, None),),
            data=Data({"test": (10, 8)}, 1, 3, (Shift("age", "mean", 0.2, (0.0, 0.1)), Shift("old", "removed", None, None)))))
        , "8 more"),
    "cost": (report(seconds={"ingest": 1.25, "train": 10.5}), "together 11.8 s"),
}  # fmt: skip


class Page(HTMLParser):
    """What a page holds; a tag that is not closed, or closed twice, is a mistake."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.open += [] if tag in {"meta", "link"} else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += [data] if self.open[-1:] != ["style"] else []


def read(text):
    """Return the page, which needs nothing and runs nothing, and in which every number of a picture is one."""
    found = Page(text)
    assert not {"script", "iframe", "img", "base", "object", "form"} & set(found.tags)
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|https?:", text)
    assert [each for name, each in found.attributes if name in {"href", "src"} or name.startswith("on")] == ["data:,"]
    drawn = " ".join(each for name, each in found.attributes if name in {"d", "x", "y", "cx", "cy", "width", "viewbox"})
    assert not re.search(r"nan|inf|None|\d{7}|e[+-]", drawn)
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(found.words))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_what_it_has_to(kind):
    made, said = KINDS[kind]
    text = page(made, GATES)
    words = "".join(read(text).words)
    assert said in text
    assert words.index("Candidate") < words.index("Gates") < words.index("What changed") < words.index("Digests")
    assert text.count("<svg") == text.count("<figcaption>") == text.count('role="img"><title>')


def test_what_is_not_there_has_no_place():
    text = page(report(), GATES)
    assert "Nothing that the model is made of differs" in text
    assert "Champion" not in page(report(champion_why=""), GATES)
    assert "Models stand" not in page(report(curves={"calibration": {"candidate": BINS}}), GATES)
    assert not re.search("<h2>Slices|>champion</th>", text)
    empty = report(comparisons=(), importances=(("age", float("nan")),), curves={"roc": {"candidate": ()}})
    assert "<h2>Plots" not in page(empty, GATES)


def test_data_that_stayed_is_a_sentence_and_a_difference_has_signs():
    data = Data(
        {"test": (10, 10)}, 0, 0, (Shift("age", "mean", 0.0, (0.1, 0.1)), Shift("sex", "shares", 0.5, (0.0, 0.0)))
    )
    text = page(report(changes=Changes(data=data)), GATES)
    said = "".join(read(text).words)
    assert "Every split has as many rows as before. 1 of 2 columns moved by less than 0.01." in said
    assert "sex" in said.partition("Data")[2]
    assert "age" not in said.partition("Data")[2]
    assert "+0.0010 −0.0010 to +0.0030" in said
    made = report(metric="model_bytes", comparisons=(compared(-57_000.0, "model_bytes", baseline=430_000.0, error=None, low=None, high=None),))  # fmt: skip
    sizes = page(made, Gates(1, {"model_bytes": Rule("lower", max_regression="20%")}))
    assert "<td>430 kB</td><td>−13.3%</td>" in re.sub(r' class="[^"]*"', "", sizes)


def test_slices_are_drawn_and_the_broken_rule_is_said():
    made = msgspec.structs.replace(report(), candidate=Model("c" * 40, facts(**{"sex=F": value(0.7), "sex=M": value()})),
        judged=(Judged("roc_auc[sex=F]", "roc_auc", "sex=F", "fail", "warn", "below its floor", "until May"),))  # fmt: skip
    text = page(made, GATES)
    assert "roc_auc: F 0.700 to M 0.900" in text
    assert "❌ fail waived roc_auc[sex=F]: below its floor until May" in "".join(read(text).words)


def test_hostile_text_is_inert_everywhere():
    nothing = Value(None, None, None, 0)
    names = {"roc_auc": value(), "a": nothing, "b": value(1e300, 1e300), "c": value(0.5, 0.0), "d": value(float("nan"))}
    slices = {EVIL: Slice(3, {"roc_auc": value(), "b": value(1e300)}), "sex=": Slice(0, {"roc_auc": nothing})}
    other = Other("unknown", EVIL, "committed", Facts(names, slices=slices))
    shifts = (Shift(EVIL, "mean", 1e300, (1e300, -1e300)), Shift("y", "shares", float("inf"), None))
    odd = ((0.5, 0.5, 0.4, 0.6, 1e300), (1e300, -1e300, 0.0, 0.0, 1.0), (float("nan"),) * 5, (0.1,))
    pictures = ("roc", "precision_recall", "calibration", "residuals", "learning")
    made = report(
        "error", baseline=other, champion=other, why=EVIL, comparisons=(compared(1e300), compared(0.0, "rmse", low=None, high=None, error=1e300, baseline=1e308)),
        curves={name: dict.fromkeys(("candidate", "baseline", "champion", "train", EVIL), odd) for name in pictures},
        importances=((EVIL, 1e300), (EVIL, 0.0), ("z", -1e-320)), seconds={"x": 1e300, "y": float("nan")}, reason=EVIL,
        changes=Changes((Change(EVIL, EVIL, None),), (), (), (), (File(EVIL, None, None),), Data({"x": (10**30, 0)}, None, None, shifts)),
    )  # fmt: skip
    mine = Facts(names, {"a": None}, {}, slices, {EVIL: (EVIL, "sex=", "gone")})
    text = page(msgspec.structs.replace(made, candidate=Model("unknown", mine)), GATES)
    assert "<script>alert(1)</script>" in "".join(read(text).words)
    assert not set(text) & {"\u202e", "\u2066"}


@pytest.mark.parametrize("values", [(0, 0), (0, 5e-324), (1e-322,), (-1e300, 1e300), (1e15, 1e15 + 0.125), (3, 4)])
def test_a_range_is_never_empty_and_has_ticks(values):
    ends = span(values)
    assert ends[0] < min(values) <= max(values) < ends[1]
    assert 1 <= len(ticks(*ends)) <= 7
    assert all(ends[0] <= tick <= ends[1] for tick in ticks(*ends))


def test_titles_and_numbers_say_no_more_than_there_is():
    assert calibrated(BINS) == "Calibrated within 5 points up to 0.9"
    assert calibrated([(0.1, 0.11)]) == "Calibrated within 1 point"
    assert calibrated([(0.12, 0.3), (0.9, 0.9)]) == "Off by up to 18 points, at 0.12"
    found = number(0.88661, 0.87, 0.9), number(-0.0014, -0.003, 0.001), number(250000.0), number(None)
    assert found == ("0.887", "−0.0014", "250,000", "n/a")
    assert [short(each) for each in (0, -0.25, 2000, -25e4, 1.5e6, 1e300)] == [
        "0",
        "−0.25",
        "2000",
        "−250k",
        "1500k",
        "1e+300",
    ]
