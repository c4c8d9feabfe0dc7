"""analyze() against a bare loop: the forward pass and one ``f.T @ f`` per layer, same model, same data, same run.

Run: python benchmarks/overhead.py [--repeats 7] [--samples 20000] [--device cpu]
Prints, per model, the median of the ratios of interleaved runs, and peak memory beyond the model at two data sizes.
The bare loop takes its features f by the same function as analyze(), so the ratio is what everything else costs:
targets, cross-moments, checks, solves, both operating points.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import warnings

import torch
from torch import Tensor, nn

import featgeo as fg
from featgeo.network.features import feature_rows
from featgeo.network.layers import LAYERS


def mlp() -> nn.Module:
    """784-512-256-10."""
    return nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))


def cnn() -> nn.Module:
    """A small convolutional network for 28 x 28 images."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


MODELS = {"MLP 784-512-256-10": mlp, "small CNN": cnn}


def images(samples: int) -> tuple[Tensor, Tensor]:
    """Smooth random images with labels that depend on them."""
    generator = torch.Generator().manual_seed(0)
    modes = torch.randn(40, 784, generator=generator)
    x = torch.randn(samples, 40, generator=generator) @ modes / 6 + 0.1 * torch.randn(
        samples, 784, generator=generator
    )
    return x, x[:, :10].argmax(1)


def bare(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Forward pass and one product per layer."""
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    sums: dict[nn.Module, Tensor] = {}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        rows = feature_rows(module, inputs[0])
        product = rows.T @ rows
        sums[module] = sums[module] + product if module in sums else product

    handles = [layer.register_forward_hook(hook) for layer in layers]
    with torch.no_grad():
        for x, _ in batches:
            model(x)
    for handle in handles:
        handle.remove()
    return list(sums.values())


def timed(job: object, *args: object) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    job(*args)  # type: ignore[operator]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(samples: int) -> float:
    """Peak resident memory (MiB) of analysing this many streamed samples, in a fresh process (Linux).

    Not ru_maxrss: that of a child begins at its parent's.
    """
    code = (
        "import re, warnings, sys; sys.path.insert(0, 'benchmarks'); import overhead, featgeo as fg;"
        "warnings.simplefilter('ignore');"
        f"x, y = overhead.images(256); n = {samples} // 256;"
        "stream = type('S', (), {'__iter__': lambda s: iter([(x, y)] * n)})();"
        "fg.analyze(overhead.mlp().eval(), stream, 'cross_entropy');"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)"
    )
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    x, y = (part.to(options.device) for part in images(options.samples))
    batches = list(zip(x.split(256), y.split(256), strict=True))
    print(f"{options.samples:,} images, batch 256, {options.device}, {torch.get_num_threads()} threads")
    print(
        f"{'model':24}{'bare s':>10}{'analyze s':>12}{'ratio':>8}   (median of {options.repeats} interleaved pairs)"
    )
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build().eval().to(options.device)
        bare(model, batches[:4]), fg.analyze(model, batches[:4])
        pairs = [
            (timed(bare, model, batches), timed(fg.analyze, model, batches)) for _ in range(options.repeats)
        ]
        ratio = statistics.median(b / a for a, b in pairs)
        middle = [statistics.median(seconds) for seconds in zip(*pairs, strict=True)]
        print(f"{name:24}{middle[0]:10.3f}{middle[1]:12.3f}{ratio:8.2f}")
    if options.device == "cpu":
        small, large = peak(5_120), peak(51_200)
        print(f"peak memory of the process, MLP: {small:.0f} MiB at 5,120 samples, {large:.0f} MiB at 51,200")


if __name__ == "__main__":
    main()
