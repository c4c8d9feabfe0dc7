"""Labels beside points that overlap neither each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

DISTANCES = (5.0, 9.0, 14.0, 20.0)  # points from a point's centre to the nearest edge of its label
DIRECTIONS = 12
AIR = 1.0  # points kept free around a label


@dataclass(frozen=True)
class Label:
    """A label at (x, y) in data units; the more important ones are placed first."""

    text: str
    x: float
    y: float
    importance: float
    color: str


def place_labels(axes: Axes, labels: Sequence[Label], size: float, marker: float = 5.0) -> int:
    """Write the labels, each at the free place nearest to its point; those without any are left out.

    Args:
        axes: with their final limits; the figure is laid out here.
        labels: what to write.
        size: of the text in points.
        marker: diameter of the points, in points.

    Returns:
        How many labels were left out.
    """
    figure: Any = axes.figure
    figure.draw_without_rendering()
    axes.autoscale(False)  # the limits that this drawing settled on
    if figure.get_layout_engine() is not None:
        figure.set_layout_engine("none")  # the places are right for this layout
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    unit = figure.dpi / 72  # pixels per point
    frame = axes.get_window_extent(renderer)
    spots = [axes.transData.transform((label.x, label.y)) for label in labels]
    half = marker / 2 * unit
    taken = [Bbox([[x - half, y - half], [x + half, y + half]]) for x, y in spots]
    left_out = 0
    for label, (x, y) in sorted(zip(labels, spots, strict=True), key=lambda pair: -pair[0].importance):
        text = axes.text(
            0, 0, label.text, fontsize=size, color=label.color, ha="center", va="center", transform=None
        )
        extent = text.get_window_extent(renderer)
        width, height = extent.width, extent.height
        for dx, dy in _offsets(width, height, unit):
            box = Bbox.from_bounds(x + dx - width / 2, y + dy - height / 2, width, height).padded(AIR * unit)
            if _inside(box, frame) and not any(box.overlaps(other) for other in taken):
                break
        else:
            text.remove()
            left_out += 1
            continue
        taken.append(box)
        text.set_transform(axes.transData)
        text.set_position(tuple(axes.transData.inverted().transform((x + dx, y + dy))))
        text.set_gid(f"label-{len(taken)}")
        if math.hypot(dx, dy) > (DISTANCES[1] + 1) * unit + math.hypot(width, height) / 2:
            ends = axes.transData.inverted().transform([(x, y), _edge(x, y, box)])
            axes.plot(ends[:, 0], ends[:, 1], color=label.color, linewidth=0.4, alpha=0.6, zorder=1)
    return left_out


def _offsets(width: float, height: float, unit: float) -> list[tuple[float, float]]:
    """Centres of a label around its point, the nearest first, to the right before to the left."""
    found = []
    for distance in DISTANCES:
        for step in range(DIRECTIONS):
            angle = (step + 1) // 2 * (1 if step % 2 else -1) * 2 * math.pi / DIRECTIONS
            reach = distance * unit
            found.append((math.cos(angle) * (reach + width / 2), math.sin(angle) * (reach + height / 2)))
    return found


def _inside(box: Bbox, frame: Bbox) -> bool:
    return bool(box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1)


def _edge(x: float, y: float, box: Bbox) -> tuple[float, float]:
    """The point of a box nearest to (x, y)."""
    return min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
