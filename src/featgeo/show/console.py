"""A report in the terminal: a table that takes the columns there is room for, findings and warnings below it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from featgeo.show import digest, words
from featgeo.show.rows import Row, checked, first_point, rows

NARROWEST, WIDEST = 80, 166  # columns of text that is not written to a terminal
LISTED = 6  # most layers that a note or a finding names
MARKS = {"act": ("!", "bold red"), "doubt": ("?", "yellow"), "note": ("·", "cyan")}


@dataclass(frozen=True)
class Column:
    """A column: its heading, what it says of a row, and when it goes.

    Attributes:
        title: of the column.
        cell: text for a row.
        order: columns with 0 are always there; of the others, lower numbers come first as the width grows, and
            columns of one number together.
        left: whether it is set flush left.
    """

    title: str
    cell: Callable[[Row], str]
    order: int = 0
    left: bool = False


def _number(name: str, decimals: int | None = None, digits: int = 3) -> Callable[[Row], str]:
    return lambda row: plain_minus(words.number(getattr(row, name), digits, decimals))


def _count(name: str) -> Callable[[Row], str]:
    return lambda row: words.DASH if getattr(row, name) is None else str(getattr(row, name))


COLUMNS = (
    Column("layer", lambda row: row.name, left=True),
    Column("kind", lambda row: row.kind, order=8, left=True),
    Column("size", lambda row: row.size or words.DASH, order=5),
    Column("alignment", _number("alignment", 2)),
    Column("±", _number("alignment_error", digits=1), order=4),
    Column("scale", _number("scale", 2), order=3),
    Column("locality", _number("locality", 2)),
    Column("agrees", _number("agreement", 2), order=2),
    Column("gain used", _number("gain_used")),
    Column("available", _number("gain_available")),
    Column("adjusted", _number("gain_adjusted"), order=6),
    Column("gap weight", _number("gap_weight"), order=7),
    Column("gap bias", _number("gap_bias"), order=7),
    Column("gap rank", _number("gap_rank"), order=7),
    Column("rank 99 %", _count("rank99"), order=2),
    Column("tail R²", _number("tail_r2", 2), order=4),
    Column("status", lambda row: row.status if row.has_view else "skipped", order=1, left=True),
)


@dataclass(frozen=True)
class ReportTable:
    """Renders a report at the width at hand; nothing is ever cut, columns are left out instead."""

    data: Mapping[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The caption, the table, then notes on layers, warnings and findings."""
        found = rows(self.data)
        yield Text(plain_minus(digest.caption(self.data)), style="bold")
        yield _table(found, options.max_width)
        yield from _notes(found, first_point(self.data))
        for text, names in digest.warnings(self.data).items():
            about = f"{words.listed(names, LISTED)}: " if names else ""
            yield hanging("!", "yellow", Text(f"warning: {about}{text}"))
        for finding in digest.findings(self.data):
            yield hanging(*MARKS[finding.kind], _told(finding))


def report_table(data: Mapping[str, Any]) -> ReportTable:
    """A report as something that rich prints.

    Args:
        data: ``Report.to_dict()``, or what was read from a saved report.

    Raises:
        FeatgeoError: where the data is no report.
    """
    return ReportTable(checked(data))


def as_text(renderable: RenderableType, width: int | None = None) -> str:
    """Plain text without colours.

    Args:
        renderable: what rich prints.
        width: in columns; that of the terminal, between 80 and 166, where none is given.
    """
    if width is None:
        width = min(WIDEST, max(NARROWEST, shutil.get_terminal_size((100, 24)).columns))
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, legacy_windows=False, force_jupyter=False)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _table(found: list[Row], room: int) -> Table:
    columns = _fitting(found, room)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column in columns:
        # Only where not even the least table fits do names go on over the next line.
        overflow: dict[str, Any] = {"overflow": "fold"} if column.left else {"no_wrap": True}
        table.add_column(
            column.title, justify="left" if column.left else "right", header_style="bold", **overflow
        )
    for row in found:
        table.add_row(*(Text(column.cell(row)) for column in columns), style=None if row.has_view else "dim")
    return table


def _fitting(found: list[Row], room: int) -> list[Column]:
    """The columns that there is room for, in their places: the most important first."""
    widths = {
        column.title: max([cell_len(column.title), *(cell_len(column.cell(row)) for row in found)]) + 2
        for column in COLUMNS
    }
    empty = {
        column.title
        for column in COLUMNS
        if column.order and all(column.cell(row) == words.DASH for row in found)
    }
    chosen: set[str] = set()
    used = -2  # no gap follows the last column
    for order in sorted({column.order for column in COLUMNS}):
        group = [column.title for column in COLUMNS if column.order == order and column.title not in empty]
        width = sum(widths[title] for title in group)
        if order == 0 or used + width <= room:
            chosen.update(group)
            used += width
    return [column for column in COLUMNS if column.title in chosen]


def _notes(found: list[Row], at: str) -> Iterator[RenderableType]:
    """Why layers were skipped or are special, each reason once."""
    for status in dict.fromkeys(row.status for row in found):
        told = (row for row in found if row.status == status)
        about = ((row.name, note) for row in told for note in words.row_notes(row, at))
        for reason, names in digest.grouped(about).items():
            yield hanging(
                "–", "dim", Text(f"{status}: {words.listed(names, LISTED)} ({reason})", style="dim")
            )


def _told(finding: digest.FindingGroup) -> Text:
    """A finding: its title, then the layers, then what to do."""
    text = Text.assemble((f"{finding.severity.lower()}: ", MARKS[finding.kind][1]), (finding.title, "bold"))
    for name, detail, remedy in finding.layers[:LISTED]:
        text.append("\n" if len(finding.layers) > 1 else " ").append(name, "bold").append(
            f": {detail} {remedy}".rstrip()
        )
    rest = len(finding.layers) - LISTED
    text.append(f"\nand {rest} more layers." if rest > 0 else "")
    separator = "\n" if len(finding.layers) > 1 else " "
    text.append(f"{separator}{finding.remedy}" if finding.remedy else "")
    return text.append(f" {finding.call}", "cyan") if finding.call else text


def hanging(mark: str, style: str, text: Text) -> RenderableType:
    """A paragraph whose lines after the first are indented past the mark."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style=style), text)
    return Padding(grid, (0, 0, 0, 1))


def plain_minus(text: str) -> str:
    """With the keyboard's minus sign, so that numbers can be copied into a program."""
    return text.replace("\N{MINUS SIGN}", "-")
