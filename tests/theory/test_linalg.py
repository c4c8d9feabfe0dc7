"""Whitening and factors of any rank, at any scale, in any precision of accumulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from featgeo.data.moments import Moments
from featgeo.theory.layer import optimal_weight, whitened_modes
from featgeo.theory.linalg import cholesky, eigen, psd_factor, rank_tolerance, solve_ridge, thin_svd, whiten
from featgeo.theory.losses import CrossEntropy


def samples(kind: str) -> tuple[Tensor, int]:
    """Features (samples, k) and the true rank of their covariance."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6))
    if kind == "deficient":
        return torch.from_numpy(x[:, :4] @ rng.standard_normal((4, 9))), 4
    if kind == "constant":
        return torch.from_numpy(np.column_stack([x, np.full(400, 7.0), np.zeros(400)])), 6
    if kind == "duplicated":
        return torch.from_numpy(np.column_stack([x, x[:, :2], -3 * x[:, 2]])), 6
    if kind == "scaled":
        return torch.from_numpy(x * np.logspace(-6, 6, 6)), 6
    if kind == "scaled_deficient":
        mixed = np.column_stack([x[:, :3], x[:, :3] @ rng.standard_normal((3, 3))])
        return torch.from_numpy(mixed * np.logspace(6, -6, 6)), 3
    if kind == "fewer_samples":
        return torch.from_numpy(x[:5]), 4
    if kind == "one":
        return torch.from_numpy(x[:, :1]), 1
    if kind == "nothing":
        return torch.ones(10, 3, dtype=torch.float64), 0
    return torch.from_numpy(x), 6


KINDS = [
    "full", "deficient", "constant", "duplicated", "scaled", "scaled_deficient", "fewer_samples", "one", "nothing",
]  # fmt: skip


def covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / len(x)


