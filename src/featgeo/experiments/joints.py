"""Random joint distributions whose dependence is set exactly."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
SHAPE = 0.3  # of the gamma law of the entries: skewed enough for ε = 1 to leave no entry negative


def random_direction(rng: np.random.Generator, rows: int, columns: int) -> tuple[Array, Array, Array, float]:
    """A joint distribution with moderate margins, as P = P_X P_Y + ε D.

    Returns:
        P_X (rows,), P_Y (columns,), the direction D (rows, columns) of unit dependence, and the largest ε for which P
        has no negative entry.
    """
    p_x, p_y = (0.5 + rng.random(size) for size in (rows, columns))
    p_x, p_y = p_x / p_x.sum(), p_y / p_y.sum()
    table = rng.gamma(SHAPE, size=(rows, columns)) + 1e-2
    for _ in range(500):  # Sinkhorn's iteration towards the margins
        table *= (p_x / table.sum(1))[:, None]
        table *= p_y / table.sum(0)
    product = np.outer(p_x, p_y)
    direction = table - product
    size = float(np.sqrt((direction**2 / product).sum()))
    return p_x, p_y, direction / size, size


def random_family(seed: int, rows: int, columns: int, largest: float = 1.0) -> tuple[Array, Array]:
    """P_X P_Y and a direction D of unit dependence such that P_X P_Y + ε D is a distribution for ε up to `largest`.

    Raises:
        ValueError: where no such direction was found, the largest possible ε being √(min(rows, columns) - 1).
    """
    rng = np.random.default_rng([seed, rows, columns])
    for _ in range(200):
        p_x, p_y, direction, limit = random_direction(rng, rows, columns)
        if limit >= 1.02 * largest:
            return np.outer(p_x, p_y), direction
    raise ValueError(f"no {rows} by {columns} joint distribution of dependence {largest} was found")


def joint_of(family: tuple[Array, Array], epsilon: float) -> Tensor:
    """P_X P_Y + ε D (|X|, |Y|)."""
    product, direction = family
    return torch.from_numpy(product + epsilon * direction)


def sampled(joint: Tensor, size: int, seed: int) -> Tensor:
    """The empirical joint distribution of that many independent samples."""
    rng = np.random.default_rng([seed, size])
    counts = rng.multinomial(size, (joint / joint.sum()).numpy().ravel())
    return torch.from_numpy(counts.reshape(joint.shape) / size)


def uniform_family(seed: int, rows: int, columns: int) -> tuple[Array, Array]:
    """P_X P_Y and P - P_X P_Y of a table of independent uniform entries, normalised."""
    table = np.random.default_rng([seed, rows, columns, 1]).random((rows, columns))
    table /= table.sum()
    product = np.outer(table.sum(1), table.sum(0))
    return product, table - product
