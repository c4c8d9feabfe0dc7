"""The page, the fragment and the terminal tables of a comparison."""

import json
import re

import pytest
from rich.cells import cell_len

from featgeo.show.comparison import plots
from featgeo.show.comparison.page import fragment, page
from featgeo.show.comparison.text import comparison_table
from featgeo.show.console import as_text
from tests.show.comparison.fakes import fake_comparison, twelve, two
from tests.show.fakes import fake_layer, fake_report, skipped_layer
from tests.show.pages import LOADING, Page
from tests.show.test_html import HOSTILE

COMPARISONS = {
    "two": two,
    "twelve": twelve,
    "one": lambda: fake_comparison({"a": fake_report([fake_layer("fc", "Linear", 4, 4, 0.5)])}),
    "nothing": lambda: fake_comparison({"a": fake_report([skipped_layer("norm", "no weight matrix")])}),
    "bayes": lambda: {**two(), "at": "bayes"},
}


@pytest.fixture(scope="module")
def page_of_twelve():
    return page(twelve())


@pytest.mark.parametrize("name", COMPARISONS)
def test_pages_and_fragments_are_well_formed_and_load_nothing(name):
    data = COMPARISONS[name]()
    for source in (page(data), fragment(data)):
        found = Page(source)
        assert found.problems == []
        assert all(report in found.text for report in data["reports"])
        assert all(layer in found.text for report in data["reports"].values() for layer in report["layers"])
        assert "https:" not in source
        assert "http:" not in source
        assert not re.findall(r"url\((?!#)", source)
        assert not [tag for tag, attributes in found.elements if LOADING.intersection(attributes)]
    whole = Page(page(data))
    links = [str(a["href"])[1:] for a in whole.all("a") if a.get("href")]
    pointed = [str(a[key]) for _, a in whole.elements for key in ("aria-labelledby", "for") if a.get(key)]
    assert set(links + pointed) <= whole.ids
    assert "default-src 'none'" in str(whole.all("meta"))
    assert len(Page(fragment(data)).scripts) == 0


def test_figures_say_their_numbers_in_words(page_of_twelve):
    drawings = Page(page(two())).all("svg")
    assert [drawing["role"] for drawing in drawings] == ["img", "img"]
    assert "fc2: large 0.41 ± 0.01 and 0.82, small – and –" in str(drawings[0]["aria-label"])
    assert "The tables below list every number" in str(Page(page_of_twelve).all("svg")[0]["aria-label"])


def test_the_tables_hold_every_number():
    rows = [cells for cells in Page(page(two())).cells if cells and cells[0].startswith("fc2")]
    assert [[cell.strip() for cell in row[1:]] for row in rows[:2]] == [
        ["0.41 ± 0.01", "– absent"],
        ["0.82", "– absent"],
    ]
    assert any(cells[1].strip() == "−5.62" for cells in rows)
    found = Page(page(two()))
    assert "Not all of this compares" in found.text
    assert "noise floors and ranks do, too." in found.text


def test_the_data_travel_with_the_page():
    data = two()
    embedded = next(text for text in Page(page(data)).scripts if text.lstrip().startswith("{"))
    assert json.loads(embedded)["reports"]["large"]["samples"] == 10_000


def test_hostile_names_stay_text():
    layer = fake_layer(HOSTILE, HOSTILE, 3, 3, 0.5)
    finding = {"layer": HOSTILE, "title": HOSTILE, "detail": HOSTILE, "remedy": HOSTILE, "severity": "act"}
    data = fake_comparison({HOSTILE: fake_report([layer], findings=[finding])}, notes=[HOSTILE])
    for render, scripts in ((page, 2), (fragment, 0)):
        found = Page(render(data))
        assert found.problems == []
        assert len(found.scripts) == scripts
        assert not any("alert" in script for script in found.scripts[1:])
        assert "\x1b" not in render(data)


@pytest.mark.parametrize("name", COMPARISONS)
@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_terminal_cuts_nothing(name, width):
    data = COMPARISONS[name]()
    text = as_text(comparison_table(data), width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    joined = re.sub(r"\s", "", text)
    assert all(re.sub(r"\s", "", report)[:20] in joined for report in data["reports"])


def test_many_reports_are_thinned_in_figures_and_it_is_said(page_of_twelve):
    data = twelve()
    shown = plots.shown_reports(data)
    names = list(data["reports"])
    assert len(shown) == 6
    assert (shown[0], shown[-1]) == (names[0], names[-1])
    assert "6 of 12 models, evenly spread" in Page(page_of_twelve).text
    assert len(plots.overview(data).subfigs[0].legends[0].get_texts()) == 6
