"""What compress() is compared with, all through the same thin layers, counts and allocations.

plain: truncated SVD of W. whitened: of W Σ^½, centred and with the bias corrected for the mean: kinder than the
published form. Fisher: of W with every row, or every column, weighted by the root of its empirical Fisher information
(Hsu et al., 2022, weight rows; the better of the two is reported).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from featgeo.apply.budget import Option, allocate
from featgeo.apply.curvature import curves, gradients, linear_pass
from featgeo.apply.factor import dense_cost, thin_cost
from featgeo.apply.modes import Metric, Modes
from featgeo.apply.plan import Outlook, Plan
from featgeo.apply.positions import per_sample
from featgeo.network.features import position_rows
from featgeo.network.layers import weight_matrix
from featgeo.network.run import checked_targets
from featgeo.theory.linalg import Whitener, whiten

Ranks = dict[str, int | None]


def fisher(plan: Plan) -> dict[str, Tensor]:
    """E[(∂loss/∂W)²] (n, k) of every layer, at the labels."""
    sums: dict[str, Tensor] = {}
    for number, inputs, targets in plan.probe.batches():
        outputs, seen, made = linear_pass(plan.run, plan.layers, inputs, number)
        free = outputs.detach()
        with torch.enable_grad():
            g = free.clone().requires_grad_()
            (slope,) = torch.autograd.grad(
                plan.loss.values(g, checked_targets(plan.loss, targets, free)).sum(), g
            )
        for found in gradients(outputs, made, slope[:, None]):
            for name, layer in plan.layers.items():
                rows, back = position_rows(layer, seen[name]), per_sample(layer, found[name])
                for start in range(0, len(rows), 32):
                    part = slice(start, start + 32)
                    each = torch.einsum("mtn,mtk->mnk", back[part], rows[part]).square().sum(0).double()
                    sums[name] = sums[name] + each if name in sums else each
    return sums


def _positive(values: Tensor) -> Tensor:
    """What has no information at all keeps a trace of weight, or all have the same where none has any."""
    return values.clamp_min(1e-12 * values.max()) if values.max() > 0 else torch.ones_like(values)


def _weighted(values: Tensor) -> Whitener:
    return whiten(_positive(values).diag())


def peers(plan: Plan) -> Iterator[tuple[str, Outlook]]:
    """Every peer's view of all layers."""
    information = fisher(plan)
    for method in ("plain", "whitened", "Fisher rows", "Fisher columns"):
        modes = {}
        for name, layer in plan.layers.items():
            weight, bias = weight_matrix(layer)
            moments = plan.found.moments[name]
            outputs, inputs = weight.shape
            metric, white = Metric.identity(outputs), whiten(torch.eye(inputs, dtype=torch.float64))
            target, mean = bias, torch.zeros(inputs, dtype=torch.float64)
            if method == "whitened":
                white, target, mean = whiten(moments.covariance), weight @ moments.mean + bias, moments.mean
            elif method == "Fisher rows":
                rows = information[name].sum(1)
                metric = Metric.of(_positive(rows).diag())
            elif method == "Fisher columns":
                white = _weighted(information[name].sum(0))
            modes[name] = Modes.of(weight @ white.root, metric, white, target, mean)
        found = curves(plan.probe, plan.layers, modes)
        yield method, Outlook({}, modes, found)


def uniform(plan: Plan, share: float) -> Ranks | None:
    """The same share of the parameters in every layer, the last one left dense; None where one has too few."""
    ranks: Ranks = {}
    last = plan.found.readout
    rest = dense_cost(plan.layers[last]) if last in plan.layers else 0
    share = (share * plan.total - rest) / (plan.total - rest)
    for name, layer in plan.layers.items():
        outputs, inputs = layer.weight.flatten(1).shape
        rank = int((share * dense_cost(layer) - outputs) // (outputs + inputs))
        ranks[name] = None if name == last else max(1, rank)
    cost = sum(
        dense_cost(layer) if ranks[name] is None else thin_cost(layer, ranks[name] or 0)
        for name, layer in plan.layers.items()
    )
    return ranks if cost <= share * (plan.total - rest) + rest + 0.02 * plan.total else None


def own(plan: Plan, outlook: Outlook, share: float) -> Ranks:
    """The knapsack over the method's own quadratic: what it cuts of its own squared singular values."""
    return _bought(outlook.options(plan.layers, quadratic=True), int(share * plan.total))


def predicted(plan: Plan, outlook: Outlook, share: float) -> Ranks:
    """The knapsack over compress()'s prediction of the loss for the method's modes."""
    return _bought(outlook.options(plan.layers), int(share * plan.total))


def _bought(options: dict[str, list[Option]], budget: int) -> Ranks:
    return {name: option.rank for name, option in allocate(options, budget).items()}
