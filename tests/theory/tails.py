"""Tails whose output's Bayes action is reached at a chosen interior point."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
}


def interior(activation: str, size: int, generator: torch.Generator) -> Tensor:
    """A point where the activation is smooth and increasing."""
    point = 0.3 + 0.6 * torch.rand(size, generator=generator, dtype=torch.float64)
    if activation == "leaky_relu":
        point = point + 1.7  # far from the kink
    if activation not in ("silu", "gelu"):  # which decrease on part of the negative axis
        point = point * torch.where(torch.rand(size, generator=generator) < 0.5, -1.0, 1.0)
    return point


def linear(rows: int, columns: int, gain: float, centred: bool, generator: torch.Generator) -> nn.Linear:
    """A linear layer all of whose non-zero singular values are `gain`, without bias; centred: no softmax gauge."""
    layer = nn.Linear(columns, rows).double()
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    left, values, right = torch.linalg.svd(weight - centred * weight.mean(0), full_matrices=False)
    with torch.no_grad():
        layer.weight.copy_(gain * (left * (values > 1e-9)) @ right)
        layer.bias.zero_()
    return layer


def interior_tail(
    activation: str, neurons: int, goal: Tensor, seed: int, gain: float = 15.0, middle: tuple[int, ...] = ()
) -> tuple[nn.Module, Tensor]:
    """Activation and linear layer, again for every width in `middle`, and the z (n,) at which they put out `goal`.

    A steep tail keeps the layer's displacements small beside the activation's curvature: what local means.
    """
    generator = torch.Generator().manual_seed(seed)
    point = interior(activation, neurons, generator)
    parts: list[nn.Module] = []
    value = point
    for after in [*(interior(activation, width, generator) for width in middle), goal]:
        last = after is goal
        layer = linear(len(after), len(value), gain if last else gain / 2, last, generator)
        parts += [ACTIVATIONS[activation](), layer]
        with torch.no_grad():
            layer.bias += after - nn.Sequential(*parts[-2:])(value)
        value = after
    return nn.Sequential(*parts).requires_grad_(False), point
