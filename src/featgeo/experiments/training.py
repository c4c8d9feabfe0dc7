"""During training: in which order the modes of B are learned, and how layers turn towards their optimum."""

from __future__ import annotations

import math
import warnings
from statistics import median
from typing import Any

import torch
from torch import nn

from featgeo.errors import FeatgeoWarning
from featgeo.experiments.confidence import interval, rank_correlation, shown
from featgeo.experiments.modes_over_time import (
    Task,
    descend,
    digits_task,
    half_times,
    network,
    predicted_half_times,
    table_task,
)
from featgeo.experiments.record import Cell, Experiment, Result, Settings, Table, at_least, at_most
from featgeo.experiments.training_figures import draw
from featgeo.network.analyze import analyze

RATE = 0.6  # of descent on the table, times the largest singular value
LEADING = 3  # modes whose span is compared with that of the features


def _follow(model: nn.Sequential, task: Task, states: list[tuple[int, Any]], layers: bool) -> dict[str, Any]:
    """Strengths, captured cosines, principal angles and alignments at the logged states."""
    followed: dict[str, Any] = {"steps": [], "strengths": [], "captured": [], "angles": []}
    followed |= {"average": {}, "bayes": {}, "loss": []}
    for step, state in states:
        model.load_state_dict(state)
        with torch.no_grad():
            features = model[:-1](task.inputs)
            outputs = model[-1](features)
        followed["steps"].append(step)
        followed["strengths"].append(task.strengths(outputs).tolist())
        if not layers:
            continue
        followed["captured"].append(task.captured(features).tolist())
        followed["angles"].append(task.angles(features, LEADING).tolist())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeatgeoWarning)  # rank-deficient features at the start, say
            report = analyze(model, (task.inputs, task.targets), batch_size=2048)
        followed["loss"].append(report.loss_value)
        for layer in report.analysed:
            for at, view in layer.views.items():
                followed[at].setdefault(layer.name, []).append(view.alignment)
    return followed


def _table_runs(settings: Settings, seeds: range) -> list[dict[str, Any]]:
    """Small networks on joint tables, from small weights."""
    steps, runs = (500 if settings.quick else 1500), list[dict[str, Any]]()
    for name, activation in (("linear", nn.Identity), ("tanh", nn.Tanh)):
        for largest in (0.3, 0.03):
            for seed in seeds:
                settings.progress(len(runs) / (10 * len(seeds)), f"{name} network on a table, seed {seed}")
                task, rate = table_task(seed, largest), RATE / largest
                model = network((10, 8, 6), activation, 0.05 * largest**0.5, seed, bias=False)
                predicted = predicted_half_times(model, task, rate)
                states = descend(model, task, steps, rate, 0.0, list(range(0, steps + 1, 10)))
                run = _follow(model, task, states, False)
                times = half_times(run["steps"], run["strengths"])
                runs.append(
                    {
                        "setting": f"table, {name}, σ₁ = {largest:g}", "seed": seed, "values": task.values.tolist(),
                        "times": times, "predicted": predicted, **run,
                    }
                )  # fmt: skip
    return runs


def _digits_runs(settings: Settings, seeds: range) -> list[dict[str, Any]]:
    """A three-layer network on digits with graded labels."""
    runs: list[dict[str, Any]] = []
    steps, samples = (200, 400) if settings.quick else (1500, 900)
    points = 8 if settings.quick else 18
    logged = sorted({0, steps, *(round(steps ** (i / points)) for i in range(points + 1))})
    for name, whitened in (("pixels", False), ("whitened", True)):
        for seed in seeds:
            settings.progress(0.5 + len(runs) / (4 * len(seeds)), f"digits, {name}, seed {seed}")
            task = digits_task(seed, samples, whitened)
            widths = (task.inputs.shape[1], 24, 12, 10)
            model = network(widths, nn.Tanh, 0.5, seed)
            states = descend(model, task, steps, 0.2, 0.9, logged)
            run = _follow(model, task, states, True)
            times = half_times(run["steps"], run["strengths"])
            row = {"setting": f"digits, {name}", "seed": seed, "values": task.values.tolist(), "times": times}
            runs.append({**row, "linear": task.captured(task.inputs).tolist(), **run})
    return runs


def _order_table(runs: list[dict[str, Any]]) -> tuple[Table, dict[str, list[float]], dict[str, list[float]]]:
    table: list[list[Cell]] = []
    orders: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    for setting in dict.fromkeys(run["setting"] for run in runs):
        own = [run for run in runs if run["setting"] == setting]
        late = [
            [time if math.isfinite(time) else 2.0 * run["steps"][-1] for time in run["times"]] for run in own
        ]
        orders[setting] = [
            rank_correlation(times, [-v for v in run["values"]]) for times, run in zip(late, own, strict=True)
        ]
        first = sum(times.index(min(times)) == 0 for times in late)
        reached = sum(math.isfinite(time) for run in own for time in run["times"])
        errors[setting] = [
            abs(t / p - 1) for run in own for t, p in zip(run["times"], run.get("predicted", []), strict=False)
            if math.isfinite(t)
        ]  # fmt: skip
        cells: list[Cell] = [setting, len(own), f"{own[0]['values'][0]:.3g} … {own[0]['values'][-1]:.3g}"]
        cells += [
            shown(orders[setting]),
            f"{first} of {len(own)}",
            f"{reached} of {sum(len(run['times']) for run in own)}",
        ]
        cells.append(median(errors[setting]) if errors[setting] else None)
        table.append(cells)
    columns = [
        "setting",
        "runs",
        "singular values",
        "rank correlation of half-time with order of σ",
        "largest first",
    ]
    columns += ["modes that reach half", "half-time against prediction (median error)"]
    return Table("Order in which the modes of B are learned", columns, table), orders, errors


