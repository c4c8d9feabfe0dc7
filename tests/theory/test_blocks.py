"""The best block diagonal weight, against least squares in the entries of the blocks alone."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

from featgeo.theory import blocks
from tests.network.models import quiet


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("dense", [True, False])
def test_blocks_are_the_best_of_their_pattern(
    weight_decay: float, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "DENSE", blocks.DENSE if dense else 0)
    generator = torch.Generator().manual_seed(0)
    outer, inner, wanted = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((5, 6), (9, 12), (5, 12))
    )
    found = blocks.best_blocks(outer, inner, wanted, 3, weight_decay)
    pattern = torch.block_diag(*[torch.ones(2, 3)] * 3).bool()
    assert not found[~pattern].any()

    def objective(entries: np.ndarray) -> float:
        weight = torch.zeros(6, 9, dtype=torch.float64)
        weight[pattern] = torch.from_numpy(entries)
        miss = (outer @ weight @ inner - wanted).square().sum()
        return (miss + weight_decay * weight.square().sum()).item()

    best = optimize.minimize(objective, np.zeros(18), tol=1e-14)
    assert objective(found[pattern].numpy()) <= best.fun + 1e-9
    np.testing.assert_allclose(found[pattern], best.x, atol=1e-4)


def test_a_grouped_convolution_is_as_good_as_its_blocks_allow() -> None:
    """At the output of a mean squared error the gain is that of least squares on each target's own features."""
    torch.manual_seed(0)
    x = torch.randn(200, 4, 5, dtype=torch.float64)
    y = x[:, :2, 0] + 0.3 * x[:, 2:, 1] + torch.randn(200, 2)
    model = nn.Sequential(nn.Conv1d(4, 2, 3, groups=2), nn.AdaptiveAvgPool1d(1), nn.Flatten()).double()
    layer = quiet(model, (x, y), "mse")["0"]
    patches = x.unfold(2, 3, 1).mean(2).reshape(200, 2, 6)
    gain = 0.0
    for i in range(2):
        f, t = patches[:, i] - patches[:, i].mean(0), y[:, i] - y[:, i].mean()
        weight = torch.linalg.lstsq(f, t[:, None]).solution
        np.testing.assert_allclose(layer.optimal_weight[i].flatten(), weight[:, 0], rtol=1e-8)
        gain += (f @ weight).square().mean().item() / 2
    assert layer.gain_available == pytest.approx(gain, rel=1e-8)
    assert layer.gain_used + layer.gap_weight == pytest.approx(gain, rel=1e-8)
    assert not math.isnan(layer.alignment)
