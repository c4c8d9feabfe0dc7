"""Which layers of a model are analysed: all that can be, or those that names, patterns, types or predicates choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from featgeo.errors import FeatgeoError
from featgeo.network.layers import Layer, Part, Projection, features_of, is_layer

Predicate = Callable[[str, nn.Module], bool]
Pattern = str | type | Predicate
Layers = Pattern | Sequence[Pattern] | None
PARTS: tuple[Part, ...] = ("q", "k", "v", "out")
FUSED = (nn.RNNBase, nn.RNNCellBase)
WIDEST = 16_384  # most features of a layer that nobody asked for: their covariance takes 2 GiB


def kind_of(module: nn.Module | Projection) -> str:
    """Class name of a module, without what a parametrisation adds to it."""
    if isinstance(module, Projection):
        return "MultiheadAttention"
    found = type_before_parametrizations(module) if is_parametrized(module) else type(module)
    return "Linear" if found.__name__ == "NonDynamicallyQuantizableLinear" else found.__name__


def modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module | Projection]]:
    """Named modules, each attention module followed by its projections, without the insides of parametrisations."""
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in inside or "parametrizations" in name.split("."):
            continue
        yield name, module
        if isinstance(module, nn.MultiheadAttention):
            inside.add(module.out_proj)
            for part in PARTS:
                yield f"{name}.{part}_proj".lstrip("."), Projection(module, part)


def split_layers(model: nn.Module, only: Layers = None) -> tuple[dict[str, Layer], dict[str, str]]:
    """The layers that can be analysed by name, and why each other module with parameters of its own can not.

    Args:
        model: the model.
        only: a name, a pattern with ``*`` and ``?``, a class of modules, a function of name and module, or a sequence
            of these; everything by default.

    Raises:
        FeatgeoError: for a pattern that fits nothing in the model, or parameters that have no shape yet.
    """
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise FeatgeoError(
            "model", "lazy layers whose shape is not known yet", "Run it once on a batch of inputs."
        )
    found = dict(modules_of(model))
    chosen = _chosen(found, only)
    layers: dict[str, Layer] = {}
    skipped: dict[str, str] = {}
    for name, module in found.items():
        if name not in chosen:
            continue
        if isinstance(module, Projection):
            layers[name] = module
        elif any(part.is_complex() for part in module.parameters()) and is_layer(module):
            skipped[name] = "its weights are complex numbers; there is theory for real ones only"
        elif is_layer(module):
            width = features_of(module)
            if only is None and width > WIDEST:
                skipped[name] = (
                    f"{width:,} features, whose covariance takes {8 * width**2 / 2**30:.0f} GiB; name it in layers= "
                    "to have it analysed all the same"
                )
            else:
                layers[name] = module
        elif _has_own(module) or _quantised(module):
            skipped[name] = _why_not(module)
    return layers, skipped


def _quantised(module: nn.Module) -> bool:
    """Whether a module holds its weights as whole numbers, which torch does not count as parameters."""
    return ".nn.quantized" in type(module).__module__ and callable(getattr(module, "weight", None))


def _has_own(module: nn.Module) -> bool:
    """Whether a module has parameters that none of its children, nor a projection, accounts for."""
    own = any(True for _ in module.parameters(recurse=False)) or is_parametrized(module)
    return own and not isinstance(module, nn.MultiheadAttention)


def _why_not(module: nn.Module) -> str:
    kind = kind_of(module)
    if isinstance(module, FUSED):
        return (
            f"{kind} computes its gates in one fused call, in which no pre-activation can be read or replaced; "
            "write the cell with Linear layers to have them analysed"
        )
    if _quantised(module):
        return f"{kind} is quantised: its weights are whole numbers; pass the model as it was before quantize_dynamic"
    if isinstance(module, torch.jit.ScriptModule):
        return "torch.jit has compiled it; pass the module that it was made from"
    return f"{kind} has no weight matrix between features and a pre-activation"


def _chosen(found: dict[str, nn.Module | Projection], only: Layers) -> set[str]:
    """Names that at least one pattern fits."""
    if only is None:
        return set(found)
    patterns = list(only) if isinstance(only, Sequence) and not isinstance(only, str) else [only]
    names: set[str] = set()
    for pattern in patterns:
        fitting = {name for name, module in found.items() if _fits(pattern, name, module)}
        if not fitting:
            shown = repr(pattern) if isinstance(pattern, str) else getattr(pattern, "__name__", repr(pattern))
            what = (
                f"the name {shown}"
                if isinstance(pattern, str) and "*" not in pattern
                else f"{shown}, which fits none"
            )
            raise FeatgeoError("layers", what, f"Known modules: {', '.join(filter(None, found))}.")
        names |= fitting
    return names


def _fits(pattern: object, name: str, module: nn.Module | Projection) -> bool:
    if isinstance(pattern, str):
        parent = name.rpartition(".")[0] if isinstance(module, Projection) else name
        return pattern in (name, parent) or fnmatchcase(name, pattern)
    inner = module.attention if isinstance(module, Projection) else module
    if isinstance(pattern, type):
        return isinstance(inner, pattern)
    if callable(pattern):
        return bool(pattern(name, inner))
    raise FeatgeoError(
        "layers",
        f"a {type(pattern).__name__}",
        "Pass names, patterns with * and ?, module classes or predicates.",
    )
