"""Bayes action of a layer, and the scores and metric of the loss at it.

The Bayes action is the one constant vector c (n,) that a layer would best put out if it knew nothing of x:
``c = argmin_z E_Y[loss(g(z), Y)]``, where the tail g is everything after the layer. Canonical losses have it in closed
form at the output (g = identity). Elsewhere it is found by damped Gauss-Newton steps in the d-dimensional output
space, so that a wide layer never needs an (n, n) solve, then by Newton steps with the exact Hessian where the tail
cannot reach the output's own Bayes action. The minimiser nearest the start is taken: with n > d it is not unique.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from featgeo.theory.linalg import ThinSVD, thin_svd
from featgeo.theory.losses import CanonicalLoss
from featgeo.theory.point import OperatingPoint
from featgeo.theory.risk import CanonicalRisk, Risk, hessian_of

Tail = Callable[[Tensor], Tensor]

SATURATED = 1e-3  # a neuron whose derivative fell below this fraction of its largest at the probes
MAX_STEPS = 200
PATIENCE = 10  # evaluations of an inexact tail within which the search must
SLOW = 1e-2  # lower the loss by this share of what it has lowered it by so far
LEVEL = 1e-14  # a promised decrease below this fraction of the loss is lost in its rounding: converged
NEWTON_WIDTH = 256  # widest layer for which the exact Hessian is formed
FLAT = 1e-8  # slope without curvature above which there is no minimum yet (beyond the knee of a Huber loss)
COARSE = 2e-6  # the same where outputs and targets were summed in single precision: sixteen of its roundings


def jacobian_of(tail: Tail, point: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Output g(z) (d,) and Jacobian ∂g/∂z (d, n) at one point (n,), by one batched backward pass.

    Args:
        tail: maps z (m, n) to outputs (m, d).
        point: z.
        width: d, where it is known: it saves a forward pass.
    """
    width = width or tail(point[None]).shape[1]
    with torch.enable_grad():
        rows = point.detach().expand(width, -1).clone().requires_grad_()
        outputs = tail(rows)
        if not outputs.requires_grad:
            return outputs[0], point.new_zeros(width, len(point))
        (jacobian,) = torch.autograd.grad(outputs.diagonal().sum(), rows, materialize_grads=True)
    return outputs[0].detach(), jacobian.detach()


def _stalled(reached: list[float]) -> bool:
    """Whether the lowest losses after each evaluation hardly fall any more."""
    before = reached[max(0, len(reached) - 1 - PATIENCE)]
    return len(reached) > PATIENCE and before - reached[-1] < SLOW * (reached[0] - reached[-1])


class _Place(NamedTuple):
    """An action z (n,), the tail's output g(z) (d,) and its Jacobian ∂g/∂z (d, n) there."""

    action: Tensor
    output: Tensor
    jacobian: Tensor

    @classmethod
    def at(cls, tail: Tail, action: Tensor, width: int | None = None) -> _Place:
        """Read the tail there; its width d, where it is known, saves a forward pass."""
        return cls(action, *jacobian_of(tail, action, width))


def _describe(risk: Risk, place: _Place, tolerance: float, steps: int, bare: bool = False) -> OperatingPoint:
    """The operating point at an action, without the saturation test; bare where the tail is the identity."""
    flat = FLAT if tolerance < LEVEL else COARSE
    action, output, jacobian = place
    residual, outer = risk.gradient(output), risk.factor(output)
    readout = thin_svd(outer)
    factor = outer if bare else outer @ jacobian
    curvature = readout if bare else thin_svd(factor)
    decrement = _decrement(curvature, jacobian.T @ residual, flat)
    loss = risk.value(output[None])[0].item()
    return OperatingPoint(
        action, output, residual, jacobian, factor, curvature, readout, loss, decrement,
        _decrement(readout, residual, flat), decrement <= tolerance * max(1.0, abs(loss)), steps, (),
    )  # fmt: skip


