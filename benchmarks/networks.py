"""Networks that overhead.py measures: two small ones, torchvision's ResNet-18, and a transformer encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp() -> nn.Module:
    """784-512-256-10."""
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn() -> nn.Module:
    """A small convolutional network for 28 x 28 images."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


class Block(nn.Module):
    """Two convolutions with batch norm beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.downsample = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (x + shortcut).relu()


def resnet18(classes: int = 10) -> nn.Module:
    """ResNet-18 as in torchvision (7 x 7 stem, four stages of two blocks, 64 to 512 channels)."""
    stages = [
        (64, 64, 1),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
    ]
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        *(Block(*stage) for stage in [*stages, (512, 512, 1)]),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes),
    )  # fmt: skip


class Encoder(nn.Module):
    """Six layers of nn.TransformerEncoder on tokens (m, t, 64), mean pooling, a head."""

    def __init__(self, width: int = 128, classes: int = 10) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.embed, self.blocks = (
            nn.Linear(64, width),
            nn.TransformerEncoder(layer, 6, enable_nested_tensor=False),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)).mean(1))  # type: ignore[no-any-return]


def images(samples: int) -> tuple[Tensor, Tensor]:
    """Smooth random images (784,) with labels that depend on them."""
    generator = torch.Generator().manual_seed(0)
    modes = torch.randn(40, 784, generator=generator)
    x = torch.randn(samples, 40, generator=generator) @ modes / 6 + 0.1 * torch.randn(
        samples, 784, generator=generator
    )
    return x, x[:, :10].argmax(1)


def pictures(samples: int) -> tuple[Tensor, Tensor]:
    """Smooth random pictures (3, 32, 32) with labels that depend on them."""
    return _smooth(samples, (3, 32, 32))


def tokens(samples: int) -> tuple[Tensor, Tensor]:
    """Sequences of 16 tokens (16, 64) with labels that depend on them."""
    return _smooth(samples, (16, 64))


def _smooth(samples: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(samples, 40, generator=generator)
    modes = torch.randn(40, *shape, generator=generator) / 6
    noise = torch.randn(samples, *shape, generator=generator)
    return torch.einsum("sm,m...->s...", hidden, modes) + 0.3 * noise, hidden[:, :10].argmax(1)
