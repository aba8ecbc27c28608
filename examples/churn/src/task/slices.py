"""Groups of records of your own, beside the columns in `evaluate.slices`."""

from collections.abc import Callable, Mapping
from typing import Any

# name -> function(records: pandas.DataFrame of prepared rows) -> boolean mask, shape (n,)
SLICES: Mapping[str, Callable[[Any], Any]] = {"new_customers": lambda records: records["tenure_months"] < 12}
