"""Small trained networks that the tests of compression share."""

from __future__ import annotations

import functools

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


@functools.cache
def digits() -> tuple[Pair, Pair]:
    """Handwritten digits, shuffled, to train (1,347) and to test (450): pixels in [0, 1] (·, 64) and labels."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(pixels / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]
    return (x[:1347], y[:1347]), (x[1347:], y[1347:])


def trained(model: nn.Sequential, data: Pair, steps: int, seed: int = 0) -> nn.Sequential:
    """Adam with a small penalty, in place."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = torch.randint(len(data[0]), (64,), generator=generator)
        penalty = sum(p.square().sum() for p in model.parameters())
        loss = nn.functional.cross_entropy(model(data[0][batch]), data[1][batch]) + 5e-4 * penalty
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@functools.cache
def mlp() -> nn.Sequential:
    """64-64-32-10 with ReLU, trained on the digits. Not to be changed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    return trained(model, digits()[0], 1200)


@functools.cache
def cnn() -> nn.Sequential:
    """Two convolutions and two Linear layers, trained on the digits as 8x8 images. Not to be changed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 24, 3, padding=1, stride=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(384, 24),
        nn.Tanh(),
        nn.Linear(24, 10),
    )
    return trained(model, digits()[0], 500)


def loss_of(model: nn.Module, data: Pair) -> float:
    """Mean cross-entropy."""
    with torch.no_grad():
        return nn.functional.cross_entropy(model(data[0]), data[1]).item()
