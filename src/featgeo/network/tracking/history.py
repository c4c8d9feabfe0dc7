"""What a tracker saw: a report for each step that was looked at, as a table, a figure, a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featgeo.errors import FeatgeoError
from featgeo.network.report import Report

if TYPE_CHECKING:
    import pandas as pd

    from featgeo.show.style import Drawing

FORMAT = 1  # of the JSON file
LINES = 12  # most analyses that the text lists


@dataclass(frozen=True)
class Snapshot:
    """One analysis during training.

    Attributes:
        step: number of training steps before it.
        report: what it found, without the optimal weights.
        seconds: what it took.
        training_seconds: of training before it.
    """

    step: int
    report: Report
    seconds: float = 0.0
    training_seconds: float = 0.0


@dataclass
class History:
    """Analyses in the order of training.

    Attributes:
        snapshots: one each.
        failures: step and message of analyses that failed.
    """

    snapshots: list[Snapshot] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self.snapshots)

    def __len__(self) -> int:
        return len(self.snapshots)

    def __getitem__(self, place: int) -> Snapshot:
        return self.snapshots[place]

    def __str__(self) -> str:
        if not self.snapshots:
            lines = ["no analysis yet"]
        else:
            first, last = self.snapshots[0].step, self.snapshots[-1].step
            times = "1 analysis" if len(self) == 1 else f"{len(self)} analyses"
            lines = [f"{times}, " + (f"steps {first} to {last}" if last > first else f"step {first}")]
            told = [_line(snapshot) for snapshot in self]
            left = len(told) - LINES
            lines += told if left <= 0 else [told[0], f"  ... {left} more ...", *told[left + 1 :]]
        return "\n".join([*lines, *(f"failed at step {step}: {text}" for step, text in self.failures)])

    def reports(self) -> dict[str, Report]:
        """The reports by name of step, as ``compare`` takes them."""
        return {f"step {snapshot.step}": snapshot.report for snapshot in self}

    def to_frame(self, at: str | None = None) -> pd.DataFrame:
        """One row per step and layer, the columns of ``Report.to_frame`` after the model's loss.

        Args:
            at: the operating point, each report's own where none is named.

        Raises:
            FeatgeoError: where nothing was analysed yet.
        """
        import pandas as pd  # heavy: only where a frame is wanted

        frames = [snapshot.report.to_frame(at) for snapshot in self._some()]
        for frame, snapshot in zip(frames, self, strict=True):
            frame.insert(0, "loss", snapshot.report.loss_value)
        return pd.concat(frames, keys=[snapshot.step for snapshot in self], names=["step", "layer"])

    def plot(self, at: str | None = None) -> Drawing:
        """Alignment, gain and loss over steps, a line per layer (six at most, spread over depth).

        Raises:
            FeatgeoError: where nothing was analysed yet.
        """
        from featgeo.show.timeline import timeline

        return timeline([(s.step, s.report.to_dict()) for s in self._some()], at)

    def save(self, path: str | Path) -> None:
        """Write everything but the optimal weights as JSON."""
        data = {
            "format": FORMAT,
            "kind": "history",
            "snapshots": [{**vars(s), "report": s.report.to_dict()} for s in self],
            "failures": self.failures,
        }
        Path(path).write_text(json.dumps(data, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read a history that was saved.

        Raises:
            FeatgeoError: when there is no such file, or it is no history of this format.
        """
        try:
            data: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            if (data["format"], data["kind"]) != (FORMAT, "history"):
                raise KeyError("format")
            snapshots = [
                Snapshot(**{**s, "report": Report.from_dict(s["report"])}) for s in data["snapshots"]
            ]
            return cls(snapshots, [(step, text) for step, text in data["failures"]])
        except FileNotFoundError as error:
            raise FeatgeoError("path", f"no file {path}", "Check the path.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found = f"{path}, which is no history of featgeo"
            raise FeatgeoError("path", found, "Pass what History.save wrote.") from error

    def _some(self) -> list[Snapshot]:
        if not self.snapshots:
            failed = (
                f"; {len(self.failures)} failed, the last: {self.failures[-1][1]}" if self.failures else ""
            )
            raise FeatgeoError("history", f"no analysis yet{failed}", "Train on, or call tracker.analyze().")
        return self.snapshots


def _line(snapshot: Snapshot) -> str:
    """Step, loss and range of the alignments."""
    found = [
        (view.alignment, view.name) for view in snapshot.report.analysed if math.isfinite(view.alignment)
    ]
    text = f"  step {snapshot.step}: loss {snapshot.report.loss_value:.4g}"
    if not found:
        return f"{text}, no layer with an alignment"
    (low, lowest), (high, highest) = min(found), max(found)
    if len(found) == 1:
        return f"{text}, alignment {low:.3f} ({lowest})"
    return f"{text}, alignment from {low:.3f} ({lowest}) to {high:.3f} ({highest})"
