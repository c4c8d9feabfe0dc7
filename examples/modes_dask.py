"""On a cluster: the engine counts the pairs, featgeo decomposes the counts.

Run: python examples/modes_dask.py DATA.parquet ROWS COLUMNS   (pip install "dask[dataframe]")

The group-by runs wherever the Dask client of your cluster points; only distinct pairs with their counts come back. With
Spark: examples/modes_spark.py.
"""

import sys

import pandas as pd

from featgeo.tables.modes import ModalDecomposition


def count_pairs(frame, rows: str, columns: str) -> pd.DataFrame:
    """Distinct pairs of two columns of a Dask DataFrame, with their counts."""
    pairs = frame[[rows, columns]].dropna()
    return pairs.assign(count=1).groupby([rows, columns])["count"].sum().compute().reset_index()


def decompose(counts: pd.DataFrame, rows: str, columns: str, n_components: int) -> ModalDecomposition:
    """The modes of counted pairs."""
    return ModalDecomposition(n_components).fit_columns(counts[rows], counts[columns], counts["count"])


def main() -> None:
    import dask.dataframe as dd

    path, rows, columns = sys.argv[1:4]
    counts = count_pairs(dd.read_parquet(path, columns=[rows, columns]), rows, columns)
    print(decompose(counts, rows, columns, n_components=3).modes_frame())


if __name__ == "__main__":
    main()
