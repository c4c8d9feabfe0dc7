"""Which operating point predicts what a layer does: small steps towards each W*, on networks at stages of training."""

from __future__ import annotations

import math
import statistics
import warnings
from typing import Any

from matplotlib.figure import Figure

from featgeo.errors import FeatgeoWarning
from featgeo.experiments.architectures import FAMILIES, images, train
from featgeo.experiments.average_tail_figures import COLOURS, tidy
from featgeo.experiments.record import Cell, Experiment, Result, Settings, Table, at_least
from featgeo.network.analyze import analyze

POINTS = ("average", "bayes", "jacobian")
COLOUR = {**COLOURS, "jacobian": COLOURS["mean Jacobian"]}
SEEDS = 10
PHASES = {10: "early", 60: "midway", 300: "end"}
FACTOR = 2.0  # within which a prediction counts as true
Row = dict[str, Any]


def _rows(settings: Settings) -> list[Row]:
    """One row per network, seed, stage, layer and operating point."""
    data, found = images(), []
    families = [family for family in FAMILIES if family.name != "MLP"]
    seeds, phases = [settings.seed + i for i in range(SEEDS)], PHASES
    if settings.quick:
        families, seeds, phases = families[2:], seeds[:1], {10: "early"}
        data = data[0][:600], data[1][:600]
    jobs = [(family, seed) for family in families for seed in seeds]
    for number, (family, seed) in enumerate(jobs):
        settings.progress(number / len(jobs), f"{family.name}, seed {seed}")
        kept = train(family.make(seed), *data, max(phases), seed, snapshots=tuple(phases))
        for step, phase in phases.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FeatgeoWarning)
                report = analyze(kept[step], data, at="bayes", subset=512, steps=True)
            for layer in report:
                for at, view in layer.views.items():
                    if view.step is None or layer.is_output:
                        continue
                    found.append(
                        {
                            "family": family.name, "seed": seed, "phase": phase, "layer": layer.name,
                            "status": layer.status, "at": at, "predicted": view.step[0], "measured": view.step[1],
                            "locality": view.locality,
                        }
                    )  # fmt: skip
    return found


def _ratio(row: Row) -> float:
    return float(row["measured"] / row["predicted"]) if row["predicted"] else math.nan


def _true(row: Row) -> bool:
    return 1 / FACTOR <= _ratio(row) <= FACTOR


def _share(rows: list[Row], true: Any = _true) -> float:
    return sum(map(true, rows)) / len(rows) if rows else math.nan


def _table(rows: list[Row], phases: list[str]) -> Table:
    lines: list[list[Cell]] = []
    for phase in phases:
        for status in ("analysed", "bypassed"):
            for at in POINTS:
                some = [
                    row for row in rows if (row["phase"], row["status"], row["at"]) == (phase, status, at)
                ]
                if some:
                    lines.append(
                        [
                            phase, "only road" if status == "analysed" else "bypassed", at, len(some),
                            _share(some, lambda row: row["measured"] < 0), statistics.median(map(_ratio, some)),
                            _share(some), statistics.median(row["locality"] for row in some),
                        ]
                    )  # fmt: skip
    columns = [
        "phase", "layers", "operating point", "steps", "share that lower the loss", "measured / predicted (median)",
        f"share within a factor {FACTOR:g}", "locality (median)",
    ]  # fmt: skip
    return Table("Small steps towards W*", columns, lines)


def _by_seed(rows: list[Row]) -> Table:
    """How far the shares early in training hang on the seed."""
    lines: list[list[Cell]] = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        some = [
            row for row in rows if (row["seed"], row["phase"], row["status"]) == (seed, "early", "bypassed")
        ]
        lines.append([seed, *(_share([row for row in some if row["at"] == at]) for at in POINTS)])
    return Table(
        f"Bypassed layers, early: share within a factor {FACTOR:g}, by seed", ["seed", *POINTS], lines
    )


