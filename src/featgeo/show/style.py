"""How figures look: one palette with a light and a dark face, and drawing to themed, deterministic SVG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import matplotlib.style
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

# Light face -> the variable of the page's style sheet that carries both faces. Lightness alone tells the members of
# each group apart, so that no figure depends on the perception of hue.
INK, MUTED, LINE, PAPER = "#1b2430", "#5a6675", "#d5dbe2", "#fdfdfe"
AVERAGE, BAYES, CHANCE = "#0b62b0", "#c2560a", "#a3adb8"
USED, AVAILABLE = "#0b7a66", "#bfe3da"
GAP_WEIGHT, GAP_BIAS, GAP_RANK = "#6b3f98", "#e2a100", "#8d99a8"
DEPTH = ("#8abce0", "#5a9fd0", "#3183bd", "#1a679f", "#0d4b7b", "#062e4f")  # from input to output
VARIABLES = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper", AVERAGE: "--average", BAYES: "--bayes",
    CHANCE: "--chance", USED: "--used", AVAILABLE: "--available", GAP_WEIGHT: "--gap-weight",
    GAP_BIAS: "--gap-bias", GAP_RANK: "--gap-rank", **{color: f"--depth-{i}" for i, color in enumerate(DEPTH)},
}  # fmt: skip

FONT = 8.0  # points; a figure 4.2 inches wide is shown at 0.85 (phone) to 1.35 (desktop) of its size
WIDTH = 4.2  # inches
SETTINGS = {
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": FONT,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": PAPER,
    "font.size": FONT,
    "legend.borderaxespad": 0.0,
    "legend.borderpad": 0.0,
    "legend.columnspacing": 0.85,
    "legend.fontsize": FONT,
    "legend.frameon": False,
    "legend.handlelength": 1.0,
    "legend.handletextpad": 0.45,
    "legend.labelcolor": MUTED,
    "legend.labelspacing": 0.25,
    "legend.title_fontsize": FONT + 0.4,
    "svg.fonttype": "none",
    "svg.hashsalt": "featgeo",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": FONT - 0.4,
    "xtick.major.size": 2.5,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "ytick.labelsize": FONT - 0.2,
    "ytick.major.size": 2.5,
}


class Drawing(Figure):
    """A figure drawn in this style whatever the caller's settings, and shown by notebooks without pyplot."""

    def draw(self, renderer: RendererBase) -> None:
        """Draw in the house style."""
        with house_style():
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=144)
        return buffer.getvalue()


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in this style whatever the caller's settings, which come back afterwards."""
    with matplotlib.style.context(SETTINGS, after_reset=True):
        yield


def new_figure(width: float, height: float) -> Drawing:
    """An empty figure of this size in inches."""
    return Drawing(figsize=(width, height))


def themed_svg(figure: Figure, description: str, prefix: str) -> str:
    """The figure as an ``<svg>`` element for a page: no background, colours from the page's style sheet.

    Args:
        figure: drawn in the house style.
        description: the figure's content in words, read aloud in its place.
        prefix: makes the ids of this figure different from those of other figures of the page.
    """
    buffer = io.BytesIO()
    with house_style(), warnings.catch_warnings():
        # The page's own fonts draw the text: a sign that matplotlib's font lacks is no loss.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        for key in list(element.attrib):
            element.attrib[_local(key)] = _themed(_local(key), element.attrib.pop(key), prefix)
    width, height = root.attrib["viewBox"].split()[2:]
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "style": f"aspect-ratio:{float(width):.0f}/{float(height):.0f}",
        "role": "img",
        "aria-label": description,
    }
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    """A tag or attribute without its namespace: HTML knows which elements are SVG."""
    return name.rpartition("}")[2]


def _themed(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return f"{prefix}-{value}"
    value = re.sub(r"(^|url\()#(?=[A-Za-z][\w-]*\)?$)", rf"\1#{prefix}-", value) if "#" in value else value
    if key == "style":
        kept = (part for part in value.split(";") if not part.strip().startswith("font-family"))
        return re.sub(r"#[0-9a-f]{6}\b", _variable, ";".join(kept))
    return value


def _variable(color: re.Match[str]) -> str:
    name = VARIABLES.get(color[0])
    return f"var({name}, {color[0]})" if name else color[0]
