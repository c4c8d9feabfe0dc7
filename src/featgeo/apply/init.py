"""Starts for training: the last layer at its optimum, hidden layers turned to the modes of B, toward the labels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from featgeo.apply.fit import Refine
from featgeo.apply.head import solve_head
from featgeo.apply.model_features import model_features
from featgeo.apply.onepass import Constant, constant_of
from featgeo.data.batches import Batches
from featgeo.data.moments import Companion, Moments, MomentStream
from featgeo.errors import FeatgeoError
from featgeo.network.features import position_rows
from featgeo.network.keep import undisturbed
from featgeo.network.layers import as_matrix, as_weight
from featgeo.network.run import Forward, Runner, forward_batch, runner_of
from featgeo.network.select import split_layers
from featgeo.network.taps import tapping
from featgeo.theory.linalg import rank_tolerance, thin_svd
from featgeo.theory.losses import CanonicalLoss
from featgeo.theory.named import LossLike, resolve_loss

Toward = Literal["labels", "inputs", "weights"]
Plain = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def init_head_(
    model: nn.Module,
    data: object,
    loss: LossLike = "cross_entropy",
    *,
    layer: str | None = None,
    forward: Forward | None = None,
    weight_decay: float = 0.0,
    refine: Refine = 0,
) -> nn.Module:
    """Set a network's last layer, in place, to the best head on its features: a start for fine-tuning.

    Args:
        model: any module that ends in a linear layer. Nothing else of it changes.
        data: batches (inputs, targets), or a pair of tensors.
        loss: as for :func:`solve_head`.
        layer: name of the last layer; found by itself where None.
        forward: called with the model and the inputs of a batch, returns the outputs; as for :func:`featgeo.analyze`.
        weight_decay: λ of λ/2 ‖W‖².
        refine: 0: the local solution, in one pass. A number of steps, or "exact".

    Returns:
        The model.

    Raises:
        FeatgeoError: as :func:`solve_head`; the layer is then as it was.
    """
    last = model_features(model, data, layer, forward=forward)
    head = solve_head(
        model, data, loss, layer=last.name, forward=forward, weight_decay=weight_decay, refine=refine
    )
    with torch.no_grad():
        last.layer.weight.copy_(head.weight.reshape(last.layer.weight.shape))
        if last.layer.bias is not None:
            last.layer.bias.copy_(head.bias)
    return model


def init_layers_(
    model: nn.Module,
    data: object,
    loss: LossLike = "cross_entropy",
    *,
    layers: list[str] | None = None,
    forward: Forward | None = None,
    toward: Toward = "labels",
    modes: int | None = None,
    share: float = 0.5,
    shrinkage: float = 0.1,
    seed: int = 0,
    batch_size: int = 256,
) -> nn.Module:
    """Turn the hidden layers of a fresh network, in place, to what the labels ask of their features.

    Layer after layer, from the input on. Each neuron's weights become a random mixture of the modes of B (the right
    singular functions of Cov(T, f) in the metrics of loss and features) and of its weights before; mean and variance of
    its pre-activation over the data stay as they were, so that the scale of the initialisation is kept. One forward
    pass a layer. The last layer is left alone (:func:`init_head_`).

    Args:
        model: any module; Linear and Conv layers without groups are set.
        data: batches (inputs, targets), or a pair of tensors; a few thousand samples do.
        loss: as for :func:`solve_head`.
        layers: names of the layers; all hidden ones by default.
        forward: called with the model and the inputs of a batch, returns the outputs; as for :func:`featgeo.analyze`.
        toward: "labels" for the modes of B; for comparison "inputs", principal components of the features, and
            "weights", leading singular vectors of the weights themselves (as PiSSA starts its adapters).
        modes: how many directions; by default as many as there are outputs, less one.
        share: of a neuron's variance that goes to them.
        shrinkage: of Σ toward a multiple of the identity, so that directions of next to no variance are not blown up.
        seed: of the mixtures.
        batch_size: for a pair of tensors.

    Returns:
        The model.

    Raises:
        FeatgeoError: where model, data and loss do not suit each other; all layers are then as they were.
    """
    if toward not in ("labels", "inputs", "weights"):
        raise FeatgeoError("toward", f"{toward!r}", "Pass 'labels', 'inputs' or 'weights'.")
    for name, value in (("share", share), ("shrinkage", shrinkage)):
        if not 0 <= value <= 1:
            raise FeatgeoError(name, f"{value!r}", "It must lie in 0..1.")
    if modes is not None and modes < 1:
        raise FeatgeoError("modes", f"{modes!r}", "It must be at least 1.")
    batches, chosen = Batches(data, batch_size), resolve_loss(loss)
    if batches.once:
        raise FeatgeoError("data", "an iterator, for a pass per layer", "Pass a re-iterable.")
    if not isinstance(chosen, CanonicalLoss):
        raise FeatgeoError("loss", f"'{chosen.name}'", "Pass cross_entropy, mse, bce or poisson.")
    generator = torch.Generator().manual_seed(seed)
    with undisturbed(model):
        run = runner_of(model, forward)
        chain = _hidden(run, batches, layers)
        before = [(layer, layer.weight.clone(), _copy(layer.bias)) for layer in chain.values()]
        try:
            for name, layer in chain.items():
                moments, constant = _moments(run, name, layer, batches, chosen)
                count = modes or max(1, len(constant.action) - 1)
                rows = _directions(layer, moments, constant, toward, count, shrinkage)
                _turn(layer, moments, rows, share, generator)
        except BaseException:
            for layer, weight, bias in before:
                layer.weight.copy_(weight)
                if bias is not None:
                    layer.bias.copy_(bias)  # type: ignore[union-attr]
            raise
    return model


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def _hidden(run: Runner, batches: Batches, only: list[str] | None) -> dict[str, Plain]:
    """The layers to be set, in the order of their calls."""
    found = split_layers(run.model, only)[0]
    plain = {
        n: m
        for n, m in found.items()
        if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) and getattr(m, "groups", 1) == 1
    }
    called: dict[str, Tensor] = {}

    def note(name: str, _x: Tensor, output: Tensor | None) -> None:
        assert output is not None
        called[name] = output

    for inputs, _ in batches:
        with tapping(plain, note):
            outputs = forward_batch(run, inputs, 0)
        break
    hidden = [n for n, made in called.items() if made.numel() != outputs.numel() or n in (only or [])]
    hidden = [
        n for n in hidden if n in (only or []) or not torch.equal(called[n].reshape(-1), outputs.reshape(-1))
    ]
    if not hidden:
        raise FeatgeoError("model", "no hidden linear or convolution layer", "There is nothing to set.")
    return {n: plain[n] for n in hidden}


def _moments(
    run: Runner, name: str, layer: Plain, batches: Batches, loss: CanonicalLoss
) -> tuple[Moments, Constant]:
    """Moments of the features at every position with companion T(y), and the best constant."""
    stream = MomentStream(f"layer '{name}'")
    held: list[Tensor] = []
    targets: list[Tensor] = []

    def keep(_name: str, x: Tensor, output: Tensor | None) -> None:
        held.append(position_rows(layer, x, output))

    width = 0
    for number, (inputs, given) in enumerate(batches):
        held.clear()
        with tapping({name: layer}, keep):
            outputs = forward_batch(run, inputs, number)
        width = outputs.shape[1]
        checked = loss.check(given.to(outputs.device), width)
        targets.append(checked)
        if not held or len(held[0]) != len(outputs):
            raise FeatgeoError("layer", f"'{name}', without one row per sample", "Leave it out (layers=).")
        rows = held[0]
        sides = loss.statistic(checked, width).to(rows).repeat_interleave(rows.shape[1], 0)
        centred, shift = stream.centre(rows.flatten(0, 1))[0], torch.zeros_like(sides[0])
        stream.add(centred, Companion.of(sides, shift))
    moments = stream.result().to("cpu")
    return moments, constant_of(loss, torch.cat(targets), None, width, True)


def _directions(
    layer: Plain, moments: Moments, constant: Constant, toward: Toward, count: int, shrinkage: float
) -> Tensor:
    """Rows (r, k) that are uncorrelated with unit variance over the features, the largest entry of each positive."""
    values, basis = torch.linalg.eigh(moments.covariance)
    values = values.clamp_min(0)
    level = values.mean()
    shrunk = (1 - shrinkage) * values + shrinkage * level
    seen = shrunk > rank_tolerance(len(shrunk), torch.float32) * shrunk.max()
    inverse = torch.where(seen, shrunk.clamp_min(1e-300).rsqrt(), 0.0)
    if toward == "labels":
        factor = thin_svd(constant.factor)
        white = factor.right.T @ moments.cross_covariance @ basis * inverse
        right = torch.linalg.svd(white / factor.values[:, None], full_matrices=False).Vh[:count]
        rows = right * inverse @ basis.T
    elif toward == "inputs":
        rows = basis.flip(1)[:, :count].T
    else:
        matrix = as_matrix(layer, layer.weight.detach()).to("cpu", torch.float64)
        rows = torch.linalg.svd(matrix, full_matrices=False).Vh[:count]
    scale = torch.einsum("ij,jk,ik->i", rows, moments.covariance, rows).clamp_min(0).sqrt()
    kept = scale > 1e-9 * scale.max()
    rows = rows[kept] / scale[kept, None]
    largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
    return rows * largest.sign()  # the sign of a singular vector is chance, and would choose other mixtures


def _turn(layer: Plain, moments: Moments, rows: Tensor, share: float, generator: torch.Generator) -> None:
    """Mix the rows into a layer's weights; mean and variance of every pre-activation stay."""
    old = as_matrix(layer, layer.weight.detach()).to("cpu", torch.float64)
    mixture = torch.randn(len(old), len(rows), generator=generator, dtype=torch.float64)
    spread = _spread(old, moments)
    drawn = mixture @ rows
    drawn = drawn / _spread(drawn, moments)[:, None]
    new = math.sqrt(share) * drawn + math.sqrt(1 - share) * old / spread.clamp_min(1e-300)[:, None]
    new = new * (spread / _spread(new, moments))[:, None]
    new = torch.where(torch.isfinite(new), new, old)  # neurons that never vary stay as they are
    layer.weight.copy_(as_weight(layer, new.to(layer.weight.dtype)))
    if layer.bias is not None:
        layer.bias += ((old - new) @ moments.mean).to(layer.bias)


def _spread(rows: Tensor, moments: Moments) -> Tensor:
    """Standard deviation (n,) of the features along rows."""
    return torch.einsum("ij,jk,ik->i", rows, moments.covariance, rows).clamp_min(0).sqrt()
