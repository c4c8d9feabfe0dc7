"""From a raw column to codes and labels: integers by counting, shared objects by address, the rest by hashing.

Arrow's strings by Arrow: codes of four bytes without a detour over pandas. Codes keep the type that they come in.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from featgeo.errors import FeatgeoError
from featgeo.tables.words import look_up

MISSING_LABEL = "(missing)"
WIDEST = 2**24  # range of integers that are counted instead of hashed
HEAD = 2**16  # rows
FEW = 16  # rows of the head for each of its labels, at least, where labels are few
SAMPLED = 2**12  # addresses
INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)][:-1]
Codes = NDArray[np.signedinteger[Any]]
T = TypeVar("T")


def factor(values: Any, argument: str) -> tuple[Codes, list[Hashable]]:
    """Codes of a column, -1 where a value is missing, and the labels they stand for.

    Labels come in order of appearance; those of a pandas categorical come in its own order, unobserved ones included.

    Raises:
        FeatgeoError: when the column is not one-dimensional, or its values cannot be categories.
    """
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype):
        codes = values.cat.codes if isinstance(values, pd.Series) else values.codes
        return np.asarray(codes), list(dtype.categories)
    column: Any = (
        values
        if isinstance(values, pd.Series | pd.Index | pd.api.extensions.ExtensionArray)
        else _array(values)
    )
    if column.ndim != 1:
        raise FeatgeoError(argument, f"shape {column.shape}", "Pass one column: a one-dimensional sequence.")
    if isinstance(column, np.ndarray | pd.Series) and column.dtype in INTEGERS and len(column):
        low, high = int(column.min()), int(column.max())
        if high - low < min(len(column), WIDEST):
            return _factor_range(np.asarray(column).astype(np.int64, copy=False) - low, low)
    if isinstance(dtype, pd.StringDtype) and dtype.storage == "pyarrow":
        return _factor_arrow(column)
    try:
        if column.dtype == object and _shares_objects(column := np.asarray(column)):
            return _factor_objects(column)
        found: tuple[Any, Any] = pd.factorize(column)
    except TypeError as error:
        raise FeatgeoError(
            argument, f"values that cannot be categories ({error})", "Pass hashable values."
        ) from error
    return found[0].astype(np.int64, copy=False), pd.Index(found[1]).tolist()


def _factor_range(offsets: Codes, low: int) -> tuple[Codes, list[Hashable]]:
    """Codes of integers in a short range, by counting instead of hashing: three times as fast."""
    seen = np.bincount(offsets) > 0
    labels: list[Hashable] = [low + int(offset) for offset in np.flatnonzero(seen)]
    return (offsets if seen.all() else (np.cumsum(seen) - 1)[offsets]), labels


def _factor_arrow(column: Any) -> tuple[Codes, list[Hashable]]:
    """Codes of Arrow's strings; to look few labels up takes two thirds of the time of finding them on the way."""
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]  # is there: pandas keeps its strings in it
    from pyarrow import compute  # type: ignore[import-untyped, unused-ignore]

    values = pa.array(getattr(column, "array", column))
    labels = values[:HEAD].unique().drop_null()
    if FEW * len(labels) > HEAD:
        encoded = values.dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), encoded.dictionary.to_pylist()
    codes, absent = look_up(values, labels)
    if absent > values.null_count:
        unseen = values.filter(compute.and_(pa.array(codes < 0), values.is_valid())).unique()
        labels = pa.concat_arrays([labels, unseen])
        codes, _ = look_up(values, labels)
    return codes, labels.to_pylist()


def _addresses(column: NDArray[Any]) -> NDArray[np.intp]:
    """The references that an array of objects holds, as integers; a view."""

    class View:
        __array_interface__ = column.__array_interface__ | {"typestr": np.dtype(np.intp).str}

    return np.asarray(View())


def _shares_objects(column: NDArray[Any]) -> bool:
    """Whether many entries are one and the same object, as readers of files and lookups leave them."""
    sample = _addresses(column)[:: max(1, len(column) // SAMPLED)]
    return 2 * len(np.unique(sample)) < len(sample)


def _factor_objects(column: NDArray[Any]) -> tuple[Codes, list[Hashable]]:
    """Codes of objects that are often the same ones: by their addresses, and only the different ones by value."""
    codes, different = pd.factorize(_addresses(column))
    head = codes[:HEAD]
    if head.max() + 1 < len(different):
        head = codes
    # Codes are in order of appearance, so each is first seen where their running maximum rises.
    first = np.flatnonzero(np.diff(np.maximum.accumulate(head), prepend=-1))
    values, labels = pd.factorize(column[first])
    return (codes if np.array_equal(values, np.arange(len(values))) else values[codes]), pd.Index(
        labels
    ).tolist()


def _array(values: Any) -> NDArray[Any]:
    """Sequences as arrays; a list keeps its values as they are (numpy would turn [1, 'a'] into strings)."""
    if isinstance(values, np.ndarray):
        return values.astype(object) if values.dtype.kind in "US" else values
    if hasattr(values, "__array__"):
        return np.asarray(values)
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    return column


def factor_pair(x: Any, y: Any) -> tuple[tuple[Codes, list[Hashable]], tuple[Codes, list[Hashable]]]:
    """Both columns at once: Arrow-backed and numeric columns release the interpreter's lock.

    Raises:
        FeatgeoError: columns of different lengths.
    """
    if len(x) != len(y):
        raise FeatgeoError(
            "x, y", f"columns of lengths {len(x):,} and {len(y):,}", "Pass columns of one length."
        )
    return for_both(factor, x, y)


def for_both(job: Callable[[Any, str], T], x: Any, y: Any) -> tuple[T, T]:
    """A job on both columns and their names; long ones at once, in two threads."""
    if len(x) < HEAD:
        return job(x, "x"), job(y, "y")
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(job, y, "y")
        return job(x, "x"), second.result()


def order_labels(labels: list[Hashable]) -> list[int]:
    """Sorted by value; text that is all numbers, by those; what cannot be compared, by type and text; missing last."""
    places = [i for i, label in enumerate(labels) if label != MISSING_LABEL]
    absent = [i for i, label in enumerate(labels) if label == MISSING_LABEL]
    rules: tuple[Callable[[Any], Any], ...] = (
        float,
        lambda label: label,
        lambda label: (type(label).__name__, str(label)),
    )
    for rule in rules:
        try:
            return sorted(places, key=lambda i, rule=rule: rule(labels[i])) + absent  # type: ignore[misc]
        except (TypeError, ValueError):
            continue
    raise AssertionError("names of types and text can always be compared")
