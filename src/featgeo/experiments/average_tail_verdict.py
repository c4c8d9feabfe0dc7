"""From the tables of the average tail to its checks, numbers and verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featgeo.experiments.average_tail_tables import (
    MEASURES,
    POINTS,
    Rows,
    by_seed,
    cuts_table,
    frozen_table,
    moves_table,
    pick,
    sight_table,
    trained_table,
    training_table,
)
from featgeo.experiments.confidence import interval, rank_correlation, shown
from featgeo.experiments.record import Cell, Check, Result, Table, at_least, at_most
from featgeo.experiments.tail_exact import slope

if TYPE_CHECKING:
    from featgeo.experiments.average_tail import Collected


def _exact_table(exact: dict[str, Any], identity: Rows) -> tuple[Table, list[Check], dict[str, float]]:
    sizes = tuple(exact["sizes"])
    fits = {law: slope(sizes, exact[law]) for law in ("gaussian", "exponential")}
    last = {law: interval([row[-1] for row in exact[law]])[0] for law in fits}
    worst = {key: max(run[key] for run in exact["linear"]) for key in exact["linear"][0]}
    hidden = [row for row in identity if not row["output"]]
    error = max(row["error"] for row in hidden)
    cells: list[list[Cell]] = [["linear tail, squared loss", f"{key}, largest", worst[key]] for key in worst]
    for law, (rate, half) in fits.items():
        cells.append([f"{law} z", f"distance of J̄ from the mean Jacobian at N = {sizes[-1]:,}", last[law]])
        cells.append([f"{law} z", "its slope in N", f"{rate:.3f} ± {half:.3f}"])
    cells.append([f"{len(hidden)} trained layers", "largest error of J̄WΣ^½ = Cov(g, f) Σ^-½ P", error])
    table = Table("When the average tail is exact", ["case", "quantity", "value"], cells)
    checks = [
        at_most("linear tail: 1 - R²", worst["1 - R²"], 1e-10),
        at_most("linear tail: gradient at W*", worst["gradient at W*"], 1e-9),
        at_most("Gaussian z: |slope in N + 1/2|", abs(fits["gaussian"][0] + 0.5), 0.15),
        at_least(
            "exponential over Gaussian z: distance from the mean Jacobian",
            last["exponential"] / last["gaussian"],
            3,
        ),
        at_most("identity J̄WΣ^½ = Cov(g, f) Σ^-½ P: largest relative error", error, 1e-9),
    ]
    return table, checks, {"gaussian": last["gaussian"], "exponential": last["exponential"]}


def summarise(into: Collected, quick: bool) -> Result:
    """Tables, checks and verdict of the collected measurements; two seeds carry no confidence interval."""
    rows = into.layers
    frozen, ratios = frozen_table(rows)
    exact, checks, stein = _exact_table(into.exact, into.identity)
    moved, move = moves_table(into.moves)
    cut, pooled = cuts_table(into.cuts)
    sight, sees = sight_table(rows, into.seconds)
    trained = [row for row in rows if row["state"] == "trained"]
    hidden = [row for row in trained if not row["output"]]
    numbers: dict[str, Any] = {"moves": move, "cuts": pooled, "sees": sees, "frozen over trained": ratios}
    for family in dict.fromkeys(row["family"] for row in rows):
        ours = {
            state: by_seed(rows, "average", state=state, family=family) for state in ("trained", "untrained")
        }
        mean, half = interval([a - b for a, b in zip(ours["trained"], ours["untrained"], strict=True)])
        bound = ("mean", mean) if quick else ("lower 95 % bound", mean - half)
        checks.append(at_least(f"{family}: trained less untrained alignment, {bound[0]}", bound[1], 0.2))
        numbers[f"alignment, {family}"] = {
            p: interval(by_seed(rows, p, state="trained", family=family)) for p in POINTS
        }
    same = [pick(trained, "average", family="attention", layer=layer) for layer in ("query", "key", "value")]
    numbers["key"] = interval(same[1])[0]
    spread = max(max(values) - min(values) for values in zip(*same, strict=True))
    checks.append(at_most("query, key, value share one alignment: largest difference", spread, 1e-3))
    undefined = sum(row["bayes"] is None and row["status"] != "bypassed" for row in hidden)
    bypassed = sum(row["status"] == "bypassed" for row in hidden)
    order = rank_correlation(pick(hidden, "average"), pick(hidden, "tail_r2"))
    causal = rank_correlation(pick(hidden, "mean Jacobian"), pick(hidden, "tail_r2"))
    gaps = [
        row["average"] - row["mean Jacobian"]
        for row in hidden
        if row["tail_r2"] < 0.9 and row["mean Jacobian"] is not None
    ]
    tight = [abs(row["average"] - row["mean Jacobian"]) for row in hidden if row["tail_r2"] >= 0.95]
    numbers |= {
        "undefined at Bayes": undefined,
        "undefined at the average tail": sum(row["average"] is None for row in hidden),
        "undefined at the mean Jacobian": sum(row["mean Jacobian"] is None for row in hidden),
        "bypassed": bypassed,
        "hidden layers": len(hidden),
        "vs tail R²": order,
    }
    numbers |= {
        "gap below R² 0.9": interval(gaps),
        "gap above R² 0.95": interval(tight),
        "mean Jacobian vs tail R²": causal,
    }
    result = Result(
        tables=[trained_table(rows), training_table(rows), frozen, exact, moved, cut, sight],
        numbers=numbers,
        checks=checks,
        captions={
            "training": "Alignment of each layer against training steps (mean over seeds): average tail (solid), "
            "Bayes action (dotted, where defined), mean Jacobian (dashed).",
            "trust": "Alignment of the trained hidden layers against the R² of the linear tail: average tail and mean "
            "Jacobian. They part where R² is low: the average tail then reads correlation, not effect.",
            "moves": "Change of the loss when one layer is moved a small step towards W*: predicted and measured "
            "(logarithmic away from zero).",
            "cuts": "Increase of the loss when a layer's output is cut to r directions: predicted and measured.",
        },
        series={"layers": _columns(rows), "moves": _columns(into.moves), "cuts": _columns(into.cuts)},
    )
    result.verdict = _verdict(numbers, rows, stein)
    return result


def _columns(rows: Rows) -> dict[str, list[Any]]:
    """Rows as columns, numbers to five digits: a third of the size in JSON."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    short = {key: [row.get(key) for row in rows] for key in keys}
    return {
        key: [float(f"{v:.5g}") if isinstance(v, float) and v == v else v for v in values]
        for key, values in short.items()
    }


