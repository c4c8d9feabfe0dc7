"""The experiment of Huang, Xu, Zheng and Wornell (2022) on sigmoid features and softmax, and its mirror image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from featgeo.experiments.entropy_networks import SigmoidNetworks, initial, train_to_convergence
from featgeo.experiments.fits import largest_angle, slope
from featgeo.experiments.joints import joint_of, sampled, uniform_family
from featgeo.experiments.record import Cell, Experiment, Result, Settings, Table, at_least, at_most
from featgeo.theory.local import LocalProblem
from featgeo.theory.problem import local_problem

ROWS, CLASSES, SAMPLES = 8, 6, 100_000
SCALES = (1.0, 0.3, 0.1, 0.03)
WIDTHS = (1, 3)
STARTS = 2


@dataclass(frozen=True)
class Measurement:
    """One trained network beside its local problem; angles in radians.

    Attributes:
        dependence: ε of the samples.
        feature: largest angle between features and the leading right singular vectors of B.
        weight: the same of weights and left singular vectors.
        bias: root mean square of b - (log P_Y - V μ) over y, in nats, the constant removed.
        mirrored: largest angle between its weights and the features of the network from Y to X, and the reverse.
        sampling: largest angle between the modes of the samples and of their law.
        gradient: largest entry where the search ended, in units of ε².
    """

    dependence: float
    feature: float
    weight: float
    bias: float
    mirrored: float
    sampling: float
    gradient: float


def measure(seed: int, scale: float, width: int) -> Measurement:
    """Train X to Y and Y to X, and compare."""
    law = joint_of(uniform_family(seed, ROWS, CLASSES), scale)
    joint = sampled(law, SAMPLES, seed)
    problem = local_problem(joint)
    forward, gradient = _trained(joint, width, seed)
    backward, _ = _trained(joint.T, width, seed)
    left, _, right = torch.linalg.svd(problem.B, full_matrices=False)
    _, _, truth = torch.linalg.svd(local_problem(law).B, full_matrices=False)
    feature, weight = _geometry(forward, problem.p_x, problem.p_y)
    mirror_feature, mirror_weight = _geometry(backward, problem.p_y, problem.p_x)
    return Measurement(
        problem.dependence,
        largest_angle(feature, right[:width].T),
        largest_angle(weight, left[:, :width]),
        _bias_error(forward, problem),
        max(largest_angle(weight, mirror_feature), largest_angle(feature, mirror_weight)),
        largest_angle(right[:width].T, truth[:width].T),
        gradient,
    )


def _trained(joint: Tensor, width: int, seed: int) -> tuple[SigmoidNetworks, float]:
    """One-hot input, sigmoid features, softmax; the better of two random starts."""
    size, classes = joint.shape
    scale = local_problem(joint).dependence
    found = []
    for start in range(STARTS):
        begin = initial(np.random.default_rng([seed, start]), 1, size, width, classes)
        found.append(train_to_convergence(begin, joint.numpy(), np.eye(size), scale))
    best = min(found, key=lambda end: end[1])
    return best[0], best[2]


def _geometry(network: SigmoidNetworks, p_in: Tensor, p_out: Tensor) -> tuple[Tensor, Tensor]:
    """Centred features times √P (|in|, k), and centred weights times √P (|out|, k)."""
    features = torch.from_numpy(network.features(np.eye(len(p_in))[None])[0])
    weights = torch.from_numpy(network.outer[0])
    return (features - p_in @ features) * p_in.sqrt()[:, None], (weights - p_out @ weights) * p_out.sqrt()[
        :, None
    ]


def _bias_error(network: SigmoidNetworks, problem: LocalProblem) -> float:
    mean = problem.p_x @ torch.from_numpy(network.features(np.eye(ROWS)[None])[0])
    wanted = problem.p_y.log() - torch.from_numpy(network.outer[0]) @ mean
    gap = torch.from_numpy(network.outer_bias[0]) - wanted
    return float((problem.p_y @ (gap - problem.p_y @ gap).square()).sqrt())


def run(settings: Settings) -> Result:
    """All scales, widths and seeds."""
    result = Result()
    seeds = [settings.seed + i for i in range(3 if settings.quick else 12)]
    scales = SCALES[2:] if settings.quick else SCALES
    plan = [(width, scale) for width in WIDTHS for scale in scales]
    found: dict[tuple[int, float], list[Measurement]] = {}
    for i, (width, scale) in enumerate(plan):
        settings.progress(i / len(plan), f"k = {width}, dependence times {scale:g}")
        found[width, scale] = [measure(seed, scale, width) for seed in seeds]
    result.tables = [_table(found, width, len(seeds)) for width in WIDTHS]
    cosine = float(np.median([math.cos(m.feature) for m in found[1, 0.1]]))
    slopes = [_slope(found, width, scales) for width in WIDTHS]
    small = float(np.median([math.cos(m.feature) for m in found[3, 0.03]]))
    mirrored = max(float(np.median([m.mirrored for m in runs])) for runs in found.values())
    worst = max(m.gradient for rows in found.values() for m in rows)
    bias = [float(np.median([m.bias for m in found[1, scale]])) for scale in (scales[0], scales[-1])]
    result.checks = [
        at_least("k = 1, dependence times 0.1: median cosine of learned f and leading mode", cosine, 0.999),
        at_least("k = 3, dependence times 0.03: median cosine of the largest angle", small, 0.999),
        at_most("largest median angle between X→Y and Y→X over scales and widths, radians", mirrored, 1e-3),
        at_most("largest gradient entry at the end of training, in units of ε²", worst, 1e-3),
    ]
    result.numbers = {"slopes": dict(zip(map(str, WIDTHS), slopes, strict=True)), "seeds": len(seeds)}
    result.series = {
        "angles": {
            str(width): [
                [[m.dependence, m.feature, m.weight, m.mirrored] for m in found[width, s]] for s in scales
            ]
            for width in WIDTHS
        },
    }
    result.captions = {
        "angles": "Largest principal angle of every trained network, against the dependence of its samples; the line "
        "has slope 1."
    }
    cosines = ", ".join(f"{np.median([math.cos(m.feature) for m in found[1, s]]):.5f}" for s in scales)
    result.verdict = (
        f"A sigmoid feature trained to convergence points along the leading mode: median cosines {cosines} at "
        f"dependence times {', '.join(f'{s:g}' for s in scales)}. For one and three features the largest angle "
        f"shrinks as ε to the power {slopes[0]:.2f} and {slopes[1]:.2f} (median; every scale has new samples, so D "
        f"and its gaps differ). The bias is log P_Y − μ v up to "
        f"{bias[0]:.1e} nats at the largest and {bias[1]:.1e} at the smallest dependence. Weights of the network from "
        f"X to Y are the features of the one from Y to X, and the reverse, at every dependence (largest median angle "
        f"{mirrored:.1e} rad, set by where the searches ended): the symmetry is not only local, since both optima are "
        f"the same log-bilinear model of the joint with both margins met (Goodman's RC association model). "
        f"All of this holds for the distribution of the samples; at small dependence its own modes are far from those "
        f"of the law they came from, as the last column tells."
    )
    return result


def _slope(found: dict[tuple[int, float], list[Measurement]], width: int, scales: tuple[float, ...]) -> float:
    """Median over seeds of the slope of log angle over log ε."""
    runs = zip(*(found[width, scale] for scale in scales), strict=True)
    return float(np.median([slope([m.dependence for m in run], [m.feature for m in run]) for run in runs]))


def _table(found: dict[tuple[int, float], list[Measurement]], width: int, seeds: int) -> Table:
    rows: list[list[Cell]] = []
    for (k, scale), runs in found.items():
        if k == width:
            rows.append(
                [
                    scale,
                    float(np.median([m.dependence for m in runs])),
                    float(np.median([math.cos(m.feature) for m in runs])),
                    min(math.cos(m.feature) for m in runs),
                    float(np.median([math.cos(m.weight) for m in runs])),
                    float(np.median([m.bias for m in runs])),
                    float(np.median([math.cos(m.mirrored) for m in runs])),
                    float(np.median([math.cos(m.sampling) for m in runs])),
                ]
            )
    columns = ["dependence times", "ε of the samples", "f and mode: median", "least", "v and mode"]
    columns += ["b − (log P_Y − μv), nats"]
    columns += ["v of X→Y and f of Y→X", "modes of samples and of their law"]
    return Table(
        f"k = {width}: cosines of the largest principal angle, medians over {seeds} seeds", columns, rows
    )


def draw(result: Result) -> dict[str, Figure]:
    """Angles against ε."""
    figure = Figure(figsize=(7.2, 3.3), layout="constrained")
    for axes, (width, groups) in zip(
        figure.subplots(1, 2, sharey=True), result.series["angles"].items(), strict=True
    ):
        points = np.array(groups, dtype=float).reshape(-1, 4)
        for column, label in ((1, "features and modes"), (2, "weights and modes"), (3, "X→Y and Y→X")):
            axes.loglog(points[:, 0], points[:, column], ".", ms=4, label=label)
        grid = np.array([points[:, 0].min(), points[:, 0].max()])
        axes.loglog(grid, grid, "k:", lw=1)
        axes.set(title=f"k = {width}", xlabel="dependence ε of the samples")
        axes.grid(alpha=0.2)
    figure.axes[0].set_ylabel("largest principal angle, radians")
    figure.axes[0].legend(fontsize=7, frameon=False)
    return {"angles": figure}


EXPERIMENT = Experiment(
    name="entropy_output",
    title="3a, c. Sigmoid features and softmax (after Entropy 2022), and the mirror image",
    claim="One-hot input, k sigmoid features, softmax, log-loss: the features are the leading right singular vectors "
    "of B over √P_X, the weights the left ones over √P_Y, up to an invertible mixing, and b = log P_Y − V μ. By the "
    "symmetry of B, the weights of the network from X to Y are the features of the network from Y to X.",
    setup=f"|X| = {ROWS}, |Y| = {CLASSES}, joint tables of uniform entries whose dependence is scaled, n = {SAMPLES:,} "
    f"samples; trained to convergence (L-BFGS in float64, the better of {STARTS} random starts).",
    run=run,
    draw=draw,
)
