"""A comparison in the terminal: the models, then a table per number, as many reports across as there is room for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from featgeo.show.comparison.lines import (
    MODEL_COLUMNS,
    NUMBERS,
    caption,
    findings,
    headline,
    lines,
    models,
    reports_of,
)
from featgeo.show.console import hanging, plain_minus

SHOWN = ("alignment", "locality", "gain_used", "gain_available")


@dataclass(frozen=True)
class ComparisonTable:
    """Renders a comparison at the width at hand; nothing is cut: reports that do not fit go into further tables."""

    data: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The models, a table per number, what differs between them, findings."""
        room = options.max_width
        yield Text(plain_minus(f"{headline(self.data)[:-1]} · {caption(self.data)}"), style="bold")
        yield from _tables("model", MODEL_COLUMNS, list(models(self.data).items()), room)
        rows = lines(self.data)
        names = [row.name for row in next(iter(rows.values()))]
        for number in NUMBERS:
            if number.field in SHOWN:
                cells = [
                    (name, [number.text(found[i]) for found in rows.values()]) for i, name in enumerate(names)
                ]
                yield from _tables(number.title.lower(), list(rows), cells, room)
        for note in self.data["notes"]:
            yield hanging("!", "yellow", Text(f"note: {note}"))
        for severity, title, layers in findings(self.data):
            each = [f"{name}: {told}" for name, told in zip(rows, layers, strict=True) if told]
            yield hanging("·", "cyan", Text(f"{severity.lower()}: {title} ({'; '.join(each)})"))


def comparison_table(data: Mapping[str, Any]) -> ComparisonTable:
    """A comparison as something that rich prints.

    Args:
        data: ``Comparison.to_dict()``.

    Raises:
        FeatgeoError: where the data is no comparison.
    """
    reports_of(data)
    return ComparisonTable(data)


def _tables(
    corner: str, titles: Sequence[str], cells: Sequence[tuple[str, Sequence[str]]], room: int
) -> Iterator[RenderableType]:
    """Tables of some columns each, as many as fit, with the names of the rows in every one."""
    first = max([cell_len(corner), *(cell_len(name) for name, _ in cells)]) + 2
    widths = [
        max([cell_len(title), *(cell_len(values[i]) for _, values in cells)]) + 2
        for i, title in enumerate(titles)
    ]
    start = 0
    while start < len(titles):
        stop, used = start + 1, first + widths[start] - 2
        while stop < len(titles) and used + widths[stop] <= room:
            used += widths[stop]
            stop += 1
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column(corner, header_style="bold", overflow="fold")
        for title in titles[start:stop]:
            table.add_column(title, justify="right", header_style="bold", overflow="fold")
        for name, values in cells:
            table.add_row(Text(name), *(Text(plain_minus(value)) for value in values[start:stop]))
        yield Text("")
        yield table
        start = stop
