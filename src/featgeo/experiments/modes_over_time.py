"""The two settings of the experiment "during training": a joint table with graded modes, and graded labels on digits.

The time at which a mode is learned. Take P_X and P_Y uniform, one-hot inputs, log-loss, and logits W₂ W₁ of a
linear network near zero. Around the Bayes action the loss is const + ½‖B - a W₂ W₁‖² with a = 1/√(|X||Y|), so
along mode i, with p = W₂ᵀ uᵢ and q = W₁ vᵢ (hidden vectors), gradient flow of rate η is

    dp/dt = η a (σᵢ - a p·q) q,    dq/dt = η a (σᵢ - a p·q) p.

(p - q)/2 dies out, the growing part has the squared length m = ‖(p + q)/2‖², and dm/dt = 2 η a m (σᵢ - a m): a logistic
with the half-time (a m = σᵢ/2)

    tᵢ = log(σᵢ / (a mᵢ(0)) - 1) / (2 η a σᵢ),

or 2 log(1 + η a σᵢ) below for finite steps, whose growth factor is (1 + η a σᵢ)². Modes whose hidden vectors
overlap hold each other up a little, which the formula leaves out.

So modes are learned in the order of their singular values, the largest first, but for the logarithm of chance.
Saxe, McClelland, Ganguli (2014) have this for squared loss; the theorem carries it over to any loss near its
Bayes action.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featgeo.demo import digits

PROFILE = tuple(0.6**i for i in range(5))  # singular values of the table, times its dependence
GRADES = tuple(0.42 * 0.75**i for i in range(9))  # of the graded labels


def orthonormal(size: int, count: int, generator: torch.Generator) -> Tensor:
    """(size, count) orthonormal columns, all orthogonal to the constant vector."""
    drawn = torch.randn(size, count, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(drawn - drawn.mean(0)).Q


def graded_table(inputs: int, outputs: int, values: tuple[float, ...], generator: torch.Generator) -> Tensor:
    """A joint distribution (inputs, outputs) with uniform marginals whose B has these singular values.

    They are scaled down together where a probability would turn negative.
    """
    left = orthonormal(outputs, len(values), generator)
    right = orthonormal(inputs, len(values), generator)
    ratio = math.sqrt(inputs * outputs) * (left * torch.tensor(values, dtype=torch.float64)) @ right.T
    ratio = ratio * min(1.0, 0.999 / -ratio.min().item())
    return (1 + ratio.T) / (inputs * outputs)


@dataclass(frozen=True)
class Task:
    """Inputs (m, k), label distributions (m, |Y|), and the modes of B: left (|Y|, r), values (r,), right (m, r)."""

    inputs: Tensor
    targets: Tensor
    left: Tensor
    values: Tensor
    right: Tensor

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> Task:
        """With the modes of B = diag(P_Y)^-½ (P_{Y|X} - P_Y) diag(P_X)^½, samples being the values of X."""
        prior = targets.mean(0)
        dependence = ((targets - prior) / prior.sqrt()).T / len(targets) ** 0.5
        left, values, right = torch.linalg.svd(dependence, full_matrices=False)
        rank = int((values > 1e-9 * values[0]).sum())
        return cls(inputs, targets, left[:, :rank], values[:rank], right[:rank].T)

    def strengths(self, outputs: Tensor) -> Tensor:
        """uᵢᵀ Ξ vᵢ / σᵢ (r,): how much of each mode the outputs (m, |Y|) have learned; 1 at the local optimum."""
        prior = self.targets.mean(0)
        centred = outputs - outputs.mean(0)
        learned = (prior.sqrt() * (centred - centred @ prior[:, None])).T / len(outputs) ** 0.5
        return (self.left * (learned @ self.right)).sum(0) / self.values

    def captured(self, features: Tensor) -> Tensor:
        """Cosine (r,) of the angle between each mode's right singular function and the span of features (m, k)."""
        return (_span(features).T @ self.right).norm(dim=0)

    def angles(self, features: Tensor, count: int) -> Tensor:
        """Principal angles in degrees (count,) between the span of the features and that of the leading modes."""
        cosines = torch.linalg.svdvals(_span(features).T @ self.right[:, :count])
        return cosines.clamp(0, 1).arccos().rad2deg()


