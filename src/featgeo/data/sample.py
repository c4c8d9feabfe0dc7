"""A few rows of a stream, spread evenly over its batches: enough to see how much they vary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KEPT = 256  # most samples kept; a standard error from them is known to about 5 %
TOGETHER = 2 * KEPT  # by all processes
EACH = 8  # fewest of a batch, while batches remain to be left out instead


@dataclass(frozen=True)
class Sample:
    """Some rows of the data, the same of every stream; on the CPU.

    Attributes:
        rows: stream -> rows x (m, k).
        companion: rows u (m, p).
        batch: which batch each is of (m,).
        weight: how many samples of the data each stands for (m,), float64.
    """

    rows: dict[str, Tensor]
    companion: Tensor
    batch: Tensor
    weight: Tensor

    @classmethod
    def joined(cls, parts: list[Sample]) -> Sample:
        """Samples of disjoint data as one of them all."""
        shift, batches = 0, []
        for part in parts:
            batches.append(part.batch + shift)
            shift = int(batches[-1].max()) + 1
        return cls(
            {
                name: torch.cat([part.rows[name] for part in parts])
                for name in parts[0].rows
                if all(name in part.rows for part in parts)
            },
            torch.cat([part.companion for part in parts]),
            torch.cat(batches),
            torch.cat([part.weight for part in parts]),
        )


class Keeper:
    """Keeps rows as batches go by: all of the first, fewer of each as more come, in the end of every so many batches.

    Args:
        limit: most samples that are kept.
    """

    def __init__(self, limit: int = KEPT) -> None:
        self.limit = self.each = max(limit, EACH)
        self.stride = 1
        self.batches = self.samples = self.held = 0
        self._kept: list[tuple[int, Tensor, dict[str, Tensor]]] = []

    @property
    def due(self) -> bool:
        """Whether rows of the batch under way are kept."""
        return self.batches % self.stride == 0

    def pick(self, rows: Tensor, shift: Tensor | None = None) -> Tensor | None:
        """Of the batch under way, the rows to keep, plus a shift; a copy, or the whole batch would stay in memory."""
        if not self.due:
            return None
        step = max(1, rows.shape[0] // self.each)
        rows = rows[: step * self.each : step]
        return rows.clone() if shift is None else rows + shift

    def close(self, companion: Tensor, picked: dict[str, Tensor | None]) -> None:
        """End a batch with its rows u (m, p) and the rows that were picked of the streams."""
        side = self.pick(companion)
        if side is not None:
            kept = {
                name: rows for name, rows in picked.items() if rows is not None and len(rows) == len(side)
            }
            self._kept.append((self.batches, side, kept))
            self.held += len(side)
        self.batches, self.samples = self.batches + 1, self.samples + len(companion)
        while self.held > self.limit:
            self._thin()

    def _thin(self) -> None:
        if self.each > EACH:
            self.each = max(EACH, self.each // 2)
            self._kept = [
                (batch, side[::2].clone(), {name: rows[::2].clone() for name, rows in kept.items()})
                for batch, side, kept in self._kept
            ]
        else:
            self.stride *= 2
            self._kept = [part for part in self._kept if part[0] % self.stride == 0]
        self.held = sum(len(side) for _, side, _ in self._kept)

    def result(self) -> Sample:
        """What is kept, of the streams that had a row for every sample kept."""
        assert self._kept, "nothing was added"
        sizes = torch.tensor([len(side) for _, side, _ in self._kept])
        names = [name for name in self._kept[0][2] if all(name in kept for _, _, kept in self._kept)]
        total = int(sizes.sum())
        return Sample(
            {name: torch.cat([kept[name] for _, _, kept in self._kept]).cpu() for name in names},
            torch.cat([side for _, side, _ in self._kept]).cpu(),
            torch.tensor([batch for batch, _, _ in self._kept]).repeat_interleave(sizes),
            torch.full((total,), self.samples / total, dtype=torch.float64),
        )
