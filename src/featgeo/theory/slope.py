"""How the metric ∇²A of a canonical loss turns as its output moves: ∂ tr(leftᵀ ∇²A(z) right)/∂z."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def metric_slope(mean: Callable[[Tensor], Tensor], output: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """By automatic differentiation, (d,).

    Args:
        mean: ∇A of rows z (m, d).
        output: z (d,).
        left: (d, r).
        right: (d, r).
    """
    if left.shape[1] > len(left):  # the trace depends on right leftᵀ alone
        left, right = torch.eye(len(left)).to(left), right @ left.T
    with torch.enable_grad():
        rows = output.detach().expand(left.shape[1], -1).clone().requires_grad_()
        (curved,) = torch.autograd.grad((mean(rows) * left.T).sum(), rows, create_graph=True)
        if not curved.requires_grad:  # a constant metric
            return torch.zeros_like(output)
        (slope,) = torch.autograd.grad((curved * right.T).sum(), rows)
    return slope.sum(0)


def softmax_slope(output: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Of ∇²A = diag(p) - ppᵀ, p = softmax(z): ∇²A times the slope in p of Σ_j p_j ⟨left_j, right_j⟩ - pᵀ left rightᵀ p.

    Args:
        output: z (d,).
        left: (d, r).
        right: (d, r).
    """
    p = output.softmax(-1)
    slope = (left * right).sum(1) - left @ (right.T @ p) - right @ (left.T @ p)
    return p * (slope - p @ slope)
