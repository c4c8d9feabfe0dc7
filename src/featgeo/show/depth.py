"""Figures along depth: layers down the page, from the input to the output, so that their names stay readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from featgeo.show import style
from featgeo.show.layout import Sheet, heading, row_height, side_by_side, size
from featgeo.show.rows import Row
from featgeo.show.words import number

OVERSHOOT = (
    1.6  # bars that reach this many times beyond the gain available are cut and their value is written
)
FEW = 15  # so many layers have room for two marks a row
Mark = tuple[str, str, str, float]  # label, marker, colour, size in points
MARKS: dict[str, Mark] = {
    "average": ("average", "o", style.AVERAGE, 4.6),
    "bayes": ("Bayes", "D", style.BAYES, 3.7),
    "jacobian": ("Jacobian", "s", style.INK, 4.0),
}
GAPS = (("weight", style.GAP_WEIGHT), ("bias", style.GAP_BIAS), ("rank", style.GAP_RANK))
THICK = 0.66  # of a bar, in rows


def draw_alignment(figure: Sheet, views: Mapping[str, Sequence[Row]]) -> None:
    """Alignment beside locality, one row per layer, one mark per operating point, chance in grey."""
    names = [row.name for row in next(iter(views.values()))]
    left, right = side_by_side(figure, names)
    few = len(names) <= FEW
    chance = [[v for rows in views.values() for v in rows[i].null_values] for i in range(len(names))]
    with_nulls = {i: nulls for i, nulls in enumerate(chance) if nulls}
    if with_nulls:
        ends = [min(nulls) for nulls in with_nulls.values()], [max(nulls) for nulls in with_nulls.values()]
        left.hlines(list(with_nulls), *ends, color=style.CHANCE, linewidth=5 if few else 3, alpha=0.35)
        places = [i for i, nulls in with_nulls.items() for _ in nulls]
        values = [value for nulls in with_nulls.values() for value in nulls]
        left.scatter(values, places, marker="|", s=14, linewidths=0.7, color=style.CHANCE)
    marks = {at: MARKS.get(at, (at, "s", style.INK, 4.0)) for at in views}
    handles = draw_marks({left: "alignment", right: "locality"}, views, marks)
    if with_nulls:
        handles.append(Line2D([], [], color=style.CHANCE, linewidth=4, alpha=0.6, label="chance"))
    seen = [row.alignment for rows in views.values() for row in rows if row.alignment is not None]
    lowest = min([0.0, *seen, *(value for nulls in chance for value in nulls)])
    cosine_and_share(left, right, lowest)
    heading(left, "Alignment", handles, indent=indent_of(left))
    heading(right, "Locality")


def cosine_and_share(left: Axes, right: Axes, lowest: float) -> None:
    """Limits and ticks: a cosine of which the lowest is known, beside a number in [0, 1]."""
    left.set_xlim(-1.04 if lowest < -0.5 else -0.54 if lowest < -0.02 else -0.04, 1.04)
    left.set_xticks([x for x in (-1, -0.5, 0, 0.5, 1) if x >= left.get_xlim()[0]])
    left.axvline(0, color=style.MUTED, linewidth=0.7, zorder=1)
    right.set_xlim(-0.04, 1.04)
    right.set_xticks((0, 0.5, 1))


def draw_marks(
    panels: Mapping[Axes, str], series: Mapping[str, Sequence[Row]], marks: Mapping[str, Mark]
) -> list[Artist]:
    """One mark per layer and series, side by side within the layer's row; what the legend needs.

    Args:
        panels: axes with a row per layer, and the field that each shows.
        series: rows of layers by name, of one length.
        marks: label, marker, colour and size by the same names; the first is filled.
    """
    handles: list[Artist] = []
    few = max(map(len, series.values())) <= FEW
    step = min(0.3, 0.75 / len(series)) if few else 0.0
    for order, (name, rows) in enumerate(series.items()):
        label, marker, color, points = marks[name]
        look: dict[str, Any] = {
            "marker": marker, "markersize": points if few else 0.75 * points, "color": color, "linestyle": "none",
            "markerfacecolor": style.PAPER if order else color, "markeredgewidth": 1.1,
        }  # fmt: skip
        shift = (order - (len(series) - 1) / 2) * step
        for axes, field in panels.items():
            found = [
                (value, i + shift) for i, row in enumerate(rows) if (value := getattr(row, field)) is not None
            ]
            axes.plot([x for x, _ in found], [y for _, y in found], clip_on=False, zorder=5 - order, **look)
        handles.append(Line2D([], [], label=label, **look))
    return handles


def draw_gain(figure: Sheet, rows: Sequence[Row], units: str) -> None:
    """Gain available, used and adjusted, and beside it what is lost to weights, bias and rank."""
    left, right = side_by_side(figure, [row.name for row in rows], right=1.5)
    most = max([row.gain_drawn for row in rows] + [1e-12])
    lost = [(row.gap_weight or 0.0, row.gap_bias or 0.0, row.gap_rank or 0.0) for row in rows]
    used = [row.gain_used or 0.0 for row in rows]
    low = max(1.1 * min(used), -OVERSHOOT / 2 * most) if min(used) < 0 else 0.0
    high = min(1.04 * max(max(map(sum, lost)), 0.05 * most), OVERSHOOT * most)
    left.set_xlim(low, 1.04 * most)
    right.set_xlim(0.0, high)
    _bars(left, [0.0] * len(rows), [row.gain_available or 0.0 for row in rows], style.AVAILABLE)
    _bars(left, [0.0] * len(rows), used, style.USED, thick=THICK / 2)
    adjusted = {i: row.gain_adjusted for i, row in enumerate(rows) if row.gain_adjusted is not None}
    low_ends, high_ends = [i - THICK / 2 for i in adjusted], [i + THICK / 2 for i in adjusted]
    left.vlines(list(adjusted.values()), low_ends, high_ends, color=style.INK, linewidth=1.3)
    start = [0.0] * len(rows)
    for part, (_, color) in enumerate(GAPS):
        stop = [begin + gaps[part] for begin, gaps in zip(start, lost, strict=True)]
        _bars(right, start, stop, color)
        start = stop
    for i, (row, gain, total) in enumerate(zip(rows, used, start, strict=True)):
        if (row.gain_available or 0.0) > 1.04 * most:
            _cut(left, 1.04 * most, i, number(row.gain_available), "right")
        if gain < low:
            _cut(left, low, i, number(gain), "left")
        if total > high:
            _cut(right, high, i, number(total), "right")
    left.axvline(0, color=style.MUTED, linewidth=0.7, zorder=1)
    left.xaxis.set_major_locator(MaxNLocator(4))
    right.xaxis.set_major_locator(MaxNLocator(3))
    tick: dict[str, Any] = {"linestyle": "none", "marker": "|", "markersize": 7, "markeredgewidth": 1.3}
    swatches: list[Artist] = [
        Patch(facecolor=style.AVAILABLE, label="available"),
        Patch(facecolor=style.USED, label="used"),
        Line2D([], [], color=style.INK, label="adjusted", **tick),
    ]
    heading(left, f"Gain ({units})", swatches, indent=indent_of(left))
    heading(right, f"Lost ({units})", [Patch(facecolor=color, label=name) for name, color in GAPS])


def _bars(
    axes: Axes, start: Sequence[float], stop: Sequence[float], color: str, thick: float = THICK
) -> None:
    """Bars of a thickness in rows, as one collection of lines: quicker than a patch a bar."""
    points = 72 * thick * row_height(len(start))
    axes.hlines(range(len(start)), start, stop, color=color, linewidth=points, capstyle="butt")


def indent_of(axes: Axes) -> float:
    """From the left end of the axes to the left end of their names, in inches."""
    figure = axes.get_figure()
    assert figure is not None
    return 0.08 - axes.get_position().x0 * size(figure)[0]


def _cut(axes: Axes, edge: float, row: int, value: str, side: str) -> None:
    """Say that a bar goes on beyond the edge of the axes, and to where."""
    axes.annotate(
        f"‹ {value}" if side == "left" else f"{value} ›", (edge, row), xytext=(1 if side == "left" else -1, 0),
        textcoords="offset points", ha=side, va="center_baseline", fontsize=style.FONT - 1.4, color=style.INK,
        bbox={"boxstyle": "round,pad=0.12", "facecolor": style.PAPER, "edgecolor": "none", "alpha": 0.92},
    )  # fmt: skip
