"""The canonical dependence matrix B = (P_XY - P_X P_Y) / √(P_X P_Y) of a table, as numbers and as an operator.

Huang, Xu, Zheng, Wornell, Entropy 24(1):135, 2022, section 2. Written B = P̃ - √r √cᵀ with P̃ = D_r^{-1/2} P D_c^{-1/2},
its products with a few vectors are those of the counts, with the vectors scaled before and after and a rank-one
correction; B itself is only formed where all of its modes are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from featgeo.tables.counts import Array, Table, is_sparse
from featgeo.tables.passes import row_blocks, tensor_of


@dataclass(frozen=True)
class Dependence:
    """B of a table.

    Attributes:
        counts: N (rows, columns), an array or CSR.
        root_rows: √r (rows,).
        root_columns: √c (columns,).
        total: of the whole table, excluded categories included.
        whole: whether none are excluded, so that P̃ᵀ√r = √c and P̃√c = √r.
    """

    counts: Any
    root_rows: Array
    root_columns: Array
    total: float
    whole: bool

    @property
    def sparse(self) -> bool:
        """Whether the counts are stored sparsely."""
        return is_sparse(self.counts)

    @property
    def shape(self) -> tuple[int, int]:
        """Of B."""
        return len(self.root_rows), len(self.root_columns)

    @cached_property
    def T(self) -> Dependence:
        """Bᵀ."""
        counts = self.counts.T.tocsr() if self.sparse else self.counts.T
        return Dependence(counts, self.root_columns, self.root_rows, self.total, self.whole)

    @cached_property
    def scales(self) -> tuple[Array, Array]:
        """Diagonals of D_r^{-1/2} / total and D_c^{-1/2}; 0 for a resampled category without counts."""
        with np.errstate(divide="ignore"):
            left, right = (np.where(root > 0, 1 / root, 0.0) for root in (self.root_rows, self.root_columns))
        return left / self.total, right

    @cached_property
    def matrix(self) -> Any:
        """B (dense tables) or P̃ in CSR form (sparse ones)."""
        if self.sparse:
            left, right = self.scales
            data = self.counts.data * np.repeat(left, np.diff(self.counts.indptr))
            data *= right[self.counts.indices]
            return sparse.csr_array((data, self.counts.indices, self.counts.indptr), shape=self.shape)
        matrix = torch.empty(self.shape, dtype=torch.float64)
        for part, block in self._blocks():
            torch.mul(tensor_of(self.scales[0][part])[:, None], block, out=matrix[part])
        return matrix.numpy()

    @cached_property
    def side_inertias(self) -> tuple[Array, Array]:
        """Row sums (rows,) and column sums (columns,) of B²."""
        if self.sparse:
            return _sparse_sums(self.matrix, self.root_rows, self.root_columns)
        if self._turned:
            return self.T.side_inertias[::-1]
        weights = torch.from_numpy(self.scales[0] ** 2)
        rows, columns = torch.empty_like(weights), torch.zeros(self.shape[1], dtype=torch.float64)
        for part, block in self._blocks():
            block.square_()
            rows[part] = weights[part] * block.sum(dim=1)
            columns += weights[part] @ block
        return rows.numpy(), columns.numpy()

    @cached_property
    def inertia(self) -> float:
        """‖B‖² = χ²/N, summed over B: χ²/N = ΣP̃² - 1 would lose the digits of a weak dependence."""
        if self.sparse:
            return _sparse_inertia(self.matrix, self.root_rows, self.root_columns)
        if self._turned:
            return self.T.inertia
        norms = [torch.linalg.vector_norm(block, dim=1) for _, block in self._blocks()]
        rows = self.scales[0] * torch.cat(norms).numpy()
        return float(rows @ rows)

    @property
    def _turned(self) -> bool:
        """Whether the columns are contiguous, as pandas stores tables."""
        return not self.sparse and not self.counts.flags.c_contiguous

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows of a dense B before the scale on the left, block by block, each in the place of the one before."""
        counts, right = tensor_of(self.counts), torch.from_numpy(self.scales[1])
        sizes = torch.from_numpy(self.total * self.root_rows**2)
        root_columns = torch.from_numpy(self.root_columns)
        place: Tensor | None = None
        for part in row_blocks(self.shape):
            place = torch.empty_like(counts[part]) if place is None else place
            block = torch.mul(counts[part], right, out=place[: part.stop - part.start])
            yield part, block.addr_(sizes[part], root_columns, alpha=-1)

    def times(self, v: Array) -> Array:
        """B v for v (columns,) or (columns, k)."""
        if self.sparse:
            product: Array = self.matrix @ v
        else:
            left, right = self.scales
            image = tensor_of(self.counts) @ torch.from_numpy(_scale(right, v))
            product = _scale(left, image.numpy())
        return _less_outer(product, self.root_rows, self.root_columns @ v)

    def gram_times(self, v: Array) -> Array:
        """BᵀB v = P̃ᵀP̃v - √c (aᵀv - |√r|² √cᵀv) - a √cᵀv with a = P̃ᵀ√r; dense counts are read once, not twice."""
        if self.sparse:
            product: Array = self.matrix.T @ (self.matrix @ v)
        else:
            right = self.scales[1]
            product = _scale(right, self._counts_gram(right * v.T).T)
        along = self.root_columns @ v
        if self.whole:
            return _less_outer(product, self.root_columns, along)
        product = _less_outer(product, self.root_columns, self.image @ v - self.covered * along)
        return _less_outer(product, self.image, along)

    def _counts_gram(self, v: Array) -> Array:
        """v Nᵀ D N for v (columns,) or (k, columns), D the squares of the scale on the left; the table is read once."""
        rows = torch.from_numpy(np.atleast_2d(v))
        parts = self._stacks[0][0].shape[0]
        spread = rows.T.expand(parts, *rows.T.shape)
        product = rows.new_zeros(parts, *rows.shape)
        for blocks, squares in self._stacks:
            part = slice(blocks.shape[0])
            image = torch.bmm(blocks, spread[part]).mul_(squares)
            product[part].baddbmm_(image.mT, blocks)
        return product.sum(dim=0).numpy().reshape(v.shape)

    @cached_property
    def _stacks(self) -> list[tuple[Tensor, Tensor]]:
        """Blocks of rows (threads, height, columns) and the squares of their scales on the left (threads, height, 1).

        Each of torch's threads has a block of its own; they would otherwise share every small product.
        """
        counts, squares = tensor_of(self.counts), torch.from_numpy(self.scales[0] ** 2)
        parts = min(torch.get_num_threads(), len(counts))
        height = len(counts) // parts
        even = slice(parts * height)
        tables, scales = counts[even].view(parts, height, -1), squares[even].view(parts, height, 1)
        stacks = [(tables[:, part], scales[:, part]) for part in row_blocks((height, counts.shape[1]))]
        rest = slice(parts * height, len(counts))
        return stacks + ([(counts[None, rest], squares[None, rest, None])] if rest.start < rest.stop else [])

    @cached_property
    def image(self) -> Array:
        """P̃ᵀ√r (columns,): √c unless categories are excluded."""
        if self.whole:
            return self.root_columns
        left, right = self.scales
        return np.asarray(right * (self.counts.T @ (left * self.root_rows)), dtype=np.float64)

    @cached_property
    def covered(self) -> float:
        """|√r|²: the share of the total in rows that are not excluded."""
        return float(self.root_rows @ self.root_rows)

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
    """B of a table."""
    return Dependence(
        table.counts,
        np.sqrt(table.rows.mass),
        np.sqrt(table.columns.mass),
        table.total,
        not table.excluded,
    )


