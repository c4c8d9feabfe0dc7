"""Which layers another road leads past: with the layer frozen, the output still varies with the input."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from featgeo.data.inputs import Inputs, by_sample, sample_count
from featgeo.network.arrange import Arrangement, gathered, placed
from featgeo.network.layers import Layer
from featgeo.network.taps import Forward, as_rows, tapping

BYPASS = 1e-4  # variation of the output with a layer frozen, relative to its usual variation


def variations(
    forward: Forward,
    layers: Mapping[str, Layer],
    lies: Mapping[str, Arrangement],
    samples: Inputs,
    outputs: Mapping[str, Tensor],
    free: Tensor,
    most: int,
) -> dict[str, float]:
    """For each layer, how much the model's output varies over the samples while the layer is frozen at its mean output.

    Relative to how much it varies otherwise. One forward pass serves many layers: each is frozen on samples of its own.

    Args:
        forward: runs the model, in evaluation mode.
        layers: by name.
        lies: how their tensors lie.
        samples: some inputs (m, ...).
        outputs: the layers' outputs for them.
        free: the model's output rows (m, d) for them.
        most: samples that may be run at once.
    """
    count, names = sample_count(samples), list(lies)
    actions = {name: gathered(layers[name], lies[name], outputs[name], count).mean((0, 1)) for name in names}
    size, found = max(1, most // count), dict[str, float]()
    for group in (names[start : start + size] for start in range(0, len(names), size)):
        own = {name: slice(i * count, (i + 1) * count) for i, name in enumerate(group)}
        rows = _frozen(forward, {name: layers[name] for name in group}, lies, samples, actions, own)
        found |= {name: variation(rows[own[name]], free, layers[name].weight.dtype) for name in group}
    return found


def _frozen(
    forward: Forward,
    layers: Mapping[str, Layer],
    lies: Mapping[str, Arrangement],
    samples: Inputs,
    actions: Mapping[str, Tensor],
    own: Mapping[str, slice],
) -> Tensor:
    """Output rows of copies of the samples, one set for each layer, which is frozen on its own."""
    total = len(layers) * sample_count(samples)

    def freeze(name: str, _x: Tensor, output: Tensor) -> Tensor:
        layer, lie = layers[name], lies[name]
        still = placed(layer, lie, actions[name].expand(total, -1), output)
        made = output.clone()
        lie.samples(made, total)[own[name]] = lie.samples(still, total)[own[name]]
        return made

    copies = by_sample(samples, lambda part: torch.cat([part] * len(layers)))
    with tapping(layers, freeze):
        return as_rows(forward(copies)).to(torch.float64)


def variation(frozen: Tensor, free: Tensor, precision: torch.dtype) -> float:
    """How much outputs (m, d) of a frozen layer vary over the samples, relative to those of a free one.

    Args:
        frozen: with the layer frozen.
        free: without.
        precision: of the model: its rounding does not count.
    """
    rounding = 4 * torch.finfo(precision).eps * frozen.abs().max()
    usual = (free - free[:1]).to(frozen).abs().max().clamp_min(1e-30)
    return (((frozen - frozen[:1]).abs().max() - rounding).clamp_min(0) / usual).item()
