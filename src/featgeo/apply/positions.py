"""What a layer sees at every position, one row each: f with z = W f + b, for Linear layers and convolutions.

Here positions count as samples ("expand" in Eschenhagen et al. 2023 on K-FAC), since thin layers act at each of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featgeo.network.features import Layer

ENTRIES = 1 << 24  # most entries of unfolded patches at a time


def padded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """The convolution's input with its padding made explicit."""
    amounts = list(layer._reversed_padding_repeated_twice)
    if not any(amounts):
        return x
    return F.pad(x, amounts, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)


def patches(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """The patches (m, positions, channels * taps) of a batch (m, channels, ...)."""
    x, axes = padded(layer, x), len(layer.kernel_size)
    for axis in range(axes):
        dilation = layer.dilation[axis]
        reach = dilation * (layer.kernel_size[axis] - 1) + 1
        x = x.unfold(2 + axis, reach, layer.stride[axis])[..., ::dilation]
    order = (0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))
    return x.permute(order).flatten(1 + axes).flatten(1, axes)


def rows_of(layer: Layer, x: Tensor) -> Iterator[Tensor]:
    """Feature rows (·, k) of a batch, in the order of :func:`outputs_of`, in blocks of bounded size."""
    if isinstance(layer, nn.Linear):
        yield x.reshape(-1, x.shape[-1])
        return
    taps = layer.weight[0].numel() * max(1, x[0, 0].numel())
    for part in x.split(max(1, ENTRIES // taps)):
        yield patches(layer, part).flatten(0, 1)


def outputs_of(layer: Layer, z: Tensor) -> Tensor:
    """Rows (·, n) of a layer's output or of a gradient with respect to it."""
    if isinstance(layer, nn.Linear):
        return z.reshape(-1, z.shape[-1])
    return z.movedim(1, -1).reshape(-1, z.shape[1])


def apply_rows(layer: Layer, weight: Tensor, x: Tensor) -> Tensor:
    """weight f (m, positions, r) at every position of a batch, for rows weight (r, k)."""
    if isinstance(layer, nn.Linear):
        return (x @ weight.T).reshape(len(x), -1, len(weight))
    kernel = weight.reshape(len(weight), *layer.weight.shape[1:])
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(layer.kernel_size) - 1]
    out = convolve(padded(layer, x), kernel, None, layer.stride, 0, layer.dilation)
    return torch.as_tensor(out).flatten(2).transpose(1, 2)


def per_sample(layer: Layer, z: Tensor) -> Tensor:
    """A layer's output or a gradient with respect to it as (m, positions, n)."""
    if isinstance(layer, nn.Linear):
        return z.reshape(len(z), -1, z.shape[-1])
    return z.flatten(2).transpose(1, 2)
