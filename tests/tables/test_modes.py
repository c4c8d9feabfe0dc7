"""ModalDecomposition against textbooks, brute force, the theory, scipy and prince."""

import pickle

import numpy as np
import pandas as pd
import prince
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import featgeo as fg
from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.tables.modes import ModalDecomposition
from tests.tables.oracles import CAITHNESS, SMOKING, SNEE, random_counts, same_up_to_sign, textbook


def test_smoking_and_staff_as_printed_in_the_literature():
    # Principal inertias, masses, χ² distances, standard coordinates, and in thousandths contributions ("ctr") and
    # squared cosines ("cor"): Nenadić, Greenacre, J. Stat. Software 20(3), 2007, sections 3.1 and 3.2.
    fit = ModalDecomposition().fit(SMOKING)
    np.testing.assert_allclose(fit.correlations_**2, [0.074759, 0.010017, 0.000414], atol=5e-7)
    np.testing.assert_allclose(fit.explained_inertia_ratio_, [0.878, 0.118, 0.005], atol=5e-4)
    np.testing.assert_allclose(fit.row_masses_, [0.056995, 0.093264, 0.264249, 0.455959, 0.129534], atol=5e-7)
    np.testing.assert_allclose(
        np.sqrt(fit.row_inertia_ / fit.row_masses_),
        [0.216559, 0.356921, 0.380779, 0.240025, 0.216169],
        atol=5e-7,
    )
    np.testing.assert_allclose(fit.column_inertia_, [0.049186, 0.007059, 0.012610, 0.016335], atol=5e-7)
    first = [-0.240539, 0.947105, -1.391973, 0.851989, -0.735456]
    second = [-1.935708, -2.430958, -0.106508, 0.576944, 0.788435]
    same_up_to_sign(fit.row_functions_[:, :2], np.column_stack([first, second]), atol=6e-7)
    first, second = [-1.438471, 0.363746, 0.718017, 1.074445], [-0.304659, 1.409433, 0.073528, -1.975960]
    same_up_to_sign(fit.column_functions_[:, :2], np.column_stack([first, second]), atol=6e-7)
    contributions, cosines = fit.row_contributions_ * 1000, fit.row_squared_cosines_ * 1000
    np.testing.assert_allclose(contributions[:, 0], [3, 84, 512, 331, 70], atol=0.51)
    np.testing.assert_allclose(contributions[:, 1], [214, 551, 3, 152, 81], atol=0.51)
    np.testing.assert_allclose(cosines[:, 0], [92, 526, 999, 942, 865], atol=0.51)
    np.testing.assert_allclose(fit.column_contributions_[:, 0] * 1000, [654, 31, 166, 150], atol=0.51)
    np.testing.assert_allclose(fit.column_squared_cosines_[:, 1] * 1000, [6, 657, 1, 310], atol=0.51)


def test_hair_and_eye_colour_as_printed_in_the_literature():
    # Snee's table: χ² = 138.29 with 9 degrees of freedom. Fisher's: canonical correlations 0.4464, 0.1735, 0.0293
    # (Venables, Ripley, Modern Applied Statistics with S, 4th ed., 2002, section 11.4).
    snee = ModalDecomposition().fit(SNEE)
    assert snee.chi2_ == pytest.approx(138.29, abs=5e-3)
    assert snee.degrees_of_freedom_ == 9
    np.testing.assert_allclose(snee.correlations_**2, [0.2088, 0.0222, 0.0026], atol=5e-5)
    fisher = ModalDecomposition().fit(CAITHNESS)
    np.testing.assert_allclose(fisher.correlations_, [0.4464, 0.1735, 0.0293], atol=5e-5)


