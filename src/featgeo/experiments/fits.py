"""Slopes with their confidence intervals, and subspaces compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

CONFIDENCE = 0.95
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate over seeds and its two-sided 95 % confidence interval."""

    mean: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Mean of independent repetitions, at least two, with its t interval."""
    array = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return Interval(float(array.mean()), float(array.mean() - half), float(array.mean() + half))


def slope(epsilons: Sequence[float], errors: Sequence[float]) -> float:
    """Least-squares slope of log error over log ε."""
    return float(np.polyfit(np.log(epsilons), np.log(errors), 1)[0])


def pooled_slope(
    epsilons: Sequence[float], errors: Sequence[Sequence[float]], resamples: int = 1000
) -> Interval:
    """Slope of the root mean square error over seeds, with its bootstrap interval (percentiles, seeds resampled).

    One sign change of one seed's error, which sends its logarithm to -∞ at some ε, does not decide this slope.

    Args:
        epsilons: ε (m,).
        errors: one row (m,) for every seed.
        resamples: of the bootstrap.
    """
    squares = np.square(np.asarray(errors, dtype=float))
    design = np.log(np.asarray(epsilons)) - np.log(epsilons).mean()
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(squares), size=(resamples, len(squares)))

    def slopes(level: Array) -> Array:
        result: Array = 0.5 * np.log(level) @ design / (design @ design)
        return result

    low, high = np.quantile(slopes(squares[drawn].mean(1)), [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Interval(float(slopes(squares.mean(0))), float(low), float(high))


def largest_angle(a: Tensor, b: Tensor) -> float:
    """Largest principal angle, in radians, between the column spaces of two matrices (m, k) of full column rank.

    By sine and cosine both, since either alone loses half the digits at one end.
    Source: Knyazev and Argentati, SIAM J. Sci. Comput. 23(6), 2002.
    """
    q, p = torch.linalg.qr(a)[0], torch.linalg.qr(b)[0]
    cosine = torch.linalg.svdvals(q.T @ p).min()
    sine = torch.linalg.svdvals(p - q @ (q.T @ p)).max()
    return float(torch.atan2(sine, cosine))


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two tensors as vectors."""
    return float((a * b).sum() / (a.norm() * b.norm()))
