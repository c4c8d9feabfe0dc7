"""The best step over remixed directions, against a dense minimisation of the same small problem."""

import pytest
import torch

from featgeo.apply.objective import Objective
from featgeo.apply.rows import Rows
from featgeo.apply.subspace import Subspace
from featgeo.theory.named import resolve_loss

CASES = {
    "cross_entropy": lambda z: z.argmax(1),
    "bce": lambda z: (z > 0).double(),
    "poisson": lambda z: z.clamp(max=2).exp().round(),
    "mse": lambda z: z + z.square(),
}


def problem(loss, width, far=0.0):
    """θ, two directions, F and its curvature about θ, of 600 rows of 20 features (far from zero, in float32)."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight = draw(600, 20) + far, draw(width, 20) / 3
    y = CASES[loss]((x - far) @ weight.T)
    x = x.float() if far else x
    w = torch.rand(600, generator=generator, dtype=torch.float64) + 0.1
    rows, chosen = Rows(x, y, w), resolve_loss(loss)
    dtype = torch.float32 if far else torch.float64
    objective = Objective(chosen, rows, 0.01, rows.mean, dtype, dtype)
    return objective, 0.1 * draw(width, 21), [0.1 * draw(width, 21) for _ in range(2)]


def whole(objective, theta):
    """F written out."""
    rows = objective.rows
    z = (rows.x.double() - rows.mean) @ theta[:, :-1].T + theta[:, -1]
    values = objective.loss.values(z, rows.y)
    return rows.w @ values / rows.w.sum() + 0.005 * theta[:, :-1].square().sum()


def lowest(objective, theta, stack):
    """The minimum over mixtures of directions, by L-BFGS on autograd's slopes."""
    mixture = torch.zeros(
        theta.numel() // stack.shape[1], len(stack), dtype=torch.float64, requires_grad=True
    )
    solver = torch.optim.LBFGS(
        [mixture], max_iter=2000, history_size=50, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
        tolerance_change=0,
    )  # fmt: skip

    def closure():
        solver.zero_grad()
        value = whole(objective, theta + (mixture @ stack).reshape(theta.shape))
        value.backward()
        return value

    solver.step(closure)
    return closure().detach()


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("loss", CASES)
def test_steps_by_all_rows_reach_the_best_mixture(loss, mixed, monkeypatch):
    """Repeated along the same directions, which span W, the search ends where a plain minimisation does."""
    monkeypatch.setattr("featgeo.apply.subspace.EACH", 1 if mixed else 1000)
    objective, theta, directions = problem(loss, 3)
    directions.append(theta.clone())
    for direction in directions:
        direction[:, -1] = 0
    stack = torch.cat(directions) if mixed else torch.stack([d.flatten() for d in directions])
    expected, start = lowest(objective, theta, stack), whole(objective, theta)
    for _ in range(8):
        gradient = objective.evaluate(theta)[1]
        metric = objective.curvature(theta, objective.rows).metric()
        search = Subspace(objective, objective.rows, theta, gradient, directions, metric, 1e-6)
        theta = theta + search.step()
    assert expected < start - 1e-3
    torch.testing.assert_close(whole(objective, theta), expected, rtol=1e-9, atol=1e-10)


def test_the_gradient_is_that_of_all_rows():
    """At the optimum of all rows a sample moves nothing, though its own optimum is elsewhere."""
    objective, theta, directions = problem("mse", 3)
    x = torch.cat([objective.rows.x - objective.rows.mean, torch.ones(600, 1)], dim=1)
    share = objective.rows.w / objective.rows.w.sum()
    penalty = torch.full((21,), 0.01, dtype=torch.float64)
    penalty[-1] = 0
    bend = 2 / 3 * x.T @ (share[:, None] * x) + penalty.diag()
    theta = torch.linalg.solve(bend, 2 / 3 * x.T @ (share[:, None] * objective.rows.y)).T.contiguous()
    gradient = objective.evaluate(theta)[1]
    metric = objective.curvature(theta, objective.rows).metric()
    sample = objective.rows.sample(200)
    step = Subspace(objective, sample, theta, gradient, directions, metric, 1e-6).step()
    assert gradient.abs().max() < 1e-12
    assert step.abs().max() < 1e-10


def test_curvature_against_the_hessian_by_autograd():
    objective, theta, directions = problem("cross_entropy", 3)
    hessian = torch.autograd.functional.hessian(
        lambda flat: whole(objective, flat.reshape(theta.shape)), theta.flatten()
    )
    product = objective.curvature(theta, objective.rows).times(directions[0])
    torch.testing.assert_close(product.flatten(), hessian @ directions[0].flatten())


@pytest.mark.parametrize("far", [3.0, 1000.0])
def test_means_near_zero_are_subtracted_after_the_product_and_far_ones_before(far):
    objective, theta, _ = problem("cross_entropy", 3, far)
    value, gradient = objective.evaluate(theta)
    slope = torch.func.grad(lambda t: whole(objective, t))(theta)
    assert value == pytest.approx(whole(objective, theta).item(), rel=1e-5)
    torch.testing.assert_close(gradient, slope, rtol=1e-4, atol=1e-5)
    block = objective.rows.held(torch.float32, objective.shift)
    assert (block.x is objective.rows.x) == (far == 3.0)
