"""Bad input gets an error that names the argument, what was found and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import featgeo as fg
from featgeo.data.moments import BLOCK
from tests.network.models import blobs, mlp, numbers, quiet

X, Y = (part if part.dtype == torch.int64 else part.float() for part in blobs(0, count=60))
ONE_HOT = F.one_hot(Y).float()
REAL = X[:, :4] + 0.5


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return mlp(6, 5, 4)


def batches(size: int = 10) -> list[tuple[Tensor, Tensor]]:
    return list(zip(X.split(size), Y.split(size), strict=True))


def spoiled(targets: Tensor, value: float) -> Tensor:
    targets = targets.clone()
    targets[7] = value
    return targets


def bare(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


TARGETS = [
    (spoiled(Y, 4), "cross_entropy", r"labels from 0 to 4 for 4 outputs.*0\.\.3"),
    (spoiled(Y, -1), "cross_entropy", "labels from -1 to 3"),
    (Y.float(), "cross_entropy", r"dtype torch\.float32 with shape \(60,\).*integer labels"),
    (Y[:, None].expand(-1, 2), "cross_entropy", "targets"),
    (Y[:, None].expand(-1, 2), "cross_entropy", "targets for|use analyze.* for positions"),
    (ONE_HOT[:, :3], "cross_entropy", "3 class probabilities for 4 outputs"),
    (2 * ONE_HOT, "cross_entropy", "do not sum to 1"),
    (2 * ONE_HOT - 0.25, "cross_entropy", "negative"),
    (spoiled(ONE_HOT, float("nan")), "cross_entropy", "NaN or infinite"),
    (REAL[:, :3], "mse", r"shape \(60, 3\) for a model with 4 outputs.*shape \(samples, 4\)"),
    (REAL[:, 0], "mse", r"shape \(60,\)"),
    (spoiled(REAL, float("inf")), "mse", "NaN or infinite"),
    (spoiled(ONE_HOT, 1.5), "bce", r"outside \[0, 1\]"),
    (spoiled(ONE_HOT, -1), "poisson", "negative"),
    (spoiled(REAL, float("nan")), lambda z, y: (z - y).square().sum(1), "NaN or infinite"),
]


@pytest.mark.parametrize(("targets", "loss", "message"), TARGETS, ids=range(len(TARGETS)))
def test_targets_that_do_not_suit_the_loss(targets: Tensor, loss: Any, message: str) -> None:
    with pytest.raises(fg.FeatgeoError, match=message):
        fg.analyze(model(), (X, targets), loss)


OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"at": "mean"}, r"at: found 'mean'\. Pass one of 'average', 'bayes', 'jacobian', or None"),
    ({"weight_decay": -0.1}, r"weight_decay: found -0\.1"),
    ({"weight_decay": float("nan")}, "weight_decay: found nan"),
    ({"weight_decay": float("inf")}, "weight_decay: found inf"),
    ({"layers": ["0", "fc"]}, "layers: found the name 'fc'"),
    ({"layers": ["1"]}, "model: found no Linear or Conv layer"),
    ({"loss": "crossentropy"}, "loss: found the name 'crossentropy'.*Known names: bce, cross_entropy"),
    ({"loss": nn.L1Loss()}, "second derivative is zero"),
    ({"loss": nn.BCELoss()}, "logits"),
    ({"batch_size": 0}, "batch_size: found 0"),
    ({"model": nn.Linear}, r"model: found a type\. Pass a torch\.nn\.Module"),
    ({"data": TensorDataset(X, Y)}, "data: found a Dataset .TensorDataset.*DataLoader"),
    ({"data": X}, "data: found a Tensor"),
    ({"data": []}, "data: found no batch at all"),
    ({"data": (X[:0], Y[:0])}, "data: found no samples"),
    ({"data": DataLoader(TensorDataset(X[:0], Y[:0]))}, "data: found no"),
    ({"data": (X, Y[:50])}, "data: found 60 inputs and 50 targets"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=range(len(OPTIONS)))
def test_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(fg.FeatgeoError, match=message) as caught:
        fg.analyze(options.pop("model", model()), options.pop("data", (X, Y)), **options)
    assert str(caught.value).startswith(caught.value.argument)
    assert caught.value.remedy


def flat(z: Tensor, y: Tensor) -> Tensor:
    return (z - ONE_HOT[y].to(z)).abs().sum(1)


def broken(z: Tensor, y: Tensor) -> Tensor:
    raise ZeroDivisionError("no such loss")


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (F.cross_entropy, r"loss: found shape \(\).*one value per sample.*reduction='none'"),
        (lambda z, y: bare(z, y)[:, None], r"shape \(60, 1\) returned for 60 samples|one value per sample"),
        (lambda z, y: 1.0, "a float returned"),
        (flat, "loss: found no curvature of 'flat'"),
        (nn.KLDivLoss(reduction="none"), "loss: found no curvature of 'KLDivLoss'"),
        (broken, "loss: found ZeroDivisionError raised by 'broken'.*no such loss"),
    ],
    ids=["scalar", "column", "float", "flat", "linear", "raises"],
)
def test_callables_that_are_no_loss(loss: Callable[[Tensor, Tensor], Tensor], message: str) -> None:
    with pytest.raises(fg.FeatgeoError, match=message):
        fg.analyze(model(), (X, ONE_HOT if isinstance(loss, nn.Module) else Y), loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "loss", [nn.HuberLoss(), nn.SmoothL1Loss(), nn.BCEWithLogitsLoss(pos_weight=torch.ones(4))]
)
def test_losses_of_torch_keep_the_models_precision(loss: nn.Module, dtype: torch.dtype) -> None:
    report = quiet(model().to(dtype), (X.to(dtype), ONE_HOT.to(dtype)), loss)
    assert report.loss_value == pytest.approx(loss(model()(X), ONE_HOT).item(), rel=1e-5)


class Returns(nn.Module):
    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.inner, self.change = model(), change

    def forward(self, x: Tensor) -> object:
        return self.change(self.inner(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out, out), "an output of type tuple"),
        (lambda out: {"scores": out}, "an output of type dict"),
        (lambda out: out.mean(), "an output of type Tensor"),
        (lambda out: out[1:], "59 output rows for 60 inputs"),
        (lambda out: out.log(), "model outputs and targets: found NaN or infinite values in batch 0"),
    ],
    ids=["tuple", "dict", "scalar", "rows", "nan"],
)
def test_outputs_that_are_no_rows(change: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(fg.FeatgeoError, match=message):
        fg.analyze(Returns(change), (X, Y))


def test_batches_of_different_widths_are_named() -> None:
    data = [*batches()[:3], (X[:10, :5], Y[:10])]
    with pytest.raises(fg.FeatgeoError, match=r"forward pass of batch 3 \(inputs \(10, 5\)\).*one shape"):
        fg.analyze(model(), data)
    with pytest.raises(fg.FeatgeoError, match=r"batch 3 \(inputs \(10, 5\)\)"):
        fg.analyze(model(), data, bare)


def test_a_loader_that_raises_midway_is_named() -> None:
    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        yield from batches()[:3]
        raise OSError("disk on fire")

    with pytest.raises(fg.FeatgeoError, match="OSError raised by the loader at batch 3: disk on fire"):
        fg.analyze(model(), loader())


def test_a_generator_serves_canonical_losses_only() -> None:
    assert numbers(quiet(model(), iter(batches()))) == numbers(quiet(model(), batches()))
    for options in ({"loss": bare}, {"nulls": True}):
        with pytest.raises(fg.FeatgeoError, match=r"data: found an iterator that is spent.*re-iterable"):
            quiet(model(), iter(batches()), **options)


def test_one_batch_is_as_good_as_many() -> None:
    one, many = quiet(model(), [(X, Y)]), quiet(model(), (X, Y), batch_size=7)
    assert one.samples == many.samples == 60
    for layer in one:
        assert layer.alignment == pytest.approx(many[layer.name].alignment, rel=1e-4)
        assert layer.gain_available == pytest.approx(many[layer.name].gain_available, rel=1e-4)


@pytest.mark.parametrize("bad", [0, 2, BLOCK + 1])
def test_inputs_with_nan_are_named_by_layer_and_batch(bad: int) -> None:
    data = [(x.clone(), y) for _ in range(3) for x, y in batches(1)]
    data[bad][0][0, 3] = float("nan")
    with pytest.raises(fg.FeatgeoError, match=rf"layer '0': found NaN or infinite values in batch {bad}\."):
        fg.analyze(model(), data)


@pytest.mark.parametrize("count", [2, BLOCK + 1])
def test_the_first_layer_that_sees_nan_is_named(count: int) -> None:
    """The first in the order of the calls, not of the registration."""

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.third, self.second, self.first = nn.Linear(4, 4), nn.Linear(5, 4), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.third(self.second(self.first(x).sqrt()))  # type: ignore[no-any-return]

    with pytest.raises(fg.FeatgeoError, match="layer 'second': found NaN or infinite values in batch 0"):
        fg.analyze(Backwards(), batches() * count)


def test_weights_with_nan_are_named_by_what_they_spoil() -> None:
    broken = model()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(fg.FeatgeoError, match=r"layer '2'.*Check the inputs and the weights before it"):
        fg.analyze(broken, (X, Y))


class Compared(nn.Module):
    """What is put out for a sample depends on the others: ``logits`` one for each of them, or ``centred`` features."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.last, self.how = nn.Linear(6, 5), nn.Linear(5, 4), how
        self.norm = nn.BatchNorm1d(5, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        if self.how == "centred":
            h = h - h.mean(0)
        elif self.how == "normed":
            h = self.norm(h)
        made: Tensor = self.last(h)
        return made @ made.T if self.how == "logits" else made


def test_outputs_for_every_pair_of_samples_are_refused() -> None:
    data = [(X[:20], torch.arange(20)), (X[20:40], torch.arange(20))]
    with pytest.raises(
        fg.FeatgeoError, match=r"model: found outputs of shape \(3, 3\) for three samples.*forward="
    ):
        fg.analyze(Compared("logits"), data)


def test_outputs_that_depend_on_the_other_samples_are_warned_of() -> None:
    torch.manual_seed(0)
    assert any(
        "other samples of the batch" in text for text in quiet(Compared("centred"), batches()).warnings
    )
    assert not quiet(Compared("plain"), batches()).warnings


def test_a_model_that_cannot_take_one_sample_is_named() -> None:
    torch.manual_seed(0)
    with pytest.raises(fg.FeatgeoError, match=r"copies of one sample.*running statistics"):
        fg.analyze(Compared("normed"), batches())


class Squeezed(nn.Module):
    """One output for a sample: of shape (m,), or the only entry of a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)[:, 0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("loss", [nn.HuberLoss(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0]))])
def test_one_output_and_one_number_are_compared_sample_by_sample(loss: nn.Module) -> None:
    torch.manual_seed(0)
    model, y = Squeezed(), (X[:, 0] > 0).float()
    report, wanted = quiet(model, (X, y), loss), quiet(model.layers, (X, y[:, None]), loss)
    assert report.loss_value == pytest.approx(loss(model(X), y).item(), rel=1e-5)
    assert report["layers.0"].views == wanted["0"].views


def test_one_logit_wants_another_loss_than_labels_of_classes() -> None:
    torch.manual_seed(0)
    with pytest.raises(
        fg.FeatgeoError, match=r"labels from 0 to 1 for 1 outputs\. For one logit use loss='bce'"
    ):
        quiet(Squeezed(), (X, Y % 2))
    with pytest.raises(fg.FeatgeoError, match=r"given outputs \(\d+, 1\) and targets .*one value per sample"):
        quiet(Squeezed(), (X, X[:, 0]), lambda z, y: (z - y).square())


def test_the_only_entry_of_a_tuple_is_the_output() -> None:
    torch.manual_seed(0)
    net = model()
    assert numbers(quiet(Returns(lambda out: (out,)), (X, Y)))["outputs"] == 4
    assert quiet(net, (X, Y), forward=lambda net, x: (net(x),)).loss_value == quiet(net, (X, Y)).loss_value


def test_a_loss_that_is_nan_on_the_outputs_is_named() -> None:
    torch.manual_seed(0)
    with pytest.raises(fg.FeatgeoError, match="loss: found NaN from 'PoissonNLLLoss' on the model's outputs"):
        quiet(model(), (X, 3 * ONE_HOT), nn.PoissonNLLLoss(log_input=False))


def test_a_callable_may_compute_in_a_precision_of_its_own() -> None:
    """An ordinal loss of cumulative logits: its indicator is made in float32, whatever it is given."""

    def ordinal(z: Tensor, y: Tensor) -> Tensor:
        above = (y[:, None] > torch.arange(z.shape[1])).float()
        return F.binary_cross_entropy_with_logits(z.float(), above, reduction="none").sum(1)

    torch.manual_seed(0)
    net = mlp(6, 5, 3)
    report = quiet(net, (X, Y), ordinal)
    assert report.loss_value == pytest.approx(ordinal(net(X), Y).mean().item(), rel=1e-5)
    assert -1 <= report["2"].alignment <= 1
