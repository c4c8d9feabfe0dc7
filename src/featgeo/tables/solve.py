"""Leading singular triples of B.

Four roads. ``dense``: LAPACK on B (sparse tables: on the smaller Gram matrix), all modes, including those of
correlation zero. ``arpack``: implicitly restarted Lanczos (scipy's eigsh) on the smaller of BᵀB and BBᵀ to machine
precision; a sparse table is only ever multiplied with vectors, and one vector at a time suits it best. ``lanczos``: the
same with blocks of vectors (:mod:`featgeo.tables.lanczos`), which suit a dense B. ``randomized``: scikit-learn's
randomised SVD (Halko, Martinsson, Tropp, SIAM Review 53(2), 2011), block products of bounded number, exact only where
the spectrum decays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import linalg
from scipy.sparse.linalg import ArpackError, eigsh
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from featgeo.errors import FeatgeoError
from featgeo.tables.counts import DENSE_LIMIT, Array, Table
from featgeo.tables.lanczos import BLOCK, CANCELLED, RELATIVE, basis_size, leading_eigenvectors
from featgeo.tables.operator import Dependence
from featgeo.tables.passes import fitting_threads

Solver = Literal["auto", "dense", "lanczos", "arpack", "randomized"]
SOLVERS = ("auto", "dense", "lanczos", "arpack", "randomized")
SMALL = 300  # smaller side up to which LAPACK on the whole of B is as fast as Lanczos
LIFT = 1e-6  # least height of the trivial mode: far above rounding, which is all that an independent table's B holds
ROUNDING = 1e-28  # of an inertia
VANISHING = 1e-7  # a singular value over the first one whose square is rounding
POWER_STEPS = 12  # of the randomised road
SIGN_TIES = 1e-6  # entries this close (relatively) to the largest one count as equally large


@dataclass(frozen=True)
class Triples:
    """Singular values (k,), descending, and the vectors of rows (m, k) and columns (n, k)."""

    values: Array
    rows: Array
    columns: Array


def count_modes(table: Table, wanted: Any) -> int:
    """How many modes are asked for; None stands for all.

    Raises:
        FeatgeoError: not a whole number, or more modes than the table has.
    """
    if wanted is None:
        return table.max_rank
    if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer) or wanted < 1:
        raise FeatgeoError(
            "n_components", f"{wanted!r}", "Pass a whole number from 1 on, None or 'significant'."
        )
    if wanted > table.max_rank:
        m, n = table.shape
        found = (
            f"{wanted} for a table of n_samples = {m} rows and n_features = {n} columns that are not empty"
        )
        raise FeatgeoError("n_components", found, f"Such a table has at most {table.max_rank} modes.")
    return int(wanted)


def choose_solver(b: Dependence, count: int, solver: Solver) -> Solver:
    """What "auto" stands for.

    Raises:
        FeatgeoError: an unknown solver, or a result that cannot be meant.
    """
    if solver not in SOLVERS:
        raise FeatgeoError("solver", f"{solver!r}", f"Choose one of {', '.join(SOLVERS)}.")
    small, large = min(b.shape), max(b.shape)
    needed = 8 * count * (small + large)
    if needed > DENSE_LIMIT:
        raise FeatgeoError(
            "n_components",
            f"{count:,} modes of a {b.shape[0]:,} × {b.shape[1]:,} table, {needed / 2**30:,.0f} GiB of results",
            "Pass a smaller n_components.",
        )
    few = 8 * (count + 1) < small
    iterative: Solver = "arpack" if b.sparse else "lanczos"
    chosen = solver if solver != "auto" else iterative if small > SMALL and few else "dense"
    if chosen == "dense" and b.sparse and 24 * small**2 > DENSE_LIMIT:
        raise FeatgeoError(
            "n_components",
            f"{count:,} modes by a dense solver from a sparse {b.shape[0]:,} × {b.shape[1]:,} table",
            "Pass a smaller n_components, at most an eighth of the smaller side.",
        )
    return chosen


def singular_triples(
    b: Dependence, count: int, solver: Solver, centred: bool, random_state: Any, tol: float = 0.0
) -> Triples:
    """The leading triples of B, signs fixed.

    Args:
        b: the matrix.
        count: how many.
        solver: which road.
        centred: whether B √c = 0 and Bᵀ √r = 0 (no category excluded).
        random_state: a numpy RandomState: the start vector or the test matrix.
        tol: relative residual at which Lanczos stops, 0 for what rounding allows.
    """
    # Lanczos works on the columns: of a sparse table the shorter side, of a dense one that of contiguous rows.
    if (b.shape[0] < b.shape[1]) if b.sparse else not b.counts.flags.c_contiguous:
        turned = singular_triples(b.T, count, solver, centred, random_state, tol)
        return fix_signs(Triples(turned.values, turned.columns, turned.rows))
    chosen = choose_solver(b, count, solver)
    least = {"lanczos": basis_size(count) + BLOCK + 2, "arpack": count + 2}
    if b.shape[1] < least.get(chosen, 0):
        chosen = "dense"  # Lanczos cannot give the whole spectrum
    if chosen in least and b.inertia < ROUNDING:
        raise FeatgeoError(
            "X", "rows and columns that are exactly independent", "There are no modes to be found."
        )
    if chosen == "dense":
        triples = _gram_dense(b, count, centred) if b.sparse else _dense(b, count, centred)
    elif chosen == "lanczos":
        triples = _lanczos(b, count, centred, random_state, tol)
    elif chosen == "arpack":
        triples = _arpack(b, count, random_state, tol)
    else:
        triples = _randomized(b, count, random_state)
    return fix_signs(triples)


def fix_signs(triples: Triples) -> Triples:
    """Each mode's largest entry (in absolute value) among the row vectors made positive; the first of equals counts."""
    rows = triples.rows
    near = (1 - SIGN_TIES) * np.maximum(rows.max(axis=0), -rows.min(axis=0))
    first = np.argmax((rows >= near) | (rows <= -near), axis=0)
    signs = np.where(rows[first, np.arange(rows.shape[1])] < 0, -1.0, 1.0)
    return Triples(triples.values, rows * signs, triples.columns * signs)


