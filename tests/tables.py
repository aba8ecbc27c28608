"""Tables nobody prepared: what people bring on the first day. python tests/tables.py FOLDER writes them."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets


def loans(path: Path, rows: int = 4000) -> Path:
    """Imbalanced: ids, constants, dates, free text, separated by semicolons, decimal commas, numbers with blanks and question marks, Latin-1."""
    rng = np.random.default_rng(0)
    age, income, debt = rng.integers(19, 80, rows), rng.gamma(3, 900, rows).round(2), rng.gamma(2, 700, rows).round(2)
    risk = 1 / (1 + np.exp(4.2 + income / 1500 - debt / 700 - (age < 25)))
    debts = np.where(rng.random(rows) < 0.03, " ", np.char.replace(debt.astype(str), ".", ","))
    table = pd.DataFrame({
        "Loan ID": [f"L-{number:06d}" for number in range(rows)],
        "age": np.where(rng.random(rows) < 0.01, "?", age.astype(str)),
        "income": np.char.replace(income.astype(str), ".", ","),
        "debt": debts,
        "opened_at": (pd.Timestamp("2023-01-01") + pd.to_timedelta(rng.integers(0, 700, rows), "D")).strftime("%Y-%m-%d"),
        "currency": "EUR",
        "branch": rng.choice(["Köln", "Zürich", "Wien"], rows),
        "postcode": [f"0{number}" for number in rng.integers(1000, 9999, rows)],
        "remark": [f'called on day {a}, said {b} things; "nothing" new' for a, b in rng.integers(0, 10**6, (rows, 2))],
        "nothing": "",
        "outcome": np.where(rng.random(rows) < risk, "default", "paid"),
    })  # fmt: skip
    table.to_csv(path, sep=";", index=False, encoding="latin-1")
    return path


def visits(path: Path, people: int = 400) -> Path:
    """Several rows per customer: high-cardinality categories, missing targets, names in every script, rows twice, labels that stand once, a copy of the target."""
    rng = np.random.default_rng(1)
    of = rng.integers(0, people, people * 6)
    rows, taste = len(of), rng.normal(size=people)
    amount = (20 + 10 * taste[of] + rng.normal(0, 4, rows)).round(1)
    level = pd.cut(amount + rng.normal(0, 3, rows), [-99, 14, 26, 99], labels=["niedrig", "mittel", "hoch"]).astype(
        object
    )
    table = pd.DataFrame({
        "customerID": [f"c{number:05d}" for number in of],
        "Beschäftigung: 'heute'": rng.choice([f"job {number}" for number in range(150)], rows),
        "city, state": rng.choice([f"city {number}" for number in range(900)], rows),
        "数量": rng.poisson(3, rows),
        "amount {€}": amount,
        "store_id": rng.choice([101, 102, 103, 940], rows),
        "member": rng.choice([True, False], rows),
        'said "yes"': rng.integers(0, 2, rows),
        "level": np.where(rng.random(rows) < 0.04, None, level),
    })  # fmt: skip
    table.loc[[5, 77], "level"] = ["hoch!", "??"]
    table["level (code)"] = table["level"].map({"niedrig": "A", "mittel": "B", "hoch": "C"}).fillna("")
    pd.concat([table, table.sample(60, random_state=0)]).to_csv(path, index=False)
    return path


def orders(path: Path, rows: int = 3000) -> Path:
    """A skewed amount over time: Parquet with times and booleans, whole numbers that count through."""
    rng = np.random.default_rng(2)
    at = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.sort(rng.integers(0, 86_400 * 300, rows)), "s")
    items, express = rng.poisson(4, rows) + 1, rng.random(rows) < 0.3
    table = pd.DataFrame({
        "order_no": np.arange(1, rows + 1),
        "ordered_at": at,
        "items": items,
        "express": express,
        "weight": np.where(rng.random(rows) < 0.2, np.nan, rng.gamma(2, 3, rows)),
        "channel": rng.choice(["web", "shop", "phone"], rows, p=[0.6, 0.3, 0.1]),
        "paid": np.exp(rng.normal(1, 0.5, rows)) * items * (1 + express),
    })  # fmt: skip
    table.to_parquet(path, index=False)
    return path


def builtin(name: str) -> Callable[[Path], Path]:
    """A set of scikit-learn's own, its labels by name."""

    def written(path: Path) -> Path:
        found = getattr(datasets, f"load_{name}")(as_frame=True)
        table = found.frame
        if name not in {"diabetes", "digits"}:
            table["target"] = np.array(found.target_names)[table["target"]]
        table.to_csv(path, index=False, sep="\t" if name == "wine" else ",")
        return path

    return written


TABLES: dict[str, tuple[Callable[[Path], Path], str]] = {  # by file: what writes it, and its target
    "loans.csv": (loans, "outcome"),
    "visits.csv": (visits, "level"),
    "orders.parquet": (orders, "paid"),
    "iris.csv": (builtin("iris"), "target"),
    "wine.tsv": (builtin("wine"), "target"),
    "digits.csv.gz": (builtin("digits"), "target"),
    "diabetes.csv": (builtin("diabetes"), "target"),
    "breast_cancer.csv": (builtin("breast_cancer"), "target"),
}


if __name__ == "__main__":
    for file, (make, target) in TABLES.items():
        print(make(Path(sys.argv[1]) / file), target)  # noqa: T201 - for the person who looks
