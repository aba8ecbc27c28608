import json
import math
import unicodedata
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from pawl import gate, report
from pawl.gate import Gates, Rule
from pawl.problem import Problem
from pawl.report import Change, Measured, Report, Value

ROOT = Path(__file__).parents[2]
GATES = Gates(
    version=1,
    metrics={
        "roc_auc": Rule(direction="higher", floor=0.88),
        "log_loss": Rule(direction="lower", ceiling=0.36),
        "n_trees": Rule(direction="lower"),
    },
)
ROWS, OTHER_ROWS = "1" * 64, "2" * 64
CANDIDATE, BASE = "c" * 40, "b" * 40


def metrics(**values):
    """Return the metrics of a model, each with an interval of ± 0.01 around what is given."""
    known = {"roc_auc": 0.9, "log_loss": 0.3, "n_trees": 30.0} | values
    return {
        name: Value(value, None if value is None else value - 0.01, None if value is None else value + 0.01, 1234)
        for name, value in known.items()
    }


def measured(commit=CANDIDATE, *, digest=None, rows=ROWS, digests=None, **values):
    return Measured(commit, metrics(**values), digest, rows, digests or {})


def rebuilt(candidate=None, base=None, **more):
    return Report(1, candidate or measured(), base or measured(BASE), "rebuilt", **more)


def written(**more):
    """Return a report as report.json says it, with fields of the top replaced."""
    alone = Report(1, measured(), None, "none")
    return json.loads(report.dump(alone)) | more


def with_metric(**fields):
    """Return a report as report.json says it, with fields of roc_auc replaced."""
    found = written()
    found["candidate"]["metrics"]["roc_auc"] |= fields
    return found


def with_candidate(**fields):
    found = written()
    found["candidate"] |= fields
    return found


def change(key="a", before="1", after="2"):
    return {"key": key, "before": before, "after": after}


def read(content):
    return report.load(content if isinstance(content, bytes) else json.dumps(content).encode(), "report.json")


def skeleton(markdown):
    """Return what a parser of CommonMark and tables finds, with every code span emptied, and the code spans apart."""
    tokens, spans = [], []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        for each in token.children or [token]:
            if each.type == "code_inline":
                spans.append(each.content)
            tokens.append((each.type, each.tag, "" if each.type == "code_inline" else each.content))
    return tokens, spans


def shown(text, title):
    """Return what stands under a folded title."""
    return text.split(f"<summary>{title}</summary>")[1].split("</details>")[0].strip()


def columns(line):
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


