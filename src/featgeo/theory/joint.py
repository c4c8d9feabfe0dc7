"""The joint distribution P_XY of a finite problem: reading it, checking it, measuring its dependence."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from featgeo.errors import FeatgeoError


def as_float64(values: ArrayLike | Tensor, argument: str) -> Tensor:
    """A float64 tensor of anything numeric; NaN and infinity are refused."""
    try:
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(_real_array(values))
    except (TypeError, ValueError) as error:
        raise FeatgeoError(
            argument, f"{type(values).__name__} that is not numeric", "Pass numbers."
        ) from error
    if tensor.is_complex():
        raise FeatgeoError(argument, "complex numbers", "Pass real numbers.")
    tensor = tensor.detach().to(torch.float64)
    if not torch.isfinite(tensor).all():
        raise FeatgeoError(argument, "NaN or infinite entries", "Remove or replace them.")
    return tensor


def _real_array(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values)
    return array if np.iscomplexobj(array) else array.astype(np.float64)


def read_joint(
    joint: ArrayLike | Tensor | tuple[object, object],
) -> tuple[Tensor, np.ndarray | None]:
    """P_XY (|X|, |Y|) from counts, probabilities or a pair of sample columns.

    Returns:
        The normalised joint, and the distinct y in the order of its columns where samples were given.

    Raises:
        FeatgeoError: negative, NaN, infinite or all-zero entries; not two-dimensional; columns of unequal length.
    """
    labels = None
    if isinstance(joint, tuple):
        if len(joint) != 2:
            raise FeatgeoError(
                "joint", f"a tuple of {len(joint)}", "Pass a table, or a pair (x, y) of samples."
            )
        x, y = (np.asarray(part) for part in joint)
        if x.shape[:1] != y.shape[:1] or x.ndim != 1 or y.ndim != 1 or not len(x):
            raise FeatgeoError(
                "joint",
                f"sample columns of shapes {x.shape} and {y.shape}",
                "Pass two non-empty columns of one length.",
            )
        rows, columns = np.unique(x, return_inverse=True), np.unique(y, return_inverse=True)
        table = np.zeros((len(rows[0]), len(columns[0])))
        np.add.at(table, (rows[1], columns[1]), 1.0)
        labels, counts = columns[0], torch.from_numpy(table)
    else:
        counts = as_float64(joint, "joint")
    if counts.ndim != 2 or 0 in counts.shape:
        raise FeatgeoError(
            "joint", f"shape {tuple(counts.shape)}", "Pass a table joint[x, y] with two dimensions."
        )
    if (counts < 0).any():
        i, j = (int(v) for v in (counts < 0).nonzero()[0])
        raise FeatgeoError(
            "joint", f"a negative entry at [{i}, {j}]", "Counts and probabilities are at least 0."
        )
    total = counts.sum()
    if total <= 0:
        raise FeatgeoError("joint", "only zeros", "Pass a table with at least one positive entry.")
    return counts / total, labels


def joint_notes(joint: Tensor) -> list[str]:
    """What is degenerate about a joint, in words: values that never occur, or a single value."""
    notes = []
    for axis, name in ((1, "rows (values of x)"), (0, "columns (values of y)")):
        empty = (joint.sum(axis) == 0).nonzero()[:, 0].tolist()
        if empty:
            notes.append(f"joint: {name} {empty[:8]} have probability zero; they take no part in any mode.")
        if joint.shape[1 - axis] - len(empty) == 1:
            notes.append(
                f"joint: only one of the {name} has positive probability; there is nothing to learn."
            )
    return notes


def dependence(joint: Tensor) -> float:
    """ε = √χ²(P_XY ‖ P_X P_Y), the Frobenius norm of the canonical dependence matrix; at most √(min(|X|, |Y|) - 1)."""
    product = joint.sum(1)[:, None] * joint.sum(0)
    live = product > 0
    return ((joint - product)[live].square() / product[live]).sum().sqrt().item()
