"""Find a model's layers, read their inputs during a forward pass, freeze their outputs.

Hooks live inside context managers only, and leave no trace however they are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from featgeo.errors import FeatgeoError
from featgeo.network.features import LAYERS, Layer, feature_rows

Forward = Callable[[Tensor], Tensor]


def split_layers(model: nn.Module, only: list[str] | None = None) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers that can be analysed by name, and why each other module with parameters of its own can not.

    Raises:
        FeatgeoError: for a name in ``only`` that the model has not, or parameters that have no shape yet.
    """
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise FeatgeoError(
            "model", "lazy layers whose shape is not known yet", "Run it once on a batch of inputs."
        )
    modules = dict(model.named_modules())
    unknown = [name for name in only or [] if name not in modules]
    if unknown:
        raise FeatgeoError(
            "layers", f"the name {unknown[0]!r}", f"Known modules: {', '.join(filter(None, modules))}."
        )
    layers: dict[str, Layer] = {}
    skipped: dict[str, str] = {}
    for name, module in modules.items():
        own = any(True for _ in module.parameters(recurse=False)) or hasattr(module, "parametrizations")
        if not own or (only is not None and name not in only):
            continue
        if not isinstance(module, LAYERS):
            skipped[name] = (
                f"{type(module).__name__} has no weight matrix between features and a pre-activation"
            )
        elif getattr(module, "groups", 1) != 1:
            skipped[name] = f"grouped convolution ({module.groups} groups)"
        else:
            layers[name] = module
    return layers, skipped


def weight_matrix(layer: Layer) -> tuple[Tensor, Tensor]:
    """W (n, k) and b (n,) in float64 on the CPU; b is zero where the layer has none."""
    weight = layer.weight.detach().to("cpu", torch.float64).flatten(1)
    bias = (
        weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to("cpu", torch.float64)
    )
    return weight, bias


def as_rows(outputs: object) -> Tensor:
    """A model's output as (m, d).

    Raises:
        FeatgeoError: where it is not a tensor with one row per sample.
    """
    if not isinstance(outputs, Tensor) or outputs.ndim == 0:
        raise FeatgeoError(
            "model", f"an output of type {type(outputs).__name__}", "It must return a tensor (m, d)."
        )
    return outputs[:, None] if outputs.ndim == 1 else outputs.flatten(1)


@dataclass
class Seen:
    """What the forward passes showed of a layer.

    Attributes:
        least: fewest calls in one batch.
        most: most calls in one batch.
        rowwise: whether it always had one feature row per sample.
        is_output: whether its output was always the model's output, entry by entry.
    """

    least: int = 1 << 30
    most: int = 0
    rowwise: bool = True
    is_output: bool = True
    _calls: int = 0
    _output: Tensor | None = field(default=None, repr=False)
    _version: int = 0

    def call(self, output: Tensor) -> bool:
        """Note one call; whether it is the first in this batch."""
        self._calls += 1
        self._output, self._version = output, output._version
        return self._calls == 1

    def close(self, samples: int, rows: int, outputs: Tensor) -> bool:
        """Close a batch; whether the layer had one row per sample in it."""
        self.least, self.most = min(self.least, self._calls), max(self.most, self._calls)
        mine = self._output
        same = (
            mine is not None
            and mine._version == self._version  # else it was changed in place after the layer made it
            and (mine is outputs or (mine.shape == outputs.shape and torch.equal(mine, outputs)))
        )
        self.is_output &= same
        self.rowwise &= rows == samples
        self._calls, self._output = 0, None
        return rows == samples

    @property
    def obstacle(self) -> str:
        """Why the layer cannot be analysed, empty where it can."""
        if self.most == 0:
            return "never called in the forward pass"
        if self.most > 1:
            return f"called {self.most} times in one forward pass (shared)"
        if self.least == 0:
            return "called for some batches only"
        return "" if self.rowwise else "its input has not one row per sample"


def _input_of(arguments: tuple[Tensor, ...], keywords: dict[str, Tensor]) -> Tensor:
    """What a layer was called with, by position or by keyword."""
    return arguments[0] if arguments else keywords["input"]


@contextmanager
def reading(
    layers: dict[str, Layer], receive: Callable[[str, Tensor], None], seen: dict[str, Seen]
) -> Iterator[None]:
    """Hand the feature rows of every layer to ``receive`` as they appear, and note what each layer did."""

    def hook_for(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, arguments: Any, keywords: dict[str, Any], output: Tensor) -> None:
            if seen[name].call(output):
                receive(name, feature_rows(layers[name], _input_of(arguments, keywords)))

        return hook

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(hook_for(name), with_kwargs=True).remove)
        yield


@contextmanager
def replacing(layer: nn.Module, output: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Replace a layer's output by a function of its input and output."""

    def hook(_module: nn.Module, arguments: Any, keywords: dict[str, Any], made: Tensor) -> Tensor:
        return output(_input_of(arguments, keywords), made)

    handle = layer.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class FrozenTail:
    """Everything after a layer as a function of one action: z (m, n) -> outputs (m, d).

    The layer's output is replaced by z at every position while the model runs on copies of one probe sample; that the
    choice of sample does not matter is what :meth:`bypass` checks.

    Args:
        forward: runs the model on a batch of inputs.
        layer: the layer.
        probe: some input samples (p, ...), p >= 2 for the check.
    """

    def __init__(self, forward: Forward, layer: Layer, probe: Tensor) -> None:
        self.forward, self.layer, self.probe = forward, layer, probe
        self.channels_first = not isinstance(layer, nn.Linear)

    def _spread(self, z: Tensor, output: Tensor) -> Tensor:
        """z (m, n) at every position of the layer's output (m, ...), a tensor of its own: tails may work in place."""
        gaps = (1,) * (output.ndim - 2)
        shape = (*z.shape, *gaps) if self.channels_first else (len(z), *gaps, z.shape[1])
        return z.to(output).reshape(shape).expand(output.shape).clone(memory_format=torch.contiguous_format)

    def _run(self, z: Tensor, inputs: Tensor) -> Tensor:
        def constant(_input: Tensor, output: Tensor) -> Tensor:
            return self._spread(z, output)

        with replacing(self.layer, constant):
            return as_rows(self.forward(inputs)).to(z)

    def __call__(self, z: Tensor) -> Tensor:
        """Outputs (m, d) of the actions z (m, n), differentiable in z."""
        return self._run(z, self.probe[:1].expand(len(z), *self.probe.shape[1:]))

    def bypass(self, z: Tensor) -> float:
        """How much the output varies with the input when the layer is frozen at z (n,), relative to when it is not.

        0 where the layer is the only road to the output, rounding aside; NaN with fewer than two probes.
        """
        if len(self.probe) < 2:
            return float("nan")
        free, frozen = (
            as_rows(outputs).to(z)
            for outputs in (self.forward(self.probe), self._run(z.expand(len(self.probe), -1), self.probe))
        )
        rounding = 4 * torch.finfo(self.layer.weight.dtype).eps * frozen.abs().max()
        usual = (free - free[:1]).abs().max().clamp_min(1e-30)
        return (((frozen - frozen[:1]).abs().max() - rounding).clamp_min(0) / usual).item()
