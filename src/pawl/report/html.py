"""The report as a page: one file that needs no network and no script, for a screen, a phone and paper, in light and dark."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from pawl.gate.rules import Gates, Rule
from pawl.gate.verdict import GOOD, Comparison, Judged, Verdict
from pawl.parts import Value
from pawl.report import Change, Data, Report
from pawl.report.draw import NONE, WIDTH, esc, folded, known, number, table
from pawl.report.plots import Plot, plots, slices, values
from pawl.report.text import SYMBOLS, between, change, described, headline, moved, noticed, short, shown, signed, tested

CSS = Path(__file__).with_name("page.css").read_text("utf-8")
MODELS = ("champion", "baseline", "candidate", "95 % interval")
SHOWN = 12  # rows of a table before the rest is folded
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def page(report: Report, gates: Gates) -> str:
    """Return the page."""
    title = esc(headline(report, gates))
    sections = {
        "Gates": _gates(report, gates),
        "Plots": _plots(plots(report, gates).values()),
        "Slices": _slices(report),
        "What changed": _changes(report),
        "Every metric": _metrics(report),
        "Cost": _cost(report),
        "Digests": _digests(report),
    }
    body = "\n".join(f"<section><h2>{name}</h2>\n{content}</section>" for name, content in sections.items() if content)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><title>{title}</title><style>
{CSS}</style></head>
<body><main><h1 class="{report.verdict}">{title}</h1>
{_identity(report)}
{body}</main></body></html>
"""


def pictures(report: Report, gates: Gates) -> dict[str, str]:
    """Return {name: SVG file} of the page's plots."""
    return {name: svg(each.title, each.drawing, each.height) for name, each in plots(report, gates).items()}


def svg(title: str, drawing: str, height: float) -> str:
    """Return a picture as a file of its own."""
    top = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}"><style><![CDATA[{CSS}]]></style>'
    return f"{top}<title>{esc(title)}</title>{drawing}</svg>\n"


def _identity(report: Report) -> str:
    why = _text(report.why or "it is not said why")
    none = why if report.why.startswith("none ") else f"{'lost' if report.state == 'lost' else 'none'}: {why}"
    champion = described(report.champion) if report.champion else f"none: {report.champion_why}"
    return _list(
        [
            ("Candidate", f"{esc(short(report.candidate.commit))}, {tested(report):,} test rows"),
            ("Baseline", _text(described(report.baseline)) if report.baseline else none),
            *([("", f"cannot be compared: {why}")] if report.why and report.baseline else []),
            *([("Champion", _text(champion))] if report.champion or report.champion_why else []),
            ("Served by", _text(report.candidate.served_by)),
            ("Gate", f"{_word(report.verdict)}: this model may {'' if report.allowed else 'not '}ship"),
        ]
    )


def _gates(report: Report, gates: Gates) -> str:
    rows, losses = [], dict(noticed(report, gates)[0])
    for each in report.judged:
        if each.slice:
            continue
        rule, compared = gates.metrics.get(each.metric), report.comparison(each.metric)
        rows.append([
            _said(each), f"{esc(each.metric)}\u00a0{_arrow(rule)}", *_models(report, each.metric), _delta(compared, each),
            losses.get(compared, NONE) if compared else NONE, _reason(each),
        ])  # fmt: skip
    if not rows:
        return "<p>No rule judges a metric: give one a floor, a ceiling or a max_regression in gates.yaml.</p>"
    head = ["verdict", "metric", *MODELS, "Δ, 90 % interval", "smallest loss noticed", "gate"]
    kinds = ["verdict", "name", "num", "num", "num candidate", "num", "num", "num", ""]
    note = "↑ higher is better, ↓ lower is better."
    if report.comparisons:
        note += " Δ: candidate minus baseline, on the same rows. Smallest loss noticed: a true loss of this size fails in 80 % of cases."
    return f'{table("The gates, and what they judge", head, rows, kinds)}<p class="note">{note}</p>'


