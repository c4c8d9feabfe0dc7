"""The body of ``featgeo modes``: a file in chunks, a printed table, a page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table as PrintedTable

from featgeo.errors import FeatgeoError
from featgeo.show.modes_html import modes_page
from featgeo.tables.inference import Significance
from featgeo.tables.modes import ModalDecomposition
from featgeo.tables.reading import CHUNK_ROWS, read_pairs
from featgeo.tables.streams import Missing, PairCounts

PRINTED = 20  # modes
FEW = 10  # modes computed unless told otherwise


def run(
    path: str | Path,
    rows: str,
    columns: str,
    components: int | Literal["significant"] | None = None,
    out: str | Path | None = None,
    missing: Missing = "drop",
    test: bool = True,
    chunk_rows: int = CHUNK_ROWS,
    console: Console | None = None,
) -> ModalDecomposition:
    """Decompose two columns of a file, print the modes, write the page.

    Args:
        path: CSV, Parquet or Arrow file, or a folder of Parquet files; it may be larger than memory.
        rows: name of one column.
        columns: name of the other.
        components: number of modes; "significant"; by default 10, or all where there are fewer.
        out: where the HTML page goes; none is written without it.
        missing: "drop", "category" or "error".
        test: also compute p-values (their cost grows with the number of modes, not of rows).
        chunk_rows: rows held in memory at a time.
        console: where to print.

    Returns:
        The fitted decomposition.

    Raises:
        FeatgeoError: files, columns or options that do not fit.
    """
    console = console or Console()
    pairs = PairCounts(missing)
    for x, y in read_pairs(path, rows, columns, chunk_rows):
        pairs.add(x, y)
    if components is None:
        components = max(1, min(FEW, *(size - 1 for size in pairs.shape)))
    decomposition = ModalDecomposition(n_components=components, missing=missing, random_state=0).fit_counts(
        pairs
    )
    found = decomposition.significance() if test and decomposition.n_components_ else None
    print_modes(decomposition, found, f"{rows} × {columns}", console)
    if out is not None:
        page = modes_page(decomposition.to_dict(found, names=(rows, columns)))
        try:
            Path(out).write_text(page, encoding="utf-8")
        except OSError as error:
            raise FeatgeoError(
                "out", f"{out}, which cannot be written ({error})", "Choose another place."
            ) from error
        console.print(f"Report: [bold]{Path(out).resolve()}[/bold]", soft_wrap=True)
    return decomposition


def print_modes(
    decomposition: ModalDecomposition, found: Significance | None, title: str, console: Console
) -> None:
    """The modes as a table, with what they add up to."""
    shape = f"{len(decomposition.row_labels_):,} × {len(decomposition.column_labels_):,}"
    table = PrintedTable(title=f"{title}: {shape} table of {decomposition.total_:,.0f}", title_justify="left")
    for name in ("mode", "correlation", "corrected", "inertia", "share", "p"):
        table.add_column(name, justify="right")
    for k in range(min(PRINTED, decomposition.n_components_)):
        correlation = decomposition.correlations_[k]
        corrected, p = (f"{found.corrected[k]:.4f}", f"{found.p_values[k]:.3g}") if found else ("", "")
        share = f"{decomposition.explained_inertia_ratio_[k]:.1%}"
        table.add_row(f"{k + 1}", f"{correlation:.4f}", corrected, f"{correlation**2:.5f}", share, p)
    console.print(table)
    hidden = decomposition.n_components_ - PRINTED
    if hidden > 0:
        console.print(f"and {hidden:,} more modes")
    p_value = decomposition.p_value_
    console.print(
        f"χ² = {decomposition.chi2_:,.1f} with {decomposition.degrees_of_freedom_:,} degrees of freedom, "
        f"p {'< 1e-300' if p_value < 1e-300 else f'= {p_value:.2g}'}; "
        f"inertia {decomposition.inertia_:.4f}; mutual information {decomposition.mutual_information_:.4f} nats "
        f"(local approximation {decomposition.local_information_:.4f})",
        highlight=False,
        soft_wrap=True,
    )
    if found:
        console.print(
            f"{found.n_significant} of {len(found.p_values)} modes are significant at {found.alpha:.0%} "
            f"({found.method} null)"
        )
    for text in (*decomposition.warnings_, *(found.warnings if found else ())):
        console.print(f"[yellow]warning[/yellow] {text}", highlight=False, soft_wrap=True)
