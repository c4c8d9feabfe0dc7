"""Contingency tables: reading, checking, margins, and what was left out.

A table N (m, n) of counts or probabilities gives P = N / ΣN with masses r = P1 and c = Pᵀ1. Empty rows and columns have
no profile; they take no part and come back as NaN. Excluded categories keep their part of the margins but lose their
row or column of B (subset correspondence analysis: Greenacre, Pardo, Sociol. Methods Res. 35(2), 2006).
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.tables.passes import THREADED_CELLS, tensor_of

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[Any]

DENSE_LIMIT = 2**32  # bytes; a larger dense result is taken for a mistake


@dataclass(frozen=True)
class Margin:
    """One side of a table.

    Attributes:
        labels: of all categories, empty and excluded ones included.
        live: which categories take part (all,).
        mass: share of the total of every category that takes part (live,); they add up to one without exclusions.
    """

    labels: Labels
    live: Mask
    mass: Array

    def __len__(self) -> int:
        return len(self.live)

    def restore(self, values: Array) -> Array:
        """Values (live, ...) in the place of their categories, NaN elsewhere: (all, ...)."""
        if self.live.all():
            return values
        full = np.full((len(self.live), *values.shape[1:]), np.nan)
        full[self.live] = values
        return full


@dataclass(frozen=True)
class Table:
    """A checked table.

    Attributes:
        counts: of the live categories (rows, columns): an array or a CSR array, float64.
        rows: the margin of the rows.
        columns: the margin of the columns.
        total: sum of the whole table.
        excluded: whether categories were excluded.
        warnings: what was left out, in words.
    """

    counts: Any
    rows: Margin
    columns: Margin
    total: float
    excluded: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Live rows and columns."""
        return self.counts.shape[0], self.counts.shape[1]

    @property
    def sparse(self) -> bool:
        """Whether the counts are stored sparsely."""
        return is_sparse(self.counts)

    @property
    def max_rank(self) -> int:
        """Number of modes that a table of this shape can have."""
        return min(self.shape) - (0 if self.excluded else 1)

    @property
    def degrees_of_freedom(self) -> int:
        """(m - 1)(n - 1)."""
        return (self.shape[0] - 1) * (self.shape[1] - 1)

    @property
    def holds_counts(self) -> bool:
        """Whether all entries are whole numbers."""
        values = self.counts.data if self.sparse else self.counts
        return bool(np.array_equal(values, np.rint(values)))

    def need_counts(self, what: str) -> None:
        """Refuse fractional tables and subsets where sampling theory is asked for.

        Raises:
            FeatgeoError: where the entries are not whole numbers, or categories were excluded.
        """
        if not self.holds_counts:
            values = self.counts.data if self.sparse else self.counts
            fraction = values[values != np.rint(values)].flat[0]
            raise FeatgeoError(
                "X", f"the fractional entry {fraction:.6g}", f"{what} needs counts of observations."
            )
        if self.excluded:
            raise FeatgeoError(
                "exclude_rows, exclude_columns", "excluded categories", f"{what} needs the whole table."
            )


def is_sparse(counts: Any) -> bool:
    """Whether these are counts in one of scipy's sparse forms."""
    return bool(sparse.issparse(counts))


def check_entries(counts: Any, argument: str = "X") -> None:
    """Refuse negative, NaN and infinite entries.

    Raises:
        FeatgeoError: naming the first negative entry.
    """
    values = counts.data if is_sparse(counts) else counts
    if not values.size:
        return
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise FeatgeoError(
            argument, "NaN or infinite entries", "Remove or replace them: counts are finite numbers."
        )
    if low < 0:
        if is_sparse(counts):
            coo = counts.tocoo()
            first = int(np.flatnonzero(coo.data < 0)[0])
            place = (int(coo.row[first]), int(coo.col[first]))
        else:
            place = tuple(int(i) for i in np.argwhere(counts < 0)[0])  # type: ignore[assignment]
        raise FeatgeoError(
            argument,
            f"a negative entry at {list(place)}",
            "Counts are at least 0 (Negative values in data are no counts).",
        )