def _decrement(svd: ThinSVD, gradient: Tensor, flat: float) -> float:
    """½ gᵀH⁺g with H = RᵀR: the decrease that a full Newton step promises; infinite for a slope without curvature."""
    along = svd.right.T @ gradient
    if (gradient - svd.right @ along).norm() > flat:
        return math.inf
    return 0.5 * (along / svd.values).square().sum().item()


@np.errstate(all="ignore")  # what is no number leads to no step
def _damped(
    risk: Risk, tail: Tail, start: _Place, tolerance: float, hasty: bool = False
) -> tuple[_Place, int]:
    """Levenberg-Marquardt from a start; every accepted step lowers the loss.

    The damping begins at the size of the metric and falls only where the quadratic has predicted the decrease well,
    so that the search does not leap over the nearest minimum into saturation. A hasty search gives up where the loss
    hardly falls any more: a deep network's tail is dear, and rough down to its rounding.
    """
    place, damping, steps = start, 1.0, 0
    current = risk.value(place.output[None])[0].item()
    reached = [current]
    while steps < MAX_STEPS:
        steps += 1
        svd = thin_svd(risk.factor(place.output) @ place.jacobian)
        gradient = place.jacobian.T @ risk.gradient(place.output)
        along = svd.right.T @ gradient
        uncurved = gradient - svd.right @ along
        steep = uncurved.norm().item()
        steep = steep if steep > (COARSE if hasty else FLAT) else 0.0
        slope, sizes = along.numpy(), svd.values.numpy()  # a few numbers: with torch it would take longer
        promise, curvature = 0.5 * ((slope / sizes) ** 2).sum(), sizes**2
        if promise <= tolerance * max(1.0, abs(current)) and not steep:
            break
        largest = max([steep, *curvature[:1]])
        while damping < 1e12:
            ridge = damping * largest
            move = slope / (curvature + ridge)
            step = svd.right @ torch.from_numpy(move)
            step = step + uncurved / ridge if steep else step
            there = _Place.at(tail, place.action - step, len(place.output))
            trial = risk.value(there.output[None])[0].item()
            reached.append(min(trial, current))
            if hasty and _stalled(reached):
                return (there if trial < current else place), steps
            predicted = slope @ move - 0.5 * curvature @ move**2 + (steep**2 / ridge if steep else 0.0)
            if trial < current:
                faithful = current - trial > 0.75 * predicted
                damping = max(damping / 10, 1e-15) if faithful else damping
                place, current = there, trial
                break
            damping *= 4
        else:
            break
    return place, steps


def _polished(risk: Risk, tail: Tail, place: _Place) -> _Place:
    """Gauss-Newton steps of least length where the loss is level to rounding: their gradients still tell.

    Differences of the loss place its minimum to half of the digits only, and what follows from it no better.
    """
    while True:
        svd = thin_svd(risk.factor(place.output) @ place.jacobian)
        slope = svd.right.T @ (place.jacobian.T @ risk.gradient(place.output))
        there = _Place.at(tail, place.action - svd.right @ (slope / svd.values.square()), len(place.output))
        left = svd.right.T @ (there.jacobian.T @ risk.gradient(there.output))
        if not (left / svd.values).norm() < (slope / svd.values).norm() / 2:
            return place
        place = there


def _newton(risk: Risk, tail: Tail, start: _Place, steps: int) -> tuple[_Place, int]:
    """Newton steps with the exact Hessian, its eigenvalues taken in absolute value, halved until the loss falls."""

    def value(rows: Tensor) -> Tensor:
        return risk.value(tail(rows))

    place, current = start, value(start.action[None]).item()
    for _ in range(MAX_STEPS):
        steps += 1
        gradient = place.jacobian.T @ risk.gradient(place.output)
        values, vectors = torch.linalg.eigh(hessian_of(value, place.action))
        size = values.abs().clamp_min(1e-12 * values.abs().max().item() + 1e-300)
        step = vectors @ ((vectors.T @ gradient) / size)
        for _ in range(40):
            trial = value((place.action - step)[None]).item()
            if trial < current:
                there = _Place.at(tail, place.action - step, len(place.output))
                break
            step = step / 2
        else:  # the loss is level to rounding: whether a full step is one towards the minimum, its gradient says
            trial, step = current, vectors @ ((vectors.T @ gradient) / size)
            there = _Place.at(tail, place.action - step, len(place.output))
            if not (there.jacobian.T @ risk.gradient(there.output)).norm() < gradient.norm() / 2:
                return place, steps
        place, current = there, trial
        if (gradient @ step).abs().item() < 1e-22 * max(1.0, abs(current)):
            return place, steps
    return place, steps


