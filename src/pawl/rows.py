"""Hashes of rows by their content: the same on every machine, whatever the order of rows or columns."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
NULL = np.uint64(0x6E756C6C)


def mix(values: Hashes) -> Hashes:
    """Return splitmix64's finalizer of each value (Steele, Lea, Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def digest64(text: str) -> np.uint64:
    """Return 64 bits of a text's BLAKE2b."""
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def hash_column(column: Any) -> Hashes:
    """Return one hash per value of a pyarrow array; 40 and 40.0 are the same, null is a value of its own."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type) and column.type.value_type not in {pa.string(), pa.large_string()}:
        column = column.dictionary_decode()
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        integers = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False).view(np.uint64)
        hashes = mix(integers + np.uint64(1))
    elif pa.types.is_floating(column.type):
        values = column.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        whole = np.isfinite(values) & (np.abs(values) < 2.0**63) & (np.trunc(values) == values)
        integers = np.where(whole, values, 0.0).astype(np.int64).view(np.uint64) + np.uint64(1)
        hashes = mix(np.where(whole, integers, values.view(np.uint64)))
    else:
        if not pa.types.is_dictionary(column.type):
            column = column.cast(pa.string()).dictionary_encode()
        uniques = np.array([digest64(str(value)) for value in column.dictionary.to_pylist()] or [NULL], dtype=np.uint64)
        hashes = uniques[column.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    return np.where(missing, NULL, hashes)


def hash_rows(table: Any, columns: Iterable[str]) -> Hashes:
    """Return one hash per row of a pyarrow table or batch, over the named columns in any order."""
    total = np.zeros(table.num_rows, dtype=np.uint64)
    for name in columns:
        total += mix(hash_column(table.column(name)) ^ digest64(name))
    return mix(total)


def unit(hashes: Hashes, seed: int) -> npt.NDArray[np.float64]:
    """Return a number in [0, 1) per hash, another one for another seed."""
    return (mix(hashes ^ digest64(f"split {seed}")) >> np.uint64(11)).astype(np.float64) * 2.0**-53
