"""A tracker sees the training and does not change it, not by a bit, whatever happens inside."""

from __future__ import annotations

import copy
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import featgeo as fg
from tests.network.models import blobs, digits, mlp, quiet

PLENTY = 1e9  # a budget into which every analysis fits


class Jitter(nn.Module):
    """Draws from the generators of Python and numpy, in training and in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        shift = random.gauss(0, 0.01) + np.random.normal() * 0.01  # noqa: NPY002
        return x + shift if self.training else x


def noisy() -> nn.Sequential:
    """A network with dropout, running averages and random draws of its own."""
    torch.manual_seed(1)
    parts = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), Jitter(), nn.Linear(16, 4)]
    return nn.Sequential(*parts)


class Augmented(Dataset):  # type: ignore[type-arg]
    """Samples that draw from every source of random numbers there is."""

    def __init__(self) -> None:
        self.x, self.y = blobs(0, count=96)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = random.gauss(0, 0.1) + np.random.normal() * 0.1 + torch.randn(()) * 0.1  # noqa: NPY002
        return (self.x[i] + noise).float(), self.y[i]


def train(every: int | None, generator: bool, **options: Any) -> tuple[dict[str, Any], fg.Tracker | None]:
    """Two epochs over augmented samples, tracked on the training's own loader or not; all state at the end."""
    random.seed(3)
    np.random.seed(4)  # noqa: NPY002
    model = noisy()
    torch.manual_seed(2)
    own = torch.Generator().manual_seed(5) if generator else None
    loader = DataLoader(Augmented(), batch_size=16, shuffle=True, generator=own)
    tracker = fg.Tracker(model, loader, every=every, budget=PLENTY, **options) if every else None
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for x, y in loader:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
            if tracker:
                tracker.step()
                assert all(module.training for module in model.modules())
    state: dict[str, Any] = dict(model.state_dict())
    state |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    state["torch"], state["python"] = torch.get_rng_state(), random.getstate()
    state["numpy"] = np.random.get_state()[1]  # noqa: NPY002
    state["own"] = own.get_state() if own else torch.zeros(0)
    return state, tracker


@pytest.mark.parametrize("generator", [False, True])
@pytest.mark.parametrize("samples", [40, 4096])
def test_training_is_the_same_bit_for_bit(generator: bool, samples: int) -> None:
    wanted, _ = train(None, generator)
    found, tracker = train(1, generator, samples=samples)
    assert tracker is not None
    assert [snapshot.step for snapshot in tracker.history] == list(range(1, 13))
    assert tracker.history[0].report.samples == min(96, samples)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        same = torch.equal(found[name], value) if isinstance(value, Tensor) else np.all(found[name] == value)
        assert same, name


def test_a_snapshot_is_what_analyze_says() -> None:
    x, y = blobs(0)
    model = mlp(6, 5, 4, dtype=torch.float64)
    tracker = fg.Tracker(model, (x, y), weight_decay=0.01, at="bayes")
    report = tracker.analyze()
    wanted = quiet(model, (x, y), weight_decay=0.01, at="bayes")
    assert report is not None
    assert {**report.to_dict(), "seconds": 0} == {**wanted.to_dict(), "seconds": 0}
    assert report["0"].optimal_weight is None  # a history does not hold on to large tensors


def test_every_and_given_step_numbers() -> None:
    tracker = fg.Tracker(mlp(6, 5, 4, dtype=torch.float64), blobs(0), every=3, budget=PLENTY)
    reports = [tracker.step() for _ in range(7)]
    assert [report is not None for report in reports] == [False, False, True, False, False, True, False]
    assert tracker.step(20) is not None
    assert [snapshot.step for snapshot in tracker.history] == [3, 6, 20]


def test_what_does_not_fit_the_budget_is_put_off() -> None:
    tracker = fg.Tracker(mlp(6, 5, 4, dtype=torch.float64), blobs(0), every=1, budget=1e-9)
    for _ in range(5):
        tracker.step()
    assert [snapshot.step for snapshot in tracker.history] == [1]
    assert (tracker.cost.analyses, tracker.cost.put_off) == (1, 4)
    assert tracker.cost.seconds >= tracker.history[0].seconds > 0
    assert tracker.analyze() is not None  # asked for
    assert tracker.cost.analyses == len(tracker.history) == 2


