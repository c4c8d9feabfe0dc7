"""Tracker: analyse a network every so many steps of its training, within a budget of time."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from featgeo.errors import FeatgeoError, FeatgeoWarning
from featgeo.network.analyze import analyze
from featgeo.network.keep import home_of
from featgeo.network.report import Report
from featgeo.network.tracking.budget import Cost, Meter
from featgeo.network.tracking.callbacks import hugging_face_callback, lightning_callback
from featgeo.network.tracking.history import History, Snapshot
from featgeo.network.tracking.samples import same_randomness, take
from featgeo.theory.named import LossLike, resolve_loss

if TYPE_CHECKING:
    import pandas as pd

    from featgeo.show.style import Drawing

SCALARS = ("alignment", "locality", "gain_used", "gain_available")  # per layer, for a writer


class Writer(Protocol):
    """What TensorBoard's SummaryWriter is used for."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Record one number."""


class Tracker:
    """Analyses a network while it trains, and leaves the training as it would have been, bit for bit.

    Random states (Python, numpy, torch, a loader's generators), the model's modes, gradients and buffers are what they
    were after each call. An analysis that fails does not stop the training: it is recorded in ``history.failures`` and
    warned about once.

    The samples are taken once, when the tracker is made: only the network changes from one analysis to the next.

    Args:
        model: the network under training; the very object, not a copy.
        data: a re-iterable of (inputs, targets), or a pair of tensors; the training's own loader may be passed.
        loss: as for :func:`analyze`.
        every: fewest steps from one analysis to the next.
        budget: most seconds of analysis per second of training. An analysis that is due and does not fit is put off
            until it does; the first one, of whose cost nothing is known, is made when due and paid for afterwards.
        samples: most samples to look at: of a loader the first, of a pair random ones.
        writer: a ``torch.utils.tensorboard.SummaryWriter`` (anything with ``add_scalar``).
        seed: of the choice of samples.
        **options: passed on to :func:`analyze`: ``weight_decay``, ``layers``, ``at`` and so on.

    Attributes:
        history: what was seen.

    Raises:
        FeatgeoError: for arguments that cannot be.
    """

    def __init__(
        self,
        model: nn.Module,
        data: object,
        loss: LossLike = "cross_entropy",
        *,
        every: int = 100,
        budget: float = 0.05,
        samples: int = 4096,
        writer: Writer | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise FeatgeoError("model", f"a {type(model).__name__}", "Pass a torch.nn.Module.")
        if every < 1 or samples < 1:
            name, value = ("every", every) if every < 1 else ("samples", samples)
            raise FeatgeoError(name, f"{value}", "It must be at least 1.")
        if not 0 < budget < float("inf"):
            raise FeatgeoError("budget", f"{budget}", "Pass a positive fraction, such as 0.05.")
        if writer is not None and not hasattr(writer, "add_scalar"):
            raise FeatgeoError("writer", f"a {type(writer).__name__}", "Pass something with add_scalar.")
        self.model, self.loss, self.every, self.writer = model, resolve_loss(loss), every, writer
        self.options = options
        self.history = History()
        self._data = take(data, samples, seed)
        self._meter = Meter(budget)
        self._step = 0
        self._last = 0
        self._warned: set[str] = set()

    def step(self, number: int | None = None) -> Report | None:
        """Note that a training step is done, and analyse where an analysis is due and fits the budget.

        Args:
            number: of steps done; counted where not given.

        Returns:
            The report where there was an analysis.
        """
        self._step = self._step + 1 if number is None else number
        self._meter.tick()
        if self._step - self._last < self.every or not self._agreed(self._meter.fits()):
            return None
        return self.analyze()

    def analyze(self) -> Report | None:
        """Analyse now, whatever the budget; the cost counts. None where it fails, which is recorded and warned of."""
        self._last = self._step
        report: Report | None = None
        with self._meter.spending():
            try:
                with same_randomness(), warnings.catch_warnings():
                    self._finish_queued()
                    warnings.simplefilter("ignore", FeatgeoWarning)  # the report carries them
                    report = analyze(self.model, self._data, self.loss, **self.options)
                    report = Report.from_dict(
                        report.to_dict()
                    )  # without the optimal weights, which are large
            except Exception as error:
                self._note(f"{type(error).__name__}: {error}")
        if report is not None:
            cost = self.cost
            self.history.snapshots.append(
                Snapshot(self._step, report, self._meter.costs[-1], cost.training_seconds)
            )
            self._write(report, cost)
        return report

    @property
    def cost(self) -> Cost:
        """What tracking has cost until the last step."""
        return self._meter.read()

    def to_frame(self, at: str | None = None) -> pd.DataFrame:
        """One row per step and layer; see :meth:`History.to_frame`."""
        return self.history.to_frame(at)

    def plot(self, at: str | None = None) -> Drawing:
        """Alignment, gain and loss over steps; see :meth:`History.plot`."""
        return self.history.plot(at)

    def save(self, path: str | Path) -> None:
        """Write the history, which :meth:`History.load` reads."""
        self.history.save(path)

    def lightning(self) -> Any:
        """A Lightning callback that steps this tracker after every batch (needs the package ``lightning``)."""
        return lightning_callback(self)

    def hugging_face(self) -> Any:
        """A Hugging Face Trainer callback that steps this tracker (needs the package ``transformers``)."""
        return hugging_face_callback(self)

    def _finish_queued(self) -> None:
        """Let the device finish what training has queued: it is not the analysis that costs it."""
        device, _ = home_of(self.model)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def _agreed(self, mine: bool) -> bool:
        """The first process's answer: where several analyse together, all do or none."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return mine
        answer = torch.tensor([int(mine)], device=home_of(self.model)[0])
        torch.distributed.broadcast(answer, src=0)
        return bool(answer.item())

    def _note(self, message: str) -> None:
        self.history.failures.append((self._step, message))
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(
                f"tracker: the analysis at step {self._step} failed ({message}); training goes on.",
                FeatgeoWarning,
                stacklevel=4,
            )

    def _write(self, report: Report, cost: Cost) -> None:
        if self.writer is None:
            return
        scalars = {"loss": report.loss_value, "cost": cost.share}
        for layer in report.analysed:
            scalars |= {f"{name}/{layer.name or 'model'}": getattr(layer, name) for name in SCALARS}
        try:
            for tag, value in scalars.items():
                if value == value:  # NaN where a number does not exist
                    self.writer.add_scalar(f"featgeo/{tag}", value, self._step)
        except Exception as error:
            self._note(f"{type(error).__name__} from the writer: {error}")
