"""The local solution of a head from moments: W* = -H⁺ C Σ⁺, with L2 that of H W Σ + λW = -C; one pass over the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featgeo.apply.objective import scores_of
from featgeo.data.moments import Companion, MomentStream
from featgeo.errors import FeatgeoError
from featgeo.theory.bayes import bayes_action
from featgeo.theory.layer import optimal_weight
from featgeo.theory.linalg import ThinSVD, Whitener, thin_svd, whiten
from featgeo.theory.losses import CanonicalLoss, Loss
from featgeo.theory.risk import CanonicalRisk, Risk, make_risk

DUST = 1e-11  # variance left after a subtraction, relative to what it was, that is rounding

Raw = Iterable[tuple[Any, Tensor, Tensor | None]]
Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Constant:
    """The best constant output, or 0 for a head without a bias.

    Attributes:
        action: c (d,) float64.
        factor: R (r, d) with RᵀR = H there.
        loss: expected loss there.
        infinite: outputs whose best constant is infinite: an absent class, a label that never varies.
        converged: whether it was found.
    """

    action: Tensor
    factor: Tensor
    loss: float
    infinite: tuple[int, ...] = ()
    converged: bool = True

    @classmethod
    def of(cls, risk: Risk, width: int, bias: bool) -> Constant:
        """From the expected loss of a constant."""
        zero = torch.zeros(width, dtype=torch.float64)
        if not bias:
            return cls(zero, risk.factor(zero), risk.value(zero[None])[0].item())
        point = bayes_action(risk, start=zero)
        factor = point.factor
        if not factor.any() or not torch.isfinite(point.action).all():
            raise FeatgeoError(
                "targets",
                "one class only, or a loss without curvature at the best constant",
                "Pass two classes at least and a strictly convex loss.",
            )
        return cls(point.action, factor, point.loss, point.saturated, point.converged)


def constant_of(loss: Loss, y: Tensor, w: Tensor | None, width: int, bias: bool) -> Constant:
    """The best constant for checked targets (m, ...) with weights (m,)."""
    y = y.cpu()
    weights = torch.ones(len(y), dtype=torch.float64) if w is None else w.cpu()
    if not isinstance(loss, CanonicalLoss):  # equal targets are evaluated once
        y, place = torch.unique(y, dim=0, return_inverse=True)
        weights = torch.zeros(len(y), dtype=torch.float64).index_add_(0, place, weights)
        y = y.to(torch.float64) if y.is_floating_point() else y
    return Constant.of(make_risk(loss, y, weights / weights.sum(), width), width, bias)


def _statistic(loss: Loss, width: int, constant: Constant | None) -> Statistic:
    """T(y), or minus the score at the constant for a loss without a statistic."""
    if isinstance(loss, CanonicalLoss):
        canonical = loss  # for the closure
        return lambda y: canonical.statistic(y, width)
    assert constant is not None
    action = constant.action

    def minus_score(y: Tensor) -> Tensor:
        y = y.to(torch.float64) if y.is_floating_point() else y
        return -scores_of(loss, action.to(y.device).expand(len(y), -1).clone(), y)

    return minus_score


@dataclass(frozen=True)
class Local:
    """The local problem of a linear head, float64 on the CPU.

    Attributes:
        total: sum of the sample weights.
        count: number of rows.
        mean: μ (k,), zero for a head without a bias.
        covariance: Σ (k, k), about that mean.
        cross: K = -C (d, k).
        constant: the best constant.
        precision: in which products were summed.
    """

    total: float
    count: int
    mean: Tensor
    covariance: Tensor
    cross: Tensor
    constant: Constant
    precision: torch.dtype

    @cached_property
    def factor(self) -> ThinSVD:
        """Of the loss's metric."""
        return thin_svd(self.constant.factor)

    @cached_property
    def whitener(self) -> Whitener:
        """Of the features."""
        return whiten(self.covariance, self.precision)

    @cached_property
    def _basis(self) -> tuple[Tensor, Tensor]:
        values, basis = torch.linalg.eigh(self.covariance)
        return values.clamp_min(0), basis

    def solve(self, weight_decay: float) -> Tensor:
        """θ = [W | b̃] (d, k + 1) with b̃ = b + Wμ."""
        weight = optimal_weight(
            self.factor, self.cross, self.covariance, weight_decay, None if weight_decay else self.whitener
        )
        return torch.cat([weight, self.constant.action[:, None]], dim=1)

    def path(self, weight_decays: list[float]) -> list[Tensor]:
        """θ for several λ, from one eigendecomposition (λ = 0 as in :meth:`solve`)."""
        values, basis = self._basis
        turned = self.factor.right.T @ self.cross @ basis
        scale = self.factor.values.square()[:, None] * values
        thetas = []
        for decay in weight_decays:
            if decay == 0:
                thetas.append(self.solve(0.0))
                continue
            weight = self.factor.right @ (turned / (scale + decay)) @ basis.T
            thetas.append(torch.cat([weight, self.constant.action[:, None]], dim=1))
        return thetas

    def predicted(self, theta: Tensor, weight_decay: float) -> float:
        """The penalised loss that the quadratic gives θ."""
        weight = theta[:, :-1]
        seen = self.constant.factor @ weight
        bend = (seen @ self.covariance * seen).sum() + weight_decay * weight.square().sum()
        return self.constant.loss + (0.5 * bend - (weight * self.cross).sum()).item()


