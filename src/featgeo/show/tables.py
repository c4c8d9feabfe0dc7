"""Figures of the modes of a table, from plain data: biplot, scree, heat map of B, dependence of many columns.

The data of the first three is what ``ModalDecomposition.to_dict`` gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from featgeo.errors import FeatgeoError
from featgeo.show.labels import Label, place_labels
from featgeo.show.rows import printable
from featgeo.show.style import (
    AVERAGE,
    BAYES,
    CHANCE,
    FONT,
    INK,
    LINE,
    MUTED,
    WIDTH,
    Drawing,
    house_style,
    new_figure,
)

Kind = Literal["symmetric", "rows", "columns"]
KINDS = ("symmetric", "rows", "columns")
KIND_WORDS = {
    "symmetric": "both in principal coordinates",
    "rows": "rows in principal, columns in standard coordinates",
    "columns": "columns in principal, rows in standard coordinates",
}
LABELLED = 60  # most labels tried on each side of a biplot
LONGEST = 30  # letters of a label beside a heat map
TESTED = 6  # most modes whose p-values fit into a scree plot
Array = NDArray[np.float64]


def biplot(data: Mapping[str, Any], kind: Kind = "symmetric", modes: tuple[int, int] = (0, 1)) -> Drawing:
    """Rows and columns as points in the plane of two modes; one mode alone is drawn along a line.

    Args:
        data: plain data of a decomposition.
        kind: "symmetric", or which side is in principal coordinates. Distances mean χ² distances within a side in
            principal coordinates; scalar products across sides mean entries of B in the two asymmetric kinds.
        modes: numbers of the modes, from 0.

    Raises:
        FeatgeoError: unknown kind, or modes that were not computed.
    """
    correlations = np.asarray(data["correlations"], dtype=float)
    if kind not in KINDS:
        raise FeatgeoError("kind", f"{kind!r}", f"Choose one of {', '.join(KINDS)}.")
    if not len(correlations) or max(modes[: len(correlations)]) >= len(correlations) or min(modes) < 0:
        raise FeatgeoError(
            "modes", f"{modes} of {len(correlations)}", "Name two modes that were computed, from 0."
        )
    chosen = [mode for mode in modes if mode < len(correlations)][:2]
    with house_style():
        figure = _figure(WIDTH, WIDTH if len(chosen) == 2 else WIDTH / 2, foot=0.035)
        axes = figure.add_subplot()
        axes.axhline(0, color=LINE, linewidth=0.7, zorder=0)
        axes.axvline(0, color=LINE, linewidth=0.7, zorder=0)
        labels: list[Label] = []
        sides = ("rows", AVERAGE, "o"), ("columns", BAYES, "^")
        for (side, color, marker), name in zip(sides, data["names"], strict=True):
            scale = _scale(side, kind, correlations)
            labels += _points(axes, data[side], scale, chosen, color, marker, printable(name))
        shares = data["shares"]
        names = [
            f"mode {mode + 1}: σ = {correlations[mode]:.3f}, {shares[mode]:.1%} of inertia" for mode in chosen
        ]
        axes.set_xlabel(names[0])
        if len(chosen) == 2:
            axes.set_ylabel(names[1])
            axes.set_aspect("equal", adjustable="datalim")
        else:
            axes.set_yticks([])
        axes.margins(0.12)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, borderaxespad=0.2)
        left_out = place_labels(axes, labels, FONT - 0.8)
        caption = KIND_WORDS[kind]
        missing = left_out + sum(max(0, len(data[side]["labels"]) - LABELLED) for side in ("rows", "columns"))
        if missing:
            caption += f"; {missing:,} without label"
        figure.text(0.99, 0.005, caption, ha="right", va="bottom", color=MUTED, fontsize=FONT - 1.4)
    return figure


def scree(data: Mapping[str, Any]) -> Drawing:
    """Correlations by mode, with what independence alone would give and the p-values where they were computed."""
    correlations = np.asarray(data["correlations"], dtype=float)
    place = np.arange(1, len(correlations) + 1)
    test = data.get("significance")
    with house_style():
        figure = _figure(WIDTH, WIDTH * 0.6)
        axes = figure.add_subplot()
        if test:
            low, high = (
                np.asarray(test[key], dtype=float)[: len(place)] for key in ("null_low", "null_high")
            )
            axes.fill_between(
                place, low, high, color=CHANCE, alpha=0.5, linewidth=0, label="independence, 5 to 95 %"
            )
            corrected = np.asarray(test["corrected"], dtype=float)[: len(place)]
            axes.plot(
                place, corrected, "x", color=BAYES, markersize=5, clip_on=False, label="corrected for noise"
            )
            for k, p in enumerate(test["p_values"][: len(place)] if len(place) <= TESTED else ()):
                axes.annotate(
                    f"p {'≤' if p <= 1.5 / (test['n_resamples'] + 1) else '='} {p:.2g}", (place[k], correlations[k]),
                    (3, 3), textcoords="offset points", fontsize=FONT - 1.8, color=MUTED,
                )  # fmt: skip
        axes.plot(place, correlations, "o-", color=AVERAGE, markersize=4, linewidth=1, label="correlation σ")
        axes.set_xlabel("mode")
        axes.set_ylabel("correlation")
        axes.set_ylim(0, max(0.05, float(correlations.max(initial=0)) * 1.15))
        axes.set_xlim(0.6, len(place) + 0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper right")
    return figure


def heat_map(data: Mapping[str, Any]) -> Drawing:
    """B, rows and columns in the order of the first mode; of large tables the categories of largest inertia."""
    block = data["matrix"]
    values = np.asarray(block["values"], dtype=float)
    rows, columns = (
        [printable(name) for name in block["rows"]],
        [printable(name) for name in block["columns"]],
    )
    with house_style():
        figure = _matrix(values, rows, columns, np.abs(values).max(initial=0) or 1.0, "B = (p - rc) / √(rc)")
        left = data["matrix"]["left_out"]
        if left:
            note = f"the {len(rows)} rows and {len(columns)} columns of largest inertia"
            figure.axes[0].set_title(note, fontsize=FONT - 0.6, color=MUTED, loc="left")
    return figure


def dependence_map(
    values: Array,
    names: Sequence[str],
    order: Sequence[int],
    p_values: Array | None = None,
    alpha: float = 0.05,
) -> Drawing:
    """Clustered heat map of the dependence of all pairs of columns; a dot marks p ≤ alpha.

    Args:
        values: maximal correlations (q, q).
        names: of the columns (q,).
        order: of the leaves of the clustering (q,).
        p_values: (q, q), adjusted for their number or not.
        alpha: level of the dots.
    """
    order = list(order)
    matrix = np.array(values, dtype=float)[np.ix_(order, order)]
    np.fill_diagonal(matrix, np.nan)
    labels = [printable(names[i]) for i in order]
    with house_style():
        figure = _matrix(matrix, labels, labels, 1.0, "maximal correlation", signed=False)
        if p_values is not None:
            marked = np.asarray(p_values, dtype=float)[np.ix_(order, order)] <= alpha
            np.fill_diagonal(marked, False)
            y, x = np.nonzero(marked)
            figure.axes[0].scatter(x, y, s=max(0.8, 60 / len(labels)), color=INK, linewidths=0)
    return figure


def _figure(width: float, height: float, foot: float = 0.0) -> Drawing:
    """A figure that lays itself out above a strip of this share of its height."""
    figure = new_figure(width, height)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, foot, 1, 1 - foot)))
    return figure


def _scale(side: str, kind: str, correlations: Array) -> Array:
    """What a side's functions are multiplied with: σ for principal coordinates."""
    return correlations if kind in ("symmetric", side) else np.ones_like(correlations)


