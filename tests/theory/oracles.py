"""Dense, slow and obvious answers in float64, reached by other routes than the library's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

EPSILONS = (0.3, 0.1, 0.03, 0.01)

Array = NDArray[np.float64]
LossTable = Callable[[Tensor], Tensor]
"""Maps outputs (m, d) to the loss of every output under every y: (m, |Y|)."""


def random_margin(rng: np.random.Generator, size: int) -> Array:
    """A distribution none of whose entries is rare."""
    weights = 0.5 + rng.random(size)
    return weights / weights.sum()


def random_joint(seed: int, rows: int, columns: int, epsilon: float, rank: int | None = None) -> Tensor:
    """P = P_X P_Y (1 + ε D) with Σ P_X P_Y D² = 1, so that the dependence is ε exactly; the same D for every ε."""
    rng = np.random.default_rng(seed)
    p_x, p_y = random_margin(rng, rows), random_margin(rng, columns)
    rank = min(rows, columns) - 1 if rank is None else rank
    for _ in range(1000):
        canonical = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
        canonical -= np.outer(np.sqrt(p_x), np.sqrt(p_x) @ canonical)
        canonical -= np.outer(canonical @ np.sqrt(p_y), np.sqrt(p_y))
        canonical /= np.linalg.norm(canonical)
        contrast = canonical / np.sqrt(np.outer(p_x, p_y))
        if (1 + max(EPSILONS) * contrast > 0.02).all():
            return torch.from_numpy(np.outer(p_x, p_y) * (1 + epsilon * contrast))
    raise AssertionError("no positive joint found: change the seed or the shape")


def canonical_dependence(joint: Tensor) -> Array:
    """(P_XY - P_X P_Y) / √(P_X P_Y), (|X|, |Y|), from the table alone."""
    table = joint.numpy()
    product = np.outer(table.sum(1), table.sum(0))
    return (table - product) / np.sqrt(product)


def log_loss(outputs: Tensor) -> Tensor:
    """-log softmax(z)_y for every y."""
    return outputs.logsumexp(1, keepdim=True) - outputs


def squared(values: Tensor) -> LossTable:
    """Mean over outputs of (z - v)²."""
    return lambda outputs: (outputs[:, None, :] - values).square().mean(-1)


def logistic(values: Tensor) -> LossTable:
    """Mean over outputs of log(1 + e^z) - z v."""
    return lambda outputs: (
        torch.logaddexp(outputs, torch.zeros_like(outputs))[:, None, :] - outputs[:, None, :] * values
    ).mean(-1)


def poisson(values: Tensor) -> LossTable:
    """Mean over outputs of e^z - z v."""
    return lambda outputs: (outputs.exp()[:, None, :] - outputs[:, None, :] * values).mean(-1)


def log_cosh(output: Tensor, target: Tensor) -> Tensor:
    """Σ log cosh(z - v) over outputs plus a pseudo-Huber norm that couples them, as a user would write a loss."""
    gap = output - target
    smooth = gap.abs() + torch.log1p(torch.exp(-2 * gap.abs()))
    return smooth.sum(-1) + 0.3 * ((1 + gap.square().sum(-1)).sqrt() - 1)


def table_of(function: Callable[[Tensor, Tensor], Tensor], values: Tensor) -> LossTable:
    """The loss table of a per-sample function that broadcasts."""
    return lambda outputs: function(outputs[:, None, :], values)


@dataclass(frozen=True)
class Minimum:
    """Where a search ended: parameters, value, and the norm of the gradient there."""

    parameters: list[Tensor]
    value: float
    gradient: float


LEVEL = 1e-11  # rounding of a loss of order 1, in units of the square of the smallest ε


def minimise(
    function: Callable[..., Tensor],
    starts: Sequence[Tensor],
    units: Sequence[float] = (),
    descend: bool = True,
) -> Minimum:
    """A minimum of a smooth function of several tensors: L-BFGS, then damped Newton steps to rounding.

    Args:
        function: scalar of the tensors.
        starts: where the search begins.
        units: size of a typical change of each tensor; the search runs in these units, so that it is conditioned
            alike for every ε. The gradient returned is in the caller's own units.
        descend: False to go to Newton's steps at once, for a local search that must not jump.
    """
    units = tuple(units) or (1.0,) * len(starts)
    shapes, sizes = [start.shape for start in starts], [start.numel() for start in starts]
    origin = torch.cat([start.reshape(-1).to(torch.float64) for start in starts])
    unit = torch.cat([torch.full((n,), u, dtype=torch.float64) for n, u in zip(sizes, units, strict=True)])
    worth = min(units) ** 2

    def unpack(point: Tensor) -> list[Tensor]:
        parts = (origin + unit * point).split(sizes)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    level = function(*unpack(torch.zeros_like(origin))).item()

    def scaled(point: Tensor) -> Tensor:
        return (function(*unpack(point)) - level) / worth

    def both(vector: Array) -> tuple[float, Array]:
        leaf = torch.from_numpy(vector).requires_grad_()
        value = scaled(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.numpy()

    point = np.zeros(len(origin))
    if descend:
        options = {"maxiter": 300, "ftol": 0.0, "gtol": 1e-5, "maxcor": 30}
        point = optimize.minimize(both, point, jac=True, method="L-BFGS-B", options=options).x
    point = _newton(both, torch.func.jacrev(torch.func.grad(scaled)), point)
    _, gradient = both(point)
    parts = unpack(torch.from_numpy(point))
    slope = float(np.linalg.norm(gradient * worth / unit.numpy()))
    return Minimum(parts, function(*parts).item(), slope)


def _newton(
    both: Callable[[Array], tuple[float, Array]], hessian: Callable[[Tensor], Tensor], point: Array
) -> Array:
    """Newton steps in |eigenvalues| of the Hessian, damped until they lower the value or the gradient."""
    value, gradient = both(point)
    damping = 1e-3
    for _ in range(200):
        curvature, basis = np.linalg.eigh(hessian(torch.from_numpy(point)).detach().numpy())
        size, slope = np.abs(curvature), basis.T @ gradient
        while damping < 1e8:
            step = basis @ (slope / (size + damping * size.max()))
            trial, steep = both(point - step)
            level = abs(trial - value) < LEVEL * (1 + abs(value))
            if trial < value - LEVEL or (level and np.linalg.norm(steep) < 0.9 * np.linalg.norm(gradient)):
                point, value, gradient, damping = point - step, trial, steep, max(damping / 10, 1e-15)
                break
            damping *= 10
        else:
            break
        if np.linalg.norm(gradient) < 1e-10:
            break
    return point


def network_loss(
    joint: Tensor, table: LossTable, tail: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """E[loss(g(W f(X) + b), Y)] as a function of weight (n, k), bias (n,) and feature (|X|, k)."""

    def loss(weight: Tensor, bias: Tensor, feature: Tensor) -> Tensor:
        z = feature @ weight.T + bias
        return (joint * table(z if tail is None else tail(z))).sum()

    return loss


def train_from_scratch(
    joint: Tensor, table: LossTable, outputs: int, width: int, epsilon: float, seed: int, starts: int = 1
) -> Minimum:
    """The network one-hot x -> feature -> weight, bias -> loss, trained jointly from random starts."""
    loss = network_loss(joint, table)
    generator = torch.Generator().manual_seed(seed)
    still = torch.zeros(outputs, 1), torch.zeros(len(joint), 1)
    bias = minimise(lambda constant: loss(still[0], constant, still[1]), [still[0][:, 0]]).parameters[0]
    found = []
    for _ in range(starts):
        weight = epsilon * torch.randn(outputs, width, generator=generator, dtype=torch.float64)
        feature = torch.randn(len(joint), width, generator=generator, dtype=torch.float64)
        found.append(minimise(loss, [weight, bias, feature], (epsilon, epsilon, 1.0)))
    return min(found, key=lambda minimum: minimum.value)


def given_entropy(joint: Tensor) -> float:
    """H(Y | X) in nats, from the table alone."""
    table = joint.numpy()
    return float(-(table * np.log(table / table.sum(1, keepdims=True))).sum())


def order(errors: Sequence[Sequence[float]], epsilons: Sequence[float] = EPSILONS) -> float:
    """Slope on log-log axes of the worst |error| over problems (rows) against ε.

    The worst case, because a single problem's error may change sign between two ε and then says nothing.
    """
    worst = np.abs(np.asarray(errors)).max(axis=0)
    return float(np.polyfit(np.log(epsilons), np.log(worst), 1)[0])
