"""Exact least loss of an output layer beside the theorem's, for one case, seed and ε."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from featgeo.experiments.exact import Optimum, optimise, row_losses
from featgeo.experiments.fits import largest_angle
from featgeo.experiments.joints import joint_of, random_family
from featgeo.theory.local import LocalProblem, Solution
from featgeo.theory.problem import local_problem

OUTPUTS = 4  # d of the losses on real vectors
LOSSES = {"cross_entropy": "cross-entropy", "mse": "MSE", "bce": "BCE", "poisson": "Poisson"}


@dataclass(frozen=True)
class Case:
    """A loss, the sizes of the alphabets, and the width k."""

    loss: str
    rows: int
    columns: int
    width: int

    @property
    def rank(self) -> int:
        """Of B, for a joint distribution in general position."""
        outputs = self.columns - 1 if self.loss == "cross_entropy" else OUTPUTS
        return min(self.rows - 1, self.columns - 1, outputs)

    @property
    def label(self) -> str:
        """In figures and tables."""
        return f"{LOSSES[self.loss]}, {self.rows}×{self.columns}, k = {self.width}"

    def targets(self, seed: int) -> np.ndarray | None:
        """The values of y that the loss needs: random real vectors, label sets or counts (|Y|, d)."""
        rng = np.random.default_rng([seed, self.columns, OUTPUTS])
        size = (self.columns, OUTPUTS)
        if self.loss == "mse":
            return rng.standard_normal(size)
        if self.loss == "bce":
            labels = np.zeros(size)
            while np.linalg.matrix_rank(labels - labels.mean(0)) < OUTPUTS:  # no label constant, none a copy
                labels = (rng.random(size) < 0.5).astype(float)
            return labels
        return rng.poisson(2.0, size).astype(float) if self.loss == "poisson" else None


@dataclass(frozen=True)
class Measurement:
    """One case, one seed, one ε.

    Attributes:
        remainder: exact - predicted least loss, signed.
        relative: its size relative to the predicted gain.
        restarted: what a random start saved.
        weight_angle: largest angle between learned and predicted weights, radians.
        feature_angle: the same of features.
        product_error: relative error of Ξ_W Ξ_f.
        gap: (σ_k - σ_{k+1}) / σ_1, on which angles depend (Wedin's theorem).
        decrement: of the loss still promised where the search ended.
        closed: |optimum - E_X min_z E[loss | X]|, which is zero for k at or above the rank; None below.
    """

    remainder: float
    relative: float
    restarted: float
    weight_angle: float
    feature_angle: float
    product_error: float
    gap: float
    decrement: float
    closed: float | None


def cases(quick: bool) -> list[Case]:
    """Widths below, at and above the rank of B."""
    if quick:
        return [Case("cross_entropy", 8, 6, k) for k in (2, 5, 7)] + [
            Case(loss, 8, 6, 2) for loss in ("mse", "bce", "poisson")
        ]
    found = [Case("cross_entropy", *sizes) for sizes in _widths((6, 4), (8, 6), (12, 10), (20, 10))]
    for loss in ("mse", "bce", "poisson"):
        found += [Case(loss, rows, columns, k) for rows, columns in ((8, 6), (12, 10)) for k in (1, 2, 4, 6)]
    return found


def _widths(*sizes: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    for rows, columns in sizes:
        rank = min(rows, columns) - 1
        yield from (
            (rows, columns, k) for k in sorted({1, 2, rank, rank + 2} - ({rank + 2} if rows > 12 else set()))
        )


def grid(quick: bool) -> list[float]:
    """ε from 1 to 0.003; the quick grid is part of the full one."""
    return [float(e) for e in np.geomspace(1.0, 0.003, 11)][:: 2 if quick else 1]


def measure(case: Case, seed: int, epsilon: float) -> Measurement:
    """The exact optimum beside the prediction."""
    joint = joint_of(random_family(seed, case.rows, case.columns), epsilon)
    problem = local_problem(joint, case.loss, y_values=case.targets(seed))
    predicted = problem.low_rank(case.width)
    rows, p_x = row_losses(problem), problem.p_x
    rng = np.random.default_rng([seed, case.width])
    found = []
    if case.loss != "mse":  # there the prediction is itself the optimum, so start elsewhere only
        found.append(optimise(rows, p_x, predicted, epsilon))
    if case.loss == "mse" or epsilon >= 0.3:
        found.append(optimise(rows, p_x, _random_start(problem, case.width, epsilon, rng), epsilon))
    least = min(found, key=lambda optimum: optimum.loss)
    remainder = least.loss - predicted.loss
    relative = abs(remainder) / (problem.entropy - predicted.loss)
    rank = min(case.width, case.rank)
    sigma = torch.cat([problem.singular_values, torch.zeros(1, dtype=torch.float64)])
    gap = float((sigma[rank] - sigma[rank - 1]).abs() / sigma[0])
    closed = abs(least.loss - problem.conditional_entropy) if case.width >= case.rank else None
    angles_and_error = compare_with_modes(problem, least, rank)
    return Measurement(
        remainder, relative, found[0].loss - least.loss, *angles_and_error, gap, least.decrement, closed
    )


def _random_start(problem: LocalProblem, width: int, epsilon: float, rng: np.random.Generator) -> Solution:
    size, outputs = len(problem.p_x), len(problem.action)
    weight = torch.from_numpy(epsilon * rng.standard_normal((outputs, width)))
    feature = torch.from_numpy(rng.standard_normal((size, width)))
    return Solution(weight, problem.action, feature, math.nan)


def compare_with_modes(problem: LocalProblem, optimum: Optimum, rank: int) -> tuple[float, float, float]:
    """Largest principal angles of weights and of features to the leading modes of B, and the error of the product.

    Angles do not see the gauge W → W A⁻¹, f → A f. Features: columns of Ξ_fᵀ; weights: columns of Ξ_W.
    """
    root = problem.p_x.sqrt()[:, None]
    centred = (optimum.feature - problem.p_x @ optimum.feature) * root
    product = problem.factor @ optimum.weight @ centred.T
    left, values, right = torch.linalg.svd(problem.B, full_matrices=False)
    learned_left, _, learned_right = torch.linalg.svd(product, full_matrices=False)
    best: Tensor = (left[:, :rank] * values[:rank]) @ right[:rank]
    return (
        largest_angle(learned_left[:, :rank], left[:, :rank]),
        largest_angle(learned_right[:rank].T, right[:rank].T),
        float((product - best).norm() / best.norm()),
    )
