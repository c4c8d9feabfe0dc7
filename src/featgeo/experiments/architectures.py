"""Four small kinds of network on 8x8 images, and their training with snapshots; everything from local seeds."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featgeo.demo import digits

LEARNING_RATE = 5e-3
BATCH = 128


def perceptron() -> nn.Module:
    """A multi-layer perceptron: one hidden layer as wide as its input, one narrower."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)
    )


def convolutional() -> nn.Module:
    """Two convolutions and two dense layers."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(192, 24),
        nn.ReLU(),
        nn.Linear(24, 10),
    )


class Residual(nn.Module):
    """A stem, one residual block of two convolutions, a strided convolution and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.dense = nn.Linear(128, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 10) of images (m, 1, 8, 8)."""
        h = F.relu(self.stem(x))
        h = F.relu(h + self.second(F.relu(self.first(h))))
        logits: Tensor = self.head(F.relu(self.dense(h.flatten(1))))
        return logits


class Attention(nn.Module):
    """A transformer block on the image's eight rows as tokens, mean pooling, a head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.place = nn.Parameter(torch.randn(8, width) / 4)
        self.query, self.key, self.value, self.merge = (nn.Linear(width, width) for _ in range(4))
        self.widen, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (m, 10) of images (m, 1, 8, 8)."""
        h = self.embed(x[:, 0]) + self.place
        h = h + self.merge(F.scaled_dot_product_attention(self.query(h), self.key(h), self.value(h)))
        h = h + self.narrow(F.relu(self.widen(h)))
        logits: Tensor = self.head(h.mean(1))
        return logits


@dataclass(frozen=True)
class Family:
    """A kind of network.

    Attributes:
        name: for tables.
        build: makes one, from torch's random state.
        rectified: layers directly followed by a ReLU.
        frozen: layers that are frozen at random in turn: one with n >= k neurons where there is one, one with fewer.
        steps: of training.
    """

    name: str
    build: type[nn.Module] | object
    rectified: tuple[str, ...]
    frozen: tuple[str, ...]
    steps: int

    def make(self, seed: int) -> nn.Module:
        """An untrained network; the global random state is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: nn.Module = self.build()  # type: ignore[operator]
        return model


FAMILIES = (
    Family("MLP", perceptron, ("1", "3"), ("1", "3"), 300),
    Family("convolutional", convolutional, ("0", "2", "5"), ("0", "5"), 300),
    Family("residual", Residual, ("stem", "first", "dense"), ("first", "dense"), 300),
    Family("attention", Attention, ("widen",), ("embed", "narrow"), 600),
)


def images() -> tuple[Tensor, Tensor]:
    """The digits as images (1797, 1, 8, 8) and labels."""
    pixels, labels = digits()
    return pixels.reshape(-1, 1, 8, 8), labels


def train(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    steps: int,
    seed: int,
    *,
    frozen: str = "",
    snapshots: Iterable[int] = (),
) -> dict[int, nn.Module]:
    """Adam on minibatches with a cosine schedule, in place; copies of the model at the steps asked for.

    Args:
        model: to be trained.
        inputs: (m, ...).
        labels: (m,).
        steps: number of updates.
        seed: of the minibatches.
        frozen: name of a layer that keeps its initial weights.
        snapshots: step numbers, 0 for the initial state.
    """
    free = [p for name, p in model.named_parameters() if not (frozen and name.startswith(f"{frozen}."))]
    optimiser = torch.optim.Adam(free, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    wanted, kept = set(snapshots), {}
    for step in range(steps + 1):
        if step in wanted:
            kept[step] = copy.deepcopy(model)
        if step == steps:
            break
        batch = torch.randint(len(inputs), (min(BATCH, len(inputs)),), generator=generator)
        objective = F.cross_entropy(model(inputs[batch]), labels[batch])
        model.zero_grad(set_to_none=True)
        objective.backward()
        optimiser.step()
        schedule.step()
    model.zero_grad(set_to_none=True)
    return kept


def loss_and_accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean cross-entropy (nats) and the share of right answers."""
    with torch.no_grad():
        outputs = model(inputs)
        right = (outputs.argmax(1) == labels).double().mean().item()
        return F.cross_entropy(outputs.double(), labels).item(), right
