"""How much one sample moves a layer's alignment and gains, and what standard errors follow.

The gain at a weight V and the alignment with W' are functions of moments,

    γ(V) = ⟨V, K⟩ - ½⟨V, H V Σ⟩,        a = ⟨R W, R W'⟩_Σ / (‖R W‖_Σ ‖R W'‖_Σ),

with K = JᵀCov(T, f), H = JᵀMJ = RᵀR and H W' Σ + λW' = K. A sample (f, g, t), all centred, adds f fᵀ to Σ, t fᵀ to
Cov(T, f), and where J is the regression Cov(g, z) Cov(z)⁺ it adds e ζᵀ to J, with e = g - J z its residual and
ζ = Cov(z)⁺ z; the metric M moves with the output's Bayes action, that by M⁺t. At an optimum the derivative of γ through
V vanishes; that of a through W' is taken by the adjoint equation H V Σ + λV = ∂a/∂W' (within the blocks of W', where
that is block diagonal). The variance of these derivatives over the number of samples is the variance of the figure (the
infinitesimal jackknife: B. Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", SIAM 1982, chapter 6).

All is written in the metric of the outputs: U = R W (p, k), s = (R_o⁺)ᵀ t, with R_oᵀR_o = M and R = R_o J.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featgeo.theory.layer import AverageTail, LayerFit
from featgeo.theory.linalg import Whitener

ROOM = 1e-6  # relative part of the scores below which the tail has room for all of them
UNLIKE = 3.72  # normal deviate (1e-4) of the variance between batches from which they are not alike


Map = Callable[[Tensor], Tensor]
Bend = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rows:
    """Some samples, centred by the means of all data.

    Attributes:
        features: f (m, k).
        scores: s (m, p).
        outputs: R_o g (m, p).
        road: R_o g₀ (m, p), what another road carries, where K = Jᵀ (Cov(T, f) - M Cov(g₀, f)); else None.
        carried: R_o Cov(g₀, white features) (p, r) beside it.
    """

    features: Tensor
    scores: Tensor
    outputs: Tensor
    road: Tensor | None = None
    carried: Tensor | None = None


@np.errstate(all="ignore")  # what cannot be told is NaN
def influence(
    fit: LayerFit,
    rows: Rows,
    cross: Tensor,
    whitener: Whitener,
    bend: Bend | None = None,
    tail: AverageTail | None = None,
    adjoint: Map | None = None,
) -> Tensor:
    """Derivatives (m, 3) of alignment, gain available and gain used in each sample's weight, each up to a constant.

    Args:
        fit: the layer beside its optimum.
        rows: the samples.
        cross: (R_o⁺)ᵀ Cov(T, white features) (p, r).
        whitener: of Σ.
        bend: X, Y (p, ·) -> ∂ tr(Xᵀ M Y)/∂t (p,), X, Y and t seen in the metric; None where M is known.
        tail: the regression that J is; None where J is known.
        adjoint: G (p, r) -> V (n, k) with H V Σ + λV = Rᵀ G ρᵀ, ρ the whitener's root, within the blocks if there are
            any; None without penalty and blocks.
    """
    used, aimed = fit.used, fit.target  # U Σ^½ of W and W'
    sizes = np.array([used.norm().item(), aimed.norm().item()])
    inner, (own, other) = float(1 / sizes.prod()), (fit.alignment / sizes**2).tolist()  # a/‖U‖², a/‖U'‖²
    s = rows.scores.numpy()
    u, a = _seen(rows, fit.response), _seen(rows, fit.optimal_response)
    if adjoint is None:  # V = inner W - other W', and W' is W₀
        step, b, v = None, a, inner * u - other * a
    else:
        pull = inner * used - other * aimed  # ∂a/∂U'
        step = adjoint(pull)
        along = fit.factor.matrix @ step
        b, v = _seen(rows, whitener.back(fit.modes)), _seen(rows, along)
    left = s if rows.road is None else s - rows.road.numpy()
    parts = [
        inner * u * a - (own * u * u + other * a * a) / 2 + (left - a) * v,
        (left - b / 2) * b,
        (left - u / 2) * u,
    ]
    if bend is not None:  # through the metric
        with_best, with_used = (bend(part, part).numpy() / 2 for part in (fit.modes, used))
        if step is None:
            curve = other * with_best - own * with_used
        else:
            mixed = inner * used - along @ whitener.root - other / 2 * aimed
            curve = bend(mixed, aimed).numpy() - own * with_used
        if rows.carried is not None:
            toward = inner * used - other * aimed if step is None else along @ whitener.root
            curve, with_best, with_used = (
                bent + sign * bend(part, rows.carried).numpy()
                for bent, sign, part in (
                    (curve, -1, toward), (with_best, 1, fit.modes), (with_used, 1, used),
                )
            )  # fmt: skip
        for i, bent in enumerate((curve, -with_best, -with_used)):
            parts[i] = parts[i] + s * bent
    if tail is not None:  # through the regression
        through, rest = _seen(rows, tail.project(tail.against(cross))), cross - fit.modes
        short = np.zeros_like(u)
        if rest.norm() > ROOM * cross.norm():  # a narrow layer, whose modes turn with J
            best = fit.factor.pseudo_inverse @ fit.modes if fit.free is None else fit.free @ whitener.root
            short = _seen(rows, tail.project(rest @ best.T))
        aligned = inner * through - own * u - other * short
        if step is not None:
            slopes = tail.against(inner * aimed - own * used) + (cross - aimed) @ (step @ whitener.root).T
            turned = (pull - along @ whitener.root) @ (fit.optimal_weight @ whitener.root).T
            aligned = _seen(rows, tail.project(slopes + turned))
        for i, move in enumerate((aligned, short, through - u)):
            parts[i] = parts[i] + (rows.outputs.numpy() - u) * move
    return torch.from_numpy(np.stack([part.sum(1, dtype=np.float64) for part in parts], axis=1))


def _seen(rows: Rows, response: Tensor) -> NDArray[np.floating]:
    """What a map (p, k) makes of the samples' features (m, p)."""
    return (rows.features @ response.to(rows.features).T).numpy()


