"""Where there is a label per position: one labelled row of a model's outputs for every sample.

What is asked of derivatives is asked of that row. One backward pass then tells apart what the samples say, as where
there is one label for each; and on average over the draws, each weighted by how many labelled rows it stands for, it is
what all rows would say.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from featgeo.data.inputs import Inputs, by_sample
from featgeo.network.layout import Layout


@dataclass(frozen=True)
class Draw:
    """A labelled row of each sample of a batch.

    Attributes:
        place: which of the sample's rows (m,).
        weight: how many labelled rows it stands for (m,); where it is 0 the row is any.
        positions: how many rows a sample has.
    """

    place: Tensor
    weight: Tensor
    positions: int

    @classmethod
    def of(cls, layout: Layout, targets: Tensor, seed: int, turn: int = 0, turns: int = 1) -> Draw:
        """By chance; the same for the same seed. In so many turns no row is drawn twice."""
        counts = layout.counting(targets).cpu()
        keys = torch.rand(counts.shape, generator=torch.Generator().manual_seed(seed))
        order, labelled = keys.masked_fill(~counts, -1.0).argsort(1, descending=True), counts.sum(1)
        turned = turn % labelled.clamp_min(1)  # to a labelled one, if there is any
        place = order.gather(1, turned[:, None]).squeeze(1)
        weight = labelled / labelled.clamp(1, turns)
        return cls(place, weight.masked_fill(turn >= labelled, 0.0), counts.shape[1])

    def rows(self, rows: Tensor) -> Tensor:
        """Those drawn (m, ...) of rows (m * positions, ...), sample after sample."""
        first = torch.arange(len(self.place)) * self.positions
        return rows if self.positions == 1 else rows[(first + self.place).to(rows.device)]


def labelled_samples(layout: Layout, inputs: Inputs, targets: Tensor) -> tuple[Inputs, Tensor]:
    """The samples of a batch that have a labelled row."""
    some = layout.counting(targets).any(1)
    if some.all():
        return inputs, targets
    chosen = some.nonzero()[:, 0]
    return by_sample(inputs, itemgetter(chosen)), targets[chosen]