@pytest.mark.parametrize(
    "table", [SMOKING, SNEE, CAITHNESS, CAITHNESS.T], ids=["smoking", "Snee", "Fisher", "turned"]
)
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, sparse.coo_matrix, pd.DataFrame])
def test_everything_agrees_with_the_transition_matrix(table, form):
    book, fit = textbook(table), ModalDecomposition().fit(form(table))
    np.testing.assert_allclose(fit.correlations_, book.values, atol=1e-10)
    same_up_to_sign(fit.row_functions_, book.row_standard)
    same_up_to_sign(fit.column_functions_, book.column_standard)
    same_up_to_sign(fit.row_coordinates_, book.row_principal)
    same_up_to_sign(fit.column_coordinates_, book.column_principal)
    np.testing.assert_allclose(fit.row_contributions_, book.row_contributions, atol=1e-8)
    np.testing.assert_allclose(fit.column_contributions_, book.column_contributions, atol=1e-8)
    np.testing.assert_allclose(fit.row_squared_cosines_, book.row_cos2, atol=1e-8)
    np.testing.assert_allclose(fit.column_squared_cosines_, book.column_cos2, atol=1e-8)
    assert fit.inertia_ == pytest.approx(book.inertia, rel=1e-12)


joints = hnp.arrays(
    np.float64, st.tuples(st.integers(2, 7), st.integers(2, 7)), elements=st.integers(0, 40).map(float)
).filter(lambda table: (table.sum(0) > 0).all() and (table.sum(1) > 0).all())


@given(joints)
@settings(max_examples=150, deadline=None)
def test_correlations_are_the_singular_values_of_the_local_problem(joint):
    fit = ModalDecomposition().fit(joint)
    problem = fg.local_problem(joint)
    expected = problem.singular_values.numpy()[: len(fit.correlations_)]
    # The local problem inverts its metric; its own tests bound that rounding by 1e-7 at correlation zero.
    np.testing.assert_allclose(fit.correlations_**2, expected**2, atol=1e-12)
    assert np.sqrt(fit.inertia_) == pytest.approx(problem.dependence, abs=1e-7)
    assert fit.local_information_ == pytest.approx(0.5 * problem.dependence**2, abs=1e-12)


@given(joints)
@settings(max_examples=100, deadline=None)
def test_functions_are_standardised_uncorrelated_and_attain_the_correlations(joint):
    fit = ModalDecomposition().fit(joint)
    p = joint / joint.sum()
    f, g, size = fit.row_functions_, fit.column_functions_, len(fit.correlations_)
    np.testing.assert_allclose(p.sum(1) @ f, 0, atol=1e-7)
    np.testing.assert_allclose(p.sum(0) @ g, 0, atol=1e-7)
    np.testing.assert_allclose(f.T * p.sum(1) @ f, np.eye(size), atol=1e-7)
    np.testing.assert_allclose(g.T * p.sum(0) @ g, np.eye(size), atol=1e-7)
    np.testing.assert_allclose(f.T @ p @ g, np.diag(fit.correlations_), atol=1e-7)
    assert (np.diff(fit.correlations_) <= 1e-12).all()
    if size == min(joint.shape) - 1:
        assert (fit.correlations_**2).sum() == pytest.approx(fit.inertia_, abs=1e-12)
    np.testing.assert_allclose(fit.row_contributions_.sum(0), 1, atol=1e-8)
    terms = p * np.log(np.where(p > 0, p, 1) / np.outer(p.sum(1), p.sum(0)))
    assert fit.mutual_information_ == pytest.approx(terms[p > 0].sum(), abs=1e-12)


def test_the_first_correlation_is_the_largest_that_any_functions_reach():
    table = random_counts(np.random.default_rng(0), 5, 4)
    p = table / table.sum()
    r, c = p.sum(1), p.sum(0)
    rng = np.random.default_rng(1)
    f, g = rng.normal(size=(20_000, 5)), rng.normal(size=(20_000, 4))
    f = f - (f @ r)[:, None]
    g = g - (g @ c)[:, None]
    reached = np.einsum("ki,ij,kj->k", f, p, g) / np.sqrt((f**2 @ r) * (g**2 @ c))
    first = ModalDecomposition().fit(table).correlations_[0]
    assert 0.9 * first < reached.max() <= first


