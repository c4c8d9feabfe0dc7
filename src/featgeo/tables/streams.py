"""From raw columns to a table: categories to codes, pairs to counts, chunk after chunk."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from featgeo.errors import FeatgeoError
from featgeo.tables.counts import Array, Labels

Missing = Literal["drop", "category", "error"]
MISSING_LABEL = "(missing)"
DENSE_CELLS = 2**24  # tables up to this size are counted in one dense array
BLOCK_ROWS = 2**16  # of short-ranged integers, so that what is made of them stays in the cache
FEW = 2**12
INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)][:-1]
Codes = NDArray[np.int64]


def factor(values: Any, argument: str) -> tuple[Codes, list[Hashable]]:
    """Codes of a column, -1 where a value is missing, and the labels they stand for.

    Labels come in order of appearance; those of a pandas categorical come in its own order, unobserved ones included.

    Raises:
        FeatgeoError: when the column is not one-dimensional, or its values cannot be categories.
    """
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype):
        codes = values.cat.codes if isinstance(values, pd.Series) else values.codes
        return np.asarray(codes, dtype=np.int64), list(dtype.categories)
    column: Any = (
        values
        if isinstance(values, pd.Series | pd.Index | pd.api.extensions.ExtensionArray)
        else _array(values)
    )
    if column.ndim != 1:
        raise FeatgeoError(argument, f"shape {column.shape}", "Pass one column: a one-dimensional sequence.")
    if isinstance(column, np.ndarray | pd.Series) and column.dtype in INTEGERS and len(column):
        low, high = int(column.min()), int(column.max())
        if high - low < min(len(column), DENSE_CELLS):
            return _factor_range(np.asarray(column).astype(np.int64, copy=False) - low, low)
    try:
        found: tuple[Any, Any] = pd.factorize(column)
    except TypeError as error:
        raise FeatgeoError(
            argument, f"values that cannot be categories ({error})", "Pass hashable values."
        ) from error
    return found[0].astype(np.int64, copy=False), pd.Index(found[1]).tolist()


def _few_integers(values: Any) -> bool:
    """Whether a column holds integers of a range so short that counting them block by block pays."""
    plain = isinstance(values, np.ndarray | pd.Series) and values.ndim == 1 and values.dtype in INTEGERS
    return plain and len(values) > 0 and int(values.max()) - int(values.min()) < FEW


def _factor_range(offsets: Codes, low: int) -> tuple[Codes, list[Hashable]]:
    """Codes of integers in a short range, by counting instead of hashing: three times as fast."""
    seen = np.bincount(offsets) > 0
    labels: list[Hashable] = [low + int(offset) for offset in np.flatnonzero(seen)]
    return (offsets if seen.all() else (np.cumsum(seen) - 1)[offsets]), labels


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
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(factor, x, "x"), pool.submit(factor, y, "y")
        return first.result(), second.result()


class PairCounts:
    """Counts of pairs (x, y) over any number of chunks; memory grows with the distinct pairs, not with the rows.

    Args:
        missing: ``drop`` pairs with a missing value, make missing values a ``category``, or take them as an ``error``.
    """

    def __init__(self, missing: Missing = "drop") -> None:
        if missing not in ("drop", "category", "error"):
            raise FeatgeoError("missing", f"{missing!r}", "Choose drop, category or error.")
        self.missing = missing
        self._own_order = [True, True]
        self._places: tuple[dict[Hashable, int], dict[Hashable, int]] = ({}, {})
        self._keys: list[Codes] = []
        self._weights: list[Array] = []
        self._dense: Array | None = None

    def add(self, x: Any, y: Any, sample_weight: Any = None) -> None:
        """Count a chunk.

        Raises:
            FeatgeoError: columns or weights of different lengths, negative weights, missing values that are an error.
        """
        weight = None if sample_weight is None else _weights(sample_weight, len(x))
        if len(x) == len(y) > 2 * BLOCK_ROWS and _few_integers(x) and _few_integers(y):
            x, y = np.asarray(x), np.asarray(y)
            for start in range(0, len(x), BLOCK_ROWS):
                part = slice(start, start + BLOCK_ROWS)
                self._add(x[part], y[part], None if weight is None else weight[part])
        else:
            self._add(x, y, weight)

    def _add(self, x: Any, y: Any, weight: Array | None) -> None:
        pairs = factor_pair(x, y)
        for side, values in enumerate((x, y)):
            self._own_order[side] &= isinstance(getattr(values, "dtype", None), pd.CategoricalDtype)
        codes = []
        for (column, labels), places, argument in zip(pairs, self._places, ("x", "y"), strict=True):
            codes.append(self._place(column, labels, places, argument))
        if any(len(column) and column.min() < 0 for column in codes):
            kept = (codes[0] >= 0) & (codes[1] >= 0)
            codes = [column[kept] for column in codes]
            weight = None if weight is None else weight[kept]
        self._count(codes[0], codes[1], weight)

    def _place(
        self, codes: Codes, labels: list[Hashable], places: dict[Hashable, int], argument: str
    ) -> Codes:
        """A chunk's codes as codes of all chunks."""
        absent = bool(len(codes)) and codes.min() < 0
        if absent and self.missing == "error":
            raise FeatgeoError(
                argument, f"{int((codes < 0).sum()):,} missing values", "Pass missing='drop' or 'category'."
            )
        if absent and self.missing == "category":
            if MISSING_LABEL in labels:
                raise FeatgeoError(
                    argument, f"missing values and the category {MISSING_LABEL!r}", "Rename the category."
                )
            codes = np.where(codes < 0, len(labels), codes)
            labels = [*labels, MISSING_LABEL]
        moved = np.fromiter(
            (places.setdefault(label, len(places)) for label in labels), np.int64, len(labels)
        )
        if np.array_equal(moved, np.arange(len(moved))):
            return codes
        return np.append(moved, -1)[codes]  # code -1 stays -1

    def _count(self, rows: Codes, columns: Codes, weight: Array | None) -> None:
        shape = len(self._places[0]), len(self._places[1])
        if not self._keys and shape[0] * shape[1] <= DENSE_CELLS:
            keys = rows * shape[1]
            keys += columns
            counted: Array = np.asarray(
                np.bincount(keys, weight, shape[0] * shape[1]), dtype=np.float64
            ).reshape(shape)
            if self._dense is not None:
                counted[: self._dense.shape[0], : self._dense.shape[1]] += self._dense
            self._dense = counted
            return
        if self._dense is not None:
            places = np.nonzero(self._dense)
            self._keys, self._weights = [(places[0] << 32) | places[1]], [self._dense[places]]
            self._dense = None
        self._keys.append((rows << 32) | columns)
        self._weights.append(np.ones(len(rows)) if weight is None else weight)
        if sum(map(len, self._keys[1:])) > max(2**22, len(self._keys[0])):
            self._merge_keys()

    def _merge_keys(self) -> None:
        keys, inverse = np.unique(np.concatenate(self._keys), return_inverse=True)
        self._weights = [
            np.asarray(np.bincount(inverse, np.concatenate(self._weights), len(keys)), dtype=np.float64)
        ]
        self._keys = [keys]

    @property
    def shape(self) -> tuple[int, int]:
        """Distinct categories so far."""
        return len(self._places[0]), len(self._places[1])

    def table(self) -> tuple[Any, Labels, Labels]:
        """Counts (an array, or CSR where the table is large) and the labels of rows and columns.

        Labels are sorted; those of categoricals keep their own order.

        Raises:
            FeatgeoError: when nothing was counted.
        """
        shape = len(self._places[0]), len(self._places[1])
        if not all(shape) or (self._dense is None and not self._keys):
            raise FeatgeoError("x, y", "no pair without missing values", "Pass columns with values.")
        labels = [list(places) for places in self._places]
        orders = [
            list(range(len(names))) if own else order_labels(names)
            for names, own in zip(labels, self._own_order, strict=True)
        ]
        sorted_labels = [
            _as_array([names[i] for i in order]) for names, order in zip(labels, orders, strict=True)
        ]
        if self._dense is not None:
            full = np.zeros(shape)
            full[: self._dense.shape[0], : self._dense.shape[1]] = self._dense
            counts: Any = full[np.ix_(orders[0], orders[1])]
        else:
            self._merge_keys()
            ranks = [np.argsort(order) for order in orders]
            rows, columns = ranks[0][self._keys[0] >> 32], ranks[1][self._keys[0] & 0xFFFFFFFF]
            counts = sparse.coo_array((self._weights[0], (rows, columns)), shape=shape).tocsr()
        return counts, sorted_labels[0], sorted_labels[1]


def _weights(sample_weight: Any, size: int) -> Array:
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (size,):
        raise FeatgeoError("sample_weight", f"shape {weight.shape}", f"Pass one weight per pair: ({size},).")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise FeatgeoError(
            "sample_weight", "negative, NaN or infinite weights", "Weights are finite and at least 0."
        )
    return weight


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


def _as_array(labels: list[Hashable]) -> Labels:
    """Labels as an object array; tuples stay tuples."""
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array
