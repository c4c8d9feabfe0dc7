"""One head at one λ: which start, which geometry and which precision suit the rows, and then the search."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from featgeo.apply.dual import dual_of, is_wide
from featgeo.apply.geometry import Geometry
from featgeo.apply.newton import SAMPLE, Optimum, minimise, minimise_from_constant, newton_step
from featgeo.apply.objective import Objective
from featgeo.apply.onepass import Constant, Local, constant_of, local_of
from featgeo.apply.rows import Rows
from featgeo.theory.losses import CanonicalLoss, Loss, MeanSquare

SQUARE = 4096  # widest features whose covariance is decomposed
SINGLE = 1 << 20  # entries of the features above which the products of early steps run in float32
TIGHT = 1e-8  # relative residual of the Newton equation of a one-pass head

Refine = int | Literal["exact"]


@dataclass(frozen=True)
class Fit:
    """A head found.

    Attributes:
        theta: [W | b̃] (d, k + 1) float64 with b̃ = b + W mean.
        mean: (k,).
        constant: the best constant output.
        value: the objective; NaN for a one-pass head, unless its quadratic is the loss itself.
        predicted: what the local quadratic says it is; NaN for others.
        gap: estimate of value - minimum.
        steps: over all rows, after the start.
        passes: over all rows.
        converged: None where the exact optimum was not asked for.
    """

    theta: Tensor
    mean: Tensor
    constant: Constant
    value: float
    predicted: float = math.nan
    gap: float = math.nan
    steps: int = 0
    passes: int = 1
    converged: bool | None = None

    @property
    def weight(self) -> Tensor:
        """W (d, k)."""
        return self.theta[:, :-1]

    @property
    def bias(self) -> Tensor:
        """B (d,)."""
        return self.theta[:, -1] - self.weight @ self.mean


@dataclass(frozen=True)
class Problem:
    """A head to be found.

    Attributes:
        rows: checked data.
        loss: of the outputs.
        width: d.
        bias: whether the head has one.
        refine: 0, a number of steps, or "exact".
        tolerance: relative gap at which the optimum counts as reached.
        max_steps: most steps to it.
        progress: whether to show a progress bar.
    """

    rows: Rows
    loss: Loss
    width: int
    bias: bool = True
    refine: Refine = 0
    tolerance: float = 1e-9
    max_steps: int = 200
    progress: bool = False

    @property
    def whole(self) -> bool:
        """Whether the local solution of all rows is the start: else that of a sample, which costs no pass."""
        return self.refine != "exact" or not self.rows.in_memory or isinstance(self.loss, MeanSquare)

    @cached_property
    def local(self) -> Local | None:
        """The local problem, of all rows or of a sample; None for features too wide for their covariance."""
        if self.rows.width > SQUARE:
            return None
        canonical = isinstance(self.loss, CanonicalLoss)
        constant = None if self.whole and canonical else self._constant
        rows = self.rows if self.whole else self.rows.sample(SAMPLE)
        return local_of(rows.raw(), self.loss, self.width, constant, self.bias)

    @cached_property
    def _constant(self) -> Constant:
        if self.rows.in_memory:
            return constant_of(self.loss, self.rows.y, self.rows.w, self.width, self.bias)
        parts = [(y, w) for _, y, w in self.rows.raw()]
        weights = None if parts[0][1] is None else torch.cat([w for _, w in parts if w is not None])
        return constant_of(self.loss, torch.cat([y for y, _ in parts]), weights, self.width, self.bias)

    @cached_property
    def constant(self) -> Constant:
        """The best constant output."""
        return self._constant if self.local is None else self.local.constant

    @cached_property
    def geometry(self) -> tuple[Tensor, Geometry]:
        """What features are centred by (k,), about the mean, and Σ (its diagonal for wide features)."""
        if self.local is not None:
            return self.local.mean, Geometry(self.local.covariance)
        mean = self.rows.mean if self.bias else torch.zeros(self.rows.width, dtype=torch.float64)
        return mean, Geometry(self.rows.second_moment - mean.square())

    @cached_property
    def precision(self) -> torch.dtype:
        """In which the products of early steps run."""
        small = self.rows.count * self.rows.width <= SINGLE or self.rows.is_sparse
        return torch.float64 if small or isinstance(self.loss, MeanSquare) else torch.float32

    def start(self, weight_decay: float) -> Tensor:
        """The local solution of all rows, or the best constant."""
        if self.whole and self.local is not None:
            return self.local.solve(weight_decay)
        theta = torch.zeros(self.width, self.rows.width + 1, dtype=torch.float64)
        theta[:, -1] = self.constant.action
        return theta


def fit(problem: Problem, weight_decay: float) -> Fit:
    """The head of a problem at λ."""
    return fit_path(problem, [weight_decay])[0]


def fit_path(problem: Problem, weight_decays: list[float]) -> list[Fit]:
    """The heads of a problem at several λ, each search starting from the last head; one geometry serves all."""
    dual = dual_of(problem.rows, problem.bias) if is_wide(problem.rows) else None
    inner = problem if dual is None else replace(problem, rows=dual.rows)
    heads: list[Fit] = []
    for weight_decay in weight_decays:
        last = heads[-1].theta if heads and problem.refine == "exact" else None
        heads.append(_search(inner, weight_decay, last))
    if dual is None:
        return heads
    return [replace(head, theta=dual.back(head.theta), mean=dual.mean) for head in heads]


def _search(problem: Problem, weight_decay: float, start: Tensor | None) -> Fit:
    """The one-pass head, or the search from it."""
    rows, device = problem.rows, problem.rows.device
    exact = problem.refine == "exact"
    theta = problem.start(weight_decay) if start is None else start
    if problem.refine == 0 and problem.local is not None:
        predicted = problem.local.predicted(theta, weight_decay)
        value = predicted if isinstance(problem.loss, MeanSquare) else math.nan
        return Fit(theta.to(device), problem.local.mean.to(device), problem.constant, value, predicted)
    mean, geometry = problem.geometry
    mean, geometry, theta = mean.to(device), geometry.to(device), theta.to(device)
    objective = Objective(
        problem.loss, rows, weight_decay, mean if problem.bias else None, problem.precision, problem.precision
    )
    level = problem.constant.loss
    if problem.refine == 0:
        gradient, sample = objective.evaluate(theta)[1], rows.sample(SAMPLE)
        step = newton_step(objective, geometry, theta, gradient, sample, TIGHT)
        done = Optimum(theta + step, math.nan, math.nan, 0, True)
    elif not exact:
        steps = int(problem.refine)
        done = minimise(objective, geometry, theta, 0.0, steps, level, problem.progress)
    else:
        search = minimise_from_constant if start is None else minimise
        done = search(
            objective, geometry, theta, problem.tolerance, problem.max_steps, level, problem.progress
        )
    return Fit(
        theta=done.theta,
        mean=mean,
        constant=problem.constant,
        value=done.value,
        gap=done.gap,
        steps=done.steps,
        passes=objective.passes + 1,
        converged=done.converged if exact else None,
    )
