"""What a fitted decomposition tells: tests, intervals, frames. Mixed into ModalDecomposition."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from featgeo.errors import FeatgeoError
from featgeo.show.modes_html import modes_page
from featgeo.show.style import Drawing
from featgeo.show.tables import biplot, heat_map, scree
from featgeo.tables.counts import Array, Labels, Table, is_sparse
from featgeo.tables.inference import (
    Intervals,
    Significance,
    bootstrap_intervals,
    independence_p_value,
    mode_significance,
)
from featgeo.tables.operator import dependence, mutual_information
from featgeo.tables.project import Axis
from featgeo.tables.solve import Triples

LISTED = 200  # categories of a side in plain data
BLOCK = 40  # categories of a side in a heat map
SHOWN_CELLS = 25 * 10**6  # of a dense B


class ModesViews:
    """Needs the attributes of a fitted ModalDecomposition."""

    if TYPE_CHECKING:
        alpha: float
        table_: Table
        chi2_: float
        total_: float
        inertia_: float
        degrees_of_freedom_: int
        local_information_: float
        warnings_: tuple[str, ...]
        correlations_: Array
        explained_inertia_ratio_: Array
        row_labels_: Labels
        column_labels_: Labels

    @property
    def mutual_information_(self) -> float:
        """I(X; Y) in nats, exact."""
        return mutual_information(self.table_)

    @property
    def p_value_(self) -> float:
        """Of independence, by the χ² distribution; NaN for tables of fractions or with exclusions."""
        return independence_p_value(self.table_, self.chi2_)

    def significance(
        self, method: str = "auto", n_resamples: int = 999, random_state: Any = 0
    ) -> Significance:
        """How many of the modes are real; see :func:`featgeo.tables.inference.mode_significance`."""
        check_is_fitted(self)
        return mode_significance(
            self.table_,
            self._triples(),
            method=method,
            alpha=self.alpha,
            n_resamples=n_resamples,
            random_state=random_state,
        )

    def bootstrap(self, n_resamples: int = 499, confidence: float = 0.95, random_state: Any = 0) -> Intervals:
        """Bootstrap intervals of the correlations; see :func:`featgeo.tables.inference.bootstrap_intervals`."""
        check_is_fitted(self)
        return bootstrap_intervals(self.table_, self.correlations_, n_resamples, confidence, random_state)

    def dependence_matrix(self) -> pd.DataFrame:
        """B of the categories that took part, dense.

        Raises:
            FeatgeoError: when B is too large to be meant.
        """
        check_is_fitted(self)
        m, n = self.table_.shape
        if m * n > SHOWN_CELLS:
            raise FeatgeoError(
                "dependence_matrix()", f"{m:,} × {n:,} cells", "Use the modes, or a part of the table."
            )
        b = dependence(self.table_)
        matrix = b.matrix.toarray() - np.outer(b.root_rows, b.root_columns) if b.sparse else b.matrix
        rows, columns = self.table_.rows, self.table_.columns
        return pd.DataFrame(matrix, index=rows.labels[rows.live], columns=columns.labels[columns.live])

    def to_frame(self, axis: Axis = "rows") -> pd.DataFrame:
        """One line per category: mass, inertia, then function, coordinate, contribution and cos² of every mode."""
        check_is_fitted(self)
        if axis not in ("rows", "columns"):
            raise FeatgeoError("axis", f"{axis!r}", "Choose rows or columns.")
        side = axis[:-1]
        labels = getattr(self, f"{side}_labels_")
        data = {"mass": getattr(self, f"{side}_masses_"), "inertia": getattr(self, f"{side}_inertia_")}
        for name in ("functions", "coordinates", "contributions", "squared_cosines"):
            for k, values in enumerate(getattr(self, f"{side}_{name}_").T):
                data[f"{name.removesuffix('s')} {k + 1}"] = values
        return pd.DataFrame(data, index=pd.Index(labels, name=side))

    def modes_frame(self, significance: Significance | None = None) -> pd.DataFrame:
        """One line per mode: correlation, share of the inertia, and the tests where they are passed."""
        check_is_fitted(self)
        data: dict[str, Any] = {"correlation": self.correlations_, "inertia": self.correlations_**2}
        data["share"] = self.explained_inertia_ratio_
        data["cumulative"] = np.cumsum(self.explained_inertia_ratio_)
        if significance is not None:
            data["p"] = significance.p_values[: len(self.correlations_)]
            data["corrected"] = significance.corrected[: len(self.correlations_)]
            data["null 95 %"] = significance.null_high[: len(self.correlations_)]
        index = pd.RangeIndex(1, len(self.correlations_) + 1, name="mode")
        return pd.DataFrame(data, index=index)

    def to_dict(
        self, significance: Significance | None = None, names: tuple[str, str] = ("rows", "columns")
    ) -> dict[str, Any]:
        """Plain data for the figures and the page: the modes, and the categories of largest inertia on each side.

        Args:
            significance: tests to show with the modes.
            names: what the rows and the columns are.
        """
        check_is_fitted(self)
        data: dict[str, Any] = {
            "names": list(names), "shape": [len(self.row_labels_), len(self.column_labels_)], "total": self.total_,
            "correlations": self.correlations_.tolist(), "shares": self.explained_inertia_ratio_.tolist(),
            "inertia": self.inertia_, "chi2": self.chi2_, "degrees_of_freedom": self.degrees_of_freedom_,
            "p_value": self.p_value_, "mutual_information": self.mutual_information_,
            "local_information": self.local_information_, "warnings": list(self.warnings_), "significance": None,
        }  # fmt: skip
        if significance is not None:
            fields = ("p_values", "null_low", "null_high", "corrected")
            data["significance"] = {key: getattr(significance, key).tolist() for key in fields}
            data["significance"] |= {
                key: getattr(significance, key) for key in ("n_significant", "method", "n_resamples", "alpha")
            }
            data["warnings"] += list(significance.warnings)
        for side in ("row", "column"):
            inertia = np.nan_to_num(getattr(self, f"{side}_inertia_"))
            chosen = np.sort(np.argsort(-inertia, kind="stable")[:LISTED])
            coordinates, cosines, parts = (
                getattr(self, f"{side}_{name}_")[chosen]
                for name in ("coordinates", "squared_cosines", "contributions")
            )
            data[f"{side}s"] = {
                "labels": [str(label) for label in getattr(self, f"{side}_labels_")[chosen]],
                "masses": getattr(self, f"{side}_masses_")[chosen].tolist(),
                "inertia": inertia[chosen].tolist(),
                "functions": getattr(self, f"{side}_functions_")[chosen].tolist(),
                "coordinates": coordinates.tolist(),
                "contributions": parts.tolist(),
                "squared_cosines": cosines.tolist(),
                "importance": (parts[:, :2] @ self.correlations_[:2] ** 2).tolist(),
            }
        data["matrix"] = self._largest_block()
        return data

    def _largest_block(self) -> dict[str, Any]:
        """B of the categories of largest inertia, in the order of the first mode."""
        places, labels, masses, left_out = [], [], [], False
        for side, margin in (("row", self.table_.rows), ("column", self.table_.columns)):
            inertia = getattr(self, f"{side}_inertia_")[margin.live]
            chosen = np.argsort(-inertia, kind="stable")[:BLOCK]
            if self.correlations_.size:
                chosen = chosen[
                    np.argsort(getattr(self, f"{side}_functions_")[margin.live][chosen, 0], kind="stable")
                ]
            left_out |= len(inertia) > BLOCK
            places.append(chosen)
            labels.append([str(label) for label in margin.labels[margin.live][chosen]])
            masses.append(margin.mass[chosen])
        counts = self.table_.counts[places[0]][:, places[1]]
        counts = counts.toarray() if is_sparse(counts) else counts
        expected = np.outer(*masses)
        values = (counts / self.total_ - expected) / np.sqrt(expected)
        return {
            "values": values.tolist(),
            "rows": labels[0],
            "columns": labels[1],
            "left_out": bool(left_out),
        }

    def plot(self, what: str = "biplot", **options: Any) -> Drawing:
        """A figure: "biplot" (options `kind`, `modes`), "scree" (with the null band of counts) or "heat_map"."""
        drawings = {"biplot": biplot, "scree": scree, "heat_map": heat_map}
        if what not in drawings:
            raise FeatgeoError("what", f"{what!r}", f"Choose one of {', '.join(drawings)}.")
        tests = (
            self.significance()
            if what == "scree" and self.table_.holds_counts and len(self.correlations_)
            else None
        )
        return drawings[what](self.to_dict(tests), **options)

    def to_html(self, path: str | Path, names: tuple[str, str] = ("rows", "columns")) -> None:
        """Write one self-contained page: modes with tests, biplots, B, and the categories."""
        tests = self.significance() if self.table_.holds_counts and len(self.correlations_) else None
        Path(path).write_text(modes_page(self.to_dict(tests, names)), encoding="utf-8")

    def _triples(self) -> Triples:
        """The singular triples again, of the categories that took part."""
        sides = []
        for name, margin in (("row", self.table_.rows), ("column", self.table_.columns)):
            functions = getattr(self, f"{name}_functions_")[margin.live]
            sides.append(functions * np.sqrt(margin.mass)[:, None])
        return Triples(self.correlations_, sides[0], sides[1])