def _span(features: Tensor) -> Tensor:
    centred = features.double() - features.double().mean(0)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    return left[:, values > 1e-6 * values[0]]


def table_task(seed: int, largest: float) -> Task:
    """|X| = 10, |Y| = 6, one-hot inputs, five modes with singular values in ratio 0.6 from the largest."""
    values = tuple(largest * value for value in PROFILE)
    joint = graded_table(10, 6, values, torch.Generator().manual_seed(seed))
    return Task.of(torch.eye(10, dtype=torch.float64), joint / joint.sum(1, keepdim=True))


def digits_task(seed: int, samples: int, whitened: bool) -> Task:
    """Digits whose labels go through a channel with graded singular values, its modes random contrasts of classes.

    Args:
        seed: of the channel.
        samples: number of images.
        whitened: whether the inputs are the 40 leading principal components with unit variance, else pixels (centred).
    """
    pixels, labels = digits()
    pixels, labels = pixels[:samples].double(), labels[:samples]
    if whitened:
        components = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False).U[:, :40]
        pixels = components * (samples**0.5 / 2)  # variance 1/4, near that of the pixels
    channel = graded_table(10, 10, GRADES, torch.Generator().manual_seed(seed))
    return Task.of(pixels - pixels.mean(0), (channel / channel.sum(1, keepdim=True))[labels])


def network(
    widths: tuple[int, ...], activation: type[nn.Module], scale: float, seed: int, bias: bool = True
) -> nn.Sequential:
    """A perceptron in float64 with Gaussian weights of a scale relative to 1/√fan-in, and zero biases, or none."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for fan_in, fan_out in pairwise(widths):
        layer = nn.Linear(fan_in, fan_out, bias=bias, dtype=torch.float64)
        with torch.no_grad():
            drawn = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64)
            layer.weight.copy_(drawn * scale / fan_in**0.5)
            if bias:
                layer.bias.zero_()
        parts += [layer, activation()]
    return nn.Sequential(*parts[:-1])


def descend(
    model: nn.Sequential, task: Task, steps: int, rate: float, momentum: float, logged: list[int]
) -> list[tuple[int, dict[str, Tensor]]]:
    """Full-batch gradient descent; the model's state at the logged steps."""
    optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    states, wanted = [], set(logged)
    for step in range(steps + 1):
        if step in wanted:
            states.append((step, {key: value.clone() for key, value in model.state_dict().items()}))
        objective = F.cross_entropy(model(task.inputs), task.targets)
        optimiser.zero_grad()
        objective.backward()
        optimiser.step()
    return states


def half_times(steps: list[int], strengths: list[list[float]]) -> list[float]:
    """Step at which each mode first reaches half its strength, interpolated; NaN where it never does."""
    found = []
    for mode in zip(*strengths, strict=True):
        time = math.nan
        for before, after, low, high in zip(steps[:-1], steps[1:], mode[:-1], mode[1:], strict=True):
            if low < 0.5 <= high:
                time = before + (after - before) * (0.5 - low) / (high - low)
                break
        found.append(time)
    return found


def predicted_half_times(model: nn.Sequential, task: Task, rate: float) -> list[float]:
    """tᵢ of the linear two-layer network from its initial weights."""
    layers = [module.weight.detach() for module in model if isinstance(module, nn.Linear)]
    first, last = layers
    scale: Any = 1 / math.sqrt(len(task.inputs) * task.targets.shape[1])
    growing = ((last.T @ task.left + first @ task.right) / 2).square().sum(0)
    times = (
        (task.values / (scale * growing) - 1).log() / (2 * (1 + rate * scale * task.values).log())
    ).tolist()
    return [float(time) for time in times]
