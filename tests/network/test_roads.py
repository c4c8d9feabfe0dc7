"""Layers frozen together, each on samples of its own, vary as they do frozen one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from featgeo.network.arrange import gathered
from featgeo.network.roads import BYPASS, variations
from featgeo.network.select import split_layers
from featgeo.network.survey import survey
from featgeo.network.tail import FrozenTail
from featgeo.network.taps import as_rows, tapping
from tests.network.models import Residual
from tests.network.test_architectures import CLASSES, Encoder, Recurrent, Shared
from tests.network.test_bypassed import Images, Tokens


class Folded(nn.Module):
    """A layer whose first dimension holds samples and positions together, beside a shortcut."""

    def __init__(self, positions_first: bool) -> None:
        super().__init__()
        self.layer, self.head, self.positions_first = nn.Linear(4, 4), nn.Linear(4, CLASSES), positions_first

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(0, 1) if self.positions_first else x
        h = self.layer(rows.flatten(0, 1)).unflatten(0, rows.shape[:2])
        return self.head((x + (h.transpose(0, 1) if self.positions_first else h)).tanh().mean(1))  # type: ignore[no-any-return]


MODELS = {
    "residual": (Residual, (6,), {"inner", "outer"}),
    "images": (Images, (1, 5, 5), {"inner", "outer"}),
    "tokens": (Tokens, (4, 3), {f"attention.{part}_proj" for part in ("q", "k", "v", "out")} | {"widen", "narrow"}),
    "shared": (lambda: Shared(True), (6, 4), set()),
    "recurrent": (Recurrent, (6, 4), {"state"}),
    "samples first": (lambda: Folded(False), (6, 4), {"layer"}),
    "positions first": (lambda: Folded(True), (6, 4), {"layer"}),
}  # fmt: skip


@pytest.mark.parametrize("most", [3, 7, 1000])
@pytest.mark.parametrize("kind", [*MODELS, "encoder"])
def test_together_as_one_by_one(kind: str, most: int) -> None:
    torch.manual_seed(0)
    if kind == "encoder":
        model, x = Encoder(batch_first=False).double().eval(), torch.randint(0, 20, (3, 5))
        bypassed = None
    else:
        build, shape, bypassed = MODELS[kind]
        model, x = build().double().eval(), torch.randn(3, *shape, dtype=torch.float64)
    layers, outputs = split_layers(model)[0], dict[str, Tensor]()

    def keep(name: str, _x: Tensor, output: Tensor) -> None:
        outputs.setdefault(name, output.clone())

    with torch.no_grad():
        with tapping(layers, keep):
            free = as_rows(model(x))
        lies = survey(model, layers, x).lies
        found = variations(model, layers, lies, x, outputs, free, most)
        assert found.keys() == layers.keys()
        for name, lie in lies.items():
            action = gathered(layers[name], lie, outputs[name], 3).mean((0, 1))
            alone = FrozenTail(model, layers[name], x, lie).bypass(action)
            assert found[name] == pytest.approx(alone, rel=1e-9, abs=1e-12)
    head = "head"  # the output itself, frozen: nothing varies
    assert found[head] == 0
    if bypassed is not None:
        assert {name for name, value in found.items() if value > BYPASS} == bypassed
