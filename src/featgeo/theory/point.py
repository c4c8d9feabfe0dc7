"""An operating point: a constant action of a layer and the loss around it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from featgeo.theory.linalg import ThinSVD


@dataclass(frozen=True)
class OperatingPoint:
    """A constant action and the second-order picture of the loss around it (float64).

    Attributes:
        action: c (n,).
        output: g(c) (d,).
        residual: E[∂loss/∂g] (d,) there; zero where the tail reaches the output's own Bayes action.
        jacobian: ∂g/∂z (d, n) at c; 0 for neurons so saturated that rounding has taken half of its digits.
        factor: R (r, n) with RᵀR = H, the Gauss-Newton metric.
        curvature: thin SVD of R.
        readout: thin SVD of the factor of the output's own metric at g(c), R before the tail.
        loss: E[loss(g(c), Y)].
        decrement: the further decrease of the loss that a Gauss-Newton step promises; about 0 at a minimum.
        unreached: the decrease still promised if the output itself could move freely; about 0 where g reaches.
        converged: whether the decrement fell below the tolerance.
        steps: iterations used (0: closed form).
        saturated: neurons whose derivative vanishes at c, where the theorem's assumption fails.
        tolerance: relative decrease that is rounding in the precision of the tail.
    """

    action: Tensor
    output: Tensor
    residual: Tensor
    jacobian: Tensor
    factor: Tensor
    curvature: ThinSVD
    readout: ThinSVD
    loss: float
    decrement: float
    unreached: float
    converged: bool
    steps: int
    saturated: tuple[int, ...]
    tolerance: float = 0.0

    @property
    def score_mean(self) -> Tensor:
        """E[s(Y)] (n,): zero when the action is interior."""
        return self.jacobian.T @ self.residual

    @property
    def reached(self) -> bool:
        """Whether the tail reaches the output's own Bayes action, so that Gauss-Newton and Hessian agree."""
        return self.unreached <= max(1e-8, self.tolerance) * max(1.0, abs(self.loss))

    def notes(self, layer: str = "layer") -> list[str]:
        """The assumptions that fail here, in words."""
        notes = []
        if self.saturated:
            shown = ", ".join(map(str, self.saturated[:8])) + (" ..." if len(self.saturated) > 8 else "")
            notes.append(
                f"{layer}: the Bayes action runs to saturation in {len(self.saturated)} of {len(self.action)} "
                f"neurons ({shown}); the activation's gradient vanishes there and the theorem does not apply to them."
            )
        if not self.converged:
            more = f" (a further decrease of {self.decrement:.1e} is promised)"
            promised = more if self.decrement <= abs(self.loss) else ""  # beyond, the quadratic has no say
            notes.append(
                f"{layer}: the Bayes action did not converge in {self.steps} steps{promised}; it may lie at infinity."
            )
        if not self.reached and not self.saturated and math.isfinite(self.unreached):
            above = f" (it is {self.unreached:.1e} above)" if self.unreached <= abs(self.loss) else ""
            notes.append(
                f"{layer}: the tail cannot reach the output's Bayes action{above}; "
                "Gauss-Newton metric and exact Hessian may differ here."
            )
        return notes
