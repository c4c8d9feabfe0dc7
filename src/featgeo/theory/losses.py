"""Losses: value per sample, sufficient statistic, derivatives, and the constant action in closed form.

A *canonical* loss is ``A(z) - ⟨z, T(y)⟩ + h(y)`` with a convex log-partition A. Its score ∇A(z) - T(y) is affine in the
statistic T, so one pass over the data serves every layer, and its metric ∇²A(z) does not depend on y. Named losses
have the scale of torch's function of that name: ``mse``, ``bce`` and ``poisson`` are means over the outputs.

Shapes: outputs z (m, d); statistics T (m, d); values (m,) in the loss's own units (nats for ``cross_entropy``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from featgeo.errors import FeatgeoError
from featgeo.theory.extent import extent, real_targets
from featgeo.theory.softmax import cross_entropy, softmax

FLOOR = 1e-154  # of means that are zero: its square is still a number, and arithmetic with it is not slow


class Loss(ABC):
    """A loss of an output z (m, d) and targets (m, ...).

    Attributes:
        name: of the loss.
        ignore_index: the label of rows that do not count, None where all do.
    """

    name: str
    ignore_index: int | None = None

    @abstractmethod
    def arranged(self, targets: Tensor, width: int) -> Tensor:
        """Targets as this loss wants them, for outputs of that width; raises FeatgeoError for a shape or dtype."""

    def judge(self, low: float, high: float, off: float, real: bool, width: int) -> None:
        """Raise FeatgeoError where arranged targets, real or whole, with this :func:`extent` do not suit."""
        if not math.isfinite(low) or not math.isfinite(high):
            raise FeatgeoError("targets", "NaN or infinite values", "Remove or impute these samples.")

    def check(self, targets: Tensor, width: int) -> Tensor:
        """Targets as this loss wants them; raises FeatgeoError where they do not suit."""
        targets = self.arranged(targets, width)
        low, high, off = extent(targets).tolist()
        self.judge(low, high, off, targets.is_floating_point(), width)
        return targets

    @abstractmethod
    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss per sample (m,) of checked targets."""


