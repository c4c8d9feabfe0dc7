"""Leave a model exactly as it was found: modes, hooks, gradients, buffers, random state."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn


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


class _Buffers:
    """The buffers of a model, with what was in them: its own forward may write to them, or put others in their place.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = {module: dict(module._buffers) for module in model.modules() if module._buffers}
        self._values = {
            buffer: (buffer.detach().clone(), None if buffer.is_inference() else buffer._version)
            for buffers in self._places.values()
            for buffer in buffers.values()
            if isinstance(buffer, Tensor) and buffer.device.type != "meta"
        }

    def restore(self) -> None:
        """Put back every buffer that was written to, and cut it off from any graph."""
        for module, buffers in self._places.items():
            for name, buffer in buffers.items():
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer
        for buffer, (value, version) in self._values.items():
            if version is not None and buffer._version != version:
                if buffer.grad_fn is not None:
                    buffer.detach_()
                with torch.no_grad():
                    buffer.copy_(value)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; on leaving, by whatever way, all modes, buffers and the random state are back."""
    modes = {module: module.training for module in model.modules()}
    buffers = _Buffers(model)
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
            buffers.restore()
            for module, training in modes.items():
                module.training = training
