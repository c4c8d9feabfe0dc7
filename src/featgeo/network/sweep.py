"""One forward pass over the data: everything that analyze() needs, in moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from featgeo.data.batches import Batch, Batches
from featgeo.data.inputs import Inputs, by_sample, joined, mapped, position_mask, sample_count, shapes
from featgeo.data.limits import Limits, checks
from featgeo.data.moments import Moments, MomentStream
from featgeo.data.sample import KEPT, TOGETHER, Keeper, Sample
from featgeo.data.waiting import Rows, rows_at_once
from featgeo.errors import FeatgeoError
from featgeo.network.arrange import Arrangement, over_calls
from featgeo.network.ends import Ends, Statistic
from featgeo.network.layers import Layer, Projection, features_of, neurons_of
from featgeo.network.layout import counted, those
from featgeo.network.run import Runner, bounded, forward_batch
from featgeo.network.survey import Survey
from featgeo.network.taps import Frame, Seen, reader, tapping
from featgeo.theory.losses import Loss

PROBES = 8  # samples kept to check what depends on the input


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
        sample: rows of some samples, by layer, with companion u.
        batches: number of batches.
        read: how many of them this process has read.
        own: how many of the samples were in these.
        stopped: what ended the pass: ``data``, ``max_batches``, ``max_seconds`` or ``tol``.
    """

    layers: dict[str, Moments]
    precisions: dict[str, torch.dtype]
    pair: Moments
    loss: float
    base: float
    seen: dict[str, Seen]
    probe: Inputs
    sample: Sample
    batches: int
    read: int
    own: int
    stopped: str

    @property
    def width(self) -> int:
        """Number of outputs d."""
        return len(self.pair.mean) // 2


@dataclass(frozen=True)
class Shard:
    """What a pass over one process's data found, without the moments.

    Attributes:
        samples: number of rows.
        batches: number of batches.
        sums: Σ loss and Σ h(y).
        seen: what each layer did.
        precisions: by layer, in the order of the calls.
        probe: the first input samples, None where there is none.
        sample: rows of some samples, None where there is none.
    """

    samples: int
    batches: int
    sums: list[float]
    seen: dict[str, Seen]
    precisions: dict[str, torch.dtype]
    probe: Inputs
    sample: Sample | None


