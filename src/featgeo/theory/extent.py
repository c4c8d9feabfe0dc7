"""Targets as losses want them, and what of their values decides whether they suit."""

from __future__ import annotations

import torch
from torch import Tensor

from featgeo.errors import FeatgeoError


def extent(targets: Tensor) -> Tensor:
    """Smallest and largest entry of arranged targets, and how far a row's sum is from 1 (0 for labels): (3,).

    All that has to be known of the values: where targets are on an accelerator, they can be judged much later.
    """
    if not targets.numel():
        return torch.zeros(3, dtype=torch.float64, device=targets.device)
    rows = targets.reshape(len(targets), -1).to(torch.float64)
    low, high = rows.aminmax()
    off = (rows.sum(1) - 1).abs().max() if targets.is_floating_point() else torch.zeros_like(low)
    return torch.stack([low, high, off])


def real_targets(targets: Tensor, width: int, name: str) -> Tensor:
    """Targets (m, width) for a loss that compares outputs and targets entry by entry."""
    if targets.ndim == 1 and width == 1:
        targets = targets[:, None]
    targets = targets.flatten(1) if targets.ndim > 1 else targets
    if targets.ndim != 2 or targets.shape[1] != width:
        raise FeatgeoError(
            "targets",
            f"shape {tuple(targets.shape)} for a model with {width} outputs",
            f"Loss '{name}' needs one target per output: shape (samples, {width}).",
        )
    return targets if targets.is_floating_point() else targets.to(torch.get_default_dtype())
