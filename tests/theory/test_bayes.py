"""Bayes action, scores and metric against scipy's optimisers and automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn

import featgeo as fg
from featgeo import FeatgeoError, FeatgeoWarning
from featgeo.theory.bayes import bayes_action
from featgeo.theory.named import NAMED
from featgeo.theory.risk import CanonicalRisk

from .oracles import LossTable, log_cosh, log_loss, logistic, poisson, random_joint, squared, table_of
from .tails import ACTIVATIONS, interior_tail

VALUES = torch.from_numpy(np.random.default_rng(5).integers(0, 2, (5, 3)).astype(float))
TABLES: dict[str, LossTable] = {
    "cross_entropy": log_loss,
    "mse": squared(VALUES),
    "bce": logistic(VALUES),
    "poisson": poisson(VALUES),
}


def pure_risk(problem: fg.LocalProblem, table: LossTable) -> Callable[[Tensor], Tensor]:
    """E[loss(g(z), Y)] of one z (n,), written out."""
    tail = problem.tail or (lambda z: z)
    return lambda z: table(tail(z[None]))[0] @ problem.joint.sum(0)


def assert_described(problem: fg.LocalProblem, table: LossTable) -> None:
    """Scores are gradients, the metric a Hessian, the loss the risk, and the action stationary."""
    risk = pure_risk(problem, table)
    tail = problem.tail or (lambda z: z)
    hessian = torch.autograd.functional.hessian(risk, problem.action)
    assert torch.allclose(problem.metric, hessian, atol=1e-8)
    assert torch.allclose(problem.factor.T @ problem.factor, problem.metric, atol=1e-12)
    gradients = torch.autograd.functional.jacobian(lambda z: table(tail(z[None]))[0], problem.action)
    assert torch.allclose(problem.scores, gradients, atol=1e-10)
    assert (problem.p_y @ problem.scores).norm() < 1e-8
    assert abs(problem.entropy - risk(problem.action).item()) < 1e-12


@pytest.mark.parametrize("name", NAMED)
def test_output_layer(name: str) -> None:
    joint = random_joint(1, 6, 5, 0.3)
    values = None if name == "cross_entropy" else VALUES
    problem = fg.local_problem(joint, loss=name, y_values=values)
    table = TABLES[name]
    assert_described(problem, table)
    risk = pure_risk(problem, table)
    found = optimize.minimize(
        lambda z: risk(torch.from_numpy(z)).item(), np.zeros(len(problem.action)), method="BFGS"
    )
    assert problem.entropy <= found.fun + 1e-12
    assert abs(problem.entropy - found.fun) < 1e-7
    shift = torch.from_numpy(found.x) - problem.action
    if name == "cross_entropy":
        shift = shift - shift.mean()
    assert shift.abs().max() < 1e-3


def test_log_loss_metric_is_the_fisher_information() -> None:
    """H = E[s sᵀ], at the output and below any tail that reaches."""
    joint = random_joint(2, 6, 5, 0.3)
    tail, point = interior_tail("silu", 7, joint.sum(0).log(), 0)
    for problem in (fg.local_problem(joint), fg.local_problem(joint, tail=tail, width=7, start=point + 0.01)):
        fisher = problem.scores.T @ (problem.p_y[:, None] * problem.scores)
        assert torch.allclose(problem.metric, fisher, atol=1e-9)


@pytest.mark.parametrize("neurons", [4, 6])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gauss_newton_is_the_hessian_where_the_action_is_reached(activation: str, neurons: int) -> None:
    joint = random_joint(3, 6, 5, 0.3)
    tail, point = interior_tail(activation, neurons, joint.sum(0).log(), neurons, middle=())
    problem = fg.local_problem(joint, tail=tail, width=neurons, start=point + 0.01)
    assert problem.point.reached
    assert problem.point.converged
    assert torch.allclose(tail(problem.action[None])[0].softmax(0), joint.sum(0), atol=1e-9)
    assert_described(problem, log_loss)
    exact = fg.local_problem(joint, tail=tail, width=neurons, start=point + 0.01, metric="hessian")
    assert torch.allclose(exact.metric, problem.metric, atol=1e-6)


@pytest.mark.parametrize("middle", [(), (4,)])
@pytest.mark.parametrize("name", ["cross_entropy", "mse", "bce"])
def test_exact_hessian_where_the_action_is_out_of_reach(name: str, middle: tuple[int, ...]) -> None:
    joint = random_joint(4, 6, 5, 0.3)
    table, values = TABLES[name], None if name == "cross_entropy" else VALUES
    reached = fg.local_problem(joint, loss=name, y_values=values).action
    away = torch.tensor([0.3, -0.3, 0.2, 0.1, -0.2], dtype=torch.float64)[: len(reached)]
    tail, point = interior_tail("tanh", 2, reached + away, 3, 2.0, middle)
    with pytest.warns(FeatgeoWarning, match="cannot reach"):
        problem = fg.local_problem(joint, loss=name, y_values=values, tail=tail, width=2, start=point)
    assert_described(problem, table)
    risk = pure_risk(problem, table)
    found = optimize.minimize(
        lambda z: risk(torch.from_numpy(z)).item(), point.numpy(), method="Nelder-Mead",
        options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 5000},
    )  # fmt: skip
    assert abs(problem.entropy - found.fun) < 1e-10
    assert np.allclose(problem.action.numpy(), found.x, atol=1e-5)


def test_activation_and_linear_layer_have_the_gauss_newton_metric_even_out_of_reach() -> None:
    """Their residual term is diag(ψ'') Vᵀ E[r], which vanishes with the gradient diag(ψ') Vᵀ E[r]."""
    joint = random_joint(4, 6, 5, 0.3)
    tail, point = interior_tail("tanh", 2, torch.tensor([0.3, -0.3, 0.8, 0.1, -0.6]).double(), 3, 2.0)
    metrics = []
    for metric in ("gauss_newton", "hessian"):
        with pytest.warns(FeatgeoWarning, match="cannot reach"):
            metrics.append(fg.local_problem(joint, tail=tail, width=2, start=point, metric=metric).metric)
    assert torch.allclose(*metrics, atol=1e-9)


def test_callable_loss() -> None:
    joint = random_joint(5, 6, 5, 0.3)
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3)))
    problem = fg.local_problem(joint, loss=log_cosh, y_values=values, width=3)
    table = table_of(log_cosh, values)
    assert_described(problem, table)
    risk = pure_risk(problem, table)
    found = optimize.minimize(lambda z: risk(torch.from_numpy(z)).item(), np.zeros(3), method="BFGS")
    assert abs(problem.entropy - found.fun) < 1e-9