def _layers_table(runs: list[dict[str, Any]]) -> Table:
    table: list[list[Cell]] = []
    for setting in dict.fromkeys(run["setting"] for run in runs if run["average"]):
        own = [run for run in runs if run["setting"] == setting]
        for layer in own[0]["average"]:
            for at in ("average", "bayes"):
                curves = [run[at][layer] for run in own]
                middle = len(curves[0]) // 2
                points = [[curve[i] for curve in curves] for i in (0, middle, -1)]
                cells: list[Cell] = [setting, layer, at, own[0]["steps"][middle]]
                table.append(cells + [shown(values) for values in points] + [shown([max(c) for c in curves])])
    columns = [
        "setting",
        "layer",
        "view",
        "middle step",
        "alignment at the start",
        "at the middle step",
        "at the end",
        "best",
    ]
    return Table("Alignment of every layer during training", columns, table)


def run(settings: Settings) -> Result:
    """Train, follow, compare with the predicted order and times."""
    seeds = range(settings.seed, settings.seed + (2 if settings.quick else 5))
    runs = _table_runs(settings, seeds) + _digits_runs(settings, seeds[:1] if settings.quick else seeds)
    order, orders, errors = _order_table(runs)
    result = Result(tables=[order, _layers_table(runs)])
    near = "table, linear, σ₁ = 0.03"
    result.checks = [
        at_least(
            "linear network near the Bayes action: least rank correlation with the order of σ",
            min(orders[near]),
            0.99,
        ),
        at_most("the same: median error of the predicted half-times", median(errors[near]), 0.1),
    ]
    by_setting = {setting: interval(values) for setting, values in orders.items()}
    ends = {
        setting: [run for run in runs if run["setting"] == setting and run["angles"]]
        for setting in ("digits, pixels", "digits, whitened")
    }
    angles = {
        setting: [
            [interval([run["angles"][i][j] for run in own])[0] for j in range(LEADING)] for i in (0, -1)
        ]
        for setting, own in ends.items()
    }
    result.numbers = {"order": by_setting, "angles, start and end": angles}
    raw, white = by_setting["digits, pixels"][0], by_setting["digits, whitened"][0]
    result.verdict = (
        f"Near the Bayes action modes are learned largest first: rank correlation {by_setting[near][0]:.2f} "
        f"in the linear network and {by_setting['table, tanh, σ₁ = 0.03'][0]:.2f} in the tanh network at σ₁ "
        f"= 0.03, and the derived half-times are met with a median error of {median(errors[near]):.1%} and "
        f"{median(errors['table, tanh, σ₁ = 0.03']):.1%}. At σ₁ = 0.3 the order stands at "
        f"{by_setting['table, linear, σ₁ = 0.3'][0]:.2f}, with errors of "
        f"{median(errors['table, linear, σ₁ = 0.3']):.1%}: weak modes feel the second-order terms of strong "
        f"ones. On digits the rank correlation is {raw:.2f} with pixels and {white:.2f} with whitened inputs"
        + (
            ": the singular values of B alone do not fix the order there, since a mode's speed also "
            "depends on how much of it the inputs and the early features carry. "
            if raw < 0.9
            else ". "
        )
        + "The largest principal angle between the last features and the three leading modes goes from "
        + " and from ".join(
            f"{a[0][-1]:.0f}° to {a[1][-1]:.0f}° ({setting})" for setting, a in angles.items()
        )
        + "."
    )
    result.series = {"runs": [_thin(run) for run in runs if run["seed"] == seeds[0]], "times": [
        {key: run.get(key) for key in ("setting", "values", "times", "predicted")} for run in runs
    ]}  # fmt: skip
    result.captions = {
        "modes": "Strength of every mode of B in the outputs against training steps (one seed; 1 is the local "
        "optimum), darkest the largest singular value; dotted the predicted half-times.",
        "layers": "Digits with graded labels, one seed: alignment of every layer at the average tail (solid) and at "
        "the Bayes action (dotted), and cosine of each mode with the span of the last features (darkest the largest).",
    }
    return result


def _thin(run: dict[str, Any]) -> dict[str, Any]:
    """Every fifth logged step of the long runs, four digits."""
    stride = max(1, len(run["steps"]) // 40)

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: short(item) for key, item in value.items()}
        if isinstance(value, list):
            return [short(item) for item in value]
        return float(f"{value:.4g}") if isinstance(value, float) and math.isfinite(value) else value

    kept = dict(run)
    for key in ("steps", "strengths", "captured", "angles", "loss"):
        kept[key] = run[key][::stride]
    return {key: short(value) for key, value in kept.items()}


EXPERIMENT = Experiment(
    name="training",
    title="During training",
    claim=(
        "Around the Bayes action training is matrix factorisation of B. From small weights a two-layer "
        "linear network learns mode i at the half-time tᵢ = log(σᵢ/(a mᵢ) - 1)/(2 log(1 + η a σᵢ)), a = "
        "1/√(|X||Y|), mᵢ the initial part of the mode that grows: the largest singular value first. "
        "Features turn towards the modes, layers towards W*."
    ),
    setup=(
        "(a) Two-layer networks, linear and tanh, one-hot input, full-batch gradient descent, joint tables "
        "|X| = 10, |Y| = 6 with uniform marginals and five singular values in ratio 0.6 (σ₁ = 0.3 and "
        "0.03; scaled down where a probability would turn negative). (b) A 24-12-10 tanh network on digits "
        "whose labels pass a channel with nine graded singular values, its modes random contrasts of "
        "classes, so that P_{Y|X} is known exactly; pixels, and whitened principal components; gradient "
        "descent with momentum. A mode counts as learned when the outputs hold half of its local optimum."
    ),
    run=run,
    draw=draw,
)