REFUSED = {
    "nothing": b"",
    "no JSON": b"roc_auc: 0.9",
    "a list": b"[]",
    "null": b"null",
    "two reports": json.dumps(written()).encode() * 2,
    "half a report": json.dumps(written()).encode()[:-20],
    "UTF-16": json.dumps(written()).encode("utf-16"),
    "a byte that is no UTF-8": json.dumps(written(why="x")).encode().replace(b'"x"', b'"\xff"'),
    "half a surrogate": written(why="\ud800"),
    "one byte too many": json.dumps(written()).encode().ljust(report.MAX_BYTES + 1),
    "NaN": json.dumps(with_metric(value=math.nan)).encode(),
    "Infinity": json.dumps(with_metric(value=math.inf)).encode(),
    "-Infinity": json.dumps(with_metric(low=-math.inf)).encode(),
    "a number too large for a float": json.dumps(with_metric(value="@")).replace('"@"', "1e999").encode(),
    "a number of 5000 digits": json.dumps(with_metric(n="@")).replace('"@"', "9" * 5000).encode(),
    "deep lists": b'{"version":1,"candidate":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep mappings": b'{"version":1,"candidate":' + b'{"a":' * 40_000 + b"1" + b"}" * 40_000 + b"}",
    "deep lists in an unknown field": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "an unknown field": written(verdict="pass"),
    "an unknown field of the candidate": with_candidate(verdict="pass"),
    "an unknown field of a metric": with_metric(verdict="pass"),
    "an unknown field of a change": written(params=[change() | {"x": 1}]),
    "another version": written(version=2),
    "a version in quotes": written(version="1"),
    "no version": {key: value for key, value in written().items() if key != "version"},
    "no candidate": written(candidate=None),
    "a word for a number": with_metric(value="0.9"),
    "true for a number": with_metric(value=True),
    "a list for a number": with_metric(value=[0.9]),
    "a metric that is a number": with_candidate(metrics={"roc_auc": 0.9}),
    "less than no rows": with_metric(n=-1),
    "half a row": with_metric(n=0.5),
    "no interval": {**written(), "candidate": {"commit": CANDIDATE, "metrics": {"roc_auc": {"value": 1, "n": 1}}}},
    "another way": written(how="guessed"),
    "a baseline that is a name": written(baseline="main"),
    "a long reason": written(why="x" * 301),
    "a long parameter": written(params=[change(key="x" * 301)]),
    "a long value": written(params=[change(after="x" * 301)]),
    "a value that is a number": written(params=[change(after=3)]),
    "too many parameters": written(params=[change()] * 1001),
    "too many metrics": with_candidate(metrics={f"m{i}": {"value": 0, "low": 0, "high": 0, "n": 0} for i in range(201)}),
    "too many stages": written(seconds={f"s{i}": 1.0 for i in range(21)}),
    "too many digests": with_candidate(digests={f"d{i}": ROWS for i in range(21)}),
    "a word for seconds": written(seconds={"train": "fast"}),
    "a short commit": with_candidate(commit="c" * 7),
    "a branch": with_candidate(commit="main"),
    "a commit with a line after it": with_candidate(commit=CANDIDATE + "\n"),
    "a commit with a line before it": with_candidate(commit="\n" + CANDIDATE),
    "a commit in capitals": with_candidate(commit="C" * 40),
    "a commit with words": with_candidate(commit=CANDIDATE + "-dirty; rm -rf ~"),
    "a short digest": with_candidate(digest="1" * 63),
    "another digest": with_candidate(digest="md5:" + "1" * 32),
    "a digest with a line after it": with_candidate(digest=ROWS + "\n"),
    "a digest that closes its code span": with_candidate(digest="`" + ROWS[1:]),
    "rows that are no digest": with_candidate(test_rows="all"),
    "digests that are no digest": with_candidate(digests={"data": "@team"}),
}  # fmt: skip


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_what_is_no_report_is_refused_in_a_few_words(content):
    with pytest.raises(Problem) as caught:
        read(content)

    assert caught.value.where == "report.json"
    assert caught.value.fix
    assert len(str(caught.value)) < 1000


# What may not stand in a name: it would be more than a name in Markdown, HTML or a terminal.
NOT_IN_A_NAME = [
    "", "x" * 65, "a|b", "`a`", "a\nb", "a\n", "a\rb", "<b>", "</details>", "<!--", "a>b", "@org/team", "https://a.example",
    "#1", "*a*", "~a~", "a\\", "[a](b)", "!a", "$a$", "a&b;", "ä", "a\u202eb", "a\u200bb", "a\x00b", "a\x1b[31m", "a\tb",
]  # fmt: skip


@pytest.mark.parametrize("name", NOT_IN_A_NAME, ids=ascii)
@pytest.mark.parametrize("place", ["metric", "stage", "digest"])
def test_a_name_holds_nothing_but_what_names_hold(name, place):
    found = {
        "metric": with_candidate(metrics={name: {"value": 0, "low": 0, "high": 0, "n": 0}}),
        "stage": written(seconds={name: 1.0}),
        "digest": with_candidate(digests={name: ROWS}),
    }[place]

    with pytest.raises(Problem, match="not a report"):
        read(found)


def test_a_refusal_does_not_repeat_what_it_refuses():
    """The refusal is in a comment, which GitHub refuses above 65,536 characters."""
    with pytest.raises(Problem) as caught:
        read(written(**{"x" * 100_000: 1}))

    assert len(caught.value.what) < 400


def test_what_is_written_is_what_is_read():
    full = rebuilt(
        measured(digest=f"sha256:{ROWS}", digests={"data": ROWS, "code": OTHER_ROWS}, roc_auc=None),
        measured(BASE + "-dirty"), why="because", params=(Change("a", None, "1"),), seconds={"train": 1.5},
    )  # fmt: skip

    assert read(report.dump(full)) == full


def test_names_that_metrics_have_are_names():
    found = with_candidate(
        metrics={
            name: {"value": 0, "low": 0, "high": 0, "n": 0}
            for name in ("roc_auc", "precision@10", "recall[region=south]", "f1 macro", "p-value", "top.5", "x" * 64)
        }
    )

    assert len(read(found).candidate.metrics) == 7


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        pytest.param(0.9, 0.88, 0.92, "0.900", id="two digits of 0.02"),
        pytest.param(0.9, 0.899, 0.901, "0.9000", id="two digits of 0.001"),
        pytest.param(0.123456, 0.0, 0.5, "0.12", id="two digits of 0.25"),
        pytest.param(0.5, -2.0, 2.0, "0.5", id="two digits of 2"),
        pytest.param(12345.6, 12000, 12700, "12,346", id="no part of one"),
        pytest.param(0.1, 0.1, 0.1 + 1e-12, "0.10000000", id="eight at most"),
        pytest.param(0.123456, None, None, "0.1235", id="no interval"),
        pytest.param(0.123456, 0.1, None, "0.1235", id="half an interval"),
        pytest.param(0.123456, 0.1, 0.1, "0.1235", id="an interval without width"),
        pytest.param(0.123456, 0.2, 0.1, "0.1235", id="an interval upside down"),
        pytest.param(0.5, 0.0, 5e-324, "0.5", id="the narrowest interval"),
        pytest.param(0.5, -1.7e308, 1.7e308, "0", id="the widest interval"),
        pytest.param(1e308, 0.0, 1e-9, "1e+308", id="more digits than a line has"),
        pytest.param(None, 0.1, 0.2, "n/a", id="nothing"),
        pytest.param(math.nan, 0.1, 0.2, "n/a", id="NaN"),
        pytest.param(math.inf, 0.1, 0.2, "n/a", id="infinity"),
    ],
)
def test_a_number_has_the_digits_that_its_interval_supports(value, low, high, text):
    assert report.number(value, Value(value, low, high, 10)) == text


