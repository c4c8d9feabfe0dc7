"""The samples that a tracker looks at: taken once, so that only the network changes from one analysis to the next."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter

import numpy as np
import torch

from featgeo.data.batches import Batch, Batches
from featgeo.data.inputs import by_sample
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


def take(data: object, samples: int, seed: int) -> list[Batch]:
    """Batches with at most so many samples: the first of a loader, random ones of a pair of tensors.

    Args:
        data: a re-iterable of batches, or a pair of tensors or arrays.
        samples: most samples.
        seed: of the choice.

    Raises:
        FeatgeoError: where there are none, or the data are of no known kind.
    """
    taken: list[Batch] = []
    with same_randomness(data):
        batches, left = Batches(data, BATCH), samples
        if batches.pair is not None and len(batches.pair[1]) > samples:  # their order may mean something
            inputs, targets = batches.pair
            order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
            chosen = order[:samples].sort().values
            pair = (
                by_sample(inputs, lambda part: part[chosen.to(part.device)]),
                targets[chosen.to(targets.device)],
            )
            batches = Batches(pair, BATCH)
        for inputs, targets in batches:
            taken.append((by_sample(inputs, itemgetter(slice(left))), targets[:left]))
            left -= len(taken[-1][1])
            if left <= 0:
                break
    if not taken:
        raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
    return taken
