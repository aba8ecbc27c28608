import html
import json
import math
import re
import unicodedata
from datetime import date
from pathlib import Path

import jsonschema
import msgspec
import pytest
from markdown_it import MarkdownIt

from pawl import report
from pawl.gate import verdict
from pawl.gate.rules import SIZE, Gates, Rule, SliceRules, Waiver
from pawl.gate.verdict import Comparison, Facts, Judged, Slice
from pawl.parts import Value
from pawl.problem import Problem
from pawl.profile import Column, Shift
from pawl.report import Change, Changes, Data, File, Model, Other, Report, card, text

GATES = Gates(
    1,
    {"roc_auc": Rule("higher", floor=0.88, max_regression=0.01), "log_loss": Rule("lower", ceiling=0.36), SIZE: Rule("lower", max_regression="20%")},
    slices=(SliceRules(("sex",), {"recall": Rule("higher", floor=0.6, max_regression=0.03)}),),
)  # fmt: skip
TODAY, HASH, OTHER_HASH = date(2026, 1, 1), "1" * 64, "sha256:" + "d" * 64
CANDIDATE, BASE, BEST = "c" * 40, "b" * 40, "a" * 40


def near(value, half=0.01, n=1234):
    return Value(value, None if value is None else value - half, None if value is None else value + half, n)


def facts(*, recall=0.8, size=50_000.0, **values):
    known = {"roc_auc": 0.9, "log_loss": 0.3} | values
    metrics = {name: near(value) for name, value in known.items()} | {SIZE: Value(size, None, None, 0)}
    slices = {name: Slice(600, {"recall": near(value, 0.02, 600)}) for name, value in (("sex=f", recall), ("sex=m", 0.8))}  # fmt: skip
    return Facts(metrics, slices=slices, by={"sex": tuple(slices)})


def differs(by, metric="roc_auc", name="", against="baseline", half=0.005):
    p = [1.0, 1.0] if abs(by) < 2 * half else [1e-6, 1.0][:: 1 if by < 0 else -1]
    before = {"roc_auc": 0.9, "log_loss": 0.3, "recall": 0.8}[metric]
    return Comparison(metric, name, against, BASE if against == "baseline" else BEST, before, by, half / 1.6, by - half, by + half, *p, 1234, "bootstrap")  # fmt: skip


def grows(by):
    return Comparison(SIZE, "", "baseline", BASE, 50_000.0, by, None, None, None, 1.0, 1.0, 0, "exact")


SAME = [Comparison("roc_auc", "", "baseline", BASE, 0.9, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1234, "delong"), *(Comparison("recall", f"sex={sex}", "baseline", BASE, 0.8, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 600, "bootstrap") for sex in "fm"), grows(0.0)]  # fmt: skip


def made(*comparisons, gates=GATES, state="compared", measured=None, candidate=None, base=None, **more):
    chosen = {(each.metric, each.slice): each for each in (*SAME, *comparisons) if each.against == "baseline"} if state == "compared" else {}  # fmt: skip
    chosen = [*chosen.values(), *(each for each in comparisons if each.against != "baseline")]
    measured = measured or facts()
    judged = verdict.judge(gates, measured, chosen, state, TODAY)
    word, other = verdict.overall(judged), base or Other(BASE, "main", "ledger", facts(), OTHER_HASH, 1234)
    others = {"baseline": None if state in {"first", "lost"} else other, "champion": None}
    return Report(
        1, word, verdict.allowed(word, gates), tuple(judged), candidate or Model(CANDIDATE, measured, HASH, HASH), state=state,
        comparisons=tuple(chosen), **{"why": "", "champion_why": "", **others, **more},
    )  # fmt: skip


def written(**more):
    return json.loads(report.dump(made(state="first"))) | more


def with_candidate(**fields):
    return written(candidate=written()["candidate"] | fields)


def with_metric(**fields):
    known = written()["candidate"]["facts"]
    return with_candidate(facts=known | {"metrics": {"roc_auc": known["metrics"]["roc_auc"] | fields}})


def with_changes(**fields):
    return written(changes={"params": [{"key": "a", "before": "1", "after": "2"} | fields]})


def read(content):
    return report.load(content if isinstance(content, bytes) else json.dumps(content).encode(), "report.json")


