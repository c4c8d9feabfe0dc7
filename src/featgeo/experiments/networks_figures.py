"""Figures of the experiment on whole networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from featgeo.experiments.record import Result
from featgeo.show.style import AVERAGE, BAYES, DEPTH, MUTED, USED

FACES = {"none": BAYES, "fixed": MUTED, "shrinking": AVERAGE, "by layer": USED}
NAMES = {
    "none": "no penalty",
    "fixed": "fixed penalty",
    "shrinking": "shrinking, alike on all layers",
    "by layer": "shrinking, by layer",
}
FLOOR = 1e-10  # of 1 - cos: below is rounding


def draw(result: Result) -> dict[str, Figure]:
    """Alignment against locality; misalignment against ε; weights against ε."""
    runs = result.series["runs"]
    return {"locality": _locality(runs), "layers": _layers(runs), "rates": _rates(runs)}


def _locality(runs: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for (penalty, stepped), mark in {
        (penalty, stepped): "x" if stepped else "o" for penalty in FACES for stepped in (False, True)
    }.items():
        points = [
            (layer["locality"], layer["alignment"])
            for r in runs
            if r["penalty"] == penalty and (r["optimiser"] != "L-BFGS") == stepped
            for layer in r["layers"]
            if layer["alignment"] is not None
        ]
        if points:
            label = NAMES[penalty] + (", Adam or SGD" if stepped else "")
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=14, marker=mark, color=FACES[penalty], lw=0.8, label=label)
    axes.set(xlabel="locality", ylabel="alignment at the Bayes action")
    axes.legend(fontsize=8)
    return figure


def _layers(runs: list[dict[str, Any]]) -> Figure:
    depths = sorted({r["depth"] for r in runs if r["activation"] == "tanh"})
    penalties = ("none", "shrinking", "by layer")
    figure = Figure(figsize=(8.4, 2.2 * len(depths) + 0.4), layout="constrained")
    grid = figure.subplots(len(depths), len(penalties), sharex=True, sharey=True, squeeze=False)
    for row, depth in zip(grid, depths, strict=True):
        for axes, penalty in zip(row, penalties, strict=True):
            members = _members(runs, depth, penalty)
            members.sort(key=lambda r: r["dependence"])
            for i in range(depth if members else 0):
                misses = [
                    np.nan if (a := r["layers"][i]["alignment"]) is None else max(1 - a, FLOOR)
                    for r in members
                ]
                shade = DEPTH[round(i * (len(DEPTH) - 1) / (depth - 1))]
                axes.plot([r["dependence"] for r in members], misses, marker=".", color=shade, lw=1)
            axes.set(xscale="log", yscale="log", title=f"{depth} layers, {NAMES[penalty]}")
            axes.title.set_fontsize(9)
        row[0].set_ylabel("1 − alignment")
    for axes in grid[-1]:
        axes.set_xlabel("ε")
    return figure


def _members(runs: list[dict[str, Any]], depth: int, penalty: str) -> list[dict[str, Any]]:
    """The tanh networks on digits of one depth and penalty; those of the rates where there are any."""
    wanted = (depth, penalty, "digits", "tanh")
    found = [r for r in runs if (r["depth"], r["penalty"], r["data"], r["activation"]) == wanted]
    return [r for r in found if r["purpose"] == "rates"] or found


def _rates(runs: list[dict[str, Any]]) -> Figure:
    members = [r for r in runs if (r["purpose"], r["penalty"]) == ("rates", "shrinking")]
    depths = sorted({r["depth"] for r in members})
    figure = Figure(figsize=(2.3 * len(depths) + 0.8, 3.0), layout="constrained")
    for axes, depth in zip(figure.subplots(1, len(depths), squeeze=False)[0], depths, strict=True):
        rows = sorted((r for r in members if r["depth"] == depth), key=lambda r: r["dependence"])
        epsilons = np.array([r["dependence"] for r in rows])
        for i in range(depth):
            norms = [r["layers"][i]["weight"] for r in rows]
            axes.loglog(
                epsilons, norms, marker=".", lw=1, color=DEPTH[round(i * (len(DEPTH) - 1) / (depth - 1))]
            )
        axes.loglog(epsilons, norms[0] * (epsilons / epsilons[0]) ** (1 / depth), ls=":", color=MUTED)
        axes.set(xlabel="ε", title=f"{depth} layers, slope 1/{depth}")
        axes.title.set_fontsize(9)
    figure.axes[0].set_ylabel("‖W‖")
    return figure
