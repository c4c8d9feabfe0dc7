"""From a layer's input tensor to feature rows f with z = W f + b, whatever the layer is.

One shape convention: (batch, positions, features), positions being a convolution's pixels or a transformer's tokens.
A layer with one action per sample averages its features over positions ("reduce"; the names are those of Eschenhagen et
al. 2023 on K-FAC): averaging is linear, and the mean output is W times the mean patch. With one label per position
every position is a row ("expand").
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from featgeo.network.layers import SPATIAL, TRANSPOSED, Convolution, Layer, Transposed

Home = tuple[torch.device, torch.dtype]  # where a cached tensor lies, so that no batch waits for a copy
HOST: Home = (torch.device("cpu"), torch.float64)


@functools.lru_cache(maxsize=256)
def _window(
    size: int, kernel: int, stride: int, dilation: int, before: int, after: int, mode: str, home: Home = HOST
) -> Tensor:
    """(size, kernel): the share of output positions at which kernel tap i looks at input position h."""
    positions = (size + before + after - dilation * (kernel - 1) - 1) // stride + 1
    share = torch.zeros(size, kernel, dtype=torch.float64)
    for tap in range(kernel):
        place = torch.arange(positions) * stride + tap * dilation - before
        if mode == "circular":
            place = place % size
        elif mode == "replicate":
            place = place.clamp(0, size - 1)
        elif mode == "reflect":
            place = place.abs()
            place = size - 1 - (size - 1 - place).abs()
        inside = (place >= 0) & (place < size)
        share[:, tap].index_add_(0, place[inside], torch.ones(int(inside.sum()), dtype=torch.float64))
    return (share / positions).to(*home)


@functools.lru_cache(maxsize=256)
def _scatter(
    size: int, kernel: int, stride: int, dilation: int, padding: int, made: int, home: Home = HOST
) -> Tensor:
    """(size, kernel): the share of output positions that input position h reaches through tap i, if transposed."""
    place = torch.arange(size)[:, None] * stride + torch.arange(kernel) * dilation - padding
    return (((place >= 0) & (place < made)).to(torch.float64) / made).to(*home)


def _padding(layer: Convolution, axis: int) -> tuple[int, int]:
    """Padding before and after along a spatial axis."""
    if layer.padding == "same":
        total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        return total // 2, total - total // 2
    if layer.padding == "valid":
        return 0, 0
    amount = int(layer.padding[axis])
    return amount, amount


def _shares(layer: Convolution | Transposed, axis: int, size: int, made: int, home: Home) -> Tensor:
    taps = (layer.kernel_size[axis], layer.stride[axis], layer.dilation[axis])
    if isinstance(layer, TRANSPOSED):
        return _scatter(size, *taps, int(layer.padding[axis]), made, home)
    return _window(size, *taps, *_padding(layer, axis), layer.padding_mode, home)


def _mean_patch(layer: Convolution | Transposed, x: Tensor, made: tuple[int, ...]) -> Tensor:
    """Mean over output positions of the patches that a convolution sees: (m, channels * taps), without unfolding."""
    rest = 1
    for axis in reversed(range(x.ndim - 2)):
        window = _shares(layer, axis, x.shape[2 + axis], made[axis], (x.device, x.dtype))
        if rest == 1:
            x = x.reshape(*x.shape[: 3 + axis]) @ window
        else:
            x = window.T @ x.reshape(*x.shape[: 3 + axis], rest)
            x = x.flatten(-2)
        rest *= layer.kernel_size[axis]
    return x.flatten(1)


def _made(layer: Convolution | Transposed, x: Tensor, output: Tensor | None) -> tuple[int, ...]:
    """Spatial size of the output: only a transposed convolution's is needed, and may have been asked for."""
    axes = len(layer.kernel_size)
    if output is not None:
        return tuple(output.shape[-axes:])
    if not isinstance(layer, TRANSPOSED):
        return (0,) * axes
    return tuple(
        (size - 1) * layer.stride[i] - 2 * int(layer.padding[i]) + layer.dilation[i] * (layer.kernel_size[i] - 1)
        + int(layer.output_padding[i]) + 1
        for i, size in enumerate(x.shape[-axes:])
    )  # fmt: skip


def _batched(layer: Layer, x: Tensor) -> Tensor:
    """With a batch dimension, in float32 or better."""
    features = len(layer.kernel_size) + 1 if isinstance(layer, SPATIAL) else 1
    return x[None] if x.ndim == features else x


def _precision(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def feature_rows(layer: Layer, x: Tensor, output: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
    """Features (m, k) of a batch: the input, or its mean over positions.

    Args:
        layer: the layer.
        x: its input (m, ...); samples first.
        output: its output, where a transposed convolution was asked for a size.
        keep: (m, positions), which of a linear layer's positions count; all by default.
    """
    x = _batched(layer, x)
    if isinstance(layer, SPATIAL):
        return _mean_patch(layer, x.to(_precision(x)), _made(layer, x, output))
    if x.ndim == 2:
        return x
    if keep is None:
        return x.flatten(1, -2).mean(1, dtype=_precision(x))
    share = keep.to(_precision(x)) / keep.sum(1, keepdim=True).clamp_min(1)
    return torch.einsum("mp,mpk->mk", share, x.flatten(1, -2).to(share.dtype))


def position_rows(layer: Layer, x: Tensor, output: Tensor | None = None) -> Tensor:
    """Features (m, positions, k) of a batch, one row per output position."""
    x = _batched(layer, x)
    x = x.to(_precision(x))
    if not isinstance(layer, SPATIAL):
        return x[:, None] if x.ndim == 2 else x.flatten(1, -2)
    made, axes = _made(layer, x, output), len(layer.kernel_size)
    stride, dilation = tuple(map(int, layer.stride)), tuple(map(int, layer.dilation))
    spans = [d * (int(k) - 1) for d, k in zip(dilation, layer.kernel_size, strict=True)]
    if isinstance(layer, TRANSPOSED):  # a plain convolution of the input with zeros between, taps reversed
        x, mode = _stuffed(x, stride), "constant"
        before = [span - int(layer.padding[i]) for i, span in enumerate(spans)]
        pads = [(b, made[i] + spans[i] - b - x.shape[2 + i]) for i, b in enumerate(before)]
        stride = (1,) * axes
    else:
        pads = [_padding(layer, axis) for axis in range(axes)]
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, [side for pair in reversed(pads) for side in pair], mode=mode)
    for axis, span in enumerate(spans):
        x = x.unfold(2 + axis, span + 1, stride[axis])[..., :: dilation[axis]]
    if isinstance(layer, TRANSPOSED):
        x = x.flip(tuple(range(x.ndim - axes, x.ndim)))
    return x.movedim(1, 1 + axes).flatten(1 + axes).flatten(1, axes)


def _stuffed(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The input with stride - 1 zeros between its entries."""
    for axis, step in enumerate(stride, 2):
        wide = x.new_zeros(*x.shape[: axis + 1], step, *x.shape[axis + 1 :])
        wide.select(axis + 1, 0).copy_(x)
        x = wide.flatten(axis, axis + 1).narrow(axis, 0, (x.shape[axis] - 1) * step + 1)
    return x
