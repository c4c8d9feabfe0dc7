"""On a Spark cluster: the group-by counts the pairs, featgeo decomposes the counts.

Run: python examples/modes_spark.py DATA.parquet ROWS COLUMNS   (pip install pyspark pandas pyarrow; Java 17)

Only distinct pairs with their counts reach this machine. With Dask: examples/modes_dask.py.
"""

import sys

import pandas as pd

from featgeo.tables.modes import ModalDecomposition


def count_pairs(frame, rows: str, columns: str) -> pd.DataFrame:
    """Distinct pairs of two columns of a Spark DataFrame, with their counts; missing values are left out."""
    pairs = frame.select(rows, columns).dropna()
    counted = pairs.groupBy(rows, columns).count().withColumnRenamed("count", "pairs").toArrow()
    return counted.to_pandas()


def main() -> None:
    from pyspark.sql import SparkSession

    path, rows, columns = sys.argv[1:4]
    session = SparkSession.builder.appName("modes").getOrCreate()
    counts = count_pairs(session.read.parquet(path), rows, columns)
    fit = ModalDecomposition(n_components=3).fit_columns(counts[rows], counts[columns], counts["pairs"])
    print(fit.modes_frame())
    session.stop()


if __name__ == "__main__":
    main()
