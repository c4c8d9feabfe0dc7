"""The canonical dependence matrix B = (P_XY - P_X P_Y) / √(P_X P_Y) of a table, as numbers and as an operator.

Huang, Xu, Zheng, Wornell, Entropy 24(1):135, 2022, section 2. Written B = P̃ - √r √cᵀ with P̃ = D_r^{-1/2} P D_c^{-1/2},
a sparse table needs one scaled copy of its nonzeros and a rank-one correction; B itself is never formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.linalg.blas import dger
from scipy.sparse.linalg import LinearOperator
from threadpoolctl import ThreadpoolController

from featgeo.tables.counts import Array, Table, is_sparse

# Of float64, just under a megabyte: a block stays in the cache between its passes, and its products with eight vectors
# stay under the million multiplications up to which OpenBLAS spares itself the packing, which doubles their speed.
BLOCK_CELLS = 120_000
THREADED_CELLS = 2**20  # matrices from this size on are worth more than one thread


@dataclass(frozen=True)
class Dependence:
    """B of a table.

    Attributes:
        matrix: B itself (dense tables) or P̃ in CSR form (sparse ones).
        root_rows: √r (rows,).
        root_columns: √c (columns,).
        inertia: ‖B‖² = χ²/N.
    """

    matrix: Any
    root_rows: Array
    root_columns: Array
    inertia: float

    @property
    def sparse(self) -> bool:
        """Whether `matrix` lacks the rank-one part."""
        return is_sparse(self.matrix)

    @property
    def shape(self) -> tuple[int, int]:
        """Of B."""
        return len(self.root_rows), len(self.root_columns)

    @property
    def T(self) -> Dependence:
        """Bᵀ."""
        matrix = self.matrix.T.tocsr() if self.sparse else self.matrix.T
        return Dependence(matrix, self.root_columns, self.root_rows, self.inertia)

    @cached_property
    def side_inertias(self) -> tuple[Array, Array]:
        """Row sums (rows,) and column sums (columns,) of B²."""
        if self.sparse:
            return _sparse_sums(self.matrix, self.root_rows, self.root_columns)
        rows, columns, start = np.empty(self.shape[0]), np.zeros(self.shape[1]), 0
        for block in _blocks(self.matrix):
            squares = block**2
            rows[start : start + len(block)] = squares.sum(axis=1)
            columns += squares.sum(axis=0)
            start += len(block)
        return rows, columns

    def times(self, v: Array) -> Array:
        """B v for v (columns,) or (columns, k)."""
        if not self.sparse:

            def image(rows: slice) -> Array:
                return np.concatenate([block @ v for block in _blocks(self.matrix[rows])])

            return np.concatenate(_in_parts(image, self.matrix))
        product: Array = self.matrix @ v
        product -= _outer(self.root_rows, self.root_columns @ v)
        return product

    def times_transposed(self, u: Array) -> Array:
        """Bᵀ u for u (rows,) or (rows, k)."""
        product: Array = self.matrix.T @ u
        if self.sparse:
            product -= _outer(self.root_columns, self.root_rows @ u)
        return product

    def gram_times(self, v: Array) -> Array:
        """BᵀB v. A dense B is read once, block by block, not twice; of a sparse one all but P̃ is on this side."""
        if self.sparse:
            product: Array = self.matrix.T @ (self.matrix @ v)
            a, c = self.image, self.root_columns
            along = c @ v
            product -= _outer(c, a @ v - (self.root_rows @ self.root_rows) * along) + _outer(a, along)
            return product

        def part(rows: slice) -> Array:
            out = np.zeros_like(v)
            for block in _blocks(self.matrix[rows]):
                out += block.T @ (block @ v)
            return out

        return np.asarray(sum(_in_parts(part, self.matrix)))

    @cached_property
    def image(self) -> Array:
        """P̃ᵀ√r of a sparse table (columns,): √c unless categories are excluded."""
        return np.asarray(self.matrix.T @ self.root_rows, dtype=np.float64)

    def operator(self) -> LinearOperator:
        """B as a scipy LinearOperator."""
        return LinearOperator(
            self.shape,
            matvec=lambda v: self.times(v.ravel()),
            rmatvec=lambda u: self.times_transposed(u.ravel()),
            matmat=self.times,
            rmatmat=self.times_transposed,
            dtype=np.float64,
        )

    def gram(self) -> LinearOperator:
        """BᵀB as a scipy LinearOperator."""
        size = self.shape[1]
        return LinearOperator(
            (size, size),
            matvec=lambda v: self.gram_times(v.ravel()),
            matmat=self.gram_times,
            dtype=np.float64,
        )


def dependence(table: Table) -> Dependence:
    """B of a table, in the table's own storage."""
    root_rows, root_columns = np.sqrt(table.rows.mass), np.sqrt(table.columns.mass)
    with np.errstate(divide="ignore"):  # resampled tables have categories without mass; their B is zero
        left = np.where(root_rows > 0, 1 / root_rows, 0.0) / table.total
        right = np.where(root_columns > 0, 1 / root_columns, 0.0)
    make = _sparse if table.sparse else _dense
    return make(table.counts, left, right, root_rows, root_columns)


