"""A model as a function of the inputs of a batch, whatever it wants to be called with and whatever it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from featgeo.data.inputs import Inputs, moved, sample_count
from featgeo.data.processes import Processes
from featgeo.errors import FeatgeoError
from featgeo.network.attempt import attempt, lacking
from featgeo.network.keep import home_of
from featgeo.network.layout import Layout, those
from featgeo.theory.losses import Loss

MOST = 8192  # outputs: with the targets' statistic their covariance takes 2 GiB, and is decomposed

Forward = Callable[[nn.Module, Inputs], Any]


def call_model(model: nn.Module, inputs: Inputs) -> Any:
    """A mapping is passed by keyword, a tuple by position, a tensor alone."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def logits_of(outputs: Any) -> Any:
    """The tensor in what a model returns: itself, its ``logits``, or the only entry of a tuple."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    if isinstance(outputs, tuple) and len(outputs) == 1:
        return outputs[0]
    logits = getattr(outputs, "logits", None)
    return logits if isinstance(logits, Tensor) else outputs


@dataclass
class Runner:
    """Runs a model on batches, which are brought to its device and, where floating, to its dtype.

    Attributes:
        model: in evaluation mode.
        forward: called with model and inputs.
        device: of the model.
        dtype: of the model.
        layout: how outputs and targets become rows.
        processes: those that run it together, each on its shard of the data.
    """

    model: nn.Module
    forward: Forward
    device: torch.device
    dtype: torch.dtype
    layout: Layout = field(default_factory=Layout)
    processes: Processes = field(default_factory=lambda: Processes(False))

    def __call__(self, inputs: Inputs) -> Any:
        """What the model returns, or the logits in it."""
        return logits_of(self.forward(self.model, moved(inputs, self.device, self.dtype)))

    def rows(self, outputs: Any) -> Tensor:
        """Outputs as rows (r, d)."""
        return self.layout.outputs(outputs)

    def on(self, model: nn.Module) -> Runner:
        """Another model, called in the same way: a copy that was changed."""
        return replace(self, model=model)


def runner_of(model: nn.Module, forward: Forward | None = None, processes: Processes | None = None) -> Runner:
    """The runner of a model, one row per sample."""
    return Runner(model, forward or call_model, *home_of(model), processes=processes or Processes(False))


def raw_outputs(run: Runner, inputs: Inputs, number: int) -> Any:
    """What the model makes of one batch; failures say which."""
    return attempt(
        run,
        inputs,
        f"the forward pass of batch {number}",
        lacking(run.model, inputs)
        or "Check that the data are what the model takes, with one shape in all batches.",
    )


def forward_batch(run: Runner, inputs: Inputs, number: int) -> Tensor:
    """Output rows (r, d) of one batch, in float32 or better; failures say which batch."""
    outputs = run.rows(raw_outputs(run, inputs, number))
    samples = sample_count(inputs)
    if len(outputs) % samples if run.layout.expand else len(outputs) != samples:
        raise FeatgeoError("model", f"{len(outputs)} output rows for {samples} inputs", "One row per sample.")
    return outputs if outputs.dtype in (torch.float32, torch.float64) else outputs.float()


def bounded(outputs: Tensor) -> Tensor:
    """These output rows (r, d), unless there are so many outputs that their covariance is out of reach."""
    if outputs.shape[1] > MOST:
        raise FeatgeoError(
            "model",
            f"{outputs.shape[1]:,} outputs",
            f"At most {MOST:,}: their covariance is decomposed. Merge outputs in forward= (docs/models.md).",
        )
    return outputs


def checked_targets(loss: Loss, targets: Tensor, outputs: Tensor) -> Tensor:
    """Targets as the loss wants them, where the outputs are."""
    return loss.check(targets.to(outputs.device), outputs.shape[1])


def labelled_rows(run: Runner, loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The output rows (r, d) of a batch that count, and their targets as the loss wants them."""
    wanted, kept = run.layout.labelled(outputs, targets)
    rows = those(outputs, kept)
    return rows, checked_targets(loss, wanted, rows)
