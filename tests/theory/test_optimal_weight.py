"""Optimal weights: their normal equation, and scikit-learn's regressions, recovered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor

import featgeo as fg

from .oracles import log_loss, minimise, random_joint
from .tails import interior_tail

Array = NDArray[np.float64]


def features(kind: str, rows: int) -> Tensor:
    """Features (rows, k) of full rank, with an exact dependence and a constant, or badly scaled."""
    rng = np.random.default_rng(7)
    plain = rng.standard_normal((rows, 3)) + 2.0
    if kind == "deficient":
        plain = np.column_stack([plain, plain @ [1.0, -2.0, 0.5], np.full(rows, 3.0)])
    if kind == "scaled":
        plain = plain * [1e-3, 1.0, 1e3]
    return torch.from_numpy(plain)


def moments(problem: fg.LocalProblem, feature: Tensor) -> tuple[Tensor, Tensor]:
    """K = -E[s (f - μ)ᵀ] from the scores, and Σ, over the joint."""
    centred = feature - problem.p_x @ feature
    cross = -torch.einsum("xy,yn,xk->nk", problem.joint, problem.scores, centred)
    return cross, torch.einsum("x,xi,xj->ij", problem.p_x, centred, centred)


def hidden_problem(neurons: int) -> fg.LocalProblem:
    joint = random_joint(3, 9, 4, 0.3)
    tail, point = interior_tail("tanh", neurons, joint.sum(0).log(), 0, 3.0)
    return fg.local_problem(joint, tail=tail, width=neurons, start=point + 0.01)


@pytest.mark.parametrize("decay", [1e-6, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("kind", ["plain", "deficient", "scaled"])
@pytest.mark.parametrize("neurons", [None, 2, 3, 8])
def test_penalised_weights_solve_their_normal_equation(neurons: int | None, kind: str, decay: float) -> None:
    """H W Σ + λ W = K, with a metric that is singular at the output (gauge) and below a tail of more neurons."""
    problem = hidden_problem(neurons) if neurons else fg.local_problem(random_joint(3, 9, 4, 0.3))
    feature = features(kind, 9)
    weight, bias = problem.optimal_weight(feature, weight_decay=decay)
    cross, covariance = moments(problem, feature)
    residual = problem.metric @ weight @ covariance + decay * weight - cross
    assert residual.norm() <= 1e-8 * cross.norm()
    assert torch.allclose(bias, problem.action - weight @ (problem.p_x @ feature), atol=1e-9)


@pytest.mark.parametrize("kind", ["plain", "deficient", "scaled"])
@pytest.mark.parametrize("neurons", [None, 2, 8])
def test_unpenalised_weights_are_the_limit(neurons: int | None, kind: str) -> None:
    problem = hidden_problem(neurons) if neurons else fg.local_problem(random_joint(3, 9, 4, 0.3))
    feature = features(kind, 9)
    weight, _ = problem.optimal_weight(feature)
    cross, covariance = moments(problem, feature)
    assert (problem.metric @ weight @ covariance - cross).norm() <= 1e-9 * cross.norm()
    if kind == "plain":
        small, _ = problem.optimal_weight(feature, weight_decay=1e-9)
        assert torch.allclose(weight, small, rtol=1e-6, atol=1e-6 * weight.norm().item())


def test_penalised_weights_minimise_the_penalised_quadratic() -> None:
    """Against a general optimiser on local_loss + λ/2 ‖W‖², written out."""
    problem = hidden_problem(5)
    feature = features("plain", 9)
    factor, goal, masses = problem.factor, problem.B, problem.p_x
    centred = (feature - masses @ feature) * masses.sqrt()[:, None]

    def objective(weight: Tensor) -> Tensor:
        return 0.5 * (goal - factor @ weight @ centred.T).square().sum() + 0.05 * weight.square().sum()

    found = minimise(objective, [torch.zeros(5, 3)])
    weight, _ = problem.optimal_weight(feature, weight_decay=0.1)
    assert torch.allclose(weight, found.parameters[0], atol=1e-9)


def regression(seed: int) -> tuple[Array, Array, Array]:
    """A joint (|X|, |Y|), features of x and values of y."""
    rng = np.random.default_rng(seed)
    joint = rng.random((12, 6)) ** 3
    return joint / joint.sum(), rng.standard_normal((12, 4)), rng.standard_normal((6, 3))


def as_samples(joint: Array, feature: Array, values: Array) -> tuple[Array, Array, Array]:
    """Every pair (x, y) as one weighted sample."""
    rows, columns = joint.shape
    return np.repeat(feature, columns, axis=0), np.tile(values, (rows, 1)), joint.reshape(-1)


@pytest.mark.parametrize("seed", range(3))
def test_ordinary_least_squares(seed: int) -> None:
    joint, feature, values = regression(seed)
    x, y, weights = as_samples(joint, feature, values)
    model = LinearRegression().fit(x, y, sample_weight=weights)
    problem = fg.local_problem(joint, loss="mse", y_values=values)
    weight, bias = problem.optimal_weight(feature)
    assert np.abs(weight.numpy() - model.coef_).max() < 1e-8
    assert np.abs(bias.numpy() - model.intercept_).max() < 1e-8
    attained = weights @ ((model.predict(x) - y) ** 2).mean(1)
    assert abs(problem.local_loss(weight, bias, feature) - attained) < 1e-10


@pytest.mark.parametrize("decay", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("seed", range(3))
def test_ridge_regression(seed: int, decay: float) -> None:
    """Σ p ‖y - ŷ‖²/d + λ/2 ‖W‖² is scikit-learn's Σ p ‖y - ŷ‖² + α ‖W‖² with α = λ d/2."""
    joint, feature, values = regression(seed)
    x, y, weights = as_samples(joint, feature, values)
    model = Ridge(alpha=decay * values.shape[1] / 2, solver="cholesky").fit(x, y, sample_weight=weights)
    problem = fg.local_problem(joint, loss="mse", y_values=values)
    weight, bias = problem.optimal_weight(feature, weight_decay=decay)
    assert np.abs(weight.numpy() - model.coef_).max() < 1e-8
    assert np.abs(bias.numpy() - model.intercept_).max() < 1e-8


