"""The dependence of all pairs of columns: maximal correlations, tests, and an order for a clustered heat map.

One sparse product gives every pair's contingency table: they are the blocks of the Burt matrix ZᵀZ of all columns'
indicators. Observations with a missing value are left out of that column's pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import linalg
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import chi2, false_discovery_control

from featgeo.errors import FeatgeoError
from featgeo.show.style import Drawing
from featgeo.show.tables import dependence_map
from featgeo.tables.counts import Array
from featgeo.tables.indicators import as_frame, indicators, make_coder
from featgeo.tables.inference import debiased


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


def pair_dependence(X: Any, bins: int = 8) -> PairDependence:
    """Maximal correlations of all pairs of columns of a DataFrame.

    Args:
        X: columns (n, q): categories of any kind; floating-point columns with more than `bins` values are continuous
            and get the quantile basis of :mod:`featgeo.tables.indicators`.
        bins: intervals of continuous columns.

    Raises:
        FeatgeoError: fewer than two columns.
    """
    frame = as_frame(X)
    names, q = list(frame.columns), frame.shape[1]
    if q < 2:
        raise FeatgeoError("X", f"{q} column", "Dependence needs at least two columns.")
    coders = [make_coder(name, frame[name], bins, False) for name in names]
    z, offsets = indicators(coders, frame, "error")
    burt = (z.T @ z).toarray()
    found = {key: np.eye(q) for key in ("first", "corrected")}
    p, sizes = np.full((q, q), np.nan), np.zeros((q, q))
    for i in range(q):
        sizes[i, i] = np.trace(burt[offsets[i] : offsets[i + 1], offsets[i] : offsets[i + 1]])
        for j in range(i):
            block = burt[offsets[i] : offsets[i + 1], offsets[j] : offsets[j + 1]]
            first, corrected, p_value = _pair(block)
            for matrix, value in ((found["first"], first), (found["corrected"], corrected), (p, p_value)):
                matrix[i, j] = matrix[j, i] = value
            sizes[i, j] = sizes[j, i] = block.sum()
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


def _pair(block: Array) -> tuple[float, float, float]:
    """Maximal correlation, corrected correlation and p-value of a table; 0, 0, NaN where a side has one category."""
    block = block[block.sum(axis=1) > 0][:, block.sum(axis=0) > 0]
    if min(block.shape) < 2:
        return 0.0, 0.0, np.nan
    total = block.sum()
    r, c = block.sum(axis=1) / total, block.sum(axis=0) / total
    b = block / total / np.sqrt(np.outer(r, c)) - np.sqrt(np.outer(r, c))
    first = min(1.0, float(linalg.svdvals(b)[0]))
    corrected = float(debiased(np.array([first]), block.shape, total)[0])
    dof = (block.shape[0] - 1) * (block.shape[1] - 1)
    return first, min(1.0, corrected), float(chi2.sf(total * (b**2).sum(), dof))
