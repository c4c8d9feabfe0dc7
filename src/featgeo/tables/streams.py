"""From raw columns to a table: pairs of categories to counts, chunk after chunk."""

from __future__ import annotations

from collections.abc import Hashable
from functools import reduce
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from featgeo.errors import FeatgeoError
from featgeo.tables.codes import INTEGERS, MISSING_LABEL, Codes, factor_pair, for_both, order_labels
from featgeo.tables.counts import Array, Labels
from featgeo.tables.passes import in_parts

Missing = Literal["drop", "category", "error"]
DENSE_CELLS = 2**24  # tables up to this size are counted in one dense array
FEW_CELLS = 2**19  # tables up to this size are counted block by block
MANY_ROWS = 2**17  # of integers, whose range is looked at first
BLOCK_ROWS = 2**18  # so that what is made of them stays in the cache


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
        ranges = _ranges(x, y) if weight is None else None
        if ranges is not None:  # count first, and add the different pairs with their counts
            x, y, weight = _count_ranges(np.asarray(x), np.asarray(y), *ranges)
        pairs = factor_pair(x, y)
        for side, values in enumerate((x, y)):
            self._own_order[side] &= isinstance(getattr(values, "dtype", None), pd.CategoricalDtype)
        codes, any_absent = [], False
        for (column, labels), places, argument in zip(pairs, self._places, ("x", "y"), strict=True):
            placed, absent = self._place(column, labels, places, argument)
            codes.append(placed)
            any_absent |= absent
        if any_absent:
            kept = (codes[0] >= 0) & (codes[1] >= 0)
            codes = [column[kept] for column in codes]
            weight = None if weight is None else weight[kept]
        self._count(codes[0], codes[1], weight)

    def _place(
        self, codes: Codes, labels: list[Hashable], places: dict[Hashable, int], argument: str
    ) -> tuple[Codes, bool]:
        """A chunk's codes as codes of all chunks, and whether some are -1."""
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
            codes = np.where(codes < 0, len(labels), codes.astype(np.int64))
            labels, absent = [*labels, MISSING_LABEL], False
        moved = np.fromiter(
            (places.setdefault(label, len(places)) for label in labels), np.int64, len(labels)
        )
        if np.array_equal(moved, np.arange(len(moved))):
            return codes, absent
        return np.append(moved, -1)[codes], absent  # code -1 stays -1

    def _count(self, rows: Codes, columns: Codes, weight: Array | None) -> None:
        shape = len(self._places[0]), len(self._places[1])
        if not self._keys and shape[0] * shape[1] <= DENSE_CELLS:
            counted = _count_cells(rows, columns, shape, (0, 0), weight)
            if self._dense is not None:
                counted[: self._dense.shape[0], : self._dense.shape[1]] += self._dense
            self._dense = counted
            return
        if self._dense is not None:
            places = np.nonzero(self._dense)
            self._keys, self._weights = [(places[0] << 32) | places[1]], [self._dense[places]]
            self._dense = None
        self._keys.append((rows.astype(np.int64) << 32) | columns)
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


def _ranges(x: Any, y: Any) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Least value and range of two columns of integers, where counting them block by block pays."""
    if not (len(x) == len(y) > MANY_ROWS):
        return None
    if not all(
        isinstance(values, np.ndarray | pd.Series) and values.ndim == 1 and values.dtype in INTEGERS
        for values in (x, y)
    ):
        return None
    found = for_both(_range, x, y)
    return found if found[0][1] * found[1][1] <= FEW_CELLS else None


def _range(values: Any, _: str) -> tuple[int, int]:
    low = int(values.min())
    return low, int(values.max()) - low + 1


def _count_ranges(
    x: NDArray[Any], y: NDArray[Any], rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[Codes, Codes, Array]:
    """Different pairs of integers of known ranges (least value, size), and their counts."""
    (top, height), (left, width) = rows, columns
    counts = _count_cells(x, y, (height, width), (top, left)).ravel()
    cells = np.flatnonzero(counts)
    return cells // width + top, cells % width + left, counts[cells]


def _count_cells(
    x: NDArray[Any],
    y: NDArray[Any],
    shape: tuple[int, int],
    least: tuple[int, int],
    weight: Array | None = None,
) -> Array:
    """Pairs of integers from these least values on, counted in a table of this shape, block by block in the cache."""
    cells, width = shape[0] * shape[1], np.int32(shape[1])
    top, left = (np.int64(value).astype(np.int32) for value in least)
    step = max(BLOCK_ROWS, cells)  # a block costs a pass over the table

    def job(rows: slice) -> Array:
        counts = np.zeros(cells)
        for start in range(rows.start, rows.stop, step):
            part = slice(start, min(start + step, rows.stop))
            keys = x[part].astype(np.int32)  # modulo 2^32, like all that follows; the result is less
            keys -= top
            keys *= width
            keys += y[part].astype(np.int32, copy=False)
            keys -= left
            some = None if weight is None else torch.from_numpy(weight[part])
            counts += torch.bincount(torch.from_numpy(keys), some, minlength=cells).numpy()
        return counts

    return reduce(np.add, in_parts(job, len(x), 2 * step)).reshape(shape)


def _as_array(labels: list[Hashable]) -> Labels:
    """Labels as an object array; tuples stay tuples."""
    array = np.empty(len(labels), dtype=object)
    array[:] = labels
    return array
