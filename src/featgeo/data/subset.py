"""A random subset of the samples of a stream, of bounded size, kept while the stream passes.

Reservoir sampling (Li, 1994, algorithm L): after N samples each of them is in the subset with the same probability,
whatever the order in which they came. How many samples are passed over until one is taken is what is drawn, so that
those passed over cost nothing. A stream that fits is kept whole and in order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from operator import itemgetter

import torch
from torch import Tensor

from featgeo.data.inputs import Inputs, by_sample, joined, mapped, sample_count, shapes, tensors_of
from featgeo.data.processes import Processes

BYTES = 2**28  # of inputs that are kept at most
LEAST = 32  # samples that are kept in any case


class Subset:
    """Samples of a stream.

    Args:
        size: number of samples kept at most; fewer where they are large.
        seed: of the choice.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seen = size, 0
        self._random = random.Random(seed)
        self._largest = 1.0  # of as many uniform numbers as there are samples kept
        self._coming = -1  # number of the next sample that replaces one
        self._pieces: dict[int, tuple[Inputs, Tensor]] = {}
        self._slots: list[tuple[int, int]] = []  # piece and row, by place in the reservoir
        self._next = self._held = 0

    def offer(self, inputs: Inputs, targets: Tensor) -> None:
        """Show one batch."""
        count = len(targets)
        if not self.size:
            return
        if not self.seen:
            weight = sum(part.nbytes for part in tensors_of(inputs)) / max(1, sample_count(inputs))
            self.size = min(self.size, max(LEAST, int(BYTES / max(1.0, weight))))
        rows: list[int] = []
        for row, place in self._chosen(count):
            entry = (self._next, len(rows))
            rows.append(row)
            if place == len(self._slots):
                self._slots.append(entry)
            else:
                self._slots[place] = entry
        self.seen += count
        if not rows:
            return
        chosen = torch.tensor(rows)
        self._pieces[self._next] = _taken(inputs, targets, chosen)
        self._next += 1
        self._held += len(chosen)
        if self._held > 2 * self.size:
            self._compact()

    def _chosen(self, count: int) -> Iterator[tuple[int, int]]:
        """Rows of the next so many samples that are taken, each with its place in the reservoir."""
        stop = self.seen + count
        for number in range(self.seen, min(stop, self.size)):
            yield number - self.seen, number
        if stop >= self.size and self._coming < 0:
            self._coming = self.size - 1
            self._pass_over()
        while 0 <= self._coming < stop:
            yield self._coming - self.seen, self._random.randrange(self.size)
            self._pass_over()

    def _pass_over(self) -> None:
        self._largest *= (1 - self._random.random()) ** (1 / self.size)
        skipped = math.log(1 - self._random.random()) / math.log1p(-self._largest)
        self._coming += int(min(skipped, 2.0**62)) + 1

    def _compact(self) -> None:
        """Forget the samples that others have replaced."""
        rows: dict[int, list[int]] = {}
        for piece, row in self._slots:
            rows.setdefault(piece, []).append(row)
        places = {piece: {row: i for i, row in enumerate(sorted(found))} for piece, found in rows.items()}
        self._pieces = {
            piece: _taken(*self._pieces[piece], torch.tensor(sorted(found)))
            for piece, found in sorted(rows.items())
        }
        self._slots = [(piece, places[piece][row]) for piece, row in self._slots]
        self._held = len(self._slots)

    def shared(self, together: Processes, rows: int) -> list[tuple[Inputs, Tensor]]:
        """The subset of the data of all processes, the same in each: of every shard as much as is its share."""
        if together.size == 1:
            return self.batches(rows)
        size, total = self.size, sum(together.gather(self.seen))
        share = -(-size * self.seen // max(1, total))
        if len(self._slots) > share:
            kept = sorted(self._random.sample(range(len(self._slots)), share))
            self._slots = [self._slots[place] for place in kept]
        own = [(mapped(inputs, Tensor.cpu), targets.cpu()) for inputs, targets in self.batches(rows)]
        return [batch for part in together.gather(own) for batch in part]

    def batches(self, rows: int) -> list[tuple[Inputs, Tensor]]:
        """The subset in batches of at most so many samples, each of one shape."""
        self._compact()
        alike: dict[object, list[tuple[Inputs, Tensor]]] = {}
        for inputs, targets in self._pieces.values():
            alike.setdefault((shapes(inputs), tuple(targets.shape[1:])), []).append((inputs, targets))
        found = []
        for pieces in alike.values():
            inputs, targets = (
                joined([piece[0] for piece in pieces]),
                torch.cat([piece[1] for piece in pieces]),
            )
            for start in range(0, len(targets), rows):
                part = slice(start, start + rows)
                found.append((by_sample(inputs, itemgetter(part)), targets[part]))
        return found


def _taken(inputs: Inputs, targets: Tensor, rows: Tensor) -> tuple[Inputs, Tensor]:
    return by_sample(inputs, lambda part: part[rows.to(part.device)]), targets[rows.to(targets.device)]
