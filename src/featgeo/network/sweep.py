"""One forward pass over the data: everything that analyze() needs, in moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from featgeo.data.batches import Batches
from featgeo.data.inputs import Inputs, by_sample, joined, position_mask, sample_count, shapes
from featgeo.data.moments import Companion, Moments, MomentStream
from featgeo.errors import FeatgeoError
from featgeo.network.arrange import Arrangement, over_calls
from featgeo.network.layers import Layer, Projection, respond, weight_matrix
from featgeo.network.run import Runner as Runner
from featgeo.network.run import forward_batch as forward_batch
from featgeo.network.run import runner_of as runner_of
from featgeo.network.survey import Survey
from featgeo.network.taps import Frame, Seen, reader, tapping
from featgeo.theory.losses import Loss

PROBES = 8  # samples kept to check what depends on the input

Statistic = Callable[[Tensor, int], Tensor]  # checked targets, width -> T(y) (m, d)


@dataclass(frozen=True)
class Sweep:
    """What a pass over the data found.

    Attributes:
        layers: name -> moments of the features f with companion u = [g, T] (outputs, then statistics of the targets).
        precisions: name -> dtype in which the products were summed.
        pair: moments of u.
        loss: mean loss.
        base: mean of h(y).
        seen: what each layer did.
        probe: the first input samples.
    """

    layers: dict[str, Moments]
    precisions: dict[str, torch.dtype]
    pair: Moments
    loss: float
    base: float
    seen: dict[str, Seen]
    probe: Inputs

    @property
    def width(self) -> int:
        """Number of outputs d."""
        return len(self.pair.mean) // 2


def read_outputs(run: Runner, data: Batches) -> tuple[int, Tensor]:
    """Number of outputs, and the targets of all rows: the first pass that a loss without a statistic needs."""
    width, targets = 0, []
    for number, (inputs, batch) in enumerate(data):
        width = width or forward_batch(run, inputs, number).shape[1]
        batch = run.layout.targets(batch)
        ignored = run.layout.ignored
        if ignored is not None and not batch.is_floating_point():
            batch = batch[batch != ignored]
        targets.append(batch)
    if not targets:
        raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
    return width, torch.cat(targets)


def sweep(
    run: Runner,
    device: torch.device,
    data: Batches,
    loss: Loss,
    statistic: Statistic,
    base: Callable[[Tensor], Tensor] | None,
    layers: dict[str, Layer],
    survey: Survey,
    progress: bool = False,
) -> Sweep:
    """Run the model once over the data and accumulate the moments of all layers.

    Args:
        run: the model, in evaluation mode.
        device: where it is.
        data: the batches.
        loss: whose mean is taken.
        statistic: T(y) of checked targets.
        base: h(y) of checked targets, or None.
        layers: by name.
        survey: what a few samples showed of them.
        progress: whether to show a progress bar.
    """
    streams = {name: MomentStream(f"layer '{name}'") for name in layers}
    pair = MomentStream("model outputs and targets")
    seen = {
        name: Seen(survey.lies.get(name, default_lie(layer)), alien=survey.aliens.get(name, ""))
        for name, layer in layers.items()
    }
    frame = Frame(expand=run.layout.expand)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    calls: dict[str, list[tuple[Tensor, Tensor | int]]] = {}
    order: dict[str, None] = {}
    probe: list[Inputs] = []
    samples = 0

    def receive(name: str, rows: Tensor, positions: Tensor | int) -> None:
        centred = streams[name].centre(rows.flatten(0, -2))[0].reshape(rows.shape)
        calls.setdefault(name, []).append((centred, positions))
        whole = isinstance(positions, int) and positions == 1 and len(calls[name]) == 1 and not frame.expand
        seen[name].averaged |= not whole

    with tapping(layers, reader(layers, receive, seen, frame), outputs=False):
        bar = tqdm(data, total=len(data) or None, desc="analyze", unit="batch", disable=not progress)
        for number, (inputs, targets) in enumerate(bar):
            calls.clear()
            frame.samples, frame.keep = sample_count(inputs), position_mask(inputs)
            made = forward_batch(run, inputs, number)
            targets, kept = run.layout.labelled(made, targets)
            outputs = made if kept is None else made[kept.to(made.device)]
            if not len(outputs):
                continue
            checked = loss.check(targets.to(outputs.device), outputs.shape[1])
            sums[0] += loss.values(outputs, checked).sum(dtype=torch.float64)
            if base is not None:
                sums[1] += base(checked).sum()
            both = torch.cat([outputs, statistic(checked, outputs.shape[1]).to(outputs)], dim=1)
            side, shift = pair.centre(both)
            companion = Companion.of(side, shift)
            # as called, so that the first layer with NaN is the one named
            order = dict.fromkeys((*calls, *layers))
            for name in order:
                rows = over_calls(calls[name], frame.expand) if name in calls else side[:0]
                own, wanted = companion, len(made)
                if run.layout.repeated and len(rows) % len(made) == 0 and len(rows):
                    wanted = len(rows)
                    own = Companion.of(side.repeat_interleave(len(rows) // len(made), 0), shift)
                if seen[name].close(len(rows), wanted, made, run.rows):
                    streams[name].add(rows if kept is None else rows[kept.to(rows.device)], own)
            pair.add(side, companion)
            samples += len(outputs)
            if sum(map(sample_count, probe)) < PROBES and (not probe or shapes(probe[0]) == shapes(inputs)):
                probe.append(by_sample(inputs, lambda part: part[:PROBES]))
    if not samples:
        raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
    results = {name: streams[name].result() for name in order if not seen[name].obstacle}
    total, offset = (sums / samples).tolist()
    return Sweep(
        {name: m.to("cpu") for name, m in results.items()},
        {name: streams[name].precision for name in results},
        pair.result().to("cpu"),
        total,
        offset,
        seen,
        by_sample(joined(probe), lambda part: part[:PROBES]),
    )


def default_lie(layer: Layer) -> Arrangement:
    """Where samples are taken to be in a layer that no survey saw called."""
    return Arrangement(int(isinstance(layer, Projection)))


def sweep_replaced(
    run: Runner, data: Batches, layer: Layer, lie: Arrangement, weight: Tensor
) -> tuple[Moments, Moments]:
    """Moments of a layer's features with companion g, and of g, when its weight is replaced by another (n, k)."""
    change = (weight - weight_matrix(layer)[0]).to(layer.weight)
    stream, outside = MomentStream("re-drawn layer"), MomentStream("re-drawn outputs")
    frame = Frame(expand=run.layout.expand)
    calls: list[tuple[Tensor, Tensor | int]] = []

    def receive(_name: str, rows: Tensor, positions: Tensor | int) -> None:
        calls.append((stream.centre(rows.flatten(0, -2))[0].reshape(rows.shape), positions))

    read = reader({"": layer}, receive, {"": Seen(lie)}, frame)

    def moved(name: str, x: Tensor, output: Tensor) -> Tensor:
        read(name, x, output)
        return output + respond(layer, x, change, output)

    with tapping({"": layer}, moved):
        for number, (inputs, targets) in enumerate(data):
            calls.clear()
            frame.samples, frame.keep = sample_count(inputs), position_mask(inputs)
            outputs = forward_batch(run, inputs, number)
            _, kept = run.layout.labelled(outputs, targets)
            rows = over_calls(calls, frame.expand)
            if run.layout.repeated:
                outputs = outputs.repeat_interleave(len(rows) // len(outputs), 0)
            if kept is not None:
                outputs, rows = outputs[kept.to(outputs.device)], rows[kept.to(rows.device)]
            side, shift = outside.centre(outputs)
            companion = Companion.of(side, shift)
            outside.add(side, companion)
            stream.add(rows, companion)
    return stream.result().to("cpu"), outside.result().to("cpu")
