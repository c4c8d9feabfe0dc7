"""Networks whose exact optimum is known: near independence every layer sits on the optimum of its local problem."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from tests.network.models import digits, mlp, quiet, soft_labels, train

EPSILON = 0.03


@functools.cache
def weak_digits(samples: int = 1797) -> tuple[Tensor, Tensor]:
    """Digits whose soft labels depend on the image with ε = 0.03."""
    x, labels = digits()
    soft = soft_labels(labels[:samples], EPSILON)
    share = soft.mean(0)
    assert (((soft - share) ** 2 / share).sum(1).mean()) ** 0.5 == pytest.approx(EPSILON, rel=1e-6)
    return x[:samples].double(), soft


def converge_head(head: nn.Linear, features: Tensor, soft: Tensor, weight_decay: float) -> None:
    """Newton's method on the convex problem of a last layer, to a gradient below 1e-12."""
    shape = (head.out_features, head.in_features + 1)

    def objective(point: Tensor) -> Tensor:
        weight, bias = point.view(shape).split((shape[1] - 1, 1), dim=1)
        value = F.cross_entropy(features @ weight.T + bias[:, 0], soft)
        return value + 0.5 * weight_decay * weight.square().sum()

    point = torch.zeros(shape, dtype=torch.float64).flatten()
    for _ in range(8):
        gradient = torch.func.grad(objective)(point)
        hessian = torch.func.jacrev(torch.func.grad(objective))(point)
        point = point - torch.linalg.lstsq(hessian, gradient, driver="gelsd").solution
    assert torch.func.grad(objective)(point).norm() < 1e-12
    with torch.no_grad():
        head.weight.copy_(point.view(shape)[:, :-1])
        head.bias.copy_(point.view(shape)[:, -1])


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3, 1e-2])
def test_a_last_layer_trained_to_convergence_sits_on_its_optimum(weight_decay: float) -> None:
    torch.manual_seed(0)
    (x, soft), model = weak_digits(), mlp(64, 12, 10, dtype=torch.float64)
    with torch.no_grad():
        features = model[:2](x)
    converge_head(model[2], features, soft, weight_decay)
    layer = quiet(model, (x, soft), weight_decay=weight_decay)["2"]
    for at in ("average", "bayes"):
        view = layer.view(at)
        assert view.alignment > 0.9999
        assert view.scale == pytest.approx(1, abs=0.02)
        assert view.locality > 0.98
        assert view.gap_bias < 0.01 * view.gain_used
        if weight_decay == 0:
            assert view.gap_weight < 1e-3 * view.gain_available
        else:  # the check can fail: the optimum without the penalty is another
            assert quiet(model, (x, soft))["2"].view(at).alignment < 0.99


@pytest.mark.parametrize("weight_decay", [1e-4, 1e-3, 0.1])
def test_a_hidden_layer_trained_to_convergence_sits_on_its_optimum(weight_decay: float) -> None:
    """Given its tail; the penalty keeps it in the local region, where its optimum is unique."""
    torch.manual_seed(0)
    (x, soft), model = weak_digits(600), mlp(64, 12, 10, dtype=torch.float64)
    with torch.no_grad():
        model[2].bias.copy_(soft.mean(0).log())
    layer, parameters = model[0], list(model[0].parameters())
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=250,
        history_size=50,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(model(x), soft) + 0.5 * weight_decay * layer.weight.square().sum()
        value.backward(inputs=parameters)
        return value

    optimiser.step(closure)
    closure()
    assert all(p.grad is not None and p.grad.abs().max() < 1e-5 for p in parameters)
    report = quiet(model, (x, soft), weight_decay=weight_decay)
    assert report["0"].view("bayes").alignment > 0.999
    assert report["0"].view("average").alignment > 0.999
    assert report["0"].locality > 0.98


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_mean_squares_are_exact_at_any_dependence(weight_decay: float) -> None:
    """Ridge regression by scikit-learn: W*, b*, the loss and every gap, for targets that depend strongly."""
    (x, labels), generator = digits(), torch.Generator().manual_seed(0)
    x, target = (
        x.double(),
        F.one_hot(labels).double() @ torch.randn(10, 3, generator=generator, dtype=torch.float64),
    )
    model = nn.Sequential(nn.Linear(64, 3)).double()
    # 2/d · Σ_i of torch's mean against scikit-learn's Σ_i: λ N d / 2
    ridge = Ridge(alpha=weight_decay * len(x) * 3 / 2 + 1e-12, tol=1e-12).fit(x.numpy(), target.numpy())
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(ridge.coef_))
        model[0].bias.copy_(torch.from_numpy(ridge.intercept_))
    layer = quiet(model, (x, target), "mse", weight_decay=weight_decay)["0"]
    assert layer.alignment == pytest.approx(1, abs=1e-9)
    assert layer.scale == pytest.approx(1, abs=1e-8)
    assert layer.locality == pytest.approx(1, abs=1e-9)
    live = x.std(0) > 0
    np.testing.assert_allclose(layer.optimal_weight[:, live], ridge.coef_[:, live], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(layer.optimal_bias, ridge.intercept_, rtol=1e-6, atol=1e-6)
    assert layer.gap_bias == pytest.approx(0, abs=1e-12)
    assert (layer.gap_weight < 1e-12) == (weight_decay == 0)


def test_an_early_stopped_last_layer_does_not() -> None:
    torch.manual_seed(0)
    (x, soft), model = weak_digits(), mlp(64, 12, 10, dtype=torch.float64)
    train(model[2:], model[:2](x).detach(), soft, 20)
    assert quiet(model, (x, soft))["2"].alignment < 0.9
