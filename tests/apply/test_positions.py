"""Patches and thin layers against the convolutions themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from featgeo.apply import positions
from featgeo.apply.factor import Thin, dense_cost, filled, largest_rank, thin_cost
from featgeo.apply.positions import per_sample
from featgeo.network.layers import weight_matrix

LAYERS: list[tuple[Any, tuple[int, ...]]] = [
    (nn.Linear(5, 7), (3, 5)),
    (nn.Linear(5, 7, bias=False), (3, 4, 5)),
    (nn.Conv1d(3, 6, 3, padding=2, dilation=2, padding_mode="circular"), (2, 3, 9)),
    (nn.Conv2d(3, 6, 3, padding=1), (2, 3, 6, 7)),
    (nn.Conv2d(3, 6, (3, 2), stride=2, padding="valid"), (2, 3, 6, 7)),
    (nn.Conv2d(3, 6, (3, 4), padding="same", dilation=(1, 2), padding_mode="reflect"), (2, 3, 6, 7)),
    (nn.Conv2d(3, 6, 3, padding=1, padding_mode="replicate", bias=False), (2, 3, 6, 7)),
    (nn.Conv3d(2, 5, 2, padding=1), (2, 2, 4, 4, 3)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_rows_times_weight_are_the_output(
    layer: Any, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    weight, bias = weight_matrix(layer)
    output = per_sample(layer, layer(x))
    for entries in (positions.ENTRIES, 1):  # in one block, and sample by sample
        monkeypatch.setattr(positions, "ENTRIES", entries)
        for rows, part in positions.rows_of(layer, x):
            assert torch.allclose(rows @ weight.T + bias, output[part].flatten(0, 1))


def test_padding_is_left_out() -> None:
    layer, x = nn.Linear(5, 7), torch.randn(3, 4, 5)
    keep = torch.tensor([[True] * 4, [True, False, True, False], [False] * 4])
    ((rows, _),) = positions.rows_of(layer, x, keep)
    assert torch.equal(rows, x[keep])
    ((rows, _),) = positions.rows_of(layer, x[:, 0], keep)  # one row per sample: the mask is not about it
    assert torch.equal(rows, x[:, 0])


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_thin_layers_are_their_product(layer: Any, shape: tuple[int, ...]) -> None:
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    weight, bias = weight_matrix(layer)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    pair = filled(layer, Thin(left * values, right, bias))
    assert torch.allclose(pair(x), layer(x))
    assert sum(p.numel() for p in pair.parameters()) == thin_cost(layer, len(values))
    top = largest_rank(layer)
    assert top == 0 or thin_cost(layer, top) < dense_cost(layer)
    assert thin_cost(layer, top + 1) >= dense_cost(layer)
