"""ModalDecomposition: the modes of the dependence between two categorical variables.

For log-loss the local matrix B of the output layer is the contingency table of X and Y in the right metric. Its
singular values are the HGR maximal correlations, its singular vectors the functions f(X), g(Y) that attain them, and
together they are correspondence analysis. Huang, Xu, Zheng, Wornell, Entropy 24(1):135, 2022; Greenacre,
Correspondence Analysis in Practice, 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from featgeo.errors import FeatgeoError
from featgeo.tables.counts import Array, Labels, Margin, Table, make_table
from featgeo.tables.geometry import Geometry
from featgeo.tables.inference import mode_significance
from featgeo.tables.operator import Dependence, dependence
from featgeo.tables.project import Axis, project, project_labels, read_new, read_table
from featgeo.tables.solve import Solver, Triples, count_modes, singular_triples
from featgeo.tables.streams import Missing, PairCounts
from featgeo.tables.views import ModesViews

if TYPE_CHECKING:
    from sklearn.utils import Tags

FIRST_SEARCHED = 5  # modes that n_components="significant" begins with


class ModalDecomposition(
    Geometry,
    ModesViews,
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """HGR maximal correlations and correspondence analysis of a contingency table of any size.

    Order and signs: correlations descend; each mode's largest row entry of U (the square root of its contribution; the
    first of equals) is positive. Equal correlations share a space whose basis is arbitrary.

    Args:
        n_components: number of modes; None for all that the shape allows; "significant" for the leading ones whose
            p-value is at most `alpha` (counts only).
        solver: "auto", "dense", "lanczos", "arpack" or "randomized"; see :mod:`featgeo.tables.solve`.
        missing: what `fit_columns` does with missing values: "drop" the pair, make them a "category", or "error".
        handle_unknown: categories that the fit has not seen are an "error" for `transform`, or "ignore": their counts
            are left out, and as labels they get the coordinates of the average, 0.
        exclude_rows: labels left out of B but not of the margins (subset analysis, FactoMineR's `excl`).
        exclude_columns: the same for columns.
        alpha: level of n_components="significant".
        tol: Lanczos stops where ‖BᵀB v - σ² v‖ ≤ tol σ² for each mode; 0 (the default) for what rounding allows.
        random_state: of start vectors and resamples.

    Attributes:
        correlations_: singular values of B (k,), descending; the first is the HGR maximal correlation.
        row_functions_: f_k (rows, k), zero mean, unit variance, uncorrelated under the row masses; NaN for empty rows.
        column_functions_: g_k (columns, k); E[g_k(Y) | x] = σ_k f_k(x).
        row_coordinates_: principal coordinates σ_k f_k (rows, k).
        column_coordinates_: principal coordinates σ_k g_k (columns, k).
        row_contributions_: of each row to each mode (rows, k), adding up to 1 over a mode.
        column_contributions_: the same for columns.
        row_squared_cosines_: share of a row's inertia in each mode (rows, k).
        column_squared_cosines_: the same for columns.
        row_inertia_: of each row (rows,); they add up to `inertia_`.
        column_inertia_: of each column (columns,).
        row_masses_: shares of the total (rows,).
        column_masses_: shares of the total (columns,).
        row_labels_: category names (rows,).
        column_labels_: category names (columns,).
        inertia_: ‖B‖² = χ²/N, all modes together.
        explained_inertia_ratio_: σ_k² / inertia (k,).
        chi2_: Pearson's statistic, N · inertia.
        degrees_of_freedom_: of `chi2_`, over the categories that are not empty.
        p_value_: of independence, by the χ² distribution; NaN for tables of fractions or with exclusions.
        mutual_information_: exact, nats.
        local_information_: ½ inertia, its local approximation (nats).
        total_: sum of the table, N.
        table_: the counts that took part and their margins.
        warnings_: what was left out, in words.
        n_components_: number of modes found.
        significance_: with n_components="significant", the tests that decided.

    Example:
        >>> import numpy as np
        >>> table = np.array([[4, 2, 3, 2], [4, 3, 7, 4], [25, 10, 12, 4], [18, 24, 33, 13], [10, 6, 7, 2]])
        >>> ModalDecomposition(n_components=2).fit(table).correlations_.round(4)
        array([0.2734, 0.1001])
    """

    def __init__(
        self,
        n_components: int | Literal["significant"] | None = None,
        *,
        solver: Solver = "auto",
        missing: Missing = "drop",
        handle_unknown: Literal["error", "ignore"] = "error",
        exclude_rows: Sequence[Any] | None = None,
        exclude_columns: Sequence[Any] | None = None,
        alpha: float = 0.05,
        tol: float = 0.0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.missing = missing
        self.handle_unknown = handle_unknown
        self.exclude_rows = exclude_rows
        self.exclude_columns = exclude_columns
        self.alpha = alpha
        self.tol = tol
        self.random_state = random_state

    # -- fitting -------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: None = None) -> Self:
        """Decompose a contingency table.

        Args:
            X: counts or probabilities (rows, columns): array, DataFrame (as pandas.crosstab gives it) or scipy sparse.
            y: ignored.

        Raises:
            FeatgeoError: entries that are no counts, fewer than two categories, too many modes.
        """
        self._pairs: PairCounts | None = None
        counts, labels = read_table(self, X, reset=True)
        return self._decompose(counts, labels, self._column_names(X))

    def fit_columns(self, x: Any, y: Any, sample_weight: Any = None) -> Self:
        """Count the pairs of two raw columns (strings, numbers, categoricals), and decompose their table.

        Args:
            x: one category per observation; its categories are the rows.
            y: the same; its categories are the columns.
            sample_weight: weight of each observation.
        """
        return self.fit_stream([(x, y, sample_weight)])

    def fit_stream(self, chunks: Iterable[tuple[Any, ...]]) -> Self:
        """Count chunks (x, y) or (x, y, sample_weight) one by one, and decompose once at the end."""
        pairs = PairCounts(self.missing)
        for chunk in chunks:
            pairs.add(*chunk)
        return self.fit_counts(pairs)

    def fit_counts(self, pairs: PairCounts) -> Self:
        """Decompose pairs that were counted elsewhere."""
        self._pairs = pairs
        return self._decompose_pairs()

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Add a chunk to what was fitted before, and decompose the sum; `fit_stream` decomposes only once.

        Args:
            X: a column of categories; or a table with the fitted rows and columns, whose counts are added.
            y: the other column; ignored for a table.
            sample_weight: weight of each observation; ignored for a table.
        """
        if np.ndim(X) == 1 or (isinstance(X, list) and np.ndim(X[0]) == 0):
            if y is None:
                raise FeatgeoError("y", "None", "Pass both columns: partial_fit(x, y).")
            if self._is_fitted and getattr(self, "_pairs", None) is None:
                raise FeatgeoError(
                    "X, y", "columns after a table", "Go on with tables, or begin with a new estimator."
                )
            if not self._is_fitted:
                self._pairs = PairCounts(self.missing)
            assert self._pairs is not None
            self._pairs.add(X, y, sample_weight)
            return self._decompose_pairs()
        if not self._is_fitted:
            return self.fit(X)
        if self._pairs is not None:
            raise FeatgeoError(
                "X", "a table after columns", "Go on with columns, or begin with a new estimator."
            )
        counts, _ = read_table(self, X, reset=False)
        if counts.shape[0] != len(self.row_labels_):
            raise FeatgeoError(
                "X", f"{counts.shape[0]} rows", f"Pass a table of the {len(self.row_labels_)} fitted rows."
            )
        return self._decompose(self._seen + counts, self.row_labels_, self.column_labels_)

    @property
    def _is_fitted(self) -> bool:
        return hasattr(self, "correlations_")

    def _column_names(self, X: Any) -> Labels | None:
        return np.asarray(X.columns) if hasattr(X, "columns") else None

    def _decompose_pairs(self) -> Self:
        assert self._pairs is not None
        counts, rows, columns = self._pairs.table()
        self.n_features_in_ = len(columns)
        if all(isinstance(label, str) for label in columns):
            self.feature_names_in_ = columns
        return self._decompose(counts, rows, columns)

    def _decompose(self, counts: Any, rows: Labels | None, columns: Labels | None) -> Self:
        if self.handle_unknown not in ("error", "ignore"):
            raise FeatgeoError("handle_unknown", f"{self.handle_unknown!r}", "Choose error or ignore.")
        table = make_table(counts, rows, columns, self.exclude_rows or (), self.exclude_columns or ())
        b = dependence(table)
        random_state = check_random_state(self.random_state)
        if self.n_components == "significant":
            triples = self._significant(table, b, random_state)
        else:
            count = count_modes(table, self.n_components)
            triples = singular_triples(b, count, self.solver, not table.excluded, random_state, self.tol)
        self._seen = counts
        self._inertias = None
        self.table_: Table = table
        self.total_ = table.total
        self.warnings_ = table.warnings
        self.inertia_ = b.inertia
        self.chi2_ = table.total * b.inertia
        self.degrees_of_freedom_ = table.degrees_of_freedom
        self.local_information_ = 0.5 * b.inertia
        self.correlations_ = np.minimum(triples.values, 1.0)
        self.n_components_ = len(self.correlations_)
        self._keep_side("row", table.rows, triples.rows)
        self._keep_side("column", table.columns, triples.columns)
        self.row_labels_, self.column_labels_ = table.rows.labels, table.columns.labels
        self.explained_inertia_ratio_ = self.correlations_**2 / (b.inertia or 1.0)
        return self

    def _significant(self, table: Table, b: Dependence, random_state: Any) -> Triples:
        """The leading modes whose p-value is at most alpha; more are computed as long as all of them are."""
        table.need_counts("n_components='significant'")
        count = min(table.max_rank, FIRST_SEARCHED)
        while True:
            triples = singular_triples(b, count, self.solver, True, random_state, self.tol)
            self.significance_ = mode_significance(
                table, triples, alpha=self.alpha, random_state=random_state
            )
            found = self.significance_.n_significant
            if found < count or count == table.max_rank:
                return Triples(triples.values[:found], triples.rows[:, :found], triples.columns[:, :found])
            count = min(table.max_rank, 4 * count)

    def _keep_side(self, name: str, margin: Margin, vectors: Array) -> None:
        setattr(self, f"{name}_functions_", margin.restore(vectors / np.sqrt(margin.mass)[:, None]))
        setattr(self, f"{name}_masses_", margin.restore(margin.mass))

    # -- new rows and columns ------------------------------------------------------------------------------------------

    def transform(self, X: Any) -> Array:
        """Principal coordinates of rows, new (supplementary) ones included: E[g_k(Y) | profile], (rows of X, k).

        Args:
            X: counts (any rows, the fitted columns). A row without counts gives NaN.
        """
        check_is_fitted(self)
        counts, _ = read_table(self, X, reset=False)
        return project(self, counts, "rows").coordinates

    def transform_columns(self, X: Any) -> Array:
        """Principal coordinates of columns, new ones included: E[f_k(X) | profile], (columns of X, k).

        Args:
            X: counts (the fitted rows, any columns).
        """
        check_is_fitted(self)
        return project(self, read_new(self, X, "columns"), "columns").coordinates

    def transform_labels(self, values: Any, axis: Axis = "rows") -> Array:
        """Principal coordinates of raw categories, one row per value: (len(values), k).

        Args:
            values: categories of the rows (or columns); new ones are handled as `handle_unknown` says.
            axis: "rows" or "columns".
        """
        check_is_fitted(self)
        return project_labels(self, values, axis)

    def squared_cosines(self, X: Any, axis: Axis = "rows") -> Array:
        """Squared cosines of rows (or columns) of a table, new ones included: (rows of X, k) or (columns of X, k)."""
        check_is_fitted(self)
        return project(self, read_new(self, X, axis), axis).squared_cosines

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        return tags
