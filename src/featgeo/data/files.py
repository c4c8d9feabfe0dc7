"""Arrays from files, never through pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from featgeo.errors import FeatgeoError

NAMES = (("inputs", "targets"), ("x", "y"), ("X", "y"), ("features", "labels"))


def _load(path: Path, argument: str) -> object:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise FeatgeoError(argument, f"no file {path}", "Check the path.") from error
    except (ValueError, OSError, EOFError) as error:
        raise FeatgeoError(
            argument,
            f"{path}, which numpy cannot read without pickle ({error})",
            "Save plain arrays with numpy.savez.",
        ) from error


def read_pair(data: Path, targets: Path | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and targets from one .npz, or from a pair of .npy files.

    Args:
        data: a .npz with arrays ``inputs`` and ``targets`` (or x and y), or a .npy of inputs.
        targets: the .npy of targets, where ``data`` is a .npy.

    Raises:
        FeatgeoError: for a missing or unreadable file, or one without such arrays.
    """
    first = _load(data, "data")
    if isinstance(first, np.ndarray):
        if targets is None:
            raise FeatgeoError("targets", "none beside a .npy of inputs", "Pass the .npy of the targets too.")
        second = _load(targets, "targets")
        if not isinstance(second, np.ndarray):
            raise FeatgeoError("targets", f"{targets}, which is no .npy file", "Pass a .npy of the targets.")
        return torch.from_numpy(first), torch.from_numpy(second)
    assert isinstance(first, np.lib.npyio.NpzFile)
    with first:
        for inputs, labels in NAMES:
            if inputs in first and labels in first:
                return torch.from_numpy(first[inputs]), torch.from_numpy(first[labels])
        names = ", ".join(first.files) or "no array"
    raise FeatgeoError(
        "data", f"{data} with {names}", "Name the arrays 'inputs' and 'targets' (or 'x' and 'y')."
    )
