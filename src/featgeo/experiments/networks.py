"""Whole networks trained jointly on real images: which layers obey the local theory, and when.

How far the weights move. Near c the loss is that of a linear network with product W_m ... W_1, and every mode of B
of size ε a decouples: minimise ½(ε a - p)² + Σ_i λ_i w_i²/2 over its gains w_i with product p. Stationarity says
λ_i w_i² = (ε a - p) p for every i. Hence

- with θ = p / (ε a) and Λ the geometric mean of the λ_i, (1 - θ) θ^(1 - 2/m) = Λ / (ε a)^(2 - 2/m): what is learned
  depends on Λ alone, and at every ε alike only where Λ shrinks like ε^(2 - 2/m);
- equal λ_i give equal w_i = p^(1/m), of order ε^(1/m): z_i of layer i has a spread of order ε^(i/m), so that the first
  layers of a deep network become local slowly. The tail bends over that spread by a share of order ε^(i/m), or
  ε^(2i/m) where the activations work at their inflection (the steepest point needs the least weight), and W errs by as
  much, where the loss's own bend, of order ε, is less;
- λ_1 constant and λ_i = λ_1 ε² for i > 1 has the same Λ but gives w_1 of order ε and all other w_i of order 1: now
  every layer is local at the rate ε. (It is one penalty λ ε² for all layers with the inputs scaled by ε.)
- With no penalty nothing keeps z_1 small: non-linear features of x gain at the same order ε² as linear ones.
"""

from __future__ import annotations

from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from featgeo.experiments.digits import GET_FASHION, Images, digits, fashion
from featgeo.experiments.fits import slope
from featgeo.experiments.networks_figures import draw
from featgeo.experiments.networks_locality import MEASURES
from featgeo.experiments.networks_runs import STEPS, TOLERANCE, Plan, measure, plans, train
from featgeo.experiments.networks_tables import (
    local_table,
    measures_table,
    rates_table,
    runs_table,
    trial_table,
)
from featgeo.experiments.record import Experiment, Result, Settings, Skip, at_least, at_most

SAMPLES = 500  # of each data set; the trial uses all digits
# alignment with the penalised W* in an earlier trial at ε = 0.03, input to output
TRIAL = (0.972, 0.9999, 1.0)
TRIAL_SMALLER = 0.975  # its input layer at ε = 0.015
SMALL = 0.05  # the ε from which every layer is to obey the theory
LEARNED = 0.9  # least share of the available gain that a network must use there
FITTED = 0.03  # largest ε of the fitted rates


