"""The expected loss E_Y[loss(g, Y)] as a function of one output vector g (d,), with its derivatives.

Everything is float64. ``factor`` is R with RᵀR = E_Y[∂²loss/∂g²], the metric of the output space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from featgeo.errors import FeatgeoError
from featgeo.theory.linalg import psd_factor
from featgeo.theory.losses import CanonicalLoss, Loss


class Risk(ABC):
    """Expected loss of a constant output."""

    @abstractmethod
    def value(self, outputs: Tensor) -> Tensor:
        """E_Y[loss(g, Y)] for each row of outputs (m, d): (m,). Differentiable."""

    @abstractmethod
    def gradient(self, output: Tensor) -> Tensor:
        """E_Y[∂loss/∂g] (..., d) at one output (d,), or at each row of outputs (m, d)."""

    @abstractmethod
    def factor(self, output: Tensor) -> Tensor:
        """R (r, d) at one output (d,)."""


@dataclass(frozen=True)
class CanonicalRisk(Risk):
    """A(g) - ⟨g, T̄⟩ + h̄: only the mean statistic of the targets matters.

    Attributes:
        loss: the canonical loss.
        mean: T̄ = E[T(Y)] (d,), float64.
        base: h̄ = E[h(Y)].
    """

    loss: CanonicalLoss
    mean: Tensor
    base: float = 0.0

    def value(self, outputs: Tensor) -> Tensor:
        """A(g) - ⟨g, T̄⟩ + h̄, with 0 · (-∞) = 0 where a class is absent."""
        return self.loss.log_partition(outputs) - (outputs * self.mean).sum(-1) + self.base

    def gradient(self, output: Tensor) -> Tensor:
        """∇A(g) - T̄."""
        return self.loss.mean(output) - self.mean

    def factor(self, output: Tensor) -> Tensor:
        """The loss's own factor of ∇²A(g)."""
        return self.loss.factor(output)


@dataclass(frozen=True)
class EmpiricalRisk(Risk):
    """Σ_i w_i loss(g, y_i) for a loss of any form, by automatic differentiation.

    Attributes:
        loss: the loss.
        targets: checked targets (m, ...).
        weights: w (m,), float64, with sum 1.
    """

    loss: Loss
    targets: Tensor
    weights: Tensor

    def value(self, outputs: Tensor) -> Tensor:
        """The weighted mean for each row of outputs, one row after the other."""
        rows = [
            self.loss.values(g.expand(len(self.targets), -1), self.targets) @ self.weights for g in outputs
        ]
        return torch.stack(rows)

    def scores(self, output: Tensor) -> Tensor:
        """∂loss/∂g (m, d) of every target at one output."""
        with torch.enable_grad():
            outputs = output.detach().expand(len(self.targets), -1).clone().requires_grad_()
            (scores,) = torch.autograd.grad(self.loss.values(outputs, self.targets).sum(), outputs)
        return scores.detach()

    def gradient(self, output: Tensor) -> Tensor:
        """Σ_i w_i ∂loss(g, y_i)/∂g, one row after the other."""
        if output.ndim == 2:
            return torch.stack([self.gradient(row) for row in output])
        return self.weights @ self.scores(output)

    def factor(self, output: Tensor) -> Tensor:
        """A root of the exact Hessian Σ_i w_i ∂²loss(g, y_i)/∂g²; negative curvature is cut off."""
        try:
            hessian = hessian_of(self.value, output)
        except RuntimeError as error:
            raise FeatgeoError(
                "loss", f"no second derivative of '{self.loss.name}' ({error})", "Use a smooth loss."
            ) from error
        if not torch.isfinite(hessian).all():
            raise FeatgeoError(
                "loss", f"a second derivative that is not finite in '{self.loss.name}'", "Use a smooth loss."
            )
        return psd_factor(hessian)[0]


def hessian_of(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Hessian (n, n) at one point (n,) of a function that maps rows (m, n) to values (m,)."""
    size = len(point)
    with torch.enable_grad():
        rows = point.detach().expand(size, -1).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(rows).sum(), rows, create_graph=True)
        if not gradient.requires_grad:  # linear in the point
            return point.new_zeros(size, size)
        (hessian,) = torch.autograd.grad(gradient.diagonal().sum(), rows)
    return (hessian + hessian.T).detach() / 2


def output_scores(loss: Loss, targets: Tensor, output: Tensor) -> Tensor:
    """∂loss/∂g (|Y|, d) at one output, for every target."""
    if isinstance(loss, CanonicalLoss):
        return loss.mean(output) - loss.statistic(targets, len(output)).to(output)
    weights = torch.ones(len(targets), dtype=torch.float64) / len(targets)
    return EmpiricalRisk(loss, targets, weights).scores(output)


def make_risk(loss: Loss, targets: Tensor, weights: Tensor, width: int) -> Risk:
    """The expected loss under weights (m,) on checked targets (m, ...)."""
    if isinstance(loss, CanonicalLoss):
        statistic = loss.statistic(targets, width).to(torch.float64)
        return CanonicalRisk(loss, weights @ statistic, (weights @ loss.base(targets)).item())
    return EmpiricalRisk(loss, targets, weights)


def conditional_risks(loss: Loss, targets: Tensor, joint: Tensor, width: int) -> list[Risk]:
    """The expected loss under every P_{Y|X=x}; under P_Y where x has probability zero."""
    rows = [row if row.sum() > 0 else joint.sum(0) for row in joint]
    return [make_risk(loss, targets, row / row.sum(), width) for row in rows]
