"""Moments in one pass: as exact as two passes in float64, and blind to how the stream was cut."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from featgeo.data.moments import BLOCK, Companion, Moments, MomentStream
from featgeo.data.waiting import ROWS
from featgeo.errors import FeatgeoError

TIGHT = {"rtol": 1e-10, "atol": 1e-10}


def two_pass(x: Tensor, u: Tensor) -> tuple[np.ndarray, ...]:
    """Means, Cov(x) and Cov(u, x) by numpy in float64."""
    rows, side = x.numpy().astype(np.float64), u.numpy().astype(np.float64)
    mean, companion = rows.mean(0), side.mean(0)
    centred = rows - mean
    return mean, companion, centred.T @ centred / len(x), (side - companion).T @ centred / len(x)


def one_pass(x: Tensor, u: Tensor, sizes: list[int] | int) -> Moments:
    """A pair of streams fed batch by batch, as a sweep over data feeds them."""
    features, outputs = MomentStream("features"), MomentStream("outputs")
    for rows, side in zip(x.split(sizes), u.split(sizes), strict=True):
        centred, shift = outputs.centre(side)
        companion = Companion.of(centred, shift)
        outputs.add(centred, companion)
        features.add(features.centre(rows)[0], companion)
    found, alone = features.result(), outputs.result()
    torch.testing.assert_close(found.companion, alone.mean, rtol=1e-6, atol=1e-5)
    return found


def feed(stream: MomentStream, *batches: Tensor) -> Moments:
    """A stream that is its own companion."""
    for rows in batches:
        centred, shift = stream.centre(rows)
        stream.add(centred, Companion.of(centred, shift))
    return stream.result()


def sample(seed: int, count: int, dtype: torch.dtype, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(6, 6, generator=generator, dtype=torch.float64) / 6**0.5
    u = x[:, :3].tanh() + torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return (x + offset).to(dtype), (u + offset).to(dtype)


def relative(found: Tensor, wanted: np.ndarray, scale: np.ndarray) -> float:
    """Largest error in units of the product of standard deviations, the scale of a covariance's entries."""
    return float(np.abs(found.numpy() - wanted).max() / scale.max())


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e4])
def test_float32_with_a_large_mean_agrees_with_two_passes(batch: int, offset: float) -> None:
    x, u = sample(0, 4000, torch.float32, offset)
    found, (mean, companion, covariance, cross) = one_pass(x, u, batch), two_pass(x, u)
    assert found.count == 4000
    np.testing.assert_allclose(found.mean, mean, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(found.companion, companion, rtol=1e-7, atol=1e-6)
    diagonal = covariance.diagonal()
    assert np.abs(found.covariance.numpy().diagonal() / diagonal - 1).max() < 1e-4
    assert relative(found.covariance, covariance, diagonal) < 1e-4
    assert relative(found.cross_covariance, cross, diagonal) < 1e-4
    assert {t.dtype for t in (found.mean, found.companion, found.covariance, found.cross_covariance)} == {
        torch.float64
    }


def test_a_naive_sum_of_squares_fails_here() -> None:
    """The data of the test above do break E[x²] - E[x]² in float32: the test can fail."""
    x, u = sample(0, 4000, torch.float32, 1e4)
    naive = (x.T @ x / len(x) - x.mean(0).outer(x.mean(0))).double()
    covariance = two_pass(x, u)[2]
    assert relative(naive, covariance, covariance.diagonal()) > 0.1


def test_a_drifting_mean_and_sorted_data() -> None:
    """Batches whose own means are far apart: the block's shift is near none but the first."""
    x, u = sample(1, 3000, torch.float32)
    x, u = x[x[:, 0].argsort()], u[x[:, 0].argsort()]
    x = x + torch.linspace(0, 300, 3000)[:, None]
    found, (_, _, covariance, cross) = one_pass(x, u, 50), two_pass(x, u)
    assert relative(found.covariance, covariance, covariance.diagonal()) < 1e-5
    assert relative(found.cross_covariance, cross, np.sqrt(covariance.diagonal())) < 1e-5


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3 * BLOCK), seed=st.integers(0, 10**6))
def test_any_split_gives_the_same_moments(sizes: list[int], seed: int) -> None:
    x, u = sample(seed, sum(sizes), torch.float64, 50.0)
    found, wanted = one_pass(x, u, sizes), two_pass(x, u)
    for ours, theirs in zip(
        (found.mean, found.companion, found.covariance, found.cross_covariance), wanted, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_any_merge_order_gives_the_same_moments(data: st.DataObject, seed: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=8))
    x, u = sample(seed, sum(sizes), torch.float64, 50.0)
    parts = [Moments.of(rows, side) for rows, side in zip(x.split(sizes), u.split(sizes), strict=True)]
    whole = Moments.of(x, u)
    while len(parts) > 1:  # a random binary tree over a random order
        left = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        right = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(left.merge(right))
    assert parts[0].count == whole.count
    for name in ("mean", "companion", "covariance", "cross_covariance"):
        torch.testing.assert_close(getattr(parts[0], name), getattr(whole, name), rtol=1e-10, atol=1e-12)


