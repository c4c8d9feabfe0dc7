"""Reading tables for an estimator, and placing rows, columns and labels among those that were fitted.

A supplementary row has profile q_j = n_ij / n_i. and principal coordinates Σ_j (q_j - c_j) g_k(j), the transition
formula; its squared χ² distance from the average is Σ_j (q_j - c_j)² / c_j (Greenacre 2017, chapter 12;
FactoMineR's row.sup).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.tables.codes import MISSING_LABEL, factor
from featgeo.tables.counts import Array, Labels, check_entries, is_sparse
from featgeo.tables.geometry import squared_cosines

Axis = Literal["rows", "columns"]


@dataclass(frozen=True)
class Projection:
    """Principal coordinates (q, k) and squared cosines (q, k) of supplementary profiles."""

    coordinates: Array
    squared_cosines: Array


def read_table(estimator: Any, X: Any, reset: bool) -> tuple[Any, Labels | None]:
    """Counts as a float64 array or CSR, and the row labels of a DataFrame; scikit-learn's checks of features apply.

    Entries are checked here unless `reset`: a fit checks them in its first pass over the table.

    Raises:
        FeatgeoError: not a finite, non-negative, numeric, two-dimensional table of the fitted columns.
    """
    labels = np.asarray(X.index) if hasattr(X, "columns") and hasattr(X, "index") else None
    try:
        counts = check_array(
            _plain(X), accept_sparse="csr", dtype=np.float64, ensure_all_finite=False, estimator=estimator
        )
        validate_data(estimator, X, reset=reset, skip_check_array=True)  # names and number of features
    except (TypeError, ValueError) as error:
        if isinstance(error, TypeError):
            raise  # scikit-learn's contract for sparse containers and objects
        raise FeatgeoError(
            "X", f"no table of counts ({error})", "Pass a two-dimensional table of counts."
        ) from error
    if not reset:
        check_entries(counts)
    return counts, labels


def _plain(X: Any) -> Any:
    """A frame of one numeric dtype as an array; scikit-learn would take long to look at every column."""
    if isinstance(X, pd.DataFrame):
        dtypes = set(X.dtypes)
        if len(dtypes) == 1 and isinstance(only := dtypes.pop(), np.dtype) and only.kind in "biuf":
            return X.to_numpy()
    return X


def read_new(estimator: Any, X: Any, axis: Axis) -> Any:
    """A table whose other side is the fitted one.

    Raises:
        FeatgeoError: a table of another size, or with other names.
    """
    if axis not in ("rows", "columns"):
        raise FeatgeoError("axis", f"{axis!r}", "Choose rows or columns.")
    if axis == "rows":
        return read_table(estimator, X, reset=False)[0]
    counts = X if is_sparse(X) else np.asarray(X, dtype=np.float64)
    fitted = estimator.row_labels_
    if counts.ndim != 2 or counts.shape[0] != len(fitted):
        raise FeatgeoError("X", f"shape {counts.shape}", f"Pass a table of the {len(fitted)} fitted rows.")
    if hasattr(X, "index") and not np.array_equal(np.asarray(X.index), fitted):
        raise FeatgeoError(
            "X", "row labels that differ from those of the fit", "Reindex the table by row_labels_."
        )
    counts = sparse.csr_array(counts, dtype=np.float64) if is_sparse(counts) else counts
    check_entries(counts)
    return counts


def project(estimator: Any, counts: Any, axis: Axis) -> Projection:
    """Supplementary rows (or columns) of a table in the fitted space.

    Raises:
        FeatgeoError: counts in categories that were empty in the fit, unless those are to be ignored.
    """
    if axis == "columns":
        counts = counts.T.tocsr() if is_sparse(counts) else counts.T
        other, functions = estimator.table_.rows, estimator.row_functions_
    else:
        other, functions = estimator.table_.columns, estimator.column_functions_
    masses = estimator.column_masses_ if axis == "rows" else estimator.row_masses_
    sizes = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    # Excluded categories have margins but no functions; empty ones have neither.
    empty = ~other.live & ~_excluded(estimator, other, axis)
    if empty.any():
        stray = np.asarray(counts[:, empty].sum(axis=1)).ravel()
        if stray.any():
            if estimator.handle_unknown == "error":
                names = other.labels[empty][np.asarray(counts[:, empty].sum(axis=0)).ravel() > 0]
                raise FeatgeoError(
                    "X",
                    f"counts in categories that had none in the fit ({', '.join(map(str, names[:5]))})",
                    "Fit them too, or pass handle_unknown='ignore'.",
                )
            sizes = sizes - stray
    if (sizes == 0).any():
        text = f"{int((sizes == 0).sum()):,} {axis} without counts have no coordinates: NaN."
        warnings.warn(text, FeatgeoWarning, stacklevel=4)
    part = counts if other.live.all() else counts[:, other.live]
    mass, g = masses[other.live], functions[other.live]
    with np.errstate(invalid="ignore", divide="ignore"):
        coordinates = np.asarray(part @ g) / sizes[:, None] - mass @ g
        second = part.multiply(part).tocsr() if is_sparse(part) else part**2
        # Σ (q - c)²/c = Σ q²/c - 2 Σ q + Σ c over the live categories
        first = np.asarray(part.sum(axis=1)).ravel() / sizes
        distances = np.asarray(second @ (1 / mass)).ravel() / sizes**2 - 2 * first + mass.sum()
        cosines = squared_cosines(coordinates, np.maximum(distances, 0))
    cosines[sizes == 0] = np.nan
    return Projection(coordinates, cosines)


def project_labels(estimator: Any, values: Any, axis: Axis) -> Array:
    """Fitted principal coordinates of raw categories (len(values), k); missing ones as `missing` says.

    Raises:
        FeatgeoError: categories that the fit has not seen, unless those are to be ignored (coordinates 0).
    """
    if axis not in ("rows", "columns"):
        raise FeatgeoError("axis", f"{axis!r}", "Choose rows or columns.")
    labels = estimator.row_labels_ if axis == "rows" else estimator.column_labels_
    coordinates = estimator.row_coordinates_ if axis == "rows" else estimator.column_coordinates_
    places = {label: i for i, label in enumerate(labels.tolist())}
    codes, uniques = factor(values, "values")
    found = np.array(
        [places.get(label, -1) for label in uniques] + [places.get(MISSING_LABEL, -1)], dtype=np.intp
    )
    at = found[codes]
    unknown = at < 0
    if unknown.any() and estimator.handle_unknown == "error":
        if (unknown & (codes < 0)).any():
            raise FeatgeoError(
                "values", "missing values", "Fit with missing='category', or pass handle_unknown='ignore'."
            )
        some = [uniques[code] for code in np.unique(codes[unknown])[:5]]
        raise FeatgeoError(
            "values", f"categories that the fit has not seen: {some}", "Pass handle_unknown='ignore'."
        )
    result: Array = coordinates[at]
    result[unknown] = 0.0
    return result


def _excluded(estimator: Any, other: Any, axis: Axis) -> Any:
    names = (estimator.exclude_columns if axis == "rows" else estimator.exclude_rows) or ()
    return np.isin(
        np.arange(len(other)), [i for i, label in enumerate(other.labels.tolist()) if label in set(names)]
    )