def _dense(counts: Any, left: Array, right: Array, root_rows: Array, root_columns: Array) -> Dependence:
    if not counts.flags.c_contiguous and counts.flags.f_contiguous:  # as pandas stores tables
        return _dense(counts.T, right, left, root_columns, root_rows).T
    matrix = np.empty(counts.shape)

    def fill(rows: slice) -> float:
        inertia, start = 0.0, rows.start
        for block in _blocks(matrix[rows]):
            part = slice(start, start + len(block))
            np.multiply(counts[part], right, out=block)
            block *= left[part, None]
            dger(-1.0, root_columns, root_rows[part], a=block.T, overwrite_a=1)  # block -= √r √cᵀ, in place
            inertia += float(np.vdot(block, block))
            start += len(block)
        return inertia

    return Dependence(matrix, root_rows, root_columns, sum(_in_parts(fill, matrix)))


def _sparse(counts: Any, left: Array, right: Array, root_rows: Array, root_columns: Array) -> Dependence:
    data = counts.data * np.repeat(left, np.diff(counts.indptr))
    data *= right[counts.indices]
    matrix = sparse.csr_array((data, counts.indices, counts.indptr), shape=counts.shape)
    expected = _expected(matrix, root_rows, root_columns)
    everything = float((root_rows @ root_rows) * (root_columns @ root_columns))
    uncovered = max(0.0, everything - float(np.vdot(expected, expected)))
    data = data - expected
    return Dependence(matrix, root_rows, root_columns, float(np.vdot(data, data)) + uncovered)


def _expected(matrix: Any, root_rows: Array, root_columns: Array) -> Array:
    """√(r c) at the stored cells of a CSR matrix."""
    expected: Array = np.repeat(root_rows, np.diff(matrix.indptr))
    expected *= root_columns[matrix.indices]
    return expected


def _sparse_sums(matrix: Any, root_rows: Array, root_columns: Array) -> tuple[Array, Array]:
    """Row and column sums of (P̃ - √(r c))².

    A cell without counts adds r_i c_j to its row and its column: what is not covered by the stored cells. Sums of
    squares over these lose no digits when the table is nearly independent, unlike χ²/N = ΣP̃² - 1.
    """

    def sums(values: Array) -> tuple[Array, Array]:
        cells = sparse.csr_array((values, matrix.indices, matrix.indptr), shape=matrix.shape)
        return cells @ np.ones(matrix.shape[1]), cells.T @ np.ones(matrix.shape[0])

    expected = _expected(matrix, root_rows, root_columns)
    row_inertia, column_inertia = sums((matrix.data - expected) ** 2)
    covered_rows, covered_columns = sums(np.square(expected, out=expected))
    masses = root_rows**2, root_columns**2
    row_inertia += np.maximum(0, masses[0] * masses[1].sum() - covered_rows)
    column_inertia += np.maximum(0, masses[1] * masses[0].sum() - covered_columns)
    return row_inertia, column_inertia


def mutual_information(table: Table) -> float:
    """I(X; Y) = Σ p log(p / (r c)) in nats, exact, over the cells of the live categories."""
    log_columns = np.log(table.columns.mass)
    log_rows = np.log(table.rows.mass)
    logs = 0.0
    if table.sparse:
        data = table.counts.data
        logs = float(data @ np.log(data))
        by_row = np.asarray(table.counts.sum(axis=1)).ravel()
        by_column = np.asarray(table.counts.sum(axis=0)).ravel()
    else:
        for block in _blocks(table.counts):
            logs += float(np.vdot(block, np.log(np.maximum(block, 1e-300))))
        by_row, by_column = table.counts.sum(axis=1), table.counts.sum(axis=0)
    covered = float(by_row.sum())
    return (
        float(logs - covered * np.log(table.total) - by_row @ log_rows - by_column @ log_columns)
        / table.total
    )


def _blocks(matrix: Any) -> Iterator[Any]:
    """Consecutive rows of a matrix, views of about BLOCK_CELLS entries."""
    height = max(1, BLOCK_CELLS // max(1, matrix.shape[1]))
    for start in range(0, matrix.shape[0], height):
        yield matrix[start : start + height]


def _in_parts(job: Callable[[slice], Any], matrix: Any) -> list[Any]:
    """What a job that works block by block gives for parts of a matrix's rows, one for each of torch's threads."""
    count = torch.get_num_threads() if matrix.size >= THREADED_CELLS else 1
    ends = np.linspace(0, matrix.shape[0], count + 1).astype(int).tolist()
    parts = [slice(start, end) for start, end in pairwise(ends) if end > start]
    with one_blas_thread():
        if len(parts) == 1:
            return [job(parts[0])]
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(job, parts))


def one_blas_thread() -> AbstractContextManager[Any]:
    """Small products are not split: BLAS's threads would wait for each other longer than they work."""
    blas = _blas()
    several = any(library.num_threads > 1 for library in blas.lib_controllers)
    limit: AbstractContextManager[Any] = blas.limit(limits=1) if several else nullcontext()
    return limit


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process; to find them takes a millisecond."""
    return ThreadpoolController().select(user_api="blas")


def _outer(column: Array, row: Any) -> Array:
    product: Array = column * row if np.ndim(row) == 0 else np.outer(column, row)
    return product
