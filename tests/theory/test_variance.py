"""The metric of a canonical loss at every row, against automatic differentiation."""

import pytest
import torch

from featgeo.theory.losses import BinaryCrossEntropy, CanonicalLoss, CrossEntropy, MeanSquare, Poisson
from featgeo.theory.variance import times_variance


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
