"""How far to go along several directions at once: the minimum of a head's loss over remixed directions, on a sample.

A product of the rows with a direction D (d, k + 1) gives every sample d numbers, from which the outputs of all d × d
mixtures A D follow without another product. So the search for a step's length becomes that for the best matrices A
over a few directions: a small head of the same loss, whose features are the images of the directions. Its gradient at
the start is that over all rows, the sample gives the rest. With the last step and θ itself among the directions it
does what conjugate gradients do for a quadratic (sequential subspace optimisation: Narkiss and Zibulevsky, 2005), for
every output.
"""

from __future__ import annotations

import torch
from torch import Tensor

from featgeo.apply.conjugate import conjugate_gradients
from featgeo.apply.objective import Bend, Objective
from featgeo.apply.rows import Rows

NEWTON_STEPS = 2
CG_STEPS = 100  # most products
AGREES = 0.02  # share by which a quadratic may miss what a step gains to be believed
FLAT = 1e-4  # relative curvature below which an output is taken as having that much
HALVINGS = 10
CUT = {torch.float32: 1e-7, torch.float64: 1e-13}  # relative squares below which a combination is none
EACH = 10  # rows that every entry of the matrices needs


class Subspace:
    """The steps Σ A D from θ over some directions D, with a matrix A each, or a number where outputs are many.

    Args:
        objective: F.
        rows: a sample that is held, or all.
        theta: θ (d, k + 1).
        gradient: of F over all rows there.
        directions: D (d, k + 1) each; W is one more.
        metric: H̄ (d, d), float64 on the CPU.
        forcing: relative residual of the Newton equations.
    """

    def __init__(
        self,
        objective: Objective,
        rows: Rows,
        theta: Tensor,
        gradient: Tensor,
        directions: list[Tensor],
        metric: Tensor,
        forcing: float,
    ) -> None:
        self._objective, self._total, self._shape = objective, rows.total, theta.shape
        self._block = rows.held(objective.curvature_dtype, objective.shift)
        outputs, scaling = len(theta), theta.clone()
        scaling[:, -1] = 0  # biases stay: adding one number to all may change nothing
        stack = torch.cat([*directions, scaling])
        mixed = len(stack) <= theta.shape[1] and EACH * outputs * len(stack) <= rows.count
        images = self._block.outputs(stack)
        self._forcing = forcing
        self._start = images[:, -outputs:] + theta[:, -1].to(images)
        self._resolution = 10 * torch.finfo(images.dtype).eps * self._start.abs().max().item()
        if mixed:
            sizes, vectors = torch.linalg.eigh(metric)
        else:  # rows of (sample, output), one feature a direction
            stack = stack.reshape(-1, theta.numel())
            images = images.unflatten(1, (-1, outputs)).transpose(1, 2).reshape(-1, len(stack))
            sizes, vectors = metric.diagonal().mean()[None], torch.ones(1, 1).to(metric)
        basis = _orthonormal(images)
        self._images, self._stack = images @ basis.T.to(images), basis @ stack
        weights = self._stack.reshape(-1, theta.shape[1]).clone()
        weights[:, -1] = 0
        weights, decay = weights.reshape(self._stack.shape), objective.weight_decay
        self._penalty = decay * weights @ weights.T
        self._sizes = sizes.clamp_min(FLAT * sizes.max()).to(theta)[:, None] + self._penalty.diagonal()
        self._vectors = vectors.to(theta)
        self._slopes = gradient.reshape(len(sizes), -1) @ self._stack.T
        self._level = decay * theta.reshape(len(sizes), -1) @ weights.T

    def step(self) -> Tensor:
        """The best step (d, k + 1) that a few Newton steps find."""
        mixture, slopes = torch.zeros_like(self._slopes), self._slopes
        outputs, correction, value = self._start, torch.zeros_like(slopes), 0.0
        for number in range(NEWTON_STEPS):
            bend = Bend(self._objective.loss, outputs, self._block.y, self._block.w)
            if number == 0:
                correction = self._slopes - self._pull(bend.scores) - self._level
                value = self._value(outputs, mixture, correction)
            else:
                slopes = self._pull(bend.scores) + correction + self._level + mixture @ self._penalty

            def times(change: Tensor, bend: Bend = bend) -> Tensor:
                return self._pull(bend.times(self._outputs(change))) + change @ self._penalty

            change = -conjugate_gradients(times, self._precondition, slopes, self._forcing, CG_STEPS)
            slope, moved = (slopes * change).sum().item(), self._outputs(change)
            if -slope <= self._resolution:  # what is gained drowns in rounding
                return ((mixture + change) @ self._stack).reshape(self._shape)
            for _ in range(HALVINGS):
                found = self._value(outputs + moved, mixture + change, correction)
                if found <= value + 1e-4 * slope:
                    break
                change, moved, slope = change / 2, moved / 2, slope / 2
            else:
                break
            gained, value = value - found, found
            mixture, outputs = mixture + change, outputs + moved
            if abs(gained + slope / 2) <= AGREES * gained:
                break
        return (mixture @ self._stack).reshape(self._shape)

    def _outputs(self, mixture: Tensor) -> Tensor:
        """Change of the outputs (m, d)."""
        return (self._images @ mixture.T.to(self._images)).reshape(self._start.shape)

    def _pull(self, scores: Tensor) -> Tensor:
        """Slopes in the mixture of scores (m, d)."""
        rows = scores.reshape(len(self._images), -1)
        return (rows.T @ self._images).to(self._slopes) / self._total

    def _precondition(self, slopes: Tensor) -> Tensor:
        return self._vectors @ ((self._vectors.T @ slopes) / self._sizes)

    def _value(self, outputs: Tensor, mixture: Tensor, correction: Tensor) -> float:
        """F of the model, less what does not depend on the mixture."""
        values = self._objective.loss.values(outputs, self._block.y)
        values = values.to(torch.float64) if self._block.w is None else values * self._block.w
        linear = ((correction + self._level + 0.5 * mixture @ self._penalty) * mixture).sum()
        return (values.sum() / self._total + linear).item()


def _orthonormal(images: Tensor) -> Tensor:
    """B (r, q) float64 such that the images (m, q) times Bᵀ have unit mean squares and no correlation."""
    gram = (images.T @ images).to(torch.float64) / len(images)
    scale = gram.diagonal().clamp_min(0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    values, vectors = torch.linalg.eigh(gram * inverse.outer(inverse))
    keep = values > CUT[images.dtype] * values[-1]
    return (vectors[:, keep] / values[keep].sqrt()).T * inverse
