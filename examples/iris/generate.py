"""Write the table of this example, iris.csv: scikit-learn's own set of 150 flowers, without network.

python examples/iris/generate.py FOLDER
"""

import csv
import sys
from pathlib import Path

from sklearn.datasets import load_iris


def main(folder: Path) -> None:
    """Write a row per flower: four lengths in cm, and its species."""
    flowers = load_iris()
    names = [name.removesuffix(" (cm)").replace(" ", "_") for name in flowers.feature_names]
    with (folder / "iris.csv").open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([*names, "species"])
        lines.writerows(
            [*row, flowers.target_names[kind]] for row, kind in zip(flowers.data.tolist(), flowers.target, strict=True)
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
