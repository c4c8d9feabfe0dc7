"""Which network, and which of its layers, suits a task? The figure and tables of docs/transfer.md.

Run: python examples/transfer_real.py [--out docs/figures]     (about three minutes; environment of `make examples`)
Needs: python examples/sources.py --get fashion_mnist mobilenet_v2
"""

import argparse
import warnings
from pathlib import Path

import sources
import torch

import featgeo as fg

SAMPLES, SIDE = 1500, 96
METHODS = ("heldout", "crossfit", "gain", "logme", "gbc")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    out = parser.parse_args().out
    warnings.simplefilter("ignore", fg.FeatgeoWarning)
    x, y, _, _ = sources.fashion_mnist()
    images, labels = sources.pixels(x[:SAMPLES], SIDE, normalise=True), torch.from_numpy(y[:SAMPLES])
    efficientnet, mobilenet = sources.efficientnet_lite0(), sources.mobilenet_v2()

    networks = {
        "EfficientNet-Lite0": (efficientnet, "_fc"),
        "MobileNetV2": (mobilenet, "classifier.1"),
        "pixels": torch.from_numpy(x[:SAMPLES]).flatten(1).float(),
    }
    print(fg.rank_models(networks, (images, labels), methods=(*METHODS, "leep", "nce"), batch_size=100))

    taps = ["_blocks.*._expand_conv", "_conv_head", "_fc"]
    layers = fg.rank_layers(efficientnet, (images, labels), methods=METHODS, layers=taps, batch_size=100)
    print(layers)
    out.mkdir(parents=True, exist_ok=True)
    layers.plot("heldout").savefig(out / "transfer-layers.png", dpi=144)


if __name__ == "__main__":
    main()
