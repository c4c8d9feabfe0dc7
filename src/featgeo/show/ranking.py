"""Scores of several feature sets as dots with intervals, a row a set."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featgeo.show.layout import LETTER, SIDE, TOP, heading, place, row_height, short
from featgeo.show.style import AVERAGE, MUTED, WIDTH, Drawing, house_style, new_figure

FOOT = 0.48  # inches for tick labels and the axis's name


def ranking_plot(scores: Mapping[str, tuple[float, float]], method: str, unit: str) -> Drawing:
    """Dots at the scores with two standard errors to both sides, from top to bottom in the order given.

    Args:
        scores: name -> score and standard error (NaN: no interval).
        method: of the score.
        unit: of the score.
    """
    names = list(scores)
    values, errors = np.array(list(scores.values()), dtype=float).reshape(-1, 2).T
    height = max(2, len(names)) * row_height(len(names))
    with house_style():
        figure = new_figure(WIDTH, TOP + height + FOOT)
        left = SIDE + LETTER * max((len(short(name)) for name in names), default=1) + 0.08
        axes = place(figure, left, TOP, WIDTH - left - 2 * SIDE, height)
        rows = np.arange(len(names))
        known = np.isfinite(values)
        spread = np.where(np.isfinite(errors), 2 * errors, 0.0)
        axes.errorbar(
            values[known], rows[known], xerr=spread[known], fmt="none", ecolor=MUTED, elinewidth=1.0
        )
        axes.plot(values[known], rows[known], "o", color=AVERAGE, markersize=4.0)
        axes.set_yticks(rows, [short(name) for name in names])
        axes.set_ylim(max(2, len(names)) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(unit)
        heading(axes, f"{method}, higher is better")
    return figure
