"""Small models and data that the tests of network/ share."""

from __future__ import annotations

import functools
import itertools
import warnings
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import featgeo as fg

CLASSES = 10


def quiet(*args: Any, **options: Any) -> fg.Report:
    """analyze() where the warnings, which the report carries anyway, are not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fg.FeatgeoWarning)
        return fg.analyze(*args, **options)


def numbers(report: fg.Report) -> dict[str, Any]:
    """Everything that a report says, as plain data that can be compared; not how long it took."""
    return {**report.to_dict(), "seconds": 0}


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 handwritten digits: pixels in [0, 1] (1797, 64) and labels."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


def soft_labels(labels: Tensor, epsilon: float) -> Tensor:
    """(1-ρ)·onehot + ρ·P_Y (m, |Y|) with ρ such that the dependence on a sample that is seen once is ε."""
    one_hot = nn.functional.one_hot(labels).double()
    keep = epsilon / (one_hot.shape[1] - 1) ** 0.5
    return keep * one_hot + (1 - keep) * one_hot.mean(0)


def blobs(
    seed: int, count: int = 300, width: int = 6, classes: int = 4, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Gaussian features in float64 (count, width) about class means, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (count,), generator=generator)
    labels[:classes] = torch.arange(classes)
    means = spread * torch.randn(classes, width, generator=generator, dtype=torch.float64)
    return means[labels] + torch.randn(count, width, generator=generator, dtype=torch.float64), labels


def train(
    model: nn.Module, x: Tensor, y: Tensor, steps: int, loss: nn.Module | None = None, lr: float = 5e-3
) -> nn.Module:
    """Adam on random batches of 128, in place."""
    loss, optimiser = loss or nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        batch = torch.randint(0, len(x), (128,))
        optimiser.zero_grad()
        loss(model(x[batch]), y[batch]).backward()
        optimiser.step()
    return model


def mlp(
    *widths: int, activation: type[nn.Module] = nn.Tanh, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Linear layers '0', '2', '4', ... with activations between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)


class Asinh(nn.Module):
    """Smooth and unbounded: Bayes actions are interior and, in layers no wider than the output, unique."""

    def forward(self, z: Tensor) -> Tensor:
        return z.asinh()


def dressed() -> nn.Sequential:
    """Images (1, 8, 8): convolutions with batch norm, dropout and pooling; every road leads through every layer."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.3),
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(6, CLASSES),
    )  # fmt: skip


class Residual(nn.Module):
    """stem -> x + branch(x) -> head: only 'inner' and 'outer' are bypassed."""

    def __init__(self, width: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(width, 8), nn.Linear(8, classes)
        self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).tanh()
        x = x + self.outer(self.inner(x).tanh())
        return self.head(x)


class Misfits(nn.Module):
    """Layers of every kind that cannot be analysed, around a plain classifier of token ids (m, 5)."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(20, 6), nn.LayerNorm(6)
        self.twice, self.unused = nn.Linear(6, 6), nn.Linear(6, 6)
        self.grouped = nn.Conv1d(6, 6, 1, groups=2)
        self.mixer = nn.Parameter(torch.ones(6))
        self.gate, self.query = nn.Linear(3, 6), nn.Parameter(torch.randn(3))
        self.seldom = nn.Linear(6, 6)
        self.head = nn.Linear(6, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm(self.embed(tokens)) * self.mixer
        x = self.twice(self.twice(x).tanh())
        x = self.grouped(x.transpose(1, 2)).mean(2) + self.gate(self.query)
        if len(tokens) == 100:
            x = self.seldom(x)
        return self.head(x.tanh())
