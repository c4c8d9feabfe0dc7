"""What a model takes for one batch: a tensor, or tensors in a tuple or mapping whose first dimension is the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Inputs = Any  # a Tensor, a tuple or list of Inputs, or a mapping to Inputs

LABELS = ("labels", "label", "targets", "target")  # under which mappings carry the targets
MASKS = (
    ("attention_mask", False),
    ("src_key_padding_mask", True),
    ("key_padding_mask", True),
)  # key, whether reversed


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """All tensors in the inputs, in order."""
    if isinstance(inputs, Tensor):
        return [inputs]
    parts = (
        inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else ()
    )
    return [tensor for part in parts for tensor in tensors_of(part)]


def sample_count(inputs: Inputs) -> int:
    """Number of samples: the length of the first tensor that has one; 0 without any."""
    return next((tensor.shape[0] for tensor in tensors_of(inputs) if tensor.ndim), 0)


def mapped(inputs: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    """The same structure with the function of every tensor; whatever is no tensor stays."""
    if isinstance(inputs, Tensor):
        return function(inputs)
    if isinstance(inputs, Mapping):
        return {key: mapped(part, function) for key, part in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(mapped(part, function) for part in inputs)
    return inputs


def by_sample(inputs: Inputs, function: Callable[[Tensor], Tensor]) -> Inputs:
    """The function of every tensor that has one entry per sample; the others stay."""
    count = sample_count(inputs)
    return mapped(inputs, lambda part: function(part) if part.ndim and len(part) == count else part)


def moved(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """On a device and, where floating, in a dtype; from pinned memory without waiting."""

    def move(part: Tensor) -> Tensor:
        return part.to(device, dtype if part.is_floating_point() else part.dtype, non_blocking=True)

    return mapped(inputs, move)


def joined(batches: Sequence[Inputs]) -> Inputs:
    """Batches of one structure as one batch."""
    first, count = batches[0], sample_count(batches[0])
    if isinstance(first, Tensor):
        return torch.cat(list(batches)) if first.ndim and len(first) == count else first
    if isinstance(first, Mapping):
        return {key: _joined_part([batch[key] for batch in batches], count) for key in first}
    return tuple(_joined_part([batch[i] for batch in batches], count) for i in range(len(first)))


def _joined_part(parts: list[Any], count: int) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts) if first.ndim and len(first) == count else first
    return joined(parts) if isinstance(first, Mapping | tuple | list) else first


def shapes(inputs: Inputs) -> Any:
    """Shapes without the first dimension, hashable: batches can be joined where these agree."""
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape[1:]), inputs.dtype
    if isinstance(inputs, Mapping):
        return tuple((key, shapes(part)) for key, part in inputs.items())
    return tuple(map(shapes, inputs)) if isinstance(inputs, tuple | list) else repr(inputs)


def described(inputs: Inputs) -> str:
    """Shapes, for messages."""
    if isinstance(inputs, Tensor):
        return str(tuple(inputs.shape))
    if isinstance(inputs, Mapping):
        return ", ".join(f"{key} {described(part)}" for key, part in inputs.items())
    return ", ".join(map(described, inputs)) if isinstance(inputs, tuple | list) else type(inputs).__name__


def position_mask(inputs: Inputs) -> Tensor | None:
    """(m, positions): which positions are no padding, where a mapping says so under a usual name."""
    if not isinstance(inputs, Mapping):
        return None
    for key, reverse in MASKS:
        mask = inputs.get(key)
        if isinstance(mask, Tensor) and mask.ndim == 2 and not mask.is_floating_point():
            return mask == 0 if reverse else mask != 0
    return None
