"""The metric of a canonical loss at every row, against automatic differentiation."""

import pytest
import torch

from featgeo.theory.losses import BinaryCrossEntropy, CanonicalLoss, CrossEntropy, MeanSquare, Poisson
from featgeo.theory.variance import metric_slope, times_variance


@pytest.mark.parametrize(
    "loss",
    [CrossEntropy(), CrossEntropy(0.1), BinaryCrossEntropy(), Poisson(), MeanSquare(), MeanSquare(True)],
)
def test_variance_is_the_hessian_of_the_log_partition(loss: CanonicalLoss) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, rows = torch.randn(2, 7, 4, dtype=torch.float64, generator=generator)
    found = times_variance(loss, loss.mean(outputs), rows)
    for z, u, product in zip(outputs, rows, found, strict=True):
        hessian = torch.autograd.functional.hessian(lambda a: loss.log_partition(a[None])[0], z)
        assert torch.allclose(product, hessian @ u, atol=1e-12)


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
    found = metric_slope(loss, output, left, right)
    assert torch.allclose(found, wanted, rtol=1e-7, atol=1e-9)
    assert loss.name == "mse" or wanted.norm() > 1e-3
