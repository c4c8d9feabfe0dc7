"""Features and targets of a task as the transfer scores see them: whitened scores of the loss, axes of the features.

Around the Bayes action c of the output the loss is half a squared distance in the metric H = RᵀR. With the whitened
scores ``q_i = (R⁺)ᵀ (T(y_i) - T̄)`` a linear head v(x) = R (z(x) - c) lowers it by ``½‖q_i‖² - ½‖q_i - v(x_i)‖²`` per
sample: locally every loss is least squares on q.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featgeo.apply.gather import check_features, outputs_of
from featgeo.apply.transfer_axes import Axes, principal_axes
from featgeo.apply.transfer_left_out import LeftOut, leave_one_out
from featgeo.errors import FeatgeoError
from featgeo.theory.bayes import bayes_action
from featgeo.theory.linalg import thin_svd
from featgeo.theory.losses import CanonicalLoss, Loss
from featgeo.theory.point import OperatingPoint
from featgeo.theory.risk import EmpiricalRisk, Risk, make_risk


@dataclass(frozen=True)
class Sample:
    """Checked features and targets of a task, with what several scores share.

    Attributes:
        features: (n, k), float32 or float64.
        targets: as the loss wants them.
        loss: of the task.
        outputs: its width d.
        notes: what is odd about the data.
    """

    features: Tensor
    targets: Tensor
    loss: Loss
    outputs: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def axes(self) -> Axes:
        """Principal axes of the features."""
        return principal_axes(self.features)

    @cached_property
    def risk(self) -> Risk:
        """Expected loss of a constant output."""
        count = len(self)
        weights = torch.full((count,), 1 / count, dtype=torch.float64, device=self.targets.device)
        return make_risk(self.loss, exact(self.targets), weights, self.outputs)

    @cached_property
    def point(self) -> OperatingPoint:
        """The Bayes action of the output."""
        start = torch.zeros(self.outputs, dtype=torch.float64, device=self.targets.device)
        return bayes_action(self.risk, start=start)

    @cached_property
    def statistic(self) -> Tensor:
        """T(y) - T̄ (n, d), or minus the scores where the loss has no statistic; float64."""
        if isinstance(self.risk, EmpiricalRisk):
            rows = -self.risk.scores(self.point.action)
        else:
            assert isinstance(self.loss, CanonicalLoss)
            rows = self.loss.statistic(exact(self.targets), self.outputs).to(torch.float64)
        return rows - rows.mean(0)

    @cached_property
    def back(self) -> Tensor:
        """R⁺ (d, r): from heads of the whitened scores to outputs."""
        factor = thin_svd(self.point.factor)
        if not len(factor.values):
            raise FeatgeoError(
                "loss",
                f"no curvature of '{self.loss.name}' at the best constant",
                "Use a strictly convex loss.",
            )
        return factor.pseudo_inverse

    @cached_property
    def whitened(self) -> Tensor:
        """q (n, r): whitened scores, in float64."""
        return self.statistic @ self.back

    @cached_property
    def score_covariance(self) -> Tensor:
        """Cov(q) (r, r); half its trace bounds every gain."""
        return self.whitened.T @ self.whitened / len(self)

    @cached_property
    def coefficients(self) -> Tensor:
        """Uᵀq (rank, r): the least squares head of the whitened scores, on the axes."""
        return self.axes.project(self.whitened)

    @cached_property
    def left_out(self) -> LeftOut:
        """What ridge heads say of samples that they have not seen."""
        return leave_one_out(self.whitened, self.axes, self.coefficients)


def exact(targets: Tensor) -> Tensor:
    """Real targets in float64, labels as they are."""
    return targets.to(torch.float64) if targets.is_floating_point() else targets


def make_sample(features: Any, targets: Any, loss: Loss, outputs: int | None = None) -> Sample:
    """Check features and targets.

    Raises:
        FeatgeoError: where they do not suit each other or the loss, hold NaN or infinity, or have one class only.
    """
    x = _tensor("features", features)
    x = check_features(x[:, None] if x.ndim == 1 else x)
    if len(x) < 2:
        raise FeatgeoError("features", f"{len(x)} samples", "Pass two at least.")
    y = _check_targets(targets, len(x)).to(x.device)
    width = outputs_of(loss, y) if outputs is None else outputs
    checked = loss.check(y, width)
    notes = []
    if loss.name == "cross_entropy":
        share = (
            checked.to(torch.float64).mean(0)
            if checked.ndim == 2
            else checked.bincount(minlength=width) / len(x)
        )
        if (share > 0).sum() < 2:
            raise FeatgeoError(
                "targets", f"one class only (class {int(share.argmax())})", "Pass two at least."
            )
        absent = (share <= 0).nonzero()[:, 0].tolist()
        if absent:
            shown = ", ".join(map(str, absent[:8])) + (" ..." if len(absent) > 8 else "")
            notes.append(
                f"targets: {len(absent)} of {width} classes ({shown}) are absent; nothing is said about them."
            )
    elif bool((checked == checked[:1]).all()):
        raise FeatgeoError("targets", "targets that do not vary", "Pass different targets.")
    return Sample(x, checked, loss, width, tuple(notes))


def _tensor(argument: str, given: Any) -> Tensor:
    try:
        return (
            given if isinstance(given, Tensor) else torch.as_tensor(np.require(given, requirements="W"))
        ).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise FeatgeoError(
            argument,
            f"a {type(given).__name__} that is no tensor ({error})",
            "Pass numbers; code classes as 0, 1, ...",
        ) from error


def _check_targets(targets: Any, count: int) -> Tensor:
    y = _tensor("targets", targets)
    if y.ndim == 0 or len(y) != count:
        raise FeatgeoError("targets", f"shape {tuple(y.shape)} for {count} samples", "Pass one target each.")
    return y
