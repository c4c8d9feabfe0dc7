"""One way to go through data: loaders, lists of batches, pairs of tensors or arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from featgeo.errors import FeatgeoError

HINT = "Pass a DataLoader (or any re-iterable) of (inputs, targets), or a pair of tensors."


def _is_pair(data: object) -> bool:
    return (
        isinstance(data, tuple | list)
        and len(data) == 2
        and all(isinstance(part, Tensor | np.ndarray) for part in data)
    )


def _tensor(part: object, where: str) -> Tensor:
    """A tensor with a first dimension of anything that torch can read."""
    try:
        tensor = torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError) as error:
        raise FeatgeoError(
            "data", f"in {where} a {type(part).__name__} that is no tensor ({error})", HINT
        ) from error
    if tensor.ndim == 0:
        raise FeatgeoError("data", f"in {where} one number where a batch should be", HINT)
    return tensor


class Batches:
    """Batches (inputs, targets) of anything that holds them, with failures named by batch number.

    Args:
        data: a re-iterable of (inputs, targets), or a pair of tensors or arrays.
        batch_size: for a pair.

    Raises:
        FeatgeoError: where the data are none of these, or inputs and targets differ in length.
    """

    def __init__(self, data: object, batch_size: int = 256) -> None:
        self.once = isinstance(data, Iterator)
        self.passes = 0
        if _is_pair(data):
            inputs, targets = (_tensor(part, "the pair") for part in data)  # type: ignore[attr-defined]
            if len(inputs) != len(targets):
                raise FeatgeoError(
                    "data", f"{len(inputs)} inputs and {len(targets)} targets", "Pass one target each."
                )
            if batch_size < 1:
                raise FeatgeoError("batch_size", f"{batch_size}", "It must be at least 1.")
            data = list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))
        elif isinstance(data, Dataset):
            raise FeatgeoError("data", f"a Dataset ({type(data).__name__})", "Wrap it in a DataLoader.")
        elif not isinstance(data, Iterable) or isinstance(data, Tensor | np.ndarray | str | dict):
            raise FeatgeoError("data", f"a {type(data).__name__}", HINT)
        self.data: Iterable[Any] = data

    def __len__(self) -> int:
        """Number of batches, 0 where it is not known."""
        try:
            return len(self.data)  # type: ignore[arg-type]
        except TypeError:
            return 0

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        if self.once and self.passes:
            raise FeatgeoError(
                "data", "an iterator that is spent after one pass", "Pass a re-iterable such as a list."
            )
        self.passes += 1
        source, number = iter(self.data), 0
        while True:
            try:
                batch = next(source)
            except StopIteration:
                break
            except Exception as error:
                raise FeatgeoError(
                    "data",
                    f"{type(error).__name__} raised by the loader at batch {number}: {error}",
                    "Mend the loader.",
                ) from error
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise FeatgeoError("data", f"batch {number} is a {type(batch).__name__}, not a pair", HINT)
            inputs, targets = (_tensor(part, f"batch {number}") for part in batch)
            if len(inputs) != len(targets):
                raise FeatgeoError(
                    "data",
                    f"in batch {number} {len(inputs)} inputs and {len(targets)} targets",
                    "Pass one target each.",
                )
            if len(targets):
                yield inputs, targets
            number += 1
        if number == 0:
            raise FeatgeoError("data", "no batch at all", HINT)
