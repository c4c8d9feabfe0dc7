"""The local geometry of a head, H̄ ⊗ Σ: the preconditioner of Newton's equation, and the directions that lead it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from featgeo.apply.conjugate import Solve, conjugate_gradients, iterates
from featgeo.apply.objective import Objective
from featgeo.apply.rows import Rows

FLOOR = 1e-10  # relative curvature that is none


@dataclass(frozen=True)
class Geometry:
    """Σ of the features in its eigenbasis: the preconditioner's half that stays while θ moves.

    Attributes:
        covariance: Σ (k, k), or variances (k,): Σ is taken as diagonal.
    """

    covariance: Tensor
    _bases: dict[torch.dtype, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    _leading: dict[int, tuple[Tensor, Geometry]] = field(default_factory=dict, repr=False)

    def to(self, device: torch.device) -> Geometry:
        """The same on another device."""
        return self if device == self.covariance.device else Geometry(self.covariance.to(device))

    def _basis(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if dtype not in self._bases:
            self._bases[dtype] = torch.linalg.eigh(self.covariance.to(dtype))
        return self._bases[dtype]

    def leading(self, rank: int, dtype: torch.dtype) -> tuple[Tensor, Geometry]:
        """The eigenvectors (k, r) of most variance, and the geometry in their coordinates."""
        if rank not in self._leading:
            values, vectors = self._basis(dtype)
            self._leading[rank] = vectors[:, -rank:].contiguous(), Geometry(values[-rank:].to(torch.float64))
        return self._leading[rank]

    def inverse(self, metric: Tensor, weight_decay: float) -> Solve:
        """The inverse of H̄ ⊗ Σ + λ on weights, of H̄ on biases; in float32 where λ hides what that loses."""
        sizes, vectors = (part.to(self.covariance.device) for part in torch.linalg.eigh(metric))
        sizes = sizes.abs()
        if self.covariance.ndim == 1:
            values, basis = self.covariance.clamp_min(0), None
        else:
            lost = torch.finfo(torch.float32).eps * self.covariance.trace() * sizes.max()
            values, basis = self._basis(torch.float32 if weight_decay > lost else torch.float64)
            values = values.clamp_min(0).to(torch.float64)
        scale = sizes[:, None] * values + weight_decay
        scale = torch.where(scale > FLOOR * scale.max(), 1 / scale, 0.0)
        bias = torch.where(sizes > FLOOR * sizes.max(), 1 / sizes, 0.0)

        def solve(gradient: Tensor) -> Tensor:
            turned = vectors.T @ gradient
            weight = turned[:, :-1]
            if basis is None:
                weight = weight * scale
            else:
                weight = ((weight.to(basis) @ basis * scale.to(basis)) @ basis.T).to(turned)
            return vectors @ torch.cat([weight, (bias * turned[:, -1])[:, None]], dim=1)

        return solve


@dataclass(frozen=True)
class Directions:
    """Newton's equation at θ by some rows, roughly solved.

    Attributes:
        newton: its solution (d, k + 1), as good as it was asked for.
        half: what the conjugate gradients had half-way, where they were not short and in all directions.
        local: the preconditioned gradient.
        metric: H̄ (d, d), float64 on the CPU.
    """

    newton: Tensor
    half: Tensor | None
    local: Tensor
    metric: Tensor


def directions(
    objective: Objective,
    geometry: Geometry,
    rows: Rows,
    theta: Tensor,
    gradient: Tensor,
    forcing: float,
    most: int,
    rank: int,
) -> Directions:
    """Solve Newton's equation by conjugate gradients, preconditioned by the geometry.

    Where a rank is much below k, that is in the leading eigendirections of Σ only, and by the geometry alone in the
    rest: few rows tell little of the curvature there, and products cost that much less. Sparse rows cost little anyway.

    Args:
        objective: F.
        geometry: of the features.
        rows: that give the curvature.
        theta: θ (d, k + 1).
        gradient: of F there.
        forcing: relative residual at which to stop.
        most: products at most.
        rank: number of leading directions.
    """
    if 2 * rank >= theta.shape[1] or rows.is_sparse or geometry.covariance.ndim == 1:
        curvature = objective.curvature(theta, rows)
        metric = curvature.metric()
        precondition = geometry.inverse(metric, objective.weight_decay)
        newton, half = gradient, None
        for number, newton in enumerate(iterates(curvature.times, precondition, gradient, forcing, most), 1):
            if number == most // 2 > 1:
                half = newton
        return Directions(newton, half, precondition(gradient), metric)
    basis, inner = geometry.leading(rank, objective.curvature_dtype)
    curvature = objective.curvature(theta, rows, basis)
    metric = curvature.metric()
    local = geometry.inverse(metric, objective.weight_decay)(gradient)
    precondition = inner.inverse(metric, objective.weight_decay)
    right = torch.cat([gradient[:, :-1] @ basis.to(gradient), gradient[:, -1:]], dim=1)
    found = conjugate_gradients(curvature.times, precondition, right, forcing, most)
    change = (found - precondition(right))[:, :-1]
    newton = torch.cat([local[:, :-1] + change @ basis.T.to(change), found[:, -1:]], dim=1)
    return Directions(newton, None, local, metric)
