"""compare(): several reports side by side, of checkpoints of one model or of different models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featgeo.errors import FeatgeoError
from featgeo.network.report import POINTS, Report
from featgeo.show.rows import printable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from featgeo.show.style import Drawing

SAME_CONSTANT = (
    0.01  # relative difference of the best constants' losses above which the data are called different
)


@dataclass(frozen=True)
class Comparison:
    """Reports side by side.

    Attributes:
        reports: by name, in the order in which they are shown.
        at: the operating point that is shown.
    """

    reports: dict[str, Report]
    at: str

    def __getitem__(self, name: str) -> Report:
        if name not in self.reports:
            raise FeatgeoError("report", f"the name {name!r}", f"Known reports: {', '.join(self.reports)}.")
        return self.reports[name]

    def __len__(self) -> int:
        return len(self.reports)

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs between the reports beside the networks, so that not all numbers compare."""
        notes = []

        def differing(what: Callable[[Report], Any]) -> str:
            """``name: value`` of every report where the values differ, else empty."""
            values = {name: what(report) for name, report in self.reports.items()}
            return (
                ", ".join(f"{name}: {value}" for name, value in values.items())
                if len(set(values.values())) > 1
                else ""
            )

        if told := differing(lambda report: report.loss):
            notes.append(f"The losses differ ({told}): gains are in different units.")
        else:
            constants = [report.constant_loss for report in self.reports.values()]
            if max(constants) - min(constants) > SAME_CONSTANT * abs(max(constants, key=abs)):
                told = ", ".join(
                    f"{name}: {report.constant_loss:.3g}" for name, report in self.reports.items()
                )
                notes.append(
                    f"The losses of the best constant outputs differ ({told}): these are different data."
                )
        if told := differing(lambda report: f"{report.weight_decay:g}"):
            notes.append(f"The weight decay differs ({told}): alignments refer to different optima.")
        if told := differing(lambda report: f"{report.samples:,}"):
            notes.append(f"The numbers of samples differ ({told}): noise floors and ranks do, too.")
        lacking = [
            name for name, report in self.reports.items() if not any(self.at in x.views for x in report)
        ]
        if lacking:
            notes.append(f"Without any layer at the operating point '{self.at}': {', '.join(lacking)}.")
        return tuple(printable(note) for note in notes)

    def to_frame(self, at: str | None = None) -> pd.DataFrame:
        """One row per layer; columns (number, report), so that ``frame["alignment"]`` is layers by reports.

        Raises:
            FeatgeoError: for an operating point that there is not.
        """
        import pandas as pd  # heavy: only where a frame is wanted

        from featgeo.show.comparison.lines import layer_order

        frames = {name: report.to_frame(at or self.at) for name, report in self.reports.items()}
        order = layer_order([list(report.layers) for report in self.reports.values()])
        frame = pd.concat(frames, axis=1, names=["report", "number"]).swaplevel(axis=1)
        columns = [(number, name) for number in next(iter(frames.values())).columns for name in frames]
        return frame.reindex(
            index=pd.Index(order, name="layer"),
            columns=pd.MultiIndex.from_tuples(columns, names=["number", "report"]),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data: every report's, the operating point and the notes."""
        reports = {name: report.to_dict() for name, report in self.reports.items()}
        return {"reports": reports, "at": self.at, "notes": list(self.notes)}

    def __rich__(self) -> RenderableType:
        from featgeo.show.comparison.text import comparison_table  # rich is heavy: only where one is printed

        return comparison_table(self.to_dict())

    def __str__(self) -> str:
        from featgeo.show.comparison.text import comparison_table
        from featgeo.show.console import as_text

        return as_text(comparison_table(self.to_dict()))

    def _repr_html_(self) -> str:
        from featgeo.show.comparison.page import fragment

        return fragment(self.to_dict())

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page: models, figures, a table for each number, findings."""
        from featgeo.show.comparison.page import page

        Path(path).write_text(page(self.to_dict()), encoding="utf-8", newline="\n")

    def plot(self) -> Drawing:
        """Alignment, locality and gains of every layer, a mark for each report (six at most)."""
        from featgeo.show.comparison.plots import overview

        return overview(self.to_dict())


def compare(reports: Mapping[str, Report | str | Path], at: str | None = None) -> Comparison:
    """Put reports side by side: checkpoints of a model, models, data.

    Args:
        reports: reports by name, or the files in which they were saved.
        at: the operating point to show; that of the first report where none is named.

    Raises:
        FeatgeoError: where there are none, or something else is among them.
    """
    if not isinstance(reports, Mapping) or not reports:
        found = "an empty mapping" if isinstance(reports, Mapping) else f"a {type(reports).__name__}"
        raise FeatgeoError("reports", found, "Pass reports by name: compare({'before': a, 'after': b}).")
    read = {}
    for name, report in reports.items():
        report = Report.load(report) if isinstance(report, str | Path) else report
        if not isinstance(report, Report):
            raise FeatgeoError(
                "reports", f"a {type(report).__name__} named {name!r}", "Pass what analyze returns."
            )
        read[str(name)] = report
    at = next(iter(read.values())).at if at is None else at
    if at not in POINTS:
        raise FeatgeoError("at", f"{at!r}", f"Pass one of {POINTS}.")
    return Comparison(read, at)
