"""What analyze() should report of a layer of an nn.Sequential, in float64, from full arrays of activations.

By other routes than the library's: activations are collected by running the front half of the network, regressions
replace moments and pseudo-inverses, the tail is the back half itself, its Jacobian comes from
torch.autograd.functional, and Bayes actions from scipy.optimize.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor, nn

Array = NDArray[np.float64]
PerSample = Callable[[Tensor, Tensor], Tensor]

PER_SAMPLE: dict[str, PerSample] = {
    "cross_entropy": lambda z, y: F.cross_entropy(z, y, reduction="none"),
    "mse": lambda z, y: F.mse_loss(z, y, reduction="none").mean(1),
    "bce": lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").mean(1),
    "poisson": lambda z, y: F.poisson_nll_loss(z, y, reduction="none").mean(1),
}


@dataclass(frozen=True)
class Activations:
    """Of one layer over all data: mean patches f (N, k), mean outputs z (N, n), model outputs g (N, d)."""

    f: Array
    z: Array
    g: Array
    weight: Array
    bias: Array
    tail: Callable[[Tensor], Tensor]
    last: bool


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer's weight meets, averaged over positions."""
    if isinstance(layer, nn.Conv2d):
        pad = [p for p in reversed(layer.padding) for _ in range(2)]  # type: ignore[arg-type]
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(x, pad, mode=mode)
        return F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride).mean(2)  # type: ignore[arg-type]
    return x if x.ndim == 2 else x.flatten(1, -2).mean(1)


def collect(model: nn.Sequential, name: str, x: Tensor) -> Activations:
    """Run the network in two halves around a layer."""
    model, place = model.double().eval(), int(name)
    layer = model[place]
    with torch.no_grad():
        before = model[:place](x.double())
        output = layer(before)
        outputs = model[place + 1 :](output)
        rows = patches(layer, before)
        mean = output if output.ndim == 2 else output.flatten(2).mean(2)
        if output.ndim == 3:
            mean = output.mean(1)

    def tail(z: Tensor) -> Tensor:
        if output.ndim == 4:
            z = z[:, :, None, None].expand(-1, -1, *output.shape[2:])
        elif output.ndim == 3:
            z = z[:, None, :].expand(-1, output.shape[1], -1)
        return model[place + 1 :](z)  # type: ignore[no-any-return]

    weight, bias = layer.weight.detach().flatten(1), layer.bias.detach()
    return Activations(
        f=rows.numpy(), z=mean.numpy(), g=outputs.numpy(), weight=weight.numpy(), bias=bias.numpy(),
        tail=tail, last=place == len(model) - 1,
    )  # fmt: skip


@dataclass(frozen=True)
class Output:
    """The output's Bayes action c, the scores (N, d) and metric (d, d) there, the loss there and of the network."""

    action: Array
    scores: Array
    metric: Array
    constant: float
    actual: float


