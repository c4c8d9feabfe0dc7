"""rank_models(), rank_layers(): networks, or the layers of one, by how well their features suit a task."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featgeo.apply.layer_features import OUTPUT, layer_features
from featgeo.apply.ranking import Ranking
from featgeo.apply.transfer import OF_SOURCE, TransferScore, check_method, score_sample, transfer_score
from featgeo.apply.transfer_sample import make_sample
from featgeo.data.batches import Batches
from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.network.layers import SPATIAL, Layer, Projection
from featgeo.network.run import Forward
from featgeo.network.select import Layers, split_layers
from featgeo.network.taps import as_rows
from featgeo.network.together import unwrapped
from featgeo.theory.losses import Loss
from featgeo.theory.named import LossLike, resolve_loss

MEMORY = 2 << 30  # bytes of features that are held at a time
Candidate = nn.Module | tuple[nn.Module, str] | Callable[[Any], Tensor] | Tensor | Any


def rank_models(
    models: Mapping[str, Candidate],
    data: object,
    loss: LossLike = "cross_entropy",
    *,
    methods: str | Sequence[str] = "crossfit",
    samples: int | None = None,
    batch_size: int = 256,
    progress: bool = False,
) -> Ranking:
    """Score networks by the features that they give for a task.

    Args:
        models: by name, each one of: a network, whose outputs are the features; a pair of a network and the name of a
            layer, whose input they are (averaged over positions); a function of a batch of inputs; or the features
            themselves (samples, k), in the order of the data.
        data: a re-iterable of (inputs, targets), or a pair of tensors or arrays.
        loss: of the task.
        methods: of :func:`transfer_score`, the first of which ranks. For "leep" and "nce" the networks' outputs are
            taken as the logits of their source classes; candidates without outputs have no such score.
        samples: stop after that many.
        batch_size: for a pair.
        progress: whether to show progress bars.

    Raises:
        FeatgeoError: where a candidate, the data and the loss do not suit each other; the message names the candidate.
    """
    names, chosen = _methods(methods), resolve_loss(loss)
    if not isinstance(models, Mapping) or not models:
        raise FeatgeoError(
            "models", f"a {type(models).__name__}", "Pass a dictionary of at least one network."
        )
    scores: dict[str, dict[str, TransferScore]] = {}
    skipped: dict[str, str] = {}
    for name, candidate in models.items():
        try:
            features, targets, logits = _candidate(candidate, data, samples, batch_size, progress)
            scores[name] = _scores(features, targets, chosen, names)
            wanted = [method for method in names if method in OF_SOURCE]
            if wanted and logits is None:
                skipped[name] = f"no outputs of a source model, so no {' nor '.join(wanted)}"
            elif logits is not None:
                scores[name] |= _of_outputs(logits, targets, wanted, chosen)
        except FeatgeoError as error:
            raise FeatgeoError(f"models[{name!r}]: {error.argument}", error.found, error.remedy) from error
    return _ranking(scores, names, skipped)


def rank_layers(
    model: nn.Module,
    data: object,
    loss: LossLike = "cross_entropy",
    *,
    methods: str | Sequence[str] = "crossfit",
    layers: Layers = None,
    forward: Forward | None = None,
    samples: int | None = None,
    batch_size: int = 256,
    memory: int = MEMORY,
    progress: bool = False,
) -> Ranking:
    """Score the features that enter each layer of a network, and its outputs, for a task.

    With a label per position every labelled position is a row, of the layers that have these positions; errors count
    them as independent.

    Args:
        model: any module that maps a batch of inputs to outputs (m, d); left exactly as it was found.
        data: a re-iterable of (inputs, targets), or a pair of tensors or arrays.
        loss: of the task, which need not be the one that the network was trained for.
        methods: of :func:`transfer_score`, without "leep" and "nce"; the first ranks.
        layers: as for ``analyze``; all by default.
        forward: called with the model and the inputs of a batch, returns the outputs; as for ``analyze``.
        samples: stop after that many (labelled positions, where there is a label for each).
        batch_size: for a pair.
        memory: bytes of features to hold at a time; where all layers need more, the data are read several times.
        progress: whether to show progress bars.

    Raises:
        FeatgeoError: where model, data and loss do not suit each other.
    """
    names, chosen = _methods(methods), resolve_loss(loss)
    if any(name in OF_SOURCE for name in names):
        raise FeatgeoError("methods", f"{names}", "'leep' and 'nce' compare networks: use rank_models.")
    if not isinstance(model, nn.Module):
        raise FeatgeoError("model", f"a {type(model).__name__}", "Pass a torch.nn.Module.")
    model = unwrapped(model)
    taps, skipped = split_layers(model, layers)
    scores: dict[str, dict[str, TransferScore]] = {}
    groups = _groups(taps, _room(data, samples, memory))
    for group in groups:
        found, targets, why = layer_features(
            model,
            data,
            group,
            forward=forward,
            samples=samples,
            batch_size=batch_size,
            ignore_index=chosen.ignore_index,
            progress=progress,
        )
        skipped |= {name: reason for name, reason in why.items() if name in group}
        last = found.pop(OUTPUT)
        for name in list(found):
            try:
                scores[name] = _scores(found.pop(name), targets, chosen, names)
            except FeatgeoError as error:
                if error.argument != "features":
                    raise
                skipped[name] = f"features with {error.found}"
    scores[OUTPUT] = _scores(last, targets, chosen, names)
    return _ranking(scores, names, skipped)


def _methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    names = (methods,) if isinstance(methods, str) else tuple(methods)
    if not names:
        raise FeatgeoError("methods", "none", "Name one at least.")
    for name in names:
        check_method(name)
    return names


def _scores(
    features: Tensor, targets: Tensor, loss: Loss, methods: Iterable[str]
) -> dict[str, TransferScore]:
    sample = make_sample(features, targets, loss)
    return {method: score_sample(sample, method) for method in methods if method not in OF_SOURCE}


def _of_outputs(
    logits: Tensor, targets: Tensor, methods: Iterable[str], loss: Loss
) -> dict[str, TransferScore]:
    """Scores of what a network says of its own classes; warnings are those of the features' scores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FeatgeoWarning)
        source = logits.softmax(1)
        return {method: transfer_score(None, targets, method, loss=loss, source=source) for method in methods}


