"""The networks of the experiment on whole networks: which are trained, how, and what is measured of each."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from featgeo.errors import FeatgeoWarning
from featgeo.experiments.digits import Fitted, Images, linear_layers, network, train_lbfgs, train_steps
from featgeo.experiments.networks_locality import measures
from featgeo.network.analyze import analyze

HIDDEN = {2: (12,), 3: (12, 6), 4: (12, 9, 9), 5: (12, 9, 9, 9)}
STEPS = 700  # most iterations of L-BFGS
TOLERANCE = 1e-5  # of the gradient, relative to ε²
FULL_BATCH = 1 << 14


@dataclass(frozen=True)
class Plan:
    """One network to train.

    Attributes:
        purpose: ``trial``, ``rates`` or ``grid``.
        data: name of the images.
        depth: linear layers m.
        activation: between them.
        penalty: ``none``; ``fixed``: λ; ``shrinking``: λ ε^(2-2/m) on every layer; ``by layer``: λ on the first and
            λ ε² on all others, which has the same geometric mean.
        strength: λ.
        dependence: ε.
        optimiser: ``L-BFGS``, ``Adam`` or ``SGD``.
    """

    purpose: str
    data: str
    depth: int
    activation: str
    penalty: str
    strength: float
    dependence: float
    optimiser: str = "L-BFGS"

    @property
    def decays(self) -> list[float]:
        """λ_i of every layer, input to output."""
        if self.penalty == "none":
            return [0.0] * self.depth
        if self.penalty == "shrinking":
            return [self.strength * self.dependence ** (2 - 2 / self.depth)] * self.depth
        others = self.dependence**2 if self.penalty == "by layer" else 1.0
        return [self.strength] + [self.strength * others] * (self.depth - 1)

    @property
    def sizes(self) -> list[tuple[float, float]]:
        """Size of the weights and of the biases of every layer, as derived in :mod:`featgeo.experiments.networks`."""
        small = min(1.0, self.dependence)
        if self.penalty == "by layer":
            return [(small, small)] + [(1.0, small)] * (self.depth - 1)
        return [(small ** (1 / self.depth), small ** ((i + 1) / self.depth)) for i in range(self.depth)]

    @property
    def label(self) -> str:
        """For a progress bar."""
        kind = f"{self.depth} layers, {self.activation}, {self.penalty}, {self.optimiser}"
        return f"{self.data}, {kind}, ε {self.dependence:g}"


def start(plan: Plan, images: Images, seed: int) -> nn.Sequential:
    """The network before training: as torch initialises it where it is trained as people do.

    For L-BFGS with orthogonal weights of the derived size, so that no mode begins at 0: with a penalty and 3 layers or
    more that is a local minimum.
    """
    widths = (images.inputs.shape[1], *HIDDEN[plan.depth], images.classes)
    model = network(widths, plan.activation, seed)
    if plan.optimiser == "L-BFGS":
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for layer, (size, _) in zip(linear_layers(model).values(), plan.sizes, strict=True):
                nn.init.orthogonal_(layer.weight, generator=generator)
                layer.weight *= size
                layer.bias.zero_()
            layer.bias.copy_(images.prior.log())
    return model


def train(plan: Plan, images: Images, seed: int, steps: int = STEPS) -> tuple[nn.Sequential, Fitted | None]:
    """The trained network, and how L-BFGS ended."""
    model, targets = start(plan, images, seed), images.soft(plan.dependence)
    if plan.optimiser == "L-BFGS":
        size = plan.dependence**2
        return model, train_lbfgs(
            model, images.inputs, targets, plan.decays, size, steps, TOLERANCE, plan.sizes
        )
    rate = {"Adam": 3e-3, "SGD": 0.05}[plan.optimiser]
    train_steps(model, images.inputs, targets, plan.decays, plan.optimiser, rate, 60, seed=seed)
    return model, None


def measure(plan: Plan, model: nn.Sequential, fitted: Fitted | None, images: Images) -> dict[str, Any]:
    """Everything that is shown of one trained network, as plain data; layers input to output."""
    targets = images.soft(plan.dependence)
    layers = []
    for (name, layer), decay in zip(linear_layers(model).items(), plan.decays, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeatgeoWarning)  # counted below
            report = analyze(
                model, (images.inputs, targets), layers=[name], weight_decay=decay, batch_size=FULL_BATCH
            )
        bayes, average = report[name].views["bayes"], report[name].views["average"]
        layers.append(
            {
                "alignment": bayes.alignment,
                "average": average.alignment,
                "error": (1 - 2 * bayes.scale * bayes.alignment + bayes.scale**2) ** 0.5,
                "locality": bayes.locality,
                "average_locality": average.locality,
                "used": bayes.gain_used,
                "available": bayes.gain_available,
                "weight": layer.weight.norm().item(),
                "saturated": len(bayes.saturated),
                "measures": measures(model, layer, images.inputs, targets)
                | {
                    "gain": _agreement(
                        bayes.constant_loss - bayes.predicted_loss, bayes.constant_loss - report.loss_value
                    )
                },
            }
        )
    return {
        **asdict(plan),
        "gradient": None if fitted is None else fitted.gradient,
        "steps": None if fitted is None else fitted.steps,
        "layers": layers,
    }


def _agreement(predicted: float, actual: float) -> float:
    """Smaller over larger of two decreases of the loss, 0 where their signs differ."""
    low, high = sorted((predicted, actual))
    return max(0.0, low / high if high > 0 else high / low) if low != high else 1.0


def values(runs: Sequence[dict[str, Any]], field: str) -> list[float]:
    """A field of all layers of all runs."""
    return [layer[field] for run in runs for layer in run["layers"]]


def plans(quick: bool, fashion: bool) -> list[Plan]:
    """All networks of the experiment."""
    if quick:
        grid = [
            Plan("grid", "digits", depth, "tanh", penalty, strength, dependence)
            for depth in (2, 3)
            for penalty, strength in (("none", 0.0), ("fixed", 1e-3), ("shrinking", 3e-3))
            for dependence in (3.0, 0.3)
        ]
        rates = [Plan("rates", "digits", 2, "tanh", "shrinking", 6e-3, e) for e in (0.03, 0.01, 0.003)]
        return [*grid, *rates, *(Plan("rates", "digits", d, "tanh", "by layer", 3e-3, 0.03) for d in (2, 3))]
    trial = [Plan("trial", "all digits", 3, "tanh", "shrinking", 2e-3, e) for e in (0.03, 0.015)]
    rates = [
        Plan("rates", "digits", depth, "tanh", penalty, strength, e)
        for depth in (2, 3, 4, 5)
        for penalty, strength, dependences in (
            ("shrinking", 6e-3, (0.1, 0.03, 0.01, 0.003, 0.001)),
            ("by layer", 3e-3, (0.1, 0.05, 0.03, 0.01)),
        )
        for e in dependences
    ]
    grid = [
        Plan("grid", "digits", depth, "tanh", "none", 0.0, e)
        for depth in (2, 3, 4, 5)
        for e in (3.0, 1.0, 0.3, 0.03)
    ]
    grid += [
        Plan("grid", "digits", depth, "tanh", "shrinking", 3e-3, e)
        for depth in (2, 3, 4, 5)
        for e in (1.0, 0.3, 0.1)
    ]
    grid += [
        Plan("grid", "digits", depth, "tanh", "fixed", strength, e)
        for depth in (2, 3)
        for strength in (1e-3, 1e-4)
        for e in (3.0, 1.0, 0.3)
    ]
    grid += [
        Plan("grid", "digits", 3, activation, penalty, strength, e)
        for activation in ("SiLU", "GELU", "ReLU")
        for penalty, strength in (("shrinking", 3e-3), ("none", 0.0))
        for e in (1.0, 0.1)
    ]
    grid += [
        Plan("grid", "digits", depth, "tanh", "fixed", strength, e, optimiser)
        for optimiser in ("Adam", "SGD")
        for depth in (2, 3)
        for strength in (0.0, 1e-4)
        for e in (3.0, 1.0)
    ]
    if fashion:
        grid += [
            Plan("grid", "Fashion-MNIST", depth, "tanh", penalty, strength, e)
            for depth in (2, 3)
            for penalty, strength in (("shrinking", 3e-3), ("by layer", 3e-3), ("none", 0.0))
            for e in (1.0, 0.1)
        ]
    return trial + rates + grid
