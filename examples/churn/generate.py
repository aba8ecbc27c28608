"""Write the table of this example, customers.csv: who has left a telephone company, generated, the same each time.

python examples/churn/generate.py FOLDER [rows]

Who leaves follows from the tickets per month, what has been paid in all, the contract, and chance. Nobody can rank better than with an
AUC of about 0.91: the rest is chance.
"""

import csv
import sys
from pathlib import Path

import numpy as np

CONTRACTS = {"monthly": 1.8, "one year": 0.0, "two years": -2.2}  # and how each moves the log odds
PAYMENTS = {"bank transfer": -0.2, "card": -0.2, "electronic check": 0.5}


def main(folder: Path, rows: int = 4000) -> None:
    """Write a row per customer; some cells are empty, and charges are written as people write them."""
    rng = np.random.default_rng(0)
    tenure = np.minimum(rng.gamma(1.2, 22.0, rows).astype(int), 72)
    contract = rng.choice(list(CONTRACTS), rows, p=[0.55, 0.25, 0.2])
    payment = rng.choice(list(PAYMENTS), rows)
    charges = rng.uniform(20, 115, rows).round(2)
    tickets = rng.poisson(rng.gamma(1.5, 0.1, rows) * (tenure + 1) * np.where(contract == "monthly", 1.5, 1.0))
    odds = 14.0 * tickets / (tenure + 1) - 1.2 * tenure * charges / 1000 + 0.012 * charges - 3.9
    odds += [CONTRACTS[each] for each in contract] + np.array([PAYMENTS[each] for each in payment])
    left = rng.random(rows) < 1 / (1 + np.exp(-odds))
    empty = rng.random((3, rows)) < 0.03
    with (folder / "customers.csv").open("w", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["customer_id", "tenure_months", "monthly_charges", "num_support_tickets", "contract_type", "payment_method", "churned"])  # fmt: skip
        for row in range(rows):
            numbers = [tenure[row], f"${charges[row]:.2f}", tickets[row]]
            cells = ["" if gone else cell for cell, gone in zip(numbers, empty[:, row], strict=True)]
            lines.writerow([f"C{row:05d}", *cells, contract[row], payment[row], "yes" if left[row] else "no"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
