"""Means and covariances of a stream, in one pass: add a batch, merge two.

A batch is centred by a mean that is near its own before anything is squared, products of about a thousand rows are
summed in the data's own precision over a block of batches, and blocks are merged in float64 by the pairwise update of
Chan, Golub and LeVeque (1983). So data with a large mean lose nothing, memory does not grow with the number of samples,
and the cost per batch is that of the products themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from featgeo.data.waiting import Rows
from featgeo.errors import FeatgeoError

BLOCK = 128  # batches summed in the data's precision before they are merged in float64, and most that wait
TILE = 128  # columns of one product; a symmetric matrix needs only its upper block triangle


@dataclass(frozen=True)
class Moments:
    """Count, means and covariances of vectors x (k,) and of x with a companion u (p,). float64.

    Covariances are divided by the count: those of the data, not an estimate beyond them.

    Attributes:
        count: number of samples.
        mean: of x (k,).
        companion: mean of u (p,).
        covariance: Cov(x) (k, k).
        cross_covariance: Cov(u, x) (p, k).
    """

    count: int
    mean: Tensor
    companion: Tensor
    covariance: Tensor
    cross_covariance: Tensor

    @classmethod
    def of(cls, x: Tensor, u: Tensor | None = None) -> Moments:
        """Two-pass moments of one batch (m, k) with its companion (m, p)."""
        rows = x.to(torch.float64)
        side = (u if u is not None else x[:, :0]).to(torch.float64)
        mean, companion = rows.mean(0), side.mean(0)
        centred = rows - mean
        cross = (side - companion).T @ centred
        return cls(len(x), mean, companion, centred.T @ centred / len(x), cross / len(x))

    def merge(self, other: Moments) -> Moments:
        """Moments of both samples together."""
        count = self.count + other.count
        step, side = other.mean - self.mean, other.companion - self.companion
        share = other.count / count
        weight = share * (1 - share)
        return Moments(
            count,
            self.mean + share * step,
            self.companion + share * side,
            self.covariance.lerp(other.covariance, share).addr_(step, step, alpha=weight),
            self.cross_covariance.lerp(other.cross_covariance, share).addr_(side, step, alpha=weight),
        )

    def to(self, device: torch.device | str) -> Moments:
        """The same on another device."""
        tensors = (self.mean, self.companion, self.covariance, self.cross_covariance)
        return Moments(self.count, *(tensor.to(device) for tensor in tensors))


class Companion(NamedTuple):
    """Rows u of some batches, made once and shared by all streams that see them.

    Attributes:
        rows: a column of ones, then u - shift (m, 1 + p): with the ones, one product gives sums and cross-products.
        shift: (p,).
        total: Σ (u - shift) (p,).
    """

    rows: Tensor
    shift: Tensor
    total: Tensor

    @classmethod
    def of(cls, centred: Tensor, shift: Tensor) -> Companion:
        """From rows that are centred already."""
        return cls(torch.cat([torch.ones_like(centred[:, :1]), centred], dim=1), shift, centred.sum(0))

    def repeated(self, times: list[int], sizes: list[int]) -> Companion:
        """Every row of each batch so many times; the batches have so many rows."""
        parts = zip(self.rows.split(sizes), times, strict=True)
        rows = torch.cat([part.repeat_interleave(count, 0) for part, count in parts])
        return self._replace(rows=rows, total=rows[:, 1:].sum(0))


class MomentStream:
    """Accumulates :class:`Moments` batch by batch, on the data's device, without synchronising each batch.

    Batches :meth:`wait` until :meth:`count` is given their companion: one product of many rows costs less than several
    of few.

    Args:
        name: what is accumulated, for messages.
        rows: where batches wait.
    """

    def __init__(self, name: str, rows: Rows | None = None) -> None:
        self.name = name
        self.total: Moments | None = None
        self.precision = torch.float64
        self.rows = rows or Rows()
        self._batches = 0
        self._sizes: list[int] = []  # of the batches that wait
        self._block: _Block | None = None

    @property
    def shift(self) -> Tensor:
        """What the open block is centred by (k,)."""
        assert self._block is not None
        return self._block.shift

    def centre(self, x: Tensor, here: bool = False) -> tuple[Tensor, Tensor]:
        """x - shift (m, k) in float32 or better, and the block's shift (k,).

        Args:
            x: rows (m, k).
            here: whether to write them behind the rows that wait, so that :meth:`wait` need not copy them; what was
                written there before and does not wait is lost.
        """
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        if self._block is None:
            self._block = _Block(x.mean(0))
            self.precision = x.dtype
        width = (self._block.shift if self.total is None else self.total.mean).shape[0]
        if x.shape[1] != width:
            raise FeatgeoError(
                self.name, f"width {x.shape[1]} after {width} in earlier batches", "Use one width."
            )
        shift = self._block.shift
        return torch.sub(x, shift, out=self.rows.room(x)) if here else x - shift, shift

    def wait(self, centred: Tensor, sizes: list[int] | None = None) -> None:
        """Let one batch wait that :meth:`centre` has centred, or several of so many rows."""
        self._sizes.extend(sizes or (centred.shape[0],))
        self.rows.put(centred)

    def count(self, companion: Companion) -> None:
        """Count the batches that wait, with their companion (m, p)."""
        self._add(self.rows.all, companion, self._sizes)
        self.drop()

    def drop(self) -> None:
        """Forget the batches that wait."""
        self._sizes.clear()
        self.rows.clear()

    def add(self, centred: Tensor, companion: Companion) -> None:
        """Count one batch that :meth:`centre` has centred, at once."""
        self._add(centred, companion, [centred.shape[0]])

    def _add(self, rows: Tensor, companion: Companion, sizes: list[int]) -> None:
        assert self._block is not None
        self._block.add(rows, companion, sizes)
        self._batches += len(sizes)
        if self._block.batches >= BLOCK:
            self.flush()

    def flush(self) -> None:
        """Merge the open block into the total; here NaN and infinity are found and named by batch."""
        if self._block is None or not self._block.batches:
            return
        good = torch.isfinite(self._block.checks[: self._block.batches]).tolist()
        if not all(good):
            batch = self._batches - len(good) + good.index(False)
            raise FeatgeoError(
                self.name,
                f"NaN or infinite values in batch {batch}",
                "Check the inputs and the weights before it.",
            )
        block, self._block = self._block.moments(), None
        if not torch.isfinite(
            block.covariance.diagonal()
        ).all():  # no other entry is larger (Cauchy and Schwarz)
            raise FeatgeoError(self.name, "values whose squares overflow", "Scale the inputs or use float64.")
        self.total = block if self.total is None else self.total.merge(block)

    def result(self) -> Moments:
        """The moments of everything added."""
        self.flush()
        if self.total is None:
            raise FeatgeoError(self.name, "no samples", "Pass at least one non-empty batch.")
        return self.total


def _panels(total: Tensor) -> list[Tensor]:
    """The upper block triangle of a square matrix, a view per block of rows."""
    return [total[start : start + TILE, start:] for start in range(0, len(total), TILE)]


def _add_gram(panels: list[Tensor], rows: Tensor) -> None:
    """Add the upper block triangle of rowsᵀ rows, in place: at about 0.6 of the cost of the full product."""
    for i, panel in enumerate(panels):
        start = i * TILE
        panel.addmm_(rows[:, start : start + TILE].T, rows[:, start:])


def _mirrored(total: Tensor) -> Tensor:
    """The whole symmetric matrix, in place of its upper block triangle."""
    for start in range(0, len(total), TILE):
        stop = start + TILE
        total[stop:, start:stop] = total[start:stop, stop:].T
    return total


class _Block:
    """Sums of products in the data's own precision over some batches, about one shift."""

    def __init__(self, shift: Tensor) -> None:
        self.shift = shift
        self.scatter = shift[:0]  # (k, k), made when it is first added to: not amid a forward pass
        self.panels: list[Tensor] = []  # of it
        self.sums: Tensor | None = None  # (1 + p, k): sums of x, then cross-products
        self.side_shift, self.side_total = shift[:0], shift[:0]
        self.count = self.batches = 0
        # a number per batch, NaN or infinite where the batch is; small tensors kept one by one would break up memory
        self.checks = shift.new_zeros(3 * BLOCK)

    def add(self, centred: Tensor, companion: Companion, sizes: list[int]) -> None:
        """Count rows of batches of these sizes."""
        if self.sums is None:
            self.scatter = self.shift.new_zeros(len(self.shift), len(self.shift))
            self.panels = _panels(self.scatter)
            self.sums = centred.new_zeros(companion.rows.shape[1], centred.shape[1])
            self.side_shift, self.side_total = companion.shift, torch.zeros_like(companion.total)
        _add_gram(self.panels, centred)
        self.sums.addmm_(companion.rows.T.to(centred.dtype), centred)
        # on an accelerator nothing is looked at before the block ends: that would wait for it
        if not (centred.is_cpu and math.isfinite(self.sums[0].sum().item())):
            for i, batch in enumerate(centred.split(sizes), self.batches):
                torch.sum(batch, (0, 1), out=self.checks[i])
        self.batches += len(sizes)
        self.side_total.add_(companion.total)
        self.count += len(centred)

    def moments(self) -> Moments:
        assert self.sums is not None
        tensors = (self.shift, _mirrored(self.scatter), self.sums, self.side_shift, self.side_total)
        shift, scatter, sums, side_shift, side_total = (t.to(torch.float64) for t in tensors)
        step, side = sums[0] / self.count, side_total / self.count
        return Moments(
            self.count,
            shift + step,
            side_shift + side,
            scatter.addr_(step, step, beta=1 / self.count, alpha=-1),
            sums[1:].addr(side, step, beta=1 / self.count, alpha=-1),
        )
