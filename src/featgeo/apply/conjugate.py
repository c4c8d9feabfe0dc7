"""Preconditioned conjugate gradients on matrices of any shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Solve = Callable[[Tensor], Tensor]


def conjugate_gradients(
    times: Solve, precondition: Solve, right: Tensor, tolerance: float, most: int
) -> Tensor:
    """x with times(x) = right, up to a relative residual in the preconditioner's norm, after at most so many products.

    Stops where the curvature is not positive, with what it has.
    """
    return deque(iterates(times, precondition, right, tolerance, most), maxlen=1)[0]


def iterates(
    times: Solve, precondition: Solve, right: Tensor, tolerance: float, most: int
) -> Iterator[Tensor]:
    """What :func:`conjugate_gradients` has after each product."""
    x, residual = torch.zeros_like(right), right.clone()
    direction = precondition(residual)
    size = first = (residual * direction).sum()
    for step in range(most):
        image = times(direction)
        bend = (direction * image).sum()
        if not bend > 0:
            if step == 0:
                yield direction
            return
        x = x + size / bend * direction
        yield x
        residual -= size / bend * image
        conditioned = precondition(residual)
        size, before = (residual * conditioned).sum(), size
        if not size > tolerance**2 * first:
            return
        direction = conditioned + size / before * direction