def make_table(
    counts: Any,
    row_labels: Labels | None = None,
    column_labels: Labels | None = None,
    exclude_rows: Iterable[Hashable] = (),
    exclude_columns: Iterable[Hashable] = (),
) -> Table:
    """The table of a two-dimensional float64 array or sparse matrix of counts or probabilities.

    Args:
        counts: N (m, n).
        row_labels: one per row; 0, 1, ... by default.
        column_labels: one per column.
        exclude_rows: labels whose rows of B are left out, their counts kept in the margins.
        exclude_columns: the same for columns.

    Raises:
        FeatgeoError: bad entries, an empty table, or fewer than two categories on a side.
    """
    if is_sparse(counts):
        counts = sparse.csr_array(counts)
        if not counts.has_canonical_format:
            counts = counts.copy()
            counts.sum_duplicates()
        if counts.nnz and not counts.data.all():
            counts = counts.copy()
            counts.eliminate_zeros()
    with np.errstate(invalid="ignore", over="ignore"):  # entries that are no counts show in the sums
        *sums, least = _margins(counts)
        total = float(sums[0].sum())
    if least < 0 or not np.isfinite(total):
        check_entries(counts)
    if not np.isfinite(total) or total <= 0:
        found = "only zeros" if total == 0 else "entries whose sum overflows"
        raise FeatgeoError("X", found, "Pass a table with at least one positive entry.")
    labels = [_labels(row_labels, len(sums[0])), _labels(column_labels, len(sums[1]))]
    excluded = [
        _find(exclude_rows, labels[0], "exclude_rows"),
        _find(exclude_columns, labels[1], "exclude_columns"),
    ]
    texts, live = [], []
    for side, (sizes, names, out) in enumerate(zip(sums, labels, excluded, strict=True)):
        word = ("row", "column")[side]
        empty = sizes == 0
        if empty.any():
            some = ", ".join(str(name) for name in names[empty][:5]) + (", ..." if empty.sum() > 5 else "")
            texts.append(
                f"{empty.sum():,} empty {word}s take no part in any mode and come back as NaN: {some}."
            )
        kept = ~empty & ~out
        if kept.sum() < 2:
            raise FeatgeoError(
                "X",
                f"n_{'samples' if side == 0 else 'features'} = {kept.sum()}: {kept.sum()} {word}s that are not empty",
                f"Dependence needs at least two {word} categories.",
            )
        live.append(kept)
    rows, columns = (
        Margin(names, kept, sizes[kept] / total)
        for names, kept, sizes in zip(labels, live, sums, strict=True)
    )
    if not live[0].all():
        counts = counts[live[0]]
    if not live[1].all():
        counts = counts[:, live[1]]
    if is_sparse(counts) and np.prod(counts.shape, dtype=np.float64) <= max(4 * counts.nnz, 10**6):
        counts = counts.toarray()  # no larger than the sparse form, or small anyway
    if not (is_sparse(counts) or counts.flags.c_contiguous or counts.flags.f_contiguous):
        counts = np.ascontiguousarray(counts)
    for text in texts:
        warnings.warn(text, FeatgeoWarning, stacklevel=4)
    return Table(counts, rows, columns, total, bool(excluded[0].any() or excluded[1].any()), tuple(texts))


def _margins(counts: Any) -> tuple[Array, Array, float]:
    """Sums of rows (m,) and columns (n,), and the least entry; NaN and infinite entries show in the sums."""
    if is_sparse(counts):
        rows, columns = (np.asarray(counts.sum(axis=axis), dtype=np.float64).ravel() for axis in (1, 0))
        return rows, columns, counts.data.min(initial=0.0)
    if counts.size < THREADED_CELLS:
        return counts.sum(axis=1), counts.sum(axis=0), counts.min()
    if not counts.flags.c_contiguous and counts.flags.f_contiguous:
        columns, rows, least = _margins(counts.T)
        return rows, columns, least

    table = tensor_of(counts)
    by_row, by_column = (side.mv(table.new_ones(side.shape[1])) for side in (table, table.T))
    return by_row.numpy(), by_column.numpy(), float(table.min())


def with_counts(table: Table, counts: Any) -> Table:
    """The same categories with other counts (a resample), its margins taken anew; empty ones get mass zero."""
    if is_sparse(counts) and not counts.data.all():
        counts = counts.copy()  # the indices may be those of the table
        counts.eliminate_zeros()
    total = float(counts.sum())
    rows = replace(table.rows, mass=np.asarray(counts.sum(axis=1)).ravel() / total)
    columns = replace(table.columns, mass=np.asarray(counts.sum(axis=0)).ravel() / total)
    return replace(table, counts=counts, rows=rows, columns=columns, total=total)


def _labels(labels: Labels | None, size: int) -> Labels:
    return np.arange(size) if labels is None else np.asarray(labels)


def _find(names: Iterable[Hashable], labels: Labels, argument: str) -> Mask:
    """Which labels are named; unknown names are refused."""
    names = list(names)
    mask = np.zeros(len(labels), dtype=bool)
    if not names:
        return mask
    places = {label: i for i, label in enumerate(labels.tolist())}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise FeatgeoError(
            argument, f"{unknown[:5]}, which the table does not have", "Name categories of the table."
        )
    mask[[places[name] for name in names]] = True
    return mask
