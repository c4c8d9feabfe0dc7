"""Every mistake ends in one clear error, before the memory is gone."""

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.tables.modes import ModalDecomposition
from tests.tables.oracles import SMOKING


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize(
    ("change", "message"),
    [(-1.0, "negative entry at \\[1, 2\\]"), (np.nan, "NaN"), (np.inf, "infinity|infinite")],
)
def test_negative_and_not_finite_counts(form, change, message):
    bad = SMOKING.copy()
    bad[1, 2] = change
    with pytest.raises(FeatgeoError, match=message):
        ModalDecomposition().fit(form(bad))
    fit = ModalDecomposition().fit(SMOKING)
    with pytest.raises(FeatgeoError, match=message):
        fit.transform(form(bad))
    with pytest.raises(FeatgeoError, match=message.replace("NaN", "NaN or infinite")):
        fit.transform_columns(form(bad))


def test_fractions_where_counts_are_needed():
    fit = ModalDecomposition().fit(SMOKING + 0.25)
    with pytest.raises(FeatgeoError, match=r"fractional entry 4\.25"):
        fit.significance()
    with pytest.raises(FeatgeoError, match="fractional entry"):
        fit.bootstrap()
    with pytest.raises(FeatgeoError, match="fractional entry"):
        ModalDecomposition(n_components="significant").fit(SMOKING / SMOKING.sum())


@pytest.mark.filterwarnings("ignore::featgeo.errors.FeatgeoWarning")
def test_fewer_than_two_categories_and_empty_tables():
    with pytest.raises(FeatgeoError, match="at least two row categories"):
        ModalDecomposition().fit([[1, 2, 3]])
    with pytest.raises(FeatgeoError, match="at least two column categories"):
        ModalDecomposition().fit([[1, 0], [2, 0]])
    with pytest.raises(FeatgeoError, match="only zeros"):
        ModalDecomposition().fit(np.zeros((3, 3)))
    with pytest.raises(FeatgeoError, match="at least two row categories"):
        ModalDecomposition().fit_columns(["a"] * 4, [1, 2, 3, 4])
    with pytest.raises(FeatgeoError, match="at least two column categories"):
        ModalDecomposition(exclude_columns=[0, 1, 2]).fit(SMOKING)


@pytest.mark.parametrize("wanted", [0, -1, 2.5, "some", True])
def test_n_components_that_are_no_number_of_modes(wanted):
    with pytest.raises(FeatgeoError, match="n_components"):
        ModalDecomposition(n_components=wanted).fit(SMOKING)


def test_n_components_beyond_the_rank():
    with pytest.raises(FeatgeoError, match="at most 3 modes"):
        ModalDecomposition(n_components=4).fit(SMOKING)
    padded = np.insert(SMOKING, 1, 0, axis=1)
    with pytest.warns(FeatgeoWarning, match="empty"), pytest.raises(FeatgeoError, match="at most 3 modes"):
        ModalDecomposition(n_components=4).fit(padded)


def test_unknown_options():
    for name, value in [("solver", "qr"), ("missing", "skip"), ("handle_unknown", "guess")]:
        with pytest.raises(FeatgeoError, match=name):
            ModalDecomposition(**{name: value}).fit_columns([0, 0, 1, 1], [0, 1, 1, 1])
    with pytest.raises(FeatgeoError, match="exclude_rows"):
        ModalDecomposition(exclude_rows=["nobody"]).fit(SMOKING)
    fit = ModalDecomposition().fit(SMOKING)
    with pytest.raises(FeatgeoError, match="axis"):
        fit.transform_labels([1], axis="both")
    with pytest.raises(FeatgeoError, match="axis"):
        fit.squared_cosines(SMOKING, axis="both")
    with pytest.raises(FeatgeoError, match="axis"):
        fit.to_frame("both")