def test_a_number_alone_has_four_digits():
    assert report.number(0.123456) == "0.1235"


@pytest.mark.parametrize(
    ("before", "now", "text"),
    [
        (0.90, 0.92, "+0.0200"),
        (0.92, 0.90, "−0.0200"),
        (0.9, 0.9, "0"),
        (0.9, math.nextafter(0.9, 1), "+0.0000"),  # not the same, and less than can be told
        (0.9, math.nextafter(0.9, 0), "−0.0000"),
        (None, 0.9, "n/a"),
        (0.9, None, "n/a"),
    ],
)
def test_a_delta_has_its_sign_and_0_means_the_same_number(before, now, text):
    assert report.delta(metrics(roc_auc=before)["roc_auc"], metrics(roc_auc=now)["roc_auc"]) == text


MODEL = f"sha256:{'d' * 64}"
HEADLINES = {
    "a pass without a baseline": (
        Report(1, measured(), None, "none"), "✅ 2 of 2 gates pass; roc_auc is 0.900.",
    ),
    "a pass, better": (
        rebuilt(measured(roc_auc=0.91)), "✅ 2 of 2 gates pass; roc_auc is 0.910, +0.0100 against main (0.900).",
    ),
    "a pass, worse": (
        rebuilt(measured(roc_auc=0.89)), "✅ 2 of 2 gates pass; roc_auc is 0.890, −0.0100 against main (0.900).",
    ),
    "a pass, the same number": (
        rebuilt(), "✅ 2 of 2 gates pass; roc_auc is 0.900, 0 against main (0.900).",
    ),
    "other rows": (
        rebuilt(measured(rows=OTHER_ROWS)), "✅ 2 of 2 gates pass; roc_auc is 0.900 (main: 0.900, not comparable).",
    ),
    "committed numbers": (
        Report(1, measured(), measured(BASE, rows=None), "committed"), "✅ 2 of 2 gates pass; roc_auc is 0.900 (main: 0.900, not comparable).",
    ),
    "a baseline without the metric": (
        Report(1, measured(), Measured(BASE, {}), "committed"), "✅ 2 of 2 gates pass; roc_auc is 0.900.",
    ),
    "the same model": (
        rebuilt(measured(digest=MODEL), measured(BASE, digest=MODEL)), "✅ Unchanged: this is the model of main bbbbbbb, bit for bit; 2 of 2 gates pass.",
    ),
    "the same model, of a commit with changes": (
        rebuilt(measured(digest=MODEL), measured(BASE + "-dirty", digest=MODEL)), "✅ Unchanged: this is the model of main bbbbbbb+, bit for bit; 2 of 2 gates pass.",
    ),
    "two models that nobody knows": (
        rebuilt(measured(digest=None), measured(BASE, digest=None)), "✅ 2 of 2 gates pass; roc_auc is 0.900, 0 against main (0.900).",
    ),
    "one gate fails": (
        rebuilt(measured(roc_auc=0.85)), "❌ Blocked: roc_auc is 0.85, below its floor 0.88 (1 of 2 gates fails).",
    ),
    "two gates fail": (
        rebuilt(measured(roc_auc=0.85, log_loss=0.5)), "❌ Blocked: roc_auc is 0.85, below its floor 0.88 (2 of 2 gates fail).",
    ),
    "the same model fails": (
        rebuilt(measured(digest=MODEL, log_loss=0.5), measured(BASE, digest=MODEL)), "❌ Blocked: log_loss is 0.5, above its ceiling 0.36 (1 of 2 gates fails).",
    ),
    "a metric without a value": (
        rebuilt(measured(roc_auc=None)), "❌ Blocked: roc_auc is not a number (1 of 2 gates fails).",
    ),
    "a metric that is missing": (
        Report(1, Measured(CANDIDATE, {}), None, "none"), "❌ Blocked: roc_auc was not measured (3 of 3 gates fail).",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("found", "sentence"), HEADLINES.values(), ids=HEADLINES)
def test_the_headline_says_the_verdict_and_its_reason(found, sentence):
    assert report.headline(found, GATES, "main") == sentence
    assert report.markdown(found, GATES).splitlines()[0] == f"### {sentence}"
    assert report.terminal(found, GATES, "main").splitlines()[0] == sentence


def test_a_row_says_baseline_candidate_interval_delta_and_gate():
    found = rebuilt(measured(roc_auc=0.91, log_loss=0.4))

    assert report.rows(found, GATES) == [
        ["✅", "roc_auc ↑", "0.900", "0.910", "0.900 to 0.920", "+0.0100", "≥ 0.88"],
        ["❌", "log_loss ↓", "0.300", "0.400", "0.390 to 0.410", "+0.1000", "above its ceiling 0.36"],
        ["➖", "n_trees ↓", "30.000", "30.000", "29.990 to 30.010", "0", "no rule"],
    ]


def test_of_other_rows_no_delta_is_shown():
    found = rebuilt(measured(rows=OTHER_ROWS, roc_auc=0.95))

    assert [row[5] for row in report.rows(found, GATES)] == ["n/c", "n/c", "n/c"]
    assert "**others than the baseline's: not comparable (n/c)**" in report.markdown(found, GATES)


@pytest.mark.parametrize("rows", [(None, None), (ROWS, None), (None, ROWS)], ids=str)
def test_rows_that_are_not_known_are_not_the_same(rows):
    assert not rebuilt(measured(rows=rows[0]), measured(BASE, rows=rows[1])).comparable


def test_the_numbers_that_git_has_are_said_to_be_that_and_why():
    found = Report(1, measured(), Measured(BASE, metrics()), "committed", why="it could not be trained")

    text = report.markdown(found, GATES)

    assert "the numbers that main `bbbbbbb` has in git" in text
    assert "`it could not be trained`" in text
    assert "n/c" in text


def test_without_a_baseline_the_reason_is_said():
    text = report.markdown(Report(1, measured(), None, "none", why="that commit has no pipeline"), GATES)

    assert "no baseline: `that commit has no pipeline`" in text
    assert "What changed" not in text


def test_a_metric_that_is_missing_is_an_empty_row_and_no_crash():
    found = Report(1, Measured(CANDIDATE, {}), None, "none")

    assert report.rows(found, GATES)[0] == ["❌", "roc_auc ↑", "–", "–", "–", "–", "was not measured"]
    assert "0 test rows" in report.markdown(found, GATES)


def test_what_the_model_is_made_of_is_compared():
    found = rebuilt(
        measured(digests={"data": ROWS, "code": ROWS}), measured(BASE, digests={"data": ROWS, "code": OTHER_ROWS})
    )

    assert "Differs: `code`." in report.markdown(found, GATES)


def test_the_commands_are_those_that_make_it_here():
    found = rebuilt(base=measured(BASE + "-dirty"))

    text = report.markdown(found, GATES, fetch="git fetch origin pull/7/merge")

    assert shown(text, "The same on your machine").splitlines() == [
        "```sh", "git fetch origin pull/7/merge", "make run", f"make report BASE={BASE}", "```",
    ]  # fmt: skip


def test_the_last_line_has_cost_model_and_links():
    found = Report(1, measured(digest=MODEL), None, "none", seconds={"train": 1.26, "evaluate": 0.04})

    last = report.markdown(found, GATES, links={"run": "https://github.example/run/1"}).splitlines()[-1]

    assert last == (
        "<sub>`train` 1.3 s · `evaluate` 0.0 s · model `sha256:dddddddddddd` · [run](https://github.example/run/1)</sub>"
    )


def test_the_commit_that_people_know_is_shown_instead_of_its_merge():
    text = report.markdown(Report(1, measured(), None, "none"), GATES, head="a" * 40)

    assert "`aaaaaaa` · " in text
    assert "ccccccc" not in text


# What a pull request of a stranger may put into a parameter, and what it would be outside a code span.
HOSTILE = {
    "a mention": "@octocat @org/team",
    "the end of a code span": "a` @octocat `b",
    "two backticks": "`` @octocat ``",
    "a backtick alone": "`",
    "a fence": "```\n@octocat\n```",
    "the end of a cell": "a | b | ❌ | x",
    "the end of a cell, escaped": "a \\| b \\\\| c \\",
    "the end of a row": "a\n| ✅ | roc_auc | 1.0 |",
    "the end of the fold": "</details></summary></table>",
    "a comment": "<!-- hidden",
    "our mark": "<!-- pawl:report run=999999 -->",
    "the end of a comment": "-->",
    "an image": "![x](https://evil.example/pixel.png)",
    "a link": "[main](https://evil.example) <https://evil.example>",
    "an address": "https://evil.example www.evil.example a@evil.example",
    "a tag": "<script>alert(1)</script><img src=x onerror=alert(1)><a href=//evil.example>x</a>",
    "a heading": "\n\n# ✅ 4 of 4 gates pass\n\n",
    "other ends of a line": "a\r\n\r# b\u2028# c\u2029# d\x0b# e\x0c# f\x85# g",
    "an entity": "&#96; &lt;b&gt; &#10;",
    "an issue": "#1 GH-1 org/repo#1 " + "a" * 40,
    "from right to left": "\u202e@octocat\u202c \u2066x\u2069 \u200f",
    "what is not seen": "a\u200bb\u200c\u200d\ufeff\u00ad\x00\x07\x1b[31m\x7f",
    "blanks": " \t\n ",
    "mathematics": "$\\href{https://evil.example}{x}$ $`x`$",
    "emoji": ":tada: 🎉",
    "as much as there may be": "|`<@" * 75,
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("how", ["rebuilt", "committed", "none"])
def test_text_of_a_stranger_is_a_code_span_and_nothing_else(text, how):
    def rendered(words):
        base = None if how == "none" else measured(BASE)
        found = Report(
            1, measured(), base, how, why=words, params=(Change(words, words, words), Change("z", None, "1"))
        )
        return report.markdown(read(report.dump(found)), GATES)

    tokens, spans = skeleton(rendered(text))

    assert tokens == skeleton(rendered("plain"))[0]
    assert all(character.isprintable() for span in spans for character in span)


@pytest.mark.parametrize(
    "name",
    ["@octocat", "precision@octocat", "www.evil.example", "a@evil.example", "GH-1", "[x]", "__x__", " ", "--", "=="],
)
def test_a_name_of_a_stranger_is_a_code_span_and_nothing_else(name):
    def rendered(word):
        candidate = Measured(CANDIDATE, metrics() | {word: Value(1, None, None, 1)}, digests={word: ROWS})
        found = rebuilt(candidate, measured(BASE, digests={"data": ROWS}), seconds={word: 1.0})
        return report.markdown(read(report.dump(found)), GATES)

    assert skeleton(rendered(name))[0] == skeleton(rendered("plain"))[0]


def test_text_is_shown_as_it_was_where_it_can_be():
    text = report.markdown(rebuilt(params=(Change("train.model", "a|b", "c d"), Change("new", None, ""))), GATES)

    _, spans = skeleton(text)

    assert {"train.model", "a|b", "c d"} <= set(spans)
    assert "| `new` | – | ` ` |" in text


@pytest.mark.parametrize("text", ["x" * 300, "|" * 300, "`" * 300], ids=["letters", "pipes", "backticks"])
def test_a_long_report_is_a_comment_that_github_takes_and_still_shows_the_gates(text):
    found = rebuilt(params=tuple(Change(f"{i}{text}"[:300], text, text) for i in range(1000)))

    said = report.markdown(found, GATES)

    assert len(said) < 60_000
    assert "| ✅ | roc_auc ↑ |" in said
    assert "… and 980 more." in said


def test_a_report_as_large_as_it_may_be_is_a_comment_that_github_takes():
    worst = Value(-1e14, -1e14 - 1, -1e14 + 1e-9, 10**15)
    candidate = Measured(
        CANDIDATE, metrics() | {f"{i:064}": worst for i in range(197)}, digests={f"{i:064}": ROWS for i in range(20)}
    )
    base = Measured(BASE, candidate.metrics, digests={"0": ROWS})
    found = rebuilt(
        candidate, base, why="|" * 300, seconds={f"{i:064}": 1e308 for i in range(20)},
        params=tuple(Change("|" * 300, "|" * 300, "|" * 300) for _ in range(150)),
    )  # fmt: skip
    assert len(report.dump(found)) < report.MAX_BYTES

    said = report.markdown(found, GATES)

    assert len(said) < 60_000
    assert said.startswith("### ✅ 2 of 2 gates pass")


NORMAL = {
    "no baseline": Report(1, measured(), None, "none"),
    "a baseline": rebuilt(measured(roc_auc=0.91)),
    "other rows": rebuilt(measured(roc_auc=0.91, rows=OTHER_ROWS)),
    "failing": rebuilt(measured(roc_auc=0.5, log_loss=0.9)),
    "a long reason": Report(1, measured(), measured(BASE), "committed", why="the cause of it is this " * 12),
    "the same model": rebuilt(measured(digest=MODEL), measured(BASE, digest=MODEL)),
}


@pytest.mark.parametrize("found", NORMAL.values(), ids=NORMAL)
def test_a_terminal_of_100_columns_shows_it(found):
    gates = gate.load(ROOT / "tests/sample/gates.yaml")
    wide = Gates(
        version=1, metrics={**gates.metrics, "balanced_accuracy": Rule(direction="higher", floor=0.1, ceiling=0.9)}
    )

    lines = report.terminal(found, wide, "base").splitlines()

    assert max(map(columns, lines)) <= 100
    assert not any(line != line.rstrip() for line in lines)


def test_the_columns_of_a_terminal_are_aligned():
    header, *rows = report.terminal(rebuilt(measured(roc_auc=0.91)), GATES, "base").splitlines()[2:6]

    starts = [columns(header[: header.index("gate")])] + [
        columns(row[: row.index(word)]) for row, word in zip(rows, ("≥ ", "≤ ", "no rule"), strict=True)
    ]
    assert len(set(starts)) == 1


def test_the_reason_is_in_the_terminal():
    found = Report(1, measured(), None, "none", why="that commit has no pipeline")

    assert "  baseline: that commit has no pipeline" in report.terminal(found, GATES)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1}, [], id="nothing"),
        pytest.param({"a": 1}, {"a": 2}, [Change("a", "1", "2")], id="a value"),
        pytest.param({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 2}}}, [Change("a.b.c", "1", "2")], id="three deep"),
        pytest.param({}, {"a": 1}, [Change("a", None, "1")], id="a new key"),
        pytest.param({"a": 1}, {}, [Change("a", "1", None)], id="a key less"),
        pytest.param({"a": None}, {"a": 0}, [Change("a", "None", "0")], id="null is a value"),
        pytest.param({"a": [1, 2]}, {"a": [1, 3]}, [Change("a", "[1, 2]", "[1, 3]")], id="a list"),
        pytest.param({"a": 1}, {"a": {"b": 1}}, [Change("a", "1", "{'b': 1}")], id="a section for a value"),
        pytest.param({1: "x"}, {1: "y"}, [Change("1", "x", "y")], id="a number for a key"),
        pytest.param({"a": "x" * 400}, {"a": ""}, [Change("a", "x" * 300, "")], id="a long value"),
        pytest.param({"a" * 400: 1}, {}, [Change("a" * 300, "1", None)], id="a long key"),
    ],
)
def test_the_keys_in_which_two_files_differ_are_listed(before, after, expected):
    assert report.changes(before, after) == expected