VALUE = {"value": 0, "low": 0, "high": 0, "n": 0}
REFUSED = {
    "nothing": b"", "no JSON": b"roc_auc: 0.9", "a list": b"[]", "null": b"null", "two reports": json.dumps(written()).encode() * 2,
    "half a report": json.dumps(written()).encode()[:-20], "UTF-16": json.dumps(written()).encode("utf-16"),
    "a byte that is no UTF-8": json.dumps(written(why="x")).encode().replace(b'"x"', b'"\xff"'), "half a surrogate": written(why="\ud800"),
    "one byte too many": json.dumps(written()).encode().ljust(report.MAX_BYTES + 1),
    "NaN": with_metric(value=math.nan), "Infinity": with_metric(value=math.inf), "-Infinity": with_metric(low=-math.inf),
    "a number too large for a float": json.dumps(with_metric(value="@")).replace('"@"', "1e999").encode(),
    "a number of 5000 digits": json.dumps(with_metric(n="@")).replace('"@"', "9" * 5000).encode(),
    "deep lists": b'{"version":1,"candidate":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep mappings": b'{"version":1,"candidate":' + b'{"a":' * 40_000 + b"1" + b"}" * 40_000 + b"}",
    "deep lists in an unknown field": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an unknown field": written(score=1), "an unknown field of the candidate": with_candidate(score=1),
    "an unknown field of a metric": with_metric(score=1), "an unknown field of a change": with_changes(score=1),
    "another version": written(version=2), "a version in quotes": written(version="1"), "no candidate": written(candidate=None),
    "no verdict": {key: value for key, value in written().items() if key != "verdict"}, "another verdict": written(verdict="good"),
    "another state": written(state="fine"), "allowed in words": written(allowed="yes"), "a baseline that is a name": written(baseline="main"),
    "a word for a number": with_metric(value="0.9"), "true for a number": with_metric(value=True), "a list for a number": with_metric(value=[0.9]),
    "less than no rows": with_metric(n=-1), "half a row": with_metric(n=0.5), "a word for seconds": written(seconds={"train": "fast"}),
    "a long reason": written(why="x" * 301), "a long parameter": with_changes(key="x" * 301), "a long value": with_changes(after="x" * 301),
    "a value that is a number": with_changes(after=3), "too many parameters": written(changes={"params": [{"key": "a", "before": None, "after": None}] * 1001}),
    "too many metrics": with_candidate(facts={"metrics": {f"m{i}": VALUE for i in range(301)}}),
    "too many stages": written(seconds={f"s{i}": 1.0 for i in range(21)}), "too many digests": with_candidate(digests={f"d{i}": HASH for i in range(21)}),
    "too many points": written(curves={"roc": {"candidate": [[0, 0]] * (2 * report.POINTS + 1)}}), "another picture": written(curves={"x": {}}),
    "a short commit": with_candidate(commit="c" * 7), "a branch": with_candidate(commit="main"), "a commit in capitals": with_candidate(commit="C" * 40),
    "a commit with a line after it": with_candidate(commit=CANDIDATE + "\n"), "a commit with words": with_candidate(commit=CANDIDATE + "-dirty; rm -rf ~"),
    "a short digest": with_candidate(digest="1" * 63), "another digest": with_candidate(digest="md5:" + "1" * 32),
    "a digest with a line after it": with_candidate(digest=HASH + "\n"), "a digest that closes its code span": with_candidate(digest="`" + HASH[1:]),
    "rows that are no digest": with_candidate(rows="all"), "digests that are no digest": with_candidate(digests={"data": "@team"}),
}  # fmt: skip


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_what_is_no_report_is_refused_in_a_few_words(content):
    with pytest.raises(Problem) as caught:
        read(content)
    assert (caught.value.where, bool(caught.value.fix), len(str(caught.value)) < 1000) == ("report.json", True, True)


# It would be more than a name in Markdown, HTML or a terminal.
NOT_IN_A_NAME = [
    "", "x" * 65, "a|b", "`a`", "a\nb", "a\n", "a\rb", "<b>", "</details>", "<!--", "a>b", "@org/team", "https://a.example",
    "#1", "*a*", "~a~", "a\\", "[a](b)", "!a", "$a$", "a&b;", "ä", "a\u202eb", "a\u200bb", "a\x00b", "a\x1b[31m", "a\tb",
]  # fmt: skip


@pytest.mark.parametrize("name", NOT_IN_A_NAME, ids=ascii)
def test_a_name_holds_nothing_but_what_names_hold(name):
    for found in (with_candidate(facts={"metrics": {name: VALUE}}), written(seconds={name: 1.0}), with_candidate(digests={name: HASH}), with_candidate(splits={name: 1})):  # fmt: skip
        with pytest.raises(Problem, match="not a report"):
            read(found)


def full(words="words", name="name", **more):
    line, short = words[:300], words[:200]
    some = Facts({name: near(0.9), "roc_auc": near(0.9)}, {name: 0.1}, {name: None}, {short: Slice(600, {name: near(0.8)})}, {short: (short,)})  # fmt: skip
    judged = (Judged(short, name, part, word, "error", words[:600], waived) for part in ("", short) for word, waived in (("fail", ""), ("error", ""), ("fail", words[:600]), ("pass", "")))  # fmt: skip
    changed = (Change(line, line, line), Change("z", None, "1"))
    found = Report(
        1, "fail", False, tuple(judged),  # noqa: FBT003 - the types have an order
        Model(CANDIDATE, some, HASH, HASH, {name: HASH}, {name: 5}, {short: Column(0.5, None, None, {name: 1.0})}),
        Other(BASE, line, "ledger", some, None, 5, 1, 2), "compared", line, Other(BEST, line, "registry", some), line,
        tuple(Comparison(name, part, "baseline", BASE, 0.9, -0.1, 0.01, -0.12, -0.08, 0.0, 1.0, 9, "delong") for part in ("", short)),
        Changes(changed, changed, changed, changed, (File(line, 1, None),), Data({name: (1, 2)}, 1, 2, (Shift(line, "mean", 0.5, (0.0, 0.1)),))),
        {"roc": {words[:40]: ((0.0, 1.0),)}}, ((line, 0.5),), {name: 1.5},
    )  # fmt: skip
    return msgspec.structs.replace(found, **more)


def test_what_is_written_is_what_is_read_and_its_schema_describes_it():
    for found in (full(), made(state="first"), made(differs(-0.02))):
        assert read(report.dump(found)) == found
        jsonschema.validate(json.loads(report.dump(found)), json.loads(report.schema()))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(with_candidate(digest="md5"), json.loads(report.schema()))
    for name in ("roc_auc", "precision@10", "recall[region=south]", "f1 macro", "p-value", "top.5", "x" * 64):
        assert read(report.dump(full(name=name))) == full(name=name)


def test_the_schema_in_git_is_that_of_the_types():
    path = Path(report.__file__).with_name("schema.json")
    assert path.read_bytes() == report.schema(), f"python -c \"from pawl import report; open('{path}', 'wb').write(report.schema())\""  # fmt: skip


NUMBERS = {
    "two digits of 0.02": (0.9, 0.88, 0.92, "0.900"), "two digits of 0.001": (0.9, 0.899, 0.901, "0.9000"),
    "two digits of 0.25": (0.123456, 0.0, 0.5, "0.12"), "two digits of 2": (0.5, -2.0, 2.0, "0.5"), "no part of one": (12345.6, 12000, 12700, "12,346"),
    "eight at most": (0.1, 0.1, 0.1 + 1e-12, "0.10000000"), "no interval": (0.123456, None, None, "0.1235"),
    "half an interval": (0.123456, 0.1, None, "0.1235"), "no width": (0.123456, 0.1, 0.1, "0.1235"), "upside down": (0.123456, 0.2, 0.1, "0.1235"),
    "the narrowest": (0.5, 0.0, 5e-324, "0.5"), "the widest": (0.5, -1.7e308, 1.7e308, "0"), "more digits than a line": (1e308, 0.0, 1e-9, "1e+308"),
    "nothing": (None, 0.1, 0.2, "n/a"), "NaN": (math.nan, 0.1, 0.2, "n/a"), "infinity": (math.inf, 0.1, 0.2, "n/a"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "low", "high", "said"), NUMBERS.values(), ids=NUMBERS)
def test_a_number_has_the_digits_that_its_interval_supports(value, low, high, said):
    assert text.number(value, Value(value, low, high, 10)) == said


def test_a_difference_has_its_sign_and_0_means_the_same_number():
    expected = {0.02: "+0.0200", -0.02: "−0.0200", 0.0: "0", 1e-9: "0.0000", -1e-9: "0.0000", None: "n/a", 20.0: "+20.0000"}  # fmt: skip
    assert {value: text.signed(value, near(0.9, 0.005)) for value in expected} == expected
    assert [text.change(grows(by)) for by in (0.0, 20_000.0, -500.0)] == ["0", "+40.0%", "−1.0%"]


STRICT, SHOWN = msgspec.structs.replace(GATES, strict=True), msgspec.structs.replace(GATES, mode="report")
WAIVED = msgspec.structs.replace(GATES, waivers=(Waiver("log_loss", "known for a while", "2026-12-31"),))
SKIPPED, SLICES = Gates(1, {"roc_auc": Rule("higher")}), Gates(1, {}, slices=GATES.slices)
HEADLINES = {
    "no baseline": (made(state="first"), "✅ roc_auc is 0.900, without a baseline; 4 of 4 gates pass."),
    "the same model": (made(base=Other(BASE, "main", "ledger", facts(), HASH)), "= Unchanged against main bbbbbbb: this is its model, bit for bit; 5 of 5 gates pass."),
    "the same answers": (made(), "= Unchanged against main bbbbbbb: every answer is its model's; 5 of 5 gates pass."),
    "better": (made(differs(0.03), measured=facts(roc_auc=0.93)), "⬆ Better: roc_auc is 0.930, +0.0300 against main (90 % interval +0.0250 to +0.0350); 5 of 5 gates pass."),
    "better by chance": (made(differs(0.003), measured=facts(roc_auc=0.903)), "✅ roc_auc is 0.903, +0.0030 against main (90 % interval −0.0020 to +0.0080), which may be chance; 5 of 5 gates pass."),
    "worse, not by more than allowed": (made(differs(-0.006, half=0.001), measured=facts(roc_auc=0.894)), "✅ roc_auc is 0.894, −0.0060 against main (90 % interval −0.0070 to −0.0050); 5 of 5 gates pass."),
    "below a floor": (made(differs(-0.06), measured=facts(roc_auc=0.84)), "❌ Blocked: roc_auc is 0.840, below its floor 0.88; 4 of 5 gates pass."),
    "above a ceiling": (made(measured=facts(log_loss=0.5)), "❌ Blocked: log_loss is 0.500, above its ceiling 0.36; 4 of 5 gates pass."),
    "two gates": (made(measured=facts(roc_auc=0.5, log_loss=0.5)), "❌ Blocked: roc_auc is 0.500, below its floor 0.88; 3 of 5 gates pass."),
    "worse": (made(differs(-0.015), measured=facts(roc_auc=0.885)), "❌ Blocked: roc_auc fell by 0.0150 (90 % interval 0.0100 to 0.0200); allowed 0.01; 4 of 5 gates pass."),
    "worse for a slice": (made(differs(-0.1, "recall", "sex=f", half=0.02), measured=facts(recall=0.7)), "❌ Blocked: recall for sex=f fell by 0.100 (90 % interval 0.080 to 0.120); allowed 0.03; 4 of 5 gates pass."),
    "larger": (made(grows(20_000.0)), "❌ Blocked: model_bytes rose by 40.0%; allowed 20%; 4 of 5 gates pass."),
    "worse than the best": (made(differs(-0.005, half=0.02), differs(-0.02, against="high_water")), "❌ Blocked: roc_auc fell by 0.0200 against the best of main (aaaaaaa) (90 % interval 0.0150 to 0.0250); allowed 0.01; 4 of 5 gates pass."),
    "inconclusive": (made(differs(-0.011, half=0.02)), "🟡 Inconclusive: roc_auc fell by 0.011 (90 % interval −0.009 to 0.031), which may be chance; allowed 0.01; 4 of 5 gates pass."),
    "inconclusive, strictly": (made(differs(-0.011, half=0.02), gates=STRICT), STRICT, "🟡 Blocked: roc_auc fell by 0.011 (90 % interval −0.009 to 0.031), which may be chance; allowed 0.01; 4 of 5 gates pass."),
    "nothing is blocked": (made(measured=facts(log_loss=0.5), gates=SHOWN), SHOWN, "❌ No: log_loss is 0.500, above its ceiling 0.36; 4 of 5 gates pass (mode: report, nothing is blocked)."),
    "waived": (made(differs(0.003), measured=facts(log_loss=0.5), gates=WAIVED), WAIVED, "✅ roc_auc is 0.900, +0.0030 against main (90 % interval −0.0020 to +0.0080), which may be chance; 4 of 5 gates pass, 1 is waived."),
    "a lost baseline": (made(state="lost", why="its entry is gone"), "⚠ Blocked: the baseline is lost: its entry is gone; 1 of 5 gates pass."),
    "another table": (made(state="incomparable", why="10 test rows are common"), "⚠ Blocked: not comparable: 10 test rows are common; 1 of 5 gates pass."),
    "no number": (made(measured=facts(roc_auc=None)), "❌ Blocked: roc_auc is not a number; 4 of 5 gates pass."),
    "nothing measured": (made(measured=Facts({})), "❌ Blocked: roc_auc was not measured; 0 of 4 gates pass."),
    "nothing judged": (made(gates=SKIPPED), SKIPPED, "➖ Nothing was judged: give a metric a floor or a ceiling in gates.yaml."),
    "slices alone": (made(gates=SLICES, state="first"), SLICES, "✅ 2 of 2 gates pass."),
    "a verdict on what is not there": (msgspec.structs.replace(full(), verdict="improved", judged=(Judged("x", "x", "", "improved", "error", ""),)), "⬆ Better: x was not measured; 1 of 1 gates pass."),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADLINES.values(), ids=HEADLINES)
def test_the_headline_says_the_verdict_and_its_reason(case):
    found, gates, sentence = (case[0], *case[1:-1], GATES)[:2] + case[-1:]
    assert text.headline(found, gates) == sentence
    assert text.markdown(found, gates).splitlines()[0] == f"### {sentence}"
    assert text.terminal(found, gates, 300).splitlines()[0] == sentence


def whole(found, gates=GATES):
    """Return the Markdown with plain spaces, where those in a number or an interval do not break."""
    return text.markdown(found, gates).replace("\u00a0", " ")


def rows(found, gates=GATES):
    return [cells[:-1] for cells in text.table(found, gates)]


def test_a_row_says_champion_baseline_candidate_interval_difference_and_gate():
    found = made(differs(0.02), measured=facts(roc_auc=0.92, log_loss=0.4), champion=Other(BEST, "champion", "ledger", facts(roc_auc=0.8)))  # fmt: skip
    assert rows(found) == [
        ("⬆", "roc_auc ↑", "0.800", "0.900", "0.920", "0.910 to 0.930", "+0.0200 (+0.0150 to +0.0250)", "≥ 0.88, worse by ≤ 0.01"),
        ("❌", "log_loss ↓", "0.300", "0.300", "0.400", "0.390 to 0.410", "–", "above its ceiling 0.36"),
        ("=", "model_bytes ↓", "50 kB", "50 kB", "50 kB", "–", "0", "worse by ≤ 20%"),
        ("=", "recall ↑ sex=f (n = 600)", "0.800", "0.800", "0.800", "0.780 to 0.820", "0", "≥ 0.6, worse by ≤ 0.03"),
        ("=", "recall ↑ sex=m (n = 600)", "0.800", "0.800", "0.800", "0.780 to 0.820", "0", "≥ 0.6, worse by ≤ 0.03"),
    ]  # fmt: skip
    assert (
        "| ⬆ | roc_auc ↑ | 0.800 | 0.900 | **0.920**<br>(0.910 to 0.930) | +0.0200<br>(+0.0150 to +0.0250) |"
        in whole(found)
    )
    assert "50\u00a0kB | 50\u00a0kB | **50\u00a0kB** |" in text.markdown(found, GATES)
    assert "**0.920**<br>(0.910\u00a0to\u00a00.930) | +0.0200<br>(+0.0150\u00a0to\u00a0+0.0250) |" in text.markdown(
        found, GATES
    )


def test_what_was_not_measured_or_cannot_be_compared_is_a_row_that_says_so():
    assert rows(made(measured=Facts({})))[0] == ("❌", "roc_auc ↑", "–", "0.9", "–", "–", "0", "was not measured")
    assert [row[6] for row in rows(made(state="incomparable"))] == ["n/c"] * 5
    assert "not comparable (n/c): other rows" in text.markdown(made(state="incomparable", why="other rows"), GATES)
    assert "no baseline: no pipeline" in text.markdown(made(state="first", why="no pipeline"), GATES)
    assert "What changed" not in text.markdown(made(state="first"), GATES)
    blank = made(state="first", gates=Gates(1, {"f1 macro": Rule("higher", floor=0.1)}), measured=Facts({"f1 macro": near(0.9)}))  # fmt: skip
    assert "| ✅ | f1 macro ↓ | – | **0.900**<br>(0.890 to 0.910) |" in whole(blank, SKIPPED)


def test_slices_are_in_front_where_they_matter_alone():
    worse = made(differs(-0.1, "recall", "sex=f", half=0.02), measured=facts(recall=0.7))
    top, folded = whole(worse).split("<summary>Slices (2 judged)</summary>")
    assert ("`sex=f` n = 600" in top, "`sex=m" in top, folded.count("`sex=f` n"), folded.count("`sex=m` n")) == (True, False, 1, 1)  # fmt: skip
    assert "   slices: 1 unchanged" in text.terminal(worse, GATES).splitlines()
    assert "`sex=" not in text.markdown(made(state="incomparable"), GATES).partition("<details>")[0]


def test_what_is_waived_is_said_with_its_reason():
    assert "\n- `log_loss` waived until 2026-12-31: known for a while\n" in text.markdown(made(measured=facts(log_loss=0.5), gates=WAIVED), WAIVED)  # fmt: skip


def shown(found, title):
    return text.markdown(found, GATES).split(f"<summary>{title}</summary>")[1].split("</details>")[0].strip().splitlines()  # fmt: skip


def test_what_changed_is_a_table_of_each_kind():
    many = tuple(File(f"src/{i}", i, None) for i in range(25))
    moved = (Shift("new", "added", None, None), Shift("a|b", "mean", 0.5, (0.0, 0.25)), Shift("still", "mean", 0.001, (0.1, 0.1)), Shift("holes", "mean", 0.0, (0.0, 0.5)))  # fmt: skip
    changes = Changes((Change("train.model", "a|b", None), Change("new", "", "c d")), (Change("metrics.x.floor", "0.9", "0.1"),), (), (), many, Data({"test": (5, 7), "train": (9, 9)}, 3, 1, moved))  # fmt: skip
    lines = shown(made(changes=changes), "What changed")
    expected = [
        "| parameter | main | candidate |", "| `train.model` | `a\\|b` | – |", "| `new` | ` ` | `c d` |", "| `src/19` | 19 | – |", "… and 5 more.",
        "Rows: `test` 5 → 7, of the test rows 3 new, 1 gone.", "| `new` | added | – |", "| `a\\|b` | 0.50 | 0.0% → 25.0% |", "| `holes` | 0.00 | 0.0% → 50.0% |",
    ]  # fmt: skip
    assert [line for line in lines if line in expected] == expected
    assert not [line for line in lines if "still" in line or "src/20" in line or "schema" in line]
    assert "judges from the next change on: `metrics.x.floor` `0.9` → `0.1`" in text.markdown(made(changes=changes), GATES)  # fmt: skip
    assert shown(made(), "What changed") == ["Nothing that the model is made of."]


def test_the_last_lines_have_commands_cost_model_and_links():
    found = made(base=Other(BASE + "-dirty", "main", "rebuilt", facts()), seconds={"train": 1.26}, candidate=Model(CANDIDATE, facts(), OTHER_HASH))  # fmt: skip
    said = text.markdown(found, GATES, head="a" * 40, fetch="git fetch origin pull/7/merge", links={"run": "https://github.example/1"})  # fmt: skip
    assert f"```sh\ngit fetch origin pull/7/merge\nmake run\nmake report BASE={BASE}\n```" in said
    assert said.splitlines()[-1] == "<sub>`train` 1.3 s · model `sha256:dddddddddddd`, served by the compiled model · [run](https://github.example/1)</sub>"  # fmt: skip
    assert said.splitlines()[2] == "`aaaaaaa`, 1,234 test rows · against main bbbbbbb+, trained anew beside it"


DIFFERING = {
    "nothing": ({"a": 1}, {"a": 1}, []), "a value": ({"a": 1}, {"a": 2}, [Change("a", "1", "2")]),
    "three deep": ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, [Change("a.b.c", "1", "2")]), "a new key": ({}, {"a": 1}, [Change("a", None, "1")]),
    "a key less": ({"a": 1}, {}, [Change("a", "1", None)]), "null is a value": ({"a": None}, {"a": 0}, [Change("a", "None", "0")]),
    "a list": ({"a": [1, 2]}, {"a": [1, 3]}, [Change("a", "[1, 2]", "[1, 3]")]), "a section for a value": ({"a": 1}, {"a": {"b": 1}}, [Change("a", "1", "{'b': 1}")]),
    "a number for a key": ({1: "x"}, {1: "y"}, [Change("1", "x", "y")]), "a long value": ({"a": "x" * 400}, {"a": ""}, [Change("a", "x" * 300, "")]),
    "a long key": ({"a" * 400: 1}, {}, [Change("a" * 300, "1", None)]),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after", "expected"), DIFFERING.values(), ids=DIFFERING)
def test_the_keys_in_which_two_files_differ_are_listed(before, after, expected):
    assert report.differing(before, after) == expected


# What a pull request of a stranger may put into a text, and what it would be outside a code span.
HOSTILE = {
    "a mention": "@octocat @org/team", "the end of a code span": "a` @octocat `b", "two backticks": "`` @octocat ``", "a backtick alone": "`",
    "a fence": "```\n@octocat\n```", "the end of a cell": "a | b | ❌ | x", "the end of a cell, escaped": "a \\| b \\\\| c \\",
    "the end of a row": "a\n| ✅ | roc_auc | 1.0 |", "the end of the fold": "</details></summary></table>", "a comment": "<!-- hidden",
    "our mark": "<!-- pawl:report run=999999 -->", "the end of a comment": "-->", "an image": "![x](https://evil.example/pixel.png)",
    "a link": "[main](https://evil.example) <https://evil.example> [a]: //evil.example", "an address": "https://evil.example www.evil.example a@evil.example FTP://x WWW.x",
    "a tag": "<script>alert(1)</script><img src=x onerror=alert(1)><a href=//evil.example>x</a>", "a heading": "\n\n# ✅ 4 of 4 gates pass\n\n",
    "other ends of a line": "a\r\n\r# b\u2028# c\u2029# d\x0b# e\x0c# f\x85# g", "an entity": "&#96; &lt;b&gt; &#10; &#64;octocat &commat;octocat",
    "an issue": "#1 GH-1 gh-2 org/repo#1 " + "a" * 40, "from right to left": "\u202e@octocat\u202c \u2066x\u2069 \u200f",
    "what is not seen": "a\u200bb\u200c\u200d\ufeff\u00ad\x00\x07\x1b[31m\x7f\x9b31m", "blanks": " \t\n ", "emphasis": "*a* **b** _c_ __d__ ~~e~~ _",
    "mathematics": "$\\href{https://evil.example}{x}$ $`x`$", "emoji": ":tada: 🎉", "as much as there may be": "|`<@" * 150,
}  # fmt: skip
NAMES = ["@octocat", "precision@octocat", "www.evil.example", "a@evil.example", "GH-1", "[x]", "__x__", "_x_", " ", "--", "=="]  # fmt: skip
VERDICTS = [("fail", "compared", "worse by 1, allowed "), ("error", "lost", ""), ("improved", "compared", ""), ("unchanged", "compared", ""), ("fail", "compared", "below ")]  # fmt: skip


def tags(rendered):
    # Outside code, GitHub makes mentions, references, links and formulas of plain text once Markdown is done.
    found = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(rendered)
    outside = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<(code|pre).*?</\1>", "", found, flags=re.DOTALL)))
    assert not re.findall(r"@\w|#\d|(?i:\w://|www\.|\bgh-\d)|\$[^\s\u200b]", outside)
    assert all(character.isprintable() or character in "\n\u200b\u00a0" for character in outside)
    return [
        *re.findall(r"<[^>]*>", found),
        len(re.findall("\u00a0(?![↑↓])", outside)),
    ]  # our own, in numbers; a blank name leaves none before its arrow


@pytest.mark.parametrize(("words", "name"), [*((words, "name") for words in HOSTILE.values()), *(("words", name) for name in NAMES)], ids=[*HOSTILE, *NAMES])  # fmt: skip
def test_text_of_a_stranger_is_text_and_nothing_else(words, name):
    for word, state, reason in VERDICTS:
        plain, evil = (
            full(*given, verdict=word, state=state, judged=tuple(Judged(part[:200], given[1], part[:200], word, "error", f"{reason}{given[0]}"[:600], waived) for part in ("", given[0]) for waived in ("", given[0][:600])))
            for given in (("words", "name"), (words, name))
        )  # fmt: skip
        read(report.dump(evil))
        for rendered in (text.markdown, lambda found, gates: card.card(found, gates, "project", "It predicts.")):
            assert tags(rendered(evil, GATES)) == tags(rendered(plain, GATES))
        lines = text.terminal(evil, GATES, 80).splitlines()
        assert all(line.isprintable() and columns(line) <= 80 for line in lines)


@pytest.mark.parametrize(("each", "count"), [("|", 300), ("𝕏", 5000)], ids=["escaped", "four bytes"])
def test_a_report_as_large_as_it_may_be_is_a_comment_that_github_takes(each, count):
    line, worst = each * 300, Value(-1e14, -1e14 - 1, -1e14 + 1e-9, 10**15)
    some = Facts({f"{i:064}": worst for i in range(300)}, slices={f"{i}{line}"[:200]: Slice(9, {}) for i in range(2000)})  # fmt: skip
    judged = [Judged(line[:200], f"{i:064}", f"{i}{line}"[:200], ("fail", "pass")[i % 2], "error", 2 * line, 2 * line) for i in range(count)]  # fmt: skip
    changed = (Change(line, line, line),) * 1000
    found = full(
        line, "n" * 64, judged=(Judged("a", "roc_auc", "", "fail", "error", "it is bad"), *judged), candidate=Model(CANDIDATE, some),
        changes=Changes(changed, changed, changed, changed), seconds={f"{i:064}": 1e308 for i in range(20)},
    )  # fmt: skip
    said = text.markdown(found, GATES)
    assert len(said.encode()) <= text.MAX_COMMENT
    parts = ("### ❌ Blocked: roc_auc: it is bad; ", "⚠ gates.yaml changes, and judges from the next change on\n", "reports/report.html")  # fmt: skip
    assert [part for part in parts if part not in said] == []
    assert said.count("\n| ❌ |") >= 5 > said.count("\n| ✅ |")


def test_sections_go_as_a_whole_the_last_first():
    titles, kept = ["The same on", "What changed", "Slices", "How sure", "Every metric"], []
    few = [Judged("a", "roc_auc", "s", "pass", "error", "x" * 600)] * 50
    for count in (1, 400, 800, 1200, 5000):
        judged = (*few, *[Judged("a", "roc_auc", "", "pass", "error", "x" * 25)] * count)
        said = text.markdown(full(judged=judged), GATES)
        kept.append([title for title in titles if f"<summary>{title}" in said])
        assert len(said.encode()) <= text.MAX_COMMENT
        assert said.count("<details>") == said.count("</details>") == len(kept[-1])
        assert kept[-1] == titles[: len(kept[-1])]
    assert (kept[0], kept[-1]) == (titles, [])


def columns(line):
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


TERMINALS = {
    "no baseline": made(state="first"), "a baseline": made(differs(0.02)), "failing": made(measured=facts(roc_auc=0.5, log_loss=0.9)),
    "a champion": made(differs(-0.02), champion=Other(BEST, "champion, version 3", "registry", facts())),
    "a slice": made(differs(-0.1, "recall", "sex=f", half=0.02)), "a long reason": made(state="incomparable", why="the cause of it is this " * 12),
    "gates": made(changes=Changes(gates=(Change("metrics.roc_auc.floor", "0.9", "0.1"),))),
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("found", TERMINALS.values(), ids=TERMINALS)
def test_a_terminal_shows_it_aligned_and_no_wider_than_it_is(found, width):
    lines = text.terminal(found, GATES, width).splitlines()
    assert all(columns(line) <= width and line == line.rstrip() and line.isprintable() for line in lines)
    assert "\x1b[" in text.terminal(found, GATES, width, color=True)
    gate = next(columns(line.partition("gate")[0]) for line in lines if " metric " in line)
    for _, metric, _, base, now, _, _, reason in rows(found)[:3]:
        line = next(line for line in lines if f" {metric} " in line)
        assert columns(line[: line.rindex(f" {reason.split()[0]} ", 14) + 1]) == gate
        assert [cell for cell in (base, now) if cell in line or cell == "–"] == [base, now]


@pytest.mark.parametrize("found", TERMINALS.values(), ids=TERMINALS)
def test_where_there_is_little_room_each_row_keeps_its_numbers_and_its_reason(found):
    for width in (30, 50, 71):
        lines = text.terminal(found, GATES, width).splitlines()
        assert all(columns(line) <= width for line in lines)
        said = " ".join(" ".join(lines).split())
        for symbol, metric, champion, base, now, _, delta, reason in rows(found)[:3]:
            values = [champion] * bool(found.champion) + [base] * bool(found.baseline) + [now] + [delta] * bool(found.baseline)  # fmt: skip
            pattern = f"{symbol} {re.escape(f'{metric}: {reason}')} .*?" + ".*?".join(map(re.escape, values))
            assert re.search(pattern, said)
    shown = text.terminal(found, GATES, 80).splitlines()
    start = next(place for place, line in enumerate(shown) if " metric " in line) + 1
    there = sum(not text.quiet(found, cells[-1]) for cells in text.table(found, GATES))
    assert shown.index("", start) - start <= 2 * there  # lines


def test_the_reason_and_new_gates_are_in_the_terminal():
    assert "\nbaseline: no pipeline" in text.terminal(made(state="first", why="no pipeline"), GATES)
    assert "⚠ gates.yaml: metrics.roc_auc.floor 0.9 → 0.1, from the next" in text.terminal(TERMINALS["gates"], GATES)


def test_the_card_says_what_it_is_for_how_good_where_its_limits_are_and_what_it_was_made_of():
    model = Model(CANDIDATE, facts(), OTHER_HASH, digests={"data": HASH}, splits={"train": 5000, "test": 1234})
    weak = made(importances=(("hours", 0.61),), candidate=model)

    turned = msgspec.structs.replace(facts(), metrics=dict(reversed([*facts().metrics.items()])))
    weak = msgspec.structs.replace(weak, candidate=msgspec.structs.replace(model, facts=turned))
    lines = card.card(weak, GATES, "income", "It predicts `income`.", "Not for decisions.").splitlines()

    expected = [
        "# income", "## Use", "It predicts `income`.", "Not for decisions.", "Rows: `train` 5,000, `test` 1,234. Columns: 0.",
        "## By slice", "| `sex=f` | 600 | `recall` | 0.800 | 0.780 to 0.820 |", "`hours` 61%.", f"- bundle `{OTHER_HASH}`", f"- `data` `{HASH}`",
    ]  # fmt: skip
    assert [line for line in lines if line in expected] == expected
    assert any("✅ ≤ 0.36" in line for line in lines if line.startswith("| `log_loss` |"))
    assert "## Limits" in lines
    assert [line.split("`")[1] for line in lines if line.startswith(("| `roc", "| `log"))] == ["roc_auc", "log_loss"]
