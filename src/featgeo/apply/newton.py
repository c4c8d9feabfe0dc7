"""The minimum of a head's penalised loss: Newton steps whose curvature comes from a sample of the rows.

Each step costs one pass over all rows, for value and gradient. Its direction solves the Newton equation by conjugate
gradients on a sample that is held in memory, preconditioned by the local geometry: the mean metric H̄ of the loss on one
side, the covariance Σ of the features on the other, inverted together with λ in the two eigenbases. Where the sample is
all of the data this is Newton's method; where it is not, quasi-Newton pairs (Nocedal, Math. Comp. 35, 1980) put right
what the sample gets wrong, and the sample grows when it predicts badly (Byrd, Chin, Neveitt, Nocedal, SIAM J. Optim.
21, 2011). The start of a large problem is the rough optimum of a small sample of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from featgeo.apply.objective import Curvature, Objective

SAMPLE = 16384  # rows of the first sample that gives the curvature
PAIRS = 10  # quasi-Newton pairs
ROUGH = 2e-2  # relative decrease still promised at which a sample's optimum is near enough to be left
ROUGH_STEPS = 6
COARSE = 1e-5  # promise below which products in float32 give way to float64
FORCING = 0.1  # relative residual of the Newton equation, where the curvature is a sample's
TIGHT = 1e-8  # the same for a step that is the answer
CG_STEPS = 20  # most products a step, there
EXACT_CG_STEPS = 1000  # and where it is exact
HALVINGS = 30
GROWTH = 0.2  # share of the promised decrease below which the sample grows; also
SLOW = 0.6  # the ratio of two promises above which it does
LEAST = 1e-4  # of F: a gain below that is not resolved further
FLOOR = 1e-10  # relative curvature that is none

Solve = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Geometry:
    """Σ of the features in its eigenbasis: the preconditioner's half that stays while θ moves. float64.

    Attributes:
        values: eigenvalues (k,), or variances where there is no basis.
        basis: eigenvectors (k, k), or None: Σ is taken as diagonal.
    """

    values: Tensor
    basis: Tensor | None

    @classmethod
    def of(cls, covariance: Tensor) -> Geometry:
        """From Σ (k, k), or from variances (k,)."""
        if covariance.ndim == 1:
            return cls(covariance.clamp_min(0), None)
        values, basis = torch.linalg.eigh(covariance)
        return cls(values.clamp_min(0), basis)

    def to(self, device: torch.device) -> Geometry:
        """The same on another device."""
        return Geometry(self.values.to(device), None if self.basis is None else self.basis.to(device))

    def inverse(self, metric: Tensor, weight_decay: float) -> Solve:
        """The inverse of H̄ ⊗ Σ + λ on weights, of H̄ on biases."""
        sizes, vectors = torch.linalg.eigh(metric)
        sizes = sizes.abs().to(self.values.device)
        vectors = vectors.to(self.values.device)
        scale = sizes[:, None] * self.values + weight_decay
        floor = FLOOR * scale.max()
        scale = torch.where(scale > floor, 1 / scale, 0.0)
        bias = torch.where(sizes > FLOOR * sizes.max(), 1 / sizes, 0.0)

        def solve(gradient: Tensor) -> Tensor:
            turned = vectors.T @ gradient
            weight = turned[:, :-1] if self.basis is None else turned[:, :-1] @ self.basis
            weight = weight * scale
            weight = weight if self.basis is None else weight @ self.basis.T
            return vectors @ torch.cat([weight, (bias * turned[:, -1])[:, None]], dim=1)

        return solve


def conjugate_gradients(
    curvature: Curvature, precondition: Solve, right: Tensor, tolerance: float, most: int
) -> Tensor:
    """x with Hessian · x = right, up to a relative residual in the preconditioner's norm.

    Stops where the curvature is not positive, with what it has.
    """
    x, residual = torch.zeros_like(right), right.clone()
    direction = precondition(residual)
    size = first = (residual * direction).sum()
    for step in range(most):
        image = curvature.times(direction)
        bend = (direction * image).sum()
        if not bend > 0:
            return direction if step == 0 else x
        x += size / bend * direction
        residual -= size / bend * image
        conditioned = precondition(residual)
        size, before = (residual * conditioned).sum(), size
        if not size > tolerance**2 * first:
            break
        direction = conditioned + size / before * direction
    return x


class _Pairs:
    """Quasi-Newton pairs (step, change of gradient) around an initial inverse Hessian."""

    def __init__(self) -> None:
        self._held: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=PAIRS)

    def add(self, step: Tensor, change: Tensor) -> None:
        product = (step * change).sum().item()
        if product > 1e-12 * (step.norm() * change.norm()).item():
            self._held.append((step, change, 1 / product))

    def direction(self, gradient: Tensor, initial: Solve) -> Tensor:
        """The inverse Hessian estimate times the gradient, by the two-loop recursion."""
        rest, shares = gradient.clone(), []
        for step, change, scale in reversed(self._held):
            share = scale * (step * rest).sum()
            shares.append(share)
            rest -= share * change
        result = initial(rest)
        for (step, change, scale), share in zip(self._held, reversed(shares), strict=True):
            result = result + step * (share - scale * (change * result).sum())
        return result


@dataclass(frozen=True)
class Optimum:
    """Where the search ended.

    Attributes:
        theta: [W | b̃] (d, k + 1).
        value: F there.
        gap: decrease that a further step promises, an estimate of F - min F.
        steps: Newton steps over all rows.
        converged: whether the gap fell below the tolerance.
    """

    theta: Tensor
    value: float
    gap: float
    steps: int
    converged: bool


def minimise(
    objective: Objective,
    geometry: Geometry,
    theta: Tensor,
    tolerance: float,
    max_steps: int,
    level: float,
    progress: bool = False,
) -> Optimum:
    """Minimise F from a start.

    Args:
        objective: F; its ``dtype`` is raised to float64 near the end.
        geometry: of the features.
        theta: the start.
        tolerance: relative decrease still promised at which to stop.
        max_steps: most passes over all rows that make a step.
        level: F of the best constant; tolerances are relative to F or to what it gains on that, whichever is less.
        progress: whether to show a progress bar.
    """
    held = len(objective.rows.y)  # of a stream, those kept
    size = min(SAMPLE, held)
    sample = objective.rows.sample(size)
    pairs = _Pairs()
    value, gradient = objective.evaluate(theta)
    promise, before, gap = 1.0, 1.0, math.inf
    steps, converged = 0, False
    with tqdm(total=max_steps, desc="solve_head", unit="step", disable=not progress) as bar:
        while steps < max_steps:
            exact = sample.count == objective.rows.count
            curvature = objective.curvature(theta, sample)
            solve = _newton_solve(objective, geometry, curvature, exact, promise / before)
            direction = -(solve(gradient) if exact else pairs.direction(gradient, solve))
            slope = (gradient * direction).sum().item()
            if not slope < 0:  # a pair has spoilt the estimate
                pairs, direction = _Pairs(), -solve(gradient)
                slope = (gradient * direction).sum().item()
            gap = -0.5 * slope
            before, promise = promise if steps else gap, gap
            scale = max(min(abs(value), abs(level - value)), LEAST * abs(value), 1e-300)
            if promise <= tolerance * scale and objective.dtype == torch.float64:
                converged = True
                break
            if promise <= max(COARSE, tolerance) * scale and objective.dtype != torch.float64:
                if tolerance >= COARSE:
                    converged = True
                    break
                objective.dtype = torch.float64
                value, gradient = objective.evaluate(theta)
                continue
            length = curvature.length(direction, slope)
            found = _search(objective, theta, value, direction, slope, length)
            steps += 1
            bar.update()
            if found is None:  # rounding
                if objective.dtype == torch.float64:
                    converged = promise <= 1e3 * tolerance * scale
                    break
                objective.dtype = torch.float64
                value, gradient = objective.evaluate(theta)
                continue
            length, new_value, new_gradient = found
            pairs.add(length * direction, new_gradient - gradient)
            theta, gained = theta + length * direction, value - new_value
            value, gradient = new_value, new_gradient
            slow = objective.dtype == torch.float64 and promise > SLOW * before  # before, steps are cheap
            poor = gained < GROWTH * promise or slow
            if not exact and size < held and steps > 1 and poor:
                size = min(2 * size, held)
                sample = objective.rows.sample(size)
    return Optimum(theta, value, gap, steps, converged)


def newton_step(objective: Objective, geometry: Geometry, theta: Tensor) -> Optimum:
    """One full Newton step: from the best constant, the local solution of features too wide for their covariance."""
    gradient = objective.evaluate(theta)[1]
    curvature = objective.curvature(theta, objective.rows.sample(SAMPLE))
    precondition = geometry.inverse(curvature.metric(), objective.weight_decay)
    step = conjugate_gradients(curvature, precondition, gradient, TIGHT, EXACT_CG_STEPS)
    return Optimum(theta - step, math.nan, math.nan, 0, True)


def _newton_solve(
    objective: Objective, geometry: Geometry, curvature: Curvature, exact: bool, rate: float
) -> Solve:
    """The approximate inverse Hessian, as a function of gradients."""
    precondition = geometry.inverse(curvature.metric(), objective.weight_decay)
    forcing, most = FORCING, CG_STEPS
    if exact:
        forcing = min(FORCING, math.sqrt(rate))
        most = EXACT_CG_STEPS

    def solve(right: Tensor) -> Tensor:
        return conjugate_gradients(curvature, precondition, right, forcing, most)

    return solve


def _search(
    objective: Objective, theta: Tensor, value: float, direction: Tensor, slope: float, length: float
) -> tuple[float, float, Tensor] | None:
    """The first step of so long, half as long ... that lowers F enough, with F and its gradient there; else None."""
    for _ in range(HALVINGS):
        found, gradient = objective.evaluate(theta + length * direction)
        if found <= value + 1e-4 * length * slope and bool(torch.isfinite(gradient).all()):
            return length, found, gradient
        if abs(length * slope) <= 1e-15 * abs(value):
            return None
        length /= 2
    return None


def minimise_by_samples(
    objective: Objective,
    geometry: Geometry,
    theta: Tensor,
    tolerance: float,
    max_steps: int,
    level: float,
    progress: bool = False,
) -> Optimum:
    """Minimise F from the constant action, where the first Newton step is the local solution, or from that.

    A sample of the rows is solved roughly first, from a sample of that, and so on.
    """
    size = min(len(objective.rows.y) // 4, SAMPLE)
    if size >= SAMPLE // 4:
        rough = replace(objective, rows=objective.rows.sample(size), passes=0)
        theta = minimise_by_samples(rough, geometry, theta, ROUGH, ROUGH_STEPS, level).theta
    return minimise(objective, geometry, theta, tolerance, max_steps, level, progress)
