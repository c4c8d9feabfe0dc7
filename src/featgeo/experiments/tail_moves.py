"""What an operating point predicts that can be measured: small moves towards W*, and cuts of a layer's rank.

A move W → W + t (W* - W), with the mean output kept, changes the quadratic by -(2t - t²) gap_weight. A cut keeps the r
leading principal directions of a layer's output z; with R the metric's factor at the operating point the quadratic
alone says ½‖R (W_r - W) Σ^½‖² if the network is at its optimum, where the gradient vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from featgeo.experiments.architectures import loss_and_accuracy
from featgeo.experiments.neighbours import Standpoint
from featgeo.network.layers import Layer, Projection

FRACTION = 0.05  # of the way to W*, and no further than this share of the spread of the layer's own output
RANKS = (1, 2, 4, 8)


@contextmanager
def _changed(point: Standpoint, change: Tensor) -> Iterator[None]:
    """The layer with its weight changed by (n, k), mean output kept; afterwards as it was."""
    layer: Layer = point.layer
    assert not isinstance(layer, Projection)
    assert layer.bias is not None
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    try:
        with torch.no_grad():
            layer.weight += change.reshape(weight.shape).to(weight)
            layer.bias -= (change @ point.mean).to(bias)
        yield
    finally:
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


def moves(
    model: torch.nn.Module,
    inputs: Tensor,
    labels: Tensor,
    points: dict[str, Standpoint],
    generator: torch.Generator,
) -> list[dict[str, float | str]]:
    """Each layer moved towards each standpoint's W*, and as far (in Σ_f) in a random direction."""
    loss, rows = loss_and_accuracy(model, inputs, labels)[0], []
    for name, point in points.items():
        for at in point.jacobians:
            if math.isnan(point.alignment(at)):
                continue
            change = point.optimal_weight(at) - point.weight
            own, whole = (point.weight @ point.root).norm().item(), (change @ point.root).norm().item()
            step = FRACTION * min(1.0, own / whole)
            change = step * change
            noise = torch.randn(change.shape, generator=generator, dtype=torch.float64)
            length = (change @ point.root).norm() / (noise @ point.root).norm()
            measured = []
            for moved in (change, length * noise):
                with _changed(point, moved):
                    measured.append(loss_and_accuracy(model, inputs, labels)[0] - loss)
            predicted = -(2 * step - step**2) * point.gap(at)
            row: dict[str, float | str] = {"layer": name, "at": at, "predicted": predicted}
            rows.append({**row, "measured": measured[0], "random": measured[1]})
    return rows


def cuts(
    model: torch.nn.Module, inputs: Tensor, labels: Tensor, points: dict[str, Standpoint]
) -> list[dict[str, float | str]]:
    """Each hidden layer cut to each rank: measured increase of the loss beside what each standpoint predicts."""
    loss, rows = loss_and_accuracy(model, inputs, labels)[0], []
    for name, point in points.items():
        spread = point.weight @ point.root
        left, values, _ = torch.linalg.svd(spread, full_matrices=False)
        for rank in RANKS:
            if rank >= int((values > 1e-6 * values.max()).sum()) or point.is_output:
                continue
            change = left[:, :rank] @ left[:, :rank].T @ point.weight - point.weight
            with _changed(point, change):
                measured = loss_and_accuracy(model, inputs, labels)[0] - loss
            dropped = (values[rank:].square().sum() / values.square().sum()).item()
            row: dict[str, float | str] = {"layer": name, "rank": float(rank), "measured": measured}
            row["variance"] = dropped
            for at in point.jacobians:
                if math.isnan(point.alignment(at)):
                    continue
                moved = point.factor(at) @ change @ point.root
                row[at] = 0.5 * moved.square().sum().item()
            rows.append(row)
    return rows
