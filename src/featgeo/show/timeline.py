"""A network over the steps of its training: loss, and alignment and gain of its layers, from reports' plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from featgeo.show import style
from featgeo.show.layout import LETTER, SIDE, TOP, heading, name_ends, place, short, spread
from featgeo.show.rows import Row, checked, finite, rows
from featgeo.show.words import loss_name, number, unit

CURVES = 6  # most layers shown
ACROSS = 6.2  # inches
HEIGHTS = (1.1, 1.9, 1.9)  # inches of the three panels
BETWEEN = 0.62  # inches from one panel to the next, for title and legend
DEEP = 0.5  # how far below zero gains are shown, in greatest gains that can be; beyond both ends they are counted
TRUSTED = 0.8  # locality below which a mark is hollow
DASHED = (0, (4, 2))
LINES: dict[str, dict[str, Any]] = {
    "gain_available": {"linewidth": 1.0, "linestyle": DASHED},
    "gain_used": {"linewidth": 1.6},
}


def timeline(reports: Sequence[tuple[int, Mapping[str, Any]]], at: str | None = None) -> style.Drawing:
    """Loss, alignment and gain over steps; a line per layer, from light (input) to dark (output).

    Args:
        reports: step and ``Report.to_dict()`` each, in order; at least one.
        at: the operating point; each report's own where none is named.
    """
    steps = [step for step, _ in reports]
    series = {name: [row for row in found] for name, found in _series(reports, at).items()}
    names = spread(list(series), CURVES)
    space = 0.2 + LETTER * max([len(short(name)) for name in names] + [4])
    with style.house_style():
        figure = style.new_figure(ACROSS, TOP + sum(HEIGHTS) + 2 * BETWEEN + 0.4)
        top, panels = TOP, []
        for height in HEIGHTS:
            panels.append(place(figure, 0.5, top, ACROSS - 0.5 - SIDE - space, height))
            top += height + BETWEEN
        first = reports[-1][1]
        _loss(panels[0], steps, [data for _, data in reports])
        colors = {name: _color(i, len(names)) for i, name in enumerate(names)}
        chosen = {name: series[name] for name in names}
        shown = f", {len(names)} of {len(series)} layers" if len(names) < len(series) else ""
        _alignment(panels[1], steps, chosen, colors, shown)
        _gain(panels[2], steps, chosen, colors, unit(first))
        for axes in panels:
            axes.set_xlim(min(steps), max(max(steps), min(steps) + 1))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panels[2].set_xlabel("steps of training")
    return figure


def _series(reports: Sequence[tuple[int, Mapping[str, Any]]], at: str | None) -> dict[str, list[Row | None]]:
    """Rows over the steps by layer, of the layers that any report has a view of."""
    found: dict[str, list[Row | None]] = {}
    for place_, (_, data) in enumerate(reports):
        for row in rows(checked(data), at):
            if row.has_view:
                found.setdefault(row.name, [None] * len(reports))[place_] = row
    return found


def _color(place_: int, count: int) -> str:
    return style.DEPTH[round(place_ * (len(style.DEPTH) - 1) / (count - 1)) if count > 1 else 3]


def _points(
    steps: Sequence[int], found: Sequence[Row | None], field: str
) -> tuple[list[int], list[float], list[bool]]:
    """Steps, values, and whether the layer is local there, where there is a value."""
    kept = [
        (step, value, (row.locality or 0.0) >= TRUSTED)
        for step, row in zip(steps, found, strict=True)
        if row is not None and (value := getattr(row, field)) is not None
    ]
    return [x for x, _, _ in kept], [y for _, y, _ in kept], [local for _, _, local in kept]


def _loss(axes: Axes, steps: Sequence[int], reports: Sequence[Mapping[str, Any]]) -> None:
    found = [
        (step, value)
        for step, data in zip(steps, reports, strict=True)
        if (value := finite(data["loss_value"]))
    ]
    axes.plot(
        [x for x, _ in found],
        [y for _, y in found],
        color=style.INK,
        linewidth=1.4,
        marker="o",
        markersize=2.5,
    )
    constant = finite(reports[-1]["constant_loss"])
    handles: list[Artist] = [Line2D([], [], color=style.INK, linewidth=1.4, label="model")]
    if constant is not None:
        axes.axhline(constant, color=style.MUTED, linewidth=0.9, linestyle=DASHED)
        label = f"best constant output, {number(constant)}"
        handles.append(Line2D([], [], color=style.MUTED, linewidth=0.9, linestyle=DASHED, label=label))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    heading(axes, f"Loss ({loss_name(reports[-1])})", handles, indent=-0.42, handle=1.7)


def _alignment(
    axes: Axes,
    steps: Sequence[int],
    series: Mapping[str, Sequence[Row | None]],
    colors: Mapping[str, str],
    shown: str,
) -> None:
    lowest, ends = 0.0, []
    for name, found in series.items():
        xs, ys, local = _points(steps, found, "alignment")
        if not xs:
            continue
        axes.plot(xs, ys, color=colors[name], linewidth=1.4)
        for x, y, trusted in zip(xs, ys, local, strict=True):
            face = colors[name] if trusted else style.PAPER
            axes.plot(
                x, y, marker="o", markersize=3.4, color=colors[name], markerfacecolor=face, clip_on=False
            )
        lowest = min(lowest, *ys)
        ends.append((ys[-1], xs[-1], short(name), colors[name]))
    axes.set_ylim(lowest - 0.05, 1.05)
    axes.axhline(0, color=style.MUTED, linewidth=0.7, zorder=1)
    mark: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 3.4, "color": style.DEPTH[4]}
    handles: list[Artist] = [
        Line2D([], [], label=f"local (locality {TRUSTED} or more)", **mark),
        Line2D([], [], label="less so", markerfacecolor=style.PAPER, **mark),
    ]
    name_ends(axes, ends, max(max(steps), min(steps) + 1), 0.055, start=min(steps))
    heading(axes, f"Alignment{shown}", handles, indent=-0.42)


def _gain(
    axes: Axes,
    steps: Sequence[int],
    series: Mapping[str, Sequence[Row | None]],
    colors: Mapping[str, str],
    units: str,
) -> None:
    known = [row for found in series.values() for row in found if row is not None]
    most = max([1e-12, *(row.gain_drawn for row in known)])
    least = min([0.0, *(row.gain_used for row in known if row.gain_used is not None)])
    low, high = max(1.08 * least, -DEEP * most), 1.08 * most
    ends, values, outside = [], 0, 0
    for name, found in series.items():
        for field, look in LINES.items():
            xs, ys, _ = _points(steps, found, field)
            axes.plot(xs, ys, color=colors[name], **look)
            values += len(ys)
            for x, y in zip(xs, ys, strict=True):
                if not low <= y <= high:
                    outside += 1
                    edge, mark = (high, "^") if y > high else (low, "v")
                    axes.plot(x, edge, marker=mark, markersize=3.2, color=colors[name], clip_on=False)
        if xs:
            ends.append((min(max(ys[-1], low), high), xs[-1], short(name), colors[name]))
    axes.set_ylim(low, high)
    axes.axhline(0, color=style.MUTED, linewidth=0.7, zorder=1)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    name_ends(axes, ends, max(max(steps), min(steps) + 1), 0.05 * (high - low), start=min(steps))
    handles: list[Artist] = [
        Line2D([], [], color=style.DEPTH[3], label="used", **LINES["gain_used"]),
        Line2D([], [], color=style.DEPTH[3], label="available", **LINES["gain_available"]),
    ]
    if outside:
        label = f"beyond the scale: {outside} of {values} values"
        handles.append(
            Line2D([], [], color=style.DEPTH[3], linestyle="none", marker="^", markersize=3.2, label=label)
        )
    heading(axes, f"Gain ({units})", handles, indent=-0.42, handle=1.7)
