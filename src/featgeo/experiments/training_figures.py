"""Figures of the experiment during training."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from featgeo.experiments.average_tail_figures import PALETTE, tidy
from featgeo.experiments.record import Result


def draw(result: Result) -> dict[str, Figure]:
    """Strengths of the modes, and alignment of the layers, against steps."""
    runs = result.series["runs"]
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    for axes, one in zip(figure.subplots(2, 3, sharey=True).flat, runs, strict=False):
        count = len(one["values"])
        for i in range(count):
            shade = str(0.75 * i / max(count - 1, 1))
            axes.plot(
                [s + 1 for s in one["steps"]], [row[i] for row in one["strengths"]], color=shade, lw=1.3
            )
            if one.get("predicted"):
                axes.axvline(one["predicted"][i], color=shade, ls=":", lw=0.9)
        axes.set_xscale("log")
        axes.set_ylim(-0.3, 1.8)
        axes.set_xlabel("step + 1", fontsize=8)
        tidy(axes, one["setting"])
    figure.supylabel("strength of a mode / σ", fontsize=8)
    second = Figure(figsize=(9, 5.6), layout="constrained")
    both = [one for one in runs if one["average"]]
    for row, one in zip(second.subplots(2, 2, sharey=True), both, strict=True):
        steps = [s + 1 for s in one["steps"]]
        for colour, layer in zip(PALETTE, one["average"], strict=False):
            for at, style in (("average", "-"), ("bayes", ":")):
                values = [math.nan if v is None else v for v in one[at][layer]]
                row[0].plot(
                    steps,
                    values,
                    style,
                    color=colour,
                    lw=1.3,
                    label=f"layer {layer}" if at == "average" else None,
                )
        for i in range(len(one["values"])):
            shade = str(0.75 * i / (len(one["values"]) - 1))
            row[1].plot(steps, [values[i] for values in one["captured"]], color=shade, lw=1.2)
        row[0].legend(fontsize=7, frameon=False)
        for axes, what in zip(row, ("alignment", "cosine of modes with features"), strict=True):
            axes.set_xscale("log")
            axes.set_xlabel("step + 1", fontsize=8)
            tidy(axes, f"{one['setting']}: {what}")
    return {"modes": figure, "layers": second}
