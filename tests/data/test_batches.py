"""One way to go through data, and what is said where it cannot be gone through."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from featgeo.data.batches import Batches
from featgeo.errors import FeatgeoError

X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10)


def joined(data: object, **options: int) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*Batches(data, **options), strict=True)
    return torch.cat(inputs), torch.cat(targets)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, Y, strict=True))


def test_what_is_wrong_in_a_stream_of_this_library_is_told_as_it_is() -> None:
    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        raise FeatgeoError("layer", "no such layer", "Name one.")
        yield X, Y

    with pytest.raises(FeatgeoError, match=r"^layer: found no such layer"):
        next(iter(Batches(stream())))


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        [X, Y],
        (X.numpy(), Y.numpy()),
        DataLoader(TensorDataset(X, Y), batch_size=3),
        DataLoader(Stream(), batch_size=4),
        [(X[:3], Y[:3]), (X[3:], Y[3:])],
        [[X[:3].numpy(), Y[:3].tolist()], [X[3:].tolist(), Y[3:].numpy()]],
        [(X[:3], Y[:3]), (X[:0], Y[:0]), (X[3:], Y[3:])],
    ],
    ids=[
        "pair",
        "list pair",
        "arrays",
        "loader",
        "iterable loader",
        "batches",
        "nested lists",
        "empty batch",
    ],
)
def test_every_form_gives_the_same_samples_twice(data: object) -> None:
    batches = Batches(data, batch_size=4)
    for _ in range(2):
        inputs, targets = zip(*batches, strict=True)
        torch.testing.assert_close(torch.cat(inputs), X)
        torch.testing.assert_close(torch.cat(targets), Y)


def test_length_is_known_where_it_can_be() -> None:
    assert len(Batches((X, Y), 4)) == 3
    assert len(Batches(DataLoader(TensorDataset(X, Y), batch_size=3))) == 4
    assert len(Batches(iter([(X, Y)]))) == 0
    assert len(Batches(DataLoader(Stream(), batch_size=4))) == 0


def test_a_generator_serves_one_pass_and_says_so_at_the_second() -> None:
    batches = Batches(pair for pair in [(X, Y)])
    assert len(list(batches)) == 1
    with pytest.raises(FeatgeoError, match=r"spent after one pass.*re-iterable"):
        list(batches)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TensorDataset(X, Y), "a Dataset .TensorDataset..*DataLoader"),
        (Stream(), "a Dataset"),
        (X, "found a Tensor"),
        (X.numpy(), "found a ndarray"),
        ("digits", "found a str"),
        ({"x": X, "y": Y}, "found a dict"),
        (3, "found a int"),
        (None, "found a NoneType"),
        ((X, Y[:9]), "10 inputs and 9 targets"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "text",
)
def test_what_is_no_data_is_refused_at_once(data: object, message: str) -> None:
    with pytest.raises(FeatgeoError, match=message):
        Batches(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no batch at all"),
        (DataLoader(TensorDataset(X[:0], Y[:0]), batch_size=2), "no batch at all"),
        ([(X, Y), (X, Y, Y)], "batch 1 is a tuple, not a pair"),
        ([(X, Y), {"x": X}], r"batch 1 is a mapping with x\. Name the targets one of .*labels"),
        ([(X,)], "batch 0 is a tuple, not a pair"),
        ([(X, Y), X], "batch 1 is a Tensor, not a pair"),
        ([(X, Y), (X, ["a", "b"])], "batch 1"),
        ([(X, Y), ({"pixels": "none"}, Y)], "batch 1 inputs without a tensor"),
        ([(X[0], 3)], "batch 0"),
        ([(X, Y), (X[:4], Y[:3])], "batch 1.*4 inputs and 3 targets"),
    ],
    ids=[
        "empty",
        "empty loader",
        "triple",
        "dict",
        "single",
        "tensor",
        "text",
        "dict inputs",
        "sample",
        "length",
    ],
)
def test_a_bad_batch_is_named(data: object, message: str) -> None:
    with pytest.raises(FeatgeoError, match=message):
        list(Batches(data))


def test_a_loader_that_raises_is_named_by_batch() -> None:
    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        yield X, Y
        yield X, Y
        raise OSError("disk on fire")

    with pytest.raises(FeatgeoError, match="OSError raised by the loader at batch 2: disk on fire") as caught:
        list(Batches(loader()))
    assert isinstance(caught.value.__cause__, OSError)


def test_an_interrupt_is_nobodys_mistake() -> None:
    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        yield X, Y
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(Batches(loader()))


@pytest.mark.parametrize("size", [0, -1])
def test_batch_size_is_at_least_one(size: int) -> None:
    with pytest.raises(FeatgeoError, match="batch_size"):
        Batches((X, Y), size)


def test_arrays_of_text_are_refused() -> None:
    with pytest.raises(FeatgeoError, match="data"):
        list(Batches((X, np.array(["a"] * 10))))
