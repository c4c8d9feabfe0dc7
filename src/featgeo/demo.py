"""The main job on real data: train two small networks, analyse them, show what was found."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from tqdm.auto import trange

from featgeo.errors import FeatgeoWarning
from featgeo.network.analyze import analyze
from featgeo.network.report import Report

WEIGHT_DECAY = 1e-3


def digits() -> tuple[Tensor, Tensor]:
    """The 1,797 handwritten digits that scikit-learn ships: pixels in [0, 1] (1797, 64) and labels."""
    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)


def diabetes() -> tuple[Tensor, Tensor]:
    """The diabetes data that scikit-learn ships: 10 standardised measures (442, 10), standardised progression."""
    measures, progression = load_diabetes(return_X_y=True)
    x = torch.tensor(measures, dtype=torch.float32)
    y = torch.tensor(progression, dtype=torch.float32)[:, None]
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def network(inputs: int, first: int, second: int, outputs: int) -> nn.Module:
    """Two hidden layers, tanh and SiLU."""
    parts = {
        "hidden1": nn.Linear(inputs, first),
        "tanh": nn.Tanh(),
        "hidden2": nn.Linear(first, second),
        "silu": nn.SiLU(),
        "output": nn.Linear(second, outputs),
    }
    return nn.Sequential(OrderedDict(parts))


def train(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: nn.Module, epochs: int, name: str, bar: bool
) -> None:
    """Adam on minibatches with the penalty λ/2 ‖W‖² on every weight matrix, in place."""
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    for _ in trange(epochs, desc=f"train {name}", disable=not bar):
        for batch in torch.randperm(len(inputs)).split(64):
            penalty = sum((w.square().sum() for w in matrices), torch.zeros(()))
            objective = loss(model(inputs[batch]), targets[batch]) + 0.5 * WEIGHT_DECAY * penalty
            optimiser.zero_grad()
            objective.backward()
            optimiser.step()
        schedule.step()


def demo(seed: int = 0, progress: bool = True, epochs: int = 60) -> dict[str, Report]:
    """Train and analyse a digit classifier and a diabetes regressor.

    Args:
        seed: of initial weights and batches.
        progress: whether to show progress bars.
        epochs: of training.

    Returns:
        Their reports: ``digits`` and ``diabetes``.
    """
    torch.manual_seed(seed)
    classifier, regressor = network(64, 32, 16, 10), network(10, 16, 8, 1)
    reports = {}
    for name, model, (x, y), loss in (
        ("digits", classifier, digits(), nn.CrossEntropyLoss()),
        ("diabetes", regressor, diabetes(), nn.MSELoss()),
    ):
        train(model, x, y, loss, epochs, name, progress)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FeatgeoWarning)  # carried and shown by the report
            reports[name] = analyze(
                model, (x, y), loss, weight_decay=WEIGHT_DECAY, nulls=True, progress=progress, seed=seed
            )
    return reports
