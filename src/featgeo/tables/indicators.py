"""Many columns as one sparse indicator matrix: categories as they are, continuous columns in quantile bins.

The quantile basis: a continuous column becomes the indicators of `bins` intervals between its quantiles, as equally
filled as ties allow. Step functions on these intervals are the functions that a maximal correlation is sought among, so
that more bins miss less of a smooth dependence (the loss falls as 1/bins²) and cost more noise.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from featgeo.errors import FeatgeoError
from featgeo.tables.codes import MISSING_LABEL, Codes, factor, order_labels

Edges = NDArray[np.float64]


@dataclass(frozen=True)
class Coder:
    """How one column becomes codes: the labels of its categories, or the inner edges of its bins.

    Attributes:
        name: of the column.
        labels: of its categories or bins.
        edges: inner edges (bins - 1,) of a continuous column, else None.
        missing: code of missing values, -1 where they have none.
    """

    name: Hashable
    labels: tuple[Hashable, ...]
    edges: Edges | None
    missing: int

    def codes(self, column: Any) -> Codes:
        """Codes of values (n,): `missing` for missing ones, -2 for categories that are not known."""
        if self.edges is not None:
            values = pd.to_numeric(pd.Series(column), errors="raise").to_numpy(
                dtype=np.float64, na_value=np.nan
            )
            found = np.searchsorted(self.edges, values, side="right").astype(np.int64)
            return np.where(np.isnan(values), self.missing, found)
        raw, uniques = factor(column, str(self.name))
        places = {label: i for i, label in enumerate(self.labels)}
        moved = np.array([places.get(label, -2) for label in uniques] + [self.missing], dtype=np.int64)
        return moved[raw]


def make_coder(name: Hashable, column: Any, bins: int, keep_missing: bool) -> Coder:
    """The coder of a column: floating-point columns with more than `bins` distinct values are continuous.

    Args:
        name: of the column.
        column: its values.
        bins: number of intervals of a continuous column.
        keep_missing: whether missing values become a category.

    Raises:
        FeatgeoError: fewer than two bins, or no values at all.
    """
    if bins < 2:
        raise FeatgeoError("bins", f"{bins}", "Dependence needs at least two bins.")
    series = pd.Series(column)
    lost = bool(series.isna().any()) and keep_missing
    edges: Edges | None = None
    if is_continuous(series, bins):
        values = finite_values(name, series)
        low, high = np.nanmin(values), np.nanmax(values)
        inner = np.unique(np.nanquantile(values, np.arange(1, bins) / bins))
        edges = inner[(inner > low) & (inner <= high)]
        ends = [low, *edges.tolist(), high]
        labels: list[Hashable] = [f"{a:.4g} to {b:.4g}" for a, b in pairwise(ends)]
    else:
        _, found = factor(column, str(name))
        own = isinstance(series.dtype, pd.CategoricalDtype)
        labels = found if own else [found[i] for i in order_labels(found)]
    if not labels:
        raise FeatgeoError(str(name), "no values", "Leave out columns without values.")
    if lost:
        labels = [*labels, MISSING_LABEL]
    return Coder(name, tuple(labels), edges, len(labels) - 1 if lost else -1)


def is_continuous(column: Any, bins: int) -> bool:
    """Whether a column is of floating-point numbers with more distinct values than bins."""
    series = pd.Series(column)
    return pd.api.types.is_float_dtype(series.dtype) and int(series.nunique()) > bins


def finite_values(name: Hashable, column: Any) -> NDArray[np.float64]:
    """Numbers of a column, NaN where they are missing.

    Raises:
        FeatgeoError: infinite values.
    """
    values = pd.Series(column).to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(values).any():
        raise FeatgeoError(str(name), "infinite values", "Remove or replace them.")
    return values


def indicators(coders: list[Coder], frame: pd.DataFrame, unknown: str) -> tuple[Any, NDArray[np.int64]]:
    """Indicator matrix Z (n, all categories) in CSR form, and where each column's categories begin (columns + 1,).

    Raises:
        FeatgeoError: categories that are not known, unless `unknown` is "ignore" (they get no indicator).
    """
    offsets = np.cumsum([0] + [len(coder.labels) for coder in coders])
    rows, columns = [], []
    for coder, start, (_, column) in zip(coders, offsets[:-1], frame.items(), strict=True):
        codes = coder.codes(column)
        if unknown == "error" and (codes == -2).any():
            some = column[codes == -2].unique()[:5].tolist()
            raise FeatgeoError(
                str(coder.name),
                f"categories that the fit has not seen: {some}",
                "Pass handle_unknown='ignore'.",
            )
        known = np.flatnonzero(codes >= 0)
        rows.append(known)
        columns.append(codes[known] + start)
    place, category = np.concatenate(rows), np.concatenate(columns)
    z = sparse.coo_array((np.ones(len(place)), (place, category)), shape=(len(frame), int(offsets[-1])))
    return z.tocsr(), offsets


def as_frame(X: Any) -> pd.DataFrame:
    """Columns as a DataFrame.

    Raises:
        FeatgeoError: not two-dimensional, or without rows or columns.
    """
    frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X)) if np.ndim(X) == 2 else None
    if frame is None or 0 in frame.shape:
        raise FeatgeoError(
            "X",
            f"shape {np.shape(X)}",
            "Pass a table of columns: one row per observation. Reshape your data.",
        )
    return frame
