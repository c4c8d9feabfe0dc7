"""The figure over training steps: every curve, hollow marks where a layer is not local, thinned layers."""

import pytest

from featgeo.show import style
from featgeo.show.timeline import timeline
from tests.show.fakes import fake_report, five_layers, many_layers, skipped_layer


def test_every_layer_has_its_curves():
    figure = timeline([(0, five_layers()), (100, five_layers())])
    _, alignment, gain = figure.axes
    lines = [
        line for line in alignment.lines if len(line.get_xdata()) == 2 and list(line.get_xdata()) == [0, 100]
    ]
    assert len(lines) == 5  # the skipped layer has none
    assert {text.get_text() for text in gain.texts} >= {"conv1", "conv2", "fc1", "fc2", "head"}


@pytest.mark.parametrize("absurd", [False, True])
def test_gains_that_cannot_be_do_not_set_the_scale(absurd):
    """More than the best constant loses: cut, marked and counted; so are weights far worse than none (those of fc2)."""
    first, second = five_layers(), five_layers()
    view = first["layers"]["fc1"]["views"]["average"]
    if absurd:
        view["gain_available"], view["gain_used"] = 1e4, -3e5
    gain = timeline([(0, first), (100, second)]).axes[2]
    low, high = gain.get_ylim()
    constant = view["constant_loss"]
    assert high <= 1.1 * constant
    assert low >= -constant
    assert absurd == (high > 1.07 * constant)
    told = [text.get_text() for text in gain.get_legend().get_texts()]
    count = 2 + 2 * absurd
    assert f"beyond the scale: {count} of 20 values" in told
    assert sum(line.get_marker() in ("^", "v") for line in gain.lines) == count


def test_marks_are_hollow_where_a_layer_is_not_local():
    figure = timeline([(0, five_layers()), (100, five_layers())])
    marks = [line for line in figure.axes[1].lines if line.get_marker() == "o"]
    hollow = [line.get_markerfacecolor() == style.PAPER for line in marks]
    local = [v["views"]["average"]["locality"] >= 0.8 for v in five_layers()["layers"].values() if v["views"]]
    assert hollow == [not value for value in local for _ in range(2)]


def test_deep_networks_are_thinned_and_it_is_said():
    figure = timeline([(0, many_layers(40)), (10, many_layers(40))])
    assert any("6 of 40 layers" in text.get_text() for text in figure.axes[1].texts)


@pytest.mark.parametrize("at", [None, "average", "bayes"])
def test_layers_that_come_and_go(at):
    first, second = five_layers(), five_layers()
    del first["layers"]["fc1"]
    second["layers"]["conv1"]["views"] = {}
    assert len(timeline([(0, first), (5, second)], at).axes) == 3


def test_nothing_analysed():
    assert (
        len(timeline([(0, fake_report([skipped_layer("norm", "no weight matrix")], loss_value=None))]).axes)
        == 3
    )
