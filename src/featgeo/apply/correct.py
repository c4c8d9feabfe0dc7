"""What is left of the layers after earlier ones were cut: each is refitted in closed form to what it used to compute.

Layer by layer in the order of the forward pass, the whole network says what a layer's pre-activation z was, the cut
network what its features f' have become; the layer's new weights are the regression of z on f', of full rank where it
stays dense, and of its rank in the loss's metric where it is cut (:class:`featgeo.apply.modes.Modes`). Everything comes
from second moments of (z, f'), in one pass of both networks for each group of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from featgeo.apply.factor import Thin, filled, set_dense, swap
from featgeo.apply.modes import Metric, Modes
from featgeo.apply.positions import outputs_of, rows_of
from featgeo.apply.survey import Enough, Receive, listening
from featgeo.data.batches import Batches
from featgeo.data.moments import Companion, Moments, MomentStream
from featgeo.network.features import Layer
from featgeo.network.sweep import Runner, runner_of
from featgeo.network.taps import weight_matrix
from featgeo.theory.linalg import whiten

PRIOR = 1e-3  # weight of the old weights against the data, in units of every feature's variance


def paired_moments(
    whole: nn.Module, cut: nn.Module, data: Batches, layers: dict[str, Layer]
) -> dict[str, tuple[Moments, torch.dtype]]:
    """Moments of each layer's features in the cut network with its outputs in the whole one as companion."""
    streams = {name: MomentStream(f"layer '{name}'") for name in layers}
    sides = {name: MomentStream(f"outputs of layer '{name}'") for name in layers}
    targets: dict[str, Tensor] = {}

    def keep(name: str, _x: Tensor, output: Tensor) -> None:
        targets[name] = outputs_of(layers[name], output)
        if len(targets) == len(layers):
            raise Enough

    def count(name: str, x: Tensor, _output: Tensor) -> None:
        start = 0
        for rows in rows_of(layers[name], x):
            centred, shift = sides[name].centre(targets[name][start : start + len(rows)])
            streams[name].add(streams[name].centre(rows)[0], Companion.of(centred, shift))
            start += len(rows)
        del targets[name]
        if not targets:
            raise Enough

    mine = {name: cut.get_submodule(name) for name in layers}
    passes: list[tuple[Runner, Mapping[str, nn.Module], Receive]] = [
        (runner_of(whole), layers, keep),
        (runner_of(cut), mine, count),
    ]
    for inputs, _ in data:
        for run, hooked, receive in passes:
            with suppress(Enough), listening(hooked, receive):
                run(inputs)
    return {name: (stream.result().to("cpu"), stream.precision) for name, stream in streams.items()}


def refit(layer: Layer, moments: Moments, precision: torch.dtype, metric: Metric) -> Modes:
    """The modes of the regression of the layer's old outputs on its new features, leaning on its old weights."""
    weight, _ = weight_matrix(layer)
    lean = PRIOR * moments.covariance.diagonal()
    whitener = whiten(moments.covariance + lean.diag(), precision)
    cross = whitener.white(moments.cross_covariance + weight * lean)
    return Modes.of(cross, metric, whitener, moments.companion, moments.mean)


def regression(layer: Layer, moments: Moments, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of the same regression at full rank; through the origin where the layer has no bias."""
    weight, _ = weight_matrix(layer)
    covariance, cross = moments.covariance, moments.cross_covariance
    lean = PRIOR * covariance.diagonal()
    if layer.bias is None:
        covariance = covariance + moments.mean.outer(moments.mean)
        cross = cross + moments.companion.outer(moments.mean)
    whitener = whiten(covariance + lean.diag(), precision)
    fitted = whitener.back(whitener.white(cross + weight * lean))
    return fitted, moments.companion - fitted @ moments.mean


def groups_of(names: list[str], stages: int) -> list[list[str]]:
    """Consecutive names in at most so many groups of about one size."""
    size = -(-len(names) // max(1, stages))
    return [names[i : i + size] for i in range(0, len(names), size)]


def cut_in_turn(
    whole: nn.Module,
    data: Batches,
    layers: dict[str, Layer],
    roots: dict[str, Metric],
    ranks: dict[str, int | None],
    cut: nn.Module,
    stages: int,
    progress: bool = False,
) -> None:
    """Cut and refit the layers of ``cut``, a copy of ``whole``, in place.

    Args:
        whole: the network as it was.
        data: the batches.
        layers: of the whole network, in the order of the forward pass.
        roots: name -> metric of its pre-activation.
        ranks: name -> rank, or None to stay dense.
        cut: the copy.
        stages: how often the statistics are renewed.
        progress: whether to show a progress bar.
    """
    names = list(layers)
    first = next((i for i, name in enumerate(names) if ranks[name] is not None), len(names))
    for group in tqdm(groups_of(names[first:], stages), desc="correct", unit="group", disable=not progress):
        found = paired_moments(whole, cut, data, {name: layers[name] for name in group})
        for name in group:
            rank, layer = ranks[name], layers[name]
            if rank is None:
                set_dense(cut.get_submodule(name), *regression(layer, *found[name]))  # type: ignore[arg-type]
            else:
                swap(cut, name, filled(layer, refit(layer, *found[name], roots[name]).thin(rank)))


def truncate(cut: nn.Module, layers: dict[str, Layer], thin: dict[str, Thin]) -> None:
    """Put thin layers in place without looking at the data again."""
    for name, factors in thin.items():
        swap(cut, name, filled(layers[name], factors))
