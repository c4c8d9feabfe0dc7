"""MultipleModalDecomposition: the modes that many categorical columns share (multiple correspondence analysis).

The Burt matrix K = ZᵀZ of the indicators of Q columns, centred and scaled like a table, has eigenvalues μ: the mean
squared correlation of a function of the observations with functions of every column. Its diagonal blocks say nothing of
dependence; Greenacre's adjustment (Q/(Q-1))² (μ - 1/Q)² takes them away, and equals the squared maximal correlation for
Q = 2. Greenacre, Correspondence Analysis in Practice, 3rd ed., 2017, chapters 18 and 19.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, eigsh
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from featgeo.errors import FeatgeoError
from featgeo.tables.counts import Array
from featgeo.tables.geometry import contributions, squared_cosines
from featgeo.tables.indicators import as_frame, indicators, make_coder
from featgeo.tables.solve import Triples, fix_signs

DENSE_SIDE = 2000  # categories up to which the whole Burt matrix is decomposed


class MultipleModalDecomposition(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Multiple correspondence analysis on the Burt matrix, with adjusted inertias.

    Args:
        n_components: number of modes.
        missing: missing values are a "category" of their own, or an "error".
        handle_unknown: categories that the fit has not seen are an "error" for `transform`, or "ignore".
        exclude: labels (column, category) left out of the modes but not of the margins (FactoMineR's `excl`).
        bins: intervals of continuous columns, see :mod:`featgeo.tables.indicators`.
        random_state: of the start vector, where there are many categories.

    Attributes:
        inertias_: μ_k, principal inertias of the indicator matrix (k,), descending.
        adjusted_inertias_: Greenacre's (k,); NaN with exclusions.
        adjusted_inertia_ratio_: shares of the adjusted total (k,).
        inertia_: total inertia of the indicator matrix, J/Q - 1 without exclusions.
        category_functions_: standard coordinates (J, k); NaN for excluded categories.
        category_coordinates_: principal coordinates √μ_k g_k (J, k).
        category_contributions_: (J, k), adding up to 1 over a mode.
        category_squared_cosines_: (J, k).
        category_masses_: (J,).
        categories_: (column, category) of each category.
        correlation_ratios_: η² of each column and mode (Q, k), FactoMineR's `eta2`; their mean over columns is μ_k.
        n_components_: number of modes.
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        missing: Literal["category", "error"] = "category",
        handle_unknown: Literal["error", "ignore"] = "error",
        exclude: Sequence[tuple[Any, Any]] | None = None,
        bins: int = 8,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.missing = missing
        self.handle_unknown = handle_unknown
        self.exclude = exclude
        self.bins = bins
        self.random_state = random_state

    def fit(self, X: Any, y: None = None) -> Self:
        """Find the modes of a table of columns (n, Q); floating-point columns are continuous.

        Raises:
            FeatgeoError: fewer than two columns, constant tables, too many modes, missing values that are an error.
        """
        frame = as_frame(X)
        if frame.shape[1] < 2:
            raise FeatgeoError("X", f"{frame.shape[1]} column", "Dependence needs at least two columns.")
        if self.missing not in ("category", "error"):
            raise FeatgeoError("missing", f"{self.missing!r}", "Choose category or error.")
        if self.missing == "error" and frame.isna().any(axis=None):
            raise FeatgeoError("X", "missing values", "Pass missing='category'.")
        self.n_features_in_ = frame.shape[1]
        self.columns_ = list(frame.columns)
        self._coders = [make_coder(name, frame[name], self.bins, True) for name in frame.columns]
        z, _ = indicators(self._coders, frame, "error")
        size, q = z.shape[0], frame.shape[1]
        self.categories_ = [(coder.name, label) for coder in self._coders for label in coder.labels]
        unknown = [pair for pair in self.exclude or () if tuple(pair) not in self.categories_]
        if unknown:
            raise FeatgeoError(
                "exclude", f"{unknown[:3]}, which are no categories", "Name pairs (column, category)."
            )
        excluded = {tuple(pair) for pair in self.exclude or ()}
        masses = np.asarray(z.sum(axis=0)).ravel() / (size * q)
        live = (masses > 0) & np.array([pair not in excluded for pair in self.categories_])
        rank = int(live.sum()) - (0 if excluded else q)
        if not 1 <= self.n_components <= rank:
            raise FeatgeoError(
                "n_components", f"{self.n_components}", f"These columns have {rank} modes; pass 1 to {rank}."
            )
        root = np.sqrt(masses[live])
        scaled = z[:, live] * (1 / (root * q * np.sqrt(size)))
        burt = (scaled.T @ scaled).tocsr()
        values, vectors, squares = self._eigenpairs(burt, root)
        fixed = fix_signs(Triples(values, vectors, vectors))
        self.inertias_ = values
        self.inertia_ = float(burt.trace() - root @ root)
        self.category_masses_ = masses
        self.category_functions_ = np.full((len(masses), len(values)), np.nan)
        self.category_functions_[live] = fixed.rows / root[:, None]
        self.category_inertia_ = np.full(len(masses), np.nan)
        self.category_inertia_[live] = burt.diagonal() - root**2
        self.n_components_ = len(values)
        adjusted = (q / (q - 1)) ** 2 * np.maximum(values - 1 / q, 0) ** 2
        total = q / (q - 1) * (squares - (live.sum() - q) / q**2)
        self.adjusted_inertias_ = np.full_like(values, np.nan) if excluded else adjusted
        self.adjusted_inertia_ratio_ = self.adjusted_inertias_ / (total if total > 0 else 1.0)
        return self

    def _eigenpairs(self, burt: Any, root: Array) -> tuple[Array, Array, float]:
        """Leading eigenpairs of K scaled and centred, and the sum of squares of all eigenvalues."""
        size, count = len(root), self.n_components
        image = burt @ root
        along = root @ root
        # ‖K - √c√cᵀ‖² without forming it
        squares = float((burt.data**2).sum() - 2 * root @ image + along**2)
        if size <= DENSE_SIDE or count >= size - 1:
            centred = burt.toarray() - np.outer(root, root)
            values, vectors = linalg.eigh(centred, subset_by_index=[size - count, size - 1])
        else:
            operator = LinearOperator(
                (size, size), matvec=lambda v: burt @ v.ravel() - root * (root @ v.ravel()), dtype=np.float64
            )
            start = check_random_state(self.random_state).uniform(-1, 1, size)
            values, vectors = eigsh(operator, count, v0=start, tol=0)
        return np.maximum(values[::-1], 0), vectors[:, ::-1], squares

    @property
    def category_coordinates_(self) -> Array:
        """Principal coordinates √μ_k g_k (J, k)."""
        return self.category_functions_ * np.sqrt(self.inertias_)

    @property
    def category_contributions_(self) -> Array:
        """Of each category to each mode (J, k)."""
        return contributions(self.category_functions_, self.category_masses_)

    @property
    def category_squared_cosines_(self) -> Array:
        """Share of a category's inertia in each mode (J, k)."""
        return squared_cosines(self.category_coordinates_, self.category_inertia_ / self.category_masses_)

    @property
    def correlation_ratios_(self) -> Array:
        """Share of the variance of a mode's coordinates that a column's categories explain (Q, k)."""
        column = np.repeat(np.arange(len(self._coders)), [len(coder.labels) for coder in self._coders])
        parts = np.zeros((len(self._coders), self.n_components_))
        np.add.at(parts, column, np.nan_to_num(self.category_contributions_))
        return len(self._coders) * self.inertias_ * parts

    def to_frame(self) -> pd.DataFrame:
        """One line per category: mass, inertia, then function, coordinate, contribution and cos² of every mode."""
        check_is_fitted(self)
        data = {"mass": self.category_masses_, "inertia": self.category_inertia_}
        for name in ("functions", "coordinates", "contributions", "squared_cosines"):
            for k, values in enumerate(getattr(self, f"category_{name}_").T):
                data[f"{name.removesuffix('s')} {k + 1}"] = values
        return pd.DataFrame(
            data, index=pd.MultiIndex.from_tuples(self.categories_, names=["column", "category"])
        )

    def transform(self, X: Any) -> Array:
        """Principal coordinates of observations, new ones included: the mean of their categories' functions, (n, k).

        Raises:
            FeatgeoError: other columns than the fitted ones, or categories that the fit has not seen.
        """
        check_is_fitted(self)
        frame = as_frame(X)
        if list(frame.columns) != self.columns_:
            found = f"columns {list(frame.columns)[:8]}"
            raise FeatgeoError("X", found, f"Pass the fitted columns, in order: {self.columns_[:8]}.")
        z, _ = indicators(self._coders, frame, self.handle_unknown)
        functions = np.nan_to_num(self.category_functions_)  # excluded categories count in the mean, with 0
        sizes = np.maximum(np.asarray(z.sum(axis=1)).ravel(), 1)
        centre = self.category_masses_ @ functions  # 0 unless categories are excluded
        return np.asarray(z @ functions) / sizes[:, None] - centre

    @property
    def _n_features_out(self) -> int:
        return self.n_components_
