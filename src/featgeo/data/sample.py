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
        self._parts: list[tuple[int, range]] = []  # batch, and where its rows lie
        self._companion: Tensor | None = None  # (limit, p), of which the first are held
        self._rows: dict[str, Tensor] = {}  # (limit, k), of the streams that had rows in every part

    @property
    def held(self) -> int:
        """How many samples are kept."""
        return sum(len(places) for _, places in self._parts)

    def add(self, sizes: list[int], companion: Tensor, streams: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Batches that come together.

        Args:
            sizes: rows of each.
            companion: their rows u (m, p), below one another.
            streams: by name, rows x - shift (m, k) of these samples, and the shift (k,).
        """
        held = start = self.held
        before = len(self._parts)  # of which nothing need be moved
        for size in sizes:  # the new rows' places are as if they lay behind those that are held
            if self.batches % self.stride == 0:
                step = max(1, size // self.each)
                self._parts.append((self.batches, range(start, start + min(size, step * self.each), step)))
                while self.held > self.limit:
                    self._thin()
                    before = 0
            start, self.batches, self.samples = start + size, self.batches + 1, self.samples + size
        if before == len(self._parts):
            return
        if self._companion is None:
            self._companion = companion.new_empty(self.limit, companion.shape[1])
            self._rows = {
                name: rows.new_empty(self.limit, rows.shape[1]) for name, (rows, _) in streams.items()
            }
        if self._parts[-1][1].start >= held:
            self._rows = {name: memory for name, memory in self._rows.items() if name in streams}
        start = held if before else 0
        for i in range(before, len(self._parts)):
            batch, part = self._parts[i]
            self._parts[i] = batch, range(start, start + len(part))
            self._bring(part, slice(start, start + len(part)), held, companion, streams)
            start += len(part)

    def _bring(
        self,
        part: range,
        room: slice,
        held: int,
        companion: Tensor,
        streams: dict[str, tuple[Tensor, Tensor]],
    ) -> None:
        """Rows to their room: those that are held move up, the others are copied from what has come."""
        assert self._companion is not None
        if part.start < held:
            if part.start > room.start or part.step > 1:
                for memory in (self._companion, *self._rows.values()):
                    memory[room] = memory[part.start : part.stop : part.step].clone()
            return
        place = slice(part.start - held, part.stop - held, part.step)
        self._companion[room] = companion[place]
        for name, memory in self._rows.items():
            rows, shift = streams[name]
            torch.add(rows[place], shift, out=memory[room])

    def _thin(self) -> None:
        if self.each > EACH:
            self.each = max(EACH, self.each // 2)
            self._parts = [(batch, places[::2]) for batch, places in self._parts]
        else:
            self.stride *= 2
            self._parts = [part for part in self._parts if part[0] % self.stride == 0]

    def result(self) -> Sample:
        """What is kept, of the streams that had a row for every sample kept."""
        assert self._companion is not None, "nothing was added"
        held = self.held
        return Sample(
            {name: memory[:held].cpu().clone() for name, memory in self._rows.items()},
            self._companion[:held].cpu().clone(),
            torch.tensor([batch for batch, places in self._parts for _ in places]),
            torch.full((held,), self.samples / held, dtype=torch.float64),
        )
