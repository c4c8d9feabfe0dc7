"""What `import featgeo` costs beyond `import torch`; the budget is 0.3 s.

Run as ``python benchmarks/import_time.py``. Every import has its own process and the two kinds take turns, so that a
machine that slows down meanwhile slows both. A difference below the spread is noise: run it on an idle machine.
"""

import subprocess
import sys
from statistics import median

RUNS = 7
BUDGET = 0.3  # seconds
TIMED = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def seconds(modules: str) -> float:
    """Time that one fresh process needs for the imports."""
    command = [sys.executable, "-c", TIMED.format(modules)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    seconds("torch, featgeo")  # fills the disk cache and writes the byte code
    pairs = [(seconds("torch"), seconds("torch, featgeo")) for _ in range(RUNS)]
    alone, both = zip(*pairs, strict=True)
    for name, times in ("import torch", alone), ("import torch, featgeo", both):
        print(f"{name:<22} {median(times):6.3f} s   median of {RUNS}, {min(times):.3f} to {max(times):.3f}")
    cost = median(both) - median(alone)
    verdict = "within" if cost <= BUDGET else "OVER"
    print(f"{'difference':<22} {cost:6.3f} s   {verdict} the budget of {BUDGET} s")
    print(f"{'ratio':<22} {median(both) / median(alone):6.3f}")


if __name__ == "__main__":
    main()
