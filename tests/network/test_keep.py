"""The model is left exactly as it was found, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from featgeo.network.keep import home_of
from tests.network.models import digits, dressed, numbers, quiet

HOOKS = [name for name in vars(nn.Module()) if name.endswith(("hooks", "_with_kwargs", "_always_called"))]


class Faulty(nn.Module):
    """A dressed network whose forward pass raises at one call."""

    def __init__(self, call: int = 0, error: BaseException | None = None) -> None:
        super().__init__()
        self.inner, self.call, self.error, self.calls = dressed(), call, error, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.call and self.error is not None:
            self.inner[5](self.inner[:5](x))
            raise self.error
        return self.inner(x)  # type: ignore[no-any-return]


def prepared(call: int = 0, error: BaseException | None = None) -> Faulty:
    """In mixed modes, with gradients on some parameters, some frozen, statistics in the buffers, hooks of the user."""
    torch.manual_seed(3)
    model, (x, y) = Faulty(call, error), digits()
    nn.functional.cross_entropy(model.train().inner(x[:64].reshape(-1, 1, 8, 8)), y[:64]).backward()
    model.inner[0].weight.grad = None
    for parameter in model.inner[5].parameters():
        parameter.requires_grad_(False)
    model.inner[1].eval()
    model.inner[11].eval()
    model.inner[11].register_forward_hook(lambda *_: None)
    model.inner[5].register_forward_pre_hook(lambda *_: None)
    model.inner[11].register_full_backward_hook(lambda *_: None)
    model.calls = 0
    return model


def snapshot(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {"torch": torch.get_rng_state(), "grad mode": torch.is_grad_enabled()}
    for name, module in model.named_modules():
        found[f"{name} mode"] = module.training
        found[f"{name} names"] = sorted(key for key in vars(module) if key not in ("calls", "_modules"))
        for hooks in HOOKS:
            found[f"{name} {hooks}"] = dict(getattr(module, hooks) or {})
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[f"{name} value"] = tensor.detach().clone()
        found[f"{name} place"] = (tensor.data_ptr(), tensor.dtype, tensor.device, tensor.requires_grad)
        found[f"{name} grad"] = None if tensor.grad is None else tensor.grad.clone()
        found[f"{name} grad place"] = None if tensor.grad is None else tensor.grad.data_ptr()
    return found


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, after[key]), key
        else:
            assert value == after[key], key


def images(count: int = 200) -> tuple[Tensor, Tensor]:
    x, y = digits()
    return x[:count].reshape(-1, 1, 8, 8), y[:count]


def test_the_snapshot_sees_every_disturbance() -> None:
    disturbances = [
        lambda m: m.inner[2].eval(),
        lambda m: m.inner(images(9)[0]),  # batch norm in training mode moves its statistics
        lambda m: m.inner[5].register_forward_hook(lambda *_: None),
        lambda m: m.inner[5].register_forward_pre_hook(lambda *_: None, with_kwargs=True),
        lambda m: m.inner[11].weight.grad.add_(1),
        lambda m: m.inner[5].requires_grad_(True),
        lambda m: torch.randn(1),
        lambda m: m.double(),
    ]
    for disturb in disturbances:
        model = prepared()
        before = snapshot(model)
        disturb(model)
        with pytest.raises(AssertionError):
            assert_same(before, snapshot(model))


@pytest.mark.parametrize("nulls", [False, True])
def test_after_success(nulls: bool) -> None:
    model = prepared()
    before = snapshot(model)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*images()), batch_size=64, shuffle=True
    )
    report = quiet(model, loader, nulls=nulls)
    assert len(report.analysed) == 3
    assert_same(before, snapshot(model))


def test_a_callable_loss_and_float64_leave_no_trace_either() -> None:
    model = prepared().double()
    before = snapshot(model)
    quiet(model, images(), lambda z, t: nn.functional.cross_entropy(z, t, reduction="none"))
    assert_same(before, snapshot(model))


@pytest.mark.parametrize(
    "error", [RuntimeError("lost"), KeyboardInterrupt("lost"), SystemExit("lost")], ids=type
)
@pytest.mark.parametrize("call", [1, 3, 6, 20, 30])
def test_after_an_error_in_the_forward_pass(call: int, error: BaseException) -> None:
    """In the first batch, a later one, while tails are frozen and while weights are re-drawn."""
    model = prepared(call, error)
    before = snapshot(model)
    with pytest.raises((type(error), fg.FeatgeoError), match="lost"):
        quiet(model, images(), nulls=True, batch_size=64)
    assert model.calls == call
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("error", [OSError("lost"), KeyboardInterrupt("lost")], ids=type)
@pytest.mark.parametrize("passes", [0, 1])
def test_after_an_error_in_the_loader(passes: int, error: BaseException) -> None:
    class Loader:
        done = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield images()
            if self.done == passes:
                torch.rand(3)
                raise error
            self.done += 1

    model = prepared()
    before = snapshot(model)
    wanted = fg.FeatgeoError if isinstance(error, Exception) else KeyboardInterrupt
    with pytest.raises(wanted, match="lost"):
        quiet(model, Loader(), nulls=True)
    assert_same(before, snapshot(model))


def test_evaluation_mode_is_what_is_analysed() -> None:
    """Dropout and batch norm in training mode would give other numbers each time."""
    model, data = prepared(), images()
    reports = [quiet(model, data), quiet(model, data), quiet(model.eval(), data)]
    assert numbers(reports[0]) == numbers(reports[1]) == numbers(reports[2])
    wanted = nn.functional.cross_entropy(model(data[0]), data[1]).item()
    assert reports[0].loss_value == pytest.approx(wanted, rel=1e-5)


def test_frozen_and_inference_parameters_are_analysed() -> None:
    model, data = prepared().requires_grad_(False), images()
    with torch.no_grad():
        report = quiet(model, data)
    assert [layer.status for layer in report.analysed] == ["analysed"] * 3
    assert all(set(layer.views) == {"average", "bayes"} for layer in report.analysed)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_inference_mode_changes_nothing() -> None:
    model, data = prepared(), images()
    wanted = numbers(quiet(model, data))
    with torch.inference_mode():
        assert numbers(quiet(model, data)) == wanted
        assert torch.is_inference_mode_enabled()


def test_home_of_a_model() -> None:
    assert home_of(nn.Linear(2, 2).double()) == (torch.device("cpu"), torch.float64)
    assert home_of(nn.BatchNorm1d(2, affine=False).half()) == (torch.device("cpu"), torch.float16)
    assert home_of(nn.Tanh()) == (torch.device("cpu"), torch.get_default_dtype())


class Board(nn.Module):
    """Writes its outputs into a buffer of its own, counts its calls in another, and puts a third in its place."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.first, self.beside, self.last = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)
        self.own = own
        for name, shape in (("board", (200, 3)), ("count", ()), ("latest", (4,))):
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        made = self.last(self.first(x).tanh() + self.beside(x))
        if not self.own:
            return made  # type: ignore[no-any-return]
        self.count += 1
        self.latest = x[0, :4].clone()
        self.board[: len(x)] = made
        return self.board[: len(x)]  # type: ignore[no-any-return]


@pytest.mark.parametrize("at", ["average", "bayes"])
def test_a_model_may_put_its_outputs_into_a_buffer_of_its_own(at: Literal["average", "bayes"]) -> None:
    """Passes that are compared do not share memory, and the buffers are as they were."""
    torch.manual_seed(0)
    model, plain = Board(True), Board(False)
    plain.load_state_dict(model.state_dict())
    x, y = torch.randn(150, 6), torch.randint(0, 3, (150,))
    before = snapshot(model)
    report = quiet(model, (x, y), at=at, steps=True, batch_size=60)
    assert_same(before, snapshot(model))
    wanted = quiet(plain, (x, y), at=at, steps=True, batch_size=60)
    assert report["first"].status == "bypassed"
    for layer in wanted:
        assert layer.views.keys() == report[layer.name].views.keys()
        for point, view in layer.views.items():
            found = report[layer.name].view(point)
            assert (found.alignment, found.locality, found.step) == (view.alignment, view.locality, view.step)