def _models(report: Report, metric: str) -> list[str]:
    """Return the cells of MODELS."""
    found = values(report, metric)
    now = found.get("candidate", Value(None, None, None, 0))
    return [*(shown(metric, found.get(who), now) for who in MODELS[:3]), between(now)]


def _slices(report: Report) -> str:
    facts, base = report.candidate.facts.slices, report.baseline.facts.slices if report.baseline else {}
    judged = {(each.metric, each.slice): each for each in report.judged if each.slice}
    if not facts and not judged:
        return ""
    bad = [each for each in judged.values() if each.verdict not in GOOD | {"skipped"}]
    said = f"<p>{len(judged) - len(bad):,} of {len(judged):,} rules of slices hold.</p>" if judged else ""
    lines = [f"<li>{_said(each)} {_text(each.rule)}: {_reason(each)}</li>" for each in bad[:SHOWN]]
    lines += [f"<li>… and {len(bad) - SHOWN:,} more, in the table below</li>"] if len(bad) > SHOWN else []
    rows = []
    for name, found in facts.items():
        for metric, now in found.metrics.items():
            rule, compared = judged.get((metric, name)), report.comparison(metric, name)
            before = base[name].metrics.get(metric) if name in base else None
            rows.append([
                _text(name), esc(metric), f"{found.rows:,}", shown(metric, before, now), shown(metric, now, now), between(now),
                change(compared) if compared else NONE, between(compared, signed) if compared else NONE,
                _said(rule) if rule else "not judged", _reason(rule) if rule else "",
            ])  # fmt: skip
    head = ["slice", "metric", "n", *MODELS[1:], "Δ", "90 % interval of Δ", "verdict", "gate"]
    every = folded("Every slice", table("Every slice", head, rows)) if rows else ""
    return said + (f"<ul>{''.join(lines)}</ul>" if lines else "") + _plots(slices(report, judged)) + every


def _changes(report: Report) -> str:
    changes = report.changes
    if report.baseline is None:
        return "<p>There is no baseline to differ from: <code>make report BASE=origin/main</code> names one.</p>"
    parts = [
        _changed("Parameters", "parameter", changes.params),
        _data(changes.data) if changes.data else "",
        _changed("Schema", "key", changes.schema),
        _changed("Gates, from the next change on", "key", changes.gates),
        _changed("Dependencies", "package", changes.dependencies),
        _long("Code", ["file", "lines added", "lines removed"], [[_code(each.path), *(NONE if n is None else f"{n:,}" for n in (each.added, each.removed))] for each in changes.code]),
    ]  # fmt: skip
    found = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div class="changes">{found}</div>' if found else "<p>Nothing that the model is made of differs.</p>"


def _changed(title: str, what: str, changes: Sequence[Change]) -> str:
    rows = [[_code(each.key), _code(each.before), _code(each.after)] for each in changes]
    return _long(title, [what, "baseline", "candidate"], rows)


def _data(data: Data) -> str:
    rows = [
        [esc(split), f"{before:,}", f"{after:,}", f"{after - before:+,}".replace("-", "−")]
        for split, (before, after) in data.rows.items()
        if before != after
    ]
    counts = {"added": data.added, "removed": data.removed}
    said = [f"{count:,} test rows {word}." for word, count in counts.items() if count]
    said += ["Every split has as many rows as before."] if data.rows and not rows else []
    kept = sum(not moved(each) for each in data.shifts)
    said += [f"{kept} of {len(data.shifts)} columns moved by less than 0.01."] if kept else []
    most = max((each.shift for each in data.shifts if known(each.shift)), default=0.0)
    shifts = []
    for each in sorted(filter(moved, data.shifts), key=lambda each: -each.shift if known(each.shift) else 0.0):
        size = str(each.kind)
        if known(each.shift):
            size = f"{number(each.shift, -0.01, 0.01)} {'sd' if each.kind == 'mean' else 'of the rows'}"
            size += f'<span class="bar"><i style="width:{max(each.shift / most, 0) if most > 0 else 0:.1%}"></i></span>'
        missing = " → ".join(f"{number(share * 100, -5, 5)} %" for share in each.missing or ())
        shifts.append([_text(each.column), size, missing or NONE])
    note = "Of a number, how far its mean moved, in standard deviations (sd); of a category, the share of rows with another value."
    columns = _table("Shift of each column", ["column", "shift", "missing"], shifts) + f'<p class="note">{note}</p>'
    counted = table("Rows", ["split", "baseline", "candidate", "Δ"], rows) if rows else ""
    return f"<h3>Data</h3>{counted}<p>{' '.join(said)}</p>{columns if shifts else ''}"


