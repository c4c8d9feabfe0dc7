"""Real images with labels whose dependence is known and controlled, and the training of networks on them.

With soft labels q(x) = (1 - ρ) onehot(y(x)) + ρ P_Y the conditional distribution P_{Y|X} is known exactly on real
inputs, and χ²(P_XY ‖ P_X P_Y) = (1 - ρ)² (|Y| - 1): the dependence is ε = (1 - ρ) √(|Y| - 1) whatever the images.
Everything is float64 and full batch, so that an optimum is an optimum.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts its files
GET_FASHION = "apt-get install dataset-fashion-mnist"

Flat = np.ndarray[tuple[int], np.dtype[np.float64]]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "ReLU": nn.ReLU,
}


@dataclass(frozen=True)
class Images:
    """Flattened images with hard labels.

    Attributes:
        name: of the data set.
        inputs: (m, k) float64, centred: the first bias can undo that and no penalty touches it, so it changes no
            optimum, but an optimiser finds it sooner.
        labels: (m,) int64.
    """

    name: str
    inputs: Tensor
    labels: Tensor

    @property
    def classes(self) -> int:
        """|Y|."""
        return int(self.labels.max()) + 1

    @property
    def prior(self) -> Tensor:
        """P_Y (|Y|,)."""
        return torch.bincount(self.labels).to(torch.float64) / len(self.labels)

    @property
    def largest(self) -> float:
        """ε of the hard labels, √(|Y| - 1)."""
        return (self.classes - 1) ** 0.5

    def soft(self, dependence: float) -> Tensor:
        """The labels q (m, |Y|) of dependence ε, at most ``largest``."""
        share = dependence / self.largest
        return share * nn.functional.one_hot(self.labels).to(torch.float64) + (1 - share) * self.prior

    def part(self, samples: int, seed: int = 0) -> Images:
        """A random part of the samples; all of them where there are no more."""
        if samples >= len(self.labels):
            return self
        chosen = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))[:samples]
        return centred_images(self.name, self.inputs[chosen], self.labels[chosen])


def centred_images(name: str, pixels: Tensor, labels: Tensor) -> Images:
    """Images with the mean of every pixel taken off."""
    return Images(name, pixels - pixels.mean(0), labels)


def digits() -> Images:
    """The 1,797 handwritten digits, 8x8, that scikit-learn ships."""
    pixels, labels = load_digits(return_X_y=True)
    return centred_images("digits", torch.tensor(pixels / 16, dtype=torch.float64), torch.tensor(labels))


def fashion(folder: Path = FASHION, pool: int = 2) -> Images | None:
    """The 60,000 training images of Fashion-MNIST, or None where Debian's package is not installed.

    Args:
        folder: with the idx files.
        pool: side of the squares of pixels that are averaged (2: 14x14 images).
    """
    images, labels = (folder / f"train-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1"))
    if not (images.exists() and labels.exists()):
        return None
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), dtype=np.uint8, offset=16).reshape(
        -1, 1, 28, 28
    )
    marks = np.frombuffer(gzip.decompress(labels.read_bytes()), dtype=np.uint8, offset=8)
    pooled = nn.functional.avg_pool2d(torch.tensor(pixels, dtype=torch.float64) / 255, pool)
    return centred_images("Fashion-MNIST", pooled.flatten(1), torch.tensor(marks, dtype=torch.int64))


def network(
    widths: Sequence[int], activation: str = "tanh", seed: int = 0, size: float = 1.0
) -> nn.Sequential:
    """A fully connected float64 network with torch's initialisation, its weights and biases scaled by ``size``."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    modules: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        modules += [ACTIVATIONS[activation]()] if number else []
        modules.append(nn.Linear(inputs, outputs, dtype=torch.float64))
    torch.random.set_rng_state(state)
    model = nn.Sequential(*modules)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(size)
    return model


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers by name, input to output."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def penalty(model: nn.Module, decays: Sequence[float]) -> Tensor:
    """Σ_i λ_i/2 ‖W_i‖² over the layers, input to output."""
    layers = linear_layers(model).values()
    return sum(
        (0.5 * decay * layer.weight.square().sum() for decay, layer in zip(decays, layers, strict=True)),
        torch.zeros((), dtype=torch.float64),
    )


@dataclass(frozen=True)
class Fitted:
    """How a training ended.

    Attributes:
        objective: mean cross-entropy plus penalty, in nats.
        gradient: largest entry of its gradient, relative to ε².
        steps: iterations.
        converged: whether the tolerance was met.
    """

    objective: float
    gradient: float
    steps: int
    converged: bool


def train_lbfgs(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    decays: Sequence[float],
    scale: float = 1.0,
    steps: int = 2000,
    tolerance: float = 1e-5,
    sizes: Sequence[tuple[float, float]] | None = None,
) -> Fitted:
    """L-BFGS (scipy) on the whole data, in place, until no entry of the gradient exceeds tolerance · scale.

    Args:
        model: float64.
        inputs: (m, k).
        targets: soft labels (m, d).
        decays: λ_i of every linear layer, input to output.
        scale: size of the excess loss (ε²), by which the objective is divided so that tolerances mean something.
        steps: most iterations.
        tolerance: relative to ``scale``.
        sizes: of the weights and of the biases of every layer, as expected; they are optimised in these units.
    """
    parameters = list(model.parameters())
    counts = [p.numel() for p in parameters]
    units = np.repeat(np.ones(len(counts)) if sizes is None else np.asarray(sizes).ravel(), counts)
    base = -(targets.mean(0) * targets.mean(0).log()).sum()

    def objective(flat: Flat) -> tuple[float, Flat]:
        vector_to_parameters(torch.from_numpy(flat * units), parameters)
        loss = nn.functional.cross_entropy(model(inputs), targets) + penalty(model, decays) - base
        gradients = torch.autograd.grad(loss / scale, parameters)
        slopes: Flat = torch.cat([g.flatten() for g in gradients]).numpy() * units
        return loss.item() / scale, slopes

    start: Flat = parameters_to_vector(parameters).detach().numpy() / units
    found = minimize(
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": steps, "maxfun": 2 * steps, "gtol": tolerance, "ftol": 0.0, "maxcor": 30},
    )
    vector_to_parameters(torch.from_numpy(found.x * units), parameters)
    worst = float(np.abs(found.jac).max())
    return Fitted(float(found.fun * scale + base), worst, int(found.nit), worst <= tolerance)


def train_steps(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    decays: Sequence[float],
    optimiser: str = "Adam",
    rate: float = 3e-3,
    epochs: int = 50,
    batch: int = 64,
    seed: int = 0,
) -> None:
    """Minibatch training as people do it, in place, with a cosine schedule of the learning rate.

    Args:
        model: the network.
        inputs: (m, k).
        targets: soft labels (m, d).
        decays: λ_i of every linear layer.
        optimiser: ``Adam`` or ``SGD`` (momentum 0.9).
        rate: first learning rate.
        epochs: passes over the data.
        batch: samples a step.
        seed: of the order of the samples.
    """
    kinds = {"Adam": {}, "SGD": {"momentum": 0.9}}
    stepper = getattr(torch.optim, optimiser)(model.parameters(), lr=rate, **kinds[optimiser])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, epochs)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs), generator=order).split(batch):
            loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen]) + penalty(
                model, decays
            )
            stepper.zero_grad()
            loss.backward()
            stepper.step()
        schedule.step()
