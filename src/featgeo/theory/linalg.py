"""Factors of positive semi-definite matrices with one rank rule; nothing here inverts a Gram matrix.

The rank rule. A covariance that was accumulated in precision ``eps`` carries rounding noise of a few ``eps``
relative to its largest eigenvalue, whatever its size (measured: 0.6 to 0.8 ``eps`` for 128 to 1024 features in
float32). So a direction counts when its eigenvalue exceeds ``max(16, sqrt(k)) * eps`` times the largest. Before the
rule is applied every feature is scaled to unit variance, so that the answer does not depend on the features' units.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import scipy  # loads its parts when they are used
import torch
from torch import Tensor

POWER_STEPS = 4
ALIGNED = 128  # columns that lie a multiple of so many numbers apart share few places of a processor's cache
ABOVE = 1e-6  # of the largest s Σ: a λ beside which the rounding of Σ, summed in float32, is little
FEW = 9  # Cholesky factors with their solves cost less than one eigendecomposition (measured: 11 to 15 do)
SAME = 1e-12  # relative difference of two eigenvalues that is none
STILL = 4  # roundings of a feature's mean, up to which it is constant


def rank_tolerance(size: int, dtype: torch.dtype) -> float:
    """Relative eigenvalue below which a direction of a (size, size) Gram matrix in `dtype` is rounding noise."""
    return max(16.0, math.sqrt(size)) * torch.finfo(dtype).eps


@dataclass(frozen=True)
class Whitener:
    """A matrix T (k, r) with TᵀΣT = I_r and T Tᵀ a (reflexive) generalised inverse of Σ, kept in factored form.

    Attributes:
        rank: r, the number of directions that stand above rounding.
        tolerance: the relative cut-off that decided r.
        accumulated: precision in which Σ was summed.
        scale: standard deviations (k,); a feature of variance zero takes no part.
        lower: Cholesky factor of the covariance of the live features, where it has full rank; else
        eigen: eigenvalues (r,) and eigenvectors (·, r) of their correlation matrix above the cut-off.
    """

    rank: int
    tolerance: float
    accumulated: torch.dtype
    scale: Tensor
    lower: Tensor | None = None
    eigen: tuple[Tensor, Tensor] | None = None

    @cached_property
    def _dead(self) -> bool:
        return not bool(self.scale.all())

    def _live(self, rows: Tensor) -> Tensor:
        return rows[:, self.scale > 0] if self._dead else rows

    def _full(self, rows: Tensor) -> Tensor:
        """Rows over all features (m, k) of rows over the live ones."""
        if not self._dead:
            return rows
        full = rows.new_zeros(len(rows), len(self.scale))
        full[:, self.scale > 0] = rows
        return full

    @cached_property
    def _axes(self) -> tuple[Tensor, Tensor]:
        """Standard deviations of the live features, and the eigenvectors over the roots of their eigenvalues."""
        assert self.eigen is not None
        return self.scale[self.scale > 0], self.eigen[1] / self.eigen[0].sqrt()

    def white(self, rows: Tensor) -> Tensor:
        """Rows T (m, r) of rows (m, k): a cross-covariance with the features becomes one with white features."""
        if self.lower is not None:
            return torch.linalg.solve_triangular(self.lower, self._live(rows).T, upper=False).T
        scale, axes = self._axes
        return self._live(rows) / scale @ axes

    def back(self, rows: Tensor) -> Tensor:
        """Rows Tᵀ (m, k) of rows (m, r): weights on white features become weights on the features."""
        if self.lower is not None:
            return self._full(torch.linalg.solve_triangular(self.lower.T, rows.T, upper=True).T)
        scale, axes = self._axes
        return self._full(rows @ axes.T / scale)

    def loaded(self, rows: Tensor) -> Tensor:
        """Rows ΣT (m, r) of rows (m, k), in their dtype: weights on the features become those of :attr:`root`."""
        if self.lower is None or self._dead:
            return rows @ self.root.to(rows)
        lower, made = self.lower.to(rows), torch.empty_like(rows)
        for start in range(0, len(lower), ALIGNED):  # what lies above the diagonal takes no time
            stop = start + ALIGNED
            torch.matmul(rows[:, start:], lower[start:, start:stop], out=made[:, start:stop])
        return made

    @cached_property
    def transform(self) -> Tensor:
        """T itself (k, r)."""
        return self.white(torch.eye(len(self.scale)).to(self.scale))

    @cached_property
    def root(self) -> Tensor:
        """ΣT (k, r), so that root rootᵀ = Σ: the loadings of the features on the white ones."""
        if self.lower is not None:
            loadings = self.lower
        else:
            assert self.eigen is not None
            loadings = self.eigen[1] * self.eigen[0].sqrt() * self._axes[0][:, None]
        return self._full(loadings.T).T


def whiten(
    covariance: Tensor, accumulated: torch.dtype = torch.float64, mean: Tensor | None = None
) -> Whitener:
    """Whitening of a covariance matrix of any rank.

    A Cholesky factor is used where the matrix clearly has full rank, otherwise an eigendecomposition.

    Args:
        covariance: Σ (k, k), symmetric positive semi-definite up to rounding.
        accumulated: precision in which Σ was summed; sets the rank rule.
        mean: of the features (k,), where known: a spread that is rounding of the mean is none. Nor is one whose square
            that precision cannot hold.
    """
    sigma = covariance.to(torch.float64)
    tolerance = rank_tolerance(len(sigma), accumulated)
    numbers = torch.finfo(accumulated)
    none = (numbers.tiny / numbers.eps) ** 0.5 + (0.0 if mean is None else STILL * numbers.eps * mean.abs())
    scale = sigma.diagonal().clamp_min(0).sqrt()
    scale = torch.where(scale > none, scale, 0.0)
    live = scale > 0
    alive, spread = (sigma, scale) if live.all() else (sigma[live][:, live], scale[live])
    lower = _certain_cholesky(alive, spread, tolerance)
    if lower is not None:
        return Whitener(len(lower), tolerance, accumulated, scale, lower=lower)
    values, vectors = eigen(alive / spread.outer(spread))
    keep = values > tolerance * values.max().clamp_min(0) if len(values) else values > 0
    return Whitener(int(keep.sum()), tolerance, accumulated, scale, eigen=(values[keep], vectors[:, keep]))


def _certain_cholesky(sigma: Tensor, scale: Tensor, tolerance: float) -> Tensor | None:
    """The Cholesky factor of a covariance whose correlation matrix clearly has full rank, else None.

    Clearly: the smallest eigenvalue of the correlation matrix, estimated by inverse iteration, is ten times above the
    cut-off that the rank rule would set, its largest being estimated likewise. Neither the factorisation nor its
    rounding depends on the features' units, so the correlation matrix itself need not be formed.

    Args:
        sigma: Σ (k, k).
        scale: standard deviations (k,), all positive.
        tolerance: of the rank rule.
    """
    lower = cholesky(sigma)
    if lower is None or not len(sigma):
        return None
    column = scale[:, None]
    start = torch.cos(torch.arange(len(lower)).to(lower))[:, None]
    smallest = 1 / _iterated(lambda vector: column * cholesky_solve(lower, column * vector), start)
    room = smallest / (10 * tolerance)
    if len(sigma) < room:  # its trace bounds the largest eigenvalue
        return lower
    return lower if _iterated(lambda vector: sigma @ (vector / column) / column, start) < room else None


def _iterated(matrix: Callable[[Tensor], Tensor], vector: Tensor) -> float:
    """The largest eigenvalue of a symmetric matrix, from below, by a few steps of power iteration."""
    for _ in range(POWER_STEPS):
        last, vector = vector, matrix(vector)
    return (vector.norm() / last.norm()).item()


def cholesky(matrix: Tensor, ridge: float = 0.0) -> Tensor | None:
    """Lower Cholesky factor, float64, of a symmetric matrix (k, k) + ridge · I, None where there is none.

    Where its columns would share places of the cache, it is factorised within a slightly larger matrix: two to three
    times faster for 512 and 1024 features.
    """
    size = len(matrix)
    room = size + 8 if size and size % ALIGNED == 0 else size
    framed = matrix.new_empty(room, room, dtype=torch.float64)
    framed[:size, :size] = matrix
    framed[size:], framed[:, size:] = 0.0, 0.0
    framed.diagonal()[:size] += ridge
    framed.diagonal()[size:] = 1.0
    lower = framed.mT  # columns first, as LAPACK has them: it is overwritten by its factor
    _, failed = torch.linalg.cholesky_ex(lower, out=(lower, lower.new_zeros((), dtype=torch.int32)))
    if failed.item():
        return None
    return lower if room == size else lower[:size, :size].mT.contiguous().mT


def cholesky_solve(lower: Tensor, right: Tensor) -> Tensor:
    """(L Lᵀ)⁻¹ right (k, m) by two triangular solves: for few columns several times faster than torch's solver."""
    half = torch.linalg.solve_triangular(lower, right, upper=False)
    return torch.linalg.solve_triangular(lower.T, half, upper=True)


def eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (k,) and eigenvectors (k, k) of a symmetric float64 matrix.

    Torch's divide and conquer gives up on some covariances of low rank that were summed in float32 (such as a 3 x 3
    convolution's over a single pixel: eight of nine features are zero); relatively robust representations do not.
    """
    try:
        return torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if not matrix.isfinite().all():
            raise
        values, vectors = scipy.linalg.eigh(matrix.cpu().numpy(), driver="evr")
        return torch.as_tensor(values).to(matrix), torch.as_tensor(vectors).to(matrix)


def psd_factor(matrix: Tensor) -> tuple[Tensor, float]:
    """A factor R (r, n) with RᵀR = matrix, and how negative the matrix was.

    Returns:
        R from the eigenvalues above the rank rule, and the most negative eigenvalue relative to the largest in
        absolute value (0 when there is none): more than rounding means that the matrix was no metric.
    """
    if not matrix.numel():
        return matrix.to(torch.float64), 0.0
    values, vectors = eigen(matrix.to(torch.float64))
    size = values.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    negative = min(0.0, (values.min() / size).item())
    keep = values > rank_tolerance(len(values), torch.float64) * size
    return (vectors[:, keep] * values[keep].sqrt()).T, negative


@dataclass(frozen=True)
class ThinSVD:
    """R = left · diag(values) · rightᵀ with only the singular values above the rank rule: (m, r), (r,), (n, r)."""

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def matrix(self) -> Tensor:
        """R (m, n), without what lies below the rank rule."""
        return (self.left * self.values) @ self.right.T

    @property
    def pseudo_inverse(self) -> Tensor:
        """R⁺ (n, m)."""
        return (self.right / self.values) @ self.left.T


def thin_svd(factor: Tensor) -> ThinSVD:
    """Singular value decomposition of a factor (m, n), cut at its numerical rank."""
    wide = factor.shape[0] < factor.shape[1]  # LAPACK has columns first: it is much faster on the transpose
    tall = (factor.T if wide else factor).to(torch.float64)
    left, values, right = torch.linalg.svd(tall, full_matrices=False)
    sizes, tolerance = values.tolist(), rank_tolerance(max(factor.shape), torch.float64)
    rank = sum(size > tolerance * sizes[0] for size in sizes)
    left, right = (right.T, left) if wide else (left, right.T)
    return ThinSVD(left[:, :rank], values[:rank], right[:, :rank])


def solve_ridge(factor: ThinSVD, cross: Tensor, covariance: Tensor, weight_decay: float) -> Tensor:
    """W (n, k) with H W Σ + λ W = K, where H = RᵀR.

    By a Cholesky factor of s Σ + λ for each distinct eigenvalue s of H, where these are few and λ is well above the
    rounding of Σ; else by the eigenbases of H and Σ.

    Args:
        factor: thin SVD of R (·, n).
        cross: K (n, k), its columns in the range of H.
        covariance: Σ (k, k).
        weight_decay: λ > 0.
    """
    sigma, sizes, right = covariance.to(torch.float64), factor.values.square(), factor.right.T @ cross
    solved = None
    if len(sizes) and weight_decay > ABOVE * (sizes[0] * torch.linalg.matrix_norm(sigma)).item():
        solved = _ridge_by_cholesky(sizes, right, sigma, weight_decay)
    if solved is None:
        values, basis = eigen(sigma)
        solved = right @ basis / (sizes[:, None] * values.clamp_min(0) + weight_decay) @ basis.T
    return factor.right @ solved


def _ridge_by_cholesky(sizes: Tensor, right: Tensor, sigma: Tensor, weight_decay: float) -> Tensor | None:
    """Rows (s Σ + λ)⁻¹ right for descending s; None where they differ too often or a factorisation fails."""
    steps = (sizes[:-1] - sizes[1:] > SAME * sizes[:-1]).nonzero()[:, 0] + 1
    bounds = [0, *steps.tolist(), len(sizes)]
    if len(bounds) > FEW + 1:
        return None
    parts = []
    for start, stop in itertools.pairwise(bounds):
        lower = cholesky(sizes[start] * sigma, weight_decay)
        if lower is None:
            return None
        parts.append(cholesky_solve(lower, right[start:stop].T).T)
    return torch.cat(parts)
