"""Hidden layers trained given their tail, against the prediction of the theorem."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

import featgeo as fg
from featgeo import FeatgeoWarning

from .oracles import (
    EPSILONS,
    LossTable,
    canonical_dependence,
    given_entropy,
    log_loss,
    minimise,
    network_loss,
    order,
    random_joint,
    squared,
)
from .tails import ACTIVATIONS, interior_tail

SEEDS = (0, 1, 2)


def trained_excess(activation: str, middle: tuple[int, ...], rank: int, seed: int, epsilon: float) -> float:
    """Excess over the Bayes loss of the trained layer, less its prediction; |Y| - 1 neurons below the tail."""
    joint = random_joint(seed, 6, 4, epsilon)
    gain = 9.0 if middle else 15.0
    tail, point = interior_tail(activation, 3, joint.sum(0).log(), seed + 10, gain, middle)
    problem = fg.local_problem(joint, tail=tail, width=3, start=point + 0.02)
    assert torch.allclose(problem.action, point, atol=1e-7)
    assert problem.point.reached
    trained = train_locally(problem, epsilon, rank, log_loss)
    return trained - given_entropy(joint) - 0.5 * float(problem.singular_values[rank:].square().sum())


def train_locally(problem: fg.LocalProblem, epsilon: float, rank: int, table: LossTable) -> float:
    """Loss of the layer trained given its tail: Newton's descent from the local solution, to a gradient of zero."""
    local = problem.low_rank(rank)
    start = [local.weight, local.bias, local.feature]
    loss = network_loss(problem.joint, table, problem.tail)
    trained = minimise(loss, start, (epsilon, epsilon, 1.0), descend=False)
    assert trained.gradient < 1e-9
    return trained.value


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_excess_of_a_trained_hidden_layer_is_predicted_to_third_order(activation: str, rank: int) -> None:
    errors = [[trained_excess(activation, (), rank, seed, eps) for eps in EPSILONS] for seed in SEEDS]
    assert order(errors) >= 2.8


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_two_layers_above_change_nothing(activation: str) -> None:
    errors = [[trained_excess(activation, (3,), 1, seed, eps) for eps in EPSILONS] for seed in SEEDS]
    assert order(errors) >= 2.8


def bottleneck(
    activation: str, middle: tuple[int, ...], seed: int, epsilon: float, **options: str
) -> fg.LocalProblem:
    """Two neurons below five classes: the output's Bayes action is out of reach, the layer's own is interior."""
    joint = random_joint(seed, 6, 5, epsilon)
    away = torch.tensor([0.5, -0.5, 0.3, 0.0, -0.3], dtype=torch.float64)
    tail, point = interior_tail(activation, 2, joint.sum(0).log() + away, seed + 10, 4.0, middle)
    with pytest.warns(FeatgeoWarning, match="cannot reach"):
        problem = fg.local_problem(joint, tail=tail, width=2, start=point, **options)
    assert not problem.point.reached
    assert not problem.point.saturated
    assert problem.point.score_mean.norm() < 1e-8
    return problem


@pytest.mark.parametrize(
    ("activation", "middle"),
    [("identity", ()), ("tanh", ()), ("silu", ()), ("tanh", (4,)), ("softplus", (4,))],
)
def test_a_bottleneck_that_cannot_reach_is_predicted_to_third_order(
    activation: str, middle: tuple[int, ...]
) -> None:
    for rank in (1, 2):
        errors = []
        for seed in SEEDS:
            errors.append([])
            for epsilon in EPSILONS:
                problem = bottleneck(activation, middle, seed, epsilon)
                trained = train_locally(problem, epsilon, rank, log_loss)
                errors[-1].append(trained - problem.low_rank(rank).loss)
        assert order(errors) >= 2.8


def test_gauss_newton_errs_at_second_order_where_the_action_is_out_of_reach() -> None:
    """Why metric='auto' takes the exact Hessian there."""
    exact, newton = [], []
    for epsilon in (0.03, 0.01, 0.003):
        problem = bottleneck("tanh", (4,), 2, epsilon)
        trained = train_locally(problem, epsilon, 2, log_loss)
        exact.append(abs(problem.low_rank(2).loss - trained))
        newton.append(
            abs(bottleneck("tanh", (4,), 2, epsilon, metric="gauss_newton").low_rank(2).loss - trained)
        )
    assert order([exact], (0.03, 0.01, 0.003)) >= 2.8
    assert order([newton], (0.03, 0.01, 0.003)) < 2.2


@pytest.mark.parametrize("neurons", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_hidden_matrix_is_the_projected_dependence_matrix(activation: str, neurons: int) -> None:
    joint = random_joint(neurons, 7, 4, 0.3)
    tail, point = interior_tail(activation, neurons, joint.sum(0).log(), neurons)
    problem = fg.local_problem(joint, tail=tail, width=neurons, start=point + 0.01)
    assert problem.point.reached
    leaf = problem.action.clone().requires_grad_()
    outputs = tail(leaf[None])[0]
    jacobian = torch.stack([torch.autograd.grad(o, leaf, retain_graph=True)[0] for o in outputs])
    p_y = joint.sum(0)
    scores = (p_y.expand(4, 4) - torch.eye(4)).double() @ jacobian
    spanned = (p_y.sqrt()[:, None] * scores).numpy()
    basis = linalg.orth(spanned, rcond=1e-10)
    expected = basis @ basis.T @ canonical_dependence(joint).T
    assert basis.shape[1] == min(neurons, 3)
    assert np.allclose(problem.B.numpy(), expected, atol=1e-9)
    if neurons >= 3:
        assert np.allclose(problem.B.numpy(), canonical_dependence(joint).T, atol=1e-9)


def test_hidden_layer_under_mean_square() -> None:
    errors = []
    for seed in SEEDS:
        errors.append([])
        values = torch.from_numpy(np.random.default_rng(seed).standard_normal((5, 2)))
        for epsilon in EPSILONS:
            joint = random_joint(seed, 7, 5, epsilon)
            tail, point = interior_tail("tanh", 2, joint.sum(0) @ values, seed, 15.0)
            with (
                torch.no_grad()
            ):  # two outputs carry no softmax gauge: replace the centred matrix by a rotation
                turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=torch.float64)
                tail[1].weight.copy_(15.0 * turn)
                tail[1].bias += joint.sum(0) @ values - tail(point[None])[0]
            problem = fg.local_problem(
                joint, loss="mse", y_values=values, tail=tail, width=2, start=point + 0.02
            )
            trained = train_locally(problem, epsilon, 1, squared(values))
            errors[-1].append(trained - problem.low_rank(1).loss)
    assert order(errors) >= 2.8
