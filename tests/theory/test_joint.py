"""Canonical facts: information measures and correspondence analysis, against scipy and numpy from the table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_iris, load_wine

import featgeo as fg

from .oracles import EPSILONS, order, random_joint

Table = NDArray[np.float64]

# Snee (1974): hair (black, brown, red, blond) by eyes (brown, blue, hazel, green) of 592 students; the principal
# inertias are those printed by every textbook on correspondence analysis.
HAIR_EYE = np.array([[68, 20, 15, 5], [119, 84, 54, 29], [26, 17, 14, 14], [7, 94, 10, 16]], dtype=float)
HAIR_EYE_INERTIAS = (0.208773, 0.022227, 0.002598)


def binned(values: NDArray[np.float64], labels: NDArray[np.int64], bins: int) -> Table:
    """Counts of quantile bins of a feature (rows) by class (columns)."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    table = np.zeros((bins, labels.max() + 1))
    np.add.at(table, (np.digitize(values, edges), labels), 1)
    return table


def tables() -> dict[str, Table]:
    iris, wine = load_iris(), load_wine()
    rng = np.random.default_rng(0)
    named = {
        "hair_eye": HAIR_EYE,
        "random": rng.random((9, 4)),
        "tall": rng.random((40, 3)),
        "wide": rng.random((3, 12)),
    }
    for column in range(4):
        named[f"iris_{column}"] = binned(iris.data[:, column], iris.target, 5)
    for column in (0, 6, 9):
        named[f"wine_{column}"] = binned(wine.data[:, column], wine.target, 6)
    named["counts_with_zeros"] = rng.poisson(1.0, (8, 5)) + np.eye(8, 5)
    return named


TABLES = tables()


def correspondence_analysis(table: Table) -> Table:
    """Singular values of the standardised residuals, after Greenacre."""
    shares = table / table.sum()
    rows, columns = shares.sum(1), shares.sum(0)
    residuals = np.diag(rows**-0.5) @ (shares - np.outer(rows, columns)) @ np.diag(columns**-0.5)
    return np.linalg.svd(residuals, compute_uv=False)


@pytest.mark.parametrize("name", TABLES)
def test_singular_values_are_those_of_correspondence_analysis(name: str) -> None:
    table = TABLES[name]
    expected = correspondence_analysis(table)
    found = fg.local_problem(table).singular_values.numpy()
    assert np.abs(found - expected[: len(found)]).max() < 1e-10
    assert np.abs(expected[len(found) :]).max(initial=0) < 1e-10
    transposed = fg.local_problem(table.T).singular_values.numpy()
    assert np.abs(transposed - expected[: len(transposed)]).max() < 1e-10


def test_published_inertias_of_hair_and_eye_colour() -> None:
    inertias = fg.local_problem(HAIR_EYE).singular_values.square()
    assert np.allclose(inertias[:3].numpy(), HAIR_EYE_INERTIAS, atol=5e-7)


@pytest.mark.parametrize("name", TABLES)
def test_dependence_is_the_mean_square_contingency(name: str) -> None:
    table = TABLES[name]
    statistic = stats.chi2_contingency(table, correction=False).statistic
    problem = fg.local_problem(table)
    assert abs(problem.dependence**2 - statistic / table.sum()) < 1e-12
    assert abs(problem.dependence - problem.B.norm().item()) < 1e-12


@pytest.mark.parametrize("name", TABLES)
def test_entropies_of_log_loss(name: str) -> None:
    table = TABLES[name]
    problem = fg.local_problem(table)
    margin = table.sum(0) / table.sum()
    assert abs(problem.entropy - stats.entropy(margin)) < 1e-12
    rows = table.sum(1) / table.sum()
    given = sum(p * stats.entropy(row) for p, row in zip(rows, table, strict=True))
    assert abs(problem.conditional_entropy - given) < 1e-12
    for x, row in enumerate(table):
        assert abs(problem.divergence(x) - stats.entropy(row, margin)) < 1e-12


def test_information_is_half_the_squared_norm_to_second_order() -> None:
    errors = []
    for seed in range(4):
        errors.append([])
        for epsilon in EPSILONS:
            problem = fg.local_problem(random_joint(seed, 7, 5, epsilon))
            information = problem.entropy - problem.conditional_entropy
            errors[-1].append(information - 0.5 * problem.B.square().sum().item())
            assert abs(problem.dependence - epsilon) < 1e-12
    assert order(errors) >= 2.8


def test_entropies_of_squared_error() -> None:
    """The variance, the variance within, and the squared distance of means; per output."""
    rng = np.random.default_rng(1)
    table, values = rng.random((6, 4)), rng.standard_normal((4, 3))
    problem = fg.local_problem(table, loss="mse", y_values=values)
    shares = table / table.sum()
    mean = shares.sum(0) @ values
    total = shares.sum(0) @ ((values - mean) ** 2).mean(1)
    given = (shares @ values) / shares.sum(1, keepdims=True)
    between = shares.sum(1) @ ((given - mean) ** 2).mean(1)
    assert abs(problem.entropy - total) < 1e-12
    assert abs(problem.conditional_entropy - (total - between)) < 1e-12
    for x in range(6):
        assert abs(problem.divergence(x) - ((given[x] - mean) ** 2).mean()) < 1e-12


def test_samples_and_table_are_the_same_problem() -> None:
    iris = load_iris()
    bins = np.digitize(iris.data[:, 2], (2.0, 4.0, 5.0)).astype(str)
    names = iris.target_names[iris.target]
    table = np.array(
        [[np.sum((bins == b) & (names == n)) for n in np.unique(names)] for b in np.unique(bins)]
    )
    assert torch.equal(fg.local_problem((bins, names)).B, fg.local_problem(table).B)
    lengths = np.round(iris.data[:, 3])
    from_samples = fg.local_problem((bins, lengths), loss="mse")
    assert abs(from_samples.action.item() - lengths.mean()) < 1e-12
    assert abs(from_samples.entropy - lengths.var()) < 1e-12


def test_counts_and_probabilities_are_the_same_problem() -> None:
    scaled = fg.local_problem(HAIR_EYE * 1e200)
    assert torch.allclose(scaled.B, fg.local_problem(torch.from_numpy(HAIR_EYE).int()).B, atol=1e-14)


def test_label_order_does_not_matter() -> None:
    problem = fg.local_problem(HAIR_EYE, y_values=[2, 0, 3, 1])
    permuted = fg.local_problem(HAIR_EYE[:, [1, 3, 0, 2]])
    assert torch.allclose(problem.action, permuted.action)
    assert torch.allclose(problem.B, permuted.B)


def test_soft_labels_pull_the_modes_in() -> None:
    """With labels (1 - ρ) one-hot + ρ P_Y every canonical correlation shrinks by 1 - ρ."""
    margin = HAIR_EYE.sum(0) / HAIR_EYE.sum()
    soft = 0.7 * np.eye(4) + 0.3 * margin
    problem = fg.local_problem(HAIR_EYE, y_values=soft)
    assert np.allclose(problem.singular_values.numpy(), 0.7 * correspondence_analysis(HAIR_EYE), atol=1e-12)
    cross = -(HAIR_EYE / HAIR_EYE.sum() @ soft * np.log(margin)).sum()
    assert abs(problem.entropy - cross) < 1e-12
