"""Many columns: multiple correspondence analysis and the dependence of all pairs."""

import numpy as np
import pandas as pd
import prince
import pytest
from scipy import stats
from sklearn.base import clone

from featgeo.errors import FeatgeoError
from featgeo.tables import multiple
from featgeo.tables.modes import ModalDecomposition
from featgeo.tables.multiple import MultipleModalDecomposition
from featgeo.tables.pairs import pair_dependence
from featgeo.tables.splines import spline_memberships
from tests.tables.oracles import CAITHNESS, same_up_to_sign


def people(size=600, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, size)
    return pd.DataFrame(
        {
            "a": np.array(["x", "y", "z"])[(kind + (rng.random(size) < 0.3)) % 3],
            "b": (kind + rng.integers(0, 2, size)) % 4,
            "c": np.where(rng.random(size) < 0.7, kind == 1, rng.random(size) < 0.5),
            "d": rng.integers(0, 3, size),
        }
    )


def burt_oracle(frame):
    """Principal inertias and standard coordinates from the dense indicator matrix, as a table."""
    z = pd.get_dummies(frame.astype(str)).to_numpy(float)
    p = z / z.sum()
    r, c = p.sum(1), p.sum(0)
    _, values, right = np.linalg.svd((p - np.outer(r, c)) / np.sqrt(np.outer(r, c)), full_matrices=False)
    return values**2, right.T / np.sqrt(c)[:, None], c


@pytest.mark.parametrize("side", [2000, 1], ids=["dense", "lanczos"])
def test_the_modes_are_those_of_the_indicator_matrix(side, monkeypatch):
    monkeypatch.setattr(multiple, "DENSE_SIDE", side)
    frame = people()
    inertias, functions, _ = burt_oracle(frame)
    fit = MultipleModalDecomposition(n_components=3, random_state=0).fit(frame)
    np.testing.assert_allclose(fit.inertias_, inertias[:3], atol=1e-12)
    same_up_to_sign(fit.category_functions_, functions[:, :3])
    assert fit.inertia_ == pytest.approx(12 / 4 - 1)
    np.testing.assert_allclose(fit.category_contributions_.sum(0), 1, atol=1e-10)
    full = MultipleModalDecomposition(n_components=8).fit(frame)
    np.testing.assert_allclose(full.category_squared_cosines_.sum(1), 1, atol=1e-10)
    placed = fit.transform(frame)
    assert placed.mean(0) == pytest.approx(np.zeros(3), abs=1e-12)
    np.testing.assert_allclose((placed**2).mean(0), fit.inertias_, atol=1e-12)


def test_correlation_ratios_are_shares_of_variance_between_the_categories():
    frame = people()
    fit = MultipleModalDecomposition(n_components=3).fit(frame)
    placed, expected = pd.DataFrame(fit.transform(frame)), np.zeros((4, 3))
    for i, name in enumerate(frame):
        between = placed.groupby(frame[name].to_numpy()).transform("mean")
        expected[i] = between.var() / placed.var()
    np.testing.assert_allclose(fit.correlation_ratios_, expected, atol=1e-10)
    np.testing.assert_allclose(fit.correlation_ratios_.mean(axis=0), fit.inertias_, atol=1e-12)
    told = fit.to_frame()
    assert list(told.index) == fit.categories_
    np.testing.assert_array_equal(told["coordinate 2"], fit.category_coordinates_[:, 1])


def test_two_columns_give_the_squared_maximal_correlations():
    rows, columns = np.nonzero(CAITHNESS)
    count = CAITHNESS[rows, columns].astype(int)
    frame = pd.DataFrame({"eyes": np.repeat(rows, count), "hair": np.repeat(columns, count)})
    table = ModalDecomposition().fit(CAITHNESS)
    fit = MultipleModalDecomposition(n_components=3).fit(frame)
    np.testing.assert_allclose(fit.inertias_, (1 + table.correlations_) / 2, atol=1e-12)
    np.testing.assert_allclose(fit.adjusted_inertias_, table.correlations_**2, atol=1e-12)
    np.testing.assert_allclose(fit.adjusted_inertia_ratio_, table.explained_inertia_ratio_, atol=1e-10)


