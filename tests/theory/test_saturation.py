"""Where the Bayes action runs to saturation it is said, the neurons are named, and nothing is NaN."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

import featgeo as fg
from featgeo import FeatgeoWarning

from .oracles import random_joint

JOINT = random_joint(0, 6, 3, 0.3)


def assert_no_nan(problem: fg.LocalProblem) -> None:
    """Every number that the problem offers is a number."""
    tensors = [
        problem.action, problem.scores, problem.metric, problem.B, problem.singular_values, problem.factor,
        problem.displacement, problem.point.output, problem.point.jacobian, problem.point.residual,
    ]  # fmt: skip
    feature = torch.from_numpy(np.random.default_rng(0).standard_normal((len(problem.joint), 2)))
    for decay in (0.0, 0.1):
        tensors += problem.optimal_weight(feature, weight_decay=decay)
    for rank in (1, 3):
        solution = problem.low_rank(rank)
        tensors += [solution.weight, solution.bias, solution.feature, torch.tensor(solution.loss)]
        tensors.append(problem.optimal_feature(solution.weight, solution.bias))
    numbers = [problem.entropy, problem.conditional_entropy, problem.dependence, problem.divergence(0)]
    assert all(torch.isfinite(t).all() for t in tensors)
    assert np.isfinite(numbers).all()


def wanting(activation: Callable[[], nn.Module], wanted: list[float], weight: float = 0.5) -> nn.Module:
    """A tail whose output reaches log P_Y where its two activations take the wanted values."""
    layer = nn.Linear(2, 3).double()
    with torch.no_grad():
        layer.weight.copy_(weight * torch.eye(3, 2))
        layer.bias.copy_(JOINT.sum(0).log() - layer.weight @ torch.tensor(wanted).double())
    return nn.Sequential(activation(), layer)


RANGES = {nn.Sigmoid: (0.0, 1.0), nn.Tanh: (-1.0, 1.0), nn.Softplus: (0.0, None), nn.ELU: (-1.0, None)}


def at_the_end(tail: nn.Sequential, low: float, high: float | None) -> tuple[int, ...]:
    """Neurons whose activation lies at an end of its range where log-loss, convex in the activations, is least."""
    weight, bias = (p.detach().numpy() for p in tail[1].parameters())
    share = JOINT.sum(0).numpy()

    def risk(values: np.ndarray) -> float:
        logits = weight @ values + bias
        return float(np.logaddexp.reduce(logits) - share @ logits)

    found = optimize.minimize(
        risk,
        np.full(2, 0.4),
        method="L-BFGS-B",
        bounds=[(low, high)] * 2,
        options={"ftol": 1e-15, "gtol": 1e-10},
    )
    ends = (low,) if high is None else (low, high)
    return tuple(i for i, value in enumerate(found.x) if min(abs(value - end) for end in ends) < 1e-6)


@pytest.mark.parametrize("weight", [0.05, 0.5, 3.0])
@pytest.mark.parametrize(
    ("activation", "wanted"),
    [
        (nn.Sigmoid, [3.0, 3.0]),
        (nn.Sigmoid, [2.0, 0.5]),
        (nn.Sigmoid, [0.4, -1.0]),
        (nn.Sigmoid, [0.4, 1.2]),
        (nn.Tanh, [1.5, 0.1]),
        (nn.Softplus, [-1.0, 1.0]),
        (nn.Softplus, [-1.0, -1.0]),
        (nn.ELU, [0.5, -2.0]),
    ],
)
def test_saturated_neurons_are_named(
    activation: Callable[[], nn.Module], wanted: list[float], weight: float
) -> None:
    tail = wanting(activation, wanted, weight)
    neurons = at_the_end(tail, *RANGES[activation])
    assert neurons
    with pytest.warns(FeatgeoWarning) as caught:
        problem = fg.local_problem(JOINT, tail=tail, width=2)
    assert problem.point.saturated == neurons
    texts = [str(warning.message) for warning in caught if warning.category is FeatgeoWarning]
    assert texts == list(problem.warnings)
    said = [text for text in texts if "saturation" in text]
    assert len(said) == 1
    assert f"{len(neurons)} of 2 neurons ({', '.join(map(str, neurons))})" in said[0]
    assert_no_nan(problem)


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh, nn.Softplus])
def test_wanted_values_within_range_are_silent(activation: Callable[[], nn.Module]) -> None:
    problem = fg.local_problem(JOINT, tail=wanting(activation, [0.6, 0.3]), width=2)
    assert problem.warnings == ()
    assert problem.point.saturated == ()
    assert_no_nan(problem)


@pytest.mark.parametrize("activation", RANGES)
def test_with_as_few_neurons_as_needed_the_verdict_is_exact(activation: type[nn.Module]) -> None:
    """|Y| - 1 neurons reach log P_Y at one point only; saturation is said if and only if that is out of range."""
    low, high = RANGES[activation]
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(20):
        wanted = rng.uniform(low - 0.4, 1.4, 2)
        margins = [wanted - low] if high is None else [wanted - low, high - wanted]
        if np.abs(margins).min() < 0.03:
            continue  # at the very end of the range the answer is a matter of taste
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeatgeoWarning)  # the verdict is read from the point
            problem = fg.local_problem(JOINT, tail=wanting(activation, wanted.tolist()), width=2)
        within = min(margin.min() for margin in margins) > 0
        assert (problem.point.saturated == ()) == within
        verdicts.append(within)
    assert 3 <= sum(verdicts) <= len(verdicts) - 3


@pytest.mark.parametrize(
    ("activation", "low", "high"), [(nn.Softplus, 0.0, np.inf), (nn.Sigmoid, 0.0, 1.0), (nn.Tanh, -1.0, 1.0)]
)
def test_wide_layers_without_an_interior_action_are_never_missed(
    activation: Callable[[], nn.Module], low: float, high: float
) -> None:
    """Whether activations within range can reach log P_Y is a linear programme: the widest margin from the ends."""
    goal = JOINT.sum(0).log().numpy()
    missing = 0
    for neurons in (3, 6):
        one, nothing = np.ones((neurons, 1)), np.zeros((neurons, 1))
        bounds = [np.hstack([-np.eye(neurons), nothing, one]), np.hstack([np.eye(neurons), nothing, one])]
        ends = [np.full(neurons, -low), np.full(neurons, high)]
        kept = 2 if np.isfinite(high) else 1
        for seed in range(12):
            torch.manual_seed(seed)
            tail = nn.Sequential(activation(), nn.Linear(neurons, 3)).double()
            weight, bias = (p.detach().numpy() for p in tail[1].parameters())
            programme = optimize.linprog(
                np.r_[np.zeros(neurons + 1), -1.0],
                A_ub=np.vstack(bounds[:kept]), b_ub=np.concatenate(ends[:kept]),
                A_eq=np.hstack([weight, -np.ones((3, 1)), np.zeros((3, 1))]),  # W ψ + b = log P_Y + gauge
                b_eq=goal - bias, bounds=[(None, None)] * (neurons + 1) + [(None, 1.0)],
            )  # fmt: skip
            if programme.status == 0 and -programme.fun > -0.03:
                continue
            with pytest.warns(FeatgeoWarning):
                problem = fg.local_problem(JOINT, tail=tail, width=neurons)
            assert problem.point.saturated
            missing += 1
    assert missing >= 2


@pytest.mark.parametrize(
    ("joint", "loss", "values", "match"),
    [
        (
            np.array([[1.0, 0.0, 2.0], [2.0, 0.0, 1.0]]),
            "cross_entropy",
            None,
            "columns (values of y) [1]",
        ),
        (np.array([[1.0, 0.0], [2.0, 0.0]]), "cross_entropy", None, "only one of the columns"),
        (np.ones((3, 1)), "cross_entropy", None, "only one of the columns"),
        (np.ones((1, 3)), "cross_entropy", None, "only one of the rows"),
        (
            np.array([[1.0, 3.0], [0.0, 0.0], [2.0, 1.0]]),
            "cross_entropy",
            None,
            "rows (values of x) [1]",
        ),
        (np.eye(2) + 0.3, "bce", [[1, 0], [1, 1]], "saturation"),
        (np.eye(2) + 0.3, "poisson", [[0, 0], [0, 4]], "saturation"),
    ],
    ids=["absent class", "one class left", "one class", "one x", "absent x", "constant label", "zero counts"],
)
def test_degenerate_problems_are_handled_and_said(
    joint: np.ndarray, loss: str, values: list[list[int]] | None, match: str
) -> None:
    with pytest.warns(FeatgeoWarning) as caught:
        problem = fg.local_problem(joint, loss=loss, y_values=values)
    assert any(match in text for text in problem.warnings)
    assert {str(w.message) for w in caught} == set(problem.warnings)
    assert_no_nan(problem)


def test_an_absent_class_changes_nothing_for_the_others() -> None:
    full = fg.local_problem(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.warns(FeatgeoWarning):
        padded = fg.local_problem(np.array([[1.0, 0.0, 2.0], [2.0, 0.0, 1.0]]))
    assert padded.point.saturated == (1,)
    assert torch.allclose(padded.singular_values[:2], full.singular_values, atol=1e-12)
    assert padded.entropy == pytest.approx(full.entropy)
    assert padded.conditional_entropy == pytest.approx(full.conditional_entropy)


def test_deterministic_labels_are_the_largest_dependence() -> None:
    """Hard labels: ε = √(|Y| - 1), every canonical correlation one, nothing infinite."""
    problem = fg.local_problem(np.eye(5))
    assert problem.dependence == pytest.approx(2.0)
    assert torch.allclose(problem.singular_values[:4], torch.ones(4).double())
    assert problem.conditional_entropy == pytest.approx(0.0, abs=1e-12)
    assert_no_nan(problem)
