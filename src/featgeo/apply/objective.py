"""The penalised mean loss of a linear head over rows: value, gradient, and curvature as products with directions.

    F(θ) = Σᵢ wᵢ loss(W xᵢ + b, yᵢ) / Σᵢ wᵢ + λ/2 ‖W‖²,   θ = [W | b̃] (d, k + 1),  b̃ = b + W shift.

Products with the data run in the features' precision, sums across blocks and everything of the size of θ in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featgeo.apply.rows import Block, Rows
from featgeo.errors import FeatgeoError
from featgeo.theory.losses import CanonicalLoss, Loss
from featgeo.theory.variance import times_variance

METRIC_WORK = 1 << 18  # entries of outputs of which the mean metric is taken one output at a time


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
        for block in self.rows.blocks(self.dtype, self.shift, len(theta)):
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

    def curvature(self, theta: Tensor, rows: Rows, basis: Tensor | None = None) -> Curvature:
        """The Hessian at θ over some rows that are held, ready for products; of [W V | b̃] with a basis V (k, r)."""
        block = rows.held(self.curvature_dtype, self.shift)
        bend = Bend(self.loss, block.outputs(theta), block.y, block.w)
        within = block if basis is None else rows.along(basis, self.shift)
        return Curvature(bend, within, rows.total, self.weight_decay, self.shift is not None)


class Bend:
    """∂²loss/∂z² of every row, at its outputs: in closed form, or by a backward pass through the scores.

    Args:
        loss: of the outputs.
        outputs: z (m, d).
        y: checked targets.
        w: sample weights (m,), or None.

    Attributes:
        loss: of the outputs.
        outputs: z.
        scores: w ∂loss/∂z (m, d).
    """

    def __init__(self, loss: Loss, outputs: Tensor, y: Tensor, w: Tensor | None) -> None:
        self.outputs, self.loss = outputs, loss
        self._weight = None if w is None else w[:, None].to(outputs.dtype)
        if isinstance(loss, CanonicalLoss):
            self._mean = loss.mean(outputs).contiguous()
            scores = self._mean - loss.statistic(y, outputs.shape[1]).to(outputs)
        else:
            with torch.enable_grad():
                self._at = outputs.detach().requires_grad_()
                self._graph = scores = scores_of(loss, self._at, y, graph=True)
            if not scores.requires_grad:
                raise FeatgeoError("loss", f"no second derivative of '{loss.name}'", "Use a smooth loss.")
        self.scores = scores.detach() if self._weight is None else scores.detach() * self._weight

    def times(self, rows: Tensor) -> Tensor:
        """The products w ∂²loss/∂z² u (m, d) with rows u (m, d)."""
        if isinstance(self.loss, CanonicalLoss):
            product = times_variance(self.loss, self._mean, rows)
        else:  # a score's derivative is symmetric: a backward pass multiplies by it
            with torch.enable_grad():  # a scalar: torch imports sympy to check the shapes of anything else
                total = (self._graph * rows).sum()
            (product,) = torch.autograd.grad(total, self._at, retain_graph=True)
        return product if self._weight is None else product * self._weight


class Curvature:
    """∂²F/∂θ² at one θ over some rows: products with directions, and its mean over the rows in output space.

    Args:
        bend: ∂²loss/∂z² there.
        block: the rows.
        total: sum of their weights.
        weight_decay: λ.
        bias: whether the head has one.
    """

    def __init__(self, bend: Bend, block: Block, total: float, weight_decay: float, bias: bool) -> None:
        self.total, self.weight_decay, self.bias = total, weight_decay, bias
        self._bend, self._block = bend, block

    def times(self, direction: Tensor) -> Tensor:
        """The Hessian times a direction (d, k + 1)."""
        product = self._block.pull(self._bend.times(self._block.outputs(direction))) / self.total
        if not self.bias:
            product[:, -1] = 0
        product[:, :-1] += self.weight_decay * direction[:, :-1]
        return product

    def metric(self) -> Tensor:
        """H̄ (d, d) float64 on the CPU, the mean of ∂²loss/∂z²; of many outputs over fewer rows."""
        count, width = self._bend.outputs.shape
        part = slice(0, min(count, max(10 * width, METRIC_WORK // width**2)))
        w = None if self._block.w is None else self._block.w[part]
        bend = Bend(self._bend.loss, self._bend.outputs[part], self._block.y[part], w)
        metric = torch.zeros(width, width, dtype=torch.float64)
        for j in range(width):
            unit = torch.zeros_like(bend.scores)
            unit[:, j] = 1
            metric[j] = bend.times(unit).sum(0, dtype=torch.float64).cpu()
        metric /= len(bend.scores) if w is None else max(w.sum().item(), 1e-300)
        return (metric + metric.T) / 2
