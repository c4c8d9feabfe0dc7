"""Passes over a dense table by torch, whose threads share the work, block by block of rows that fit in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

THREADED_CELLS = 2**18  # smaller tables are not worth waiting for a thread
BLOCK_CELLS = 120_000  # of float64, just under a megabyte: a block stays in the cache between its uses


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Consecutive rows of a table of this shape, of about BLOCK_CELLS entries each."""
    height = max(1, BLOCK_CELLS // max(1, shape[1]))
    for start in range(0, shape[0], height):
        yield slice(start, min(start + height, shape[0]))


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
