"""The exact optimum of one layer z(x) = W f(x) + b with free features, by Newton's method to rounding.

This is what the theorem's quadratic is measured against, so it uses nothing of the quadratic but a start. The loss is
Σ_x P_X(x) ℓ_x(z(x)) with ℓ_x(z) = E[loss(g(z), Y) | X=x]; its Hessian in (b, W, f) follows from the |X| blocks of the
Hessian in z and from the bilinear form of z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featgeo.theory.local import LocalProblem, Solution
from featgeo.theory.losses import CanonicalLoss

Array = NDArray[np.float64]
RowLoss = Callable[[Tensor], Tensor]
"""Pre-activations z (|X|, n), one row for every x, to ℓ_x(z(x)) (|X|,)."""

STEPS = 200
DECREMENT = (
    1e-24  # promised decrease, in loss units, at which a search ends: far below what a float64 loss resolves
)


@dataclass(frozen=True)
class Optimum:
    """Parameters, loss, and how sharply the search ended.

    Attributes:
        weight: W (n, k).
        bias: b (n,).
        feature: f (|X|, k).
        loss: E[loss], in loss units.
        gradient: norm of the gradient there, in units in which f and W/ε are of order 1.
        decrement: further decrease that Newton's step promises.
        steps: iterations used.
    """

    weight: Tensor
    bias: Tensor
    feature: Tensor
    loss: float
    gradient: float
    decrement: float
    steps: int


def row_losses(problem: LocalProblem) -> RowLoss:
    """ℓ_x of a local problem with a canonical loss."""
    loss = problem.loss
    assert isinstance(loss, CanonicalLoss)
    width = len(problem.point.output)
    conditional = problem.joint / problem.p_x[:, None]
    mean = conditional @ loss.statistic(problem.targets, width).to(torch.float64)
    base = conditional @ loss.base(problem.targets)

    def rows(z: Tensor) -> Tensor:
        outputs = z if problem.tail is None else problem.tail(z)
        return loss.log_partition(outputs) - (outputs * mean).sum(-1) + base

    return rows


def optimise(
    rows: RowLoss, p_x: Tensor, start: Solution | Optimum, scale: float, steps: int = STEPS
) -> Optimum:
    """Minimise over W, b and f together, from a start, without jumps: every step is damped until the loss falls.

    Args:
        rows: ℓ_x.
        p_x: P_X (|X|,).
        start: where the search begins.
        scale: typical size of W and of changes of b (ε); f is of order 1.
        steps: at most.
    """
    n, k = start.weight.shape
    size = len(p_x)
    point = np.concatenate([start.bias, start.weight.reshape(-1), start.feature.reshape(-1)])
    units = np.concatenate([np.full(n + n * k, scale), np.ones(size * k)])
    value, gradient, hessian = _expand(rows, p_x, point, n, k, units)
    damping, decrement, step_number = 1e-3, np.inf, 0
    for step_number in range(1, steps + 1):  # noqa: B007
        curvature, basis = np.linalg.eigh(hessian)
        size_of, along = np.abs(curvature), basis.T @ gradient
        live = size_of > 1e-13 * size_of.max()  # the others are the gauge, where the gradient is zero
        decrement = float(0.5 * (along[live] ** 2 / size_of[live]).sum())
        if decrement < DECREMENT and curvature[live].min() > 0:
            break
        while damping < 1e8:
            step = basis @ (along / (size_of + damping * size_of.max()))
            trial = _value(rows, p_x, point - units * step, n, k)
            level = abs(trial - value) <= 4e-16 * (1 + abs(value))
            if trial < value or level:
                further = _expand(rows, p_x, point - units * step, n, k, units)
                if not level or np.linalg.norm(further[1]) < 0.9 * np.linalg.norm(gradient):
                    point, (value, gradient, hessian) = point - units * step, further
                    damping = max(damping / 30, 1e-14)
                    break
            damping *= 10
        else:
            break
    bias, weight, feature = (torch.from_numpy(part.copy()) for part in _split(point, n, k))
    return Optimum(
        weight, bias, feature, value, float(np.linalg.norm(gradient)) / scale**2, decrement, step_number
    )


def _split(point: Array, n: int, k: int) -> tuple[Array, Array, Array]:
    return point[:n], point[n : n + n * k].reshape(n, k), point[n + n * k :].reshape(-1, k)


def _z(point: Array, n: int, k: int) -> Tensor:
    bias, weight, feature = _split(point, n, k)
    return torch.from_numpy(bias + feature @ weight.T)


def _value(rows: RowLoss, p_x: Tensor, point: Array, n: int, k: int) -> float:
    with torch.no_grad():
        return float(p_x @ rows(_z(point, n, k)))


def _expand(
    rows: RowLoss, p_x: Tensor, point: Array, n: int, k: int, units: Array
) -> tuple[float, Array, Array]:
    """Value, gradient and Hessian in (b, W, f), the latter two in the given units."""
    z = _z(point, n, k).requires_grad_()
    total = p_x @ rows(z)
    (slopes,) = torch.autograd.grad(total, z, create_graph=True)
    blocks = torch.zeros(len(p_x), n, n, dtype=torch.float64)
    if slopes.requires_grad:
        for i in range(n):
            blocks[:, i] = torch.autograd.grad(slopes[:, i].sum(), z, retain_graph=True)[0]
    g, h = slopes.detach().numpy(), blocks.numpy()
    _, weight, feature = _split(point, n, k)
    jacobian = _jacobian(weight, feature)
    gradient = np.einsum("xi,xip->p", g, jacobian)
    hessian = np.einsum("xip,xiq->pq", jacobian, np.einsum("xij,xjq->xiq", h, jacobian), optimize=True)
    mixed = np.einsum("xi,jl->ijxl", g, np.eye(k)).reshape(n * k, -1)  # ∂²z_xi / ∂W_ij ∂f_xj = 1
    hessian[n : n + n * k, n + n * k :] += mixed
    hessian[n + n * k :, n : n + n * k] += mixed.T
    return float(total.detach()), gradient * units, hessian * np.outer(units, units)


def _jacobian(weight: Array, feature: Array) -> Array:
    """∂z(x)/∂(b, W, f): (|X|, n, n + n k + |X| k)."""
    (n, k), size = weight.shape, len(feature)
    by_weight = np.einsum("xj,il->xilj", feature, np.eye(n)).reshape(size, n, n * k)
    by_feature = np.einsum("ij,xy->xiyj", weight, np.eye(size)).reshape(size, n, size * k)
    return np.concatenate([np.broadcast_to(np.eye(n), (size, n, n)), by_weight, by_feature], axis=2)
