"""The gain available to features and its honest versions: H-scores of any loss, in loss units."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from featgeo.apply.transfer_sample import Sample, exact
from featgeo.theory.losses import CanonicalLoss
from featgeo.theory.noise import adjusted_gain
from featgeo.theory.risk import CanonicalRisk

SCALES = (-2, 0.5, 26)  # powers of ten of a head's scale, and how many


@dataclass(frozen=True)
class Estimate:
    """A score before it is dressed: value, the standard error of it, and what the method chose."""

    value: float
    standard_error: float
    bound: float = math.inf
    details: dict[str, float] | None = None


def standard_error(influence: Tensor) -> float:
    """Of an average whose samples have this influence (n,)."""
    return (influence.to(torch.float64).std() / math.sqrt(len(influence))).item()


def ceiling(sample: Sample) -> float:
    """What no gain exceeds: half the sum of the largest eigenvalues of Cov(q), as many as the features have axes."""
    values = torch.linalg.eigvalsh(sample.score_covariance).flip(0)
    return 0.5 * values[: len(sample.axes.values)].clamp_min(0).sum().item()


def gain(sample: Sample) -> Estimate:
    """½ tr(H⁺ C Σ⁺ Cᵀ), in the sample."""
    return _weighted(
        sample, torch.ones_like(sample.axes.values), 1.0, {"rank": float(len(sample.axes.values))}
    )


def adjusted(sample: Sample) -> Estimate:
    """The gain without what noise would give on average."""
    plain, rank = gain(sample), len(sample.axes.values)
    rest = len(sample) - 1 - rank
    value = adjusted_gain(plain.value, sample.score_covariance, rank, len(sample))
    error = plain.standard_error * (1 + rank / rest) if rest > 0 else math.nan
    return Estimate(value, error, plain.bound, plain.details)


def shrunk(sample: Sample) -> Estimate:
    """½ (1-α) tr(H⁺ C Σ_α⁺ Cᵀ) with Σ_α = (1-α) Σ + α I of standardised features, α by Ledoit and Wolf.

    Sources: S. Ibrahim, N. Ponomareva, R. Mazumder, "Newer is not always better: rethinking transferability metrics,
    their peculiarities, stability and performance", 2021, for cross-entropy and without the ½; O. Ledoit, M. Wolf, "A
    well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis 88(2), 2004.
    """
    values, count = sample.axes.values, len(sample)
    squares = [left.square() @ values for left in sample.axes.blocks()]
    noise = (
        torch.cat(squares).square().sum() - values.square().sum() / count
    )  # of the entries of Σ, all together
    distance = values.square().sum() - values.sum()  # ‖Σ - I‖²
    alpha = (noise / distance).clamp(0, 1).item() if distance > 0 else 1.0
    return _weighted(sample, values / ((1 - alpha) * values + alpha), 1 - alpha, {"shrinkage": alpha})


def _weighted(sample: Sample, keep: Tensor, factor: float, details: dict[str, float]) -> Estimate:
    """½ · factor · ‖Uᵀq‖²/n with the axes weighted; its standard error holds the weights fixed.

    The influence of a sample is, by the envelope theorem, its own decrease of the local loss at the optimum.
    """
    weighted = keep[:, None] * sample.coefficients
    value = 0.5 * factor * (weighted * sample.coefficients).sum().item() / len(sample)
    fitted = factor * sample.axes.combine(weighted)
    influence = (sample.whitened * fitted).sum(1) - 0.5 * fitted.square().sum(1)
    influence = influence + _metric_moves(sample, fitted) / factor if factor else influence
    return Estimate(value, standard_error(influence), ceiling(sample), details)


def _moves(sample: Sample, value: Callable[[CanonicalLoss, Tensor], Tensor]) -> Tensor:
    """How a score moves (n,) because every sample moves the Bayes action, by dc = H⁺ (T(y) - T̄).

    Args:
        sample: features and targets; losses without a statistic have action and metric taken as known.
        value: the score as a function of the action, differentiable.
    """
    nothing = torch.zeros(len(sample), dtype=torch.float64, device=sample.whitened.device)
    if not (isinstance(sample.risk, CanonicalRisk) and isinstance(sample.loss, CanonicalLoss)):
        return nothing
    with torch.enable_grad():
        action = sample.point.action.detach().clone().requires_grad_()
        found = value(sample.loss, action)
        if not found.requires_grad:
            return nothing
        (slope,) = torch.autograd.grad(found, action)
    return sample.whitened @ (sample.back.T @ slope)


def _metric_moves(sample: Sample, fitted: Tensor) -> Tensor:
    """How the gain of a head moves with the metric: -½ tr(dH Cov(z)); zero for a square loss."""
    spread = sample.back @ (fitted.T @ fitted / len(sample)) @ sample.back.T

    def value(loss: CanonicalLoss, action: Tensor) -> Tensor:
        factor = loss.factor(action)
        return -0.5 * (factor @ spread * factor).sum()

    return _moves(sample, value)


def crossfit(sample: Sample) -> Estimate:
    """The decrease of the local loss on samples left out, by a ridge head of the whitened scores."""
    found = sample.left_out
    error = standard_error(found.decrease + _metric_moves(sample, found.fitted))
    bound = ceiling(sample) / (1 - 1 / len(sample)) ** 2  # the constant is left out too
    return Estimate(found.decrease.mean().item(), error, bound, {"penalty": found.penalty})


def heldout(sample: Sample) -> Estimate:
    """The decrease of the loss itself on samples left out, by the ridge head of :func:`crossfit` times one number.

    The number makes up for the distance of hard labels from the local region, where the quadratic is too steep.
    """
    found, point, targets = sample.left_out, sample.point, exact(sample.targets)
    constant = sample.loss.values(point.action.expand(len(sample), -1), targets)
    steps = found.unseen @ sample.back.T
    best, scale = torch.zeros_like(constant), 0.0
    for trial in torch.logspace(*SCALES, dtype=torch.float64).tolist() if found.penalty < math.inf else ():
        decrease = constant - sample.loss.values(point.action + trial * steps, targets)
        if decrease.mean() > best.mean():
            best, scale = decrease, trial
    heads = scale * found.unseen @ sample.point.factor  # H (z - c), which does not move with c

    def value(loss: CanonicalLoss, action: Tensor) -> Tensor:
        factor = loss.factor(action)
        outputs = action + heads @ torch.linalg.pinv(factor.T @ factor, hermitian=True)
        return -loss.values(outputs, targets).mean()

    error = standard_error(best + _moves(sample, value)) if scale else 0.0
    bound = constant.mean().item() if sample.loss.name in ("cross_entropy", "mse") else math.inf
    return Estimate(best.mean().item(), error, bound, {"penalty": found.penalty, "scale": scale})
