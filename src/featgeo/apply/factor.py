"""Thin layers: one Linear or convolution as two, and what can be so replaced.

W (n, k) ≈ A B with A (n, r) and B (r, k). A Linear becomes two Linear layers. A convolution becomes one with the same
kernel, stride, padding and dilation to r channels, then one of kernel 1 to n channels. The bias stays on the second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from featgeo.data.inputs import Inputs
from featgeo.network.layers import CONVOLUTIONS, Convolution, Layer, Projection, groups_of
from featgeo.network.select import Layers, kind_of, split_layers

Dense = nn.Linear | Convolution


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


def thin_cost(layer: Dense, rank: int) -> int:
    """Parameters of the two thin layers at this rank, bias included."""
    outputs, inputs = layer.weight.flatten(1).shape
    return rank * (outputs + inputs) + outputs


def dense_cost(layer: Dense) -> int:
    """Parameters of the layer as it is."""
    return layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())


def largest_rank(layer: Dense) -> int:
    """The largest rank at which two thin layers have fewer parameters than the one; 0 where there is none."""
    outputs, inputs = layer.weight.flatten(1).shape
    return max(0, (dense_cost(layer) - 1 - outputs) // (outputs + inputs))


def thin_layers(layer: Dense, rank: int) -> nn.Sequential:
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
        kind: Callable[..., nn.Module] = CONVOLUTIONS[len(layer.kernel_size) - 1]
        shape: tuple[Any, ...] = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        first = kind(layer.in_channels, rank, *shape, bias=False, padding_mode=layer.padding_mode, **where)
        second = kind(rank, layer.out_channels, 1, **where)
    pair = nn.Sequential(first, second).train(layer.training)
    return pair.requires_grad_(layer.weight.requires_grad)


def filled(layer: Dense, thin: Thin) -> nn.Sequential:
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


def set_dense(layer: Dense, weight: Tensor, bias: Tensor) -> None:
    """Overwrite the layer's weight and, where it has one, its bias."""
    layer.weight.data.copy_(weight.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.data.copy_(bias)


def find_layers(model: nn.Module, only: Layers = None) -> tuple[dict[str, Dense], dict[str, str]]:
    """The layers that two thin ones can replace, and why each other layer with parameters cannot be.

    Raises:
        FeatgeoError: for a pattern that fits nothing in the model, or lazy parameters.
    """
    found, skipped = split_layers(model, only)
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owners.setdefault(id(parameter), []).append(f"{name}.{key}" if name else key)
    layers: dict[str, Dense] = {}
    for name, layer in found.items():
        if reason := _obstacle(name, layer, owners):
            skipped[name] = reason
        else:
            layers[name] = layer  # type: ignore[assignment]
    return layers, skipped


def _obstacle(name: str, layer: Layer, owners: dict[int, list[str]]) -> str:
    """Why two thin layers cannot stand in for this one, empty where they can."""
    kind = kind_of(layer)
    if isinstance(layer, Projection):
        return f"{kind} computes it in one call with its other projections"
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return f"{kind} is neither a Linear layer nor a convolution"
    if groups_of(layer) != 1:
        return f"grouped convolution ({groups_of(layer)} groups)"
    if not name:
        return "the model is this one layer, and has no place to put two"
    if is_parametrized(layer) or layer._forward_pre_hooks or "weight" not in layer._parameters:
        return "its weight is computed (parametrised, pruned or normalised)"
    users = [user for parameter in layer.parameters(recurse=False) for user in owners[id(parameter)]]
    others = [user for user in users if user.rpartition(".")[0] != name]
    if others:
        return f"its parameters are shared with {others[0]}"
    if layer._forward_hooks or layer._backward_hooks:
        return "it carries hooks of its own"
    if type(layer).forward not in [kind.forward for kind in (nn.Linear, *CONVOLUTIONS)]:
        return f"{kind} has a forward of its own"
    return ""


def unplaceable(
    model: nn.Module, layers: dict[str, Dense], run: Callable[[Inputs], Any], probe: Inputs
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
