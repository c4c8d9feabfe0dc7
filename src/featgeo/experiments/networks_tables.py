"""Tables of the experiment on whole networks."""

from __future__ import annotations

from math import isfinite
from typing import Any

from featgeo.experiments.networks_locality import MEASURES
from featgeo.experiments.record import Cell, Table


def _join(numbers: list[float], digits: int = 4) -> str:
    return " / ".join("–" if not isfinite(n) else f"{n:.{digits}f}" for n in numbers)


def _column(run: dict[str, Any], field: str) -> list[float]:
    return [layer[field] for layer in run["layers"]]


def _used(run: dict[str, Any]) -> list[float]:
    return [
        layer["used"] / layer["available"] if layer["available"] > 0 else float("nan")
        for layer in run["layers"]
    ]


def trial_table(trial: list[dict[str, Any]]) -> Table:
    """The trial repeated."""
    rows: list[list[Cell]] = [
        [
            r["dependence"],
            _join(_column(r, "alignment")),
            _join(_column(r, "error"), 3),
            _join(_used(r), 3),
            r["gradient"],
        ]
        for r in trial
    ]
    title = (
        f"64-12-6-10 tanh network on all digits, λ = {trial[0]['strength']:g} ε^(4/3) on every layer, "
        "against the penalised optimum, input to output"
    )
    return Table(title, ["ε", "alignment", "relative error", "gain used / available", "gradient / ε²"], rows)


def local_table(runs: list[dict[str, Any]]) -> Table:
    """Alike on all layers beside by layer."""
    rows: list[list[Cell]] = [
        [
            r["depth"],
            r["penalty"],
            r["strength"],
            r["dependence"],
            _join(_column(r, "alignment")),
            _join(_used(r), 2),
        ]
        for r in runs
        if r["purpose"] == "rates" and r["dependence"] >= 0.01
    ]
    title = "One penalty on all layers (shrinking) and the penalty by layer: tanh networks on digits, input to output"
    return Table(title, ["layers", "penalty", "λ", "ε", "alignment", "gain used / available"], rows)


def rates_table(rates: list[dict[str, Any]]) -> Table:
    """Fitted exponents."""
    rows: list[list[Cell]] = [
        [r["depth"], 1 / r["depth"], _join(r["weights"], 3), _join(r["errors"], 2), r["points"]]
        for r in rates
    ]
    columns = [
        "layers m",
        "1/m",
        "exponent of ‖W‖, input to output",
        "exponent of the relative error",
        "ε fitted",
    ]
    return Table("Rates with λ ε^(2 - 2/m) on every layer", columns, rows)


def measures_table(correlations: dict[str, dict[str, float]], layers: int) -> Table:
    """Every measure tried, best first."""
    rows: list[list[Cell]] = [
        [MEASURES[name], *found.values()]
        for name, found in sorted(correlations.items(), key=lambda item: -item[1]["all"])
    ]
    columns = [
        "measure",
        "all layers",
        "hidden",
        "output",
        "without the runs for trial and rates",
        "L-BFGS",
        "Adam and SGD",
    ]
    return Table(
        f"Spearman correlation with alignment over {layers} layers: all measures tried", columns, rows
    )


def runs_table(runs: list[dict[str, Any]]) -> Table:
    """Every network in one row."""
    rows: list[list[Cell]] = [
        [
            r["data"], r["activation"], r["penalty"], r["strength"], r["optimiser"], r["dependence"],
            _join(_column(r, "alignment"), 3), _join(_column(r, "average"), 3), _join(_column(r, "locality"), 2),
            _join(_column(r, "error"), 2), _join(_used(r), 2), 
            sum(layer["saturated"] for layer in r["layers"]), r["gradient"],
        ]
        for r in runs
    ]  # fmt: skip
    columns = [
        "data", "activation", "penalty", "λ", "optimiser", "ε", "alignment at bayes", "at average", "locality",
        "relative error", "used / available", "saturated", "gradient / ε²",
    ]  # fmt: skip
    return Table("All networks; layers from input to output (– where the optimum vanishes)", columns, rows)
