"""The rows that are kept: of all streams the same, spread evenly, never many."""

from __future__ import annotations

import pytest
import torch

from featgeo.data.sample import EACH, KEPT, Keeper, Sample


def kept(sizes: list[int], limit: int = KEPT, together: int = 1) -> Sample:
    """Rows that say where they come from: batch and place in it."""
    keeper, shift = Keeper(limit), torch.tensor([10.0, 0.0])
    for start in range(0, len(sizes), together):
        some = sizes[start : start + together]
        batches = torch.repeat_interleave(torch.arange(start, start + len(some)), torch.tensor(some))
        rows = torch.stack([batches, torch.cat([torch.arange(size) for size in some])], dim=1).float()
        streams = {"layer": (rows - shift, shift), "seldom": (rows - shift, shift)}
        keeper.add(some, -rows, streams if start else {"layer": streams["layer"]})
    return keeper.result()


@pytest.mark.parametrize(
    "sizes",
    [[3], [1797], [256] * 10, [100] * 500, [1] * 1000, [256, 256, 3], [7, 300, 1, 64]],
    ids=lambda sizes: f"{len(sizes)} batches",
)
def test_rows_of_all_streams_are_of_the_same_samples(sizes: list[int]) -> None:
    sample = kept(sizes)
    assert len(sample.batch) <= KEPT
    assert list(sample.rows) == ["layer"]
    assert torch.equal(sample.rows["layer"], -sample.companion)
    assert torch.equal(sample.rows["layer"][:, 0], sample.batch.float())
    assert len({tuple(row) for row in sample.rows["layer"].tolist()}) == len(sample.batch)
    assert sample.weight.sum().item() == pytest.approx(sum(sizes))


@pytest.mark.parametrize("together", [2, 3, 7, 1000])
def test_batches_that_come_together_are_kept_as_if_one_by_one(together: int) -> None:
    for sizes in ([256] * 30, [1] * 1000, [7, 300, 1, 64, 2000, 5] * 20):
        one, some = kept(sizes), kept(sizes, together=together)
        for found, wanted in zip(vars(some).values(), vars(one).values(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("batches", [1, 2, 5, 33, 100, 3000])
def test_as_many_as_may_be_are_kept_and_of_many_batches(batches: int) -> None:
    sample = kept([256] * batches)
    assert len(sample.batch) >= min(KEPT // 2, 256 * batches)
    assert len(sample.batch.unique()) >= min(batches, KEPT // EACH // 2)
    assert sample.batch.max() - sample.batch.min() >= 0.8 * (batches - 1)
    places = sample.rows["layer"][:, 1]
    assert places.max() - places.min() > 150  # not the first rows of a batch only: it may be sorted


def test_samples_of_several_processes_are_joined() -> None:
    parts = [kept([64] * 20, 32), kept([10], 32), kept([5] * 3, 32)]
    joined = Sample.joined(parts)
    assert len(joined.batch) == sum(len(part.batch) for part in parts)
    assert len(joined.batch.unique()) == sum(len(part.batch.unique()) for part in parts)
    assert joined.weight.sum().item() == pytest.approx(64 * 20 + 10 + 15)
