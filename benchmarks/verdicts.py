"""What the gate says of five changes, through the real pipeline and scripts, and the picture of it. Writes results/verdicts.json and .github/gate.svg.

python benchmarks/verdicts.py          train main and the five, some minutes
python benchmarks/verdicts.py --draw   the picture alone, from results/verdicts.json

The sample of tests/sample, whose main does without hours_per_week, so that a change can be better. Shown is the rule of roc_auc alone, by main's gates.yaml.
"""

import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pawl import paths  # noqa: E402 - the project's root comes first
from pawl.parts import Value  # noqa: E402 - same
from pawl.report import draw, text  # noqa: E402
from scripts import selftest  # noqa: E402

RESULTS, PICTURE = ROOT / "benchmarks/results/verdicts.json", ROOT / ".github/gate.svg"
WITHOUT = "hours_per_week"
LOW, HIGH, ALLOWED = -0.03, 0.032, -0.005
WIDTH, LEFT, TOP, STEP = 560, 12, 76, 50
SHOWN = {
    "improved": ("⬆", "green", "better, more than chance"), "pass": ("✅", "blue", "a loss that is allowed"),
    "inconclusive": ("🟡", "orange", "a larger loss, which may be chance"), "fail": ("❌", "red", "a larger loss, more than chance"),
}  # fmt: skip
# Okabe and Ito's colours; text beside them is darker, or lighter on a dark page.
STYLE = """
text { font: 13px system-ui, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; fill: #1f2328 }
.head, .verdict { font-weight: 600 } .dim { fill: #59636e; font-size: 12px } .middle { text-anchor: middle } .end { text-anchor: end } .limit { fill: #b04a00; font-size: 12px }
path { fill: none; stroke: #8a8a8a } .allowed { stroke: #d55e00; stroke-dasharray: 4 3 } .bar { stroke-width: 3; stroke-linecap: round }
.green { stroke: #009e73; fill: #009e73 } .blue { stroke: #0072b2; fill: #0072b2 } .orange { stroke: #e69f00; fill: #e69f00 } .red { stroke: #d55e00; fill: #d55e00 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .dim { fill: #9aa4af } .limit { fill: #ff8f4a } .blue { stroke: #5cb3ec; fill: #5cb3ec } }
"""


def drawn(found: Mapping[str, Any]) -> str:
    """Return the picture."""

    def at(value: float) -> float:
        return LEFT + (value - LOW) / (HIGH - LOW) * (WIDTH - 2 * LEFT)

    height = TOP + STEP * len(found["changes"]) + 12
    parts = [
        draw.text(LEFT, 20, "What each change does to the AUC of main, with its 90 % interval", "head", 90),
        draw.text(at(ALLOWED) - 6, 46, f"gates.yaml allows {draw.number(ALLOWED)}", "limit end"),
        draw.text(at(0) + 6, 46, "main", "dim"),
        f'<path class="allowed" d="M{at(ALLOWED):.1f} 36V{height - 8}"/><path d="M{at(0):.1f} 36V{height - 8}"/>',
    ]
    for place, (name, each) in enumerate(found["changes"].items()):
        y, (symbol, colour, why) = TOP + place * STEP, SHOWN[each["verdict"]]
        why = "no loss" if each["verdict"] == "pass" and each["difference"] >= 0 else why
        change = text.signed(each["difference"], Value(each["difference"], each["low"], each["high"], 0))
        parts += [
            draw.text(LEFT, y, name),
            draw.text(WIDTH - LEFT, y, f"{change} {symbol} {each['verdict']}", "verdict end"),
            draw.text(WIDTH - LEFT, y + 17, why, "dim end"),
            f'<path class="bar {colour}" d="M{at(each["low"]):.1f} {y + 13}H{at(each["high"]):.1f}"/>',
            f'<circle class="{colour}" cx="{at(each["difference"]):.1f}" cy="{y + 13}" r="5"/>',
        ]
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}"><title>How the gate decides</title><style><![CDATA[{STYLE}]]></style>{"".join(parts)}</svg>\n'


def few_rows(bench: selftest.Bench) -> None:
    """Train on a third of the rows, and ask 400."""
    bench.edit(lambda table, test: table[(~test & (table["id"] % 3 == 0)) | (test & (test.cumsum() <= 400))])


CHANGES = {
    f"{WITHOUT} is used": lambda bench: bench.params(**{"columns.ignore": []}),
    "another seed": lambda bench: bench.params(**{"train.seed": 1}),
    "half the trees": lambda bench: bench.params(**{"train.params.n_estimators": 110, "train.early_stopping": 0}),
    "a third of the rows, 400 to test": few_rows,
    "without capital_gain": lambda bench: bench.params(**{"columns.ignore": [WITHOUT, "capital_gain"]}),
}


def measure() -> Mapping[str, Any]:
    """Judge each change."""
    bench = selftest.Bench(ROOT / ".pawl/verdicts")
    bench.git("update-ref", "-d", "refs/heads/ledger")  # the sample itself is no baseline here
    bench.params(**{"columns.ignore": [WITHOUT]}).base("Main")
    bench.git("tag", "start")
    bench.git("tag", "ledger-start", "ledger")
    found: dict[str, Any] = {"changes": {}}
    for name, change in CHANGES.items():
        change(bench)
        seen = bench.judge()
        report = json.loads((bench.folder / paths.REPORT).read_text())
        one = next(each for each in report["comparisons"] if each["metric"] == "roc_auc" and not each["slice"] and each["against"] == "baseline")  # fmt: skip
        rule = next(each for each in report["judged"] if each["rule"] == "roc_auc")
        kept = ("difference", "low", "high", "n")
        found["changes"][name] = {key: one[key] for key in kept} | {
            "verdict": rule["verdict"],
            "reason": rule["reason"],
        }
        print(f"{name:<34} {one['difference']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f}) {rule['verdict']}: {rule['reason']} | {seen.verdict}", flush=True)  # fmt: skip
        bench.again()
    found["versions"] = {name: version(name) for name in ("lightgbm", "scikit-learn")}
    return found | {"machine": {"cores": os.cpu_count()}, "date": f"{datetime.now(UTC):%Y-%m-%d}"}


def main() -> None:
    """Measure, unless the picture alone is asked for, and draw."""
    if "--draw" not in sys.argv[1:]:
        RESULTS.write_text(json.dumps(measure(), indent=2) + "\n")
    PICTURE.write_text(drawn(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
