"""Stands of a layer that another road bypasses: what the rest of the network carries is not credited to the layer.

At the mean Jacobian the tail is g ≈ g₀(x) + J̄ (z - z̄), with g₀ what the network puts out while the layer is frozen at
its mean z̄. In the output's metric M the layer is left with the targets T - M g₀, so K = J̄ᵀ (Cov(T, f) - M Cov(g₀, f)).
At the Bayes action everything comes from the frozen pass: H, and K = -Cov(s, f). Where the layer is the only road g₀ is
constant and both are what they are for such a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from featgeo.network.backward import GROUPS, MeanJacobian
from featgeo.network.ends import Statistic
from featgeo.network.frozen import FrozenLayer, FrozenRows, curved, frozen_action, output_slopes
from featgeo.network.look import Outlook
from featgeo.network.stand import Beside, RoadRows, Stand
from featgeo.network.taps import Seen
from featgeo.theory.bayes import SATURATED
from featgeo.theory.linalg import psd_factor, thin_svd
from featgeo.theory.losses import Loss

KEPT = 512  # most rows that are kept for standard errors, about
NOTHING = 256  # roundings, relative to the outputs' spread, below which a layer's own contribution is none
IDLE = (
    "a shift of its output that is the same at all positions changes nothing (so it is with the keys of attention, of "
    "which only differences matter)"
)


class CrossSums:
    """Sums of products of rows u (r, p) with features f (r, k) and with themselves, about fixed points; float64."""

    def __init__(self, mean: Tensor) -> None:
        self.mean, self.count = mean, 0
        self._cross = self._square = self._u = self._f = torch.zeros(())

    def add(self, u: Tensor, f: Tensor) -> None:
        """Count some rows."""
        u, f = u.detach().to("cpu", torch.float64), f.detach().to("cpu", torch.float64) - self.mean
        self.count += len(u)
        self._cross, self._square = self._cross + u.T @ f, self._square + u.T @ u
        self._u, self._f = self._u + u.sum(0), self._f + f.sum(0)

    @property
    def cross(self) -> Tensor:
        """Cov(u, f) (p, k)."""
        return self._cross / self.count - (self._u / self.count).outer(self._f / self.count)

    @property
    def covariance(self) -> Tensor:
        """Cov(u) (p, p)."""
        return self._square / self.count - (self._u / self.count).outer(self._u / self.count)


@dataclass
class Faithfulness:
    """How far a linear tail and a quadratic loss say what a layer does: sums for two cosines over the samples."""

    tail: tuple[float, float, float] = (0.0, 0.0, 0.0)
    loss: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def add_tail(self, said: Tensor, seen: Tensor) -> None:
        """Changes of the outputs that the linear tail says, and those seen, in the output's metric."""
        self.tail = _added(self.tail, said, seen)

    def add_loss(self, said: Tensor, seen: Tensor) -> None:
        """The same for the gradient of the loss."""
        self.loss = _added(self.loss, said, seen)

    @property
    def locality(self) -> float:
        """Product of the two cosines, in [0, 1]."""
        value = 1.0
        for sums in (self.tail, self.loss):
            product, one, other = sums
            size = math.sqrt(one * other)
            value *= max(0.0, product / size) if size > 0 else float(one == other)
        return min(1.0, value)


def _added(sums: tuple[float, float, float], a: Tensor, b: Tensor) -> tuple[float, float, float]:
    a, b = a.double().flatten(), b.double().flatten()
    products = (a @ b).item(), (a @ a).item(), (b @ b).item()
    return sums[0] + products[0], sums[1] + products[1], sums[2] + products[2]


def own_features(frozen: FrozenLayer, seen: Seen) -> Iterable[tuple[Tensor, Tensor]]:
    """Feature and output rows of the network as it is, with a record of their own."""
    return frozen.features(Seen(seen.lie))


@dataclass(frozen=True)
class OtherRoad:
    """What the network puts out while a layer is frozen at its mean z̄.

    Attributes:
        cross: Cov([g₀, T - M g₀], f), the second half being what the layer is left with (2d, k).
        covariance: of the same (2d, 2d).
        own: Cov(g - g₀, f) (d, k).
        own_covariance: Cov(g - g₀) (d, d).
        loss: E[loss] with the layer frozen, less that of the network as it is.
        samples: rows that were seen.
        faithful: cosine of the loss's gradient with its linearisation.
        rows: f, T and g₀ of some of the rows.
    """

    cross: Tensor
    covariance: Tensor
    own: Tensor
    own_covariance: Tensor
    loss: float
    samples: int
    faithful: Faithfulness
    rows: tuple[Tensor, Tensor, Tensor]


