"""The pages in a real browser: at the width of a phone and of a desk, in light and dark, and by keyboard alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from featgeo.show import html
from featgeo.show.comparison import page as comparison
from tests.show.browser import CHROMIUM, Browser
from tests.show.comparison.fakes import twelve, two
from tests.show.fakes import five_layers, many_layers

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="neither chromium nor chromium-browser is on the PATH"
)

PAGES = {
    "report": lambda: html.page(five_layers()),
    "deep report": lambda: html.page(many_layers(40)),
    "comparison": lambda: comparison.page(two()),
    "comparison of twelve": lambda: comparison.page(twelve()),
}
SAVED = "!document.getElementById('save').hidden"
STICKING_OUT = """[...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll") && !e.closest("svg")
  && e.checkVisibility() && !e.classList.contains("skip") && (e.getBoundingClientRect().right > innerWidth + 1
  || e.getBoundingClientRect().left < -1)).map((e) => e.outerHTML.slice(0, 80))"""
SMALL_TEXT = """Math.min(...[...document.querySelectorAll("svg text")].filter((e) => e.checkVisibility()
  && e.textContent.trim()).map((e) => e.getBoundingClientRect().height))"""

INTERACTIVE = """[...document.querySelectorAll("a[href], input:checked, [tabindex='0'], summary")]
  .filter((e) => e.checkVisibility() || e.type === "radio")
  .map((e) => e.id || e.getAttribute("aria-label") || e.textContent.trim().slice(0, 60))"""
OUTLINED = """(() => { const e = document.activeElement, shown = e.type === "radio" ? e.nextElementSibling : e;
  return getComputedStyle(shown).outlineStyle !== "none"; })()"""
FAINT = """(() => {
  const numbers = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = (color) => { const [r, g, b] = numbers(color).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (numbers(c)[3] !== 0) return c; } return "rgb(255, 255, 255)"; };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("script, style")) continue;
    const color = getComputedStyle(e)[e.closest("svg") ? "fill" : "color"];
    const [low, high] = [light(color), light(ground(e))].sort((a, b) => a - b);
    const large = parseFloat(getComputedStyle(e).fontSize) >= 24;
    if ((high + 0.05) / (low + 0.05) < (large ? 3 : 4.5)) found.push(`${e.textContent.trim().slice(0, 40)}: ${color}`);
  }
  return [...new Set(found)]; })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name.replace(' ', '-')}.html" for name in PAGES}
    for name, path in paths.items():
        path.write_text(PAGES[name](), encoding="utf-8")
    return paths


def pixels(png: bytes) -> np.ndarray:
    """A picture as (height, width, 3) with values in [0, 1]."""
    return imread(io.BytesIO(png), format="png")[..., :3]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_fits_loads_nothing_and_says_nothing_in_the_console(
    browser: Browser, files: dict[str, Path], name: str, width: int, dark: bool
) -> None:
    browser.open(files[name], width, dark=dark, ready=SAVED)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(STICKING_OUT) == []
    assert browser.complaints() == []
    assert browser.evaluate(
        "[...document.querySelectorAll('svg')].every((e) => e.getAttribute('aria-label'))"
    )
    assert browser.evaluate(SMALL_TEXT) >= 8  # pixels from top to bottom of a line
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(15, 19, 24)" if dark else "rgb(243, 245, 248)")
    picture = pixels(browser.picture(whole=False))
    assert picture.shape[1] == width
    bright = picture.mean()
    assert bright < 0.3 if dark else bright > 0.7
    assert picture.std() > 0.05  # not an empty page


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_text_can_be_told_from_its_ground(
    browser: Browser, files: dict[str, Path], name: str, dark: bool
) -> None:
    """The contrast that WCAG 2 asks of text (level AA), for every piece of text that is shown."""
    browser.open(files[name], 1280, dark=dark)
    assert browser.evaluate(FAINT) == []


def walk(browser: Browser, most: int = 400) -> list[str]:
    """What has the focus as Tab is pressed, until the page is left."""
    found: list[str] = []
    while len(found) < most:
        name = browser.press("Tab", 9)
        if not name:
            break
        found.append(name)
    return found


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 1280])
def test_the_keyboard_reaches_everything_and_the_focus_is_seen(
    browser: Browser, files: dict[str, Path], name: str, width: int
) -> None:
    browser.open(files[name], width, ready=SAVED)
    wanted = set(browser.evaluate(INTERACTIVE))
    assert wanted
    reached = walk(browser)
    assert wanted <= set(reached)
    assert reached[0] == "Skip to the layers"
    browser.open(files[name], width, ready=SAVED)
    browser.press("Tab", 9)
    box = browser.evaluate("document.activeElement.getBoundingClientRect().top")
    assert box >= 0  # the link that is hidden otherwise
    for _ in range(3):
        browser.press("Tab", 9)
        assert browser.evaluate(OUTLINED)


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_the_switch_works_by_keyboard(browser: Browser, files: dict[str, Path], name: str) -> None:
    browser.open(files[name], 390)
    shown = "[...document.querySelectorAll('.view')].filter((e) => e.checkVisibility()).map((e) => e.className).join()"
    before = browser.evaluate(shown)
    assert before
    assert "view-1" not in before
    while browser.press("Tab", 9) != "show-0":
        pass
    assert browser.press("ArrowRight", 39) == "show-1"
    assert "view-1" in browser.evaluate(shown)
    assert "view-0" not in browser.evaluate(shown)
    assert browser.press("ArrowLeft", 37) == "show-0"
    assert browser.evaluate(shown) == before


def test_the_skip_link_goes_to_the_layers(browser: Browser, files: dict[str, Path]) -> None:
    browser.open(files["report"], 1280)
    browser.press("Tab", 9)
    browser.press("Enter", 13)
    assert browser.evaluate("location.hash") == "#layers"
    assert browser.evaluate("document.activeElement.id") == "layers"


def test_without_scripts_the_page_is_complete(browser: Browser, files: dict[str, Path]) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(files["report"], 390)
        assert browser.evaluate("document.getElementById('save').hidden")
        assert browser.evaluate("document.querySelectorAll('.view').length") == 8
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
