"""A random subset of a stream: every sample with the same probability, a stream that fits kept whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from featgeo.data.subset import Subset


def kept(size: int, seed: int, samples: int, batch: int) -> Tensor:
    subset = Subset(size, seed)
    for part in torch.arange(samples).split(batch):
        subset.offer(part[:, None].float(), part)
    batches = subset.batches(7)
    assert all(len(targets) <= 7 for _, targets in batches)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(inputs[:, 0], targets.float())
    return targets


@pytest.mark.parametrize("batch", [1, 9, 40])
def test_a_stream_that_fits_is_kept_whole_and_in_order(batch: int) -> None:
    assert kept(40, 0, 40, batch).tolist() == list(range(40))
    assert kept(50, 0, 40, batch).tolist() == list(range(40))


@pytest.mark.parametrize("batch", [1, 13, 64, 300])
def test_every_sample_is_kept_equally_often(batch: int) -> None:
    """Counts over 100 seeds have mean 20 and deviation √(20 · 0.8) = 4 each, their means over 60 samples about 0.5."""
    counts = torch.zeros(300)
    for seed in range(100):
        found = kept(60, seed, 300, batch)
        assert len(set(found.tolist())) == len(found) == 60
        counts[found] += 1
    assert (counts.reshape(5, 60).mean(1) - 20).abs().max() < 2.5
    assert abs(counts.std().item() - 4) < 1


def test_the_same_seed_keeps_the_same_samples_however_they_come() -> None:
    assert set(kept(20, 3, 500, 50).tolist()) == set(kept(20, 3, 500, 7).tolist())
    assert set(kept(20, 3, 500, 50).tolist()) != set(kept(20, 4, 500, 50).tolist())
