"""What a layer sees and makes at every position, one row each: f with z = W f + b, for Linear layers and convolutions.

Here positions count as samples ("expand" in Eschenhagen et al. 2023 on K-FAC), since thin layers act at each of them.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from featgeo.apply.factor import Dense
from featgeo.network.features import position_rows

ENTRIES = 1 << 24  # most entries of unfolded patches at a time


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


def per_sample(layer: Dense, z: Tensor) -> Tensor:
    """A layer's output or a gradient with respect to it as (m, positions, n)."""
    if isinstance(layer, nn.Linear):
        return z[:, None] if z.ndim == 2 else z.flatten(1, -2)
    return z.flatten(2).transpose(1, 2)
