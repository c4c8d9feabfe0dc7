"""Directions of the search for a head, against dense solves."""

import pytest
import torch

from featgeo.apply.geometry import Geometry, directions
from featgeo.apply.objective import Objective
from featgeo.apply.rows import Rows
from featgeo.theory.named import resolve_loss

COUNT, WIDTH, OUTPUTS = 400, 12, 3
DECAY = 1e-6  # so little that the geometry works in float64


def problem(bias):
    """F over weighted rows of unequal variances, a point and the derivatives there, by autograd."""
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = draw(COUNT, WIDTH) @ draw(WIDTH, WIDTH) + 1
    y = (x[:, :OUTPUTS] + draw(COUNT, OUTPUTS)).argmax(1)
    w = torch.rand(COUNT, generator=generator, dtype=torch.float64) + 0.1
    share = w / w.sum()
    mean = share @ x if bias else torch.zeros(WIDTH, dtype=torch.float64)
    theta = 0.1 * draw(OUTPUTS, WIDTH + 1)
    if not bias:
        theta[:, -1] = 0

    def whole(theta):
        outputs = (x - mean) @ theta[:, :-1].T + theta[:, -1]
        loss = torch.nn.functional.cross_entropy(outputs, y, reduction="none")
        return share @ loss + DECAY / 2 * theta[:, :-1].square().sum()

    objective = Objective(
        resolve_loss("cross_entropy"), Rows(x, y, w), DECAY, mean if bias else None, x.dtype, x.dtype
    )
    p = ((x - mean) @ theta[:, :-1].T + theta[:, -1]).softmax(1)
    metric = (share @ p).diag() - torch.einsum("i,ia,ib->ab", share, p, p)
    covariance = torch.einsum("i,ij,ik->jk", share, x - mean, x - mean)
    hessian = torch.autograd.functional.hessian(whole, theta)
    return objective, theta, torch.autograd.functional.jacobian(whole, theta), hessian, metric, covariance


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [3, WIDTH])
def test_curvature_along_the_leading_directions_and_the_geometry_in_the_rest(rank, bias):
    objective, theta, gradient, hessian, metric, covariance = problem(bias)
    if not bias:
        gradient[:, -1] = 0
    found = directions(objective, Geometry(covariance), objective.rows, theta, gradient, 1e-12, 200, rank)
    # the Hessian in eigenbases: its leading block and biases, the Kronecker product elsewhere
    turn = torch.eye(WIDTH + 1, dtype=torch.float64)
    turn[:-1, :-1] = torch.linalg.eigh(covariance)[1]
    turned = torch.einsum("aibj,ip,jq->apbq", hessian, turn, turn)
    seen = torch.arange(WIDTH + 1) >= (WIDTH - rank if 2 * rank < WIDTH else 0)
    local = torch.einsum("ab,pq->apbq", metric, (turn[:-1, :-1].T @ covariance @ turn[:-1, :-1]))
    local += DECAY * torch.einsum("ab,pq->apbq", torch.eye(OUTPUTS), torch.eye(WIDTH))
    model = torch.zeros_like(turned)
    model[:, :-1, :, :-1] = local
    both = seen[:, None] & seen
    model = torch.where(both[None, :, None, :], turned, model)
    if not bias:
        model[:, -1], model[:, :, :, -1] = 0, 0
    size = OUTPUTS * (WIDTH + 1)
    solved = torch.linalg.pinv(model.reshape(size, size), rtol=1e-10) @ (gradient @ turn).flatten()
    expected = solved.reshape(OUTPUTS, -1) @ turn.T
    constant = torch.eye(WIDTH + 1)[-1]  # adding one number to all biases changes nothing
    torch.testing.assert_close(
        found.newton - found.newton.mean(0) * constant,
        expected - expected.mean(0) * constant,
        rtol=1e-6,
        atol=1e-8,
    )
    torch.testing.assert_close(found.metric, metric)
