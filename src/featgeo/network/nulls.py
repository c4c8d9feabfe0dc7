"""Alignments that mean nothing: what a layer would show with shuffled labels, or with weights drawn anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from featgeo.data.batches import Batch
from featgeo.data.inputs import position_mask, sample_count
from featgeo.data.moments import Companion, Moments, MomentStream
from featgeo.network.arrange import Arrangement, over_calls
from featgeo.network.layers import Layer, as_matrix, as_weight, respond, weight_matrix
from featgeo.network.layout import counted
from featgeo.network.look import Outlook
from featgeo.network.run import Runner, forward_batch
from featgeo.network.stand import Stand
from featgeo.network.sweep import Sweep
from featgeo.network.taps import Frame, Seen, reader, tapping
from featgeo.network.views import LayerReport
from featgeo.theory.linalg import psd_factor
from featgeo.theory.point import OperatingPoint
from featgeo.theory.risk import Risk

SHUFFLES = 20


def _shuffled(outlook: Outlook, stand: Stand, generator: torch.Generator) -> tuple[float, ...]:
    """Alignments with W* of labels that are independent of the features.

    Shuffling leaves Cov(T) and Cov(f) as they are and makes the whitened cross-covariance a Gaussian matrix with the
    score covariance on its rows and 1/√N as its scale, so it is drawn from that law: no pass over the data is needed.
    A penalty λ shrinks what W* does of the modes of metric and features, h² and s, by h² s / (h² s + λ).
    """
    factor, features, shrink = stand.factor, outlook.whitener.root, torch.ones(())
    basis = None if outlook.whitener.eigen is None else outlook.whitener.eigen[1]
    if outlook.weight_decay > 0:
        values, basis = torch.linalg.eigh(outlook.moments.covariance)
        unseen = len(values) - outlook.whitener.rank
        values, basis = values[unseen:].clamp_min(0), basis[:, unseen:]
        features, size = basis * values.sqrt(), factor.values.square()[:, None] * values
        shrink = size / (size + outlook.weight_decay)
    used = factor.left.T @ stand.metric @ stand.jacobian @ outlook.weight @ features
    root, _ = psd_factor(outlook.score_covariance(stand))
    half = (root.T / root.norm(dim=1)) @ root  # symmetric
    found = []
    for _ in range(SHUFFLES):
        # drawn in the coordinates of outputs and features: the sign of a singular vector must not change the result
        columns = used.shape[1] if basis is None else len(basis)
        drawn = torch.randn(len(factor.left), columns, generator=generator, dtype=torch.float64)
        noise = half @ factor.left.T @ (drawn if basis is None else drawn @ basis) * shrink
        found.append(((used * noise).sum() / (used.norm() * noise.norm())).item())
    return tuple(found)


def _random_weight(layer: Layer, weight: Tensor, generator: torch.Generator) -> Tensor:
    """A Gaussian weight of the same Frobenius norm, with the blocks of the layer's groups."""
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    drawn = as_matrix(layer, as_weight(layer, drawn))
    return drawn * (weight.norm() / drawn.norm())


def _sweep_replaced(
    run: Runner, data: Iterable[Batch], layer: Layer, lie: Arrangement, weight: Tensor
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
            rows, outputs = counted(rows, len(outputs), kept), counted(outputs, len(outputs), kept)
            if not len(outputs):
                continue
            if run.layout.repeated:
                outputs = outputs.repeat_interleave(len(rows) // len(outputs), 0)
            side, shift = outside.centre(outputs)
            companion = Companion.of(side, shift)
            outside.add(side, companion)
            stream.add(rows, companion)
    stream.flush()
    outside.flush()
    features, made = (run.processes.merged(part.total) for part in (stream, outside))
    assert features is not None
    assert made is not None
    return features.to("cpu"), made.to("cpu")


def null_alignments(
    reports: dict[str, LayerReport],
    run: Runner,
    data: Iterable[Batch],
    taps: dict[str, Layer],
    found: Sweep,
    risk: Risk,
    output: OperatingPoint,
    weight_decay: float,
    draws: int,
    seed: int,
) -> dict[str, LayerReport]:
    """The reports with nulls at the average tail filled in: ``shuffled labels`` and ``re-drawn weights``."""
    generator = torch.Generator().manual_seed(seed)
    filled = dict(reports)
    for name, report in reports.items():
        if "average" not in report.views:
            continue
        outlook = Outlook.of(taps[name], name, found, risk, output, weight_decay)
        shuffled = _shuffled(outlook, outlook.average(), generator)
        redrawn = []
        for _ in range(draws):
            weight = _random_weight(taps[name], outlook.weight, generator)
            moments, outside = _sweep_replaced(run, data, taps[name], found.seen[name].lie, weight)
            other = replace(outlook, weight=weight)
            stand = other.average(moments.cross_covariance, outside.covariance, outside.mean)
            redrawn.append(other.fit(stand).alignment)
        nulls = {"shuffled labels": shuffled, "re-drawn weights": tuple(redrawn)}
        view = replace(report.views["average"], nulls=nulls)
        filled[name] = replace(report, views={**report.views, "average": view})
    return filled
