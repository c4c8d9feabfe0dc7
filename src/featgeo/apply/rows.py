"""Feature rows with targets and weights, in blocks that can be gone through again: in memory, sparse, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 8192  # rows at a time
ENTRIES = 1 << 21  # of the features, likewise: copies of so many are made in memory that was used before
OUTPUTS = 1 << 17  # entries of outputs at a time
SMALL = 1 << 22  # entries of which a centred copy is kept in any precision
FAR = 10  # means of so many spreads are subtracted before a product in float32, lesser ones after it
SOME = 1024  # rows that tell


@dataclass(frozen=True)
class Block:
    """Some rows: z = W (x - shift) + b̃ with θ = [W | b̃] (d, k + 1).

    Attributes:
        x: features (m, k): a tensor, or a SciPy matrix in CSR form.
        y: checked targets (m, ...).
        w: sample weights (m,) float64, or None where all are 1.
        shift: (k,) float64 that is subtracted implicitly, or None.
    """

    x: Any
    y: Tensor
    w: Tensor | None = None
    shift: Tensor | None = None

    @property
    def total(self) -> float:
        """Sum of the weights."""
        return float(len(self.y)) if self.w is None else self.w.sum().item()

    def part(self, rows: slice) -> Block:
        """Some of the rows."""
        return Block(self.x[rows], self.y[rows], None if self.w is None else self.w[rows], self.shift)

    def outputs(self, theta: Tensor) -> Tensor:
        """Z (m, d), in the precision of the features."""
        weight, bias = theta[:, :-1], theta[:, -1]
        if self.shift is not None:
            bias = bias - weight @ self.shift
        if not weight.any():
            return bias.to(self.x.dtype if isinstance(self.x, Tensor) else bias.dtype).repeat(len(self.y), 1)
        if isinstance(self.x, Tensor):
            return torch.addmm(bias.to(self.x.dtype), self.x, weight.to(self.x.dtype).T)
        return torch.from_numpy(self.x @ weight.numpy().T) + bias

    def pull(self, r: Tensor) -> Tensor:
        """Σ r (x - shift, 1)ᵀ (d, k + 1) of rows r (m, d); sums across blocks are to be taken in float64."""
        sums = r.sum(0, dtype=torch.float64)
        product = r.T @ self.x if isinstance(self.x, Tensor) else torch.from_numpy((self.x.T @ r.numpy()).T)
        product = product.to(torch.float64)
        if self.shift is not None:
            product = product - sums.outer(self.shift)
        return torch.cat([product, sums[:, None]], dim=1)


class Rows:
    """Checked rows. ``blocks`` goes through them once; what is in memory can be sampled.

    Args:
        x: features (N, k), dense or CSR, or None where they are streamed.
        y: checked targets.
        w: weights (N,) float64, or None.
        stream: for features that do not fit in memory, a function that goes through (x, y, w).
        count: number of rows of a stream.
        width: k.
    """

    def __init__(
        self,
        x: Any,
        y: Tensor,
        w: Tensor | None = None,
        stream: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor | None]]] | None = None,
        count: int | None = None,
        total: float | None = None,
    ) -> None:
        self.x, self.y, self.w, self._stream = x, y, w, stream
        self.count = len(y) if count is None else count
        self.width: int = 0 if x is None else x.shape[1]  # of a stream that passes once it is not known
        self.total = total if total is not None else float(len(y)) if w is None else w.sum().item()
        self._held: dict[torch.dtype, Block] = {}
        self._along: tuple[Tensor, Block] | None = None
        self._drawn: dict[tuple[int, int], Rows] = {}  # the last sample

    @property
    def in_memory(self) -> bool:
        """Whether all rows are held."""
        return self._stream is None

    @property
    def is_sparse(self) -> bool:
        """Whether the features are a SciPy matrix."""
        return not isinstance(self.x, Tensor)

    @property
    def device(self) -> torch.device:
        """Where the features are."""
        return self.x.device if isinstance(self.x, Tensor) else torch.device("cpu")

    @cached_property
    def mean(self) -> Tensor:
        """Weighted mean of the features (k,), float64 on the CPU, within the rounding of their precision."""
        return self._sums(lambda x: x) / self.total

    @cached_property
    def second_moment(self) -> Tensor:
        """Weighted mean of their squares (k,), about zero."""
        return (
            self._sums(lambda x: x.square() if isinstance(x, Tensor) else x.multiply(x).tocsr()) / self.total
        )

    def _sums(self, of: Callable[[Any], Any]) -> Tensor:
        sums = torch.zeros(self.width, dtype=torch.float64)
        for x, _, w in self.raw():
            rows = of(x)
            if isinstance(rows, Tensor):
                part = rows.sum(0) if w is None else w.to(rows) @ rows
            else:
                ones = np.ones(rows.shape[0]) if w is None else w.numpy()
                part = torch.from_numpy(rows.T @ ones)
            sums += part.to(sums)
        return sums

    def raw(self) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
        """Blocks (x, y, w) as they are."""
        if self._stream is not None:
            yield from self._stream()
            return
        size = min(BLOCK, max(1, ENTRIES // self.width))
        for start in range(0, self.count, size):
            part = slice(start, start + size)
            yield self.x[part], self.y[part], None if self.w is None else self.w[part]

    def blocks(self, dtype: torch.dtype, shift: Tensor | None, outputs: int) -> Iterator[Block]:
        """Blocks of centred rows in a precision; what is in memory in float32, or small, is converted once.

        Where nothing is converted, the fewer outputs there are to be held the more rows go together.
        """
        if self.in_memory and (self.is_sparse or dtype == torch.float32 or self.x.numel() <= SMALL):
            whole = self.held(dtype, shift)
            size = max(BLOCK, OUTPUTS // outputs)
            for start in range(0, self.count, size):
                yield whole.part(slice(start, start + size))
            return
        for x, y, w in self.raw():
            rows = x.to(dtype)
            yield Block(rows if shift is None else rows - shift.to(dtype), y, w)

    def held(self, dtype: torch.dtype, shift: Tensor | None) -> Block:
        """All rows that are held, centred, as one block; features are copied only where they have to be."""
        if self.is_sparse:
            return Block(self.x, self.y, self.w, shift)
        if dtype not in self._held:
            if shift is None or (self.x.dtype == dtype and not self._is_far(shift)):
                self._held[dtype] = Block(self.x.to(dtype), self.y, self.w, shift)
            else:
                finer = self.x.to(torch.promote_types(self.x.dtype, dtype))
                self._held[dtype] = Block((finer - shift.to(finer.dtype)).to(dtype), self.y, self.w)
        return self._held[dtype]

    def along(self, basis: Tensor, shift: Tensor | None) -> Block:
        """The same in coordinates of some directions (k, r): x V of centred dense rows x."""
        if self._along is None or self._along[0] is not basis:
            block = self.held(basis.dtype, shift)
            level = 0.0 if block.shift is None else block.shift.to(basis) @ basis
            self._along = basis, Block(block.x @ basis - level, self.y, self.w)
        return self._along[1]

    def _is_far(self, shift: Tensor) -> bool:
        """Whether some feature's mean is many spreads from zero, as the first rows tell: products are inexact then."""
        spread = (self.x[:SOME] - shift.to(self.x.dtype)).square().mean(0)
        return bool((shift.square().to(spread.dtype) > FAR**2 * spread).any())

    def take(self, index: Tensor) -> Rows:
        """Some of the rows that are held, as rows of their own."""
        x = self.x[index.to(self.device)] if isinstance(self.x, Tensor) else self.x[index.numpy()]
        index = index.to(self.y.device)
        return Rows(x, self.y[index], None if self.w is None else self.w[index])

    def sample(self, size: int, skip: int = 0) -> Rows:
        """At most that many rows, always the same draw, less its first; of a stream, of those kept."""
        held = len(self.y)
        if size >= held:
            return self if self.in_memory else Rows(self.x, self.y, self.w)
        if (size, skip) not in self._drawn:
            order = torch.randperm(held, generator=torch.Generator().manual_seed(0))
            self._drawn = {(size, skip): self.take(order[skip : skip + size].sort().values)}
        return self._drawn[size, skip]