def _verdict(numbers: dict[str, Any], rows: Rows, stein: dict[str, float]) -> str:
    def mean(column: str, state: str) -> str:
        return shown(by_seed(rows, column, state=state))

    move, cut, sees, ratio = (numbers[key] for key in ("moves", "cuts", "sees", "frozen over trained"))
    memory, learned = (interval(by_seed(rows, "average", state=s))[0] for s in ("mislabelled", "trained"))
    credited, causal = (
        move.get(f"early, without, {at}", {"ratio": 1.0})["ratio"] for at in ("average", "mean Jacobian")
    )
    theory = max(POINTS, key=lambda at: cut[at] if at != "bayes" else -1.0)
    words = [
        f"**What it sees.** Mean alignment {mean('average', 'trained')} after training against "
        f"{mean('average', 'untrained')} untrained and {mean('shuffled labels', 'trained')} for shuffled "
        "labels. The Bayes action is undefined (every derivative vanishes) in "
        f"{numbers['undefined at Bayes']} and bypassed in {numbers['bypassed']} of "
        f"{numbers['hidden layers']} hidden layers; the average tail is undefined "
        f"in {numbers['undefined at the average tail']}.",
        "**Where it misleads.** (1) It is correlation, not effect: where the tail's R² is below 0.9 its "
        f"alignment exceeds the mean Jacobian's by {numbers['gap below R² 0.9'][0]:.2f} ± "
        f"{numbers['gap below R² 0.9'][1]:.2f}, above R² 0.95 the two differ by "
        f"{numbers['gap above R² 0.95'][0]:.3f}. Keys are the extreme: shifting all keys alike leaves "
        f"attention as it is, so their mean Jacobian is zero ({numbers['undefined at the mean Jacobian']} "
        f"layers), and still the average tail credits them with {numbers['key']:.2f}. Over the hidden "
        f"layers alignment and R² have rank correlation {numbers['vs tail R²']:.2f} "
        f"({numbers['mean Jacobian vs tail R²']:.2f} for the mean Jacobian)"
        + (": a high value at a low R² is no good news. " if numbers["vs tail R²"] < 0 else ". ")
        + "(2) It does not see a layer's own weights, only what the network makes of them: a layer frozen "
        f"at random shows {_percent(ratio['free'])} of the trained alignment where n ≥ k and "
        f"{_percent(ratio['narrow'])} where n < k; query, key and value have one and the same. (3) Networks "
        f"that learned shuffled labels by heart show {mean('average', 'mislabelled')} on their own data "
        f"(and {mean('average', 'mislabelled, other data')} on other data with true labels), over-trained "
        f"ones {mean('average', 'over-trained')} and {mean('average', 'over-trained, other data')}: "
        + (
            "like the loss it needs held-out data to tell learning from memory."
            if memory > 0.5 * learned
            else "low."
        ),
        "**What it predicts.** Share of moves towards W* that lower the loss, and measured over predicted "
        "change: "
        + "; ".join(_fare(move, phase) for phase in ("early", "midway", "end"))
        + (
            ". At the end the true gradient vanishes and the quadratics' does not: no standpoint has the size right. "
            if max(abs(found["ratio"]) for key, found in move.items() if key.startswith("end")) < 0.5
            else ". "
        )
        + (
            "Early, in layers that are bypassed or have no Bayes action, the median size is right at the mean Jacobian "
            "and wrong at the average tail: what it credits there is not what moving the layer does. "
            if abs(causal - 1) < 0.5 < abs(credited - 1)
            else ""
        )
        + f"Tolerance to cuts: rank correlation {cut['average']:.2f} with the average tail, "
        f"{cut['mean Jacobian']:.2f} with the mean Jacobian, {cut['variance']:.2f} with the dropped "
        "variance alone"
        + (": the theory adds nothing to plain variance here" if cut[theory] <= cut["variance"] else "")
        + f"; where the Bayes action is defined {cut['average, common']:.2f}, "
        f"{cut['mean Jacobian, common']:.2f}, {cut['variance, common']:.2f}, and {cut['bayes, common']:.2f} "
        "at the Bayes action.",
        "**Beside its neighbours.** Trained layers exceed their untrained state in "
        + ", ".join(f"{sees[m]['untrained']:.0%} ({m})" for m in MEASURES)
        + "; the same layer frozen at random in "
        + ", ".join(f"{sees[m]['frozen']:.0%} ({m})" for m in MEASURES)
        + "; the same layer with shuffled labels learned by heart in "
        + ", ".join(f"{sees[m]['mislabelled']:.0%} ({m})" for m in MEASURES)
        + ". **Exactness.** With Gaussian z the distance of J̄ from the mean Jacobian is "
        f"{stein['gaussian']:.1e} and falls as N^-½, with exponential z it stays at "
        f"{stein['exponential']:.1e}.",
    ]
    return "\n\n".join(words)


def _percent(ratios: list[float]) -> str:
    return f"{interval(ratios)[0]:.0%}" if ratios else "–"


def _fare(move: dict[str, dict[str, float]], phase: str) -> str:
    """How the standpoints fare in a phase of training."""
    words = []
    for group, where in (("with", "where the Bayes action is defined"), ("without", "elsewhere")):
        own = [(at, move[f"{phase}, {group}, {at}"]) for at in POINTS if f"{phase}, {group}, {at}" in move]
        words.append(
            f"{where} "
            + ", ".join(f"{found['lower']:.0%} and {found['ratio']:.2f} ({at})" for at, found in own)
        )
    return f"{phase}, " + "; ".join(words)
