"""One model in several processes: out of its wrapper, checked to be the same, with one set of running statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from featgeo.data.processes import Processes
from featgeo.errors import FeatgeoError

CLOSE = 1e-9  # relative difference of sums that is rounding: processes may run on different devices

Print = list[tuple[str, tuple[int, ...], float]]


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in torch.compile, nn.DataParallel or DistributedDataParallel.

    The forward of the last would wait for the other processes.

    Raises:
        FeatgeoError: where parameters are spread over processes, so that no process has a layer's weights, or have no
            values at all.
    """
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, nn.DataParallel | DistributedDataParallel):
        model = model.module
    for name, tensor in model.named_parameters():
        if hasattr(tensor, "full_tensor") or "_flat_param" in name:
            raise FeatgeoError(
                "model",
                f"the parameter {name!r} spread over processes (FSDP or tensor parallel)",
                "Gather the parameters first and analyse the whole model.",
            )
    for name, held in (*model.named_parameters(), *model.named_buffers()):
        if held.device.type == "meta":
            raise FeatgeoError(
                "model",
                f"{name!r} on the meta device, where tensors have shapes and no values",
                "Load its weights: model.to_empty(device='cpu'), then model.load_state_dict(...); or build it without "
                "torch.device('meta').",
            )
    return model


def _fingerprint(named: Iterator[tuple[str, Tensor]]) -> Print:
    """Names, shapes and sums."""
    tensors = list(named)
    sums = [tensor.detach().to(torch.float64).sum() for _, tensor in tensors]
    values = torch.stack(sums).tolist() if sums else []
    return [(name, tuple(tensor.shape), value) for (name, tensor), value in zip(tensors, values, strict=True)]


def _difference(one: Print, other: Print) -> str:
    """The first name at which two fingerprints differ, empty where none does."""
    for (name, shape, value), (found, size, number) in zip(one, other, strict=False):
        if (name, shape) != (found, size) or not (
            math.isclose(value, number, rel_tol=CLOSE) or value != value or number != number
        ):
            return name
    return "" if len(one) == len(other) else "a parameter"


@contextmanager
def one_model(model: nn.Module, together: Processes, options: tuple[object, ...]) -> Iterator[None]:
    """Inside, the model is the same in all processes; buffers are the first's, and each process's own afterwards.

    Parameters have to agree. Running statistics of batch normalisation usually do not after training with
    DistributedDataParallel, which takes the first process's for the model's; so it is done here.

    Args:
        model: the model.
        together: the processes.
        options: of the call, which have to agree as well.

    Raises:
        FeatgeoError: where models or options differ.
    """
    if together.size == 1:
        yield
        return
    given = (repr(options), _fingerprint(model.named_parameters()), _fingerprint(model.named_buffers()))
    told = together.gather(given)
    for rank, (asked, parameters, _) in enumerate(told):
        if asked != told[0][0]:
            raise FeatgeoError(
                "group", f"other options in process {rank}", "Call analyze alike in all processes."
            )
        name = _difference(told[0][1], parameters)
        if name:
            raise FeatgeoError(
                "model",
                f"other values of {name!r} in process {rank}",
                "Pass the same model in all processes.",
            )
    buffers = list(model.buffers()) if any(_difference(told[0][2], part[2]) for part in told) else []
    saved = [buffer.clone() for buffer in buffers]
    try:
        for buffer in buffers:
            together.spread(buffer)
        yield
    finally:
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.copy_(value)
