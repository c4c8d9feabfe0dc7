"""Standard errors of a layer's alignment and gains, from the samples that a sweep kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from featgeo.network.layers import groups_of
from featgeo.theory.blocks import best_blocks
from featgeo.theory.influence import Rows, influence, standard_error
from featgeo.theory.layer import LayerFit
from featgeo.theory.linalg import solve_ridge
from featgeo.theory.risk import CanonicalRisk
from featgeo.theory.variance import metric_slope

if TYPE_CHECKING:
    from featgeo.network.look import Outlook
    from featgeo.network.stand import Stand

Errors = tuple[float | None, float | None, float | None]


def standard_errors(outlook: Outlook, stand: Stand, fit: LayerFit) -> Errors:
    """Of alignment, gain available and gain used; None where they cannot be told.

    A Bayes action within the network is taken as known; so is the metric of a loss without a sufficient statistic.
    Where another road bypasses the layer, what that carries is not known for the samples kept.
    """
    if stand.beside or outlook.rows is None or outlook.moments.count <= outlook.whitener.rank + 1:
        return None, None, None
    readout, factor, root = stand.readout, stand.factor, outlook.whitener.root
    groups, decay = groups_of(outlook.layer), outlook.weight_decay

    def adjoint(pull: Tensor) -> Tensor:
        if groups == 1:
            return solve_ridge(factor, factor.matrix.T @ pull @ root.T, outlook.moments.covariance, decay)
        return best_blocks(factor.values[:, None] * factor.right.T, root, factor.left.T @ pull, groups, decay)

    risk = outlook.risk if isinstance(outlook.risk, CanonicalRisk) else None

    def bend(left: Tensor, right: Tensor) -> Tensor:
        assert risk is not None
        pulled = (
            readout.right @ ((readout.left.T @ part) / readout.values[:, None]) for part in (left, right)
        )
        return readout.dual(metric_slope(risk.loss, stand.output, *pulled)[:, None])[:, 0]

    side, width = outlook.sample.companion.to(torch.float64) - outlook.pair.mean, len(stand.output)
    rows = Rows(
        outlook.rows - outlook.moments.mean.to(outlook.rows),
        readout.dual(side[:, width:].T).T,
        side[:, :width] @ stand.metric.T,
    )
    found = influence(
        fit,
        rows,
        readout.dual(outlook.white[width:]),
        outlook.whitener,
        bend if risk else None,
        stand.tail,
        adjoint if decay or groups > 1 else None,
    )
    sample = outlook.sample
    errors = standard_error(found, sample.batch, sample.weight, outlook.moments.count, outlook.batches)
    alignment, available, used = (value if math.isfinite(value) else None for value in errors.tolist())
    return alignment, available, used
