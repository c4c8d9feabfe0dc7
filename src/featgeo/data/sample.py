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

    They lie in memory that is taken once: small tensors that stay would break up what forward passes use.

    Args:
        limit: most samples that are kept.
    """

    def __init__(self, limit: int = KEPT) -> None:
        self.limit = self.each = max(limit, EACH)
        self.stride = 1
        self.batches = self.samples = 0
        self._parts: list[tuple[int, int]] = []  # batch, and how many rows of it
        self._companion: Tensor | None = None  # (2 limit, p), of which the first are held
        self._rows: dict[str, Tensor] = {}  # (2 limit, k), of the streams that had rows in every part

    @property
    def held(self) -> int:
        """How many samples are kept."""
        return sum(size for _, size in self._parts)

    @property
    def due(self) -> bool:
        """Whether rows of the batch under way are kept."""
        return self.batches % self.stride == 0

    def pick(self, rows: Tensor, shift: Tensor | None = None) -> Tensor | None:
        """Of the batch under way, the rows to keep, plus a shift."""
        if not self.due:
            return None
        step = max(1, rows.shape[0] // self.each)
        rows = rows[: step * self.each : step]
        return rows if shift is None else rows + shift

    def close(self, companion: Tensor, picked: dict[str, Tensor | None]) -> None:
        """End a batch with its rows u (m, p) and the rows that were picked of the streams."""
        side = self.pick(companion)
        if side is not None:
            kept = {
                name: rows for name, rows in picked.items() if rows is not None and len(rows) == len(side)
            }
            if self._companion is None:
                self._companion = self._memory(side)
                self._rows = {name: self._memory(rows) for name, rows in kept.items()}
            self._rows = {name: memory for name, memory in self._rows.items() if name in kept}
            span = slice(self.held, self.held + len(side))
            self._companion[span] = side
            for name, memory in self._rows.items():
                memory[span] = kept[name]
            self._parts.append((self.batches, len(side)))
        self.batches, self.samples = self.batches + 1, self.samples + len(companion)
        while self.held > self.limit:
            self._thin()

    def _memory(self, rows: Tensor) -> Tensor:
        return rows.new_empty(2 * self.limit, *rows.shape[1:])

    def _thin(self) -> None:
        halve = self.each > EACH
        if halve:
            self.each = max(EACH, self.each // 2)
        else:
            self.stride *= 2
        parts, self._parts, start = self._parts, [], 0
        stay: list[int] = []
        for batch, size in parts:
            if halve or batch % self.stride == 0:
                rows = range(start, start + size, 2 if halve else 1)
                self._parts.append((batch, len(rows)))
                stay.extend(rows)
            start += size
        assert self._companion is not None
        index = torch.tensor(stay, device=self._companion.device)
        for memory in (self._companion, *self._rows.values()):
            memory[: len(stay)] = memory[index]

    def result(self) -> Sample:
        """What is kept, of the streams that had a row for every sample kept."""
        assert self._companion is not None, "nothing was added"
        held, (batches, sizes) = self.held, torch.tensor(self._parts).T
        return Sample(
            {name: memory[:held].cpu().clone() for name, memory in self._rows.items()},
            self._companion[:held].cpu().clone(),
            batches.repeat_interleave(sizes),
            torch.full((held,), self.samples / held, dtype=torch.float64),
        )
