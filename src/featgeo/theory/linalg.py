"""Factors of positive semi-definite matrices with one rank rule; nothing here inverts a Gram matrix.

The rank rule. A covariance that was accumulated in precision ``eps`` carries rounding noise of a few ``eps``
relative to its largest eigenvalue, whatever its size (measured: 0.6 to 0.8 ``eps`` for 128 to 1024 features in
float32). So a direction counts when its eigenvalue exceeds ``max(16, sqrt(k)) * eps`` times the largest. Before the
rule is applied every feature is scaled to unit variance, so that the answer does not depend on the features' units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

INVERSE_STEPS = 20


def rank_tolerance(size: int, dtype: torch.dtype) -> float:
    """Relative eigenvalue below which a direction of a (size, size) Gram matrix in `dtype` is rounding noise."""
    return max(16.0, math.sqrt(size)) * torch.finfo(dtype).eps


@dataclass(frozen=True)
class Whitener:
    """A matrix T (k, r) with TᵀΣT = I_r and T Tᵀ a (reflexive) generalised inverse of Σ.

    Attributes:
        transform: T, float64.
        root: ΣT (k, r), so that root rootᵀ = Σ; the whitened features' loadings.
        rank: r, the number of directions that stand above rounding.
        tolerance: the relative cut-off that decided r.
    """

    transform: Tensor
    root: Tensor
    rank: int
    tolerance: float


def whiten(covariance: Tensor, accumulated: torch.dtype = torch.float64) -> Whitener:
    """Whitening of a covariance matrix of any rank.

    A Cholesky factor is used where the matrix clearly has full rank, otherwise an eigendecomposition.

    Args:
        covariance: Σ (k, k), symmetric positive semi-definite up to rounding.
        accumulated: precision in which Σ was summed; sets the rank rule.
    """
    sigma = covariance.to(torch.float64)
    size = sigma.shape[0]
    tolerance = rank_tolerance(size, accumulated)
    deviation = sigma.diagonal().clamp_min(0).sqrt()
    live = deviation > 0
    scale = deviation[live]
    correlation = (sigma if live.all() else sigma[live][:, live]) / scale.outer(scale)
    columns, loadings = _cholesky_whitening(correlation, tolerance) or _eigen_whitening(
        correlation, tolerance
    )
    transform, root = sigma.new_zeros(2, size, columns.shape[1])
    transform[live] = columns / scale[:, None]
    root[live] = loadings * scale[:, None]
    return Whitener(transform, root, columns.shape[1], tolerance)


def _cholesky_whitening(matrix: Tensor, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """L⁻ᵀ and L where the matrix clearly has full rank, else None.

    Clearly: its smallest eigenvalue, estimated by inverse iteration, is four times above the cut-off that the rank
    rule would set (its Frobenius norm bounds the largest).
    """
    lower, failed = torch.linalg.cholesky_ex(matrix)
    if failed.item() or not len(matrix):
        return None
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)
    vector = torch.cos(torch.arange(len(lower), dtype=lower.dtype, device=lower.device))
    growth = 0.0
    for _ in range(INVERSE_STEPS):
        vector = inverse.T @ (inverse @ (vector / vector.norm()))
        growth = vector.norm().item()
    return (inverse.T, lower) if growth * 4 * tolerance * matrix.norm().item() < 1 else None


def _eigen_whitening(matrix: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """V Λ^-½ and V Λ^½ over the eigenvalues that the rank rule keeps."""
    values, vectors = torch.linalg.eigh(matrix)
    keep = values > tolerance * values.max().clamp_min(0) if len(values) else values > 0
    roots = values[keep].sqrt()
    return vectors[:, keep] / roots, vectors[:, keep] * roots


def psd_factor(matrix: Tensor) -> tuple[Tensor, float]:
    """A factor R (r, n) with RᵀR = matrix, and how negative the matrix was.

    Returns:
        R from the eigenvalues above the rank rule, and the most negative eigenvalue relative to the largest in
        absolute value (0 when there is none): more than rounding means that the matrix was no metric.
    """
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
