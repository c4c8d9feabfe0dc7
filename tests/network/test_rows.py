"""Every module with parameters has a row: analysed, bypassed, or skipped with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from featgeo.network.select import split_layers
from tests.network.models import Asinh, Misfits, Residual, blobs, digits, dressed, mlp, numbers, quiet, train


def images(count: int = 400) -> tuple[Tensor, Tensor]:
    x, y = digits()
    return x[:count].reshape(-1, 1, 8, 8), y[:count]


def float_blobs(**options: int) -> tuple[Tensor, Tensor]:
    x, y = blobs(0, **options)
    return x.float(), y


def test_batch_norm_dropout_and_pooling_are_part_of_the_tail() -> None:
    report = quiet(dressed(), images())
    rows = {layer.name: (layer.kind, layer.status, layer.neurons, layer.inputs) for layer in report}
    assert rows == {
        "0": ("Conv2d", "analysed", 4, 9),
        "1": ("BatchNorm2d", "skipped", 0, 0),
        "5": ("Conv2d", "analysed", 6, 36),
        "6": ("BatchNorm2d", "skipped", 0, 0),
        "11": ("Linear", "analysed", 10, 6),
    }
    assert all(set(layer.views) == {"average", "bayes"} for layer in report.analysed)
    assert "BatchNorm2d has no weight matrix" in report["1"].reason
    assert report["11"].tail_r2 == 1.0
    assert 0 < report["5"].tail_r2 < 1


def test_a_residual_branch_is_bypassed() -> None:
    report = quiet(Residual(), float_blobs(), at="bayes")
    assert {layer.name: layer.status for layer in report} == {
        "stem": "analysed", "head": "analysed", "inner": "bypassed", "outer": "bypassed",
    }  # fmt: skip
    for name in ("inner", "outer"):
        layer = report[name]
        assert set(layer.views) == {"average", "jacobian", "bayes"}
        assert layer.default == "bayes"
        assert "with the layer frozen the output still varies" in layer.reason
        assert -1 <= layer.alignment <= 1
        assert layer.passes > 0
    assert report["stem"].default == "bayes"


@pytest.mark.parametrize(
    ("options", "views", "default"),
    [
        ({}, {"average", "jacobian"}, "jacobian"),
        ({"at": "average"}, {"average", "jacobian"}, "average"),
        ({"subset": 0}, {"average"}, "average"),
    ],
)
def test_views_of_a_bypassed_layer(options: dict[str, Any], views: set[str], default: str) -> None:
    layer = quiet(Residual(), float_blobs(), **options)["inner"]
    assert (set(layer.views), layer.default) == (views, default)
    with pytest.raises(fg.FeatgeoError, match="no view at 'bayes'"):
        layer.view("bayes")


class Latch(Residual):
    """A residual network whose skip connection opens for the samples that have a mark."""

    def forward(self, x: Tensor) -> Tensor:
        base = self.stem(x)
        skip = (x[:, :1] > 50).to(x) * base
        return self.head(skip + self.outer(self.inner(base).tanh()))


def test_a_road_that_the_first_samples_do_not_take_is_found_and_looked_at() -> None:
    x, y = float_blobs()
    x[3, 0] = 100.0
    read: list[int] = []

    class Counted(list[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for batch in super().__iter__():
                read.append(len(batch[0]))
                yield batch

    batches = Counted(zip(x.split(64), y.split(64), strict=True))
    torch.manual_seed(0)
    model = Latch()
    found = quiet(model, batches)["inner"]
    assert (found.status, set(found.views)) == ("bypassed", {"average", "jacobian"})
    assert sum(read) == 2 * len(x)  # once for the moments, once for the samples that the road calls for
    turned = torch.cat([x[3:4], x[:3], x[4:]]), torch.cat([y[3:4], y[:3], y[4:]])
    again = quiet(model, turned, batch_size=64)["inner"]  # seen at once
    assert found.alignment == pytest.approx(again.alignment, abs=1e-4)


class InPlaceSum(nn.Module):
    """x + outer(...) returned as the very tensor that the last layer made."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outer(self.inner(x).tanh())
        out += x
        return out


def test_a_sum_in_place_does_not_make_a_layer_the_output() -> None:
    report = quiet(InPlaceSum(), float_blobs(width=4))
    assert [layer.status for layer in report] == ["bypassed", "bypassed"]