def test_covariances_are_those_of_the_data() -> None:
    x, u = sample(3, 50, torch.float64)
    both = np.cov(np.hstack([u.numpy(), x.numpy()]).T, bias=True)
    moments = Moments.of(x, u)
    np.testing.assert_allclose(moments.covariance, both[3:, 3:], **TIGHT)
    np.testing.assert_allclose(moments.cross_covariance, both[:3, 3:], **TIGHT)
    assert Moments.of(x).cross_covariance.shape == (0, 6)


def test_moments_move_between_devices() -> None:
    x, u = sample(3, 50, torch.float64)
    moved = Moments.of(x, u).to("meta")
    assert moved.count == 50
    assert moved.covariance.device.type == moved.cross_covariance.device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_summed_in_float32(dtype: torch.dtype) -> None:
    x, u = sample(4, 3000, dtype, 3.0)
    found, (_, _, covariance, _) = one_pass(x, u, 100), two_pass(x.float(), u.float())
    assert relative(found.covariance, covariance, covariance.diagonal()) < 1e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch", [0, 3, BLOCK - 1, BLOCK, 2 * BLOCK + 5])
def test_values_that_are_not_finite_are_named_by_batch(batch: int, bad: float) -> None:
    batches = [torch.randn(4, 2) for _ in range(3 * BLOCK)]
    batches[batch][1, 1] = bad
    with pytest.raises(FeatgeoError, match=rf"layer 'fc'.*NaN or infinite values in batch {batch}\."):
        feed(MomentStream("layer 'fc'"), *batches)


def test_squares_that_overflow_are_said() -> None:
    with pytest.raises(FeatgeoError, match="squares overflow"):
        feed(MomentStream("layer 'fc'"), torch.tensor([[1e30], [-1e30]]))


def test_nothing_added_is_an_error() -> None:
    with pytest.raises(FeatgeoError, match=r"layer 'fc'.*no samples"):
        MomentStream("layer 'fc'").result()


@pytest.mark.parametrize("before", [1, BLOCK, BLOCK + 1])
def test_a_width_that_changes_is_an_error(before: int) -> None:
    batches = [torch.randn(4, 2)] * before + [torch.randn(4, 3)]
    with pytest.raises(FeatgeoError, match="width 3 after 2 in earlier batches"):
        feed(MomentStream("layer 'fc'"), *batches)


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("sizes", [[10, 16, 14], [1, ROWS, 7], [700, 700, 300]])
def test_batches_that_wait_are_counted_together(here: bool, sizes: list[int]) -> None:
    x, u = sample(0, sum(sizes), torch.float64, 5.0)
    stream, shift = MomentStream("x"), u[:5].mean(0)
    for part in x.split(sizes):
        centred, centre = stream.centre(part, here=here)
        assert torch.equal(centred, part - centre)
        stream.wait(centred)
    stream.count(Companion.of(u - shift, shift))
    for ours, theirs in zip(
        (
            stream.result().mean,
            stream.result().companion,
            stream.result().covariance,
            stream.result().cross_covariance,
        ),
        two_pass(x, u),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_rows_that_were_written_behind_those_that_wait_and_did_not_wait_are_lost() -> None:
    x, u = sample(0, 30, torch.float64)
    stream = MomentStream("x")
    for part, stays in zip(x.split(10), (True, False, True), strict=True):
        centred, _ = stream.centre(part, here=True)
        if stays:
            stream.wait(centred)
    seen = torch.cat([u[:10], u[20:]])
    stream.count(Companion.of(seen, torch.zeros(3, dtype=torch.float64)))
    np.testing.assert_allclose(
        stream.result().covariance, two_pass(torch.cat([x[:10], x[20:]]), seen)[2], rtol=1e-10
    )