def test_chi2_and_its_p_value_are_scipys():
    fit = ModalDecomposition().fit(CAITHNESS)
    expected = stats.chi2_contingency(CAITHNESS, correction=False)
    assert fit.chi2_ == pytest.approx(expected.statistic, rel=1e-12)
    assert fit.degrees_of_freedom_ == expected.dof
    small = ModalDecomposition().fit(SMOKING)
    assert small.p_value_ == pytest.approx(
        stats.chi2_contingency(SMOKING, correction=False).pvalue, rel=1e-10
    )
    assert np.isnan(ModalDecomposition().fit(SMOKING / SMOKING.sum()).p_value_)


@pytest.mark.parametrize("r", [0.3, 0.8])
def test_a_finely_binned_gaussian_pair_has_correlations_r_r2_r3(r):
    # Mehler's expansion: the modes are the Hermite polynomials. The bin means of a cell of width h lose about h²/12 of
    # the variance of a linear function on either side.
    edges = np.concatenate([[-np.inf], np.linspace(-4.5, 4.5, 181), [np.inf]])
    h = edges[2] - edges[1]
    middle = np.clip((edges[1:] + edges[:-1]) / 2, -4.6, 4.6)
    middle[[0, -1]] = [-4.6, 4.6]
    weights, nodes = np.polynomial.legendre.leggauss(8)[::-1]
    joint = np.zeros((182, 182))
    finite = np.clip(edges, -8, 8)
    for i in range(182):  # P(x in bin i, y in bin j) by quadrature over x of the conditional law of y
        left, right = finite[i], finite[i + 1]
        x = (left + right) / 2 + (right - left) / 2 * nodes
        mass = stats.norm.pdf(x) * weights * (right - left) / 2
        joint[i] = mass @ np.diff(stats.norm.cdf((edges - r * x[:, None]) / np.sqrt(1 - r**2)), axis=1)
    fit = ModalDecomposition(n_components=3).fit(joint)
    np.testing.assert_allclose(fit.correlations_, [r, r**2, r**3], atol=3 * h**2 / 12)
    central = np.abs(middle) < 3
    f = fit.row_functions_[:, 0] * np.sign(fit.row_functions_[150, 0])
    np.testing.assert_allclose(f[central], middle[central], atol=0.02)


@pytest.mark.parametrize("seed", range(3))
def test_prince_gives_the_same(seed):
    table = [
        CAITHNESS,
        random_counts(np.random.default_rng(seed), 30, 20),
        random_counts(np.random.default_rng(9), 12, 25),
    ]
    frame = pd.DataFrame(table[seed])
    peer = prince.CA(n_components=5, engine="scipy").fit(frame)
    count = len(peer.eigenvalues_)
    fit = ModalDecomposition(n_components=count).fit(frame)
    np.testing.assert_allclose(fit.correlations_**2, peer.eigenvalues_, atol=1e-8)
    assert fit.inertia_ == pytest.approx(peer.total_inertia_, abs=1e-8)
    same_up_to_sign(fit.row_coordinates_, peer.row_coordinates(frame).to_numpy())
    same_up_to_sign(fit.column_coordinates_, peer.column_coordinates(frame).to_numpy())
    np.testing.assert_allclose(fit.row_contributions_, peer.row_contributions_.to_numpy(), atol=1e-8)
    np.testing.assert_allclose(
        fit.row_squared_cosines_, peer.row_cosine_similarities(frame).to_numpy(), atol=1e-8
    )
    np.testing.assert_allclose(
        fit.column_squared_cosines_, peer.column_cosine_similarities(frame).to_numpy(), atol=1e-8
    )


# -- conventions -------------------------------------------------------------------------------------------------------


