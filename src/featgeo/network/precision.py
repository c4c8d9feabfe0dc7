"""Standard errors of a layer's alignment and gains, from the samples that a sweep kept."""

from __future__ import annotations

import math
from dataclasses import replace
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
    Where another road bypasses the layer, that is so at its Bayes action too; at the mean Jacobian the error of
    that is added, as a jackknife has it.
    """
    some = stand.beside.rows if stand.beside else None
    rows_known = some is not None if stand.beside else outlook.rows is not None
    if not rows_known or outlook.moments.count <= outlook.whitener.rank + 1:
        return None, None, None
    readout, factor, root = stand.readout, stand.factor, outlook.whitener.root
    groups, decay = groups_of(outlook.layer), outlook.weight_decay

    def adjoint(pull: Tensor) -> Tensor:
        if groups == 1:
            return solve_ridge(factor, factor.matrix.T @ pull @ root.T, outlook.moments.covariance, decay)
        return best_blocks(factor.values[:, None] * factor.right.T, root, factor.left.T @ pull, groups, decay)

    risk = outlook.risk if isinstance(outlook.risk, CanonicalRisk) else None

    inverse = readout.pseudo_inverse

    def bend(left: Tensor, right: Tensor) -> Tensor:
        assert risk is not None
        first = inverse @ left
        second = first if right is left else inverse @ right
        return inverse.T @ metric_slope(risk.loss, stand.output, first, second)

    width, tail, means = len(stand.output), stand.tail, outlook.pair.mean
    cross = inverse.T @ outlook.white[width:]

    def influences(rows: Rows) -> Tensor:
        solver = adjoint if decay or groups > 1 else None
        return influence(fit, rows, cross, outlook.whitener, bend if risk else None, tail, solver)

    def rows_of(features: Tensor, statistics: Tensor, outputs: Tensor) -> Rows:
        scores = (statistics - means[width:]) @ inverse
        return Rows(features - outlook.moments.mean.to(features), scores, outputs @ stand.metric.T)

    sample, count = outlook.sample, outlook.moments.count
    if some is None:
        side = sample.companion.to(torch.float64)
        assert outlook.rows is not None
        found = influences(rows_of(outlook.rows, side[:, width:], side[:, :width] - means[:width]))
        errors = standard_error(found, sample.batch, sample.weight, count, outlook.batches)
    else:
        assert stand.beside is not None
        carried = outlook.whitener.white(stand.metric @ some.cross)
        rows = replace(rows_of(some.features, some.statistics, torch.zeros_like(some.road)), carried=carried)
        with_road = replace(rows, road=(some.road - some.road.mean(0)) @ stand.metric.T)
        own = influences(rows)
        errors = combined(own, own - influences(with_road), count, stand.beside.samples)
        errors = (errors.square() + torch.tensor(some.errors, dtype=torch.float64).square()).sqrt()
    alignment, available, used = (value if math.isfinite(value) else None for value in errors.tolist())
    return alignment, available, used


def combined(own: Tensor, road: Tensor, samples: int, subset: int) -> Tensor:
    """Standard errors (j,) of a mean of `own` over all samples less one of `road` over a random subset of them.

    Args:
        own: influences of some samples (m, j).
        road: the same (m, j).
        samples: number of all.
        subset: number of those in the subset.
    """
    own, road = own - own.mean(0), road - road.mean(0)
    alone, other, both = ((x * y).sum(0) / (len(x) - 1) for x, y in ((own, own), (road, road), (own, road)))
    return ((alone - 2 * both) / samples + other / subset).clamp_min(0).sqrt()