def _ranking(
    scores: dict[str, dict[str, TransferScore]], methods: tuple[str, ...], skipped: dict[str, str]
) -> Ranking:
    said: dict[str, list[str]] = {}
    for name, found in scores.items():
        for text in dict.fromkeys(text for score in found.values() for text in score.warnings):
            said.setdefault(text, []).append(name)
    notes = tuple(
        text if len(names) == len(scores) else f"{', '.join(names)}: {text}" for text, names in said.items()
    )
    for text in notes:
        warnings.warn(text, FeatgeoWarning, stacklevel=3)
    return Ranking(scores, methods, skipped, notes)


def _candidate(
    candidate: Candidate, data: object, samples: int | None, batch_size: int, progress: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features, targets, and the network's outputs where it has any."""
    model, layer = candidate if isinstance(candidate, tuple) and len(candidate) == 2 else (candidate, OUTPUT)
    if isinstance(model, nn.Module):
        chosen = [] if layer == OUTPUT else [layer]
        found, targets, why = layer_features(
            model, data, chosen, samples=samples, batch_size=batch_size, progress=progress
        )
        if layer not in found:
            raise FeatgeoError(
                "layer", f"'{layer}', which was skipped ({why.get(layer)})", "Name another layer."
            )
        return found[layer], targets, found[OUTPUT]
    batches = Batches(data, batch_size)
    if callable(candidate):
        with torch.no_grad():
            parts = [(as_rows(candidate(inputs)), targets) for inputs, targets in batches]
        features = torch.cat([rows for rows, _ in parts])
        return features[:samples], torch.cat([targets for _, targets in parts])[:samples], None
    return (
        torch.as_tensor(candidate)[:samples],
        torch.cat([targets for _, targets in batches])[:samples],
        None,
    )


def _groups(taps: Mapping[str, Layer], room: float) -> list[list[str]]:
    """Names of layers whose features, so many numbers a sample, are held at a time; one group at least."""
    groups: list[list[str]] = [[]]
    used = 0
    for name, layer in taps.items():
        width = _width(layer)
        if groups[-1] and used + width > room:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += width
    return groups


def _width(layer: Layer) -> int:
    """Number of features that enter a layer."""
    if isinstance(layer, SPATIAL):
        return layer.in_channels
    return layer.weight.shape[1] if isinstance(layer, nn.Linear | Projection) else layer.weight.shape[0]


def _room(data: object, samples: int | None, memory: int) -> float:
    """Numbers a row for which there is memory; no limit where the number of samples is not known."""
    pair = isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[1], Tensor | np.ndarray)
    known = data[1] if pair else getattr(data, "dataset", ())  # type: ignore[index]
    count = len(known) if hasattr(known, "__len__") else 0
    if count:  # not an iterator, so a batch may be looked at; labels of positions are whole numbers
        with torch.random.fork_rng(devices=[]):  # a loader may draw
            _, targets = next(iter(Batches(data)), (None, torch.zeros(1)))
        count *= 1 if targets.is_floating_point() else targets[:1].numel()
    count = min(count or samples or 0, samples or count)
    return memory / 4 / count if count else math.inf
