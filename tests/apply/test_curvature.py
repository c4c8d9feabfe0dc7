"""Metrics and predicted increases against Jacobians taken one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from featgeo.apply import curvature
from featgeo.apply.curvature import (
    Probe,
    curves,
    far_metric,
    hessians,
    joint_increase,
    metrics,
    output_metric,
)
from featgeo.apply.plan import modes_of
from featgeo.apply.survey import survey
from featgeo.data.batches import Batches
from featgeo.network.layers import weight_matrix
from featgeo.network.run import runner_of
from featgeo.theory.linalg import whiten
from featgeo.theory.named import resolve_loss

X = torch.randn(24, 2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 4, (24,), generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(125, 6),
        nn.Tanh(),
        nn.Linear(6, 4),
    ).double()


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "bce", "poisson", "huber"])
def test_output_hessians(name: str) -> None:
    outputs = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    targets = (
        torch.tensor([0, 1, 2, 0, 1]) if name == "cross_entropy" else torch.rand(5, 3, dtype=torch.float64)
    )
    loss = resolve_loss(nn.HuberLoss() if name == "huber" else name)
    found = hessians(loss, outputs, targets)
    for i in range(5):
        one = targets[i : i + 1]
        exact = torch.autograd.functional.hessian(lambda g, t=one: loss.values(g[None], t).sum(), outputs[i])
        assert torch.allclose(found[i], exact, atol=1e-12)


def test_near_metric_is_the_gauss_newton_matrix_over_positions() -> None:
    model = network()
    layers = {"0": model[0], "3": model[3]}
    data, loss = Batches((X, Y), 7), resolve_loss("cross_entropy")
    found = metrics(Probe(runner_of(model), data, loss, 1000, 24), layers)
    expected = {"0": torch.zeros(5, 5, dtype=torch.float64), "3": torch.zeros(6, 6, dtype=torch.float64)}
    for x in X:
        g = model(x[None])[0].detach()
        p = g.softmax(0)
        output_metric = p.diag() - p.outer(p)
        z = model[0](x[None]).detach()
        tail = nn.Sequential(nn.ReLU(), *model[2:])
        slopes = torch.autograd.functional.jacobian(lambda v, t=tail: t(v)[0], z).reshape(4, 5, 25)
        expected["0"] += torch.einsum("cnt,cd,dmt->nm", slopes, output_metric, slopes) / len(X)
        z = model[:4](x[None]).detach()
        slopes = torch.autograd.functional.jacobian(lambda v: model[4:](v)[0], z).reshape(4, 6)
        expected["3"] += slopes.T @ output_metric @ slopes / len(X)
    for name, matrix in expected.items():
        assert torch.allclose(found[name], matrix, atol=1e-12)


def test_far_metric_is_the_regression_of_the_outputs_on_the_layer() -> None:
    model = network()
    probe, layers, _, seen = studied(model)
    g = model(X).detach()
    prior = torch.bincount(Y, minlength=4).double() / len(Y)
    metric = prior.diag() - prior.outer(prior)
    found = output_metric(probe, seen.answers)
    assert torch.allclose(found, metric)
    for name in layers:
        z = (
            model[: int(name) + 1](X).detach().flatten(2)
            if name == "0"
            else model[: int(name) + 1](X).detach()
        )
        z = z.mean(2) if name == "0" else z
        slopes = torch.linalg.lstsq(z - z.mean(0), g - g.mean(0), driver="gelsd").solution.T
        assert torch.allclose(
            far_metric(seen.actions[name], found), slopes.T @ metric @ slopes, rtol=1e-3, atol=1e-5
        )


def test_output_metric_of_any_loss_is_its_mean_curvature_at_the_mean_output() -> None:
    model, loss = network(), resolve_loss(nn.HuberLoss())
    y = F.one_hot(Y, 4).double()
    run, data = runner_of(model), Batches((X, y), 7)
    layers: dict[str, Any] = {"5": model[5]}
    with torch.no_grad():
        seen = survey(run, data, loss, layers)
        found = output_metric(Probe(run, data, loss, 1000, 24), seen.answers)
    near = ((model(X).mean(0) - y).abs() < 1).double().mean(0) / 4
    assert torch.allclose(found, near.diag(), atol=1e-6)


def studied(model: nn.Module) -> tuple[Any, ...]:
    layers: dict[str, Any] = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    data, loss = Batches((X, Y), 7), resolve_loss("cross_entropy")
    run = runner_of(model)
    with torch.no_grad():
        seen = survey(run, data, loss, layers)
        probe = Probe(run, data, loss, 1000, 24)
        matrices = metrics(probe, layers)
    modes = {
        n: modes_of(m, matrices[n], whiten(seen.moments[n].covariance), seen.moments[n].mean)[1]
        for n, m in layers.items()
    }
    return probe, layers, modes, seen


def moved(model: nn.Module, layers: dict[str, Any], modes: dict[str, Any], ranks: dict[str, int]) -> Tensor:
    """Outputs of the network linearised in its weights, moved to the truncated ones."""
    state = dict(model.named_parameters())
    step = {name: torch.zeros_like(value) for name, value in state.items()}
    for name, rank in ranks.items():
        thin, (weight, bias) = modes[name].thin(rank), weight_matrix(layers[name])
        step[f"{name}.weight"] = (thin.second @ thin.first - weight).reshape(layers[name].weight.shape)
        step[f"{name}.bias"] = thin.bias - bias
    names = list(state)

    def outputs(*values: Tensor) -> Tensor:
        return functional_call(model, dict(zip(names, values, strict=True)), (X,))

    free, change = torch.autograd.functional.jvp(outputs, tuple(state.values()), tuple(step.values()))
    return (free + change).detach()


def test_predictions_are_the_loss_of_the_linearised_network() -> None:
    model = network()
    probe, layers, modes, seen = studied(model)
    base = F.cross_entropy(model(X), Y).item()
    assert seen.loss == pytest.approx(base)
    assert list(seen.moments) == ["0", "3", "5"]
    assert seen.readout == "5"
    found = curves(probe, layers, modes)
    for name in layers:
        assert found[name][-1] == 0
        for rank in (0, 1, 2, 3):
            expected = F.cross_entropy(moved(model, layers, modes, {name: rank}), Y).item() - base
            assert found[name][rank].item() == pytest.approx(expected, abs=1e-9)
    ranks = {"0": 2, "5": 1}
    together = joint_increase(probe, layers, modes, ranks)
    assert together == pytest.approx(
        F.cross_entropy(moved(model, layers, modes, ranks), Y).item() - base, abs=1e-9
    )


def test_sketch_of_many_outputs_is_the_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    probe, layers, modes, _ = studied(model)
    monkeypatch.setattr(curvature, "DENSE", 2)
    monkeypatch.setattr(curvature, "SKETCH", 400)
    found = curves(probe, layers, modes)
    g = model(X).detach()
    p = g.softmax(1)
    slope = p - F.one_hot(Y, 4)
    for name, rank in (("0", 3), ("3", 2), ("5", 1)):
        change = moved(model, layers, modes, {name: rank}) - g
        squares = (p * change.square()).sum(1) - (p * change).sum(1).square()
        expected = ((slope * change).sum(1) + 0.5 * squares).mean().item()
        assert found[name][rank].item() == pytest.approx(expected, rel=0.1)
