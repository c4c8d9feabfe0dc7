"""Figures of the average tail."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featgeo.experiments.record import Result

COLOURS = {"average": "#0072b2", "bayes": "#d55e00", "mean Jacobian": "#009e73", "variance": "#999999"}
NAMES = {
    "average": "average tail",
    "bayes": "Bayes action",
    "mean Jacobian": "mean Jacobian",
    "variance": "dropped variance",
}
STYLES = {"average": "-", "bayes": ":", "mean Jacobian": "--"}
PALETTE = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000", "#8c8c3a")


def _rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def tidy(axes: Axes, title: str = "") -> None:
    """The look that the figures share."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)


def _training(rows: list[dict[str, Any]]) -> Figure:
    families = list(dict.fromkeys(row["family"] for row in rows))
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, family in zip(figure.subplots(2, 2, sharey=True).flat, families, strict=False):
        own = [
            row
            for row in rows
            if row["family"] == family and row["state"] in ("untrained", "underway", "trained")
        ]
        for colour, layer in zip(PALETTE, dict.fromkeys(row["layer"] for row in own), strict=False):
            for at, style in STYLES.items():
                steps = sorted({row["step"] for row in own})
                means = []
                for step in steps:
                    values = [
                        r[at] for r in own if r["layer"] == layer and r["step"] == step and r[at] is not None
                    ]
                    means.append(float(np.mean(values)) if values else math.nan)
                axes.plot(
                    [s + 1 for s in steps],
                    means,
                    style,
                    color=colour,
                    lw=1.3,
                    label=layer if at == "average" else None,
                )
        axes.set_xscale("log")
        axes.axhline(0, color="0.6", lw=0.8)
        axes.set_xlabel("step + 1", fontsize=8)
        axes.set_ylabel("alignment", fontsize=8)
        tidy(axes, family)
        axes.legend(fontsize=7, frameon=False, ncols=2)
    return figure


def _trust(rows: list[dict[str, Any]]) -> Figure:
    own = [row for row in rows if row["state"] == "trained" and not row["output"]]
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, at in zip(figure.subplots(1, 2, sharey=True), ("average", "mean Jacobian"), strict=True):
        for marker, family in zip("os^D", dict.fromkeys(row["family"] for row in own), strict=False):
            pairs = [(r["tail_r2"], r[at]) for r in own if r["family"] == family and r[at] is not None]
            axes.plot(*zip(*pairs, strict=True), marker, ms=5, alpha=0.7, mec="white", mew=0.4, label=family)
        axes.axhline(0, color="0.6", lw=0.8)
        axes.set_xlabel("R² of the linear tail", fontsize=8)
        axes.set_ylabel("alignment", fontsize=8)
        tidy(axes, NAMES[at])
    axes.legend(fontsize=7, frameon=False)
    return figure


def _moves(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, phase in zip(figure.subplots(1, 3), ("early", "midway", "end"), strict=True):
        own = [row for row in rows if row["phase"] == phase]
        for at, colour in list(COLOURS.items())[:3]:
            pairs = [(r["predicted"], r["measured"]) for r in own if r["at"] == at]
            if pairs:
                axes.plot(
                    *zip(*pairs, strict=True), "o", ms=3.5, color=colour, alpha=0.6, mew=0, label=NAMES[at]
                )
        axes.set_xscale("symlog", linthresh=1e-3)
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.set_xlim(-2, 0)
        ends = [-2, -1e-1, -1e-2, -1e-3, 0]
        axes.plot(ends, ends, color="0.4", lw=0.8)
        axes.axhline(0, color="0.6", lw=0.8)
        axes.set_xlabel("predicted change (nats)", fontsize=8)
        axes.set_ylabel("measured change (nats)", fontsize=8)
        tidy(axes, phase)
    axes.legend(fontsize=7, frameon=False)
    return figure


def _cuts(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    keys = ("average", "mean Jacobian", "variance")
    for axes, key in zip(figure.subplots(1, 3, sharey=True), keys, strict=True):
        for marker, family in zip("os^D", dict.fromkeys(row["family"] for row in rows), strict=False):
            own = [
                r for r in rows if r["family"] == family and (r.get(key) or 0) > 1e-8 and r["measured"] > 0
            ]
            x, y = [r[key] for r in own], [r["measured"] for r in own]
            axes.plot(x, y, marker, ms=3.5, alpha=0.6, mew=0, label=family, rasterized=True)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(1e-4, 20)
        if key != "variance":
            ends = axes.get_xlim()
            axes.plot(ends, ends, color="0.4", lw=0.8)
        axes.set_xlabel(NAMES[key] + ("" if key == "variance" else ": predicted increase (nats)"), fontsize=8)
        axes.set_ylabel("measured increase (nats)", fontsize=8)
        tidy(axes)
    axes.legend(fontsize=7, frameon=False)
    return figure


def draw(result: Result) -> dict[str, Figure]:
    """Figures by key."""
    layers = _rows(result.series["layers"])
    return {
        "training": _training(layers),
        "trust": _trust(layers),
        "moves": _moves(_rows(result.series["moves"])),
        "cuts": _cuts(_rows(result.series["cuts"])),
    }
