"""Dead neurons: where pre-activations hardly vary, a regression on them must not invent a slope."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import featgeo as fg
from tests.network.models import blobs, digits, mlp, quiet, train


def with_dead(scale: float) -> nn.Sequential:
    """A trained ReLU network in whose hidden layers neurons 0 and 1 never fire; their weights have this scale."""
    torch.manual_seed(0)
    x, y = blobs(0)
    model = train(mlp(6, 8, 7, 4, activation=nn.ReLU), x.float(), y, 300)
    with torch.no_grad():
        for place in (0, 2):
            model[place].weight[:2] *= scale / model[place].weight[:2].norm()
            model[place].bias[:2] = -1.0
    return model


def analysed(model: nn.Module, weight_decay: float) -> fg.Report:
    x, y = blobs(0)
    return quiet(model, (x, y), weight_decay=weight_decay)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
@pytest.mark.parametrize("scale", [1e-3, 1e-6, 1e-12])
def test_dead_neurons_change_no_number(scale: float, weight_decay: float) -> None:
    found, wanted = analysed(with_dead(scale), weight_decay), analysed(with_dead(0.0), weight_decay)
    assert found.loss_value == pytest.approx(wanted.loss_value, rel=1e-6)
    for layer in found:
        other = wanted[layer.name]
        for name in ("alignment", "gain_available", "gain_used", "scale", "tail_r2"):
            assert getattr(layer, name) == pytest.approx(getattr(other, name), rel=0.02), (layer.name, name)
        assert layer.alignment > 0.5


@pytest.mark.parametrize("weight_decay", [1e-4, 1e-3, 1e-2])
def test_weight_decay_that_kills_neurons(weight_decay: float) -> None:
    """Digits, ReLU, trained with the penalty: every layer is aligned with the penalised optimum."""
    (x, y), penalty = digits(), weight_decay
    torch.manual_seed(0)
    model = mlp(64, 32, 16, 10, activation=nn.ReLU)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(800):
        batch = torch.randint(0, len(x), (128,))
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        for parameter in model.parameters():
            loss = loss + 0.5 * penalty * parameter.square().sum() * (parameter.ndim > 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for layer in quiet(model, (x, y), weight_decay=penalty):
        assert layer.view("average").alignment > 0.7


def test_a_layer_whose_neurons_are_all_dead() -> None:
    model = copy.deepcopy(with_dead(0.0))
    with torch.no_grad():
        model[0].bias[:] = -100.0
        model[2].bias[:2] = 0.0
    report = quiet(model, blobs(0), nulls=1)
    assert report["2"].feature_rank == report["4"].feature_rank == 0
    for layer in report:
        assert layer.gain_available == 0
        assert layer.significant == layer.rank(0.99) == 0
        assert math.isnan(layer.alignment)
    assert "outputs do not vary" in report.warnings[0]
    acts = [finding for finding in report.findings if finding.severity == "act"]
    assert [(finding.layer, finding.value) for finding in acts] == [("2", 1.0), ("4", 1.0)]
    assert {finding.title for finding in acts} == {"neurons before it are dead"}
