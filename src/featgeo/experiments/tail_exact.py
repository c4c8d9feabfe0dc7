"""When the average tail is exact: the cases that can be proved, checked numerically by another route.

Write g for the outputs as a function of a layer's z = W f + b, Σ_z = Cov(z) and J̄ = Cov(g, z) Σ_z⁺.

* Linear tail. g = V z + v gives Cov(g, z) = V Σ_z, so J̄ = V on the range of Σ_z and R² = 1. If besides the loss is
  quadratic, the local loss is the loss, and W* makes the gradient of the loss vanish.
* Gaussian z. Stein's lemma: Cov(g, z) = E[∂g/∂z] Σ_z for z ~ N(m, Σ_z) and g weakly differentiable, so J̄ is the mean
  Jacobian, to the sampling error N^-½.
* Any tail. z - z̄ = W (f - μ), so with P the projection on the row space of W Σ_f^½

      J̄ W Σ_f^½ = Cov(g, f) Wᵀ (W Σ_f Wᵀ)⁺ W Σ_f^½ = Cov(g, f) Σ_f^-½ P .

  With n >= k neurons in general position P = I: what the layer is credited with no longer depends on its weights but
  through the outputs, and all such layers that read the same features have one alignment.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from featgeo.demo import diabetes
from featgeo.experiments.neighbours import CUT, Standpoint
from featgeo.network.analyze import analyze
from featgeo.theory.layer import average_tail
from featgeo.theory.linalg import whiten

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)


def _normal(generator: torch.Generator, *size: int) -> Tensor:
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def linear_tail(seed: int) -> dict[str, float]:
    """A three-layer linear network of random weights on the diabetes data with squared loss: R² and the gradient at W*.

    Returns:
        1 - R² of the hidden layer's tail, and the norm of the loss's gradient at W*, b* relative to that at the start.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 6), nn.Linear(6, 1)).double()
    inputs, targets = (part.double() for part in diabetes())

    def gradient() -> Tensor:
        found = torch.autograd.grad(F.mse_loss(model(inputs), targets), list(model[0].parameters()))
        return torch.cat([part.flatten() for part in found])

    view = analyze(model, (inputs, targets), "mse")["0"].view("average")
    before = gradient().norm()
    assert isinstance(model[0], nn.Linear)
    assert view.optimal_weight is not None
    assert view.optimal_bias is not None
    with torch.no_grad():
        model[0].weight.copy_(view.optimal_weight)
        model[0].bias.copy_(view.optimal_bias)
    return {"1 - R²": abs(1 - (view.tail_r2 or 0.0)), "gradient at W*": (gradient().norm() / before).item()}


def gaussian_tail(seed: int, gaussian: bool, sizes: tuple[int, ...] = SIZES) -> list[float]:
    """Relative distance of J̄ from the mean Jacobian of a two-layer tanh tail, for samples of growing size.

    Args:
        seed: of weights and samples.
        gaussian: whether z is Gaussian, else exponential with the same mean and covariance.
        sizes: numbers of samples.

    Returns:
        ‖J̄ - E[∂g/∂z]‖ / ‖E[∂g/∂z]‖ in the metric of Σ_z, both over the same sample.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = _normal(generator, 8, 5) / 5**0.5, _normal(generator, 3, 8) / 8**0.5
    mixing, weight = _normal(generator, 5, 5), torch.eye(5, dtype=torch.float64)
    found = []
    for size in sizes:
        white = _normal(generator, size, 5)
        if not gaussian:
            white = -torch.special.log_ndtr(-white) - 1  # -log of a uniform: exponential, mean 0, variance 1
        z = white @ mixing.T
        hidden = (z @ first.T).tanh()
        g = hidden @ second.T
        mean_jacobian = second @ ((1 - hidden.square()).mean(0)[:, None] * first)
        centred, outputs = z - z.mean(0), g - g.mean(0)
        covariance, cross = centred.T @ centred / size, outputs.T @ centred / size
        metric = torch.eye(3, dtype=torch.float64)
        tail = average_tail(cross, outputs.T @ outputs / size, weight, whiten(covariance), metric)
        root = torch.linalg.cholesky(covariance)
        found.append((((tail.jacobian - mean_jacobian) @ root).norm() / (mean_jacobian @ root).norm()).item())
    return found


def slope(sizes: tuple[int, ...], errors: list[list[float]]) -> tuple[float, float]:
    """Slope of log error against log size over all seeds, and the half-width of its 95 % interval."""
    x = [math.log(size) for _ in errors for size in sizes]
    fit = stats.linregress(x, [math.log(error) for row in errors for error in row])
    return float(fit.slope), float(stats.t.ppf(0.975, len(x) - 2) * fit.stderr)


def identity_error(point: Standpoint) -> float:
    """‖J̄ W Σ^½ - Cov(g, f) Σ^-½ P‖ relative, with P from the singular vectors of W Σ^½ (another route than J̄'s)."""
    if point.is_output:  # its J̄ is the identity by definition; g = z there
        return 0.0
    spread = point.weight @ point.root
    _, values, right = torch.linalg.svd(spread, full_matrices=False)
    rows = right[values > CUT * values.max()]
    expected = point.outputs @ point.transform @ rows.T @ rows
    return ((point.jacobians["average"] @ spread - expected).norm() / expected.norm()).item()


def free_of_weights(point: Standpoint) -> bool:
    """Whether P = I: as many neurons as the features have dimensions."""
    return len(point.weight) >= point.root.shape[1]
