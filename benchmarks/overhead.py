"""analyze() against a bare loop: the forward pass and one ``f.T @ f`` per layer, same model, same data, same run.

Run: python benchmarks/overhead.py [--models mlp cnn resnet encoder] [--samples N] [--repeats N] [--device cpu]
The bare loop takes its features f by the same functions as analyze(), so the ratio is what everything else costs:
targets, cross-moments, checks, solves, both operating points. Per network it prints
- the median ratio of interleaved runs. Where another road leads past layers this is the shared pass (``subset=0``);
- what bypassed layers cost apart: their frozen passes as multiples of a forward pass over the subset, per layer;
- peak memory of a process that analyses four batches, beyond that of one that only runs the model on them and beyond
  that of the bare loop, in multiples of the stored moments (each has analysed three numbers before, so that what is
  loaded on first use, about 20 MiB, is not counted; and glibc returns what is freed from 256 KiB on, since how much
  of a forward pass's activations its heap would keep is chance: 30 to 70 MiB for the encoder);
and for the first network the peak at two sizes of the data.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from networks import Encoder, cnn, images, mlp, pictures, resnet18, tokens
from torch import Tensor, nn

import featgeo as fg
from featgeo.network.arrange import Arrangement, sample_rows
from featgeo.network.keep import undisturbed
from featgeo.network.layers import Projection
from featgeo.network.select import split_layers
from featgeo.network.taps import tapping

BATCH = 256
FEW = 8  # batches of the run that times the frozen passes
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A network and its data.

    Attributes:
        name: as printed.
        build: makes the network.
        data: makes so many samples.
        samples: by default.
        repeats: by default.
        bypassed: whether another road leads past some of its layers.
    """

    name: str
    build: Callable[[], nn.Module]
    data: Callable[[int], Batch]
    samples: int
    repeats: int
    bypassed: bool = False

    def model(self, device: str = "cpu") -> nn.Module:
        """The network, always with the same weights."""
        torch.manual_seed(0)
        return self.build().eval().to(device)

    def batches(self, samples: int, device: str = "cpu") -> list[Batch]:
        """So many samples in batches."""
        x, y = (part.to(device) for part in self.data(samples))
        return list(zip(x.split(BATCH), y.split(BATCH), strict=True))

    def shared(self, model: nn.Module, batches: object) -> fg.Report:
        """The pass over the data that serves all layers, and all that is made of it."""
        return fg.analyze(model, batches, **({"subset": 0} if self.bypassed else {}))


CASES = {
    "mlp": Case("MLP 784-512-256-10", mlp, images, 20_000, 21),
    "cnn": Case("small CNN", cnn, images, 20_000, 7),
    "resnet": Case("ResNet-18, 32 x 32", resnet18, pictures, 10_000, 3, bypassed=True),
    "encoder": Case("encoder, 6 layers", Encoder, tokens, 10_000, 7, bypassed=True),
}


def bare(model: nn.Module, batches: list[Batch], products: bool = True) -> int:
    """Forward pass and one product per layer; bytes that the products take in float64."""
    layers, sums = split_layers(model)[0], {}
    lies = {name: Arrangement(int(isinstance(layer, Projection))) for name, layer in layers.items()}

    def look(name: str, x: Tensor, output: Tensor | None) -> None:
        rows, _ = sample_rows(layers[name], lies[name], x, x if output is None else output, samples)
        product = rows.T @ rows
        sums[name] = sums[name] + product if name in sums else product

    with undisturbed(model), tapping(layers if products else {}, look, outputs=False):
        for x, _ in batches:
            samples = len(x)
            model(x)
    return sum(2 * product.nbytes for product in sums.values())


def timed(job: Callable[..., object], *args: object, **options: object) -> tuple[float, object]:
    """Seconds of one call, and what it returned."""
    start = time.perf_counter()
    made = job(*args, **options)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, made


