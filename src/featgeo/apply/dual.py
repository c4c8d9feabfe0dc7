"""More features than samples: the same problem in as many coordinates as there are samples.

With an L2 penalty, or at the optimum of least norm, the rows of W lie in the span of the centred samples (the
representer theorem). With the Gram matrix X_c X_cᵀ = U S² Uᵀ the problem in the coordinates U S has the same values and
the same penalty, and W = W' S⁻¹ Uᵀ X_c. Nothing of size k × k is formed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featgeo.apply.rows import Rows
from featgeo.theory.linalg import rank_tolerance

MOST = 4096  # samples up to which their Gram matrix is decomposed


@dataclass(frozen=True)
class Dual:
    """The coordinates of the samples, and the way back.

    Attributes:
        rows: the samples in their coordinates (N, r), float64, centred.
        mean: μ (k,) that was subtracted; zero without a bias.
        left: U S⁻¹ (N, r).
        x: the features.
    """

    rows: Rows
    mean: Tensor
    left: Tensor
    x: Any

    def back(self, theta: Tensor) -> Tensor:
        """θ (d, k + 1) about the mean, of θ' (d, r + 1) about 0."""
        shares = theta[:, :-1] @ self.left.T  # (d, N)
        if isinstance(self.x, Tensor):
            weight = shares @ self.x.to(shares)
        else:
            weight = torch.from_numpy(np.ascontiguousarray((self.x.T @ shares.numpy().T).T))
        weight = weight - shares.sum(1)[:, None] * self.mean
        return torch.cat([weight, theta[:, -1:]], dim=1)


def is_wide(rows: Rows) -> bool:
    """Whether there are more features than samples, and few enough of these."""
    return rows.in_memory and rows.width > rows.count and rows.count <= MOST


def dual_of(rows: Rows, bias: bool) -> Dual:
    """The samples in their own coordinates."""
    x = rows.x.to(torch.float64) if isinstance(rows.x, Tensor) else rows.x
    share = torch.ones(rows.count, dtype=torch.float64, device=rows.device) if rows.w is None else rows.w
    share = share / rows.total if bias else torch.zeros_like(share)
    if isinstance(x, Tensor):
        mean = share @ x
        centred = x - mean
        gram = centred @ centred.T
    else:
        mean = torch.from_numpy(x.T @ share.numpy())
        plain = torch.from_numpy((x @ x.T).toarray())
        level = torch.from_numpy(x @ mean.numpy())
        gram = plain - level[:, None] - level + mean.square().sum()
    values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
    keep = values > rank_tolerance(len(values), torch.float64) * values[-1].clamp_min(0)
    if not keep.any():  # all samples are alike: one coordinate, which is zero
        none = torch.zeros_like(vectors[:, :1])
        return Dual(Rows(none, rows.y, rows.w), mean, none, x)
    size, vectors = values[keep].sqrt(), vectors[:, keep]
    return Dual(Rows(vectors * size, rows.y, rows.w), mean, vectors / size, x)
