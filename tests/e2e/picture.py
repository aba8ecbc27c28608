"""Draw .github/loop.png from what `PAWL_KEEP=folder make e2e` kept: python tests/e2e/picture.py folder (needs chromium on PATH)."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import markdown_it

STYLE = """
body { margin: 0; padding: 28px; width: 1144px; background: #fff; color: #1f2328; font: 15px/1.5 "DejaVu Sans", sans-serif }
.loop { display: flex; align-items: stretch; margin: 0 0 8px }
.loop div { flex: 1; border: 1px solid #d1d9e0; border-radius: 6px; padding: 8px 10px; font-size: 12.5px; line-height: 1.4 }
.loop b { display: block; font-size: 14px; color: #0072b2 } .loop .end b { color: #009e73 }
.loop i { align-self: center; font: 20px "DejaVu Sans"; color: #8a8a8a; padding: 0 5px }
.row { font-size: 13px; color: #59636e; margin: 4px 0 }
.comment { border: 1px solid #d1d9e0; border-radius: 6px; margin-top: 16px }
.comment header { background: #f6f8fa; border-bottom: 1px solid #d1d9e0; padding: 8px 16px; font-size: 14px; color: #59636e }
.comment main { padding: 4px 16px 12px } h3 { font-size: 17px; margin: 12px 0 }
table { border-collapse: collapse; margin: 12px 0 } td, th { border: 1px solid #d1d9e0; padding: 5px 10px; font-size: 13px }
tr:nth-child(2n) td { background: #f6f8fa } code { background: #eff1f3; border-radius: 4px; padding: 2px 5px; font: 13px "DejaVu Sans Mono" }
details { margin: 6px 0 } sub { font-size: 12px; vertical-align: baseline; color: #59636e; display: block } a { color: #0969da }
"""


def main(kept: Path) -> None:
    """Draw."""
    plays = {}
    for folder in sorted(kept.glob("out*"), key=lambda path: int(path.name[3:])):
        for run in json.loads((folder / "result.json").read_text())["runs"]:
            plays.setdefault(Path(run["path"]).stem, (run, folder))
    seconds = {
        name: {step["name"]: step["seconds"] for job in run["jobs"] for step in job["steps"]}
        for name, (run, _) in plays.items()
    }

    def took(name, words):
        return f"{sum(value for step, value in seconds[name].items() if words in step):.0f} s"

    summary = {
        name: "".join(file.read_text() for file in folder.glob("*/summary/*.md")) for name, (_, folder) in plays.items()
    }
    # The pull request after the first release: it has main's entry in the ledger and a champion to be compared with.
    told = [json.loads(file.read_text())["comments"].values() for file in kept.glob("out*/github.json")]
    comment = next(each["body"] for part in told for each in part if "| champion |" in each["body"])
    golden = re.search(r"(\d+) golden rows", summary["release"])[1]
    digest = re.search(r"@sha256:(\w{8})", summary["release"])[1]
    version = re.search(r"version (\d+) is champion", summary["release"])[1]
    first = [
        ("Pull request", "train.params.num_leaves<br>15 → 7"),
        (
            "Compared with main",
            f"on the same test rows, by paired tests, in {took('pr', 'make pipeline')} and {took('pr', 'make report')}",
        ),
        ("Comment", f"main's code writes it, in {took('report', 'scripts.comment')}; the next push renews it"),
        ("Merge", "reviewed with its numbers"),
    ]
    then = [
        ("Train anew", f"by trusted code, no cache: {took('release', 'make pipeline')}"),
        (
            "Gate",
            f"gates.yaml: {re.search(r'([0-9]+ of [0-9]+) gates pass', summary['release'])[1]} pass; main's ledger remembers",
        ),
        ("Register", f"MLflow: version {version}, candidate"),
        ("Image", f"by digest: {digest}…"),
        ("Deploy", f"{golden} golden rows right, through the Service"),
        ("Champion", f"version {version}; a failure before leaves it where it was"),
    ]

    def loop(boxes):
        return "<i>→</i>".join(
            f"<div{' class=end' if name in {'Merge', 'Champion'} else ''}><b>{name}</b>{text}</div>"
            for name, text in boxes
        )

    body = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(comment.split("-->\n", 1)[1])
    page = f"""<meta charset=utf-8><style>{STYLE}</style>
<div class=loop>{loop(first)}</div><div class=loop>{loop(then)}</div>
<div class=row>↺ Every Monday, and where rows drift: is the champion good enough on fresh data? If not: trained anew, one pull request, and the loop again.</div>
<div class=comment><header><b>github-actions</b> bot commented</header><main>{body}</main></div>"""
    with tempfile.TemporaryDirectory() as folder:
        source, shot = Path(folder) / "page.html", Path(folder) / "shot.png"
        source.write_text(page)
        chromium = (
            shutil.which("chromium")
            or shutil.which("chromium-browser")
            or shutil.which("google-chrome")
            or sys.exit("chromium is not on PATH")
        )
        options = [
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            "--force-device-scale-factor=1.5",
            "--window-size=1200,690",
        ]
        subprocess.run([chromium, *options, f"--screenshot={shot}", source.as_uri()], check=True, capture_output=True)
        shutil.copy(shot, ".github/loop.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
