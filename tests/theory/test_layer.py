"""A layer beside its optimum, and the average tail, against numpy's least squares and the definitions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import linalg
from torch import Tensor, nn

import featgeo as fg
from featgeo.theory.layer import LayerFit, average_tail, fit_layer, optimal_weight, whitened_modes
from featgeo.theory.linalg import thin_svd, whiten

from .oracles import random_joint
from .tails import interior_tail


def layer_of(
    seed: int, hidden: bool, deficient: bool = False
) -> tuple[fg.LocalProblem, Tensor, Tensor, dict[str, Any]]:
    """A finite problem, features, and what fit_layer wants to know of them."""
    joint = random_joint(seed, 9, 4, 0.3)
    problem = fg.local_problem(joint)
    if hidden:
        tail, point = interior_tail("silu", 6, joint.sum(0).log(), seed, 3.0)
        problem = fg.local_problem(joint, tail=tail, width=6, start=point + 0.01)
    rng = np.random.default_rng(seed)
    feature = torch.from_numpy(rng.standard_normal((9, 3)) + 1.0)
    if deficient:
        feature = torch.column_stack([feature, feature @ torch.tensor([1.0, 2.0, -1.0]).double()])
    mean = problem.p_x @ feature
    centred = feature - mean
    sigma = centred.T @ (problem.p_x[:, None] * centred)
    cross = -torch.einsum("xy,yn,xk->nk", joint, problem.scores, centred)
    size = len(problem.action)
    weight = 0.1 * torch.from_numpy(rng.standard_normal((size, feature.shape[1])))
    bias = problem.action + 0.1 * torch.from_numpy(rng.standard_normal(size))
    gap = problem.action - bias - weight @ mean
    return problem, feature, bias, {
        "factor": thin_svd(problem.factor), "jacobian": torch.eye(size).double(), "statistic": cross,
        "white": whiten(sigma).white(cross), "covariance": sigma, "whitener": whiten(sigma),
        "mean": mean, "weight": weight, "action": problem.action,
        "displacement_loss": 0.5 * float((problem.factor @ gap).square().sum()), "readout_gain": 0.2,
    }  # fmt: skip


CASES = pytest.mark.parametrize(("hidden", "deficient"), [(False, False), (True, False), (True, True)])


def half(matrix: Tensor) -> Tensor:
    return torch.from_numpy(np.real(linalg.sqrtm(matrix.numpy())))


@CASES
def test_gains_and_gaps_are_the_quadratic(hidden: bool, deficient: bool) -> None:
    problem, feature, bias, known = layer_of(0, hidden, deficient)
    fit = fit_layer(**known)
    weight, cross, sigma = known["weight"], known["statistic"], known["covariance"]
    metric = problem.metric
    inverse = np.linalg.pinv(metric.numpy(), rcond=1e-10), np.linalg.pinv(sigma.numpy(), rcond=1e-10)
    available = 0.5 * np.trace(inverse[0] @ cross.numpy() @ inverse[1] @ cross.numpy().T)
    used = torch.trace(weight.T @ cross) - 0.5 * torch.trace(metric @ weight @ sigma @ weight.T)
    assert abs(fit.gain_available - available) < 1e-10
    assert abs(fit.gain_used - used.item()) < 1e-10
    assert abs(fit.gain_available - fit.gain_used - fit.gap_weight) < 1e-12
    assert abs(fit.gap_rank - max(0.0, 0.2 - available)) < 1e-10
    assert abs(0.5 * fit.spectrum.square().sum().item() - fit.gain_available) < 1e-12
    assert torch.allclose(fit.spectrum, fit.spectrum.sort(descending=True).values)
    expected = problem.entropy - problem.local_loss(weight, bias, feature)
    assert abs(fit.predicted_decrease - expected) < 1e-10
    at_optimum = problem.local_loss(fit.optimal_weight, fit.optimal_bias, feature)
    assert abs(problem.entropy - at_optimum - fit.gain_available) < 1e-10


@CASES
def test_alignment_and_scale_are_those_of_the_products(hidden: bool, deficient: bool) -> None:
    problem, _, _, known = layer_of(1, hidden, deficient)
    fit = fit_layer(**known)
    root = half(known["covariance"])
    used, best = problem.factor @ known["weight"] @ root, problem.factor @ fit.optimal_weight @ root
    assert abs(fit.alignment - ((used * best).sum() / used.norm() / best.norm()).item()) < 1e-7
    assert abs(fit.scale - (used.norm() / best.norm()).item()) < 1e-7


@CASES
@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_the_optimum_aligns_with_itself(hidden: bool, deficient: bool, decay: float) -> None:
    problem, feature, _, known = layer_of(2, hidden, deficient)
    best = optimal_weight(thin_svd(problem.factor), known["statistic"], known["covariance"], decay)
    assert torch.allclose(best, problem.optimal_weight(feature, decay)[0], atol=1e-10)
    fit = fit_layer(**{**known, "weight": best}, weight_decay=decay)
    assert abs(fit.alignment - 1) < 1e-12
    assert abs(fit.scale - 1) < 1e-12
    assert torch.allclose(fit.optimal_weight, best, atol=1e-12)
    assert torch.allclose(fit.optimal_bias, problem.action - best @ known["mean"], atol=1e-12)
    assert (fit.gap_weight < 1e-12) == (decay == 0)
    flipped = fit_layer(**{**known, "weight": -2 * best}, weight_decay=decay)
    assert abs(flipped.alignment + 1) < 1e-12
    assert abs(flipped.scale - 2) < 1e-12
    assert flipped.gain_used < 0


def test_a_layer_that_does_nothing_has_no_alignment() -> None:
    _, _, _, known = layer_of(3, hidden=False)
    fit: LayerFit = fit_layer(**{**known, "weight": torch.zeros_like(known["weight"])})
    assert np.isnan(fit.alignment)
    assert fit.gain_used == pytest.approx(0.0, abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    counts=arrays(np.int64, st.tuples(st.integers(2, 7), st.integers(2, 5)), elements=st.integers(0, 9)),
    data=st.data(),
)
def test_gain_of_log_loss_is_bounded(counts: np.ndarray, data: st.DataObject) -> None:
    """At most ½ min(k, |Y| - 1) nats, for any table and features, degenerate ones included."""
    if counts.sum() == 0:
        counts[0, 0] = 1
    width = data.draw(st.integers(1, 6))
    feature = data.draw(arrays(np.float64, (len(counts), width), elements=st.integers(-3, 3).map(float)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fg.FeatgeoWarning)  # absent classes are the point
        problem = fg.local_problem(counts)
    weight, bias = problem.optimal_weight(feature)
    gain = problem.entropy - problem.local_loss(weight, bias, feature)
    classes = int((counts.sum(0) > 0).sum())
    assert -1e-12 <= gain <= 0.5 * min(width, classes - 1) + 1e-9
    centred = torch.from_numpy(feature) - problem.p_x @ torch.from_numpy(feature)
    cross = -torch.einsum("xy,yn,xk->nk", problem.joint, problem.scores, centred)
    sigma = centred.T @ (problem.p_x[:, None] * centred)
    modes = whitened_modes(thin_svd(problem.factor), cross, whiten(sigma))
    assert abs(0.5 * modes.square().sum().item() - gain) < 1e-8
    assert torch.linalg.svdvals(modes).max() <= 1 + 1e-9 if modes.numel() else True


def sampled(
    seed: int, inputs: int, neurons: int, linear: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor]:
    """Features (N, k), pre-activations z (N, n), outputs g (N, d) and W."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    f = rng.standard_normal((500, inputs)) @ rng.standard_normal((inputs, inputs)) + 1.0
    weight = rng.standard_normal((neurons, inputs)) / inputs**0.5
    z = f @ weight.T
    tail = (
        nn.Linear(neurons, 4).double() if linear else nn.Sequential(nn.Tanh(), nn.Linear(neurons, 4)).double()
    )
    return f, z, tail(torch.from_numpy(z)).detach().numpy(), torch.from_numpy(weight)