class Pass:
    """One pass under way: the model is run on batches, and the moments of all layers grow.

    Args:
        run: the model, in evaluation mode.
        loss: whose mean is taken.
        statistic: T(y) of checked targets.
        layers: by name.
        survey: what a few samples showed of them.
    """

    def __init__(
        self, run: Runner, loss: Loss, statistic: Statistic, layers: dict[str, Layer], survey: Survey
    ) -> None:
        self.run, self.layers = run, layers
        wait = rows_at_once([features_of(layer) for layer in layers.values()])
        place = torch.promote_types(run.dtype, torch.float32), run.device
        self.streams = {
            name: MomentStream(f"layer '{name}'", Rows(wait, features_of(layer), *place))
            for name, layer in layers.items()
        }
        self.ends = Ends(loss, statistic, run.device, 0 if run.layout.repeated else wait)
        self.seen = {
            name: Seen(
                survey.lies.get(name, default_lie(layer)),
                is_output=name not in survey.within,
                alien=survey.aliens.get(name, ""),
            )
            for name, layer in layers.items()
        }
        self.frame = Frame(expand=run.layout.expand)
        self.keeper = Keeper(KEPT if run.processes.size == 1 else TOGETHER // run.processes.size)
        self.probe: list[Inputs] = []
        self.samples = self.batches = 0
        self.ended = ""
        self.order: dict[str, None] = {}
        self._calls: dict[str, list[tuple[Tensor, Tensor | int]]] = {}
        self._times: dict[str, list[int]] = {}  # rows per sample of the batches that wait

    def listening(self) -> AbstractContextManager[None]:
        """While inside, the layers' inputs are read."""
        return tapping(self.layers, reader(self.layers, self._receive, self.seen, self.frame), outputs=False)

    def _receive(self, name: str, rows: Tensor, positions: Tensor | int) -> None:
        calls = self._calls.setdefault(name, [])
        flat = rows if rows.ndim == 2 else rows.flatten(0, -2)
        centred = self.streams[name].centre(flat, here=not calls)[0].reshape(rows.shape)
        calls.append((centred, positions))
        whole = isinstance(positions, int) and positions == 1 and len(calls) == 1
        self.seen[name].averaged |= not (whole and not self.frame.expand)

    def add(self, inputs: Inputs, targets: Tensor) -> None:
        """Run the model on one batch and keep what it shows."""
        if self.ends.full:
            self.settle()
        run, layout = self.run, self.run.layout
        self._calls.clear()
        self.frame.samples, self.frame.keep = sample_count(inputs), position_mask(inputs)
        made = bounded(forward_batch(run, inputs, self.batches))
        self.batches += 1
        targets, kept = layout.labelled(made, targets)
        outputs = those(made, kept)
        samples, some = made.shape[0], outputs.shape[0] > 0
        if some:
            self.ends.wait(outputs, targets)
        # as called, so that the first layer with NaN is the one named
        self.order = dict.fromkeys((*self._calls, *self.layers))
        for name in self.order:
            calls = self._calls.pop(name, None)  # let go of as soon as they wait
            rows = over_calls(calls, self.frame.expand) if calls else made[:0]
            count = rows.shape[0]
            own = layout.repeated and count and count % samples == 0
            fits = self.seen[name].close(count, count if own else samples, made, run.rows)
            if fits and some:
                self.streams[name].wait(counted(rows, samples, kept))
                self._times.setdefault(name, []).append(count // samples)
        self.samples += outputs.shape[0]
        if (
            some
            and sum(map(sample_count, self.probe)) < PROBES
            and (not self.probe or shapes(self.probe[0]) == shapes(inputs))
        ):
            self.probe.append(by_sample(inputs, lambda part: part[:PROBES].clone()))  # not the whole batch

    def settle(self) -> None:
        """Count the batches that wait."""
        sizes = list(self.ends.sizes)
        if not sizes:
            return
        both, companion = self.ends.close()
        good = {name: self.streams[name] for name in self.order if not self.seen[name].obstacle}
        whole = {name: stream for name, stream in good.items() if stream.rows.count == len(both)}
        self.keeper.add(sizes, both, {name: (own.rows.all, own.shift) for name, own in whole.items()})
        for name in self.order:
            rows = self.streams[name].rows
            times = self._times.pop(name, [])
            if name in good:
                alike = rows.count == len(both)
                self.streams[name].count(companion if alike else companion.repeated(times, sizes))
            self.streams[name].drop()
        if self.ends.due:
            self.ends.tally()

    def go_on(self, data: Iterator[Batch], limits: Limits, until: float) -> str:
        """Read on until so many batches have been read; what ended the pass, empty where it may go on."""
        while not self.ended and self.batches < until:
            batch = next(data, None)
            if batch is None:
                self.ended = "data"
            else:
                self.add(*batch)
                self.ended = limits.reached(self.batches)
        return self.ended

    def result(self, stopped: str = "") -> Sweep:
        """What has been found so far, by all processes."""
        together = self.run.processes
        shards = [shard for shard in together.gather(self._shard()) if shard.samples]
        if not shards:
            raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
        seen = {name: Seen.merged([shard.seen[name] for shard in shards]) for name in self.layers}
        order = [name for shard in shards for name in shard.precisions]
        layers = {
            name: together.merged(self.streams[name].total)
            for name in dict.fromkeys(order)
            if not seen[name].obstacle
        }
        pair, samples = together.merged(self.ends.pair.total), sum(shard.samples for shard in shards)
        assert pair is not None
        for name, note in seen.items():  # the outputs at several positions in one row are not those at one
            note.is_output &= neurons_of(self.layers[name]) == len(pair.mean) // 2
        probes = [shard.probe for shard in shards if shapes(shard.probe) == shapes(shards[0].probe)]
        return Sweep(
            {name: moments.to("cpu") for name, moments in layers.items() if moments is not None},
            {name: dtype for shard in reversed(shards) for name, dtype in shard.precisions.items()},
            pair.to("cpu"),
            sum(shard.sums[0] for shard in shards) / samples,
            sum(shard.sums[1] for shard in shards) / samples,
            seen,
            by_sample(joined(probes), lambda part: part[:PROBES]),
            Sample.joined([shard.sample for shard in shards if shard.sample is not None]),
            sum(shard.batches for shard in shards),
            self.batches,
            self.samples,
            stopped,
        )

    def _shard(self) -> Shard:
        """What this process tells the others, besides the moments."""
        self.settle()
        self.ends.tally()
        self.ends.judge()
        for name in self.order:  # as called: the first that sees NaN is named
            if not self.seen[name].obstacle:
                self.streams[name].flush()
        self.ends.pair.flush()
        some = bool(self.samples)
        return Shard(
            self.samples,
            self.batches,
            self.ends.sums.tolist(),
            {name: note.alone() for name, note in self.seen.items()},
            {name: self.streams[name].precision for name in self.order if self.streams[name].total},
            mapped(by_sample(joined(self.probe), lambda part: part[:PROBES]), Tensor.cpu) if some else None,
            self.keeper.result() if some else None,
        )


def sweep(
    under_way: Pass,
    data: Batches,
    limits: Limits,
    settled: Callable[[Sweep], bool] | None = None,
    progress: bool = False,
) -> Sweep:
    """Run the model once over the data, or until a limit is reached, and accumulate the moments of all layers.

    Args:
        under_way: the pass, at its beginning.
        data: the batches.
        limits: how much is read at most.
        settled: whether the figures are known well enough; asked every so many batches.
        progress: whether to show a progress bar.
    """
    together = under_way.run.processes
    due = checks() if settled else iter(())
    total = min(len(data) or math.inf, limits.max_batches or math.inf)
    shown = None if math.isinf(total) else total
    bar = tqdm(data, total=shown, desc="analyze", unit="batch", disable=not (progress and together.first))
    with under_way.listening(), bar:
        stream, stopped = iter(bar), ""
        while not stopped:
            reasons = together.gather(under_way.go_on(stream, limits, next(due, math.inf)))
            if all(reasons):
                stopped = next((reason for reason in reasons if reason != "data"), "data")
            elif settled is not None and settled(under_way.result()):
                stopped = "tol"
    return under_way.result(stopped)


def default_lie(layer: Layer) -> Arrangement:
    """Where samples are taken to be in a layer that no survey saw called."""
    return Arrangement(int(isinstance(layer, Projection)))