def _judged(
    risk: Risk, point: OperatingPoint, probes: list[_Place], precision: torch.dtype
) -> OperatingPoint:
    """The point with the neurons named whose derivative is a vanishing fraction of what it is at some probe.

    Those whose derivative has lost half of its digits are left out of its Jacobian: where a search that runs to
    saturation ends is chance, and so would be what is made of them.
    """
    reference = torch.stack([probe.jacobian.norm(dim=0) for probe in probes]).amax(0)
    size = point.jacobian.norm(dim=0)
    saturated = ((size < SATURATED * reference) & (reference > 0)).nonzero()[:, 0]
    point = replace(point, saturated=tuple(saturated.tolist()))
    lost = size < torch.finfo(precision).eps ** 0.5 * reference
    if not point.jacobian[:, lost].any():
        return point
    jacobian = point.jacobian.masked_fill(lost, 0.0)
    factor = risk.factor(point.output) @ jacobian
    return replace(point, jacobian=jacobian, factor=factor, curvature=thin_svd(factor))


def bayes_action(
    risk: Risk,
    tail: Tail | None = None,
    start: Tensor | None = None,
    probes: list[Tensor] | None = None,
    precision: torch.dtype = torch.float64,
) -> OperatingPoint:
    """The constant action that minimises the risk through the tail.

    Args:
        risk: expected loss as a function of the output.
        tail: maps z (m, n) to outputs (m, d); None for an output layer, g = identity.
        start: z (n,) from which to search; the minimiser nearest to it is found. Needed unless the action has a
            closed form.
        probes: further z (n,) at which the neurons' usual derivatives are read, for the saturation test.
        precision: the precision in which the tail computes.

    Returns:
        The operating point, with its convergence report. Saturation is reported, never hidden.
    """
    tolerance = 1e-20 if precision == torch.float64 else torch.finfo(precision).eps ** 1.5
    if tail is None and isinstance(risk, CanonicalRisk) and isinstance(risk.loss, CanonicalLoss):
        action, cut = risk.loss.action(risk.mean)
        point = _describe(risk, _Place(action, action, torch.eye(len(action)).to(action)), 1e-12, 0, True)
        saturated = tuple(int(i) for i in cut.nonzero()[:, 0])
        return replace(point, saturated=saturated, converged=True)
    if start is None:
        raise TypeError("a search for the Bayes action needs a start")
    through = tail if tail is not None else _identity
    origin = _Place.at(through, start.to(torch.float64))
    place, steps = _damped(risk, through, origin, tolerance, hasty=precision != torch.float64)
    point = _describe(risk, place, tolerance, steps)
    if precision == torch.float64 and point.reached:
        place = _polished(risk, through, place)
        point = _describe(risk, place, tolerance, steps)
    exact = precision == torch.float64 and len(place.action) <= NEWTON_WIDTH
    if exact and not (point.converged and point.reached):
        place, steps = _newton(risk, through, place, steps)
        point = _describe(risk, place, tolerance, steps)
    level = point.decrement <= max(tolerance, LEVEL) * max(1.0, abs(point.loss))
    point = replace(point, converged=level, tolerance=tolerance)
    if tail is None:
        return point
    others = [torch.zeros_like(origin.action), *(probes or [])]
    usual = [origin, *(_Place.at(tail, other, len(place.output)) for other in others)]
    return _judged(risk, point, usual, precision)


def _identity(z: Tensor) -> Tensor:
    return z
