"""On an accelerator no batch waits for the device, and half precision is summed in float32.

There need be no accelerator: PyTorch's meta device, whose tensors have no data, stands for one. Whatever reads a value
on the host (item, equal, nonzero, a mask as an index, a copy) fails on it; copies to it are caught here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import featgeo as fg
from featgeo.data.batches import Batches
from featgeo.data.limits import Limits
from featgeo.data.moments import BLOCK
from featgeo.network.layout import layout_of
from featgeo.network.run import runner_of
from featgeo.network.select import split_layers
from featgeo.network.survey import Survey
from featgeo.network.sweep import Pass
from featgeo.theory.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquare
from tests.network.models import blobs, digits, dressed, mlp, quiet, train

DEVICE = torch.device("meta")


class NoWay(TorchDispatchMode):
    """Counts copies between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        before = {part.device.type for part in args if isinstance(part, Tensor)}
        after = {part.device.type for part in (out if isinstance(out, tuple | list) else [out])
                 if isinstance(part, Tensor)}  # fmt: skip
        if before and after and before != after:
            self.copies.append(str(func))
        return out


@contextmanager
def on_the_device(model: nn.Module) -> Iterator[NoWay]:
    """Inside, the model is on the device, and copies are counted."""
    model.to(DEVICE)
    with torch.no_grad(), NoWay() as mode:
        yield mode


def under_way(model: nn.Module, loss: Loss, targets: Tensor) -> Pass:
    run = runner_of(model)
    run.layout = layout_of(
        (targets.shape[1] if targets.ndim > 1 else 4,), targets, None, getattr(loss, "ignore_index", None)
    )
    return Pass(run, loss, loss.statistic, split_layers(model)[0], Survey())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("loss", "dtype"),
    [(CrossEntropy(), torch.int64), (MeanSquare(), torch.float32), (BinaryCrossEntropy(), torch.float32)],
)
@pytest.mark.parametrize("kind", ["mlp", "cnn", "half"])
def test_no_batch_waits_for_the_device(kind: str, loss: Loss, dtype: torch.dtype) -> None:
    classes = 10 if kind == "cnn" else 6
    model = (
        dressed().eval()
        if kind == "cnn"
        else mlp(6, 6, 6, dtype=torch.bfloat16 if kind == "half" else torch.float32)
    )
    with on_the_device(model) as mode:
        shape = (32, 1, 8, 8) if kind == "cnn" else (32, 6)
        inputs = torch.empty(shape, device=DEVICE)
        targets = torch.empty((32,) if dtype == torch.int64 else (32, classes), dtype=dtype, device=DEVICE)
        work = under_way(model, loss, targets)
        with work.listening():
            work.add(inputs, targets)  # the first makes what is cached
            mode.copies.clear()
            for _ in range(BLOCK - 2):
                work.add(inputs, targets)
        work.settle()
        work.ends.tally()
        assert mode.copies == []
        assert work.batches == BLOCK - 1
        assert work.ends.sums.device == DEVICE
        for stream in (work.ends.pair, *work.streams.values()):
            assert stream._block is not None
            assert stream._block.sums.device == DEVICE
            assert stream._block.sums.dtype == torch.float32
        with pytest.raises(Exception, match=r"meta"):
            work.result()  # here the host does wait: the check can fail


def test_bad_targets_are_told_late_but_told() -> None:
    """Labels out of range stop a CUDA device for good; here they are only remembered until many are judged."""
    x, y = blobs(0, count=60)
    y[7] = 9
    model = mlp(6, 5, 4, dtype=torch.float64)
    work = under_way(model, CrossEntropy(), y)
    with torch.no_grad(), work.listening():
        for batch in Batches((x, y), 10):
            work.add(*batch)
        assert work.go_on(iter([]), Limits(), 1e9) == "data"
        with pytest.raises(fg.FeatgeoError, match="labels from 0 to 9 for 4 outputs"):
            work.result()
    with pytest.raises(fg.FeatgeoError, match="labels from 0 to 9 for 4 outputs"):
        fg.analyze(model, [(x, y)] * BLOCK, max_batches=BLOCK + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision(dtype: torch.dtype) -> None:
    """As the same weights in float32 say, up to the rounding of the activations."""
    torch.manual_seed(0)
    x, y = digits()
    model = train(mlp(64, 24, 10), x, y, 150)
    half = mlp(64, 24, 10)
    half.load_state_dict(model.state_dict())
    half = half.to(dtype)
    rounded = mlp(64, 24, 10)
    rounded.load_state_dict(half.float().state_dict())
    ours, theirs = quiet(half.to(dtype), (x, y)), quiet(rounded, (x, y))
    assert ours.loss_value == pytest.approx(theirs.loss_value, rel=2e-2)
    for layer in theirs.analysed:
        found = ours[layer.name]
        assert found.status == "analysed"
        assert found.is_output == layer.is_output
        assert found.view("average").alignment == pytest.approx(layer.view("average").alignment, abs=2e-2)
        assert found.view("average").gain_available == pytest.approx(
            layer.view("average").gain_available, rel=2e-2
        )
        assert found.optimal_weight.dtype == dtype
