"""What alignment of features and labels would show by chance, from finitely many samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TRACY_WIDOM_95 = 0.9793  # 95 % point of the Tracy-Widom law of order 1
ROUNDING = 1e-3  # how far above the largest value possible a floor lies that nothing may pass


def noise_floor(score_covariance: Tensor, feature_rank: int, samples: int) -> float:
    """The 95 % point of the largest singular value of B on the features when scores and features are independent.

    The whitened scores and whitened features then have sample canonical correlations whose largest follows Roy's
    greatest root; Johnstone's approximation is used. The result scales with the largest score variance, which makes
    it exact for isotropic scores (hard-label cross-entropy) and conservative otherwise.

    Source: I. M. Johnstone, "Multivariate analysis and Jacobi ensembles: largest eigenvalue, Tracy-Widom limits and
    rates of convergence", Annals of Statistics 36(6), 2008, section 2.

    Args:
        score_covariance: Cov of the whitened scores (R⁺)ᵀ s (m, m).
        feature_rank: rank of the features' covariance.
        samples: number of samples.

    Returns:
        The floor, in the units of the spectrum; with no more samples than features, just above the largest value
        possible, so that no mode passes it.
    """
    variances = torch.linalg.eigvalsh(score_covariance)
    largest = variances.max().item() if len(variances) else 0.0
    rank = int((variances > 1e-9 * largest).sum()) if largest > 0 else 0
    if rank == 0 or feature_rank == 0:
        return 0.0
    small, large = min(rank, feature_rank), max(rank, feature_rank)
    freedom = samples - 1
    ceiling = math.sqrt(largest) * (1 + ROUNDING)
    if freedom - large < small:
        return ceiling
    gamma = 2 * math.asin(math.sqrt((small - 0.5) / (freedom - 1)))
    phi = 2 * math.asin(math.sqrt(min(1.0, (large - 0.5) / (freedom - 1))))
    centre = 2 * math.log(math.tan((phi + gamma) / 2)) if phi + gamma < math.pi else math.inf
    if math.isinf(centre):
        return ceiling
    spread = (16 / (freedom - 1) ** 2 / (math.sin(phi + gamma) ** 2 * math.sin(phi) * math.sin(gamma))) ** (
        1 / 3
    )
    logit = centre + TRACY_WIDOM_95 * spread
    return math.sqrt(largest / (1 + math.exp(-logit)))


def adjusted_gain(gain: float, score_covariance: Tensor, feature_rank: int, samples: int) -> float:
    """The gain with its optimism removed, as in the adjusted R²; never below 0.

    In-sample whitening credits noise with ½ tr(Q) k/(N - 1) on average, where Q is the covariance of the whitened
    scores. With no more samples than features nothing can be told from noise and the estimate is 0.

    Source: M. Ezekiel's correction, applied to each whitened score and summed.
    """
    rest = samples - 1 - feature_rank
    if rest <= 0:
        return 0.0
    unexplained = 0.5 * score_covariance.trace().item() - gain
    return max(0.0, gain - unexplained * feature_rank / rest)