@pytest.mark.parametrize("correction", [None, "benzecri", "greenacre"])
def test_prince_gives_the_same(correction):
    frame = people().astype(str)
    peer = prince.MCA(n_components=4, engine="scipy", correction=correction).fit(frame)
    fit = MultipleModalDecomposition(n_components=4).fit(frame)
    np.testing.assert_allclose(
        fit.adjusted_inertias_ if correction else fit.inertias_, peer.eigenvalues_, atol=1e-8
    )
    if correction == "greenacre":
        np.testing.assert_allclose(100 * fit.adjusted_inertia_ratio_, peer.percentage_of_variance_, atol=1e-6)
    same_up_to_sign(fit.transform(frame), peer.row_coordinates(frame).to_numpy())
    same_up_to_sign(fit.category_coordinates_, peer.column_coordinates(frame).to_numpy())


def test_excluded_categories_are_factominers():
    frame = people()
    z = pd.get_dummies(frame.astype(str)).to_numpy(float)
    p = z / z.sum()
    r, c = p.sum(1), p.sum(0)
    kept = [i for i in range(12) if i not in (1, 9)]
    _, values, _ = np.linalg.svd(
        ((p - np.outer(r, c)) / np.sqrt(np.outer(r, c)))[:, kept], full_matrices=False
    )
    fit = MultipleModalDecomposition(n_components=2, exclude=[("a", "y"), ("d", 0)]).fit(frame)
    np.testing.assert_allclose(fit.inertias_, values[:2] ** 2, atol=1e-12)
    assert np.isnan(fit.category_functions_[[1, 9]]).all()
    assert np.isnan(fit.adjusted_inertias_).all()
    np.testing.assert_allclose((fit.transform(frame) ** 2).mean(0), fit.inertias_, atol=1e-12)


def test_frames_unknown_and_missing_categories():
    frame = people()
    frame.loc[:20, "a"] = None
    fit = MultipleModalDecomposition().set_output(transform="pandas").fit(frame)
    assert ("a", "(missing)") in fit.categories_
    assert list(fit.transform(frame).columns) == [
        "multiplemodaldecomposition0",
        "multiplemodaldecomposition1",
    ]
    assert clone(fit).get_params() == fit.get_params()
    new = frame.assign(b=99)
    with pytest.raises(FeatgeoError, match="not seen: \\[99\\]"):
        fit.transform(new)
    lenient = MultipleModalDecomposition(handle_unknown="ignore").fit(frame)
    assert np.isfinite(lenient.transform(new)).all()
    with pytest.raises(FeatgeoError, match="missing values"):
        MultipleModalDecomposition(missing="error").fit(frame)
    with pytest.raises(FeatgeoError, match="fitted columns"):
        fit.transform(frame[["b", "a", "c", "d"]])
    with pytest.raises(FeatgeoError, match="at least two columns"):
        MultipleModalDecomposition().fit(frame[["a"]])
    with pytest.raises(FeatgeoError, match="modes; pass 1 to"):
        MultipleModalDecomposition(n_components=30).fit(frame)
    with pytest.raises(FeatgeoError, match="no categories"):
        MultipleModalDecomposition(exclude=[("a", "q")]).fit(frame)


def test_pairs_are_the_tables_of_the_pairs():
    frame = people()
    frame.loc[:50, "b"] = None
    found = pair_dependence(frame)
    for one in frame:
        for other in frame:
            if one == other:
                assert found.correlations.loc[one, one] == 1
                continue
            table = ModalDecomposition(n_components=1).fit_columns(frame[one], frame[other])
            assert found.correlations.loc[one, other] == pytest.approx(table.correlations_[0], abs=1e-12)
            expected = stats.chi2_contingency(pd.crosstab(frame[one], frame[other]), correction=False)
            assert found.p_values.loc[one, other] == pytest.approx(expected.pvalue, rel=1e-8)
            assert found.observations.loc[one, other] == frame[[one, other]].dropna().shape[0]
    assert sorted(found.order) == [0, 1, 2, 3]
    assert found.adjusted_p_values.loc["a", "b"] < 1e-6
    assert found.corrected.loc["a", "d"] < 0.1


