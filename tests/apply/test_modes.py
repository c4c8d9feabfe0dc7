"""The truncated product of two metrics against brute force, and the linear algebra under it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from featgeo.apply.modes import Metric, Modes, ridged
from featgeo.theory.linalg import whiten


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alternate(weight: Tensor, metric: Tensor, covariance: Tensor, rank: int) -> float:
    """Least ½ tr(H (W - AB) Σ (W - AB)ᵀ) by alternating least squares from many starts, on vectorised problems."""
    best = float("inf")
    for seed in range(8):
        first = drawn(rank, weight.shape[1], seed=seed)
        for _ in range(200):
            second = torch.linalg.lstsq(
                (first @ covariance @ first.T), (first @ covariance @ weight.T)
            ).solution.T
            first = torch.linalg.lstsq(second.T @ metric @ second, second.T @ metric @ weight).solution
        gap = weight - second @ first
        best = min(best, 0.5 * torch.trace(metric @ gap @ covariance @ gap.T).item())
    return best


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_truncation_is_the_joint_optimum(rank: int) -> None:
    weight, root, rows = drawn(6, 8), drawn(6, 6, seed=1), drawn(50, 8, seed=2)
    metric, mean = root.T @ root, rows.mean(0)
    covariance = (rows - mean).T @ (rows - mean) / len(rows)
    white = whiten(covariance)
    modes = Modes.of(weight @ white.root, Metric.of(metric), white, weight @ mean, mean)
    thin = modes.thin(rank)
    gap = weight - thin.second @ thin.first
    lost = 0.5 * torch.trace(metric @ gap @ covariance @ gap.T).item()
    assert lost == pytest.approx(modes.tails[rank].item(), rel=1e-9)
    assert lost == pytest.approx(alternate(weight, metric, covariance, rank), rel=1e-6)
    outputs = rows @ (thin.second @ thin.first).T + thin.bias
    assert torch.allclose(outputs.mean(0), weight @ mean)


def test_singular_on_both_sides() -> None:
    rows = drawn(40, 5, seed=3)
    rows = torch.cat(
        [rows, rows[:, :2], torch.zeros(40, 1, dtype=torch.float64)], 1
    )  # twins and a dead feature
    weight, thin_root = drawn(7, 8), drawn(3, 7, seed=4)  # a metric of rank 3
    covariance = torch.cov(rows.T, correction=0)
    white = whiten(covariance)
    modes = Modes.of(
        weight @ white.root, Metric.of(thin_root.T @ thin_root), white, weight @ rows.mean(0), rows.mean(0)
    )
    assert white.rank == 5
    assert len(modes.values) == 3
    thin = modes.thin(3)
    assert torch.isfinite(thin.second).all()
    assert torch.isfinite(thin.first).all()
    gap = (weight - thin.second @ thin.first) @ covariance
    assert (thin_root @ gap).abs().max() < 1e-9


def test_ridge_weighs_what_it_says() -> None:
    root, spread = drawn(4, 4), drawn(4, 4, seed=1)
    matrix, spread = root.T @ root, spread.T @ spread
    added = ridged(matrix, spread, 0.5) - matrix
    assert torch.trace(added @ spread).item() == pytest.approx(0.5 * torch.trace(matrix @ spread).item())
    assert torch.equal(ridged(0 * matrix, spread, 0.5), torch.eye(4, dtype=torch.float64))