def run(settings: Settings) -> Result:
    """Train, move, compare."""
    rows = _rows(settings)
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    early = {
        at: [r for r in rows if (r["phase"], r["status"], r["at"]) == ("early", "bypassed", at)]
        for at in POINTS
    }
    shares = {at: _share(some) for at, some in early.items()}
    lowers = {
        at: _share(
            [r for r in rows if (r["status"], r["at"]) == ("bypassed", at)], lambda r: r["measured"] < 0
        )
        for at in POINTS
    }
    best = max(shares, key=lambda at: shares[at] if math.isfinite(shares[at]) else -1.0)
    local = {
        name: _share([row for row in rows if (row["locality"] >= 0.8) == high])
        for name, high in (("local", True), ("not", False))
    }
    parts = ", ".join(f"{share:.0%} at `{at}`" for at, share in shares.items())
    falls = ", ".join(f"{share:.0%} at `{at}`" for at, share in lowers.items())
    verdict = (
        f"In bypassed layers, early in training, the change of the loss is within a factor {FACTOR:g} of the "
        f"prediction for {parts}; over all stages a step lowers the loss for {falls}. The best of the three is "
        f"`{best}`; the default for bypassed layers is `jacobian`. Predictions are true for {local['local']:.0%} of "
        f"the views with locality of at least 0.8 and for {local['not']:.0%} of the others: locality does not know "
        "W*, and late in training the quadratics promise a decrease where the loss has none left to give. That is why "
        "`analyze` measures the step itself for bypassed layers (for all with `steps=True`) and reports it."
    )
    checks = [
        at_least(
            "bypassed layers, early: share of true predictions at the mean Jacobian", shares["jacobian"], 0.4
        ),
        at_least("the same less that at the average tail", shares["jacobian"] - shares["average"], 0.2),
        at_least(
            "true predictions: share where locality is at least 0.8 less that elsewhere",
            local["local"] - local["not"],
            0.3,
        ),
    ]
    numbers = {
        "within a factor, early, bypassed": shares,
        "lower the loss, bypassed": lowers,
        "by locality": local,
    }
    return Result(
        tables=[_table(rows, phases), _by_seed(rows)],
        numbers=numbers,
        checks=checks,
        verdict=verdict,
        series={"rows": [{**row, "ratio": _ratio(row)} for row in rows]},
        captions={"steps": "Measured over predicted change of the loss for a small step towards W*, one dot per layer; "
                  "1 is a true prediction, below 0 the loss rises."},
    )  # fmt: skip


def draw(result: Result) -> dict[str, Figure]:
    """Ratios by phase and operating point, bypassed layers beside the others."""
    rows = result.series["rows"]
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for place, status in enumerate(("analysed", "bypassed")):
        axes = figure.add_subplot(1, 2, place + 1)
        for order, at in enumerate(POINTS):
            some = [
                row
                for row in rows
                if row["status"] == status and row["at"] == at and row["ratio"] is not None
            ]
            x = [phases.index(row["phase"]) + 0.25 * (order - 1) for row in some]
            y = [min(3.0, max(-3.0, row["ratio"])) for row in some]
            axes.scatter(x, y, s=9, alpha=0.6, color=COLOUR[at], label=at)
        axes.axhline(1, color="#888888", linewidth=0.8)
        axes.axhline(0, color="#cccccc", linewidth=0.8)
        axes.set_xticks(range(len(phases)), phases)
        axes.set_ylabel("measured / predicted (cut at ±3)")
        tidy(axes, "only road" if status == "analysed" else "bypassed")
        axes.legend(fontsize=7)
    return {"steps": figure}


EXPERIMENT = Experiment(
    name="operating_points",
    title="Which operating point says what a layer does",
    claim=(
        "A step of the weights towards W*, with the mean output kept, changes the quadratic of an operating point by "
        "-(2t - t²) of its weight gap. The operating point whose prediction comes true is the one to believe. Beside "
        "another road the average tail credits the layer with what that road carries; the mean Jacobian and the "
        "frozen Bayes action do not."
    ),
    setup=(
        "A convolutional, a residual and an attention network on scikit-learn's digits, hard labels, Adam, early, "
        "midway and at the end of training, ten seeds. Every hidden layer is moved 5 % of the way to the W* of "
        "each operating point, no further than 5 % of the spread of its own output; the loss is measured before and "
        "after on 512 samples (`analyze(..., steps=True)`)."
    ),
    run=run,
    draw=draw,
)