def minimise(function: Callable[[Tensor], Tensor], start: Array) -> Array:
    """A minimum of a smooth function of one vector: BFGS, then Newton steps by least squares."""

    def both(point: Array) -> tuple[float, Array]:
        leaf = torch.tensor(point, requires_grad=True)
        value = function(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()

    point = optimize.minimize(both, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x
    for _ in range(4):
        hessian = torch.autograd.functional.hessian(function, torch.tensor(point)).numpy()
        point = point - np.linalg.lstsq(hessian, both(point)[1], rcond=1e-9)[0]
    assert np.linalg.norm(both(point)[1]) < 1e-10
    return point


def output_of(loss: PerSample, g: Array, y: Tensor) -> Output:
    """The best constant output by direct search."""
    outputs, count = torch.tensor(g), len(g)

    def mean_loss(c: Tensor) -> Tensor:
        return loss(c.expand(count, -1), y).mean()

    action = minimise(mean_loss, g.mean(0))
    return at_output(loss, action, outputs, y)


def at_output(loss: PerSample, action: Array, outputs: Tensor, y: Tensor) -> Output:
    """Scores, metric and loss at one constant output."""
    count, point = len(outputs), torch.tensor(action)

    def mean_loss(c: Tensor) -> Tensor:
        return loss(c.expand(count, -1), y).mean()

    rows = point.expand(count, -1).clone().requires_grad_()
    scores = torch.autograd.grad(loss(rows, y).sum(), rows)[0].numpy()
    metric = torch.autograd.functional.hessian(mean_loss, point).numpy()
    actual = loss(outputs, y).mean().item()
    return Output(action, scores, metric, mean_loss(point).item(), actual)


def root_of(metric: Array) -> Array:
    """R (r, d) with RᵀR = metric, of full row rank."""
    values, vectors = np.linalg.eigh(metric)
    keep = values > 1e-11 * values.max()
    return (vectors[:, keep] * np.sqrt(values[keep])).T


@dataclass(frozen=True)
class Expected:
    """The numbers of a View, and the weights behind them."""

    numbers: dict[str, float]
    spectrum: Array
    optimal_weight: Array
    optimal_bias: Array
    root: Array  # R (r, n): biases are compared through it, for a softmax knows them up to a constant


def _gain(f: Array, wanted: Array) -> tuple[Array, float]:
    """Least squares of wanted rows on centred features: the coefficients and ½ E‖fit‖²."""
    coefficients = np.linalg.lstsq(f, wanted, rcond=1e-10)[0]
    return coefficients, 0.5 * float(((f @ coefficients) ** 2).sum()) / len(f)


def compare(
    seen: Activations,
    out: Output,
    jacobian: Array,
    metric: Array,
    scores: Array,
    step: Array,
    lost: float,
    weight_decay: float = 0.0,
) -> Expected:
    """The quadratic of a layer: its optimum by regression of the whitened targets on the features.

    Args:
        seen: the layer's activations.
        out: the output's Bayes action; its losses.
        jacobian: of the tail (d, n).
        metric: of the output (d, d).
        scores: of the samples at the output (N, d).
        step: what the mean action lacks to the best constant (n,).
        lost: loss units lost through that.
        weight_decay: λ.
    """
    f = seen.f - seen.f.mean(0)
    scores = scores - scores.mean(0)
    hidden, free = root_of(jacobian.T @ metric @ jacobian), root_of(metric)
    # E[loss] ≈ ½ E‖R W f + (R⁺)ᵀ s‖² + constant: a regression with these targets
    targets = -scores @ jacobian @ np.linalg.pinv(hidden)
    coefficients, available = _gain(f, targets)
    readout = _gain(f, -scores @ np.linalg.pinv(free))[1]
    fitted, used = f @ coefficients, f @ seen.weight.T @ hidden.T
    gap = 0.5 * float(((used - fitted) ** 2).sum()) / len(f)
    best = np.linalg.pinv(hidden) @ coefficients.T
    if weight_decay:
        cross = -(scores @ jacobian).T @ f / len(f)
        system = np.kron(hidden.T @ hidden, f.T @ f / len(f)) + weight_decay * np.eye(cross.size)
        best = np.linalg.solve(system, cross.reshape(-1)).reshape(cross.shape)
    target = f @ best.T @ hidden.T
    predicted = available - gap - lost
    numbers = {
        "alignment": float((used * target).sum() / np.linalg.norm(used) / np.linalg.norm(target)),
        "scale": float(np.linalg.norm(used) / np.linalg.norm(target)),
        "gain_available": available,
        "gain_used": available - gap,
        "gap_weight": gap,
        "gap_bias": lost,
        "gap_rank": max(0.0, readout - available),
        "constant_loss": out.constant,
        "predicted_loss": out.constant - predicted,
    }
    spectrum = np.linalg.svd(fitted / np.sqrt(len(f)), compute_uv=False)
    bias = seen.bias + step + (seen.weight - best) @ seen.f.mean(0)
    return Expected(numbers, spectrum, best, bias, hidden)


def _locality(seen: Activations, out: Output, jacobian: Array, loss: PerSample, y: Tensor) -> float:
    """Correlation of outputs and linearised outputs, times that of the loss's gradient and its linearisation.

    In the coordinates of an eigenbasis of the output metric; the second along the eigenvectors of the linearised
    outputs' covariance, √3 deviations to both sides, the gradient by differentiating the mean loss.
    """
    root = root_of(out.metric)
    back = np.linalg.pinv(root)
    linear = (seen.z - seen.z.mean(0)) @ jacobian.T @ root.T
    spread = (seen.g - seen.g.mean(0)) @ root.T
    tail = (linear * spread).sum() / np.linalg.norm(linear) / np.linalg.norm(spread)
    values, vectors = np.linalg.eigh(linear.T @ linear / len(linear))
    axes = vectors.T * np.sqrt(3 * values.clip(0))[:, None]

    def gradient(step: Array) -> Array:
        point = torch.tensor(out.action + back @ step, requires_grad=True)
        mean_loss = loss(point.expand(len(seen.g), -1), y).mean()
        return back.T @ torch.autograd.grad(mean_loss, point)[0].numpy()

    steps = np.concatenate([axes, -axes])
    change = np.stack([gradient(step) for step in steps]) - gradient(0 * axes[0])
    curve = (steps * change).sum() / np.linalg.norm(steps) / np.linalg.norm(change)
    return max(0.0, float(tail)) * max(0.0, float(curve))


def at_average(seen: Activations, loss: PerSample, y: Tensor, weight_decay: float = 0.0) -> Expected:
    """The average tail: outputs regressed on pre-activations."""
    out = output_of(loss, seen.g, y)
    z, g = seen.z - seen.z.mean(0), seen.g - seen.g.mean(0)
    jacobian = np.eye(g.shape[1]) if seen.last else np.linalg.lstsq(z, g, rcond=1e-10)[0].T
    root, gap = root_of(out.metric), out.action - seen.g.mean(0)
    step = np.linalg.pinv(root @ jacobian, rcond=1e-9) @ root @ gap
    lost = 0.5 * float(gap @ out.metric @ gap) - float(out.scores.mean(0) @ gap)
    found = compare(seen, out, jacobian, out.metric, out.scores, step, lost, weight_decay)
    found.numbers["locality"] = _locality(seen, out, jacobian, loss, y)
    rest = (g - z @ jacobian.T) @ root.T
    found.numbers["tail_r2"] = 1 - float((rest**2).sum() / ((g @ root.T) ** 2).sum())
    return found


def at_bayes(
    seen: Activations, loss: PerSample, y: Tensor, action: Array | None = None, weight_decay: float = 0.0
) -> Expected:
    """The tail at its Bayes action, which is searched for unless given (where it is not unique)."""
    outputs, count = torch.tensor(seen.g), len(seen.g)

    def mean_loss(c: Tensor) -> Tensor:
        return loss(seen.tail(c[None]).expand(count, -1), y).mean()

    action = minimise(mean_loss, seen.z.mean(0)) if action is None else action
    point = torch.tensor(action)
    out = at_output(loss, seen.tail(point[None])[0].detach().numpy(), outputs, y)
    jacobian = torch.autograd.functional.jacobian(lambda c: seen.tail(c[None])[0], point).numpy()
    step = action - seen.z.mean(0)
    lost = 0.5 * float(step @ jacobian.T @ out.metric @ jacobian @ step) - float(
        out.scores.mean(0) @ jacobian @ step
    )
    found = compare(seen, out, jacobian, out.metric, out.scores, step, lost, weight_decay)
    found.numbers["locality"] = _locality(seen, out, jacobian, loss, y)
    return found
