"""Tails that do not run what comes before them: the same values and slopes, and the model as it was."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from featgeo.network.select import split_layers
from featgeo.network.survey import survey
from featgeo.network.tail import FrozenTail, Usual
from tests.network.models import quiet
from tests.network.test_keep import assert_same, snapshot
from tests.network.test_roads import Folded

RUNS: Counter[int] = Counter()


class Counted(nn.Linear):
    """A linear layer that counts its forward passes."""

    def forward(self, x: Tensor) -> Tensor:
        RUNS[id(self)] += 1
        return super().forward(x)


class Steps(nn.Module):
    """Positions first, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.twice, self.narrow, self.head = (
            nn.Linear(sizes, outputs) for sizes, outputs in ((4, 5), (5, 5), (5, 3), (3, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.widen(x.transpose(0, 1)).relu_()
        h = self.twice(self.twice(h).tanh()).tanh()
        return self.head(self.narrow(h).sigmoid().mean(0))  # type: ignore[no-any-return]


class Attending(nn.Module):
    """Attention with nothing beside it: its projections are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.attention = nn.Linear(3, 4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.widen(x).tanh()
        return self.head(self.attention(h, h, h)[0].tanh().mean(1))  # type: ignore[no-any-return]


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 2, stride=2), nn.SiLU(inplace=True), nn.Flatten(),
        nn.Linear(8, 5), nn.Hardtanh(inplace=True), nn.Linear(5, 3),
    )  # fmt: skip


def straight() -> nn.Module:
    return nn.Sequential(Counted(6, 5), nn.ReLU(inplace=True), Counted(5, 4), nn.Tanh(), Counted(4, 3))


@pytest.mark.parametrize(
    ("build", "shape", "known"),
    [
        (straight, (6,), 3),
        (images, (1, 6, 6), 4),
        (Steps, (7, 4), 3),
        (Attending, (4, 3), 2),
        (lambda: Folded(False), (6, 4), 1),
        (lambda: Folded(True), (6, 4), 1),
    ],
    ids=["straight", "images", "steps", "attention", "samples first", "positions first"],
)
def test_what_comes_before_need_not_run(build: object, shape: tuple[int, ...], known: int) -> None:
    torch.manual_seed(0)
    assert callable(build)
    model, x = build().double().eval(), torch.randn(3, *shape, dtype=torch.float64)
    layers, before = split_layers(model)[0], snapshot(model)
    with torch.no_grad():
        lies = survey(model, layers, x).lies
        usual = Usual.of(model, layers, lies, x)
        assert len(usual.known) == known
        torch.testing.assert_close(usual.rows, model(x), rtol=0, atol=0)
    draw = torch.Generator().manual_seed(0)
    for name, layer in layers.items():
        slow = FrozenTail(model, layer, x, lies[name])
        fast = FrozenTail(model, layer, x, lies[name], known=usual.until(name))
        for count in (1, 4):
            z = torch.randn(
                count, layer.weight.shape[0], dtype=torch.float64, generator=draw
            ).requires_grad_()
            found, wanted = fast(z), slow(z)
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
            slopes = [torch.autograd.grad(made.square().sum(), z)[0] for made in (found, wanted)]
            torch.testing.assert_close(*slopes, rtol=1e-12, atol=0)
    assert_same(before, snapshot(model))


def test_layers_up_to_the_frozen_one_are_left_out() -> None:
    model, x = straight(), torch.randn(3, 6)
    layers = split_layers(model)[0]
    with torch.no_grad():
        lies = survey(model, layers, x).lies
        usual = Usual.of(model, layers, lies, x)
        RUNS.clear()
        FrozenTail(model, layers["2"], x, lies["2"], known=usual.until("2"))(torch.randn(2, 4))
    assert [RUNS[id(layer)] for layer in layers.values()] == [0, 0, 1]


def test_a_search_for_a_bayes_action_runs_its_tail_alone() -> None:
    torch.manual_seed(0)
    model = straight()
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    RUNS.clear()
    report = quiet(model, (x, y))
    first, _, last = (RUNS[id(model.get_submodule(name))] for name in ("0", "2", "4"))
    assert all("bayes" in layer.views for layer in report if layer.views)
    assert first < 12 < last  # without a tail of its own, every step of two searches ran all three


@pytest.mark.parametrize("patched", [False, True])
def test_forwards_are_put_back_on_any_error(patched: bool) -> None:
    model, x = straight(), torch.randn(3, 6)
    layers = split_layers(model)[0]
    own = {}
    if patched:  # as adapters do it
        for layer in layers.values():
            assert isinstance(layer, nn.Module)
            vars(layer)["forward"] = own[layer] = layer.forward
    with torch.no_grad():
        lies = survey(model, layers, x).lies
        tail = FrozenTail(model, layers["2"], x, lies["2"], known=Usual.of(model, layers, lies, x).until("2"))

        def interrupted(_module: nn.Module, _arguments: object) -> None:
            raise KeyboardInterrupt

        hook = model.get_submodule("3").register_forward_pre_hook(interrupted)
        with pytest.raises(KeyboardInterrupt):
            tail(torch.randn(2, 4))
        hook.remove()
    for layer in layers.values():
        assert isinstance(layer, nn.Module)
        assert vars(layer).get("forward") is own.get(layer)
