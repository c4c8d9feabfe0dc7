"""Feature rows with targets and weights, in blocks that can be gone through again: in memory, sparse, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = (
    2048  # rows at a time: a block stays in the cache between the product with W and the one with the scores
)
SMALL = 1 << 22  # entries of which a centred copy is kept in any precision


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

    def outputs(self, theta: Tensor) -> Tensor:
        """Z (m, d), in the precision of the features."""
        weight, bias = theta[:, :-1], theta[:, -1]
        if self.shift is not None:
            bias = bias - weight @ self.shift
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
        self._centred: dict[torch.dtype, Tensor] = {}

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
        """Weighted mean of the features (k,), float64 on the CPU."""
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
                part = rows.sum(0, dtype=torch.float64) if w is None else w @ rows.to(torch.float64)
            else:
                ones = np.ones(rows.shape[0]) if w is None else w.numpy()
                part = torch.from_numpy(rows.T @ ones)
            sums += part.cpu()
        return sums

    def raw(self) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
        """Blocks (x, y, w) as they are."""
        if self._stream is not None:
            yield from self._stream()
            return
        for start in range(0, self.count, BLOCK):
            part = slice(start, start + BLOCK)
            yield self.x[part], self.y[part], None if self.w is None else self.w[part]

    def blocks(self, dtype: torch.dtype, shift: Tensor | None) -> Iterator[Block]:
        """Blocks of centred rows in a precision; a copy in float32, and any copy of few rows, is made once."""
        if self.is_sparse:
            for x, y, w in self.raw():
                yield Block(x, y, w, shift)
            return
        if shift is not None and self.in_memory and (dtype == torch.float32 or self.x.numel() <= SMALL):
            if dtype not in self._centred:
                self._centred[dtype] = (self.x - shift.to(self.x.dtype)).to(dtype)
            for start in range(0, self.count, BLOCK):
                part = slice(start, start + BLOCK)
                w = None if self.w is None else self.w[part]
                yield Block(self._centred[dtype][part], self.y[part], w)
            return
        for x, y, w in self.raw():
            rows = x.to(dtype)
            yield Block(rows if shift is None else rows - shift.to(dtype), y, w)

    def take(self, index: Tensor) -> Rows:
        """Some of the rows that are held, as rows of their own."""
        x = self.x[index.to(self.device)] if isinstance(self.x, Tensor) else self.x[index.numpy()]
        index = index.to(self.y.device)
        return Rows(x, self.y[index], None if self.w is None else self.w[index])

    def sample(self, size: int) -> Rows:
        """At most that many rows, drawn without replacement (always the same ones); of a stream, of those kept."""
        held = len(self.y)
        if size >= held:
            return self if self.in_memory else Rows(self.x, self.y, self.w)
        generator = torch.Generator().manual_seed(0)
        return self.take(torch.randperm(held, generator=generator)[:size].sort().values)
