"""The features before a network's last layer, as batches that can be gone through again.

Where there is a label per position (of a sequence, of an image) every position that has one is a row.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from featgeo.apply.factor import Dense
from featgeo.apply.positions import layout_in, same
from featgeo.data.batches import Batches
from featgeo.errors import FeatgeoError
from featgeo.network.features import position_rows
from featgeo.network.keep import undisturbed
from featgeo.network.layers import CONVOLUTIONS, groups_of
from featgeo.network.layout import those
from featgeo.network.run import Forward, Runner, forward_batch, runner_of
from featgeo.network.select import split_layers
from featgeo.network.taps import tapping
from featgeo.network.together import unwrapped
from featgeo.show.digest import because

REMEDY = (
    "It must end in a linear layer (or a convolution) with a row per sample or per labelled position, which gives the "
    "logits: no softmax after it."
)


class _Ends:
    """Which layers' calls in one forward pass end in the model's output."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[Tensor, Tensor, int]]] = {}

    def note(self, name: str, x: Tensor, output: Tensor | None) -> None:
        """Keep a call."""
        assert output is not None
        self.calls.setdefault(name, []).append((x, output, output._version))

    def features(self, name: str, layer: Dense, outputs: Tensor) -> Tensor | None:
        """Features (r, k) of a layer whose only call gave the output rows (r, d), unchanged since; else None."""
        calls = self.calls.get(name, [])
        if len(calls) != 1:
            return None
        x, made, version = calls[0]
        if made._version != version or not same(layer, made, outputs):
            return None
        return x.detach() if x.ndim == 2 else position_rows(layer, x.detach(), made).flatten(0, 1)


def _last(model: nn.Module) -> tuple[dict[str, Dense], dict[str, str]]:
    """The layers that may be the last, and why others are none."""
    found, skipped = split_layers(model)
    plain = {
        name: layer
        for name, layer in found.items()
        if isinstance(layer, nn.Linear) or (isinstance(layer, CONVOLUTIONS) and groups_of(layer) == 1)
    }
    return plain, skipped


class ModelFeatures:
    """Re-iterable batches (features, targets): every pass runs the model in evaluation mode.

    Args:
        run: the model, which is left as it was found after every batch.
        data: the batches of inputs.
        name: of the last layer.
        layer: it.
    """

    def __init__(self, run: Runner, data: Batches, name: str, layer: Dense) -> None:
        self._run, self._data, self.name, self.layer = run, data, name, layer

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        run = self._run
        for number, (inputs, targets) in enumerate(self._data):
            ends = _Ends()
            with undisturbed(run.model), tapping({self.name: self.layer}, ends.note):
                outputs = forward_batch(run, inputs, number)
                x = ends.features(self.name, self.layer, outputs)
            if x is None:
                raise FeatgeoError("layer", f"'{self.name}', whose output is not the model's", REMEDY)
            rows, kept = run.layout.labelled(outputs, targets)
            yield those(x, kept), rows.to(x.device)


def model_features(
    model: nn.Module,
    data: object,
    name: str | None,
    ignored: int | None = None,
    forward: Forward | None = None,
) -> ModelFeatures:
    """The features before a model's last layer.

    Args:
        model: any module that ends in a linear layer, or in a convolution with a label per position.
        data: batches (inputs, targets), or a pair of tensors.
        name: of the layer; found by one batch where None.
        ignored: the label of rows that do not count.
        forward: called with the model and the inputs of a batch, returns the outputs.

    Raises:
        FeatgeoError: where there are no data or no such layer.
    """
    if data is None:
        raise FeatgeoError("targets", "no data beside a model", "Pass (model, loader, loss).")
    batches, model = data if isinstance(data, Batches) else Batches(data), unwrapped(model)
    layers, skipped = _last(model)
    if name is not None and name not in layers:
        raise FeatgeoError("layer", f"{name!r}", f"Linear layers: {', '.join(layers) or 'none'}.")
    if batches.once and name is None:
        raise FeatgeoError("data", "an iterator", "Pass a re-iterable, or name the layer.")
    first = batches.peek()
    if first is None:
        raise FeatgeoError("data", "no samples", "Pass at least one non-empty batch.")
    run, ends = runner_of(model, forward), _Ends()
    with undisturbed(model):
        run.layout = layout_in(run, layers, batches, ignored)
        if name is not None:
            return ModelFeatures(run, batches, name, layers[name])
        with tapping(layers, ends.note):
            outputs = forward_batch(run, first[0], 0)
    last = [found for found, layer in layers.items() if ends.features(found, layer, outputs) is not None]
    if not last:
        why = f" (skipped: {because(skipped)})" if skipped else ""
        raise FeatgeoError("model", f"no linear layer whose output is the model's{why}", REMEDY)
    return ModelFeatures(run, batches, last[-1], layers[last[-1]])
