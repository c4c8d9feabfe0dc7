"""Neural collapse, and what the rank-(|Y|-1) solution of the local problem says of it.

Deterministic labels. With y(x) a function of x, B = (P_XY - P_X P_Y)/√(P_X P_Y) has B Bᵀ = I - √P_Y √P_Yᵀ:
|Y| - 1 singular values, all 1. Its best factorisation of rank |Y| - 1 puts, in features of unit covariance,
every sample of class y on one point f_y (no variance within classes) with ⟨f_y, f_y'⟩ = δ_yy'/P_y - 1, so

    cos(f_y, f_y') = -1/√((1/P_y - 1)(1/P_y' - 1)),    ‖f_y‖² = 1/P_y - 1,

which for balanced classes is the simplex of neural collapse, -1/(|Y| - 1) (Papyan, Han, Donoho, 2020), with
the class weights W_y proportional to f_y. The solution is unique up to an invertible mixing of the features,
so in the features as they are it says nothing about angles; a penalty shared evenly by weights and features
leaves a rotation only.

Given features. C = -diag(P_y)(μ_y - μ) and H = diag(P) - PPᵀ give the head W*_y = Σ_f⁺ (μ_y - μ) up to the
softmax gauge: the directions of Fisher's discriminant analysis, with total in place of within-class
covariance and without its quadratic term. Its B has singular values σ with σ² the eigenvalues of Σ_f⁺
Σ_between, and in whitened features the variance within classes is tr(Σ_within Σ_between⁺)/|Y| = Σ (σ⁻² -
1)/|Y|: collapse is σ → 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def collapse(features: Tensor, labels: Tensor, whitened: bool) -> dict[str, float]:
    """Neural-collapse measures of features (m, k), as they are or whitened by their total covariance.

    Returns:
        ``within``: tr(Σ_within Σ_between⁺)/|Y|; ``angle``: root mean square difference of the class means' cosines from
        the prediction of the rank-(|Y|-1) solution; ``equiangular``: the same from -1/(|Y|-1); ``spread``: standard
        deviation of ‖f_y‖ / √(1/P_y - 1) relative to its mean.
    """
    rows = features.double() - features.double().mean(0)
    if whitened:
        left, values, _ = torch.linalg.svd(rows, full_matrices=False)
        rows = left[:, values > 1e-7 * values[0]] * len(rows) ** 0.5
    hot = F.one_hot(labels).double()
    prior = hot.mean(0)
    means = (hot.T @ rows) / hot.sum(0)[:, None]
    within = rows - means[labels]
    between = means.T @ (prior[:, None] * means)
    ratio = (torch.linalg.pinv(between, rtol=1e-8, hermitian=True) * (within.T @ within / len(rows))).sum()
    odds = (1 / prior - 1).sqrt()
    cosines = F.normalize(means, dim=1) @ F.normalize(means, dim=1).T
    off = ~torch.eye(len(prior), dtype=torch.bool)
    lengths = means.norm(dim=1) / odds
    return {
        "within": ratio.item() / len(prior),
        "angle": (cosines + 1 / odds.outer(odds))[off].square().mean().sqrt().item(),
        "equiangular": (cosines[off] + 1 / (len(prior) - 1)).square().mean().sqrt().item(),
        "spread": (lengths.std() / lengths.mean()).item(),
    }


def duality(weight: Tensor, features: Tensor, labels: Tensor) -> float:
    """Cosine of the centred class weights (|Y|, k) with the centred class means: 1 at collapse."""
    hot = F.one_hot(labels).double()
    means = (hot.T @ (features.double() - features.double().mean(0))) / hot.sum(0)[:, None]
    centred = weight.double() - hot.mean(0) @ weight.double()
    return F.cosine_similarity(centred.flatten(), means.flatten(), dim=0).item()


def head_formula(features: Tensor, labels: Tensor, weight: Tensor) -> float:
    """Largest relative difference of a W* (|Y|, k) from Σ_f⁺ (μ_y - μ), both centred by P_Y."""
    hot, rows = F.one_hot(labels).double(), features.double() - features.double().mean(0)
    means, prior = (hot.T @ rows) / hot.sum(0)[:, None], hot.mean(0)
    expected = means @ torch.linalg.pinv(rows.T @ rows / len(rows), hermitian=True, rtol=1e-12)
    found = weight.double() - prior @ weight.double()
    root = torch.linalg.qr(rows / len(rows) ** 0.5).R  # compare what they do to the features
    return (((found - expected) @ root.T).norm() / (expected @ root.T).norm()).item()
