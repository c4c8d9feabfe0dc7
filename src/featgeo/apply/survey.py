"""A look at the model and the data before anything is cut: loss, moments, who is called how."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from featgeo.apply.factor import Dense
from featgeo.apply.positions import per_sample, rows_of
from featgeo.data.batches import Batches
from featgeo.data.inputs import position_mask, sample_count
from featgeo.data.moments import Companion, Moments, MomentStream
from featgeo.network.run import Runner, forward_batch
from featgeo.network.taps import UNEVEN, tapping
from featgeo.theory.losses import CanonicalLoss, Loss


class Enough(Exception):
    """Ends a forward pass of which nothing more is wanted."""


def no_companion(rows: Tensor) -> Companion:
    """Where only the moments of the rows themselves are wanted."""
    nothing = rows.new_zeros(0)
    return Companion(rows.new_ones(len(rows), 1), nothing, nothing)


@dataclass
class Survey:
    """What one pass found.

    Attributes:
        loss: mean loss.
        samples: how many.
        answers: moments of the outputs with the statistics of the targets, or nothing, as companion.
        moments: name -> moments of the features at every position, in the order in which layers are called.
        actions: name -> moments of the layer's output, averaged over positions, with the model's as companion.
        precisions: name -> dtype in which they were summed.
        skipped: name -> why a layer cannot be cut.
        readout: the layer whose output is the model's, if there is one.
    """

    loss: float = 0.0
    samples: int = 0
    answers: Moments | None = None
    moments: dict[str, Moments] = field(default_factory=dict)
    actions: dict[str, Moments] = field(default_factory=dict)
    precisions: dict[str, torch.dtype] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    readout: str | None = None


def same(made: Tensor, outputs: Tensor) -> bool:
    """Whether a layer's output is the model's, entry by entry."""
    return made.shape == outputs.shape and torch.equal(made.to(outputs), outputs)


def checked_targets(loss: Loss, targets: Tensor, outputs: Tensor) -> Tensor:
    """Targets as the loss wants them, where the outputs are."""
    return loss.check(targets.to(outputs.device), outputs.shape[1])


def survey(
    run: Runner, data: Batches, loss: Loss, layers: dict[str, Dense], progress: bool = False
) -> Survey:
    """Run the model once over the data."""
    found, total = Survey(), 0.0
    streams = {name: MomentStream(f"layer '{name}'") for name in layers}
    actions = {name: MomentStream(f"output of layer '{name}'") for name in layers}
    answers = MomentStream("model outputs")
    means: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    order: dict[str, None] = {}
    most, least = dict.fromkeys(layers, 0), dict.fromkeys(layers, 1 << 30)
    size, keep = 0, None
    last: tuple[str, Tensor, int] = ("", torch.zeros(0), 0)
    readouts = set(layers)

    def receive(name: str, x: Tensor, output: Tensor) -> None:
        nonlocal last
        order.setdefault(name)
        last = name, output, output._version
        calls[name] = calls.get(name, 0) + 1
        layer = layers[name]
        axes = None if isinstance(layer, nn.Linear) else 2 + len(layer.kernel_size)
        if len(x) != size or len(output) != size or x.ndim != (axes or x.ndim):
            found.skipped.setdefault(name, UNEVEN)
        elif calls[name] == 1:
            for rows, _ in rows_of(layer, x, keep):
                streams[name].add(streams[name].centre(rows)[0], no_companion(rows))
            means[name] = mean_action(layer, output, keep)

    with tapping(layers, receive):
        for number, (inputs, targets) in enumerate(
            tqdm(data, total=len(data) or None, desc="survey", unit="batch", disable=not progress)
        ):
            calls.clear()
            means.clear()
            size, keep = sample_count(inputs), position_mask(inputs)
            outputs = forward_batch(run, inputs, number)
            checked = checked_targets(loss, targets, outputs)
            total += loss.values(outputs, checked).sum(dtype=torch.float64).item()
            found.samples += size
            centred, shift = answers.centre(outputs)
            answers.add(centred, statistic_of(loss, checked, outputs))
            for name, rows in means.items():
                actions[name].add(actions[name].centre(rows)[0], Companion.of(centred, shift))
            answering, made, version = last
            untouched = made._version == version and same(made, outputs)  # else changed in place afterwards
            readouts &= {answering} if untouched and isinstance(layers.get(answering), nn.Linear) else set()
            for name in layers:
                called = calls.get(name, 0)
                most[name], least[name] = max(most[name], called), min(least[name], called)
    found.readout = next(iter(readouts - set(found.skipped)), None)
    for name in layers:
        if most[name] == 0:
            found.skipped[name] = "never called in the forward pass"
        elif most[name] > 1:
            found.skipped[name] = f"called {most[name]} times in one forward pass (shared)"
        elif least[name] == 0:
            found.skipped[name] = "called for some batches only"
    for name in order:
        if name not in found.skipped:
            found.moments[name] = streams[name].result().to("cpu")
            found.actions[name] = actions[name].result().to("cpu")
            found.precisions[name] = streams[name].precision
    found.answers, found.loss = answers.result().to("cpu"), total / found.samples
    return found


def mean_action(layer: Dense, output: Tensor, keep: Tensor | None) -> Tensor:
    """A layer's output (m, n), averaged over the positions that are no padding."""
    z = per_sample(layer, output)
    if keep is None or keep.shape != z.shape[:2]:
        return z.mean(1)
    return (z * keep[..., None]).sum(1) / keep.sum(1, keepdim=True).clamp_min(1)


def statistic_of(loss: Loss, targets: Tensor, outputs: Tensor) -> Companion:
    """T(y) of a canonical loss; nothing for any other."""
    if not isinstance(loss, CanonicalLoss):
        return no_companion(outputs)
    rows = loss.statistic(targets, outputs.shape[1]).to(outputs)
    return Companion.of(rows, torch.zeros_like(rows[0]))


def measure(run: Runner, data: Batches, loss: Loss) -> float:
    """Mean loss over the data."""
    total, samples = 0.0, 0
    for number, (inputs, targets) in enumerate(data):
        outputs = forward_batch(run, inputs, number)
        total += loss.values(outputs, checked_targets(loss, targets, outputs)).sum(dtype=torch.float64).item()
        samples += len(outputs)
    return total / samples
