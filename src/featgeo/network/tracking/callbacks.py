"""The tracker in other people's training loops; their packages are imported only where they are asked for."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

from featgeo.errors import FeatgeoError


class Stepping(Protocol):
    """What a callback needs of a tracker."""

    def step(self, number: int | None = None) -> Any:
        """Note a training step."""


def _package(names: tuple[str, ...], extra: str) -> Any:
    """The first of these modules that is installed."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name.partition(".")[0]:
                raise  # it is there, and something that it needs is not
    raise FeatgeoError(
        "callback", f"no package {names[0].partition('.')[0]}", f"pip install 'featgeo[{extra}]'."
    )


def lightning_callback(tracker: Stepping) -> Any:
    """A Lightning ``Callback``: the tracker steps with the trainer's global step, after every optimiser step."""
    base: Any = _package(("lightning.pytorch", "pytorch_lightning"), "lightning").Callback

    class TrackerCallback(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seen = 0

        def on_train_batch_end(self, trainer: Any, *_others: Any, **_more: Any) -> None:
            if trainer.global_step > self.seen:  # where gradients accumulate not every batch is a step
                self.seen = trainer.global_step
                tracker.step(trainer.global_step)

    return TrackerCallback()


def hugging_face_callback(tracker: Stepping) -> Any:
    """A Hugging Face ``TrainerCallback``: the tracker steps with the trainer's global step."""
    base: Any = _package(("transformers",), "transformers").TrainerCallback

    class TrackerCallback(base):  # type: ignore[misc]
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_more: Any) -> None:
            tracker.step(state.global_step)

    return TrackerCallback()
