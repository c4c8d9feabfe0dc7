"""A look at the model and the data before anything is cut: loss, moments, who is called how."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from featgeo.apply.draw import Draw
from featgeo.apply.factor import Dense
from featgeo.apply.positions import per_sample, rows_of, same
from featgeo.data.batches import Batches
from featgeo.data.inputs import position_mask, sample_count
from featgeo.data.moments import Companion, Moments, MomentStream
from featgeo.network.run import Runner, forward_batch, labelled_rows
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
        answers: moments of the labelled output rows with the statistics of the targets, or nothing, as companion.
        moments: name -> moments of the features at every position, in the order in which layers are called.
        actions: name -> moments of the layer's output, averaged over positions, with the model's as companion; of one
            labelled position of each sample where the layer has those positions.
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


def survey(
    run: Runner, data: Batches, loss: Loss, layers: dict[str, Dense], progress: bool = False
) -> Survey:
    """Run the model once over the data."""
    found, total, counted = Survey(), 0.0, 0
    streams = {name: MomentStream(f"layer '{name}'") for name in layers}
    actions = {name: MomentStream(f"output of layer '{name}'") for name in layers}
    answers = MomentStream("model outputs")
    means: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    order: dict[str, None] = {}
    most, least = dict.fromkeys(layers, 0), dict.fromkeys(layers, 1 << 30)
    size, keep, drawn = 0, None, Draw(torch.zeros(0), torch.zeros(0), 1)
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
            means[name] = action_of(layer, output, keep, drawn)

    with tapping(layers, receive):
        for number, (inputs, targets) in enumerate(
            tqdm(data, total=len(data) or None, desc="survey", unit="batch", disable=not progress)
        ):
            calls.clear()
            means.clear()
            size, keep = sample_count(inputs), position_mask(inputs)
            drawn = Draw.of(run.layout, targets, number)
            outputs = forward_batch(run, inputs, number)
            labelled, checked = labelled_rows(run, loss, outputs, targets)
            found.samples += size
            counted += len(labelled)
            if len(labelled):
                total += loss.values(labelled, checked).sum(dtype=torch.float64).item()
                centred, shift = answers.centre(labelled)
                answers.add(centred, statistic_of(loss, checked, labelled))
                some = (drawn.weight > 0).to(outputs.device)
                side = Companion.of(drawn.rows(outputs)[some] - shift, shift)
                for name, rows in means.items():
                    actions[name].add(actions[name].centre(rows[some])[0], side)
            answering, made, version = last
            layer = layers.get(answering)
            untouched = made._version == version  # else changed in place afterwards
            answer = untouched and isinstance(layer, nn.Linear) and same(layer, made, outputs)
            readouts &= {answering} if answer else set()
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
    found.answers, found.loss = answers.result().to("cpu"), total / counted
    return found


def action_of(layer: Dense, output: Tensor, keep: Tensor | None, drawn: Draw) -> Tensor:
    """A layer's output (m, n) at the position drawn, if it has it; else averaged over those that are no padding."""
    z = per_sample(layer, output)
    if z.shape[1] == drawn.positions:
        return drawn.rows(z.flatten(0, 1))
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
    total, counted = 0.0, 0
    for number, (inputs, targets) in enumerate(data):
        rows, checked = labelled_rows(run, loss, forward_batch(run, inputs, number), targets)
        total += loss.values(rows, checked).sum(dtype=torch.float64).item()
        counted += len(rows)
    return total / counted