def _dense(b: Dependence, count: int, centred: bool) -> Triples:
    """LAPACK. The trivial pair (√r, √c) is lifted to the top, so that it cannot mix with modes of correlation zero."""
    matrix = b.matrix
    if centred:
        lift = max(2 * np.sqrt(b.inertia), LIFT)
        matrix = matrix + lift * np.outer(b.root_rows, b.root_columns)
    with fitting_threads(b.shape):
        left, values, right = linalg.svd(matrix, full_matrices=False, overwrite_a=centred, check_finite=False)
    part = slice(1, count + 1) if centred else slice(count)
    return Triples(values[part], left[:, part], right[part].T)


def _gram_dense(b: Dependence, count: int, centred: bool) -> Triples:
    """All modes from BᵀB (n, n): one sparse product. Correlations under about 1e-8 of the first are rounding."""
    gram = (b.matrix.T @ b.matrix).toarray()
    # BᵀB = P̃ᵀP̃ - a √cᵀ - √c aᵀ + |√r|² √c √cᵀ with a = P̃ᵀ√r
    cross = np.outer(b.image, b.root_columns)
    gram += (b.root_rows @ b.root_rows) * np.outer(b.root_columns, b.root_columns) - cross - cross.T
    if centred:
        gram += max(4 * b.inertia, LIFT**2) * np.outer(b.root_columns, b.root_columns)
    size, first = len(gram), 1 if centred else 0
    chosen = [size - first - count, size - 1 - first]
    _, right = linalg.eigh(gram, subset_by_index=chosen, overwrite_a=True, check_finite=False)
    return _from_right(b, right)


def _lanczos(b: Dependence, count: int, centred: bool, random_state: Any, tol: float) -> Triples:
    trivial = b.root_columns / np.linalg.norm(b.root_columns)
    null = torch.from_numpy(trivial[None, :] if centred else np.empty((0, b.shape[1])))

    def multiply(v: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(b.gram_times(v.numpy().T).T))

    # B = P̃ - √r √cᵀ, both of norm one
    right = leading_eigenvectors(multiply, null, count, random_state, tol, cancelled=1.0).numpy().T
    triples = _from_right(b, right)
    values, sound = triples.values, triples.values > VANISHING * triples.values[0]
    # a weak dependence: what B maps to zero is still in there
    if max(RELATIVE, tol) * values[-1] ** 2 < CANCELLED * values[0]:
        right = np.where(sound, b.T.times(triples.rows) / np.where(sound, values, 1.0), triples.columns)
    return Triples(values, triples.rows, right)


def _arpack(b: Dependence, count: int, random_state: Any, tol: float) -> Triples:
    start = random_state.uniform(-1, 1, b.shape[1])
    start -= b.root_columns * (b.root_columns @ start) / (b.root_columns @ b.root_columns)
    try:
        _, right = eigsh(b.gram(), count, v0=start, tol=tol)
    except ArpackError as error:
        raise FeatgeoError(
            "solver",
            f"no convergence ({error})",
            "Ask for fewer modes, or pass solver='dense' or 'randomized'.",
        ) from error
    return _from_right(b, right)


def _randomized(b: Dependence, count: int, random_state: Any) -> Triples:
    """A subspace from scikit-learn (for a sparse table of P̃, one mode more), then Rayleigh-Ritz on B."""
    extra = 1 if b.sparse else 0
    _, _, basis = randomized_svd(
        b.matrix,
        count + extra,
        n_iter=POWER_STEPS,
        power_iteration_normalizer="QR",
        random_state=random_state,
    )
    basis = np.linalg.qr(basis.T)[0]
    left, values, right = linalg.svd(b.times(basis), full_matrices=False, check_finite=False)
    return Triples(values[:count], left[:, :count], (basis @ right.T)[:, :count])


def _from_right(b: Dependence, right: Array) -> Triples:
    """Triples from right vectors. Left vectors of vanishing modes are completed, not divided by zero."""
    left = b.times(right)
    values = np.sqrt(
        np.einsum("ij,ij->j", left, left)
    )  # not the root of an eigenvalue, which would halve the digits
    order = np.argsort(-values, kind="stable")
    left, values, right = left[:, order], values[order], right[:, order]
    sound = values > max(VANISHING * values[0], np.finfo(float).tiny)
    left /= np.where(sound, values, 1.0)
    if not sound.all():
        known = np.column_stack([b.root_rows, left[:, sound]])
        filler = np.random.RandomState(0).standard_normal((len(left), int((~sound).sum())))
        left[:, ~sound] = np.linalg.qr(np.column_stack([known, filler]))[0][:, known.shape[1] :]
    return Triples(values, left, right)
