"""Arrays from files, without pickle."""

from pathlib import Path

import numpy as np
import pytest
import torch

from featgeo.data.files import NAMES, read_pair
from featgeo.errors import FeatgeoError

X, Y = np.arange(6.0).reshape(3, 2), np.arange(3)


@pytest.mark.parametrize("names", NAMES)
def test_npz(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "data.npz", **dict(zip(names, (X, Y), strict=True)))
    inputs, targets = read_pair(tmp_path / "data.npz")
    torch.testing.assert_close(inputs, torch.from_numpy(X))
    torch.testing.assert_close(targets, torch.from_numpy(Y))


def test_pair_of_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    inputs, targets = read_pair(tmp_path / "x.npy", tmp_path / "y.npy")
    torch.testing.assert_close(inputs, torch.from_numpy(X))
    torch.testing.assert_close(targets, torch.from_numpy(Y))


def test_every_mistake_is_named(tmp_path: Path) -> None:
    missing, text = tmp_path / "none.npz", tmp_path / "text.npz"
    text.write_text("no arrays here")
    empty = tmp_path / "empty.npy"
    empty.write_bytes(b"")
    other, pair = tmp_path / "other.npz", tmp_path / "pair.npz"
    pickled, inputs = tmp_path / "pickled.npy", tmp_path / "x.npy"
    np.savez(other, pixels=X, digits=Y)
    np.savez(pair, x=X, y=Y)
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(inputs, X)
    cases = [
        (missing, None, "data: found no file"),
        (text, None, "without pickle"),
        (empty, None, "without pickle"),
        (pickled, inputs, "without pickle"),
        (other, None, "pixels, digits"),
        (inputs, None, "targets: found none"),
        (inputs, pair, "no .npy file"),
        (inputs, missing, "targets: found no file"),
    ]
    for data, targets, message in cases:
        with pytest.raises(FeatgeoError, match=message):
            read_pair(data, targets)


def test_an_npz_with_an_object_array_is_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, allow_pickle=True, inputs=np.array([{"a": 1}], dtype=object), targets=Y)
    with pytest.raises(FeatgeoError, match="pickle"):
        read_pair(path)


def test_a_damaged_npz_and_an_array_of_text_are_named(tmp_path: Path) -> None:
    damaged, text = tmp_path / "damaged.npz", tmp_path / "text.npz"
    np.savez(damaged, inputs=X, targets=Y)
    damaged.write_bytes(damaged.read_bytes()[:-40])
    np.savez(text, inputs=X, targets=np.array(["a", "b", "c"]))
    for path in (damaged, text):
        with pytest.raises(FeatgeoError, match=path.name):
            read_pair(path)
