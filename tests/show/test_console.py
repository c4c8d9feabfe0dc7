"""The terminal table: columns by width, nothing cut, findings and reasons below."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from featgeo.errors import FeatgeoError
from featgeo.show import words
from featgeo.show.console import as_text, report_table
from tests.show.fakes import fake_layer, fake_report, five_layers, many_layers, skipped_layer


def printed(data, width):
    return as_text(report_table(data), width)


@pytest.mark.parametrize("width", [80, 100, 140, 160])
def test_every_width_keeps_names_and_the_main_numbers(width):
    text = printed(five_layers(), width)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    assert "…" not in text
    heading = next(line for line in lines if line.startswith("layer"))
    assert all(title in heading for title in ("alignment", "locality", "gain used", "available"))
    row = next(line for line in lines if line.startswith("fc2"))
    assert all(value in row for value in ("0.41", "0.82", "-5.62", "0.738"))
    assert all(any(line.startswith(name) for line in lines) for name in five_layers()["layers"])


def test_wider_terminals_show_more():
    narrow, wide = printed(five_layers(), 80), printed(five_layers(), 140)
    assert "tail R²" not in narrow
    assert "status" in narrow
    assert all(title in wide for title in ("±", "tail R²", "rank 99 %", "size", "adjusted"))
    assert all(f"gap {part}" in printed(five_layers(), 166) for part in ("weight", "bias", "rank"))


def test_long_names_go_on_over_the_line():
    text = printed(fake_report([fake_layer("block." * 20 + "conv", "Conv2d", 8, 8, 0.5)]), 80)
    name = "".join(line.split()[0] for line in text.splitlines() if line.startswith("block"))
    assert "…" not in text
    assert "block." * 3 in name


def test_findings_warnings_and_reasons_stand_below():
    text = printed(five_layers(), 140)
    assert "10,000 samples · cross-entropy 1.19 · best constant 2.30 · at the average tail" in text
    assert "! act: Weights far from their local optimum. fc2:" in text
    assert "? doubt:" in text
    assert "· note:" in text
    assert "skipped: attention.out_proj (its output is a tuple)" in text
    assert "bypassed: conv2 (with the layer frozen" in text
    assert "! warning: conv1: 2 of 16 neurons are saturated" in text
    assert text.index("act:") < text.index("doubt:") < text.index("note:")


def test_reasons_that_differ_in_a_number_are_told_together():
    layers = [fake_layer(f"conv{i}", "Conv2d", 8, 8, i / 9) for i in range(9)]
    for i, layer in enumerate(layers):
        layer.update(status="bypassed", reason=f"the output still varies ({i}.1e-02 relative)")
    text = printed(fake_report(layers), 100)
    assert text.count("the output still varies") == 1
    assert "and 3 more" in text


def test_what_is_special_of_a_row_is_told_below_the_table():
    """Why it is bypassed, what is to be said of its view, a gain that cannot be: each once, as in the page."""
    layers = [fake_layer(name, "Linear", 4, 4, 1.0) for name in ("fc1", "fc2", "fc3")]
    layers[0].update(status="bypassed", reason="the output still varies; a road leads past")
    layers[0]["views"]["average"]["remark"] = layers[1]["views"]["average"]["remark"] = "not unique"
    layers[1]["views"]["average"]["gain_available"] = 121.0
    text = " ".join(printed(fake_report(layers), 166).split())
    assert "bypassed: fc1 (the output still varies; a road leads past)" in text
    assert "bypassed: fc1 (not unique)" in text
    assert "analysed: fc2 (not unique)" in text
    assert "analysed: fc2 (gain of 121 promised where there is 2.30 to gain)" in text
    assert "fc3 (" not in text


def test_skipped_rows_are_dim():
    stream = io.StringIO()
    data = fake_report([fake_layer("fc", "Linear", 4, 4, 1.0), skipped_layer("norm", "no weight matrix")])
    Console(file=stream, width=100, force_terminal=True, color_system="standard").print(report_table(data))
    row = next(line for line in stream.getvalue().splitlines() if "norm" in line)
    assert row.startswith("\x1b[2m")


def test_markup_and_escape_codes_in_names_are_text():
    data = fake_report([fake_layer("[red]x[/red]\x1b[31m", "Linear", 4, 4, 1.0)])
    text = printed(data, 120)
    assert "[red]x[/red]" in text
    assert "\x1b" not in text


def test_numbers_that_do_not_exist_are_dashes():
    layer = fake_layer("fc", "Linear", 4, 4, 1.0)
    layer["views"]["average"]["alignment"] = None
    row = next(line for line in printed(fake_report([layer]), 80).splitlines() if line.startswith("fc"))
    assert row.split()[1] == "–"


@pytest.mark.parametrize("count", [1, 60])
def test_any_number_of_layers(count):
    assert "classifier" in printed(many_layers(count), 80)


def test_the_width_of_the_terminal_is_kept_within_bounds(monkeypatch):
    for columns, expected in (("20", 80), ("90", 90), ("400", 166)):
        monkeypatch.setenv("COLUMNS", columns)
        rule = next(line for line in as_text(report_table(five_layers())).splitlines() if set(line) == {"─"})
        assert cell_len(rule) <= expected


def test_other_data_is_refused():
    with pytest.raises(FeatgeoError, match=r"Report\.to_dict"):
        report_table({"layers": {}})


def test_names_that_differ_in_one_number_are_told_as_one():
    names = [f"encoder.layer.{i}.{part}" for i in (0, 1, 2, 4) for part in ("query", "dense")] + ["head"]
    assert words.listed(names, 6) == "encoder.layer.{0-2,4}.query, encoder.layer.{0-2,4}.dense, head"
    assert words.listed(["0", "2", "4"], 6) == "0, 2, 4"
    assert words.listed(["a.0", "a.1"], 6) == "a.0, a.1"
    assert words.listed(list("abcdefghi"), 3) == "a, b, c and 6 more"
