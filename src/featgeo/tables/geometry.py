"""What a table's modes mean: functions, coordinates, contributions, squared cosines.

With σ, U, V of B: functions U/√r and V/√c have mean zero and variance one under the masses and are uncorrelated (the
HGR maximal correlation functions; standard coordinates of correspondence analysis); principal coordinates are σ times
these; a contribution is U²; a squared cosine is the square of a principal coordinate over the squared χ² distance
from the average profile. Greenacre, Correspondence Analysis in Practice, 3rd ed., 2017, appendix A.
"""

from __future__ import annotations

import numpy as np

from featgeo.tables.counts import Array, Table
from featgeo.tables.operator import dependence


class Geometry:
    """The attributes of a fitted decomposition that follow from its functions; computed when they are asked for."""

    correlations_: Array
    row_functions_: Array
    column_functions_: Array
    row_masses_: Array
    column_masses_: Array
    table_: Table
    _inertias: tuple[Array, Array] | None

    @property
    def row_inertia_(self) -> Array:
        """Of each row (rows,); they add up to the inertia."""
        return self._side_inertias()[0]

    @property
    def column_inertia_(self) -> Array:
        """Of each column (columns,)."""
        return self._side_inertias()[1]

    def _side_inertias(self) -> tuple[Array, Array]:
        """A pass over the table when they are first asked for, kept until the next fit."""
        if self._inertias is None:
            rows, columns = dependence(self.table_).side_inertias
            self._inertias = self.table_.rows.restore(rows), self.table_.columns.restore(columns)
        return self._inertias

    @property
    def row_coordinates_(self) -> Array:
        """Principal coordinates σ_k f_k (rows, k)."""
        return self.row_functions_ * self.correlations_

    @property
    def column_coordinates_(self) -> Array:
        """Principal coordinates σ_k g_k (columns, k)."""
        return self.column_functions_ * self.correlations_

    @property
    def row_contributions_(self) -> Array:
        """Of each row to each mode (rows, k); they add up to 1 over a mode."""
        return contributions(self.row_functions_, self.row_masses_)

    @property
    def column_contributions_(self) -> Array:
        """Of each column to each mode (columns, k); they add up to 1 over a mode."""
        return contributions(self.column_functions_, self.column_masses_)

    @property
    def row_squared_cosines_(self) -> Array:
        """Share of a row's inertia in each mode (rows, k)."""
        return squared_cosines(self.row_coordinates_, self.row_inertia_ / self.row_masses_)

    @property
    def column_squared_cosines_(self) -> Array:
        """Share of a column's inertia in each mode (columns, k)."""
        return squared_cosines(self.column_coordinates_, self.column_inertia_ / self.column_masses_)


def contributions(functions: Array, masses: Array) -> Array:
    """Mass times squared function (m, k)."""
    shares: Array = masses[:, None] * functions**2
    return shares


def squared_cosines(coordinates: Array, distances: Array) -> Array:
    """Squares of principal coordinates (m, k) over squared χ² distances (m,); 0 for a profile that is the average."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines: Array = coordinates**2 / distances[:, None]
    cosines[distances <= 1e-20] = 0.0  # unit of distances: squared relative deviations of frequencies
    return cosines