def test_ridge_regression_from_samples() -> None:
    """Each sample its own x: the plain textbook case, α = λ N d/2."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    problem = fg.local_problem(np.eye(30), loss="mse", y_values=y)
    for decay in (0.01, 1.0):
        weight, bias = problem.optimal_weight(x, weight_decay=decay)
        model = Ridge(alpha=decay * 30 * 2 / 2).fit(x, y)
        assert np.abs(weight.numpy() - model.coef_).max() < 1e-8
        assert np.abs(bias.numpy() - model.intercept_).max() < 1e-8


def test_reduced_rank_regression() -> None:
    """Free features of width k under squared error: the fitted means cut to rank k."""
    joint, _, values = regression(4)
    problem = fg.local_problem(joint, loss="mse", y_values=values)
    masses = joint.sum(1)
    means = (joint @ values) / masses[:, None]
    centre = masses @ means
    left, sizes, right = np.linalg.svd(np.sqrt(masses)[:, None] * (means - centre), full_matrices=False)
    for rank in (1, 2):
        solution = problem.low_rank(rank)
        cut = (left[:, :rank] * sizes[:rank]) @ right[:rank] / np.sqrt(masses)[:, None] + centre
        fitted = solution.feature @ solution.weight.T + solution.bias
        assert np.abs(fitted.numpy() - cut).max() < 1e-10


def test_gain_of_log_loss_is_half_the_squared_canonical_correlations() -> None:
    """Against scikit-learn's CCA of features with one-hot labels."""
    rng = np.random.default_rng(2)
    labels = np.arange(300) % 3
    x = rng.standard_normal((300, 4)) + 0.8 * np.eye(3, 4)[labels]
    problem = fg.local_problem((np.arange(300), labels))
    weight, bias = problem.optimal_weight(x)
    gain = problem.entropy - problem.local_loss(weight, bias, x)
    model = CCA(n_components=2, scale=False, max_iter=20000, tol=1e-14).fit(x, np.eye(3)[labels][:, :2])
    a, b = model.transform(x, np.eye(3)[labels][:, :2])
    correlations = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(2)]
    assert abs(gain - 0.5 * np.square(correlations).sum()) < 1e-6
    exact = minimise(
        lambda w, c: torch.einsum("xy,xy->", problem.joint, log_loss(torch.from_numpy(x) @ w.T + c)),
        [weight, bias],
    )
    assert exact.value <= problem.exact_loss(weight, bias, x) + 1e-12
