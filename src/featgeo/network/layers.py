"""The layers that can be analysed: where a weight matrix W (n, k) stands between features and a pre-activation.

One convention for all: W acts on features f (k,) at every position, z = W f + b. A convolution's f is a patch
(channels, then taps); in a grouped one W is block diagonal. Here W is translated from and to the module's own layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Part = Literal["q", "k", "v", "out"]


@dataclass(frozen=True, eq=False)
class Projection:
    """One of the four projections inside nn.MultiheadAttention, which are no modules of their own.

    Attributes:
        attention: the module.
        part: which projection.
    """

    attention: nn.MultiheadAttention
    part: Part

    @property
    def weight(self) -> Tensor:
        """Its rows of the module's parameters (n, k)."""
        if self.part == "out":
            return self.attention.out_proj.weight
        packed: Tensor | None = (
            self.attention.in_proj_weight
        )  # None where keys or values have sizes of their own
        if packed is None:
            return getattr(self.attention, f"{self.part}_proj_weight")
        return packed.chunk(3)["qkv".index(self.part)]

    @property
    def bias(self) -> Tensor | None:
        """Its entries of the module's bias (n,)."""
        if self.part == "out":
            return self.attention.out_proj.bias
        bias = self.attention.in_proj_bias
        return None if bias is None else bias.chunk(3)["qkv".index(self.part)]


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Layer = nn.Linear | Convolution | Transposed | Projection
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SPATIAL = (*CONVOLUTIONS, *TRANSPOSED)
LAYERS = (nn.Linear, *SPATIAL)


def turned_linear(module: nn.Module) -> bool:
    """Whether this is transformers' Conv1D (GPT-2): a linear layer whose weight is stored as (k, n)."""
    weight = getattr(module, "weight", None)
    return (
        type(module).__name__ == "Conv1D"
        and hasattr(module, "nf")
        and isinstance(weight, Tensor)
        and weight.ndim == 2
    )


def is_layer(module: object) -> TypeGuard[Layer]:
    """Whether a module can be analysed."""
    return isinstance(module, LAYERS) or (isinstance(module, nn.Module) and turned_linear(module))


def features_of(layer: Layer) -> int:
    """Number k of its features: of a convolution, the entries of a patch over all channels."""
    if isinstance(layer, SPATIAL):
        return layer.in_channels * math.prod(layer.kernel_size)
    if isinstance(layer, nn.Linear):
        return layer.in_features  # to look at a parametrised weight may change the model's state
    return layer.weight.shape[0 if isinstance(layer, nn.Module) and turned_linear(layer) else 1]


def neurons_of(layer: Layer) -> int:
    """Number n of its outputs at one position."""
    if isinstance(layer, SPATIAL):
        return int(layer.out_channels)
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.weight.shape[1 if isinstance(layer, nn.Module) and turned_linear(layer) else 0]


def groups_of(layer: Layer) -> int:
    """Number of diagonal blocks of W."""
    return int(getattr(layer, "groups", 1)) if isinstance(layer, SPATIAL) else 1


def as_matrix(layer: Layer, weight: Tensor) -> Tensor:
    """W (n, k) of a tensor in the layer's own layout; zeros outside the blocks of a grouped layer."""
    if not isinstance(layer, SPATIAL):
        return weight.T if isinstance(layer, nn.Module) and turned_linear(layer) else weight
    groups = groups_of(layer)
    if isinstance(layer, TRANSPOSED):  # (inputs, outputs of one group, taps)
        weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    blocks = weight.flatten(1).unflatten(0, (groups, -1))
    return blocks[0] if groups == 1 else torch.block_diag(*blocks)


def as_weight(layer: Layer, matrix: Tensor) -> Tensor:
    """The tensor in the layer's own layout of a matrix W (n, k); what lies outside the blocks is dropped."""
    if not isinstance(layer, SPATIAL):
        return matrix.T if isinstance(layer, nn.Module) and turned_linear(layer) else matrix
    groups, taps = groups_of(layer), layer.kernel_size
    rows = matrix.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))
    blocks = torch.stack([rows[i, :, i] for i in range(groups)])  # (groups, outputs, inputs * taps)
    blocks = blocks.unflatten(2, (-1, *taps))
    return (blocks.transpose(1, 2) if isinstance(layer, TRANSPOSED) else blocks).flatten(0, 1)


def weight_matrix(layer: Layer) -> tuple[Tensor, Tensor]:
    """W (n, k) and b (n,) in float64 on the CPU; b is zero where the layer has none."""
    weight = as_matrix(layer, layer.weight.detach().to("cpu", torch.float64))
    bias = (
        weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to("cpu", torch.float64)
    )
    return weight, bias


def respond(layer: Layer, x: Tensor, matrix: Tensor, like: Tensor) -> Tensor:
    """What a layer would put out for an input x with the matrix W (n, k) and no bias, in the shape of ``like``."""
    weight: Any = as_weight(layer, matrix).to(x)
    if isinstance(layer, CONVOLUTIONS):
        return layer._conv_forward(x, weight, None)
    if isinstance(layer, TRANSPOSED):
        axes = len(layer.kernel_size)
        made = _transposed(layer, x, weight, (0,) * axes).shape[-axes:]
        extra = tuple(wanted - size for wanted, size in zip(like.shape[-axes:], made, strict=True))
        return _transposed(layer, x, weight, extra)
    return x @ weight if isinstance(layer, nn.Module) and turned_linear(layer) else F.linear(x, weight)


def _transposed(layer: Transposed, x: Tensor, weight: Tensor, extra: tuple[int, ...]) -> Tensor:
    function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[len(layer.kernel_size) - 1]
    return function(x, weight, None, layer.stride, layer.padding, extra, layer.groups, layer.dilation)
