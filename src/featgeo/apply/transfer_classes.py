"""Scores from what the source model says of the classes, and from how far classes lie apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from featgeo.apply.transfer_gain import Estimate, standard_error
from featgeo.apply.transfer_sample import Sample
from featgeo.errors import FeatgeoError

COMPONENTS = 64  # principal components that GBC keeps
SPARE, STEPS = 16, 4  # further directions of the subspace, and iterations
GROUPS = 20  # of the jackknife


def hard_labels(sample: Sample, method: str) -> Tensor:
    """Class of each sample, numbered without gaps.

    Raises:
        FeatgeoError: where the task has none.
    """
    if sample.loss.name != "cross_entropy" or sample.targets.ndim != 1:
        raise FeatgeoError(
            "method", f"{method!r} for loss '{sample.loss.name}' with targets {tuple(sample.targets.shape)}",
            "It compares classes: pass integer labels with loss='cross_entropy', or choose 'gain' or 'logme'.",
        )  # fmt: skip
    return torch.unique(sample.targets, return_inverse=True)[1]


def leep(labels: Tensor, probabilities: Tensor) -> Estimate:
    """Mean log-probability of the labels under Σ_z P(y|z) θ(x)_z, in nats; at most 0.

    P(y|z) is the empirical conditional of labels given the source's classes z, weighted by its probabilities θ.

    Source: C. Nguyen, T. Hassner, M. Seeger, C. Archambeau, "LEEP: a new measure to evaluate transferability of learned
    representations", ICML 2020.

    Args:
        labels: (n,), from 0.
        probabilities: θ (n, Z).
    """
    theta, count = probabilities.to(torch.float64), len(labels)
    one_hot = torch.nn.functional.one_hot(labels).to(torch.float64)
    joint, mass = one_hot.T @ theta / count, theta.mean(0)
    conditional = joint / mass.clamp_min(torch.finfo(torch.float64).tiny)  # P(y|z) (|Y|, Z); no mass, no part
    likelihood = (conditional[labels] * theta).sum(1)
    # The influence of a sample: its own term, and how it moves P(y|z) in the terms of the others.
    pull = one_hot.T @ (theta / likelihood[:, None]) / count  # ∂/∂P(y|z)
    weight = pull / mass.clamp_min(torch.finfo(torch.float64).tiny)
    moves = (weight[labels] * theta).sum(1) - theta @ (weight * conditional).sum(0)
    logs = likelihood.log()
    return Estimate(logs.mean().item(), standard_error(logs + moves), 0.0)


def nce(labels: Tensor, source: Tensor) -> Estimate:
    """Minus the conditional entropy of the labels given the source's labels, in nats; at most 0.

    Source: A. Tran, C. Nguyen, T. Hassner, "Transferability and hardness of supervised classification tasks", ICCV
    2019.

    Args:
        labels: (n,), from 0.
        source: labels of the source model (n,).
    """
    _, index = torch.unique(source, return_inverse=True)
    table = torch.zeros(
        int(index.max()) + 1, int(labels.max()) + 1, dtype=torch.float64, device=labels.device
    )
    table.index_put_((index, labels), torch.ones(len(labels)).to(table), accumulate=True)
    logs = (table / table.sum(1, keepdim=True))[index, labels].log()
    return Estimate(logs.mean().item(), standard_error(logs), 0.0)


def gbc(sample: Sample, labels: Tensor) -> Estimate:
    """Minus the overlap of Gaussians fitted to the classes, Σ exp(-D) over ordered pairs of classes; at most 0.

    Each class has its mean and one variance for all directions (the form that the source prefers) in the space of the
    64 principal components; D is the Bhattacharyya distance. The standard error is a jackknife over groups.

    Source: M. Pándy, A. Agostinelli, J. Uijlings, V. Ferrari, T. Mensink, "Transferability estimation using
    Bhattacharyya class separability", CVPR 2022.
    """
    x = _principal_components(sample.features - sample.features.mean(0)).to(torch.float64)
    group = torch.arange(len(x), device=x.device) % min(GROUPS, len(x))
    classes = int(labels.max()) + 1
    code = group * classes + labels
    shape = (int(group.max()) + 1, classes)
    counts = torch.bincount(code, minlength=shape[0] * shape[1]).reshape(shape).to(x)
    sums = x.new_zeros(shape[0] * shape[1], x.shape[1]).index_add_(0, code, x).reshape(*shape, -1)
    squares = x.new_zeros(shape[0] * shape[1]).index_add_(0, code, x.square().sum(1)).reshape(shape)
    parts = (counts, sums, squares)
    value = _overlap(*(part.sum(0) for part in parts))
    without = torch.stack([_overlap(*(part.sum(0) - part[g] for part in parts)) for g in range(shape[0])])
    spread = without - without.mean()
    error = math.sqrt((shape[0] - 1) / shape[0] * spread.square().sum().item())
    return Estimate(-value.item(), error, 0.0)


def _principal_components(x: Tensor) -> Tensor:
    """The first 64 of centred features (n, k), by subspace iteration from a fixed start; all where there are fewer."""
    if min(x.shape) <= COMPONENTS:
        return x
    generator = torch.Generator().manual_seed(0)
    size = min(COMPONENTS + SPARE, *x.shape)
    basis = torch.randn(x.shape[1], size, generator=generator).to(x)
    for _ in range(STEPS):
        basis = torch.linalg.qr(x.T @ (x @ basis))[0]
    rows = x @ basis
    return rows @ torch.linalg.svd(rows.T @ rows)[0][:, :COMPONENTS]


def _overlap(counts: Tensor, sums: Tensor, squares: Tensor) -> Tensor:
    """Σ over ordered pairs of exp(-D), of classes with counts (c,), sums (c, k) and sums of squared lengths (c,)."""
    here = counts > 0
    counts, sums, squares = counts[here], sums[here], squares[here]
    means = sums / counts[:, None]
    width = sums.shape[1]
    within = (squares / counts - means.square().sum(1)).clamp_min(0) / width
    variances = within.clamp_min(
        1e-6 * within.mean() + torch.finfo(torch.float64).tiny
    )  # a class of one sample
    both = (variances[:, None] + variances) / 2
    apart = torch.cdist(means, means).square() / both / 8
    shape = 0.5 * width * (both.log() - 0.5 * (variances[:, None].log() + variances.log()))
    return (-(apart + shape)).exp().fill_diagonal_(0).sum()
