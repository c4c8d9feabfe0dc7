"""Leave a model exactly as it was found: modes, hooks, gradients, random state."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn


def home_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating dtype of a model's parameters (those of buffers, or the defaults, where it has none)."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def _uncompiled() -> AbstractContextManager[object]:
    """Inside, what torch.compile has compiled runs as it was written: compiled code does not call every hook."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()  # nothing was compiled, or torch before 2.6
    return torch.compiler.set_stance("force_eager")


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; on leaving, by whatever way, every module's mode and the random state are back."""
    modes = {module: module.training for module in model.modules()}
    device, _ = home_of(model)
    devices = [device] if device.type == "cuda" else []
    fused = torch.backends.mha.get_fastpath_enabled()  # fused attention calls none of its layers
    rng = torch.random.fork_rng(devices=devices)
    with rng, _uncompiled(), torch.inference_mode(False), torch.no_grad():
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            model.eval()
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for module, training in modes.items():
                module.training = training
