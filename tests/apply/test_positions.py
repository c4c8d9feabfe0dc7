"""Patches and thin layers against the convolutions themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from featgeo.apply.factor import Thin, dense_cost, filled, largest_rank, thin_cost
from featgeo.apply.positions import apply_rows, outputs_of, patches, per_sample, rows_of
from featgeo.network.taps import weight_matrix

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
def test_rows_times_weight_are_the_output(layer: Any, shape: tuple[int, ...]) -> None:
    layer, x = layer.double(), torch.randn(shape, dtype=torch.float64)
    weight, bias = weight_matrix(layer)
    output = layer(x)
    rows = torch.cat(list(rows_of(layer, x)))
    assert torch.allclose(rows @ weight.T + bias, outputs_of(layer, output))
    assert torch.allclose(apply_rows(layer, weight, x) + bias, per_sample(layer, output))
    if not isinstance(layer, nn.Linear):
        assert torch.allclose(patches(layer, x).flatten(0, 1), rows)


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