@dataclass(frozen=True)
class Sums:
    """What a pass leaves of some rows: weighted sums about one shift s, so that parts add up and can be taken out.

    Attributes:
        count: number of rows.
        total: Σ w.
        shift: s (k,).
        first: Σ w (x - s) (k,).
        second: Σ w (x - s)(x - s)ᵀ (k, k).
        cross: Σ w T (x - s)ᵀ (d, k).
        sides: Σ w T (d,).
        base: Σ w h.
        precision: in which products were summed.
    """

    count: int
    total: float
    shift: Tensor
    first: Tensor
    second: Tensor
    cross: Tensor
    sides: Tensor
    base: float
    precision: torch.dtype

    def plus(self, other: Sums, sign: int = 1) -> Sums:
        """Both together, or with ``sign=-1`` the first without the second."""
        names = ("count", "total", "first", "second", "cross", "sides", "base")
        result = replace(self, **{n: getattr(self, n) + sign * getattr(other, n) for n in names})
        if sign > 0:
            return result
        spread = (
            self.second.diagonal()
        )  # a feature that varies in the part taken out only leaves rounding behind
        rest = result.second.diagonal() - result.first.square() / max(result.total, 1e-300)
        live = (rest > DUST * spread).to(torch.float64)
        second = result.second * live.outer(live)
        return replace(result, first=result.first * live, second=second, cross=result.cross * live)

    def local(self, loss: Loss, constant: Constant | None, bias: bool) -> Local:
        """The local problem about the weighted mean (about 0 without a bias)."""
        mean = self.sides / self.total
        if constant is None:
            assert isinstance(loss, CanonicalLoss)
            constant = Constant.of(CanonicalRisk(loss, mean, self.base / self.total), len(mean), bias)
        step, second = self.first / self.total, self.second / self.total
        if bias:
            level, second = mean, second - step.outer(step)
        else:  # a statistic that is the score already has no level
            level = loss.mean(constant.action) if isinstance(loss, CanonicalLoss) else torch.zeros_like(mean)
        return Local(
            total=self.total,
            count=self.count,
            mean=self.shift + step if bias else torch.zeros_like(step),
            covariance=second,
            cross=self.cross / self.total - level.outer(step),
            constant=constant,
            precision=self.precision,
        )


def shift_of(x: Any, bias: bool) -> Tensor:
    """What the sums are taken about: the mean of a block; 0 for a head without a bias."""
    if not bias:
        return torch.zeros(x.shape[1], dtype=torch.float64)
    return x.mean(0) if isinstance(x, Tensor) else torch.from_numpy(np.ravel(x.mean(0)))


class SumStream:
    """Accumulates :class:`Sums`. Sums with weights are those of the plain rows √w (x - s) and √w T.

    Args:
        loss: of the outputs.
        width: d.
        constant: the best constant, which losses without a statistic need.
        shift: s (k,).
    """

    def __init__(self, loss: Loss, width: int, constant: Constant | None, shift: Tensor) -> None:
        self._stream, self._statistic = MomentStream("features"), _statistic(loss, width, constant)
        self._loss, self._shift = loss, shift
        self._total, self._base = 0.0, 0.0
        self._sides = torch.zeros(width, dtype=torch.float64)

    def add(self, x: Any, y: Tensor, w: Tensor | None) -> None:
        """Count a block."""
        x = x if isinstance(x, Tensor) else torch.from_numpy(x.toarray())
        weights = torch.ones(len(x), dtype=torch.float64, device=x.device) if w is None else w
        sides = self._statistic(y)
        self._sides += (weights.to(sides.device) @ sides.to(torch.float64)).cpu()
        self._total += weights.sum().item()
        if isinstance(self._loss, CanonicalLoss):
            self._base += (weights @ self._loss.base(y)).item()
        companion = torch.cat([torch.ones_like(x[:, :1]), sides.to(x)], dim=1)
        rows = x - self._shift.to(x)
        if w is not None:
            root = w.sqrt().to(x)[:, None]
            companion, rows = companion * root, rows.mul_(root)
        rows = self._stream.centre(rows)[0]
        self._stream.add(rows, Companion.of(companion, torch.zeros_like(companion[0])))

    def result(self) -> Sums:
        """The sums of everything added."""
        found = self._stream.result().to("cpu")
        cross = found.cross_covariance + found.companion.outer(found.mean)
        cross.mul_(found.count)  # the first row: Σ w (x - s)
        return Sums(
            count=found.count,
            total=self._total,
            shift=self._shift.to("cpu", torch.float64),
            first=cross[0],
            second=(found.covariance + found.mean.outer(found.mean)).mul_(found.count),
            cross=cross[1:],
            sides=self._sides,
            base=self._base,
            precision=self._stream.precision,
        )


def local_of(raw: Raw, loss: Loss, width: int, constant: Constant | None, bias: bool) -> Local:
    """The local problem of some rows, in one pass.

    Args:
        raw: blocks (x, y, w) with checked targets.
        loss: of the outputs.
        width: d.
        constant: the best constant, where it is known; losses without a statistic need it.
        bias: whether the head has one; without, features are not centred and the expansion is about 0.
    """
    stream: SumStream | None = None
    for x, y, w in raw:
        stream = stream or SumStream(loss, width, constant, shift_of(x, bias))
        stream.add(x, y, w)
    if stream is None:
        raise FeatgeoError("features", "no samples", "Pass at least two.")
    return stream.result().local(loss, constant, bias)
