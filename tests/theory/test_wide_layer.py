"""Layers with more neurons than the metric has rank: where the theorem holds, and where it does not.

With n > |Y| - 1 some displacements of z leave the output still to first order. Along them a non-linear tail gains
ε u² against a cost u⁴, so that an unpenalised optimum moves by √ε and beats the prediction by O(ε²). The theorem holds
within the range of the metric, or under a weight decay that shrinks no faster than ε.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featgeo as fg

from .oracles import EPSILONS, given_entropy, log_loss, minimise, network_loss, order, random_joint
from .tails import interior_tail

SEEDS = (0, 1, 2)


def wide_problem(
    activation: str, seed: int, epsilon: float, gain: float
) -> tuple[fg.LocalProblem, nn.Module]:
    """Six neurons below four classes: the metric has rank three."""
    joint = random_joint(seed, 7, 4, epsilon)
    tail, point = interior_tail(activation, 6, joint.sum(0).log(), seed + 10, gain)
    problem = fg.local_problem(joint, tail=tail, width=6, start=point + 0.01)
    assert torch.linalg.matrix_rank(problem.metric, rtol=1e-10) == 3
    return problem, tail


def within_range(problem: fg.LocalProblem, tail: nn.Module) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A basis of the metric's range, and the tail as a function of coordinates in it."""
    basis = torch.linalg.svd(problem.metric).U[:, :3]
    return basis, lambda coordinates: tail(problem.action + coordinates @ basis.T)


@pytest.mark.parametrize(("activation", "rank"), [("tanh", 1), ("elu", 2), ("gelu", 1), ("leaky_relu", 2)])
def test_trained_within_the_range_of_the_metric(activation: str, rank: int) -> None:
    errors = []
    for seed in SEEDS:
        errors.append([])
        for epsilon in EPSILONS:
            problem, tail = wide_problem(activation, seed, epsilon, 15.0)
            basis, inner = within_range(problem, tail)
            local = problem.low_rank(rank)
            start = [basis.T @ local.weight, basis.T @ (local.bias - problem.action), local.feature]
            loss = network_loss(problem.joint, log_loss, inner)
            trained = minimise(loss, start, (epsilon, epsilon, 1.0), descend=False)
            assert trained.gradient < 1e-9
            predicted = 0.5 * float(problem.singular_values[rank:].square().sum())
            errors[-1].append(trained.value - given_entropy(problem.joint) - predicted)
    assert order(errors) >= 2.8


@pytest.mark.parametrize(("activation", "decay"), [("tanh", 1.0), ("sigmoid", 0.1), ("silu", 1.0)])
def test_weight_decay_of_order_epsilon_keeps_the_layer_local(activation: str, decay: float) -> None:
    """Fixed features, λ = decay · ε on the weights and on the bias's distance from b*: no direction is free."""
    errors, norms = [], []
    for seed in SEEDS:
        errors.append([])
        feature = torch.from_numpy(np.random.default_rng(seed).standard_normal((7, 2)))
        for epsilon in EPSILONS:
            problem, tail = wide_problem(activation, seed, epsilon, 3.0)
            network = network_loss(problem.joint, log_loss, tail)
            rate = decay * epsilon
            weight, bias = problem.optimal_weight(feature, weight_decay=rate)
            mean = problem.p_x @ feature

            def penalised(
                w: Tensor, b: Tensor, f: Tensor = feature, c: Tensor = problem.action, m: Tensor = mean,
                g: Callable[[Tensor, Tensor, Tensor], Tensor] = network, r: float = rate,
            ) -> Tensor:  # fmt: skip
                return g(w, b, f) + r / 2 * (w.square().sum() + (b + w @ m - c).square().sum())

            trained = minimise(penalised, [weight, bias], (epsilon, epsilon), descend=False)
            assert trained.gradient < 1e-9
            predicted = problem.local_loss(weight, bias, feature) + rate / 2 * weight.square().sum().item()
            errors[-1].append(trained.value - predicted)
            norms.append((trained.parameters[0].norm() / weight.norm()).item())
    assert order(errors) >= 2.8
    assert max(norms) < 1.1


def test_without_a_penalty_a_wide_layer_leaves_the_local_region() -> None:
    """The limit of the theorem, kept in view: the optimum gains O(ε²) more than predicted, with outsize weights."""
    gains = []
    for epsilon in EPSILONS:
        problem, tail = wide_problem("tanh", 0, epsilon, 3.0)
        feature = torch.from_numpy(np.random.default_rng(0).standard_normal((7, 2)))
        weight, bias = problem.optimal_weight(feature)
        network = network_loss(problem.joint, log_loss, tail)
        trained = minimise(
            lambda w, b, f=feature, g=network: g(w, b, f), [weight, bias], (epsilon, epsilon), descend=False
        )
        gains.append(problem.local_loss(weight, bias, feature) - trained.value)
        assert gains[-1] > 0
        assert trained.parameters[0].norm() > 10 * weight.norm()
    assert 1.7 < order([gains]) < 2.3


def test_the_local_solution_itself_is_priced_to_third_order() -> None:
    """Whatever the width, the theorem holds for displacements of order ε, those of its own solution included."""
    errors = []
    for seed in SEEDS:
        errors.append([])
        for epsilon in EPSILONS:
            problem, _ = wide_problem("gelu", seed, epsilon, 15.0)
            local = problem.low_rank(2)
            errors[-1].append(problem.exact_loss(local.weight, local.bias, local.feature) - local.loss)
    assert order(errors) >= 2.8