def test_callable_and_named_loss_make_the_same_problem() -> None:
    joint = random_joint(6, 6, 5, 0.3)
    named = fg.local_problem(joint, loss="poisson", y_values=VALUES)
    by_hand = fg.local_problem(joint, loss=lambda z, y: (z.exp() - z * y).mean(-1), y_values=VALUES, width=3)
    assert torch.allclose(named.action, by_hand.action, atol=1e-8)
    assert torch.allclose(named.singular_values, by_hand.singular_values, atol=1e-8)
    assert torch.allclose(named.scores, by_hand.scores, atol=1e-8)


@pytest.mark.parametrize("values", [[5.0, 6.0, 7.0], [0.0, 6.0, 7.0], [1.2, 6.0, 7.0]])
def test_a_start_beyond_the_knee_of_a_huber_loss_finds_the_minimum(values: list[float]) -> None:
    """There the loss is linear: without curvature, but not without a slope."""
    joint = np.array([[0.2, 0.1, 0.05], [0.1, 0.2, 0.05], [0.05, 0.05, 0.2]])
    targets = torch.tensor(values, dtype=torch.float64)[:, None]
    problem = fg.local_problem(joint, loss=nn.HuberLoss(), y_values=targets, width=1)
    risk = pure_risk(
        problem, lambda z: nn.functional.huber_loss(z.expand(-1, 3), targets.T, reduction="none")
    )
    found = optimize.minimize_scalar(
        lambda z: risk(torch.tensor([z]).double()).item(), bounds=(-1, 9), method="bounded"
    )
    assert abs(problem.action.item() - found.x) < 1e-4
    assert problem.metric.item() > 0


