"""One layer z = W f + b against its local problem, from first and second moments alone.

Near an operating point the loss is, up to o(ε²),

    L₀ - tr(Wᵀ K) + ½ tr(H W Σ Wᵀ) + ½‖R δ‖² + ⟨E[s], δ⟩,    δ = b - c + W μ,

with H = RᵀR, K = -Cov(s, f) (n, k), Σ = Cov(f) and μ = E[f]. Everything below is that quadratic: its minimiser, its
value at the weights in use, and how the difference splits. Gains are in loss units (nats for cross-entropy).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from featgeo.theory.linalg import ThinSVD, Whitener, cholesky, cholesky_solve, solve_ridge, whiten

UNSEEN = 2e-6  # variance of z, relative to its largest, about which a direction is told from none (float32's rank rule)
REFINEMENTS = (
    6  # a direction of relative variance v keeps the share 1 - (UNSEEN / (UNSEEN + v))^6 of its slope
)
ROUNDING = 1e-7  # relative difference of two gains that is none, for moments summed in float32


def optimal_weight(
    factor: ThinSVD,
    cross: Tensor,
    covariance: Tensor,
    weight_decay: float = 0.0,
    whitener: Whitener | None = None,
) -> Tensor:
    """W* (n, k) = H⁺ K Σ⁺, or with λ the solution of H W Σ + λ W = K.

    Args:
        factor: thin SVD of R, RᵀR = H.
        cross: K = -C (n, k).
        covariance: Σ (k, k).
        weight_decay: λ >= 0, meaning λ/2 ‖W‖² in the objective, as in torch's SGD.
        whitener: of Σ, where it is known already.
    """
    if weight_decay > 0:
        return solve_ridge(factor, cross, covariance, weight_decay)
    whitener = whitener or whiten(covariance)
    return _unpenalised(factor, whitened_modes(factor, cross, whitener), whitener)


def _unpenalised(factor: ThinSVD, modes: Tensor, whitener: Whitener) -> Tensor:
    """R⁺ modes Tᵀ (n, k): the weight that does in the two metrics what the modes say."""
    return (factor.right / factor.values) @ whitener.back(factor.left.T @ modes)


def whitened_modes(factor: ThinSVD, cross: Tensor, whitener: Whitener) -> Tensor:
    """(R⁺)ᵀ K T (m, r): what W* does in the metric of the loss and of the features; ½‖·‖² is the gain available."""
    return factor.left @ (whitener.white(factor.right.T @ cross) / factor.values[:, None])


def tail_modes(factor: ThinSVD, jacobian: Tensor, white: Tensor) -> Tensor:
    """The same (m, r) where K = Jᵀ Cov(T, f), from the tail's Jacobian J (d, n) and Cov(T, f) T (d, r)."""
    return factor.left @ ((jacobian @ (factor.right / factor.values)).T @ white)


