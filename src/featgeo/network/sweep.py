"""One forward pass over the data: everything that analyze() needs, in moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from featgeo.data.batches import Batches
from featgeo.data.moments import Companion, Moments, MomentStream
from featgeo.errors import FeatgeoError
from featgeo.network.features import Layer, feature_rows
from featgeo.network.keep import home_of
from featgeo.network.taps import Seen, as_rows, reading, replacing
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
    probe: Tensor

    @property
    def width(self) -> int:
        """Number of outputs d."""
        return len(self.pair.mean) // 2


Runner = Callable[[Tensor], Tensor]


def runner_of(model: nn.Module) -> Runner:
    """The model as a function of inputs, which are brought to its device and, where floating, its dtype."""
    device, dtype = home_of(model)

    def run(inputs: Tensor) -> Tensor:
        return model(inputs.to(device, dtype) if inputs.is_floating_point() else inputs.to(device))

    return run


def forward_batch(run: Runner, inputs: Tensor, number: int) -> Tensor:
    """Outputs (m, d) of one batch, in float32 or better; failures say which batch."""
    try:
        outputs = as_rows(run(inputs))
    except FeatgeoError:
        raise
    except Exception as error:
        raise FeatgeoError(
            "model",
            f"{type(error).__name__} in the forward pass of batch {number} (inputs {tuple(inputs.shape)}): {error}",
            "Check that the data are what the model takes, with one shape in all batches.",
        ) from error
    if len(outputs) != len(inputs):
        raise FeatgeoError(
            "model", f"{len(outputs)} output rows for {len(inputs)} inputs", "One row per sample."
        )
    return outputs if outputs.dtype in (torch.float32, torch.float64) else outputs.float()


def read_outputs(run: Runner, data: Batches) -> tuple[int, Tensor]:
    """Number of outputs, and all targets: the first pass that a loss without a sufficient statistic needs."""
    width, targets = 0, []
    for number, (inputs, batch) in enumerate(data):
        width = width or forward_batch(run, inputs, number).shape[1]
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
        progress: whether to show a progress bar.
    """
    streams = {name: MomentStream(f"layer '{name}'") for name in layers}
    pair = MomentStream("model outputs and targets")
    seen = {name: Seen() for name in layers}
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    centred: dict[str, Tensor] = {}
    order: dict[str, None] = {}
    probe: list[Tensor] = []
    samples = 0

    def receive(name: str, rows: Tensor) -> None:
        centred[name] = streams[name].centre(rows)[0]

    with reading(layers, receive, seen):
        bar = tqdm(data, total=len(data) or None, desc="analyze", unit="batch", disable=not progress)
        for number, (inputs, targets) in enumerate(bar):
            centred.clear()
            outputs = forward_batch(run, inputs, number)
            checked = loss.check(targets.to(outputs.device), outputs.shape[1])
            if len(checked) != len(outputs):
                raise FeatgeoError(
                    "data", f"{len(checked)} targets for {len(outputs)} inputs", "One target each."
                )
            sums[0] += loss.values(outputs, checked).sum(dtype=torch.float64)
            if base is not None:
                sums[1] += base(checked).sum()
            both = torch.cat([outputs, statistic(checked, outputs.shape[1]).to(outputs)], dim=1)
            side, shift = pair.centre(both)
            companion = Companion.of(side, shift)
            order = dict.fromkeys(
                (*centred, *layers)
            )  # as called, so that the first layer with NaN is the one named
            for name in order:
                rows = centred.get(name, side[:0])
                if seen[name].close(len(side), len(rows), outputs):
                    streams[name].add(rows, companion)
            pair.add(side, companion)
            samples += len(outputs)
            if sum(map(len, probe)) < PROBES and (not probe or probe[0].shape[1:] == inputs.shape[1:]):
                probe.append(inputs[:PROBES])
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
        torch.cat(probe)[:PROBES],
    )


def sweep_replaced(run: Runner, data: Batches, layer: Layer, weight: Tensor) -> tuple[Moments, Moments]:
    """Moments of a layer's features with companion g, and of g, when its weight is replaced by another (n, k)."""
    change = (weight - layer.weight.detach().to("cpu", torch.float64).flatten(1)).reshape(layer.weight.shape)
    change = change.to(layer.weight)
    stream, outside = MomentStream("re-drawn layer"), MomentStream("re-drawn outputs")
    held: list[Tensor] = []

    def moved(given: Tensor, output: Tensor) -> Tensor:
        held[:] = [stream.centre(feature_rows(layer, given))[0]]
        if isinstance(layer, nn.Linear):
            return output + nn.functional.linear(given, change)
        return output + layer._conv_forward(given, change, None)

    with replacing(layer, moved):
        for number, (inputs, _) in enumerate(data):
            outputs = forward_batch(run, inputs, number)
            side, shift = outside.centre(outputs)
            companion = Companion.of(side, shift)
            outside.add(side, companion)
            stream.add(held[0], companion)
    return stream.result().to("cpu"), outside.result().to("cpu")