def run(settings: Settings) -> Result:
    """Train all networks, measure all layers, judge."""
    fabrics = None if settings.quick else fashion()
    every = digits()
    data = {"digits": every.part(250 if settings.quick else SAMPLES, settings.seed), "all digits": every}
    if fabrics is not None:
        data["Fashion-MNIST"] = fabrics.part(SAMPLES, settings.seed)
    chosen = plans(settings.quick, fabrics is not None)
    runs = []
    for i, plan in enumerate(chosen):
        settings.progress(i / len(chosen), plan.label)
        runs.append(_one(plan, data[plan.data], settings))
    result = Result(series={"runs": runs})
    if fabrics is None and not settings.quick:
        result.skipped.append(Skip("Fashion-MNIST", GET_FASHION).line)
    layers = [layer | {"run": run} for run in runs for layer in run["layers"]]
    defined = [layer for layer in layers if isfinite(layer["alignment"])]
    correlations = {name: _correlations(defined, name) for name in MEASURES}
    small = [r for r in runs if r["penalty"] == "by layer" and r["dependence"] <= SMALL]
    lowest = min(layer["alignment"] for r in small for layer in r["layers"])
    share = min(layer["used"] / layer["available"] for r in small for layer in r["layers"])
    rates = _rates(runs)
    off = max(abs(fit - 1 / row["depth"]) for row in rates for fit in row["weights"])
    everywhere = correlations["locality"]["all"]
    result.checks = [
        at_least(f"least alignment of any layer at ε ≤ {SMALL}, penalty by layer, all depths", lowest, 0.99),
        at_least(f"least share of the available gain used there at ε ≤ {SMALL}", share, LEARNED),
        at_most("largest difference of a fitted exponent of a layer's weights from 1/m", off, 0.05),
        at_least("Spearman correlation of locality and alignment, all layers of all runs", everywhere, 0.9),
    ]
    trial = [r for r in runs if r["purpose"] == "trial"]
    if trial:
        wanted = (*zip(trial[0]["layers"], TRIAL, strict=True), (trial[1]["layers"][0], TRIAL_SMALLER))
        worst = max(abs(layer["alignment"] - value) for layer, value in wanted)
        result.checks.insert(0, at_most("largest difference of an alignment from the trial's", worst, 0.005))
    free = [layer for layer in defined if layer["run"]["penalty"] == "none"]
    hidden = [layer for layer in free if not _is_last(layer)]
    result.tables = [
        *([trial_table(trial)] if trial else []),
        local_table(runs),
        rates_table(rates),
        measures_table(correlations, len(defined)),
        runs_table(runs),
    ]
    result.numbers = {
        "layers": len(layers),
        "undefined": len(layers) - len(defined),
        "correlations": correlations,
        "lowest_by_layer": lowest,
        "share_by_layer": share,
        "unpenalised_hidden": _quartiles([layer["alignment"] for layer in hidden]),
        "unpenalised_output": _quartiles([layer["alignment"] for layer in free if _is_last(layer)]),
        "unpenalised_hidden_average": _quartiles([layer["average"] for layer in hidden]),
        "rates": rates,
        "bands": _bands(defined),
        "alike_input": _input_layers(runs),
        "largest_rate_error": off,
        "average_correlation": _average_correlation(layers),
    }
    result.verdict = _verdict(result.numbers)
    result.captions = {
        "locality": "Alignment of every layer of every network with its (penalised) optimum at the Bayes action, "
        "against its locality, which knows neither labels nor optimum.",
        "layers": "Misalignment 1 - cos of every layer of the tanh networks against the dependence ε under the three "
        "penalties (none; shrinking alike on all layers; by layer). Light: input layer, dark: output layer.",
        "rates": "Norm of the weights against ε with the penalty that shrinks alike on all layers; "
        "lines of slope 1/m.",
    }
    return result


def _one(plan: Plan, images: Images, settings: Settings) -> dict[str, Any]:
    steps = 400 if settings.quick else 2500 if plan.purpose == "trial" else STEPS
    model, fitted = train(plan, images, settings.seed, steps)
    return measure(plan, model, fitted, images)


def _is_last(layer: dict[str, Any]) -> bool:
    return layer["weight"] == layer["run"]["layers"][-1]["weight"]


