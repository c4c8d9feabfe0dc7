"""Ridge regression of whitened scores, tried on every sample by a fit to all the others."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from featgeo.apply.transfer_axes import ROWS, Axes

PENALTIES = (-7, 3, 31)  # powers of ten of λ relative to the largest eigenvalue, and how many
ALONE = 1e-6  # a sample whose leverage is nearer to 1 is fitted by itself: nothing is known without it


class LeftOut(NamedTuple):
    """A head v of the whitened scores q, and what it is without each sample.

    Attributes:
        penalty: λ on standardised features, in the units of their correlation matrix; infinite where no head helps.
        fitted: v(x_i) with all samples (n, r).
        unseen: v(x_i) of the fit to the other samples (n, r), about the mean of all.
        decrease: ½‖q_i - q̄₋ᵢ‖² - ½‖q_i - v₋ᵢ(x_i)‖² (n,), of the local loss against the constant of the other samples.
    """

    penalty: float
    fitted: Tensor
    unseen: Tensor
    decrease: Tensor


def leave_one_out(whitened: Tensor, axes: Axes, coefficients: Tensor) -> LeftOut:
    """The head whose penalty lowers the local loss most on samples left out, λ = ∞ among the penalties.

    With the leverages h of a ridge fit, its intercept's 1/n among them, leaving a sample out takes no new fit: its
    residual is (q - v)/(1 - h) (D. M. Allen, Technometrics 16(1), 1974).

    Args:
        whitened: q (n, r), of mean zero.
        axes: of the features.
        coefficients: Uᵀq (rank, r).
    """
    count, width = whitened.shape
    values = axes.values
    largest = values.max().item() if len(values) else 1.0
    penalties = largest * torch.logspace(*PENALTIES, dtype=torch.float64, device=values.device)
    keeps = values / (values + penalties[:, None])
    weights = (keeps[:, :, None] * coefficients).transpose(0, 1).flatten(1)  # (rank, penalties · r)
    gains = []
    for left, q in zip(axes.blocks(), whitened.split(ROWS), strict=True):
        share = 1 - 1 / count - left.square() @ keeps.T
        rest = (q[:, None] - (left @ weights).reshape(len(q), -1, width)).square().sum(2) / share.square()
        constant = q.square().sum(1, keepdim=True) / (1 - 1 / count) ** 2
        gains.append(torch.where(share > ALONE, 0.5 * (constant - rest), -torch.inf))
    decrease = torch.cat(gains)
    best = int(decrease.mean(0).argmax())
    if not decrease[:, best].mean() > 0:
        zero = torch.zeros_like(whitened)
        return LeftOut(math.inf, zero, zero, zero[:, 0])
    fitted = axes.combine(keeps[best][:, None] * coefficients)
    leverage = torch.cat([left.square() @ keeps[best] for left in axes.blocks()])
    unseen = whitened - (whitened - fitted) / (1 - 1 / count - leverage)[:, None]
    return LeftOut(penalties[best].item(), fitted, unseen, decrease[:, best])
