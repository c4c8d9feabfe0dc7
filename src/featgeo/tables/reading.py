"""Pairs of columns from files larger than memory: CSV, Parquet, Arrow (Feather), folders of these, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from featgeo.errors import FeatgeoError

CHUNK_ROWS = 2**20
TEXT = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
ARROW = {".parquet": "parquet", ".pq": "parquet", ".arrow": "ipc", ".feather": "ipc", ".ipc": "ipc"}

Pair = tuple[Any, Any]


def read_pairs(path: str | Path, rows: str, columns: str, chunk_rows: int = CHUNK_ROWS) -> Iterator[Pair]:
    """Chunks (x, y) of two columns of a file, as ``ModalDecomposition.fit_stream`` takes them.

    Text files give categories as text, so that a chunk of numbers and a chunk of words agree; their compressed forms
    (.gz, .zip, .xz, .bz2) are read too. Parquet and Arrow keep their types; they need pyarrow.

    Args:
        path: the file, or a folder of Parquet files.
        rows: name of the column whose categories are the rows.
        columns: name of the column whose categories are the columns.
        chunk_rows: rows held in memory at a time.

    Raises:
        FeatgeoError: no such file, an unknown kind, columns that are not there, pyarrow missing.
    """
    path = Path(path)
    if not path.exists():
        raise FeatgeoError("path", f"no file {path}", "Name a CSV, Parquet or Arrow file.")
    if chunk_rows < 1:
        raise FeatgeoError("chunk_rows", f"{chunk_rows}", "Read at least one row at a time.")
    kinds = [suffix.lower() for suffix in path.suffixes]
    text = next((TEXT[kind] for kind in kinds if kind in TEXT), None)
    arrow = "parquet" if path.is_dir() else next((ARROW[kind] for kind in kinds if kind in ARROW), None)
    if text is not None:
        return _text(path, rows, columns, chunk_rows, text)
    if arrow is not None:
        return _arrow(path, rows, columns, chunk_rows, arrow)
    known = ", ".join([*TEXT, *ARROW])
    raise FeatgeoError("path", f"{path.name}, whose kind is unknown", f"Known endings: {known}.")


def _text(path: Path, rows: str, columns: str, chunk_rows: int, separator: str) -> Iterator[Pair]:
    try:
        found = list(pd.read_csv(path, sep=separator, nrows=0).columns)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise FeatgeoError(
            "path", f"{path.name}, which cannot be read ({error})", "Pass a table in text."
        ) from error
    _check(found, rows, columns)
    chunks = pd.read_csv(path, sep=separator, usecols=list({rows, columns}), dtype=str, chunksize=chunk_rows)
    for chunk in chunks:
        yield chunk[rows], chunk[columns]


def _arrow(path: Path, rows: str, columns: str, chunk_rows: int, kind: str) -> Iterator[Pair]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
        from pyarrow import dataset  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise FeatgeoError(
            "path", f"{path.name}, and no pyarrow", "Install it: pip install pyarrow."
        ) from error
    try:
        source = dataset.dataset(path, format=kind)
    except (pa.ArrowInvalid, OSError) as error:
        raise FeatgeoError(
            "path", f"{path.name}, which cannot be read ({error})", "Pass a whole file."
        ) from error
    _check(source.schema.names, rows, columns)
    scanner = source.scanner(columns=list({rows, columns}), batch_size=chunk_rows, batch_readahead=1)
    for batch in scanner.to_batches():
        if batch.num_rows:
            frame = batch.to_pandas()
            yield frame[rows], frame[columns]


def _check(found: list[str], rows: str, columns: str) -> None:
    missing = [name for name in (rows, columns) if name not in found]
    if missing:
        raise FeatgeoError(
            "rows, columns", f"no column {missing[0]!r}", f"The file has: {', '.join(map(str, found))}."
        )