def _sparse_inertia(matrix: Any, root_rows: Array, root_columns: Array) -> float:
    expected = _expected(matrix, root_rows, root_columns)
    everything = float((root_rows @ root_rows) * (root_columns @ root_columns))
    uncovered = max(0.0, everything - float(np.vdot(expected, expected)))
    data = matrix.data - expected
    return float(np.vdot(data, data)) + uncovered


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
        counts = tensor_of(table.counts)
        counts = counts if counts.is_contiguous() else counts.T
        logs = sum(
            float(torch.special.xlogy(counts[part], counts[part]).sum()) for part in row_blocks(counts.shape)
        )
        by_row, by_column = table.counts.sum(axis=1), table.counts.sum(axis=0)
    covered = float(by_row.sum())
    return (
        float(logs - covered * np.log(table.total) - by_row @ log_rows - by_column @ log_columns)
        / table.total
    )


def _scale(weights: Array, v: Array) -> Array:
    """Rows of v (n,) or (n, k) times weights (n,)."""
    product: Array = weights * v if v.ndim == 1 else weights[:, None] * v
    return product


def _less_outer(product: Array, column: Array, row: Any) -> Array:
    """product (n,) or (n, k) less column (n,) times row () or (k,), in place."""
    if product.ndim == 1:
        product -= column * row
    else:
        torch.from_numpy(product).addr_(torch.from_numpy(column), torch.from_numpy(row), alpha=-1)
    return product