class Moody(nn.Module):
    """Fails in evaluation mode when told to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.mood = model, None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and self.mood is not None:
            torch.randn(3)
            raise self.mood
        return self.model(x)


def test_a_failing_analysis_is_recorded_and_training_goes_on() -> None:
    model = Moody(noisy())
    before = copy.deepcopy(model.state_dict())
    x, y = blobs(0)
    tracker = fg.Tracker(model, (x.float(), y), every=1, budget=PLENTY)
    assert tracker.step() is not None
    model.mood = RuntimeError("out of sorts")
    state = torch.get_rng_state()
    with pytest.warns(fg.FeatgeoWarning, match="step 2 failed .*out of sorts"):
        assert tracker.step() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the same message is not repeated
        assert tracker.step() is None
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.mood = None
    assert tracker.step() is not None
    assert [step for step, _ in tracker.history.failures] == [2, 3]
    assert [snapshot.step for snapshot in tracker.history] == [1, 4]
    assert tracker.cost.analyses == 4


def test_an_interruption_is_not_swallowed() -> None:
    model = Moody(noisy())
    x, y = blobs(0)
    tracker = fg.Tracker(model, (x.float(), y), every=1, budget=PLENTY)
    model.mood, state = KeyboardInterrupt(), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        tracker.step()
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_to_show_yet() -> None:
    model = Moody(noisy())
    x, y = blobs(0)
    tracker = fg.Tracker(model, (x.float(), y))
    with pytest.raises(fg.FeatgeoError, match="no analysis yet"):
        tracker.to_frame()
    model.mood = ValueError("no")
    with pytest.warns(fg.FeatgeoWarning):
        tracker.analyze()
    with pytest.raises(fg.FeatgeoError, match=r"1 failed, the last: .*no"):
        tracker.plot()


def test_pairs_are_sampled_and_loaders_cut() -> None:
    """Sorted labels: the first samples would be of one class."""
    x, y = digits()
    order = y.argsort()
    pair = x[order], y[order]
    model = mlp(64, 8, 10)
    for data in (pair, tuple(part.numpy() for part in pair)):
        report = fg.Tracker(model, data, samples=300).analyze()
        assert report is not None
        assert report.samples == 300
        assert not report.warnings
    loader = DataLoader(TensorDataset(x, y), batch_size=128)
    report = fg.Tracker(model, loader, samples=300).analyze()
    assert report is not None
    assert report.samples == 300


def test_the_writer_gets_loss_cost_and_layers(tmp_path: Path) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        model = mlp(6, 5, 4, dtype=torch.float64)
        tracker = fg.Tracker(model, blobs(0), every=2, budget=PLENTY, writer=writer)
        for _ in range(4):
            tracker.step()
    events = EventAccumulator(str(tmp_path)).Reload()
    names = ("alignment", "locality", "gain_used", "gain_available")
    layers = {f"featgeo/{name}/{layer}" for name in names for layer in ("0", "2")}
    assert set(events.Tags()["scalars"]) == {"featgeo/loss", "featgeo/cost", *layers}
    found = [(event.step, event.value) for event in events.Scalars("featgeo/alignment/2")]
    wanted = [(s.step, s.report["2"].alignment) for s in tracker.history]
    assert [step for step, _ in found] == [2, 4]
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)


def test_a_writer_that_fails_does_not_stop_the_training() -> None:
    class Full:
        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            raise OSError("disk full")

    tracker = fg.Tracker(mlp(6, 5, 4, dtype=torch.float64), blobs(0), every=1, writer=Full())
    with pytest.warns(fg.FeatgeoWarning, match="OSError from the writer: disk full"):
        assert tracker.step() is not None


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"model": "resnet"}, "model"),
        ({"every": 0}, "every"),
        ({"samples": 0}, "samples"),
        ({"budget": 0.0}, "budget"),
        ({"budget": float("nan")}, "budget"),
        ({"loss": "hinge"}, "loss"),
        ({"data": []}, "data"),
        ({"data": 3}, "data"),
        ({"writer": "logs"}, "writer"),
    ],
)
def test_bad_arguments_are_named_at_once(options: dict[str, Any], argument: str) -> None:
    arguments = {"model": mlp(6, 4), "data": blobs(0), **options}
    with pytest.raises(fg.FeatgeoError, match=f"^{argument}"):
        fg.Tracker(**arguments)
