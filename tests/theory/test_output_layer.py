"""Output layer: a network trained to its optimum exceeds the Bayes loss by what the theorem predicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor

import featgeo as fg

from .oracles import (
    EPSILONS,
    LossTable,
    canonical_dependence,
    given_entropy,
    log_cosh,
    log_loss,
    logistic,
    order,
    poisson,
    random_joint,
    squared,
    table_of,
    train_from_scratch,
)

SEEDS = (0, 1, 2)
ROUNDING = 1e-13


def predicted_excess(problem: fg.LocalProblem, rank: int) -> float:
    """½ Σ_{i>k} σ_i²."""
    return 0.5 * float(problem.singular_values[rank:].square().sum())


@pytest.mark.parametrize(
    ("rows", "columns", "rank"), [(8, 6, 1), (8, 6, 2), (8, 6, 3), (5, 7, 2), (12, 4, 1)]
)
def test_excess_log_loss_is_predicted_to_third_order(rows: int, columns: int, rank: int) -> None:
    errors = []
    for seed in SEEDS:
        errors.append([])
        for epsilon in EPSILONS:
            joint = random_joint(seed, rows, columns, epsilon)
            trained = train_from_scratch(joint, log_loss, columns, rank, epsilon, seed)
            assert trained.gradient < 1e-9
            excess = trained.value - given_entropy(joint)
            errors[-1].append(excess - predicted_excess(fg.local_problem(joint), rank))
    assert order(errors) >= 2.8
    assert order([row[2:] for row in errors], EPSILONS[2:]) >= 2.8


@pytest.mark.parametrize("rank", [5, 6])
def test_nothing_is_lost_at_full_rank(rank: int) -> None:
    for epsilon in EPSILONS:
        joint = random_joint(0, 8, 6, epsilon)
        trained = train_from_scratch(joint, log_loss, 6, rank, epsilon, 0)
        assert trained.gradient < 1e-9
        assert abs(trained.value - given_entropy(joint)) < ROUNDING
        assert predicted_excess(fg.local_problem(joint), rank) < ROUNDING


def test_a_joint_of_low_rank_needs_no_more_features_to_second_order() -> None:
    """With B of rank 2, predicted excess at width 2 is zero; what remains is the curvature of the logarithm."""
    errors = []
    for seed in SEEDS:
        errors.append([])
        for epsilon in EPSILONS:
            joint = random_joint(seed, 7, 6, epsilon, rank=2)
            assert predicted_excess(fg.local_problem(joint), 2) < ROUNDING
            trained = train_from_scratch(joint, log_loss, 6, 2, epsilon, seed)
            assert trained.gradient < 1e-9
            errors[-1].append(trained.value - given_entropy(joint))
    assert min(map(min, errors)) > 1e-12
    assert order(errors) >= 2.8


def test_random_starts_reach_the_same_optimum() -> None:
    joint = random_joint(5, 8, 6, 0.3)
    values = [train_from_scratch(joint, log_loss, 6, 2, 0.3, seed).value for seed in range(4)]
    assert max(values) - min(values) < 1e-12


@pytest.mark.parametrize("epsilon", [1.0, *EPSILONS])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_mean_square_is_exact_at_any_dependence(epsilon: float, rank: int) -> None:
    rng = np.random.default_rng(rank)
    joint = random_joint(rank, 7, 5, epsilon) if epsilon < 1 else torch.from_numpy(rng.random((7, 5)))
    joint = joint / joint.sum()
    values = torch.from_numpy(rng.standard_normal((5, 3)))
    given = (joint @ values) / joint.sum(1, keepdim=True)
    bayes = (joint * squared(values)(given)).sum().item()
    problem = fg.local_problem(joint, loss="mse", y_values=values)
    trained = train_from_scratch(joint, squared(values), 3, rank, min(epsilon, 0.3), rank)
    assert trained.gradient < 1e-9
    assert abs(trained.value - bayes - predicted_excess(problem, rank)) < 1e-10
    solution = problem.low_rank(rank)
    assert abs(solution.loss - trained.value) < 1e-10
    assert abs(problem.exact_loss(solution.weight, solution.bias, solution.feature) - trained.value) < 1e-10


PATTERNS = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]], dtype=torch.float64)


def _given_mean(link: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, LossTable], Tensor]:
    """The outputs that are optimal for every x where the loss is canonical: link of E[Y | x]."""
    return lambda joint, values, table: link((joint @ values) / joint.sum(1, keepdim=True))


def _searched(joint: Tensor, values: Tensor, table: LossTable) -> Tensor:
    """The outputs that are optimal for every x, by a general optimiser."""

    def conditional(row: Tensor) -> Tensor:
        def value(z: np.ndarray) -> tuple[float, np.ndarray]:
            leaf = torch.from_numpy(z).requires_grad_()
            loss = (table(leaf[None])[0] * row).sum() / row.sum()
            return loss.item(), torch.autograd.grad(loss, leaf)[0].numpy()

        found = optimize.minimize(
            value, np.zeros(values.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9}
        )
        return torch.from_numpy(found.x)

    return torch.stack([conditional(row) for row in joint])


def _counts(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(100 + seed).integers(0, 6, (5, 3)).astype(float))


def _reals(seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(100 + seed).standard_normal((5, 3)))


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(
    ("loss", "values_of", "table_for", "outputs"),
    [
        ("bce", lambda seed: PATTERNS, logistic, _given_mean(torch.logit)),
        ("poisson", _counts, poisson, _given_mean(torch.log)),
        (log_cosh, _reals, lambda values: table_of(log_cosh, values), _searched),
    ],
    ids=["bce", "poisson", "callable"],
)
def test_excess_of_other_losses_is_predicted_to_third_order(
    loss: str | Callable[[Tensor, Tensor], Tensor],
    values_of: Callable[[int], Tensor],
    table_for: Callable[[Tensor], LossTable],
    outputs: Callable[[Tensor, Tensor, LossTable], Tensor],
    rank: int,
) -> None:
    errors = []
    for seed in range(8 if isinstance(loss, str) else 3):
        errors.append([])
        values = values_of(seed)
        table = table_for(values)
        for epsilon in EPSILONS:
            joint = random_joint(seed, 7, 5, epsilon)
            bayes = (joint * table(outputs(joint, values, table))).sum().item()
            trained = train_from_scratch(joint, table, 3, rank, epsilon, seed)
            assert trained.gradient < 1e-9
            width = None if isinstance(loss, str) else 3
            problem = fg.local_problem(joint, loss=loss, y_values=values, width=width)
            errors[-1].append(trained.value - bayes - predicted_excess(problem, rank))
    assert abs(problem.conditional_entropy - bayes) < 1e-12
    assert order(errors) >= 2.8


def test_singular_values_scale_with_the_dependence() -> None:
    """The joint of the oracle has dependence ε exactly, and B is linear in it."""
    spectra = []
    for epsilon in EPSILONS:
        problem = fg.local_problem(random_joint(3, 6, 5, epsilon))
        assert abs(problem.dependence - epsilon) < 1e-12
        assert np.allclose(problem.B.numpy(), canonical_dependence(problem.joint).T, atol=1e-12)
        spectra.append(problem.singular_values / epsilon)
    assert torch.allclose(torch.stack(spectra), spectra[0], atol=1e-10)