def test_continuous_columns_in_quantile_bins():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 40_000))
    frame = pd.DataFrame({"x": x, "linear": 0.8 * x + 0.6 * noise, "square": x**2, "noise": noise[::-1]})
    found = pair_dependence(frame, bins=32)
    # Equally filled bins keep 1 - O(bins^-1.x) of a Gaussian's variance; 32 of them keep 99 %.
    assert found.correlations.loc["x", "linear"] == pytest.approx(0.8, abs=0.02)
    assert found.correlations.loc["x", "square"] > 0.97
    assert found.p_values.loc["x", "noise"] > 1e-3
    assert found.corrected.loc["x", "noise"] < 0.03
    fine = pair_dependence(frame.assign(x=np.where(x < -2, np.nan, x)), bins=4)
    assert fine.observations.loc["x", "linear"] == (x >= -2).sum()
    with pytest.raises(FeatgeoError, match="bins"):
        pair_dependence(frame, bins=1)
    figure = found.plot()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        frame.columns[i] for i in found.order
    ]


def smooth_frame(size=5000):
    rng = np.random.default_rng(0)
    x, noise, other = rng.normal(size=(3, size))
    scaled, square = np.exp(2 * (0.8 * x + 0.6 * noise)), x**2 + 0.5 * other
    return pd.DataFrame({"x": x, "scaled": scaled, "square": square, "kind": x > 0.4})


def test_a_spline_basis_keeps_what_bins_lose():
    frame = smooth_frame()
    splines, bins = pair_dependence(frame, basis="spline"), pair_dependence(frame)
    # Eight functions each.
    assert splines.corrected.loc["x", "scaled"] == pytest.approx(0.8, abs=0.012)
    assert bins.corrected.loc["x", "scaled"] < 0.785
    assert splines.corrected.loc["x", "square"] > 0.95 > bins.corrected.loc["x", "square"]
    assert splines.correlations.loc["x", "kind"] > 0.85
    # Increasing functions of a column change nothing.
    again = pair_dependence(frame.assign(x=np.arcsinh(frame["x"]) * 7 - 3), basis="spline")
    np.testing.assert_allclose(again.correlations, splines.correlations, atol=1e-10)


def test_spline_dependence_is_canonical_correlation_of_the_complete_pairs():
    frame = smooth_frame(800)
    frame.loc[:99, "square"] = np.nan
    found = pair_dependence(frame, bins=6, basis="spline")
    both = {name: spline_memberships(name, frame[name], 6).toarray() for name in ("x", "square")}
    for memberships in both.values():
        assert memberships.min() >= 0
    np.testing.assert_allclose(both["x"].sum(axis=1), 1)
    assert both["square"][:100].max() == 0
    sides = [
        np.linalg.svd(v[100:] - v[100:].mean(axis=0), full_matrices=False)[0][:, :5] for v in both.values()
    ]
    expected = np.linalg.svd(sides[0].T @ sides[1])[1]
    assert found.correlations.loc["x", "square"] == pytest.approx(expected[0], abs=1e-10)
    assert found.observations.loc["x", "square"] == 700
    p = stats.chi2.sf(700 * (expected**2).sum(), 25)
    assert found.p_values.loc["x", "square"] == pytest.approx(p, rel=1e-6)


def test_spline_p_values_are_uniform_under_independence_and_ties_are_no_obstacle():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(400, 15)))
    frame[0] = np.where(rng.random(400) < 0.6, 0.0, frame[0])  # most knots fall on one value
    p = pair_dependence(frame, bins=5, basis="spline").p_values.to_numpy()
    assert stats.kstest(p[np.tril_indices(15, -1)], stats.uniform.cdf).pvalue > 1e-3


def test_bases_that_do_not_exist():
    frame = smooth_frame(50)
    with pytest.raises(FeatgeoError, match="basis"):
        pair_dependence(frame, basis="fourier")
    with pytest.raises(FeatgeoError, match="at least 3 functions"):
        pair_dependence(frame, bins=2, basis="spline")
    with pytest.raises(FeatgeoError, match="infinite"):
        pair_dependence(frame.assign(x=frame["x"].where(frame["x"] < 0, np.inf)), basis="spline")
    with pytest.raises(FeatgeoError, match="same name: x"):
        pair_dependence(frame.rename(columns={"square": "x"}))
