"""The samples that a tracker looks at: taken once, so that only the network changes from one analysis to the next."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from featgeo.data.batches import Batches
from featgeo.errors import FeatgeoError

BATCH = 256  # samples a batch, of a pair of tensors


@contextmanager
def same_randomness(data: object = None) -> Iterator[None]:
    """The random states of Python, numpy and torch, and of a loader's own generators, are back on leaving."""
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 - augmentations still draw from it
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    own = [(generator, generator.get_state()) for generator in _generators(data)]
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)  # noqa: NPY002
            for generator, state in own:
                generator.set_state(state)


def _generators(data: object) -> list[torch.Generator]:
    """Generators of a DataLoader and of its samplers."""
    batches = getattr(data, "batch_sampler", None)
    holders = (data, getattr(data, "sampler", None), batches, getattr(batches, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return [generator for generator in found if isinstance(generator, torch.Generator)]


def take(data: object, samples: int, seed: int) -> list[tuple[object, Tensor]]:
    """Batches with at most so many samples: the first of a loader, random ones of a pair of tensors.

    Args:
        data: a re-iterable of (inputs, targets), or a pair of tensors or arrays.
        samples: most samples.
        seed: of the choice.

    Raises:
        FeatgeoError: where there are none, or the data are of no known kind.
    """
    taken: list[tuple[object, Tensor]] = []
    with same_randomness(data):
        batches, left = Batches(_chosen(data, samples, seed), BATCH), samples
        for inputs, targets in batches:
            taken.append((inputs[:left], targets[:left]))
            left -= len(taken[-1][1])
            if left == 0:
                break
    if not taken:
        raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
    return taken


def _chosen(data: object, samples: int, seed: int) -> object:
    """A pair with more samples than asked for is cut down to random ones, in their order."""
    pair = isinstance(data, tuple | list) and len(data) == 2
    if not pair or not all(isinstance(part, Tensor | np.ndarray) for part in data):  # type: ignore[attr-defined]
        return data
    inputs, targets = (torch.as_tensor(part) for part in data)  # type: ignore[attr-defined]
    if len(inputs) != len(targets) or len(targets) <= samples:
        return inputs, targets
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    kept = order[:samples].sort().values
    return inputs[kept.to(inputs.device)], targets[kept.to(targets.device)]
