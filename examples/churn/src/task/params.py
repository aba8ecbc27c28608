"""The settings of your features: `featurize` in params.yaml. Add a field here and read it in features.py."""

import msgspec


class FeaturizeParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of features.py."""

    min_category_rows: int = 20  # rarer categories share one column with unknown ones
    derived: bool = True  # total_value and tickets_per_month; false shows what they bring
