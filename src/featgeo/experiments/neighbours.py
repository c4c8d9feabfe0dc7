"""Neighbouring measures of what a layer has learned, and the standpoints a layer can be judged from.

* Mean Jacobian: E[∂g/∂z] over the data by backward passes, a shift of z applied at all positions alike; the causal
  sibling of the average tail.
* Neural feature ansatz (Radhakrishnan, Beaglehole, Pandit, Belkin, Science 383, 2024): the correlation of WᵀW with
  the average gradient outer product A = E Σ (∂g/∂f)ᵀ(∂g/∂f), or with its root A^½; for layers with positions the
  gradients of all patches are averaged. Since f enters by W alone, ∂g/∂f = (∂g/∂z) W and A = Wᵀ S W. (A residual
  road around the layer is left out, as it is in the ansatz for the layer's own patch.)
* Target linearity (Cha, Beaglehole, Radhakrishnan, Lee, arXiv 2605.06258, 2026): 1 - ‖Y - Ŷ‖²/‖Y‖² with Y the centred
  one-hot labels and Ŷ their projection on the columns of the features H; as in the authors' published code H is not
  centred and has no intercept.
* Linear centred kernel alignment with the labels (Kornblith et al., 2019): ‖YᵀH‖²/(‖HᵀH‖ ‖YᵀY‖), both centred.

The last two look at the features that a layer makes: its output at all positions, after its ReLU where it has one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from featgeo.network.features import feature_rows
from featgeo.network.keep import undisturbed
from featgeo.network.layers import Layer, weight_matrix
from featgeo.network.roads import BYPASS
from featgeo.network.select import split_layers
from featgeo.network.tail import FrozenTail
from featgeo.theory.bayes import bayes_action
from featgeo.theory.linalg import rank_tolerance
from featgeo.theory.losses import CrossEntropy
from featgeo.theory.risk import CanonicalRisk

CUT = 1e-9  # singular values below this fraction of the largest are rounding
MEASURES = ("ansatz", "ansatz, root", "target linearity", "CKA")


@dataclass(frozen=True)
class Standpoint:
    """A layer and the Jacobians that its tail can be replaced by; float64, from moments taken in two passes.

    Attributes:
        layer: the layer.
        weight: W (n, k).
        mean: E[f] (k,).
        transform: Cov(f)^-½ on the range of Cov(f): (k, r).
        root: Cov(f)^½ in the same coordinates (k, r).
        metric: R_out (·, d), a factor of the output's metric at its Bayes action.
        labels: Cov(T(y), f) (d, k).
        outputs: Cov(g, f) (d, k).
        jacobians: ``average``, ``mean Jacobian`` and, unless the layer is bypassed, ``bayes``: (d, n) each.
        is_output: whether the layer's output is the network's.
    """

    layer: Layer
    weight: Tensor
    mean: Tensor
    transform: Tensor
    root: Tensor
    metric: Tensor
    labels: Tensor
    outputs: Tensor
    jacobians: dict[str, Tensor]
    is_output: bool

    def factor(self, at: str) -> Tensor:
        """R (·, n) of the metric through that tail."""
        return self.metric @ self.jacobians[at]

    def modes(self, at: str) -> tuple[Tensor, Tensor]:
        """R W Σ^½ and R W* Σ^½ in whitened features (·, r); their cosine is the alignment."""
        factor = self.factor(at)
        cross = self.jacobians[at].T @ self.labels @ self.transform
        return factor @ self.weight @ self.root, torch.linalg.pinv(factor, rtol=CUT).T @ cross

    def alignment(self, at: str) -> float:
        """Cosine; NaN where a side vanishes, or is rounding beside what the average tail gives the weights."""
        used, best = self.modes(at)
        usual = (self.factor("average") @ self.weight @ self.root).norm()
        if used.norm() <= 1e-6 * usual or best.norm() <= 1e-150:
            return float("nan")
        return F.cosine_similarity(used.flatten(), best.flatten(), dim=0).item()

    def gap(self, at: str) -> float:
        """½‖R (W - W*) Σ^½‖², what the quadratic says is lost (nats)."""
        used, best = self.modes(at)
        return 0.5 * (used - best).square().sum().item()

    def optimal_weight(self, at: str) -> Tensor:
        """W* (n, k)."""
        _, best = self.modes(at)
        return torch.linalg.pinv(self.factor(at), rtol=CUT) @ best @ self.transform.T


def standpoints(
    model: nn.Module, inputs: Tensor, labels: Tensor, jacobians: dict[str, Tensor]
) -> dict[str, Standpoint]:
    """The standpoints of every layer, by another route than analyze(): all rows in memory, two passes.

    The average tail is the plain regression of g on z; analyze() leaves out directions in which z hardly varies.

    Args:
        model: a classifier.
        inputs: (m, ...).
        labels: (m,).
        jacobians: mean Jacobians by layer, see :func:`backward_measures`.
    """
    layers = split_layers(model)[0]
    features: dict[str, Tensor] = {}
    points = {}
    with undisturbed(model), ExitStack() as stack:
        for name, layer in layers.items():

            def keep(module: nn.Module, given: tuple[Tensor, ...], _output: Tensor, name: str = name) -> None:
                features[name] = feature_rows(module, given[0])  # type: ignore[arg-type]

            assert isinstance(layer, nn.Module)
            stack.callback(layer.register_forward_hook(keep).remove)
        outputs, made = read(model, inputs, layers)
        seen = dict(features)  # the tails below run the model again
        risk, g = _risk(outputs, labels), outputs.double() - outputs.double().mean(0)
        output = bayes_action(risk, start=outputs.double().mean(0))
        targets = _centred_one_hot(labels, outputs.shape[1])
        for name, layer in layers.items():
            mean = seen[name].double().mean(0)
            rows = seen[name].double() - mean
            weight, bias = weight_matrix(layer)
            is_output = made[name] is outputs
            transform, root = _whitening(rows, seen[name].dtype)
            z = (rows @ transform) @ (weight @ root).T
            unit = torch.eye(outputs.shape[1], dtype=torch.float64)
            found = {
                "average": unit
                if is_output
                else torch.linalg.lstsq(z, g, driver="gelsd", rcond=CUT).solution.T
            }
            if is_output:
                found["bayes"] = unit
            else:
                frozen = FrozenTail(model, layer, inputs[:8])
                start = weight @ mean + bias
                if frozen.bypass(start) <= BYPASS:
                    point = bayes_action(risk, frozen, start, precision=torch.float32)
                    found["bayes"] = point.jacobian
            found["mean Jacobian"] = jacobians[name]
            labelled, read_out = targets.T @ rows / len(rows), g.T @ rows / len(rows)
            points[name] = Standpoint(
                layer, weight, mean, transform, root, output.factor, labelled, read_out, found, is_output
            )
    return points


def _whitening(rows: Tensor, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """Σ^-½ and Σ^½ (k, r) of centred rows (m, k), from standardised singular values; the library's rank rule."""
    scale = rows.square().mean(0).sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    _, values, right = torch.linalg.svd(rows / scale / len(rows) ** 0.5, full_matrices=False)
    kept = values > rank_tolerance(rows.shape[1], precision) ** 0.5 * values.max()
    values, right = values[kept], right[kept].T
    return (right / values) / scale[:, None], right * values * scale[:, None]