def _metrics(report: Report) -> str:
    facts, rows = report.candidate.facts, []
    for metric, now in facts.metrics.items():
        splits = (number(part[metric], now.low, now.high) if metric in part else NONE for part in (facts.train, facts.valid))  # fmt: skip
        rows.append([esc(metric), *_models(report, metric), f"{now.n:,}" if now.n else NONE, *splits])
    head = ["metric", *MODELS, "n", "on train", "on valid"]
    return folded(f"{len(rows)} metrics of the test split", table("Every metric", head, rows)) if rows else ""


def _cost(report: Report) -> str:
    spent = {stage: seconds for stage, seconds in report.seconds.items() if known(seconds)}
    if len(spent) > 1:
        spent["together"] = sum(spent.values())
    said = " · ".join(f"{esc(stage)} {number(seconds, -5, 5)} s" for stage, seconds in spent.items())
    return f"<p>{said or 'Nothing had to run.'}</p>"


def _digests(report: Report) -> str:
    found = {"model": report.candidate.digest, "test rows": report.candidate.rows, **report.candidate.digests}
    others = {"model of the baseline": report.baseline, "model of the champion": report.champion}
    found |= {name: other.digest for name, other in others.items() if other}
    return _list((esc(name), _code(digest)) for name, digest in found.items())


def _delta(each: Comparison | None, judged: Judged) -> str:
    if each is None:
        return NONE
    kind = judged.verdict if judged.verdict in {"fail", "improved"} else ""
    found = between(each, signed)
    return f'<span class="{kind}">{change(each)}</span>' + (f" <small>{found}</small>" if found != NONE else "")


def _arrow(rule: Rule | None) -> str:
    sign = "↑" if rule and rule.sign > 0 else "↓"
    return f'<span role="img" aria-label="{rule.direction} is better">{sign}</span>' if rule else ""


def _said(each: Judged) -> str:
    aside = "waived" if each.waived else {"error": "", "warn": "only warns", "info": "only shown"}[each.level]
    return _word(each.verdict) + (f" <small>{aside}</small>" if aside else "")


def _word(verdict: Verdict) -> str:
    return f'<span class="verdict {verdict}">{SYMBOLS[verdict]} {verdict}</span>'


def _reason(each: Judged) -> str:
    return _text(each.reason) + (f" <small>{_text(each.waived)}</small>" if each.waived else "")


def _text(said: str) -> str:
    return f"<bdi>{esc(said)}</bdi>"  # letters from right to left turn nothing around them


def _code(said: str | None) -> str:
    return NONE if said is None else f"<code>{_text(said)}</code>"


def _list(lines: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{said}</dd>' for name, said in lines)}</dl>"


def _plots(found: Collection[Plot]) -> str:
    parts = []
    for each in found:
        title, note = esc(each.title), f'<p class="note">{each.note}</p>' if each.note else ""
        drawing = f'<svg viewBox="0 0 {WIDTH} {each.height:.0f}" role="img"><title>{title}</title>{each.drawing}</svg>'
        data = folded("Numbers", table(each.title, each.head, each.rows)) if each.rows else ""
        parts.append(f"<figure><figcaption>{title}</figcaption>{drawing}{note}{data}</figure>\n")
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def _long(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with its title; nothing without rows."""
    return f"<h3>{title}</h3>{_table(title, head, rows)}" if rows else ""


def _table(label: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    more = rows[SHOWN:]
    rest = folded(f"{len(more):,} more", table(f"{label}, the rest", head, more)) if more else ""
    return table(label, head, rows[:SHOWN]) + rest
