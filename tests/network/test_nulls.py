"""Nulls: the law that shuffled labels are drawn from, and re-drawn weights, against doing it for real."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from featgeo.network import nulls
from tests.network.models import Residual, blobs, mlp, numbers, quiet, soft_labels, train
from tests.network.oracles import PER_SAMPLE, Activations, at_output, collect, compare, minimise

DRAWS = 400
NAMES = ("shuffled labels", "re-drawn weights")


def setting(kind: str) -> tuple[nn.Sequential, Tensor, Tensor, str]:
    torch.manual_seed(0)
    x, labels = blobs(3, count=250)
    if kind == "mse":
        real = torch.stack([x[:, 0].tanh(), 0.1 * x[:, 1], x[:, 2] * x[:, 3]], dim=1)
        return train(mlp(6, 7, 3, dtype=torch.float64), x, real, 100, nn.MSELoss()), x, real, "mse"
    y = (
        soft_labels(labels, 0.5) + 0.02 * torch.rand(len(x), 4, dtype=torch.float64)
        if kind == "soft"
        else labels
    )
    y = y / y.sum(1, keepdim=True) if kind == "soft" else y
    return train(mlp(6, 7, 4, dtype=torch.float64), x, y, 100), x, y, "cross_entropy"


def permuted(seen: Activations, loss: str, y: Tensor, weight_decay: float) -> np.ndarray:
    """Alignments with the labels of the samples really permuted; the tail and the output do not depend on labels."""
    oracle, outputs = PER_SAMPLE[loss], torch.tensor(seen.g)
    action = minimise(lambda c: oracle(c.expand(len(y), -1), y).mean(), seen.g.mean(0))
    out = at_output(oracle, action, outputs, y)
    z, g = seen.z - seen.z.mean(0), seen.g - seen.g.mean(0)
    jacobian = np.eye(g.shape[1]) if seen.last else np.linalg.lstsq(z, g, rcond=1e-10)[0].T
    rng, found = np.random.default_rng(0), []
    for _ in range(DRAWS):
        scores = out.scores[rng.permutation(len(y))]
        one = compare(seen, out, jacobian, out.metric, scores, np.zeros(len(seen.bias)), 0.0, weight_decay)
        found.append(one.numbers["alignment"])
    return np.array(found)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("kind", ["hard", "soft", "mse"])
def test_shuffled_labels_follow_the_law_of_permutations(
    kind: str, weight_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means agree within four standard errors; spreads within 20 %, five times the sampling error of their ratio."""
    monkeypatch.setattr(nulls, "SHUFFLES", DRAWS)
    model, x, y, loss = setting(kind)
    report = quiet(model, (x, y), loss, nulls=1, weight_decay=weight_decay)
    for layer in report:
        drawn = np.array(layer.nulls["shuffled labels"])
        wanted = permuted(collect(model, layer.name, x), loss, y, weight_decay)
        assert abs(drawn.mean() - wanted.mean()) < 4 * wanted.std() * (2 / DRAWS) ** 0.5
        assert drawn.std() == pytest.approx(wanted.std(), rel=0.2)


@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
@pytest.mark.parametrize("name", ["1", "3", "6"])
def test_redrawn_weights_are_those_of_a_network_that_has_them(
    name: str, weight_decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x, y = blobs(4, width=64, spread=0.4)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.Tanh(),
        nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="reflect"), nn.GELU(), nn.Flatten(), nn.Linear(64, 4),
    ).double()  # fmt: skip
    place = int(name)
    other = torch.randn_like(model[place].weight.flatten(1))
    monkeypatch.setattr(nulls, "_random_weight", lambda *_: other)
    report = quiet(model, (x, y), nulls=1, weight_decay=weight_decay, layers=[name])
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed[place].weight.copy_(other.reshape(changed[place].weight.shape))
    wanted = quiet(changed, (x, y), weight_decay=weight_decay)[name].alignment
    assert report[name].nulls["re-drawn weights"] == pytest.approx((wanted,), rel=1e-6)


def test_a_drawn_weight_has_the_norm_of_the_one_it_replaces() -> None:
    weight, generator = torch.randn(5, 7, dtype=torch.float64), torch.Generator().manual_seed(0)
    one, two = (nulls._random_weight(nn.Linear(7, 5), weight, generator) for _ in range(2))
    assert one.norm() == pytest.approx(weight.norm().item(), rel=1e-12)
    assert not torch.allclose(one, two)


def test_nulls_come_on_request_and_change_nothing_else() -> None:
    model, x, y, loss = setting("hard")
    plain, more = quiet(model, (x, y), loss), quiet(model, (x, y), loss, nulls=True)
    assert all(layer.nulls == {} for layer in plain)
    for layer in more:
        assert tuple(layer.nulls) == NAMES
        assert [len(layer.nulls[name]) for name in NAMES] == [nulls.SHUFFLES, 3]
        assert layer.view("bayes").nulls == {}
    stripped = numbers(more)
    for layer in stripped["layers"].values():
        layer["views"]["average"]["nulls"] = {}
    assert stripped == numbers(plain)


def test_draws_and_seed() -> None:
    model, x, y, loss = setting("hard")
    first, again, other = (quiet(model, (x, y), loss, nulls=5, seed=seed) for seed in (1, 1, 2))
    assert [len(layer.nulls["re-drawn weights"]) for layer in first] == [5, 5]
    assert numbers(first) == numbers(again)
    assert first["0"].nulls["shuffled labels"] != other["0"].nulls["shuffled labels"]
    assert first["0"].nulls["re-drawn weights"] != other["0"].nulls["re-drawn weights"]


def test_bypassed_layers_have_nulls_too() -> None:
    x, y = blobs(5)
    report = quiet(Residual().double(), (x, y), nulls=2)
    assert {layer.status for layer in report} == {"analysed", "bypassed"}
    assert all(
        -1 <= value <= 1 for layer in report for name in NAMES for value in layer.view("average").nulls[name]
    )


@pytest.mark.parametrize("bad", [-1, 2.5, "yes"])
def test_a_number_of_draws_that_is_none(bad: object) -> None:
    model, x, y, loss = setting("hard")
    with pytest.raises(fg.FeatgeoError, match="nulls"):
        fg.analyze(model, (x, y), loss, nulls=bad)  # type: ignore[arg-type]