@dataclass(frozen=True)
class LayerFit:
    """A layer beside its local optimum. Gains and gaps in loss units.

    Attributes:
        optimal_bias: b* (n,).
        gain_available: ½ tr(H⁺ K Σ⁺ Kᵀ), the decrease of the loss that these features allow through this tail.
        gain_used: the same quadratic at the actual W (negative where W does harm).
        gap_weight: ½‖R (W - W₀*) Σ^½‖², lost because W is not the unpenalised optimum.
        gap_bias: lost because b is off: the quadratic in δ.
        gap_rank: what a free linear read-out of the features would gain more, lost because the tail has no room.
        alignment: cosine of R W Σ^½ and R W* Σ^½; NaN where either vanishes.
        scale: ‖R W Σ^½‖ / ‖R W* Σ^½‖.
        spectrum: singular values of R W₀* Σ^½, descending; ½ Σ σ² = gain_available.
        predicted_decrease: of the loss against the constant action, weight and bias together.
        factor: thin SVD of R (m, n).
        response: R W (m, k).
        optimal_response: R W* (m, k).
        used: R W on white features (m, r).
        target: R W* on white features (m, r).
        modes: R W₀* on white features (m, r).
        best: W* (n, k), where it is not the one of least norm, R⁺ (R W*).
        free: W₀* (n, k), the unpenalised optimum, where it is not that: within blocks.
    """

    optimal_bias: Tensor
    gain_available: float
    gain_used: float
    gap_weight: float
    gap_bias: float
    gap_rank: float
    alignment: float
    scale: float
    spectrum: Tensor
    predicted_decrease: float
    factor: ThinSVD
    response: Tensor
    optimal_response: Tensor
    used: Tensor
    target: Tensor
    modes: Tensor
    best: Tensor | None = None
    free: Tensor | None = None

    @property
    def optimal_weight(self) -> Tensor:
        """W* (n, k), penalised where a weight decay was given."""
        return self.weight_in(torch.float64)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The same in another precision, without a copy of it in float64."""
        if self.best is not None:
            return self.best.to(dtype)
        return self.factor.pseudo_inverse.to(dtype) @ self.optimal_response.to(dtype)


def fit_layer(
    *,
    factor: ThinSVD,
    jacobian: Tensor,
    statistic: Tensor,
    white: Tensor,
    covariance: Tensor,
    whitener: Whitener,
    mean: Tensor,
    weight: Tensor,
    action: Tensor,
    displacement_loss: float,
    readout_gain: float,
    weight_decay: float = 0.0,
) -> LayerFit:
    """Compare the weights in use with the local optimum.

    Args:
        factor: thin SVD of R (m, n).
        jacobian: of the tail, J (d, n).
        statistic: Cov(T, f) (d, k), so that K = Jᵀ Cov(T, f).
        white: Cov(T, f) T (d, r), the same with the whitened features.
        covariance: Σ (k, k).
        whitener: of Σ.
        mean: μ (k,).
        weight: W (n, k).
        action: the best constant c (n,).
        displacement_loss: loss units lost because b + Wμ is not c.
        readout_gain: gain of a free linear read-out of the same features.
        weight_decay: λ.
    """
    root = whitener.root  # R W Σ T has the norm of R W Σ^½ on the features' range
    target = modes = tail_modes(factor, jacobian, white)
    response = factor.matrix @ weight
    used = response @ root
    best, wanted = None, factor.left @ whitener.back(factor.left.T @ modes)
    if weight_decay > 0:
        best = optimal_weight(factor, jacobian.T @ statistic, covariance, weight_decay)
        wanted = factor.matrix @ best
        target = wanted @ root
    centre = factor.pseudo_inverse @ (wanted @ mean) if best is None else best @ mean  # W* μ
    available = 0.5 * modes.square().sum().item()
    gap_weight = 0.5 * (used - modes).square().sum().item()
    lost = readout_gain - available
    alignment, scale = compared(used, target)
    return LayerFit(
        optimal_bias=action - centre,
        gain_available=available,
        gain_used=available - gap_weight,
        gap_weight=gap_weight,
        gap_bias=displacement_loss,
        gap_rank=lost if lost > ROUNDING * readout_gain else 0.0,
        alignment=alignment,
        scale=scale,
        spectrum=torch.linalg.svdvals(modes.T),
        predicted_decrease=available - gap_weight - displacement_loss,
        factor=factor,
        response=response,
        optimal_response=wanted,
        used=used,
        target=target,
        modes=modes,
        best=best,
    )


def compared(used: Tensor, target: Tensor) -> tuple[float, float]:
    """Cosine of two matrices and how long the first is beside the second; NaN where either vanishes."""
    sizes = used.norm().item(), target.norm().item()
    if min(sizes) <= 1e-150:
        return math.nan, math.nan
    return (used * target).sum().item() / (sizes[0] * sizes[1]), sizes[0] / sizes[1]


@dataclass(frozen=True)
class AverageTail:
    """Statistical linearisation of a tail over the data: g ≈ ḡ + J̄ (z - z̄).

    Attributes:
        jacobian: J̄ = Cov(g, z) Σ_z⁺ (d, n), the one of least norm.
        determination: R² of the linear fit in the output's metric, 1 for a linear tail.
        spread: Cov(z, white features) (n, r), in the precision of the moments.
        project: Y (·, n) -> Y Σ_z⁺ W (·, k): what a regression with Cov(·, z) = Y makes of features.
    """

    jacobian: Tensor
    determination: float
    spread: Tensor
    project: Callable[[Tensor], Tensor] = field(repr=False, compare=False)

    def against(self, rows: Tensor) -> Tensor:
        """Cov(·, z) (·, n) of Cov(·, white features) (·, r)."""
        return (rows.to(self.spread) @ self.spread.T).to(rows)


def average_tail(
    cross_outputs: Tensor,
    outputs: Tensor,
    weight: Tensor,
    whitener: Whitener,
    metric: Tensor,
) -> AverageTail:
    """J̄ = Cov(g, f) Wᵀ (W Σ_f Wᵀ)⁺ and its R².

    Where z hardly varies (dead neurons, weights that a penalty has shrunk away) a regression on z reads not the tail's
    slope but what curvature elsewhere happens to correlate with, divided by next to nothing. The pseudo-inverse is
    therefore taken by iterated Tikhonov regularisation: exact where z varies, zero where it does not.

    Args:
        cross_outputs: Cov(g, f) (d, k).
        outputs: Cov(g) (d, d).
        weight: W (n, k).
        whitener: of Σ_f.
        metric: R_out (m, d), a factor of the output metric.
    """
    whitened = whitener.white(cross_outputs)  # Cov(g, white features) (d, r)
    precision = whitener.accumulated  # the two large products need no more than the moments have
    spread = whitener.loaded(weight.to(precision))  # Cov(z, white features) (n, r)
    wide = spread.shape[0] <= spread.shape[1]
    gram = spread @ spread.T if wide else spread.T @ spread
    root, ridge = _damped_root(gram)
    found = _regress(whitened @ whitener.root.T @ weight.T if wide else whitened, root, ridge)
    seen = metric @ found
    carried = (seen.to(gram) @ gram).to(seen)
    jacobian = found if wide else found @ spread.to(torch.float64).T
    explained = (carried * (seen if wide else carried)).sum().item()
    total = (metric @ outputs * metric).sum().item()

    def project(rows: Tensor) -> Tensor:
        if wide:
            return cholesky_solve(root, rows.T).T @ weight
        return whitener.back(cholesky_solve(root, (rows @ spread.to(rows)).T).T)

    return AverageTail(jacobian, min(1.0, explained / total) if total > 0 else 1.0, spread, project)


def _damped_root(gram: Tensor) -> tuple[Tensor, float]:
    """Cholesky factor of a Gram matrix with the ridge below which :data:`UNSEEN` sees nothing, and that ridge."""
    ridge = max(
        UNSEEN * torch.linalg.vector_norm(gram, dtype=torch.float64).item(), torch.finfo(torch.float64).tiny
    )
    lower = cholesky(gram, ridge)
    assert lower is not None, "a Gram matrix with a ridge above its rounding is positive definite"
    return lower, ridge


def _regress(cross: Tensor, root: Tensor, ridge: float) -> Tensor:
    """cross · gram⁺ (d, n) without the directions that :data:`UNSEEN` leaves out, by the damped root of gram.

    Tikhonov's solution, then that of what it left over, and so on: a refinement is ridge (gram + ridge)⁻¹ times the
    one before.
    """
    step = cholesky_solve(root, cross.T)
    found = step
    for _ in range(REFINEMENTS - 1):
        step = ridge * cholesky_solve(root, step)
        found = found + step
    return found.T
