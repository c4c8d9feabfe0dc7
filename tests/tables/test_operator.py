"""B as an operator on the counts, against B written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from featgeo.errors import FeatgeoError
from featgeo.tables.counts import make_table
from featgeo.tables.modes import ModalDecomposition
from featgeo.tables.operator import dependence
from tests.tables.oracles import random_counts, same_up_to_sign


def written_out(counts, rows=(), columns=()):
    """B of the categories that are not excluded, with the margins of all."""
    p = counts / counts.sum()
    r, c = p.sum(1), p.sum(0)
    b = (p - np.outer(r, c)) / np.sqrt(np.outer(r, c))
    return np.delete(np.delete(b, rows, axis=0), columns, axis=1)


def read_only(counts):
    counts = counts.copy()
    counts.setflags(write=False)
    return counts


def strided(counts):
    wide = np.zeros((2 * counts.shape[0], counts.shape[1]))
    wide[::2] = counts
    return wide[::2]


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("form", [np.asarray, np.asfortranarray, read_only, strided, sparse.csr_array])
@pytest.mark.parametrize(("rows", "columns"), [((), ()), ((3, 200), ()), ((0,), (7, 9))])
def test_products_and_sums_of_squares(form, rows, columns, threads):
    rng = np.random.default_rng(0)
    # More than one block, and rows that the threads do not share evenly.
    counts = random_counts(rng, 251, 640)
    counts[:, 40:] = np.where(rng.random((251, 600)) < 0.03, counts[:, 40:], 0) + np.eye(251, 600)
    counts[0, counts.sum(axis=0) == 0] = 1
    full = written_out(counts, rows, columns)
    b = dependence(make_table(form(counts), None, None, rows, columns))
    if form is sparse.csr_array:  # a table of this size is taken for dense
        b = replace(b, counts=sparse.csr_array(b.counts))
    for v in (rng.normal(size=full.shape[1]), rng.normal(size=(full.shape[1], 8))):
        np.testing.assert_allclose(b.times(v), full @ v, atol=1e-13)
        np.testing.assert_allclose(b.gram_times(v), full.T @ (full @ v), atol=1e-13)
        np.testing.assert_allclose(b.T.gram_times(full @ v), full @ (full.T @ (full @ v)), atol=1e-13)
    matrix = b.matrix.toarray() - np.outer(b.root_rows, b.root_columns) if b.sparse else b.matrix
    np.testing.assert_allclose(matrix, full, atol=1e-15)
    np.testing.assert_allclose(b.inertia, (full**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(b.side_inertias[0], (full**2).sum(axis=1), rtol=1e-11)
    np.testing.assert_allclose(b.side_inertias[1], (full**2).sum(axis=0), rtol=1e-11)


def nearly_independent(rng):
    """Correlations of about 1e-5, far from each other."""
    f, g = (np.linalg.qr(rng.normal(size=(size, 4)))[0] * np.sqrt(size) for size in (500, 400))
    return np.outer(rng.gamma(3, 1, 500), rng.gamma(3, 1, 400)) * (1 + f * [1e-5, 8e-6, 6e-6, 4e-6] @ g.T)


def of_every_size(rng):
    """Masses over nine orders of magnitude."""
    return random_counts(rng, 500, 400) * np.outer(
        10 ** rng.uniform(-5, 0, 500), 10 ** rng.uniform(-4, 0, 400)
    )


def in_clusters(rng):
    """Two blocks that nearly do not meet, and a cluster of equal correlations behind."""
    counts = np.kron(np.eye(2) * 1e4 + 1, np.ones((250, 200)))
    counts[np.arange(400), np.arange(400)] += 3e5
    return counts + rng.random(counts.shape)


def noise(rng):
    return rng.poisson(30, (500, 400)).astype(float)


@pytest.mark.parametrize("turn", [np.asarray, np.asfortranarray])
@pytest.mark.parametrize("make", [nearly_independent, of_every_size, in_clusters, noise])
def test_modes_of_hard_tables_are_those_of_b_written_out(make, turn):
    counts = make(np.random.default_rng(0))
    left, values, right = np.linalg.svd(written_out(counts))
    fit = ModalDecomposition(n_components=6, solver="lanczos", random_state=0).fit(turn(counts))
    # Rounding in a cell of P is 1e-16 of √(r c), whatever the dependence.
    np.testing.assert_allclose(fit.correlations_, values[:6], rtol=1e-12, atol=1e-15)
    apart = [k for k in range(4) if min(abs(np.delete(values, k) - values[k])) > 1e-3 * values[k]]
    p = counts / counts.sum()
    same_up_to_sign((fit.row_functions_ * np.sqrt(p.sum(1))[:, None])[:, apart], left[:, apart])
    same_up_to_sign((fit.column_functions_ * np.sqrt(p.sum(0))[:, None])[:, apart], right.T[:, apart])


@pytest.mark.parametrize("solver", ["lanczos", "arpack"])
def test_a_tolerance_bounds_the_residuals(solver):
    counts = noise(np.random.default_rng(0))
    b = written_out(counts)
    exact = np.linalg.svd(b)[1][:5]
    products = []
    for tol in (0.0, 1e-3):
        fit = ModalDecomposition(n_components=5, solver=solver, tol=tol, random_state=0).fit(counts)
        v = fit.column_functions_ * np.sqrt(counts.sum(0) / counts.sum())[:, None]
        left_over = np.linalg.norm(b.T @ (b @ v) - v * fit.correlations_**2, axis=0) / fit.correlations_**2
        assert left_over.max() <= max(2 * tol, 1e-12)
        np.testing.assert_allclose(fit.correlations_, exact, rtol=max(tol**2, 1e-12))
        products.append(left_over.max())
    assert products[1] > 1e-6  # it stopped when it was allowed to


@pytest.mark.parametrize("turn", [np.asarray, np.asfortranarray])
@pytest.mark.parametrize("entry", [-1e-3, np.nan, np.inf, -np.inf])
def test_entries_that_are_no_counts_are_found(entry, turn):
    counts = np.ones((700, 400))
    counts[613, 377] = entry
    with pytest.raises(FeatgeoError, match=r"negative entry at \[613, 377\]|NaN or infinite"):
        ModalDecomposition(n_components=2).fit(turn(counts))
    counts[612, 376], counts[611, 377] = np.inf, 1e308
    with pytest.raises(FeatgeoError, match="NaN or infinite"):
        ModalDecomposition(n_components=2).fit(turn(counts[600:]))  # a small one