def test_mismatched_columns():
    with pytest.raises(FeatgeoError, match="lengths 3 and 4"):
        ModalDecomposition().fit_columns([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(FeatgeoError, match="shape"):
        ModalDecomposition().fit_columns(np.ones((3, 2)), np.ones(3))
    with pytest.raises(FeatgeoError, match=r"\(3,\)"):
        ModalDecomposition().fit_columns([1, 2, 3], [1, 2, 3], sample_weight=[1.0])
    with pytest.raises(FeatgeoError, match="negative"):
        ModalDecomposition().fit_columns([1, 2, 3], [1, 2, 3], sample_weight=[1.0, -1, 1])
    with pytest.raises(FeatgeoError, match="cannot be categories"):
        ModalDecomposition().fit_columns([[1], [2], [1]], [1, 2, 3])
    with pytest.raises(FeatgeoError, match="no pair"):
        ModalDecomposition().fit_columns([], [])


def test_tables_of_another_shape_or_with_other_names():
    fit = ModalDecomposition().fit(SMOKING)
    with pytest.raises(ValueError, match="3 features, but ModalDecomposition is expecting 4"):
        fit.transform(SMOKING[:, :3])
    with pytest.raises(FeatgeoError, match="5 fitted rows"):
        fit.transform_columns(SMOKING[:3])
    named = ModalDecomposition().fit(pd.DataFrame(SMOKING, index=list("abcde"), columns=list("wxyz")))
    with pytest.raises(ValueError, match="feature names"):
        named.transform(pd.DataFrame(SMOKING, columns=list("vxyz")))
    with pytest.raises(FeatgeoError, match="row labels"):
        named.transform_columns(pd.DataFrame(SMOKING, index=list("edcba")))


def test_counts_in_categories_that_the_fit_has_not_seen():
    padded = np.insert(SMOKING, 1, 0, axis=1)
    new = np.array([[1.0, 3, 2, 2, 1]])
    with pytest.warns(FeatgeoWarning, match="1 empty columns"):
        strict = ModalDecomposition().fit(padded)
    with pytest.raises(FeatgeoError, match="had none in the fit"):
        strict.transform(new)
    with pytest.warns(FeatgeoWarning, match="1 empty columns"):
        lenient = ModalDecomposition(handle_unknown="ignore").fit(padded)
    bare = ModalDecomposition().fit(SMOKING)
    np.testing.assert_allclose(lenient.transform(new), bare.transform(np.delete(new, 1, 1)), atol=1e-12)


def test_labels_that_the_fit_has_not_seen():
    x, y = ["a", "a", "b", "b", "c"], [0, 1, 1, 1, 0]
    with pytest.raises(FeatgeoError, match="not seen: \\['z'\\]"):
        ModalDecomposition().fit_columns(x, y).transform_labels(["a", "z"])
    lenient = ModalDecomposition(handle_unknown="ignore").fit_columns(x, y)
    placed = lenient.transform_labels(["a", "z", None])
    np.testing.assert_array_equal(placed[0], lenient.row_coordinates_[0])
    np.testing.assert_array_equal(placed[1:], 0)
    with pytest.raises(FeatgeoError, match="missing values"):
        ModalDecomposition().fit_columns(x, y).transform_labels(["a", None])


def test_a_huge_dense_result_asked_for_by_mistake():
    size = 300_000
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, size, (2, 2 * size))
    pairs[:, :size] = np.arange(size)
    table = sparse.coo_array((np.ones(2 * size), tuple(pairs)), shape=(size, size)).tocsr()
    with pytest.raises(FeatgeoError, match=r"299,999 modes .* GiB"):
        ModalDecomposition().fit(table)
    with pytest.raises(FeatgeoError, match="dense solver"):
        ModalDecomposition(n_components=2, solver="dense").fit(table)
    ring = sparse.eye_array(30_000, format="csr") + sparse.eye_array(30_000, k=1, format="csr")
    fit = ModalDecomposition(n_components=1, solver="randomized", random_state=0).fit(ring)
    with pytest.raises(FeatgeoError, match="cells"):
        fit.dependence_matrix()


def test_modes_of_a_table_without_any():
    large = np.outer(np.arange(1.0, 402), np.arange(1.0, 402))
    with pytest.raises(FeatgeoError, match="exactly independent"):
        ModalDecomposition(n_components=3).fit(large)


def test_inference_options():
    fit = ModalDecomposition().fit(SMOKING)
    with pytest.raises(FeatgeoError, match="method"):
        fit.significance(method="guess")
    with pytest.raises(FeatgeoError, match="n_resamples"):
        fit.significance(n_resamples=3)
    with pytest.raises(FeatgeoError, match="confidence"):
        fit.bootstrap(confidence=95)
