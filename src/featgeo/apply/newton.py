"""The minimum of a head's penalised loss: Newton steps whose curvature comes from a sample of the rows.

Each step costs one pass over all rows, for value and gradient. Its direction solves the Newton equation roughly by
conjugate gradients on a sample that is held in memory, preconditioned by the local geometry: the mean metric H̄ of the
loss on one side, the covariance Σ of the features on the other, inverted together with λ in the two eigenbases. The
sample is asked for curvature only along the features' directions of most variance, the geometry stands for the others
(:mod:`featgeo.apply.geometry`). Such a direction still fits its sample too well; how far to go along it, output by
output, along the last step and along θ itself, is searched on another sample (:mod:`featgeo.apply.subspace`). The
samples grow when they predict badly (Byrd, Chin, Neveitt, Nocedal, SIAM J. Optim. 21, 2011), and the directions with
them; where they are all of the data this is Newton's method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from featgeo.apply.conjugate import conjugate_gradients
from featgeo.apply.geometry import Geometry, directions
from featgeo.apply.objective import Objective
from featgeo.apply.rows import Rows
from featgeo.apply.subspace import Subspace

SAMPLE = 8192  # rows of the first sample that gives directions; twice as many tell how far to go
MANY = 8  # times as many rows as in both samples: worth a start from the rough optimum of these
ROUGH = 2e-2  # relative gap at which that is near enough
ROUGH_STEPS = 4
COARSE = 2e-6  # of F, or of the best constant's: a gap below which products in float32 give way to float64
FORCING = 0.1  # relative residual of the Newton equation
CG_STEPS = (3, 5, 7, 10)  # most products of the first steps, and of later ones
NEAR = 1e-3  # relative gap below which, by all rows, it is solved the better the nearer the optimum
CLOSEST = 1e-6  # at best
NEWTON_CG_STEPS = 1000  # most there
PATIENCE = 10  # steps there within which the promise must halve: towards infinity it need not
HALVINGS = 30
GROWTH = 0.2  # share of the promised decrease below which the samples grow; also
SLOW = 0.8  # the ratio of two promises above which they do
SLOWEST = 0.9  # the same, as it is used to tell the gap
LEAST = 1e-4  # of F: a gain below that is not resolved further
RANK = 256  # eigendirections of Σ in which the first samples tell of the curvature


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
        tolerance: relative gap at which to stop.
        max_steps: most passes over all rows that make a step.
        level: F of the best constant; tolerances are relative to F or to what it gains on that, whichever is less.
        progress: whether to show a progress bar.
    """
    size, last = SAMPLE, None
    samples = _samples(objective.rows, size)
    value, gradient = objective.evaluate(theta)
    promise, likely, rate, gap, steps, converged = math.inf, math.inf, 0.0, math.inf, 0, False
    promises: list[float] = []  # of the last steps, as far as they were near
    with tqdm(total=max_steps, desc="solve_head", unit="step", disable=not progress) as bar:
        while steps < max_steps:
            whole = samples[0].count == objective.rows.count
            share = (promise if whole else gap) / max(abs(value), 1e-300)
            near = whole and share <= NEAR
            forcing = max(share, CLOSEST) if near else FORCING
            most = NEWTON_CG_STEPS if near else CG_STEPS[min(steps, len(CG_STEPS) - 1)] * size // SAMPLE
            step = _step(objective, geometry, samples, theta, gradient, last, forcing, most)
            slope = (gradient * step).sum().item()
            before, promise = promise, -0.5 * slope
            rate = max(0.5 * rate, min(promise / before, SLOWEST) if before > 0 else 0.0)
            trusted = near or math.isinf(likely)  # a step that its sample misled promises little too
            likely = promise if trusted else max(promise, rate * likely)
            gap = likely / (1 - rate)  # of a geometric series
            scale = max(min(abs(value), abs(level - value)), LEAST * abs(value), 1e-300)
            coarse = COARSE * max(abs(value), abs(level)) if objective.dtype != torch.float64 else 0.0
            if gap <= tolerance * scale and tolerance * scale >= coarse:
                converged = True
                if near and (found := _search(objective, theta, value, step, slope)):  # it is at hand
                    theta, value = theta + found[0] * step, found[1]
                break
            if gap <= coarse:
                objective.dtype = torch.float64
                value, gradient = objective.evaluate(theta)
            promises = [*promises, promise] if near else []
            if len(promises) > PATIENCE and promise > 0.5 * promises[-1 - PATIENCE]:
                break
            found = _search(objective, theta, value, step, slope)
            steps += 1
            bar.update()
            if found is None:  # rounding
                if objective.dtype == torch.float64:
                    converged = gap <= 1e3 * tolerance * scale
                    break
                objective.dtype = torch.float64
                value, gradient = objective.evaluate(theta)
                continue
            length, new_value, gradient = found
            last = length * step
            theta, gained, value = theta + last, value - new_value, new_value
            poor = gained < GROWTH * promise or promise > SLOW * before
            if poor and steps > 1:
                size = 2 * size
                samples = _samples(objective.rows, size)
    return Optimum(theta, value, gap, steps, converged)


