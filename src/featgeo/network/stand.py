"""An operating point of a layer: what its tail and the loss are replaced by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from featgeo.theory.layer import AverageTail
from featgeo.theory.linalg import ThinSVD, thin_svd


@dataclass(frozen=True)
class RoadRows:
    """Some rows, for standard errors beside another road.

    Attributes:
        features: f (m, k).
        statistics: T (m, d).
        road: g₀ (m, d), what the network puts out while the layer is frozen.
        cross: Cov(g₀, f) (d, k) of all rows seen.
        errors: of alignment, gain available and gain used through the estimate of the tail.
    """

    features: Tensor
    statistics: Tensor
    road: Tensor
    cross: Tensor
    errors: tuple[float, float, float]


@dataclass(frozen=True)
class Beside:
    """What differs at a stand of a layer that another road bypasses.

    Attributes:
        cross: Cov(T, f) (d, k), with T what is left for the layer.
        covariance: Cov(T) (d, d).
        samples: rows that these were taken from.
        locality: how far the picture holds.
        error: standard error of the alignment through the estimate of the tail.
        remark: what is to be said of the stand.
        rows: some rows, where standard errors can be told.
    """

    cross: Tensor
    covariance: Tensor
    samples: int
    locality: float
    error: float | None = None
    remark: str = ""
    rows: RoadRows | None = None


@dataclass(frozen=True)
class Stand:
    """An operating point as a layer's quadratic needs it.

    Attributes:
        at: its name.
        jacobian: of the tail (d, n).
        metric: a factor of the output metric (m, d).
        factor: thin SVD of R = metric · jacobian (m, n), RᵀR = H.
        output: g there (d,).
        displacement: what b + Wμ lacks to the best constant (n,).
        displacement_loss: loss units lost through that.
        constant_loss: loss at the constant.
        tail_r2: R² of the linear tail.
        saturated: neurons whose derivative vanishes.
        beside: what differs where another road bypasses the layer.
        tail: the regression on the data that the Jacobian comes from, if it does.
        metric_svd: thin SVD of the metric, where it is known already.
    """

    at: str
    jacobian: Tensor
    metric: Tensor
    factor: ThinSVD
    output: Tensor
    displacement: Tensor
    displacement_loss: float
    constant_loss: float
    tail_r2: float | None = None
    saturated: tuple[int, ...] = ()
    beside: Beside | None = None
    tail: AverageTail | None = None
    metric_svd: ThinSVD | None = None

    @cached_property
    def readout(self) -> ThinSVD:
        """The metric itself: R of a free linear read-out."""
        return self.metric_svd or thin_svd(self.metric)
