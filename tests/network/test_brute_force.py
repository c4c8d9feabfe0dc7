"""Every number of a report against brute force in float64, layer by layer, at both operating points."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from tests.network.models import Asinh, blobs, mlp, quiet, soft_labels, train
from tests.network.oracles import PER_SAMPLE, Expected, at_average, at_bayes, collect
from tests.theory.oracles import log_cosh

Case = tuple[nn.Sequential, Tensor, Tensor, object, Callable[[Tensor, Tensor], Tensor]]


def images(*, pool: bool) -> nn.Sequential:
    end = (
        [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)] if pool else [nn.Flatten(), nn.Linear(75, 4)]
    )
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 2, 3, stride=2, padding=1), nn.Tanh(),
        nn.Conv2d(2, 3, 2, padding=1, padding_mode="circular"), Asinh(),
        *end,
    ).double()  # fmt: skip


def tokens() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (4, 3)),
        nn.Linear(3, 3),
        Asinh(),
        nn.Flatten(),
        nn.Linear(12, 3),
        nn.Tanh(),
        nn.Linear(3, 4),
    ).double()


@functools.cache
def make(kind: str) -> Case:
    torch.manual_seed(0)
    f64 = torch.float64
    x, labels = blobs(1, classes=4)
    real = torch.tanh(x[:, :3] @ torch.randn(3, 3, dtype=f64)) + 0.3 * torch.randn(len(x), 3, dtype=f64)
    narrow = mlp(6, 2, 3, 4, dtype=f64)
    bent = mlp(6, 2, 3, 3, activation=Asinh, dtype=f64)
    if kind == "hard":
        return train(narrow, x, labels, 150), x, labels, "cross_entropy", PER_SAMPLE["cross_entropy"]
    if kind == "wide":
        model = mlp(6, 9, 8, 4, activation=nn.SiLU, dtype=f64)
        return train(model, x, labels, 150), x, labels, "cross_entropy", PER_SAMPLE["cross_entropy"]
    if kind == "soft":
        soft = soft_labels(labels, 0.5)
        return train(narrow, x, soft, 150), x, soft, nn.CrossEntropyLoss(), PER_SAMPLE["cross_entropy"]
    if kind == "smoothed":
        smooth = nn.CrossEntropyLoss(label_smoothing=0.2)
        oracle = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")
        return train(narrow, x, labels, 150, smooth), x, labels, smooth, oracle
    if kind == "mse":
        return (
            train(bent, x, real, 150, nn.MSELoss()),
            x,
            real,
            "mse",
            PER_SAMPLE["mse"],
        )
    if kind == "bce":
        y = (real > 0.2).double()
        return train(bent, x, y, 150, nn.BCEWithLogitsLoss()), x, y, "bce", PER_SAMPLE["bce"]
    if kind == "poisson":
        y = torch.poisson(real.exp())
        return train(bent, x, y, 150, nn.PoissonNLLLoss()), x, y, "poisson", PER_SAMPLE["poisson"]
    if kind == "callable":
        model = train(mlp(6, 3, 3, 3, activation=Asinh, dtype=f64), x, real, 200, nn.MSELoss())
        return model, x, real, log_cosh, log_cosh
    x, labels = blobs(2, width=12 if kind == "tokens" else 64, classes=4, spread=0.3)
    model = tokens() if kind == "tokens" else images(pool=kind == "pooled")
    return train(model, x, labels, 100), x, labels, "cross_entropy", PER_SAMPLE["cross_entropy"]


KINDS = ("hard", "soft", "smoothed", "wide", "mse", "bce", "poisson", "callable", "conv", "pooled", "tokens")


def compare(view: fg.View, wanted: Expected, rtol: float) -> None:
    for name, value in wanted.numbers.items():
        size = max(abs(value), 0.01 * wanted.numbers["gain_available"])
        assert abs(getattr(view, name) - value) <= rtol * size, (name, getattr(view, name), value)
    kept = len(view.spectrum)
    np.testing.assert_allclose(
        view.spectrum, wanted.spectrum[:kept], rtol=rtol, atol=rtol * wanted.spectrum[0]
    )
    np.testing.assert_allclose(wanted.spectrum[kept:], 0, atol=rtol)
    weight, bias = view.optimal_weight, view.optimal_bias
    assert weight is not None
    assert bias is not None
    size = np.abs(wanted.optimal_weight).max()
    np.testing.assert_allclose(
        weight.double().flatten(1), wanted.optimal_weight, rtol=0, atol=10 * rtol * size
    )
    through = wanted.root @ (bias.double().numpy() - wanted.optimal_bias)
    np.testing.assert_allclose(through, 0, atol=10 * rtol * np.abs(wanted.root @ wanted.optimal_bias).max())


@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
@pytest.mark.parametrize("kind", KINDS)
def test_average_tail(kind: str, weight_decay: float) -> None:
    model, x, y, loss, oracle = make(kind)
    report = quiet(model, (x, y), loss, weight_decay=weight_decay, batch_size=64)
    assert len(report) >= 2
    for layer in report:
        assert (layer.status, layer.default) == ("analysed", "average")
        compare(
            layer.view("average"), at_average(collect(model, layer.name, x), oracle, y, weight_decay), 1e-6
        )
    assert report.loss_value == pytest.approx(oracle(model(x), y).mean().item(), rel=1e-9)


@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
@pytest.mark.parametrize("kind", KINDS)
def test_bayes_action(kind: str, weight_decay: float) -> None:
    model, x, y, loss, oracle = make(kind)
    report = quiet(model, (x, y), loss, at="bayes", weight_decay=weight_decay, batch_size=64)
    for layer in report:
        view, seen = layer.view("bayes"), collect(model, layer.name, x)
        assert view.saturated == ()
        assert view.optimal_weight is not None
        assert view.optimal_bias is not None
        # the action that the report used; its constant loss must be a minimum, found by search
        action = (view.optimal_bias + view.optimal_weight.flatten(1) @ torch.tensor(seen.f.mean(0))).numpy()
        free = at_bayes(seen, oracle, y, weight_decay=weight_decay)
        assert view.constant_loss == pytest.approx(free.numbers["constant_loss"], rel=1e-9)
        unique = free.optimal_bias.shape[0] <= 3 or layer.name == report.analysed[-1].name
        compare(view, free if unique else at_bayes(seen, oracle, y, action, weight_decay), 1e-5)


@pytest.mark.parametrize("kind", ["hard", "wide", "mse", "conv"])
def test_float32_agrees_with_float64(kind: str) -> None:
    model, x, y, loss, oracle = make(kind)
    small = copy.deepcopy(model).float()
    y32 = y.float() if y.is_floating_point() else y
    report = quiet(small, (x.float(), y32), loss, batch_size=64)
    for layer in report:
        compare(layer.view("average"), at_average(collect(model, layer.name, x), oracle, y), 2e-3)
