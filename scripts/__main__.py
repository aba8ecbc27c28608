"""List what `python -m scripts.<verb>` can do.

python -m scripts
"""

import ast
import sys
from pathlib import Path

GROUPS = {
    "build": "environment preflight init schema run stage in_image tune trial pull keep relock unattended",
    "judge": "report gate selftest compare reproduce replay comment coverage",
    "registry": "track import_runs register models promote store ui",
    "release": "image smoke verify access deploy rollback ledger status",
    "watch": "predict ship labels drift watch exporter retrain propose cycle simulate notify",
    "upkeep": "lint lock update audit setup_github features heartbeat probe",
}


def main() -> int:
    """Print each verb with the first line of its docstring, group by group."""
    for group, verbs in GROUPS.items():
        print(f"{group}:")
        for verb in verbs.split():
            text = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{verb}.py").read_text(encoding="utf-8")))
            print(f"  {verb:<13} {(text or '').partition(chr(10))[0]}")
    print("\n`python -m scripts.<verb> --help` shows examples; `make help` lists the words for the daily ones")
    return 0


if __name__ == "__main__":
    sys.exit(main())
