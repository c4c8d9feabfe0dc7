"""From a layer's input tensor to feature rows f with z̄ = W f + b, whatever the layer is.

A layer that acts at many positions (a convolution's pixels, a transformer's tokens) has one action per sample, so its
features are averaged over positions ("reduce"; the name is that of Eschenhagen et al. 2023 on K-FAC): averaging is
linear, and the mean output is W times the mean patch.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@functools.lru_cache(maxsize=256)
def _window(size: int, kernel: int, stride: int, dilation: int, before: int, after: int, mode: str) -> Tensor:
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
    return share / positions


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, axis: int) -> tuple[int, int]:
    """Padding before and after along a spatial axis."""
    if layer.padding == "same":
        total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
        return total // 2, total - total // 2
    if layer.padding == "valid":
        return 0, 0
    amount = int(layer.padding[axis])
    return amount, amount


def _mean_patch(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """Mean over output positions of the patches that a convolution sees: (m, channels * taps), without unfolding."""
    rest = 1
    for axis in reversed(range(x.ndim - 2)):
        before, after = _padding(layer, axis)
        taps = (layer.kernel_size[axis], layer.stride[axis], layer.dilation[axis])
        window = _window(x.shape[2 + axis], *taps, before, after, layer.padding_mode).to(x)
        if rest == 1:
            x = x.reshape(*x.shape[: 3 + axis]) @ window
        else:
            x = window.T @ x.reshape(*x.shape[: 3 + axis], rest)
            x = x.flatten(-2)
        rest *= layer.kernel_size[axis]
    return x.flatten(1)


def feature_rows(layer: Layer, x: Tensor) -> Tensor:
    """Features (m, k) of a batch: the input, or its mean over positions."""
    positions = 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)
    x = x[None] if x.ndim == positions + 1 else x  # no batch dimension
    precision = torch.float64 if x.dtype == torch.float64 else torch.float32
    if isinstance(layer, nn.Linear):
        return x if x.ndim == 2 else x.flatten(1, -2).mean(1, dtype=precision)
    return _mean_patch(layer, x.to(precision))
