"""Figure of the experiment on hard labels."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from featgeo.experiments.average_tail_figures import PALETTE, tidy
from featgeo.experiments.confidence import interval
from featgeo.experiments.record import Result


def draw(result: Result) -> dict[str, Figure]:
    """Accuracy of the heads, and collapse, against training steps."""
    rows = result.series["rows"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = sorted({row["step"] for row in rows})

    def curve(penalty: float, read: Any) -> list[float]:
        return [
            interval([read(r) for r in rows if r["step"] == s and r["penalty"] == penalty])[0] for s in steps
        ]

    shifted = [step + 1 for step in steps]
    for colour, head in zip(PALETTE, ("trained head", "one-step W*", "discriminant analysis"), strict=False):
        for penalty, style in zip(result.series["penalties"], ("-", "--"), strict=True):
            label = f"{head}{', penalty' if penalty else ''}"
            left.plot(
                shifted, curve(penalty, lambda r, h=head: r[h]), style, color=colour, lw=1.3, label=label
            )
    for colour, penalty in zip(PALETTE, result.series["penalties"], strict=False):
        for where, style in (("raw", "-"), ("white", "--")):
            label = f"{'penalty' if penalty else 'no penalty'}{', whitened' if where == 'white' else ''}"
            right.plot(
                shifted,
                curve(penalty, lambda r, w=where: r[w]["angle"]),
                style,
                color=colour,
                lw=1.3,
                label=label,
            )
    for axes, title in ((left, "test accuracy"), (right, "class means' cosines off the prediction")):
        axes.set_xscale("log")
        axes.set_xlabel("step + 1", fontsize=8)
        axes.legend(fontsize=7, frameon=False)
        tidy(axes, title)
    right.set_yscale("log")
    return {"collapse": figure}
