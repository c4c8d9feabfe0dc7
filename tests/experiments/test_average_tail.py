"""The measures behind the average tail's experiment, each against another route."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featgeo.errors import FeatgeoWarning
from featgeo.experiments.architectures import FAMILIES, Family, images, train
from featgeo.experiments.neighbours import (
    backward_measures,
    label_cka,
    neighbours,
    standpoints,
    target_linearity,
)
from featgeo.experiments.tail_exact import free_of_weights, gaussian_tail, identity_error, linear_tail, slope
from featgeo.experiments.tail_moves import FRACTION, cuts, moves
from featgeo.network.analyze import analyze

SAMPLES = 300


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = images()
    return inputs[:SAMPLES], labels[:SAMPLES]


def trained(family: Family, data: tuple[torch.Tensor, torch.Tensor]) -> nn.Module:
    model = family.make(1)
    train(model, *data, 40, 1)
    return model


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_standpoints_agree_with_analyze(family: Family, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    # float64, lest the two count a direction on the edge of rounding differently. The standpoints regress g on z
    # plainly; analyze() leaves out directions in which z hardly varies: at the average tail they agree but for those.
    data = data[0].double(), data[1]
    model = family.make(1).double()
    train(model, *data, 40, 1)
    points = standpoints(model, *data, backward_measures(model, data[0])[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatgeoWarning)
        report = analyze(model, data)
    for layer in report.analysed:
        point = points[layer.name]
        view = layer.view("average")
        assert point.alignment("average") == pytest.approx(
            view.alignment, abs=1e-9 if point.is_output else 5e-3
        )
        assert point.gap("average") == pytest.approx(view.gap_weight, rel=1e-9 if point.is_output else 3e-2)
        assert ("bayes" in point.jacobians) == ("bayes" in layer.views)
        assert point.is_output == (layer.name == report.analysed[-1].name)


def test_mean_jacobian_and_ansatz_against_every_single_gradient(
    data: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = FAMILIES[0].make(3).double()
    inputs = data[0][:40].double()
    jacobians, ansatz = backward_measures(model, inputs)
    layer, tail = model[3], nn.Sequential(*list(model)[4:])
    hidden = nn.Sequential(*list(model)[:3])(inputs).detach()
    single = torch.func.vmap(torch.func.jacrev(tail))(layer(hidden).detach())  # (m, d, n)
    assert torch.allclose(jacobians["3"], single.mean(0), atol=1e-12)
    to_features = single @ layer.weight
    outer = (to_features.transpose(1, 2) @ to_features).mean(0)
    gram = layer.weight.T @ layer.weight
    expected = torch.corrcoef(torch.stack([gram.flatten(), outer.flatten()]))[0, 1].item()
    assert ansatz["3"]["ansatz"] == pytest.approx(expected, abs=1e-10)


def test_shift_of_a_convolution_is_what_its_mean_jacobian_says(
    data: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model, inputs, step = FAMILIES[1].make(2).double(), data[0][:50].double(), 1e-8
    jacobian = backward_measures(model, inputs)[0]["2"]
    before = model(inputs).mean(0)
    direction = torch.cos(torch.arange(12.0)).double()
    with torch.no_grad():
        model[2].bias += step * direction
    assert torch.allclose(
        (model(inputs).mean(0) - before) / step, jacobian @ direction, atol=1e-5
    )  # few ReLU are crossed


def test_keys_have_no_mean_jacobian_and_the_average_tail_does_not_notice(
    data: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = trained(FAMILIES[3], data)
    jacobians, _ = backward_measures(model, data[0])
    assert jacobians["key"].norm() < 1e-6 * jacobians["value"].norm()
    points = standpoints(model, *data, jacobians)
    assert math.isnan(points["key"].alignment("mean Jacobian"))
    assert points["key"].alignment("average") == pytest.approx(points["query"].alignment("average"), abs=1e-4)
    assert free_of_weights(points["key"])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_credited_effect_is_the_projected_read_out(
    family: Family, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model = trained(family, data)
    points = standpoints(model, *data, backward_measures(model, data[0])[0])
    assert max(identity_error(point) for point in points.values()) < 1e-9


def test_exact_cases() -> None:
    found = linear_tail(5)
    assert found["1 - R²"] < 1e-12
    assert found["gradient at W*"] < 1e-11
    sizes = (1_000, 4_000, 16_000, 64_000)
    rates = [slope(sizes, [gaussian_tail(seed, law, sizes) for seed in range(6)])[0] for law in (True, False)]
    assert rates[0] == pytest.approx(-0.5, abs=0.12)
    assert abs(rates[1]) < 0.1


def test_target_linearity_and_kernel_alignment_by_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (60,), generator=generator)
    targets = F.one_hot(labels).double()
    targets = targets - targets.mean(0)
    for width in (7, 90):  # fewer and more features than samples
        features = torch.randn(60, width, generator=generator, dtype=torch.float64) + 1
        fitted = features @ torch.linalg.pinv(features) @ targets
        expected = 1 - (targets - fitted).square().sum() / targets.square().sum()
        assert target_linearity(features, labels) == pytest.approx(expected.item(), abs=1e-9)
        centre = torch.eye(60, dtype=torch.float64) - 1 / 60
        kernels = [centre @ rows @ rows.T @ centre for rows in (features, targets)]
        cosine = F.cosine_similarity(kernels[0].flatten(), kernels[1].flatten(), dim=0)
        assert label_cka(features, labels) == pytest.approx(cosine.item(), abs=1e-12)


def test_moves_and_cuts_predict_a_linear_network_and_leave_no_trace(
    data: tuple[torch.Tensor, torch.Tensor],
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Linear(12, 10))
    inputs = data[0]
    with torch.no_grad():  # a linear tail near the Bayes action, with an even prior in the bias
        for layer in (model[1], model[2]):
            layer.weight *= 0.05
            layer.bias.zero_()
        model[2].bias.copy_(torch.bincount(data[1], minlength=10).double().div(SAMPLES).log())
        model[1].bias.copy_(-model[1].weight @ inputs.flatten(1).mean(0))
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    points = standpoints(model, *data, backward_measures(model, inputs)[0])
    rows = moves(model, *data, points, torch.Generator().manual_seed(0))
    for row in rows:
        assert row["measured"] == pytest.approx(row["predicted"], rel=0.05)
    assert {row["at"] for row in rows} == {"average", "bayes", "mean Jacobian"}
    assert all(
        -2 * FRACTION * points[str(row["layer"])].gap(str(row["at"])) <= row["predicted"] for row in rows
    )
    for row in cuts(model, *data, points):
        assert row["average"] == pytest.approx(row["mean Jacobian"], rel=1e-2)
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())


def test_neighbours_cover_every_layer(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    values, jacobians, seconds = neighbours(FAMILIES[2].make(0), *data, FAMILIES[2].rectified)
    assert set(values) == set(jacobians) == {"stem", "first", "second", "dense", "head"}
    assert all(-1 <= v <= 1 + 1e-9 for layer in values.values() for v in layer.values())
    assert set(seconds) == {"backward", "target linearity", "CKA"}


def test_a_frozen_layer_stays_as_it_is_while_the_rest_trains(data: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = FAMILIES[2].make(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train(model, *data, 3, 0, frozen="first")
    same = {key for key, value in model.state_dict().items() if torch.equal(value, before[key])}
    assert same == {"first.weight", "first.bias"}
