"""What the targets say before any layer is looked at: their statistic, the best constant, what is odd about them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featgeo.data.batches import Batches
from featgeo.data.limits import Limits
from featgeo.errors import FeatgeoError
from featgeo.network.ends import Statistic
from featgeo.network.look import still
from featgeo.network.run import Runner, forward_batch
from featgeo.network.sweep import Sweep
from featgeo.theory.bayes import bayes_action
from featgeo.theory.linalg import rank_tolerance
from featgeo.theory.losses import CanonicalLoss, Loss
from featgeo.theory.point import OperatingPoint
from featgeo.theory.risk import CanonicalRisk, EmpiricalRisk, Risk, make_risk

SUMS = 1e-3  # by which the sum of outputs may miss 1, that are called probabilities


@dataclass(frozen=True)
class Targets:
    """What the pass needs of the targets.

    Attributes:
        statistic: T(y) (m, d) of checked targets.
        risk: the expected loss of an output on the data that a pass has seen.
    """

    statistic: Statistic
    risk: Callable[[Sweep], Risk]

    def outcome(self, found: Sweep) -> tuple[Risk, OperatingPoint]:
        """The risk, and the output's Bayes action."""
        risk = self.risk(found)
        return risk, bayes_action(risk, start=found.pair.mean[: found.width])


def _read_outputs(run: Runner, data: Batches, limits: Limits) -> tuple[int, Tensor, Limits]:
    """Number of outputs, and the targets of all rows: the first pass that a loss without a statistic needs.

    It may use half the time. Returned are also the limits of the next pass, which reads no more than this one.
    """
    width, targets = 0, []
    for number, (inputs, batch) in enumerate(data):
        width = width or forward_batch(run, inputs, number).shape[1]
        batch = run.layout.targets(batch)
        ignored = run.layout.ignored
        if ignored is not None and not batch.is_floating_point():
            batch = batch[batch != ignored]
        targets.append(batch)
        if reason := limits.reached(number + 1, share=0.5):
            limits = replace(limits, max_batches=number + 1, reason=reason)
            break
    if not targets and run.processes.size == 1:
        raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
    return width, torch.cat(targets) if targets else torch.zeros(0), limits


def read_targets(loss: Loss, run: Runner, data: Batches, limits: Limits) -> tuple[Targets, Limits]:
    """What is to be known of the targets before the pass, and the limits of that.

    A canonical loss has a statistic; that of any other is minus its score at the output's Bayes action, for which all
    targets are read first.
    """
    if isinstance(loss, CanonicalLoss):
        canonical = loss
        return Targets(
            loss.statistic, lambda found: CanonicalRisk(canonical, found.pair.mean[found.width :], found.base)
        ), limits
    width, targets, limits = _read_outputs(run, data, limits)
    width = max(run.processes.gather(width))
    if not width:
        raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
    checked = loss.check(targets.cpu(), width) if len(targets) else None

    def risk_of(first: int) -> Risk:
        """Of the first so many targets of this process, with those of the others."""
        own = None if checked is None else torch.unique(checked[:first], dim=0, return_counts=True)
        parts = [part for part in run.processes.gather(own) if part is not None]
        each, counts = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
        different, place = torch.unique(each, dim=0, return_inverse=True)
        weights = torch.zeros(len(different), dtype=torch.float64).index_add_(
            0, place, counts.to(torch.float64)
        )
        different = different.to(torch.float64) if different.is_floating_point() else different
        return make_risk(loss, different, weights / weights.sum(), width)

    read = len(targets)
    whole, total = risk_of(read), sum(run.processes.gather(read))
    action = bayes_action(whole, start=torch.zeros(width, dtype=torch.float64)).action

    def risk(found: Sweep) -> Risk:
        return whole if found.pair.count == total else risk_of(found.own)

    def minus_score(batch: Tensor, _width: int) -> Tensor:
        precision = torch.promote_types(torch.promote_types(batch.dtype, run.dtype), torch.float32)
        batch = batch.to(precision) if batch.is_floating_point() else batch
        empirical = EmpiricalRisk(loss, batch, torch.ones(0))
        return -empirical.scores(action.to(batch.device, precision))

    return Targets(minus_score, risk), limits


def data_notes(loss: Loss, run: Runner, found: Sweep, output: OperatingPoint) -> list[str]:
    """What is odd about the data as a whole."""
    mean = found.pair.mean[found.width :]
    notes = []
    if math.isnan(found.loss):
        raise FeatgeoError(
            "loss",
            f"NaN from '{loss.name}' on the model's outputs",
            "Check that it is for outputs like these.",
        )
    if run.layout.shifted:
        notes.append(
            "data: the labels are the inputs' own token numbers; every position is compared with the label of the "
            "next, as causal language models do."
        )
    if loss.name == "cross_entropy":
        if mean.max() >= 1 - 1e-12:
            raise FeatgeoError(
                "data", f"one class only (class {int(mean.argmax())})", "Pass data of two classes at least."
            )
        outputs = found.sample.companion[:, : found.width]
        if (outputs >= 0).all() and (outputs.sum(1) - 1).abs().max() < SUMS:
            notes.append(
                "model: its outputs are probabilities, and cross_entropy takes logits; leave out the softmax."
            )
        absent = (mean <= 0).nonzero()[:, 0].tolist()
        if absent:
            notes.append(f"data: classes {absent[:8]} are absent; nothing is said about them.")
    elif output.saturated:
        notes.append(
            f"data: outputs {list(output.saturated[:8])} have constant targets; their Bayes action is infinite."
        )
    tolerance = max((rank_tolerance(1, dtype) for dtype in found.precisions.values()), default=0.0)
    constant = still(found.pair.covariance, found.pair.mean, tolerance)
    if constant[found.width :].all():
        raise FeatgeoError("data", "targets that do not vary", "Pass data with different targets.")
    if constant[: found.width].all():
        notes.append("model: its outputs do not vary on these data; no layer before the last has any effect.")
    if not output.factor.any():
        raise FeatgeoError(
            "loss", f"no curvature of '{loss.name}' at the best constant", "Use a strictly convex loss."
        )
    return notes
