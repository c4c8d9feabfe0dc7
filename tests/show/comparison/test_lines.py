"""Layers in one order, headline, models, findings."""

import pytest

from featgeo.errors import FeatgeoError
from featgeo.show.comparison.lines import findings, headline, layer_order, lines, models
from tests.show.comparison.fakes import fake_comparison, two
from tests.show.fakes import fake_layer, fake_report


@pytest.mark.parametrize(
    ("lists", "order"),
    [
        (["ab", "ab"], "ab"),
        (["ac", "abc"], "abc"),
        (["abc", "ac"], "abc"),
        (["bc", "abcd"], "abcd"),
        (["ab", "cd"], "cdab"),
        (["abd", "acd"], "acbd"),
        (["ab", "ba"], "ab"),
        (["", "ab"], "ab"),
    ],
)
def test_the_order_of_layers(lists, order):
    assert "".join(layer_order(lists)) == order


def test_lines_have_one_length_and_empty_rows_where_a_layer_is_missing():
    found = lines(two())
    assert [row.name for row in found["large"]] == [row.name for row in found["small"]]
    absent = [row for row in found["small"] if row.name == "fc1"]
    assert [(row.status, row.alignment) for row in absent] == [("absent", None)]


def test_the_headline_names_best_and_worst():
    assert (
        headline(two())
        == "Of 2 models large has the lowest cross-entropy, 1.19; small has the highest, 1.90."
    )
    one = fake_report([fake_layer("fc", "Linear", 4, 4, 0.5)])
    assert headline(fake_comparison({"a": one, "b": one})).endswith("all have the same cross-entropy, 1.19.")
    other = {**one, "loss": "mse"}
    assert headline(fake_comparison({"a": one, "b": other})) == "2 reports side by side."
    nothing = {**one, "loss_value": None}
    assert headline(fake_comparison({"a": one, "b": nothing})) == "2 reports side by side."


def test_models_and_findings():
    assert models(two())["large"] == ["1.19", "2.30", "48%", "10,000", "5 of 6", "1", "1", "1"]
    found = findings(two())
    assert [(severity, cells) for severity, _, cells in found] == [
        ("Act", ["fc2", ""]), ("Doubt", ["conv1", ""]), ("Note", ["fc1", ""])
    ]  # fmt: skip


@pytest.mark.parametrize("data", [{}, [], {"reports": {}}, {"reports": {"a": {}}}])
def test_what_is_no_comparison(data):
    with pytest.raises(FeatgeoError, match="data"):
        lines(data)
