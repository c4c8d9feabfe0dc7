"""Block Lanczos with thick restarts: the leading eigenpairs of a symmetric positive semidefinite operator.

A matrix that exceeds the cache is read once for all vectors of a block, and the wider the block the fewer passes are
needed. All blocks so far are kept and orthogonalised in full; a full basis is reduced to its leading Ritz vectors (Wu,
Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000; Golub, Van Loan, Matrix Computations, 4th ed., 2013, section 10.3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import linalg

from featgeo.errors import FeatgeoError
from featgeo.tables.counts import Array

BLOCK = 8
LEAST_BASIS = 20 * BLOCK  # vectors kept before a restart, at least
RELATIVE = 1e-13  # residual over its own eigenvalue
ROUNDING = 1e-14  # residual over the largest eigenvalue
PRODUCTS = 5000  # of blocks


def basis_size(count: int) -> int:
    """Vectors that are held for so many eigenvectors; the operator must be larger by a block and the null vectors."""
    return max(LEAST_BASIS, 2 * count + 6 * BLOCK)


def leading_eigenvectors(
    multiply: Callable[[Array], Array], null: Array, count: int, random_state: Any
) -> Array:
    """Eigenvectors (n, count) of the largest eigenvalues, descending.

    Args:
        multiply: G V of V (n, BLOCK), G symmetric and positive semidefinite.
        null: orthonormal vectors (n, j) that G maps to zero and that are not wanted.
        count: how many.
        random_state: a numpy RandomState: the starting block.

    Raises:
        FeatgeoError: when rounding keeps the residuals from becoming small.
    """
    (n, j), limit = null.shape, basis_size(count)
    assert n > j + limit + BLOCK
    held = np.empty((n, j + limit), order="F")
    held[:, :j] = null
    basis, projected, size = held[:, j:], np.zeros((limit, limit)), 0
    block, _ = _orthonormal(random_state.uniform(-1, 1, (n, BLOCK)), null, random_state, 0.0)
    for _ in range(PRODUCTS):
        image, new = multiply(np.ascontiguousarray(block)), slice(size, size + BLOCK)
        basis[:, new], size = block, size + BLOCK
        known = basis[:, :size]
        shares = known.T @ image
        projected[:size, new], projected[new, :size] = shares, shares.T
        values, mixtures = linalg.eigh(projected[:size, :size], check_finite=False)
        values, mixtures = values[::-1], mixtures[:, ::-1]
        floor = ROUNDING * values[0]
        block, coupling = _orthonormal(image - known @ shares, held[:, : j + size], random_state, floor)
        # G V = V T + block coupling Eᵀ, so that a Ritz pair's residual needs its last components only.
        residuals = np.linalg.norm(coupling @ mixtures[new, :count], axis=0)
        if size >= count and (residuals <= np.maximum(RELATIVE * values[:count], floor)).all():
            return np.asarray(known @ mixtures[:, :count])
        if size + BLOCK > limit:
            size = count + 2 * BLOCK
            basis[:, :size] = known @ mixtures[:, :size]
            projected[:] = 0
            np.fill_diagonal(projected[:size, :size], values[:size])
    raise FeatgeoError(
        "solver",
        f"no convergence after {PRODUCTS:,} products",
        "Ask for fewer modes, or pass solver='dense' or 'arpack'.",
    )


def _orthonormal(block: Array, known: Array, random_state: Any, floor: float) -> tuple[Array, Array]:
    """An orthonormal block Q, orthogonal to what is known, and R with block = Q R up to the floor.

    Directions of which no more than the floor is left (the basis holds an invariant subspace) become random ones.
    """
    block, coupling = np.linalg.qr(block)
    spent = np.abs(np.diag(coupling)) <= floor
    if spent.any():
        coupling[spent] = 0.0
        block[:, spent] = random_state.uniform(-1, 1, (len(block), int(spent.sum())))
    block, turn = np.linalg.qr(block - known @ (known.T @ block))
    return block, turn @ coupling
