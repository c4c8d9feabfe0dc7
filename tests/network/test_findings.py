"""Each finding fires on a network built to have exactly that fault, and is silent on one built not to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from featgeo.network.findings import LOCAL, find
from tests.network.models import Asinh, blobs, mlp, quiet, soft_labels

NOISE = "no mode stands above the noise"
FAR = "outside the local region"
HEAD = "the last layer is not optimal for its features"
SATURATED = "neurons saturated at the Bayes action"
RANK = "features are rank-deficient"
WIDE = "wider than its modes need"
TITLES = {NOISE, FAR, HEAD, SATURATED, RANK, WIDE}


def titles(report: fg.Report) -> set[tuple[str, str]]:
    return {(finding.layer, finding.title) for finding in report.findings}


def converge(
    parameters: list[Tensor], model: nn.Module, x: Tensor, y: Tensor, weight_decay: float = 0.0
) -> None:
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=300, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(model(x), y)
        value = value + 0.5 * weight_decay * sum(p.square().sum() for p in parameters if p.ndim > 1)
        value.backward(inputs=parameters)
        return value

    optimiser.step(closure)


def weak(weight_decay: float = 0.0, width: int = 3) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network that has none of the faults: few neurons, weak soft labels, its last layer trained to convergence."""
    torch.manual_seed(0)
    x, labels = blobs(0, count=2000)
    model, y = mlp(6, width, 4, activation=Asinh, dtype=torch.float64), soft_labels(labels, 0.2)
    converge(list(model[2].parameters()), model, x, y, weight_decay)
    return model, x, y


def test_a_sound_network_has_no_findings() -> None:
    model, x, y = weak()
    for at in ("average", "bayes"):
        assert titles(quiet(model, (x, y), at=at)) == set()


def test_findings_say_what_was_found_and_what_to_do() -> None:
    model, x, y = weak(width=9)
    with torch.no_grad():
        model[2].weight *= 0.5
    report = quiet(model, (torch.cat([x, x], 1)[:, :6], y))
    assert {title for _, title in titles(report)} <= TITLES
    assert {finding.severity for finding in report.findings} <= {"act", "note", "doubt"}
    assert all(finding.detail and finding.remedy.endswith(".") for finding in report.findings)


def test_noise() -> None:
    model, x, y = weak()
    shuffled = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    found = quiet(model, (x, shuffled))
    assert {(name, NOISE) for name in ("0", "2")} <= titles(found)
    assert (FAR in dict(map(reversed, titles(found)))) is False  # nothing else is concluded from noise
    assert not [finding for finding in found.findings if finding.severity == "act"]


class Fold(nn.Module):
    """An even function: over centred pre-activations no straight line says anything of it."""

    def forward(self, z: Tensor) -> Tensor:
        return (z - z.mean(0)).square()


def test_far_from_the_local_region() -> None:
    model, x, y = weak()
    model[1] = Fold()
    report = quiet(model, (x, y), batch_size=len(x))
    assert report["0"].locality < LOCAL
    assert ("0", FAR) in titles(report)
    assert ("2", FAR) not in titles(report)


def test_a_last_layer_far_from_the_local_region_is_not_judged() -> None:
    """With ten thousand times the weights the softmax is a step, and the gaps of its quadratic mean nothing."""
    model, x, y = weak()
    with torch.no_grad():
        model[2].weight *= 1e4
    far = replace(quiet(model, (x, y))["2"], default="average")
    low = replace(far, views={"average": replace(far.view("average"), locality=0.1)})
    report = find(replace(quiet(model, (x, y)), layers={"2": low}))
    assert titles(report) == {("2", FAR)}


@pytest.mark.parametrize("change", [lambda w: 0.5 * w, lambda w: 1.8 * w, lambda w: w.roll(1, 0)])
def test_a_last_layer_that_is_not_optimal(change) -> None:  # type: ignore[no-untyped-def]
    model, x, y = weak()
    with torch.no_grad():
        model[2].weight.copy_(change(model[2].weight))
    report = quiet(model, (x, y))
    assert titles(report) == {("2", HEAD)}
    (finding,) = report.findings
    assert finding.severity == "act"
    view = report["2"]
    missed = view.gap_weight / view.gain_available
    assert f"miss {missed:.0%} of the gain" in finding.detail
    converge(list(model[2].parameters()), model, x, y)
    assert titles(quiet(model, (x, y))) == set()


def test_a_penalised_last_layer_is_judged_by_its_penalised_optimum() -> None:
    model, x, y = weak(weight_decay=0.05)
    assert titles(quiet(model, (x, y), weight_decay=0.05)) == set()
    assert ("2", HEAD) in titles(quiet(model, (x, y)))


def test_a_hidden_layer_is_not_taken_for_the_last() -> None:
    """A linear tail explains all of the output's variance, as the last layer's does."""
    torch.manual_seed(0)
    x, y = blobs(0, count=500)
    model = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 4)).double()
    report = quiet(model, (x, y))
    assert report["0"].tail_r2 == pytest.approx(1, abs=1e-9)
    assert [layer.is_output for layer in report] == [False, True]
    assert ("0", HEAD) not in titles(report)
    assert ("1", HEAD) in titles(report)


def test_saturated_neurons() -> None:
    """Targets just outside what a sigmoid can reach: its Bayes action runs away."""
    torch.manual_seed(0)
    x, _ = blobs(0, count=400)
    model = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid()).double()
    target = x[:, :1].tanh() * 0.2
    assert ("0", SATURATED) in titles(quiet(model, (x, 1.2 + target), "mse"))
    assert ("0", SATURATED) not in titles(quiet(model, (x, 0.5 + target), "mse"))


def test_rank_deficient_features() -> None:
    model, x, y = weak()
    x = x.clone()
    x[:, 5] = x[:, 4]
    report = quiet(model, (x, y))
    assert ("0", RANK) in titles(report)
    assert ("2", RANK) not in titles(report)
    assert "rank 5 of 6" in [finding.detail for finding in report.findings]


@pytest.mark.parametrize(("width", "fires"), [(3, False), (5, False), (7, True), (12, True)])
def test_layers_wider_than_their_modes_need(width: int, fires: bool) -> None:
    """Four classes have three modes; the last layer's width is the number of classes and never complained of."""
    model, x, y = weak(width=width)
    report = quiet(model, (x, y))
    assert (("0", WIDE) in titles(report)) is fires
    assert ("2", WIDE) not in titles(report)
    if fires:
        (finding,) = [f for f in report.findings if f.title == WIDE]
        assert f"it has {width} neurons" in finding.detail
        assert f"about {report['0'].rank(0.99)} neurons" in finding.remedy
