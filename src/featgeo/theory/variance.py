"""The metric ∇²A(z) of a canonical loss: what it makes of rows, and how it turns as the output moves.

It is the variance function of an exponential family, a function of the mean m = ∇A(z): diag(p) - p pᵀ for classes,
m(1 - m) for labels, m for counts.
"""

from __future__ import annotations

import torch
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


def metric_slope(loss: CanonicalLoss, output: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """∂ tr(leftᵀ ∇²A(z) right)/∂z (d,) at one output z (d,), for left and right (d, r).

    For classes ∇²A times the slope in p of Σ_j p_j ⟨left_j, right_j⟩ - pᵀ left rightᵀ p; else by automatic
    differentiation.
    """
    if isinstance(loss, CrossEntropy):
        p = loss.mean(output)
        slope = (left * right).sum(1) - left @ (right.T @ p) - right @ (left.T @ p)
        return p * (slope - p @ slope)
    if left.shape[1] > len(left):  # the trace depends on right leftᵀ alone
        left, right = torch.eye(len(left)).to(left), right @ left.T
    with torch.enable_grad():
        rows = output.detach().expand(left.shape[1], -1).clone().requires_grad_()
        (curved,) = torch.autograd.grad((loss.mean(rows) * left.T).sum(), rows, create_graph=True)
        if not curved.requires_grad:  # a constant metric
            return torch.zeros_like(output)
        (slope,) = torch.autograd.grad((curved * right.T).sum(), rows)
    return slope.sum(0)
