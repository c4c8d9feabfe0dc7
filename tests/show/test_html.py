"""The page and the fragment as documents: well formed, self-contained, escaped, complete."""

import json
import re
from importlib.resources import files

import pytest

from featgeo.errors import FeatgeoError
from featgeo.show import html, style
from tests.show.fakes import fake_layer, fake_report, five_layers, many_layers, skipped_layer
from tests.show.pages import LOADING, Page

HOSTILE = """</td></script><script>alert("1")</script>&amp;$x_1$ '{{ 7771 * 7 }}\x1b[31m"""


@pytest.fixture(scope="module")
def source():
    return html.page(five_layers())


@pytest.fixture(scope="module")
def page(source):
    return Page(source)


def only_bayes_missing():
    layers = [fake_layer(f"fc{i}", "Linear", 4, 4, i / 2) for i in range(3)]
    del layers[1]["views"]["bayes"]
    return fake_report(layers)


def only_average():
    layers = [fake_layer(f"fc{i}", "Linear", 4, 4, i / 2) for i in range(3)]
    for layer in layers:
        del layer["views"]["bayes"]
    return fake_report(layers)


def without_numbers():
    layer = fake_layer("fc", "Linear", 4, 4, 0.5)
    for view in layer["views"].values():
        view.update({key: None for key, value in view.items() if isinstance(value, float)}, spectrum=[])
    return fake_report([layer], loss_value=None, constant_loss=float("nan"))


REPORTS = {
    "one layer": lambda: fake_report([fake_layer("fc", "Linear", 10, 784, 1.0)]),
    "one mode": lambda: fake_report([fake_layer("fc", "Linear", 1, 3, 0.3, modes=1)]),
    "60 layers": lambda: many_layers(60),
    "one without bayes": only_bayes_missing,
    "only average": only_average,
    "at bayes": lambda: {**five_layers(), "at": "bayes"},
    "nothing analysed": lambda: fake_report([skipped_layer("norm", "no weight matrix")]),
    "no numbers": without_numbers,
}


def test_the_page_is_well_formed(page):
    assert page.problems == []
    assert [len(page.all(tag)) for tag in ("html", "head", "body", "main", "h1", "title")] == [1] * 6


@pytest.mark.parametrize("name", REPORTS)
def test_unusual_reports_make_well_formed_pages(name):
    data = REPORTS[name]()
    page = Page(html.page(data))
    assert page.problems == []
    assert Page(html.fragment(data)).problems == []
    assert all(layer in page.text for layer in data["layers"])
    assert len(page.all("table")) == len(
        {at for layer in data["layers"].values() for at in layer["views"]} or {1}
    )


def test_the_page_loads_nothing(source, page):
    assert "http:" not in source
    assert "https:" not in source
    assert "@import" not in source
    for tag, attributes in page.elements:
        assert not LOADING.intersection(attributes), f"<{tag}> loads something"
        href = attributes.get("href") or "#"
        assert href.startswith("#") or (tag == "link" and href == "data:,"), f"<{tag}> refers to {href}"
    assert "default-src 'none'" in str(page.all("meta"))
    assert not re.findall(r"url\((?!#)", source)


def test_inner_references_lead_somewhere(source, page):
    links = [str(a["href"])[1:] for tag, a in page.elements if tag in ("a", "use") and a.get("href")]
    pointed = [str(a[key]) for _, a in page.elements for key in ("aria-labelledby", "for") if a.get(key)]
    assert set(links + pointed + re.findall(r"url\(#([^)]+)\)", source)) <= page.ids


def test_every_figure_says_its_numbers_in_words(page):
    drawings = page.all("svg")
    assert len(drawings) == 7  # alignment, and three at either operating point
    assert all(drawing["role"] == "img" and len(str(drawing["aria-label"])) > 40 for drawing in drawings)
    assert "fc2 0.41 with locality 0.82" in str(drawings[0]["aria-label"])


def test_keyboards_reach_what_scrolls_and_what_switches(page):
    scrolling = [a for _, a in page.elements if a.get("class") in ("scroll", "scroll long")]
    assert scrolling
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolling)
    assert sum(a.get("type") == "radio" for a in page.all("input")) == 2
    assert "skip" in [a.get("class") for a in page.all("a")]


def test_the_loss_and_what_to_do_come_in_plain_words(page):
    assert "the model's cross-entropy is 1.19; the best constant output has 2.30" in page.text
    assert "removes 48% of it" in page.text
    assert "Look first at fc2" in page.text
    assert "switch augmentation off" in page.text  # a warning
    assert 'fg.solve_head(model, data, "cross_entropy")' in page.text
    assert page.text.index("Raise the weight decay") < page.text.index(
        "Try compress(model, ...)"
    )  # act, then note