def units(sigma: Tensor) -> Tensor:
    """Σ_ii^½ Σ_jj^½, by which an entry's rounding error is measured."""
    deviation = sigma.diagonal().sqrt()
    return torch.where(deviation > 0, deviation, 1.0).outer(torch.where(deviation > 0, deviation, 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_whitening_is_a_reflexive_generalised_inverse(kind: str) -> None:
    x, rank = samples(kind)
    sigma = covariance(x)
    whitener = whiten(sigma)
    t, scale = whitener.transform, units(sigma)
    assert whitener.rank == rank == t.shape[1]
    inverse = t @ t.T
    assert torch.allclose(t.T @ sigma @ t, torch.eye(rank, dtype=torch.float64), atol=1e-8)
    assert ((sigma @ inverse @ sigma - sigma) / scale).abs().max() < 1e-8
    assert ((inverse @ sigma @ inverse - inverse) * scale).abs().max() < 1e-6
    assert torch.allclose(sigma @ t, whitener.root, rtol=1e-7, atol=1e-9 * sigma.abs().max().item() ** 0.5)
    assert ((whitener.root @ whitener.root.T - sigma) / scale).abs().max() < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_white_and_back_apply_the_transform(kind: str) -> None:
    x, rank = samples(kind)
    whitener = whiten(covariance(x))
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((4, x.shape[1])))
    inner = torch.from_numpy(np.random.default_rng(1).standard_normal((4, rank)))
    assert torch.allclose(whitener.white(rows), rows @ whitener.transform, rtol=1e-9)
    assert torch.allclose(whitener.back(inner), inner @ whitener.transform.T, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_white_samples_are_white(kind: str) -> None:
    x, rank = samples(kind)
    white = (x - x.mean(0)) @ whiten(covariance(x)).transform
    assert torch.allclose(covariance(white), torch.eye(rank, dtype=torch.float64), atol=1e-7)


def test_the_answer_does_not_depend_on_units() -> None:
    """Gains are invariant: columns rescaled over twelve orders of magnitude give the same whitened cross-moments."""
    x, _ = samples("full")
    y = x @ torch.from_numpy(np.random.default_rng(0).standard_normal((6, 2)))
    sizes = []
    for scale in (torch.ones(6), torch.logspace(-6, 6, 6), torch.logspace(6, -6, 6)):
        scaled = x * scale
        cross = (y - y.mean(0)).T @ (scaled - scaled.mean(0)) / len(x)
        sizes.append(torch.linalg.svdvals(whiten(covariance(scaled)).white(cross)))
    assert torch.allclose(torch.stack(sizes), sizes[0], rtol=1e-8)


def accumulate(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cov(x) and Cov(y, x), summed in single precision over batches of 256 around the first batch's mean."""
    x = x - x[:256].mean(0)
    sums = [
        x.new_zeros(shape) for shape in (x.shape[1], y.shape[1], x.shape[1:] * 2, (y.shape[1], x.shape[1]))
    ]
    for batch, label in zip(x.split(256), y.split(256), strict=True):
        parts = batch.sum(0), label.sum(0), batch.T @ batch, label.T @ batch
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
    mean, share, second, cross = (total / len(x) for total in sums)
    return second - mean.outer(mean), cross - share.outer(mean)


def test_low_rank_features_summed_in_single_precision() -> None:
    """Rank 64 in 512 dimensions: the gain is that of the true subspace, in float64 and by projection.

    A pseudo-inverse with a tiny cut-off also inverts rounding: its gain is worse by orders of magnitude and its
    weights consist of rounding.
    """
    rng = np.random.default_rng(0)
    hidden = torch.from_numpy(rng.standard_normal((6000, 64)))
    labels = (hidden.numpy()[:, :10] + 2 * rng.standard_normal((6000, 10))).argmax(1)
    mixing = torch.from_numpy(rng.standard_normal((64, 512)))
    features = (hidden @ mixing + 800 * torch.from_numpy(rng.standard_normal(512))).float()
    one_hot = np.eye(10)[labels]
    scores = (one_hot - one_hot.mean(0)) / np.sqrt(6000 * one_hot.mean(0))
    truth = 0.5 * np.square(np.linalg.qr((hidden - hidden.mean(0)).numpy())[0].T @ scores).sum()

    sigma, cross = accumulate(features, torch.from_numpy(one_hot).float())
    factor = thin_svd(CrossEntropy().factor(torch.from_numpy(one_hot.mean(0)).log()))
    whitener = whiten(sigma, torch.float32)
    error = abs(0.5 * whitened_modes(factor, cross.double(), whitener).square().sum().item() / truth - 1)
    assert whitener.rank == 64
    assert error < 1e-3

    whitened_scores = factor.pseudo_inverse.T @ cross.double()
    inverse = torch.linalg.pinv(sigma.double(), rtol=1e-12)
    naive = 0.5 * torch.trace(whitened_scores @ inverse @ whitened_scores.T).item()
    assert abs(naive / truth - 1) > 20 * error
    subspace = torch.linalg.qr(mixing.T).Q

    def outside(weight: Tensor) -> float:
        """Norm outside the features' true subspace, relative to the norm inside."""
        return ((weight - weight @ subspace @ subspace.T).norm() / (weight @ subspace).norm()).item()

    assert outside(factor.pseudo_inverse @ whitened_scores @ inverse) > 10
    assert outside(optimal_weight(factor, cross.double(), sigma.double(), whitener=whitener)) < 0.5
    assert whiten(sigma).rank > 64  # taken for a sum in double precision, rounding counts as features


def test_rank_rule() -> None:
    assert rank_tolerance(100, torch.float64) == 16 * torch.finfo(torch.float64).eps
    assert rank_tolerance(1024, torch.float32) == 32 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("rank", [0, 2, 5])
def test_psd_factor(rank: int) -> None:
    root = torch.from_numpy(np.random.default_rng(0).standard_normal((rank, 5)))
    factor, negative = psd_factor(root.T @ root)
    assert len(factor) == rank
    assert torch.allclose(factor.T @ factor, root.T @ root, atol=1e-12)
    assert -1e-14 < negative <= 0


def test_psd_factor_tells_how_negative_a_matrix_was() -> None:
    factor, negative = psd_factor(torch.diag(torch.tensor([4.0, 1.0, -2.0])))
    assert negative == -0.5
    assert torch.allclose(factor.T @ factor, torch.diag(torch.tensor([4.0, 1.0, 0.0])).double())


@pytest.mark.parametrize("shape", [(3, 6), (6, 3), (4, 4)])
def test_thin_svd_and_its_pseudo_inverse(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((shape[0], 2)) @ rng.standard_normal((2, shape[1]))
    svd = thin_svd(torch.from_numpy(matrix))
    assert len(svd.values) == 2
    assert np.allclose(((svd.left * svd.values) @ svd.right.T).numpy(), matrix)
    assert np.allclose(svd.pseudo_inverse.numpy(), np.linalg.pinv(matrix, rcond=1e-10))
    empty = thin_svd(torch.zeros(shape))
    assert len(empty.values) == 0
    assert torch.equal(empty.pseudo_inverse, torch.zeros(shape[1], shape[0], dtype=torch.float64))


@pytest.mark.parametrize("decay", [0.3, 1e-4])
@pytest.mark.parametrize("distinct", [1, 3, 12])
def test_ridge_solver_against_a_kronecker_system(
    distinct: int, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Cholesky factors where the metric's eigenvalues are few and λ is not tiny, else by eigenbases."""
    rng = np.random.default_rng(2)
    basis, thin = np.linalg.qr(rng.standard_normal((13, 13)))[0][:12], rng.standard_normal((2, 4))
    root = np.sqrt(1 + np.arange(12) % distinct)[:, None] * basis
    sigma = thin.T @ thin
    metric = root.T @ root
    cross = metric @ rng.standard_normal((13, 4))
    calls: list[int] = []
    monkeypatch.setattr(
        "featgeo.theory.linalg.eigen", lambda matrix: calls.append(1) or torch.linalg.eigh(matrix)
    )
    weight = solve_ridge(
        thin_svd(torch.from_numpy(root)), torch.from_numpy(cross), torch.from_numpy(sigma), decay
    )
    system = np.kron(metric, sigma) + decay * np.eye(52)
    expected = np.linalg.lstsq(system, cross.reshape(-1), rcond=None)[0]
    assert np.allclose(weight.numpy().reshape(-1), expected, atol=1e-10 * np.abs(expected).max())
    assert bool(calls) == (distinct == 12)
    solve_ridge(thin_svd(torch.from_numpy(root)), torch.from_numpy(cross), torch.from_numpy(sigma), 1e-9)
    assert calls


def test_eigenvectors_of_a_convolution_over_one_pixel() -> None:
    torch.manual_seed(0)
    features = torch.zeros(4096, 1152)  # all taps but the middle one of 3 x 3 see padding
    features[:, 4::9] = torch.relu(torch.randn(4096, 128) @ torch.randn(128, 128))
    centred = features - features.mean(0)
    covariance = (centred.T @ centred / len(features)).to(torch.float64)
    values, vectors = eigen(covariance)  # torch.linalg.eigh may fail here, by library and number of threads
    torch.testing.assert_close((vectors * values) @ vectors.T, covariance, rtol=0.0, atol=1e-11)
    torch.testing.assert_close(
        vectors.T @ vectors, torch.eye(1152, dtype=torch.float64), rtol=0.0, atol=1e-11
    )


def test_eigenvectors_where_torch_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_matrix: Tensor) -> None:
        raise torch.linalg.LinAlgError("no convergence")

    matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    monkeypatch.setattr(torch.linalg, "eigh", fail)
    values, vectors = eigen(matrix)
    torch.testing.assert_close(values, torch.tensor([1.0, 3.0], dtype=torch.float64))
    torch.testing.assert_close((vectors * values) @ vectors.T, matrix)
    with pytest.raises(torch.linalg.LinAlgError):
        eigen(torch.full((2, 2), torch.nan, dtype=torch.float64))


def test_a_spread_that_precision_cannot_hold_is_none() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    x[:, 1] *= 1e-30  # its square underflows in float32
    x[:, 2] = 1000 + 1e-5 * x[:, 2]  # less than float32 resolves beside its mean
    moments = Moments.of(x)
    covariance, mean = moments.covariance, moments.mean
    assert whiten(covariance, torch.float64, mean).rank == 4
    assert whiten(covariance, torch.float32).rank == 3
    found = whiten(covariance, torch.float32, mean)
    assert (found.rank, (found.scale > 0).tolist()) == (2, [True, False, False, True])


@pytest.mark.parametrize("size", [1, 127, 128, 256])
def test_cholesky_factor_of_aligned_sizes(size: int) -> None:
    root = torch.randn(size, size + 3, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    matrix = root @ root.T
    lower = cholesky(matrix)
    assert lower is not None
    assert torch.equal(lower, lower.tril())
    torch.testing.assert_close(lower @ lower.T, matrix)
    assert cholesky(matrix - 2 * matrix.diagonal().max() * torch.eye(size, dtype=torch.float64)) is None
