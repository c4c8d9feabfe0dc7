"""init_layers_ and init_head_ against other starts: training curves of one network from several seeds.

Run: python benchmarks/init.py [--data digits fashion] [--seeds 20] [--epochs 10] [--share 0.5]
Starts of the hidden layers: as torch does it (``default``); its weights' leading singular vectors (``weights``, as
PiSSA starts its adapters); principal components of the inputs (``inputs``); modes of B (``labels``). Each with a random
last layer, and the first and last also with the one-pass head (``+ head``). Same seeds, same batches, same learning
rates for all: of three rates the best of each start by its mean final training loss. Prints training loss and test
accuracy after 0, 1, 2, 5 ... epochs, mean ± standard error over seeds.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import featgeo as fg

Data = tuple[Tensor, Tensor, Tensor, Tensor]
STARTS = ["default", "weights", "inputs", "labels", "default + head", "labels + head"]
RATES = (0.03, 0.1, 0.3)
SAMPLE = 2000  # training samples that the starts look at


def digits() -> Data:
    """Handwritten digits, two thirds for the training."""
    x, y = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order].float() / 16, y[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


def fashion() -> Data:
    """10,000 images of Fashion-MNIST, and its test images."""
    from feature_sets import sources  # needs the data, which digits do not

    x, y, x_test, y_test = (torch.as_tensor(part) for part in sources.fashion_mnist())
    return (
        x[:10_000].flatten(1).float() / 255, y[:10_000].long(), x_test.flatten(1).float() / 255, y_test.long(),
    )  # fmt: skip


DATA = {"digits": digits, "fashion": fashion}


def network(start: str, data: Data, seed: int, share: float) -> nn.Module:
    """A perceptron with two hidden layers, started in one of the ways."""
    x, y, _, _ = data
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(x.shape[1], 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    few = x[:SAMPLE], y[:SAMPLE]
    toward = start.split(" ")[0]
    if toward != "default":
        fg.init_layers_(model, few, "cross_entropy", toward=toward, share=share, seed=seed)  # type: ignore[arg-type]
    if start.endswith("head"):
        fg.init_head_(model, few, "cross_entropy", weight_decay=1e-3)
    return model


def curve(start: str, data: Data, seed: int, rate: float, epochs: int, share: float) -> np.ndarray:
    """Training loss and test accuracy (epochs + 1, 2) of SGD with momentum."""
    x, y, x_test, y_test = data
    model = network(start, data, seed, share)
    sgd = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for epoch in range(epochs + 1):
        with torch.no_grad():
            right = (model(x_test).argmax(1) == y_test).double().mean().item()
            rows.append((F.cross_entropy(model(x), y).item(), right))
        if epoch < epochs:
            for index in torch.randperm(len(x), generator=generator).split(128):
                loss = F.cross_entropy(model(x[index]), y[index])
                sgd.zero_grad()
                loss.backward()
                sgd.step()
    return np.array(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", default=["digits"], choices=list(DATA))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", fg.FeatgeoWarning)
    for name in options.data:
        data = DATA[name]()
        print(
            f"\n{name}: {len(data[0]):,} samples, {options.seeds} seeds, SGD with momentum, share {options.share}"
        )
        marks = [e for e in (0, 1, 2, 5, 10, 20, 50) if e <= options.epochs]
        titles = [*(f"loss {e}" for e in marks), *(f"accuracy {e}" for e in marks)]
        print("| start | rate | " + " | ".join(titles) + " |")
        print("|---|" + "---:|" * (2 * len(marks) + 1))
        for start in STARTS:
            runs = {
                rate: np.stack(
                    [
                        curve(start, data, seed, rate, options.epochs, options.share)
                        for seed in range(options.seeds)
                    ]
                )
                for rate in RATES
            }
            rate = min(RATES, key=lambda r: np.nan_to_num(runs[r][:, -1, 0].mean(), nan=np.inf))
            found = runs[rate]
            mean, error = found.mean(0), found.std(0, ddof=1) / len(found) ** 0.5
            losses = [f"{mean[e, 0]:.3f} ± {error[e, 0]:.3f}" for e in marks]
            rights = [f"{mean[e, 1]:.3f} ± {error[e, 1]:.3f}" for e in marks]
            print(
                f"| {start} | {rate} | " + " | ".join(losses) + " | " + " | ".join(rights) + " |", flush=True
            )


if __name__ == "__main__":
    main()
