"""Weights given features, features given weights, and the truncated SVD as the minimum of the local loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featgeo as fg

from .oracles import EPSILONS, Minimum, log_loss, minimise, network_loss, order, random_joint
from .tails import interior_tail

SEEDS = range(6)


def problem_of(
    activation: str | None, seed: int, epsilon: float, target: str = "first_order"
) -> tuple[fg.LocalProblem, nn.Module | None]:
    """An output layer, or a hidden layer of |Y| - 1 neurons whose output's Bayes action is reached."""
    joint = random_joint(seed, 7, 4, epsilon)
    if activation is None:
        return fg.local_problem(joint, target=target), None
    tail, point = interior_tail(activation, 3, joint.sum(0).log(), seed)
    return fg.local_problem(joint, tail=tail, width=3, start=point + 0.02, target=target), tail


def gaussian(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1000 + seed).standard_normal(shape))


def cosine(a: Tensor, b: Tensor) -> float:
    return ((a * b).sum() / (a.norm() * b.norm())).item()


def assert_orders(
    predictions: list[list[float]], excesses: list[list[float]], misalignments: list[list[float]]
) -> None:
    """Prediction of the loss: third order. Loss of the local optimum above the true one: fourth. Angle²: second."""
    assert order(predictions) >= 2.8
    assert order(excesses) >= 3.8
    assert order(misalignments) >= 1.8
    assert max(row[-1] for row in misalignments) < 1e-4


@pytest.mark.parametrize("activation", [None, "tanh", "gelu", "softplus"])
def test_weights_given_features(activation: str | None) -> None:
    predictions, excesses, angles = [], [], []
    for seed in SEEDS:
        feature = gaussian(seed, 7, 2)
        rows: tuple[list[float], ...] = ([], [], [])
        for epsilon in EPSILONS:
            problem, tail = problem_of(activation, seed, epsilon)
            loss = network_loss(problem.joint, log_loss, tail)
            weight, bias = problem.optimal_weight(feature)
            best = minimise(
                lambda w, b, f=feature, g=loss: g(w, b, f), [weight, bias], (epsilon, epsilon), False
            )
            assert best.gradient < 1e-9
            rows[0].append(best.value - problem.local_loss(weight, bias, feature))
            rows[1].append(problem.exact_loss(weight, bias, feature) - best.value)
            rows[2].append(1 - cosine(problem.factor @ weight, problem.factor @ best.parameters[0]))
        for kept, row in zip((predictions, excesses, angles), rows, strict=True):
            kept.append(row)
    assert_orders(predictions, excesses, angles)


