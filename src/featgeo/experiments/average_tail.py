"""Beyond the local region: the average tail on trained networks, against its nulls and neighbouring measures."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from featgeo.errors import FeatgeoWarning
from featgeo.experiments.architectures import FAMILIES, Family, images, loss_and_accuracy, train
from featgeo.experiments.average_tail_figures import draw
from featgeo.experiments.average_tail_verdict import summarise
from featgeo.experiments.neighbours import Standpoint, neighbours, standpoints
from featgeo.experiments.record import Experiment, Result, Settings
from featgeo.experiments.tail_exact import free_of_weights, gaussian_tail, identity_error, linear_tail
from featgeo.experiments.tail_moves import cuts, moves
from featgeo.network.analyze import analyze

SNAPSHOTS = (0, 3, 10, 30, 100)
FEW = 200  # samples of the networks that are to learn by heart
PHASES = {10: "early", 100: "midway"}

Row = dict[str, Any]


@dataclass
class Collected:
    """Rows of measurements: layers, moves, cuts, exact cases and seconds."""

    layers: list[Row] = field(default_factory=list)
    moves: list[Row] = field(default_factory=list)
    cuts: list[Row] = field(default_factory=list)
    identity: list[Row] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    exact: dict[str, Any] = field(default_factory=dict)

    def clock(self, seconds: dict[str, float]) -> None:
        """Note the seconds that measures took on one network."""
        for name, value in seconds.items():
            self.seconds.setdefault(name, []).append(value)


def _measure(
    into: Collected, model: nn.Module, data: tuple[Tensor, Tensor], family: Family, tag: Row, nulls: int = 0
) -> dict[str, Standpoint]:
    """Rows of all layers of one network; their standpoints."""
    values, jacobians, seconds = neighbours(model, *data, family.rectified)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatgeoWarning)  # undefined alignments are counted in the tables
        report = analyze(model, data, nulls=nulls, batch_size=512)
    if not nulls:
        into.clock({**seconds, "analyze": time.perf_counter() - begin})
    points = standpoints(model, *data, jacobians)
    loss, accuracy = loss_and_accuracy(model, *data)
    for layer in report.analysed:
        average, bayes = layer.view("average"), layer.views.get("bayes")
        point = points[layer.name]
        row = {
            **tag, "family": family.name, "layer": layer.name, "neurons": layer.neurons, "rank": layer.feature_rank,
            "loss": loss, "accuracy": accuracy, "output": point.is_output, "status": layer.status,
            "average": average.alignment, "tail_r2": average.tail_r2, "locality": average.locality,
            "bayes": bayes.alignment if bayes else None, "bayes_locality": bayes.locality if bayes else None,
            "mean Jacobian": point.alignment("mean Jacobian"), **values[layer.name],
        }  # fmt: skip
        for name, found in average.nulls.items():
            row[name] = sum(found) / len(found)
        into.layers.append({key: _short(value) for key, value in row.items()})
    return points


def _short(value: Any) -> Any:
    """Five significant digits are enough for a cosine in a file of results."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if value == value else None


