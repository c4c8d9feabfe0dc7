"""Arrays from files, never through pickle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from featgeo.errors import FeatgeoError

NAMES = (("inputs", "targets"), ("x", "y"), ("X", "y"), ("features", "labels"))


@contextmanager
def _reading(path: Path, argument: str) -> Iterator[None]:
    """Names the argument and the file in whatever goes wrong while it is read."""
    try:
        yield
    except FileNotFoundError as error:
        raise FeatgeoError(argument, f"no file {path}", "Check the path.") from error
    except (ValueError, TypeError, OSError, EOFError, BadZipFile) as error:
        raise FeatgeoError(
            argument,
            f"{path}, which cannot be read as numbers without pickle ({error})",
            "Save plain arrays with numpy.savez.",
        ) from error


def _read(path: Path, argument: str) -> list[Tensor]:
    """The array of a .npy, or inputs and targets of a .npz."""
    with _reading(path, argument), path.open("rb") as file:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return [torch.from_numpy(loaded)]
        for names in NAMES:
            if all(name in loaded for name in names):
                return [torch.from_numpy(loaded[name]) for name in names]
        found = ", ".join(loaded) or "no array"
    raise FeatgeoError(
        argument, f"{path} with {found}", "Name the arrays 'inputs' and 'targets' (or 'x' and 'y')."
    )


def read_pair(data: Path, targets: Path | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets from one .npz, or from a pair of .npy files.

    Args:
        data: a .npz with arrays ``inputs`` and ``targets`` (or x and y), or a .npy of inputs.
        targets: the .npy of targets, where ``data`` is a .npy.

    Raises:
        FeatgeoError: for a missing or unreadable file, or one without such arrays.
    """
    first = _read(data, "data")
    if len(first) == 2:
        return first[0], first[1]
    if targets is None:
        raise FeatgeoError("targets", "none beside a .npy of inputs", "Pass the .npy of the targets too.")
    second = _read(targets, "targets")
    if len(second) == 2:
        raise FeatgeoError("targets", f"{targets}, which is no .npy file", "Pass a .npy of the targets.")
    return first[0], second[0]
