"""The optimum of a layer whose weight is block diagonal, as that of a grouped convolution.

Each block sees features of its own, but all of them share one metric: the optimum within the blocks is a least-squares
problem in all blocks together, min ‖S Vᵀ W ρ - Y‖² (+ λ ‖W‖²) with R = U S Vᵀ, ρ the features' root and Y the whitened
targets. The quadratic's decrease is half the square of the part of Y that the blocks reach, so that gains and gaps
split as they do without blocks.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import scipy  # loads its parts when they are used
import torch
from numpy.typing import NDArray
from torch import Tensor

from featgeo.theory.layer import LayerFit, compared
from featgeo.theory.linalg import ThinSVD, Whitener

DENSE = 2**24  # numbers in a least-squares matrix that is still formed
STEPS = 400  # of the iterative solution, and the relative residual at which it ends
RESIDUAL = 1e-10


def best_blocks(outer: Tensor, inner: Tensor, wanted: Tensor, groups: int, weight_decay: float) -> Tensor:
    """The block diagonal W (n, k) with the least ‖outer W inner - wanted‖² + λ ‖W‖².

    Args:
        outer: (r, n).
        inner: (k, q).
        wanted: (r, q).
        groups: number of blocks, a divisor of n and k.
        weight_decay: λ.
    """
    left, right = (
        torch.stack(outer.chunk(groups, 1)),
        torch.stack(inner.chunk(groups, 0)),
    )  # (g, r, a), (g, b, q)
    shape = (groups, left.shape[2], right.shape[1])
    size = math.prod(shape)
    if size * wanted.numel() <= DENSE:
        system = torch.einsum("gra,gbq->rqgab", left, right).reshape(wanted.numel(), size)
        target = wanted.flatten()
        if weight_decay > 0:
            system = torch.cat([system, math.sqrt(weight_decay) * torch.eye(size, dtype=system.dtype)])
            target = torch.cat([target, target.new_zeros(size)])
        blocks = torch.linalg.lstsq(system, target, driver="gelsd").solution.reshape(shape)
    else:

        def forward(flat: NDArray[np.float64]) -> NDArray[np.float64]:
            made = torch.einsum("gra,gab,gbq->rq", left, torch.from_numpy(flat).reshape(shape), right)
            return made.flatten().numpy()

        def adjoint(flat: NDArray[np.float64]) -> NDArray[np.float64]:
            made = left.transpose(1, 2) @ torch.from_numpy(flat).reshape(wanted.shape) @ right.transpose(1, 2)
            return made.flatten().numpy()

        operator = scipy.sparse.linalg.LinearOperator(
            (wanted.numel(), size), matvec=forward, rmatvec=adjoint, dtype=np.float64
        )
        damp = math.sqrt(weight_decay)
        found = scipy.sparse.linalg.lsmr(
            operator, wanted.flatten().numpy(), damp, RESIDUAL, RESIDUAL, maxiter=STEPS
        )[0]
        blocks = torch.from_numpy(found).reshape(shape)
    return torch.block_diag(*blocks)


def within_blocks(
    fit: LayerFit,
    *,
    factor: ThinSVD,
    wanted: Tensor,
    whitener: Whitener,
    mean: Tensor,
    weight: Tensor,
    readout_gain: float,
    groups: int,
    weight_decay: float = 0.0,
) -> LayerFit:
    """A fit whose optimum is the best block diagonal weight instead of the best weight.

    Args:
        fit: without blocks.
        factor: thin SVD of R.
        wanted: Y = (S Vᵀ)⁺ᵀ K T (r, q), what W* does without blocks.
        whitener: of the features.
        mean: μ (k,).
        weight: W (n, k), block diagonal.
        readout_gain: gain of a free linear read-out.
        groups: number of blocks.
        weight_decay: λ.
    """
    outer, root = factor.values[:, None] * factor.right.T, whitener.root
    free = best_blocks(outer, root, wanted, groups, 0.0)
    best = best_blocks(outer, root, wanted, groups, weight_decay) if weight_decay > 0 else free
    used, reached, target = outer @ weight @ root, outer @ free @ root, outer @ best @ root
    available, gap = 0.5 * reached.square().sum().item(), 0.5 * (used - reached).square().sum().item()
    alignment, scale = compared(used, target)
    return replace(
        fit,
        best=best,
        optimal_bias=fit.optimal_bias + (fit.optimal_weight - best) @ mean,
        gain_available=available,
        gain_used=available - gap,
        gap_weight=gap,
        gap_rank=max(0.0, readout_gain - available),
        alignment=alignment,
        scale=scale,
        spectrum=torch.linalg.svdvals(reached),
        optimal_response=factor.matrix @ best,
        target=factor.left @ target,
        modes=factor.left @ reached,
        free=free,
        predicted_decrease=available - gap - fit.gap_bias,
    )
