"""Say how much of the code the tests ran, and of the lines that a change touches.

python -m scripts.coverage --base origin/main     after `make test ARGS=--cov`

It judges nothing. Exit code: 0 said, 2 there is nothing to read.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pawl.problem import Problem
from pawl.report import text
from scripts import cli, github

BIN = Path(sys.executable).parent
DATA = Path(".coverage")


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Measure, say."""
    parser = cli.parser("coverage", __doc__)
    parser.add_argument("--base", required=True, help="the commit that the change is measured from")
    base = parser.parse_args(argv).base
    if not DATA.exists():
        raise Problem(f"{DATA} does not exist", DATA, "`make test ARGS=--cov`")
    with tempfile.TemporaryDirectory() as name:
        xml, total, changed = (Path(name, file) for file in ("coverage.xml", "total.json", "changed.json"))
        tool("coverage", "xml", "-q", "-o", str(xml))
        tool("coverage", "json", "-q", "-o", str(total))
        tool("diff-cover", str(xml), f"--compare-branch={base}", f"--format=json:{changed}", "--quiet")
        said = told(json.loads(total.read_text())["totals"], json.loads(changed.read_text()), base)
    print(said)
    github.summary(environ, f"{said}\n")
    return 0


def told(total: Mapping[str, Any], changed: Mapping[str, Any], base: str) -> str:
    """Return it in Markdown, from what the tools wrote."""
    lines = [f"Tests ran {total['percent_covered']:.1f} % of {total['num_statements']} lines."]
    if changed["total_num_lines"]:
        missed = f"{changed['total_num_violations']} of the {changed['total_num_lines']} changed"
        lines.append(f"They did not run {missed} since {text.code(base)}.")
    files = {name: each["violation_lines"] for name, each in changed["src_stats"].items() if each["violation_lines"]}
    lines += [f"- {text.code(name)}: {spans(missing)}" for name, missing in files.items()]
    return "\n".join(lines)


def spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers as `3-5, 9`."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and groups[-1][-1] == number - 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else f"{group[0]}" for group in groups)


def tool(name: str, *words: str) -> None:
    """Run a program of the environment; raise Problem with its last line if it fails."""
    done = subprocess.run([str(BIN / name), *words], check=False, capture_output=True, text=True)
    if done.returncode:
        cause = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise Problem(f"{name} failed: {''.join(cause)}", DATA, "see its message; is the base fetched?")


if __name__ == "__main__":
    sys.exit(main())
