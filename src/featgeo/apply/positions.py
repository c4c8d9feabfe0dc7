"""What a layer sees and makes at every position, one row each: f with z = W f + b, for Linear layers and convolutions.

Here positions count as samples ("expand" in Eschenhagen et al. 2023 on K-FAC), since thin layers act at each of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from featgeo.apply.factor import Dense
from featgeo.data.batches import Batches
from featgeo.network.features import position_rows
from featgeo.network.layers import SPATIAL, Layer
from featgeo.network.layout import Layout, causal, layout_of
from featgeo.network.run import Runner
from featgeo.network.survey import survey

ENTRIES = 1 << 24  # most entries of unfolded patches at a time


def layout_in(
    run: Runner, layers: Mapping[str, Layer], data: Batches, ignored: int | None, compared: bool = True
) -> Layout:
    """How outputs and targets become rows, as three samples of the first batch show.

    Args:
        run: the model.
        layers: by name.
        data: the batches.
        ignored: the label of rows that do not count.
        compared: whether a loss compares outputs and targets; then outputs at many positions for one label are refused.
    """
    first = data.peek()
    if first is None:
        return Layout(ignored=ignored)
    shown = survey(run, {**layers}, first[0])
    layout = layout_of(shown.output, first[1], None, ignored if compared else None, shown.channels)
    return causal(replace(layout, ignored=ignored), *first)


def rows_of(layer: Dense, x: Tensor, keep: Tensor | None = None) -> Iterator[tuple[Tensor, slice]]:
    """Feature rows (·, k) of a batch in blocks of bounded size, and which samples they are of.

    Args:
        layer: the layer.
        x: its input, samples first.
        keep: (m, positions), which positions are no padding; it applies where the layer has these positions.
    """
    taps = layer.weight[0].numel() * max(1, x[0].numel() // layer.weight.shape[1])
    step = max(1, ENTRIES // taps)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        yield kept_rows(position_rows(layer, x[part]), None if keep is None else keep[part]), part


def kept_rows(rows: Tensor, keep: Tensor | None) -> Tensor:
    """Rows (·, k) of (m, positions, k), those of padding left out where the mask has these positions."""
    return rows.flatten(0, 1) if keep is None or keep.shape != rows.shape[:2] else rows[keep]


def per_sample(layer: Layer, z: Tensor) -> Tensor:
    """A layer's input, its output or a gradient with respect to that as (m, positions, channels)."""
    if isinstance(layer, SPATIAL):
        return z.flatten(2).transpose(1, 2)
    return z[:, None] if z.ndim == 2 else z.flatten(1, -2)


def same(layer: Layer, made: Tensor, outputs: Tensor) -> bool:
    """Whether a layer's output is the model's (r, d), row by row; NaN is told of elsewhere."""
    rows = per_sample(layer, made).flatten(0, 1)
    return rows.shape == outputs.shape and torch.allclose(rows.to(outputs), outputs, 0.0, 0.0, equal_nan=True)
