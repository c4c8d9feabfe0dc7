"""The history as a table, a file and a figure."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import featgeo as fg
from tests.network.models import blobs, mlp, train


@pytest.fixture(scope="module")
def tracker() -> fg.Tracker:
    torch.manual_seed(0)
    x, y = blobs(0)
    model = mlp(6, 5, 4, activation=nn.Tanh, dtype=torch.float64)
    tracker = fg.Tracker(model, (x, y), every=10, budget=1e9)
    tracker.analyze()
    for _ in range(3):
        train(model, x, y, 10)
        tracker.step(tracker._step + 10)
    return tracker


def test_the_frame_has_a_row_per_step_and_layer(tracker: fg.Tracker) -> None:
    frame = tracker.to_frame()
    assert frame.index.names == ["step", "layer"]
    assert list(frame.index) == [(step, layer) for step in (0, 10, 20, 30) for layer in ("0", "2")]
    for snapshot in tracker.history:
        assert (frame.loc[snapshot.step, "loss"] == snapshot.report.loss_value).all()
        pd.testing.assert_frame_equal(
            frame.loc[snapshot.step].drop(columns="loss"), snapshot.report.to_frame()
        )
    assert frame["loss"].iloc[-1] < frame["loss"].iloc[0]
    assert not frame.equals(tracker.to_frame("bayes"))


def test_saved_and_loaded_it_is_the_same(tracker: fg.Tracker, tmp_path: Path) -> None:
    tracker.history.failures.append((25, "RuntimeError: once"))
    tracker.save(tmp_path / "history.json")
    tracker.history.failures.clear()
    loaded = fg.History.load(tmp_path / "history.json")
    assert loaded.failures == [(25, "RuntimeError: once")]
    assert [vars(s) for s in loaded] == [vars(s) for s in tracker.history]
    pd.testing.assert_frame_equal(loaded.to_frame(), tracker.to_frame())
    assert list(loaded.reports()) == ["step 0", "step 10", "step 20", "step 30"]


def test_its_text_lists_loss_and_alignments(tracker: fg.Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = str(tracker.history).splitlines()
    assert lines[0] == "4 analyses, steps 0 to 30"
    for line, snapshot in zip(lines[1:], tracker.history, strict=True):
        alignments = sorted(layer.alignment for layer in snapshot.report)
        assert line.startswith(
            f"  step {snapshot.step}: loss {snapshot.report.loss_value:.4g}, alignment from "
        )
        assert [float(word.rstrip(",")) for word in line.split() if word.count(".") == 1][
            1:
        ] == pytest.approx(alignments, abs=6e-4)
    monkeypatch.setattr("featgeo.network.tracking.history.LINES", 2)
    assert str(tracker.history).splitlines()[1:] == [lines[1], "  ... 2 more ...", lines[4]]
    failed = fg.History([], [(7, "RuntimeError: once")])
    assert str(failed) == "no analysis yet\nfailed at step 7: RuntimeError: once"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1, "kind": "history", "snapshots": [{}]}', "\x00"]
)
def test_what_is_no_history(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(fg.FeatgeoError, match="no history of featgeo"):
        fg.History.load(tmp_path / "other.json")
    with pytest.raises(fg.FeatgeoError, match="no file"):
        fg.History.load(tmp_path / "none.json")


def test_a_report_is_no_history(tracker: fg.Tracker, tmp_path: Path) -> None:
    tracker.history[0].report.save(tmp_path / "report.json")
    with pytest.raises(fg.FeatgeoError, match="no history of featgeo"):
        fg.History.load(tmp_path / "report.json")


def test_the_file_is_strict_json_with_numbers_that_do_not_exist_as_null(
    tracker: fg.Tracker, tmp_path: Path
) -> None:
    model = mlp(6, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight.zero_()
    other = fg.Tracker(model, blobs(0))
    report = other.analyze()
    assert report is not None
    assert math.isnan(report["0"].alignment)
    other.save(tmp_path / "history.json")
    json.loads((tmp_path / "history.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert math.isnan(fg.History.load(tmp_path / "history.json")[0].report["0"].alignment)


def test_the_figure_shows_loss_alignment_and_gain_of_each_layer(tracker: fg.Tracker) -> None:
    loss, alignment, gain = tracker.plot().axes
    frame = tracker.to_frame()
    assert list(loss.lines[0].get_ydata()) == [s.report.loss_value for s in tracker.history]
    for layer in ("0", "2"):
        values = frame.xs(layer, level="layer")
        drawn = [list(line.get_ydata()) for axes in (alignment, gain) for line in axes.lines]
        for name in ("alignment", "gain_used", "gain_available"):
            assert list(values[name]) in drawn
    assert {text.get_text() for text in gain.texts} >= {"0", "2"}
    tracker.plot("bayes")


def test_one_snapshot_is_enough_for_a_figure(tracker: fg.Tracker) -> None:
    assert len(fg.History(tracker.history.snapshots[:1]).plot().axes) == 3
