"""Models that torch.compile or torch.jit has compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from tests.network.models import Residual, blobs, mlp, quiet


def data() -> tuple[Tensor, Tensor]:
    x, y = blobs(0)
    return x.float(), y


def said(report: fg.Report) -> dict[str, dict[str, tuple[float, float, float]]]:
    return {
        layer.name.removesuffix("._orig_mod"): {
            at: (view.alignment, view.gain_available, view.gap_weight) for at, view in layer.views.items()
        }
        for layer in report
    }


def whole(model: nn.Sequential) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def in_place(model: nn.Sequential) -> nn.Module:
    model.compile(backend="eager")
    return model


def parts(model: nn.Sequential) -> nn.Module:
    for i in (0, 2):
        model[i] = torch.compile(model[i], backend="eager")  # type: ignore[assignment]
    return model


@pytest.mark.parametrize("compiled", [whole, in_place, parts])
def test_a_compiled_model_has_the_report_of_the_model(compiled: Callable[[nn.Sequential], nn.Module]) -> None:
    torch.manual_seed(0)
    model = mlp(6, 5, 4, activation=nn.Tanh, dtype=torch.float32)
    wanted = quiet(model, data())
    made = compiled(model)
    with torch.no_grad():
        before = made(data()[0])  # compiled before it is analysed
    found = quiet(made, data())
    assert said(found) == said(wanted)
    with torch.no_grad():
        assert torch.equal(made(data()[0]), before)


def test_bypassed_layers_of_a_compiled_model() -> None:
    torch.manual_seed(0)
    model = Residual()
    wanted, made = quiet(model, data()), torch.compile(model, backend="eager")
    made(data()[0])
    assert said(quiet(made, data())) == said(wanted)  # type: ignore[arg-type]


def test_a_compiled_model_is_compressed_and_ranked_by_the_names_of_its_layers() -> None:
    torch.manual_seed(0)
    made = torch.compile(mlp(6, 5, 4, activation=nn.Tanh, dtype=torch.float32), backend="eager")
    made(data()[0])
    assert {cut.name for cut in fg.compress(made, data(), budget=0.8).layers} == {"0", "2"}
    assert set(fg.rank_layers(made, data()).to_frame().index) >= {"0", "2"}
    assert set(fg.suggest_widths(made, data()).index) == {"0", "2"}


def test_what_torch_jit_has_compiled_and_complex_weights_say_what_they_are() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(nn.Linear(6, 4), data()[0][:2])
    with pytest.raises(fg.FeatgeoError, match=r"torch\.jit has compiled it"):
        fg.analyze(traced, data())
    with pytest.raises(fg.FeatgeoError, match="complex numbers"):
        fg.analyze(nn.Linear(6, 4, dtype=torch.complex64), data())
