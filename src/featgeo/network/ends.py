"""What a model puts out beside what was wanted: losses, and the companion rows of every layer's moments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from featgeo.data.moments import BLOCK, Companion, MomentStream
from featgeo.errors import FeatgeoError
from featgeo.theory.extent import extent
from featgeo.theory.losses import CanonicalLoss, CrossEntropy, Loss

Statistic = Callable[[Tensor, int], Tensor]  # checked targets, width -> T(y) (m, d)


class Ends:
    """Outputs and targets batch by batch; what is made of them is made of several batches at once.

    Args:
        loss: whose mean is taken.
        statistic: T(y) of checked targets.
        device: of the outputs.
        limit: how many rows may wait, more than one batch.

    Attributes:
        pair: moments of u = [g, T], outputs and statistics of the targets.
        sums: Σ loss and Σ h(y).
        sizes: rows of each batch that waits.
    """

    def __init__(self, loss: Loss, statistic: Statistic, device: torch.device, limit: int) -> None:
        self.loss, self.statistic, self.limit = loss, statistic, limit
        self.pair = MomentStream("model outputs and targets")
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)
        self.sizes: list[int] = []
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []
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
        checked = self.loss.arranged(targets.to(outputs.device, non_blocking=True), outputs.shape[1])
        for name, now, before in (("outputs", outputs, self._outputs), ("targets", checked, self._targets)):
            if before and now.shape[1:] != before[0].shape[1:]:
                shapes = f"{name} of shape {tuple(now.shape)} after {tuple(before[0].shape)}"
                raise FeatgeoError("data", shapes, "Use one kind in all batches.")
            before.append(now.clone())  # a loader or a model may write its next batch to the same memory
        self.sizes.append(len(outputs))

    def close(self) -> tuple[Tensor, Companion]:
        """End the batches that wait: their rows u (m, 2d), and these as a companion.

        The pair's own is to be counted after the layers', so that the first that sees NaN is named.
        """
        outputs, checked = torch.cat(self._outputs), torch.cat(self._targets)
        width = outputs.shape[1]
        self._extents.append((extent(checked), checked.is_floating_point(), width))
        if not checked.is_floating_point() and isinstance(self.loss, CrossEntropy):
            checked = checked.clamp(
                0, width - 1
            )  # those out of range are told later, and must not stop a device
        self.sums[0] += self.loss.values(outputs, checked).sum(dtype=torch.float64)
        if isinstance(self.loss, CanonicalLoss):
            self.sums[1] += self.loss.base(checked).sum()
        both = torch.cat([outputs, self.statistic(checked, width).to(outputs)], dim=1)
        side, shift = self.pair.centre(both, here=True)
        companion = Companion.of(side, shift)
        self.pair.wait(side, self.sizes)
        if len(self._extents) == BLOCK:
            self.judge()
        for waiting in (self.sizes, self._outputs, self._targets):
            waiting.clear()
        return both, companion

    def judge(self) -> None:
        """Whether the targets suited the loss; asked once for many batches, as it waits for the device."""
        told, self._extents = self._extents, []
        values = torch.stack([part[0] for part in told]).tolist() if told else []
        for (low, high, off), (_, real, width) in zip(values, told, strict=True):
            self.loss.judge(low, high, off, real, width)
