"""Passes over a dense table by torch, whose threads share the work, block by block of rows that fit in the cache.

Passes over columns by as many threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

T = TypeVar("T")

THREADED_CELLS = 2**18  # smaller tables are not worth waiting for a thread
BLOCK_CELLS = 120_000  # of float64, just under a megabyte: a block stays in the cache between its uses


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Consecutive rows of a table of this shape, of about BLOCK_CELLS entries each."""
    height = max(1, BLOCK_CELLS // max(1, shape[1]))
    for start in range(0, shape[0], height):
        yield slice(start, min(start + height, shape[0]))


def in_parts(job: Callable[[slice], T], rows: int, least: int) -> list[T]:
    """What a job gives for consecutive parts of so many rows, one for each of torch's threads, but of at least so many.

    They run at once where the job releases the interpreter's lock, as numpy and Arrow do.
    """
    count = max(1, min(torch.get_num_threads(), rows // least))
    parts = [slice(*ends) for ends in pairwise(rows * i // count for i in range(count + 1))]
    if count == 1:
        return [job(parts[0])]
    with ThreadPoolExecutor(count - 1) as pool:
        others = [pool.submit(job, part) for part in parts[1:]]
        return [
            job(parts[0]),
            *(other.result() for other in others),
        ]  # no thread but this one is on this processor


def tensor_of(array: Any) -> Tensor:
    """An array as a tensor that shares its memory; one that may only be read (as pandas gives) must not be written."""
    if array.flags.writeable:
        return torch.from_numpy(array)

    class Reopened:  # torch warns at arrays that it must not write
        owner = array
        __array_interface__ = array.__array_interface__ | {
            "data": (array.__array_interface__["data"][0], False)
        }

    return torch.from_numpy(np.asarray(Reopened()))


def fitting_threads(shape: tuple[int, ...]) -> AbstractContextManager[Any]:
    """One thread for LAPACK on small matrices: its threads would wait for each other longer than they work."""
    limit: AbstractContextManager[Any] = nullcontext()
    if np.prod(shape) < THREADED_CELLS and any(
        library.num_threads > 1 for library in _blas().lib_controllers
    ):
        limit = _blas().limit(limits=1)
    return limit


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process; to find them takes a millisecond."""
    return ThreadpoolController().select(user_api="blas")
