"""Derivatives of the expected loss of a constant output."""

from __future__ import annotations

import pytest
import torch

from featgeo.theory.losses import BinaryCrossEntropy, CanonicalLoss, CrossEntropy, MeanSquare, Poisson
from featgeo.theory.risk import CanonicalRisk


@pytest.mark.parametrize("columns", [3, 9])
@pytest.mark.parametrize(
    "loss", [CrossEntropy(), MeanSquare(), BinaryCrossEntropy(), Poisson()], ids=lambda x: x.name
)
def test_the_slope_of_the_metric(loss: CanonicalLoss, columns: int) -> None:
    """By central differences of tr(Lᵀ RᵀR N), R the loss's own factor."""
    torch.manual_seed(0)
    output, left, right = (
        torch.randn(*size, dtype=torch.float64) for size in ((5,), (5, columns), (5, columns))
    )

    def trace(place: torch.Tensor) -> torch.Tensor:
        root = loss.factor(place)
        return ((root @ left) * (root @ right)).sum()

    steps = 1e-5 * torch.eye(5, dtype=torch.float64)
    wanted = torch.stack([(trace(output + step) - trace(output - step)) / 2e-5 for step in steps])
    found = CanonicalRisk(loss, torch.zeros(5, dtype=torch.float64)).metric_slope(output, left, right)
    assert torch.allclose(found, wanted, rtol=1e-7, atol=1e-9)
    assert loss.name == "mse" or wanted.norm() > 1e-3
