"""The page of a report in a real browser: headless Chromium, light, dark and as wide as a phone; axe-core looks for what shuts people out. `make e2e` runs it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pawl.gate.rules import Gates, Rule
from pawl.gate.verdict import Comparison, Facts, Judged, Slice, Value
from pawl.report import Change, Changes, Data, Model, Other, Report, Shift
from pawl.report.html import POLICY, page
from pawl.report.text import SYMBOLS
from scripts import lint

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parents[2]
LIGHT, DARK = 1, 0
GATES = Gates(1, {"roc_auc": Rule("higher", max_regression=0.005)})
LONG = "a_name_that_is_long_" * 12
ROC = tuple((place / 20, (place / 20) ** 0.3) for place in range(21))
BINS = tuple((place / 10 + 0.05, place / 10 + 0.06, place / 10, place / 10 + 0.1, 90.0) for place in range(10))
# A page of our own around the report's: what stands in a frame of the same origin can be measured from outside.
AROUND = """<!doctype html><meta charset="utf-8"><body><iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{page}"></iframe>
<pre></pre><script>
addEventListener("load", async () => {{
  const inside = document.querySelector("iframe").contentDocument, root = inside.documentElement, axe = inside.defaultView.axe
  const checked = axe ? await axe.run(inside) : {{ violations: [], passes: [] }}
  const sizes = [...inside.querySelectorAll("svg")].map(each => each.getBoundingClientRect()).map(each => [each.width, each.height])
  const page = getComputedStyle(inside.body)
  document.querySelector("pre").textContent = JSON.stringify({{
    width: root.scrollWidth, sizes, paper: page.backgroundColor, ink: page.color, passes: checked.passes.map(each => each.id),
    violations: checked.violations.map(each => [each.id, each.nodes.map(node => node.html.slice(0, 200))]),
    drawn: [...new Set([...inside.querySelectorAll("svg text")].map(each => getComputedStyle(each).fill))],
    requests: inside.defaultView.performance.getEntriesByType("resource").map(each => each.name) }})
}})
</script>"""


def report():
    """Return a report with every part, and names that are longer than a screen."""
    value, metrics = Value(0.9, 0.89, 0.91, 4000), ("roc_auc", "average_precision", "n" * 64)
    facts = Facts(
        dict.fromkeys(metrics, value), slices={LONG[:200]: Slice(400, {"roc_auc": value})}, by={"sex": (LONG[:200],)}
    )
    compared = Comparison("roc_auc", "", "baseline", "b" * 40, 0.9, 0.0, 0.001, -0.002, 0.002, 0.5, 0.5, 4000, "delong")
    judged = tuple(Judged(metric, metric, "", word, "error", LONG) for metric in metrics for word in SYMBOLS)
    data = Data({"test": (10, 8)}, 1, 3, (Shift("age", "mean", 0.2, (0.0, 0.1)), Shift(LONG, "shares", 0.1, None)))
    other, curve = Other("b" * 40, LONG, "ledger", facts), {"candidate": ROC, "baseline": ROC, "champion": ROC}
    return Report(
        1, "pass", True, judged, Model("c" * 40, facts), other, "compared", "", other, "", (compared,),  # noqa: FBT003 - allowed
        changes=Changes((Change(LONG, LONG, LONG),) * 15, data=data), importances=((LONG, 0.4), ("age", 0.1)), seconds={"train": 3.0},
        curves={"roc": curve, "precision_recall": curve, "calibration": {"candidate": BINS, "baseline": BINS},
                "learning": {"train": ROC, "valid": ROC}},
    )  # fmt: skip


def browse(folder, width, scheme, text=None):
    """Return what was measured of the page in a window without a network, and what the browser said of it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "chromium is not on PATH: install it, such as by `apt-get install chromium`"
    source = folder / "page.html"
    source.write_text(AROUND.format(width=width, page=html.escape(text or page(report(), GATES))), "utf-8")
    options = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr", "--log-level=0", "--dump-dom",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", f"--blink-settings=preferredColorScheme={scheme}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000",
    ]  # fmt: skip
    done = subprocess.run(
        [browser, *options, source.as_uri()], check=False, capture_output=True, text=True, timeout=120
    )
    found = re.search(r"<pre>(\{.*\})</pre>", done.stdout)
    assert found, f"{browser} measured nothing: {done.stderr[-2000:]}"
    return json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375], ids=["desktop", "phone"])
def test_the_page_fits_and_asks_for_nothing(tmp_path, width, scheme):
    found, said = browse(tmp_path, width, scheme)
    assert said == []
    assert found["requests"] == []
    assert found["width"] <= width
    assert len(found["sizes"]) == 7
    assert all(across > 200 and down > 40 for across, down in found["sizes"])
    brightness = [sum(map(int, re.findall(r"\d+", found[part])[:3])) for part in ("paper", "ink")]
    assert (brightness[0] > brightness[1]) == (scheme == LIGHT)


def with_axe(text):
    """Return a page that axe-core can look at: nothing is folded, and scripts may run."""
    lint.install_npm()
    script = (lint.INSTALLED / "node_modules/axe-core/axe.min.js").read_text("utf-8")
    meta = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    assert meta in text
    return text.replace(meta, f"<script>{script}</script>").replace("<details>", "<details open>")


def brightness(color):
    """Return the relative luminance of rgb(r, g, b), by WCAG 2."""
    shares = [int(each) / 255 for each in re.findall(r"\d+", color)[:3]]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375], ids=["desktop", "phone"])
def test_the_page_shuts_nobody_out(tmp_path, monkeypatch, width, scheme):
    monkeypatch.chdir(ROOT)
    found, _ = browse(tmp_path, width, scheme, with_axe(page(report(), GATES)))
    assert found["violations"] == []
    looked = {"color-contrast", "document-title", "html-has-lang", "scrollable-region-focusable", "svg-img-alt", "empty-table-header"}  # fmt: skip
    assert looked <= {*found["passes"]}
    for color in found["drawn"]:  # axe does not look at text in pictures
        low, high = sorted(map(brightness, (color, found["paper"])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, color
    assert len(found["drawn"]) >= 4


def test_what_shuts_people_out_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    bad = f"""<!doctype html><html><head><meta http-equiv="Content-Security-Policy" content="{POLICY}"></head><body><main>
    <p style="color: #bbb; background: #fff">pale</p><img src="data:,"><svg role="img"><text>a picture</text></svg><button></button>
    <a href="#" tabindex="7">out of turn</a><table><tr><th></th></tr><tr><td>1</td></tr></table></main></body></html>"""
    found, _ = browse(tmp_path, 1280, LIGHT, with_axe(bad))
    named = {"color-contrast", "image-alt", "svg-img-alt", "button-name", "tabindex", "empty-table-header", "html-has-lang", "document-title"}  # fmt: skip
    assert named <= {name for name, _ in found["violations"]}


def test_what_is_wrong_with_a_page_is_seen(tmp_path):
    wide = '<div style="width: 900px">wide</div><img src="https://example.org/a.png"><script>console.error("here")</script>'
    found, said = browse(tmp_path, 375, LIGHT, wide)
    assert found["width"] > 375
    assert found["requests"] == ["https://example.org/a.png"]
    assert "here" in "".join(said)
