"""Whole networks: the data, the optimiser, the derived rates and the measures against dense routes of their own."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import nn

import featgeo as fg
from featgeo.experiments import networks
from featgeo.experiments.digits import digits, fashion, linear_layers, network, penalty, train_lbfgs
from featgeo.experiments.networks_locality import MEASURES, measures
from featgeo.experiments.networks_runs import Plan, measure, plans, start, train
from featgeo.experiments.record import Result
from featgeo.theory.joint import dependence


@pytest.fixture(scope="module")
def few():
    return digits().part(150)


@pytest.mark.parametrize("epsilon", [0.03, 1.0, 3.0])
def test_soft_labels_have_the_dependence_asked_for(few, epsilon):
    labels = few.soft(epsilon)
    assert torch.allclose(labels.sum(1), torch.ones(len(labels), dtype=torch.float64))
    assert torch.allclose(labels.mean(0), few.prior)
    assert dependence(labels / len(labels)) == pytest.approx(epsilon, rel=1e-12)


def test_hard_labels_are_the_largest_dependence(few):
    assert torch.allclose(few.soft(few.largest), nn.functional.one_hot(few.labels).double())


def test_fashion_mnist_that_is_not_installed_is_none(tmp_path):
    assert fashion(tmp_path) is None


def test_lbfgs_ends_where_an_independent_gradient_vanishes(few):
    model, labels, decays = network((64, 5, 10)), few.soft(1.0), [0.02, 0.05]
    fitted = train_lbfgs(model, few.inputs, labels, decays, tolerance=1e-7)
    assert fitted.converged
    (_, first), (_, last) = linear_layers(model).items()
    hidden = torch.tanh(few.inputs @ first.weight.T + first.bias)
    residual = (hidden @ last.weight.T + last.bias).softmax(1) - labels
    back = (residual @ last.weight) * (1 - hidden**2)
    slopes = [
        back.T @ few.inputs / len(labels) + decays[0] * first.weight,
        back.mean(0),
        residual.T @ hidden / len(labels) + decays[1] * last.weight,
        residual.mean(0),
    ]
    assert max(slope.abs().max().item() for slope in slopes) < 1e-6
    loss = -(labels * model(few.inputs).log_softmax(1)).sum(1).mean() + penalty(model, decays)
    assert fitted.objective == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_both_penalties_have_one_geometric_mean(depth):
    alike = Plan("rates", "digits", depth, "tanh", "shrinking", 3e-3, 0.02).decays
    uneven = Plan("rates", "digits", depth, "tanh", "by layer", 3e-3, 0.02).decays
    assert np.exp(np.mean(np.log(alike))) == pytest.approx(np.exp(np.mean(np.log(uneven))))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_one_mode_obeys_the_derived_rates(depth):
    """Numerical optimum of ½(ε - Πw)² + Σ λ_i w_i²/2 for the two penalties, at two ε."""

    def gains(kind, epsilon):
        plan = Plan("rates", "digits", depth, "tanh", kind, 0.05, epsilon)
        decays = np.array(plan.decays)
        units = np.array([weights for weights, _ in plan.sizes])

        def objective(u):
            w = u * units
            return (0.5 * (epsilon - w.prod()) ** 2 + 0.5 * decays @ w**2) / epsilon**2

        options = {"xatol": 1e-10, "fatol": 1e-15, "maxiter": 20000, "maxfev": 20000}
        return minimize(objective, np.ones(depth), method="Nelder-Mead", options=options).x * units

    for kind in ("shrinking", "by layer"):
        large, small = gains(kind, 1e-2), gains(kind, 1e-4)
        exponents = np.log(large / small) / np.log(100)
        expected = np.full(depth, 1 / depth) if kind == "shrinking" else np.eye(depth)[0]
        assert exponents == pytest.approx(expected, abs=1e-3)
        assert large.prod() / 1e-2 == pytest.approx(
            small.prod() / 1e-4, rel=1e-3
        )  # the same share is learned
    assert gains("shrinking", 1e-2).prod() == pytest.approx(gains("by layer", 1e-2).prod(), rel=1e-3)


def test_orthogonal_start_has_the_derived_sizes(few):
    plan = Plan("rates", "digits", 3, "tanh", "by layer", 3e-3, 0.02)
    norms = [
        torch.linalg.matrix_norm(m.weight, 2).item() for m in linear_layers(start(plan, few, 0)).values()
    ]
    assert norms == pytest.approx([0.02, 1.0, 1.0])


@pytest.fixture(scope="module")
def trained(few):
    plan = Plan("grid", "digits", 3, "tanh", "fixed", 1e-3, 1.0)
    model, fitted = train(plan, few, 0, 200)
    return plan, model, fitted, measure(plan, model, fitted, few)


@pytest.mark.filterwarnings("ignore::featgeo.errors.FeatgeoWarning")
def test_locality_by_a_dense_route(trained, few):
    """Both correlations of View.locality from samples and eigenvectors, at the Bayes action found by analyze()."""
    plan, model, _, found = trained
    labels = few.soft(plan.dependence)
    mean = labels.mean(0)
    modules = list(model)
    for shown, layer, decay in zip(found["layers"], linear_layers(model).values(), plan.decays, strict=True):
        place = modules.index(layer)
        z = model[: place + 1](few.inputs).detach()
        tail = model[place + 1 :]
        name = str(place)
        report = fg.analyze(model, (few.inputs, labels), layers=[name], weight_decay=decay, batch_size=64)
        view = report[name].view("bayes")
        best = view.optimal_bias + view.optimal_weight @ model[:place](few.inputs).mean(0)  # the action c
        jacobian = torch.autograd.functional.jacobian(lambda row, tail=tail: tail(row[None])[0], best)
        outputs, constant = model(few.inputs).detach(), tail(best[None])[0].detach()
        p = constant.softmax(0)
        metric = torch.diag(p) - p.outer(p)
        inverse = torch.linalg.pinv(metric, hermitian=True, rtol=1e-10)
        linear = (z - z.mean(0)) @ jacobian.T
        spread = outputs - outputs.mean(0)

        def product(a, b, g):
            return torch.einsum("mi,ij,mj->", a, g, b)

        def correlation(a, b, g):
            return (product(a, b, g) / (product(a, a, g) * product(b, b, g)).sqrt()).item()

        root = torch.diag(p.sqrt()) @ (torch.eye(10, dtype=torch.float64) - p)
        values, vectors = torch.linalg.eigh(root @ linear.T @ linear @ root.T / len(z))
        keep = values > 1e-12 * values.max()
        axes = (3 * values[keep]).sqrt() * (torch.linalg.pinv(root) @ vectors[:, keep])  # R axis = √3 σ u
        axes = torch.cat([axes.T, -axes.T])
        change = (constant + axes).softmax(1)
        change = change - p
        norms = product(axes, axes, metric) * product(change, change, inverse)
        cosine = (axes * change).sum() / norms.sqrt()
        expected = correlation(linear, spread, metric) * cosine.item()
        assert view.locality == pytest.approx(expected, abs=1e-6)
        assert shown["locality"] == pytest.approx(expected, abs=1e-6)
    assert mean.sum().item() == pytest.approx(1.0)


def test_every_measure_is_computed_and_none_exceeds_one(trained, few):
    _, _, _, found = trained
    for layer in found["layers"]:
        assert set(layer["measures"]) == set(MEASURES) - {"locality"}
        assert all(value <= 1 + 1e-9 for value in layer["measures"].values())


def test_a_linear_tail_near_the_constant_is_local_by_every_measure(few):
    """Two linear layers with tiny weights: nothing bends, so every measure says 1 (or minus nothing)."""
    model = network((64, 12, 10), "identity", size=0.02)
    with torch.no_grad():
        model[-1].bias.copy_(few.prior.log())
    found = measures(model, model[0], few.inputs, few.soft(0.01))
    zero = {"tail", "displacement", "sum"}
    for name, value in found.items():
        assert value == pytest.approx(0.0 if name in zero else 1.0, abs=1e-3), name


def test_rank_correlations_by_hand():
    run = {"optimiser": "L-BFGS", "purpose": "grid", "layers": []}
    rng = np.random.default_rng(0)
    layers = [
        {"locality": float(a), "alignment": float(b), "weight": i, "measures": {"gain": float(c)}, "run": run}
        for i, (a, b, c) in enumerate(rng.random((12, 3)))
    ]
    run["layers"] = layers
    columns = {"locality": [m["locality"] for m in layers], "gain": [m["measures"]["gain"] for m in layers]}
    for name, column in columns.items():
        expected = spearmanr(column, [m["alignment"] for m in layers]).statistic
        assert networks._correlations(layers, name)["all"] == pytest.approx(expected)
    assert np.isnan(networks._correlations(layers[:2], "gain")["all"])


def test_plans_are_distinct_and_the_quick_ones_are_few():
    full = plans(quick=False, fashion=True)
    assert len(set(full)) == len(full)
    assert {plan.depth for plan in full} == {2, 3, 4, 5}
    assert {plan.optimiser for plan in full} == {"L-BFGS", "Adam", "SGD"}
    assert len(plans(quick=True, fashion=False)) < 20
    assert not any(plan.data == "Fashion-MNIST" for plan in plans(quick=False, fashion=False))


def test_figures_are_drawn_from_json_with_undefined_alignments(trained):
    plan, _, _, found = trained
    rates = [
        {**found, "purpose": "rates", "penalty": "shrinking", "dependence": epsilon}
        for epsilon in (0.1, 0.03, 0.01)
    ]
    broken = json.loads(json.dumps(found))
    broken["layers"][0]["alignment"] = float("nan")
    result = Result(series={"runs": [found, broken, *rates]})
    again = Result.from_dict(json.loads(json.dumps(result.to_dict())))
    assert set(networks.EXPERIMENT.draw(again)) == {"locality", "layers", "rates"}
    assert plan.depth == 3


def test_bands_partition_the_layers():
    rng = np.random.default_rng(1)
    layers = [{"locality": float(a), "alignment": float(b)} for a, b in rng.random((50, 2))]
    bands = networks._bands(layers)
    assert sum(band["layers"] for band in bands) == 50
    assert all(a["to"] <= b["from"] for a, b in pairwise(bands))
