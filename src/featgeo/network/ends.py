"""What a model puts out beside what was wanted: losses, and the companion rows of every layer's moments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from featgeo.data.moments import BLOCK, Companion, MomentStream
from featgeo.data.waiting import Rows
from featgeo.errors import FeatgeoError
from featgeo.theory.extent import extent
from featgeo.theory.losses import CanonicalLoss, CrossEntropy, Loss

Statistic = Callable[[Tensor, int], Tensor]  # checked targets, width -> T(y) (m, d)

NUMBERS = 2**17  # of outputs and statistics that may wait: half a mebibyte in float32
TOLD = 16  # times that targets are counted before it is asked whether they suit the loss


class Ends:
    """Outputs and targets batch by batch; what is made of them is made of several batches at once.

    The companion of the layers' features is made as often as these are counted. The rest waits longer, for
    :data:`NUMBERS` numbers: between the layers' products, that leave nothing in the caches, every step is dear.

    Args:
        loss: whose mean is taken.
        statistic: T(y) of checked targets.
        device: of the outputs.
        limit: how many rows of features may wait, more than one batch.

    Attributes:
        pair: moments of u = [g, T], outputs and statistics of the targets.
        sums: Σ loss and Σ h(y).
        sizes: rows of each batch whose features wait.
    """

    def __init__(self, loss: Loss, statistic: Statistic, device: torch.device, limit: int) -> None:
        self.loss, self.statistic, self.limit = loss, statistic, limit
        self.pair = MomentStream("model outputs and targets")
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.sizes: list[int] = []
        self._outputs, self._targets = Rows(), Rows()
        self._batches = 0  # of which rows wait in pair: those are closed
        self._extents: list[tuple[Tensor, bool, int]] = []

    @property
    def full(self) -> bool:
        """Whether one more batch like the last would be too many."""
        return bool(self.sizes) and (
            sum(self.sizes) + self.sizes[-1] > self.limit or len(self.sizes) == BLOCK
        )

    def wait(self, outputs: Tensor, targets: Tensor) -> None:
        """Let the outputs (m, d) of a batch wait, with the targets of each.

        Raises:
            FeatgeoError: where the targets do not suit the loss, or not those before.
        """
        width = outputs.shape[1]
        checked = self.loss.arranged(targets.to(outputs.device, non_blocking=True), width)
        for name, now, before in (("outputs", outputs, self._outputs), ("targets", checked, self._targets)):
            if not before.count:
                before.limit = self.limit + NUMBERS // (2 * width)
            elif now.shape[1:] != before.shape:
                found = f"{name} of shape {tuple(now.shape[1:])} after {tuple(before.shape)} for a sample"
                raise FeatgeoError("data", found, "Use one kind in all batches.")
            before.put(now)  # a loader or a model may write its next batch to the same memory
        self.sizes.append(outputs.shape[0])

    def close(self) -> tuple[Tensor, Companion]:
        """End the batches whose features wait: their rows u (m, 2d), and these as a companion."""
        outputs, targets = (waiting.all[self.pair.rows.count :] for waiting in (self._outputs, self._targets))
        statistic = self.statistic(self._within(targets), outputs.shape[1])
        both = torch.cat([outputs, statistic.to(outputs)], dim=1)
        self.pair.rows.limit = self._outputs.limit
        side, shift = self.pair.centre(both, here=True)
        self.pair.wait(side, self.sizes)
        self._batches += len(self.sizes)
        self.sizes.clear()
        return both, Companion.of(side, shift)

    def _within(self, checked: Tensor) -> Tensor:
        """Labels in range: those that are not are told later, and must not stop a device."""
        if checked.is_floating_point() or not isinstance(self.loss, CrossEntropy):
            return checked
        return checked.clamp(0, self._outputs.all.shape[1] - 1)

    @property
    def due(self) -> bool:
        """Whether what is closed is enough to be counted."""
        return self._batches >= BLOCK or self.pair.rows.all.numel() >= NUMBERS

    def tally(self) -> None:
        """Count what is closed, while no features wait: after the layers, so that the first that sees NaN is named."""
        if not self._batches:
            return
        assert not self.sizes
        outputs, checked = self._outputs.all, self._targets.all
        self._extents.append((extent(checked), checked.is_floating_point(), outputs.shape[1]))
        checked = self._within(checked)
        self.sums[0] += self.loss.values(outputs, checked).sum(dtype=torch.float64)
        if isinstance(self.loss, CanonicalLoss):
            self.sums[1] += self.loss.base(checked).sum()
        self.pair.count(Companion.of(self.pair.rows.all, self.pair.shift))
        for waiting in (self._outputs, self._targets):
            waiting.clear()
        self._batches = 0
        if len(self._extents) == TOLD:
            self.judge()

    def judge(self) -> None:
        """Whether the targets suited the loss; asked once for many batches, as it waits for the device."""
        told, self._extents = self._extents, []
        values = torch.stack([part[0] for part in told]).tolist() if told else []
        for (low, high, off), (_, real, width) in zip(values, told, strict=True):
            self.loss.judge(low, high, off, real, width)
