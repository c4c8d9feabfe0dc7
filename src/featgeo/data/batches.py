"""One way to go through data: loaders, lists of batches, pairs of tensors or arrays."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from featgeo.data.inputs import LABELS, Inputs, by_sample, sample_count, tensors_of
from featgeo.errors import FeatgeoError

HINT = "Pass a DataLoader (or any re-iterable) of (inputs, targets), or a pair of tensors."
Batch = tuple[Inputs, Tensor]


def _is_array(part: object) -> bool:
    return isinstance(part, Tensor | np.ndarray)


def _is_pair(data: object) -> bool:
    """Whether these are inputs (an array, or a mapping to arrays) and targets, not a list of two batches."""
    if not isinstance(data, tuple | list) or len(data) != 2 or not _is_array(data[1]):
        return False
    inputs = data[0]
    return _is_array(inputs) or (isinstance(inputs, Mapping) and all(map(_is_array, inputs.values())))


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


def _inputs(part: object, where: str) -> Inputs:
    """Inputs with at least one tensor among them, arrays and numbers made tensors."""
    if isinstance(part, Mapping):
        inputs: Inputs = {
            key: _inputs(item, where) if _is_array(item) else item for key, item in part.items()
        }
    elif isinstance(part, tuple | list) and any(map(_is_array, part)):
        inputs = tuple(_inputs(item, where) if _is_array(item) else item for item in part)
    else:
        return _tensor(part, where)
    if not tensors_of(inputs):
        raise FeatgeoError("data", f"in {where} inputs without a tensor", HINT)
    return inputs


def _split(batch: object, where: str) -> Batch:
    """Inputs and targets of one batch: a pair, or a mapping that carries its labels."""
    if isinstance(batch, Mapping):
        key = next((key for key in LABELS if key in batch), None)
        if key is None:
            raise FeatgeoError(
                "data",
                f"{where} is a mapping with {', '.join(map(str, batch))}",
                f"Name the targets one of {LABELS}.",
            )
        batch = ({name: part for name, part in batch.items() if name != key}, batch[key])
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise FeatgeoError("data", f"{where} is a {type(batch).__name__}, not a pair", HINT)
    inputs, targets = _inputs(batch[0], where), _tensor(batch[1], where)
    if sample_count(inputs) != len(targets):
        found = f"in {where} {sample_count(inputs)} inputs and {len(targets)} targets"
        raise FeatgeoError("data", found, "Pass one target each.")
    return inputs, targets


class Batches:
    """Batches (inputs, targets) of anything that holds them, with failures named by batch number.

    Args:
        data: a re-iterable of (inputs, targets) or of mappings with labels among them, or a pair of tensors or arrays.
        batch_size: for a pair.
        empty: whether it is fine that there is no batch: the shard of one of several processes.

    Raises:
        FeatgeoError: where the data are none of these, or inputs and targets differ in length.
    """

    def __init__(self, data: object, batch_size: int = 256, empty: bool = False) -> None:
        self.empty = empty
        self.once = isinstance(data, Iterator)
        self.passes = 0
        self.watch: Callable[[Inputs, Tensor], None] | None = None  # shown every batch that is handed out
        self._begun: tuple[Batch, Iterator[Batch]] | None = None
        self.pair: Batch | None = None  # where the data are one
        if _is_pair(data):
            inputs, targets = _inputs(data[0], "the pair"), _tensor(data[1], "the pair")  # type: ignore[index]
            if sample_count(inputs) != len(targets):
                raise FeatgeoError(
                    "data",
                    f"{sample_count(inputs)} inputs and {len(targets)} targets",
                    "Pass one target each.",
                )
            if batch_size < 1:
                raise FeatgeoError("batch_size", f"{batch_size}", "It must be at least 1.")
            self.pair = inputs, targets
            data = list(_pieces(inputs, targets, batch_size))
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

    def peek(self) -> Batch | None:
        """The first batch, which the next pass yields again; None where there is no sample."""
        if self._begun is None:
            stream = self._stream()
            first = next(stream, None)
            if first is None:
                return None
            self._begun = first, stream
        return self._begun[0]

    def __iter__(self) -> Iterator[Batch]:
        begun, self._begun = self._begun, None
        for batch in itertools.chain([begun[0]], begun[1]) if begun else self._stream():
            if self.watch is not None:
                self.watch(*batch)
            yield batch

    def _stream(self) -> Iterator[Batch]:
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
            except FeatgeoError:  # of a stream of this library's own
                raise
            except Exception as error:
                raise FeatgeoError(
                    "data",
                    f"{type(error).__name__} raised by the loader at batch {number}: {error}",
                    "Mend the loader.",
                ) from error
            inputs, targets = _split(batch, f"batch {number}")
            if len(targets):
                yield inputs, targets
            number += 1
        if number == 0 and not self.empty:
            raise FeatgeoError("data", "no batch at all", HINT)


def _pieces(inputs: Inputs, targets: Tensor, size: int) -> Iterator[Batch]:
    """Inputs and targets cut along the samples; views, no copies."""
    for start in range(0, max(1, len(targets)), size):
        piece = slice(start, start + size)
        yield by_sample(inputs, itemgetter(piece)), targets[piece]
