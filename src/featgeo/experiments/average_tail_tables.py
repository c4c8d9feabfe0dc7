"""From the measurements of the average tail to its tables."""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from featgeo.experiments.confidence import interval, rank_correlation, shown
from featgeo.experiments.record import Cell, Table

Rows = list[dict[str, Any]]
POINTS = ("average", "bayes", "mean Jacobian")
MEASURES = (*POINTS, "ansatz", "ansatz, root", "target linearity", "CKA")
STATES = (
    "untrained",
    "mislabelled",
    "mislabelled, other data",
    "over-trained",
    "over-trained, other data",
    "frozen",
)
COST = {"average": "analyze", "bayes": "analyze", "mean Jacobian": "backward", "ansatz": "backward"} | {
    "ansatz, root": "backward", "target linearity": "target linearity", "CKA": "CKA",
}  # fmt: skip


def pick(rows: Rows, column: str, **where: Any) -> list[float]:
    """Values of a column in the rows that agree with ``where``; NaN for None."""
    chosen = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return [math.nan if row.get(column) is None else float(row[column]) for row in chosen]


def layers_of(rows: Rows) -> list[tuple[str, str]]:
    """(family, layer) in order."""
    return list(dict.fromkeys((row["family"], row["layer"]) for row in rows))


def by_seed(rows: Rows, column: str, **where: Any) -> list[float]:
    """Mean over layers for each seed, NaN left out."""
    seeds = sorted({row["seed"] for row in rows})
    return [interval(pick(rows, column, seed=seed, **where))[0] for seed in seeds]


def trained_table(rows: Rows) -> Table:
    """Alignment of every layer, and the nulls."""
    columns = [
        "network",
        "layer",
        "neurons",
        "feature rank",
        "tail R²",
        "average tail",
        "Bayes action",
        "mean Jacobian",
    ]
    nulls = ["untrained", "mislabelled", "shuffled labels", "re-drawn weights"]
    table: list[list[Cell]] = []
    for family, layer in layers_of(rows):
        own = {"family": family, "layer": layer}
        first = next(
            row
            for row in rows
            if row["state"] == "trained" and row["layer"] == layer and row["family"] == family
        )
        cells: list[Cell] = [family, layer, first["neurons"], first["rank"]]
        for column in ("tail_r2", *POINTS):
            text = shown(pick(rows, column, state="trained", **own))
            bypassed = column == "bayes" and first["status"] == "bypassed"
            cells.append("bypassed" if bypassed else "undefined" if text == "–" else text)
        cells += [shown(pick(rows, "average", state=state, **own)) for state in nulls[:2]]
        cells += [shown(pick(rows, null, state="trained", **own)) for null in nulls[2:]]
        table.append(cells)
    return Table(
        "Alignment of every layer of the trained networks, and at the average tail under four nulls",
        columns + nulls,
        table,
    )


def training_table(rows: Rows) -> Table:
    """Mean over the layers at every logged step."""
    table: list[list[Cell]] = []
    own = [row for row in rows if row["state"] in ("untrained", "underway", "trained")]
    for family in dict.fromkeys(row["family"] for row in own):
        for step in sorted({row["step"] for row in own if row["family"] == family}):
            here = [row for row in own if row["family"] == family and row["step"] == step]
            cells: list[Cell] = [family, step, shown(by_seed(here, "loss"), 3)]
            cells += [shown(by_seed(here, column)) for column in (*POINTS, "tail_r2", "locality")]
            lost = [row["bayes"] is None and row["status"] != "bypassed" for row in here]
            table.append([*cells, sum(lost) / len(lost), *(shown(by_seed(here, m)) for m in MEASURES[3:])])
    columns = [
        "network",
        "step",
        "loss",
        "average tail",
        "Bayes action",
        "mean Jacobian",
        "tail R²",
        "locality (average)",
    ]
    return Table(
        "Through training: means over layers", [*columns, "share undefined at Bayes", *MEASURES[3:]], table
    )


def frozen_table(rows: Rows) -> tuple[Table, dict[str, list[float]]]:
    """Layers frozen at random beside the same layers trained, and the ratios of their average-tail alignments."""
    table: list[list[Cell]] = []
    ratios: dict[str, list[float]] = {"free": [], "narrow": []}
    for family, layer in layers_of([row for row in rows if row["state"] == "frozen"]):
        own = {"family": family, "layer": layer}
        frozen = [
            row
            for row in rows
            if row["state"] == "frozen" and row["family"] == family and row["layer"] == layer
        ]
        free = frozen[0]["neurons"] >= frozen[0]["rank"]
        cells: list[Cell] = [family, layer, frozen[0]["neurons"], frozen[0]["rank"]]
        cells.append(shown(pick(rows, "accuracy", state="frozen", **own), 3))
        for column in (*POINTS, "ansatz", "target linearity"):
            both = [shown(pick(rows, column, state=state, **own)) for state in ("trained", "frozen")]
            cells.append(" → ".join(both))
        means = [interval(pick(rows, "average", state=state, **own))[0] for state in ("frozen", "trained")]
        ratios["free" if free else "narrow"].append(means[0] / means[1])
        table.append(cells)
    columns = [
        "network",
        "layer",
        "neurons",
        "feature rank",
        "accuracy, frozen",
        *POINTS,
        "ansatz",
        "target linearity",
    ]
    return Table(
        "One layer frozen at random while the rest trains: each measure, trained → frozen", columns, table
    ), ratios


