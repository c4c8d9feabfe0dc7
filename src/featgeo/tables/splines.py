"""The spline basis of a continuous column: quadratic B-splines of its normal scores.

Normal scores (the standard normal quantiles of the ranks) are the same for every increasing function of a column: the
basis is as indifferent to scale as a maximal correlation is, and no outlier carries weight of its own. B-splines with
knots at quantiles are smooth memberships in overlapping intervals, at least 0 and adding up to 1 (fuzzy coding in
correspondence analysis; van Rijckevorsel, Component and Correspondence Analysis, 1988, chapter 2). Of a Gaussian pair
with correlation 0.8 eight functions keep 0.800, eight quantile bins 0.773, sixteen 0.789. Bins see steps better.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import ndtri
from scipy.stats import rankdata
from sklearn.preprocessing import SplineTransformer

from featgeo.errors import FeatgeoError
from featgeo.tables.indicators import finite_values

DEGREE = 2


def spline_memberships(name: Hashable, column: Any, size: int) -> Any:
    """Values (n,) of a continuous column as memberships (n, size or fewer where values are tied) in CSR form.

    Missing values have an empty row.

    Raises:
        FeatgeoError: fewer than three functions, or infinite values.
    """
    if size <= DEGREE:
        raise FeatgeoError("bins", f"{size}", f"A spline basis has at least {DEGREE + 1} functions.")
    values = finite_values(name, column)
    known = np.flatnonzero(~np.isnan(values))
    scores = ndtri((rankdata(values[known]) - 0.5) / len(known))[:, None]
    knots = np.unique(np.quantile(scores, np.linspace(0, 1, size - DEGREE + 1)))
    basis = SplineTransformer(
        degree=DEGREE, knots=knots[:, None], extrapolation="constant", sparse_output=True
    )
    part = sparse.coo_array(basis.fit_transform(scores))
    return sparse.coo_array(
        (part.data, (known[part.row], part.col)), shape=(len(values), part.shape[1])
    ).tocsr()
