"""Null distributions against brute force, level and power of the tests, bias and coverage."""

import numpy as np
import pytest
from scipy import sparse, stats

from featgeo.errors import FeatgeoWarning
from featgeo.tables.counts import make_table
from featgeo.tables.inference import _wishart_draws, bias_corrected, expected_counts_suffice
from featgeo.tables.modes import ModalDecomposition
from featgeo.tables.solve import Triples
from tests.tables.oracles import CAITHNESS, SMOKING


def population(rows: int, columns: int, correlations: list[float]) -> np.ndarray:
    """A joint distribution with just these correlations: the first one drawn that has no negative entry."""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        r, c = rng.dirichlet(np.full(rows, 20.0)), rng.dirichlet(np.full(columns, 20.0))
        bases = []
        for mass in (r, c):
            functions = rng.choice([-1.0, 1], (len(mass), len(correlations)))
            roots = np.sqrt(mass)[:, None]
            bases.append(np.linalg.qr(np.column_stack([np.ones(len(mass)), functions]) * roots)[0][:, 1:])
        joint = np.outer(r, c) + np.sqrt(np.outer(r, c)) * (bases[0] * correlations @ bases[1].T)
        if joint.min() >= 0:
            return joint
    raise AssertionError("no such population")


def samples(joint: np.ndarray, number: int, repeats: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    for _ in range(repeats):
        yield rng.multinomial(number, joint.ravel()).reshape(joint.shape).astype(float)


def blank(rows: int, columns: int, modes: int):
    table = make_table(np.full((rows, columns), 100.0))
    return table, Triples(np.zeros(modes), np.zeros((rows, modes)), np.zeros((columns, modes)))


@pytest.mark.parametrize(("rows", "columns"), [(6, 4), (20, 31), (90, 90)])
def test_the_null_is_that_of_wishart_matrices(rows, columns):
    table, triples = blank(rows, columns, 3)
    rng = np.random.default_rng(0)
    size = 2000 if rows < 50 else 300
    ordered, deflated = _wishart_draws(table, triples, size, rng)
    drawn = np.array([np.linalg.svd(rng.normal(size=(rows - 1, columns - 1)))[1][:3] for _ in range(size)])
    drawn /= np.sqrt(table.total)
    for k in range(3):
        assert stats.ks_2samp(ordered[:, k], drawn[:, k]).pvalue > 1e-3
    smaller = [np.linalg.svd(rng.normal(size=(rows - 3, columns - 3)))[1][0] for _ in range(size)]
    assert stats.ks_2samp(deflated[:, 2], np.array(smaller) / np.sqrt(table.total)).pvalue > 1e-3


def test_the_sum_of_all_null_eigenvalues_is_chi2():
    table, triples = blank(6, 4, 3)
    ordered, _ = _wishart_draws(table, triples, 3000, np.random.default_rng(1))
    statistic = table.total * (ordered**2).sum(1)
    assert stats.kstest(statistic, stats.chi2(table.degrees_of_freedom).cdf).pvalue > 1e-3


@pytest.mark.parametrize("method", ["asymptotic", "permutation"])
def test_the_level_holds_at_the_first_and_at_a_later_mode(method):
    repeats, resamples = 80, 39
    for real, number in (([], 600), ([0.3], 2000)):
        joint = population(7, 6, real)
        rejected = []
        for seed, table in enumerate(samples(joint, number, repeats)):
            found = ModalDecomposition(n_components=2).fit(table).significance(method, resamples, seed)
            rejected.append(found.p_values <= 0.05)
        share = np.mean(rejected, axis=0)
        # Three standard errors of a share of 5 % in 80 repeats are 7 %.
        assert share[len(real)] <= 0.12
        if real:
            assert share[0] == 1


def test_permutation_p_values_are_uniform_under_independence():
    joint = np.outer([0.4, 0.3, 0.2, 0.1], [0.5, 0.3, 0.2])
    values = [
        ModalDecomposition(n_components=1).fit(table).significance("permutation", 99, seed).p_values[0]
        for seed, table in enumerate(samples(joint, 120, 150))
    ]
    assert stats.kstest(values, stats.uniform.cdf).pvalue > 1e-3


def test_auto_permutes_where_expected_counts_are_small():
    small = ModalDecomposition().fit(SMOKING)
    assert not expected_counts_suffice(small.table_)
    assert small.significance(n_resamples=99).method == "permutation"
    with pytest.warns(FeatgeoWarning, match="Expected counts are small"):
        doubted = small.significance("asymptotic", n_resamples=99)
    assert doubted.warnings
    large = ModalDecomposition().fit(CAITHNESS)
    assert expected_counts_suffice(large.table_)
    found = large.significance()
    assert found.method == "asymptotic"
    assert found.p_values[1] == 0.001
    assert (np.diff(found.p_values) >= 0).all()


def test_cochrans_rule_is_counted_without_the_products():
    rng = np.random.default_rng(0)
    for scale in (3, 8, 30):
        table = make_table(rng.poisson(scale, (9, 7)) + 1.0)
        expected = table.total * np.outer(table.rows.mass, table.columns.mass)
        rule = (expected >= 1).all() and (expected < 5).mean() <= 0.2
        assert expected_counts_suffice(table) == rule


def test_significant_modes_are_the_real_ones():
    joint = population(10, 8, [0.4, 0.2])
    counts = []
    for table in samples(joint, 8000, 12):
        fit = ModalDecomposition(n_components="significant", random_state=0).fit(table)
        counts.append(fit.n_components_)
        assert fit.row_functions_.shape == (10, fit.n_components_)
    assert np.mean(np.array(counts) == 2) >= 0.8
    assert min(counts) == 2
    nothing = next(samples(population(10, 8, []), 3000, 1))
    fit = ModalDecomposition(n_components="significant", random_state=0).fit(nothing)
    assert fit.transform(nothing).shape == (10, fit.n_components_)


def test_correction_removes_the_bias():
    joint = population(20, 15, [0.35, 0.2])  # both above the edge of the noise, 0.128
    raw, corrected = [], []
    for table in samples(joint, 4000, 150):
        found = ModalDecomposition(n_components=3).fit(table)
        raw.append(found.correlations_)
        corrected.append(bias_corrected(found.correlations_, found.table_))
    true = np.array([0.35, 0.2, 0])
    bias, left = np.abs(np.mean(raw, 0) - true), np.abs(np.mean(corrected, 0) - true)
    assert (bias > [0.008, 0.015, 0.08]).all()
    assert (left < bias / 3).all()


def test_intervals_cover_the_population():
    true = np.array([0.4, 0.25])
    joint = population(12, 10, list(true))
    covered = []
    for seed, table in enumerate(samples(joint, 1500, 80)):
        found = ModalDecomposition(n_components=2).fit(table).bootstrap(99, random_state=seed)
        covered.append((found.low <= true) & (true <= found.high))
        assert (found.low <= found.high).all()
        assert (found.high <= 1).all()
    # Nominal 95 %; three standard errors of 80 repeats are 7 %.
    assert (np.mean(covered, 0) >= 0.87).all()


def test_inference_on_a_sparse_table():
    rng = np.random.default_rng(0)
    table = sparse.random_array((1400, 900), density=0.01, rng=rng).tocoo()
    pairs = np.concatenate([np.stack(table.coords), rng.integers(0, 200, (2, 4000))], axis=1)
    ends = np.stack([np.arange(1400), np.arange(1400) % 900])
    pairs = np.concatenate([pairs, ends], axis=1)
    table = sparse.coo_array((np.ones(pairs.shape[1]), tuple(pairs)), shape=(1400, 900)).tocsr()
    fit = ModalDecomposition(n_components=1).fit(table)
    assert fit.table_.sparse
    dense = ModalDecomposition(n_components=1).fit(table.toarray())
    np.testing.assert_allclose(fit.correlations_, dense.correlations_, atol=1e-12)
    found = fit.significance("permutation", 19)
    assert found.p_values[0] == 0.05
    assert 0.1 < found.null_low[0] <= found.null_high[0] < found.correlations[0]
    interval = fit.bootstrap(19)
    assert 0 < interval.low[0] < interval.high[0] <= 1