def test_signs_are_fixed_whatever_the_solver_and_storage():
    table = random_counts(np.random.default_rng(3), 60, 40)
    reference = ModalDecomposition(n_components=4, solver="dense").fit(table)
    size = np.abs(reference.row_contributions_)
    assert (np.take_along_axis(reference.row_functions_, size.argmax(0)[None], 0) > 0).all()
    for solver in ("arpack", "randomized"):
        for form in (np.asarray, sparse.csc_array):
            other = ModalDecomposition(n_components=4, solver=solver, random_state=5).fit(form(table))
            np.testing.assert_allclose(other.correlations_, reference.correlations_, atol=1e-9)
            np.testing.assert_allclose(
                other.row_functions_[:, :2], reference.row_functions_[:, :2], atol=1e-6
            )


@pytest.mark.filterwarnings("ignore:.*empty (rows|columns) take no part:featgeo.errors.FeatgeoWarning")
def test_scikit_learns_own_checks():  # some of which pass tables with empty rows
    check_estimator(ModalDecomposition(), on_skip=None)  # skips one: array_api needs an environment variable
    check_estimator(ModalDecomposition(n_components=1, solver="arpack"), on_skip=None)


def test_clone_pickle_and_frames():
    frame = pd.DataFrame(SMOKING, index=list("abcde"), columns=["none", "light", "medium", "heavy"])
    estimator = ModalDecomposition(n_components=2).set_output(transform="pandas")
    assert clone(estimator).get_params() == estimator.get_params()
    placed = estimator.fit_transform(frame)
    assert list(placed.columns) == ["modaldecomposition0", "modaldecomposition1"]
    assert list(placed.index) == list("abcde")
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.transform(frame), placed)
    assert list(estimator.row_labels_) == list("abcde")
    assert list(estimator.to_frame().index) == list("abcde")
    assert list(estimator.to_frame("columns").columns[:4]) == ["mass", "inertia", "function 1", "function 2"]


def test_in_a_pipeline():
    rng = np.random.default_rng(0)
    topics = rng.integers(0, 2, 80)
    words = rng.poisson(np.where(topics[:, None] == np.arange(30) % 2, 6.0, 2.0)).astype(float) + 0.0
    pipeline = make_pipeline(ModalDecomposition(n_components=1), LogisticRegression()).fit(
        words[:40], topics[:40]
    )
    assert pipeline.score(words[40:], topics[40:]) > 0.95


# -- supplementary, excluded, empty ------------------------------------------------------------------------------------


def test_transform_gives_back_the_fitted_rows_and_columns():
    fit = ModalDecomposition().fit(SMOKING)
    np.testing.assert_allclose(fit.transform(SMOKING), fit.row_coordinates_, atol=1e-12)
    np.testing.assert_allclose(fit.transform_columns(SMOKING), fit.column_coordinates_, atol=1e-12)
    np.testing.assert_allclose(fit.squared_cosines(SMOKING), fit.row_squared_cosines_, atol=1e-10)
    np.testing.assert_allclose(
        fit.squared_cosines(SMOKING, "columns"), fit.column_squared_cosines_, atol=1e-10
    )
    np.testing.assert_allclose(fit.transform(sparse.csr_array(SMOKING)), fit.row_coordinates_, atol=1e-12)


