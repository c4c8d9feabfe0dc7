"""Passes that end early: by number, by time, by the figures having settled; and how well the figures are known."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import featgeo as fg
from tests.network.models import Asinh, Residual, blobs, mlp, numbers, quiet, train

POINTS = ("alignment", "gain_available", "gain_used")


def stream(count: int, size: int = 50) -> list[tuple[Tensor, Tensor]]:
    x, y = blobs(0, count=count * size, spread=0.7)
    return list(zip(x.split(size), y.split(size), strict=True))


def trained() -> nn.Sequential:
    torch.manual_seed(0)
    x, y = blobs(0, count=1500, spread=0.7)
    return train(mlp(6, 8, 4, dtype=torch.float64), x, y, 100)  # type: ignore[return-value]


def smooth(z: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(z, y, reduction="none") + 0.01 * z.square().sum(1)


@pytest.mark.parametrize("loss", ["cross_entropy", smooth], ids=["canonical", "callable"])
def test_max_batches_is_as_good_as_fewer_batches(loss: object) -> None:
    data = stream(12)
    report = quiet(trained(), data, loss, max_batches=5, nulls=1)
    wanted = quiet(trained(), data[:5], loss, nulls=1)
    assert (report.batches, report.samples, report.stopped) == (5, 250, "max_batches")
    assert (wanted.batches, wanted.stopped) == (5, "data")
    assert {**numbers(report), "stopped": ""} == {**numbers(wanted), "stopped": ""}
    assert "ended by max_batches after 5 batches" in " ".join(str(report).split())
    assert "ended" not in str(wanted)


class Slow:
    """Batches that take their time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.read = seconds, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in stream(40):
            time.sleep(self.seconds)
            self.read += 1
            yield batch


@pytest.mark.parametrize("loss", ["cross_entropy", smooth], ids=["canonical", "callable"])
def test_max_seconds_ends_the_pass_and_is_no_error(loss: object) -> None:
    data = Slow(0.02)
    report = quiet(trained(), data, loss, max_seconds=0.3)
    assert report.stopped == "max_seconds"
    assert 1 <= report.batches < 20
    assert report.samples == 50 * report.batches
    wanted = quiet(trained(), stream(40)[: report.batches], loss)
    assert report["2"].gain_available == pytest.approx(wanted["2"].gain_available, rel=1e-6)
    assert report.constant_loss == pytest.approx(wanted.constant_loss, rel=1e-9)


def test_one_batch_is_read_however_late() -> None:
    report = quiet(trained(), stream(3), max_seconds=1e-9)
    assert (report.batches, report.stopped) == (1, "max_seconds")


def test_the_pass_ends_when_the_figures_have_settled() -> None:
    data = stream(400)
    report = quiet(trained(), data, tol=0.03)
    assert report.stopped == "tol"
    assert 16 <= report.batches < 200
    everything = quiet(trained(), data)
    for layer in report.analysed:
        assert layer.alignment_error <= 0.03
        assert layer.gain_available_error <= 0.03 * layer.gain_available
        assert layer.alignment == pytest.approx(everything[layer.name].alignment, abs=0.06)
        assert layer.gain_available == pytest.approx(everything[layer.name].gain_available, rel=0.1)
    finer = quiet(trained(), data, tol=0.012)
    assert finer.stopped == "data" or finer.batches > report.batches


def test_a_tolerance_that_is_not_reached_reads_everything() -> None:
    report = quiet(trained(), stream(20), tol=1e-6)
    assert (report.batches, report.stopped) == (20, "data")


def test_data_in_order_do_not_settle_early() -> None:
    """Classes one after the other: few batches say nothing of the rest, and their standard errors show it."""
    x, y = blobs(0, count=6000, spread=0.7)
    order = y.argsort(stable=True)
    ordered = list(zip(x[order].split(50), y[order].split(50), strict=True))
    assert quiet(trained(), list(zip(x.split(50), y.split(50), strict=True)), tol=0.05).stopped == "tol"
    assert quiet(trained(), ordered, tol=0.05).batches > 90


def test_a_layer_without_effect_does_not_keep_the_others_waiting() -> None:
    torch.manual_seed(0)
    model = mlp(6, 5, 4, activation=nn.ReLU, dtype=torch.float64)
    with torch.no_grad():
        model[0].bias[:] = -100.0
    assert quiet(model, stream(300), tol=0.05).stopped == "tol"


