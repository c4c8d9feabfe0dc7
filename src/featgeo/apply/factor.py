"""Thin layers: one Linear or convolution as two, and what can be so replaced.

W (n, k) ≈ A B with A (n, r) and B (r, k). A Linear becomes two Linear layers. A convolution becomes one with the same
kernel, stride, padding and dilation to r channels, then one of kernel 1 to n channels. The bias stays on the second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from featgeo.network.features import Layer
from featgeo.network.taps import split_layers

CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {
    1: nn.Conv1d,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


@dataclass(frozen=True)
class Thin:
    """A layer of rank r: z = A (B f) + b. float64 on the CPU.

    Attributes:
        second: A (n, r).
        first: B (r, k).
        bias: b (n,).
    """

    second: Tensor
    first: Tensor
    bias: Tensor

    @property
    def rank(self) -> int:
        """r."""
        return len(self.first)


def thin_cost(layer: Layer, rank: int) -> int:
    """Parameters of the two thin layers at this rank, bias included."""
    outputs, inputs = layer.weight.flatten(1).shape
    return rank * (outputs + inputs) + outputs


def dense_cost(layer: Layer) -> int:
    """Parameters of the layer as it is."""
    return layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())


def largest_rank(layer: Layer) -> int:
    """The largest rank at which two thin layers have fewer parameters than the one; 0 where there is none."""
    outputs, inputs = layer.weight.flatten(1).shape
    return max(0, (dense_cost(layer) - 1 - outputs) // (outputs + inputs))


def thin_layers(layer: Layer, rank: int) -> nn.Sequential:
    """Two layers of this rank in the original's dtype, device and mode, their parameters not set yet.

    The second has a bias also where the layer had none: the mean of what is cut goes there.
    """
    where: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first: nn.Module
    second: nn.Module
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False, **where)
        second = nn.Linear(rank, layer.out_features, **where)
    else:
        kind = CONVOLUTIONS[len(layer.kernel_size)]
        shape: tuple[Any, ...] = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        first = kind(layer.in_channels, rank, *shape, bias=False, padding_mode=layer.padding_mode, **where)
        second = kind(rank, layer.out_channels, 1, **where)
    pair = nn.Sequential(first, second).train(layer.training)
    return pair.requires_grad_(layer.weight.requires_grad)


def filled(layer: Layer, thin: Thin) -> nn.Sequential:
    """The two layers with these factors."""
    pair = thin_layers(layer, thin.rank)
    values = (thin.first, thin.second, thin.bias)
    for parameter, value in zip(pair.parameters(), values, strict=True):
        parameter.data.copy_(value.reshape(parameter.shape))
    return pair


def swap(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one with this name."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def set_dense(layer: Layer, weight: Tensor, bias: Tensor) -> None:
    """Overwrite the layer's weight and, where it has one, its bias."""
    layer.weight.data.copy_(weight.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.data.copy_(bias)


def find_layers(model: nn.Module, only: list[str] | None = None) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers that two thin ones can replace, and why each other layer with parameters cannot be.

    Raises:
        FeatgeoError: for a name that the model has not, or lazy parameters.
    """
    layers, skipped = split_layers(model, only)
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append(f"{name}.{key}" if name else key)
    for name, layer in list(layers.items()):
        reason = ""
        sharing = [
            o for p in layer.parameters(recurse=False) for o in owners[id(p)] if o.rpartition(".")[0] != name
        ]
        if not name:
            reason = "the model is this one layer, and has no place to put two"
        elif (
            parametrize.is_parametrized(layer)
            or layer._forward_pre_hooks
            or "weight" not in layer._parameters
        ):
            reason = "its weight is computed (parametrised, pruned or normalised)"
        elif sharing:
            reason = f"its parameters are shared with {sharing[0]}"
        elif layer._forward_hooks or layer._backward_hooks:
            reason = "it carries hooks of its own"
        elif type(layer).forward not in (
            nn.Linear.forward,
            nn.Conv1d.forward,
            nn.Conv2d.forward,
            nn.Conv3d.forward,
        ):
            reason = f"{type(layer).__name__} has a forward of its own"
        if reason:
            skipped[name] = reason
            del layers[name]
    return layers, skipped


def unplaceable(
    model: nn.Module, layers: dict[str, Layer], run: Callable[[Tensor], Tensor], probe: Tensor
) -> dict[str, str]:
    """Which layers' parents look into them, so that another module in their place breaks the forward pass.

    Args:
        model: in evaluation mode; as it was afterwards.
        layers: the candidates.
        run: the model as a function of inputs.
        probe: some inputs.
    """

    def breaks(names: list[str]) -> bool:
        try:
            for name in names:
                swap(model, name, nn.Sequential(layers[name]))
            run(probe)
        except Exception:  # whatever the parent does with it
            return True
        finally:
            for name in names:
                swap(model, name, layers[name])
        return False

    if not breaks(list(layers)):
        return {}
    return {name: "its parent reads its weights itself" for name in layers if breaks([name])}
