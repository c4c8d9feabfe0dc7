"""Find a model's layers, read their inputs during a forward pass, freeze their outputs.

Hooks live inside context managers only, and leave no trace however they are left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from featgeo.errors import FeatgeoError
from featgeo.network.features import LAYERS, Layer, feature_rows

Forward = Callable[[Tensor], Tensor]


def split_layers(model: nn.Module, only: list[str] | None = None) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers that can be analysed by name, and why each other module with parameters of its own can not.

    Raises:
        FeatgeoError: for a name in ``only`` that the model has not.
    """
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
        shape: shape of its output without the batch dimension.
        least: fewest calls in one batch.
        most: most calls in one batch.
        rowwise: whether it always had one feature row per sample.
        is_output: whether its output was always the model's output, entry by entry.
    """

    shape: tuple[int, ...] = ()
    least: int = 1 << 30
    most: int = 0
    rowwise: bool = True
    is_output: bool = True
    _calls: int = 0
    _output: Tensor | None = field(default=None, repr=False)

    def call(self, output: Tensor) -> bool:
        """Note one call; whether it is the first in this batch."""
        self._calls += 1
        self.shape, self._output = tuple(output.shape[1:]), output
        return self._calls == 1

    def close(self, samples: int, rows: int, outputs: Tensor) -> bool:
        """Close a batch; whether the layer had one row per sample in it."""
        self.least, self.most = min(self.least, self._calls), max(self.most, self._calls)
        mine = self._output
        same = mine is not None and (
            mine is outputs or (mine.shape == outputs.shape and torch.equal(mine, outputs))
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


@contextmanager
def reading(
    layers: dict[str, Layer], receive: Callable[[str, Tensor], None], seen: dict[str, Seen]
) -> Iterator[None]:
    """Hand the feature rows of every layer to ``receive`` as they appear, and note what each layer did."""

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if seen[name].call(output):
                receive(name, feature_rows(layers[name], inputs[0]))

        return hook

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(hook_for(name)).remove)
        yield


@contextmanager
def replacing(layer: nn.Module, output: Callable[[tuple[Tensor, ...], Tensor], Tensor]) -> Iterator[None]:
    """Replace a layer's output by a function of its inputs and output."""
    handle = layer.register_forward_hook(lambda _module, inputs, out: output(inputs, out))
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
        shape: of its output, without the batch dimension.
        probe: some input samples (p, ...), p >= 2 for the check.
    """

    def __init__(self, forward: Forward, layer: Layer, shape: tuple[int, ...], probe: Tensor) -> None:
        self.forward, self.layer, self.shape, self.probe = forward, layer, shape, probe
        self.channels_first = not isinstance(layer, nn.Linear)

    def _spread(self, z: Tensor) -> Tensor:
        """z (m, n) at every position of the layer's output (m, *shape)."""
        gaps = (1,) * (len(self.shape) - 1)
        size = len(z), z.shape[1]
        shaped = z.reshape(*size, *gaps) if self.channels_first else z.reshape(size[0], *gaps, size[1])
        return shaped.expand(len(z), *self.shape)

    def _run(self, z: Tensor, inputs: Tensor) -> Tensor:
        def constant(_inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return self._spread(z.to(output)).contiguous()

        with replacing(self.layer, constant):
            return as_rows(self.forward(inputs)).to(z)

    def __call__(self, z: Tensor) -> Tensor:
        """Outputs (m, d) of the actions z (m, n), differentiable in z."""
        return self._run(z, self.probe[:1].expand(len(z), *self.probe.shape[1:]))

    def bypass(self, z: Tensor) -> float:
        """How much the output still varies with the input when the layer is frozen at z (n,), relative to its size.

        About 0 (rounding) where the layer is the only road to the output; NaN with fewer than two probes.
        """
        if len(self.probe) < 2:
            return float("nan")
        outputs = self._run(z.expand(len(self.probe), -1), self.probe)
        scale = outputs.abs().max().clamp_min(1e-30)
        return ((outputs - outputs[:1]).abs().max() / scale).item()