def _correlations(layers: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Spearman correlation of a measure with alignment over several groups of layers."""
    groups = {
        "all": layers,
        "hidden": [layer for layer in layers if not _is_last(layer)],
        "output": [layer for layer in layers if _is_last(layer)],
        "grid": [layer for layer in layers if layer["run"]["purpose"] == "grid"],
        "optima": [layer for layer in layers if layer["run"]["optimiser"] == "L-BFGS"],
        "steps": [layer for layer in layers if layer["run"]["optimiser"] != "L-BFGS"],
    }
    found = {}
    for group, members in groups.items():
        table = np.array([(_value(m, name), m["alignment"]) for m in members]).reshape(-1, 2)
        table = table[np.isfinite(table).all(1)].round(12)  # ties of rounding are ties
        varied = len(table) > 2 and bool((np.ptp(table, axis=0) > 0).all())
        found[group] = float(spearmanr(table[:, 0], table[:, 1]).statistic) if varied else float("nan")
    return found


def _average_correlation(layers: list[dict[str, Any]]) -> float:
    """Spearman correlation of alignment and locality, both at the average tail."""
    table = np.array([(layer["average_locality"], layer["average"]) for layer in layers])
    table = table[np.isfinite(table).all(1)].round(12)
    return float(spearmanr(table[:, 0], table[:, 1]).statistic)


def _value(layer: dict[str, Any], name: str) -> float:
    return float(layer["locality"] if name == "locality" else layer["measures"][name])


def _input_layers(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Alignment of the input layer at the smallest ε ≥ 0.01 with one shrinking penalty on all layers, by depth."""
    found = {}
    for r in sorted(runs, key=lambda r: -float(r["dependence"])):
        if (r["purpose"], r["penalty"]) == ("rates", "shrinking") and r["dependence"] >= 0.01:
            found[str(r["depth"])] = r["layers"][0]["alignment"]
    return found


def _bands(layers: list[dict[str, Any]]) -> list[dict[str, float]]:
    """What alignment to expect in bands of locality."""
    edges = [0.0, 0.3, 0.6, 0.8, 0.9, 0.98, 1.0 + 1e-9]
    found = []
    for low, high in pairwise(edges):
        inside = [layer["alignment"] for layer in layers if low <= layer["locality"] < high]
        if inside:
            found.append({"from": low, "to": min(high, 1.0), "layers": len(inside), **_quartiles(inside)})
    return found


def _quartiles(numbers: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(numbers, [0.1, 0.5, 0.9])
    return {"10 %": float(low), "median": float(middle), "90 %": float(high)}


def _rates(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exponents of the weights' norms and of the relative errors, fitted per depth."""
    found = []
    for depth in sorted({r["depth"] for r in runs}):
        rows = [
            r
            for r in runs
            if (r["purpose"], r["penalty"], r["depth"]) == ("rates", "shrinking", depth)
            and r["dependence"] <= FITTED
        ]
        if len(rows) > 2:
            epsilons = [r["dependence"] for r in rows]

            def fits(
                field: str, rows: list[dict[str, Any]] = rows, epsilons: list[float] = epsilons
            ) -> list[float]:
                return [
                    slope(epsilons, [r["layers"][i][field] for r in rows])
                    for i in range(len(rows[0]["layers"]))
                ]

            found.append(
                {"depth": depth, "points": len(rows), "weights": fits("weight"), "errors": fits("error")}
            )
    return found


def _verdict(n: dict[str, Any]) -> str:
    hidden, found, layers = n["unpenalised_hidden"], n["correlations"], n["layers"] - n["undefined"]
    alike = ", ".join(f"{value:.4f} with {depth} layers" for depth, value in n["alike_input"].items())
    steps = found["locality"]["steps"]
    parts = (
        "Without a penalty the hidden layers leave the local region: their median alignment is",
        f"{hidden['median']:.2f} (10 % below {hidden['10 %']:.2f}) at the Bayes action, while output layers keep",
        f"{n['unpenalised_output']['median']:.3f}; the average tail sees",
        f"{n['unpenalised_hidden_average']['median']:.2f} in the same hidden layers. With the penalty by layer, λ on",
        f"the first layer and λ ε² on all others, every layer of every depth reaches {n['lowest_by_layer']:.4f} at",
        f"ε ≤ {SMALL} and uses at least {n['share_by_layer']:.2f} of the gain available. With one penalty",
        "λ ε^(2 - 2/m) on all layers the weights move as ε^(1/m) (the fitted exponents differ from it by at most",
        f"{n['largest_rate_error']:.3f}), and the input layer follows slowly: at ε = 0.01 it is at {alike}. The",
        f"locality of `analyze()` predicts alignment with a rank correlation of {found['locality']['all']:.3f} over",
        f"{layers} layers ({found['locality']['hidden']:.3f} over hidden layers alone); agreement of predicted and",
        f"actual gain, which it replaced, has {found['gain']['all']:.3f}.",
        f"Over layers trained by Adam and SGD, short of an optimum, it has {steps:.3f}."
        if isfinite(steps)
        else "",
    )
    return " ".join(filter(None, parts))


EXPERIMENT = Experiment(
    name="networks",
    title="Whole networks trained jointly on real images",
    claim=(
        "Near the constant action every layer's weights are the optimum W* of its local problem. "
        "Nothing in the theorem "
        "says that joint training ends near it: with balanced weights the layers of an m-layer network move by "
        "ε^(1/m), and without a penalty hidden layers need not stay local at all. A penalty whose "
        "geometric mean over the "
        "layers shrinks like ε^(2 - 2/m) keeps the modes learned; put on the first layer (λ, and λ "
        "ε² on the others) it "
        "makes every layer local at the rate ε."
    ),
    setup=(
        "Digits (scikit-learn) and Fashion-MNIST (Debian; 14x14), soft labels (1 - ρ) onehot + ρ P_Y, so that P_{Y|X} "
        "is known and ε = (1 - ρ) √(|Y| - 1). Fully connected networks of 2 to 5 layers in float64; "
        "L-BFGS on the whole "
        "data from orthogonal weights of the derived size, Adam and SGD on minibatches from torch's initialisation. "
        f"L-BFGS stops when no entry of the gradient exceeds {TOLERANCE:g} ε², or after {STEPS} iterations (2,500 for "
        "the trial); where it stopped is in the last table. Every layer is compared with its optimum under the penalty "
        "that it was trained with, by `analyze()`."
    ),
    run=run,
    draw=draw,
)
