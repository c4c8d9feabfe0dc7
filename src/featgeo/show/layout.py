"""Axes, titles and names at places given in inches: quick, the same everywhere, and nothing overlaps by accident."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.transforms import ScaledTranslation

from featgeo.show import style

Item = TypeVar("Item")
Sheet = Figure | SubFigure  # a figure, or a part of one

LABEL_LENGTH = 18  # longest layer name in a figure
LETTER = 0.066  # inches, a wide one's at the size of names
TOP, BOTTOM, SIDE = 0.42, 0.24, 0.08  # inches for titles with a legend, for tick labels, and at the edges


def row_height(count: int) -> float:
    """Height in inches of one layer's row."""
    return min(0.25, max(0.05, 7.5 / max(1, count)))


def rows_height(count: int, tall: float = 1.0) -> float:
    """Height in inches of a figure with so many layers, each so many times as tall as usual."""
    return TOP + BOTTOM + max(2, count) * tall * row_height(count)


def size(figure: Sheet) -> tuple[float, float]:
    """Width and height in inches of a figure or a part of one."""
    dpi = figure.get_figure(root=True).dpi
    return figure.bbox.width / dpi, figure.bbox.height / dpi


def place(figure: Sheet, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches, measured from the upper left corner."""
    across, down = size(figure)
    axes = figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
    axes.set_axisbelow(True)
    axes.grid(color=style.LINE, linewidth=0.6, alpha=0.7)
    return axes


def side_by_side(
    figure: Sheet, names: Sequence[str], right: float = 1.3, tall: float = 1.0
) -> tuple[Axes, Axes]:
    """Two axes with a row per layer and the names at the left; the right one has a width in inches."""
    across, down = size(figure)
    names = short_names(names)
    labels = SIDE + LETTER * max(map(len, names)) + 0.08
    height = min(down - TOP - BOTTOM, max(2, len(names)) * tall * row_height(len(names)))
    gap = 0.2
    left = place(figure, labels, TOP, across - labels - gap - right - SIDE, height)
    beside = place(figure, across - right - SIDE, TOP, right, height)
    for axes in (left, beside):
        _rows(axes, names)
    beside.tick_params(axis="y", labelleft=False)
    return left, beside


def short_names(names: Sequence[str]) -> list[str]:
    """Layers' names for a figure: the path that all numbered layers share is left out, then each is made short."""
    paths = [name.split(".") for name in names]
    stems = [list(takewhile(lambda part: not part.isdigit(), path)) for path in paths]
    numbered = [stem for stem, path in zip(stems, paths, strict=True) if len(stem) < len(path)]
    alike = takewhile(lambda parts: len(set(parts)) == 1, zip(*numbered, strict=False))
    shared = len(list(alike)) if len(numbered) > 1 else 0
    cut = [
        ".".join(path[shared:] if len(stem) < len(path) else path)
        for path, stem in zip(paths, stems, strict=True)
    ]
    chosen = cut if len(set(cut)) == len(set(names)) else names
    return [short(name) for name in chosen]


def short(name: str, length: int = LABEL_LENGTH) -> str:
    """A layer's name for a figure: leading parts of the path shrink to a letter and a number, as far as needed."""
    parts = name.split(".")
    for i in range(len(parts) - 1):
        if len(".".join(parts)) <= length:
            break
        digits = re.search(r"\d+$", parts[i])
        parts[i] = parts[i] if parts[i].isdigit() else parts[i][:1] + (digits[0] if digits else "")
    text = ".".join(parts)
    return text if len(text) <= length else "…" + text[1 - length :]


def spread(items: Sequence[Item], limit: int) -> list[Item]:
    """At most so many items, evenly spread, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def heading(
    axes: Axes,
    title: str,
    handles: Sequence[Artist] = (),
    indent: float = 0.0,
    handle: float = 1.0,
    lift: float = 0.27,
) -> None:
    """A bold title, and under it the legend in one line.

    Args:
        axes: stand below.
        title: of the axes.
        handles: of the legend.
        indent: where title and legend start, in inches from the left end of the axes.
        handle: length of the handles, in letters.
        lift: of the title above the axes, in inches; what is usual leaves room for the legend.
    """
    scale = axes.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]
    above = axes.transAxes + ScaledTranslation(indent, lift, scale)
    axes.text(0, 1, title, transform=above, weight="bold", fontsize=style.FONT + 0.4)
    if handles:
        axes.legend(
            handles=list(handles), loc="lower left", ncols=len(handles), handlelength=handle, bbox_to_anchor=(0.0, 1.0),
            bbox_transform=axes.transAxes + ScaledTranslation(indent, 0.075, scale),
        )  # fmt: skip


def name_ends(
    axes: Axes, ends: list[tuple[float, int, str, str]], reach: int, margin: float, start: int = 0
) -> None:
    """Write each curve's name beside its end, pushed apart where names would overlap.

    Args:
        axes: with their final limits.
        ends: value, place, name and colour of each curve's end.
        reach: right end of the axes.
        margin: height of a line of text, nearly, in units of the data.
        start: left end of the axes.
    """
    apart, high, span = 1.15 * margin, axes.get_ylim()[1], reach - start
    ends = sorted(ends)
    places = [end[0] for end in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + apart)
    for i in reversed(range(len(places))):
        places[i] = min(places[i], high if i == len(places) - 1 else places[i + 1] - apart)
    for (value, x, name, color), y in zip(ends, places, strict=True):
        path = ([x, start + 1.035 * span], [value, y])
        # dotted from where a curve ends before the axes do: no data
        line = "-" if x == reach else (0, (1, 3))
        axes.plot(
            *path, color=color, linewidth=0.6, linestyle=line, clip_on=False, scalex=False, scaley=False
        )
        axes.text(start + 1.045 * span, y, name, va="center_baseline", fontsize=style.FONT - 0.2)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows, thinned where the names would touch."""
    count = len(names)
    ticks = range(
        0, count, math.ceil(0.12 / row_height(count))
    )  # height of a line of text over that of a row
    axes.set_yticks(ticks, [names[tick] for tick in ticks])
    axes.set_ylim(max(2, count) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, pad=4)
    axes.spines["left"].set_visible(False)
