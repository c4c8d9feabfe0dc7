"""What is left of the layers after earlier ones were cut: each is refitted in closed form to what it used to compute.

Dense by layer in the order of the forward pass, the whole network says what a layer's pre-activation z was, the cut
network what its features f' have become; the layer's new weights are the regression of z on f', of full rank where it
stays dense, and of its rank in the loss's metric where it is cut (:class:`featgeo.apply.modes.Modes`). Everything comes
from second moments of (z, f'), in one pass of both networks for each group of layers.

The regression leans on the old weights. With rows enough it hardly needs to; with few rows a feature one that does not
fits the rows at hand and does worse on others than no refitting. How far it leans is chosen for each layer by what a
fit to every other sample makes of the rest.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from featgeo.apply.factor import Dense, Thin, filled, set_dense, swap
from featgeo.apply.modes import Metric, Modes
from featgeo.apply.positions import kept_rows, per_sample, rows_of
from featgeo.apply.survey import Enough
from featgeo.data.batches import Batches
from featgeo.data.inputs import position_mask
from featgeo.data.moments import Companion, Moments, MomentStream
from featgeo.network.layers import weight_matrix
from featgeo.network.run import Runner
from featgeo.network.taps import Look, tapping
from featgeo.theory.linalg import Whitener, whiten

# weights of the old weights against the data, in units of every feature's variance
LEANS = (1e-3, 1e-2, 1e-1, 1.0)
RARE = 1e-2  # of the mean variance, below which a feature counts as rare
Halves = tuple[Moments, Moments | None]


def paired_moments(
    run: Runner, cut: nn.Module, data: Batches, layers: dict[str, Dense]
) -> dict[str, tuple[Halves, torch.dtype]]:
    """Moments of each layer's features in the cut network with its outputs in the whole one as companion.

    Of every other sample, and of the rest.
    """
    streams = {name: [MomentStream(f"layer '{name}'") for _ in range(2)] for name in layers}
    sides = {name: [MomentStream(f"outputs of layer '{name}'") for _ in range(2)] for name in layers}
    targets: dict[str, Tensor] = {}
    keep: Tensor | None = None

    def read(name: str, _x: Tensor, output: Tensor) -> None:
        targets[name] = per_sample(layers[name], output)
        if len(targets) == len(layers):
            raise Enough

    def count(name: str, x: Tensor, _output: Tensor) -> None:
        for half, (stream, side) in enumerate(zip(streams[name], sides[name], strict=True)):
            own = slice(half, None, 2)
            mask, made = None if keep is None else keep[own], targets[name][own]
            for rows, part in rows_of(layers[name], x[own], mask) if len(x[own]) else ():
                wanted = kept_rows(made[part], None if mask is None else mask[part])
                centred, shift = side.centre(wanted)
                stream.add(stream.centre(rows)[0], Companion.of(centred, shift))
        del targets[name]
        if not targets:
            raise Enough

    mine: dict[str, Dense] = {name: cut.get_submodule(name) for name in layers}  # type: ignore[misc]
    passes: list[tuple[Runner, dict[str, Dense], Look]] = [
        (run, layers, read),
        (run.on(cut), mine, count),
    ]
    for inputs, _ in data:
        keep = position_mask(inputs)
        for own, hooked, look in passes:
            with suppress(Enough), tapping(hooked, look):
                own(inputs)
    found: dict[str, tuple[Halves, torch.dtype]] = {}
    for name, (even, odd) in streams.items():
        odd.flush()
        rest = odd.total.to("cpu") if odd.total else None
        found[name] = (even.result().to("cpu"), rest), even.precision
    return found


def whole_of(halves: Halves) -> Moments:
    """Moments of both halves together."""
    one, other = halves
    return one if other is None else one.merge(other)


def spread_of(moments: Moments) -> Tensor:
    """Variances (k,), none below a hundredth of their mean: neurons that hardly ever fire keep their weights."""
    spread = moments.covariance.diagonal()
    return spread.clamp_min(RARE * spread.mean().item())


def leant(
    weight: Tensor, moments: Moments, share: float, precision: torch.dtype, centred: bool = True
) -> tuple[Whitener, Tensor]:
    """Features made white, and Cov(z, f') on them (n, r), both leaning on the old weights (n, k).

    Not centred, these are second moments about the origin.
    """
    lean, mean = share * spread_of(moments), moments.mean
    covariance, cross = moments.covariance, moments.cross_covariance
    if not centred:
        covariance, cross = covariance + mean.outer(mean), cross + moments.companion.outer(mean)
    whitener = whiten(covariance + lean.diag(), precision, mean if centred else None)
    return whitener, whitener.white(cross + weight * lean)


def leaning(weight: Tensor, halves: Halves, precision: torch.dtype, metric: Metric | None) -> float:
    """How far to lean: half of what makes regressions on one half of the samples do best on the other.

    The noise of a regression, which leaning is against, falls as one over the number of samples. Errors are in the
    metric of the outputs, and without what no regression explains.
    """
    one, other = halves
    if other is None:
        return LEANS[-1]
    root = torch.eye(len(weight)).to(weight) if metric is None else metric.root
    errors = []
    for share in LEANS:
        error = 0.0
        for seen, left in ((one, other), (other, one)):
            whitener, cross = leant(weight, seen, share, precision)
            fitted = root @ whitener.back(cross)
            off = root @ (left.companion - seen.companion) - fitted @ (left.mean - seen.mean)
            explained = (fitted * (2 * root @ left.cross_covariance - fitted @ left.covariance)).sum()
            error += (off.square().sum() - explained).item()
        errors.append(error)
    return LEANS[errors.index(min(errors))] / 2


def refit(layer: Dense, halves: Halves, precision: torch.dtype, metric: Metric) -> Modes:
    """The modes of the regression of the layer's old outputs on its new features, leaning on its old weights."""
    weight, _ = weight_matrix(layer)
    moments = whole_of(halves)
    whitener, cross = leant(weight, moments, leaning(weight, halves, precision, metric), precision)
    return Modes.of(cross, metric, whitener, moments.companion, moments.mean)


def regression(layer: Dense, halves: Halves, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of the same regression at full rank; through the origin where the layer has no bias."""
    weight, _ = weight_matrix(layer)
    moments = whole_of(halves)
    share = leaning(weight, halves, precision, None)
    whitener, cross = leant(weight, moments, share, precision, layer.bias is not None)
    fitted = whitener.back(cross)
    return fitted, moments.companion - fitted @ moments.mean


def groups_of(names: list[str], stages: int) -> list[list[str]]:
    """Consecutive names in at most so many groups of about one size."""
    size = -(-len(names) // max(1, stages))
    return [names[i : i + size] for i in range(0, len(names), size)]


def cut_in_turn(
    run: Runner,
    data: Batches,
    layers: dict[str, Dense],
    roots: dict[str, Metric],
    ranks: dict[str, int | None],
    cut: nn.Module,
    stages: int,
    progress: bool = False,
) -> None:
    """Cut and refit the layers of ``cut``, a copy of a network, in place.

    Args:
        run: the network as it was.
        data: the batches.
        layers: of it, in the order of the forward pass.
        roots: name -> metric of its pre-activation.
        ranks: name -> rank, or None to stay dense.
        cut: the copy.
        stages: how often the statistics are renewed.
        progress: whether to show a progress bar.
    """
    names = list(layers)
    first = next((i for i, name in enumerate(names) if ranks[name] is not None), len(names))
    for group in tqdm(groups_of(names[first:], stages), desc="correct", unit="group", disable=not progress):
        found = paired_moments(run, cut, data, {name: layers[name] for name in group})
        for name in group:
            rank, layer = ranks[name], layers[name]
            if rank is None:
                set_dense(cut.get_submodule(name), *regression(layer, *found[name]))  # type: ignore[arg-type]
            else:
                swap(cut, name, filled(layer, refit(layer, *found[name], roots[name]).thin(rank)))


def truncate(cut: nn.Module, layers: dict[str, Dense], thin: dict[str, Thin]) -> None:
    """Put thin layers in place without looking at the data again."""
    for name, factors in thin.items():
        swap(cut, name, filled(layers[name], factors))