def test_fewer_samples_than_features_have_not_settled_and_have_no_errors() -> None:
    torch.manual_seed(0)
    x, y = blobs(0, count=400, width=600)
    report = quiet(mlp(600, 4, dtype=torch.float64), (x, y), batch_size=10, tol=0.5)
    assert report.stopped == "data"
    assert report["0"].alignment_error is None


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_standard_errors_agree_with_the_bootstrap(decay: float) -> None:
    """Of the average tail. A bootstrap of 60 knows a deviation to 9 %, 256 samples know it to about 6 %."""
    x, y = blobs(0, count=1500, spread=0.7)
    torch.manual_seed(0)
    model = train(mlp(6, 8, 5, 4, activation=Asinh, dtype=torch.float64), x, y, 150)
    report = quiet(model, (x, y), weight_decay=decay)
    drawn: dict[str, list[list[float]]] = {}
    generator = torch.Generator().manual_seed(5)
    for _ in range(60):
        pick = torch.randint(0, len(x), (len(x),), generator=generator)
        for layer in quiet(model, (x[pick], y[pick]), weight_decay=decay).analysed:
            view = layer.view("average")
            drawn.setdefault(layer.name, []).append([getattr(view, name) for name in POINTS])
    for name, rows in drawn.items():
        view = report[name].view("average")
        found = torch.tensor([getattr(view, f"{point}_error") for point in POINTS])
        ratio = found / torch.tensor(rows).std(0)
        assert (ratio > 0.7).all(), (name, ratio)
        assert (ratio < 1.4).all(), (name, ratio)


@pytest.mark.parametrize("decay", [0.0, 0.02])
def test_standard_errors_beside_another_road_agree_with_the_bootstrap(decay: float) -> None:
    """At the mean Jacobian, which is drawn anew with the samples; inner and outer layer of a residual branch."""
    x, y = blobs(0, count=400, spread=0.7)
    torch.manual_seed(0)
    model = train(Residual().double(), x, y, 150)
    generator, drawn = torch.Generator().manual_seed(5), dict[str, list[list[float]]]()
    for seed in range(60):
        pick = torch.randint(0, len(x), (len(x),), generator=generator)
        for layer in quiet(model, (x[pick], y[pick]), weight_decay=decay, seed=seed):
            if "jacobian" in layer.views:
                drawn.setdefault(layer.name, []).append([getattr(layer, name) for name in POINTS])
    report = quiet(model, (x, y), weight_decay=decay)
    assert drawn.keys() == {"inner", "outer"}
    for name, rows in drawn.items():
        found = torch.tensor([getattr(report[name], f"{point}_error") for point in POINTS])
        ratio = found / torch.tensor(rows).std(0)
        assert (ratio > 0.7).all(), (name, ratio)
        assert (ratio < 1.4).all(), (name, ratio)


def test_standard_errors_of_grouped_convolutions_agree_with_the_bootstrap() -> None:
    x, y = blobs(0, count=600, spread=0.7)
    x = torch.stack([x, x.roll(1, 1)], 2) + 0.3 * torch.randn(600, 6, 2, dtype=x.dtype)

    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv1d(6, 6, 2, groups=3), nn.Linear(6, 4)

        def forward(self, z: Tensor) -> Tensor:
            return self.last(self.first(z).asinh().flatten(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = train(Grouped().double(), x, y, 100)
    generator, drawn = torch.Generator().manual_seed(5), []
    for _ in range(60):
        pick = torch.randint(0, len(x), (len(x),), generator=generator)
        view = quiet(model, (x[pick], y[pick]), layers="first")["first"].view("average")
        drawn.append([getattr(view, name) for name in POINTS])
    view = quiet(model, (x, y))["first"].view("average")
    ratio = torch.tensor([getattr(view, f"{point}_error") for point in POINTS]) / torch.tensor(drawn).std(0)
    assert (ratio > 0.7).all(), ratio
    assert (ratio < 1.4).all(), ratio


def test_standard_errors_of_a_finite_sample_of_batches_shrink_like_its_root() -> None:
    data = stream(400)
    few, many = quiet(trained(), data[:40]), quiet(trained(), data)
    for layer in few.analysed:
        for name in POINTS:
            ratio = getattr(layer, f"{name}_error") / getattr(many[layer.name], f"{name}_error")
            assert ratio == pytest.approx(10**0.5, rel=0.4)


def test_bypassed_layers_and_absent_classes_have_standard_errors() -> None:
    torch.manual_seed(0)
    x, y = blobs(0, classes=3)
    for layer in quiet(Residual().double(), (x, y)).analysed:
        assert all(getattr(layer.view("average"), f"{name}_error") > 0 for name in POINTS)


def test_reports_show_standard_errors_and_old_files_have_none(tmp_path: Path) -> None:
    report = quiet(trained(), stream(10))
    layer = report["2"]
    assert f"alignment {layer.alignment:.3f} ± {layer.alignment_error:.1g}" in report.summary()
    assert report.to_frame().loc["2", "alignment_error"] == layer.alignment_error
    report.save(tmp_path / "r.json")
    assert fg.Report.load(tmp_path / "r.json")["2"].gain_used_error == layer.gain_used_error
    data = json.loads((tmp_path / "r.json").read_text())
    del data["batches"], data["stopped"]
    for view in data["layers"]["2"]["views"].values():
        for name in POINTS:
            del view[f"{name}_error"]
    (tmp_path / "old.json").write_text(json.dumps(data))
    old = fg.Report.load(tmp_path / "old.json")
    assert old["2"].alignment_error is None
    assert (old.batches, old.stopped) == (0, "data")
    assert "±" not in old.summary().splitlines()[2]
