"""What chance shows: the noise floor and the adjusted gain, by Monte Carlo on independent features and labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from featgeo.theory.layer import whitened_modes
from featgeo.theory.linalg import thin_svd, whiten
from featgeo.theory.losses import CrossEntropy
from featgeo.theory.noise import adjusted_gain, noise_floor

Array = NDArray[np.float64]
SHARES = np.array([0.35, 0.3, 0.2, 0.15])


def centred_basis(x: Array) -> Array:
    """Orthonormal bases (..., N, k) of centred columns."""
    return np.linalg.qr(x - x.mean(-2, keepdims=True))[0]


def one_hot_labels(rng: np.random.Generator, repetitions: int, samples: int) -> Array:
    """Hard labels (repetitions, samples, |Y|)."""
    return np.eye(len(SHARES))[rng.choice(len(SHARES), (repetitions, samples), p=SHARES)]


def canonical_correlations(labels: Array, features: Array) -> Array:
    """Of the classes (one dropped) with the features, descending: the singular values of B on the features."""
    inner = np.swapaxes(centred_basis(labels[..., 1:]), -1, -2) @ centred_basis(features)
    return np.linalg.svd(inner, compute_uv=False)


def score_covariance(labels: Array) -> Tensor:
    """Covariance of the whitened scores (R⁺)ᵀ s of cross-entropy at the labels' own shares."""
    share = torch.from_numpy(labels.mean(0))
    inverse = thin_svd(CrossEntropy().factor(share.log())).pseudo_inverse
    scores = (share - torch.from_numpy(labels)) @ inverse
    return scores.T @ scores / len(labels)


def test_spectrum_on_features_is_the_canonical_correlations() -> None:
    """Ties the Monte Carlo below, which uses QR, to what the library computes."""
    rng = np.random.default_rng(0)
    labels, features = one_hot_labels(rng, 1, 200)[0], rng.standard_normal((200, 6))
    share = torch.from_numpy(labels.mean(0))
    x = torch.from_numpy(features - features.mean(0))
    cross = (torch.from_numpy(labels) - share).T @ x / 200
    modes = whitened_modes(thin_svd(CrossEntropy().factor(share.log())), cross, whiten(x.T @ x / 200))
    found = torch.linalg.svdvals(modes)[:3].numpy()
    assert np.allclose(found, canonical_correlations(labels, features), atol=1e-10)
    assert torch.allclose(
        torch.linalg.eigvalsh(score_covariance(labels))[1:], torch.ones(3).double(), atol=1e-10
    )


@pytest.mark.parametrize(("samples", "width"), [(100, 3), (200, 8), (200, 40), (60, 30), (600, 2)])
def test_floor_is_passed_by_chance_once_in_twenty(samples: int, width: int) -> None:
    repetitions = 1500
    rng = np.random.default_rng(samples + width)
    labels = one_hot_labels(rng, repetitions, samples)
    top = canonical_correlations(labels, rng.standard_normal((repetitions, samples, width)))[:, 0]
    floor = noise_floor(score_covariance(labels[0]), width, samples)
    rate = float((top > floor).mean())
    assert 0.02 <= rate <= 0.09
    assert 0 < floor < 1


def test_floor_falls_with_samples_and_scales_with_the_scores() -> None:
    scores = torch.eye(4, dtype=torch.float64)
    floors = [noise_floor(scores, 10, samples) for samples in (50, 200, 1000, 10000)]
    assert floors == sorted(floors, reverse=True)
    assert noise_floor(9 * scores, 10, 200) == pytest.approx(3 * noise_floor(scores, 10, 200))
    assert noise_floor(scores, 20, 200) > noise_floor(scores, 10, 200)


