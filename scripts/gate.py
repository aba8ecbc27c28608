"""The verdict of the report, for a script or a workflow.

python -m scripts.gate                                        what reports/report.json says
python -m scripts.gate --exit-code                            1 where it is no
python -m scripts.gate --min accuracy=0.90 --metrics FILE     a rule for once, on any file of metrics

Sets the outputs `verdict`, `allowed` and `headline` of a workflow's step. A file of metrics holds {"accuracy": 0.9}, or what reports/metrics.json
holds. Exit code: 0 done, 1 the verdict is no (with --exit-code), 2 your input or configuration.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

from pawl import bundle, paths, report
from pawl.gate import rules, verdict
from pawl.gate.rules import Gates, Rule
from pawl.gate.verdict import Facts
from pawl.parts import Value
from pawl.problem import Problem
from pawl.report import text
from scripts import cli, github


@cli.told
def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Say the verdict."""
    parser = cli.parser("gate", __doc__)
    parser.add_argument("--exit-code", action="store_true", help="1 where the verdict is no")
    for name, said in (("--min", "at least; may stand there again"), ("--max", "at most")):
        parser.add_argument(name, action="append", default=[], type=limit, metavar="METRIC=VALUE", help=said)
    file = "a JSON file of metrics, for --min and --max; reports/metrics.json without"
    parser.add_argument("--metrics", type=Path, help=file)
    args = parser.parse_args(argv)
    if args.metrics and not (args.min or args.max):
        parser.error("--metrics needs a --min or a --max: it is not what the report is judged by")
    if args.min or args.max:
        word, allowed, said = once(dict(args.min), dict(args.max), args.metrics or paths.METRICS)
    else:
        if not paths.REPORT.exists():
            raise Problem("there is no report", paths.REPORT, "run `make report`")
        found = report.load(paths.REPORT.read_bytes(), str(paths.REPORT))
        if found.candidate.digest != bundle.digest_of(paths.BUNDLE):
            raise Problem("the report is not of this model", paths.REPORT, "run `make report`")
        word, allowed, said = found.verdict, found.allowed, text.headline(found, rules.load(paths.GATES))
    print(said)
    github.output(environ, verdict=word, allowed=str(allowed).lower(), headline=said.replace("\n", "; "))
    return 1 if args.exit_code and not allowed else 0


def once(least: Mapping[str, float], most: Mapping[str, float], path: Path) -> tuple[str, bool, str]:
    """Return (verdict, whether it lets the model pass, lines that say why) for limits on a file of metrics."""
    values, lines = read(path), []
    ways: dict[str, Literal["higher", "lower"]] = {**dict.fromkeys(least, "higher"), **dict.fromkeys(most, "lower")}
    metrics = {name: Rule(way, floor=least.get(name), ceiling=most.get(name)) for name, way in ways.items()}
    gates = Gates(version=1, metrics=metrics)
    judged = verdict.judge(gates, Facts(values), [], "first", date.min)
    for each in judged:
        value = f"is {text.number(values[each.metric].value)}: " if each.metric in values else ""
        lines.append(f"{text.SYMBOLS[each.verdict]} {each.metric} {value}{each.reason}")
    word = verdict.overall(judged)
    return word, verdict.allowed(word, gates), "\n".join(lines)


def read(path: Path) -> dict[str, Value]:
    """Return the metrics in a file: of the test split, where it has splits."""
    try:
        found = json.loads(path.read_text())
        found = found.get("test", found)
        values = {name: each.get("value") if isinstance(each, dict) else each for name, each in found.items()}
        return {name: Value(_number(value), None, None, 0) for name, value in values.items()}
    except (OSError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Problem(f"no metrics can be read: {error}", path, 'a JSON file such as {"accuracy": 0.9}') from error


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def limit(word: str) -> tuple[str, float]:
    """Return (metric, value) of metric=value."""
    name, _, value = word.partition("=")
    try:
        if name and math.isfinite(float(value)):
            return name, float(value)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{word} is not METRIC=VALUE, for example accuracy=0.90")


if __name__ == "__main__":
    sys.exit(main())
