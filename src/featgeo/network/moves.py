"""Whether a prediction comes true: the loss after a small move of a layer's weights towards W*, beside what is said.

A move W → W + t (W* - W) that keeps the layer's mean output changes the quadratic by -(2t - t²) gap_weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from featgeo.data.batches import Batch
from featgeo.network.layers import SPATIAL, as_matrix, respond
from featgeo.network.look import Outlook
from featgeo.network.run import Runner, labelled_rows
from featgeo.network.taps import replacing
from featgeo.network.views import View
from featgeo.theory.losses import Loss

FRACTION = 0.05  # of the way to W*, and no further than this share of the spread of the layer's own output


def mean_loss(run: Runner, loss: Loss, batches: list[Batch]) -> float:
    """E[loss] of the model as it is, on some batches."""
    total, count = 0.0, 0
    for inputs, targets in batches:
        outputs = run.rows(run(inputs))
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        rows, checked = labelled_rows(run, loss, outputs, targets)
        total += loss.values(rows, checked).sum(dtype=torch.float64).item()
        count += len(rows)
    return total / count


def measured_step(
    run: Runner, loss: Loss, batches: list[Batch], outlook: Outlook, view: View, before: float
) -> tuple[float, float] | None:
    """Change of the loss that a small move towards W* is predicted to make, and that it makes; None without a W*.

    Args:
        run: the model.
        loss: the loss.
        batches: the samples.
        outlook: of the layer.
        view: whose W* is moved to.
        before: mean loss of the model as it is on these samples.
    """
    layer = outlook.layer
    if view.optimal_weight is None or not view.gap_weight > 0 or view.alignment != view.alignment:
        return None
    change = as_matrix(layer, view.optimal_weight.to("cpu", torch.float64)) - outlook.weight
    own, whole = ((matrix @ outlook.whitener.root).norm().item() for matrix in (outlook.weight, change))
    step = FRACTION * min(1.0, own / whole) if whole > 0 else 0.0
    change = (step * change).to(layer.weight)
    shift = (change @ outlook.moments.mean.to(change)).detach()
    shift = shift.reshape(-1, *(1,) * len(layer.kernel_size)) if isinstance(layer, SPATIAL) else shift

    def moved(x: Tensor, output: Tensor) -> Tensor:
        return output + respond(layer, x, change, output) - shift

    with replacing(layer, moved):
        after = mean_loss(run, loss, batches)
    return -(2 * step - step**2) * view.gap_weight, after - before
