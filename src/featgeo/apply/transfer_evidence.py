"""LogME: how probable the targets are under Bayesian linear regression on the features.

Source: K. You, Y. Liu, J. Wang, M. Long, "LogME: practical assessment of pre-trained models for transfer learning",
ICML 2021. Its model of one target column y (n,): y = F w + noise, w ~ N(0, I/α), noise ~ N(0, I/β), without an
intercept. The score is the largest log-evidence over α and β, per sample, averaged over the columns.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from featgeo.apply.transfer_axes import ROWS
from featgeo.apply.transfer_gain import Estimate, standard_error
from featgeo.apply.transfer_sample import Sample
from featgeo.theory.linalg import rank_tolerance

GRID = 33  # values of log t in a search
ROUNDS = 6  # of searches, each in the neighbourhood of the best value of the one before
SPAN = 1e10  # of t, relative to the largest eigenvalue, to both sides


class Spectrum(NamedTuple):
    """F = U diag(√s) Vᵀ: s (r,), and what turns a block of rows of F into rows of U."""

    values: Tensor
    turn: Tensor


def _spectrum(features: Tensor) -> Spectrum:
    """Of features (n, k) as they are, neither centred nor scaled, in float64."""
    count, width = features.shape
    wide = width > count
    gram = torch.zeros(min(count, width), min(count, width), dtype=torch.float64, device=features.device)
    for part in (features.T if wide else features).split(ROWS):
        rows = part.to(torch.float64)
        gram.addmm_(rows.T, rows)
    values, vectors = torch.linalg.eigh(gram)
    keep = values > rank_tolerance(len(values), torch.float64) * values.max().clamp_min(0)
    values, vectors = values[keep], vectors[:, keep]
    return Spectrum(values, vectors if wide else vectors / values.sqrt())


def log_evidence(sample: Sample) -> Estimate:
    """The maximum evidence per sample, averaged over the columns of one-hot labels or of real targets.

    With t = α/β the best β is in closed form, n / (yᵀ(I + FFᵀ/t)⁻¹y), so the evidence is maximised over t alone: on a
    grid of log t that is refined about its best value, which finds the largest of several maxima where iteration of
    the stationarity conditions may not.
    """
    y, count = target_columns(sample), len(sample)
    values, turn = _spectrum(sample.features)
    wide = turn.shape[0] == count and sample.features.shape[1] > count

    def left(part: int, rows: Tensor) -> Tensor:
        return turn[part * ROWS : (part + 1) * ROWS] if wide else rows.to(torch.float64) @ turn

    blocks = list(zip(sample.features.split(ROWS), y.split(ROWS), strict=True))
    along = torch.zeros(len(values), y.shape[1], dtype=torch.float64, device=y.device)
    for number, (rows, column) in enumerate(blocks):
        along += left(number, rows).T @ column
    power = along.square()
    outside = (y.square().sum(0) - power.sum(0)).clamp_min(0)
    t = _best_ratio(values, power, outside, count)
    rest = (power * (t / (values[:, None] + t))).sum(0) + outside  # yᵀ(I + FFᵀ/t)⁻¹y
    beta = count / rest.clamp_min(torch.finfo(torch.float64).tiny)
    evidence = _evidence(t[None], values, power, outside, count)[0] / count
    keep = values[:, None] / (values[:, None] + t)
    influence = []
    for number, (rows, column) in enumerate(blocks):
        u = left(number, rows)
        residual = column - u @ (keep * along)
        influence.append(-0.5 * (beta * residual.square() + u.square() @ keep).mean(1))
    details = {"alpha": (beta * t).mean().item(), "beta": beta.mean().item()}
    return Estimate(evidence.mean().item(), standard_error(torch.cat(influence)), math.inf, details)


def target_columns(sample: Sample) -> Tensor:
    """Targets as real columns (n, d): one-hot labels of the classes that occur, or the values themselves."""
    y = sample.targets
    if sample.loss.name == "cross_entropy" and y.ndim == 1:
        present, index = torch.unique(y, return_inverse=True)
        return torch.nn.functional.one_hot(index, len(present)).to(torch.float64)
    return (y[:, None] if y.ndim == 1 else y.flatten(1)).to(torch.float64)


def _evidence(t: Tensor, values: Tensor, power: Tensor, outside: Tensor, count: int) -> Tensor:
    """Log-evidence (g, d) at ratios t (g, d), with the best β at each."""
    s = values[None, :, None]
    rest = (power * (t[:, None] / (s + t[:, None]))).sum(1) + outside
    rest = rest.clamp_min(torch.finfo(torch.float64).tiny)
    volume = torch.log1p(s / t[:, None]).sum(1)
    return 0.5 * (count * torch.log(count / rest) - volume - count * (1 + math.log(2 * math.pi)))


def _best_ratio(values: Tensor, power: Tensor, outside: Tensor, count: int) -> Tensor:
    """t (d,) of the largest evidence of each column."""
    largest = values.max().item() if len(values) else 1.0
    half = math.log(SPAN)
    centre = torch.full((power.shape[1],), math.log(largest), dtype=torch.float64, device=power.device)
    steps = torch.linspace(-1, 1, GRID, dtype=torch.float64, device=power.device)[:, None]
    for _ in range(ROUNDS):
        grid = centre + half * steps
        best = torch.stack(
            [_evidence(row[None].exp(), values, power, outside, count)[0] for row in grid]
        ).argmax(0)
        centre = grid.gather(0, best[None])[0]
        half = 2 * half / (GRID - 1)
    return centre.exp()
