"""The local problem of one layer on a finite joint distribution: the paper's theorem as an object.

For joint[x, y], a loss and the tail above the layer,

    loss(W, b, f) = E[loss at c] - ½‖B‖² + ½‖B - Ξ_W Ξ_f‖² + ½‖R(b - c + W μ_f)‖² + o(ε²)

with B the columns R t(x) √P_X(x), Ξ_W = R W, Ξ_f the columns (f(x) - μ_f) √P_X(x).
Source: Shisher, Ornee, Sun, arXiv 2202.04632, Theorems 1 to 4, in the notation of docs/theory.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from featgeo.errors import FeatgeoError
from featgeo.theory.bayes import Tail, bayes_action
from featgeo.theory.joint import as_float64, dependence
from featgeo.theory.layer import optimal_weight
from featgeo.theory.linalg import ThinSVD, thin_svd
from featgeo.theory.losses import Loss
from featgeo.theory.point import OperatingPoint
from featgeo.theory.risk import Risk, conditional_risks, output_scores


@dataclass(frozen=True)
class Solution:
    """Weights (n, k), bias (n,), feature (|X|, k) of zero mean, and the local loss they attain (loss units)."""

    weight: Tensor
    bias: Tensor
    feature: Tensor
    loss: float


@dataclass(frozen=True)
class LocalProblem:
    """A layer's local problem; made by :func:`featgeo.local_problem`. All tensors are float64.

    Attributes:
        joint: P_XY (|X|, |Y|).
        loss: the loss.
        targets: what the loss is given for each y, (|Y|, ...).
        tail: maps z (m, n) to outputs (m, d); None for the output layer.
        point: the operating point (Bayes action, its Jacobian, metric factor, convergence report).
        factor: R (r, n) with RᵀR = H.
        displacement: t(x) (|X|, n), the conditional Bayes action's displacement from c.
        exact_target: whether t(x) is exact rather than of first order.
        warnings: assumptions that fail, in words.
    """

    joint: Tensor
    loss: Loss
    targets: Tensor
    tail: Tail | None
    point: OperatingPoint
    factor: Tensor
    displacement: Tensor
    exact_target: bool
    warnings: tuple[str, ...]

    @property
    def p_x(self) -> Tensor:
        """P_X (|X|,)."""
        return self.joint.sum(1)

    @property
    def p_y(self) -> Tensor:
        """P_Y (|Y|,)."""
        return self.joint.sum(0)

    @property
    def action(self) -> Tensor:
        """Bayes action c (n,)."""
        return self.point.action

    @cached_property
    def scores(self) -> Tensor:
        """s(y) = ∂loss(g(z), y)/∂z at c (|Y|, n); their P_Y-mean is zero where c is interior."""
        return output_scores(self.loss, self.targets, self.point.output) @ self.point.jacobian

    @property
    def metric(self) -> Tensor:
        """H = RᵀR (n, n)."""
        return self.factor.T @ self.factor

    @cached_property
    def _svd(self) -> ThinSVD:
        return thin_svd(self.factor)

    @cached_property
    def B(self) -> Tensor:
        """Columns R t(x) √P_X(x), centred: (r, |X|)."""
        centred = self.displacement - self._mean_displacement
        return self.factor @ (centred * self.p_x.sqrt()[:, None]).T

    @property
    def _mean_displacement(self) -> Tensor:
        return self.p_x @ self.displacement

    @cached_property
    def singular_values(self) -> Tensor:
        """Of B, descending."""
        return torch.linalg.svdvals(self.B)

    @cached_property
    def dependence(self) -> float:
        """ε = √χ²(P_XY ‖ P_X P_Y)."""
        return dependence(self.joint)

    @property
    def entropy(self) -> float:
        """min_z E[loss(g(z), Y)], the generalised entropy (L-entropy) of Y, in loss units."""
        return self.point.loss

    @cached_property
    def _conditional_losses(self) -> Tensor:
        points = [bayes_action(risk, self.tail, self.action) for risk in self._conditional_risks]
        return torch.tensor([point.loss for point in points], dtype=torch.float64)

    @property
    def conditional_entropy(self) -> float:
        """E_X min_z E[loss(g(z), Y) | X]; entropy - conditional_entropy is the L-information of X and Y."""
        live = self.p_x > 0
        return (self.p_x[live] @ self._conditional_losses[live]).item()

    def divergence(self, x: int) -> float:
        """L-divergence of the constant action under P_{Y|X=x}; for log-loss KL(P_{Y|X=x} ‖ P_Y) at the output."""
        if not 0 <= x < len(self.joint):
            raise FeatgeoError("x", f"{x}", f"Pass the row of a value of x: 0..{len(self.joint) - 1}.")
        at_constant = self._conditional_risks[x].value(self.point.output[None])[0].item()
        return at_constant - self._conditional_losses[x].item()

    @cached_property
    def _conditional_risks(self) -> list[Risk]:
        return conditional_risks(self.loss, self.targets, self.joint, len(self.point.output))

    def _feature(self, feature: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
        """The feature (|X|, k) and its P_X-mean."""
        values = as_float64(feature, "feature")
        values = values[:, None] if values.ndim == 1 else values
        if values.ndim != 2 or len(values) != len(self.joint):
            raise FeatgeoError(
                "feature",
                f"shape {tuple(values.shape)}",
                f"Pass one row per value of x: ({len(self.joint)}, k).",
            )
        return values, self.p_x @ values

    def _weight(self, weight: ArrayLike | Tensor) -> Tensor:
        values = as_float64(weight, "weight")
        if values.ndim != 2 or len(values) != len(self.action):
            raise FeatgeoError(
                "weight",
                f"shape {tuple(values.shape)}",
                f"Pass one row per neuron, as torch does: ({len(self.action)}, k).",
            )
        return values

    def _bias(self, bias: ArrayLike | Tensor) -> Tensor:
        values = as_float64(bias, "bias")
        if values.shape != self.action.shape:
            raise FeatgeoError(
                "bias", f"shape {tuple(values.shape)}", f"Pass one value per neuron: ({len(self.action)},)."
            )
        return values

    def _layer(
        self, weight: ArrayLike | Tensor, bias: ArrayLike | Tensor, feature: ArrayLike | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight, bias, feature and the feature's mean, of shapes that agree."""
        values, mean = self._feature(feature)
        w = self._weight(weight)
        if w.shape[1] != values.shape[1]:
            raise FeatgeoError(
                "weight",
                f"{w.shape[1]} columns for features of width {values.shape[1]}",
                "Pass one column per feature.",
            )
        return w, self._bias(bias), values, mean

    def optimal_weight(self, feature: ArrayLike | Tensor, weight_decay: float = 0.0) -> tuple[Tensor, Tensor]:
        """W* (n, k) and b* (n,) for given features f (|X|, k); see :func:`featgeo.theory.layer.optimal_weight`.

        Args:
            feature: f(x), one row per x.
            weight_decay: λ of a penalty λ/2 ‖W‖².
        """
        values, mean = self._feature(feature)
        if not 0 <= weight_decay < math.inf:
            raise FeatgeoError("weight_decay", f"{weight_decay}", "It must be finite and at least 0.")
        centred = values - mean
        weighted = self.p_x[:, None] * centred
        cross = self.metric @ (self.displacement.T @ weighted)
        weight = optimal_weight(self._svd, cross, centred.T @ weighted, weight_decay)
        return weight, self.action + self._mean_displacement - weight @ mean

    def optimal_feature(self, weight: ArrayLike | Tensor, bias: ArrayLike | Tensor | None = None) -> Tensor:
        """f*(x) (|X|, k) for given weights: (Wᵀ H W)⁺ Wᵀ H t(x), of zero mean unless a bias asks for another."""
        inverse = thin_svd(self.factor @ self._weight(weight)).pseudo_inverse @ self.factor
        feature = (self.displacement - self._mean_displacement) @ inverse.T
        if bias is not None:
            feature = feature + inverse @ (self.action + self._mean_displacement - self._bias(bias))
        return feature

    def low_rank(self, k: int) -> Solution:
        """Best weights and features of width k together: the truncated SVD of B (Eckart, Young, Mirsky).

        The features are uncorrelated with unit variance; modes beyond the rank of B are zero.
        """
        if k < 1 or k != int(k):
            raise FeatgeoError("k", f"{k}", "The width is a whole number, at least 1.")
        k = int(k)
        modes = thin_svd(self.B)
        kept = min(k, len(modes.values))
        live = self.p_x > 0
        feature = self.B.new_zeros(len(self.joint), k)
        feature[live, :kept] = modes.right[live, :kept] / self.p_x[live].sqrt()[:, None]
        weight = self.B.new_zeros(len(self.action), k)
        weight[:, :kept] = self._svd.pseudo_inverse @ (modes.left[:, :kept] * modes.values[:kept])
        bias = self.action + self._mean_displacement - weight @ (self.p_x @ feature)
        return Solution(weight, bias, feature, self.local_loss(weight, bias, feature))

    def local_loss(
        self, weight: ArrayLike | Tensor, bias: ArrayLike | Tensor, feature: ArrayLike | Tensor
    ) -> float:
        """The theorem's quadratic, in loss units: around c (first-order targets) or around the exact ones."""
        w, b, values, mean = self._layer(weight, bias, feature)
        product = self.factor @ w @ ((values - mean) * self.p_x.sqrt()[:, None]).T
        shift = b + w @ mean - self.action - self._mean_displacement
        misfit = 0.5 * (self.B - product).square().sum() + 0.5 * (self.factor @ shift).square().sum()
        if self.exact_target:
            return self.conditional_entropy + misfit.item()
        slope = self.point.score_mean @ shift  # zero for an interior action
        return (self.entropy - 0.5 * self.B.square().sum() + misfit + slope).item()

    def exact_loss(
        self, weight: ArrayLike | Tensor, bias: ArrayLike | Tensor, feature: ArrayLike | Tensor
    ) -> float:
        """E[loss(g(W f(X) + b), Y)] of the network itself, in loss units."""
        w, b, values, _ = self._layer(weight, bias, feature)
        z = values @ w.T + b
        outputs = z if self.tail is None else self.tail(z).detach()
        table = torch.stack(
            [self.loss.values(outputs, y.expand(len(z), *y.shape)) for y in self.targets], dim=1
        )
        live = self.joint > 0
        return (self.joint[live] @ table[live].to(torch.float64)).item()