def test_an_activation_in_place_after_the_last_layer_belongs_to_its_tail() -> None:
    torch.manual_seed(0)
    x, y = float_blobs(classes=3)
    target = nn.functional.one_hot(y).float()
    ours, theirs = nn.Linear(6, 3), nn.Linear(6, 3)
    theirs.load_state_dict(ours.state_dict())
    found = quiet(nn.Sequential(ours, nn.ReLU(inplace=True)), (x, target), "mse")["0"]
    wanted = quiet(nn.Sequential(theirs, nn.ReLU()), (x, target), "mse")["0"]
    assert wanted.tail_r2 < 0.99
    assert found.views == wanted.views


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_in_place_change_nothing(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, y = blobs(0)
    plain = mlp(6, 5, 5, 4, activation=nn.ReLU, dtype=dtype)
    ours = quiet(plain, (x, y))
    for module in plain:
        if isinstance(module, nn.ReLU):
            module.inplace = True
    theirs = quiet(plain, (x, y))
    assert numbers(ours) == numbers(theirs)


class Offset(nn.Module):
    """A regressor whose mean dwarfs its variation; a road beside the layer where asked."""

    def __init__(self, beside: float) -> None:
        super().__init__()
        self.first, self.last, self.beside = nn.Linear(6, 4), nn.Linear(4, 1), beside

    def forward(self, x: Tensor) -> Tensor:
        return 2e5 + self.last(self.first(x).tanh()) + self.beside * x[:, :1]


@pytest.mark.parametrize(("beside", "status"), [(0.0, "analysed"), (1.0, "bypassed")])
def test_a_large_constant_does_not_hide_a_second_road(beside: float, status: str) -> None:
    torch.manual_seed(0)
    x, _ = float_blobs()
    report = quiet(Offset(beside), (x, 2e5 + x[:, :1]), "mse")
    assert report["first"].status == status


def test_layers_that_cannot_be_analysed_say_why() -> None:
    torch.manual_seed(0)
    tokens, y = torch.randint(0, 20, (250, 5)), torch.arange(250) % 4
    report = quiet(Misfits(), (tokens, y), batch_size=100)
    assert {layer.name: (layer.status, layer.reason) for layer in report} == {
        "": ("skipped", "Misfits has no weight matrix between features and a pre-activation"),
        "embed": ("skipped", "Embedding has no weight matrix between features and a pre-activation"),
        "norm": ("skipped", "LayerNorm has no weight matrix between features and a pre-activation"),
        "twice": ("analysed", ""),
        "unused": ("skipped", "never called in the forward pass"),
        "grouped": ("analysed", ""),
        "gate": ("skipped", "its input has not one row per sample"),
        "seldom": ("skipped", "called for some batches only"),
        "head": ("analysed", ""),
    }
    with pytest.raises(fg.FeatgeoError, match=r"layer 'unused'.*skipped: never called"):
        _ = report["unused"].alignment


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.LayerNorm(6), nn.Tanh()), r"no Linear or Conv layer.*LayerNorm"),
        (nn.Tanh(), "no Linear or Conv layer"),
        (nn.GRU(6, 4), "no Linear or Conv layer.*GRU computes its gates in one fused call"),
    ],
    ids=["norm", "nothing", "fused"],
)
def test_a_model_without_layers_is_an_error(model: nn.Module, message: str) -> None:
    with pytest.raises(fg.FeatgeoError, match=message):
        fg.analyze(model, float_blobs())


def test_a_model_whose_layers_all_fail_is_an_error() -> None:
    model = nn.Tanh()
    model.add_module("unused", nn.Linear(4, 4))
    with pytest.raises(fg.FeatgeoError, match=r"no layer that can be analysed.*unused \(never called"):
        fg.analyze(model, float_blobs(width=4))


def test_layers_can_be_chosen_by_name() -> None:
    model, data = mlp(6, 5, 4), float_blobs()
    report = quiet(model, data, layers=["2"])
    assert list(report.layers) == ["2"]
    assert report["2"].views == quiet(model, data)["2"].views
    with pytest.raises(fg.FeatgeoError, match=r"layers: found the name 'fc9'\. Known modules: 0, 1, 2"):
        fg.analyze(model, data, layers=["fc9"])


