"""Files in chunks, the command, an engine's counts."""

import io

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from examples.modes_dask import count_pairs, decompose
from featgeo.errors import FeatgeoError
from featgeo.tables.command import run
from featgeo.tables.modes import ModalDecomposition
from featgeo.tables.reading import read_pairs


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 12, 5000)
    return pd.DataFrame(
        {"item": [f"i{v}" for v in x], "other": 1.0, "place": (x // 3 + rng.integers(0, 3, 5000)) % 5}
    )


def write(frame, folder, kind):
    path = folder / f"data{kind}"
    if kind.startswith((".csv", ".tsv")):
        frame.to_csv(path, index=False, sep="\t" if kind == ".tsv" else ",")
        return path
    if kind == ".feather":
        frame.to_feather(path)
    elif kind == "":
        path.mkdir()
        frame[:2000].to_parquet(path / "one.parquet")
        frame[2000:].to_parquet(path / "two.parquet")
    else:
        frame.to_parquet(path, row_group_size=700)
    return path


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".tsv", ".parquet", ".feather", ""])
def test_a_file_in_chunks_is_the_table_in_memory(frame, tmp_path, kind):
    path = write(frame, tmp_path, kind)
    chunks = list(read_pairs(path, "item", "place", chunk_rows=900))
    assert len(chunks) >= 2 if kind == ".feather" else len(chunks) >= 6
    assert max(len(x) for x, _ in chunks) <= 900
    fit = ModalDecomposition().fit_stream(chunks)
    expected = ModalDecomposition().fit_columns(frame["item"], frame["place"])
    np.testing.assert_allclose(fit.correlations_, expected.correlations_, atol=1e-14)
    assert [str(label) for label in fit.column_labels_] == [str(label) for label in expected.column_labels_]


def test_files_that_cannot_be_read(frame, tmp_path):
    with pytest.raises(FeatgeoError, match="no file"):
        read_pairs(tmp_path / "none.csv", "a", "b")
    odd = tmp_path / "data.xyz"
    odd.write_text("1")
    with pytest.raises(FeatgeoError, match="kind is unknown"):
        read_pairs(odd, "a", "b")
    path = write(frame, tmp_path, ".csv")
    with pytest.raises(FeatgeoError, match=r"no column 'colour'.*item, other, place"):
        list(read_pairs(path, "item", "colour"))
    with pytest.raises(FeatgeoError, match="at least one row"):
        read_pairs(path, "item", "place", chunk_rows=0)
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    with pytest.raises(FeatgeoError, match="cannot be read"):
        list(read_pairs(empty, "a", "b"))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 but no more")
    with pytest.raises(FeatgeoError, match="cannot be read"):
        list(read_pairs(broken, "a", "b"))


def test_the_command_prints_the_modes_and_writes_the_page(frame, tmp_path):
    path, out, text = write(frame, tmp_path, ".csv"), tmp_path / "modes.html", io.StringIO()
    fit = run(path, "item", "place", out=out, chunk_rows=1000, console=Console(file=text, width=100))
    assert fit.n_components_ == 4
    printed = text.getvalue()
    assert f"{fit.correlations_[0]:.4f}" in printed
    assert "12 × 5 table of 5,000" in printed
    assert "modes are significant" in printed
    page = out.read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "item × place" in page
    assert "http" not in page.replace("http-equiv", "")
    two = run(path, "item", "place", components=2, test=False, console=Console(file=io.StringIO()))
    assert two.n_components_ == 2
    with pytest.raises(FeatgeoError, match="cannot be written"):
        run(path, "item", "place", out=tmp_path / "no" / "modes.html", console=Console(file=io.StringIO()))


def test_counts_of_an_engine(frame):
    counts = count_pairs(dd.from_pandas(frame, npartitions=3), "item", "place")
    fit = decompose(counts, "item", "place", n_components=2)
    expected = ModalDecomposition(n_components=2).fit_columns(frame["item"], frame["place"])
    np.testing.assert_allclose(fit.correlations_, expected.correlations_, atol=1e-14)
