"""The features before a network's last layer, as batches that can be gone through again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from featgeo.data.batches import Batches
from featgeo.errors import FeatgeoError
from featgeo.network.keep import undisturbed
from featgeo.network.run import forward_batch, runner_of
from featgeo.network.select import split_layers
from featgeo.network.taps import tapping

REMEDY = "It must end in a linear layer with one row per sample, which gives the logits: no softmax after it."


class _Ends:
    """Which layers' calls in one forward pass end in the model's output."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[Tensor, Tensor, int]]] = {}

    def note(self, name: str, x: Tensor, output: Tensor | None) -> None:
        """Keep a call."""
        assert output is not None
        self.calls.setdefault(name, []).append((x, output, output._version))

    def features(self, name: str, outputs: Tensor) -> Tensor | None:
        """The input of a layer whose only call gave the outputs, unchanged since; else None."""
        calls = self.calls.get(name, [])
        if len(calls) != 1:
            return None
        x, made, version = calls[0]
        alike = made.ndim == 2 and made.shape == outputs.shape and made._version == version
        if not alike or not torch.allclose(made.to(outputs.dtype), outputs, 0.0, 0.0, equal_nan=True):
            return None
        return x.detach()


def _linear(model: nn.Module) -> dict[str, nn.Linear]:
    return {n: m for n, m in split_layers(model)[0].items() if isinstance(m, nn.Linear)}


class ModelFeatures:
    """Re-iterable batches (features, targets): every pass runs the model in evaluation mode.

    Args:
        model: left as it was found after every batch.
        data: the batches of inputs.
        name: of the last layer.
        layer: it.
    """

    def __init__(self, model: nn.Module, data: Batches, name: str, layer: nn.Linear) -> None:
        self._model, self._data, self.name, self.layer = model, data, name, layer

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        run = runner_of(self._model)
        for number, (inputs, targets) in enumerate(self._data):
            ends = _Ends()
            with undisturbed(self._model), tapping({self.name: self.layer}, ends.note):
                outputs = forward_batch(run, inputs, number)
            x = ends.features(self.name, outputs)
            if x is None:
                raise FeatgeoError("layer", f"'{self.name}', whose output is not the model's", REMEDY)
            yield x, targets.to(x.device)


def model_features(model: nn.Module, data: object, name: str | None) -> ModelFeatures:
    """The features before a model's last layer.

    Args:
        model: any module that ends in a linear layer.
        data: batches (inputs, targets), or a pair of tensors.
        name: of the layer; found by one batch where None.

    Raises:
        FeatgeoError: where there are no data or no such layer.
    """
    if data is None:
        raise FeatgeoError("targets", "no data beside a model", "Pass (model, loader, loss).")
    batches = data if isinstance(data, Batches) else Batches(data)
    layers = _linear(model)
    if name is not None:
        if name not in layers:
            raise FeatgeoError("layer", f"{name!r}", f"Linear layers: {', '.join(layers) or 'none'}.")
        return ModelFeatures(model, batches, name, layers[name])
    if batches.once:
        raise FeatgeoError("data", "an iterator", "Pass a re-iterable, or name the layer.")
    ends = _Ends()
    for inputs, _ in batches:
        with undisturbed(model), tapping(layers, ends.note):
            outputs = forward_batch(runner_of(model), inputs, 0)
        break
    last = [found for found in layers if ends.features(found, outputs) is not None]
    if not last:
        raise FeatgeoError("model", "no linear layer whose output is the model's", REMEDY)
    return ModelFeatures(model, batches, last[-1], layers[last[-1]])
