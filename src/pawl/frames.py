"""The one way from records to the frame that a pipeline takes, in training and in serving alike.

Numbers are float64 and missing ones NaN; categories are str and missing ones NaN, never None:
scikit-learn's encoders take None for an unknown category where they learned NaN as a missing one.
"""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def from_table(table: Any, dtypes: Mapping[str, str]) -> Any:
    """Return a pandas.DataFrame of the columns {name: dtype} of a pyarrow table or batch."""
    import numpy as np
    import pandas as pd

    def column(name: str, dtype: str) -> Any:
        values = table.column(name)
        if dtype in {"integer", "number", "boolean"}:
            return values.cast("double", safe=False).to_pandas()
        if dtype == "datetime":
            return values.to_pandas()
        return values.to_pandas().astype(object).where(~np.asarray(values.is_null()), np.nan)

    return pd.DataFrame({name: column(name, dtype) for name, dtype in dtypes.items()})


def from_records(records: Sequence[Mapping[str, Any]], dtypes: Mapping[str, str]) -> Any:
    """Return the same frame from records; an absent key is a missing value."""
    import numpy as np
    import pandas as pd

    def column(name: str, dtype: str) -> Any:
        values = [record.get(name) for record in records]
        if dtype in {"integer", "number", "boolean"}:
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        if dtype == "datetime":
            times = pd.to_datetime(pd.Series(values, dtype=object), format="ISO8601", utc=True)
            return times.dt.tz_localize(None).astype("datetime64[us]")
        return np.array([_text(value) for value in values], dtype=object)

    return pd.DataFrame({name: column(name, dtype) for name, dtype in dtypes.items()})


def _text(value: Any) -> Any:
    """Return a category as a table's cast writes it: true, not True; 2, not 2.0; NaN where it is missing."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # noqa: PLR0124 - NaN alone differs from itself
        return math.nan
    import pyarrow as pa  # not in the serving image, where a category is a text or missing

    return pa.scalar(value).cast(pa.string()).as_py()


def write_matrix(features: Any, path: Path) -> None:
    """Store a matrix, shape (n, features), as path.npz where it is sparse, as path.npy where it is not."""
    import numpy as np
    import scipy.sparse as sp

    if sp.issparse(features):
        matrix = sp.csr_matrix(features)
        arrays = {"indices": matrix.indices, "indptr": matrix.indptr, "format": np.array(b"csr")}
        arrays |= {"shape": np.array(matrix.shape), "data": matrix.data}
        # scipy's own writes headers that differ from one Python to the next.
        with zipfile.ZipFile(path.with_suffix(".npz"), "w") as file:
            for name, each in arrays.items():
                member = zipfile.ZipInfo(f"{name}.npy")
                member.file_size = each.nbytes + 1000  # so that a large one gets the header of a large one
                with file.open(member, "w") as stream:
                    np.lib.format.write_array(stream, each, allow_pickle=False)
    else:
        np.save(path.with_suffix(".npy"), np.ascontiguousarray(features, dtype=np.float64))


def read_matrix(path: Path) -> Any:
    """Return what `write_matrix` stored."""
    import numpy as np
    import scipy.sparse as sp

    sparse = path.with_suffix(".npz")
    return sp.load_npz(sparse) if sparse.exists() else np.load(path.with_suffix(".npy"), mmap_mode="r")
