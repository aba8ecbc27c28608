"""From records to what the estimator sees: two derived numbers, what is missing filled, one scale."""

from collections.abc import Mapping
from typing import Any

from task.params import FeaturizeParams

DERIVED = ("total_value", "tickets_per_month")
LARGEST = 1e30  # trees fail beyond 3.4e38, which is what the service takes: a product of two would


def build_features(columns: Mapping[str, str], params: FeaturizeParams) -> Any:
    """Return an unfitted transformer for the feature columns, given as {name: dtype of schema.yaml}.

    Medians, means and categories are learned from the training split. The service goes the same way, through the same functions.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    numbers = [name for name, dtype in columns.items() if dtype in {"integer", "number", "boolean"}]
    categories = [name for name, dtype in columns.items() if dtype == "category"]
    encoder = OneHotEncoder(
        handle_unknown="infrequent_if_exist", min_frequency=params.min_category_rows, sparse_output=False
    )
    scaled = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    parts = [("number", scaled, [*numbers, *(DERIVED if params.derived else ())]), ("category", encoder, categories)]
    return make_pipeline(
        FunctionTransformer(derive, feature_names_out=derived_names),
        ColumnTransformer(parts, verbose_feature_names_out=False),
    )


def derive(frame: Any) -> Any:
    """Return the pandas.DataFrame with what a customer has paid in all, and tickets per month. Each looks at its own row alone.

    What follows from a missing number is missing, and filled then. So is what follows from a negative tenure: -1 would divide by 0.
    """
    tenure = frame["tenure_months"].where(frame["tenure_months"] >= 0)
    total_value = tenure * frame["monthly_charges"]
    tickets_per_month = frame["num_support_tickets"] / (tenure + 1)
    return frame.assign(
        total_value=total_value.clip(-LARGEST, LARGEST), tickets_per_month=tickets_per_month.clip(-LARGEST, LARGEST)
    )


def derived_names(_: Any, names: Any) -> list[str]:
    """Return the columns of `derive`'s answer."""
    return [*names, *DERIVED]
