"""transfer_score(): how well features suit a task, by one of several scores, without training a head."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from featgeo.apply.transfer_classes import gbc, hard_labels, leep, nce
from featgeo.apply.transfer_evidence import log_evidence
from featgeo.apply.transfer_gain import Estimate, adjusted, crossfit, gain, heldout, shrunk
from featgeo.apply.transfer_sample import Sample, make_sample
from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.theory.named import LossLike, resolve_loss

OF_FEATURES: dict[str, Callable[[Sample], Estimate]] = {
    "crossfit": crossfit,
    "heldout": heldout,
    "gain": gain,
    "adjusted": adjusted,
    "shrinkage": shrunk,
    "logme": log_evidence,
    "gbc": lambda sample: gbc(sample, hard_labels(sample, "gbc")),
}
OF_SOURCE = ("leep", "nce")
METHODS = (*OF_FEATURES, *OF_SOURCE)
GAINS = ("crossfit", "heldout", "gain", "adjusted", "shrinkage")


@dataclass(frozen=True)
class TransferScore:
    """A score of features for a task; higher is better, whatever the method.

    Attributes:
        method: which score.
        value: the score.
        standard_error: of the value, over samples; NaN where there is none.
        unit: of the value.
        bound: what it cannot exceed; infinite where there is no bound.
        samples: number of samples.
        features: number of features, 0 where the score uses none.
        details: what the method chose: rank, penalty, shrinkage, ...
        warnings: assumptions that fail.
    """

    method: str
    value: float
    standard_error: float
    unit: str
    bound: float
    samples: int
    features: int
    details: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        ceiling = f", at most {self.bound:.4g}" if math.isfinite(self.bound) else ""
        return f"{self.method}: {self.value:.4g} ± {self.standard_error:.2g} {self.unit}{ceiling}"


def transfer_score(
    features: Any,
    targets: Any,
    method: str = "crossfit",
    *,
    loss: LossLike = "cross_entropy",
    source: Any = None,
    outputs: int | None = None,
) -> TransferScore:
    """Score features for a task: higher is better, and no head is trained.

    The scores of this library are in the units of the loss (nats for cross-entropy). With C the covariance of the
    loss's scores at its Bayes action with the features, H the metric there and Σ the features' covariance:

    - ``"gain"``: the gain available, ``½ tr(H⁺ C Σ⁺ Cᵀ)``, by which the best linear head lowers the loss of the best
      constant, to second order; exact for ``mse``. For cross-entropy it is *half* the H-score of Bao et al. (2019), so
      that it reads in nats. It lies between 0 and ``½ Σ`` of the k largest eigenvalues of the whitened scores'
      covariance: ``½ min(k, |Y| - 1)`` for hard labels. In-sample: noise alone scores about ``½ (|Y| - 1) k / n``.
    - ``"adjusted"``: the gain less what noise would give on average, as in the adjusted R²; 0 where k >= n - 1.
    - ``"shrinkage"``: the H-score with Σ shrunk as by Ledoit and Wolf (Ibrahim et al. 2021), any loss, with the ½.
    - ``"crossfit"``: the decrease of the local loss on samples left out, by a ridge head with the penalty that
      lowers it most. About 0 for noise however many features there are.

    - ``"heldout"``: the decrease of the loss itself on samples left out, by that head times one number: for hard
      labels, far from the local region, nearer to what a trained head reaches. Much the same as "crossfit" for ``mse``.

    Others, as their papers define them:

    - ``"logme"``: maximum log-evidence of Bayesian linear regression per sample (You et al. 2021); unbounded.
    - ``"gbc"``: minus the overlap of Gaussian classes (Pándy et al. 2022); at most 0.
    - ``"leep"``, ``"nce"``: log-likelihood of labels given the source model's classes, in nats and at most 0
      (Nguyen et al. 2020; Tran et al. 2019). They need ``source`` and no features.

    Args:
        features: (n, k), one row a sample; None for "leep" and "nce".
        targets: integer labels (n,) or probabilities (n, |Y|) for cross-entropy, real values (n,) or (n, d) otherwise.
        method: one of the above.
        loss: a name, a torch.nn loss, or a callable (outputs, targets) -> per-sample values.
        source: the source model's class probabilities (n, Z) for "leep"; these or its labels (n,) for "nce".
        outputs: number of outputs, where the targets do not tell: classes that do not occur, or a callable loss.

    Returns:
        The score with its standard error, to first order, from the influence of each sample.

    Raises:
        FeatgeoError: where features, targets, loss and method do not suit each other.
    """
    check_method(method)
    chosen = resolve_loss(loss)
    if method in OF_SOURCE:
        score = _of_source(method, features, targets, chosen, source, outputs)
    else:
        score = score_sample(make_sample(features, targets, chosen, outputs), method)
    for text in score.warnings:
        warnings.warn(text, FeatgeoWarning, stacklevel=2)
    return score


def check_method(method: str) -> None:
    """Refuse a method that is none."""
    if method not in METHODS:
        raise FeatgeoError("method", f"{method!r}", f"Known methods: {', '.join(METHODS)}.")


def score_sample(sample: Sample, method: str) -> TransferScore:
    """One score of the features of a sample; several of one sample share their decompositions."""
    estimate = OF_FEATURES[method](sample)
    notes = list(sample.notes)
    count, width = sample.features.shape
    if method in GAINS:
        rank = len(sample.axes.values)
        if not rank:
            notes.append("features: none varies; they say nothing about the targets.")
        elif method == "gain" and rank >= (count - 1) / 2:
            notes.append(
                f"features: {rank} independent ones for {count} samples; the gain in the sample says little. Use "
                "method='crossfit'."
            )
        if method == "adjusted" and rank >= count - 1:
            notes.append(
                f"features: {rank} independent ones for {count} samples; nothing can be told from noise."
            )
    unit = (
        ("nats" if sample.loss.name == "cross_entropy" else "loss units")
        if method in GAINS
        else {"logme": "nats per sample", "gbc": "pairs of classes"}[method]
    )
    return _dressed(method, estimate, unit, count, width, notes)


def _dressed(
    method: str, estimate: Estimate, unit: str, count: int, width: int, notes: list[str]
) -> TransferScore:
    return TransferScore(
        method, estimate.value, estimate.standard_error, unit, estimate.bound, count, width,
        estimate.details or {}, tuple(notes),
    )  # fmt: skip


def _of_source(
    method: str, features: Any, targets: Any, loss: Any, source: Any, outputs: int | None
) -> TransferScore:
    if source is None:
        raise FeatgeoError(
            "source",
            "nothing",
            f"{method!r} needs the source model's class probabilities (samples, classes).",
        )
    if features is not None:
        raise FeatgeoError(
            "features",
            "some",
            f"{method!r} uses the source model's classes only: pass None, or choose another method.",
        )
    given = torch.as_tensor(source).detach()
    labels = given.ndim == 1 and method == "nce" and not given.is_floating_point()
    if not labels:
        given = _check_probabilities(given)
    sample = make_sample(torch.arange(len(given)), targets, loss, outputs)
    classes = hard_labels(sample, method)
    given = given.to(classes.device)
    estimate = (
        leep(classes, given) if method == "leep" else nce(classes, given if labels else given.argmax(1))
    )
    return _dressed(method, estimate, "nats", len(sample), 0, list(sample.notes))


def _check_probabilities(given: Tensor) -> Tensor:
    if given.ndim != 2 or not given.is_floating_point() or not torch.isfinite(given).all():
        raise FeatgeoError(
            "source",
            f"shape {tuple(given.shape)} of {given.dtype}",
            "Pass probabilities (samples, source classes).",
        )
    if (given < 0).any() or (given.sum(1) - 1).abs().max() > 1e-3:
        raise FeatgeoError(
            "source",
            "rows that are negative or do not sum to 1",
            "Pass probabilities: apply softmax to logits.",
        )
    return given