def test_images_of_several_sizes() -> None:
    """With adaptive pooling the tail does not depend on the size, and no number does on how batches are mixed."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), Asinh(), nn.Conv2d(2, 2, 3), Asinh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(2, 3),
    )  # fmt: skip
    y = torch.arange(40) % 3
    small, large = torch.randn(40, 1, 7, 7), torch.randn(40, 1, 10, 9)
    first = quiet(model, [(small, y), (large, y)])
    second = quiet(model, [(large, y), (small, y)])
    for layer in first:
        assert layer.status == "analysed"
        for at in ("average", "bayes"):
            one, other = layer.view(at), second[layer.name].view(at)
            assert one.alignment == pytest.approx(other.alignment, rel=1e-3)
            np.testing.assert_allclose(one.spectrum, other.spectrum, rtol=1e-3, atol=1e-6)


class Sentences(nn.Module):
    """Tokens (m, t, 6) of any number t, with a residual branch and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + torch.linspace(-1, 1, x.shape[1])[:, None]
        return self.head((x + self.inner(x).tanh()).mean(1))  # type: ignore[no-any-return]


def test_sequences_of_several_lengths() -> None:
    torch.manual_seed(0)
    y = torch.arange(40) % 4
    batches = [(torch.randn(40, length, 6) + y[:, None, None], y) for length in (3, 7, 5)]
    report = quiet(Sentences(), batches, nulls=1)
    assert {layer.name: layer.status for layer in report} == {
        "stem": "analysed", "inner": "bypassed", "head": "analysed",
    }  # fmt: skip


class ByKeyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(input=self.first(input=x).tanh())  # type: ignore[no-any-return]


def test_layers_called_by_keyword() -> None:
    report = quiet(ByKeyword(), float_blobs(), nulls=True)
    assert [layer.status for layer in report] == ["analysed", "analysed"]


def test_lazy_layers_are_refused_untouched() -> None:
    model = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(4))
    with pytest.raises(fg.FeatgeoError, match=r"model.*lazy"):
        fg.analyze(model, float_blobs())
    assert isinstance(model[0], nn.LazyLinear)


def test_a_transformer() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)
    model = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Linear(3, 6), block, nn.Flatten(), nn.Linear(12, 4))
    report = quiet(train(model, *float_blobs(), steps=20), float_blobs())
    status = {layer.name: layer.status for layer in report}
    assert status["2.linear1"] == status["2.linear2"] == "bypassed"
    assert status["1"] == status["4"] == "analysed"
    assert {status[f"2.self_attn.{part}_proj"] for part in ("q", "k", "v", "out")} == {"bypassed"}
    assert report["2.self_attn.out_proj"].kind == "MultiheadAttention"


@pytest.mark.parametrize("bias", [True, False])
def test_layers_without_a_bias(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5, bias=bias), nn.Tanh(), nn.Linear(5, 4, bias=bias))
    report = quiet(model, float_blobs())
    assert report["2"].optimal_bias.shape == (4,)
    assert report["2"].gap_bias >= 0


def test_a_layer_too_wide_for_a_covariance_is_left_out_unless_it_is_named() -> None:
    model = nn.Sequential(nn.Conv2d(70, 4, 16), nn.Flatten(), nn.Linear(4, 3))
    data = (torch.randn(6, 70, 16, 16), torch.arange(6) % 3)
    report = quiet(model, data)
    assert report["0"].status == "skipped"
    assert "17,920 features, whose covariance takes 2 GiB; name it in layers=" in report["0"].reason
    assert report["2"].status == "analysed"
    assert set(split_layers(model, "0")[0]) == {"0"}


def test_more_outputs_than_can_be_decomposed_are_refused_before_memory_is_taken() -> None:
    model = nn.Linear(6, 50_000)
    x, y = float_blobs()
    with pytest.raises(fg.FeatgeoError, match=r"model: found 50,000 outputs\. At most 8,192"):
        fg.analyze(model, (x, y))


class Constants(nn.Module):
    """A layer that reads samples, and constants of another shape beside them."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        self.places, self.layer, self.head = torch.randn(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        places = self.layer(self.places) if self.first else None
        h = self.layer(x).tanh()
        places = self.layer(self.places) if places is None else places
        return self.head(h + places.mean(0))  # type: ignore[no-any-return]


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("size", [3, 4, 50])
def test_a_layer_that_reads_constants_too_says_why_it_is_skipped(first: bool, size: int) -> None:
    torch.manual_seed(0)
    report = quiet(
        Constants(first), float_blobs(classes=3), batch_size=size
    )  # 4: as many as there are constants
    assert (report["layer"].status, report["layer"].reason) == (
        "skipped",
        "its input has not one row per sample",
    )
    assert report["head"].is_output