def _life(
    into: Collected,
    family: Family,
    data: tuple[Tensor, Tensor],
    seed: int,
    steps: int,
    snapshots: tuple[int, ...],
) -> None:
    """One network through its training: measures at the snapshots, moves, and at the end cuts and nulls."""
    model = family.make(seed)
    early, midway = (min(step, steps // 3) for step in PHASES)
    kept = train(model, *data, steps, seed, snapshots=(*snapshots, early, midway, steps))
    generator = torch.Generator().manual_seed(seed)
    for step, snapshot in kept.items():
        last = step == steps
        state = "trained" if last else "untrained" if step == 0 else "underway"
        tag = {"seed": seed, "state": state, "step": step}
        points = _measure(into, snapshot, data, family, tag, 3 if last else 0)
        if step not in (early, midway, steps):
            continue
        phase = "end" if last else "midway" if step == midway else "early"
        for row in moves(snapshot, *data, points, generator):
            into.moves.append({"family": family.name, "seed": seed, "phase": phase, **row})
        if last:
            for row in cuts(snapshot, *data, points):
                into.cuts.append({"family": family.name, "seed": seed, **row})
            for name, point in points.items():
                into.identity.append(
                    {
                        "family": family.name, "seed": seed, "layer": name, "error": identity_error(point),
                        "free": free_of_weights(point), "output": point.is_output,
                    }
                )  # fmt: skip


def _by_heart(
    into: Collected, family: Family, data: tuple[Tensor, Tensor], seed: int, steps: int, wrong: bool
) -> None:
    """A network trained long on few samples, with right or shuffled labels, seen on these and on the others."""
    generator = torch.Generator().manual_seed(1000 + seed)
    order = torch.randperm(len(data[0]), generator=generator)
    few, rest = order[:FEW], order[FEW:]
    labels = data[1][few]
    if wrong:
        labels = labels[torch.randperm(FEW, generator=generator)]
    model = family.make(seed)
    train(model, data[0][few], labels, 2 * steps, seed)
    name = "mislabelled" if wrong else "over-trained"
    _measure(into, model, (data[0][few], labels), family, {"seed": seed, "state": name, "step": 2 * steps})
    other = {"seed": seed, "state": f"{name}, other data", "step": 2 * steps}
    _measure(into, model, (data[0][rest], data[1][rest]), family, other)


def _frozen(
    into: Collected, family: Family, data: tuple[Tensor, Tensor], seed: int, steps: int, layer: str
) -> None:
    """A network of which one layer keeps its initial weights while the rest trains; rows of that layer only."""
    model, own = family.make(seed), Collected()
    train(model, *data, steps, seed, frozen=layer)
    _measure(own, model, data, family, {"seed": seed, "state": "frozen", "step": steps})
    into.layers += [row for row in own.layers if row["layer"] == layer]


def run(settings: Settings) -> Result:
    """Train, measure, compare."""
    seeds, data, into = (
        range(settings.seed, settings.seed + (2 if settings.quick else 5)),
        images(),
        Collected(),
    )
    families: tuple[Family, ...] = FAMILIES
    if settings.quick:
        families, data = (FAMILIES[0], FAMILIES[3]), (data[0][:600], data[1][:600])
    sizes = (1_000, 3_000, 10_000) if settings.quick else (1_000, 3_000, 10_000, 30_000, 100_000)
    into.exact = {
        "linear": [linear_tail(seed) for seed in seeds],
        "sizes": list(sizes),
        "gaussian": [gaussian_tail(seed, True, sizes) for seed in seeds],
        "exponential": [gaussian_tail(seed, False, sizes) for seed in seeds],
    }
    jobs = [(family, seed) for family in families for seed in seeds]
    jobs = jobs[:3] if settings.quick else jobs
    for number, (family, seed) in enumerate(jobs):
        settings.progress(number / len(jobs), f"{family.name}, seed {seed}")
        steps = 100 if settings.quick else family.steps
        _life(into, family, data, seed, steps, SNAPSHOTS[: 1 if settings.quick else None])
        if settings.quick and (seed != seeds[0] or family is not families[0]):
            continue
        for layer in family.frozen:
            _frozen(into, family, data, seed, steps, layer)
        for wrong in (False, True):
            _by_heart(into, family, data, seed, steps, wrong)
    return summarise(into, settings.quick)


EXPERIMENT = Experiment(
    name="average_tail",
    title="Beyond the region: the average tail",
    claim=(
        "Far from the Bayes action the tail's Jacobian at one constant says little. Its statistical "
        "linearisation over the data, J̄ = Cov(g, z) Σ_z⁺, with the output's metric kept, gives the same "
        "theorem another operating point. It is exact for a linear tail, equals the mean Jacobian E[∂g/∂z] "
        "for Gaussian z (Stein), and J̄ W Σ_f^½ = Cov(g, f) Σ_f^-½ P with P the projection on the row "
        "space of W Σ_f^½: with as many neurons as feature dimensions it depends on the layer's weights "
        "only through the network's outputs."
    ),
    setup=(
        "An MLP, a convolutional, a residual and an attention network on scikit-learn's digits as 8x8 "
        "images, hard labels, cross-entropy, Adam without penalty, several seeds; 95 % Student intervals "
        "over seeds. Alignment of every layer at the average tail, at the Bayes action and at the mean "
        "Jacobian (backward passes). Nulls: the untrained network, shuffled labels (their analytic law), "
        "the layer's weights re-drawn, networks made to learn 200 shuffled labels by heart, one layer "
        "frozen at random while the rest trains. Predictions put to the test: the change of the loss when "
        "one layer is moved towards W*, 5 % of the way but no further than 5 % of the spread of its own "
        "output (beside a random move of that length), early, midway and at the end of training; and at "
        "the end, when its output is cut to r principal directions. Beside it target linearity (Cha, "
        "Beaglehole, Radhakrishnan, Lee, arXiv 2605.06258, as in the authors' published code), the neural "
        "feature ansatz (Radhakrishnan et al., Science 2024), and linear CKA with the labels."
    ),
    run=run,
    draw=draw,
)