def standard_error(values: Tensor, batch: Tensor, weight: Tensor, samples: int, batches: int) -> Tensor:
    """Standard errors (j,) of means over all data, from values (m, j) of some samples of some batches.

    Samples count as independent unless batches differ by more than chance allows (sorted data): then it is the batches
    that are, and the variance has a part for each (one-way analysis of variance with random effects).

    Args:
        values: influences.
        batch: which batch each sample is of (m,).
        weight: how many samples of the data each stands for (m,).
        samples: number of all samples.
        batches: number of all batches.
    """
    rows, share, count = values.numpy(), (weight / weight.sum()).numpy(), len(values)
    if count < 2:
        return values.new_full(values.shape[1:], math.nan)
    spread = share @ (rows - share @ rows) ** 2 * (count / (count - 1))
    _, place, sizes = np.unique(batch.numpy(), return_inverse=True, return_counts=True)
    groups, rest = len(sizes), count - len(sizes)
    if groups < 2 or rest < 1:
        return torch.from_numpy(np.sqrt(spread / samples))
    centres = np.zeros((groups, rows.shape[1]))
    np.add.at(centres, place, rows)
    centres /= sizes[:, None]
    within = ((rows - centres[place]) ** 2).sum(0) / rest
    between = sizes @ (centres - rows.mean(0)) ** 2 / (groups - 1)
    ninth = 2 / (9 * (groups - 1))  # chi-squared over its degrees of freedom: Wilson and Hilferty's cube root
    unlike = between > within * (1 - ninth + UNLIKE * math.sqrt(ninth)) ** 3
    size = (count - (sizes**2).sum() / count) / (groups - 1)
    part = np.maximum(between - within, 0.0) / size
    variance = np.where(unlike, part / batches + within / samples, spread / samples)
    return torch.from_numpy(np.sqrt(variance))
