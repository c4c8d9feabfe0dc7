"""The metric ∇²A(z) of every row, which for a canonical loss is a function of the mean m = ∇A(z).

It is the variance function of an exponential family: diag(p) - p pᵀ for classes, m(1 - m) for labels, m for counts.
"""

from __future__ import annotations

from torch import Tensor

from featgeo.theory.losses import BinaryCrossEntropy, CanonicalLoss, CrossEntropy, Poisson


def times_variance(loss: CanonicalLoss, mean: Tensor, rows: Tensor) -> Tensor:
    """∇²A(z) u (m, d) of rows u (m, d), at outputs z with these means (m, d)."""
    if isinstance(loss, CrossEntropy):
        product = mean * rows
        return product.addcmul_(mean, product.sum(1, keepdim=True), value=-1)
    if isinstance(loss, BinaryCrossEntropy):
        return mean * (1 - mean.shape[1] * mean) * rows
    if isinstance(loss, Poisson):
        return mean * rows
    return loss.mean(rows)  # of squares the mean is linear
