"""A comparison's figures: layers down the page, a mark for each report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from featgeo.show import style
from featgeo.show.comparison.lines import lines, reports_of
from featgeo.show.depth import OVERSHOOT, Mark, cosine_and_share, draw_marks, indent_of
from featgeo.show.layout import LETTER, SIDE, Sheet, heading, rows_height, short, side_by_side, spread
from featgeo.show.rows import Row
from featgeo.show.words import unit

COLORS = (style.AVERAGE, style.BAYES, style.USED, style.GAP_WEIGHT, style.GAP_BIAS, style.INK)
SHAPES = (("o", 4.6), ("D", 3.8), ("s", 4.0), ("^", 4.6), ("v", 4.6), ("P", 4.6))
LONGEST = 24  # letters of a report's name in a legend
LINE = 0.17  # inches of a line of the legend
LIFT = 0.09  # inches of a title above its axes: the legend is not between them


def alignment(data: Mapping[str, Any]) -> style.Drawing:
    """Alignment beside locality, a row per layer and a mark per report."""
    return _figure(data, _alignment)


def gain(data: Mapping[str, Any]) -> style.Drawing:
    """Gain used beside gain available, a row per layer and a mark per report."""
    return _figure(data, _gain)


def overview(data: Mapping[str, Any]) -> style.Drawing:
    """Both figures on one sheet."""
    return _figure(data, _alignment, _gain)


def shown_reports(data: Mapping[str, Any]) -> list[str]:
    """Names of the reports in figures: at most six, evenly spread, the first and the last among them."""
    return spread(list(reports_of(data)), len(COLORS))


def _figure(data: Mapping[str, Any], *parts: Any) -> style.Drawing:
    """The legend, and under it the parts side by side."""
    every, names = lines(data), shown_reports(data)
    kept = [
        i for i in range(len(next(iter(every.values())))) if any(rows[i].has_view for rows in every.values())
    ]
    series = {name: [every[name][i] for i in kept] for name in names}
    marks: dict[str, Mark] = {
        name: (short(name, LONGEST), shape, color, points)
        for name, (shape, points), color in zip(names, SHAPES, COLORS, strict=False)
    }
    tall = max(1.0, 0.5 * len(names))
    width, height = style.WIDTH * len(parts), rows_height(max(1, len(kept)), tall)
    letters = LETTER * (max(len(label) for label, *_ in marks.values()) + 4)
    columns = max(1, int((width - 2 * SIDE) / letters))
    strip = LINE * -(-len(names) // columns)  # the lower part begins with room for one more line
    with style.house_style():
        figure = style.new_figure(width, strip + height)
        above, below = np.asarray(figure.subfigures(2, 1, height_ratios=(strip, height), hspace=0.0)).flat
        sheets = list(np.asarray(below.subfigures(1, len(parts), squeeze=False, wspace=0.0)).flat)
        for sheet in (above, below, *sheets):
            sheet.set_facecolor("none")
        if not kept:
            below.text(0.5, 0.5, "no layer was analysed", ha="center", va="center", color=style.MUTED)
            return figure
        handles: list[Artist] = []
        for sheet, part in zip(sheets, parts, strict=True):
            handles = part(sheet, series, marks, tall, data)
        above.legend(
            handles=handles, loc="upper left", ncols=columns, bbox_to_anchor=(SIDE / width, 1 - SIDE / strip),
            labelcolor=style.INK,
        )  # fmt: skip
    return figure


def _values(series: Mapping[str, Sequence[Row]], field: str) -> list[float]:
    return [value for rows in series.values() for row in rows if (value := getattr(row, field)) is not None]


def _axes(figure: Sheet, series: Mapping[str, Sequence[Row]], tall: float) -> tuple[Axes, Axes]:
    left, right = side_by_side(figure, [row.name for row in next(iter(series.values()))], tall=tall)
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        for i in range(1, len(next(iter(series.values())))):
            axes.axhline(i - 0.5, color=style.LINE, linewidth=0.6, zorder=0)
    return left, right


def _alignment(
    figure: Sheet,
    series: Mapping[str, Sequence[Row]],
    marks: Mapping[str, Mark],
    tall: float,
    _data: Mapping[str, Any],
) -> list[Artist]:
    left, right = _axes(figure, series, tall)
    handles = draw_marks({left: "alignment", right: "locality"}, series, marks)
    cosine_and_share(left, right, min([0.0, *_values(series, "alignment")]))
    heading(left, "Alignment", indent=indent_of(left), lift=LIFT)
    heading(right, "Locality", lift=LIFT)
    return handles


def _gain(
    figure: Sheet,
    series: Mapping[str, Sequence[Row]],
    marks: Mapping[str, Mark],
    tall: float,
    data: Mapping[str, Any],
) -> list[Artist]:
    """Gains far below zero or above the loss are not drawn: the axis would show nothing else."""
    left, right = _axes(figure, series, tall)
    handles = draw_marks({left: "gain_used", right: "gain_available"}, series, marks)
    most = max([1e-12, *_values(series, "gain_drawn")])
    used = _values(series, "gain_used")
    low = max(1.1 * min([0.0, *used]), -OVERSHOOT / 2 * most)
    left.set_xlim(low - 0.02 * most, 1.04 * most)
    right.set_xlim(-0.02 * most, 1.04 * most)
    left.axvline(0, color=style.MUTED, linewidth=0.7, zorder=1)
    for line in (*left.lines, *right.lines):
        line.set_clip_on(True)
    left.xaxis.set_major_locator(MaxNLocator(4))
    right.xaxis.set_major_locator(MaxNLocator(3))
    units = unit(next(iter(reports_of(data).values())))
    heading(left, f"Gain used ({units})", indent=indent_of(left), lift=LIFT)
    heading(right, "Gain available", lift=LIFT)
    return handles