def cov(a: np.ndarray, b: np.ndarray) -> Tensor:
    return torch.from_numpy((a - a.mean(0)).T @ (b - b.mean(0)) / len(a))


@pytest.mark.parametrize(("inputs", "neurons"), [(6, 3), (3, 6), (4, 4)])
def test_average_tail_is_least_squares(inputs: int, neurons: int) -> None:
    f, z, g, weight = sampled(0, inputs, neurons)
    metric = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 4)))
    tail = average_tail(cov(g, f), cov(g, g), weight, whiten(cov(f, f)), metric)
    z0, g0 = z - z.mean(0), g - g.mean(0)
    jacobian = np.linalg.lstsq(z0, g0, rcond=1e-10)[0].T
    assert np.allclose(tail.jacobian.numpy(), jacobian, atol=1e-9)
    residual = (g0 - z0 @ jacobian.T) @ metric.numpy().T
    explained = 1 - np.square(residual).sum() / np.square(g0 @ metric.numpy().T).sum()
    assert abs(tail.determination - explained) < 1e-9
    assert 0 < tail.determination < 1


def test_average_tail_of_a_linear_tail_is_its_matrix() -> None:
    f, z, g, weight = sampled(2, 6, 3, linear=True)
    tail = average_tail(cov(g, f), cov(g, g), weight, whiten(cov(f, f)), torch.eye(4).double())
    matrix = np.linalg.lstsq(z - z.mean(0), g - g.mean(0), rcond=None)[0].T
    torch.manual_seed(2)
    assert np.allclose(matrix, nn.Linear(3, 4).double().weight.detach().numpy(), atol=1e-9)
    assert np.allclose(tail.jacobian.numpy(), matrix, atol=1e-9)
    assert abs(tail.determination - 1) < 1e-9


