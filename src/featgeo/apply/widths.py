"""suggest_widths(): how much of each layer's width the loss has a use for."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from featgeo.apply.plan import METRICS, look, working_copy
from featgeo.data.batches import Batches
from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.network.analyze import analyze
from featgeo.network.keep import undisturbed
from featgeo.network.run import Forward
from featgeo.network.select import Layers
from featgeo.theory.named import LossLike, resolve_loss

if TYPE_CHECKING:
    import pandas as pd


def suggest_widths(
    model: nn.Module,
    data: object,
    loss: LossLike = "cross_entropy",
    *,
    tolerance: float = 0.01,
    layers: Layers = None,
    forward: Forward | None = None,
    samples: int = 1024,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """How wide each layer need be, before retraining or as ranks for :func:`featgeo.compress`.

    Two answers, which are about different networks. ``width`` is about this one: the fewest directions of the layer's
    pre-activation that it can be cut to, alone, without refitting, at a predicted increase of the loss of no more than
    `tolerance` of its value. ``modes`` is about the best layer for these features: the modes of B that make up 99 % of
    the gain available (:func:`featgeo.analyze`, average tail). A nonlinear layer of exactly that many neurons is not
    promised to do as well; where both are small against ``neurons`` the layer is wider than the task asks for.

    Args:
        model: any module that maps a batch of inputs to outputs (m, d); left as it was.
        data: a re-iterable of (inputs, targets), or a pair of tensors or arrays.
        loss: a name, a torch.nn loss, or a callable (outputs, targets) -> per-sample values.
        tolerance: allowed predicted increase of the loss, as a share of the loss.
        layers: names, patterns, classes or predicates of the layers to consider; all by default.
        forward: called with the model and the inputs of a batch, returns the outputs; as for :func:`featgeo.analyze`.
        samples: about how many samples derivatives are taken on.
        batch_size: for a pair of tensors.
        seed: of the sketch that stands for the outputs where there are more than 32.
        progress: whether to show progress bars.

    Returns:
        A frame with a row a layer: neurons, inputs, width, modes (missing where analyze skips the layer) and the
        predicted increase of the loss at that width, in loss units.

    Raises:
        FeatgeoError: where no layer can be cut, or model, data and loss do not suit each other.
    """
    import pandas as pd  # heavy: only where a frame is wanted

    if not 0 < tolerance < 1:
        raise FeatgeoError("tolerance", f"{tolerance}", "It is a share of the loss, in (0, 1).")
    chosen, batches = resolve_loss(loss), Batches(data, batch_size)
    work = working_copy(model)
    with undisturbed(work):
        torch.manual_seed(seed)
        plan, _ = look(work, batches, chosen, layers, samples, METRICS[:1], progress, forward)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatgeoWarning)  # about W* and locality, which are not asked for here
        report = analyze(work, batches.data, chosen, layers=list(plan.layers), forward=forward)
    outlook, rows = plan.outlooks["near"], []
    allowed = tolerance * abs(plan.found.loss)
    for name, layer in plan.layers.items():
        curve = outlook.curves[name]
        above = (curve > allowed).nonzero()
        width = min(len(curve) - 1, int(above.max()) + 1 if len(above) else 1)
        outputs, inputs = layer.weight.flatten(1).shape
        view = report[name].views.get("average")
        modes = view.rank(0.99) if view is not None else None
        rows.append((name, outputs, inputs, width, modes, curve[width].item()))
    columns = ["layer", "neurons", "inputs", "width", "modes", "predicted_increase"]
    frame = pd.DataFrame(rows, columns=columns).set_index("layer")
    return frame.astype({"modes": "Int64"})