def test_tables_hold_every_layer_with_its_numbers_and_reasons(page):
    rows = [cells for cells in page.cells if cells and cells[0].startswith("fc2")]
    assert [cell.strip() for cell in rows[0][1:7]] == [
        "0.41 ± 0.01", "3.20", "0.82", "0.82", "−5.62", "0.738 ± 0.02",
    ]  # fmt: skip
    skipped = next(cells for cells in page.cells if cells and cells[0].startswith("attention.out_proj"))
    assert {cell.strip() for cell in skipped[1:-1]} == {"–"}
    assert "its output is a tuple" in skipped[-1]
    assert any("1 warning2 of 16 neurons" in cells[-1] for cells in page.cells if cells)
    assert any("bypassed" in cells[-1] for cells in page.cells if cells)


def test_numbers_that_do_not_exist_are_dashes():
    page = Page(html.page(without_numbers()))
    assert "nan" not in page.text.lower().replace("nance", "")
    assert "None" not in page.text
    assert page.text.count("–") > 10


@pytest.mark.parametrize("render", [html.page, html.fragment])
def test_hostile_names_stay_text(render):
    layer = fake_layer(HOSTILE, HOSTILE, 3, 3, 0.5, nulls=True)
    layer.update(reason=HOSTILE, warnings=[HOSTILE])
    layer["views"]["average"]["nulls"][HOSTILE] = [0.1]
    finding = {"layer": HOSTILE, "title": HOSTILE, "detail": HOSTILE, "remedy": HOSTILE, "severity": HOSTILE}
    data = fake_report(
        [layer], findings=[finding], warnings=[HOSTILE], loss=HOSTILE, versions={HOSTILE: HOSTILE}
    )
    page = Page(render(data))
    assert page.problems == []
    assert len(page.scripts) == (2 if render is html.page else 0)
    assert not any("alert" in script for script in page.scripts[1:])
    assert HOSTILE[:40] in page.text
    assert "\x1b" not in page.text
    assert "54397" not in page.text


def test_the_data_can_be_read_back_from_the_page():
    data = only_average()
    data["layers"]["fc0"]["views"]["average"]["scale"] = float("nan")
    found = json.loads(Page(html.page(data)).scripts[0])
    data["layers"]["fc0"]["views"]["average"]["scale"] = None
    assert found == data


def test_pages_are_the_same_every_time(source):
    assert html.page(five_layers()) == source


def test_what_is_said_of_many_layers_is_said_once():
    page = Page(html.fragment(many_layers(40)))
    assert page.text.count("neurons are saturated at the Bayes action.") == 1
    assert page.text.count("Outside the local region") == 1


def test_the_fragment_brings_neither_ids_nor_scripts_into_the_notebook():
    page = Page(html.fragment(five_layers()))
    assert page.ids == set()
    assert page.scripts == []
    rules = re.findall(r"^([^{}@\n]+)\{", html.fragment(five_layers()), re.M)
    assert rules
    assert all(part.strip().startswith(".featgeo-fragment") for rule in rules for part in rule.split(","))


@pytest.mark.parametrize("data", [{}, {"layers": []}, [], None])
def test_other_data_is_refused(data):
    with pytest.raises(FeatgeoError, match=r"Report\.to_dict"):
        html.page(data)


def palettes():
    sheet = (files("featgeo.show") / "page" / "report.css").read_text("utf-8")
    light, dark = sheet.split("prefers-color-scheme: dark")
    return [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", part)) for part in (light, dark)]


def test_figures_and_page_share_one_palette():
    light, dark = palettes()
    assert {name: light[name] for name in style.VARIABLES.values()} == {
        v: k for k, v in style.VARIABLES.items()
    }
    assert set(light) == set(dark)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_the_ground(theme):
    palette = palettes()[theme]
    text = ("--ink", "--muted", "--accent", "--act", "--doubt", "--note")
    grounds = ("--paper", "--ground", "--warn")
    low = [(a, b) for a in text for b in grounds if contrast(palette[a], palette[b]) < 4.5]
    assert not low, "WCAG asks for 4.5"
    marks = ("--average", "--bayes", "--used", "--gap-weight")
    assert all(contrast(palette[mark], palette["--paper"]) >= 3 for mark in marks)


def contrast(one, other):
    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