def moves_table(rows: Rows) -> tuple[Table, dict[str, dict[str, float]]]:
    """Moves, apart for the layers that have a Bayes action and those that have none, so that like meets like."""
    table: list[list[Cell]] = []
    found: dict[str, dict[str, float]] = {}
    local = {(r["phase"], r["family"], r["seed"], r["layer"]) for r in rows if r["at"] == "bayes"}
    for phase in ("early", "midway", "end"):
        for group in ("with", "without"):
            for at in POINTS:
                own = [row for row in rows if row["phase"] == phase and row["at"] == at]
                own = [
                    r
                    for r in own
                    if ((phase, r["family"], r["seed"], r["layer"]) in local) == (group == "with")
                ]
                if not own:
                    continue
                predicted, measured = [row["predicted"] for row in own], [row["measured"] for row in own]
                lower = sum(value < 0 for value in measured) / len(own)
                random = sum(row["random"] < 0 for row in own) / len(own)
                ratio = median(m / p for m, p in zip(measured, predicted, strict=True) if p)
                order = rank_correlation(predicted, measured)
                found[f"{phase}, {group}, {at}"] = {"lower": lower, "ratio": ratio, "order": order}
                table.append(
                    [
                        phase,
                        group,
                        at,
                        len(own),
                        median(predicted),
                        median(measured),
                        lower,
                        random,
                        ratio,
                        order,
                    ]
                )
    columns = [
        "phase",
        "Bayes action",
        "standpoint",
        "moves",
        "predicted change (median)",
        "measured (median)",
    ]
    columns += [
        "share that lower the loss",
        "share, random move",
        "measured / predicted (median)",
        "rank correlation",
    ]
    title = (
        "One layer moved a small step towards W*: loss change (nats), with and without a defined Bayes action"
    )
    return Table(title, columns, table), found


def cuts_table(rows: Rows) -> tuple[Table, dict[str, float]]:
    """Rank correlation of predicted and measured increase, within each network and over all."""
    table: list[list[Cell]] = []
    pooled: dict[str, float] = {}
    predictors = {
        "average": "average tail",
        "bayes": "Bayes action",
        "mean Jacobian": "mean Jacobian",
        "variance": "dropped variance of z",
    }
    networks = list(dict.fromkeys((row["family"], row["seed"]) for row in rows))
    for key, name in predictors.items():
        cells: list[Cell] = [name]
        for family in dict.fromkeys(row["family"] for row in rows):
            own = [pair for pair in networks if pair[0] == family]
            per_network = [
                rank_correlation(
                    pick(rows, key, family=family, seed=seed),
                    pick(rows, "measured", family=family, seed=seed),
                )
                for family, seed in own
            ]
            cells.append(shown(per_network))
        values, measured = pick(rows, key), pick(rows, "measured")
        common = [row for row in rows if all(row.get(other) is not None for other in predictors)]
        pooled[key] = rank_correlation(values, measured)
        pooled[f"{key}, common"] = rank_correlation(pick(common, key), pick(common, "measured"))
        ratios = [m / v for m, v in zip(measured, values, strict=True) if v and math.isfinite(v)]
        cells += [pooled[key], pooled[f"{key}, common"], median(ratios) if key != "variance" else None]
        cells.append(sum(map(math.isfinite, values)))
        table.append(cells)
    columns = [
        "predictor",
        *dict.fromkeys(row["family"] for row in rows),
        "all cuts",
        "cuts that all predict",
    ]
    columns += ["measured / predicted (median)", "cuts"]
    title = "A layer's output cut to 1, 2, 4, 8 directions: rank correlation of predicted and measured loss increase"
    return Table(title, columns, table), pooled


def sight_table(rows: Rows, seconds: dict[str, list[float]]) -> tuple[Table, dict[str, dict[str, float]]]:
    """For each measure: how often a trained layer exceeds the same layer in another state; what it goes along with."""
    table: list[list[Cell]] = []
    found: dict[str, dict[str, float]] = {}
    index = {
        (row["family"], row["seed"], row["layer"], row["state"]): row
        for row in rows
        if row["state"] != "underway"
    }
    trained = [row for row in rows if row["state"] == "trained"]
    for measure in MEASURES:
        cells: list[Cell] = [measure, shown(by_seed(rows, measure, state="trained"))]
        found[measure] = {}
        for state in STATES:
            wins = []
            for row in trained:
                other = index.get((row["family"], row["seed"], row["layer"], state))
                if other and None not in (row[measure], other[measure]):
                    wins.append(float(row[measure] > other[measure]) + 0.5 * (row[measure] == other[measure]))
            found[measure][state] = sum(wins) / len(wins) if wins else math.nan
            cells.append(found[measure][state])
        hidden = [row for row in trained if not row["output"]]
        cells.append(rank_correlation(pick(hidden, measure), pick(hidden, "tail_r2")))
        cells.append(interval(seconds[COST[measure]])[0])
        table.append(cells)
    columns = [
        "measure",
        "trained",
        *(f"> {state}" for state in STATES),
        "rank correlation with tail R²",
        "seconds a network",
    ]
    title = "Which measure sees what: share of layers whose trained value exceeds the same layer's in another state"
    return Table(title, columns, table), found
