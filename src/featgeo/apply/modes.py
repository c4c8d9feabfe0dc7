"""The modes of a layer's product in two metrics, and what is left of the layer at a rank.

With a metric H = RᵀR of the pre-activation and features of covariance Σ = L Lᵀ, the weights of rank r that lose least
of ½‖R (W - W_r) L‖² are the truncated singular value decomposition of R W L, taken back through R⁺ and the factored
inverse of L (Eckart and Young). Where the layer's features f' have changed since, because earlier layers were cut, the
target z stays what it was and W L gives way to the regression Cov(z, f') T on white features: reduced-rank regression,
of which the same truncation is the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featgeo.apply.factor import Thin
from featgeo.theory.linalg import Whitener, rank_tolerance


@dataclass(frozen=True)
class Metric:
    """A metric H of pre-activations as R (r, n) with RᵀR = H, and R⁺ (n, r), from one eigendecomposition."""

    root: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Metric:
        """From H (n, n), symmetric positive semi-definite up to rounding; directions below rounding are left out."""
        values, vectors = torch.linalg.eigh(matrix.to(torch.float64))
        keep = values > rank_tolerance(len(values), torch.float64) * values.max().clamp_min(0)
        roots, vectors = values[keep].sqrt(), vectors[:, keep]
        return cls((vectors * roots).T, vectors / roots)

    @classmethod
    def identity(cls, size: int) -> Metric:
        """The plain metric."""
        unit = torch.eye(size, dtype=torch.float64)
        return cls(unit, unit)


def ridged(matrix: Tensor, spread: Tensor, ridge: float) -> Tensor:
    """H + α I, with α such that the ridge weighs `ridge` of what H does for pre-activations of covariance `spread`.

    The metric at the network's own activations does not see what matters only once much is cut; the ridge leans it
    towards keeping the pre-activations as they are.
    """
    total = spread.trace().clamp_min(torch.finfo(torch.float64).tiny)
    weight = ridge * (matrix * spread).sum() / total
    if not weight > 0:  # the loss does not see this layer: keep its pre-activations
        weight = torch.ones((), dtype=torch.float64)
    return matrix + weight * torch.eye(len(matrix)).to(matrix)


@dataclass(frozen=True)
class Modes:
    """All modes of a layer, most important first. float64 on the CPU.

    Attributes:
        second: A (n, ρ).
        first: B (ρ, k).
        values: singular values (ρ,); ½ Σ of the squares of those cut is the quadratic's loss.
        target: mean of z (n,), which the cut layer keeps.
        mean: mean of the features (k,).
    """

    second: Tensor
    first: Tensor
    values: Tensor
    target: Tensor
    mean: Tensor

    @classmethod
    def of(cls, cross: Tensor, metric: Metric, whitener: Whitener, target: Tensor, mean: Tensor) -> Modes:
        """Modes of a regression on white features.

        Args:
            cross: Cov(z, f) T (n, ρ): W L where z = W f + b.
            metric: of z.
            whitener: of Σ.
            target: E[z] (n,).
            mean: E[f] (k,).
        """
        left, values, right = torch.linalg.svd(metric.root @ cross, full_matrices=False)
        return cls(metric.inverse @ (left * values), whitener.back(right), values, target, mean)

    def thin(self, rank: int) -> Thin:
        """The layer with its first modes only; its mean output is that of the whole layer."""
        second, first = self.second[:, :rank], self.first[:rank]
        return Thin(second, first, self.target - second @ (first @ self.mean))

    @property
    def tails(self) -> Tensor:
        """What the quadratic says each rank 0..ρ loses (ρ + 1,)."""
        squares = 0.5 * self.values.square()
        return torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])
