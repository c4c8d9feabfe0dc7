"""Correspondence analysis by the textbook's own formulas, and tables from the literature, typed in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Greenacre, Theory and Applications of Correspondence Analysis, Academic Press, 1984, table 3.1: staff of a company
# (senior managers, junior managers, senior employees, junior employees, secretaries) by smoking (none, light,
# medium, heavy).
SMOKING = np.array(
    [[4, 2, 3, 2], [4, 3, 7, 4], [25, 10, 12, 4], [18, 24, 33, 13], [10, 6, 7, 2]], dtype=float
)
# Snee, Graphical Display of Two-Way Contingency Tables, The American Statistician 28(1), 1974: 592 students, hair
# (black, brown, red, blond) by eyes (brown, blue, hazel, green).
SNEE = np.array([[68, 20, 15, 5], [119, 84, 54, 29], [26, 17, 14, 14], [7, 94, 10, 16]], dtype=float)
# Fisher, The Precision of Discriminant Functions, Annals of Eugenics 10, 1940: 5,387 schoolchildren of Caithness, eyes
# (blue, light, medium, dark) by hair (fair, red, medium, dark, black).
CAITHNESS = np.array(
    [[326, 38, 241, 110, 3], [688, 116, 584, 188, 4], [343, 84, 909, 412, 26], [98, 48, 403, 681, 85]],
    dtype=float,
)


@dataclass(frozen=True)
class Textbook:
    """Results with every symbol of the textbook; modes in descending order, signs arbitrary."""

    values: np.ndarray
    row_standard: np.ndarray
    column_standard: np.ndarray
    row_principal: np.ndarray
    column_principal: np.ndarray
    row_contributions: np.ndarray
    column_contributions: np.ndarray
    row_cos2: np.ndarray
    column_cos2: np.ndarray
    inertia: float


def textbook(table: np.ndarray) -> Textbook:
    """By the eigenvectors of the profiles' transition matrix, not by the singular vectors of B.

    D_r⁻¹ P D_c⁻¹ Pᵀ maps f to E[E[f | Y] | X]; its eigenfunctions are the maximal correlation functions.
    """
    p = np.asarray(table, dtype=float) / np.sum(table)
    r, c = p.sum(1), p.sum(0)
    forward, backward = p / r[:, None], (p / c).T  # P(y | x) and P(x | y)
    count = min(p.shape) - 1
    squares, f = np.linalg.eig(forward @ backward)
    order = np.argsort(-squares.real)[1 : count + 1]  # the constant function comes first
    squares, f = squares.real[order], f.real[:, order]
    f = f - r @ f
    f /= np.sqrt(r @ f**2)
    values = np.sqrt(np.maximum(squares, 0))
    g = backward @ f / values
    rows, columns = f * values, g * values
    row_distance = ((forward - c) ** 2 / c).sum(1)
    column_distance = ((backward - r) ** 2 / r).sum(1)
    return Textbook(
        values,
        f,
        g,
        rows,
        columns,
        r[:, None] * rows**2 / squares,
        c[:, None] * columns**2 / squares,
        rows**2 / row_distance[:, None],
        columns**2 / column_distance[:, None],
        float(((p - np.outer(r, c)) ** 2 / np.outer(r, c)).sum()),
    )


def same_up_to_sign(found: np.ndarray, expected: np.ndarray, atol: float = 1e-8) -> None:
    """Columns equal up to the sign of each."""
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=atol)


def random_counts(rng: np.random.Generator, rows: int, columns: int, mean: float = 20.0) -> np.ndarray:
    """Counts with rank-two dependence and no empty row or column."""
    f, g = rng.normal(size=(rows, 2)), rng.normal(size=(columns, 2))
    rates = np.exp(0.5 * f @ g.T) * rng.gamma(3, 1, (rows, 1)) * rng.gamma(3, 1, columns)
    return rng.poisson(mean * rates / rates.mean()).astype(float) + np.eye(rows, columns)