def test_supplementary_points_are_expectations_of_the_other_sides_functions():
    # The national average of the smoking example (Greenacre 1984, table 3.4): 42, 29, 20 and 9 per cent.
    fit, extra = ModalDecomposition(n_components=2).fit(SMOKING), np.array([[42.0, 29, 20, 9]])
    profile = extra / extra.sum()
    placed = fit.transform(extra)
    np.testing.assert_allclose(placed, profile @ fit.column_functions_, atol=1e-12)
    c = SMOKING.sum(0) / SMOKING.sum()
    np.testing.assert_allclose(
        fit.squared_cosines(extra), placed**2 / ((profile - c) ** 2 / c).sum(), atol=1e-12
    )
    column = np.array([[0.0], [1], [19], [44], [10]])
    expected = (column / column.sum()).T @ fit.row_functions_
    np.testing.assert_allclose(fit.transform_columns(column), expected, atol=1e-12)
    np.testing.assert_allclose(fit.transform_columns(sparse.csr_array(column)), expected, atol=1e-12)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_excluded_categories_keep_their_margins(form):
    # FactoMineR's `excl`: residuals of the whole table, weights of the excluded categories zero.
    p = CAITHNESS / CAITHNESS.sum()
    r, c = p.sum(1), p.sum(0)
    residual = (p - np.outer(r, c)) / np.sqrt(np.outer(r, c))
    kept = [0, 2, 3]
    u, values, _ = np.linalg.svd(residual[:, kept], full_matrices=False)
    fit = ModalDecomposition(n_components=2, exclude_columns=[1, 4]).fit(form(CAITHNESS))
    np.testing.assert_allclose(fit.correlations_, values[:2], atol=1e-12)
    assert fit.inertia_ == pytest.approx((residual[:, kept] ** 2).sum(), rel=1e-12)
    same_up_to_sign(fit.row_functions_, (u / np.sqrt(r)[:, None])[:, :2], atol=1e-10)
    assert np.isnan(fit.column_functions_[[1, 4]]).all()
    np.testing.assert_allclose(fit.transform(CAITHNESS), fit.row_coordinates_, atol=1e-12)
    np.testing.assert_allclose(fit.squared_cosines(CAITHNESS), fit.row_squared_cosines_, atol=1e-10)
    with pytest.raises(FeatgeoError, match="excluded categories"):
        fit.significance()


def test_excluding_on_both_sides_matches_the_sub_matrix():
    p = CAITHNESS / CAITHNESS.sum()
    r, c = p.sum(1), p.sum(0)
    residual = (p - np.outer(r, c)) / np.sqrt(np.outer(r, c))
    fit = ModalDecomposition(exclude_rows=[0], exclude_columns=[4]).fit(CAITHNESS)
    np.testing.assert_allclose(fit.correlations_, np.linalg.svd(residual[1:, :4])[1], atol=1e-12)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, pd.DataFrame])
def test_empty_rows_and_columns_are_dropped_with_a_warning_and_come_back_as_nan(form):
    padded = np.insert(np.insert(SMOKING, 2, 0, axis=0), 1, 0, axis=1)
    with pytest.warns(FeatgeoWarning, match=r"1 empty (row|column)s"):
        fit = ModalDecomposition(n_components=2, handle_unknown="ignore").fit(form(padded))
    bare = ModalDecomposition(n_components=2).fit(SMOKING)
    assert np.isnan(fit.row_functions_[2]).all()
    assert np.isnan(fit.column_coordinates_[1]).all()
    assert np.isnan(fit.row_squared_cosines_[2]).all()
    np.testing.assert_allclose(np.delete(fit.row_functions_, 2, 0), bare.row_functions_, atol=1e-12)
    np.testing.assert_allclose(np.delete(fit.column_functions_, 1, 0), bare.column_functions_, atol=1e-12)
    assert fit.degrees_of_freedom_ == 12
    assert len(fit.warnings_) == 2
    with pytest.warns(FeatgeoWarning, match="without counts"):
        placed = fit.transform(form(padded))
    assert np.isnan(placed[2]).all()
    assert np.isfinite(np.delete(placed, 2, 0)).all()


def test_independent_tables_have_correlations_zero():
    table = np.outer([1, 2, 3, 4], [2, 3, 5.0])
    fit = ModalDecomposition().fit(table)
    np.testing.assert_allclose(fit.correlations_, 0, atol=1e-15)
    assert fit.mutual_information_ == pytest.approx(0, abs=1e-14)
    np.testing.assert_allclose(fit.row_masses_ @ fit.row_functions_, 0, atol=1e-10)


def test_functions_of_each_other_have_correlation_one():
    fit = ModalDecomposition().fit(np.diag([5.0, 2, 3, 7]))
    np.testing.assert_allclose(fit.correlations_, 1, atol=1e-14)
    p = np.array([5, 2, 3, 7]) / 17
    assert fit.mutual_information_ == pytest.approx(-(p * np.log(p)).sum())
