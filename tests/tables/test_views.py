"""Figures and page of a decomposition."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from featgeo.errors import FeatgeoError
from featgeo.show.modes_html import modes_page
from featgeo.tables.modes import ModalDecomposition
from tests.tables.oracles import CAITHNESS, SMOKING, random_counts


@pytest.fixture(scope="module")
def fit():
    return ModalDecomposition().fit(
        pd.DataFrame(
            CAITHNESS,
            index=["blue", "light", "medium", "dark"],
            columns=["fair", "red", "med", "dark", "black"],
        )
    )


def drawn(figure, side):
    return next(np.asarray(c.get_offsets()) for c in figure.axes[0].collections if c.get_label() == side)


@pytest.mark.parametrize(
    ("kind", "rows", "columns"), [("symmetric", 1, 1), ("rows", 1, 0), ("columns", 0, 1)]
)
def test_biplots_scale_the_sides_as_they_say(fit, kind, rows, columns):
    figure = fit.plot("biplot", kind=kind)
    sigma = fit.correlations_[:2]
    np.testing.assert_allclose(drawn(figure, "rows"), fit.row_functions_[:, :2] * sigma**rows)
    np.testing.assert_allclose(drawn(figure, "columns"), fit.column_functions_[:, :2] * sigma**columns)
    other = fit.plot("biplot", kind=kind, modes=(0, 2))
    np.testing.assert_allclose(
        drawn(other, "rows")[:, 1], fit.row_functions_[:, 2] * fit.correlations_[2] ** rows
    )


@pytest.mark.parametrize("size", [8, 60])
def test_labels_overlap_neither_each_other_nor_the_frame(size):
    table = random_counts(np.random.default_rng(0), size, size)
    names = [f"category {i}" for i in range(size)]
    figure = (
        ModalDecomposition(n_components=2).fit(pd.DataFrame(table, index=names, columns=names)).plot("biplot")
    )
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [
        t.get_window_extent(renderer) for t in figure.axes[0].texts if (t.get_gid() or "").startswith("label")
    ]
    assert len(boxes) == 16 if size == 8 else 20 < len(boxes) < 120
    points = np.concatenate(
        [figure.axes[0].transData.transform(drawn(figure, side)) for side in ("rows", "columns")]
    )
    for i, box in enumerate(boxes):
        assert not any(box.contains(*point) for point in points)
        assert not any(box.overlaps(other) for other in boxes[:i])
    if size == 60:
        assert any("without label" in t.get_text() for t in figure.texts)


def test_scree_shows_the_null_band_where_there_are_counts(fit):
    axes = fit.plot("scree").axes[0]
    texts = [label.get_text() for label in axes.get_legend().get_texts()]
    assert any("independence" in text for text in texts)
    np.testing.assert_allclose(axes.lines[-1].get_ydata(), fit.correlations_)
    plain = ModalDecomposition().fit(SMOKING / SMOKING.sum()).plot("scree").axes[0]
    assert len(plain.get_legend().get_texts()) == 1


def test_the_heat_map_is_b_in_the_order_of_the_first_mode(fit):
    image = np.asarray(fit.plot("heat_map").axes[0].images[0].get_array())
    b = fit.dependence_matrix().to_numpy()
    order = np.argsort(fit.row_functions_[:, 0]), np.argsort(fit.column_functions_[:, 0])
    np.testing.assert_allclose(image, b[np.ix_(*order)], atol=1e-12)
    large = ModalDecomposition(n_components=2).fit(random_counts(np.random.default_rng(1), 70, 50))
    figure = large.plot("heat_map")
    assert figure.axes[0].images[0].get_array().shape == (40, 40)
    assert "largest inertia" in figure.axes[0].get_title(loc="left")


def test_views_that_do_not_exist(fit):
    with pytest.raises(FeatgeoError, match="what"):
        fit.plot("pie")
    with pytest.raises(FeatgeoError, match="kind"):
        fit.plot("biplot", kind="both")
    with pytest.raises(FeatgeoError, match="modes"):
        fit.plot("biplot", modes=(0, 7))


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.ids, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in ("meta", "link", "path", "use", "image", "br", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for key, value in attrs if key == "id"]

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_and_escapes_names():
    hostile = ["<script>alert(1)</script>", "a & b", "c", "d", "e\x1b"]
    fit = ModalDecomposition().fit(pd.DataFrame(SMOKING, index=hostile))
    page = modes_page(fit.to_dict(fit.significance(n_resamples=99), names=("<b>", "smoking")))
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert len(tags.ids) == len(set(tags.ids))
    assert "script" not in tags.seen
    assert tags.seen.count("svg") == 5


def test_pages_of_one_mode_of_none_and_of_fractions(tmp_path):
    one = ModalDecomposition().fit(SMOKING[:, :2])
    one.to_html(tmp_path / "one.html")
    assert "mode 1" in (tmp_path / "one.html").read_text("utf-8")
    fractions = ModalDecomposition(n_components=2).fit(SMOKING / SMOKING.sum())
    fractions.to_html(tmp_path / "two.html", ("staff", "smoking"))
    assert "not tested" in (tmp_path / "two.html").read_text("utf-8")
    none = ModalDecomposition(n_components="significant", random_state=0).fit(np.full((4, 4), 50.0))
    none.to_html(tmp_path / "none.html")
    assert "No mode of dependence" in (tmp_path / "none.html").read_text("utf-8")
    assert none.plot("scree").axes
    with pytest.warns(UserWarning, match="empty"):
        holed = ModalDecomposition().fit(np.insert(SMOKING, 1, 0, axis=0))
    holed.to_html(tmp_path / "holed.html")
    assert "empty rows" in (tmp_path / "holed.html").read_text("utf-8")


def test_frames_of_the_modes(fit):
    frame = fit.modes_frame(fit.significance(n_resamples=99))
    assert list(frame.columns) == [
        "correlation",
        "inertia",
        "share",
        "cumulative",
        "p",
        "corrected",
        "null 95 %",
    ]
    assert frame["cumulative"].iloc[-1] == pytest.approx(1)
