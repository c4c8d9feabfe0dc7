"""How outputs and targets become rows: one per sample ("reduce"), or one per labelled position ("expand")."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from featgeo.data.inputs import Inputs
from featgeo.errors import FeatgeoError
from featgeo.network.taps import as_rows

Positions = Literal["reduce", "expand"]


@dataclass(frozen=True)
class Layout:
    """Outputs (m, ...) and targets (m, ...) as rows.

    Attributes:
        expand: whether positions are rows.
        channels: dimension of the outputs that holds their entries, where positions are rows: 1 or -1.
        repeated: whether one output and one target per sample serve all positions of a layer.
        ignored: the label of rows that do not count.
        shifted: whether the label of a position is the next one's, as Hugging Face's causal language models take them.
    """

    expand: bool = False
    channels: int = -1
    repeated: bool = False
    ignored: int | None = None
    shifted: bool = False

    def outputs(self, outputs: object) -> Tensor:
        """Rows (r, d), the positions of a sample in a row."""
        if not self.expand or not isinstance(outputs, Tensor) or outputs.ndim < 3:
            return as_rows(outputs)
        return outputs.movedim(self.channels, -1).flatten(0, -2)

    def targets(self, targets: Tensor) -> Tensor:
        """Targets (r, ...) of these rows."""
        if not self.expand or self.repeated:
            return targets
        if self.shifted:
            assert self.ignored is not None
            targets = F.pad(targets[:, 1:], (0, 1), value=self.ignored)
        if targets.is_floating_point() and targets.ndim > 2:
            return targets.movedim(self.channels, -1).flatten(0, -2)
        return targets.flatten()

    def counting(self, targets: Tensor) -> Tensor:
        """Which output rows of a batch have a target that counts, (m, positions)."""
        rows = self.targets(targets)
        if self.ignored is None or rows.is_floating_point() or rows.ndim != 1:
            return rows.new_ones(len(targets), len(rows) // max(1, len(targets)), dtype=torch.bool)
        return (rows != self.ignored).unflatten(0, (len(targets), -1))

    def labelled(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Targets (r', ...) of the output rows (r, d) that count, and their numbers (r',): None where all do.

        One label per sample that lies on an accelerator is not looked at, as that would wait for the device; an
        ignored one is then found with the labels that are out of range.

        Raises:
            FeatgeoError: where there is not one target for every row.
        """
        rows = self.targets(targets)
        if rows.shape[0] != outputs.shape[0]:
            raise FeatgeoError(
                "data", f"{len(rows)} targets for {len(outputs)} output rows", "One target each."
            )
        if self.ignored is None or rows.is_floating_point() or rows.ndim != 1:
            return rows, None
        if rows.device.type != "cpu" and not self.expand:
            return rows, None
        if not len(rows) or rows.min().item() > self.ignored:  # quicker than to look for it
            return rows, None
        keep = (rows != self.ignored).nonzero()[:, 0]
        return (rows, None) if len(keep) == len(rows) else (rows[keep], keep)


def those(rows: Tensor, kept: Tensor | None) -> Tensor:
    """The rows with these numbers; all where there are none."""
    return rows if kept is None else rows[kept.to(rows.device)]


def counted(rows: Tensor, samples: int, kept: Tensor | None) -> Tensor:
    """Of rows (samples * positions, k), sample after sample, those of the samples that count (r',), if not all do."""
    if kept is None:
        return rows
    return rows.unflatten(0, (samples, -1))[kept.to(rows.device)].flatten(0, 1)


def layout_of(
    output: tuple[int, ...],
    targets: Tensor,
    positions: Positions | None,
    ignored: int | None = None,
    channels: int | None = None,
) -> Layout:
    """Chosen by the shapes, unless asked for: one label per position makes every position a row.

    Args:
        output: shape of the model's output for one sample.
        targets: of a batch (m, ...).
        positions: what the caller asks for.
        ignored: the label of rows that do not count.
        channels: the dimension of the outputs (m, ...) that holds their entries, 1 or -1, where the last layer shows
            it; otherwise torch's, 1, is tried first for images, and -1 for sequences.

    Raises:
        FeatgeoError: for "expand" where the outputs have no positions, and for positions that share one label.
    """
    if positions not in (None, "reduce", "expand"):
        raise FeatgeoError("positions", f"{positions!r}", "Pass 'reduce', 'expand' or None.")
    if positions == "reduce":
        return Layout(ignored=ignored)
    wanted = tuple(targets.shape[1:])
    if len(output) >= 2:
        soft = targets.is_floating_point()
        last, first = (output, output) if soft else (output[:-1], output[1:])
        order = [(1, first), (-1, last)]
        if (channels or (1 if len(output) > 2 else -1)) == -1:
            order.reverse()
        for place, shape in order:
            if wanted == shape:
                return Layout(True, place, ignored=ignored)
    if positions == "expand":
        if len(output) < 2 and not wanted:
            return Layout(True, repeated=True, ignored=ignored)
        raise FeatgeoError(
            "positions",
            f"'expand' for outputs {output} and targets {wanted} of one sample",
            "It needs one target per position of the outputs, or one target and one output per sample.",
        )
    if ignored is not None and not wanted and sum(size > 1 for size in output) > 1:
        raise FeatgeoError(
            "model",
            f"outputs {output} and one label for a sample",
            "Let forward= return the scores of the classes only (of one position, or their mean), or pass a label per "
            "position.",
        )
    return Layout(ignored=ignored)


def causal(layout: Layout, inputs: Inputs, targets: Tensor) -> Layout:
    """The layout with labels shifted by one where the labels (m, positions) in a mapping are its own token numbers.

    Position by position they would ask the model to copy what it reads. Causal language models are given such labels,
    and their own loss compares each position with the label of the next.
    """
    if not layout.expand or layout.ignored is None or targets.ndim != 2 or not isinstance(inputs, Mapping):
        return layout
    counted = targets != layout.ignored
    own = any(
        isinstance(part, Tensor) and part.shape == targets.shape and bool((part == targets)[counted].all())
        for part in inputs.values()
    )
    return replace(layout, shifted=own and bool(counted.any()))
