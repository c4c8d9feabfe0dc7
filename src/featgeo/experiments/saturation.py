"""Where the theorem's assumption fails, known beforehand from the range of the activation; is it detected?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from featgeo.errors import FeatgeoWarning
from featgeo.experiments.joints import joint_of, random_family
from featgeo.experiments.record import Cell, Table
from featgeo.theory.local import LocalProblem
from featgeo.theory.problem import local_problem

# activation, and the infimum and supremum of its values
RANGES: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "identity": (lambda z: z, -math.inf, math.inf),
    "tanh": (torch.tanh, -1.0, 1.0),
    "sigmoid": (torch.sigmoid, 0.0, 1.0),
    "softplus": (F.softplus, 0.0, math.inf),
    "ELU": (F.elu, -1.0, math.inf),
    "SiLU": (F.silu, -0.2785, math.inf),
    "GELU": (F.gelu, -0.17, math.inf),
    "leaky ReLU": (lambda z: F.leaky_relu(z, 0.1), -math.inf, math.inf),
}
WANTED = (-2.0, -0.5, 0.5, 2.0)  # E[Y] of the regression that the activation's values have to meet
SKEWS = (
    1.5,
    5.0,
    20.0,
)  # largest ratio of two class probabilities; logits in an interval of length l reach e^l


def detection(seed: int) -> tuple[Table, bool]:
    """Every activation as the output itself: MSE with a given mean, and log-loss with given class probabilities.

    Returns:
        The table, and whether exactly the cases that cannot be reached were warned about.
    """
    rows: list[list[Cell]] = []
    right = True
    for name, (function, low, high) in RANGES.items():
        for mean in WANTED:
            reachable = low < mean < high
            problem = _regression(function, mean, seed)
            right &= bool(problem.warnings) == (not reachable)
            rows.append([name, f"MSE, E[Y] = {mean:g}", reachable, bool(problem.warnings), _reason(problem)])
        for skew in SKEWS:
            reachable = math.log(skew) < high - low
            problem = _classification(function, skew, seed)
            right &= bool(problem.warnings) == (not reachable)
            wanted = f"log-loss, P_Y uneven by {skew:g}"
            rows.append([name, wanted, reachable, bool(problem.warnings), _reason(problem)])
    shown = [row for row in rows if row[2] != (not row[3]) or not row[2] or row[0] in ("sigmoid", "softplus")]
    columns = ["activation", "output wanted", "assumption holds", "warned", "how"]
    others = len(rows) - len(shown)
    title = (
        f"The activation as the output: can it meet what is wanted? ({others} further cases: yes, no warning)"
    )
    return Table(title, columns, shown), right


def _reason(problem: LocalProblem) -> str:
    """What the library noticed."""
    point = problem.point
    said = [
        (bool(point.saturated), f"saturated ({len(point.saturated)} of {len(point.action)} neurons)"),
        (not point.converged, "not converged"),
        (not point.reached and not point.saturated, "output's action not reached"),
    ]
    return ", ".join(text for true, text in said if true) or "–"


def _regression(function: Callable[[Tensor], Tensor], mean: float, seed: int) -> LocalProblem:
    joint = joint_of(random_family(seed, 8, 6), 0.1)
    values = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    values = values - joint.sum(0) @ values + mean
    return _quietly(joint, function, 1, loss="mse", y_values=values)


def _classification(function: Callable[[Tensor], Tensor], skew: float, seed: int) -> LocalProblem:
    p_x, p_y = (
        torch.full((4,), 0.25, dtype=torch.float64),
        torch.tensor([skew, 1.0, 1.0], dtype=torch.float64),
    )
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    direction = direction - direction.mean(0) - (direction - direction.mean(0)).mean(1, keepdim=True)
    joint = torch.outer(p_x, p_y / p_y.sum())
    return _quietly(joint + 0.05 * joint.min() * direction / direction.abs().max(), function, 3)


def _quietly(joint: Tensor, tail: Callable[[Tensor], Tensor], width: int, **options: object) -> LocalProblem:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatgeoWarning)
        return local_problem(joint, tail=tail, width=width, **options)  # type: ignore[arg-type]
