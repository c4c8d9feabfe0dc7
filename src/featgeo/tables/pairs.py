"""The dependence of all pairs of columns: maximal correlations, tests, and an order for a clustered heat map.

One sparse product gives every pair's contingency table: they are the blocks of the Burt matrix ZᵀZ of all columns'
indicators. Observations with a missing value are left out of that column's pairs. With a spline basis Z has memberships
instead of indicators for continuous columns; these overlap, so that the Gram matrix by which they are made white is no
longer diagonal (canonical correlation).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy import linalg, sparse
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import chi2, false_discovery_control

from featgeo.errors import FeatgeoError
from featgeo.show.style import Drawing
from featgeo.show.tables import dependence_map
from featgeo.tables.counts import Array
from featgeo.tables.indicators import as_frame, indicators, is_continuous, make_coder
from featgeo.tables.inference import debiased
from featgeo.tables.splines import spline_memberships
from featgeo.theory.linalg import whiten


@dataclass(frozen=True)
class PairDependence:
    """All pairs of q columns.

    Attributes:
        correlations: maximal correlation of each pair (q, q), 1 on the diagonal.
        corrected: the same less what sampling noise adds (q, q).
        p_values: of independence, by Pearson's χ² (q, q); NaN on the diagonal.
        adjusted_p_values: the same for a false discovery rate (Benjamini, Hochberg) over all pairs.
        observations: complete pairs (q, q).
        order: of the columns in a clustered heat map (q,), by average linkage of 1 - correlation.
    """

    correlations: pd.DataFrame
    corrected: pd.DataFrame
    p_values: pd.DataFrame
    adjusted_p_values: pd.DataFrame
    observations: pd.DataFrame
    order: list[int]

    def plot(self, alpha: float = 0.05) -> Drawing:
        """Clustered heat map of the corrected correlations; a dot where the adjusted p is at most alpha."""
        names = [str(name) for name in self.corrected.columns]
        return dependence_map(
            self.corrected.to_numpy(), names, self.order, self.adjusted_p_values.to_numpy(), alpha
        )


def pair_dependence(
    X: Any, bins: int = 8, basis: Literal["quantile", "spline"] = "quantile"
) -> PairDependence:
    """Maximal correlations of all pairs of columns of a DataFrame.

    Args:
        X: columns (n, q): categories of any kind; floating-point columns with more than `bins` values are continuous
            and get a basis of so many functions.
        bins: functions of a continuous column.
        basis: "quantile": indicators of equally filled intervals (:mod:`featgeo.tables.indicators`), which see steps;
            "spline": smooth memberships (:mod:`featgeo.tables.splines`), which see smooth dependence with fewer.

    Raises:
        FeatgeoError: fewer than two columns, an unknown basis.
    """
    frame = as_frame(X)
    names, q = list(frame.columns), frame.shape[1]
    if q < 2:
        raise FeatgeoError("X", f"{q} column", "Dependence needs at least two columns.")
    if len(set(names)) < q:
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        raise FeatgeoError("X", f"columns of the same name: {', '.join(twice)}", "Rename them.")
    if basis not in ("quantile", "spline"):
        raise FeatgeoError("basis", f"{basis!r}", "Choose quantile or spline.")
    z = [_columns_of(frame[[name]], bins, basis) for name in names]
    smooth = [basis == "spline" and is_continuous(frame[name], bins) for name in names]
    complete = [not frame[name].isna().any() for name in names]
    places = [
        slice(start, end) for start, end in pairwise(np.cumsum([0] + [part.shape[1] for part in z]).tolist())
    ]
    everything = sparse.hstack(z, format="csr")
    burt = (everything.T @ everything).toarray()
    found = {key: np.eye(q) for key in ("first", "corrected")}
    observed = frame.notna().to_numpy().astype(np.float64)
    p, sizes = np.full((q, q), np.nan), observed.T @ observed
    for i in range(q):
        for j in range(i):
            grams: list[Array | None] = [None, None]
            for side, (one, other) in enumerate(((i, j), (j, i))):
                if smooth[one]:
                    whole_gram = burt[places[one], places[one]]
                    grams[side] = whole_gram if complete[other] else _gram_beside(z[one], z[other])
            block = burt[places[i], places[j]]
            first, corrected, p_value = _pair(block, grams)
            for matrix, value in ((found["first"], first), (found["corrected"], corrected), (p, p_value)):
                matrix[i, j] = matrix[j, i] = value
    below = np.tril_indices(q, -1)
    adjusted = np.full((q, q), np.nan)
    known = ~np.isnan(p[below])
    values = np.full(len(known), np.nan)
    values[known] = false_discovery_control(p[below][known]) if known.any() else np.nan
    adjusted[below] = values
    adjusted.T[below] = values
    frames = [
        pd.DataFrame(matrix, index=names, columns=names)
        for matrix in (found["first"], found["corrected"], p, adjusted, sizes)
    ]
    order = [0, 1]
    if q > 2:
        distance = squareform(1 - found["corrected"], checks=False)
        order = leaves_list(linkage(distance, "average", optimal_ordering=q <= 200)).tolist()
    return PairDependence(frames[0], frames[1], frames[2], frames[3], frames[4], order)


def _columns_of(column: pd.DataFrame, bins: int, basis: str) -> Any:
    """Indicators or memberships of the one column of a frame (n, categories), CSR."""
    (name,) = column.columns
    if basis == "spline" and is_continuous(column[name], bins):
        return spline_memberships(name, column[name], bins)
    return indicators([make_coder(name, column[name], bins, False)], column, "error")[0]


def _gram_beside(z: Any, other: Any) -> Array:
    """Sums of products of memberships over the observations that the other column has too."""
    shared = z[np.flatnonzero(np.diff(other.indptr))]
    return np.asarray((shared.T @ shared).toarray())


def _pair(block: Array, grams: list[Array | None]) -> tuple[float, float, float]:
    """Maximal correlation, corrected correlation and p-value; 0, 0, NaN where a side has one category.

    Args:
        block: contingency table, or sums of products of memberships.
        grams: of the memberships of a side; None for indicators, whose Gram matrix is diagonal.
    """
    live = block.sum(axis=1) > 0, block.sum(axis=0) > 0
    block = block[live[0]][:, live[1]]
    if min(block.shape) < 2:
        return 0.0, 0.0, np.nan
    total = block.sum()
    masses = block.sum(axis=1) / total, block.sum(axis=0) / total
    b, ranks = block / total - np.outer(*masses), []
    for mass, gram, kept in zip(masses, grams, live, strict=True):
        if gram is None:
            white, rank = b.T / np.sqrt(mass), len(mass) - 1
        else:
            covariance = gram[np.ix_(kept, kept)] / total - np.outer(mass, mass)
            white = whiten(torch.from_numpy(covariance)).white(torch.from_numpy(b.T.copy())).numpy()
            rank = white.shape[1]
        b = white
        ranks.append(rank)
    first = min(1.0, float(linalg.svdvals(b)[0]))
    corrected = float(debiased(np.array([first]), (ranks[0] + 1, ranks[1] + 1), total)[0])
    return first, min(1.0, corrected), float(chi2.sf(total * (b**2).sum(), ranks[0] * ranks[1]))