class CanonicalLoss(Loss):
    """A(z) - ⟨z, T(y)⟩ + h(y)."""

    @abstractmethod
    def statistic(self, targets: Tensor, width: int) -> Tensor:
        """T(y) (m, d) of checked targets."""

    @abstractmethod
    def log_partition(self, outputs: Tensor) -> Tensor:
        """A(z) (...,)."""

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """∇A(z) (..., d), the mean of T that makes z optimal."""

    @abstractmethod
    def factor(self, output: Tensor) -> Tensor:
        """R (d, d) with RᵀR = ∇²A(z), at one z (d,)."""

    @abstractmethod
    def action(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """The z (..., d) with ∇A(z) = mean, and where (..., d) it had to be cut off because it is infinite."""

    def base(self, targets: Tensor) -> Tensor:
        """h(y) (m,) of checked targets."""
        return torch.zeros(len(targets), dtype=torch.float64, device=targets.device)


class CrossEntropy(CanonicalLoss):
    """Softmax regression: -Σ_y q(y) log softmax(z)_y, hard labels (m,) or probabilities q (m, d), in nats.

    Args:
        label_smoothing: α, as in torch: labels become (1-α) q + α/d.
        ignore_index: the label of rows that do not count, as in torch; they are to be left out beforehand.
    """

    name = "cross_entropy"

    def __init__(self, label_smoothing: float = 0.0, ignore_index: int = -100) -> None:
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index

    def arranged(self, targets: Tensor, width: int) -> Tensor:
        """Hard labels as int64, or rows of probabilities."""
        soft = targets.ndim == 2 and targets.is_floating_point()
        if targets.ndim == 2 and targets.shape[1] == 1 and width > 1 and not soft:
            targets = targets[:, 0]
        if soft:
            if targets.shape[1] != width:
                raise FeatgeoError(
                    "targets",
                    f"{targets.shape[1]} class probabilities for {width} outputs",
                    f"Pass probabilities of shape (samples, {width}) or integer labels.",
                )
            return targets
        if targets.ndim != 1 or targets.is_floating_point() or targets.is_complex():
            raise FeatgeoError(
                "targets",
                f"dtype {targets.dtype} with shape {tuple(targets.shape)}",
                "cross_entropy needs integer labels (samples,) or probabilities (samples, classes); use "
                + ("loss='mse' for real targets." if targets.ndim == 1 else "analyze() for positions."),
            )
        return targets.to(torch.int64)

    def judge(self, low: float, high: float, off: float, real: bool, width: int) -> None:
        """Labels in [0, d), or probabilities that sum to 1."""
        super().judge(low, high, off, real, width)
        if real and (low < 0 or off > 1e-3):
            raise FeatgeoError(
                "targets",
                "soft labels that are negative or do not sum to 1",
                "Pass probabilities (each row non-negative with sum 1) or integer labels.",
            )
        if not real and (low < 0 or high >= width):
            logit = width == 1 and low >= 0
            hint = "For one logit use loss='bce'." if logit else f"Labels must lie in 0..{width - 1}."
            raise FeatgeoError("targets", f"labels from {low:.0f} to {high:.0f} for {width} outputs", hint)

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy per sample."""
        targets = targets.to(outputs.dtype) if targets.ndim == 2 else targets
        return cross_entropy(outputs, targets, self.label_smoothing)

    def statistic(self, targets: Tensor, width: int) -> Tensor:
        """One-hot labels, or the probabilities themselves."""
        if targets.ndim == 1:
            one_hot = torch.zeros(len(targets), width, device=targets.device)
            targets = one_hot.scatter_(1, targets[:, None], 1.0)
        if self.label_smoothing:
            targets = (1 - self.label_smoothing) * targets.to(torch.float64) + self.label_smoothing / width
        return targets

    def log_partition(self, outputs: Tensor) -> Tensor:
        """Log Σ exp z."""
        return outputs.logsumexp(-1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Softmax z."""
        return softmax(outputs)

    def factor(self, output: Tensor) -> Tensor:
        """diag(√p)(I - 1pᵀ): with this factor B is the canonical dependence matrix itself."""
        p = output.softmax(-1)
        return p.sqrt()[:, None] * (torch.eye(len(p)).to(p) - p)

    def action(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Log P_Y; an absent class gets a finite floor."""
        absent = mean <= 0
        return mean.clamp_min(FLOOR).log(), absent


class MeanSquare(CanonicalLoss):
    """‖z - y‖²/d (torch's mean over outputs), or with ``total=True`` the plain sum of squares."""

    name = "mse"

    def __init__(self, total: bool = False) -> None:
        self.total = total

    def _scale(self, width: int) -> float:
        return 1.0 if self.total else 1.0 / width

    def arranged(self, targets: Tensor, width: int) -> Tensor:
        """Real targets (m, d)."""
        return real_targets(targets, width, self.name)

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared error per sample."""
        return (outputs - targets).square().sum(-1) * self._scale(outputs.shape[-1])

    def statistic(self, targets: Tensor, width: int) -> Tensor:
        """2y/d."""
        return 2 * self._scale(width) * targets

    def base(self, targets: Tensor) -> Tensor:
        """‖y‖²/d."""
        return targets.to(torch.float64).square().sum(1) * self._scale(targets.shape[1])

    def log_partition(self, outputs: Tensor) -> Tensor:
        """‖z‖²/d."""
        return outputs.square().sum(-1) * self._scale(outputs.shape[-1])

    def mean(self, outputs: Tensor) -> Tensor:
        """2z/d."""
        return 2 * self._scale(outputs.shape[-1]) * outputs

    def factor(self, output: Tensor) -> Tensor:
        """√(2/d) I."""
        return (2 * self._scale(len(output))) ** 0.5 * torch.eye(len(output)).to(output)

    def action(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """E[Y]."""
        return mean / (2 * self._scale(mean.shape[-1])), torch.zeros_like(mean, dtype=torch.bool)


class BinaryCrossEntropy(CanonicalLoss):
    """Multi-label logits: mean over the outputs of softplus(z) - z y, y in [0, 1]."""

    name = "bce"

    def arranged(self, targets: Tensor, width: int) -> Tensor:
        """Targets (m, d)."""
        return real_targets(targets, width, self.name)

    def judge(self, low: float, high: float, off: float, real: bool, width: int) -> None:
        """In [0, 1]."""
        super().judge(low, high, off, real, width)
        if low < 0 or high > 1:
            raise FeatgeoError(
                "targets", "values outside [0, 1]", "Loss 'bce' needs 0/1 labels or probabilities."
            )

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy per sample."""
        loss = F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype), reduction="none")
        return loss.mean(-1)

    def statistic(self, targets: Tensor, width: int) -> Tensor:
        """y/d."""
        return targets / width

    def log_partition(self, outputs: Tensor) -> Tensor:
        """Mean of softplus(z)."""
        return F.softplus(outputs).mean(-1)

    def mean(self, outputs: Tensor) -> Tensor:
        """sigmoid(z)/d."""
        return outputs.sigmoid() / outputs.shape[-1]

    def factor(self, output: Tensor) -> Tensor:
        """diag √(p(1-p)/d)."""
        return (output.sigmoid() * (-output).sigmoid() / len(output)).sqrt().diag()

    def action(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """logit E[Y]; a constant label gets a finite floor."""
        p = mean * mean.shape[-1]
        return p.clamp_min(FLOOR).log() - (1 - p).clamp_min(FLOOR).log(), (p <= 0) | (p >= 1)


class Poisson(CanonicalLoss):
    """Counts with a log link: mean over the outputs of exp(z) - y z."""

    name = "poisson"

    def arranged(self, targets: Tensor, width: int) -> Tensor:
        """Targets (m, d)."""
        return real_targets(targets, width, self.name)

    def judge(self, low: float, high: float, off: float, real: bool, width: int) -> None:
        """Not negative."""
        super().judge(low, high, off, real, width)
        if low < 0:
            raise FeatgeoError("targets", "negative values", "Loss 'poisson' needs counts, all >= 0.")

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean Poisson loss per sample, without the constant log y!."""
        return (outputs.exp() - targets * outputs).mean(-1)

    def statistic(self, targets: Tensor, width: int) -> Tensor:
        """y/d."""
        return targets / width

    def log_partition(self, outputs: Tensor) -> Tensor:
        """Mean of exp(z)."""
        return outputs.exp().mean(-1)

    def mean(self, outputs: Tensor) -> Tensor:
        """exp(z)/d."""
        return outputs.exp() / outputs.shape[-1]

    def factor(self, output: Tensor) -> Tensor:
        """diag √(exp(z)/d)."""
        return (output.exp() / len(output)).sqrt().diag()

    def action(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Log E[Y]; an output whose counts are all zero gets a finite floor."""
        rate = mean * mean.shape[-1]
        return rate.clamp_min(FLOOR).log(), rate <= 0
