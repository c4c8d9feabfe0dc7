"""Principal axes of features: left singular vectors of their standardised rows, from the smaller Gram matrix.

Everything that the scores ask of features goes through these orthonormal vectors, so nothing depends on the features'
units, more features than samples are no special case, and no Gram matrix is inverted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from featgeo.theory.linalg import rank_tolerance

ROWS = 4096  # rows of one product in float64
CONSTANT = 4.0  # a feature whose spread is below so many roundings of its mean does not vary


@dataclass(frozen=True)
class Axes:
    """Principal axes of standardised features.

    Attributes:
        values: eigenvalues s (r,) of their correlation matrix, ascending, those above the rank rule.
        left: orthonormal left singular vectors U (n, r), of mean zero, in the features' precision.
    """

    values: Tensor
    left: Tensor

    def blocks(self) -> Iterator[Tensor]:
        """U in blocks of rows, in float64."""
        return (part.to(torch.float64) for part in self.left.split(ROWS))

    def project(self, rows: Tensor) -> Tensor:
        """Uᵀ rows (r, p) of rows (n, p), in float64."""
        total = torch.zeros(self.left.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
        for left, right in zip(self.blocks(), rows.split(ROWS), strict=True):
            total.addmm_(left.T, right)
        return total

    def combine(self, coefficients: Tensor) -> Tensor:
        """U coefficients (n, p), in float64."""
        return torch.cat([left @ coefficients for left in self.blocks()])


def principal_axes(features: Tensor) -> Axes:
    """Axes of features (n, k), by an eigendecomposition of the smaller of the two Gram matrices."""
    count = len(features)
    mean = features.mean(0, dtype=torch.float64)
    spread = torch.zeros_like(mean)
    for part in features.split(ROWS):
        spread += (part - mean).square().sum(0)
    spread = (spread / count).sqrt()
    live = spread > CONSTANT * torch.finfo(features.dtype).eps * mean.abs()
    mean, spread = mean[live], spread[live]

    def standard(part: Tensor) -> Tensor:
        return (part[:, live] - mean) / spread

    wide = len(mean) > count
    if wide:
        rows = standard(features)
        gram = rows @ rows.T / count
    else:
        gram = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
        for part in features.split(ROWS):
            rows = standard(part)
            gram.addmm_(rows.T, rows)
        gram /= count
    values, vectors = torch.linalg.eigh(gram)
    keep = (
        values > rank_tolerance(len(values), features.dtype) * values.max().clamp_min(0)
        if len(values)
        else values > 0
    )
    values, vectors = values[keep], vectors[:, keep]
    if wide:
        return Axes(values, vectors.to(features.dtype))
    turned = vectors / (values * count).sqrt()
    return Axes(
        values, torch.cat([(standard(part) @ turned).to(features.dtype) for part in features.split(ROWS)])
    )
