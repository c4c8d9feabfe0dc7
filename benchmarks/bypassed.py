"""analyze() on networks with more than one road: the shared pass against a bare loop, and what bypassed layers cost.

Run: python benchmarks/bypassed.py [--models resnet encoder] [--samples 10000] [--repeats 3] [--device cpu]
Prints, per network, the median ratio of interleaved runs of the shared pass (subset=0) to a bare loop that makes the
forward pass and one ``f.T @ f`` per layer with the same features; then, from one run each, the passes of bypassed
layers as multiples of a forward pass over the same samples, per layer; then peak memory beyond that of the forward
pass alone, as a multiple of the stored moments.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings

import torch
from networks import Encoder, pictures, resnet18, tokens
from torch import Tensor, nn

import featgeo as fg
from featgeo.network.arrange import Arrangement, sample_rows
from featgeo.network.keep import undisturbed
from featgeo.network.layers import Projection
from featgeo.network.select import split_layers
from featgeo.network.taps import tapping

MODELS = {
    "resnet": ("ResNet-18, 32 x 32", resnet18, pictures),
    "encoder": ("encoder, 6 layers", Encoder, tokens),
}
BATCH = 256
Batches = list[tuple[Tensor, Tensor]]


def bare(model: nn.Module, batches: Batches, products: bool = True) -> int:
    """Forward pass and one product per layer; bytes of the products in float64."""
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


def timed(job: object, *args: object, **options: object) -> tuple[float, object]:
    """Seconds of one call, and what it returned."""
    start = time.perf_counter()
    made = job(*args, **options)  # type: ignore[operator]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, made


def memory(key: str, what: str, samples: int) -> float:
    """Peak resident memory (MiB) of a job in a fresh process (Linux); ru_maxrss would begin at the parent's."""
    job = {"forward": "bare(model, batches, False)", "analyze": "fg.analyze(model, batches, subset=0)"}[what]
    code = (
        "import sys; sys.path.insert(0, 'benchmarks'); from bypassed import *; warnings.simplefilter('ignore');"
        f"_, build, data = MODELS[{key!r}]; x, y = data({samples}); model = build().eval();"
        f"batches = list(zip(x.split(BATCH), y.split(BATCH))); {job};"
        "import re; print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--subset", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--no-passes", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{options.samples:,} samples, batch {BATCH}, {options.device}, {torch.get_num_threads()} threads")
    for key in options.models:
        name, build, data = MODELS[key]
        torch.manual_seed(0)
        model = build().eval().to(options.device)
        x, y = (part.to(options.device) for part in data(options.samples))
        batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
        moments = bare(model, batches[:1])
        pairs = [
            (timed(bare, model, batches)[0], timed(fg.analyze, model, batches, subset=0)[0])
            for _ in range(options.repeats)
        ]
        ratio = statistics.median(b / a for a, b in pairs)
        middle = [statistics.median(seconds) for seconds in zip(*pairs, strict=True)]
        print(f"{name}: bare {middle[0]:.1f} s, shared pass {middle[1]:.1f} s, ratio {ratio:.2f}", flush=True)
        if not options.no_passes:
            seconds, report = timed(fg.analyze, model, batches[:8], subset=options.subset)
            assert isinstance(report, fg.Report)
            passes = [layer.passes for layer in report if layer.status == "bypassed"]
            print(
                f"{name}: {len(passes)} bypassed layers, each {statistics.median(passes):.1f} forward passes over "
                f"{options.subset} samples (most {max(passes):.1f}); {seconds:.1f} s in all",
                flush=True,
            )
        if options.device == "cpu" and not options.no_memory:
            small, large = memory(key, "forward", 4 * BATCH), memory(key, "analyze", 4 * BATCH)
            beyond = (large - small) * 2**20
            print(
                f"{name}: {beyond / 2**20:.0f} MiB beyond the forward pass, {beyond / moments:.2f} x the moments"
            )


if __name__ == "__main__":
    main()
