"""The page of a report in a real browser: headless Chromium, light, dark and as wide as a phone. `make e2e` runs it."""

import html
import json
import re
import shutil
import subprocess

import pytest

from pawl.gate.rules import Gates, Rule
from pawl.gate.verdict import Comparison, Facts, Judged, Slice, Value
from pawl.report import Change, Changes, Model, Other, Report
from pawl.report.html import page

pytestmark = pytest.mark.e2e
LIGHT, DARK = 1, 0
LONG = "a_name_that_is_long_" * 12
ROC = tuple((place / 20, (place / 20) ** 0.3) for place in range(21))
BINS = tuple((place / 10 + 0.05, place / 10 + 0.06, place / 10, place / 10 + 0.1, 90.0) for place in range(10))
# A page of our own around the report's: what stands in a frame of the same origin can be measured from outside.
AROUND = """<!doctype html><meta charset="utf-8"><body><iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{page}"></iframe>
<pre></pre><script>
addEventListener("load", () => {{
  const inside = document.querySelector("iframe").contentDocument, root = inside.documentElement
  const sizes = [...inside.querySelectorAll("svg")].map(each => each.getBoundingClientRect()).map(each => [each.width, each.height])
  const page = getComputedStyle(inside.body)
  document.querySelector("pre").textContent = JSON.stringify({{
    width: root.scrollWidth, sizes, paper: page.backgroundColor, ink: page.color,
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
    judged = tuple(Judged(metric, metric, "", "pass", "error", LONG) for metric in metrics)
    other, curve = Other("b" * 40, LONG, "ledger", facts), {"candidate": ROC, "baseline": ROC, "champion": ROC}
    return Report(
        1, "pass", True, judged, Model("c" * 40, facts), other, "compared", "", other, "", (compared,),  # noqa: FBT003 - allowed
        changes=Changes((Change(LONG, LONG, LONG),)), importances=((LONG, 0.4), ("age", 0.1)), seconds={"train": 3.0},
        curves={"roc": curve, "precision_recall": curve, "calibration": {"candidate": BINS, "baseline": BINS},
                "learning": {"train": ROC, "valid": ROC}},
    )  # fmt: skip


def browse(folder, width, scheme, text=None):
    """Return what was measured of the page in a window without a network, and what the browser said of it."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert browser, "chromium is not on PATH: install it, such as by `apt-get install chromium`"
    gates = Gates(1, {"roc_auc": Rule("higher", max_regression=0.005)})
    source = folder / "page.html"
    source.write_text(AROUND.format(width=width, page=html.escape(text or page(report(), gates))), "utf-8")
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


def test_what_is_wrong_with_a_page_is_seen(tmp_path):
    wide = '<div style="width: 900px">wide</div><img src="https://example.org/a.png"><script>console.error("here")</script>'
    found, said = browse(tmp_path, 375, LIGHT, wide)
    assert found["width"] > 375
    assert found["requests"] == ["https://example.org/a.png"]
    assert "here" in "".join(said)
