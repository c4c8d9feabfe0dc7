"""``forward=``: models whose outputs must be taken out of what they return get what plain models get."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import featgeo as fg

torch.manual_seed(0)
X = torch.randn(200, 12)
Y = (X[:, :3] + 0.1 * torch.randn(200, 3)).argmax(1)
PLAIN = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 14), nn.Tanh(), nn.Linear(14, 3))


class Wrapped(nn.Module):
    """Says more than its logits, and wants to be told how."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, *, temperature: float) -> dict[str, Any]:
        return {"scores": self.inner(x) / temperature, "input": x}


def taken_out(model: nn.Module, inputs: Tensor) -> Tensor:
    """The logits."""
    made: Tensor = model(inputs, temperature=1.0)["scores"]
    return made


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Small data: what they are warned of is not asked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fg.FeatgeoWarning)
        yield


def both(job: Callable[..., Any]) -> tuple[Any, Any]:
    """What a job makes of the plain model, and of the wrapped one with ``forward=``."""
    plain, wrapped = copy.deepcopy(PLAIN), Wrapped(copy.deepcopy(PLAIN))
    return job(plain), job(wrapped, forward=taken_out)


def test_heads() -> None:
    plain, wrapped = both(lambda model, **more: fg.solve_head(model, (X, Y), refine="exact", **more))
    assert torch.equal(plain.weight, wrapped.weight)
    assert torch.equal(plain.bias, wrapped.bias)


def test_starts() -> None:
    plain, wrapped = both(lambda model, **more: fg.init_head_(model, (X, Y), **more))
    assert torch.equal(plain[4].weight, wrapped.inner[4].weight)
    assert not torch.equal(plain[4].weight, PLAIN[4].weight)
    plain, wrapped = both(lambda model, **more: fg.init_layers_(model, (X, Y), **more))
    assert all(torch.equal(plain[i].weight, wrapped.inner[i].weight) for i in (0, 2, 4))
    assert not torch.equal(plain[2].weight, PLAIN[2].weight)


def test_rankings() -> None:
    plain, wrapped = both(lambda model, **more: fg.rank_layers(model, (X, Y), **more))
    values = [[found["crossfit"].value for found in ranking.scores.values()] for ranking in (plain, wrapped)]
    assert values[0] == values[1]
    assert list(wrapped.scores) == ["inner.0", "inner.2", "inner.4", "(output)"]


def test_compression() -> None:
    plain, wrapped = both(lambda model, **more: fg.compress(model, (X, Y), budget=0.7, **more))
    assert wrapped.loss_after == plain.loss_after
    assert [row.rank for row in wrapped.layers] == [row.rank for row in plain.layers]
    assert any(row.status == "cut" for row in plain.layers)
    with torch.no_grad():
        assert torch.equal(taken_out(wrapped.model, X), plain.model(X))


def test_widths() -> None:
    plain, wrapped = both(lambda model, **more: fg.suggest_widths(model, (X, Y), **more))
    assert plain.to_numpy().tolist() == wrapped.to_numpy().tolist()


def test_it_is_refused_beside_features() -> None:
    with pytest.raises(fg.FeatgeoError, match=r"forward: found .*beside features. It calls a model"):
        fg.solve_head(X, Y, forward=taken_out)
