"""A user's model from the command line: ``package.module:factory`` and a file of weights."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from featgeo.errors import FeatgeoError


def load_model(spec: str, weights: Path | None = None) -> nn.Module:
    """The model that ``package.module:factory`` names: a module, or a function without arguments that makes one.

    Args:
        spec: import path, a colon, and the name in the module.
        weights: a .safetensors file, or a state dict saved by torch (read with ``weights_only=True``).

    Raises:
        FeatgeoError: where it cannot be imported or called, is no module, or the weights do not fit.
    """
    path, colon, name = spec.partition(":")
    if not colon or not path or not name:
        raise FeatgeoError("model", f"{spec!r}", "Write package.module:factory.")
    try:
        found = importlib.import_module(path)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module of the user's may fail in any way
        raise FeatgeoError(
            "model", f"{spec!r}, which cannot be imported ({error})", "Check module and name."
        ) from error
    try:
        model = found() if callable(found) and not isinstance(found, nn.Module) else found
    except Exception as error:
        raise FeatgeoError(
            "model", f"{type(error).__name__} raised by {spec}: {error}", "Mend the factory."
        ) from error
    if not isinstance(model, nn.Module):
        raise FeatgeoError(
            "model", f"a {type(model).__name__} from {spec}", "It must be or return a torch.nn.Module."
        )
    if weights is not None:
        _load_weights(model, weights)
    return model


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise FeatgeoError("weights", f"no file {path}", "Check the path.")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        TypeError,
        AttributeError,
        EOFError,
    ) as error:
        raise FeatgeoError(
            "weights",
            f"{path}, which does not load: {error}",
            "Pass a safetensors file or a plain state dict.",
        ) from error
