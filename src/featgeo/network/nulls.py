"""Alignments that mean nothing: what a layer would show with shuffled labels, or with weights drawn anew."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from featgeo.data.batches import Batches
from featgeo.network.layers import Layer, as_matrix, as_weight
from featgeo.network.look import Outlook, Stand
from featgeo.network.sweep import Runner, Sweep, sweep_replaced
from featgeo.network.views import LayerReport
from featgeo.theory.bayes import OperatingPoint
from featgeo.theory.linalg import psd_factor
from featgeo.theory.risk import Risk

SHUFFLES = 20


def _shuffled(outlook: Outlook, stand: Stand, generator: torch.Generator) -> tuple[float, ...]:
    """Alignments with W* of labels that are independent of the features.

    Shuffling leaves Cov(T) and Cov(f) as they are and makes the whitened cross-covariance a Gaussian matrix with the
    score covariance on its rows and 1/√N as its scale, so it is drawn from that law: no pass over the data is needed.
    A penalty λ shrinks what W* does of the modes of metric and features, h² and s, by h² s / (h² s + λ).
    """
    factor, features, shrink = stand.factor, outlook.whitener.root, torch.ones(())
    if outlook.weight_decay > 0:
        values, basis = torch.linalg.eigh(outlook.moments.covariance)
        unseen = len(values) - outlook.whitener.rank
        values, basis = values[unseen:].clamp_min(0), basis[:, unseen:]
        features, size = basis * values.sqrt(), factor.values.square()[:, None] * values
        shrink = size / (size + outlook.weight_decay)
    used = factor.left.T @ stand.metric @ stand.jacobian @ outlook.weight @ features
    root, _ = psd_factor(outlook.score_covariance(stand))
    found = []
    for _ in range(SHUFFLES):
        noise = (
            root.T @ torch.randn(len(root), used.shape[1], generator=generator, dtype=torch.float64) * shrink
        )
        found.append(((used * noise).sum() / (used.norm() * noise.norm())).item())
    return tuple(found)


def _random_weight(layer: Layer, weight: Tensor, generator: torch.Generator) -> Tensor:
    """A Gaussian weight of the same Frobenius norm, with the blocks of the layer's groups."""
    drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    drawn = as_matrix(layer, as_weight(layer, drawn))
    return drawn * (weight.norm() / drawn.norm())


def null_alignments(
    reports: dict[str, LayerReport],
    run: Runner,
    data: Batches,
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
            moments, outside = sweep_replaced(run, data, taps[name], found.seen[name].lie, weight)
            other = replace(outlook, weight=weight)
            stand = other.average(moments.cross_covariance, outside.covariance, outside.mean)
            redrawn.append(other.fit(stand).alignment)
        nulls = {"shuffled labels": shuffled, "re-drawn weights": tuple(redrawn)}
        view = replace(report.views["average"], nulls=nulls)
        filled[name] = replace(report, views={**report.views, "average": view})
    return filled