class Again:
    """One batch many times over: data that take no memory."""

    def __init__(self, batch: Batch, times: int) -> None:
        self.batch, self.times = batch, times

    def __iter__(self) -> Iterator[Batch]:
        return iter([self.batch] * self.times)


def peak(key: str, job: str) -> float:
    """Peak resident memory (MiB) of a job in a fresh process (Linux); ru_maxrss would begin at the parent's."""
    code = (
        "import re, sys; sys.path.insert(0, 'benchmarks'); from overhead import *; warnings.simplefilter('ignore');"
        "case = Case('', lambda: nn.Linear(1, 1), lambda n: (torch.randn(n, 1), torch.randn(n, 1)), 3, 1);"
        "fg.analyze(case.model(), case.batches(3), 'mse');"
        f"case = CASES[{key!r}]; model, batches = case.model(), case.batches(4 * BATCH); {job};"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)"
    )
    returning = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=returning
    )
    return float(done.stdout)


def ratio(case: Case, model: nn.Module, batches: list[Batch], repeats: int) -> str:
    """Seconds of both, and the median ratio."""
    bare(model, batches[:4]), case.shared(model, batches[:4])
    pairs = [(timed(bare, model, batches)[0], timed(case.shared, model, batches)[0]) for _ in range(repeats)]
    middle = [statistics.median(seconds) for seconds in zip(*pairs, strict=True)]
    found = statistics.median(after / before for before, after in pairs)
    shared = "shared pass" if case.bypassed else "analyze"
    return (
        f"bare {middle[0]:.2f} s, {shared} {middle[1]:.2f} s, ratio {found:.2f} (median of {repeats} pairs)"
    )


def frozen(model: nn.Module, batches: list[Batch], subset: int) -> str:
    """What the passes of bypassed layers cost."""
    seconds, report = timed(fg.analyze, model, batches[:FEW], subset=subset)
    assert isinstance(report, fg.Report)
    passes = [layer.passes for layer in report if layer.status == "bypassed"]
    return (
        f"{len(passes)} bypassed layers, each {statistics.median(passes):.1f} forward passes over {subset} samples "
        f"(most {max(passes):.1f}); {seconds:.1f} s in all"
    )


def memory(key: str, model: nn.Module, batches: list[Batch]) -> str:
    """Peaks beyond those of the forward pass and of the bare loop; medians of three processes each."""
    jobs = ("bare(model, batches, False)", "bare(model, batches)", "case.shared(model, batches)")
    forward, loop, whole = (statistics.median(peak(key, job) for _ in range(3)) for job in jobs)
    stored = bare(model, batches[:1]) / 2**20
    return (
        f"{whole - forward:.0f} MiB beyond the forward pass, {(whole - forward) / stored:.1f} x the moments "
        f"({stored:.1f} MiB); beyond the bare loop {(whole - loop) / stored:.1f} x"
    )


def main() -> None:
    """Print the lines of each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--subset", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-passes", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"batch {BATCH}, {options.device}, {torch.get_num_threads()} threads")
    for key in options.models:
        case = CASES[key]
        samples, model = options.samples or case.samples, case.model(options.device)
        batches = case.batches(samples, options.device)
        print(f"{case.name}, {samples:,} samples")
        print("   ", ratio(case, model, batches, options.repeats or case.repeats), flush=True)
        if case.bypassed and not options.no_passes:
            print("   ", frozen(model, batches, options.subset), flush=True)
        if options.device == "cpu" and not options.no_memory:
            print("   ", memory(key, model, batches), flush=True)
    if options.device == "cpu" and not options.no_memory:
        key = options.models[0]
        small, large = (peak(key, f"case.shared(model, Again(batches[0], {n}))") for n in (20, 200))
        print(
            f"{CASES[key].name}: peak {small:.0f} MiB at {20 * BATCH:,} samples, {large:.0f} at {200 * BATCH:,}"
        )


if __name__ == "__main__":
    main()