@pytest.mark.parametrize(
    "loss", [lambda z, y: (z - y).abs().sum(-1), lambda z, y: (z * y).sum(-1)], ids=["absolute", "linear"]
)
def test_a_loss_without_curvature_is_refused(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    values = np.array([[0.0], [1.0], [2.5]])
    with pytest.raises(FeatgeoError, match=r"loss: found no second derivative"):
        fg.local_problem(np.eye(3) + 0.2, loss=loss, y_values=values, width=1)


@pytest.mark.parametrize(
    ("activation", "seed"),
    [(nn.Softplus, 0), (nn.Softplus, 9), (nn.Softplus, 13), (nn.Tanh, 1), (nn.Tanh, 19)],
)
def test_a_wide_layer_converges_without_a_square_hessian(
    activation: Callable[[], nn.Module], seed: int
) -> None:
    """300 neurons: only the output-space search is used, and its rounding is no failure to converge."""
    joint = random_joint(7, 6, 4, 0.3)
    torch.manual_seed(seed)
    tail = nn.Sequential(activation(), nn.Linear(300, 4)).double()
    problem = fg.local_problem(joint, tail=tail, width=300)
    assert problem.point.converged
    assert problem.warnings == ()
    assert torch.allclose(tail(problem.action[None])[0].softmax(0), joint.sum(0), atol=1e-7)


@pytest.mark.parametrize(("precision", "gives_up"), [(torch.float32, True), (torch.float64, False)])
def test_the_search_through_a_rough_tail_ends(precision: torch.dtype, gives_up: bool) -> None:
    """In single precision a search that hardly gets on any more is given up; what it has found is kept."""
    risk = CanonicalRisk(NAMED["mse"](), torch.tensor([3.0, -2.0]).double())
    calls = 0

    def tail(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return (z.abs() + 1).log() + 0.02 * (50 * z).sin()

    start = torch.tensor([0.3, 0.4]).double()
    point = bayes_action(risk, tail, start, precision=precision)
    assert point.loss < risk.value(tail(start[None]))[0]
    assert (calls <= 60) == gives_up


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid, nn.SiLU, nn.GELU])
@pytest.mark.parametrize("neurons", [2, 5, 8])
def test_what_is_made_of_the_action_does_not_hang_on_rounding(
    activation: Callable[[], nn.Module], neurons: int
) -> None:
    """Starts that differ in the last digit lead to one metric and one pseudo-inverse, saturated or not."""
    risk = CanonicalRisk(NAMED["cross_entropy"](), torch.tensor([0.2, 0.5, 0.3]).double())
    for seed in range(6):
        torch.manual_seed(seed)
        tail = nn.Sequential(activation(), nn.Linear(neurons, neurons), activation(), nn.Linear(neurons, 3))
        start = torch.randn(neurons).double()
        one, two = (bayes_action(risk, tail.double(), start * (1 + move)) for move in (0.0, 4e-16))
        assert one.saturated == two.saturated
        assert torch.allclose(one.curvature.matrix, two.curvature.matrix, rtol=0, atol=1e-9)
        inverse = one.curvature.pseudo_inverse
        assert (inverse - two.curvature.pseudo_inverse).norm() <= 1e-5 * inverse.norm()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_shares_that_rounding_keeps_from_one_do_not_stop_the_search(precision: torch.dtype) -> None:
    """Summed in single precision class shares miss 1 by some 1e-7: a slope along which no softmax can move."""
    torch.manual_seed(0)
    tail = nn.Sequential(nn.SiLU(), nn.Linear(16, 3)).double()
    risk = CanonicalRisk(NAMED["cross_entropy"](), torch.tensor([0.2, 0.5, 0.3 + 2e-7]).double())
    point = bayes_action(risk, tail, torch.randn(16).double(), precision=precision)
    assert point.converged
    assert point.reached
    assert point.notes() == []
    assert torch.allclose(point.output.softmax(0), risk.mean, atol=1e-3)