def other_road(outlook: Outlook, frozen: FrozenLayer, seen: Seen, statistic: Statistic) -> OtherRoad:
    """One forward pass with the layer frozen at its mean, beside one of the network as it is."""
    metric = outlook.output.factor.T @ outlook.output.factor
    left, own = CrossSums(outlook.moments.mean), CrossSums(outlook.moments.mean)
    faithful, lost = Faithfulness(), 0.0
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for (f, g), (frozen_g, targets) in zip(
        own_features(frozen, seen), frozen.outputs(outlook.mean_action), strict=True
    ):
        wanted = statistic(targets, g.shape[1]).detach().to("cpu", torch.float64)
        given = frozen_g.to("cpu", torch.float64)
        some = slice(None, None, max(1, len(f) * len(frozen.batches) // KEPT))
        kept.append((f[some].cpu().clone(), wanted[some].clone(), given[some].clone()))  # not the whole batch
        left.add(torch.cat([given, wanted - given @ metric], 1), f)
        own.add(g.to("cpu", torch.float64) - given, f)
        values = frozen.loss.values(frozen_g, targets) - frozen.loss.values(g, targets)
        lost += values.sum(dtype=torch.float64).item()
        slopes = output_slopes(frozen.loss, g, targets) - output_slopes(frozen.loss, frozen_g, targets)
        faithful.add_loss((g - frozen_g).to("cpu", torch.float64) @ metric, slopes.cpu())
    features, wanted, given = (torch.cat(parts) for parts in zip(*kept, strict=True))
    return OtherRoad(
        left.cross, left.covariance, own.cross, own.covariance, lost / left.count, left.count, faithful,
        (features, wanted, given),
    )  # fmt: skip


def at_jacobian(outlook: Outlook, found: MeanJacobian, road: OtherRoad) -> Stand:
    """The tail at its mean Jacobian, the other road's contribution taken from the targets."""
    width, metric, jacobian = len(outlook.output.output), outlook.output.factor, found.mean
    mean = outlook.pair.mean[:width]
    wanted = metric @ (outlook.output.output - mean)
    lost = 0.5 * wanted.square().sum() + outlook.output.residual @ (mean - outlook.output.output)
    cross = outlook.statistic_cross - metric.T @ (metric @ road.cross[:width])
    said, root = metric @ jacobian @ outlook.weight, outlook.whitener.root
    spread = ((metric @ outlook.pair.covariance[:width, :width]) * metric).sum().sqrt()
    remark = ""
    if (said @ root).norm() <= NOTHING * torch.finfo(outlook.layer.weight.dtype).eps * spread:
        jacobian, said, remark = 0 * jacobian, 0 * said, IDLE
    product = ((said @ (metric @ road.own).T).diagonal()).sum()
    sizes = (said @ root).square().sum(), ((metric @ road.own_covariance) * metric).sum()
    faithful = replace(road.faithful, tail=(product.item(), sizes[0].item(), sizes[1].item()))
    factor = thin_svd(metric @ jacobian)
    errors = (math.nan,) * 3 if remark else jackknife(outlook, found, cross)
    rows = None if remark else RoadRows(*road.rows, road.cross[:width], errors)
    return Stand(
        at="jacobian",
        jacobian=jacobian,
        metric=metric,
        factor=factor,
        output=outlook.output.output,
        displacement=factor.pseudo_inverse @ wanted,
        displacement_loss=lost.item(),
        constant_loss=outlook.loss + road.loss - lost.item(),
        beside=Beside(
            cross, road.covariance[width:, width:], road.samples, faithful.locality, errors[0], remark, rows
        ),
    )


def jackknife(outlook: Outlook, found: MeanJacobian, cross: Tensor) -> tuple[float, float, float]:
    """Standard errors of alignment, gain available and gain used through the mean Jacobian's, leaving out groups."""
    root, metric, values = outlook.whitener.root, outlook.output.factor, []
    white, used = outlook.whitener.white(cross), outlook.weight @ root
    for group in range(GROUPS):
        if not found.weights[group] > 0:
            continue
        factor = metric @ found.without(group)
        svd = thin_svd(factor)
        best = svd.left @ ((svd.right.T @ found.without(group).T @ white) / svd.values[:, None])
        own, size = (factor @ used).flatten(), 0.5 * best.square().sum()
        gap = 0.5 * (own - best.flatten()).square().sum()
        alignment = torch.nn.functional.cosine_similarity(own, best.flatten(), 0)
        values.append(torch.stack([alignment, size, size - gap]))
    if len(values) < 2:
        return math.nan, math.nan, math.nan
    spread = torch.stack(values).var(0, correction=0)
    alignment, available, gained = (spread * (len(values) - 1)).sqrt().tolist()
    return alignment, available, gained


def at_frozen(outlook: Outlook, frozen: FrozenLayer, seen: Seen, name: str) -> tuple[Stand, list[str]]:
    """The tail at the layer's Bayes action, by the frozen pass; what is to be said of the action."""
    size, mean, precision = (
        len(outlook.bias),
        outlook.mean_action,
        torch.finfo(outlook.layer.weight.dtype).eps,
    )
    found = frozen_action(frozen, mean, outlook.layer.weight.dtype)
    sums, faithful = CrossSums(outlook.moments.mean), Faithfulness()
    metric, gradient, gap, constant = torch.zeros(size, size).double(), torch.zeros(size).double(), 0.0, 0.0
    for (f, g), rows in zip(own_features(frozen, seen), frozen.rows(found.action), strict=True):
        scores = rows.scores.to("cpu", torch.float64)
        sums.add(-scores, f)
        gradient += scores.sum(0)
        flat = rows.factors.flatten(0, 1).to("cpu", torch.float64)
        metric += flat.T @ flat
        values = frozen.loss.values(rows.outputs, rows.targets) - frozen.loss.values(g, rows.targets)
        gap += values.sum(dtype=torch.float64).item()
        _compare(faithful, frozen.loss, outlook, f, g, rows, found.action)
    constant = outlook.loss + gap / sums.count
    saturated = metric.diagonal() / sums.count < SATURATED**2 * found.usual
    places = tuple(int(i) for i in saturated.nonzero()[:, 0])
    root, _ = psd_factor(metric / sums.count)
    width, output = len(outlook.output.output), outlook.output.factor
    spread = ((output @ outlook.pair.covariance[:width, :width]) * output).sum().sqrt()
    idle = (root @ outlook.weight @ outlook.whitener.root).norm() <= NOTHING * precision * spread
    root = 0 * root if idle else root
    step, score = found.action - mean, gradient / sums.count
    lost = 0.5 * (root @ step).square().sum() - score @ step
    notes = []
    if places:
        notes.append(
            f"layer '{name}': the Bayes action beside the other road runs to saturation in {len(places)} of {size} "
            "neurons; the theorem does not apply to them."
        )
    if not found.converged:
        notes.append(
            f"layer '{name}': the search for the Bayes action beside the other road ended before its end, "
            f"{found.decrement:.1e} of the loss above its minimum."
        )
    remark = IDLE if idle else ""
    if found.rank < size and not idle:
        remark = f"Bayes action not unique (metric of rank {found.rank} of {size}): the one nearest the mean is taken"
    unit = torch.eye(size, dtype=torch.float64)
    beside = Beside(sums.cross, sums.covariance, sums.count, faithful.locality, remark=remark)
    stand = Stand(
        at="bayes",
        jacobian=unit,
        metric=root,
        factor=thin_svd(root),
        output=found.action,
        displacement=step,
        displacement_loss=lost.item(),
        constant_loss=constant,
        saturated=places,
        beside=beside,
    )
    return stand, notes


def _compare(
    faithful: Faithfulness,
    loss: Loss,
    outlook: Outlook,
    f: Tensor,
    g: Tensor,
    rows: FrozenRows,
    action: Tensor,
) -> None:
    """What the linear tail and the quadratic loss at the action say of one batch, and what is seen."""
    weight, bias = outlook.weight.to(f), outlook.bias.to(f)
    moved = f @ weight.T + bias - action.to(f)
    change = g - rows.outputs
    faithful.add_tail(
        torch.einsum("rpn,rn->rp", rows.factors, moved.to(rows.factors)), _through(rows, change)
    )
    said = curved(loss, rows.outputs, rows.targets, change)
    seen = output_slopes(loss, g, rows.targets) - output_slopes(loss, rows.outputs, rows.targets)
    faithful.add_loss(said, seen)


def _through(rows: FrozenRows, change: Tensor) -> Tensor:
    return torch.einsum("rpd,rd->rp", rows.projected, change.to(rows.projected))
