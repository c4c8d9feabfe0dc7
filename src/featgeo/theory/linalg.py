"""Factors of positive semi-definite matrices with one rank rule; nothing here inverts a Gram matrix.

The rank rule. A covariance that was accumulated in precision ``eps`` carries rounding noise of a few ``eps``
relative to its largest eigenvalue, whatever its size (measured: 0.6 to 0.8 ``eps`` for 128 to 1024 features in
float32). So a direction counts when its eigenvalue exceeds ``max(16, sqrt(k)) * eps`` times the largest. Before the
rule is applied every feature is scaled to unit variance, so that the answer does not depend on the features' units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

INVERSE_STEPS = 4


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
        lower: Cholesky factor of the correlation matrix of the live features, where it has full rank; else
        eigen: its eigenvalues (r,) and eigenvectors (·, r) above the cut-off.
    """

    rank: int
    tolerance: float
    accumulated: torch.dtype
    scale: Tensor
    lower: Tensor | None = None
    eigen: tuple[Tensor, Tensor] | None = None

    @property
    def _live(self) -> Tensor:
        return self.scale > 0

    def white(self, rows: Tensor) -> Tensor:
        """Rows T (m, r) of rows (m, k): a cross-covariance with the features becomes one with white features."""
        scaled = rows[:, self._live] / self.scale[self._live]
        if self.lower is not None:
            return torch.linalg.solve_triangular(self.lower, scaled.T, upper=False).T
        assert self.eigen is not None
        return scaled @ (self.eigen[1] / self.eigen[0].sqrt())

    def back(self, rows: Tensor) -> Tensor:
        """Rows Tᵀ (m, k) of rows (m, r): weights on white features become weights on the features."""
        if self.lower is not None:
            weights = torch.linalg.solve_triangular(self.lower.T, rows.T, upper=True).T
        else:
            assert self.eigen is not None
            weights = rows @ (self.eigen[1] / self.eigen[0].sqrt()).T
        full = rows.new_zeros(len(rows), len(self.scale))
        full[:, self._live] = weights / self.scale[self._live]
        return full

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
            loadings = self.eigen[1] * self.eigen[0].sqrt()
        full = self.scale.new_zeros(len(self.scale), self.rank)
        full[self._live] = loadings * self.scale[self._live][:, None]
        return full


def whiten(covariance: Tensor, accumulated: torch.dtype = torch.float64) -> Whitener:
    """Whitening of a covariance matrix of any rank.

    A Cholesky factor is used where the matrix clearly has full rank, otherwise an eigendecomposition.

    Args:
        covariance: Σ (k, k), symmetric positive semi-definite up to rounding.
        accumulated: precision in which Σ was summed; sets the rank rule.
    """
    sigma = covariance.to(torch.float64)
    tolerance = rank_tolerance(len(sigma), accumulated)
    scale = sigma.diagonal().clamp_min(0).sqrt()
    live = scale > 0
    correlation = (sigma if live.all() else sigma[live][:, live]) / scale[live].outer(scale[live])
    lower = _certain_cholesky(correlation, tolerance)
    if lower is not None:
        return Whitener(len(lower), tolerance, accumulated, scale, lower=lower)
    values, vectors = torch.linalg.eigh(correlation)
    keep = values > tolerance * values.max().clamp_min(0) if len(values) else values > 0
    return Whitener(int(keep.sum()), tolerance, accumulated, scale, eigen=(values[keep], vectors[:, keep]))


def _certain_cholesky(matrix: Tensor, tolerance: float) -> Tensor | None:
    """The Cholesky factor of a matrix that clearly has full rank, else None.

    Clearly: its smallest eigenvalue, estimated by inverse iteration, is ten times above the cut-off that the rank
    rule would set (its Frobenius norm bounds the largest).
    """
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if failed.item() or not len(matrix):
        return None
    vector, growth = torch.cos(torch.arange(len(lower)).to(lower))[:, None], 0.0
    for _ in range(INVERSE_STEPS):
        vector = torch.cholesky_solve(vector / vector.norm(), lower)
        growth = vector.norm().item()
    return lower if growth * 10 * tolerance * matrix.norm().item() < 1 else None


def psd_factor(matrix: Tensor) -> tuple[Tensor, float]:
    """A factor R (r, n) with RᵀR = matrix, and how negative the matrix was.

    Returns:
        R from the eigenvalues above the rank rule, and the most negative eigenvalue relative to the largest in
        absolute value (0 when there is none): more than rounding means that the matrix was no metric.
    """
    if not matrix.numel():
        return matrix.to(torch.float64), 0.0
    values, vectors = torch.linalg.eigh(matrix.to(torch.float64))
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
    def pseudo_inverse(self) -> Tensor:
        """R⁺ (n, m)."""
        return (self.right / self.values) @ self.left.T


def thin_svd(factor: Tensor) -> ThinSVD:
    """Singular value decomposition of a factor (m, n), cut at its numerical rank."""
    left, values, right = torch.linalg.svd(factor.to(torch.float64), full_matrices=False)
    largest = values.max().item() if values.numel() else 0.0
    keep = values > rank_tolerance(max(factor.shape), torch.float64) * largest
    return ThinSVD(left[:, keep], values[keep], right[keep].T)


def solve_ridge(factor: ThinSVD, cross: Tensor, covariance: Tensor, weight_decay: float) -> Tensor:
    """W (n, k) with H W Σ + λ W = K, where H = RᵀR, by the eigenbases of H and Σ.

    Args:
        factor: thin SVD of R (·, n).
        cross: K (n, k), its columns in the range of H.
        covariance: Σ (k, k).
        weight_decay: λ > 0.
    """
    sigma, basis = torch.linalg.eigh(covariance.to(torch.float64))
    rotated = factor.right.T @ cross @ basis
    rotated /= factor.values.square()[:, None] * sigma.clamp_min(0) + weight_decay
    return factor.right @ rotated @ basis.T
