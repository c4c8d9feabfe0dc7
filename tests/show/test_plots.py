"""Figures: readable whatever the number of layers, the same every time, and without a trace in matplotlib."""

import io
import subprocess
import sys

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from featgeo.show import layout, plots, style
from tests.show.fakes import fake_layer, fake_report, five_layers, many_layers, skipped_layer

FIGURES = [plots.alignment, plots.gain, plots.spectrum, plots.width_curve, plots.overview]


def boxes(figure):
    """Text and extent of everything that is written when the figure is drawn."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    written, draw_text = [], renderer.draw_text

    def record(*args, mtext=None, **options):
        written.append(mtext)
        draw_text(*args, mtext=mtext, **options)

    renderer.draw_text = record
    figure.draw(renderer)
    return [(text.get_text(), text.get_window_extent(renderer)) for text in written]


@pytest.mark.parametrize("count", [1, 12, 60])
@pytest.mark.parametrize("draw", FIGURES)
def test_no_text_leaves_the_figure_and_names_do_not_touch(draw, count):
    figure = draw(many_layers(count))
    width, height = figure.get_size_inches() * figure.dpi
    found = boxes(figure)
    assert found
    out = [
        text for text, box in found if box.x0 < -1 or box.x1 > width + 1 or box.y0 < -1 or box.y1 > height + 1
    ]
    assert not out
    names = [(text, box) for text, box in found if "conv" in text or text == "classifier"]
    assert names
    touching = [
        (one, other)
        for i, (one, box) in enumerate(names)
        for other, beside in names[i + 1 :]
        if min(box.x1, beside.x1) > max(box.x0, beside.x0)
        and min(box.y1, beside.y1) - max(box.y0, beside.y0) > 2
    ]
    assert not touching


@pytest.mark.parametrize("draw", FIGURES[:-1])
def test_figures_are_the_same_every_time(draw):
    def svg():
        return style.themed_svg(draw(five_layers()), "words", "p")

    assert svg() == svg()


@pytest.mark.parametrize("draw", FIGURES)
def test_reports_without_views_are_drawn_too(draw):
    assert "analysed" in str(boxes(draw(fake_report([skipped_layer("norm", "no weight")])))) or draw in (
        plots.spectrum,
        plots.width_curve,
    )


def test_both_operating_points_and_chance_are_told_apart():
    figure = plots.alignment(five_layers())
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["average", "Bayes", "chance"]
    markers = {line.get_marker() for line in figure.axes[0].lines if len(line.get_xdata()) == 5}
    assert markers == {"o", "D"}
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "conv1",
        "conv2",
        "fc1",
        "fc2",
        "head",
    ]


def test_bars_that_are_cut_say_their_value():
    texts = [text for text, _ in boxes(plots.gain(five_layers()))]
    assert "‹ −5.62" in texts
    assert any(text.endswith("›") for text in texts)


def test_no_bar_reaches_beyond_the_loss_that_there_is():
    data = five_layers()
    view = data["layers"]["fc1"]["views"]["average"]
    view["gain_available"] = 121.0
    figure = plots.gain(data)
    assert "121 ›" in [text for text, _ in boxes(figure)]
    reach = figure.axes[0].get_xlim()[1]
    assert reach < 1.1 * view["constant_loss"]
    data["loss"] = "poisson"  # may be negative, so that nothing bounds a gain
    assert plots.gain(data).axes[0].get_xlim()[1] > 121


def test_the_models_loss_stands_in_the_width_figure():
    figure = plots.width_curve(five_layers())
    assert any("1.19" in text for text, _ in boxes(figure))
    assert any(line.get_ydata()[0] == 1.187 for line in figure.axes[0].lines if len(line.get_ydata()) == 2)


def test_many_layers_are_sampled_and_the_figure_says_so():
    figure = plots.spectrum(many_layers(40))
    assert any("12 of 40 layers" in text for text, _ in boxes(figure))
    assert len(figure.axes) == 1 + plots.PANELS
    assert plots.spread(list(range(40)), 6) == [0, 8, 16, 23, 31, 39]


def test_names_are_shortened_from_the_left():
    assert layout.short("head") == "head"
    assert layout.short("features.denseblock4.denselayer16.conv2") == "f.d4.d16.conv2"
    assert layout.short("transformer.h.11.attention.c_proj") == "t.h.11.a.c_proj"
    names = [f"encoder.words.encoder.layer.{i}.attention.self.query" for i in (0, 1)]
    assert layout.short_names([*names, "head"]) == ["0.a.self.query", "1.a.self.query", "head"]
    assert layout.short_names(["a.0.x", "a.1.x", "b.0.x"]) == ["a.0.x", "a.1.x", "b.0.x"]
    assert layout.short("x" * 40) == "…" + "x" * (layout.LABEL_LENGTH - 1)


def test_odd_names_are_drawn_as_they_are():
    data = fake_report([fake_layer("a$b_1$<i>&层", "Linear", 2, 2, 0.5)])
    svg = style.themed_svg(plots.gain(data), 'quotes " and <tags>', "p")
    assert "a$b_1$&lt;i&gt;&amp;层" in svg
    assert "&quot; and &lt;tags&gt;" in svg


def test_svgs_take_their_colours_and_fonts_from_the_page():
    svg = style.themed_svg(plots.overview(five_layers()), "words", "p")
    assert f"var(--ink, {style.INK})" in svg
    assert "var(--average" in svg
    assert "font-family" not in svg
    assert "<metadata" not in svg
    assert "<style" not in svg
    assert "xmlns" not in svg


def test_matplotlib_is_left_as_it_was():
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "red", "font.size": 40}):
        during = dict(matplotlib.rcParams)
        figure = plots.overview(five_layers())
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=30)
        assert dict(matplotlib.rcParams) == during
    assert dict(matplotlib.rcParams) == before
    assert picture.getvalue()[:4] == b"\x89PNG"


def test_pyplot_is_not_needed():
    command = (
        "import sys; from tests.show.fakes import five_layers; from featgeo.show import html;"
        "html.page(five_layers()); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-W", "error", "-c", command], check=False).returncode == 0


def test_notebooks_show_the_overview():
    assert plots.overview(five_layers())._repr_png_()[:4] == b"\x89PNG"
