"""Before anything is cut: what each layer's modes are and what cutting them is predicted to cost."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from featgeo.apply.budget import Option, allocate
from featgeo.apply.curvature import Probe, curves, far_metric, metrics, output_metric
from featgeo.apply.factor import Dense, dense_cost, find_layers, largest_rank, thin_cost, unplaceable
from featgeo.apply.modes import Metric, Modes, ridged
from featgeo.apply.positions import layout_in
from featgeo.apply.survey import Survey, survey
from featgeo.data.batches import Batches
from featgeo.data.inputs import by_sample
from featgeo.errors import FeatgeoError
from featgeo.network.layers import weight_matrix
from featgeo.network.run import Forward, Runner, runner_of
from featgeo.network.select import Layers
from featgeo.network.together import unwrapped
from featgeo.show.digest import because
from featgeo.theory.linalg import Whitener, whiten
from featgeo.theory.losses import Loss

METRICS = ("near", "far")
ROUNDING = 1e-6  # of predictions, relative to the largest
RIDGE = 0.5  # weight of keeping pre-activations as they are, against the loss's metric


@dataclass(frozen=True)
class Outlook:
    """One metric's view of all layers.

    Attributes:
        roots: name -> metric.
        modes: name -> modes in it.
        curves: name -> predicted increase of the loss at rank 0..ρ, alone, with the tail linear and the loss exact.
    """

    roots: dict[str, Metric]
    modes: dict[str, Modes]
    curves: dict[str, Tensor]

    def options(self, layers: dict[str, Dense], quadratic: bool = False) -> dict[str, list[Option]]:
        """What each layer may become, with what that is predicted to cost."""
        found = {}
        for name, layer in layers.items():
            curve = rising(self.modes[name].tails if quadratic else self.curves[name])
            top = min(largest_rank(layer), len(curve) - 1)
            found[name] = [
                Option(thin_cost(layer, rank), curve[rank].item(), rank) for rank in range(1, top + 1)
            ]
            found[name].append(Option(dense_cost(layer), 0.0, None))
        return found


def rising(curve: Tensor) -> Tensor:
    """A predicted increase of the loss (ρ + 1,) that no smaller rank undercuts: that a cut does good is chance.

    What is rounding beside cutting everything is nothing, or ranks that change nothing would be paid for.
    """
    rising = curve.clamp_min(0).flip(0).cummax(0).values.flip(0)
    return rising.masked_fill(rising <= ROUNDING * rising.max(), 0.0)


@dataclass(frozen=True)
class Plan:
    """A model surveyed for compression.

    Attributes:
        model: a copy in evaluation mode, left alone from here on.
        run: it as a function of inputs.
        data: the batches.
        loss: the loss.
        layers: those that can be cut, in the order in which they are called.
        found: the survey.
        probe: what derivatives are taken on.
        outlooks: near and far.
    """

    model: nn.Module
    run: Runner
    data: Batches
    loss: Loss
    layers: dict[str, Dense]
    found: Survey
    probe: Probe
    outlooks: dict[str, Outlook]

    @property
    def total(self) -> int:
        """Parameters of the layers considered."""
        return sum(dense_cost(layer) for layer in self.layers.values())

    @property
    def least(self) -> int:
        """Fewest parameters that they can have."""
        outlook = next(iter(self.outlooks.values()))
        return sum(min(o.cost for o in options) for options in outlook.options(self.layers).values())

    def candidates(self, budget: int) -> Iterator[tuple[str, dict[str, int | None]]]:
        """Metric and ranks, the likeliest first: by the linear tail's prediction, and by the metric's own quadratic."""
        seen = []
        for quadratic in (False, True):
            for name, outlook in self.outlooks.items():
                chosen = allocate(outlook.options(self.layers, quadratic), budget)
                ranks = {layer: option.rank for layer, option in chosen.items()}
                if (name, ranks) not in seen:
                    seen.append((name, ranks))
                    yield name, ranks


def working_copy(model: nn.Module) -> nn.Module:
    """A copy whose gradients are forgotten.

    Raises:
        FeatgeoError: where the model is none or cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise FeatgeoError("model", f"a {type(model).__name__}", "Pass a torch.nn.Module.")
    own = unwrapped(model)
    try:
        made = copy.deepcopy(own)
    except Exception as error:  # a user's module may hold anything
        raise FeatgeoError(
            "model", f"{type(error).__name__} when it was copied: {error}", "Make it fit for copy.deepcopy."
        ) from error
    made.zero_grad(set_to_none=True)
    return made


def candidates_of(model: nn.Module, only: Layers) -> tuple[dict[str, Dense], dict[str, str]]:
    """The layers that may be cut and the others' reasons.

    Raises:
        FeatgeoError: where there is none of the first.
    """
    layers, skipped = find_layers(model, only)
    if not layers:
        raise FeatgeoError(
            "model", "no Linear or Conv layer that can be cut", f"Skipped: {because(skipped)}."
        )
    return layers, skipped


def look(
    model: nn.Module,
    data: Batches,
    loss: Loss,
    only: Layers = None,
    samples: int = 1024,
    which: tuple[str, ...] = METRICS,
    progress: bool = False,
    forward: Forward | None = None,
) -> tuple[Plan, dict[str, str]]:
    """Survey a working copy; call it inside :func:`featgeo.network.keep.undisturbed`.

    Returns:
        The plan, and why each other layer is skipped.
    """
    layers, skipped = candidates_of(model, only)
    run = runner_of(model, forward)
    run.layout = layout_in(run, layers, data, loss.ignore_index)
    found = survey(run, data, loss, layers, progress)
    skipped |= found.skipped
    layers = {name: layers[name] for name in found.moments}
    two = by_sample(next(iter(data))[0], lambda part: part[:2])
    skipped |= (broken := unplaceable(model, layers, run, two))
    layers = {name: layer for name, layer in layers.items() if name not in broken}
    if not layers:
        raise FeatgeoError("model", "no layer that can be cut", f"Skipped: {because(skipped)}.")
    assert found.answers is not None
    probe = Probe(run, data, loss, samples, found.samples)
    outlooks = {}
    whiteners = {
        n: whiten(found.moments[n].covariance, found.precisions[n], found.moments[n].mean) for n in layers
    }
    for name in which:
        if name == "near":
            matrices = metrics(probe, layers)
        else:
            output = output_metric(probe, found.answers)
            matrices = {key: far_metric(found.actions[key], output) for key in layers}
        roots, modes = {}, {}
        for layer_name, layer in layers.items():
            roots[layer_name], modes[layer_name] = modes_of(
                layer, matrices[layer_name], whiteners[layer_name], found.moments[layer_name].mean
            )
        predicted = curves(probe, layers, modes)
        outlooks[name] = Outlook(roots, modes, predicted)
    return Plan(model, run, data, loss, layers, found, probe, outlooks), skipped


def modes_of(layer: Dense, matrix: Tensor, whitener: Whitener, mean: Tensor) -> tuple[Metric, Modes]:
    """The layer's metric, leaning on its pre-activations, and its modes there."""
    weight, bias = weight_matrix(layer)
    loadings = weight @ whitener.root
    metric = Metric.of(ridged(matrix, loadings @ loadings.T, RIDGE))
    return metric, Modes.of(loadings, metric, whitener, weight @ mean + bias, mean)
