"""Rows and words: the same numbers as the report's own, and numbers that people can read."""

import math

import pytest

from featgeo.network.views import layer_from
from featgeo.show.digest import caption, findings, grouped, headline
from featgeo.show.html import page
from featgeo.show.rows import OWN, first_point, points, rows
from featgeo.show.spoken import alignment as alignment_words
from featgeo.show.words import number, row_note
from tests.show.fakes import fake_layer, fake_report, five_layers, many_layers


@pytest.mark.parametrize("data", [five_layers(), many_layers(12)], ids=["five", "many"])
def test_what_is_derived_is_what_the_report_derives(data):
    for at in points(data):
        for row in rows(data, at):
            plain = data["layers"][row.name]
            if at not in plain["views"]:
                assert not row.has_view
                continue
            view = layer_from(dict(plain)).view(at)
            assert row.significant == view.significant
            assert row.rank99 == view.rank(0.99)
            assert row.width_curve == view.width_curve


def test_operating_points_come_in_order():
    data = five_layers()
    assert points(data) == ("average", "bayes")
    assert first_point({**data, "at": "bayes"}) == "bayes"
    del data["layers"]["conv1"]["views"]["average"]
    one = fake_report([data["layers"]["conv1"]])
    assert points(one) == ("bayes",)
    assert first_point(one) == "bayes"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (1.0, "1.00"), (-5.6231, "−5.62"), (0.12345, "0.123"), (0.012345, "0.0123"), (9.996, "10.0"),
        (0.0012345, "0.00123"), (12345.6, "12,346"), (1e-5, "1.00e−05"), (2e7, "2.00e+07"), (None, "–"),
        (math.nan, "–"), (math.inf, "–"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_numbers_with_fixed_decimals():
    assert [number(v, decimals=2) for v in (-0.001, 0.999, -0.204)] == ["0.00", "1.00", "−0.20"]


def test_the_headline_of_a_useless_model():
    data = fake_report([fake_layer("fc", "Linear", 4, 4, 1.0)], loss_value=2.5)
    assert headline(data)[0].endswith("no better than a constant.")
    assert "removes" not in headline({**data, "loss": "poisson", "constant_loss": -1.0})[0]


def test_texts_that_differ_in_numbers_are_merged_when_there_are_many():
    few = {"k 1": ["a"], "k 2": ["b"]}
    assert grouped([("a", "k 1"), ("b", "k 2")]) == few
    assert grouped((name, f"rank {i} of {i + 7}.") for i, name in enumerate("abcd")) == {
        "rank 0 to 3 of 7 to 10.": list("abcd")
    }


def test_lists_of_numbers_count_as_one_number():
    lists = ("1 of 9 (3)", "2 of 9 (3, 14)", "3 of 9 (3, 14, 15)", "9 of 9 (0, 1, 2 ...)")
    assert grouped(zip("abcd", lists, strict=True)) == {"… of … (…)": list("abcd")}


def test_a_model_far_from_its_local_region_is_said_to_be():
    layers = [fake_layer(f"fc{i}", "Linear", 4, 4, 0.0) for i in range(3)]
    assert "in none of the 3 layers" in headline(fake_report(layers))[1]


def test_findings_are_grouped_and_ordered():
    item = {"layer": "a", "title": "wide", "detail": "5 of 8", "remedy": "Cut.", "severity": "note"}
    found = findings(
        {"findings": [item, {**item, "layer": "b"}, {**item, "severity": "act", "title": "bad"}]}
    )
    assert [(group.kind, group.title, len(group.layers)) for group in found] == [
        ("act", "Bad.", 1),
        ("note", "Wide.", 2),
    ]
    assert found[1].remedy == "Cut."
    assert found[1].layers[1] == ("b", "5 of 8.", "")


def test_a_row_says_where_more_gain_is_promised_than_there_is_loss():
    data = five_layers()
    data["layers"]["fc1"]["views"]["average"]["gain_available"] = 121.0
    found = {row.name: row for row in rows(data)}
    assert [name for name, row in found.items() if row.promised] == ["fc1"]
    assert row_note(found["fc1"], "average") == "gain of 121 promised where there is 2.30 to gain"
    assert row_note(found["fc2"], "average") == ""
    assert not any(row.promised for row in rows({**data, "loss": "poisson"}))


def test_layers_are_shown_at_their_own_operating_points():
    data = five_layers()
    assert OWN not in points(data)
    name, layer = next((name, layer) for name, layer in data["layers"].items() if "average" in layer["views"])
    other = {**layer["views"]["average"], "at": "jacobian", "alignment": 0.123}
    changed = {**layer, "default": "jacobian", "views": {**layer["views"], "jacobian": other}}
    mixed = {**data, "layers": {**data["layers"], name: changed}}
    assert points(mixed)[0] == first_point(mixed) == OWN
    own = {row.name: row for row in rows(mixed)}
    assert own[name].alignment == 0.123
    rest = [row for row in rows(data) if row.name != name]
    assert rest == [row for row in own.values() if row.name != name]
    assert "layer's own point" in caption(mixed)
    assert "Layer&#39;s own point" in page(mixed)
    assert "0.12" in alignment_words(mixed)
