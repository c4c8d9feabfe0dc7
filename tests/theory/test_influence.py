"""Influences against derivatives in the samples' weights, taken by differences of the whole computation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from featgeo.theory.blocks import best_blocks, within_blocks
from featgeo.theory.influence import Rows, influence, standard_error
from featgeo.theory.layer import AverageTail, LayerFit, average_tail, fit_layer
from featgeo.theory.linalg import solve_ridge, thin_svd, whiten
from featgeo.theory.losses import CanonicalLoss, CrossEntropy, MeanSquare

SAMPLES, WIDTH, OUTPUTS = 300, 6, 4


@dataclass(frozen=True)
class Layer:
    """Data of one layer: features, outputs of the model, statistics of the targets."""

    features: Tensor
    outputs: Tensor
    statistics: Tensor
    weight: Tensor
    bias: Tensor
    loss: CanonicalLoss
    last: bool
    groups: int = 1
    road: Tensor | None = None  # what another road carries to the outputs, beside a tail that is known
    jacobian: Tensor | None = None


def made(neurons: int, loss: CanonicalLoss, groups: int = 1) -> Layer:
    """A random layer; with no neurons, the output layer; with groups, block diagonal."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features = randn(SAMPLES, WIDTH) @ (torch.eye(WIDTH, dtype=torch.float64) + randn(WIDTH, WIDTH) / 4) + 1
    weight, bias = randn(neurons or OUTPUTS, WIDTH) / 3, randn(neurons or OUTPUTS) / 3
    weight = weight * torch.block_diag(*[torch.ones(len(weight) // groups, WIDTH // groups)] * groups)
    z = features @ weight.T + bias
    outputs = z.tanh() @ randn(neurons, OUTPUTS) if neurons else z
    noisy = features[:, :OUTPUTS] + randn(SAMPLES, OUTPUTS)
    labels = noisy.argmax(1) if isinstance(loss, CrossEntropy) else noisy.sin()
    return Layer(
        features, outputs, loss.statistic(labels, OUTPUTS).double(), weight, bias, loss, not neurons, groups
    )


@dataclass(frozen=True)
class Solved:
    """The layer's local problem under weights of the samples."""

    fit: LayerFit
    tail: AverageTail | None
    metric: Tensor
    action: Tensor
    means: tuple[Tensor, Tensor, Tensor]
    cross: Tensor
    covariance: Tensor


def solve(layer: Layer, weight: Tensor, decay: float) -> Solved:
    share = weight / weight.sum()
    means = [share @ part for part in (layer.features, layer.outputs, layer.statistics)]
    parts = (layer.features, layer.outputs, layer.statistics)
    f, g, t = (part - mean for part, mean in zip(parts, means, strict=True))

    def covariance(left: Tensor, right: Tensor) -> Tensor:
        return (share[:, None] * left).T @ right

    action, _ = layer.loss.action(means[2])
    metric, whitener = layer.loss.factor(action), whiten(covariance(f, f))
    tail = None
    if not layer.last:
        tail = average_tail(covariance(g, f), covariance(g, g), layer.weight, whitener, metric)
    jacobian = tail.jacobian if tail else torch.eye(OUTPUTS, dtype=torch.float64)
    statistic = covariance(t, f)
    if layer.road is not None:
        assert layer.jacobian is not None
        tail, jacobian = None, layer.jacobian
        statistic = statistic - metric.T @ metric @ covariance(layer.road - share @ layer.road, f)
    fit = fit_layer(
        factor=thin_svd(metric @ jacobian), jacobian=jacobian, statistic=statistic,
        white=whitener.white(statistic), covariance=covariance(f, f),
        whitener=whitener, mean=means[0], weight=layer.weight,
        action=layer.bias, displacement_loss=0.0,
        readout_gain=0.0, weight_decay=decay,
    )  # fmt: skip
    if layer.groups > 1:
        factor, white = fit.factor, whitener.white(statistic)
        wanted = (factor.right.T @ jacobian.T @ white) / factor.values[:, None]
        fit = within_blocks(
            fit, factor=factor, wanted=wanted, whitener=whitener, mean=means[0], weight=layer.weight,
            readout_gain=0.0, groups=layer.groups, weight_decay=decay,
        )  # fmt: skip
    return Solved(fit, tail, metric, action, tuple(means), covariance(t, f), covariance(f, f))


def figures(solved: Solved) -> Tensor:
    fit = solved.fit
    return torch.tensor([fit.alignment, fit.gain_available, fit.gain_used], dtype=torch.float64)


def influences(layer: Layer, decay: float) -> Tensor:
    """By the library, of all samples."""
    solved = solve(layer, torch.ones(SAMPLES, dtype=torch.float64), decay)
    readout, factor = thin_svd(solved.metric), solved.fit.factor
    half = readout.pseudo_inverse.T

    def bend(left: Tensor, right: Tensor) -> Tensor:
        matrix = (left @ right.T + right @ left.T) / 2
        place = solved.action.clone().requires_grad_()
        root = layer.loss.factor(place)
        value = (root @ (half.T @ matrix @ half) * root).sum()
        if not value.requires_grad:
            return torch.zeros(len(half), dtype=torch.float64)
        return half @ torch.autograd.grad(value, place)[0]

    f, g, t = (
        part - mean
        for part, mean in zip((layer.features, layer.outputs, layer.statistics), solved.means, strict=True)
    )
    whitener = whiten(solved.covariance)

    def adjoint(pull: Tensor) -> Tensor:
        if layer.groups == 1:
            return solve_ridge(factor, factor.matrix.T @ pull @ whitener.root.T, solved.covariance, decay)
        outer = factor.values[:, None] * factor.right.T
        return best_blocks(outer, whitener.root, factor.left.T @ pull, layer.groups, decay)

    road = carried = None
    if layer.road is not None:
        road = (layer.road - layer.road.mean(0)) @ solved.metric.T
        carried = whitener.white(road.T @ f / SAMPLES)
    return influence(
        solved.fit, Rows(f, t @ half.T, g @ solved.metric.T, road, carried),
        whitener.white(half @ solved.cross), whitener, bend, solved.tail,
        adjoint if decay or layer.groups > 1 else None,
    )  # fmt: skip


def derivatives(layer: Layer, decay: float, count: int) -> Tensor:
    """Central differences of the figures in the weights of the first samples, times the number of samples."""
    rows = []
    for i in range(count):
        sides = []
        for step in (1e-4 * SAMPLES, -1e-4 * SAMPLES):
            weight = torch.ones(SAMPLES, dtype=torch.float64)
            weight[i] += step
            sides.append(figures(solve(layer, weight, decay)))
        rows.append((sides[0] - sides[1]) / 2e-4)
    return torch.stack(rows)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("loss", [CrossEntropy(), MeanSquare()], ids=["cross_entropy", "mse"])
@pytest.mark.parametrize("neurons", [0, 2, 5, 9], ids=["output", "narrow", "usual", "wide"])
def test_influences_are_derivatives_in_the_weights(neurons: int, loss: CanonicalLoss, decay: float) -> None:
    layer = made(neurons, loss)
    found, wanted = influences(layer, decay), derivatives(layer, decay, 25)
    centred = found - found.mean(0)
    near = (
        1e-3 if neurons else 2e-5
    )  # the regression's influence has one step of regularisation where it has six
    assert ((centred[:25] - wanted).abs().amax(0) < near * wanted.abs().amax(0)).all()


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("loss", [CrossEntropy(), MeanSquare()], ids=["cross_entropy", "mse"])
@pytest.mark.parametrize(("neurons", "groups"), [(0, 2), (2, 2), (6, 2), (6, 3), (12, 6)])
def test_influences_within_blocks(neurons: int, groups: int, loss: CanonicalLoss, decay: float) -> None:
    """Of grouped layers; more groups than outputs leave W* undetermined, not what it does."""
    layer = made(neurons, loss, groups)
    found, wanted = influences(layer, decay), derivatives(layer, decay, 25)
    centred = found - found.mean(0)
    near = 1e-3 if neurons else 2e-5
    assert ((centred[:25] - wanted).abs().amax(0) < near * wanted.abs().amax(0)).all()


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("loss", [CrossEntropy(), MeanSquare()], ids=["cross_entropy", "mse"])
@pytest.mark.parametrize(("neurons", "groups"), [(2, 1), (6, 1), (6, 2)])
def test_influences_beside_another_road(neurons: int, groups: int, loss: CanonicalLoss, decay: float) -> None:
    """At a Jacobian that is known, the other road's outputs taken from the targets."""
    layer = made(neurons, loss, groups)
    solved = solve(layer, torch.ones(SAMPLES, dtype=torch.float64), decay)
    assert solved.tail is not None
    road = (layer.features[:, :OUTPUTS] * 0.7).sin() + layer.outputs / 3
    layer = replace(layer, road=road, jacobian=solved.tail.jacobian)
    found, wanted = influences(layer, decay), derivatives(layer, decay, 25)
    centred = found - found.mean(0)
    assert ((centred[:25] - wanted).abs().amax(0) < 2e-5 * wanted.abs().amax(0)).all()


@pytest.mark.parametrize("between", [0.0, 2.0], ids=["alike", "unlike"])
def test_batches_that_differ_count_instead_of_samples(between: float) -> None:
    """Against the deviation of means over many data sets; 8 samples of each of 24 batches out of 48 are kept."""
    generator = torch.Generator().manual_seed(0)
    batches, size = 48, 64
    means, errors = [], []
    for _ in range(200):
        shift = between * torch.randn(batches, 1, generator=generator, dtype=torch.float64)
        values = torch.randn(batches, size, generator=generator, dtype=torch.float64) + shift
        means.append(values.mean())
        kept = values[::2, ::8]
        number = torch.arange(0, batches, 2).repeat_interleave(kept.shape[1])
        weight = torch.ones(kept.numel(), dtype=torch.float64)
        errors.append(standard_error(kept.reshape(-1, 1), number, weight, batches * size, batches)[0])
    found, wanted = torch.stack(errors).square().mean().sqrt(), torch.stack(means).std()
    assert found.item() == pytest.approx(wanted.item(), rel=0.15)


def test_standard_errors_of_one_sample_and_of_one_batch() -> None:
    values = torch.arange(8.0, dtype=torch.float64)[:, None]
    one = torch.zeros(8, dtype=torch.int64), torch.ones(8, dtype=torch.float64)
    assert standard_error(values, *one, 8, 1).item() == pytest.approx(values.std().item() / 8**0.5)
    alone = one[0][:1], one[1][:1]
    assert standard_error(values[:1], *alone, 1, 1).isnan().all()
