"""Small networks x -> h(x) -> sigmoid features -> softmax, h frozen, trained on a whole joint distribution.

Several networks (seeds) are trained side by side: arrays carry the seeds in their first axis. Gradients are written
out, since a network of 40 parameters is all overhead to automatic differentiation; a test compares them with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[np.float64]


@dataclass
class SigmoidNetworks:
    """z(x) = W h(x) + c, f = sigmoid(z), logits = V f + b, for s seeds.

    Attributes:
        inner: W (s, k, m).
        inner_bias: c (s, k).
        outer: V (s, |Y|, k).
        outer_bias: b (s, |Y|).
    """

    inner: Array
    inner_bias: Array
    outer: Array
    outer_bias: Array

    @property
    def parts(self) -> list[Array]:
        """All parameters."""
        return [self.inner, self.inner_bias, self.outer, self.outer_bias]

    def features(self, hidden: Array) -> Array:
        """f(x) (s, |X|, k) of h (s, |X|, m)."""
        z = hidden @ self.inner.transpose(0, 2, 1) + self.inner_bias[:, None]
        values: Array = 0.5 * (1 + np.tanh(0.5 * z))
        return values

    def one(self, seed: int) -> SigmoidNetworks:
        """The networks of a single seed."""
        return SigmoidNetworks(*(part[seed : seed + 1].copy() for part in self.parts))


def initial(rng: np.random.Generator, seeds: int, inputs: int, width: int, classes: int) -> SigmoidNetworks:
    """Independent normal weights of variance 1/fan-in, no biases."""
    return SigmoidNetworks(
        rng.standard_normal((seeds, width, inputs)) / np.sqrt(inputs),
        np.zeros((seeds, width)),
        rng.standard_normal((seeds, classes, width)) / np.sqrt(width),
        np.zeros((seeds, classes)),
    )


def loss_and_gradients(networks: SigmoidNetworks, joints: Array, hidden: Array) -> tuple[Array, list[Array]]:
    """Log-loss in nats (s,) on joints (s, |X|, |Y|), and its gradients in the order of ``parts``."""
    features = networks.features(hidden)
    logits = features @ networks.outer.transpose(0, 2, 1) + networks.outer_bias[:, None]
    top = logits.max(2, keepdims=True)
    unnormalised = np.exp(logits - top)
    total = unnormalised.sum(2, keepdims=True)
    loss = -(joints * (logits - top - np.log(total))).sum((1, 2))
    errors = joints.sum(2, keepdims=True) * unnormalised / total - joints
    through = (errors @ networks.outer) * features * (1 - features)
    return loss, [
        through.transpose(0, 2, 1) @ hidden,
        through.sum(1),
        errors.transpose(0, 2, 1) @ features,
        errors.sum(1),
    ]


def train_adam(
    networks: SigmoidNetworks,
    joints: Array,
    hidden: Array,
    rate: float,
    stops: Iterable[int],
    seen: Callable[[int], None],
) -> None:
    """Full-batch Adam (Kingma and Ba, 2015) in place; `seen` is called after the given numbers of steps."""
    first, second = ([np.zeros_like(part) for part in networks.parts] for _ in range(2))
    done = 0
    for stop in stops:
        for step in range(done + 1, stop + 1):
            _, gradients = loss_and_gradients(networks, joints, hidden)
            for part, gradient, m, v in zip(networks.parts, gradients, first, second, strict=True):
                m += 0.1 * (gradient - m)
                v += 0.001 * (gradient**2 - v)
                part -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
        done = stop
        seen(stop)


def train_to_convergence(
    start: SigmoidNetworks, joint: Array, hidden: Array, scale: float, steps: int = 5000
) -> tuple[SigmoidNetworks, float, float]:
    """L-BFGS for the networks of one seed; the loss is measured in units of ε², so that its tolerance is relative.

    Returns:
        The networks, their loss in nats, and the largest entry of the gradient in units of ε².
    """
    shapes = [part.shape for part in start.parts]
    ends = np.cumsum([part.size for part in start.parts])[:-1]
    level = loss_and_gradients(start, joint[None], hidden[None])[0][0]

    def unpack(vector: Array) -> SigmoidNetworks:
        pieces = np.split(vector, ends)
        return SigmoidNetworks(*(piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)))

    def function(vector: Array) -> tuple[float, Array]:
        loss, gradients = loss_and_gradients(unpack(vector), joint[None], hidden[None])
        return float(loss[0] - level) / scale**2, np.concatenate([g.ravel() for g in gradients]) / scale**2

    begin = np.concatenate([part.ravel() for part in start.parts])
    point, value, report = optimize.fmin_l_bfgs_b(
        function, begin, m=30, factr=0.0, pgtol=1e-9, maxiter=steps, maxfun=2 * steps
    )
    gradient = np.abs(np.asarray(report["grad"])).max()
    return unpack(point), float(value) * scale**2 + float(level), float(gradient)