def _samples(rows: Rows, size: int) -> tuple[Rows, Rows]:
    """A sample that gives directions and a disjoint one that tells how far to go; few rows are both."""
    held = len(rows.y)  # of a stream, those kept
    if held == rows.count and held < 2 * SAMPLE:
        every = rows.sample(held)
        return every, every
    size = min(size, held // 3)
    return rows.sample(size), rows.sample(2 * size, skip=size)


def _step(
    objective: Objective,
    geometry: Geometry,
    samples: tuple[Rows, Rows],
    theta: Tensor,
    gradient: Tensor,
    last: Tensor | None,
    forcing: float,
    most: int,
) -> Tensor:
    """The step to be tried from θ."""
    every = samples[0] is samples[1]
    rank = theta.shape[1] if every else RANK * samples[0].count // SAMPLE
    found = directions(objective, geometry, samples[0], theta, gradient, forcing, most, rank)
    tried = [found.newton, found.local, *([] if last is None else [last])]
    if found.half is not None and not every:
        tried.append(found.half)  # it fits its sample less
    step = Subspace(objective, samples[1], theta, gradient, tried, found.metric, forcing).step()
    return step if (gradient * step).sum() < 0 else -found.local


def newton_step(
    objective: Objective, geometry: Geometry, theta: Tensor, gradient: Tensor, rows: Rows, tolerance: float
) -> Tensor:
    """Newton's step from θ by some rows, its equation solved up to a relative residual."""
    curvature = objective.curvature(theta, rows)
    precondition = geometry.inverse(curvature.metric(), objective.weight_decay)
    return -conjugate_gradients(curvature.times, precondition, gradient, tolerance, NEWTON_CG_STEPS)


def _search(
    objective: Objective, theta: Tensor, value: float, step: Tensor, slope: float
) -> tuple[float, float, Tensor] | None:
    """The first of the whole step, half of it ... that lowers F enough, with F and its gradient there; else None."""
    length = 1.0
    for _ in range(HALVINGS):
        found, gradient = objective.evaluate(theta + length * step)
        if found <= value + 1e-4 * length * slope and bool(torch.isfinite(gradient).all()):
            return length, found, gradient
        if abs(length * slope) <= torch.finfo(objective.dtype).eps * abs(value):
            return None
        length /= 2
    return None


def minimise_from_constant(
    objective: Objective,
    geometry: Geometry,
    theta: Tensor,
    tolerance: float,
    max_steps: int,
    level: float,
    progress: bool = False,
) -> Optimum:
    """Minimise F from the constant action, of very many rows by way of the rough optimum of a sample."""
    both = 3 * SAMPLE
    if len(objective.rows.y) >= both and objective.rows.count >= MANY * both:
        rough = replace(objective, rows=objective.rows.sample(both), passes=0)
        theta = minimise(rough, geometry, theta, ROUGH, ROUGH_STEPS, level).theta
    return minimise(objective, geometry, theta, tolerance, max_steps, level, progress)
