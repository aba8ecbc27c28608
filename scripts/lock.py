"""Renew requirements/*.txt from requirements/*.in: universal, hashed, without the address of an index.

python -m scripts.lock             what the .in files ask for, versions kept where they still fit
python -m scripts.lock --upgrade   the newest versions that fit
"""

import argparse
import subprocess
import sys
from pathlib import Path

FIRST = "pipeline"  # the other sets are held to its versions


def main(argv: list[str] | None = None) -> int:
    """Compile each set."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.lock", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true")
    extra = ["--upgrade"] if parser.parse_args(argv).upgrade else []
    sets = sorted(Path("requirements").glob("*.in"), key=lambda path: (path.stem != FIRST, path.stem))
    for given in sets:
        command = [
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--universal",
            "--generate-hashes",
            "--no-header",
            "--python-version",
            "3.11",
            *extra,
        ]
        if code := subprocess.run(
            [*command, given, "--output-file", given.with_suffix(".txt")], check=False
        ).returncode:
            return code
        print(given.with_suffix(".txt"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
