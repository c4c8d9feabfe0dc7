"""LocalClassifier and LocalRegressor against scikit-learn's conformance suite and its own estimators."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_linnerud
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import scale
from sklearn.utils.estimator_checks import check_estimator

import featgeo as fg
from featgeo.errors import FeatgeoError

ESTIMATORS = [
    fg.LocalClassifier(),
    fg.LocalClassifier(refine=0),
    fg.LocalRegressor(),
    fg.LocalRegressor(loss="poisson"),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_scikit_learn_conformance(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # checks that the environment leaves out are announced as warnings
        results = check_estimator(estimator, on_fail=None)
    failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
    assert not failed


@pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
@pytest.mark.parametrize("C", [0.01, 1.0])
def test_coefficients_of_logistic_regression(load, C):
    x, y = load(return_X_y=True)
    x, w = scale(x), np.linspace(0.5, 2, len(y))
    ours = fg.LocalClassifier(C=C).fit(x, y, w)
    theirs = LogisticRegression(C=C, tol=1e-12, max_iter=20_000).fit(x, y, w)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-5)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    without = fg.LocalClassifier(C=C, fit_intercept=False).fit(x, y)
    theirs = LogisticRegression(C=C, tol=1e-12, max_iter=20_000, fit_intercept=False).fit(x, y)
    np.testing.assert_allclose(without.coef_, theirs.coef_, atol=1e-5)


def test_multi_label_targets_are_one_regression_each():
    x, y = load_digits(return_X_y=True)
    x, labels = x[:300, 10:30] / 16, np.stack([y[:300] % 2 == 0, y[:300] < 4], axis=1).astype(int)
    ours = fg.LocalClassifier(C=0.5).fit(x, labels)
    peer = OneVsRestClassifier(LogisticRegression(C=0.5, tol=1e-12, max_iter=20_000)).fit(x, labels)
    np.testing.assert_allclose(ours.predict_proba(x), peer.predict_proba(x), atol=1e-5)
    np.testing.assert_array_equal(ours.predict(x), peer.predict(x))


@pytest.mark.parametrize("as_sparse", [False, True])
def test_ridge(as_sparse):
    for x, y in (load_diabetes(return_X_y=True), load_linnerud(return_X_y=True)):
        given = sparse.csr_matrix(x) if as_sparse else x
        w = np.linspace(0.5, 2, len(y))
        ours, theirs = fg.LocalRegressor(alpha=0.3).fit(given, y, w), Ridge(alpha=0.3).fit(x, y, w)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(ours.predict(given), theirs.predict(x), rtol=1e-8)


def test_poisson():
    x, y = load_diabetes(return_X_y=True)
    x = scale(x)
    ours = fg.LocalRegressor(alpha=0.2, loss="poisson").fit(x, y)
    peer = PoissonRegressor(alpha=0.2, tol=1e-13, max_iter=500, solver="newton-cholesky").fit(x, y)
    np.testing.assert_allclose(ours.predict(x), peer.predict(x), rtol=1e-5)
    both = fg.LocalRegressor(alpha=0.2, loss="poisson").fit(x, np.stack([y, y], axis=1))
    np.testing.assert_allclose(both.predict(x)[:, 1], ours.predict(x), rtol=1e-5)


def test_one_pass_on_digits_is_fair_and_exact_is_better():
    x, y = load_digits(return_X_y=True)
    one, exact = (
        cross_val_score(fg.LocalClassifier(0.05, refine=r), x, y, cv=3).mean() for r in (0, "exact")
    )
    assert 0.88 < one < exact
    assert exact > 0.91


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (fg.LocalClassifier(C=-1), "C"),
        (fg.LocalRegressor(alpha=-1), "alpha"),
        (fg.LocalRegressor(loss="bce"), "loss"),
        (fg.LocalClassifier(refine="best"), "refine"),
    ],
)
def test_bad_parameters(estimator, message):
    x, y = load_iris(return_X_y=True)
    with pytest.raises(FeatgeoError, match=message):
        estimator.fit(x, y)


def test_counts_cannot_be_negative():
    with pytest.raises(FeatgeoError, match="counts"):
        fg.LocalRegressor(loss="poisson").fit(np.eye(3), [1.0, -1.0, 2.0])
