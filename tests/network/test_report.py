"""Reports: table, file, words; what rank and the width curve mean."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

import featgeo as fg
from featgeo.network.views import VIEW_FIELDS
from tests.network.models import Misfits, Residual, blobs, mlp, numbers, quiet


def residual_report(at: str = "average") -> fg.Report:
    torch.manual_seed(0)
    return quiet(Residual().double(), blobs(0), at=at, nulls=2)


def dead_report() -> fg.Report:
    """Alignments that are NaN, rows without a view."""
    torch.manual_seed(0)
    model = mlp(6, 5, 4, activation=nn.ReLU)
    with torch.no_grad():
        model[0].bias[:] = -100.0
    return quiet(nn.Sequential(model[:2], nn.BatchNorm1d(5), model[2]), blobs(0))


@pytest.fixture(params=["average", "bayes", "dead"])
def report(request: pytest.FixtureRequest) -> fg.Report:
    return dead_report() if request.param == "dead" else residual_report(request.param)


def test_save_and_load_keep_everything(report: fg.Report, tmp_path: Path) -> None:
    report.save(tmp_path / "r.json")
    again = fg.Report.load(tmp_path / "r.json")
    assert again.to_dict() == report.to_dict()
    assert repr(again) == repr(report)  # types too: tuples are tuples, NaN is NaN, None is None
    assert again.findings == report.findings
    for layer in report:
        assert again[layer.name].default == layer.default
        for at, view in layer.views.items():
            assert again[layer.name].view(at).optimal_weight is None
            assert view.optimal_weight is not None
    assert again.summary() == report.summary()
    pd.testing.assert_frame_equal(again.to_frame(), report.to_frame())


def test_the_file_is_plain_json(report: fg.Report, tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    report.save(str(tmp_path / "r.json"))
    data = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert data["format"] == 1
    assert list(data["layers"]) == list(report.layers)


def test_losses_that_are_not_finite_survive_the_file(report: fg.Report, tmp_path: Path) -> None:
    replace(report, loss_value=math.nan, constant_loss=math.nan).save(tmp_path / "r.json")
    again = fg.Report.load(tmp_path / "r.json")
    assert math.isnan(again.loss_value)
    assert math.isnan(again.constant_loss)
    assert "nan" in again.summary()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[1, 2]", b"3", b'"text"', b"not json", b"\xff\xfe\x00", b'{"format": 99}', b'{"format": 1}',
     b'{"format": 1, "layers": 3, "findings": []}', b'{"format": 1, "layers": {"a": {}}, "findings": []}'],
)  # fmt: skip
def test_a_file_that_is_no_report_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(fg.FeatgeoError, match=r"path: found .*r\.json, which is no featgeo report"):
        fg.Report.load(tmp_path / "r.json")


def test_a_report_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for spoil in (
        lambda data: data.update(surprise=1),
        lambda data: data.pop("samples"),
        lambda data: data["layers"]["head"]["views"]["average"].pop("alignment"),
        lambda data: data["layers"]["head"]["views"].update(average=3),
        lambda data: data.update(findings=[{"layer": "head"}]),
    ):
        data = residual_report().to_dict()
        spoil(data)
        path.write_text(json.dumps(data))
        with pytest.raises(fg.FeatgeoError, match="no featgeo report"):
            fg.Report.load(path)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(fg.FeatgeoError, match="path: found no file"):
        fg.Report.load(tmp_path / "none.json")


def test_names_are_looked_up() -> None:
    report = residual_report()
    assert report["head"].name == "head"
    assert len(report) == 4
    assert [layer.name for layer in report] == ["stem", "head", "inner", "outer"]
    with pytest.raises(
        fg.FeatgeoError, match=r"layer: found the name 'fc'\. Known layers: stem, head, inner, outer"
    ):
        report["fc"]


def test_a_layer_reads_its_default_view() -> None:
    layer = residual_report("bayes")["stem"]
    for name in VIEW_FIELDS:
        if name not in ("optimal_weight", "optimal_bias"):
            assert getattr(layer, name) == getattr(layer.view("bayes"), name)
    assert layer.view("average").at == "average"
    assert layer.rank(0.9) == layer.view("bayes").rank(0.9)
    with pytest.raises(AttributeError, match="no attribute 'alignments'"):
        _ = layer.alignments
    with pytest.raises(fg.FeatgeoError, match="no view at 'mean'"):
        layer.view("mean")


def test_frames() -> None:
    torch.manual_seed(0)
    report = quiet(Misfits(), (torch.randint(0, 20, (250, 5)), torch.arange(250) % 4), batch_size=100)
    frame = report.to_frame()
    assert list(frame.index) == list(report.layers)
    assert frame.loc["unused", "status"] == "skipped"
    assert frame.loc["unused", "reason"] == "never called in the forward pass"
    assert math.isnan(frame.loc["unused", "alignment"])
    head = report["head"]
    assert frame.loc["head", "alignment"] == head.alignment
    assert frame.loc["head", "rank99"] == head.rank(0.99)
    report = residual_report()
    both = report.to_frame(), report.to_frame("bayes")
    assert both[0].loc["stem", "gain_available"] == report["stem"].view("average").gain_available
    assert both[1].loc["stem", "gain_available"] == report["stem"].view("bayes").gain_available
    assert math.isnan(both[1].loc["inner", "gain_available"])
    with pytest.raises(fg.FeatgeoError, match="at: found 'mean'"):
        report.to_frame("mean")


def test_summary_names_loss_layers_and_findings() -> None:
    report = residual_report()
    text = report.summary()
    assert text.splitlines()[0].startswith("300 samples, cross_entropy: loss ")
    assert all(f"{layer.name}: alignment {layer.alignment:.3f}" in text for layer in report)
    assert all(f.title in text and f.remedy in text for f in report.findings)


def test_reports_can_be_copied_and_pickled() -> None:
    report = residual_report()
    for other in (copy.copy(report), copy.deepcopy(report), pickle.loads(pickle.dumps(report))):
        assert numbers(other) == numbers(report)
        assert torch.equal(other["stem"].optimal_weight, report["stem"].optimal_weight)


def view(**changes: Any) -> fg.View:
    values: dict[str, Any] = dict.fromkeys(VIEW_FIELDS[1:], 0.0)
    values |= {"saturated": (), "nulls": {}, "optimal_weight": None, "optimal_bias": None}
    values |= {"spectrum": (3.0, 2.0, 1.0, 0.1), "noise_floor": 0.5, "constant_loss": 10.0} | changes
    return fg.View(at="average", **values)


def test_rank_counts_significant_modes_only() -> None:
    """Squares 9, 4, 1 of 14; the fourth mode lies below the floor."""
    one = view()
    assert one.significant == 3
    assert [one.rank(fraction) for fraction in (9 / 14, 0.65, 13 / 14, 0.93, 1.0)] == [1, 2, 2, 3, 3]
    assert one.rank() == 3
    assert view(noise_floor=0.0).rank(1.0) == 4
    assert view(noise_floor=5.0).rank(0.99) == 0
    assert view(spectrum=()).rank(0.99) == 0
    assert view(noise_floor=3.0).significant == 0  # on the floor is not above it


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_a_fraction_that_is_none(fraction: float) -> None:
    with pytest.raises(fg.FeatgeoError, match="fraction"):
        view().rank(fraction)


def test_the_width_curve_falls_from_the_constant_loss_by_half_squares() -> None:
    assert view().width_curve == pytest.approx((10.0, 5.5, 3.5, 3.0, 2.995))
    assert view(spectrum=()).width_curve == (10.0,)
    for layer in residual_report():
        curve = layer.width_curve
        assert curve[0] == layer.constant_loss
        assert curve[-1] == pytest.approx(layer.constant_loss - layer.gain_available, rel=1e-9)
        assert all(one >= other for one, other in itertools.pairwise(curve))
