"""Exact least loss of a hidden layer under a random tail beside the theorem's, for one tail, seed and ε."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from featgeo.errors import FeatgeoWarning
from featgeo.experiments.exact import Optimum, RowLoss, optimise, row_losses
from featgeo.experiments.joints import joint_of, random_family
from featgeo.theory.bayes import jacobian_of
from featgeo.theory.linalg import thin_svd
from featgeo.theory.local import LocalProblem, Solution
from featgeo.theory.losses import CrossEntropy
from featgeo.theory.problem import local_problem

ROWS, CLASSES, WIDTH = 8, 6, 2  # |X|, |Y|, k
NARROW, WIDE = 4, 8  # neurons: fewer and more than the |Y| - 1 directions in which the output can move
MARGIN = 0.25  # least distance of a pre-activation at the Bayes action from 0, the kink of leaky ReLU
CONDITION = 10.0  # of the factor R of the metric on its range; the smaller its singular values, the smaller the region
LEAVING = (
    60  # Newton steps granted to a search that may leave the local region and have no optimum to arrive at
)
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "ELU": nn.ELU,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "leaky ReLU": lambda: nn.LeakyReLU(0.1),
}


@dataclass(frozen=True)
class Case:
    """A tail: its activation, its number of layers, the number of neurons below it, and where one of them is put.

    Attributes:
        at_kink: whether the first neuron's Bayes action is 0, where a leaky ReLU has no derivative.
    """

    activation: str
    layers: int
    neurons: int
    at_kink: bool = False

    def tail(self, seed: int, p_y: Tensor) -> tuple[nn.Module, Tensor]:
        """A random tail with a well-conditioned metric, and a z (n,) from which it reaches log P_Y."""
        code = [seed, list(ACTIVATIONS).index(self.activation), self.layers, self.neurons]
        rng = np.random.default_rng(code)
        while True:
            tail, z = self._draw(rng, p_y)
            _, jacobian = jacobian_of(tail, z)
            values = thin_svd(CrossEntropy().factor(p_y.log()) @ jacobian).values
            if values.max() <= CONDITION * values.min():
                return tail, z

    def _draw(self, rng: np.random.Generator, p_y: Tensor) -> tuple[nn.Module, Tensor]:
        """Orthogonal weights that undo the activation's mean slope; biases that set every unit's pre-activation."""
        activation = ACTIVATIONS[self.activation]()
        z = below = _pre_activations(rng, self.neurons)
        if self.at_kink:
            z[0] = 0.0
        modules: list[nn.Module] = []
        for layer in range(1, self.layers + 1):
            slopes = torch.func.vmap(torch.func.grad(activation))(below)
            basis = np.linalg.qr(rng.standard_normal((max(len(below), CLASSES),) * 2))[0]
            linear = nn.Linear(len(below), CLASSES, dtype=torch.float64)
            linear.weight.data = (
                torch.from_numpy(basis[:CLASSES, : len(below)]) / slopes.square().mean().sqrt()
            )
            wanted = p_y.log() if layer == self.layers else _pre_activations(rng, CLASSES)
            linear.bias.data = wanted - linear.weight.data @ activation(below)
            modules += [activation, linear]
            below = wanted
        return nn.Sequential(*modules).requires_grad_(False), z


def _pre_activations(rng: np.random.Generator, size: int) -> Tensor:
    """In [-0.6, -MARGIN] or [MARGIN, 1], so that ε decides how many cross a kink at 0."""
    signs = np.where(rng.random(size) < 0.4, -0.6, 1.0)
    return torch.from_numpy(np.sign(signs) * rng.uniform(MARGIN, np.abs(signs)))


@dataclass(frozen=True)
class Measurement:
    """One tail at one ε.

    Attributes:
        remainder: exact - predicted least loss.
        gain: predicted.
        left: what all modes together would gain beyond the predicted gain.
        notes: number of warnings.
        outside: displacement of z out of range(H), root mean square over x.
    """

    remainder: float
    gain: float
    left: float
    notes: int
    outside: float


def problem_of(case: Case, seed: int, epsilon: float) -> LocalProblem:
    """The hidden layer's local problem, its warnings carried but not raised."""
    joint = joint_of(random_family(seed, ROWS, CLASSES), epsilon)
    tail, start = case.tail(seed, joint.sum(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatgeoWarning)
        return local_problem(joint, tail=tail, width=case.neurons, start=start)


def measure(case: Case, seed: int, epsilon: float, free: bool = False) -> Measurement:
    """The exact optimum beside the prediction.

    Args:
        case: the tail.
        seed: of tail and joint distribution.
        epsilon: dependence.
        free: whether z may move anywhere; otherwise in c + range(H), where the predicted solution lies.
    """
    problem = problem_of(case, seed, epsilon)
    predicted = problem.low_rank(WIDTH)
    basis = thin_svd(problem.factor).right
    if free:
        optimum = optimise(row_losses(problem), problem.p_x, predicted, epsilon, LEAVING)
        z = optimum.feature @ optimum.weight.T + optimum.bias - problem.action
        away = z - z @ basis @ basis.T
        outside = float((problem.p_x @ away.square().sum(1)).sqrt())
    else:
        optimum = _in_range(problem, predicted, basis, epsilon)
        outside = 0.0
    remainder = optimum.loss - predicted.loss
    conditional = problem.joint / problem.p_x[:, None]
    least = -float((problem.joint * conditional.log()).sum())  # H(Y|X)
    return Measurement(
        remainder, problem.entropy - predicted.loss, predicted.loss - least, len(problem.warnings), outside
    )


def _in_range(problem: LocalProblem, predicted: Solution, basis: Tensor, epsilon: float) -> Optimum:
    """The optimum over z = c + N u, with N an orthonormal basis (n, r) of the range of H."""
    rows, action = row_losses(problem), problem.action

    def within(u: Tensor) -> Tensor:
        return rows(action + u @ basis.T)

    restricted: RowLoss = within
    bias = (predicted.bias - action) @ basis
    start = replace(predicted, weight=basis.T @ predicted.weight, bias=bias)
    return optimise(restricted, problem.p_x, start, epsilon, LEAVING)