def _points(
    axes: Axes, side: Mapping[str, Any], scale: Array, modes: list[int], color: str, marker: str, name: str
) -> list[Label]:
    functions = np.asarray(side["functions"], dtype=float).reshape(len(side["labels"]), -1)
    places = (functions * scale)[:, modes]
    if len(modes) == 1:
        places = np.column_stack([places, np.zeros(len(places))])
    shown = np.asarray(np.isfinite(places).all(axis=1))
    weight = np.nan_to_num(np.asarray(side["importance"], dtype=float))
    x, y = places[shown, 0], places[shown, 1]
    axes.scatter(x, y, s=9, color=color, marker=marker, linewidths=0, zorder=3, label=name)
    important = np.argsort(-weight, kind="stable")[:LABELLED]
    return [
        Label(printable(side["labels"][i]), float(places[i, 0]), float(places[i, 1]), float(weight[i]), color)
        for i in important
        if shown[i]
    ]


def _matrix(
    values: Array, rows: list[str], columns: list[str], top: float, title: str, signed: bool = True
) -> Drawing:
    """A matrix as cells whose colour fades into the page at zero, so that light and dark pages both suit."""
    rows, columns = [_short(name) for name in rows], [_short(name) for name in columns]
    longest = max(map(len, rows)) * 0.055 + 0.9
    side = min(0.22, max(0.135, (WIDTH - longest) / max(1, len(columns))))
    height = side * len(rows) + max(map(len, columns)) * 0.055 + 0.7
    figure = _figure(max(WIDTH, side * len(columns) + longest), max(1.8, height))
    axes = figure.add_subplot()
    image = axes.imshow(
        values, cmap=_fading(signed), vmin=-top if signed else 0.0, vmax=top, aspect="auto", interpolation="nearest"
    )  # fmt: skip
    axes.set_xticks(
        range(len(columns)), columns, rotation=90 if max(map(len, columns)) > 3 or len(columns) > 15 else 0
    )
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(title)
    bar.outline.set_visible(False)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1].rstrip() + "…"


def _fading(signed: bool) -> ListedColormap:
    shades = np.zeros((256, 4))
    strength = np.abs(np.linspace(-1, 1, 256)) if signed else np.linspace(0, 1, 256)
    for half, color in (
        ((slice(128), BAYES), (slice(128, 256), AVERAGE)) if signed else ((slice(256), AVERAGE),)
    ):
        shades[half, :3] = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    shades[:, 3] = strength**0.8
    return ListedColormap(shades)
