"""Write the table of this example, diabetes.csv: scikit-learn's own set of 442 patients, in its own units, without network.

python examples/diabetes/generate.py FOLDER
"""

import csv
import sys
from pathlib import Path

from sklearn.datasets import load_diabetes

NAMES = (
    "age",
    "sex",
    "bmi",
    "pressure",
    "cholesterol",
    "ldl",
    "hdl",
    "cholesterol_by_hdl",
    "log_triglycerides",
    "glucose",
)


def main(folder: Path) -> None:
    """Write a row per patient: ten measures, and how far the disease has gone a year later."""
    patients = load_diabetes(scaled=False)
    with (folder / "diabetes.csv").open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow([*NAMES, "progression"])
        for (age, sex, *measures), progression in zip(patients.data.tolist(), patients.target.tolist(), strict=True):
            lines.writerow([int(age), int(sex), *measures, progression])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
