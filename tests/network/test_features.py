"""Feature rows: z̄ = W f + b, whatever the layer is, against patches that are cut out one by one."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from featgeo.network.features import feature_rows, position_rows
from featgeo.network.layers import LAYERS, as_matrix, as_weight, respond, weight_matrix

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED_CONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NUMPY_PAD = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


LayerLike = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def padding_of(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[tuple[int, int]]:
    """Before and after per axis: torch puts the odd one of 'same' after."""
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    if layer.padding == "same":
        spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(span // 2, span - span // 2) for span in spans]
    return [(int(p), int(p)) for p in layer.padding]


def mean_patch(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> np.ndarray:
    """Every patch read from the padded array, position by position, then averaged: (m, channels * taps)."""
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), *padding_of(layer)], mode=NUMPY_PAD[layer.padding_mode])
    sizes = layer.weight.shape[2:]
    counts = [
        (padded.shape[2 + a] - layer.dilation[a] * (sizes[a] - 1) - 1) // layer.stride[a] + 1
        for a in range(len(sizes))
    ]
    patches = []
    for place in product(*map(range, counts)):
        window = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(place, layer.stride, layer.dilation, sizes, strict=True)
        )
        patches.append(padded[(slice(None), slice(None), *window)].reshape(len(x), -1))
    return np.mean(patches, axis=0)


def check(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> None:
    rows = feature_rows(layer, x)
    np.testing.assert_allclose(rows, mean_patch(layer, x), rtol=1e-10, atol=1e-12)
    weight, bias = weight_matrix(layer)
    wanted = layer(x).detach().flatten(2).mean(2)
    torch.testing.assert_close(rows @ weight.T + bias, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@settings(max_examples=150, deadline=None)
@given(data=st.data(), axes=st.sampled_from([1, 2, 3]), mode=st.sampled_from(sorted(NUMPY_PAD)))
def test_mean_patches_of_any_convolution(data: st.DataObject, axes: int, mode: str) -> None:
    small = st.tuples(*[st.integers(1, 3)] * axes)
    kernel, stride, dilation = data.draw(small), data.draw(small), data.draw(small)
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    named = ["valid", *(["same"] if set(stride) == {1} else [])]
    padding = data.draw(st.sampled_from(named) | st.tuples(*[st.integers(0, 3)] * axes))
    amount = padding if isinstance(padding, tuple) else tuple(spans if padding == "same" else [0] * axes)
    size = [data.draw(st.integers(max(s + 1, p + 1), s + p + 5)) for s, p in zip(spans, amount, strict=True)]
    layer = CONVS[axes](
        2, 3, kernel, stride, padding, dilation, bias=data.draw(st.booleans()), padding_mode=mode
    ).double()
    check(layer, torch.randn(2, 2, *size, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("mode", sorted(NUMPY_PAD))
@pytest.mark.parametrize("kernel", [2, 3, 4, (2, 5)])
def test_same_padding_of_even_and_odd_kernels(kernel: int | tuple[int, int], mode: str) -> None:
    layer = nn.Conv2d(3, 2, kernel, padding="same", padding_mode=mode).double()
    check(layer, torch.randn(4, 3, 7, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("stride", "dilation", "padding"), [(1, 1, 0), (2, 1, 1), (3, 2, 2), ((2, 1), (1, 2), (0, 3))]
)
def test_mean_patches_equal_unfold(
    stride: int | tuple[int, int], dilation: int | tuple[int, int], padding: int | tuple[int, int]
) -> None:
    layer = nn.Conv2d(3, 4, (3, 2), stride, padding, dilation).double()
    x = torch.randn(5, 3, 11, 9, dtype=torch.float64)
    patches = F.unfold(x, (3, 2), dilation, padding, stride)
    torch.testing.assert_close(feature_rows(layer, x), patches.mean(2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 6), (5, 7, 6), (5, 2, 3, 6)])
def test_linear_layers_average_over_tokens(shape: tuple[int, ...]) -> None:
    layer, x = nn.Linear(6, 3).double(), torch.randn(shape, dtype=torch.float64)
    rows = feature_rows(layer, x)
    wanted = np.stack([sample.reshape(-1, 6).mean(0) for sample in x.numpy()])
    np.testing.assert_allclose(rows, wanted, rtol=1e-12, atol=1e-14)
    weight, bias = weight_matrix(layer)
    mean = layer(x).detach().reshape(5, -1, 3).mean(1)
    torch.testing.assert_close(rows @ weight.T + bias, mean)


def test_a_sample_without_a_batch_is_one_row() -> None:
    image, vector = torch.randn(2, 6, 6), torch.randn(4)
    assert feature_rows(nn.Conv2d(2, 3, 3), image).shape == (1, 18)
    assert feature_rows(nn.Linear(4, 3), vector).shape == (1, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_patches_are_averaged_in_float32(dtype: torch.dtype) -> None:
    layer, x = nn.Conv2d(2, 3, 3, padding=1).to(dtype), torch.randn(3, 2, 9, 9).to(dtype)
    rows = feature_rows(layer, x)
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows, mean_patch(layer, x.double()), rtol=1e-4, atol=1e-5)
    tokens = torch.randn(3, 50, 4).to(dtype)
    rows = feature_rows(nn.Linear(4, 2).to(dtype), tokens)
    np.testing.assert_allclose(rows, tokens.double().mean(1), rtol=1e-4, atol=1e-5)


def test_all_kinds_of_layers_are_covered() -> None:
    assert set(LAYERS) == {nn.Linear, *CONVS.values(), *TRANSPOSED_CONVS}


def agrees(layer: LayerLike, x: Tensor, output: Tensor | None = None) -> None:
    """Every position's z = W f + b, means over positions, and W there and back."""
    made = layer(x).detach() if output is None else output
    weight, bias = weight_matrix(layer)
    rows = position_rows(layer, x, made)
    axes = len(layer.kernel_size)
    torch.testing.assert_close(rows @ weight.T + bias, made.flatten(2).transpose(1, 2), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(feature_rows(layer, x, made), rows.mean(1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(as_weight(layer, weight), layer.weight.detach())
    torch.testing.assert_close(as_matrix(layer, layer.weight.detach()), weight)
    torch.testing.assert_close(respond(layer, x, weight, made) + bias.reshape(-1, *(1,) * axes), made)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    axes=st.sampled_from([1, 2, 3]),
    transposed=st.booleans(),
    groups=st.sampled_from([1, 2, 4]),
)
def test_groups_and_transposed_convolutions(
    data: st.DataObject, axes: int, transposed: bool, groups: int
) -> None:
    small = st.tuples(*[st.integers(1, 3)] * axes)
    kernel, stride, dilation = data.draw(small), data.draw(small), data.draw(small)
    padding = tuple(data.draw(st.integers(0, d * (k - 1))) for k, d in zip(kernel, dilation, strict=True))
    size = [
        data.draw(st.integers(d * (k - 1) + 1, d * (k - 1) + 4))
        for k, d in zip(kernel, dilation, strict=True)
    ]
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    if not transposed:
        mode = data.draw(st.sampled_from(["zeros", "circular"]))
        agrees(CONVS[axes](4, 8, kernel, stride, padding, dilation, groups, padding_mode=mode).double(), x)
        return
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    layer = TRANSPOSED_CONVS[axes - 1](
        4, 8, kernel, stride, padding, extra, groups, dilation=dilation
    ).double()
    agrees(layer, x)


def test_a_transposed_convolution_asked_for_a_size() -> None:
    layer, x = nn.ConvTranspose2d(2, 3, 3, stride=2).double(), torch.randn(2, 2, 4, 5, dtype=torch.float64)
    agrees(layer, x, layer(x, output_size=(10, 11)).detach())
