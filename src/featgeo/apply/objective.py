"""The penalised mean loss of a linear head over rows: value, gradient, and curvature as products with directions.

    F(θ) = Σᵢ wᵢ loss(W xᵢ + b, yᵢ) / Σᵢ wᵢ + λ/2 ‖W‖²,   θ = [W | b̃] (d, k + 1),  b̃ = b + W shift.

Products with the data run in the features' precision, sums across blocks and everything of the size of θ in float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from featgeo.apply.rows import Block, Rows
from featgeo.errors import FeatgeoError
from featgeo.theory.losses import CanonicalLoss, Loss

LENGTH = 0.02  # accuracy of a step's length
NEWTON = 0.1  # share of the slope that may be left after a full step
METRIC_WORK = 1 << 22  # entries of outputs of which the mean metric is taken one output at a time


def scores_of(loss: Loss, outputs: Tensor, targets: Tensor, graph: bool = False) -> Tensor:
    """∂loss/∂z (m, d) of checked targets; with ``graph`` differentiable in outputs that require a gradient."""
    if isinstance(loss, CanonicalLoss):
        return loss.mean(outputs) - loss.statistic(targets, outputs.shape[1]).to(outputs)
    with torch.enable_grad():
        z = outputs if graph else outputs.detach().requires_grad_()
        (scores,) = torch.autograd.grad(loss.values(z, targets).sum(), z, create_graph=graph)
    return scores


@dataclass
class Objective:
    """F over rows.

    Attributes:
        loss: of the outputs.
        rows: the data.
        weight_decay: λ.
        shift: (k,) float64 about which features are centred; None for a head without a bias.
        dtype: precision of the products with the data.
        curvature_dtype: the same for the Hessian.
        passes: times the rows were gone through.
    """

    loss: Loss
    rows: Rows
    weight_decay: float
    shift: Tensor | None
    dtype: torch.dtype
    curvature_dtype: torch.dtype
    passes: int = 0

    def evaluate(self, theta: Tensor) -> tuple[float, Tensor]:
        """F(θ) and its gradient (d, k + 1), in one pass."""
        value = torch.zeros((), dtype=torch.float64, device=theta.device)
        gradient = torch.zeros_like(theta)
        for block in self.rows.blocks(self.dtype, self.shift):
            outputs = block.outputs(theta)
            values, scores = self.loss.values(outputs, block.y), scores_of(self.loss, outputs, block.y)
            if block.w is not None:
                values = values * block.w
                scores = scores * block.w[:, None].to(scores.dtype)
            value += values.sum(dtype=torch.float64)
            gradient += block.pull(scores)
        self.passes += 1
        gradient /= self.rows.total
        if self.shift is None:
            gradient[:, -1] = 0
        gradient[:, :-1] += self.weight_decay * theta[:, :-1]
        penalty = 0.5 * self.weight_decay * theta[:, :-1].square().sum()
        return (value / self.rows.total + penalty).item(), gradient

    def curvature(self, theta: Tensor, rows: Rows | None = None) -> Curvature:
        """The Hessian at θ over some rows (all by default), ready for products."""
        rows = rows or self.rows
        blocks = rows.blocks(self.curvature_dtype, self.shift)
        return Curvature(self.loss, blocks, rows.total, theta, self.weight_decay, self.shift is not None)


class Curvature:
    """∂²F/∂θ² at one θ over some rows: products with directions, and its mean over the rows in output space.

    A score's derivative is symmetric, so a backward pass through the scores multiplies by it.

    Args:
        loss: of the outputs.
        blocks: the rows.
        total: sum of their weights.
        theta: where.
        weight_decay: λ.
        bias: whether the head has one.
    """

    def __init__(
        self,
        loss: Loss,
        blocks: Iterable[Block],
        total: float,
        theta: Tensor,
        weight_decay: float,
        bias: bool,
    ) -> None:
        self.total, self.weight_decay, self.bias = total, weight_decay, bias
        self._loss, self._theta = loss, theta
        self._parts: list[tuple[Block, Tensor, Tensor]] = []
        for block in blocks:
            with torch.enable_grad():
                outputs = block.outputs(theta).requires_grad_()
                scores = scores_of(loss, outputs, block.y, graph=True)
                if block.w is not None:
                    scores = scores * block.w[:, None].to(scores.dtype)
            if not scores.requires_grad:
                raise FeatgeoError("loss", f"no second derivative of '{loss.name}'", "Use a smooth loss.")
            self._parts.append((block, outputs, scores))

    def times(self, direction: Tensor) -> Tensor:
        """The Hessian times a direction (d, k + 1)."""
        product = torch.zeros_like(direction)
        for block, outputs, scores in self._parts:
            (pulled,) = torch.autograd.grad(scores, outputs, block.outputs(direction), retain_graph=True)
            product += block.pull(pulled)
        product /= self.total
        if not self.bias:
            product[:, -1] = 0
        product[:, :-1] += self.weight_decay * direction[:, :-1]
        return product

    def length(self, direction: Tensor, slope: float, longest: float = 4.0) -> float:
        """How far along a direction F falls, by these rows: outputs are linear in θ, so that trials need no products.

        Args:
            direction: (d, k + 1).
            slope: of F over all rows at the start, which the rows' own slope is corrected by.
            longest: most that is returned.
        """
        sides = [(block, z.detach(), block.outputs(direction)) for block, z, _ in self._parts]
        weight, step = self._theta[:, :-1], direction[:, :-1]
        level, bend = (weight * step).sum().item(), step.square().sum().item()

        def slope_at(t: float) -> float:
            total = 0.0
            for block, z, change in sides:
                scores = scores_of(self._loss, z + t * change, block.y)
                if block.w is not None:
                    scores = scores * block.w[:, None].to(scores.dtype)
                total += (scores * change).sum(dtype=torch.float64).item()
            return total / self.total + self.weight_decay * (level + t * bend)

        shift = slope - slope_at(0.0)
        low, high = 0.0, 1.0
        if abs(end := slope_at(high) + shift) <= NEWTON * abs(slope):
            return 1.0
        while end < 0 and high < longest:
            low, high = high, 2 * high
            end = slope_at(high) + shift
        if not end > 0:  # still falling, or not finite
            return high if end <= 0 else 1.0
        return float(brentq(lambda t: slope_at(t) + shift, low, high, xtol=LENGTH, rtol=LENGTH))

    def metric(self) -> Tensor:
        """H̄ (d, d), the mean of ∂²loss/∂z²; of many outputs over fewer rows."""
        width = self._parts[0][1].shape[1]
        total, metric = 0.0, torch.zeros(width, width, dtype=torch.float64)
        for block, outputs, scores in self._parts:
            for j in range(width):
                unit = torch.zeros_like(outputs)
                unit[:, j] = 1
                (pulled,) = torch.autograd.grad(scores, outputs, unit, retain_graph=True)
                metric[j] += pulled.sum(0, dtype=torch.float64).cpu()
            total += block.total
            if total * width * width > METRIC_WORK and total > 10 * width:
                break
        metric /= total
        return (metric + metric.T) / 2
