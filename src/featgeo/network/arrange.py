"""How samples and positions lie in a layer's tensors, and the way from there to (batch, positions, features) and back.

Most layers have samples first. Sequence models may have positions first, and some merge both into one dimension:
windows of an image, frames of a film, the steps of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from featgeo.network.features import feature_rows, position_rows
from featgeo.network.layers import SPATIAL, Layer


@dataclass(frozen=True)
class Arrangement:
    """Where the samples are.

    Attributes:
        axis: the dimension of the samples, 0 or more.
        merged: whether dimension 0 holds samples and positions together: sample after sample where axis is 0, position
            after position where it is 1.
    """

    axis: int = 0
    merged: bool = False

    def first(self, x: Tensor) -> Tensor:
        """Samples first (or samples and positions together)."""
        return x if self.merged or not self.axis else x.movedim(self.axis, 0)

    def last(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`first`."""
        return x if self.merged or not self.axis else x.movedim(0, self.axis)

    def fits(self, layer: Layer, x: Tensor, samples: int) -> bool:
        """Whether x, the layer's input, has rows for so many samples."""
        ndim = len(layer.kernel_size) + 2 if isinstance(layer, SPATIAL) else 2
        if x.ndim < ndim or x.ndim <= self.axis + (not self.merged):
            return False
        rows = self.first(x).shape[0]
        return rows % samples == 0 if self.merged else rows == samples

    def split(self, rows: Tensor, samples: int) -> Tensor:
        """Rows (samples * positions, ...) of a merged dimension as (samples, positions, ...)."""
        if self.axis:
            return rows.unflatten(0, (-1, samples)).transpose(0, 1)
        return rows.unflatten(0, (samples, -1))

    def samples(self, x: Tensor, samples: int) -> Tensor:
        """A view of a tensor with the samples first."""
        first = self.first(x)
        return self.split(first, samples) if self.merged else first

    def spread(self, rows: Tensor, length: int) -> Tensor:
        """Rows (samples, ...) repeated for every position of a merged dimension of that length."""
        times = length // len(rows)
        return rows.repeat(times, *(1,) * (rows.ndim - 1)) if self.axis else rows.repeat_interleave(times, 0)


def sample_rows(
    layer: Layer, lie: Arrangement, x: Tensor, output: Tensor, samples: int, keep: Tensor | None = None
) -> tuple[Tensor, Tensor | int]:
    """Features averaged over positions (m, k), and over how many: one number, or one per sample (m,).

    Args:
        layer: the layer.
        lie: how its tensors lie.
        x: its input.
        output: its output.
        samples: m.
        keep: (m, positions), positions that are no padding, for the layers that have as many.
    """
    x = lie.first(x)
    if lie.merged:
        rows = lie.split(feature_rows(layer, x, output), samples)
        return rows.mean(1), rows.shape[1]
    if isinstance(layer, SPATIAL):
        return feature_rows(layer, x, output), output[0, 0].numel()
    if keep is not None and x.ndim == 3 and x.shape[1] == keep.shape[1]:
        return feature_rows(layer, x, keep=keep.to(x.device)), keep.sum(1).to(x.device)
    return feature_rows(layer, x), x.shape[1:-1].numel()


def all_rows(layer: Layer, lie: Arrangement, x: Tensor, output: Tensor, samples: int) -> Tensor:
    """Features at every position (m, positions, k)."""
    rows = position_rows(layer, lie.first(x), output)
    return lie.split(rows, samples).flatten(1, 2) if lie.merged else rows


def over_calls(calls: list[tuple[Tensor, Tensor | int]], expand: bool) -> Tensor:
    """Rows of one batch from those of every call of a layer: a shared layer's calls count as positions.

    Args:
        calls: per call, rows (m, k) with the number of positions that they are means over; or, where every position is
            a row, (m, positions, k).
        expand: whether every position is a row.
    """
    if expand:
        return torch.cat([rows for rows, _ in calls], 1).flatten(0, 1)
    if len(calls) == 1:
        return calls[0][0]
    weights = [count[:, None] if isinstance(count, Tensor) else count for _, count in calls]
    total = sum(rows * weight for (rows, _), weight in zip(calls, weights, strict=True))
    number: Tensor | int = sum(weights)
    assert isinstance(total, Tensor)
    return total / (number.clamp_min(1) if isinstance(number, Tensor) else number)


def placed(layer: Layer, lie: Arrangement, z: Tensor, output: Tensor) -> Tensor:
    """z (m, n) at every position of a layer's output, a tensor of its own: tails may work in place."""
    shaped = lie.first(output)
    rows = lie.spread(z, len(shaped)) if lie.merged else z
    gaps = (1,) * (shaped.ndim - 2)
    shape = (*rows.shape, *gaps) if isinstance(layer, SPATIAL) else (len(rows), *gaps, rows.shape[1])
    spread = rows.to(output).reshape(shape).expand(shaped.shape)
    return lie.last(spread).clone(memory_format=torch.contiguous_format)


def gathered(layer: Layer, lie: Arrangement, gradient: Tensor, samples: int) -> Tensor:
    """A gradient at a layer's output as (m, positions, n)."""
    rows = lie.first(gradient)
    rows = (
        rows.flatten(2).transpose(1, 2)
        if isinstance(layer, SPATIAL)
        else rows.reshape(len(rows), -1, rows.shape[-1])
    )
    return lie.split(rows, samples).flatten(1, 2) if lie.merged else rows
