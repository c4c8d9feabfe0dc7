"""What a layer's input features are worth, whatever stands above the layer."""

from __future__ import annotations

import math

from featgeo.network.look import Outlook, still
from featgeo.theory.noise import adjusted_gain


def feature_gain(outlook: Outlook) -> tuple[float, float]:
    """What a free linear read-out of the features would gain, less what noise alone would show, and its deviation.

    The gain available to a last layer that read these features: ½‖M^-½ Cov(T, f) Σ_f^-½‖² with the output's metric M,
    corrected as the adjusted R² is. In loss units. Unlike ``View.gain_available`` it does not pass through the tail,
    so that layers can be compared along depth. Where features tell nothing, √N times the matrix is Gaussian with the
    covariance Q of the whitened scores on its rows, and the standard deviation of the gain is √(r/2) ‖Q‖ / N.
    """
    metric, rank, samples = outlook.output.readout, outlook.whitener.rank, outlook.moments.count
    half = (metric.right / metric.values).T
    modes = half @ outlook.white[len(outlook.output.output) :]
    scores = half @ outlook.statistic_covariance @ half.T
    gain = adjusted_gain(0.5 * modes.square().sum().item(), scores, rank, samples)
    return gain, math.sqrt(rank / 2) * scores.norm().item() / samples


def constant_features(outlook: Outlook) -> tuple[int, ...]:
    """Numbers of the features that never vary on the data: where neurons made them, these are dead or saturated."""
    mean, tolerance = outlook.moments.mean, outlook.whitener.tolerance
    return tuple(still(outlook.moments.covariance, mean, tolerance).nonzero()[:, 0].tolist())
