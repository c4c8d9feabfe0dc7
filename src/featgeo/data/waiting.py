"""Memory for rows that wait to be multiplied together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ROWS = 2048  # most of one product


def rows_at_once(widths: Sequence[int]) -> int:
    """How many rows of features so wide may wait: in float32 at most 1.5 times the memory of their moments."""
    return min(ROWS, 3 * sum(width**2 for width in widths) // max(1, sum(widths)))


class Rows:
    """Rows of several batches below one another, ``count`` of them, in memory that is used again.

    Args:
        limit: for how many there is to be memory, more where more come.
        width: k, where the memory is to be taken now: taken amid a forward pass it would break up that of the next.
        dtype: of the rows.
        device: of the rows.
    """

    def __init__(
        self,
        limit: int = 0,
        width: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.limit, self.count = limit, 0
        self._memory = torch.empty(limit, width, dtype=dtype, device=device)
        self._room: Tensor | None = None  # where the next rows may have been written

    @property
    def all(self) -> Tensor:
        """(count, ...)."""
        return self._memory[: self.count]

    @property
    def shape(self) -> torch.Size:
        """Of one row."""
        return self._memory.shape[1:]

    def room(self, x: Tensor) -> Tensor:
        """Memory for rows like these (m, ...), behind the others."""
        stop, memory = self.count + x.shape[0], self._memory
        if stop > memory.shape[0] or memory.dtype != x.dtype or self.shape != x.shape[1:]:
            memory = x.new_empty(max(self.limit, stop), *x.shape[1:])
            if self.count:
                memory[: self.count] = self.all
            self._memory = memory
        self._room = self._memory[self.count : stop]
        return self._room

    def put(self, rows: Tensor) -> None:
        """Add rows: those that were written to :meth:`room`, or others."""
        room, self._room = self._room, None
        if room is None or room.shape != rows.shape or rows.data_ptr() != room.data_ptr():
            self.room(rows).copy_(rows)
            self._room = None
        self.count += rows.shape[0]

    def clear(self) -> None:
        """Begin again."""
        self.count = 0
