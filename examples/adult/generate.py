"""Write a generated table in the format of UCI Adult, for machines without the real one: adult.data and adult.test.

python examples/adult/generate.py FOLDER [rows]

Its figures mean nothing; it shows that files of this format go through.
"""

import sys
from pathlib import Path

import numpy as np
import yaml

HERE = Path(__file__).parent


def main(folder: Path, rows: int = 3000) -> None:
    """Write `rows` train rows and half as many test rows."""
    names = yaml.safe_load((HERE / "params.yaml").read_text())["ingest"]["csv"]["names"]
    columns = yaml.safe_load((HERE / "schema.yaml").read_text())["columns"]
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, dot in (("data", rows, ""), ("test", rows // 2, ".")):
        cells = {}
        for name in names:
            values = columns[name].get("values")
            drawn = rng.integers(0, len(values) if values else 2 * max(int(columns[name]["scale"]), 1), count)
            cells[name] = [values[index] for index in drawn] if values else drawn.tolist()
        cells["income"] = [">50K" if old > 40 else "<=50K" for old in cells["age"] + rng.integers(-20, 21, count)]
        lines = [", ".join(str(cells[name][row]) for name in names) + dot for row in range(count)]
        lines = [line.replace("Sales", "?") for line in lines]
        head = ["|1x3 Cross validator"] if dot else []  # as in UCI's own file
        (folder / f"adult.{part}").write_text("\n".join([*head, *lines]) + "\n\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