@pytest.mark.parametrize("samples", [2, 5, 12, 13])
def test_noise_with_fewer_samples_than_features_shows_no_mode(samples: int) -> None:
    """Every correlation is one then, and the floor is no less."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = one_hot_labels(rng, 1, samples)[0]
        labels = labels[:, labels.sum(0) > 0]
        if labels.shape[1] == 1:
            continue
        x = torch.from_numpy(rng.standard_normal((samples, 12)))
        x = x - x.mean(0)
        share = torch.from_numpy(labels.mean(0))
        cross = (torch.from_numpy(labels) - share).T @ x / samples
        whitener = whiten(x.T @ x / samples)
        spectrum = torch.linalg.svdvals(
            whitened_modes(thin_svd(CrossEntropy().factor(share.log())), cross, whitener)
        )
        floor = noise_floor(score_covariance(labels), whitener.rank, samples)
        assert not (spectrum > floor).any()
        gain = 0.5 * spectrum.square().sum().item()
        assert adjusted_gain(gain, score_covariance(labels), whitener.rank, samples) <= 0.5 * gain


def test_degenerate_floors() -> None:
    assert noise_floor(torch.zeros(3, 3).double(), 5, 100) == 0.0
    assert noise_floor(torch.eye(3).double(), 0, 100) == 0.0
    assert noise_floor(torch.zeros(0, 0).double(), 5, 100) == 0.0
    assert 2.0 <= noise_floor(4 * torch.eye(3).double(), 50, 40) < 2.01


@pytest.mark.parametrize("samples", [1, 5, 10, 11])
def test_no_gain_is_told_from_noise_with_too_few_samples(samples: int) -> None:
    assert adjusted_gain(1.2, torch.eye(3).double(), 10, samples) == 0.0


def test_adjusted_gain_is_the_adjusted_determination() -> None:
    """With one standardised score it is half of 1 - (1 - R²)(N - 1)/(N - 1 - k)."""
    for determination in (0.3, 0.7, 0.99):
        expected = 1 - (1 - determination) * (50 - 1) / (50 - 1 - 8)
        assert adjusted_gain(determination / 2, torch.ones(1, 1).double(), 8, 50) == pytest.approx(
            expected / 2
        )


def test_adjusted_gain_of_noise_has_mean_zero_before_clipping() -> None:
    """A known gain far from zero is added to the noise's so that nothing is clipped, and the sum is linear in it."""
    rng = np.random.default_rng(1)
    samples, width, repetitions = 120, 10, 1500
    labels = one_hot_labels(rng, repetitions, samples)
    spectra = canonical_correlations(labels, rng.standard_normal((repetitions, samples, width)))
    gains = 0.5 * np.square(spectra).sum(1)
    scores = torch.eye(3, dtype=torch.float64)
    slope = 1 + width / (samples - 1 - width)
    adjusted = np.array([adjusted_gain(gain + 1.0, scores, width, samples) - slope for gain in gains])
    error = adjusted.std() / math.sqrt(repetitions)
    assert abs(adjusted.mean()) < 4 * error
    assert gains.mean() > 50 * error
    expected = 0.5 * 3 * width / (samples - 1)
    assert abs(gains.mean() - expected) < 4 * error


def test_adjusted_gain_of_a_weak_signal_is_nearly_unbiased() -> None:
    """Gaussian classes of equal covariance: the population's gain is known in closed form."""
    rng = np.random.default_rng(2)
    samples, width, repetitions = 200, 20, 800
    centres = 0.8 * rng.standard_normal((4, width)) * (np.arange(width) < 3)
    mean = SHARES @ centres
    between = (centres - mean).T @ np.diag(SHARES) @ (centres - mean)
    truth = 0.5 * np.trace(np.linalg.solve(np.eye(width) + between, between))
    labels = one_hot_labels(rng, repetitions, samples)
    features = labels @ centres + rng.standard_normal((repetitions, samples, width))
    gains = 0.5 * np.square(canonical_correlations(labels, features)).sum(1)
    scores = torch.eye(3, dtype=torch.float64)
    adjusted = np.array([adjusted_gain(gain, scores, width, samples) for gain in gains])
    assert (adjusted > 0).all()
    assert abs(adjusted.mean() / truth - 1) < 0.05
    assert gains.mean() / truth - 1 > 0.2
