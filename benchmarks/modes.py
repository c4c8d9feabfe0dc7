"""ModalDecomposition against its peers: the same table, the same accuracy, one run.

Run: OMP_NUM_THREADS=2 python benchmarks/modes.py [--jobs dense columns sparse] [--repeats 5] [--quick]
     The peer is prince 0.23 (pip install prince). The sparse job needs about 3 GB and some minutes;
     --scale 0.1 makes it ten times smaller.

dense    3,000 x 2,000 counts, 10 modes, of two tables: all ten real, or four of them and the rest noise. prince.CA with
         its randomised default (n_iter=10), with as many iterations as bring its coordinates within 1e-8 of the exact
         ones, and with its exact engine. ModalDecomposition works to rounding; beside the default also with the loosest
         of some tol= whose errors are not larger than the default's, and beside the exact engine with one for 1e-8.
columns  5 million rows of two raw columns: pandas.crosstab, then prince.CA (prince has no way in for raw columns).
sparse   1,000,000 x 100,000 with 10 million nonzeros, 10 modes: beside a bare scipy.sparse.linalg.svds on the same
         operator, and beside the time that the solver's own sparse products took.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds

from featgeo.tables.modes import ModalDecomposition
from featgeo.tables.operator import Dependence, dependence

MODES = 10
TABLES = {
    "ten real modes": ([0.5, 0.4, 0.3, 0.2], 6e7),
    "four real modes": ([0.05, 0.04, 0.03, 0.02], 3e7),
}
TOLERANCES = [digit * 10.0**-power for power in range(1, 14) for digit in (5, 3, 2, 1)]
SETTLING = 0.2  # seconds before each call, in which the threads of the one before fall asleep
ACCURACY = 1e-8


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one call, and what it gave."""
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def timed_twice(job: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock and of the processor (all threads), and what the call gave."""
    time.sleep(SETTLING)
    start = time.process_time()
    seconds, result = timed(job)
    return seconds, time.process_time() - start, result


def compare(
    title: str, ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, exact: Any = None
) -> None:
    """Interleaved runs of both, median times, and the errors of what they gave (or by how much they differ)."""
    pairs = [(timed_twice(ours), timed_twice(theirs)) for _ in range(repeats)]
    clock, processor = (
        [statistics.median(pair[side][kind] for pair in pairs) for side in (0, 1)] for kind in (0, 1)
    )
    found = [run[2] for run in pairs[0]]
    errors = [error(one, found[0] if exact is None else exact) for one in found]
    told = f"{errors[1]:9.0e}" if exact is None else f"{errors[0]:9.0e}{errors[1]:9.0e}"
    ratios = f"{clock[1] / clock[0]:8.1f} x{processor[1] / processor[0]:8.1f} x"
    print(f"{title:48}{clock[0]:9.3f}{clock[1]:10.3f}{ratios}{told}", flush=True)


def error(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest difference of correlations (k,), or of coordinates (m, k) up to the sign of each mode."""
    signs = np.sign((found * exact).sum(axis=0)) if found.ndim == 2 else 1.0
    return float(np.abs(found * signs - exact).max())


def header(errors: str) -> None:
    print(f"{'job':48}{'ours s':>9}{'peer s':>10}{'clock':>10}{'processor':>10}   {errors}")


def counts(strengths: list[float], total: float) -> np.ndarray:
    """3,000 x 2,000 counts whose logarithmic rates have so many strong components."""
    rng = np.random.default_rng(0)
    rows, columns = 3000, 2000
    mass = np.outer(rng.gamma(2, 1, rows) + 0.1, rng.gamma(2, 1, columns) + 0.1)
    scores = (
        rng.normal(size=(rows, len(strengths))) * strengths @ rng.normal(size=(columns, len(strengths))).T
    )
    rates = mass * np.exp(scores)
    return rng.poisson(rates / rates.sum() * total).astype(float)


def dense(repeats: int, quick: bool) -> None:
    import prince

    header("errors of coordinates: ours, the peer's")
    for name, (strengths, total) in TABLES.items():
        frame = pd.DataFrame(counts(strengths, total))

        def ours(frame: Any = frame, tol: float = 0.0) -> np.ndarray:
            fit = ModalDecomposition(n_components=MODES, tol=tol, random_state=0).fit(frame)
            return np.asarray(fit.column_coordinates_)

        def theirs(frame: Any = frame, **options: Any) -> np.ndarray:
            peer = prince.CA(n_components=MODES, random_state=0, **options).fit(frame)
            return peer.svd_.V.T / np.sqrt(peer.col_masses_.to_numpy())[:, None] * peer.svd_.s

        exact = theirs(engine="scipy")
        compare(f"{name}, peer's default", ours, theirs, repeats, exact)
        equal(f"{name}, peer's default", ours, theirs, repeats, exact, error(theirs(), exact))
        iterations = 10
        while not quick and error(theirs(n_iter=iterations), exact) > ACCURACY and iterations < 5000:
            iterations *= 2
        if iterations > 10:
            compare(f"{name}, peer n_iter={iterations}", ours, partial(theirs, n_iter=iterations), 1, exact)
        engine = partial(theirs, engine="scipy")
        compare(f"{name}, peer's exact engine", ours, engine, min(repeats, 3), exact)
        equal(f"{name}, peer's exact engine", ours, engine, min(repeats, 3), exact, ACCURACY)


def equal(
    title: str, ours: Callable[..., Any], theirs: Callable[[], Any], repeats: int, exact: Any, allowed: float
) -> None:
    """The same with the loosest tolerance at which our error is no larger than what is allowed."""
    tol = next(tol for tol in TOLERANCES if error(ours(tol=tol), exact) <= allowed)
    compare(f"{title}, tol={tol:.0e}", partial(ours, tol=tol), theirs, repeats, exact)


def columns(repeats: int) -> None:
    import prince

    header("largest difference of a correlation")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 200, 5_000_000)
    y = (x // 4 + rng.integers(0, 30, len(x))) % 100
    names = [np.array([f"{kind} {i:03d}" for i in range(200)], dtype=object) for kind in ("item", "place")]
    kinds: dict[str, tuple[Any, Any]] = {"integers": (x, y)}
    kinds["strings (pandas str)"] = tuple(
        pd.Series(pd.array(n[v], dtype="str")) for n, v in zip(names, (x, y), strict=True)
    )
    kinds["strings (Python objects)"] = tuple(n[v] for n, v in zip(names, (x, y), strict=True))
    kinds["categoricals"] = tuple(column.astype("category") for column in kinds["strings (pandas str)"])

    for kind, (a, b) in kinds.items():

        def ours(a: Any = a, b: Any = b) -> np.ndarray:
            return ModalDecomposition(n_components=MODES).fit_columns(a, b).correlations_

        def theirs(a: Any = a, b: Any = b) -> np.ndarray:
            peer = prince.CA(n_components=MODES, engine="scipy").fit(pd.crosstab(a, b))
            return np.sqrt(peer.eigenvalues_)[:MODES]

        compare(f"5 million rows, {kind}", ours, theirs, min(repeats, 3))


def communities(rows: int, columns: int, nonzeros: int, groups: int = 12) -> sparse.csr_array:
    """Counts of visits: every row and column belongs to a group, and visits stay in it more often than not."""
    rng = np.random.default_rng(0)
    x = np.concatenate([np.arange(rows), rng.integers(0, rows, int(1.03 * nonzeros) - rows)])
    inside = rng.random(len(x)) < 0.5 + 0.03 * (x % groups)
    anywhere = rng.integers(0, columns, len(x))
    y = np.where(inside, anywhere - anywhere % groups + x % groups, anywhere) % columns
    table = sparse.coo_array((np.ones(len(x)), (x, y)), shape=(rows, columns)).tocsr()
    return table[:, np.flatnonzero(table.sum(axis=0))]


def large(scale: float) -> None:
    table = communities(int(1_000_000 * scale), int(100_000 * scale), int(10_000_000 * scale))
    print(f"\n{table.shape[0]:,} x {table.shape[1]:,}, {table.nnz:,} nonzeros, {MODES} modes")
    spent: list[float] = []
    product = sparse.csr_array.__matmul__, sparse.csc_array.__matmul__

    def clocked(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, other: Any) -> Any:
            start = time.perf_counter()
            result = method(self, other)
            spent.append(time.perf_counter() - start)
            return result

        return call

    sparse.csr_array.__matmul__, sparse.csc_array.__matmul__ = map(clocked, product)  # type: ignore[method-assign]
    seconds, fit = timed(lambda: ModalDecomposition(n_components=MODES, random_state=0).fit(table))
    sparse.csr_array.__matmul__, sparse.csc_array.__matmul__ = product  # type: ignore[method-assign]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"ours, everything: {seconds:.1f} s; its {len(spent)} sparse products: {sum(spent):.1f} s; "
          f"ratio {seconds / sum(spent):.2f}; peak memory of the process {peak:.1f} GiB", flush=True)  # fmt: skip
    b = dependence(fit.table_)
    solver, left = timed(lambda: svds(bare(b), MODES, rng=np.random.default_rng(0)))
    print(f"bare svds on the same operator: {solver:.1f} s; ours is {seconds / solver:.2f} of it; "
          f"largest difference {np.abs(np.sort(left[1])[::-1] - fit.correlations_).max():.1e}")  # fmt: skip
    print("correlations:", fit.correlations_.round(4))


def bare(b: Dependence) -> LinearOperator:
    """Sparse minus rank one, as anyone would write it."""
    p, r, c = b.matrix, b.root_rows, b.root_columns
    return LinearOperator(
        p.shape,
        matvec=lambda v: p @ v.ravel() - r * (c @ v.ravel()),
        rmatvec=lambda u: p.T @ u.ravel() - c * (r @ u.ravel()),
        dtype=np.float64,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--jobs", nargs="+", choices=["dense", "columns", "sparse"], default=["dense", "columns", "sparse"]
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="leave out prince with many iterations")
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if "dense" in options.jobs:
        dense(options.repeats, options.quick)
    if "columns" in options.jobs:
        columns(options.repeats)
    if "sparse" in options.jobs:
        large(options.scale)


if __name__ == "__main__":
    main()
