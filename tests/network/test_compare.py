"""Reports side by side: one frame, notes on what does not compare, every view."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import nn

import featgeo as fg
from tests.network.models import Residual, blobs, mlp, quiet, train


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, fg.Report]:
    torch.manual_seed(0)
    x, y = blobs(0)
    model = mlp(6, 5, 4, activation=nn.Tanh, dtype=torch.float64)
    before = quiet(model, (x, y))
    return {"before": before, "after": quiet(train(model, x, y, 60), (x, y))}


def test_the_frame_is_layers_by_number_and_report(checkpoints: dict[str, fg.Report]) -> None:
    frame = fg.compare(checkpoints).to_frame()
    assert list(frame.index) == ["0", "2"]
    assert frame.columns.names == ["number", "report"]
    for name, report in checkpoints.items():
        pd.testing.assert_frame_equal(
            frame.xs(name, axis=1, level="report"), report.to_frame(), check_names=False
        )
        assert frame["alignment"].loc["2", name] == report["2"].alignment
    bayes = fg.compare(checkpoints).to_frame("bayes")
    assert bayes["alignment"].loc["0", "after"] == checkpoints["after"]["0"].view("bayes").alignment


def test_layers_of_different_models_are_merged_in_order() -> None:
    x, y = blobs(0)
    torch.manual_seed(0)
    small = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    deep = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 4)).double()
    comparison = fg.compare({"small": quiet(small, (x, y)), "deep": quiet(deep, (x, y))})
    frame = comparison.to_frame()
    assert list(frame.index) == ["0", "1", "2", "3"]
    assert math.isnan(frame["alignment"].loc["3", "small"])
    assert not math.isnan(frame["alignment"].loc["3", "deep"])
    assert comparison["deep"]["3"].neurons == 4
    assert len(comparison) == 2
    assert comparison.notes == ()
    with pytest.raises(fg.FeatgeoError, match="the name 'wide'"):
        comparison["wide"]


def test_saved_reports_can_be_compared(checkpoints: dict[str, fg.Report], tmp_path: Path) -> None:
    for name, report in checkpoints.items():
        report.save(tmp_path / f"{name}.json")
    read = fg.compare({"before": tmp_path / "before.json", "after": str(tmp_path / "after.json")})
    assert read.to_dict() == fg.compare(checkpoints).to_dict()


def test_every_view_has_every_model_and_layer(checkpoints: dict[str, fg.Report], tmp_path: Path) -> None:
    comparison = fg.compare(checkpoints)
    comparison.to_html(tmp_path / "page.html")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(comparison)
    views = [
        (tmp_path / "page.html").read_text(),
        comparison._repr_html_(),
        str(comparison),
        console.export_text(),
    ]
    for view in views:
        assert all(
            name in view for name in ("before", "after", "alignment" if view is views[2] else "lignment")
        )
        assert f"{checkpoints['after']['2'].alignment:.2f}" in view
        assert f"{checkpoints['before']['0'].alignment:.2f}".replace("-", "") in view
    figure = comparison.plot()
    drawn = {
        tuple(line.get_xdata())
        for part in figure.subfigs[1].subfigs
        for axes in part.axes
        for line in axes.lines
    }
    for report in checkpoints.values():
        for name in ("alignment", "locality", "gain_available"):
            assert tuple(getattr(layer, name) for layer in report) in drawn


def test_what_differs_beside_the_networks_is_noted() -> None:
    x, y = blobs(0)
    model = mlp(6, 5, 4, dtype=torch.float64)
    plain = quiet(model, (x, y))
    penalised, few = quiet(model, (x, y), weight_decay=0.01), quiet(model, (x[:150], y[:150]))
    squares = quiet(model, (x, nn.functional.one_hot(y).double()), "mse")
    notes = fg.compare({"a": plain, "b": penalised}).notes
    assert notes == ("The weight decay differs (a: 0, b: 0.01): alignments refer to different optima.",)
    notes = fg.compare({"a": plain, "few": few}).notes
    assert [note.split(" differ")[0] for note in notes][-1] == "The numbers of samples"
    notes = fg.compare({"a": plain, "c": squares}).notes
    assert notes == ("The losses differ (a: cross_entropy, c: mse): gains are in different units.",)
    skewed = quiet(model, (torch.cat([x, x[y == 0]]), torch.cat([y, y[y == 0]])))
    assert any(
        "these are different data" in note for note in fg.compare({"a": plain, "skewed": skewed}).notes
    )
    assert fg.compare({"a": plain, "again": plain}).notes == ()
    printed = " ".join(str(fg.compare({"a": plain, "b": penalised})).split())
    assert "different optima" in printed


def test_a_layer_without_the_operating_point() -> None:
    x, y = blobs(0)
    torch.manual_seed(0)
    report = quiet(Residual().double(), (x, y))
    assert "bayes" not in report["inner"].views
    comparison = fg.compare({"a": report, "b": report}, at="bayes")
    assert math.isnan(comparison.to_frame()["alignment"].loc["inner", "a"])
    assert "inner" in str(comparison)


@pytest.mark.parametrize(
    ("reports", "at", "message"),
    [
        ({}, None, "an empty mapping"),
        ([1], None, "a list"),
        ({"a": 3}, None, "a int named 'a'"),
        ({"a": "no such file.json"}, None, "no file"),
        (None, "middle", "^at: found 'middle'"),
    ],
)
def test_bad_input(checkpoints: dict[str, fg.Report], reports: Any, at: Any, message: str) -> None:
    with pytest.raises(fg.FeatgeoError, match=message):
        fg.compare(checkpoints if reports is None else reports, at)
    with pytest.raises(fg.FeatgeoError, match="at"):
        fg.compare(checkpoints).to_frame("middle")
