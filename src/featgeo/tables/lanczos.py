"""Block Lanczos with thick restarts: the leading eigenpairs of a symmetric positive semidefinite operator.

A matrix that exceeds the cache is read once for all vectors of a block, and the wider the block the fewer passes are
needed. All blocks so far are kept and orthogonalised in full; a full basis is reduced to its leading Ritz vectors (Wu,
Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000; Golub, Van Loan, Matrix Computations, 4th ed., 2013, section 10.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featgeo.errors import FeatgeoError

BLOCK = 8
LEAST_BASIS = 20 * BLOCK  # vectors kept before a restart, at least
RELATIVE = 1e-13  # residual over its own eigenvalue
ROUNDING = 1e-14  # residual over the largest eigenvalue
CANCELLED = 1e-15  # residual over its root and over the norm of what cancels in products with B
PRODUCTS = 5000  # of blocks
PACES = 0.1, 3.0  # digits that residuals lose in a step, at least and at most


def basis_size(count: int) -> int:
    """Vectors that are held for so many eigenvectors; the operator must be larger by a block and the null vectors."""
    return max(LEAST_BASIS, 2 * count + 6 * BLOCK)


def leading_eigenvectors(
    multiply: Callable[[Tensor], Tensor],
    null: Tensor,
    count: int,
    random_state: Any,
    tol: float = 0.0,
    cancelled: float = 0.0,
) -> Tensor:
    """Eigenvectors (count, n) of the largest eigenvalues, descending.

    Args:
        multiply: V G of V (BLOCK, n), G symmetric and positive semidefinite.
        null: orthonormal vectors (j, n) that G maps to zero and that are not wanted.
        count: how many.
        random_state: a numpy RandomState: the starting block.
        tol: largest residual ‖G v - λ v‖ of a vector over its λ; 0 for what rounding allows.
        cancelled: where G = BᵀB and products with B are differences of those with larger matrices, the norm of these.

    Raises:
        FeatgeoError: when rounding keeps the residuals from becoming small.
    """
    (j, n), limit = null.shape, basis_size(count)
    assert n > j + limit + BLOCK
    held = torch.empty((j + limit, n), dtype=torch.float64)
    held[:j] = null
    basis, projected, size = held[j:], torch.zeros((limit, limit), dtype=torch.float64), 0
    due, seen, before = 0, 0, np.inf  # when residuals are looked at, were last, and their digits then
    block, _ = _orthonormal(_random(BLOCK, n, random_state), null, random_state, 0.0)
    for step in range(PRODUCTS):
        image, new = multiply(block), slice(size, size + BLOCK)
        basis[new], size = block, size + BLOCK
        known = basis[:size]
        shares = image @ known.T
        projected[new, :size], projected[:size, new] = shares, shares.T
        floor = _rounding(float(torch.linalg.matrix_norm(projected)), cancelled)
        block, coupling = _orthonormal(image - shares @ known, held[: j + size], random_state, floor)
        full = size + BLOCK > limit
        if size < count or (step < due and not full):
            continue
        values, mixtures = torch.linalg.eigh(projected[:size, :size])
        values, mixtures = values.flip(0), mixtures.flip(1)
        # V G = T V + E coupling block, so that a Ritz pair's residual needs its last components only.
        residuals = torch.linalg.vector_norm(mixtures[new, :count].T @ coupling, dim=1)
        allowed = (max(RELATIVE, tol) * values[:count]).clamp(min=_rounding(float(values[0]), cancelled))
        excess = float((residuals / allowed).max())
        if excess <= 1:
            return mixtures[:, :count].T @ known
        digits = np.log10(excess)
        pace = np.clip((before - digits) / max(1, step - seen), *PACES)
        due, seen, before = step + max(1, int(digits / pace / 2)), step, digits  # half of what is left to do
        if full:
            size = count + (limit - count) // 3
            basis[:size] = mixtures[:, :size].T @ known
            projected.zero_()
            projected.diagonal()[:size] = values[:size]
    raise FeatgeoError(
        "solver",
        f"no convergence after {PRODUCTS:,} products",
        "Ask for fewer modes, or pass solver='dense' or 'arpack'.",
    )


def _rounding(largest: float, cancelled: float) -> float:
    """Residuals that are noise where this is the largest eigenvalue."""
    return max(ROUNDING * largest, CANCELLED * cancelled * largest**0.5)


def _random(count: int, size: int, random_state: Any) -> Tensor:
    return torch.from_numpy(random_state.uniform(-1, 1, (count, size)))


def _orthonormal(block: Tensor, known: Tensor, random_state: Any, floor: float) -> tuple[Tensor, Tensor]:
    """Orthonormal rows Q, orthogonal to what is known, and L with block = L Q up to the floor.

    Directions of which no more than the floor is left (the basis holds an invariant subspace) become random ones.
    """
    columns, coupling = torch.linalg.qr(block.T)
    spent = coupling.diagonal().abs() <= floor
    if spent.any():
        coupling[spent] = 0.0
        columns[:, spent] = _random(int(spent.sum()), len(columns), random_state).T
    rows = columns.T
    columns, turn = torch.linalg.qr((rows - (rows @ known.T) @ known).T)
    return columns.T, (turn @ coupling).T
