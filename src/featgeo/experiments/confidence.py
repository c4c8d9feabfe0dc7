"""Means with confidence intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of Student's interval; NaN are left out, the half-width is NaN below two values."""
    kept = np.array([v for v in values if v is not None and math.isfinite(v)])
    if not len(kept):
        return math.nan, math.nan
    if len(kept) == 1:
        return float(kept[0]), math.nan
    half = stats.t.ppf(0.5 + level / 2, len(kept) - 1) * kept.std(ddof=1) / math.sqrt(len(kept))
    return float(kept.mean()), float(half)


def shown(values: Sequence[float], digits: int = 2) -> str:
    """'mean ± half-width' of the values, or a dash where there is none."""
    mean, half = interval(values)
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" if math.isnan(half) else f"{mean:.{digits}f} ± {half:.{digits}f}"


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's, over the pairs of which both are finite; NaN below three of them or where one is constant."""
    pairs = np.array(
        [(a, b) for a, b in zip(first, second, strict=True) if math.isfinite(a) and math.isfinite(b)]
    )
    if len(pairs) < 3 or not np.ptp(pairs[:, 0]) or not np.ptp(pairs[:, 1]):
        return math.nan
    return float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def separation(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Share of pairs in which a value of the first exceeds one of the second (area under the ROC curve)."""
    a = np.array([v for v in higher if math.isfinite(v)])
    b = np.array([v for v in lower if math.isfinite(v)])
    if not len(a) or not len(b):
        return math.nan
    return float((a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean())
