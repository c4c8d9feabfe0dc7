"""A report's figures, from its plain data; drawn with matplotlib's objects, so that no global state is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from featgeo.show.depth import draw_alignment, draw_gain
from featgeo.show.layout import Sheet, rows_height, spread
from featgeo.show.modes import draw_spectra, draw_width, spectra_height
from featgeo.show.rows import OWN, Row, checked, points, rows
from featgeo.show.style import MUTED, WIDTH, house_style, new_figure
from featgeo.show.words import unit

PANELS = 12  # most small multiples in a figure
CURVES = 6  # most curves in a figure


def alignment(data: Mapping[str, Any]) -> Figure:
    """Alignment beside locality per layer, both operating points, with what chance gives where nulls were measured."""
    views = _views(data)
    with house_style():
        figure = new_figure(WIDTH, rows_height(_height(views)))
        _alignment(figure, views)
    return figure


def gain(data: Mapping[str, Any], at: str | None = None) -> Figure:
    """Gain available, used and adjusted along depth, with the gap split, at one operating point."""
    found = _shown(data, at)
    with house_style():
        figure = new_figure(WIDTH, rows_height(len(found)))
        _gain(figure, found, data)
    return figure


def spectrum(data: Mapping[str, Any], at: str | None = None) -> Figure:
    """Singular values and noise floor per layer, at most twelve layers, evenly spread over depth."""
    found = [row for row in _shown(data, at) if row.spectrum]
    with house_style():
        figure = new_figure(WIDTH, spectra_height(min(PANELS, len(found))))
        _spectra(figure, found)
    return figure


def width_curve(data: Mapping[str, Any], at: str | None = None) -> Figure:
    """Predicted loss against the number of modes kept, with the model's loss; at most six layers over depth."""
    found = [row for row in _shown(data, at) if row.width_curve]
    with house_style():
        figure = new_figure(WIDTH, 2.9)
        _width(figure, found, data)
    return figure


def overview(data: Mapping[str, Any]) -> Figure:
    """All four figures on one sheet, at the operating point shown first."""
    views = _views(data)
    found = _shown(data, None)
    spectra = [row for row in found if row.spectrum]
    heights = rows_height(_height(views)), max(3.1, spectra_height(min(PANELS, len(spectra))))
    with house_style():
        figure = new_figure(2 * WIDTH, sum(heights))
        grid = np.asarray(figure.subfigures(2, 2, height_ratios=heights, wspace=0.0, hspace=0.0))
        for part in grid.flat:
            part.set_facecolor("none")
        _alignment(grid[0, 0], views)
        _gain(grid[0, 1], found, data)
        _spectra(grid[1, 0], spectra)
        _width(grid[1, 1], [row for row in found if row.width_curve], data)
    return figure


def _views(data: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Rows by operating point, the one shown first leading, of the layers that have any view."""
    data = checked(data)
    order = sorted((at for at in points(data) if at != OWN), key=lambda at: at != data["at"])
    views = {at: rows(data, at) for at in order}
    seen = [i for i, row in enumerate(views[order[0]]) if any(view[i].has_view for view in views.values())]
    return {at: [view[i] for i in seen] for at, view in views.items()}


def _height(views: Mapping[str, Sequence[Row]]) -> int:
    return len(next(iter(views.values())))


def _shown(data: Mapping[str, Any], at: str | None) -> list[Row]:
    return [row for row in rows(checked(data), at) if row.has_view]


def _empty(figure: Sheet, text: str) -> None:
    figure.text(0.5, 0.5, text, ha="center", va="center", color=MUTED)


def _alignment(figure: Sheet, views: Mapping[str, Sequence[Row]]) -> None:
    if _height(views):
        draw_alignment(figure, views)
    else:
        _empty(figure, "no layer was analysed")


def _gain(figure: Sheet, found: Sequence[Row], data: Mapping[str, Any]) -> None:
    if found:
        draw_gain(figure, found, unit(data))
    else:
        _empty(figure, "no layer was analysed here")


def _spectra(figure: Sheet, found: Sequence[Row]) -> None:
    if found:
        draw_spectra(figure, spread(found, PANELS), len(found))
    else:
        _empty(figure, "no spectrum")


def _width(figure: Sheet, found: Sequence[Row], data: Mapping[str, Any]) -> None:
    if found:
        draw_width(figure, spread(found, CURVES), data)
    else:
        _empty(figure, "no spectrum")
