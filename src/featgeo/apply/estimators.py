"""LocalClassifier and LocalRegressor: heads as scikit-learn estimators."""

from __future__ import annotations

import warnings
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import softmax
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from featgeo.apply.fit import Refine
from featgeo.apply.head import Head, solve_head
from featgeo.errors import FeatgeoError, FeatgeoWarning

Matrix = Any
Array = np.ndarray


class _LocalHead(BaseEstimator):  # type: ignore[misc]
    """What both share: checked input, one call of solve_head, outputs of new samples."""

    fit_intercept: bool
    refine: Refine
    tol: float
    max_iter: int

    def _solve(self, x: Matrix, y: Array, loss: str, weight_decay: float, weights: Array | None) -> Head:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeatgeoWarning)
            head = solve_head(
                x,
                y,
                loss,
                weight_decay=weight_decay,
                refine=self.refine,
                sample_weight=weights,
                bias=self.fit_intercept,
                tolerance=self.tol,
                max_steps=self.max_iter,
            )
        if head.converged is False:
            warnings.warn("; ".join(head.warnings), ConvergenceWarning, stacklevel=3)
        self.warnings_ = head.warnings
        self.n_iter_ = max(1, head.steps)
        return head

    def _outputs(self, x: Matrix) -> Array:
        """Outputs (m, d) of samples."""
        check_is_fitted(self)
        x = validate_data(self, x, accept_sparse="csr", dtype=np.float64, reset=False)
        product: Array = np.asarray(x @ np.atleast_2d(self.coef_).T)
        return product + self.intercept_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class LocalClassifier(ClassifierMixin, _LocalHead):  # type: ignore[misc]
    """A linear classifier by the local geometry of its features, exact by default.

    The objective is that of scikit-learn's LogisticRegression: C times the sum of losses plus ½ ‖W‖², the intercept
    unpenalised; two classes have one output, more have softmax. Targets of several 0/1 columns are multi-label: one
    logistic regression a column, solved together.

    Args:
        C: inverse strength of the penalty.
        refine: "exact"; 0 for the one-pass head, which is fast and not as accurate; or a number of steps.
        fit_intercept: whether there is one.
        tol: relative gap to the minimum at which the optimum counts as reached.
        max_iter: most steps to it.

    Attributes:
        classes_: labels, in the order of the columns of ``predict_proba``.
        coef_: W (d, k), d = 1 for two classes.
        intercept_: b (d,).
        n_iter_: steps taken.
        warnings_: what does not hold.
    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        refine: Refine = "exact",
        fit_intercept: bool = True,
        tol: float = 1e-12,
        max_iter: int = 200,
    ) -> None:
        self.C = C
        self.refine = refine
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Matrix, y: Any, sample_weight: Any = None) -> Self:
        """Fit.

        Args:
            X: samples (N, k), dense or sparse.
            y: labels (N,), or 0/1 labels (N, d) for multi-label targets.
            sample_weight: (N,).
        """
        if not self.C > 0:
            raise FeatgeoError("C", f"{self.C!r}", "It must be positive.")
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64, multi_output=True)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        check_classification_targets(y)
        self.multilabel_ = type_of_target(y) == "multilabel-indicator"
        if self.multilabel_:
            self.classes_ = np.arange(y.shape[1])
            targets: Array = np.asarray(y, dtype=np.float64)
        else:
            if y.ndim > 1 and y.shape[1] > 1:
                raise FeatgeoError(
                    "y", f"labels of shape {y.shape} that are not 0/1", "Use MultiOutputClassifier."
                )
            self.classes_, targets = np.unique(column_or_1d(y, warn=True), return_inverse=True)
            if len(self.classes_) < 2:
                raise FeatgeoError("y", "one class only", "Pass samples of at least two classes.")
        total = X.shape[0] if weights is None else weights.sum()
        binary = self.multilabel_ or len(self.classes_) == 2
        if binary:
            targets = targets.reshape(len(targets), -1).astype(np.float64)
        outputs = targets.shape[1] if binary else 1  # bce is the mean over these
        decay = 1 / (self.C * total * outputs) if total > 0 else 1.0
        head = self._solve(X, targets, "bce" if binary else "cross_entropy", decay, weights)
        self.coef_, self.intercept_ = head.weight.numpy(), head.bias.numpy()
        return self

    def decision_function(self, X: Matrix) -> Array:
        """Outputs: (m,) for two classes, else (m, d)."""
        outputs = self._outputs(X)
        return outputs[:, 0] if outputs.shape[1] == 1 and not self.multilabel_ else outputs

    def predict_proba(self, X: Matrix) -> Array:
        """Probabilities (m, classes); of multi-label targets that of every label (m, d)."""
        outputs = self._outputs(X)
        if self.multilabel_:
            return _sigmoid(outputs)
        if outputs.shape[1] == 1:
            return np.hstack([_sigmoid(-outputs), _sigmoid(outputs)])
        probabilities: Array = softmax(outputs)
        return probabilities

    def predict_log_proba(self, X: Matrix) -> Array:
        """Logarithm of the probabilities."""
        return np.log(self.predict_proba(X))

    def predict(self, X: Matrix) -> Array:
        """The likeliest class (m,), or 0/1 labels (m, d)."""
        outputs = self._outputs(X)
        if self.multilabel_:
            return (outputs > 0).astype(int)
        index = (outputs[:, 0] > 0).astype(int) if outputs.shape[1] == 1 else outputs.argmax(1)
        labels: Array = self.classes_[index]
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class LocalRegressor(RegressorMixin, MultiOutputMixin, _LocalHead):  # type: ignore[misc]
    """A linear regressor: ridge regression, or Poisson regression with a log link; one or several outputs.

    Args:
        alpha: strength of the penalty: as in Ridge, ‖y - Xw‖² + alpha ‖w‖² for "mse"; as in PoissonRegressor for
            "poisson", of every output.
        loss: "mse" or "poisson".
        refine: "exact"; 0 for the one-pass head (for "mse" the same); or a number of steps.
        fit_intercept: whether there is one.
        tol: relative gap to the minimum at which the optimum counts as reached.
        max_iter: most steps to it.

    Attributes:
        coef_: W (d, k); (k,) for targets (N,).
        intercept_: b (d,); a number for targets (N,).
        n_iter_: steps taken.
        warnings_: what does not hold.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        loss: Literal["mse", "poisson"] = "mse",
        refine: Refine = "exact",
        fit_intercept: bool = True,
        tol: float = 1e-12,
        max_iter: int = 200,
    ) -> None:
        self.alpha = alpha
        self.loss = loss
        self.refine = refine
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Matrix, y: Any, sample_weight: Any = None) -> Self:
        """Fit.

        Args:
            X: samples (N, k), dense or sparse.
            y: targets (N,) or (N, d).
            sample_weight: (N,).
        """
        if not self.alpha >= 0:
            raise FeatgeoError("alpha", f"{self.alpha!r}", "It must be at least 0.")
        if self.loss not in ("mse", "poisson"):
            raise FeatgeoError("loss", f"{self.loss!r}", "Pass 'mse' or 'poisson'.")
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=np.float64, multi_output=True, y_numeric=True
        )
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        if self.loss == "poisson" and y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        targets = y.reshape(len(y), -1).astype(np.float64)
        total = X.shape[0] if weights is None else weights.sum()
        decay = 2 * self.alpha / total if self.loss == "mse" else self.alpha
        head = self._solve(X, targets, self.loss, decay / targets.shape[1], weights)
        self.coef_, self.intercept_ = head.weight.numpy(), head.bias.numpy()
        if y.ndim == 1:
            self.coef_, self.intercept_ = self.coef_[0], self.intercept_[0]
        return self

    def predict(self, X: Matrix) -> Array:
        """Predicted means (m,) or (m, d)."""
        outputs = self._outputs(X)
        outputs = np.exp(outputs) if self.loss == "poisson" else outputs
        return outputs[:, 0] if np.ndim(self.coef_) == 1 else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.loss == "poisson"
        tags.target_tags.multi_output = self.loss == "mse"  # of counts the conformance suite knows one column
        return tags


def _sigmoid(outputs: Array) -> Array:
    return torch.from_numpy(outputs).sigmoid().numpy()
