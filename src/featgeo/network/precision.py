"""Standard errors of a layer's alignment and gains, from the samples that a sweep kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from featgeo.network.layers import groups_of
from featgeo.theory.influence import Rows, influence, standard_error
from featgeo.theory.layer import LayerFit
from featgeo.theory.linalg import solve_ridge
from featgeo.theory.risk import CanonicalRisk, Risk

if TYPE_CHECKING:
    from featgeo.network.look import Outlook
    from featgeo.network.stand import Stand

Errors = tuple[float | None, float | None, float | None]


def standard_errors(outlook: Outlook, stand: Stand, fit: LayerFit) -> Errors:
    """Of alignment, gain available and gain used; None where they cannot be told.

    A Bayes action within the network is taken as known; so is the metric of a loss without a sufficient statistic.
    Where another road bypasses the layer, what that carries is not known for the samples kept; W* within the
    blocks of a grouped convolution has influences of its own.
    """
    if (
        stand.beside
        or outlook.rows is None
        or groups_of(outlook.layer) > 1
        or outlook.moments.count <= outlook.whitener.rank + 1
    ):
        return None, None, None
    readout, covariance = stand.readout, outlook.moments.covariance
    half = (readout.left / readout.values) @ readout.right.T  # (R_o⁺)ᵀ (p, d)

    def adjoint(right: Tensor) -> Tensor:
        return solve_ridge(stand.factor, right, covariance, outlook.weight_decay)

    def bend(matrix: Tensor) -> Tensor:
        return half @ _metric_slope(outlook.risk, stand.output, half.T @ matrix @ half)

    side, width = outlook.sample.companion.to(torch.float64) - outlook.pair.mean, half.shape[1]
    rows = Rows(
        outlook.rows - outlook.moments.mean.to(outlook.rows),
        side[:, width:] @ half.T,
        side[:, :width] @ stand.metric.T,
    )
    found = influence(
        fit,
        rows,
        half @ outlook.white[width:],
        outlook.whitener,
        bend if isinstance(outlook.risk, CanonicalRisk) else None,
        stand.tail,
        adjoint if outlook.weight_decay else None,
    )
    sample = outlook.sample
    errors = standard_error(found, sample.batch, sample.weight, outlook.moments.count, outlook.batches)
    alignment, available, used = (value if math.isfinite(value) else None for value in errors.tolist())
    return alignment, available, used


def _metric_slope(risk: Risk, output: Tensor, matrix: Tensor) -> Tensor:
    """∂ tr(M X)/∂g (d,) at an output; zero in directions of saturation, where it is not finite."""
    with torch.enable_grad():
        place = output.detach().clone().requires_grad_()
        factor = risk.factor(place)
        value = ((factor @ matrix) * factor).sum()
        if not value.requires_grad:
            return torch.zeros_like(output)
        (slope,) = torch.autograd.grad(value, place)
    return slope.nan_to_num(0.0, 0.0, 0.0)
