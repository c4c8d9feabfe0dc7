"""Several processes that each read a shard of the data and find the same figures; alone, nothing happens here.

Whatever a process tells the others goes through one exchange, in which a failure can be told as well: an error on one
process becomes an error on all of them, at the next exchange that they come to, and none waits for one that has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from featgeo.data.moments import Moments
from featgeo.errors import FeatgeoError

T = TypeVar("T")
Failure = tuple[str, str, str]  # argument, what was found, remedy
HOST_ONLY = ("gloo", "mpi")  # backends that move tensors of the CPU


def _told(error: Exception) -> Failure:
    if isinstance(error, FeatgeoError):
        return error.argument, error.found, error.remedy
    return "analyze", f"{type(error).__name__}: {error}", "Mend it on the process that is named."


class Processes:
    """Those that analyse together.

    Args:
        group: a torch.distributed process group; None for the default group, where there is one; False for this
            process alone.
        home: where the model is.
    """

    def __init__(self, group: Any = None, home: torch.device | str = "cpu") -> None:
        running = dist.is_available() and dist.is_initialized()
        if group not in (None, False) and not running:
            raise FeatgeoError(
                "group", "a group without torch.distributed", "Initialise torch.distributed first."
            )
        self.group = None if group is False else group
        alone = group is False or not running
        self.rank = 0 if alone else dist.get_rank(self.group)
        self.size = 1 if alone else dist.get_world_size(self.group)
        if self.rank < 0:
            raise FeatgeoError(
                "group", "a group that this process is not in", "Call it in its processes only."
            )
        host = self.size == 1 or dist.get_backend(self.group) in HOST_ONLY
        self.device = torch.device("cpu") if host else torch.device(home)
        self._apart = False  # whether the others know of a failure, or cannot be told

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: it warns and shows progress."""
        return self.rank == 0

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Inside, a failure of one process is told to the others, which then fail too."""
        try:
            yield
            self.gather(None)  # so that nobody leaves before the last has succeeded
        except Exception as error:
            if self.size > 1 and not self._apart:
                self._exchange(None, _told(error))
            raise

    def gather(self, value: T) -> list[T]:
        """What each process gives, in their order.

        Raises:
            FeatgeoError: where another process has failed.
        """
        if self.size == 1:
            return [value]
        found = self._exchange(value, None)
        for rank, (_, failure) in enumerate(found):
            if failure:
                self._apart = True
                argument, text, remedy = failure
                raise FeatgeoError(argument, f"{text.rstrip('.')} (in process {rank})", remedy)
        return [given for given, _ in found]

    def _exchange(self, value: Any, failure: Failure | None) -> list[tuple[Any, Failure | None]]:
        found: list[Any] = [None] * self.size
        self._apart = True  # if this fails there is no telling anybody
        dist.all_gather_object(found, (value, failure), group=self.group)
        self._apart = failure is not None
        return found

    def merged(self, moments: Moments | None) -> Moments | None:
        """Moments of the data of all processes: pairs are merged in a fixed order, then all hear the result.

        Args:
            moments: of this process's data; None where it has none.
        """
        if self.size == 1:
            return moments
        shapes = self.gather(None if moments is None else (len(moments.mean), len(moments.companion)))
        having = [rank for rank, shape in enumerate(shapes) if shape]
        if not having:
            return None
        if len({shape for shape in shapes if shape}) > 1:
            found = f"widths {sorted({shape[0] for shape in shapes if shape})}"
            raise FeatgeoError("model", f"{found} of one layer in different processes", "Use one model.")
        shape = shapes[having[0]]
        assert shape is not None
        mine = None if moments is None else moments.to(self.device)
        self._apart = True
        step = 1
        while step < len(having):
            for left, right in zip(having[:: 2 * step], having[step :: 2 * step], strict=False):
                if self.rank == right:
                    assert mine is not None
                    dist.send(_packed(mine), self._global(left), group=self.group)
                elif self.rank == left:
                    assert mine is not None
                    flat = self._empty(*shape)
                    dist.recv(flat, self._global(right), group=self.group)
                    mine = mine.merge(_unpacked(flat, *shape))
            step *= 2
        flat = _packed(mine) if self.rank == having[0] and mine is not None else self._empty(*shape)
        dist.broadcast(flat, self._global(having[0]), group=self.group)
        self._apart = False
        return _unpacked(flat, *shape)

    def spread(self, tensor: Tensor) -> None:
        """Overwrite a tensor with the first process's."""
        if self.size > 1:
            moved = tensor.to(self.device)
            dist.broadcast(moved, self._global(0), group=self.group)
            tensor.copy_(moved)

    def _global(self, rank: int) -> int:
        return rank if self.group is None else dist.get_global_rank(self.group, rank)

    def _empty(self, width: int, side: int) -> Tensor:
        return torch.empty(1 + width + side + width * (width + side), dtype=torch.float64, device=self.device)


def _packed(moments: Moments) -> Tensor:
    """Everything in one vector."""
    count = moments.mean.new_tensor([float(moments.count)])
    matrices = (moments.covariance.flatten(), moments.cross_covariance.flatten())
    return torch.cat([count, moments.mean, moments.companion, *matrices])


def _unpacked(flat: Tensor, width: int, side: int) -> Moments:
    """Moments from one vector."""
    count, mean, companion, inner, cross = flat.split([1, width, side, width * width, side * width])
    return Moments(int(count.item()), mean, companion, inner.view(width, width), cross.view(side, width))
