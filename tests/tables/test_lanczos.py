"""Block Lanczos against LAPACK, where it is easy and where it is not."""

import numpy as np
import pytest
import torch

from featgeo.errors import FeatgeoError
from featgeo.tables import lanczos
from featgeo.tables.lanczos import leading_eigenvectors
from featgeo.tables.modes import ModalDecomposition
from tests.tables.oracles import random_counts, same_up_to_sign

SIZE = 260
SPECTRA = {
    "falling": 0.8 ** np.arange(SIZE),
    "flat": np.linspace(1, 0.9, SIZE),
    "of rank 4": np.r_[4.0, 3, 2, 1, np.zeros(SIZE - 4)],
    "with equal values": np.r_[np.full(12, 1.0), np.full(12, 0.5), np.linspace(0.4, 0, SIZE - 24)],
    "with a wide range": 10.0 ** -np.linspace(0, 14, SIZE),
}


@pytest.mark.parametrize("count", [1, 10, 40])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_leading_eigenspace(name, count):
    rng, values = np.random.default_rng(0), SPECTRA[name]
    vectors = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    matrix = vectors[:, :-1] * values[:-1] @ vectors[:, :-1].T  # the last one is known to be null
    product, null = torch.from_numpy(matrix), torch.from_numpy(vectors[:, -1:].T)
    found = leading_eigenvectors(lambda v: v @ product, null, count, np.random.RandomState(0)).numpy().T
    np.testing.assert_allclose(found.T @ found, np.eye(count), atol=1e-12)
    np.testing.assert_allclose(found.T @ vectors[:, -1], 0, atol=1e-12)
    np.testing.assert_allclose(found.T @ matrix @ found, np.diag(values[:count]), atol=1e-12 * values[0])
    np.testing.assert_allclose(matrix @ found, found * values[:count], atol=1e-12 * values[0])


def test_products_that_are_not_those_of_a_matrix_end_in_an_error(monkeypatch):
    monkeypatch.setattr(lanczos, "PRODUCTS", 50)
    rng = np.random.default_rng(0)
    with pytest.raises(FeatgeoError, match="no convergence"):
        leading_eigenvectors(
            lambda v: torch.from_numpy(rng.normal(size=v.shape)),
            torch.empty((0, 500), dtype=torch.float64),
            3,
            np.random.RandomState(0),
        )


@pytest.mark.parametrize("turn", [np.asarray, np.asfortranarray, np.transpose])
@pytest.mark.parametrize("excluded", [None, [3, 4]])
def test_modes_of_a_table_are_lapacks_however_it_is_stored(turn, excluded):
    table = turn(random_counts(np.random.default_rng(1), 420, 350))
    options = {"n_components": 5, "exclude_rows": excluded}
    fit = ModalDecomposition(**options, random_state=0).fit(
        table
    )  # large enough for "auto" to choose Lanczos
    expected = ModalDecomposition(**options, solver="dense").fit(table)
    np.testing.assert_allclose(fit.correlations_, expected.correlations_, atol=1e-13)
    same_up_to_sign(fit.row_functions_[5:, :2], expected.row_functions_[5:, :2])
    same_up_to_sign(fit.column_functions_[:, :2], expected.column_functions_[:, :2])
    np.testing.assert_allclose(fit.row_inertia_[5:], expected.row_inertia_[5:], atol=1e-15)