def _risk(outputs: Tensor, labels: Tensor) -> CanonicalRisk:
    loss, width = CrossEntropy(), outputs.shape[1]
    return CanonicalRisk(loss, loss.statistic(labels, width).double().mean(0), 0.0)


def read(model: nn.Module, inputs: Tensor, layers: dict[str, Layer]) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs (m, d) and the output tensor of every layer, in the graph."""
    made: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            made[name] = output

        return hook

    with ExitStack() as stack:
        for name, layer in layers.items():
            assert isinstance(layer, nn.Module)
            stack.callback(layer.register_forward_hook(hook_for(name)).remove)
        return model(inputs), made


def _positions_last(layer: Layer, gradient: Tensor) -> Tensor:
    """(m, positions, n) of a gradient at a layer's output."""
    if isinstance(layer, nn.Linear):
        return gradient.reshape(len(gradient), -1, gradient.shape[-1])
    return gradient.flatten(2).transpose(1, 2)


def backward_measures(
    model: nn.Module, inputs: Tensor
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Mean Jacobians (d, n) and the ansatz of every layer: d backward passes serve both and all layers."""
    layers = split_layers(model)[0]
    outputs, made = read(model, inputs, layers)
    tensors = list(made.values())
    jacobians: dict[str, list[Tensor]] = {name: [] for name in made}
    grams = {name: torch.zeros(1, dtype=torch.float64) for name in made}
    for column in outputs.sum(0):
        gradients = torch.autograd.grad(column, tensors, retain_graph=True)
        for name, gradient in zip(made, gradients, strict=True):
            rows = _positions_last(layers[name], gradient).double()
            jacobians[name].append(rows.sum(1).mean(0))
            flat = rows.flatten(0, 1)
            grams[name] = grams[name] + flat.T @ flat / len(flat)
    ansatz = {}
    for name, layer in layers.items():
        weight = layer.weight.detach().double().flatten(1)
        gram, outer = weight.T @ weight, weight.T @ grams[name] @ weight
        values, vectors = torch.linalg.eigh(outer)
        root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        ansatz[name] = {"ansatz": _correlation(gram, outer), "ansatz, root": _correlation(gram, root)}
    return {name: torch.stack(rows) for name, rows in jacobians.items()}, ansatz


def _correlation(first: Tensor, second: Tensor) -> float:
    """Pearson's correlation of the entries."""
    a, b = first.flatten() - first.mean(), second.flatten() - second.mean()
    return F.cosine_similarity(a, b, dim=0).item()


def target_linearity(features: Tensor, labels: Tensor) -> float:
    """1 - ‖Y - Ŷ‖²/‖Y‖² of centred one-hot labels on features H (m, p)."""
    targets = _centred_one_hot(labels, int(labels.max()) + 1)
    rows = features.double()
    tall = len(rows) >= rows.shape[1]
    values, vectors = torch.linalg.eigh(rows.T @ rows if tall else rows @ rows.T)
    kept = values > 1e-10 * values.max()
    basis = vectors[:, kept].T @ (rows.T @ targets if tall else targets)
    basis = basis / values[kept, None].sqrt() if tall else basis
    return (basis.square().sum() / targets.square().sum()).item()


def label_cka(features: Tensor, labels: Tensor) -> float:
    """Linear CKA of features (m, p) with one-hot labels."""
    targets, rows = (
        _centred_one_hot(labels, int(labels.max()) + 1),
        features.double() - features.double().mean(0),
    )
    norms = (rows.T @ rows).norm() * (targets.T @ targets).norm()
    return ((targets.T @ rows).square().sum() / norms.clamp_min(1e-300)).item()


def _centred_one_hot(labels: Tensor, classes: int) -> Tensor:
    targets = F.one_hot(labels, classes).double()
    return targets - targets.mean(0)


def neighbours(
    model: nn.Module, inputs: Tensor, labels: Tensor, rectified: tuple[str, ...]
) -> tuple[dict[str, dict[str, float]], dict[str, Tensor], dict[str, float]]:
    """All neighbouring measures by layer, the mean Jacobians, and the seconds that each kind of measure took.

    Args:
        model: a classifier, in evaluation mode or without modules that care.
        inputs: (m, ...).
        labels: (m,).
        rectified: names of layers directly followed by a ReLU.
    """
    begin = time.perf_counter()
    jacobians, values = backward_measures(model, inputs)
    seconds = {"backward": time.perf_counter() - begin, "target linearity": 0.0, "CKA": 0.0}
    with torch.no_grad():
        _, made = read(model, inputs, split_layers(model)[0])
    for name, output in made.items():
        features = (F.relu(output) if name in rectified else output).flatten(1)
        for measure, function in (("target linearity", target_linearity), ("CKA", label_cka)):
            begin = time.perf_counter()
            values[name][measure] = function(features, labels)
            seconds[measure] += time.perf_counter() - begin
    return values, jacobians, seconds