def test_average_tail_is_the_mean_jacobian_for_gaussian_inputs() -> None:
    """Stein's lemma, by Monte Carlo; z of full rank."""
    rng = np.random.default_rng(3)
    f = rng.standard_normal((200_000, 4)) @ rng.standard_normal((4, 4)) + 0.3
    weight, read = rng.standard_normal((3, 4)) / 2, rng.standard_normal((2, 3))
    z = f @ weight.T
    g = np.tanh(z) @ read.T
    tail = average_tail(
        cov(g, f), cov(g, g), torch.from_numpy(weight), whiten(cov(f, f)), torch.eye(2).double()
    )
    mean_jacobian = read * (1 - np.tanh(z) ** 2).mean(0)
    at_mean = read * (1 - np.tanh(z.mean(0)) ** 2)
    assert np.abs(tail.jacobian.numpy() - mean_jacobian).max() < 0.01
    assert np.abs(tail.jacobian.numpy() - at_mean).max() > 0.1


def test_average_tail_does_not_read_a_slope_off_a_neuron_that_stands_still() -> None:
    """Plain least squares divides chance correlation by next to nothing; the other neurons' slopes stay."""
    f, z, g, weight = sampled(4, 6, 3)
    still = torch.ones(3, 1).double()
    still[1] = 1e-7
    tail = average_tail(cov(g, f), cov(g, g), still * weight, whiten(cov(f, f)), torch.eye(4).double())
    plain = np.linalg.lstsq((z - z.mean(0)) * still[:, 0].numpy(), g - g.mean(0), rcond=None)[0].T
    assert np.abs(plain[:, 1]).max() > 1e5
    assert tail.jacobian[:, 1].abs().max() < 1e-3 * np.abs(plain[:, 1]).max()
    without = np.linalg.lstsq((z - z.mean(0))[:, [0, 2]], g - g.mean(0), rcond=None)[0].T
    assert np.allclose(tail.jacobian[:, [0, 2]].numpy(), without, atol=1e-3)


def test_average_tail_without_variation_explains_everything() -> None:
    tail = average_tail(
        torch.zeros(2, 3).double(), torch.zeros(2, 2).double(), torch.ones(4, 3).double(),
        whiten(torch.zeros(3, 3).double()), torch.eye(2).double(),
    )  # fmt: skip
    assert tail.determination == 1.0
    assert torch.equal(tail.jacobian, torch.zeros(2, 4).double())
