"""Figures over modes: spectra beside their noise floor, and the loss that so many modes predict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from featgeo.show import style
from featgeo.show.layout import LETTER, SIDE, TOP, Sheet, heading, name_ends, place, short, short_names, size
from featgeo.show.rows import Row, finite
from featgeo.show.words import number, unit

COLUMNS = 3  # of small multiples
TILE_TOP, TILE_BOTTOM, GAP = 0.3, 0.23, 0.17  # inches above, below and beside a small multiple
DASHED, DOTTED = (0, (4, 2)), (0, (1, 1.5))


def spectra_height(count: int) -> float:
    """Height in inches of a figure of so many spectra."""
    return TOP + math.ceil(max(1, count) / COLUMNS) * (_tile(count) + TILE_TOP + TILE_BOTTOM) + 0.1


def _tile(count: int) -> float:
    """Height in inches of one of so many small multiples: few are taller."""
    return {1: 1.6, 2: 0.85}.get(math.ceil(max(1, count) / COLUMNS), 0.62)


def draw_spectra(figure: Sheet, rows: Sequence[Row], total: int) -> None:
    """Singular values of each layer: filled above the noise floor, hollow below.

    Args:
        figure: to draw on.
        rows: layers to show.
        total: number of layers they stand for.
    """
    across, _ = size(figure)
    left, columns, tile = 0.4, min(COLUMNS, len(rows)), _tile(len(rows))
    width = (across - left - SIDE - (columns - 1) * GAP) / columns
    modes = min(max(len(row.spectrum) for row in rows), max(8, *(2 * (row.significant or 0) for row in rows)))
    top = max(max(row.spectrum) for row in rows) or 1.0
    names = short_names([row.name for row in rows])
    for i, row in enumerate(rows):
        line, column = divmod(i, columns)
        above = TOP - 0.03 + TILE_TOP + line * (tile + TILE_TOP + TILE_BOTTOM)
        axes = place(figure, left + column * (width + GAP), above, width, tile)
        axes.set(xlim=(0.3, modes + 0.7), ylim=(0.0, 1.08 * top), xticks=sorted({1, (modes + 1) // 2, modes}))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.tick_params(axis="y", labelleft=column == 0, length=2.5 if column == 0 else 0)
        axes.grid(visible=False, axis="x")
        _spectrum(axes, row, modes)
        letters = int(width / LETTER)
        axes.text(0, 1 + 0.16 / tile, short(names[i], letters), transform=axes.transAxes, fontsize=style.FONT)
        told = f"{row.significant} of {len(row.spectrum)} stand out"
        axes.text(
            0, 1 + 0.04 / tile, told, transform=axes.transAxes, fontsize=style.FONT - 1.0, color=style.MUTED
        )
    _spectra_heading(figure, len(rows), total)


def draw_width(figure: Sheet, rows: Sequence[Row], data: Mapping[str, Any]) -> None:
    """Predicted loss against modes kept: solid while modes stand out from noise, dotted beyond."""
    across, down = size(figure)
    names = short_names([row.name for row in rows])
    space = 0.16 + LETTER * max(map(len, names))
    axes = place(figure, 0.4, TOP, across - 0.4 - SIDE - space, down - TOP - 0.4)
    reach = max(4, *(_settled(row.width_curve) for row in rows))
    ends = []
    for i, row in enumerate(rows):
        color = style.DEPTH[round(i * (len(style.DEPTH) - 1) / (len(rows) - 1)) if len(rows) > 1 else 3]
        curve, strong = row.width_curve[: reach + 1], row.significant or 0
        axes.plot(range(len(curve)), curve, color=color, linewidth=1.0, linestyle=DOTTED)
        axes.plot(range(len(curve[: strong + 1])), curve[: strong + 1], color=color, linewidth=1.7)
        axes.plot(len(curve) - 1, curve[-1], marker="o", markersize=3, color=color, clip_on=False)
        ends.append((curve[-1], len(curve) - 1, names[i], color))
    loss = finite(data["loss_value"])
    levels = [value for row in rows for value in row.width_curve[: reach + 1]]
    levels += [loss] if loss is not None else []
    margin = 0.06 * (max(levels) - min(levels) or 1.0)
    axes.set(xlim=(0, reach), ylim=(min(levels) - margin, max(levels) + margin), xlabel="modes kept")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    name_ends(axes, ends, reach, margin)
    handles = [
        Line2D([], [], color=style.DEPTH[3], linewidth=1.7, label="predicted"),
        Line2D([], [], color=style.DEPTH[3], linewidth=1.0, linestyle=DOTTED, label="within noise"),
    ]
    if loss is not None:
        axes.axhline(loss, color=style.INK, linewidth=1.1, linestyle=DASHED)
        label = f"the model's, {number(loss)}"
        handles.append(Line2D([], [], color=style.INK, linewidth=1.1, linestyle=DASHED, label=label))
    heading(axes, f"Predicted loss by number of modes ({unit(data)})", handles, indent=SIDE - 0.4, handle=1.7)


def _spectrum(axes: Axes, row: Row, modes: int) -> None:
    strong = row.significant or 0
    look: dict[str, Any] = {
        "linestyle": "none", "marker": "o", "markersize": 3.0 if modes <= 16 else 2.2, "markeredgewidth": 0.8,
        "clip_on": False, "zorder": 3,
    }  # fmt: skip
    above, below = row.spectrum[:strong][:modes], row.spectrum[strong:modes]
    axes.plot(range(1, len(above) + 1), above, color=style.AVERAGE, **look)
    first = len(above) + 1
    axes.plot(
        range(first, first + len(below)), below, color=style.CHANCE, markerfacecolor=style.PAPER, **look
    )
    if row.noise_floor is not None:
        axes.axhline(row.noise_floor, color=style.BAYES, linewidth=1.0, linestyle=DASHED)


def _spectra_heading(figure: Sheet, count: int, total: int) -> None:
    handles = [
        Line2D([], [], color=style.AVERAGE, linestyle="none", marker="o", markersize=3.0, label="mode"),
        Line2D([], [], color=style.BAYES, linewidth=1.0, linestyle=DASHED, label="noise floor"),
    ]
    note = f", {count} of {total} layers" if count < total else ""
    frame = place(figure, 0.0, TOP, size(figure)[0], 1e-3)
    frame.set_axis_off()
    heading(frame, "Singular values" + note, handles, indent=SIDE, handle=1.7)


def _settled(curve: Sequence[float]) -> int:
    """Modes after which a width curve hardly falls any more."""
    bound = curve[-1] + 0.01 * (curve[0] - curve[-1])
    return next(i for i, value in enumerate(curve) if value <= bound)