@pytest.mark.parametrize("activation", [None, "tanh", "gelu", "softplus"])
def test_features_given_weights(activation: str | None) -> None:
    predictions, excesses, angles = [], [], []
    for seed in SEEDS:
        rows: tuple[list[float], ...] = ([], [], [])
        for epsilon in EPSILONS:
            problem, tail = problem_of(activation, seed, epsilon)
            loss = network_loss(problem.joint, log_loss, tail)
            weight = gaussian(seed, len(problem.action), 2)
            bias = problem.action + 0.1 * epsilon * gaussian(seed + 100, len(problem.action))
            feature = problem.optimal_feature(weight, bias)
            best: Minimum = minimise(
                lambda f, w=weight, b=bias, g=loss: g(w, b, f), [feature], (epsilon,), False
            )
            assert best.gradient < 1e-9
            rows[0].append(best.value - problem.local_loss(weight, bias, feature))
            rows[1].append(problem.exact_loss(weight, bias, feature) - best.value)
            shift = problem.factor @ weight
            masses = problem.p_x.sqrt()[:, None]
            rows[2].append(1 - cosine(masses * feature @ shift.T, masses * best.parameters[0] @ shift.T))
        for kept, row in zip((predictions, excesses, angles), rows, strict=True):
            kept.append(row)
    assert_orders(predictions, excesses, angles)


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_given_optima_minimise_the_local_loss(activation: str | None) -> None:
    """A quadratic: the gradient vanishes at the formula's answer, by automatic differentiation of the definition."""
    problem, _ = problem_of(activation, 1, 0.3)
    factor, goal, masses = problem.factor, problem.B, problem.p_x

    def local(weight: Tensor, bias: Tensor, feature: Tensor) -> Tensor:
        mean = masses @ feature
        product = factor @ weight @ ((feature - mean) * masses.sqrt()[:, None]).T
        shift = factor @ (bias - problem.action + weight @ mean)
        return 0.5 * (goal - product).square().sum() + 0.5 * shift.square().sum()

    feature = gaussian(0, 7, 2) + 0.7
    weight, bias = problem.optimal_weight(feature)
    given = [part.clone().requires_grad_() for part in (weight, bias)]
    gradients = torch.autograd.grad(local(*given, feature), given)
    assert max(g.abs().max().item() for g in gradients) < 1e-12
    weight = gaussian(2, len(problem.action), 2)
    bias = problem.action + 0.1
    leaf = problem.optimal_feature(weight, bias).requires_grad_()
    (gradient,) = torch.autograd.grad(local(weight, bias, leaf), leaf)
    assert gradient.abs().max().item() < 1e-12


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_truncated_svd_is_the_minimum_of_the_local_loss(activation: str | None, rank: int) -> None:
    problem, _ = problem_of(activation, 2, 0.3)
    solution = problem.low_rank(rank)
    expected = problem.entropy - 0.5 * float(problem.singular_values[:rank].square().sum())
    assert abs(solution.loss - expected) < 1e-13
    parts = (solution.weight, solution.bias, solution.feature)
    rng = np.random.default_rng(rank)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(30):
            moved = [part + size * torch.from_numpy(rng.standard_normal(part.shape)) for part in parts]
            assert problem.local_loss(*moved) >= solution.loss - 1e-15
    mean = problem.p_x @ solution.feature
    assert mean.abs().max() < 1e-12
    second = solution.feature.T @ (problem.p_x[:, None] * solution.feature)
    kept = min(rank, 3)
    assert torch.allclose(second[:kept, :kept], torch.eye(kept, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2])
def test_alternating_least_squares_reaches_the_truncated_svd(rank: int) -> None:
    problem, _ = problem_of("tanh", 3, 0.3)
    feature = gaussian(3, 7, rank)
    for _ in range(150):
        weight, bias = problem.optimal_weight(feature)
        feature = problem.optimal_feature(weight, bias)
    assert abs(problem.local_loss(weight, bias, feature) - problem.low_rank(rank).loss) < 1e-12


@pytest.mark.parametrize("activation", [None, "tanh"])
def test_exact_targets_are_of_third_order_too(activation: str | None) -> None:
    """local_loss with exact targets is taken around the conditional entropy; at any local network it is as good."""
    errors = []
    for seed in range(2):
        errors.append([])
        for epsilon in EPSILONS:
            problem, _ = problem_of(activation, seed, epsilon, target="exact")
            size = len(problem.action)
            weight = 0.2 * epsilon * gaussian(seed, size, 2)
            bias = problem.action + 0.1 * epsilon * gaussian(seed + 50, size)
            layer = weight, bias, gaussian(seed + 90, 7, 2)
            errors[-1].append(problem.local_loss(*layer) - problem.exact_loss(*layer))
    assert order(errors) >= 2.8


def test_exact_targets_are_the_conditional_bayes_actions() -> None:
    problem = fg.local_problem(random_joint(0, 6, 4, 0.3), target="exact")
    given = (problem.joint / problem.joint.sum(1, keepdim=True)).log()
    assert torch.allclose(problem.displacement, given - problem.action, atol=1e-12)
    hidden, tail = problem_of("elu", 1, 0.3, target="exact")
    reached = tail(hidden.action + hidden.displacement).softmax(-1)
    assert torch.allclose(reached, hidden.joint / hidden.joint.sum(1, keepdim=True), atol=1e-7)


def test_exact_and_first_order_targets_agree_for_mean_square() -> None:
    rng = np.random.default_rng(0)
    joint, values = rng.random((6, 4)), rng.standard_normal((4, 2))
    first = fg.local_problem(joint, loss="mse", y_values=values)
    exact = fg.local_problem(joint, loss="mse", y_values=values, target="exact")
    assert torch.allclose(first.displacement, exact.displacement, atol=1e-12)
    layer = rng.standard_normal((2, 3)), rng.standard_normal(2), rng.standard_normal((6, 3))
    assert abs(first.local_loss(*layer) - exact.local_loss(*layer)) < 1e-12
    assert abs(first.local_loss(*layer) - first.exact_loss(*layer)) < 1e-12
